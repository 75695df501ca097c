"""The second pass of RecurSeed: mix the batch, run the network on it, compare with mixed targets.

Which images are mixed how is decided in `mixing`; what the pseudo-masks are that travel with the
pixels is decided here, by the refiner.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench import mixing
from wsssbench.methods.base import Progress
from wsssbench.mixing.apply import apply_mix
from wsssbench.mixing.batch import IGNORE, MixBatch
from wsssbench.mixing.losses import mixed_cross_entropy, pixel_weight
from wsssbench.models.cam_network import Output
from wsssbench.models.decoder import resize
from wsssbench.refinement.certain_filter import certain_filter, check_limits
from wsssbench.refinement.edge_prediction import edge_predict
from wsssbench.schema import build

if TYPE_CHECKING:  # the two need each other's types only
    from wsssbench.methods.recurseed import RecurSeed, Target

PARTS = {"label": ("cls",), "mask": ("rec", "seg"), "both": ("cls", "rec", "seg")}


@dataclass(frozen=True)
class MixSettings:
    """The second pass.

    Attributes:
        mixer: name in `wsssbench.mixing`.
        start: epoch, 1-based, from which it runs (paper: 15 of 50).
        mode: what the mixed batch teaches: `label` the classifier, `mask` CAM and decoder, `both`;
            `own` is the mode in which the mixer was published.
        refiner: where the masks come from that travel with the pixels. `seed`: the certain part of
            the refined CAM; `decoder`: the decoder's arg-max (ClassMix); `pamr`: that after PAMR;
            `cf`: certain filter after PAMR (CertainMix); `ep`: edge prediction (EPM); `own`: the
            mixer's own.
        certain, uncertain: limits of the certain filter on the decoder's prediction, for the
            refiners `cf` and `ep`. A decoder's softmax is best cut near .5, wherever the CAM is:
            limits far below it teach the decoder to paint too much.
        prob: probability of a mixed pass in a step.
        w_cls, w_rec, w_seg: weights of the mixed losses that the mode brings in.
        seg_weight: none, or by confidence of the decoder: `fraction` (ClassMix), `threshold`.
        options: settings of the mixer.
    """

    mixer: str
    start: int = 15
    mode: Literal["own", "label", "mask", "both"] = "own"
    refiner: Literal["own", "seed", "decoder", "pamr", "cf", "ep"] = "own"
    certain: float = 0.55
    uncertain: float = 0.10
    prob: float = 1.0
    w_cls: float = 1.0
    w_rec: float = 1.0
    w_seg: float = 1.0
    seg_weight: Literal["none", "fraction", "threshold"] = "none"
    options: dict | None = None


class MixedPass:
    """Mixes a batch and gives the losses of the mixed one."""

    def __init__(self, settings: MixSettings):
        self.settings = settings
        self.mixer = mixing.build(settings.mixer, settings.options or {})
        own = settings.mode == "own"
        self.parts = PARTS[self.mixer.mode if own else settings.mode]
        self.refiner = self.mixer.refiner if settings.refiner == "own" else settings.refiner
        self.limits = {"certain": settings.certain, "uncertain": settings.uncertain}

    @classmethod
    def make(cls, settings: Mapping[str, Any], where: str) -> "MixedPass":
        """Build from a section of params.yaml.

        Raises:
            UserError: an unknown key, mixer or option, or limits at odds; names the place.
        """
        chosen = build(MixSettings, settings, where)
        check_limits(chosen.certain, chosen.uncertain, where)
        mixing.check_settings(chosen.mixer, chosen.options or {}, f"{where}.options")
        return cls(chosen)

    @staticmethod
    def code(settings: Mapping[str, Any]) -> list[str]:
        """The mixer's file below the package."""
        module = mixing.MIXERS[settings["mixer"]].__module__
        return ["/".join(module.split(".")[1:]) + ".py"] if module.startswith("wsssbench.") else []

    def losses(
        self,
        method: "RecurSeed",
        batch: dict,
        out: Output,
        target: "Target",
        progress: Progress,
    ) -> dict[str, Tensor]:
        """L_cls_mix, L_rec_mix and L_seg_mix, as far as the mode brings them in; {} before `start`.

        Args:
            method: runs the network, has PAMR's settings.
            batch: as `Method.losses` gets it.
            out: the first pass.
            target: what that pass teaches.
            progress: where training stands.
        """
        if progress.epoch < self.settings.start:
            return {}
        # whether to mix is drawn from the step: all processes of a training decide alike
        coin = torch.rand((), generator=torch.Generator().manual_seed(progress.step))
        if coin >= self.settings.prob:
            return {}
        device = progress.generator.device
        seed = torch.randint(2**62, (), generator=progress.generator, device=device)
        draws = torch.Generator().manual_seed(int(seed))  # mixers draw on the CPU
        before = self.batch(method, batch, out, target)
        self.mixer.observe(before)
        rule = self.mixer.mask_rule if "cls" not in self.parts else None
        mixed = apply_mix(before, self.mixer.plan(before, draws), label_rule=rule)
        progress.log(pasted=mixed.weight.mean())
        if mixed.mask is not None:
            progress.log(mix_ignored=(mixed.mask == IGNORE).float().mean())
        second = method.network(mixed.images, with_decoder="seg" in self.parts)
        losses = {}
        if "cls" in self.parts:
            losses["cls_mix"] = self.settings.w_cls * cls_loss(second.logits, mixed.labels)
        if "rec" in self.parts:
            losses["rec_mix"] = self.settings.w_rec * method.reconstruction(
                second.cam, mixed.dense["rs"], mixed.gate, mixed.valid
            )
        if "seg" in self.parts:
            confidence = pixel_weight(mixed.dense["probs"], self.settings.seg_weight)
            loss = mixed_cross_entropy(second.decoder, mixed, confidence=confidence)
            losses["seg_mix"] = self.settings.w_seg * loss
        return losses

    @torch.no_grad()
    def batch(self, method: "RecurSeed", batch: dict, out: Output, target: "Target") -> MixBatch:
        """What the mixer gets: images, labels, the refiner's masks, M_rs, saliency."""
        images, labels, valid = batch["image"], batch["label"], batch["valid"]
        shared = MixBatch(images, labels, valid=valid, ids=tuple(batch["id"]))
        if "saliency" in self.mixer.needs:
            shared = replace(shared, saliency=self._saliency(method, batch, out))
        if self.parts == PARTS["label"] and "mask" not in self.mixer.needs:
            return shared
        probs = resize(out.decoder.detach().float().softmax(1), images.shape[-2:])
        gate = torch.cat([torch.ones_like(labels[:, :1]), (labels > 0).to(labels)], 1)
        gated = probs * gate[..., None, None]
        gated = gated / gated.sum(1, keepdim=True).clamp_min(1e-6)
        mask = self._masks(method, images, valid, probs, gated, target)
        dense = {"rs": target.maps, "probs": gated}
        return replace(shared, mask=mask, probs=gated, dense=dense)

    def _masks(
        self,
        method: "RecurSeed",
        images: Tensor,
        valid: Tensor,
        probs: Tensor,
        gated: Tensor,
        target: "Target",
    ) -> Tensor:
        """(B, H, W) int64 pseudo-masks by the refiner; 255 outside the picture."""
        if self.refiner == "seed":
            return target.mask
        if self.refiner == "decoder":
            return gated.argmax(1).masked_fill(~valid, IGNORE)
        weights = target.weights if target.weights is not None else method.pamr.weights(images)
        if self.refiner == "pamr":
            every = torch.cat([torch.ones_like(target.present[:, :1]), target.present], 1)
            refined = method.pamr.refine(weights, gated, every)
            return refined.argmax(1).masked_fill(~valid, IGNORE)
        refined = method.pamr.refine(weights, probs[:, 1:], target.present)
        refine: Callable[..., Tensor] = edge_predict if self.refiner == "ep" else certain_filter
        return refine(refined, target.present, valid=valid, **self.limits)

    def _saliency(self, method: "RecurSeed", batch: dict, out: Output) -> Tensor:
        """(B, h, w) float32: summed features of C5, or the size of the loss's gradient."""
        if self.mixer.saliency == "features":
            return out.features["C5"].detach().float().abs().sum(1)
        training = method.training
        method.eval()
        with torch.enable_grad():
            images = batch["image"].detach().requires_grad_(True)
            logits = method.network(images, with_decoder=False).logits
            (slope,) = torch.autograd.grad(cls_loss(logits, batch["label"]), images)
        method.train(training)
        return slope.float().square().mean(1).sqrt()

    def memory(self) -> dict:
        """The mixer's memory, for the checkpoint."""
        return self.mixer.memory()

    def remember(self, memory: dict) -> None:
        """Take back what `memory` gave."""
        self.mixer.remember(memory)
