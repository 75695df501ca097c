"""Where the pictures of one scored split lie: of a run, or of any two folders of masks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsssbench.data import IGNORE
from wsssbench.data.folder import Folder
from wsssbench.data.layout import CLASSES, IMAGES, index_images, read_classes
from wsssbench.data.palette import open_image, read_mask
from wsssbench.errors import UserError
from wsssbench.evaluation.reading import read_maps
from wsssbench.files import read_json
from wsssbench.multistage import STAGES, masks_dir

USUAL = ("decoder", "cam")


@dataclass(frozen=True)
class Masks:
    """Predictions and truth of a list of images; images and score maps may be missing.

    Attributes:
        ids: the images, in order.
        predictions: folder of <id>.png.
        truth: folder of <id>.png.
        classes: names, background first.
        images: image file per id; ids without one are drawn on grey.
        maps: folder of <id>.npz with score maps, or None.
        word: what a prediction is called below its picture.
    """

    ids: list[str]
    predictions: Path
    truth: Path
    classes: list[str]
    images: Mapping[str, Path] = field(default_factory=dict)
    maps: Path | None = None
    word: str = "prediction"

    @property
    def num_classes(self) -> int:
        """K + 1."""
        return len(self.classes)

    def read(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, truth and prediction (H, W) uint8.

        Raises:
            UserError: a mask is missing or broken, or sizes differ.
        """
        truth = read_mask(self.truth / f"{name}.png")
        prediction = read_mask(self.predictions / f"{name}.png")
        if name in self.images:
            with open_image(self.images[name]) as picture:
                image = np.array(picture.convert("RGB"))
        else:
            image = np.full((*truth.shape, 3), 128, np.uint8)
        if not image.shape[:2] == truth.shape == prediction.shape:
            raise UserError(
                f"Sizes of {name} differ: image {image.shape[:2]}, truth {truth.shape}, prediction "
                f"{prediction.shape} (height, width). Write the masks at the size of the image."
            )
        return image, truth, prediction

    def heat(self, name: str) -> np.ndarray | None:
        """The largest score of the classes that may appear, (h, w) float32; None without maps."""
        if self.maps is None or not (self.maps / f"{name}.npz").exists():
            return None
        stored = read_maps(self.maps / f"{name}.npz")
        kept = stored.maps[stored.gated].astype(np.float32)
        return kept.max(axis=0) if len(kept) else np.zeros((1, 1), np.float32)


def masks_of_run(run: str | Path, split: str, data_root: str | Path, kind: str = "") -> Masks:
    """The pseudo-masks of a run on one of its splits.

    Args:
        run: run directory, `runs/<profile>/<experiment>-<seed>`.
        split: split name.
        data_root: the data set folder.
        kind: of maps; by default the only one, or the run's `decoder`, or its `cam`.

    Raises:
        UserError: the run has no such pseudo-masks, or the data set is not there.
    """
    run = Path(run)
    place = masks_dir(run, kind or _usual_kind(run / "pseudo_masks")) / split
    if not (place / "masks").is_dir():
        raise UserError(
            f"{place / 'masks'} does not exist. Choose a run, a kind of maps and a split that the "
            "pipeline has finished."
        )
    folder = Folder(data_root)
    maps = place / "maps" if (place / "maps").is_dir() else None
    return Masks(
        ids=folder.ids(split),
        predictions=place / "masks",
        truth=folder.mask_path("any").parent,
        classes=["background", *folder.classes],
        images=folder.images,
        maps=maps,
        word="prediction" if kind in STAGES["segment"] else "pseudo-mask",
    )


def masks_of_folders(predictions: str | Path, truth: str | Path) -> Masks:
    """Any folder of PNG masks against another.

    If `truth` lies in a data set folder, class names (`classes.txt`) and images (`JPEGImages/`)
    come from there; else classes are numbered and the masks are drawn on grey.

    Args:
        predictions: folder of <id>.png; every file in it is looked at.
        truth: folder of <id>.png.

    Raises:
        UserError: no masks, or a prediction without truth.
    """
    predictions, truth = Path(predictions), Path(truth)
    ids = sorted(path.stem for path in predictions.glob("*.png"))
    if not ids:
        raise UserError(f"No PNG masks in {predictions}. Name the folder that holds <id>.png.")
    alone = [name for name in ids if not (truth / f"{name}.png").exists()]
    if alone:
        raise UserError(f"{truth} has no mask {alone[0]}.png for the prediction of that name.")
    root = truth.parent
    names = read_classes(root) if (root / CLASSES).exists() else _numbered(truth, ids)
    images = index_images(root) if (root / IMAGES).is_dir() else {}
    return Masks(ids, predictions, truth, ["background", *names], images)


def open_masks(
    run: str = "",
    split: str = "train",
    data_root: str = "",
    predictions: str = "",
    truth: str = "",
    kind: str = "",
) -> Masks:
    """A run's pseudo-masks or, where `predictions` names a folder, any masks against any truth.

    Args:
        run: run directory.
        split: split of the run.
        data_root: data set folder of the run.
        predictions: folder of PNG masks.
        truth: folder of PNG masks.
        kind: of the run's maps, such as `scg`; by default its main one.

    Raises:
        UserError: whatever is not there, and what to name instead.
    """
    if predictions:
        return masks_of_folders(*map(_found, (predictions, truth)))
    return masks_of_run(_found(run), split, _found(data_root), kind)


def _usual_kind(place: Path) -> str:
    """The kind of maps that speaks for a run, among those in its folder of pseudo-masks."""
    kinds = sorted(path.name for path in place.glob("*") if path.is_dir())
    if (noted := place / "origin.json").exists():
        return read_json(noted, "Make the pseudo-masks again.")["kinds"][0]
    usual = [kind for kind in USUAL if kind in kinds]
    if not usual and len(kinds) > 1:
        raise UserError(f"{place} holds the kinds of maps {', '.join(kinds)}: name one of them.")
    return (usual or kinds or USUAL)[0]


def _numbered(truth: Path, ids: list[str]) -> list[str]:
    """Names for the foreground classes up to the largest id that occurs."""
    masks = (read_mask(truth / f"{name}.png") for name in ids)
    largest = max(int(mask[mask != IGNORE].max(initial=1)) for mask in masks)
    return [f"class_{label}" for label in range(1, largest + 1)]


def _found(path: str) -> str:
    """The path, or the same seen from the folder above: Jupyter starts notebooks in their own."""
    above = Path("..") / path
    return str(above) if path and not Path(path).exists() and above.exists() else path
