"""Permutohedral lattice (Adams, Baek & Davis, 2010): Gaussian filtering of values at N points of a
d-dimensional feature space in time that grows with N and not with N².

Nodes are those of the library behind the published dense CRFs, found by sorting instead of a hash
table. Each step is a weighted sum of rows (`embedding_bag`), which PyTorch adds up in a fixed order
on one or many threads and on GPUs.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError

KEY_LIMIT = 2**62  # packed keys of nodes are int64
COORDINATE_LIMIT = 2**20  # sums of float32 coordinates stay exact


@dataclass(frozen=True)
class Lattice:
    """M nodes around N points, and a last one, "absent", that is always zero.

    Attributes:
        points: (E,) int32, the points that each node collects from, one node after another.
        starts: (M+1,) int32, where in `points` each node begins; the absent one has none.
        splat_weights: (E,) float32, weights of `points`.
        neighbours: (d+1, M+1, 3) int32, for each axis: the node itself, the next, the previous.
        blur_weights: (M+1, 3) float32, weights of `neighbours`.
        nodes: (N, d+1) int32, vertices of the simplex around each point.
        slice_weights: (N, d+1) float32, weights of `nodes`.
    """

    points: Tensor
    starts: Tensor
    splat_weights: Tensor
    neighbours: Tensor
    blur_weights: Tensor
    nodes: Tensor
    slice_weights: Tensor


@torch.no_grad()
def build_lattice(features: Tensor) -> Lattice:
    """Lattice around a set of points, for any number of `filter_values`.

    The x86 build of the library takes points in fours and fills the last block with zero features.
    The nodes near the origin that this creates hold no value but let the blur pass: kept here.

    Args:
        features: (d, N) float32 in units of the Gaussian's standard deviation, N > 0.

    Returns:
        The lattice on the features' device. Same features, same lattice.

    Raises:
        UserError: the features span too wide a range.
    """
    dimensions, count = features.shape
    blocks = F.pad(features, (0, 1)) if count % 4 else features
    base, rank, residual = _enclosing_simplex(blocks)
    keys, steps = _vertex_keys(base, rank)
    weights = _barycentric(residual, rank)
    weights[count:] = 0
    keys, order = keys.flatten().sort(stable=True)
    is_first = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=is_first[1:])
    nodes = torch.empty_like(keys, dtype=torch.int32)
    nodes[order] = is_first.cumsum(0, dtype=torch.int32) - 1
    starts = is_first.nonzero()[:, 0]
    neighbours = _neighbours(keys[starts], steps)
    return Lattice(
        points=(order // (dimensions + 1)).clamp_(max=count - 1).int(),
        starts=F.pad(starts, (0, 1), value=len(order)).int(),
        splat_weights=weights.flatten()[order],
        neighbours=neighbours,
        blur_weights=weights.new_tensor([1, 0.5, 0.5]).repeat(neighbours.shape[1], 1),
        nodes=nodes.view_as(weights)[:count],
        slice_weights=weights[:count] / (1 + 2.0**-dimensions),
    )


@torch.no_grad()
def filter_values(lattice: Lattice, values: Tensor) -> Tensor:
    """Sum over all points of the values there times the Gaussian of the distance, approximately.

    Args:
        lattice: of N points.
        values: (N, L) float32.

    Returns:
        (N, L) float32. A point counts itself.
    """
    nodes = _weighted_rows(lattice.points, values, lattice.splat_weights, lattice.starts)
    for near in lattice.neighbours:
        nodes = _weighted_rows(near, nodes, lattice.blur_weights)
    return _weighted_rows(lattice.nodes, nodes, lattice.slice_weights)


def _weighted_rows(
    index: Tensor, rows: Tensor, weights: Tensor, starts: Tensor | None = None
) -> Tensor:
    """Row i: the sum of the rows that `index[i]` names, or those from `starts[i]` on."""
    return F.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weights)


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the points are on the plane of the lattice.

    Returns:
        (d+1, N) float32 whole coordinates of the simplex' first vertex; (d+1, N) int64 rank of
        each coordinate's residual, 0 the largest; (d+1, N) float32 residuals in units of d+1.
    """
    sides = len(features) + 1
    elevated = _elevate(features)
    base = (elevated / sides).round_().mul_(sides)  # round() takes halves to even, as SSE does
    residual = elevated - base
    rank = base.sum(0).div_(sides).expand_as(base).clone()
    for i in range(sides):
        for j in range(i + 1, sides):
            behind = residual[i] < residual[j]
            rank[i] += behind
            rank[j] += ~behind
    wrap = ((rank < 0).float() - (rank >= sides).float()).mul_(sides)
    base += wrap
    rank += wrap
    return base, rank.long(), elevated.sub_(base).div_(sides)


def _elevate(features: Tensor) -> Tensor:
    """(d, N) -> (d+1, N) with sum 0, scaled for a blur of unit variance."""
    sides = len(features) + 1
    elevated = features.new_empty(sides, features.shape[1])
    # Rounded where the library rounds: ten iterations of a CRF magnify the last bits.
    unit = float(np.float32(math.sqrt(2 / 3) * sides))
    tail = torch.zeros_like(features[0])
    for j in range(sides - 1, 0, -1):
        coordinate = features[j - 1] * (unit / math.sqrt(j * (j + 1)))
        elevated[j] = tail - j * coordinate
        tail += coordinate
    elevated[0] = tail
    return elevated


def _barycentric(residual: Tensor, rank: Tensor) -> Tensor:
    """(N, d+1) float32 weights of the simplex' vertices: >= 0 up to rounding, sum 1."""
    ordered = torch.empty_like(residual).scatter_(0, rank, residual)
    weights = ordered.new_empty(ordered.shape[1], len(ordered))
    weights[:, 0] = ordered[-1] + (1 - ordered[0])
    weights[:, 1:] = (ordered[:-1] - ordered[1:]).flip(0).T
    return weights


def _vertex_keys(base: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes as single numbers, whose digits are all coordinates but the last.

    Returns:
        (N, d+1) int64 keys of the simplex' vertices; (d+1,) int64, what to add to a node's key for
        the next node along each axis.

    Raises:
        UserError: the numbers do not fit.
    """
    sides = len(base)
    reach = 2 * sides  # the vertices and their neighbours are less than this away
    lowest = (base[:-1].amin(1).long() - reach).tolist()
    highest = (base[:-1].amax(1).long() + reach).tolist()
    spans = [high - low + 1 for low, high in zip(lowest, highest)]
    if not base.abs().amax() < COORDINATE_LIMIT or math.prod(spans) > KEY_LIMIT:
        raise UserError(
            "The standard deviations (sxy, srgb) of the dense CRF are too small for this image. "
            "Use larger ones."
        )
    digits = [math.prod(spans[axis + 1 :]) for axis in range(sides - 1)]
    first = sum(
        digit * (coordinate.long() - low) for digit, coordinate, low in zip(digits, base, lowest)
    )
    # A step adds 1 to every coordinate but that of its axis, which loses d. The vertices of a
    # simplex follow each other by one step along each axis, the smallest residual first.
    steps = torch.tensor([sum(digits) - sides * digit for digit in (*digits, 0)]).to(base.device)
    by_rank = torch.empty_like(rank).scatter_(0, rank, steps[:, None].expand_as(rank))
    return torch.cat([first[None], by_rank[1:].flip(0)]).cumsum(0).T, steps


def _neighbours(keys: Tensor, steps: Tensor) -> Tensor:
    """(M,) sorted keys -> (d+1, M+1, 3) int32 numbers of the nodes; M where there is none."""
    count = len(keys)
    table = torch.full((len(steps), count + 1, 3), count, dtype=torch.int32, device=keys.device)
    table[:, :, 0] = torch.arange(count + 1, device=keys.device)
    for near, step in zip(table, steps):
        wanted = keys + step
        place = torch.searchsorted(keys, wanted).clamp_(max=count - 1)
        node = (keys[place] == wanted).nonzero()[:, 0]
        place = place[node]
        near[node, 1], near[place, 2] = place.int(), node.int()
    return table
