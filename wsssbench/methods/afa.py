"""AFA (Ru et al., CVPR 2022, arXiv 2203.02664): one network learns a classifier, a segmentation
and, from its own self-attention, which positions show one class. Labels of the segmentation and of
pairs come from the CAM through PAR, which follows the image's colours; later those of the
segmentation come from the CAM after one step of a random walk with the learnt affinity.

Departs from the release: labels are made in evaluation mode (there drop path makes the CAM a
draw); views are resized as everywhere here; a batch without background or object pixels costs 0,
where the release's mean over nothing is not a number; crops need not be multiples of 16; the rate's
linear warm-up and the dense-energy regulariser, commented out there, are left out. Pairs learn from
PAR's labels throughout, as on VOC. On a backbone without attention the method is only AFA-style:
queries and keys are learnt from C5, the decoder is DeepLabV3+'s. Expected: VOC 2012 val 66.0 mIoU
(MiT-B1, ImageNet weights, regulariser, multi-scale, CRF); in its log the walk adds .7 to 4 to the
CAM on val.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError
from wsssbench.methods.afa_labels import ParSettings, par_labels, walked_labels, with_softmax
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multiscale import Merge, make_views, merge_views, unflip
from wsssbench.models.affinity_head import AffinityCamNetwork
from wsssbench.models.cam_network import Pooling
from wsssbench.models.decoder import STRIDE, Decoder, resize
from wsssbench.models.segformer_head import SegformerHead
from wsssbench.models.segmentation_losses import masked_cross_entropy
from wsssbench.refinement.attention_affinity import pair_loss, step
from wsssbench.refinement.certain_filter import shares
from wsssbench.schema import build


class AFA(Method):
    """CAM, segmentation and an affinity from attention, trained at once.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5; in the paper mit_b1.
        num_classes: K, without background.
        affinity: "attention" of the backbone, or learnt from its "features"; "auto": attention
            where there is one.
        decoder_width: channels of the decoder.
        pooling: of the class scores: "max" (release; attention spreads a mean over the image) or
            "mean", which gives wider maps on a convolutional backbone.
        seg_start: epoch, 1-based, from which L_seg and L_aff act (paper: after 10 % of training).
        walk_start: epoch from which the segmentation learns from the walked CAM (paper: 30 %; from
            scratch later, once the kind `aff_cam` is better than `cam`).
        w_seg, w_aff: weights of the two losses.
        high, low: background scores; a class above `high` is certain, background below `low`. They
            should enclose the CAM's own best threshold (on VOC .45).
        radius: reach of pairs and of the walk, positions of C5.
        label_scales: views from which labels are made, each with its mirror image; the walk takes
            the affinity of the largest.
        freeze_norms: leave the backbone's layer norms as they are (release; needs weights).
        merge: how views become one map, see `multiscale.merge_views`.
        par: keys of `ParSettings` that differ from the defaults.
    """

    kinds = ("decoder", "cam", "aff_cam")
    own_background = ("decoder", "aff_cam")
    competing = ("aff_cam",)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        affinity: Literal["auto", "attention", "features"] = "auto",
        decoder_width: int = 256,
        pooling: Pooling = "max",
        seg_start: int = 6,
        walk_start: int = 16,
        w_seg: float = 0.1,
        w_aff: float = 0.1,
        high: float = 0.55,
        low: float = 0.35,
        radius: int = 8,
        label_scales: tuple[float, ...] = (1.0, 0.5, 1.5),
        freeze_norms: bool = False,
        merge: Merge = "afa",
        par: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if backbone.attention_maps:
            decoder = SegformerHead(backbone.channels, num_classes + 1, width=decoder_width)
        else:
            decoder = Decoder(
                backbone.channels,
                num_classes + 1,
                output_stride=backbone.output_stride,
                width=decoder_width,
                low_width=decoder_width,
            )
        self.network = AffinityCamNetwork(
            backbone, num_classes, source=affinity, decoder=decoder, pooling=pooling
        )
        if freeze_norms:
            for module in backbone.modules():
                if isinstance(module, nn.LayerNorm):
                    module.requires_grad_(False)
        self.seg_start, self.walk_start = seg_start, walk_start
        self.w_seg, self.w_aff = w_seg, w_aff
        self.thresholds, self.radius = (high, low), radius
        self.label_scales, self.merge = label_scales, merge
        self.par = build(ParSettings, par or {}, "par")

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check thresholds, start epochs, `radius`, `label_scales` and the keys of `par`."""
        high, low = settings.get("high", 0.55), settings.get("low", 0.35)
        if not 0 < low <= high < 1:
            raise UserError(f"{where}: give 0 < low <= high < 1, got low {low} and high {high}.")
        first, second = settings.get("seg_start", 6), settings.get("walk_start", 16)
        if not 1 <= first <= second:
            raise UserError(
                f"{where}: give 1 <= seg_start <= walk_start (epochs), got {first} and {second}."
            )
        if settings.get("radius", 8) < 1:
            raise UserError(f"{where}: radius: expected at least 1, got {settings['radius']}.")
        scales = settings.get("label_scales", (1.0,))
        if not scales or min(scales) <= 0:
            raise UserError(f"{where}: label_scales: expected positive scales, got {scales}.")
        build(ParSettings, settings.get("par") or {}, f"{where}.par")

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """L_cls; from `seg_start` L_seg and L_aff."""
        images, labels, valid = batch["image"], batch["label"], batch["valid"]
        taught, walking = (progress.epoch >= n for n in (self.seg_start, self.walk_start))
        out = self.network(images, with_decoder=taught, with_affinity=taught)
        losses = {"cls": cls_loss(out.logits, labels)}
        if not taught:
            return losses
        # after the pass above: under autocast, weights cast first without gradient would stay so
        cams, affinity, grid = self.label_maps(images, with_affinity=walking)
        common = {"thresholds": self.thresholds, "par": self.par}
        pairs = mask = par_labels(images, cams, labels > 0, valid, **common)
        if walking:
            mask = walked_labels(
                images, cams, labels > 0, valid, affinity, grid, radius=self.radius, **common
            )
        logits = resize(out.decoder, images.shape[-2:])
        losses["seg"] = self.w_seg * masked_cross_entropy(logits, mask, balanced=True) / 2
        small = interpolate(pairs[:, None].float(), out.cam.shape[-2:])[:, 0]  # nearest
        losses["aff"] = self.w_aff * pair_loss(out.affinity, small.long(), self.radius)
        foreground, background, ignored = shares(mask, valid)
        progress.log(certain_foreground=foreground, certain_background=background, ignored=ignored)
        return losses

    @torch.no_grad()
    def label_maps(
        self, images: Tensor, *, with_affinity: bool
    ) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """The multi-scale CAM (B, K, H, W) in [0, 1); affinity of the largest view and its grid."""
        training, views, affinity, grid = self.training, [], None, ()
        self.eval()
        for scale in self.label_scales:
            largest = with_affinity and scale == max(self.label_scales)
            copies = make_views(images, scale, flip=True)
            out = self.network(copies, with_decoder=False, with_affinity=largest)
            views.append(_apart(out.cam, len(images)))
            if largest:
                affinity, grid = out.affinity[: len(images)], tuple(out.cam.shape[-2:])
        self.train(training)
        return merge_views(views, tuple(images.shape[-2:]), merge=self.merge), affinity, grid

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """The segmentation, the CAM and the walked CAM.

        The released segmentation is an arg-max that includes the background. Given is each class's
        share of the sum with it, p / (p + p_bg), which exceeds .5 exactly where the class beats the
        background and is highest for the winner: at threshold .5 the masks are the release's, and
        at others the background gets a handicap. The walked CAM likewise; its background scored
        `low` at the start.
        """
        size = tuple(images.shape[-2:])
        target = [-(-side // stride) for side in size]
        unit = min(self.scales, key=lambda scale: abs(scale - 1))
        views, scores, logits, affinity, grid = [], [], None, None, ()
        for scale in self.scales:
            walked = "aff_cam" in self.wanted and scale == unit
            out = self.network(
                make_views(images, scale, self.flip),
                with_decoder="decoder" in self.wanted,
                with_affinity=walked,
            )
            views.append(_apart(out.cam, len(images)))
            scores.append(_apart(out.logits.float().sigmoid(), len(images)).mean(1))
            if walked:
                affinity, grid = out.affinity[: len(images)], out.cam.shape[-2:]
            if out.decoder is not None:
                both = unflip(_apart(out.decoder, len(images))).mean(1)
                both = resize(both, [-(-side // STRIDE) for side in size])
                logits = both if logits is None else torch.maximum(logits, both)
        probabilities = torch.stack(scores).mean(0)
        kept = gate(probabilities)
        maps = {}
        for kind in self.wanted:
            if kind == "decoder":
                full = resize(logits, target)
                maps[kind] = (full[:, 1:] - full[:, :1]).sigmoid()
            elif kind == "cam":
                maps[kind] = merge_views(views, size, stride=stride, merge=self.merge)
            else:
                cams = resize(merge_views(views, size, merge=self.merge), grid)
                scored = with_softmax(cams, kept, self.thresholds[1])
                full = resize(step(affinity, scored, self.radius), target)
                both = full[:, :1] + full[:, 1:]  # 0 where the affinities underflow
                maps[kind] = full[:, 1:] / both.clamp_min(torch.finfo(both.dtype).tiny)
            maps[kind] = maps[kind] * kept[..., None, None]
        return Inference(maps, probabilities, kept)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters; those of classifier and affinity head; the decoder's."""
        return self.network.parameter_groups()


def _apart(x: Tensor, count: int) -> Tensor:
    """(V·B, …) -> (B, V, …)."""
    return x.unflatten(0, (-1, count)).transpose(0, 1)
