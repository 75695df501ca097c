"""Certain filter of EdgePredictMix (Jo, Yu, Kim, arXiv 2204.06754): a map speaks only where it is
sure. High scores become the class, low ones background, everything between is left unlabelled.

The thresholds are those of the released run tag; which limit is which, and that maps are not
rescaled before, was measured on the paper's figure. The guard against empty maps is ours.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wsssbench.errors import UserError

BACKGROUND = 0
IGNORE = 255


@torch.no_grad()
def certain_filter(
    maps: Tensor,
    labels: Tensor,
    *,
    certain: float = 0.55,
    uncertain: float = 0.10,
    valid: Tensor | None = None,
    guard_empty: bool = False,
) -> Tensor:
    """Pseudo-masks of the certain pixels; nothing is written into the arguments, no gradient.

    Args:
        maps: (B, K, H, W) floating point in [0, 1], foreground maps; compared as float32.
        labels: (B, K) bool or number, a class is present where it is > 0. Maps of absent classes
            have no say. An image without any class is background throughout.
        certain: a score of at least this gives the class.
        uncertain: a score of at most this gives background.
        valid: (B, H, W) bool, False where the crop was padded; None: valid everywhere.
        guard_empty: in images where a present class has no positive score on any valid pixel,
            teach no background: the pixels of the missing object must be somewhere. Off: the
            published filter.

    Returns:
        (B, H, W) int64: c + 1 for class index c (the lowest at equality), 0 background, 255 neither
        or padded. A score that is not a number counts as uncertain.

    Raises:
        UserError: shapes that do not fit, more than 254 classes, or limits that are not
            0 <= uncertain <= certain <= 1 with a positive `certain`.
    """
    check_arguments(maps, labels, valid, certain, uncertain)
    mask = decide(*strongest(maps, labels), certain, uncertain)
    if guard_empty:
        lacking = _has_empty_map(maps, labels, valid)[:, None, None]
        mask = mask.masked_fill((mask == BACKGROUND) & lacking, IGNORE)
    return (mask if valid is None else mask.masked_fill(~valid, IGNORE)).long()


def shares(mask: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """How much of the valid area a pseudo-mask teaches: the watch for shrinking seeds.

    Args:
        mask: (B, H, W) integer, 0 background, 255 ignore, else foreground.
        valid: (B, H, W) bool, pixels that count; None: all.

    Returns:
        Foreground, background and ignored, each a float32 scalar in [0, 1] on the mask's device;
        they add up to 1, or are all 0 if no pixel is valid.
    """
    if valid is None:
        valid = torch.ones_like(mask, dtype=torch.bool)
    background, ignored = (mask == BACKGROUND) & valid, (mask == IGNORE) & valid
    pixels = valid.sum().float()
    rest, empty = background.sum().float(), ignored.sum().float()
    total = pixels.clamp_min(1)
    return (pixels - rest - empty) / total, rest / total, empty / total


def check_arguments(
    maps: Tensor, labels: Tensor, valid: Tensor | None, certain: float, uncertain: float
) -> None:
    """Raises the `UserError`s of `certain_filter`."""
    if maps.ndim != 4 or not maps.is_floating_point():
        found = f"{maps.dtype} of shape {tuple(maps.shape)}"
        raise UserError(f"`maps` must be (B, K, H, W) floating point, got {found}.")
    if labels.shape != maps.shape[:2]:
        wanted, found = tuple(maps.shape[:2]), tuple(labels.shape)
        raise UserError(f"`labels` must be (B, K) = {wanted} as the maps are, got {found}.")
    size = (len(maps), *maps.shape[2:])
    if valid is not None and (valid.shape != size or valid.dtype != torch.bool):
        found = f"{valid.dtype} of shape {tuple(valid.shape)}"
        raise UserError(f"`valid` must be (B, H, W) = {size} bool, got {found}.")
    if maps.shape[1] >= IGNORE:
        raise UserError(
            f"{maps.shape[1]} classes do not fit into a mask: ids are 1..254, 255 means ignore. "
            "Give at most 254 classes."
        )
    check_limits(certain, uncertain)


def check_limits(certain: float, uncertain: float, where: str = "") -> None:
    """Raises the `UserError` of `certain_filter` about its limits; `where` is put before it."""
    if not 0 <= uncertain <= certain <= 1 or certain == 0:
        place = f"{where}: " if where else ""
        raise UserError(
            f"{place}certain = {certain!r}, uncertain = {uncertain!r}: give 0 <= uncertain <= "
            "certain <= 1 and certain > 0."
        )


def strongest(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of the present classes' maps at each pixel.

    Args:
        maps: (B, K, H, W) floating point in [0, 1].
        labels: (B, K), a class is present where it is > 0.

    Returns:
        (B, H, W) float32 score, 0 without a positive one; (B, H, W) uint8 id, class index + 1 (the
        lowest at equality), 0 without a positive score.
    """
    score = maps.new_zeros((len(maps), *maps.shape[2:]), dtype=torch.float32)
    ids = torch.zeros_like(score, dtype=torch.uint8)
    for candidate, index, _ in _present_maps(maps, labels):
        candidate = candidate.float()
        # Ids rise from step to step. Products, since choosing by noise is slow on a CPU.
        ids = torch.maximum(ids, (candidate > score) * (index + 1).to(torch.uint8)[:, None, None])
        score = torch.maximum(score, candidate)  # keeps what is not a number
    return score, ids


def decide(score: Tensor, ids: Tensor, certain: float, uncertain: float) -> Tensor:
    """(B, H, W) uint8: the id where the score is certain, 0 where it is low, 255 between."""
    sure = score >= certain
    between = ~(sure | (score <= uncertain))
    return ids * sure + between.to(torch.uint8) * IGNORE


def _has_empty_map(maps: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
    """(B,) bool: a present class has no positive score on any valid pixel."""
    lacking = torch.zeros(len(maps), dtype=torch.bool, device=maps.device)
    for candidate, _, there in _present_maps(maps, labels):
        positive = candidate > 0 if valid is None else (candidate > 0) & valid
        lacking |= there & ~positive.flatten(1).any(1)
    return lacking


def _present_maps(maps: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The first, second, … present class of all images: few steps, however many classes there are.

    Yields:
        (B, H, W) maps, 0 where the image has no further class; (B,) int64 class indices, ascending
        from step to step; (B,) bool, the image has this class.
    """
    present = labels > 0
    count = int(present.sum(1).max()) if present.numel() else 0
    order = present.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    rows = torch.arange(len(maps), device=maps.device)
    for index in order.T:
        there = present[rows, index]
        yield maps[rows, index].masked_fill_(~there[:, None, None], 0), index, there
