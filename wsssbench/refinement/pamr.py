"""PAMR (Araslanov & Roth, CVPR 2020): every map value becomes, ten times over, a weighted mean of
48 neighbours' values; neighbours of similar colour weigh more.

The release gathers the 48 neighbours of every map in every iteration; here 48 shifted views of the
padded maps are added up in place. Same numbers, no such array, only the maps worth refining.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError

DILATIONS = (1, 2, 4, 8, 12, 24)
RING = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
EPS = 1e-8
CPU_BYTES = 2**24  # images are taken by as many as fit here: about a processor's last cache,
GPU_BYTES = 2**29  # while a GPU wants few, large steps
CPU_STRIP = 2**19  # map values whose 48 terms are added up before the next ones


@torch.no_grad()
def pamr(
    images: Tensor,
    maps: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
    sigma: float = 0.1,
    align_corners: bool = False,
) -> Tensor:
    """Smooth score maps along the structure of their images, a few images at a time.

    Args:
        images: (B, 3, H, W) float, undistorted (JPEG noise decides the flat areas). The scale and
            offset of a channel do not matter: [0, 1] and ImageNet-normalised do equally well.
        maps: (B, C, h, w) float, any range; resized to H×W first. Maps that are zero everywhere
            stay so and take no time.
        iterations: number of times.
        dilations: distances of the rings of 8 neighbours, px.
        sigma: colour differences are measured in sigma times the local deviation.
        align_corners: of the bilinear resize; False in RecurSeed, True in PAMR's release.

    Returns:
        (B, C, H, W) float32 within the range of the resized maps, without gradient.

    Raises:
        UserError: shapes do not fit, or a setting makes no sense.
    """
    _check(images, dilations, sigma)
    if maps.ndim != 4 or len(maps) != len(images):
        raise UserError(
            f"PAMR needs maps (B, C, h, w) of its {len(images)} images, got {tuple(maps.shape)}."
        )
    size = images.shape[-2:]
    refined = maps.new_zeros(*maps.shape[:2], *size, dtype=torch.float32)
    filled = maps.flatten(2).any(2)
    with one_thread(images.device), torch.autocast(images.device.type, enabled=False):
        for part in _parts(images, 2 * len(RING) * len(dilations)):
            image, channel = filled[part].nonzero(as_tuple=True)
            if len(image):
                chosen = maps[part][image, channel][None]
                pairs = resize_maps(chosen, size, align_corners=align_corners)[0]
                weights = pamr_weights(images[part], dilations=dilations, sigma=sigma)
                refined[part][image, channel] = propagate(
                    weights, pairs, index=image, iterations=iterations, dilations=dilations
                )
    return refined


@torch.no_grad()
def pamr_weights(
    images: Tensor,
    *,
    dilations: Sequence[int] = DILATIONS,
    sigma: float = 0.1,
    squared: bool = False,
) -> Tensor:
    """Weights of every pixel's neighbours. They depend on the image only: reuse them.

    Args:
        images: (B, 3, H, W) float, as for `pamr`.
        dilations: distances of the rings of 8 neighbours, px.
        sigma: colour differences are measured in sigma times the local deviation.
        squared: as PAR has it (see `par`): differences are squared, and the deviation is that of
            the neighbours without the pixel itself.

    Returns:
        (B, P, H, W) float32 >= 0, sum 1 over the P = 8·len(dilations) neighbours: one ring after
        another, each row by row. Outside the image its nearest pixel counts.

    Raises:
        UserError: as for `pamr`.
    """
    _check(images, dilations, sigma)
    neighbours = len(RING) * len(dilations)
    weights = images.new_empty(len(images), neighbours, *images.shape[2:], dtype=torch.float32)
    with one_thread(images.device), torch.autocast(images.device.type, enabled=False):
        for part in _parts(images, 2 * neighbours):
            logits = _similarity(images[part].float(), dilations, sigma, squared)
            torch.softmax(logits, dim=1, out=weights[part])
    return weights


@torch.no_grad()
def propagate(
    weights: Tensor,
    maps: Tensor,
    *,
    index: Tensor | None = None,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
) -> Tensor:
    """Replace every map value by the weighted mean of its neighbours' values, `iterations` times.

    Args:
        weights: (B, P, H, W) float32 of `pamr_weights`.
        maps: (B, C, H, W) float, or with `index` (n, H, W): only the maps worth refining, such as
            those of the classes that an image shows.
        index: (n,) long, the image of each map, in any order.
        iterations: number of times.
        dilations: those of the weights.

    Returns:
        Float32 of the shape of `maps`, without gradient.

    Raises:
        UserError: shapes do not fit.
    """
    members = _members(weights, maps, index, dilations)
    pairs, pad = maps.flatten(0, 1) if index is None else maps, max(dilations)
    refined = torch.empty_like(pairs, dtype=torch.float32)
    with one_thread(weights.device), torch.autocast(weights.device.type, enabled=False):
        for part in _parts(weights, weights.shape[1] + 2 * max(map(len, members), default=0)):
            groups = members[part]
            chosen = [pair for group in groups for pair in group]
            image = [number for number, group in enumerate(groups) for _ in group]
            slot = [place for group in groups for place in range(len(group))]
            if chosen:
                shape = len(groups), 1 + max(slot), *(side + 2 * pad for side in maps.shape[-2:])
                padded = weights.new_zeros(shape)
                padded[..., pad:-pad, pad:-pad][image, slot] = pairs[chosen].float()
                _iterate(weights[part], padded, iterations, dilations)
                refined[chosen] = padded[..., pad:-pad, pad:-pad][image, slot]
    return refined.view_as(maps)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Keep PyTorch on one thread of a CPU, for many short steps.

    Threads would wait for each other after every step: little gain on a few cores, and many times
    slower as soon as another program uses one of them.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _similarity(images: Tensor, dilations: Sequence[int], sigma: float, squared: bool) -> Tensor:
    """(B, P, H, W): minus the colour difference to each neighbour in units of the deviation."""
    padded = F.pad(images, (max(dilations),) * 4, mode="replicate")
    views, channels = list(_neighbours(padded, dilations)), images.shape[1]
    logits = images.new_empty(len(images), len(views), *images.shape[2:])
    for rows in _strips(images):
        centre, near = images[..., rows, :], [view[..., rows, :] for view in views]
        deviation = _deviation(centre, near, 0 if squared else len(dilations))
        scale = (channels**-0.5 if squared else -1 / channels) / (EPS + sigma * deviation)
        difference = torch.empty_like(centre)
        for number, view in enumerate(near):
            torch.sub(view, centre, out=difference).abs_().mul_(scale)
            if squared:
                difference.square_().neg_()
            red, green, blue = difference.unbind(1)  # a sum over 3 strided values is far slower
            torch.add(red, green, out=logits[:, number, rows]).add_(blue)
    return logits


def _deviation(centre: Tensor, near: Sequence[Tensor], centres: int) -> Tensor:
    """Standard deviation of the neighbours and, so many times, the centre.

    From sums of differences to the centre, so that it is exactly 0 in constant areas.
    """
    difference, total, squares = (torch.zeros_like(centre) for _ in range(3))
    for view in near:
        torch.sub(view, centre, out=difference)
        total += difference
        squares.addcmul_(difference, difference)
    samples = len(near) + centres
    return ((squares - total.square_() / samples) / (samples - 1)).clamp_min_(0).sqrt_()


def _iterate(weights: Tensor, padded: Tensor, iterations: int, dilations: Sequence[int]) -> None:
    """All iterations in place: (B, P, H, W) weights, (B, S, H + 2·pad, W + 2·pad) maps."""
    pad = max(dilations)
    inside = padded[..., pad:-pad, pad:-pad]
    sums = torch.empty_like(inside, memory_format=torch.contiguous_format)
    terms = list(zip(_neighbours(padded, dilations), weights.unsqueeze(2).unbind(1)))
    strips = []
    for rows in _strips(inside):
        factors = [(view[..., rows, :], weight[..., rows, :]) for view, weight in terms]
        strips.append((sums[..., rows, :], inside[..., rows, :], factors))
    for _ in range(iterations):
        _extend_border(padded, pad)
        for total, _, ((first_view, first_weight), *others) in strips:
            torch.mul(first_view, first_weight, out=total)
            for view, weight in others:
                total.addcmul_(view, weight)
        for total, target, _ in strips:
            target.copy_(total)


def _strips(maps: Tensor) -> Iterator[slice]:
    """Slices of the rows (the last axis but one) that are finished before the next are begun."""
    height, rows = maps.shape[-2], maps.shape[-2]
    if maps.device.type == "cpu":
        rows = max(1, CPU_STRIP * height // max(1, maps.numel()))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def _neighbours(padded: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views (…, H, W) of the padded maps, shifted to each neighbour."""
    pad = max(dilations)
    height, width = (side - 2 * pad for side in padded.shape[-2:])
    for dilation in dilations:
        for y, x in RING:
            top, left = pad + dilation * y, pad + dilation * x
            yield padded[..., top : top + height, left : left + width]


def _extend_border(padded: Tensor, pad: int) -> None:
    """Copy the outermost pixels of the inside into the border, in place."""
    rows = padded[..., pad:-pad, :]
    rows[..., :pad] = rows[..., pad : pad + 1]
    rows[..., -pad:] = rows[..., -pad - 1 : -pad]
    padded[..., :pad, :] = padded[..., pad : pad + 1, :]
    padded[..., -pad:, :] = padded[..., -pad - 1 : -pad, :]


def _members(
    weights: Tensor, maps: Tensor, index: Tensor | None, dilations: Sequence[int]
) -> list[list[int]]:
    """The numbers of each image's maps."""
    images = len(weights)
    if weights.ndim != 4 or weights.shape[1] != len(RING) * len(dilations):
        raise UserError(
            f"PAMR weights {tuple(weights.shape)} are not those of dilations {tuple(dilations)}."
        )
    paired = maps.ndim == 4 and len(maps) == images if index is None else maps.ndim == 3
    if not paired or maps.shape[-2:] != weights.shape[-2:]:
        raise UserError(
            f"Maps {tuple(maps.shape)} do not fit the PAMR weights {tuple(weights.shape)}. Resize "
            "them to H×W; give (B, C, H, W), or (n, H, W) with `index`."
        )
    if index is None:
        channels = maps.shape[1]
        return [list(range(i * channels, (i + 1) * channels)) for i in range(images)]
    numbers = index.tolist()
    if index.shape != maps.shape[:1] or not all(0 <= number < images for number in numbers):
        raise UserError(
            f"PAMR's index must name one of {images} images for each of {len(maps)} maps."
        )
    members: list[list[int]] = [[] for _ in range(images)]
    for pair, number in enumerate(numbers):
        members[number].append(pair)
    return members


def _parts(images: Tensor, planes: int) -> Iterator[slice]:
    """Slices of the first axis whose working set of `planes`·H·W values per image fits memory."""
    available = CPU_BYTES if images.device.type == "cpu" else GPU_BYTES
    step = max(1, available // max(1, 4 * planes * images.shape[-2] * images.shape[-1]))
    for start in range(0, len(images), step):
        yield slice(start, min(start + step, len(images)))


def resize_maps(maps: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W) float32, bilinear."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps.float(), tuple(size), mode="bilinear", align_corners=align_corners)


def _check(images: Tensor, dilations: Sequence[int], sigma: float) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"PAMR needs images (B, 3, H, W), got {tuple(images.shape)}.")
    if not len(dilations) or min(dilations) < 1 or sigma <= 0:
        raise UserError(
            f"PAMR needs dilations >= 1 and sigma > 0, got {tuple(dilations)} and {sigma}."
        )
