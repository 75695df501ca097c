"""Two operations on every pixel of an image, table look-up and counting, as fast as OpenCV's."""

import cv2
import numpy as np

LANES = 4
STRIDE = 257  # counters a power of two apart would get in each other's way in the cache


def translate(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table[values]`.

    Args:
        values: uint8 or uint16 of any shape.
        table: (256,) or (65536,), an entry for each value there can be.
    """
    if values.size == 0:
        return table[values]
    try:
        return cv2.LUT(values.reshape(1, -1), table).reshape(values.shape)
    except cv2.error:  # OpenCV before 5 looks up bytes only
        return table.take(values)


def joint_histogram(rows: np.ndarray, columns: np.ndarray, count: int) -> np.ndarray:
    """How often each pair (rows, columns) of values occurs.

    Neighbouring pixels tend to be equal, and adding to a counter that was just written stalls the
    processor; so neighbours count in different copies ("lanes") of the histogram.

    Args:
        rows: unsigned integers below `count`, of any shape.
        columns: uint8, of the same shape.
        count: number of rows of the result.

    Returns:
        (count, 256) int64.
    """
    lanes = min(LANES, 256 // count)
    if lanes == 0 or not 0 < rows.size < 2**24:  # below, OpenCV's float32 counters are exact
        pairs = rows.ravel().astype(np.int64) * 256 + columns.ravel()
        return np.bincount(pairs, minlength=count * 256).reshape(count, 256)
    width, size = rows.shape[-1], lanes * count
    lane = np.tile((np.arange(lanes) * count).astype(np.uint8), -(-width // lanes))
    spread = rows.reshape(-1, width).astype(np.uint8, copy=False) + lane[:width]
    images = [spread.reshape(1, -1), columns.reshape(1, -1)]
    counts = cv2.calcHist(images, [0, 1], None, [size, STRIDE], [0, size, 0, STRIDE])
    return counts.reshape(lanes, count, STRIDE)[..., :256].astype(np.int64).sum(axis=0)
