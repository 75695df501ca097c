"""Proportional pseudo-mask generation (PMM: Li et al., ICCV 2021): each class claims its pixels
alone, by a dense CRF of its own; where claims overlap, the class wins that has the larger share of
its own mass there. Scores of independent classifiers are never compared.

Favours small objects over large ones that they overlap. In float32 throughout, unlike the release.
Expected: VOC 2012 val 61.5 mIoU as masks (quoted from the paper's table 2).
"""

import numpy as np
import torch
from torch import Tensor

from wsssbench.refinement.cvs import cvs
from wsssbench.refinement.dense_crf import binary_crf, unary_from_scores

CRF = {"iterations": 10, "gaussian": (10, 3), "bilateral": (10, 80, 13)}


@torch.no_grad()
def ppmg(
    image: np.ndarray | Tensor,
    maps: Tensor,
    *,
    alpha: float = 11.0,
    scale: float = 0.3,
    threshold: float = 0.05,
) -> Tensor:
    """The mask of an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        maps: (N, H, W) float in [0, 1], only of the classes that the image shows; N may be 0.
        alpha: a smoothed score u has the background (1 - u) ** alpha against it; 11 is a threshold
            of 0.156.
        scale: of `cvs`; 0 leaves the smoothing out.
        threshold: of `cvs`.

    Returns:
        (H, W) int64: 0 background, n for the n-th map.

    Raises:
        UserError: as `dense_crf`.
    """
    maps = maps.float()
    if not len(maps):
        return torch.zeros(maps.shape[1:], dtype=torch.long, device=maps.device)
    smooth = cvs(maps, scale=scale, threshold=threshold)
    pairs = torch.stack([(1 - smooth).clamp_min(0) ** alpha, smooth], 1)
    return proportional(maps, binary_crf(image, unary_from_scores(pairs), **CRF) > 0.5)


def proportional(maps: Tensor, claims: Tensor) -> Tensor:
    """Give each pixel to the claiming class with the largest share.

    Args:
        maps: (N, H, W) float32, N > 0.
        claims: (N, H, W) bool.

    Returns:
        (H, W) int64: n for the n-th map; 0 where no class claims the pixel, or none with a score
        above 0.
    """
    won = shares(maps, claims) * claims
    nobody = ~claims.any(0, keepdim=True)
    return torch.cat([nobody.to(won), won]).argmax(0)  # at a tie the first, which is background


def shares(maps: Tensor, claims: Tensor) -> Tensor:
    """(N, H, W) float32: each map divided by 1 + its sum over the pixels that it claims."""
    return maps / (1 + (maps * claims).sum((1, 2), keepdim=True))
