"""A mixer: draws a plan for a batch; `apply_mix` carries it out, the same way for all mixers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from wsssbench.mixing.batch import LabelRule, MixBatch, MixPlan

Mode = Literal["label", "mask"]
Refiner = Literal["seed", "decoder", "pamr", "cf", "ep"]
Pairing = Literal["derangement", "permutation", "cyclic"]


class Mixer(ABC):
    """Base class of all mixers: give `draw` and `plan_from`; `plan` puts them together.

    Settings are keyword-only arguments of the constructor, with defaults for WSSS. A mixer keeps
    no tensors of a batch, draws from the generator it is handed and never writes into its input.

    Attributes:
        mode: the mode of the published rows: `label` mixes for the classification loss only,
            `mask` for the dense losses.
        needs: the parts of a MixBatch that `plan` reads beyond images and labels: "mask",
            "saliency", "probs".
        refiner: where the published rows take the masks from: the certain part of the refined CAM
            (`seed`), the decoder's arg-max as it is, or the decoder after PAMR, after the certain
            filter, after edge prediction.
        saliency: what `saliency` is, if needed: summed features or the size of the gradient.
        mask_rule: the label rule for mask mode, where labels only say what CAM and decoder may
            show; pass it to `apply_mix`.
    """

    mode: ClassVar[Mode] = "mask"
    needs: ClassVar[tuple[str, ...]] = ()
    refiner: ClassVar[Refiner] = "seed"
    saliency: ClassVar[Literal["features", "gradient"]] = "features"
    mask_rule: ClassVar[LabelRule] = "visible"

    def __init__(self, *, pairing: Pairing = "derangement"):
        self.pairing: Pairing = pairing

    def observe(self, batch: MixBatch) -> None:  # noqa: B027, most mixers have no memory
        """Called with every batch that is to be mixed, before `plan`; for mixers with a memory."""

    def memory(self) -> dict[str, Any]:
        """What a mixer remembers of earlier batches, for the checkpoint."""
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:  # noqa: B027
        """Take back what `memory` gave."""

    def rows(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The draws `base` and `src`, see `pair`."""
        base, src = pair(len(batch.images), generator, self.pairing)
        return {"base": base, "src": src}

    @abstractmethod
    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Any]:
        """All random choices for `batch`, as small CPU tensors that `plan_from` understands."""

    @abstractmethod
    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """The plan that follows from (recorded) draws, without randomness. On the batch's device.

        Every mixer reads `base` and `src`, (B',) int64 rows of the batch; its `draw` names the
        rest.
        """

    @torch.no_grad()
    def plan(self, batch: MixBatch, generator: torch.Generator) -> MixPlan:
        """Draw a plan. A row paired with itself (always so in a batch of 1) is left unmixed.

        Args:
            batch: with all parts that `needs` names.
            generator: on the CPU wherever the batch lies, so that all devices see the same draws;
                the global generators are neither used nor moved.

        Raises:
            UserError: the batch lacks a part.
            ValueError: the generator is not on the CPU.
        """
        if generator.device.type != "cpu":
            raise ValueError(f"Mixers draw from a CPU generator, not from {generator.device}.")
        for part in self.needs:
            batch.need(part, type(self).__name__)
        with torch.autocast(batch.images.device.type, enabled=False):
            plan = self.plan_from(batch, self.draw(batch, generator))
        if plan.src_view is not None:
            return plan
        return replace(plan, weight=plan.weight * (plan.base != plan.src)[:, None, None, None])


def pair(
    count: int, generator: torch.Generator, kind: Pairing = "derangement"
) -> tuple[Tensor, Tensor]:
    """Rows (base, src), each (count,) int64 on the CPU; base is 0, 1, ….

    `derangement` follows one random cycle through all rows: no row meets itself and every other
    row is an equally likely partner. `permutation` (CutMix, Mixup, Puzzle Mix) may pair a row
    with itself. `cyclic` (ClassMix, CowMix) pastes row i on row i+1. A single row has only itself.
    """
    base = torch.arange(count)
    if kind == "cyclic":
        return base, base.roll(1)
    order = torch.randperm(count, generator=generator)
    if kind == "permutation":
        return base, order
    src = torch.empty_like(base)
    src[order] = order.roll(1)
    return base, src


def uniform(low: float, high: float, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws from U[low, high) as float64 on the CPU."""
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), (count,) float64 on the CPU.

    torch's own Beta takes no generator: NumPy draws, seeded from this one.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))


def move(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`, without waiting for the device."""
    return values.to(device, non_blocking=True)
