"""Random walk of AffinityNet (Ahn & Kwak, CVPR 2018) and IRNet (Ahn, Cho, Kwak, CVPR 2019): scores
spread, step by step, to nearby positions that no class boundary keeps apart.

The releases square a dense N×N transition matrix; here its few diagonals are applied to the K maps,
step by step: the same numbers, up to the rounding of the squares, in memory linear in N.
Where an affinity or a boundary comes from is not decided here: see `models.affinity`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError, unknown
from wsssbench.refinement.pairs import Offset, directions, pad_border, path_affinity
from wsssbench.refinement.pamr import one_thread

Border = Literal["irn", "psa"]
Divide = Literal["all", "class", "none"]
BORDERS = ("irn", "psa")
DIVISORS = ("all", "class", "none")


@torch.no_grad()
def random_walk(
    maps: Tensor,
    boundary: Tensor,
    *,
    radius: int = 5,
    beta: float = 10,
    log2_steps: int = 8,
    border: Border = "irn",
) -> Tensor:
    """IRNet's walk: a pair's affinity is 1 - the strongest boundary between the two.

    Args:
        maps: (K, h, w) float in [0, 1], class maps without background, any K.
        boundary: (1, h, w) float in [0, 1]; what lies on a boundary starts with less.
        radius: R >= 2, partners are nearer than this.
        beta: exponent of the affinities, >= 0.
        log2_steps: the walk takes 2 to the power of this many steps.
        border: "irn": every position is a source; "psa": none is within R - 1 of the left, right
            and lower edge (AffinityNet's release), so that some corner positions have no partner.

    Returns:
        (K, h, w) float32 within the range of `maps` · (1 - `boundary`), not normalised: see
        `walk_maps`. No gradient.

    Raises:
        UserError: shapes do not fit, values that are not in [0, 1], a setting that makes no sense.
    """
    _check_maps(maps)
    if boundary.shape != (1, *maps.shape[1:]):
        wanted, found = (1, *maps.shape[1:]), tuple(boundary.shape)
        raise UserError(f"The boundary of maps {tuple(maps.shape)} must be {wanted}, got {found}.")
    if border not in BORDERS:
        raise unknown("border", border, BORDERS)
    directions(radius)  # refuses a bad radius before it is used as a width
    maps, boundary = maps.float(), boundary.float()
    _check_range(maps, "The maps")
    _check_range(boundary, "The boundary")
    with one_thread(maps.device):
        sources = pad_border(boundary, radius) if border == "irn" else boundary
        affinity = path_affinity(sources[None], radius)[0]
    start = maps * (1 - boundary)
    return walk(start, affinity, radius=radius, beta=beta, log2_steps=log2_steps)


@torch.no_grad()
def walk(
    maps: Tensor, affinity: Tensor, *, radius: int = 5, beta: float = 8, log2_steps: int = 8
) -> Tensor:
    """A walk over given affinities, for AffinityNet those of `feature_affinity`.

    Args:
        maps: (K, h, w) float, any range and any K. AffinityNet's hold the background too.
        affinity: a pair tensor in [0, 1] of these maps: (D, h-f, w-2f) as it is, or (D, h, w) of
            what went through `pad_border`; pairs with the border do not count.
        radius: R >= 2 of the pairs, f = R - 1.
        beta: exponent of the affinities, >= 0.
        log2_steps: the walk takes 2 to the power of this many steps.

    Returns:
        (K, h, w) float32 within the range of `maps`: weighted means. No gradient.

    Raises:
        UserError: shapes do not fit, values that are not numbers, a setting that makes no sense.
    """
    _check_maps(maps)
    if isinstance(log2_steps, bool) or not isinstance(log2_steps, int) or log2_steps < 0:
        raise UserError(f"log2_steps is {log2_steps!r}; give a whole number of at least 0.")
    if not bool(torch.isfinite(maps).all()):
        raise UserError("The maps of a random walk hold values that are not finite numbers.")
    with one_thread(maps.device), torch.autocast(maps.device.type, enabled=False):
        planes = transition(affinity, maps.shape[1:], radius=radius, beta=beta)
        return diffuse(maps, planes, offsets(radius), 2**log2_steps)


def offsets(radius: int) -> tuple[Offset, ...]:
    """Where the sources of one step lie: one half of the disc, the other, the position itself.

    That is last because it weighs most: small terms, added up first, keep their digits.
    """
    half = directions(radius)
    return (*half, *((-dy, -dx) for dy, dx in half), (0, 0))


@torch.no_grad()
def transition(
    affinity: Tensor, size: Sequence[int], *, radius: int = 5, beta: float = 8
) -> Tensor:
    """The non-zero diagonals of T: affinity to the power of beta, 1 to itself, column sums 1.

    Args:
        affinity: as for `walk`.
        size: (h, w) of the maps.
        radius: R >= 2 of the pairs.
        beta: exponent, >= 0; 0 makes all pairs alike.

    Returns:
        (2·D + 1, h, w) float32 >= 0, sum 1: for each of `offsets(radius)`, what position (y, x)
        takes from the one at this offset.

    Raises:
        UserError: shapes do not fit, values outside [0, 1], a setting that makes no sense.
    """
    (height, width), half, reach = size, directions(radius), radius - 1
    if not beta >= 0:
        raise UserError(f"beta is {beta!r}; give a number of at least 0.")
    whole = (len(half), height, width)
    inner = (len(half), height - reach, width - 2 * reach)
    if affinity.shape not in (whole, inner):
        raise UserError(
            f"Affinities of radius {radius} on maps of {height}×{width} must be {whole} with a "
            f"padded border, {reach} rows and {2 * reach} columns less without one; got "
            f"{tuple(affinity.shape)}."
        )
    _check_range(affinity, "The affinities")
    weights = affinity.float().pow(beta)
    if affinity.shape == inner:
        weights = F.pad(weights, (reach, reach, 0, reach))
    planes = weights.new_zeros(2 * len(half) + 1, height, width)
    planes[-1] = 1
    for number, (dy, dx) in enumerate(half):
        rows, columns = height - dy, width - abs(dx)
        if rows < 1 or columns < 1:  # the map is smaller than this step
            continue
        left, right = max(-dx, 0), max(dx, 0)  # first column of sources, of partners
        pairs = weights[number, :rows, left : left + columns]
        planes[number, :rows, left : left + columns] = pairs
        planes[len(half) + number, dy:, right : right + columns] = pairs
    return planes.div_(planes.sum(0))


@torch.no_grad()
def diffuse(maps: Tensor, planes: Tensor, offsets: Sequence[Offset], steps: int) -> Tensor:
    """Apply a transition `steps` times: a sum over shifted maps, no matrix, no index.

    Args:
        maps: (K, h, w) float.
        planes: (P, h, w) float32; 0 where the source would lie outside.
        offsets: P steps (dy, dx) from a position to the source of each plane.
        steps: how many.

    Returns:
        (K, h, w) float32.
    """
    (count, height, width), reach = maps.shape, max(max(abs(y), abs(x)) for y, x in offsets)
    # Rows stand one after another with `reach` zeros between them, so that every shift is one
    # contiguous slice: no loop over rows, and what leaves a row to the side meets a weight of 0.
    row = width + reach
    length, margin = height * row, reach * row + reach
    weights = F.pad(planes, (0, reach)).flatten(1)
    buffers = maps.new_zeros(2, count, length + 2 * margin, dtype=torch.float32)
    inside = buffers[..., margin : margin + length]
    inside.unflatten(2, (height, row))[0, ..., :width] = maps
    starts = [margin + dy * row + dx for dy, dx in offsets]
    terms = [
        [(buffer[:, start : start + length], weight) for start, weight in zip(starts, weights)]
        for buffer in buffers
    ]
    for step in range(steps):
        (first, weight), *others = terms[step % 2]
        target = torch.mul(first, weight, out=inside[(step + 1) % 2])
        for source, weight in others:
            target.addcmul_(source, weight)
    return inside[steps % 2].unflatten(1, (height, row))[..., :width].clone()


@torch.no_grad()
def shrink_maps(maps: Tensor, stride: int = 4) -> Tensor:
    """Maps of an image on the grid that a walk takes place on; `walk_maps` is the way back.

    The last cells are filled up with their edge, so that cells lie where those of the boundaries do
    and where `walk_maps` puts them; the release shifts maps whose sides the stride does not divide.

    Args:
        maps: (K, H, W) float32 in [0, 1], any K.
        stride: of the walk's maps, px.

    Returns:
        (K, ceil(H/stride), ceil(W/stride)) float32 in [0, 1], averages. No gradient.
    """
    height, width = maps.shape[1:]
    size = -(-height // stride), -(-width // stride)
    if not len(maps):
        return maps.new_zeros(0, *size)
    padded = F.pad(maps, (0, -width % stride, 0, -height % stride), mode="replicate")
    shrunk = F.interpolate(padded[None], size, mode="bilinear", align_corners=False, antialias=True)
    return shrunk[0].clamp(0, 1)


@torch.no_grad()
def walk_maps(
    walked: Tensor, size: Sequence[int], *, stride: int = 4, divide: Divide = "all"
) -> Tensor:
    """Score maps of an image from the result of a walk.

    Args:
        walked: (K, h, w) float >= 0, any K.
        size: (H, W) of the image, at most (h, w) · stride.
        stride: of the walk's maps: 4 (IRNet), 8 (AffinityNet).
        divide: "all": by the maximum over all classes, the release, which pushes a weak class below
            the background threshold where a strong one is near; "class": each class by its own;
            "none": not at all (AffinityNet, whose background took part in the walk).

    Returns:
        (K, H, W) float32, in [0, 1] if divided; maps of zeros stay so. No gradient.

    Raises:
        UserError: the maps do not cover the image, or `divide` is unknown.
    """
    if divide not in DIVISORS:
        raise unknown("divide", divide, DIVISORS)
    height, width = size
    if walked.ndim != 3 or any(n * stride < side for n, side in zip(walked.shape[1:], size)):
        raise UserError(
            f"Maps {tuple(walked.shape)} at stride {stride} do not cover an image of "
            f"{height}×{width}; give (K, h, w) with h and w at least the sides divided by {stride}."
        )
    if not len(walked):
        return walked.new_zeros(0, height, width, dtype=torch.float32)
    full = F.interpolate(
        walked[None].float(), scale_factor=stride, mode="bilinear", align_corners=False
    )[0, :, :height, :width]
    if divide == "none":
        return full.contiguous()
    peak = full.amax(dim=(1, 2) if divide == "class" else (0, 1, 2), keepdim=True)
    return full / torch.where(peak > 0, peak, 1)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 3 or not maps.is_floating_point() or not maps.shape[1] * maps.shape[2]:
        found = f"{maps.dtype} of shape {tuple(maps.shape)}"
        raise UserError(f"The maps of a random walk must be (K, h, w) floating point, got {found}.")


def _check_range(values: Tensor, what: str) -> None:
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise UserError(
            f"{what} of a random walk must lie in [0, 1]; there are other values, or some that are "
            "not numbers."
        )
