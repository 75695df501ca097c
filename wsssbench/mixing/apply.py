"""Carry out a plan: the same arithmetic for all mixers, without randomness and gradients."""

import torch
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.base import move
from wsssbench.mixing.batch import IGNORE, LabelRule, Layer, MixBatch, MixOut, MixPlan

UNDECIDED = 0.1  # weights nearer than this to one half: neither layer's class wins the pixel
VISIBLE_SHARE = 0.001
LOST = 20  # a base class is hidden when at most 1/20 of its pixels (95 % lost) are left


@torch.no_grad()
def apply_mix(batch: MixBatch, plan: MixPlan, *, label_rule: LabelRule | None = None) -> MixOut:
    """The mixed batch of a plan.

    Images and dense maps are (1 - w)·base + w·source, bit-exact copies where w is 0 or 1. Dense
    maps with K channels, or K+1 with the background first, are gated by their own image's labels
    before that; maps with another number of channels are mixed as they are. A fractional weight
    leaves a mask pixel with the class both layers agree on, else with the heavier layer's, else
    (0.4 < w < 0.6) ignored. Padding of the source is never pasted; padding in the result is
    ignored in all masks.

    Label rules, with m = mean(w) over all pixels: `area` (1-m)·y_base + m·y_src; `calibrated`
    the same with lam_base for 1-m; `union` the base's classes and those pasted (src_classes);
    `visible` the union without pasted classes that own less than 0.1 % of the mixed mask, and
    without base classes that lost 95 % of their mask and own less than 0.1 %. A base class that
    its mask never held stays: nobody can tell whether it was covered.

    Args:
        batch: what is mixed.
        plan: on the batch's device; the result is there, too.
        label_rule: instead of the plan's: `mixer.mask_rule` in mask mode.

    Raises:
        UserError: the rule `visible` without masks.
    """
    device = batch.images.device
    base, src = (
        batch.pick(move(rows, device)) if view is None else view
        for rows, view in ((plan.base, plan.base_view), (plan.src, plan.src_view))
    )
    weight = plan.weight if src.valid is None else plan.weight * src.valid[:, None]
    flat = weight[:, 0]
    valid = mask = mask_base = mask_src = None
    if base.valid is not None or src.valid is not None:
        valid = torch.where(flat > 0.5, _valid(src), _valid(base))
    if base.mask is not None and src.mask is not None:
        mask_base, mask_src = _ignore_padding(base), _ignore_padding(src)
        mask = _mix_masks(mask_base, mask_src, flat)
        mask = mask if valid is None else mask.masked_fill(~valid, IGNORE)
    share = weight.mean(dim=(1, 2, 3))
    rule = label_rule or plan.label_rule
    if rule == "calibrated" and plan.lam_base is not None:
        share = 1 - plan.lam_base
    if rule in ("area", "calibrated"):
        labels = torch.lerp(base.labels, src.labels, share[:, None])
    else:
        kept, brought = base.labels, _brought(src, plan, weight)
        if rule == "visible":
            kept, brought = _visible(kept, brought, mask_base, mask)
        labels = torch.maximum(kept, brought)
    return MixOut(
        images=_blend(base.images, src.images, weight),
        labels=labels,
        mask=mask,
        dense={name: _blend(_gated(base, name), _gated(src, name), weight) for name in base.dense},
        valid=valid,
        gate=(labels > 0).float(),
        weight=weight,
        lam_base=1 - share,
        mask_base=mask_base,
        mask_src=mask_src,
        info=plan.info,
    )


def class_slots(mask: Tensor, classes: int) -> Tensor:
    """(B, H, W) mask -> (B, H·W) int64: the class, or `classes` + 1 where ignored."""
    return torch.where(mask == IGNORE, classes + 1, mask).flatten(1)


def count_classes(mask: Tensor, classes: int) -> Tensor:
    """Pixels of each class, (B, K+1) int32 with the background first; `classes` is K."""
    counts = torch.zeros(len(mask), classes + 2, dtype=torch.int32, device=mask.device)
    slots = class_slots(mask, classes)
    return counts.scatter_add_(1, slots, counts.new_ones(()).expand_as(slots))[:, :-1]


def _blend(base: Tensor, src: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(base, src, weight)  # exactly base where the weight is 0, src where it is 1


def _mix_masks(base: Tensor, src: Tensor, weight: Tensor) -> Tensor:
    heavier = torch.where(weight >= 0.5 + UNDECIDED, src, IGNORE)
    heavier = torch.where(weight <= 0.5 - UNDECIDED, base, heavier)
    return torch.where(base == src, base, heavier)


def _brought(src: Layer, plan: MixPlan, weight: Tensor) -> Tensor:
    """Labels (B, K) of the source where anything is pasted, of the classes that may come."""
    labels = src.labels * (weight.amax(dim=(1, 2, 3)) > 0)[:, None]
    return labels if plan.src_classes is None else labels * plan.src_classes


def _visible(
    kept: Tensor, brought: Tensor, mask_base: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Labels (B, K) of the base and of the source without what the mixed mask does not show."""
    if mask is None or mask_base is None:
        raise UserError("The label rule `visible` needs masks, which this batch does not have.")
    before = count_classes(mask_base, kept.shape[1])[:, 1:]
    now = count_classes(mask, kept.shape[1])[:, 1:]
    seen = now >= max(1.0, VISIBLE_SHARE * mask[0].numel())
    hidden = (before > 0) & ~seen & (LOST * now <= before)
    return kept * ~hidden, brought * seen


def _gated(layer: Layer, name: str) -> Tensor:
    maps, classes = layer.dense[name], layer.labels.shape[1]
    background = maps.shape[1] - classes
    if background not in (0, 1):
        return maps
    present = torch.nn.functional.pad((layer.labels > 0).to(maps.dtype), (background, 0), value=1)
    return maps * present[:, :, None, None]


def _valid(layer: Layer) -> Tensor:
    if layer.valid is not None:
        return layer.valid
    return torch.ones_like(layer.images[:, 0], dtype=torch.bool)


def _ignore_padding(layer: Layer) -> Tensor:
    return layer.mask if layer.valid is None else layer.mask.masked_fill(~layer.valid, IGNORE)
