"""Scores near the outlines of objects, where refinement methods differ most.

The band is the set of valid pixels that have a pixel of another ground-truth value within
`width_px` (Euclidean). Ignored pixels count as a value of their own, because VOC draws the
outline of objects as a rim of them; they are themselves left out.
"""

import cv2
import numpy as np

from wsssbench.evaluation.confusion import ConfusionMatrix

DEFAULT_WIDTH_PX = 5  # recurseed_epm.md 9.10


def boundary_band(truth: np.ndarray, width_px: int, ignore_index: int = 255) -> np.ndarray:
    """Pixels of the band.

    Args:
        truth: (H, W) uint8.
        width_px: reach of the band on each side of an outline.
        ignore_index: value of pixels that are not evaluated.

    Returns:
        (H, W) bool.
    """
    reach = np.arange(-width_px, width_px + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= width_px**2).astype(np.uint8)
    changes = cv2.dilate(truth, disk) != cv2.erode(truth, disk)
    return changes & (truth != ignore_index)


def within_band(
    prediction: np.ndarray,
    truth: np.ndarray,
    num_classes: int,
    width_px: int,
    ignore_index: int = 255,
) -> ConfusionMatrix:
    """Confusion matrix of one image, of its band alone.

    Args:
        prediction: (H, W) uint8.
        truth: (H, W) uint8.
        num_classes: K + 1.
        width_px: see `boundary_band`.
        ignore_index: see `boundary_band`.
    """
    band = boundary_band(truth, width_px, ignore_index)
    confusion = ConfusionMatrix(num_classes, ignore_index)
    confusion.update(prediction[band], truth[band])
    return confusion


def summary(confusion: ConfusionMatrix, width_px: int) -> dict[str, float]:
    """What a record says of the band: its width, the share of wrong pixels, the mIoU inside."""
    _, labelled, both = confusion.counts().sum(axis=0)
    error = 1 - both / labelled if labelled else float("nan")
    return {"width_px": width_px, "error": float(error), "miou": confusion.miou()}
