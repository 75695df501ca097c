"""Identity: a second pass on the unmixed images, each against its own refined mask.

The control of mask mixing, which besides mixing also adds self-training on the decoder's
predictions and a second gradient; without it the gain of mixing cannot be told apart.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsssbench.mixing.base import Mixer, move
from wsssbench.mixing.batch import MixBatch, MixPlan


class Identity(Mixer):
    """Pastes nothing. The masks are refined as EdgePredictMix refines them."""

    refiner = "ep"

    def __init__(self):
        super().__init__()

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`base` = `src`: every row with itself; the generator is not used."""
        rows = torch.arange(len(batch.images))
        return {"base": rows, "src": rows}

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """Weight 0."""
        device = batch.images.device
        base, src = (move(draws[name], device) for name in ("base", "src"))
        weight = torch.zeros(len(base), 1, *batch.images.shape[-2:], device=device)
        return MixPlan(base, src, weight, info=dict(draws))
