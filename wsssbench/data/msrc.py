"""MSRC v2 (Microsoft Research Cambridge; Shotton et al. 2006): 591 photographs, 23 colours.

The set has no background class. Here the surfaces named by `background` (grass, sky, water and
road by default) become 0, which leaves 17 objects; what is unlabelled (black) becomes 255, as do
horse and mountain, of which the distribution's notes say that there are too few to be used.
Unlabelled pixels, which lie between the regions and around objects, are never scored.
`train` and `val` are drawn once, per scene category (the first number of a file name), by a hash
of the name: the same on every machine. Image-level labels are taken from the masks, because the
distribution has no others; `about.json` says so.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from wsssbench.data import layout
from wsssbench.data.archives import Archive, need, unpack
from wsssbench.data.labels import labels_from_masks
from wsssbench.data.palette import BACKGROUND, IGNORE, ids_from_colours, open_image, write_mask
from wsssbench.errors import UserError, unknown
from wsssbench.parallel import in_threads

ARCHIVE = Archive(
    "msrc_objcategimagedatabase_v2.zip",
    "https://www.microsoft.com/en-us/research/project/image-understanding/",
)
TREE = "MSRC_ObjCategImageDatabase_v2"
IMAGES, TRUTH = "Images", "GroundTruth"
COUNT = 591

COLOURS = {
    "building": (128, 0, 0),
    "grass": (0, 128, 0),
    "tree": (128, 128, 0),
    "cow": (0, 0, 128),
    "sheep": (0, 128, 128),
    "sky": (128, 128, 128),
    "aeroplane": (192, 0, 0),
    "water": (64, 128, 0),
    "face": (192, 128, 0),
    "car": (64, 0, 128),
    "bicycle": (192, 0, 128),
    "flower": (64, 128, 128),
    "sign": (192, 128, 128),
    "bird": (0, 64, 0),
    "book": (128, 64, 0),
    "chair": (0, 192, 0),
    "road": (128, 64, 128),
    "cat": (0, 192, 128),
    "dog": (128, 192, 128),
    "body": (64, 64, 0),
    "boat": (192, 64, 0),
}
VOID_COLOURS = {"void": (0, 0, 0), "horse": (128, 0, 128), "mountain": (64, 0, 0)}


def prepare(
    root: Path,
    *,
    archives: str | Path | None = None,
    background: Sequence[str] = ("grass", "sky", "water", "road"),
    val_share: float = 0.25,
    check_counts: bool = True,
) -> None:
    """Make the folder from the original distribution.

    Args:
        root: the folder to make; its images are links.
        archives: folder with the zip archive or the unpacked MSRC_ObjCategImageDatabase_v2;
            default `root`/archives.
        background: surfaces that become background.
        val_share: part of each scene category that goes to `val`, in (0, 1).
        check_counts: expect all 591 images; False for a part of the set.

    Raises:
        UserError: a source is missing or damaged, an unknown surface, an unknown colour.
    """
    root = layout.claim(root, "msrc")
    for name in background:
        if name not in COLOURS:
            raise unknown("MSRC class for background", name, COLOURS)
    if not 0 < val_share < 1:
        raise UserError(f"val_share is {val_share}. Give a part between 0 and 1, such as 0.25.")
    tree = _tree(root, Path(archives) if archives else root / "archives")
    images = {path.stem: path for path in layout.listing(tree / IMAGES) if _is_bmp(path)}
    ids = sorted(images, key=_natural)
    truth = [tree / TRUTH / f"{name}_GT.bmp" for name in ids]
    lost = [path for path in truth if not path.exists()]
    if lost:
        raise UserError(f"{lost[0]} (and {len(lost) - 1} more) is missing. Unpack {ARCHIVE} again.")
    print(f"{tree}: {len(ids)} images, expected {COUNT}")
    if check_counts and len(ids) != COUNT:
        raise UserError(
            f"{tree / IMAGES} holds {len(ids)} images instead of {COUNT}. Get {ARCHIVE}, or pass "
            "check_counts: false for a part of the set."
        )
    classes = [name for name in COLOURS if name not in background]
    for name in ids:
        layout.link(images[name], root / layout.IMAGES / images[name].name, root)
    convert = partial(_convert, root, classes, background)
    for _ in in_threads(convert, truth, "converting MSRC masks"):
        pass
    train, val = split_by_scene(ids, val_share)
    layout.write_classes(root, classes)
    layout.write_ids(root, "train", train)
    layout.write_ids(root, "val", val)
    labels = labels_from_masks(root, ids, replace=True)
    layout.write_about(root, "msrc", "masks", background=list(background), val_share=val_share)
    empty = sum(not names for names in labels.values())
    print(f"{root}: {len(train)} train, {len(val)} val, {empty} without any class")


def split_by_scene(ids: Iterable[str], val_share: float) -> tuple[list[str], list[str]]:
    """Deal the images of each scene category to train and val; each gets one if there are two."""
    scenes: dict[str, list[str]] = {}
    for name in ids:
        scenes.setdefault(name.split("_")[0], []).append(name)
    val: set[str] = set()
    for names in scenes.values():
        drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        count = round(len(names) * val_share)
        val.update(drawn[: min(max(count, 1), len(names) - 1)])
    every = sorted((name for names in scenes.values() for name in names), key=_natural)
    return [name for name in every if name not in val], [name for name in every if name in val]


def convert_truth(rgb: np.ndarray, classes: Sequence[str], background: Sequence[str]) -> np.ndarray:
    """Coloured ground truth (H, W, 3) uint8 to a mask (H, W) uint8 of the ids of `classes`.

    Drawn by hand, the truth may hold stray colours; up to 1 % of the pixels they become 255.
    """
    ids = {name: index for index, name in enumerate(classes, 1)}
    ids |= dict.fromkeys(background, BACKGROUND) | dict.fromkeys(VOID_COLOURS, IGNORE)
    colours = COLOURS | VOID_COLOURS
    table = np.array(list(colours.values()))
    return ids_from_colours(rgb, table, [ids[name] for name in colours], tolerated=0.01)


def _convert(root: Path, classes: Sequence[str], background: Sequence[str], path: Path) -> None:
    # Drawn anew each time, in seconds: another choice of `background` changes every mask.
    with open_image(path, "ground truth") as image:
        rgb = np.asarray(image.convert("RGB"))
    try:
        mask = convert_truth(rgb, classes, background)
    except UserError as error:
        raise UserError(f"{path}: {error} Unpack {ARCHIVE} again.") from error
    write_mask(root / layout.MASKS / f"{path.stem.removesuffix('_GT')}.png", mask)


def _tree(root: Path, archives: Path) -> Path:
    for tree in (archives, archives / TREE):
        if (tree / IMAGES).is_dir() and (tree / TRUTH).is_dir():
            return tree
    path = need(ARCHIVE, archives, f"unpack it there as {TREE}/")
    target = unpack(ARCHIVE, path, root / "source/msrc", lambda name: name.lower().endswith(".bmp"))
    found = sorted(folder.parent for folder in target.rglob(IMAGES))
    if not found:
        raise UserError(f"{path} holds no folder {IMAGES}. Get {ARCHIVE}.")
    return found[0]


def _is_bmp(path: Path) -> bool:
    return path.suffix.lower() == ".bmp" and not path.name.startswith(".")


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts 2_9_s before 10_1_s."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split("_")]
