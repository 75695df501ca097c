"""PASCAL VOC 2012 with the extra annotations of SBD (Everingham et al.; Hariharan et al. 2011).

20 classes; photographs of about 500×375. Splits: `train` 1,464 and `val` 1,449 (VOC's own masks,
with a 255 rim around objects), `train_aug` 10,582 = (VOC train + SBD train + SBD val) − VOC val.
Image-level labels are the objects of the XML annotations, "difficult" ones included, as the
literature does. Masks of ids that VOC annotated are VOC's, the others SBD's (no rim): what the
literature calls SegmentationClassAug. Seeds are scored on `train`, never on `train_aug`.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wsssbench.data import layout
from wsssbench.data.archives import Archive, check_size, need, unpack
from wsssbench.data.palette import write_mask
from wsssbench.errors import UserError, unknown
from wsssbench.parallel import in_threads

CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
]  # fmt: skip

VOC = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    1_999_639_040,
    "6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = Archive(
    "benchmark.tgz",
    "http://home.bharathh.info/pubs/codes/SBD/download.html",
    1_419_539_633,
    "82b4d87ceb2ed10f6038a1cba92111cb",
)

LIST_SIZES = {
    "VOC train": 1464,
    "VOC val": 1449,
    "SBD train": 8498,
    "SBD val": 2857,
    "train_aug": 10582,
}
# Of train_aug, from the label arrays that PSA, IRN and SEAM share.
IMAGES_PER_CLASS = {"person": 4155, "bus": 393, "sheep": 300, "cow": 267}
IMAGES_PER_LABELS = {1: 6249, 2: 3104, 3: 969, 4: 210, 5: 46, 6: 4}


def prepare(
    root: Path,
    *,
    archives: str | Path | None = None,
    voc: str | Path | None = None,
    sbd: str | Path | bool | None = None,
    download: bool = False,
    check_counts: bool = True,
) -> None:
    """Make the folder from the official archives or from what was unpacked of them.

    What exists already is kept, so that an interrupted run goes on where it stopped.

    Args:
        root: the folder to make; images and VOC's masks in it are links.
        archives: folder with the two archives or their unpacked trees; default `root`/archives.
        voc: an unpacked VOCdevkit/VOC2012, wherever it lies.
        sbd: an unpacked benchmark_RELEASE/dataset; False leaves SBD and `train_aug` out.
        download: fetch missing archives to `archives` with torchvision's downloader.
        check_counts: compare with the published numbers; False for a part of the set.

    Raises:
        UserError: a source is missing, damaged or not the published one.
    """
    root = layout.claim(root, "voc12")
    folder = Path(archives) if archives else root / "archives"
    voc = _voc_tree(root, folder, voc, download, check_counts)
    sbd = None if sbd is False else _sbd_tree(root, folder, sbd, download, check_counts)
    lists = _lists(voc, sbd)
    if check_counts:
        _check_lists(lists, voc, sbd)
    splits = {"train": lists["VOC train"], "val": lists["VOC val"]}
    if sbd:
        splits["train_aug"] = lists["train_aug"]
    every = layout.union(splits.values())
    labels = _labels(voc, every)
    if sbd and check_counts:
        _check_labels(labels, lists["train_aug"], voc)

    layout.link(voc / layout.IMAGES, root / layout.IMAGES, root)
    own = set(lists["VOC train"]) | set(lists["VOC val"])
    for name in sorted(own):
        source = voc / layout.MASKS / f"{name}.png"
        _must_exist(source, VOC)
        layout.link(source, root / layout.MASKS / f"{name}.png", root)
    if sbd:
        _convert_masks(sbd, root, [name for name in every if name not in own])
    layout.write_classes(root, CLASSES)
    layout.write_labels(root, labels)
    for split, names in splits.items():
        layout.write_ids(root, split, names)
    counts = {split: len(names) for split, names in splits.items()}
    layout.write_about(root, "voc12", "XML annotations, difficult objects included", splits=counts)
    for split, count in counts.items():
        print(f"{root}: {split} {count} images")


def train_aug(voc_train: Sequence[str], voc_val: Sequence[str], sbd: Sequence[str]) -> list[str]:
    """The augmented training list: VOC's and SBD's images without VOC's val, sorted."""
    return sorted((set(voc_train) | set(sbd)) - set(voc_val))


def object_names(xml: Path) -> list[str]:
    """Classes of the objects of an annotation file, sorted; parts (head, hand) do not count.

    Raises:
        UserError: missing or damaged file, a name that is no VOC class.
    """
    _must_exist(xml, VOC)
    try:
        objects = ElementTree.parse(xml).getroot().findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{xml} is damaged ({error}). Unpack {VOC} again.") from error
    names = sorted({(item.findtext("name") or "").strip() for item in objects})
    for name in names:
        if name not in CLASSES:
            raise UserError(f"{xml}: {unknown('class', name, CLASSES)}")
    return names


def read_sbd_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 ids 0..20 from an SBD class annotation (`cls/<id>.mat`, GTcls.Segmentation).

    Raises:
        UserError: missing or damaged file, scipy not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError("Reading SBD's .mat files needs scipy. Run: pip install scipy") from error
    _must_exist(path, SBD)
    try:
        return loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # scipy raises many types on damaged files
        raise UserError(f"{path} is damaged ({error}). Unpack {SBD} again.") from error


def _voc_tree(
    root: Path, archives: Path, given: str | Path | None, download: bool, check: bool
) -> Path:
    marker = f"{layout.LISTS}/train.txt"
    if given:
        trees = [Path(given), Path(given) / "VOC2012", Path(given) / "VOCdevkit/VOC2012"]
        tree = _first(trees, marker)
        if tree is None:
            raise UserError(f"{given} is no VOC 2012 tree: {trees[0] / marker} does not exist.")
    else:
        trees = [archives / "VOCdevkit/VOC2012", archives / "VOC2012"]
        tree = _first(trees, marker)
    if tree is None:
        path = _archive(VOC, archives, download, "pass voc: PATH of an unpacked VOC2012", check)
        parts = (layout.IMAGES, layout.MASKS, layout.LISTS, "Annotations")
        target = unpack(VOC, path, root / "source/voc", lambda name: _within(name, parts))
        tree = target / "VOCdevkit/VOC2012"
    if tree.resolve() == root.resolve():
        raise UserError(f"{root} is the VOC tree itself. Name another root: masks are added to it.")
    return tree


def _sbd_tree(
    root: Path, archives: Path, given: str | Path | bool | None, download: bool, check: bool
) -> Path:
    marker = "cls"
    if given and given is not True:
        trees = [Path(given), Path(given) / "dataset", Path(given) / "benchmark_RELEASE/dataset"]
        tree = _first(trees, marker)
        if tree is None:
            raise UserError(f"{given} is no SBD tree: {trees[0] / marker} does not exist.")
        return tree
    trees = [archives / "benchmark_RELEASE/dataset", archives / "sbd", archives / "SBD"]
    tree = _first(trees, marker)
    if tree:
        return tree
    what = (
        "pass sbd: PATH of an unpacked benchmark_RELEASE/dataset, or sbd: false for train and val"
    )
    path = _archive(SBD, archives, download, what, check)
    parts = ("cls", "train.txt", "val.txt")
    target = unpack(SBD, path, root / "source/sbd", lambda name: _within(name, parts))
    return target / "benchmark_RELEASE/dataset"


def _first(trees: Sequence[Path], marker: str) -> Path | None:
    return next((tree for tree in trees if (tree / marker).exists()), None)


def _within(name: str, parts: Sequence[str]) -> bool:
    """Whether an archive member lies in one of `parts` below its two leading folders."""
    inner = "/".join(name.removeprefix("./").split("/")[2:])
    return any(inner == part or inner.startswith(f"{part}/") for part in parts)


def _archive(archive: Archive, folder: Path, download: bool, what: str, check: bool) -> Path:
    if download and not (folder / archive.name).exists():
        _download(archive, folder)
    path = need(archive, folder, f"{what}, or download: true")
    if check:
        check_size(archive, path)
    return path


def _download(archive: Archive, folder: Path) -> None:
    from torchvision.datasets import SBDataset
    from torchvision.datasets.utils import download_url
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    url = DATASET_YEAR_DICT["2012"]["url"] if archive is VOC else SBDataset.url
    try:
        download_url(url, folder, archive.name, archive.md5)
    except (
        Exception
    ) as error:  # network, certificate, checksum, disk: torchvision raises as it comes
        raise UserError(
            f"Downloading {archive.name} failed ({error}). Get {archive} by other means and put it "
            f"in {folder}."
        ) from error


def _lists(voc: Path, sbd: Path | None) -> dict[str, list[str]]:
    def read(path: Path, archive: Archive) -> list[str]:
        return layout.read_text(path, f"Unpack {archive} again.").split()

    lists = {
        f"VOC {split}": read(voc / layout.LISTS / f"{split}.txt", VOC) for split in ("train", "val")
    }
    if sbd:
        lists |= {f"SBD {split}": read(sbd / f"{split}.txt", SBD) for split in ("train", "val")}
        both = lists["SBD train"] + lists["SBD val"]
        lists["train_aug"] = train_aug(lists["VOC train"], lists["VOC val"], both)
    return lists


def _check_lists(lists: dict[str, list[str]], voc: Path, sbd: Path | None) -> None:
    for name, ids in lists.items():
        expected = LIST_SIZES[name]
        print(f"{name}: {len(ids)} images, expected {expected}")
        if len(ids) == expected:
            continue
        archive, tree = (VOC, voc / layout.LISTS) if name.startswith("VOC") else (SBD, sbd)
        raise UserError(
            f"The list {name} of {tree} has {len(ids)} images instead of {expected}: it is not the "
            f"published one. Get {archive}, or pass check_counts: false for a part of the set."
        )


def _labels(voc: Path, ids: Sequence[str]) -> dict[str, list[str]]:
    files = [voc / "Annotations" / f"{name}.xml" for name in ids]
    found = in_threads(object_names, files, "reading annotations")
    return dict(zip(ids, found, strict=True))


def _check_labels(labels: dict[str, list[str]], ids: Sequence[str], voc: Path) -> None:
    classes = Counter(label for name in ids for label in labels[name])
    lengths = Counter(len(labels[name]) for name in ids)
    wanted = [(f"train_aug with {n} labels", c, lengths[n]) for n, c in IMAGES_PER_LABELS.items()]
    wanted += [(f"train_aug with {n}", c, classes[n]) for n, c in IMAGES_PER_CLASS.items()]
    for what, expected, found in wanted:
        print(f"{what}: {found} images, expected {expected}")
        if found != expected:
            raise UserError(
                f"{what}: {found} images instead of {expected}. {voc / 'Annotations'} is not the "
                f"published one: get {VOC}, or pass check_counts: false for a part of the set."
            )


def _convert_masks(sbd: Path, root: Path, ids: Sequence[str]) -> None:
    missing = [name for name in ids if not (root / layout.MASKS / f"{name}.png").exists()]
    for _ in in_threads(partial(_convert_mask, sbd, root), missing, "converting SBD masks"):
        pass


def _convert_mask(sbd: Path, root: Path, name: str) -> None:
    mask = read_sbd_mask(sbd / "cls" / f"{name}.mat")
    write_mask(root / layout.MASKS / f"{name}.png", mask)


def _must_exist(path: Path, archive: Archive) -> None:
    if not path.exists():
        raise UserError(f"{path} does not exist. Unpack {archive} again.")
