"""Coefficient of variation smoothing (PMM: Li et al., ICCV 2021): the more uneven a map, the more
its weak part is lifted.

The release computes the deviation in half precision, where it overflows for a large object and the
whole image becomes foreground; here it is float32.
"""

import torch
from torch import Tensor

SMALLEST_POWER = 0.05  # keeps the order of values whatever the scale


@torch.no_grad()
def cvs(maps: Tensor, *, scale: float = 0.3, threshold: float = 0.05) -> Tensor:
    """Raise each map to the power 1 - scale · deviation / mean of its values above a threshold.

    Args:
        maps: (..., H, W) float, usually in [0, 1].
        scale: gamma; 0 smooths nothing.
        threshold: not negative; lower values become 0. Deviation and mean are those above it.

    Returns:
        Float32 of the same shape, without gradient; in each map the order of values is kept, 1
        stays 1, and of values in [threshold, 1] none is lowered.
    """
    with torch.autocast(maps.device.type, enabled=False):
        power = 1 - variation(maps, scale=scale, threshold=threshold)
        kept = maps.float().masked_fill(maps.float() < threshold, 0)
        return kept ** power.clamp_min(SMALLEST_POWER)[..., None, None]


@torch.no_grad()
def variation(maps: Tensor, *, scale: float = 0.3, threshold: float = 0.05) -> Tensor:
    """What `cvs` takes off the power of (..., H, W) maps: (...) float32, 0 where nothing is active.

    The deviation is that of the population.
    """
    values = maps.float().flatten(-2)
    active = values > threshold
    count = active.sum(-1).clamp_min(1)
    mean = (values * active).sum(-1) / count
    square = ((values - mean[..., None]).square() * active).sum(-1) / count
    return torch.where(active.any(-1), scale * square.sqrt() / mean, 0.0)
