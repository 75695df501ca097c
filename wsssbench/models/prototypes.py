"""Image-specific class prototypes, as in SIPE (Chen et al., CVPR 2022, arXiv 2203.02909) and SFC.

Side layers bring four stages to one feature per position; a prototype is the mean feature over a
class's seed; every position is compared with every prototype. Two batched matrix products, with no
tensor of classes × channels × positions as in the releases, which is 1.3 GB for 20 images of VOC.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wsssbench.models.decoder import resize

EPS = 1e-5
TINY = 1e-8  # below which a vector counts as zero in the cosine
LEVELS = ("C2", "C3", "C4", "C5")
GRID = "C4"  # the stage at whose size features and maps are compared


class SideFeatures(nn.Module):
    """Hierarchical features: each stage through a 1×1 layer, to unit length, side by side.

    The stages are cut off: no gradient reaches the backbone. float32 under autocast too.

    Args:
        channels: {"C2": …, "C5": …} of the backbone.
        widths: channels of the four parts (paper: 128, 128, 256, 256).
    """

    def __init__(self, channels: Mapping[str, int], widths: Sequence[int] = (128, 128, 256, 256)):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[level], width, 1, bias=False)
            for level, width in zip(LEVELS, widths, strict=True)
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """{"C2": (B, channels, …), …} -> (B, sum of widths, h, w) float32 at the size of C4."""
        parts, size = [], features[GRID].shape[-2:]
        with torch.autocast(features[GRID].device.type, enabled=False):
            for level, layer in zip(LEVELS, self.layers):
                part = layer(features[level].detach().float())
                part = part / (part.norm(dim=1, keepdim=True) + EPS)
                parts.append(resize(part, size))
        return torch.cat(parts, 1)


def winner(scores: Tensor, allowed: Tensor) -> Tensor:
    """Seeds: each position goes to its highest channel, if that is allowed there.

    Args:
        scores: (B, C, h, w) float; ties go to the lowest channel.
        allowed: 0/1 or bool, broadcast to (B, C, h, w).

    Returns:
        (B, C, h, w) float32 of zeros and ones, without gradient.
    """
    channels = torch.arange(scores.shape[1], device=scores.device)[:, None, None]
    return ((scores.argmax(1, keepdim=True) == channels) & (allowed > 0)).float()


def prototypes(features: Tensor, seeds: Tensor) -> Tensor:
    """Sum of the features over each seed, divided by the number of all positions.

    Args:
        features: (B, D, h, w) float32.
        seeds: (B, C, h, w) float32.

    Returns:
        (B, C, D) float32; 0 for an empty seed.
    """
    return torch.einsum("bcn,bdn->bcd", seeds.flatten(2), features.flatten(2)) / (
        seeds[0, 0].numel()
    )


def reactivate(features: Tensor, prototypes: Tensor) -> Tensor:
    """relu(cosine) of every position with every prototype.

    Args:
        features: (B, D, h, w) float32.
        prototypes: (B, C, D) float32, any length.

    Returns:
        (B, C, h, w) float32 in [0, 1] up to rounding; 0 where a vector is 0.
    """
    flat = features.flatten(2)
    unit = prototypes / prototypes.norm(dim=2, keepdim=True).clamp_min(TINY)
    cosine = unit @ flat / flat.norm(dim=1, keepdim=True).clamp_min(TINY)
    return cosine.relu().unflatten(2, features.shape[-2:])
