"""Pairs of nearby positions (AffinityNet, CVPR 2018; IRNet, CVPR 2019): which there are, which
cells lie between the two, and how alike they are.

With radius R and f = R - 1, each of D directions leads from every source (rows 0 … h-1-f, columns
f … w-1-f) to a partner. What is known of the pairs is a pair tensor (B, D, h-f, w-2f), directions
in the order of `directions(radius)`. After `pad_border` every position is a source.
The releases gather the cells of all paths by index; here a path is a handful of shifted slices.
"""

from functools import cache, lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from wsssbench.errors import UserError, unknown

Offset = tuple[int, int]
Order = Literal["psa", "irn"]


@lru_cache(maxsize=None, typed=True)  # typed: 2.0 must not pass for 2
def directions(radius: int, order: Order = "psa") -> tuple[Offset, ...]:
    """Steps (dy, dx) from a source to its partners: half of the disc of that radius.

    Args:
        radius: R >= 2; 5 gives 34 directions, 10 gives 152.
        order: "psa": row by row, as in every pair tensor; "irn": by the number of cells on the
            path, else row by row.

    Raises:
        UserError: no such radius or order.
    """
    if isinstance(radius, bool) or not isinstance(radius, int) or radius < 2:
        raise UserError(f"The radius of pairs is {radius!r}; give a whole number of at least 2.")
    if order not in ("psa", "irn"):
        raise unknown("order of directions", order, ("psa", "irn"))
    columns = range(1 - radius, radius)
    listed = [(0, x) for x in range(1, radius)]
    listed += [(y, x) for y in range(1, radius) for x in columns if y * y + x * x < radius * radius]
    if order == "irn":
        listed.sort(key=lambda direction: len(path_cells(direction)))
    return tuple(listed)


@cache
def path_cells(direction: Offset) -> tuple[Offset, ...]:
    """Cells (y, x) less than 1 away from the line (0, 0)–`direction`, within its bounding box.

    Both ends belong to it; the partner comes first, the source last.
    """
    dy, dx = direction
    cells = [
        (y, x)
        for y in range(min(dy, 0), max(dy, 0) + 1)
        for x in range(min(dx, 0), max(dx, 0) + 1)
        if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    ]
    return tuple(sorted(cells, key=lambda cell: -abs(cell[0]) - abs(cell[1])))


def shifted(x: Tensor, offset: Offset, radius: int) -> Tensor:
    """View (…, h-f, w-2f) of (…, h, w): for each source, the value at `offset` from it.

    Raises:
        UserError: the map is too small to hold a source.
    """
    reach, (height, width), (dy, dx) = radius - 1, x.shape[-2:], offset
    rows, columns = height - reach, width - 2 * reach
    if rows < 1 or columns < 1:
        raise UserError(
            f"A map of {height}×{width} holds no pairs of radius {radius} without a border: at "
            f"least {radius}×{2 * radius - 1} is needed. Choose a smaller radius or pad the map."
        )
    return x[..., dy : dy + rows, reach + dx : reach + dx + columns]


def pad_border(x: Tensor, radius: int, value: float = 1.0) -> Tensor:
    """(…, h, w) -> (…, h+f, w+2f): a border left, right and below, so that h×w are sources."""
    reach = radius - 1
    return F.pad(x, (reach, reach, 0, reach), value=value)


def path_affinity(boundary: Tensor, radius: int) -> Tensor:
    """IRNet's affinity: 1 - the strongest boundary on the path between the two.

    Args:
        boundary: (B, 1, h, w) float in [0, 1].
        radius: R >= 2.

    Returns:
        (B, D, h-f, w-2f) in [0, 1], of the same dtype. The gradient of each pair goes to the one
        cell that is the strongest, in case of a tie to one of them.

    Raises:
        UserError: another shape, no such radius, or a map too small for it.
    """
    if boundary.ndim != 4 or boundary.shape[1] != 1:
        raise UserError(f"A boundary map must be (B, 1, h, w), got {tuple(boundary.shape)}.")
    return 1 - _PathMaximum.apply(boundary[:, 0], radius)


def feature_affinity(features: Tensor, radius: int) -> Tensor:
    """AffinityNet's affinity: exp(-mean over channels of |difference|).

    Args:
        features: (B, C, h, w) float.
        radius: R >= 2.

    Returns:
        (B, D, h-f, w-2f) in (0, 1], of the same dtype, with gradient.

    Raises:
        UserError: another shape, no such radius, or a map too small for it.
    """
    if features.ndim != 4:
        raise UserError(f"Features must be (B, C, h, w), got {tuple(features.shape)}.")
    return _Likeness.apply(features, radius)


@cache
def _path_plan(radius: int) -> tuple[tuple[int, int | None, tuple[Offset, ...]], ...]:
    """Steps that give the maxima of all paths: direction, direction whose path is a part of this
    one (the longest such; None: no other), cells that remain. Parts come before the whole.
    """
    paths = [set(path_cells(direction)) for direction in directions(radius)]
    plan = []
    for number in sorted(range(len(paths)), key=lambda n: len(paths[n])):
        parts = [n for n, path in enumerate(paths) if path < paths[number]]
        part = max(parts, key=lambda n: len(paths[n]), default=None)
        rest = paths[number] - paths[part] if part is not None else paths[number]
        plan.append((number, part, tuple(sorted(rest))))
    return tuple(plan)


class _PathMaximum(torch.autograd.Function):
    """(B, h, w) -> (B, D, h-f, w-2f): the maximum over each path.

    Autograd would keep an array for each of the slices and share a tie's gradient out.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, radius: int) -> Tensor:
        source = shifted(values, (0, 0), radius)
        shape = len(values), len(directions(radius)), *source.shape[1:]
        highest = values.new_empty(shape)
        track = ctx.needs_input_grad[0]
        winner = torch.zeros(shape if track else 0, dtype=torch.int16, device=values.device)
        for number, part, cells in _path_plan(radius):
            best = highest[:, number]
            best.fill_(-torch.inf) if part is None else best.copy_(highest[:, part])
            if track and part is not None:
                winner[:, number] = winner[:, part]
            for cell in cells:
                candidate = shifted(values, cell, radius)
                if track:
                    winner[:, number].masked_fill_(candidate > best, _cell_id(cell, radius))
                torch.maximum(best, candidate, out=best)
        ctx.save_for_backward(winner)
        ctx.radius, ctx.shape = radius, values.shape
        return highest

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (winner,) = ctx.saved_tensors
        gradient = gradient.clone()  # a path also collects what its extensions hand down
        total = gradient.new_zeros(ctx.shape)
        for number, part, cells in reversed(_path_plan(ctx.radius)):
            arriving, where = gradient[:, number], winner[:, number]
            if part is not None:
                gradient[:, part].addcmul_(arriving, (where == winner[:, part]).to(arriving.dtype))
            for cell in cells:
                mine = (where == _cell_id(cell, ctx.radius)).to(arriving.dtype)
                shifted(total, cell, ctx.radius).addcmul_(arriving, mine)
        return total, None


def _cell_id(cell: Offset, radius: int) -> int:
    """A number of its own for each cell that a path can have."""
    return cell[0] * 2 * radius + cell[1] + radius


class _Likeness(torch.autograd.Function):
    """(B, C, h, w) -> (B, D, h-f, w-2f): exp(-mean |difference|) of each pair.

    Differences are computed again for the gradient: autograd would keep those of all directions,
    D times the memory of the features.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, radius: int) -> Tensor:
        source = shifted(features, (0, 0), radius)
        partners = [shifted(features, step, radius) for step in directions(radius)]
        distances = [(source - partner).abs().mean(dim=1) for partner in partners]
        affinity = torch.stack(distances, dim=1).neg_().exp_()
        ctx.save_for_backward(features, affinity)
        ctx.radius = radius
        return affinity

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (features, affinity), radius = ctx.saved_tensors, ctx.radius
        slopes = -gradient * affinity / features.shape[1]  # against the distance, per channel
        total = torch.zeros_like(features)
        source, collected = (shifted(x, (0, 0), radius) for x in (features, total))
        for step, slope in zip(directions(radius), slopes.unsqueeze(2).unbind(1), strict=True):
            change = (source - shifted(features, step, radius)).sign_().mul_(slope)
            collected += change
            shifted(total, step, radius).sub_(change)
        return total, None
