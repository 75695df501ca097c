"""What affinities learn from (AffinityNet, CVPR 2018; IRNet, CVPR 2019): seeds, the pixels whose
class is certain, and for each pair of them whether both show the same class.

A dense CRF sharpens the seeds in both releases; it is handed in as a function, None leaves it out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.refinement.certain_filter import BACKGROUND, IGNORE
from wsssbench.refinement.pairs import directions, shifted

LabelCrf = Callable[[Tensor, Tensor, int], Tensor]  # image, mask, number of labels -> mask
ScoreCrf = Callable[[Tensor, Tensor], Tensor]  # image, scores -> scores
NO_SCORE = 1e-5  # below it in all channels: outside the image


class PairLabels(NamedTuple):
    """Pair tensors (B, D, h-f, w-2f) bool; False in all three: unknown.

    Attributes:
        bg_pos: both are background.
        fg_pos: both are of the same class.
        neg: they differ.
    """

    bg_pos: Tensor
    fg_pos: Tensor
    neg: Tensor


@torch.no_grad()
def pair_labels(labels: Tensor, radius: int, num_classes: int) -> PairLabels:
    """Which pairs belong together, as far as both ends are known.

    Args:
        labels: (B, h, w) integer, 0 background, 1..K class; anything else is unknown.
        radius: R >= 2 of the pairs.
        num_classes: K, without background.

    Raises:
        UserError: another shape, no such radius, or a map too small for it.
    """
    if labels.ndim != 3 or labels.is_floating_point():
        found = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise UserError(f"Labels of pairs must be (B, h, w) integers, got {found}.")
    source = shifted(labels, (0, 0), radius)
    partner = torch.stack([shifted(labels, step, radius) for step in directions(radius)], dim=1)
    source = source.unsqueeze(1)
    known = (source >= 0) & (source <= num_classes) & (partner >= 0) & (partner <= num_classes)
    same, background = known & (source == partner), source == BACKGROUND
    return PairLabels(same & background, same & ~background, known & ~same)


@torch.no_grad()
def irn_seeds(
    maps: Tensor,
    classes: Sequence[int],
    *,
    foreground: float = 0.30,
    background: float = 0.05,
    image: Tensor | None = None,
    crf: LabelCrf | None = None,
) -> Tensor:
    """IRNet's seeds: a class where it is certain, background where nothing is even likely.

    Args:
        maps: (K', H, W) float in [0, 1], maps of the image's classes only.
        classes: K' ids from 1 on, one for each map. Without any, all is background.
        foreground: a class must exceed this to be certain.
        background: it must exceed this to prevent background.
        image: (H, W, 3) uint8, for the CRF.
        crf: (image, mask (H, W) int64 of 0..K', K' + 1) -> mask of the same kind.

    Returns:
        (H, W) int64: 0, an id, or 255 where unsure.

    Raises:
        UserError: shapes do not fit, ids or thresholds that make no sense, a CRF without image.
    """
    if maps.ndim != 3 or len(classes) != len(maps):
        raise UserError(
            f"IRNet's seeds need a map (K, H, W) for each of {len(classes)} classes, got "
            f"{tuple(maps.shape)}."
        )
    if not 0 <= background <= foreground <= 1:
        raise UserError(
            f"foreground = {foreground!r}, background = {background!r}: give 0 <= background <= "
            "foreground <= 1."
        )
    _check_maps(maps)
    masks = []
    for threshold in (foreground, background):
        scores = torch.cat([maps.new_full((1, *maps.shape[1:]), threshold), maps])
        mask = scores.argmax(0)  # the first of equals: background at the threshold itself
        if crf is not None and len(maps):
            result = crf(_needed(image, mask.shape), mask, len(maps) + 1)
            mask = _same_size(result, mask.shape).to(mask)
        masks.append(mask)
    return join_irn_seeds(*masks, classes)


@torch.no_grad()
def join_irn_seeds(certain: Tensor, likely: Tensor, classes: Sequence[int]) -> Tensor:
    """The two masks of IRNet, from the high and from the low threshold, as one.

    Args:
        certain: (H, W) integer of 0..K', positions in `classes` counted from 1, 0 background.
        likely: the same from the low threshold.
        classes: K' ids from 1 on.

    Returns:
        (H, W) int64: the id where it is certain, 0 where both masks say background, else 255.

    Raises:
        UserError: ids outside 1..254.
    """
    if not all(BACKGROUND < number < IGNORE for number in classes):
        raise UserError(f"Class ids must be 1..254, got {list(classes)}.")
    ids = torch.tensor([IGNORE, *classes], device=certain.device)
    return ids[certain.long()].masked_fill_((certain == 0) & (likely == 0), BACKGROUND)


@torch.no_grad()
def psa_scores(
    maps: Tensor, alpha: float, *, image: Tensor | None = None, crf: ScoreCrf | None = None
) -> Tensor:
    """AffinityNet's scores: background is (1 - the strongest map) to the power of alpha.

    Args:
        maps: (K', H, W) float in [0, 1], maps of the image's classes only, any K'.
        alpha: > 0. For `psa_seeds` 4 makes the background strong, 32 weak (paper and SEAM: 24);
            for the walk 16 (SEAM: 6).
        image: (H, W, 3) uint8, for the CRF.
        crf: (image, scores (K' + 1, H, W) float32) -> scores of the same kind.

    Returns:
        (K' + 1, H, W) float32 in [0, 1], background first.

    Raises:
        UserError: another shape, alpha that makes no sense, a CRF without image.
    """
    if maps.ndim != 3:
        raise UserError(f"AffinityNet's scores need maps (K, H, W), got {tuple(maps.shape)}.")
    if not alpha > 0:
        raise UserError(f"alpha is {alpha!r}; give a number above 0.")
    _check_maps(maps)
    maps = maps.float()
    strongest = maps.amax(0, keepdim=True) if len(maps) else maps.new_zeros(1, *maps.shape[1:])
    scores = torch.cat([(1 - strongest).pow(alpha), maps])
    if crf is None or not len(maps):
        return scores
    return _same_size(crf(_needed(image, maps.shape[1:]), scores), scores.shape).to(scores)


@torch.no_grad()
def psa_seeds(strong: Tensor, weak: Tensor, *, stride: int = 8) -> Tensor:
    """AffinityNet's seeds: a class that outdoes a strong background, background even if weak.

    Args:
        strong: (K' + 1, H, W) float of `psa_scores` with a low alpha, cropped and mirrored as the
            image was, 0 in all channels where the crop was padded.
        weak: the same with a high alpha.
        stride: of the features.

    Returns:
        (ceil(H/stride), ceil(W/stride)) int64: 0, a position in the image's classes counted from
        1, or 255 where unsure or padded.

    Raises:
        UserError: shapes do not fit.
    """
    if strong.ndim != 3 or strong.shape != weak.shape or not len(strong):
        found = f"{tuple(strong.shape)} and {tuple(weak.shape)}"
        raise UserError(f"AffinityNet's seeds need two (K + 1, H, W) of one size, got {found}.")
    strong, weak = pool_scores(strong, stride), pool_scores(weak, stride)
    labels = strong.argmax(0)
    labels = labels.masked_fill_(labels == BACKGROUND, IGNORE)
    labels = labels.masked_fill_(weak.argmax(0) == BACKGROUND, BACKGROUND)
    return labels.masked_fill_(torch.maximum(strong, weak).amax(0) < NO_SCORE, IGNORE)


def pool_scores(scores: Tensor, stride: int = 8) -> Tensor:
    """(C, H, W) -> (C, ceil(H/stride), ceil(W/stride)) float32 means; right and below 0 is added.

    What AffinityNet's walk starts from.
    """
    height, width = scores.shape[1:]
    padded = F.pad(scores.float(), (0, -width % stride, 0, -height % stride))
    return F.avg_pool2d(padded[None], stride)[0]


def shrink(labels: Tensor, stride: int = 4) -> Tensor:
    """Labels on the grid of features: pixel stride·i + stride // 2, as PIL's nearest does.

    Args:
        labels: (…, H, W) integer.
        stride: of the features.

    Returns:
        (…, ceil(H/stride), ceil(W/stride)), 255 where that pixel lies outside. PIL itself drifts
        where H is no multiple of the stride; this does not.
    """
    height, width = labels.shape[-2:]
    padded = F.pad(labels, (0, -width % stride, 0, -height % stride), value=IGNORE)
    return padded[..., stride // 2 :: stride, stride // 2 :: stride]


def _check_maps(maps: Tensor) -> None:
    if not bool(((maps >= 0) & (maps <= 1)).all()):
        raise UserError(
            "Maps for seeds must lie in [0, 1]; there are other values, or some that are not "
            "numbers."
        )


def _needed(image: Tensor | None, size: Sequence[int]) -> Tensor:
    """The image that the CRF looks at."""
    if image is None or image.shape != (*size, 3):
        found = None if image is None else tuple(image.shape)
        raise UserError(
            f"A CRF of seeds needs the image {(*size, 3)} beside the maps, got {found}."
        )
    return image


def _same_size(result: Tensor, shape: Sequence[int]) -> Tensor:
    if result.shape != shape:
        raise UserError(f"The CRF of seeds must return {tuple(shape)}, got {tuple(result.shape)}.")
    return result
