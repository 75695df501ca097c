"""AFA's affinity (Ru et al., CVPR 2022): for any two positions of a grid at most `radius` apart,
whether they show one class. What it learns from, its loss, and one step of a random walk with it.

Dense, (B, N, N) for the N = h·w positions, since it comes from attention. The releases fill the
window of partners in a loop and zero the affinity in place; here the window is broadcast, and no
argument is written to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.refinement.certain_filter import IGNORE


def window(size: Sequence[int], radius: int, device: torch.device | None = None) -> Tensor:
    """(N, N) bool: pairs at most `radius` rows and `radius` columns apart, each with itself.

    Args:
        size: (h, w) of the grid.
        radius: >= 0.
        device: of the result.
    """
    rows, columns = (torch.arange(side, device=device) for side in size)
    near_rows, near_columns = ((x[:, None] - x).abs() <= radius for x in (rows, columns))
    near = near_rows[:, None, :, None] & near_columns[None, :, None]
    return near.flatten(2).flatten(0, 1)


def equal_pairs(labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Which pairs of the window are of one class (background too) and which of two.

    Args:
        labels: (B, h, w) integer, 0..K or 255, not known.
        radius: of the window.

    Returns:
        Two (B, N, N) bool; False in both: a label is not known, or too far apart.
    """
    flat = labels.flatten(1)
    known = flat != IGNORE
    known = known[:, :, None] & known[:, None] & window(labels.shape[1:], radius, labels.device)
    same = flat[:, :, None] == flat[:, None]
    return known & same, known & ~same


def pair_loss(affinity: Tensor, labels: Tensor, radius: int) -> Tensor:
    """L_aff: affinity 1 for pairs of one class, 0 for two, half the loss each; over the batch.

    Args:
        affinity: (B, N, N) float in [0, 1].
        labels: (B, h, w) integer with h·w = N, 255 where not known.
        radius: of the window.

    Returns:
        A scalar float32; 0 where no pair is known.

    Raises:
        UserError: shapes do not fit.
    """
    _check(affinity, labels.shape)
    affinity = affinity.float()
    same, different = equal_pairs(labels, radius)
    apart = ((1 - affinity) * same).sum() / (same.sum() + 1)
    together = (affinity * different).sum() / (different.sum() + 1)
    return (apart + together) / 2


@torch.no_grad()
def step(affinity: Tensor, scores: Tensor, radius: int) -> Tensor:
    """One step of a random walk: scores spread to alike positions of the window.

    Args:
        affinity: (B, N, N) float in [0, 1]; squared, then each column divided by its sum + 0.1.
        scores: (B, C, h, w) float, any range, with h·w = N.
        radius: of the window.

    Returns:
        (B, C, h, w) float32, without gradient. A map of zeros stays so.

    Raises:
        UserError: shapes do not fit.
    """
    _check(affinity, (len(scores), *scores.shape[2:]))
    with torch.autocast(scores.device.type, enabled=False):
        near = window(scores.shape[2:], radius, scores.device)
        weights = (affinity.float() * near).square_()
        weights /= weights.sum(1, keepdim=True) + 0.1
        return (scores.flatten(2).float() @ weights).view_as(scores)


def _check(affinity: Tensor, shape: Sequence[int]) -> None:
    count, height, width = shape
    wanted = (count, height * width, height * width)
    if affinity.shape != wanted:
        raise UserError(
            f"Affinities of {count} grids of {height}×{width} must be {wanted}, got "
            f"{tuple(affinity.shape)}."
        )
