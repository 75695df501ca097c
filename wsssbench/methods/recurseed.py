"""RecurSeed (RS) and EdgePredictMix (EPM): Jo, Yu, Kim, arXiv 2204.06754. The first public training
code; the authors released inference only.

One network learns its own CAM after SCG and PAMR (RecurSeed); a decoder is trained on the certain
part of the same map; a second pass sees the batch mixed (`mixing`), for EPM along the edges of the
decoder's refined prediction. Read off the released code, figures and siblings of the paper; what
had to be inferred (form of L_rec, start epochs, pooled classes) is a setting. Both passes are
summed and differentiated at once. Expected on VOC 2012 train (ResNet-50, decoder, best threshold):
RS 70.7, RS+EPM 75.2 mIoU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.mixed_pass import MixedPass
from wsssbench.methods.multiscale import EPS, normalise_max
from wsssbench.methods.readout import KINDS, PamrSettings, ScgSettings, read_out
from wsssbench.models.cam_network import CamNetwork, Output
from wsssbench.models.decoder import Decoder, resize
from wsssbench.models.segmentation_losses import masked_cross_entropy
from wsssbench.refinement.certain_filter import certain_filter, check_limits, shares
from wsssbench.schema import build
from wsssbench.settings import keyword_settings

# shares of the pixels; healthy trainings ignore 6 to 35 % and call 10 to 42 % an object
MOST_IGNORED = 0.8
LEAST_FOREGROUND = 0.01


@dataclass(frozen=True)
class Target:
    """What one pass teaches itself; no gradient.

    Attributes:
        present: (B, K) bool.
        maps: (B, K, H, W) float32 in [0, 1], the CAM after SCG and PAMR (M_rs).
        mask: (B, H, W) int64, its certain part (M_seg), 255 elsewhere.
        weights: PAMR's weights of the images, to be used again; None where PAMR is left out.
    """

    present: Tensor
    maps: Tensor
    mask: Tensor
    weights: Tensor | None


class RecurSeed(Method):
    """CAM, decoder and their self-training through the iterations.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        decoder_width: channels of the decoder (paper: 256).
        pool_valid: average class scores inside the picture only, not over padding (DHR).
        rs_start: epoch, 1-based, from which L_rec and L_seg act (paper: 5 of 50).
        w_rec, w_seg: weights of the two losses.
        rec_loss: l2 or l1. rec_reduce: over `present` or `all` classes. rec_detach_max: no gradient
            through the maximum that scales the CAM.
        use_scg, use_pamr: leave a refinement out of the target.
        certain, uncertain: limits of the certain filter on the refined CAM.
        guard_empty: where a present class has an empty map, teach no background on that image.
        mix: `MixSettings` of the second pass; None for RecurSeed alone.
        scg, pamr: keys of `ScgSettings` and `PamrSettings` that differ from the defaults.
    """

    kinds = KINDS

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        decoder_width: int = 256,
        pool_valid: bool = False,
        rs_start: int = 5,
        w_rec: float = 1.0,
        w_seg: float = 1.0,
        rec_loss: Literal["l2", "l1"] = "l2",
        rec_reduce: Literal["present", "all"] = "present",
        rec_detach_max: bool = False,
        use_scg: bool = True,
        use_pamr: bool = True,
        certain: float = 0.55,
        uncertain: float = 0.10,
        guard_empty: bool = True,
        mix: Mapping[str, Any] | None = None,
        scg: Mapping[str, Any] | None = None,
        pamr: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        decoder = Decoder(
            backbone.channels,
            num_classes + 1,
            output_stride=backbone.output_stride,
            width=decoder_width,
            low_width=decoder_width,
        )
        self.network = CamNetwork(backbone, num_classes, decoder=decoder)
        self.pool_valid = pool_valid
        self.rs_start = rs_start
        self.w_rec, self.w_seg = w_rec, w_seg
        self.rec = {"loss": rec_loss, "reduce": rec_reduce, "detach_max": rec_detach_max}
        self.use_scg, self.use_pamr = use_scg, use_pamr
        self.limits = {"certain": certain, "uncertain": uncertain}
        self.guard_empty = guard_empty
        self.scg = build(ScgSettings, scg or {}, "scg")
        self.pamr = build(PamrSettings, pamr or {}, "pamr")
        self.mixed = MixedPass.make(mix, "mix") if mix else None

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check the limits of the certain filter and the sections `mix`, `scg` and `pamr`."""
        chosen = keyword_settings(cls) | settings
        check_limits(chosen["certain"], chosen["uncertain"], where)
        build(ScgSettings, settings.get("scg") or {}, f"{where}.scg")
        build(PamrSettings, settings.get("pamr") or {}, f"{where}.pamr")
        if settings.get("mix"):
            mixed = MixedPass.make(settings["mix"], f"{where}.mix")
            if mixed.settings.start < chosen["rs_start"]:
                raise UserError(
                    f"{where}.mix: start {mixed.settings.start} comes before rs_start "
                    f"{chosen['rs_start']}, but RecurSeed's targets are mixed. Begin no earlier."
                )

    @classmethod
    def code(cls, settings: Mapping[str, Any]) -> list[str]:
        """The mixer's file."""
        return MixedPass.code(settings["mix"]) if settings.get("mix") else []

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """L_cls; from `rs_start` L_rec and L_seg; from the mix's start those of the mixed batch."""
        images, labels, valid = batch["image"], batch["label"], batch["valid"]
        recursing = progress.epoch >= self.rs_start
        out = self.network(images, with_decoder=recursing)
        scores = _pooled(out.cam, valid) if self.pool_valid else out.logits
        losses = {"cls": cls_loss(scores, labels)}
        if not recursing:
            return losses
        target = self.target(out, images, labels, valid)
        losses["rec"] = self.w_rec * self.reconstruction(
            out.cam, target.maps, target.present, valid
        )
        losses["seg"] = self.w_seg * masked_cross_entropy(out.decoder, target.mask)
        foreground, background, ignored = shares(target.mask, valid)
        progress.log(certain_foreground=foreground, certain_background=background, ignored=ignored)
        progress.log(rs_mean=target.maps.mean((2, 3))[target.present].mean().nan_to_num())
        if self.mixed:
            losses |= self.mixed.losses(self, batch, out, target, progress)
        return losses

    @torch.no_grad()
    def target(self, out: Output, images: Tensor, labels: Tensor, valid: Tensor) -> Target:
        """M_rs and M_seg of a batch, from its own pass.

        Args:
            out: the pass.
            images: (B, 3, H, W) float32, normalised.
            labels: (B, K).
            valid: (B, H, W) bool, inside the picture.
        """
        present = labels > 0
        shown = present[..., None, None]
        maps = normalise_max(out.cam.relu()) * shown
        if self.use_scg:
            maps = self.scg.refine(maps, out.features) * shown
        maps = resize(maps, images.shape[-2:])
        weights = self.pamr.weights(images) if self.use_pamr else None
        if weights is not None:
            maps = self.pamr.refine(weights, maps, present)
        maps = maps * valid[:, None]
        mask = certain_filter(
            maps, present, valid=valid, guard_empty=self.guard_empty, **self.limits
        )
        return Target(present, maps, mask, weights)

    def reconstruction(self, cam: Tensor, target: Tensor, gate: Tensor, valid: Tensor) -> Tensor:
        """`reconstruction` in the form that the settings choose."""
        return reconstruction(cam, target, gate, valid, **self.rec)

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Decoder's map and CAM, refined or not; see `readout` for the arithmetic."""
        return read_out(
            self.network,
            images,
            gate,
            kinds=self.wanted,
            scales=self.scales,
            flip=self.flip,
            stride=stride,
            scg=self.scg,
            pamr=self.pamr,
        )

    def warning(self, row: dict) -> str:
        """Whether the recursion has lost its seeds: hardly a pixel is certain, or none a class."""
        if row["epoch"] < self.rs_start:
            return ""
        ignored, foreground = row["ignored"], row["certain_foreground"]
        if ignored < MOST_IGNORED and foreground > LEAST_FOREGROUND:
            return ""
        return (
            f"the certain filter ignores {ignored:.0%} of the pixels and calls {foreground:.1%} an "
            "object; such a RecurSeed seldom recovers. Start it later than at rs_start "
            f"{self.rs_start}, when loss_cls is lower, or lower train.lr, w_seg or certain."
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of backbone, classifier and decoder."""
        return self.network.parameter_groups()

    def memory(self) -> dict:
        """The mixer's memory."""
        return self.mixed.memory() if self.mixed else {}

    def remember(self, memory: dict) -> None:
        """Take it back."""
        if self.mixed:
            self.mixed.remember(memory)


def reconstruction(
    cam: Tensor,
    target: Tensor,
    gate: Tensor,
    valid: Tensor,
    *,
    loss: str = "l2",
    reduce: str = "present",
    detach_max: bool = False,
) -> Tensor:
    """L_rec: the CAM, scaled by its maximum, against the refined map, averaged over its cells.

    Args:
        cam: (B, K, h, w) float32, raw class scores, with gradient.
        target: (B, K, H, W) float32 in [0, 1].
        gate: (B, K) bool or 0/1, classes that are compared.
        valid: (B, H, W) bool; cells of which less than half is valid do not count.
        loss: "l2" or "l1".
        reduce: "present": mean over gated classes; "all": over every class.
        detach_max: no gradient through the maximum.

    Returns:
        A scalar; 0 where nothing is compared.
    """
    size = cam.shape[-2:]
    positive = cam.relu()
    top = positive.amax((2, 3), keepdim=True)
    scaled = positive / ((top.detach() if detach_max else top) + EPS)
    error = scaled - adaptive_avg_pool2d(target, size)
    error = error.square() if loss == "l2" else error.abs()
    cells = adaptive_avg_pool2d(valid[:, None].float(), size) >= 0.5
    weight = cells * (gate[..., None, None] > 0 if reduce == "present" else torch.ones_like(error))
    return (weight * error).sum() / weight.sum().clamp_min(1)


def _pooled(cam: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, K, h, w) over the part of each cell that is valid -> (B, K)."""
    weight = adaptive_avg_pool2d(valid[:, None].float(), cam.shape[-2:])
    return (cam * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(EPS)
