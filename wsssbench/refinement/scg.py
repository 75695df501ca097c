"""SCG (Pan et al., CVPR 2021; with RecurSeed's changes, Jo et al., arXiv 2204.06754): activation
spreads from a map's certain positions to all whose features resemble them, directly or through a
third position; what resembles the certain background is taken off.

The releases loop over images and classes and copy the columns of H that a class selects; here the
selections are the rows of one matrix product per batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError, unknown
from wsssbench.refinement.pamr import one_thread

EPS = 1e-10
COLUMN_EPS = {"rs": 1e-10, "spa": 1e-5}  # in the first-order column sums, by variant
CPU_BYTES = 2**24  # images are taken by as many as fit here: about a processor's last cache,
GPU_BYTES = 2**29  # while a GPU wants few, large steps
SHARED_FROM = 512  # positions from which the products are worth several threads
Variant = Literal["rs", "spa"]


@torch.no_grad()
def scg(
    cams: Tensor,
    features: Sequence[Tensor],
    *,
    first_threshold: float = 0.5,
    second_threshold: float = 0.1,
    foreground: float = 0.3,
    background: float = 0.05,
    order: int = 2,
    second_weight: float = 1.0,
    variant: Variant = "rs",
) -> Tensor:
    """Spread class activation maps along the self-correlation of features, a few images at a time.

    Args:
        cams: (B, K, h, w) float in [0, 1], each map scaled by its own maximum (`rs`) or by
            minimum and maximum (`spa`); zero for absent classes, whose result is zero.
        features: one (B, C_i, h, w) float >= 0 per level, see `resize_features`.
        first_threshold: see `self_correlation`, as for the others.
        second_threshold: of the higher order.
        foreground: positions at least this active are certain.
        background: positions at most this active are certainly not the class.
        order: how many positions a walk passes.
        second_weight: of the higher order.
        variant: `rs` or `spa`; SPA's `foreground` is 0.1.

    Returns:
        (B, K, h, w) float32 in [0, 1]: each map has minimum 0 and maximum 1, or is zero,
        however weak the evidence. No gradient.

    Raises:
        UserError: shapes do not fit, or a setting makes no sense.
    """
    _check(features, order, variant)
    if cams.ndim != 4 or (len(cams), *cams.shape[2:]) != _grid(features[0]):
        raise UserError(
            f"SCG needs maps (B, K, h, w) on the grid of its features {tuple(features[0].shape)}, "
            f"got {tuple(cams.shape)}. Resize the features to the maps (resize_features)."
        )
    spread = torch.empty_like(cams, dtype=torch.float32)
    alone = (
        one_thread(cams.device) if cams.shape[2] * cams.shape[3] < SHARED_FROM else nullcontext()
    )
    with alone, torch.autocast(cams.device.type, enabled=False):
        for part in _parts(cams, order):
            correlation = self_correlation(
                [level[part] for level in features],
                first_threshold=first_threshold,
                second_threshold=second_threshold,
                order=order,
                second_weight=second_weight,
                variant=variant,
            )
            spread[part] = _spread_(cams[part].float(), correlation, foreground, background)
    return spread


@torch.no_grad()
def self_correlation(
    features: Sequence[Tensor],
    *,
    first_threshold: float = 0.5,
    second_threshold: float = 0.1,
    order: int = 2,
    second_weight: float = 1.0,
    variant: Variant = "rs",
) -> Tensor:
    """H: how much every position i resembles a position j, summed over the levels.

    Args:
        features: one (B, C_i, h, w) float per level, N = h·w.
        first_threshold: smaller cosines count as 0.
        second_threshold: smaller parts of the higher order, in units of 1/N, count as 0.
        order: 1 leaves the higher order out, 2 goes through one other position, 3 through two.
        second_weight: of the higher order in the maximum of both.
        variant: `rs` as in RecurSeed or `spa` as in SPA, which differ in the epsilon. SPA's
            thresholds are 0.1 and 0.5 at weight 2 (CUB), 0.2 and 0.2 at weight 1 (ILSVRC).

    Returns:
        (B, N, N) float32 >= 0; each level adds 1 to the sum over i, or 0 where its feature is 0.
        No gradient. Needs three more arrays of this size, four from order 3 on.

    Raises:
        UserError: shapes do not fit, or a setting makes no sense.
    """
    _check(features, order, variant)
    buffers = _arrays(features[0], order)
    total = torch.zeros_like(buffers[0])
    for level in features:
        first, second = correlation_orders(
            level,
            first_threshold=first_threshold,
            second_threshold=second_threshold,
            order=order,
            variant=variant,
            buffers=buffers,
        )
        if order > 1:
            torch.maximum(first, second.mul_(second_weight), out=first)
        total += _normalise_columns_(first, EPS)
    return total


@torch.no_grad()
def correlation_orders(
    level: Tensor,
    *,
    first_threshold: float = 0.5,
    second_threshold: float = 0.1,
    order: int = 2,
    variant: Variant = "rs",
    buffers: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """First and higher order of one level of `self_correlation`, before their maximum.

    Args:
        level: (B, C, h, w) float.
        first_threshold: as for `self_correlation`.
        second_threshold: as for `self_correlation`.
        order: as for `self_correlation`.
        variant: as for `self_correlation`.
        buffers: arrays (B, N, N) float32 to work in (1, 3, or 4 from order 3 on), of which the
            results are two; new ones by default.

    Returns:
        Two (B, N, N) float32: the thresholded cosines with columns of sum 1 (or 0), and their
        product with themselves (order - 1 times) without the diagonal, thresholded. At order 1
        the second is the first.

    Raises:
        UserError: as for `self_correlation`.
    """
    _check([level], order, variant)
    eps = COLUMN_EPS[variant]
    vectors = level.flatten(2)
    if buffers is None:
        buffers = _arrays(level, order)
    with torch.autocast(level.device.type, enabled=False):
        vectors = vectors.float()
        vectors = vectors / (vectors.square().sum(dim=1, keepdim=True).sqrt_() + EPS)
        first = torch.bmm(vectors.mT, vectors, out=buffers[0])
        _keep_from_(first, max(first_threshold, 0.0))
        if order == 1:
            return _normalise_columns_(first, eps), first
        step = buffers[1].copy_(first)
        step.diagonal(dim1=1, dim2=2).zero_()
        _normalise_columns_(first, eps)
        _normalise_columns_(step, eps)
        walks, free = step, list(buffers[2:])
        for _ in range(order - 1):
            longer = torch.bmm(walks, step, out=free.pop(0))
            _normalise_columns_(longer, EPS)
            if walks is not step:
                free.append(walks)
            walks = longer
        return first, _keep_from_(walks, max(second_threshold, 0.0) / vectors.shape[2])


def resize_features(features: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
    """Bring (B, C_i, h_i, w_i) features to one grid: (B, C_i, *size) float32, bilinear."""
    return [
        F.interpolate(level.float(), tuple(size), mode="bilinear", align_corners=False)
        for level in features
    ]


def _spread_(cams: Tensor, correlation: Tensor, foreground: float, background: float) -> Tensor:
    """(B, K, h, w) maps from (B, N, N) H, whose columns become min-max scaled in place.

    The scaled columns that a class selects are summed by a matrix product with the selection; an
    empty selection gives 0, so does a constant sum.
    """
    flat = cams.flatten(2)
    low, high = correlation.amin(dim=1, keepdim=True), correlation.amax(dim=1, keepdim=True)
    correlation -= low
    chosen = torch.cat([flat >= foreground, flat <= background], dim=1) / (high - low + EPS)
    alike, unlike = _minmax(torch.bmm(chosen, correlation.mT)).chunk(2, dim=1)
    return _minmax((alike - unlike).relu()).view_as(cams)


def _minmax(rows: Tensor) -> Tensor:
    low, high = torch.aminmax(rows, dim=-1, keepdim=True)
    return (rows - low) / (high - low + EPS)


def _keep_from_(values: Tensor, threshold: float) -> Tensor:
    """Zero what is smaller than the threshold, in place; the threshold itself stays."""
    below = float(np.nextafter(np.float32(threshold), np.float32(-1)))
    return F.threshold_(values, below, 0.0)


def _normalise_columns_(matrices: Tensor, eps: float) -> Tensor:
    return matrices.div_(matrices.sum(dim=1, keepdim=True).add_(eps))


def _arrays(level: Tensor, order: int) -> list[Tensor]:
    """The (B, N, N) arrays that one level works in."""
    positions = level.shape[2] * level.shape[3]
    shape = (len(level), positions, positions)
    return [level.new_empty(shape, dtype=torch.float32) for _ in range(_count(order))]


def _count(order: int) -> int:
    """Arrays: the cosines; one step and the walks; spare ones for walks of more steps."""
    return (1, 3, 4)[min(order, 3) - 1]


def _parts(cams: Tensor, order: int) -> Iterator[slice]:
    """Slices of the batch whose N×N arrays fit memory."""
    available = CPU_BYTES if cams.device.type == "cpu" else GPU_BYTES
    positions = cams.shape[-2] * cams.shape[-1]
    step = max(1, available // max(1, 4 * (1 + _count(order)) * positions**2))
    for start in range(0, len(cams), step):
        yield slice(start, start + step)


def _grid(level: Tensor) -> tuple[int, ...]:
    return (len(level), *level.shape[2:])


def _check(features: Sequence[Tensor], order: int, variant: Any) -> None:
    if variant not in COLUMN_EPS:
        raise unknown("SCG variant", variant, COLUMN_EPS)
    if order < 1:
        raise UserError(f"SCG's order must be at least 1, got {order}.")
    if not len(features):
        raise UserError("SCG needs the features of at least one level, got none.")
    shapes = [tuple(level.shape) for level in features]
    if len(shapes[0]) != 4 or any(_grid(level) != _grid(features[0]) for level in features):
        raise UserError(
            f"SCG needs features (B, C, h, w) of one grid, got {', '.join(map(str, shapes))}. "
            "Resize them first (resize_features)."
        )
