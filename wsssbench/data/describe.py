"""Statistics of a data set folder as tables: sizes of splits, labels, classes, images."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wsssbench.data import layout
from wsssbench.data.folder import Folder
from wsssbench.data.palette import IGNORE
from wsssbench.data.scan import Seen, scan


def describe(root: str | Path, splits: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Tables that say what is in a folder.

    Args:
        root: a data set folder with `labels.csv`; masks are counted where they exist.
        splits: the lists to describe, all by default.

    Returns:
        splits: split, images, masks, unlabelled, labels_per_image (mean).
        labels_per_image: one row per number of labels, one column of image counts per split.
        classes: split, class, images (with the label), image_share, mask_images (whose mask
            holds the class), pixel_share (of all pixels that are not ignored), object_share (mean
            share of an image that the class covers where it occurs); `background` comes first.
        sizes: split, min/median/max of width and height in pixels, number of different sizes.
        Shares are fractions in [0, 1]; NaN where no mask exists.

    Raises:
        UserError: whatever is missing or unreadable.
    """
    folder = Folder(root)
    ids = {split: folder.ids(split) for split in splits or folder.splits}
    every = layout.union(ids.values())
    seen = {item.name: item for item in scan(folder, every, decode=False)}
    for item in seen.values():
        for _, error in item.faults:
            raise error
    items = {split: [seen[name] for name in names] for split, names in ids.items()}
    return {
        "splits": pd.DataFrame([_split(folder, *pair) for pair in items.items()]),
        "labels_per_image": _labels_per_image(folder, ids),
        "classes": pd.concat([_classes(folder, *pair) for pair in items.items()]).reset_index(
            drop=True
        ),
        "sizes": pd.DataFrame([_sizes(*pair) for pair in items.items()]),
    }


def _split(folder: Folder, split: str, items: Sequence[Seen]) -> dict:
    counts = [folder.label(item.name).sum() for item in items]
    return {
        "split": split,
        "images": len(items),
        "masks": sum(bool(item.pixels) for item in items),
        "unlabelled": sum(count == 0 for count in counts),
        "labels_per_image": float(np.mean(counts)),
    }


def _labels_per_image(folder: Folder, ids: dict[str, list[str]]) -> pd.DataFrame:
    columns = {
        split: pd.Series([int(folder.label(name).sum()) for name in names]).value_counts()
        for split, names in ids.items()
    }
    table = pd.DataFrame(columns).fillna(0).astype(int).sort_index()
    return table.rename_axis("labels").reset_index()


def _classes(folder: Folder, split: str, items: Sequence[Seen]) -> pd.DataFrame:
    names = ["background", *folder.classes]
    labels = np.stack([folder.label(item.name) for item in items])
    pixels = np.zeros((len(items), len(names)))
    for row, item in zip(pixels, items, strict=True):
        for value, count in item.pixels.items():
            if value < len(names):
                row[value] = count
    valid = np.array([sum(item.pixels.values()) - item.pixels.get(IGNORE, 0) for item in items])
    masked = pixels[valid > 0] / valid[valid > 0, None]
    found = masked > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        object_share = masked.sum(axis=0) / found.sum(axis=0)
        pixel_share = pixels.sum(axis=0) / valid.sum()
    return pd.DataFrame(
        {
            "split": split,
            "class": names,
            "images": [np.nan, *labels.sum(axis=0)],
            "image_share": [np.nan, *labels.mean(axis=0)],
            "mask_images": found.sum(axis=0),
            "pixel_share": pixel_share,
            "object_share": object_share,
        }
    ).astype({"images": "Int64"})


def _sizes(split: str, items: Sequence[Seen]) -> dict:
    heights, widths = np.array([item.size for item in items]).T
    row: dict = {"split": split}
    for name, values in (("width_px", widths), ("height_px", heights)):
        row |= {
            f"min_{name}": int(values.min()),
            f"median_{name}": float(np.median(values)),
            f"max_{name}": int(values.max()),
        }
    return row | {"different_sizes": len(set(zip(widths.tolist(), heights.tolist(), strict=True)))}
