"""Scores against object size: are small objects missed, are large ones found in parts only?

An object is an 8-connected component of one foreground class in the ground truth; touching
instances of a class therefore count as one, an object cut in two by another as two.
"""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import pandas as pd

# Upper bounds of the size bins as a share of the image's area (bins include their lower bound).
SIZES = {"tiny": 0.01, "small": 0.05, "medium": 0.20, "large": 1.0}
COLUMNS = ["id", "class", "area_px", "image_px", "recall", "iou"]


def find_objects(
    prediction: np.ndarray, truth: np.ndarray, classes: Iterable[int], ignore_index: int = 255
) -> Iterator[tuple[int, int, float, float]]:
    """Score each object of one image.

    recall: share of the object's pixels predicted as its class. iou: the object against the
    pixels predicted as its class in its neighbourhood, which is its bounding box grown by half its
    height and half its width on every side, without the class's other objects and without
    pixels that are ignored.

    Args:
        prediction: (H, W) uint8.
        truth: (H, W) uint8.
        classes: foreground class ids to look for.
        ignore_index: truth value of pixels that are not evaluated.

    Yields:
        (class id, area in pixels, recall, iou).
    """
    for label in classes:
        inside = (truth == label).view(np.uint8)
        window = _grown(cv2.boundingRect(inside))  # all that follows happens near the class
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(inside[window], connectivity=8)
        claimed = (prediction[window] == label) & (truth[window] != ignore_index)
        for part in range(1, count):
            area, near = int(boxes[part, cv2.CC_STAT_AREA]), _grown(boxes[part, :4])
            found = np.count_nonzero(claimed[near] & (parts[near] == part))
            astray = np.count_nonzero(claimed[near] & (parts[near] == 0))
            yield int(label), area, found / area, found / (area + astray)


def _grown(box: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of a box (x, y, width, height) grown by half its size on every side."""
    x, y, width, height = (int(value) for value in box)
    rows = slice(max(0, y - height // 2), y + height + height // 2)
    return rows, slice(max(0, x - width // 2), x + width + width // 2)


def by_size(objects: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of the objects of each size.

    Args:
        objects: one row per object, with COLUMNS.

    Returns:
        size, low_px, high_px (of an image of mean area), objects, recall, iou; means over
        objects, NaN for a size without objects.
    """
    image_px = objects["image_px"].mean() if len(objects) else float("nan")
    share = objects["area_px"] / objects["image_px"]
    rows, low = [], 0.0
    for size, high in SIZES.items():
        inside = objects[(share >= low) & ((share < high) | (high == 1.0))]
        rows.append(
            {
                "size": size,
                "low_px": low * image_px,
                "high_px": high * image_px,
                "objects": len(inside),
                "recall": inside["recall"].mean(),
                "iou": inside["iou"].mean(),
            }
        )
        low = high
    return pd.DataFrame(rows).round({"low_px": 0, "high_px": 0})
