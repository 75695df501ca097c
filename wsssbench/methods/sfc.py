"""SFC, Shared Feature Calibration (Zhao et al., AAAI 2024, arXiv 2401.11719): where classes share a
feature, frequent ones claim it and rare ones lose it. A prototype, the mean feature of a class's
own seed, knows no frequency. So the classifier's map, smoothed by pixel correlation, must agree
with that of the prototypes (`p`) and with its own at half size (`w`), the more the farther a
class's count is from the others'; rare classes are drawn more often (`image_bank`); both maps are
added at the end.

The kinds but `cam` are weighed against their background, so threshold .5 is the release's rule
(`multiscale.against_background`). Departs from the release: the last checkpoint, not the best on
the training masks; momentum is what params.yaml says (1e-4 there, by a slip); the gradient's norm
is not clipped (to 1 there); nothing but `model.frozen_stages: 3` keeps C1..C3 at their ImageNet
weights, `batch_norm: frozen` its statistics. The paper's body could not be read; where its summary
and the code differ, the code is followed, except for the weight of the prototypes' map. Expected:
VOC 2012 train 64.7 mIoU (ResNet-50, fused); 63.1 in the official run (proto).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.image_bank import ImageBank
from wsssbench.methods.msdw import distribution_coefficient, prototype_loss, scale_loss
from wsssbench.methods.multiscale import Merge, merge_views
from wsssbench.methods.prototype_maps import (
    Parts,
    check_widths,
    class_maps,
    fuse,
    inside,
    read_scales,
    shown,
    weighed,
)
from wsssbench.models.cam_network import CamNetwork
from wsssbench.models.pcm import DeepPCM, correlate, resize_aligned
from wsssbench.models.prototypes import GRID, SideFeatures, prototypes, reactivate, winner

VOC_CHANNELS = 21
ROUNDS = 2  # of the correlation module
CLASS_FACTOR = 2.0  # of the classes against the background, once the scales are added


class SFC(Method):
    """Classifier's map and prototypes' map, calibrated to each other by class counts.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        side_widths: channels of the side layers behind C2..C5.
        pcm: smooth the classifier's map by pixel correlation. It learns from `p` and `w` only.
        pcm_width: of the features compared; None: as many as C5 has (release: 2048).
        pcm_detach: no gradient from the correlation into C5, as in SEAM.
        n_draw: images per pass from the bank; 0 leaves the bank out. Each process and each part of
            an accumulated batch is a pass of its own: its images are more then, and `kappa` counts
            those of one only.
        lambda_p, lambda_w: weights of the two losses. Without `p` nothing trains the side layers:
            then read out `pcm` or `cam`.
        scale: multiply both by (K+1)/21. The losses are means over all classes, so this gives a
            present class the weight that it has on VOC.
        normalise: mean over `all` classes (release) or over those `present`.
        dc: weigh classes by their distribution coefficient; False: alike.
        kappa: how many epochs of bank images count as part of a class's frequency.
        bg_factor: of the background before the seeds' arg max.
        w_proto: weight of the prototypes' map in `fused` (paper 1; release .7 for affinity labels,
            .3 for the random walk).
        bg_offset: added to the background once the scales are added.
        mask_absent: at inference leave classes that are gated out also out of the competition for
            seeds and background; the release lets them compete, each scaled to a maximum of 1.
        merge: how views become the plain map `cam`, see `multiscale.merge_views`.
    """

    kinds = ("fused", "proto", "pcm", "cam")
    own_background = ("fused", "proto", "pcm")
    competing = ("fused", "proto", "pcm")

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        side_widths: tuple[int, int, int, int] = (128, 128, 256, 256),
        pcm: bool = True,
        pcm_width: int | None = None,
        pcm_detach: bool = False,
        n_draw: int = 4,
        lambda_p: float = 1.6,
        lambda_w: float = 0.8,
        scale: bool = False,
        normalise: Literal["all", "present"] = "all",
        dc: bool = True,
        kappa: float = 3.0,
        bg_factor: float = 0.3,
        w_proto: float = 1.0,
        bg_offset: float = 0.4,
        mask_absent: bool = False,
        merge: Merge = "irn",
    ):
        super().__init__()
        self.network = CamNetwork(backbone, num_classes)
        self.side = SideFeatures(backbone.channels, side_widths)
        deep = backbone.channels["C5"]
        self.pcm = DeepPCM(deep, pcm_width or deep) if pcm else None
        self.pcm_detach = pcm_detach
        self.bank = ImageBank(num_classes)
        factor = (num_classes + 1) / VOC_CHANNELS if scale else 1.0
        self.lambda_p, self.lambda_w = factor * lambda_p, factor * lambda_w
        self.normalise, self.dc, self.kappa, self.n_draw = normalise, dc, kappa, n_draw
        self.bg_factor, self.w_proto, self.bg_offset = bg_factor, w_proto, bg_offset
        self.mask_absent, self.merge = mask_absent, merge
        self.register_buffer("counts", torch.zeros(num_classes))

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check widths, weights and the number drawn."""
        check_widths(settings.get("side_widths", (1,)), where)
        for name in ("n_draw", "lambda_p", "lambda_w", "kappa"):
            if settings.get(name, 0) < 0:
                raise UserError(f"{where}: {name}: expected 0 or more, got {settings[name]}.")
        width = settings.get("pcm_width")
        if width is not None and (type(width) is not int or width < 1):
            raise UserError(f"{where}: pcm_width: expected a number of 1 or more, got {width!r}.")

    def begin(self, labels: Tensor) -> None:
        """Count the images of each class; kept in the weights."""
        self.counts.copy_((labels > 0).sum(0))

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """`cls`, `p` and `w` of the batch and the bank's images."""
        images, labels, valid = self.with_bank(batch, progress)
        small = resize_aligned(images, [max(1, side // 2) for side in images.shape[-2:]])
        whole, half = self.parts(images), self.parts(small)
        scores = [parts["cam"].mean((2, 3)) for parts in (whole, half)]
        losses = {"cls": sum(cls_loss(score, labels) for score in scores) / 2}
        if not self.lambda_p and not self.lambda_w:
            return losses
        present, weights = shown(labels), self.class_weights(progress)
        counted = present if self.normalise == "present" else None

        def allowed(parts: Parts) -> Tensor:
            return present * inside(valid, parts["side"].shape[-2:])

        maps = self.smoothed(whole, allowed(whole))
        if self.lambda_p:
            found = self.prototype_maps(maps, whole["side"], allowed(whole))
            losses["p"] = self.lambda_p * prototype_loss(maps, found, weights, counted)
        if self.lambda_w:
            reduced = self.smoothed(half, allowed(half))
            losses["w"] = self.lambda_w * scale_loss(maps, reduced, present, weights, counted)
        return losses

    def with_bank(self, batch: dict, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and validity of the batch, followed by `n_draw` of the bank."""
        given = batch["image"], batch["label"], batch["valid"]
        if not self.n_draw:
            return given
        self.bank.update(*given)
        slots = torch.randint(
            len(self.counts),
            (self.n_draw,),
            generator=progress.generator,
            device=progress.generator.device,
        )
        drawn = self.bank.draw(slots, batch["image"])
        return tuple(torch.cat(pair) for pair in zip(given, drawn))

    def class_weights(self, progress: Progress) -> Tensor:
        """(K,) float32, the distribution coefficient or ones."""
        if not self.dc:
            return torch.ones_like(self.counts)
        steps = progress.steps / progress.epochs
        extra = self.kappa * steps * self.n_draw / len(self.counts)
        weights = distribution_coefficient(self.counts, extra)
        progress.log(dc_lowest=weights.min(), dc_highest=weights.max())
        return weights

    def parts(self, images: Tensor) -> Parts:
        """One pass: raw scores `cam`, features `side` and those of the correlation, float32."""
        out = self.network(images)
        found = {"cam": out.cam, "side": self.side(out.features)}
        if self.pcm:
            deep = out.features["C5"].detach() if self.pcm_detach else out.features["C5"]
            found["pcm"] = self.pcm(images, deep, out.features[GRID].shape[-2:])
        return found

    def smoothed(self, parts: Parts, allowed: Tensor) -> Tensor:
        """M_W, (B, K+1, h, w) float32 in [0, 1]: the CAM where allowed, through the correlation."""
        maps = class_maps(parts["cam"], parts["side"].shape[-2:]) * allowed
        if self.pcm is None:
            return maps
        with torch.autocast(maps.device.type, enabled=False):  # no similarity in half precision
            return correlate(maps, parts["pcm"], rounds=ROUNDS)

    def prototype_maps(self, maps: Tensor, side: Tensor, allowed: Tensor) -> Tensor:
        """M_P, (B, K+1, h, w) float32 in [0, 1], from the seeds in M_W; no gradient into these."""
        maps = maps.detach().clone()
        maps[:, 0] *= self.bg_factor
        with torch.autocast(maps.device.type, enabled=False):
            return reactivate(side, prototypes(side, winner(maps, allowed)))

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Both maps and their sum against their backgrounds, and the plain CAM."""
        size = tuple(images.shape[-2:])
        scales = read_scales(self.parts, images, self.scales, self.flip)
        kept = gate(scales.probabilities)
        maps, both = {}, None
        for kind in self.wanted:
            if kind == "cam":
                found = merge_views(scales.cams, size, stride=stride, merge=self.merge)
                maps[kind] = found * kept[..., None, None]
                continue
            if both is None:
                both = self.both(scales.parts, kept, [-(-side // stride) for side in size])
            weights = {"pcm": (1.0, 0.0), "proto": (0.0, 1.0), "fused": (1.0, self.w_proto)}[kind]
            fused = [sum(w * x for w, x in zip(weights, pair)) for pair in zip(*both)]
            maps[kind] = weighed(fused, kept)
        return Inference(maps, scales.probabilities, kept)

    def both(
        self, scales: Sequence[Parts], kept: Tensor, size: Sequence[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """M_W and M_P of all scales, each as `fuse` gives it, lifted by the release's constants."""
        allowed, found = shown(kept), []
        for parts in scales:
            competing = allowed[:, 1:] if self.mask_absent else 1
            plain = {**parts, "cam": parts["cam"] * competing}
            maps = self.smoothed(plain, torch.ones_like(allowed))
            found.append((maps, self.prototype_maps(maps, parts["side"], allowed)))
        fused = [fuse(maps, kept, size) for maps in zip(*found)]
        return [(low + self.bg_offset, CLASS_FACTOR * high) for low, high in fused]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters; those of classifier, side layers and correlation."""
        groups = self.network.parameter_groups()
        groups["new"] += [*self.side.parameters(), *(self.pcm.parameters() if self.pcm else [])]
        return groups

    def memory(self) -> dict:
        """The bank."""
        return self.bank.memory()

    def remember(self, memory: dict) -> None:
        """Take it back."""
        self.bank.remember(memory)
