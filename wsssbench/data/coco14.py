"""MS COCO 2014 (Lin et al. 2014) as semantic segmentation: masks drawn from the instances JSON.

80 classes; `train` 82,783 and `val` 40,504 photographs of about 640×480, some without any object.
One id map: categories in ascending order of COCO's category id (1..90 with gaps) become 1..80;
blanks in names become `_`. Where objects overlap the smaller one is on top. Crowd regions are 255
unless a single object lies over them. Image-level labels are all categories annotated in an
image, crowds included.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsssbench.data import layout
from wsssbench.data.archives import Archive, need, unpack
from wsssbench.data.palette import BACKGROUND, IGNORE, write_mask
from wsssbench.errors import UserError
from wsssbench.parallel import in_processes
from wsssbench.progress import progress

PAGE = "https://cocodataset.org/#download"
ANNOTATIONS = Archive("annotations_trainval2014.zip", PAGE)
IMAGES = {split: Archive(f"{split}2014.zip", PAGE) for split in ("train", "val")}
COUNTS = {"train": 82783, "val": 40504}
NUM_CLASSES = 80


def prepare(
    root: Path,
    *,
    archives: str | Path | None = None,
    workers: int | None = None,
    check_counts: bool = True,
) -> None:
    """Make the folder; masks that an interrupted run has finished are kept.

    Args:
        root: the folder to make; its images are links.
        archives: folder with the three archives (annotations_trainval2014.zip, train2014.zip,
            val2014.zip) or what was unpacked of them (annotations/, train2014/, val2014/);
            default `root`/archives.
        workers: processes that draw masks, by default one per core.
        check_counts: compare with the published numbers; False for a part of the set.

    Raises:
        UserError: a source is missing, damaged or not the published one.
    """
    root = layout.claim(root, "coco14")
    folder = Path(archives) if archives else root / "archives"
    notes = _tree(root, folder, ANNOTATIONS, "annotations", "instances_")
    labels: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    classes: list[str] = []
    for split, archive in IMAGES.items():
        instances = _read(notes / f"instances_{split}2014.json")
        ids, names = category_map(instances["categories"])
        if classes and names != classes:
            raise UserError(f"{notes} holds files of different categories. Get {ANNOTATIONS}.")
        classes = names
        if check_counts:
            _check(split, len(instances["images"]), len(classes))
        photographs = _tree(root, folder, archive, f"{split}2014", "")
        by_image = _by_image(instances["annotations"])
        splits[split] = [Path(image["file_name"]).stem for image in instances["images"]]
        for image in instances["images"]:
            found = {ids[item["category_id"]] for item in by_image.get(image["id"], ())}
            labels[Path(image["file_name"]).stem] = [classes[i - 1] for i in sorted(found)]
        _link_images(root, photographs, instances["images"], archive)
        _draw_masks(root, instances["images"], by_image, ids, split, workers)
    layout.write_classes(root, classes)
    layout.write_labels(root, labels)
    for split, names in splits.items():
        layout.write_ids(root, split, names)
    categories = {name: {"category_id": i, "mask_id": ids[i]} for i, name in zip(ids, classes)}
    layout.write_about(root, "coco14", "all annotated categories", categories=categories)
    for split, names in splits.items():
        empty = sum(not labels[name] for name in names)
        print(f"{root}: {split} {len(names)} images, {empty} of them without any object")


def category_map(categories: Iterable[Mapping[str, Any]]) -> tuple[dict[int, int], list[str]]:
    """Mask id 1..K of each category id, ascending, and the class names in that order."""
    ordered = sorted(categories, key=lambda category: category["id"])
    ids = {category["id"]: index for index, category in enumerate(ordered, 1)}
    return ids, ["_".join(category["name"].split()) for category in ordered]


def draw_mask(
    height: int, width: int, annotations: Sequence[Mapping[str, Any]], ids: Mapping[int, int]
) -> np.ndarray:
    """Semantic mask of one image.

    Args:
        height: of the image.
        width: of the image.
        annotations: COCO's dicts with `category_id`, `area`, `iscrowd` and `segmentation`
            (polygons, or a run-length code, compressed or not).
        ids: category id -> mask id.

    Returns:
        (height, width) uint8; crowds below, then objects from the largest to the smallest.
    """
    mask = np.full((height, width), BACKGROUND, dtype=np.uint8)
    for item in sorted(annotations, key=lambda item: (not item["iscrowd"], -item["area"])):
        value = IGNORE if item["iscrowd"] else ids[item["category_id"]]
        mask[_region(item["segmentation"], height, width)] = value
    return mask


def _region(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(height, width) bool of one annotation."""
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        code = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return coco.decode(code).astype(bool)


def _tree(root: Path, archives: Path, archive: Archive, name: str, files: str) -> Path:
    """Folder `name`, unpacked before or by us (those of its files that begin with `files`)."""
    if (archives / name).is_dir():
        return archives / name
    path = need(archive, archives, f"unpack it there as {name}/")
    start = f"{name}/{files}"
    return unpack(archive, path, root / "source" / name, lambda it: it.startswith(start)) / name


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(layout.read_text(path, f"Unpack {ANNOTATIONS} again."))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}). Unpack {ANNOTATIONS} again.") from error


def _check(split: str, images: int, classes: int) -> None:
    print(f"{split}: {images} images, expected {COUNTS[split]}; {classes} classes")
    if images != COUNTS[split] or classes != NUM_CLASSES:
        raise UserError(
            f"instances_{split}2014.json lists {images} images and {classes} categories instead of "
            f"{COUNTS[split]} and {NUM_CLASSES}. Get {ANNOTATIONS}, or pass check_counts: false "
            "for a part of the set."
        )


def _by_image(annotations: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for item in annotations:
        groups.setdefault(item["image_id"], []).append(item)
    return groups


def _link_images(
    root: Path, folder: Path, images: Sequence[dict[str, Any]], archive: Archive
) -> None:
    there = {path.name for path in layout.listing(folder)}
    missing = [image["file_name"] for image in images if image["file_name"] not in there]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(images)} images, e.g. {missing[0]}. "
            f"Unpack {archive} again."
        )
    for image in progress(images, f"linking {folder.name}"):
        name = image["file_name"]
        layout.link(folder / name, root / layout.IMAGES / name, root)


def _draw_masks(
    root: Path,
    images: Sequence[dict[str, Any]],
    by_image: Mapping[int, list[dict[str, Any]]],
    ids: Mapping[int, int],
    split: str,
    workers: int | None,
) -> None:
    tasks = []
    for image in images:
        path = root / layout.MASKS / f"{Path(image['file_name']).stem}.png"
        if not path.exists():
            items = by_image.get(image["id"], [])
            tasks.append((path, image["height"], image["width"], items))
    if len(tasks) < len(images):
        print(f"{split}: {len(images) - len(tasks)} masks are there already")
    for _ in in_processes(partial(_write, ids), tasks, f"drawing masks of {split}", workers):
        pass


def _write(ids: Mapping[int, int], task: tuple[Path, int, int, list]) -> None:
    path, height, width, annotations = task
    write_mask(path, draw_mask(height, width, annotations, ids))
