"""Edge prediction (EP) of EdgePredictMix (Jo, Yu, Kim, arXiv 2204.06754): the certain filter judges
pixels by themselves; edges of the score decide for the uncertain rest, region by region.

Blur, Canny and the region rule are those of the released helpers, the 5×5 closing is read off the
paper's figure. Departs from the helpers: one count over (region, value) pairs instead of a mask for
each region. Ours: padding neither votes nor draws edges, each image is treated as if cut out.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import cv2
import numpy as np
import torch
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.parallel import cpus
from wsssbench.refinement.certain_filter import (
    BACKGROUND,
    IGNORE,
    check_arguments,
    decide,
    strongest,
)

BLUR_PX = 5


@torch.no_grad()
def edge_predict(
    maps: Tensor,
    labels: Tensor,
    *,
    certain: float = 0.55,
    uncertain: float = 0.10,
    low: float = 10,
    high: float = 100,
    closing: int = 5,
    valid: Tensor | None = None,
) -> Tensor:
    """Pseudo-masks whose outlines follow the edges of the score.

    Images are treated on the CPU, each on a thread; what travels there is two bytes per pixel.

    Args:
        maps: (B, K, H, W) floating point in [0, 1], foreground maps after PAMR.
        labels: (B, K) bool or number, a class is present where it is > 0.
        certain: limit of the certain filter, at least this is the class.
        uncertain: limit of the certain filter, at most this is background.
        low: gradient of the score, in 0..255, from which a pixel continues an edge (Canny).
        high: gradient from which it starts one.
        closing: side of the square that closes gaps in the edges, odd, px; 1: none.
        valid: (B, H, W) bool, False where the crop was padded; None: valid everywhere. Meant for
            rectangles: padding within the smallest rectangle around all valid pixels counts as a
            score of 0, so that objects it cuts get an edge there.

    Returns:
        (B, H, W) int64 on the device of the maps: c + 1 for class index c, 0 background, 255
        uncertain, background edge or padded.

    Raises:
        UserError: as `certain_filter` and `edge_map`.
    """
    check_arguments(maps, labels, valid, certain, uncertain)
    _check_edges(low, high, closing)
    score, ids = strongest(maps, labels)
    grey = (255 * score.nan_to_num(0.0)).clamp(0, 255).to(torch.uint8)
    mask = decide(score, ids, certain, uncertain)
    if valid is not None:
        # Together they mark padding: a valid pixel with a score of 255 is never uncertain.
        mask, grey = mask.masked_fill(~valid, IGNORE), grey.masked_fill(~valid, 255)
    host = torch.stack([grey, mask], dim=1).cpu().numpy()
    refine = partial(_refine, low=low, high=high, closing=closing, padded=valid is not None)
    refined = np.empty_like(host[:, 0])
    for target, image in zip(refined, _each(refine, host), strict=True):
        target[:] = image
    return torch.from_numpy(refined).to(maps.device).long()


def edge_map(
    grey: np.ndarray, *, low: float = 10, high: float = 100, closing: int = 5
) -> np.ndarray:
    """Edges of a score map: Gaussian 5×5, Canny (3×3 Sobel, L1 norm), closing.

    Args:
        grey: (H, W) uint8, integer part of 255 times the score.
        low: gradient from which a pixel continues an edge (Canny).
        high: gradient from which it starts one, >= low >= 0.
        closing: side of the closing square, odd, px; 1: none.

    Returns:
        (H, W) uint8: 255 on edges, else 0.

    Raises:
        UserError: another type or shape, thresholds in the wrong order, an even `closing`.
    """
    _check_plane(grey, "grey")
    _check_edges(low, high, closing)
    if grey.size == 0:
        return np.zeros_like(grey)
    # Sigma 0: from the size of the window, 1.1 px.
    edge = cv2.Canny(cv2.GaussianBlur(grey, (BLUR_PX, BLUR_PX), 0), low, high)
    if closing > 1:
        square = np.ones((closing, closing), np.uint8)
        edge = cv2.morphologyEx(edge, cv2.MORPH_CLOSE, square)
    return edge


def fill_regions(labels: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Uncertain pixels join the majority of their region; background on edges becomes uncertain.

    Regions are the 4-connected components of the non-edge pixels. All values vote, 255 among them;
    of equally frequent ones the smallest wins. Labels on edges do not vote, and those of classes
    stay.

    Args:
        labels: (H, W) uint8, 0 background, ids, 255 uncertain.
        edge: (H, W) uint8, edges where not 0.

    Returns:
        (H, W) uint8, a fresh array.

    Raises:
        UserError: other types or shapes.
    """
    _check_plane(labels, "labels")
    _check_plane(edge, "edge")
    if labels.shape != edge.shape:
        raise UserError(f"`labels` are {labels.shape} and `edge` is {edge.shape}; give one size.")
    if labels.size == 0:
        return labels.copy()
    values = np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256])).astype(np.uint8)
    free = (edge == 0).view(np.uint8)
    count, region = cv2.connectedComponents(free, connectivity=4, ltype=cv2.CV_32S)
    # Each pixel as one number, region · V + place of its label among the V values that occur.
    place = np.zeros(256, np.uint8)
    place[values] = np.arange(len(values))
    pairs = np.multiply(region, len(values), dtype=np.int64)
    pairs += cv2.LUT(labels, place)
    votes = np.bincount(pairs.ravel(), minlength=count * len(values)).reshape(count, -1)
    # What each pair becomes; region 0 is the edge.
    after = np.tile(values, (count, 1))
    after[1:, values == IGNORE] = values[votes[1:].argmax(axis=1)][:, None]
    after[0, values == BACKGROUND] = IGNORE
    return np.take(after, pairs)


def _refine(planes: np.ndarray, low: float, high: float, closing: int, padded: bool) -> np.ndarray:
    """EP of one image: (2, H, W) uint8, score and labels -> (H, W) uint8."""
    grey, labels = planes
    if not padded:
        return fill_regions(labels, edge_map(grey, low=low, high=high, closing=closing))
    padding = (labels == IGNORE) & (grey == 255)
    result = np.full_like(labels, IGNORE)
    rows, columns = (np.flatnonzero(~padding.all(axis)) for axis in (1, 0))
    if len(rows):
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        outside = padding[box]
        score = np.where(outside, np.uint8(0), grey[box])
        edge = edge_map(score, low=low, high=high, closing=closing)
        edge[outside] = 255
        result[box] = np.where(outside, np.uint8(IGNORE), fill_regions(labels[box], edge))
    return result


def _each(function: partial, items: np.ndarray) -> Iterable[np.ndarray]:
    """`function` of every item, in order, on threads where there is something to share out."""
    if len(items) == 1 or cpus() == 1:
        return map(function, items)
    return _pool(os.getpid()).map(function, items)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process, kept between calls; a forked child does not inherit running ones."""
    return ThreadPoolExecutor(cpus(), thread_name_prefix="edge-prediction")


def _check_plane(plane: np.ndarray, name: str) -> None:
    if plane.ndim != 2 or plane.dtype != np.uint8:
        raise UserError(f"`{name}` must be (H, W) uint8, got {plane.dtype} {plane.shape}.")


def _check_edges(low: float, high: float, closing: int) -> None:
    if not 0 <= low <= high:
        raise UserError(f"low = {low!r}, high = {high!r}: give 0 <= low <= high.")
    if closing < 1 or closing % 2 != 1:
        raise UserError(f"closing is {closing!r}; give an odd number of pixels, 1 for none.")
