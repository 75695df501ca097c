"""A data set folder as the rest of the package sees it, and the view of it that a trainer gets.

Reading only; `prepare` at the end checks (and on request completes) a user's own folder.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsssbench.data import labels, layout
from wsssbench.data.palette import open_image, palette, read_mask
from wsssbench.errors import UserError, unknown
from wsssbench.files import write_text


class Folder:
    """Images, image-level labels and masks of a data set in the layout of PASCAL VOC.

    Attributes:
        root: the folder.
        classes: names of the foreground classes; classes[i - 1] has mask id i.
        palette: RGB triples of the ids 0..K.

    Raises:
        UserError: no such folder, no or broken `classes.txt`.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(
                f"Data set folder {self.root} does not exist. Check the path, or make the data "
                "set with `wsssbench data prepare`."
            )
        self.classes = layout.read_classes(self.root)
        self.palette = [tuple(colour) for colour in palette(len(self.classes) + 1).tolist()]

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return len(self.classes)

    @property
    def splits(self) -> list[str]:
        """Names of the lists in ImageSets/Segmentation."""
        return layout.splits(self.root)

    @cached_property
    def images(self) -> dict[str, Path]:
        """Image file per id."""
        return layout.index_images(self.root)

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Image-level labels, id -> (K,) float32 of zeros and ones, from `labels.csv` only."""
        place = {name: index for index, name in enumerate(self.classes)}
        vectors = {}
        for name, present in layout.read_labels(self.root, self.classes).items():
            vectors[name] = np.zeros(self.num_classes, dtype=np.float32)
            vectors[name][[place[label] for label in present]] = 1
        return vectors

    def ids(self, split: str) -> list[str]:
        """Ids of a split, in the order of its list.

        Raises:
            UserError: unknown split, a repeated id, an id without image.
        """
        ids = layout.read_ids(self.root, split)
        path = layout.list_path(self.root, split)
        twice = layout.repeated(ids)
        if twice:
            raise UserError(f"{path} lists {_some(twice)} more than once. Keep each id once.")
        missing = [name for name in ids if name not in self.images]
        if missing:
            raise UserError(
                f"{path} lists {_some(missing)} without an image in {self.root / layout.IMAGES}. "
                "Put the image there or correct the list (one file name without ending per line)."
            )
        return ids

    def label(self, name: str) -> np.ndarray:
        """(K,) float32 of zeros and ones; all zero for an image without label."""
        return self.labels.get(name, np.zeros(self.num_classes, dtype=np.float32))

    def unlabelled(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that have no label; they are kept, as images without any class."""
        return [name for name in ids if not self.label(name).any()]

    def image_path(self, name: str) -> Path:
        """File of an image."""
        if name not in self.images:
            raise UserError(f"{_unknown_id(name, self.images)} Looked in {self.root}.")
        return self.images[name]

    def mask_path(self, name: str) -> Path:
        """File of a mask, whether it exists or not."""
        return self.root / layout.MASKS / f"{name}.png"

    def has_mask(self, name: str) -> bool:
        """Whether there is a mask."""
        return self.mask_path(name).exists()

    def image(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        with open_image(self.image_path(name)) as image:
            return np.array(image.convert("RGB"))

    def mask(self, name: str) -> np.ndarray:
        """(H, W) uint8: 0 background, 1..K class, 255 ignore."""
        return read_mask(self.mask_path(name))


class LabelledImages:
    """What a trainer sees: images and image-level labels. Nothing in here can reach a mask.

    A map-style data set for `torch.utils.data.DataLoader`. An item is a dict:
    `id` str, `image` (3, H, W) uint8 as `torchvision.tv_tensors.Image`, `label` (K,) float32,
    `index` int, passed through `transform` if there is one.

    Args:
        folder: read for image files and `labels.csv` here; not kept.
        ids: the images, in this order.
        transform: called with the dict of an item, returns the dict to hand out.
    """

    def __init__(
        self,
        folder: Folder,
        ids: Sequence[str],
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ):
        self.ids = list(ids)
        self.paths = [folder.image_path(name) for name in self.ids]
        # One (N, K) array: forked workers share it, a list of small arrays they would copy.
        self.labels = np.stack([folder.label(name) for name in self.ids])
        self.unlabelled = int((self.labels.sum(axis=1) == 0).sum())
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Imported here: `wsssbench data …` and the evaluation need folders, but not torch.
        import torch
        from torchvision import tv_tensors

        with open_image(self.paths[index]) as image:
            pixels = np.array(image.convert("RGB"))
        item = {
            "id": self.ids[index],
            "image": tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous()),
            "label": torch.from_numpy(self.labels[index].copy()),
            "index": index,
        }
        return self.transform(item) if self.transform else item


def prepare(
    root: Path,
    *,
    labels_from_masks: bool = False,
    copy_from: str | Path | None = None,
    holdout_of_val: int = 0,
) -> None:
    """Check a user's own folder and complete it where asked.

    Args:
        root: the folder; with `copy_from` it is made.
        labels_from_masks: write `labels.csv` from the masks of all lists, unless a person wrote
            or changed one. Labels derived by an earlier run are derived again.
        copy_from: an existing folder in VOC layout, which may be read-only: its images and masks
            are linked, its lists, `classes.txt` and `labels.csv` copied.
        holdout_of_val: n > 1 deals the list `val` out to two new ones: every n-th image to
            `holdout`, whose masks may choose thresholds, the others to `val_rest`. 0: no.

    Raises:
        UserError: whatever is missing or does not fit, with a remedy.
    """
    root, own = Path(root), Path(copy_from or root)
    if not own.is_dir():
        raise UserError(
            f"Data set folder {own} does not exist. Put it there: {layout.IMAGES}/<id>.jpg, "
            f"{layout.LISTS}/<list>.txt, {layout.CLASSES}, and {layout.LABELS} or masks "
            f"{layout.MASKS}/<id>.png; the README says more."
        )
    if copy_from is not None:
        _copy(own, root)
    folder = Folder(root)
    if not folder.splits:
        raise UserError(
            f"{root / layout.LISTS} holds no list. Write train.txt and val.txt there, one image "
            "id (file name without ending) per line."
        )
    if holdout_of_val:
        _deal_holdout(root, holdout_of_val)
        folder = Folder(root)
    ids = {split: folder.ids(split) for split in folder.splits}
    every = layout.union(ids.values())
    if copy_from is None:
        given = (root / layout.LABELS).exists() and not labels.derived(root)
    else:
        given = (Path(copy_from) / layout.LABELS).exists()
    facts = {}
    if labels_from_masks and not given:
        labels.labels_from_masks(root, every, replace=True)
        facts = {"labels_hash": labels.labels_hash(root)}
    without = len(folder.unlabelled(every))
    origin = layout.LABELS if given else "masks"
    if copy_from is not None or not given:  # a folder used in place may be read-only
        layout.write_about(root, "folder", origin, **facts)
    print(f"{root}: {folder.num_classes} classes, image-level labels from {origin}")
    for split, names in ids.items():
        masks = sum(folder.has_mask(name) for name in names)
        print(f"  {split}: {len(names)} images, {masks} with a mask")
    if without:
        print(f"  {without} images have no label; they are kept as images without any class")


def _deal_holdout(root: Path, every: int) -> None:
    """Write `holdout` and `val_rest` from `val`, which stays; refuses to replace other lists."""
    names = layout.read_ids(root, "val")
    if not 1 < every <= len(names):
        raise UserError(
            f"holdout_of_val is {every}, val has {len(names)} images. Give a number from 2 to "
            f"{len(names)}: one image of so many goes to the hold-out; or 0 for none."
        )
    held = set(names[::every])
    parts = {
        "holdout": [name for name in names if name in held],
        "val_rest": [name for name in names if name not in held],
    }
    for split, part in parts.items():
        path = layout.list_path(root, split)
        if path.exists() and layout.read_ids(root, split) != part:
            raise UserError(
                f"{path} is another list than holdout_of_val: {every} deals from val. Keep your own"
                " with holdout_of_val: 0, or delete it to have val dealt anew."
            )
    for split, part in parts.items():
        layout.write_ids(root, split, part)


def _copy(source: Path, root: Path) -> None:
    """Link the big folders of `source` into `root`, copy its small files."""
    Folder(source)
    if source.resolve() == root.resolve():
        raise UserError(f"copy_from is the data set folder {root} itself. Name another one.")
    for name in (layout.IMAGES, layout.MASKS, layout.HIDDEN):
        if (source / name).is_dir():
            layout.link(source / name, root / name, root)
    files = [layout.CLASSES, layout.LABELS]
    files += [f"{layout.LISTS}/{split}.txt" for split in layout.splits(source)]
    for name in files:
        if (source / name).exists():
            write_text(root / name, layout.read_text(source / name, "Check copy_from."))


def _unknown_id(name: str, valid: Sequence[str]) -> UserError:
    """Error for an id that has no image; shows the nearest ids, not all of them."""
    near = [other for other in valid if other.startswith(name[:4])][:5] or list(valid)[:5]
    return unknown("image id", name, near)


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
