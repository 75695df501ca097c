"""Threshold sweep in one pass: the scores of thresholded score maps at every threshold at once.

At threshold t the prediction is argmax over [t, map_1 .. map_K], the first maximum wins. With v
the largest map value of a pixel and k its class that is k where v > t, else background. So each
pixel is counted once, in the bin of v, and cumulative sums over bins give all thresholds
(evaluation_protocol.md 3.3 and 10). Exact: the result is that of the loop over thresholds.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import pandas as pd

from wsssbench.errors import UserError
from wsssbench.evaluation import binning, ids, pixels, ratios

DEFAULT_THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # 0.05 .. 0.95
COUNTERS = ("_labelled", "_claimed", "_correct", "_ground")


class ThresholdSweep:
    """Pixel counts of a split at each of a list of background thresholds.

    Args:
        num_classes: K + 1, background included.
        thresholds: T increasing values >= 0; compared in float32, a map value equal to the
            threshold is background.
        ignore_index: truth value of pixels that are not evaluated.
    """

    def __init__(
        self,
        num_classes: int,
        thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
        ignore_index: int = 255,
    ) -> None:
        ids.check_classes(num_classes, ignore_index)
        self.num_classes = num_classes
        self.thresholds = np.array(list(thresholds), dtype=np.float64)
        self.ignore_index = ignore_index
        self._cuts = self.thresholds.astype(np.float32)
        if not len(self._cuts) or not (self._cuts[0] >= 0 and (np.diff(self._cuts) > 0).all()):
            raise UserError(
                f"Thresholds must be increasing and not negative, got {self.thresholds.tolist()}."
            )
        self._bins = binning.Bins(self._cuts)
        bins = self._bins.count
        self._labelled = np.zeros(num_classes, dtype=np.int64)
        self._claimed = np.zeros((bins, num_classes), dtype=np.int64)  # by the strongest class
        self._correct = np.zeros((bins, num_classes), dtype=np.int64)  # ... and it is the true one
        self._ground = np.zeros(bins, dtype=np.int64)  # truth is background

    def update(self, maps: Any, truth: Any) -> None:
        """Add one image.

        Args:
            maps: (K, H, W) float, foreground score maps; float16 and float32 are compared as they
                are, other types as float32.
            truth: (H, W) whole numbers.

        Raises:
            UserError: shapes differ, NaN in the maps, a truth value is no class.
        """
        maps = ids.as_array(maps)
        if len(maps) != self.num_classes - 1:
            raise UserError(
                f"{len(maps)} score maps for {self.num_classes - 1} foreground classes. Leave the "
                "background map out, or use update_sparse for the maps of some classes."
            )
        self.update_sparse(np.arange(1, self.num_classes), maps, truth)

    def update_sparse(self, keys: Sequence[int], maps: Any, truth: Any) -> None:
        """Add one image of which only some classes have maps; the others' are zero.

        Args:
            keys: (n,) class ids 1..K, each once.
            maps: (n, H, W) float.
            truth: (H, W) whole numbers.

        Raises:
            UserError: as for `update`; a key that is no foreground class or comes twice.
        """
        maps, truth = ids.as_array(maps), ids.truth_bytes(truth)
        self._check(keys, maps, truth)
        keys, planes = binning.visible(keys, maps)
        counts = self._joint(planes, truth)
        present = counts.sum(axis=(0, 1))
        present[self.ignore_index] = 0
        if present[self.num_classes :].any():
            raise ids.wrong_value(self.num_classes + present[self.num_classes :].argmax())
        self._labelled += present[: self.num_classes]
        counts[:, :, self.ignore_index] = 0
        self._ground[: len(counts)] += counts[:, :, 0].sum(axis=1)
        if len(keys):
            self._claimed[:, keys] += counts.sum(axis=2)
            self._correct[:, keys] += counts[:, np.arange(len(keys)), keys]

    def _check(self, keys: Sequence[int], maps: np.ndarray, truth: np.ndarray) -> None:
        if maps.shape != (len(keys), *truth.shape) or truth.ndim != 2:
            raise UserError(
                f"Maps {maps.shape} do not fit {len(keys)} classes and ground truth of size "
                f"{truth.shape}. Resize the maps (bilinear) to the size of the mask first."
            )
        if len(set(map(int, keys))) < len(keys):
            raise UserError(f"A class has two maps: keys {list(map(int, keys))}.")
        for key in keys:
            if not 1 <= key < self.num_classes:
                raise UserError(
                    f"Map of class {int(key)}, but foreground ids are 1..{self.num_classes - 1}."
                )

    def _joint(self, planes: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
        """(bins, winners, 256) counts of one image's pixels by bin, strongest map and truth."""
        if not planes:  # no map: everything lies in the lowest bin
            return pixels.joint_histogram(np.zeros_like(truth), truth, 1)[None]
        value, winner = binning.strongest(planes)
        cell, cells = self._bins.of(value), self._bins.count * len(planes)
        if winner is not None:
            cell = cell.astype(np.min_scalar_type(cells - 1), copy=False)
            cell *= len(planes)
            cell += winner
        counts = pixels.joint_histogram(cell, truth, cells)
        return counts.reshape(self._bins.count, len(planes), 256)

    def __add__(self, other: Self) -> Self:
        """Counts of both: sweeps are additive over images."""
        if (self.num_classes, self.ignore_index, *self.thresholds) != (
            other.num_classes,
            other.ignore_index,
            *other.thresholds,
        ):
            raise UserError("Sweeps of different thresholds or class sets cannot be added.")
        result = copy(self)
        for name in COUNTERS:
            setattr(result, name, getattr(self, name) + getattr(other, name))
        return result

    def empty(self) -> Self:
        """A sweep of the same thresholds and classes that has counted nothing yet."""
        result = copy(self)
        for name in COUNTERS:
            setattr(result, name, np.zeros_like(getattr(self, name)))
        return result

    def counts(self) -> np.ndarray:
        """(T, K+1, 3) int64: predicted P, labelled T, both TP at each threshold."""
        result = np.empty((len(self._cuts), self.num_classes, 3), dtype=np.int64)
        result[:, :, 0] = _sum_above(self._claimed)
        result[:, :, 1] = self._labelled
        result[:, :, 2] = _sum_above(self._correct)
        result[:, 0, 0] = self._labelled.sum() - result[:, 1:, 0].sum(axis=1)
        result[:, 0, 2] = self._labelled[0] - _sum_above(self._ground)
        return result

    def miou(self) -> np.ndarray:
        """(T,) float64 mean IoU over all classes, background included."""
        return ratios.means(self.counts())[0]

    def mfp(self) -> np.ndarray:
        """(T,) float64 mean FP over the foreground classes."""
        return ratios.means(self.counts())[1]

    def mfn(self) -> np.ndarray:
        """(T,) float64 mean FN over the foreground classes."""
        return ratios.means(self.counts())[2]

    def best(self) -> tuple[float, float, float, float]:
        """(threshold, mIoU, FP, FN) where mIoU is largest; the first such threshold on ties."""
        miou = self.miou()
        return self._row(int(np.where(np.isnan(miou), -1.0, miou).argmax()))

    def at(self, threshold: float) -> tuple[float, float, float, float]:
        """(threshold, mIoU, FP, FN) at a threshold of the list (compared in float32).

        Raises:
            UserError: the sweep does not hold this threshold.
        """
        found = np.flatnonzero(self._cuts == np.float32(threshold))
        if not len(found):
            listed = ", ".join(f"{value:g}" for value in self.thresholds)
            raise UserError(f"Threshold {threshold:g} was not swept. Swept: {listed}.")
        return self._row(int(found[0]))

    def table(self) -> pd.DataFrame:
        """One row per threshold: threshold, miou, fp, fn (fractions)."""
        miou, fp, fn = ratios.means(self.counts())
        return pd.DataFrame({"threshold": self.thresholds, "miou": miou, "fp": fp, "fn": fn})

    def _row(self, index: int) -> tuple[float, float, float, float]:
        miou, fp, fn = (float(values[index]) for values in ratios.means(self.counts()))
        return float(self.thresholds[index]), miou, fp, fn


def _sum_above(bins: np.ndarray) -> np.ndarray:
    """(T, ...) sums over the bins above each threshold, from (T+1, ...) counts."""
    return bins[::-1].cumsum(axis=0)[::-1][1:]
