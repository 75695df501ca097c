"""Multi-crop inference (PMM: Li et al., ICCV 2021): windows of an image, enlarged to one size, give
maps that are put back and averaged. Small objects are seen large.

The windows of a scale are a grid, and every resize in it is linear along each axis. So the crops of
a scale come out of one product with two matrices, the mean map of one with two others, and the
network sees the windows in batches, where the release takes them one by one. Numbers are the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.methods.multiscale import normalise_minmax
from wsssbench.models.decoder import resize
from wsssbench.refinement.cvs import cvs

CROPS = ("crops", "crops+cvs")  # kinds of maps
Span = tuple[int, int]  # first pixel and the one after the last
AT_ONCE = 16  # windows, not counting the mirrored ones


@dataclass(frozen=True)
class CropSettings:
    """Windows of multi-crop inference.

    At each scale the image is cut every `stride` pixels; only the last window of an axis is `size`
    wide. All are resized to `size`, which should be that of the training's crops. Without the scale
    1 the last row and column may lie in no window.
    """

    scales: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
    size: int = 448
    stride: int = 300

    def check(self, where: str) -> "CropSettings":
        """These settings.

        Raises:
            UserError: windows without pixels, or gaps between them.
        """
        if not 0 < min(self.scales) <= max(self.scales) <= self.stride <= self.size:
            raise UserError(
                f"{where}: expected scales above 0 and a stride from the largest of them up to the "
                f"size {self.size}, got scales {self.scales} and stride {self.stride}."
            )
        return self


def spans(length: int, scale: float, size: int, stride: int) -> list[Span]:
    """The windows of one axis, in pixels of the image.

    Args:
        length: of the axis, px.
        scale: the image is thought to be enlarged by.
        size: of a window, px of the enlarged image.
        stride: likewise.
    """
    long = max(1, int(length * scale))
    count = 1 + ceil(max(0, long - size) / stride)
    ends = [(n * stride, min(long, (n + 1) * stride)) for n in range(count - 1)]
    ends.append((max(0, long - size), long))
    pixels = [(int(start / scale), int(end / scale)) for start, end in ends]
    return [(start, max(start + 1, end)) for start, end in pixels]


def crop_boxes(width: int, height: int, settings: CropSettings) -> list[tuple[int, ...]]:
    """Every window as (number of the scale, x1, y1, x2, y2), y the fastest."""
    grid = settings.size, settings.stride
    return [
        (number, left, top, right, bottom)
        for number, scale in enumerate(settings.scales)
        for left, right in spans(width, scale, *grid)
        for top, bottom in spans(height, scale, *grid)
    ]


def multi_crop(
    maps_of: Callable[[Tensor], Tensor],
    images: Tensor,
    kept: Tensor,
    settings: CropSettings,
    flip: bool,
) -> Tensor:
    """Mean maps over all windows that a pixel lies in.

    Args:
        maps_of: what the network says of crops, (n, 3, size, size) -> (n, K, g, g) float; a map
            is resized to the crop (align_corners True, as SEAM) and then to its window (False).
        images: (B, 3, H, W) float32, normalised.
        kept: (B, K) bool, the classes wanted.
        settings: the windows.
        flip: add the mirrored ones.

    Returns:
        (B, K, H, W) float32, not normalised; 0 for other classes, and where no window lies.
    """
    sides, (image, channel) = images.shape[-2:], kept.nonzero(as_tuple=True)
    total, count = images.new_zeros(len(image), *sides, dtype=torch.float32), 0.0
    for scale in settings.scales:
        rows, columns = (spans(side, scale, settings.size, settings.stride) for side in sides)
        crops = _cut(images, rows, columns, settings.size)
        found = torch.cat([_both(maps_of, part, flip) for part in crops.split(AT_ONCE)])
        grid = found.unflatten(0, (len(images), len(rows), len(columns)))[image, :, :, channel]
        mosaic = grid.transpose(2, 3).flatten(3).flatten(1, 2)  # (n, rows·g, columns·g)
        with torch.autocast(images.device.type, enabled=False):
            left = _placing(rows, sides[0], settings.size, found.shape[-2]).to(mosaic)
            right = _placing(columns, sides[1], settings.size, found.shape[-1]).to(mosaic)
            total += left @ mosaic @ right.T
        count = count + torch.outer(_cover(rows, sides[0]), _cover(columns, sides[1]))
    maps = total.new_zeros(*kept.shape, *sides)
    maps[image, channel] = total / count.clamp_min(1).to(total)
    return maps


def read_crops(kinds: Sequence[str], mean: Tensor, stride: int) -> dict[str, Tensor]:
    """The mean maps (B, K, H, W) of `multi_crop` as maps in [0, 1] of the kinds, of CROPS."""
    maps = normalise_minmax(resize(mean, [-(-side // stride) for side in mean.shape[-2:]]))
    return {kind: cvs(maps) if kind.endswith("cvs") else maps for kind in kinds}


def _both(maps_of: Callable[[Tensor], Tensor], crops: Tensor, flip: bool) -> Tensor:
    """Float32 maps of the crops, or their mean with those of the mirrored ones."""
    if not flip:
        return maps_of(crops).float()
    plain, mirrored = maps_of(torch.cat([crops, crops.flip(-1)])).float().chunk(2)
    return (plain + mirrored.flip(-1)) / 2


def _cut(images: Tensor, rows: Sequence[Span], columns: Sequence[Span], size: int) -> Tensor:
    """(B, 3, H, W) -> (B·rows·columns, 3, size, size), bilinear with antialiasing, as PIL."""
    with torch.autocast(images.device.type, enabled=False):
        down = _cutting(rows, images.shape[2], size).to(images)
        right = _cutting(columns, images.shape[3], size).to(images)
        mosaic = down @ images.contiguous() @ right.T
    grid = mosaic.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    crops = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return crops.contiguous(memory_format=torch.channels_last)


def _cutting(windows: Sequence[Span], length: int, size: int) -> Tensor:
    """(windows·size, length): pixels of an axis -> those of all crops."""
    blocks = []
    for start, end in windows:
        block = torch.eye(end - start)[None, None]
        form = {"mode": "bilinear", "align_corners": False, "antialias": True}
        block = F.interpolate(block, (size, end - start), **form)[0, 0]
        blocks.append(F.pad(block, (start, length - end)))
    return torch.cat(blocks)


def _placing(windows: Sequence[Span], length: int, size: int, grid: int) -> Tensor:
    """(length, windows·grid): the network's grids of all crops -> sums on the pixels."""
    crop = F.interpolate(
        torch.eye(grid)[None, None], (size, grid), mode="bilinear", align_corners=True
    )
    blocks = []
    for start, end in windows:
        block = F.interpolate(crop, (end - start, grid), mode="bilinear", align_corners=False)
        blocks.append(F.pad(block[0, 0], (0, 0, start, length - end)))
    return torch.cat(blocks, 1)


def _cover(windows: Sequence[Span], length: int) -> Tensor:
    """(length,) float32: how many windows a pixel lies in."""
    count = torch.zeros(length)
    for start, end in windows:
        count[start:end] += 1
    return count
