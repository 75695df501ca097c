"""Multi-scaled distribution-weighted consistency (MSDW): losses of SFC (Zhao et al., AAAI 2024)."""

import torch
from torch import Tensor

from wsssbench.methods.multiscale import normalise_max
from wsssbench.models.pcm import resize_aligned

TINY = 1e-12


def distribution_coefficient(counts: Tensor, extra: float) -> Tensor:
    """DC: sum of a class's distances from the other counts, relative to its own; mean 1.

    Large for rare classes, and for a frequent one only if it stands alone among many. Equal counts
    give ones, as no counts at all do. Classes of no image take no part and have weight 1.

    Args:
        counts: (K,) images per class.
        extra: added to each count in the divisor, for the images that the bank repeats.

    Returns:
        (K,) float32.
    """
    counts, there = counts.float(), counts > 0
    distance = ((counts[:, None] - counts).abs() * there).sum(1)
    found = distance / (counts + extra).clamp_min(1) * there
    mean = found.sum() / there.sum().clamp_min(1)
    return torch.where(there & (mean > 0), found / mean.clamp_min(TINY), torch.ones_like(found))


def prototype_loss(
    maps: Tensor, found: Tensor, weights: Tensor, counted: Tensor | None = None
) -> Tensor:
    """L_P without its factor: distance of M_W and M_P, which is divided by its maximum.

    Args:
        maps: (B, K+1, h, w) float32.
        found: the same; both receive the gradient.
        weights: (K,) of the classes; the background's is 1.
        counted: (B, K+1, 1, 1) channels in the mean, 0/1; None: all.

    Returns:
        A scalar.
    """
    error = (maps - normalise_max(found)).abs().mean((2, 3))
    return _mean(error * torch.cat([weights.new_ones(1), weights]), counted)


def scale_loss(
    maps: Tensor,
    reduced: Tensor,
    present: Tensor,
    weights: Tensor,
    counted: Tensor | None = None,
) -> Tensor:
    """L_W without its factor: distance of M_W, made smaller, from that of the smaller image.

    Args:
        maps: (B, K+1, h, w) float32.
        reduced: (B, K+1, h', w') float32; both receive the gradient.
        present: (B, K+1, 1, 1) of zeros and ones; the background takes no part.
        weights: (K,) of the classes.
        counted: as for `prototype_loss`.

    Returns:
        A scalar.
    """
    error = (resize_aligned(maps, reduced.shape[-2:]) - reduced) * present
    error = error[:, 1:].abs().mean((2, 3)) * weights
    return _mean(error, None if counted is None else counted[:, 1:])


def _mean(error: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of (B, C) over everything, or over the counted entries."""
    if counted is None:
        return error.mean()
    counted = counted.flatten(1)
    return (error * counted).sum() / counted.sum().clamp_min(1)
