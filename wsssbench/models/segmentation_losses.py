"""Losses of segmentation networks on pseudo-masks: decoders and the last stage's network.

Masks are reduced to the size of the logits the way PIL's nearest neighbour does it, by the centre
of each cell: the upper left pixel of each cell would shift them by half a cell.

Pretended under-fitting (PMM: Li et al., ICCV 2021) takes the noise of the masks out of a network
that fits the bulk of them. Departs from the release: gate and mean leave ignored pixels out, which
there count as zeros; the gate sees the batch of a process, there of two images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import unknown

BACKGROUND, IGNORE = 0, 255
UNDERFIT = ("clamp", "ignore", "pow")


def masked_cross_entropy(
    logits: Tensor,
    mask: Tensor,
    *,
    balanced: bool = False,
    weights: Tensor | None = None,
    puf: Mapping[str, Any] | None = None,
) -> Tensor:
    """Mean cross entropy over the pixels that are not 255.

    Args:
        logits: (B, K+1, h, w) float, background first.
        mask: (B, H, W) int64 of 0..K and 255; reduced to h×w.
        balanced: mean over the background's pixels plus mean over all others (as in DSRG; inferred
            from descriptions), so that a small object weighs as much as a large background.
        weights: (B, h, w) float, factors of the pixels' errors; means still divide by numbers.
        puf: settings of `underfit`; None for plain cross entropy.

    Returns:
        A scalar float32; a mean over no pixel is 0, with zero gradient.
    """
    target = reduce_mask(mask, logits.shape[-2:])
    error = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none")
    if weights is not None:
        error = error * weights
    counted = target != IGNORE
    if puf:
        error = underfit(error, _mean(error, counted), **puf)
    if not balanced:
        return _mean(error, counted)
    background = target == BACKGROUND
    return _mean(error, background) + _mean(error, counted & ~background)


def msc_loss(
    pyramid: Sequence[Tensor],
    mask: Tensor,
    *,
    balanced: bool = False,
    puf: Mapping[str, Any] | None = None,
) -> Tensor:
    """Sum of the cross entropies of all logits of a `DeepLab.pyramid`.

    Args:
        pyramid: tensors (B, K+1, h, w) float, each of its own size.
        mask: (B, H, W) int64; reduced to each size.
        balanced: see `masked_cross_entropy`.
        puf: likewise; each of the logits has a gate of its own.

    Returns:
        A scalar float32.
    """
    return sum(masked_cross_entropy(logits, mask, balanced=balanced, puf=puf) for logits in pyramid)


def underfit(
    error: Tensor, mean: Tensor, *, mode: str = "clamp", beta: float = 0.5, k: float = 0.5
) -> Tensor:
    """Pretended under-fitting of the losses of single pixels.

    Args:
        error: float32 of any shape, >= 0.
        mean: scalar, the loss of the whole. Where it is not below `beta` nothing changes.
        mode: clamp: at most `k`. ignore: 0 above `k`; the same gradient. pow: to the power `k`.
        beta: opens the gate (paper's code: .5 on VOC, .8 on COCO).
        k: clamp, ignore: a pixel learns while its class has more than exp(-k) (the same .5 and
            .8); pow: the exponent.

    Returns:
        As `error`.

    Raises:
        UserError: no such mode.
    """
    if mode == "clamp":
        changed = error.clamp_max(k)
    elif mode == "ignore":
        changed = error * (error <= k)
    elif mode == "pow":
        changed = (error + 1e-9) ** k
    else:
        raise unknown("mode of pretended under-fitting", mode, UNDERFIT)
    return torch.where(mean < beta, changed, error)


def reduce_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) of any type -> (B, *size) of the same, the pixel under the centre of each cell."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    small = F.interpolate(mask[:, None].float(), tuple(size), mode="nearest-exact")[:, 0]
    return small.to(mask.dtype)


def _mean(error: Tensor, counted: Tensor) -> Tensor:
    return (error * counted).sum() / counted.sum().clamp_min(1)
