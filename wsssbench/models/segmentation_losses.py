"""Losses of the last stage's segmentation network on pseudo-masks.

Masks are reduced to the size of the logits the way PIL's nearest neighbour does it, by the centre
of each cell: the upper left pixel of each cell would shift them by half a cell.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

BACKGROUND, IGNORE = 0, 255


def masked_cross_entropy(
    logits: Tensor, mask: Tensor, *, balanced: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy over the pixels that are not 255.

    Args:
        logits: (B, K+1, h, w) float, background first.
        mask: (B, H, W) int64 of 0..K and 255; reduced to h×w.
        balanced: mean over the background's pixels plus mean over all others (as in DSRG; inferred
            from descriptions), so that a small object weighs as much as a large background.
        weights: (B, h, w) float, factors of the pixels' errors; means still divide by numbers.

    Returns:
        A scalar float32; a mean over no pixel is 0, with zero gradient.
    """
    target = reduce_mask(mask, logits.shape[-2:])
    error = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none")
    if weights is not None:
        error = error * weights
    counted = target != IGNORE
    if not balanced:
        return _mean(error, counted)
    background = target == BACKGROUND
    return _mean(error, background) + _mean(error, counted & ~background)


def msc_loss(pyramid: Sequence[Tensor], mask: Tensor, *, balanced: bool = False) -> Tensor:
    """Sum of the cross entropies of all logits of a `DeepLab.pyramid`.

    Args:
        pyramid: tensors (B, K+1, h, w) float, each of its own size.
        mask: (B, H, W) int64; reduced to each size.
        balanced: see `masked_cross_entropy`.

    Returns:
        A scalar float32.
    """
    return sum(masked_cross_entropy(logits, mask, balanced=balanced) for logits in pyramid)


def reduce_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) int64 -> (B, *size) int64, the pixel under the centre of each cell."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return F.interpolate(mask[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].long()


def _mean(error: Tensor, counted: Tensor) -> Tensor:
    return (error * counted).sum() / counted.sum().clamp_min(1)
