"""Saliency Grafting (Park et al., AAAI 2022): paste random salient cells, label by their saliency.

No code was released: the constants (T = 0.2, threshold at the mean, p = 0.5, 2-norm) are one
reading of the paper. Saliency is the summed size of the last features of the unmixed pass, which
is computed anyway. Expected on RecurSeed, VOC 2012 train: F1 96.8 (+2.1), mIoU 68.6 (-2.1).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.base import Mixer, Pairing, move, uniform
from wsssbench.mixing.batch import MixBatch, MixPlan

EPS = 1e-8


class SaliencyGrafting(Mixer):
    """Bernoulli-sampled cells of above-average saliency, calibrated label.

    Args:
        temperature: of the soft-max over cells; lower is choosier.
        p_bernoulli: probability that a salient cell is taken.
        norm: order of the norm that measures the saliency each image keeps.
        pairing: see `base.pair`.
    """

    mode = "label"
    needs = ("saliency",)

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        p_bernoulli: float = 0.5,
        norm: float = 2.0,
        pairing: Pairing = "derangement",
    ):
        super().__init__(pairing=pairing)
        if temperature <= 0 or norm <= 0:
            raise UserError("saliency_grafting: temperature and norm must be above 0.")
        if not 0 <= p_bernoulli <= 1:
            raise UserError(
                f"saliency_grafting: p_bernoulli: expected 0 to 1, got {p_bernoulli!r}."
            )
        self.temperature, self.p_bernoulli, self.norm = temperature, p_bernoulli, norm

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`keep`: (B', h, w) bool, the Bernoulli draw of each cell."""
        rows = self.rows(batch, generator)
        size = (len(rows["base"]), *batch.need("saliency", "SaliencyGrafting").shape[1:])
        return {**rows, "keep": uniform(0, 1, size, generator) < self.p_bernoulli}

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """Weight 1 in the pixels of the pasted cells."""
        saliency = batch.need("saliency", "SaliencyGrafting")
        base, src, keep = (move(draws[name], saliency.device) for name in ("base", "src", "keep"))
        pasted = candidates(saliency, self.temperature)[src] & keep
        lam_base = 1 - source_share(saliency[src], saliency[base], pasted, self.norm)
        weight = F.interpolate(pasted[:, None].float(), batch.images.shape[-2:], mode="nearest")
        return MixPlan(
            base, src, weight, lam_base=lam_base, label_rule="calibrated", info=dict(draws)
        )


def candidates(saliency: Tensor, temperature: float) -> Tensor:
    """(B, h, w) float -> bool: cells whose tempered soft-max exceeds the mean, 1/(h·w).

    The maps are min-max normalised first; a constant map has no such cell.
    """
    low, high = (edge(dim=(1, 2), keepdim=True) for edge in (saliency.amin, saliency.amax))
    scaled = (saliency - low) / (high - low + EPS)
    power = ((scaled - scaled.amax(dim=(1, 2), keepdim=True)) / temperature).exp()
    return power > power.mean(dim=(1, 2), keepdim=True)


def source_share(src: Tensor, base: Tensor, pasted: Tensor, norm: float = 2.0) -> Tensor:
    """Label share of the source, (B,): its kept saliency against that which the base keeps.

    Each is ‖S⊙m‖/‖S‖ (0 for a zero map) of (B, h, w) maps; the area if both keep none.
    """

    def kept(saliency: Tensor, where: Tensor) -> Tensor:
        whole = torch.linalg.vector_norm(saliency, norm, dim=(1, 2))
        part = torch.linalg.vector_norm(saliency * where, norm, dim=(1, 2))
        return torch.where(whole > 0, part / whole, 0)

    ours, theirs = kept(src, pasted), kept(base, ~pasted)
    area = pasted.float().mean(dim=(1, 2))
    return torch.where(ours + theirs > 0, ours / (ours + theirs), area)
