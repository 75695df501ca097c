"""Image-level labels from masks: for folders that have masks but no `labels.csv`.

An explicit act of `prepare`, written to a file a person can read. Trainers never come here: they
read `labels.csv`.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsssbench.data import layout
from wsssbench.data.palette import BACKGROUND, IGNORE, read_mask
from wsssbench.errors import UserError
from wsssbench.parallel import in_threads


def labels_from_masks(
    root: str | Path, ids: Iterable[str] | None = None, *, replace: bool = False
) -> dict[str, list[str]]:
    """Write `labels.csv`: the classes that occur in the mask of each image.

    Args:
        root: a folder with `classes.txt` and masks.
        ids: images to label, by default those of all lists; one without a mask gets no row.
        replace: overwrite a `labels.csv` that is there.

    Returns:
        The rows, id -> class names in the order of their mask ids.

    Raises:
        UserError: there is a `labels.csv`; none of `ids` has a mask; a mask holds an id that
            `classes.txt` does not name.
    """
    root = Path(root)
    if (root / layout.LABELS).exists() and not replace:
        raise UserError(f"{root / layout.LABELS} exists. Move it away to derive one from masks.")
    if ids is None:
        ids = layout.union(layout.read_ids(root, split) for split in layout.splits(root))
    classes = layout.read_classes(root)
    paths = [root / layout.MASKS / f"{name}.png" for name in dict.fromkeys(ids)]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise UserError(
            f"No mask in {root / layout.MASKS} to take labels from. Put <id>.png masks there or "
            f"write {root / layout.LABELS} by hand (header `id,labels`)."
        )
    found = in_threads(present_ids, paths, "labels from masks")
    labels = {}
    for path, present in zip(paths, found, strict=True):
        if present and present[-1] > len(classes):
            raise UserError(
                f"{path} holds the value {present[-1]}, but {layout.CLASSES} names the ids "
                f"1..{len(classes)} only. Correct the mask or add the class (255 = ignore)."
            )
        labels[path.stem] = [classes[index - 1] for index in present]
    layout.write_labels(root, labels)
    return labels


def labels_hash(root: Path) -> str:
    """Of the content of `labels.csv`, 16 hex digits."""
    return hashlib.sha256((root / layout.LABELS).read_bytes()).hexdigest()[:16]


def derived(root: Path) -> bool:
    """Whether `labels.csv` is still what an earlier `prepare` took from the masks."""
    about = layout.read_about(root)
    return about.get("labels") == "masks" and about.get("labels_hash") == labels_hash(root)


def present_ids(path: Path) -> list[int]:
    """Ids of the foreground classes in a mask, ascending."""
    counts = np.bincount(read_mask(path).ravel(), minlength=IGNORE + 1)
    return [int(index) for index in np.flatnonzero(counts) if index not in (BACKGROUND, IGNORE)]
