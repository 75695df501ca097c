"""Per image: which class is strongest at each pixel, and in which bin of thresholds it lies.

Floats are handled as their bits: read as signed integers, non-negative floats keep their order,
and negative ones become negative integers, which no threshold >= 0 lets win, like zeros. So
float16 maps need no conversion, and all comparisons stay exact.
"""

from collections.abc import Sequence

import numpy as np

from wsssbench.errors import UserError
from wsssbench.evaluation import pixels


class Bins:
    """Bin b of a value: b thresholds lie below it.

    Args:
        cuts: (T,) float32, increasing, >= 0. A value equal to a cut is not above it.
    """

    def __init__(self, cuts: np.ndarray) -> None:
        self.count = len(cuts) + 1
        self._cuts = cuts.view(np.int32)
        halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
        bins = np.searchsorted(cuts, np.where(halves > 0, halves, 0), side="left")
        self._of_half = bins.astype(np.min_scalar_type(len(cuts)))

    def of(self, value: np.ndarray) -> np.ndarray:
        """Bins of float16 (as int16) or float32 (as int32) bits; uint8 for T < 256."""
        if value.dtype == np.int16:
            return pixels.translate(value.view(np.uint16), self._of_half)
        # T comparisons of whole arrays are several times faster than a binary search per pixel.
        bins = np.zeros(value.shape, dtype=self._of_half.dtype)
        above = np.empty(value.shape, dtype=bool)
        for cut in self._cuts:
            np.greater(value, cut, out=above)
            np.add(bins, above.view(np.uint8), out=bins)
        return bins


def visible(keys: Sequence[int], maps: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Classes whose map is not all zero, in ascending order (ties go to the lower class).

    Args:
        keys: (n,) class ids.
        maps: (n, H, W); float16 and float32 stay as they are, other types become float32.

    Returns:
        The classes (m,) and the bits of their maps, m x (H, W) int16 or int32.

    Raises:
        UserError: NaN in the maps.
    """
    if maps.dtype not in (np.float16, np.float32):
        maps = maps.astype(np.float32)
    half = maps.dtype == np.float16
    unsigned = maps.view(np.uint16 if half else np.uint32)
    peaks = np.array([plane.max(initial=0) for plane in unsigned], dtype=unsigned.dtype)
    # Larger bits than those of infinity mean a negative number or NaN of either sign.
    infinity = np.array(np.inf, maps.dtype).view(unsigned.dtype)
    if (peaks > infinity).any() and np.isnan(maps).any():
        raise UserError("Score maps hold NaN. Look for the stage that wrote them.")
    order = [index for index in np.argsort(keys, kind="stable") if peaks[index]]
    signed = maps.view(np.int16 if half else np.int32)
    return np.asarray(keys, dtype=np.intp)[order], [signed[index] for index in order]


def strongest(planes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Largest value of each pixel and the index of the first plane that has it.

    Args:
        planes: m >= 1 x (H, W) int16 or int32 bits, m <= 256.

    Returns:
        (H, W) bits and (H, W) uint8 indices; None instead of indices for a single plane.
    """
    if len(planes) == 1:
        return planes[0], None
    value = planes[0].copy()
    winner = np.zeros(value.shape, dtype=np.uint8)
    above = np.empty(value.shape, dtype=bool)
    number = above.view(np.uint8)
    for index, plane in enumerate(planes[1:], 1):
        np.greater(plane, value, out=above)
        np.maximum(value, plane, out=value)
        number *= index  # later winners have larger indices: a maximum replaces a masked copy
        np.maximum(winner, number, out=winner)
    return value, winner
