"""How CDA turns, shrinks and places an instance (Su et al., ICCV 2021, stage II).

Sizes follow the release (suyukun666/CDA, `data_aug_rotation`) to the pixel, but for the rounding
of scipy. Colours are resampled by OpenCV, the segment as a two-valued mask. The release resamples
class numbers and calls everything but 0 the object, which widens objects of high classes:
`legacy_warp` repeats that.
"""

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.batch import Layer, MixBatch
from wsssbench.mixing.instance_bank import Instance


def rotated_frame(shape: tuple[int, int], angle: float) -> tuple[tuple[int, int], NDArray]:
    """The canvas that just holds a rotated picture, as scipy's `ndimage.rotate` chooses it.

    Args:
        shape: (h, w) of the picture, px.
        angle: degrees, anticlockwise.

    Returns:
        Its size (h', w') and the (2, 3) float64 matrix from its pixels (x, y) to the picture's.
    """
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cos, sin], [-sin, cos]])  # rows and columns of the canvas -> of the picture
    corners = turn @ np.array([[0, 0, shape[0], shape[0]], [0, shape[1], 0, shape[1]]])
    size = (np.ptp(corners, axis=1) + 0.5).astype(int)
    shift = (np.array(shape) - 1) / 2 - turn @ ((size - 1) / 2)
    matrix = np.array([[cos, -sin, shift[1]], [sin, cos, shift[0]]])
    return (int(size[0]), int(size[1])), matrix


def paste_size(
    shape: tuple[int, int], canvas: tuple[int, int], *, max_frac: float = 0.7, scale: float = 1.0
) -> tuple[int, int]:
    """(h, w) px of an instance when pasted: never enlarged by the limits, but by `scale`.

    First the height is limited to `max_frac` of the canvas, then the width, keeping the aspect;
    `scale` multiplies both, the fraction of a pixel is dropped. At least 1 px.
    """
    height, width = float(shape[0]), float(shape[1])
    if height > max_frac * canvas[0]:
        height, width = max_frac * canvas[0], max_frac * canvas[0] / height * width
    if width > max_frac * canvas[1]:
        height, width = max_frac * canvas[1] / width * height, max_frac * canvas[1]
    return max(1, int(height * scale)), max(1, int(width * scale))


def warp(
    instance: Instance, angle: float, canvas: tuple[int, int], *,
    max_frac: float = 0.7, scale: float = 1.0, nearest: bool = False,
) -> Instance:  # fmt: skip
    """Rotate an instance by `angle` degrees and give it its `paste_size` on a canvas (H, W).

    Colours: cubic rotation, then area averaging where it shrinks. Segment: as 0 and 255, linear,
    cut at one half; `nearest` takes the nearest pixel. Colours beyond the instance's box repeat its
    border, where the release has black; no such pixel is pasted unless the mask is blurred.
    """
    frame, matrix = rotated_frame(instance.segment.shape, angle)
    size = paste_size(frame, canvas, max_frac=max_frac, scale=scale)
    image, segment = instance.image, instance.segment.astype(np.uint8) * 255
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    if angle:
        inverse = cv2.WARP_INVERSE_MAP
        to = frame[::-1]
        image = cv2.warpAffine(
            image, matrix, to, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REPLICATE
        )
        segment = cv2.warpAffine(segment, matrix, to, flags=way | inverse)
    if size != frame:
        shrinks = size[0] < frame[0] or size[1] < frame[1]
        way = way if nearest or not shrinks else cv2.INTER_AREA
        to = size[::-1]
        image = cv2.resize(image, to, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        segment = cv2.resize(segment, to, interpolation=way)
    return Instance(image, segment > 127)


def legacy_warp(
    instance: Instance, klass: int, angle: float, canvas: tuple[int, int], *,
    max_frac: float = 0.7, scale: float = 1.0,
) -> Instance:  # fmt: skip
    """`warp` with the release's resampling, about a hundred times slower.

    Cubic splines fill with black, Pillow's bilinear filter resizes; the segment carries the class
    number `klass` (1..255) through both and counts wherever the result is not 0.
    """
    number = instance.segment.astype(np.uint8) * np.uint8(klass)
    warped = []
    for values in (instance.image, number):
        values = ndimage.rotate(values, angle) if angle else values
        size = paste_size(values.shape[:2], canvas, max_frac=max_frac, scale=scale)
        resized = Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR)
        warped.append(np.asarray(resized))
    return Instance(warped[0], warped[1] != 0)


def place(
    where: tuple[float, float], shape: tuple[int, int], canvas: tuple[int, int]
) -> tuple[int, int]:
    """Top left corner for `shape` (h, w) on a canvas (H, W); `where` in [0, 1) makes each of the
    (H-h+1)·(W-w+1) places equally likely.
    """
    top, left = (int(part * (canvas[i] - shape[i] + 1)) for i, part in enumerate(where))
    return top, left


def instance_layer(batch: MixBatch, images: Tensor, inside: Tensor, klass: Tensor) -> Layer:
    """Labels, mask and dense maps of pasted instances: the class inside, background elsewhere.

    Args:
        batch: whose mask and dense maps (K channels, or K+1 with the background first) to match.
        images: (B, 3, H, W) normalised float32.
        inside: (B, H, W) bool, the pasted pixels.
        klass: (B,) int64, 1..K, or 0 for none.

    Raises:
        UserError: a dense map has neither K nor K+1 channels.
    """
    classes = batch.labels.shape[1]
    one_hot = F.one_hot(klass, classes + 1)[:, 1:].to(batch.labels.dtype)
    mask = None if batch.mask is None else inside * klass[:, None, None]
    dense = {}
    for name, maps in batch.dense.items():
        background = maps.shape[1] - classes
        if background not in (0, 1):
            raise UserError(
                f"CDA cannot write its instances into the dense map `{name}` of {maps.shape[1]} "
                f"channels: it needs {classes} or {classes + 1} (classes, background first)."
            )
        filled = F.pad(one_hot, (background, 0))[:, :, None, None] * inside[:, None]
        dense[name] = filled.to(maps.dtype)
    return Layer(images=images, labels=one_hot, mask=mask, dense=dense)
