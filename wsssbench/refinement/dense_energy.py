"""Dense energy (Tang et al., ECCV 2018, in the form of AFA and CoSA): segmentation is cheap where
pixels of like colour, however far apart, have like probabilities.

The Gaussian is that of the permutohedral lattice, about half of the true one. As released, pixels
weigh by how unsure they are (all of them where the pseudo-mask says nothing), and the gradient
takes kernel and weight as symmetric: -2·weight·filtered, exact where the weights are equal.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.refinement.pamr import one_thread
from wsssbench.refinement.permutohedral import build_lattice, filter_values

IGNORE = 255
APART = 12.0  # standard deviations between two images; the lattice's filter reaches half as far


def dense_energy(
    logits: Tensor,
    images: Tensor,
    mask: Tensor,
    valid: Tensor,
    *,
    sxy: float = 100.0,
    srgb: float = 15.0,
    scale: float = 0.5,
    weight: float = 1e-7,
) -> Tensor:
    """Energy of a batch; negative, and lower the more like pixels agree.

    Args:
        logits: (B, L, H, W) float at the size of the images, background first.
        images: (B, 3, H, W) float RGB in [0, 255].
        mask: (B, H, W) integer pseudo-mask; where it is 255 a pixel counts in full.
        valid: (B, H, W) bool, inside the picture.
        sxy: standard deviation of the distance, px of the image.
        srgb: standard deviation of the colour, grey levels.
        scale: images are reduced by it first.
        weight: factor.

    Returns:
        A float32 scalar with gradient to the logits only.
    """
    with torch.autocast(logits.device.type, enabled=False):
        size = [max(1, math.floor(side * scale)) for side in logits.shape[-2:]]
        shown = _nearest(valid, size)
        probabilities = F.interpolate(
            logits.float().softmax(1), size, mode="bilinear", align_corners=False
        )
        unsure = (shown - probabilities.detach().amax(1, keepdim=True)).clamp_min(0)
        gate = torch.where(_nearest(mask, size) == IGNORE, 1.0, unsure)
        seen = probabilities * shown
        pixels = F.interpolate(images.float(), size, mode="nearest")
        filtered = gaussian(pixels, seen.detach(), sxy * scale, srgb)
        energy = -weight / len(logits) * (seen * (gate * filtered)).sum()
        return 2 * energy - energy.detach()  # the value once, its gradient twice


@torch.no_grad()
def gaussian(pixels: Tensor, values: Tensor, sxy: float, srgb: float) -> Tensor:
    """Values added up over each image with the Gaussian of distance and colour, by the lattice.

    One lattice holds all images. They stand APART in it, by a multiple of its period so that every
    image finds the simplices that it finds alone (but for points on an edge between two).

    Args:
        pixels: (B, 3, h, w) float RGB.
        values: (B, L, h, w) float32.
        sxy: standard deviation of the distance, px.
        srgb: standard deviation of the colour.

    Returns:
        (B, L, h, w) float32.
    """
    images, _, height, width = pixels.shape
    period = math.sqrt(3)
    step = period * math.ceil(((width - 1) / sxy + APART) / period)
    y, x = (torch.arange(side, device=pixels.device) / sxy for side in (height, width))
    x = x + step * torch.arange(images, device=pixels.device)[:, None, None]
    place = torch.stack(torch.broadcast_tensors(x, y[:, None]))  # (2, B, h, w)
    features = torch.cat([place, pixels.float().transpose(0, 1) / srgb]).flatten(1)
    with one_thread(pixels.device):
        rows = values.movedim(1, -1).flatten(0, -2).contiguous()
        found = filter_values(build_lattice(features.contiguous()), rows)
    return found.view(images, height, width, -1).movedim(-1, 1)


def _nearest(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x[:, None].float(), size, mode="nearest")
