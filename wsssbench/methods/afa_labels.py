"""Pseudo-labels of AFA (Ru et al., CVPR 2022): background scored high and low, PAR at half the size
of the image, and what both agree on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from wsssbench.methods.readout import PamrSettings
from wsssbench.models.decoder import resize
from wsssbench.refinement.affinity_labels import join_irn_seeds
from wsssbench.refinement.attention_affinity import step
from wsssbench.refinement.certain_filter import IGNORE
from wsssbench.refinement.pamr import resize_maps
from wsssbench.refinement.par import par_weights


@dataclass(frozen=True)
class ParSettings(PamrSettings):
    """Reach and sharpness of PAR, see `refinement.par`."""

    sigma: float = 0.3
    position: float = 0.01

    def weights(self, images: Tensor) -> Tensor:
        """Neighbours' weights of (B, 3, H, W) images; depend on the image only."""
        return par_weights(
            images, dilations=self.dilations, sigma=self.sigma, position=self.position
        )


@torch.no_grad()
def par_labels(
    images: Tensor,
    cams: Tensor,
    present: Tensor,
    valid: Tensor,
    *,
    thresholds: tuple[float, float],
    par: ParSettings,
) -> Tensor:
    """Pseudo-labels from CAM and PAR, at half the size of the image.

    Args:
        images: (B, 3, H, W) float, normalised or not.
        cams: (B, K, H, W) float32 in [0, 1].
        present: (B, K) bool.
        valid: (B, H, W) bool, inside the picture.
        thresholds: high and low score of the background.
        par: settings of PAR.

    Returns:
        (B, H, W) int64: a class that beats the high background; 0 where the low one wins; else, and
        outside the picture, 255.
    """
    small = resize(cams, _half(images))
    scores = torch.cat([with_softmax(small, present, score) for score in thresholds], 1)
    return _join(refine_at_half(images, scores, _twice(present), par), valid)


@torch.no_grad()
def walked_labels(
    images: Tensor,
    cams: Tensor,
    present: Tensor,
    valid: Tensor,
    affinity: Tensor,
    grid: tuple[int, int],
    *,
    radius: int,
    thresholds: tuple[float, float],
    par: ParSettings,
) -> Tensor:
    """Pseudo-labels from the CAM after a step of the random walk, and PAR inside the picture.

    Args:
        images: as for `par_labels`, and so the next three.
        cams: (B, K, H, W).
        present: (B, K).
        valid: (B, H, W).
        affinity: (B, N, N) float in [0, 1] of the N positions of `grid`.
        grid: (h, w).
        radius: reach of the walk.
        thresholds: as for `par_labels`.
        par: settings of PAR.

    Returns:
        As `par_labels`.
    """
    small = resize(cams, grid)
    scores = torch.cat([with_softmax(small, present, score) for score in thresholds], 1)
    full = resize(step(affinity, scores, radius), images.shape[-2:])
    return _join(refine_inside(images, full, _twice(present), valid, par), valid)


def with_softmax(cams: Tensor, present: Tensor, background: float) -> Tensor:
    """(B, K, h, w) -> (B, K+1, h, w): softmax over a constant background and present classes."""
    scores = cams.float().masked_fill(~present[..., None, None], -torch.inf)
    return pad(scores, (0, 0, 0, 0, 1, 0), value=background).softmax(1)


def refine_at_half(images: Tensor, scores: Tensor, kept: Tensor, par: ParSettings) -> Tensor:
    """PAR at half the size of the images.

    Args:
        images: (B, 3, H, W) float.
        scores: (B, C, h, w) float.
        kept: (B, C) bool, the maps worth refining; the others become 0.
        par: settings of PAR.

    Returns:
        (B, C, H, W) float32.
    """
    half = _half(images)
    small = resize_maps(scores, half, align_corners=True)  # as PAR's release does
    refined = par.refine(par.weights(resize(images, half)), small, kept)
    return resize(refined, images.shape[-2:])


def refine_inside(
    images: Tensor, scores: Tensor, kept: Tensor, valid: Tensor, par: ParSettings
) -> Tensor:
    """`refine_at_half` of the part of each image that shows something; outside it 0.

    Args:
        images: (B, 3, H, W) float.
        scores: (B, C, H, W) float.
        kept: (B, C) bool, the maps worth refining.
        valid: (B, H, W) bool, a rectangle in each image.
        par: settings of PAR.

    Returns:
        (B, C, H, W) float32.
    """
    refined = torch.zeros_like(scores, dtype=torch.float32)
    for (top, bottom, left, right), members in _boxes(valid):
        part = (members, slice(None), slice(top, bottom), slice(left, right))
        refined[part] = refine_at_half(images[part], scores[part], kept[members], par)
    return refined


def _boxes(valid: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Each rectangle [top, bottom, left, right) of valid pixels, and the images that have it."""
    sides = []
    for line in (valid.any(2), valid.any(1)):
        sides += [line.int().argmax(1), line.shape[1] - line.flip(1).int().argmax(1)]
    boxes, which = torch.stack(sides, 1).unique(dim=0, return_inverse=True)
    for number, box in enumerate(boxes.tolist()):
        yield box, (which == number).nonzero()[:, 0]


def _join(scores: Tensor, valid: Tensor) -> Tensor:
    """One mask from the scores with high and those with low background, (B, 2(K+1), H, W)."""
    certain, likely = scores.unflatten(1, (2, -1)).argmax(2).unbind(1)
    classes = range(1, scores.shape[1] // 2)
    return join_irn_seeds(certain, likely, classes).masked_fill_(~valid, IGNORE)


def _twice(present: Tensor) -> Tensor:
    """(B, K) -> (B, 2(K+1)) bool: background and present classes, for both thresholds."""
    return pad(present, (1, 0), value=True).repeat(1, 2)


def _half(images: Tensor) -> list[int]:
    return [max(1, side // 2) for side in images.shape[-2:]]
