"""Small questions about the errors of one split, for notebooks: tables in, tables out."""

from collections.abc import Mapping

import pandas as pd


def in_words(
    scores: Mapping[str, float], intervals: Mapping[str, tuple], boundary: Mapping[str, float]
) -> str:
    """Scores of one set of masks with their 95 % intervals over images, for print.

    Args:
        scores: miou, fp, fn, precision, recall (fractions).
        intervals: miou, fp, fn: (low, high).
        boundary: width_px, error.
    """
    low, high = intervals["miou"]
    return (
        f"mIoU {100 * scores['miou']:.1f} % ({100 * low:.1f} … {100 * high:.1f})\n"
        f"FP {scores['fp']:.3f} ({intervals['fp'][0]:.3f} … {intervals['fp'][1]:.3f})\n"
        f"FN {scores['fn']:.3f} ({intervals['fn'][0]:.3f} … {intervals['fn'][1]:.3f})\n"
        f"precision {100 * scores['precision']:.1f} %, recall {100 * scores['recall']:.1f} %\n"
        f"wrong within {boundary['width_px']:.0f} px of a boundary: {boundary['error']:.3f}"
    )


def worst_class(per_class: pd.DataFrame) -> str:
    """The foreground class with the lowest IoU (columns class, iou; the background comes first)."""
    known = per_class.iloc[1:].dropna(subset="iou")
    return str(known.loc[known["iou"].idxmin(), "class"]) if len(known) else ""


def images_with(per_image: pd.DataFrame, name: str) -> pd.DataFrame:
    """The images in whose truth or prediction the class occurs (columns as in per_image.csv)."""
    texts = per_image["truth_classes"].fillna("") + " " + per_image["predicted_classes"].fillna("")
    return per_image[[name in text.split() for text in texts]]


def confused_pairs(confusion: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The most frequent confusions.

    Args:
        confusion: column truth, then a column of pixel counts per predicted class.
        count: how many.

    Returns:
        truth, predicted, pixels, share (of the true class's pixels, %), most pixels first.
    """
    table = confusion.set_index("truth")
    share = 100 * table.div(table.sum(axis=1), axis=0)
    pairs = [
        (truth, predicted, int(table.loc[truth, predicted]), round(share.loc[truth, predicted], 1))
        for truth in table.index
        for predicted in table.columns
        if truth != predicted and table.loc[truth, predicted] > 0
    ]
    frame = pd.DataFrame(pairs, columns=["truth", "predicted", "pixels", "share"])
    return frame.sort_values("pixels", ascending=False).head(count).reset_index(drop=True)
