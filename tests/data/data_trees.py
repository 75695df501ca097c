"""Tiny trees and archives in the true formats, drawn from a seed; used by the tests beside it."""

import io
import json
import os
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from wsssbench.data import layout
from wsssbench.data.palette import write_mask


def photograph(path: Path, size=(6, 8), seed=0):
    """A random picture of (H, W), JPEG or BMP by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def small_folder(root: Path) -> Path:
    """Two classes; train a b c (c without label), val d. 6 × 8 pictures.

    Masks: a: cat on 12 of 48 pixels; b: cat 6, dog 12, ignore 6; c: none at all (no file);
    d: dog everywhere.
    """
    masks = {name: np.zeros((6, 8), np.uint8) for name in "abd"}
    masks["a"][:3, :4] = 1
    masks["b"][:2, :3] = 1
    masks["b"][3:, :4] = 2
    masks["b"][:3, 6:] = 255
    masks["d"][:] = 2
    for seed, name in enumerate("abcd"):
        photograph(root / "JPEGImages" / f"{name}.jpg", seed=seed)
    for name, mask in masks.items():
        write_mask(root / "SegmentationClass" / f"{name}.png", mask)
    layout.write_classes(root, ["cat", "dog"])
    layout.write_labels(root, {"a": ["cat"], "b": ["cat", "dog"], "c": [], "d": ["dog"]})
    layout.write_ids(root, "train", "abc")
    layout.write_ids(root, "val", "d")
    return root


def annotation(objects, parts=()) -> str:
    """A VOC annotation with objects as (name, difficult) and part names inside the first object."""
    inner = "".join(f"<part><name>{part}</name></part>" for part in parts)
    texts = []
    for name, difficult in objects:
        texts.append(
            f"<object><name>{name}</name><difficult>{difficult}</difficult>{inner}</object>"
        )
        inner = ""
    return f"<annotation><filename>x.jpg</filename>{''.join(texts)}</annotation>"


VOC_MASKS = {"2007_000001": 1, "2007_000002": 15, "2007_000003": 20}  # one class each
VOC_OBJECTS = {
    "2007_000001": [("aeroplane", 0), ("person", 1)],
    "2007_000002": [("person", 0)],
    "2007_000003": [("tvmonitor", 0)],
    "2008_000004": [("cow", 0), ("cow", 0)],
    "2008_000005": [("bus", 0), ("car", 0)],
}


def voc_tree(root: Path) -> Path:
    """VOCdevkit/VOC2012 with train 000001 000002, val 000003; two more pictures for SBD."""
    tree = root / "VOCdevkit/VOC2012"
    for seed, (name, objects) in enumerate(VOC_OBJECTS.items()):
        photograph(tree / "JPEGImages" / f"{name}.jpg", seed=seed)
        xml = tree / "Annotations" / f"{name}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(annotation(objects, parts=["head", "hand"]))
    for name, value in VOC_MASKS.items():
        mask = np.zeros((6, 8), np.uint8)
        mask[1:4, 2:6] = value
        mask[0] = 255
        write_mask(tree / "SegmentationClass" / f"{name}.png", mask)
    layout.write_ids(tree, "train", ["2007_000001", "2007_000002"])
    layout.write_ids(tree, "val", ["2007_000003"])
    (tree / "ImageSets/Main").mkdir(parents=True)
    (tree / "ImageSets/Main/cow_train.txt").write_text("2008_000004  1\n")
    return tree


def sbd_mask(name: str) -> np.ndarray:
    """The class mask of an SBD picture: its id in the last two columns."""
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 6:] = {"2008_000004": 10, "2008_000005": 6}.get(name, 7)
    return mask


def sbd_tree(root: Path) -> Path:
    """benchmark_RELEASE/dataset: train 000004 and VOC's 000001, val 000005 and VOC val 000003."""
    from scipy.io import savemat

    tree = root / "benchmark_RELEASE/dataset"
    (tree / "cls").mkdir(parents=True)
    lists = {"train": ["2008_000004", "2007_000001"], "val": ["2008_000005", "2007_000003"]}
    for split, names in lists.items():
        (tree / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            boundaries = np.empty((20, 1), dtype=object)
            boundaries[:] = [[np.zeros((6, 8))]] * 20
            truth = {
                "Boundaries": boundaries,
                "Segmentation": sbd_mask(name),
                "CategoriesPresent": np.unique(sbd_mask(name)[:, 6:]),
            }
            savemat(tree / "cls" / f"{name}.mat", {"GTcls": truth}, do_compression=True)
    return tree


def pack_tar(tree: Path, archive: Path, mode: str, base: Path) -> Path:
    """Pack `tree` with names relative to `base`."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as stream:
        stream.add(tree, tree.relative_to(base))
    return archive


CATEGORIES = [  # not in order, with a gap and a blank
    {"id": 90, "name": "toothbrush"},
    {"id": 1, "name": "person"},
    {"id": 10, "name": "traffic light"},
]


def square(top, left, bottom, right):
    """A polygon of COCO around whole pixels."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco_tree(root: Path) -> Path:
    """Unpacked COCO 2014: three train pictures (the last without objects), one val picture."""
    run_length = {"size": [10, 12], "counts": [0, 20, 100]}  # the two leftmost columns
    crowd = {"category_id": 1, "iscrowd": 1, "area": 20, "segmentation": run_length}
    big = {"category_id": 1, "iscrowd": 0, "area": 36, "segmentation": square(0, 0, 6, 6)}
    small = {"category_id": 90, "iscrowd": 0, "area": 4, "segmentation": square(2, 2, 4, 4)}
    light = {"category_id": 10, "iscrowd": 0, "area": 9, "segmentation": square(5, 8, 8, 11)}
    pictures = {"train": {9: [small, big], 25: [crowd, small], 30: []}, "val": {42: [light]}}
    for split, images in pictures.items():
        listed, annotations = [], []
        for number, items in images.items():
            name = f"COCO_{split}2014_{number:012d}.jpg"
            photograph(root / f"{split}2014" / name, size=(10, 12), seed=number)
            listed.append({"id": number, "file_name": name, "height": 10, "width": 12})
            annotations += [{**item, "image_id": number} for item in items]
        instances = {"images": listed, "annotations": annotations, "categories": CATEGORIES}
        path = root / "annotations" / f"instances_{split}2014.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(instances))
    return root


MSRC_SCENES = {1: (0, 128, 0), 2: (192, 0, 0)}  # grass everywhere, aeroplane everywhere


def msrc_tree(root: Path) -> Path:
    """MSRC_ObjCategImageDatabase_v2: scenes 1 and 2 with eight pictures each, 4 × 6 pixels.

    Rows of the truth: the scene's colour, the scene's colour, horse and mountain, void.
    """
    tree = root / "MSRC_ObjCategImageDatabase_v2"
    (tree / "GroundTruth").mkdir(parents=True)
    for scene, colour in MSRC_SCENES.items():
        for number in range(1, 9):
            name = f"{scene}_{number}_s"
            photograph(tree / "Images" / f"{name}.bmp", size=(4, 6), seed=10 * scene + number)
            truth = np.zeros((4, 6, 3), np.uint8)
            truth[:2] = colour
            truth[2, :3], truth[2, 3:] = (128, 0, 128), (64, 0, 0)
            Image.fromarray(truth).save(tree / "GroundTruth" / f"{name}_GT.bmp")
    return tree


def child_environment() -> dict[str, str]:
    """Environment in which a child process finds the package under test."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def damage(path: Path, keep: float = 0.6) -> Path:
    """Cut a file short, as an interrupted copy does."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 2 or 4 bits per pixel, which Pillow cannot write itself."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width = values.shape
    rows = io.BytesIO()
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.write(b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = zlib.compress(rows.getvalue())
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
