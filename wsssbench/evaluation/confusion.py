"""The confusion matrix: int64 pixel counts of a whole split, and the scores formed from them.

Counts are accumulated over all images first; ratios are formed once, at the end. Means of
per-image ratios are another quantity and are not offered here.
"""

from typing import Any, Self

import numpy as np

from wsssbench.errors import UserError
from wsssbench.evaluation import ids, pixels, ratios


class ConfusionMatrix:
    """Counts of (true, predicted) classes over all pixels whose truth is not `ignore_index`.

    Args:
        num_classes: K + 1, background included.
        ignore_index: truth value of pixels that are not evaluated.

    A prediction of 255 or of an id > K at a valid pixel counts for no class's P but still costs T.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        ids.check_classes(num_classes, ignore_index)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    @classmethod
    def from_counts(cls, counts: np.ndarray, ignore_index: int = 255) -> Self:
        """Wrap existing counts, (K+1, K+1) or, with a last column "no class", (K+1, K+2)."""
        counts = np.asarray(counts)
        if counts.ndim != 2 or counts.shape[1] - counts.shape[0] not in (0, 1):
            raise UserError(f"Counts must be (n, n) or (n, n + 1), got {counts.shape}.")
        result = cls(len(counts), ignore_index)
        result._counts[:, : counts.shape[1]] = counts
        return result

    def update(self, prediction: Any, truth: Any) -> None:
        """Add pixels.

        Args:
            prediction: whole numbers, an array or a tensor of any shape.
            truth: likewise, of the same shape.

        Raises:
            UserError: shapes differ; a truth value is neither a class nor `ignore_index`.
        """
        prediction, truth = ids.prediction_bytes(prediction), ids.truth_bytes(truth)
        if prediction.shape != truth.shape:
            raise UserError(
                f"The prediction has shape {prediction.shape}, its ground truth {truth.shape}. "
                "Predict at the full size of the image."
            )
        n = self.num_classes
        counts = pixels.joint_histogram(truth, prediction, 256)
        counts[self.ignore_index] = 0
        if counts[n:].any():
            raise ids.wrong_value(n + counts[n:].any(axis=1).argmax())
        self._counts[:, :n] += counts[:n, :n]
        self._counts[:, n] += counts[:n, n:].sum(axis=1)

    def __add__(self, other: Self) -> Self:
        """Counts of both: confusion matrices are additive over images."""
        if (other.num_classes, other.ignore_index) != (self.num_classes, self.ignore_index):
            raise UserError("Confusion matrices of different class sets cannot be added.")
        return self.from_counts(self._counts + other._counts, self.ignore_index)

    @property
    def matrix(self) -> np.ndarray:
        """(K+1, K+1) int64, rows = truth, columns = prediction."""
        return self._counts[:, :-1]

    @property
    def unassigned(self) -> np.ndarray:
        """(K+1,) int64, valid pixels of each true class that are predicted as no class."""
        return self._counts[:, -1]

    def counts(self) -> np.ndarray:
        """(K+1, 3) int64: predicted P, labelled T, both TP of each class."""
        predicted, labelled = self.matrix.sum(axis=0), self._counts.sum(axis=1)
        return np.stack([predicted, labelled, self.matrix.diagonal()], axis=1)

    def iou(self) -> np.ndarray:
        """(K+1,) float64 in [0, 1]; NaN for a class that is neither predicted nor labelled."""
        return ratios.rates(self.counts())[0]

    def fp(self) -> np.ndarray:
        """(K+1,) float64: false positives relative to the union."""
        return ratios.rates(self.counts())[1]

    def fn(self) -> np.ndarray:
        """(K+1,) float64: false negatives relative to the union."""
        return ratios.rates(self.counts())[2]

    def fp_split(self) -> tuple[np.ndarray, np.ndarray]:
        """Where false positives lie: on the background, on other foreground classes.

        Returns:
            Two (K+1,) float64 that add up to `fp()`.
        """
        predicted, labelled, both = self.counts().T
        union = predicted + labelled - both
        wrong = self.matrix - np.diag(both)
        return ratios.ratio(wrong[0], union), ratios.ratio(wrong[1:].sum(axis=0), union)

    def precision(self) -> np.ndarray:
        """(K+1,) float64 TP / P; NaN for a class never predicted."""
        predicted, _, both = self.counts().T
        return ratios.ratio(both, predicted)

    def recall(self) -> np.ndarray:
        """(K+1,) float64 TP / T; NaN for a class without ground truth."""
        _, labelled, both = self.counts().T
        return ratios.ratio(both, labelled)

    def miou(self) -> float:
        """Mean IoU over all classes, background included."""
        return float(ratios.means(self.counts())[0])

    def mfp(self) -> float:
        """Mean FP over the foreground classes."""
        return float(ratios.means(self.counts())[1])

    def mfn(self) -> float:
        """Mean FN over the foreground classes."""
        return float(ratios.means(self.counts())[2])
