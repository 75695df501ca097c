"""Multi-label classification: average precision and the F1 sweep of evaluation_protocol.md 3.5.

Scores are probabilities (N, K) of K foreground classes, labels are 0/1 (N, K); both are arrays
or tensors. Fractions in [0, 1] throughout.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wsssbench.errors import UserError
from wsssbench.evaluation.ids import as_array
from wsssbench.evaluation.ratios import nanmean
from wsssbench.evaluation.sweep import DEFAULT_THRESHOLDS

PERCENT_EPS = 1e-5  # the published counter adds it to counts and to per cent, so it is kept


def average_precision(scores: Any, labels: Any) -> float:
    """Area under the step-wise precision-recall curve of one class.

    The sum over distinct scores, from high to low, of (recall gained) x (precision there): no
    interpolation, images of equal score enter together. This is scikit-learn's definition.

    Args:
        scores: (N,) float, larger = more likely present.
        labels: (N,) 0 or 1.

    Returns:
        AP in [0, 1]; NaN without a positive.
    """
    scores, labels = as_array(scores).astype(np.float64), as_array(labels) > 0.5
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # end of each tie
    precision = hits[last] / (last + 1)
    gained = np.diff(hits[last], prepend=0) / hits[-1]
    return float((gained * precision).sum())


def mean_average_precision(scores: Any, labels: Any) -> float:
    """Mean of `average_precision` over the classes that have a positive; NaN if none has."""
    scores, labels = _checked(scores, labels)
    values = [average_precision(s, y) for s, y in zip(scores.T, labels.T, strict=True)]
    return float(nanmean(np.array(values, dtype=np.float64)))


@dataclass(frozen=True)
class F1Sweep:
    """Precision, recall and F1 at each threshold, each (S,) float64 in [0, 1].

    cp, cr, cf1: means over classes first, F1 of the means after; a class without positives
    contributes 0 to both means. op, or_, of1: counts summed over classes first.
    """

    thresholds: np.ndarray
    cp: np.ndarray
    cr: np.ndarray
    cf1: np.ndarray
    op: np.ndarray
    or_: np.ndarray
    of1: np.ndarray

    def best(self) -> tuple[float, float, float, float]:
        """(threshold, CP, CR, CF1) where CF1 is largest; the first such threshold on ties."""
        top = int(self.cf1.argmax())
        return tuple(float(x[top]) for x in (self.thresholds, self.cp, self.cr, self.cf1))

    def table(self) -> pd.DataFrame:
        """One row per threshold: threshold, cp, cr, cf1, op, or, of1."""
        columns = {"threshold": self.thresholds, "cp": self.cp, "cr": self.cr, "cf1": self.cf1}
        return pd.DataFrame({**columns, "op": self.op, "or": self.or_, "of1": self.of1})


def cf1_sweep(
    scores: Any, labels: Any, thresholds: Iterable[float] = DEFAULT_THRESHOLDS
) -> F1Sweep:
    """Precision, recall and F1 of the predictions `score >= threshold`.

    Args:
        scores: (N, K) float probabilities; compared in their own precision (float32 as a rule).
        labels: (N, K) 0 or 1.
        thresholds: S values.
    """
    scores, labels = _checked(scores, labels)
    thresholds = np.array(list(thresholds), dtype=np.float64)
    chosen = scores >= thresholds.astype(scores.dtype)[:, None, None]  # (S, N, K)
    predicted = chosen.sum(axis=1, dtype=np.int64)
    both = (chosen & labels).sum(axis=1, dtype=np.int64)
    labelled = labels.sum(axis=0, dtype=np.int64)
    cp = 100 * (both / (predicted + PERCENT_EPS)).mean(axis=1)
    cr = 100 * (both / (labelled + PERCENT_EPS)).mean(axis=1)
    op = 100 * both.sum(axis=1) / (predicted.sum(axis=1) + PERCENT_EPS)
    or_ = 100 * both.sum(axis=1) / (labelled.sum() + PERCENT_EPS)
    per_cent = (cp, cr, _f1(cp, cr), op, or_, _f1(op, or_))
    return F1Sweep(thresholds, *(values / 100 for values in per_cent))


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / (precision + recall + PERCENT_EPS)


def _checked(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = as_array(scores), as_array(labels)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise UserError(
            f"Scores {scores.shape} and labels {labels.shape} must both be (images, classes)."
        )
    if np.isnan(scores).any():
        raise UserError("Classification scores hold NaN. Look for the stage that wrote them.")
    return scores, labels > 0.5
