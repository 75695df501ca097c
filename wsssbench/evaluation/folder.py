"""A folder of predicted masks against a folder of true ones, whoever wrote them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsssbench.errors import UserError
from wsssbench.evaluation import boundaries, intervals, objects, ratios
from wsssbench.evaluation.confusion import ConfusionMatrix
from wsssbench.evaluation.reading import Read, listed, read_mask
from wsssbench.parallel import Show, in_threads, silent


@dataclass(frozen=True)
class Scores:
    """All scores of a split.

    Attributes:
        ids: N images in the order given.
        classes: K+1 names, background first.
        confusion: of all pixels.
        counts: (N, K+1, 3) int64 P, T, TP of each image.
        per_image: id, miou, fp, fn, truth_classes, predicted_classes, wrong_fraction; for looking
            at images and for nothing else, a split's score is no mean of these.
        object_list: one row per object of the truth: id, class, area_px, image_px, recall, iou.
        objects: the same by size: size, low_px, high_px, objects, recall, iou.
        boundary: width_px, error, miou inside the boundary band.
    """

    ids: list[str]
    classes: list[str]
    confusion: ConfusionMatrix
    counts: np.ndarray
    per_image: pd.DataFrame
    object_list: pd.DataFrame
    objects: pd.DataFrame
    boundary: dict[str, float]

    def per_class(self) -> pd.DataFrame:
        """class, iou, fp, fn, precision, recall, truth_px, predicted_px; background first."""
        matrix = self.confusion
        predicted, labelled, _ = matrix.counts().T
        return pd.DataFrame(
            {
                "class": self.classes,
                "iou": matrix.iou(),
                "fp": matrix.fp(),
                "fn": matrix.fn(),
                "precision": matrix.precision(),
                "recall": matrix.recall(),
                "truth_px": labelled,
                "predicted_px": predicted,
            }
        )

    def confusion_table(self) -> pd.DataFrame:
        """Pixels by class: first column `truth`, then one column per predicted class."""
        table = pd.DataFrame(self.confusion.matrix, columns=self.classes)
        table.insert(0, "truth", self.classes, allow_duplicates=True)
        return table

    def intervals(
        self, samples: int = 1000, seed: int = 0, level: float = 0.95
    ) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals over images of miou, fp and fn."""
        return intervals.bootstrap(self.counts, samples=samples, seed=seed, level=level)

    def summary(self) -> dict[str, float]:
        """miou, fp, fn, and the foreground means of precision and recall (fractions)."""
        matrix = self.confusion
        return {
            "miou": matrix.miou(),
            "fp": matrix.mfp(),
            "fn": matrix.mfn(),
            "precision": float(ratios.nanmean(matrix.precision()[1:])),
            "recall": float(ratios.nanmean(matrix.recall()[1:])),
        }

    def unlabelled(self, labels: Mapping[str, Iterable[int]]) -> list[tuple[str, str]]:
        """(id, class name) of foreground classes in a mask that the image's labels lack.

        They are scored like any other (the published counter skips them), but a reader should know
        of them: no method that trusts the labels can find them.

        Args:
            labels: per id the class ids of its image-level labels.
        """
        return [
            (name, self.classes[label])
            for name, present in zip(self.ids, self.counts[:, :, 1] > 0, strict=True)
            for label in np.flatnonzero(present)
            if label > 0 and label not in set(labels[name])
        ]


class _Image(NamedTuple):
    confusion: ConfusionMatrix
    band: ConfusionMatrix
    objects: list[tuple]


def evaluate_folder(
    pred_dir: str | Path,
    truth_dir: str | Path,
    ids: Sequence[str] | None,
    num_classes: int,
    *,
    classes: Sequence[str] | None = None,
    boundary_px: int = boundaries.DEFAULT_WIDTH_PX,
    ignore_index: int = 255,
    workers: int | None = None,
    read: Read = read_mask,
    progress: Show = silent,
) -> Scores:
    """Score `pred_dir/<id>.png` against `truth_dir/<id>.png`.

    Args:
        pred_dir: palette or single-channel masks; `ignore_index` in them is no class and costs
            recall.
        truth_dir: masks of the same names and sizes.
        ids: images; None: every mask of `pred_dir`.
        num_classes: K + 1.
        classes: K names of the foreground classes; None: class_1 and so on.
        boundary_px: width of the boundary band.
        ignore_index: truth value of pixels that are not evaluated.
        workers: threads; None: one per core.
        read: reads a mask.
        progress: `progress(iterable, desc, total)`; silent by default.

    Raises:
        UserError: missing, damaged or RGB mask, sizes that differ, a value that is no class; names
            the file and what to do.
    """
    pred_dir, truth_dir = Path(pred_dir), Path(truth_dir)
    names = listed(ids, pred_dir, ".png")
    labels = _class_names(classes, num_classes)

    def score(name: str) -> _Image:
        paths = pred_dir / f"{name}.png", truth_dir / f"{name}.png"
        prediction, truth = (read(path) for path in paths)
        _check(prediction, truth, paths, num_classes, ignore_index)
        confusion = ConfusionMatrix(num_classes, ignore_index)
        confusion.update(prediction, truth)
        present = np.flatnonzero(confusion.counts()[:, 1])
        found = objects.find_objects(prediction, truth, present[present > 0], ignore_index)
        return _Image(
            confusion,
            boundaries.within_band(prediction, truth, num_classes, boundary_px, ignore_index),
            [(name, labels[label], area, truth.size, *rest) for label, area, *rest in found],
        )

    total = ConfusionMatrix(num_classes, ignore_index)
    band = ConfusionMatrix(num_classes, ignore_index)
    counts, found = [], []
    for image in in_threads(score, names, "evaluate", workers, progress):
        total, band = total + image.confusion, band + image.band
        counts.append(image.confusion.counts())
        found += image.objects
    counts = np.stack(counts)
    object_list = pd.DataFrame(found, columns=objects.COLUMNS)
    return Scores(
        ids=names,
        classes=labels,
        confusion=total,
        counts=counts,
        per_image=_per_image(names, counts, labels),
        object_list=object_list,
        objects=objects.by_size(object_list),
        boundary=boundaries.summary(band, boundary_px),
    )


def _class_names(classes: Sequence[str] | None, num_classes: int) -> list[str]:
    if classes is None:
        classes = [f"class_{label}" for label in range(1, num_classes)]
    if len(classes) != num_classes - 1:
        raise UserError(
            f"{len(classes)} class names for {num_classes - 1} foreground classes (num_classes "
            "counts the background, the names leave it out). Check classes.txt."
        )
    return ["background", *classes]


def _check(
    prediction: np.ndarray,
    truth: np.ndarray,
    paths: tuple[Path, Path],
    num_classes: int,
    ignore_index: int,
) -> None:
    if prediction.shape != truth.shape:
        (height, width), (true_height, true_width) = prediction.shape, truth.shape
        raise UserError(
            f"{paths[0]} is {width}x{height}, its ground truth {paths[1]} {true_width}x"
            f"{true_height} pixels. Save predictions at the full size of the image."
        )
    for path, mask in zip(paths, (prediction, truth), strict=True):
        wrong = (mask >= num_classes) & (mask != ignore_index)
        if wrong.any():
            raise UserError(
                f"{path} holds value {mask[wrong][0]}, but ids are 0..{num_classes - 1}, and "
                f"{ignore_index} where nothing is known. Check the number of classes, and that the "
                "file holds ids, not grey levels."
            )


def _per_image(names: list[str], counts: np.ndarray, classes: list[str]) -> pd.DataFrame:
    miou, fp, fn = ratios.means(counts)
    _, labelled, both = np.moveaxis(counts.sum(axis=1), -1, 0)

    def named(present: np.ndarray) -> list[str]:
        return [
            " ".join(classes[label] for label in np.flatnonzero(row) if label) for row in present
        ]

    return pd.DataFrame(
        {
            "id": names,
            "miou": miou,
            "fp": fp,
            "fn": fn,
            "truth_classes": named(counts[:, :, 1] > 0),
            "predicted_classes": named(counts[:, :, 0] > 0),
            "wrong_fraction": 1 - ratios.ratio(both, labelled),
        }
    )
