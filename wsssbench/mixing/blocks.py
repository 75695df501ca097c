"""An image as a grid of n×n blocks: their saliency, and moving them about (for Puzzle Mix)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.mixing.batch import IGNORE, Layer

NOTHING = 1e-12


def block_saliency(saliency: Tensor, size: Sequence[int], n: int) -> Tensor:
    """(B, h, w) float >= 0 -> (B, n, n) float32, each block's part of the image's saliency.

    Saliency of another resolution than the image's `size` is resized bilinearly first. Sums to 1;
    an image without saliency has 0 everywhere.
    """
    saliency = saliency.float()[:, None]
    if tuple(saliency.shape[-2:]) != tuple(size):
        saliency = F.interpolate(saliency, tuple(size), mode="bilinear", align_corners=False)
    side = (size[0] // n, size[1] // n)
    salient = F.avg_pool2d(saliency[..., : n * side[0], : n * side[1]], side)[:, 0]
    return salient / salient.sum(dim=(1, 2), keepdim=True).clamp_min(NOTHING)


def transport_plan(kept: Tensor, salient: Tensor, t_eps: float = 0.8) -> Tensor:
    """Where each place takes its block from.

    n times, each block picks its cheapest place: t_eps times the squared distance (relative to the
    grid's side), minus the block's saliency where the image is kept. Where several pick one place,
    the block with the lowest negative cost has it and the others pay 1 there from now on. It is not
    a permutation: the last round's losers vanish and some places stay empty.

    Args:
        kept: (B, n, n) in [0, 1], share of this image at each place.
        salient: (B, n, n) float >= 0, summing to 1: saliency of this image's blocks.
        t_eps: cost of distance against saliency.

    Returns:
        (B, n²) int64, row-major number of the block that comes to each place, -1 where none does.
    """
    n = kept.shape[-1]
    step = torch.arange(n, device=kept.device, dtype=torch.float32)
    place = torch.cartesian_prod(step, step)
    distance = (place[:, None] - place).square().sum(-1) / max(1, n - 1) ** 2
    gain = salient.reshape(-1, n * n, 1) * (kept > 0).float().reshape(-1, 1, n * n)
    cost = t_eps * distance - gain
    for _ in range(n):
        choice = F.one_hot(cost.argmin(2), n * n).bool()
        winner = (choice * cost).argmin(1, keepdim=True)
        lost = choice.scatter(1, winner, False)
        cost = cost + lost.float()
    taken = choice.gather(1, winner)[:, 0]
    return torch.where(taken, winner[:, 0], -1)


def move_blocks(values: Tensor, origin: Tensor, n: int, empty: float) -> Tensor:
    """Blocks of (B, …, H, W) moved to their places; a copy.

    Args:
        values: any dtype. The last H mod n rows and W mod n columns stay.
        origin: (B, n²) from `transport_plan`.
        n: blocks per side.
        empty: value of places without a block.
    """
    high, wide = values.shape[-2] // n, values.shape[-1] // n
    moved = values.clone()
    inner = moved[..., : n * high, : n * wide].reshape(len(values), -1, n, high, n, wide)
    blocks = inner.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    rows = torch.arange(len(values), device=values.device)[:, None]
    blocks = blocks[rows, origin.clamp_min(0)]
    blocks[origin < 0] = empty
    inner = blocks.unflatten(1, (n, n)).permute(0, 3, 1, 4, 2, 5)
    moved[..., : n * high, : n * wide] = inner.reshape(*values.shape[:-2], n * high, n * wide)
    return moved


def move_layer(layer: Layer, origin: Tensor, n: int) -> Layer:
    """`move_blocks` on everything but the labels: empty places show the mean colour, are ignored
    in the mask, 0 in dense maps, and valid.
    """

    def moved(values: Tensor | None, empty: float) -> Tensor | None:
        return None if values is None else move_blocks(values, origin, n, empty)

    return Layer(
        images=moved(layer.images, 0),
        labels=layer.labels,
        mask=moved(layer.mask, IGNORE),
        dense={name: moved(maps, 0) for name, maps in layer.dense.items()},
        valid=moved(layer.valid, True),
    )
