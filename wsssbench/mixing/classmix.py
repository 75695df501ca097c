"""ClassMix (Olsson et al., WACV 2021): paste the pixels of some predicted classes.

Departs from the release (WilhelmT/ClassMix): classes are drawn among the foreground classes of the
image label, at least one (`half_min1_nobg`; its rule is `half_floor`); partners by derangement
instead of the cyclic neighbour; no teacher network, as in RecurSeed+EdgePredictMix's figure.
Expected on RecurSeed, VOC 2012 train: F1 94.6 (-0.1), mIoU 71.2 (+0.5).
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from wsssbench.mixing.apply import class_slots
from wsssbench.mixing.base import Mixer, Pairing, move
from wsssbench.mixing.batch import IGNORE, MixBatch, MixPlan

Draw = Literal["half_floor", "half_ceil", "half_min1_nobg", "all_fg"]


class ClassMix(Mixer):
    """The regions of drawn classes, at their place; ignored pixels are never pasted.

    Args:
        draw: how many of the n classes in the mask: `half_floor` n//2 (ClassMix) and `half_ceil`
            (DACS), with the background as a class; `half_min1_nobg` max(1, n//2) and `all_fg` all
            of the foreground classes that are in the image label.
        pairing: see `base.pair`.
    """

    needs = ("mask",)
    refiner = "decoder"

    def __init__(self, *, draw: Draw = "half_min1_nobg", pairing: Pairing = "derangement"):
        super().__init__(pairing=pairing)
        self.rule: Draw = draw

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`scores`: (B', K+1) float32; of the classes in the source, the highest are taken."""
        rows = self.rows(batch, generator)
        size = (len(rows["base"]), batch.labels.shape[1] + 1)
        return {**rows, "scores": torch.rand(size, generator=generator)}

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """Weight 1 on the chosen classes; `info` has them as `classes`, (B', K+1) bool.

        Instead of `scores` the draws may hold `chosen`, (B', n) int64 class ids padded with -1.
        """
        mask = batch.need("mask", type(self).__name__)
        base, src = (move(draws[name], mask.device) for name in ("base", "src"))
        if batch.valid is not None:
            mask = mask.masked_fill(~batch.valid, IGNORE)
        slots, classes = class_slots(mask, batch.labels.shape[1])[src], batch.labels.shape[1] + 1
        if "chosen" in draws:
            listed = move(draws["chosen"], mask.device)
            chosen = (listed[:, :, None] == torch.arange(classes, device=mask.device)).any(1)
        else:
            scores = move(draws["scores"], mask.device)
            chosen = choose_classes(slots, batch.labels[src], scores, self.rule)
        pasted = torch.nn.functional.pad(chosen, (0, 1)).gather(1, slots)
        weight = pasted.view(-1, 1, *mask.shape[1:]).float()
        return MixPlan(
            base,
            src,
            weight,
            src_classes=chosen[:, 1:],
            label_rule="visible",
            info={**draws, "classes": chosen},
        )


def choose_classes(slots: Tensor, labels: Tensor, scores: Tensor, rule: Draw) -> Tensor:
    """The classes to paste, without waiting for the device.

    Args:
        slots: (B, H·W) int64, class of each pixel, K+1 where ignored.
        labels: (B, K) image labels.
        scores: (B, K+1) float in [0, 1), the draw.
        rule: see `ClassMix`.

    Returns:
        (B, K+1) bool; none where the image has no class to choose from.
    """
    present = torch.zeros(len(slots), scores.shape[1] + 1, dtype=torch.bool, device=slots.device)
    present = present.scatter_(1, slots, True)[:, :-1]
    if rule in ("half_min1_nobg", "all_fg"):
        present = present & torch.nn.functional.pad(labels > 0, (1, 0))
    count = present.sum(dim=1, keepdim=True)
    wanted = {
        "half_floor": count // 2,
        "half_ceil": (count + 1) // 2,
        "half_min1_nobg": (count // 2).clamp_min(1),
        "all_fg": count,
    }[rule]
    rank = scores.masked_fill(~present, -1).argsort(dim=1, descending=True).argsort(dim=1)
    return present & (rank < wanted)
