"""Several views of one image -> one set of class activation maps. See cam.py for the networks.

The reference is IRNet's way (Ahn et al., CVPR 2019): rectify each view, add the mirrored one,
resize, add the scales, crop, divide by the maximum of each map. PSA's and SEAM's ways differ in
the resize and in the normalisation; both are kept because published figures were made with them.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.models.decoder import resize

EPS = 1e-5
GRID_PX = 16
OWN_BACKGROUND = 0.5  # threshold of maps that were weighed `against_background`
Merge = Literal["irn", "psa", "seam", "afa"]


def make_views(images: Tensor, scale: float, flip: bool) -> Tensor:
    """(B, 3, H, W) -> (V·B, 3, round(H·scale), round(W·scale)), the mirrored images last.

    V is 2 with `flip`, else 1. Bicubic with antialiasing, as PIL resizes; scale 1 leaves the
    pixels untouched.
    """
    if scale != 1.0:
        size = [max(1, round(side * scale)) for side in images.shape[-2:]]
        images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([images, images.flip(-1)]) if flip else images


def merge_views(
    views: Sequence[Tensor], size: tuple[int, int], *, stride: int = 1, merge: Merge = "irn"
) -> Tensor:
    """Raw class scores of all views -> normalised maps.

    Args:
        views: one tensor per scale, (B, V, K, h, w) float, before the ReLU; V = 1, or 2 with the
            scores of the mirrored image second (still mirrored).
        size: (H, W) of the image, px.
        stride: 1 gives maps of H×W ("high_res"), s > 1 maps of ceil(H/s)×ceil(W/s) ("strided").
            Both are resized from the network's grid; one is not a reduction of the other.
        merge: `irn` (reference), `psa`, `seam` (min-max; clamped at 0, where the released script
            yields small negative values and -1 for an empty map), or `afa` (the higher of the two
            mirrored views; min-max).

    Returns:
        (B, K, h', w') float32 in [0, 1); a map without any positive score is all zero.
    """
    height, width = size
    target = (-(-height // stride), -(-width // stride))
    if merge == "irn" and stride == 1:
        target = tuple(-(-side // GRID_PX) * GRID_PX for side in size)
    total: Tensor | float = 0.0
    for view in views:
        score = view.float() if merge == "afa" else view.float().relu()
        if merge == "irn":  # the mirrored view joins on the network's grid, before the resize
            total = total + resize(unflip(score).sum(1), target)
        else:
            resized = unflip(resize(score.flatten(0, 1), target).unflatten(0, score.shape[:2]))
            total = total + (resized.amax(1).relu() if merge == "afa" else resized.sum(1))
    if stride == 1:
        total = total[..., :height, :width]
    if merge == "seam":
        return normalise_minmax(total)
    if merge == "afa":
        total = total - total.amin((-2, -1), keepdim=True)
    return normalise_max(total)


def normalise_max(maps: Tensor) -> Tensor:
    """Divide each non-negative map (..., h, w) by its maximum + 1e-5."""
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + EPS)


def normalise_minmax(maps: Tensor) -> Tensor:
    """SEAM's min-max normalisation of (..., h, w), clamped to [0, 1]."""
    maps = maps.relu()
    low = maps.amin(dim=(-2, -1), keepdim=True)
    high = maps.amax(dim=(-2, -1), keepdim=True)
    maps = maps.masked_fill(maps < low + EPS, 0)
    return ((maps - low - EPS) / (high - low + EPS)).clamp_min(0)


def equivalent_threshold(alpha: float) -> float:
    """The root t of t = (1-t)^alpha: (1-v)^alpha beats v exactly where v < t.

    So the background rule (1 - max)^alpha of PSA and SEAM is a threshold: 4 -> .2755, 16 -> .1228.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < (1 - middle) ** alpha else (low, middle)
    return low


def with_background(maps: Tensor, threshold: float) -> Tensor:
    """(B, K, h, w) foreground maps -> (B, K+1, h, w) with a constant background map in front.

    An argmax over the result gives the background at equality.
    """
    background = torch.full_like(maps[:, :1], threshold)
    return torch.cat([background, maps], dim=1)


def against_background(maps: Tensor, background: Tensor) -> Tensor:
    """Weigh classes against a background map: each divided by the sum of it and the highest class.

    The classes keep their order and ratios, and the highest is above .5 exactly where it beats the
    background. So threshold .5 is the arg max over classes and background, and any other, t,
    multiplies the background by t / (1 - t).

    Args:
        maps: (B, K, h, w) float32, 0 or more.
        background: (B, 1, h, w) float32, 0 or more.

    Returns:
        (B, K, h, w) float32 in [0, 1]; 0 where all are 0.
    """
    return maps / (background + maps.amax(1, keepdim=True)).clamp_min(1e-12)


def unflip(views: Tensor) -> Tensor:
    """(B, V, …, w) with the mirrored view second, if there is one -> both the right way round."""
    if views.shape[1] == 1:
        return views
    return torch.stack([views[:, 0], views[:, 1].flip(-1)], dim=1)
