"""PAR, pixel-adaptive refinement (Ru et al., CVPR 2022, AFA): PAMR's propagation with other
weights. Colour differences are squared, and near neighbours weigh a little more than far ones.

A pixel's weights add up to 1.01, so values grow by that factor in every iteration, those of all
maps alike: an arg-max does not see it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsssbench.refinement.pamr import DILATIONS, RING, pamr_weights, propagate, resize_maps


@torch.no_grad()
def par(
    images: Tensor,
    maps: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
    sigma: float = 0.3,
    position: float = 0.01,
) -> Tensor:
    """Smooth score maps along the structure of their images.

    Args:
        images: (B, 3, H, W) float; scale and offset of a channel do not matter.
        maps: (B, C, h, w) float, any range; resized to H×W first (bilinear, align_corners True).
        iterations: number of times (VOC 10, COCO 15).
        dilations: distances of the rings of 8 neighbours, px.
        sigma: differences are measured in sigma times the local deviation.
        position: weight of the nearness, beside 1 for the colour.

    Returns:
        (B, C, H, W) float32, without gradient. A map of zeros stays so.

    Raises:
        UserError: shapes do not fit, or a setting makes no sense.
    """
    weights = par_weights(images, dilations=dilations, sigma=sigma, position=position)
    resized = resize_maps(maps, images.shape[-2:], align_corners=True)
    return propagate(weights, resized, iterations=iterations, dilations=dilations)


@torch.no_grad()
def par_weights(
    images: Tensor,
    *,
    dilations: Sequence[int] = DILATIONS,
    sigma: float = 0.3,
    position: float = 0.01,
) -> Tensor:
    """Weights of every pixel's neighbours, for `pamr.propagate`. Depend on the image: reuse them.

    Args:
        images: (B, 3, H, W) float.
        dilations: as for `par`, and so the next two.
        sigma: of the differences.
        position: weight of the nearness.

    Returns:
        (B, P, H, W) float32 > 0, sum 1 + position over the P = 8·len(dilations) neighbours.

    Raises:
        UserError: images of another shape, or a setting that makes no sense.
    """
    weights = pamr_weights(images, dilations=dilations, sigma=sigma, squared=True)
    distances = [d * (y * y + x * x) ** 0.5 for d in dilations for y, x in RING]
    far = torch.tensor(distances, device=images.device)
    nearness = (-(far / (sigma * far.std())).square()).softmax(0)
    return weights.add_(position * nearness[:, None, None])
