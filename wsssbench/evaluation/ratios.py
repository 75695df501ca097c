"""IoU, FP and FN from pixel counts: the one place where counts become ratios.

Counts are (..., 3) = predicted P, labelled T, both TP, of valid pixels. FP and FN are relative to
the union U = P + T - TP (evaluation_protocol.md 3.2), so IoU + FP + FN = 1 for each class.
"""

import numpy as np


def rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, FP and FN of each class.

    Args:
        counts: (..., 3) P, T, TP; whole numbers of any dtype.

    Returns:
        Three (...) float64 in [0, 1]; NaN where the class is neither predicted nor labelled.
    """
    predicted, labelled, both = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    union = predicted + labelled - both
    return (
        ratio(both, union),
        ratio(predicted - both, union),
        ratio(labelled - both, union),
    )


def means(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over classes: mIoU with the background (index 0), FP and FN without it.

    Args:
        counts: (..., K+1, 3).

    Returns:
        Three (...) float64; classes that occur nowhere are left out, NaN if none is left.
    """
    iou, fp, fn = rates(counts)
    return nanmean(iou), nanmean(fp[..., 1:]), nanmean(fn[..., 1:])


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` as float64, NaN where `whole` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, np.true_divide(part, whole), np.nan)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without its NaNs; NaN, and no warning, where nothing is left."""
    return ratio(np.nansum(values, axis=-1), np.sum(~np.isnan(values), axis=-1))
