"""Mixup (Zhang et al., ICLR 2018): one convex blend of two images for the whole batch.

Departs from the release (facebookresearch/mixup-cifar10): partners by derangement instead of any
permutation; the two-term loss is one loss on the blended multi-label target, which is the same for
losses that are affine in the target. Two ghost objects per pixel: expect mask mode to harm.
Expected: ImageNet ResNet-50 top-1 error 23.68 -> 22.58, WSOL on CUB 49.41 -> 49.30.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.base import Mixer, Pairing, beta, move
from wsssbench.mixing.batch import MixBatch, MixPlan


class Mixup(Mixer):
    """x = λ·x_base + (1-λ)·x_src with λ ~ Beta(alpha, alpha); the label alike.

    Args:
        alpha: of the Beta distribution; 1 is uniform (ImageNet runs use 0.2).
        pairing: see `base.pair`.
    """

    mode = "label"
    mask_rule = "area"  # both images are visible everywhere

    def __init__(self, *, alpha: float = 1.0, pairing: Pairing = "derangement"):
        super().__init__(pairing=pairing)
        if alpha <= 0:
            raise UserError(f"mixup: alpha: expected a number above 0, got {alpha!r}.")
        self.alpha = alpha

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`lam`: (1,) float64, weight of the base."""
        return {**self.rows(batch, generator), "lam": beta(self.alpha, 1, generator)}

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """Weight 1-λ everywhere; `lam` may also hold one value per row, (B',)."""
        device = batch.images.device
        base, src = (move(draws[name], device) for name in ("base", "src"))
        weight = move((1 - draws["lam"]).float(), device)[:, None, None, None]
        weight = weight.expand(len(base), 1, *batch.images.shape[-2:])
        return MixPlan(base, src, weight, info=dict(draws))
