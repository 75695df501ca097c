"""SSSS, Single-Stage Semantic Segmentation from image labels (Araslanov & Roth, CVPR 2020, arXiv
2005.08104): a segmentation network is trained in one stage. Class scores are the logits' mean under
the soft masks (nGWP), a focal penalty keeps the masks from shrinking; the masks, refined by PAMR,
teach the network pixel by pixel; a stochastic gate (`models.gated_network`) hinders it from
learning their early errors by heart.

Departs from the release: any backbone (its own: Wide-ResNet-38, VGG, ResNets), ASPP's rates follow
the output stride (there 12, 24, 36 at stride 16 too), scale and shift of frozen norms are trained,
learning rates follow params.yaml (constant there), nothing is taught where the crop is padded,
views are not padded, the last checkpoint. Expected: VOC 2012 val 59.7 mIoU,
62.7 with CRF (Wide-ResNet-38, without image labels at test time).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError, unknown
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multiscale import make_views, unflip
from wsssbench.methods.readout import PamrSettings
from wsssbench.models.base import STAGES
from wsssbench.models.decoder import resize
from wsssbench.models.gated_network import GatedNetwork
from wsssbench.models.pcm import resize_aligned
from wsssbench.schema import build

IGNORE = 255


class SSSS(Method):
    """Soft masks that classify the image and teach themselves after PAMR.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        shallow: stage that gives the masks their resolution.
        decoder_width: channels of the layers behind the backbone.
        psi: of the stochastic gate; 0: no gate.
        focal_power, focal_shift: p and lambda of the focal penalty.
        w_focal: its weight; 0 leaves it out.
        mask_start: epoch, 1-based, from which the masks teach (release: after 5 of 24).
        w_mask: weight of that loss.
        use_pamr: refine what teaches.
        background_power: exponent of the background in `infer` (release: 3; VGG 1).
        pamr: keys of `PamrSettings` that differ from the defaults.
    """

    kinds = ("masks",)
    own_background = ("masks",)
    conf_threshold = 0.1

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        shallow: str = "C2",
        decoder_width: int = 256,
        psi: float = 0.3,
        focal_power: float = 3.0,
        focal_shift: float = 0.01,
        w_focal: float = 1.0,
        mask_start: int = 6,
        w_mask: float = 1.0,
        use_pamr: bool = True,
        background_power: float = 3.0,
        pamr: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = GatedNetwork(
            backbone, num_classes, shallow=shallow, width=decoder_width, psi=psi
        )
        self.focal = {"power": focal_power, "shift": focal_shift}
        self.w_focal, self.w_mask = w_focal, w_mask
        self.mask_start = mask_start
        self.use_pamr = use_pamr
        self.background_power = background_power
        self.pamr = build(PamrSettings, pamr or {}, "pamr")

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check `shallow`, `psi`, `focal_shift` and the keys of `pamr`."""
        shallow, psi = settings.get("shallow", "C2"), settings.get("psi", 0.3)
        if shallow not in STAGES:
            raise UserError(f"{where}: shallow: {unknown('stage', shallow, STAGES)}")
        if not 0 <= psi < 1:
            raise UserError(f"{where}: psi: expected a share in [0, 1), got {psi}.")
        if settings.get("focal_shift", 0.01) <= 0:
            raise UserError(f"{where}: focal_shift: must be above 0, where the logarithm ends.")
        build(PamrSettings, settings.get("pamr") or {}, f"{where}.pamr")

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Soft margin loss of the scores; from `mask_start` the masks' own cross entropy."""
        images, labels = batch["image"], batch["label"]
        logits, masks, scores = self.forward_masks(images, progress.generator)
        losses = {"cls": cls_loss(scores, labels)}
        progress.log(foreground=1 - masks[:, 0].mean())
        if progress.epoch >= self.mask_start:
            taught = self.target(masks, images, labels, batch["valid"])
            found = mask_loss(logits, taught, labels)
            losses["mask"] = self.w_mask * found.mean()
            progress.log(taught=(found > 0).float().mean())
        return losses

    def forward_masks(
        self, images: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass: logits and soft masks, both (B, K+1, h, w), and scores (B, K), all float32."""
        logits = with_constant(self.network(images, generator))
        masks = logits.softmax(1)
        scores = ngwp(logits, masks)
        if self.w_focal:
            scores = scores + self.w_focal * focal_penalty(masks, **self.focal)
        return logits, masks, scores

    @torch.no_grad()
    def target(self, masks: Tensor, images: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """What the masks teach.

        Args:
            masks: (B, K+1, h, w) float32, soft, background first.
            images: (B, 3, H, W) float32, raw or normalised: PAMR does not tell them apart.
            labels: (B, K).
            valid: (B, H, W) bool, inside the picture.

        Returns:
            (B, H, W) int64 of 0..K, 255 where nothing is taught.
        """
        refined = self.refined(masks, images, labels)
        return pseudo_mask(resize_aligned(refined, images.shape[-2:]) * valid[:, None])

    def refined(self, masks: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """PAMR of the masks that an image may have, at their size; the others become 0."""
        shown = torch.cat([torch.ones_like(labels[:, :1]), labels], 1) > 0
        if not self.use_pamr:
            return masks * shown[..., None, None]
        weights = self.pamr.weights(resize_aligned(images, masks.shape[-2:]))
        return self.pamr.refine(weights, masks, shown)

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Mean soft masks of the views, see `balanced`; a class's probability is its highest."""
        size, total, scores = images.shape[-2:], 0.0, []
        for scale in self.scales:
            views = make_views(images, scale, self.flip)
            _, masks, found = self.forward_masks(views)
            masks = resize_aligned(masks, views.shape[-2:])
            apart = masks.unflatten(0, (-1, len(images))).transpose(0, 1)  # (B, V, K+1, h, w)
            total = total + resize(unflip(apart).sum(1), size)
            scores.append(found.unflatten(0, (-1, len(images))).amax(0))
        probabilities = torch.stack(scores).amax(0).sigmoid()
        kept = gate(probabilities)
        mean = total / (len(self.scales) * (2 if self.flip else 1))
        maps = balanced(mean, self.background_power) * kept[..., None, None]
        maps = resize(maps, [-(-side // stride) for side in size])
        return Inference({"masks": maps}, probabilities, kept)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters and all others."""
        return self.network.parameter_groups()


def with_constant(logits: Tensor) -> Tensor:
    """(B, K, h, w) -> (B, K+1, h, w) with the background's constant logit 1 in front."""
    return torch.cat([torch.ones_like(logits[:, :1]), logits], 1)


def ngwp(logits: Tensor, masks: Tensor) -> Tensor:
    """Normalised global weighted pooling: each class's mean logit under its own mask.

    The 1 in the denominator lowers the scores of small masks.

    Args:
        logits: (B, K+1, h, w) float32, background first.
        masks: (B, K+1, h, w) float32, their softmax; the gradient runs through both.

    Returns:
        (B, K) float32.
    """
    return ((logits * masks).sum((2, 3)) / (1 + masks.sum((2, 3))))[:, 1:]


def focal_penalty(masks: Tensor, *, power: float = 3.0, shift: float = 0.01) -> Tensor:
    """(1-a)^power · ln(shift + a) of each class's mean mask a: ln(shift) if empty, 0 if full.

    Args:
        masks: (B, K+1, h, w) float32, background first.
        power: p of the paper.
        shift: its lambda.

    Returns:
        (B, K) float32; to be added to the scores.
    """
    area = masks[:, 1:].mean((2, 3))
    return (1 - area) ** power * (shift + area).log()


def pseudo_mask(
    masks: Tensor, *, top: float = 0.6, background: float = 0.7, lowest: float = 0.2
) -> Tensor:
    """Pixels near the maximum of exactly one mask.

    Args:
        masks: (B, K+1, H, W) float32 in [0, 1], background first, 0 where a class cannot be.
        top: share of its maximum that a class must exceed.
        background: the same of the background.
        lowest: what any must exceed.

    Returns:
        (B, H, W) int64 of 0..K; 255 where no mask or several are high.
    """
    peak = masks.amax((2, 3), keepdim=True)
    limit = torch.cat([background * peak[:, :1], top * peak[:, 1:]], 1).clamp_min(lowest)
    high = masks > limit
    return high.byte().argmax(1).masked_fill(high.sum(1) != 1, IGNORE)


def mask_loss(logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy that weighs a pixel by the share of the other classes' pixels.

    Args:
        logits: (B, K+1, h, w) float32, resized to the target.
        target: (B, H, W) int64 of 0..K and 255.
        labels: (B, K).

    Returns:
        (B,) float32, means over all pixels, 255 counting as 0; 0 for an image unless background
        and each of its classes have a pixel.
    """
    outputs = logits.shape[1]
    index = target.flatten(1).clamp_max(outputs)
    counts = logits.new_zeros(len(logits), outputs + 1)
    counts = counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))[:, :outputs]
    total = counts.sum(1, keepdim=True)
    weight = F.pad((total - counts) / (1 + total), (0, 1)).gather(1, index)
    error = F.cross_entropy(
        resize_aligned(logits, target.shape[-2:]), target, ignore_index=IGNORE, reduction="none"
    )
    whole = (counts > 0).sum(1) == (labels > 0).sum(1) + 1
    return whole * (weight * error.flatten(1)).mean(1)


def balanced(masks: Tensor, power: float) -> Tensor:
    """Mean soft masks -> maps that a constant background score of .5 splits as the release does.

    The release takes the highest of m_bg^power and the m_c; m_c / (m_c + m_bg^power) exceeds .5
    where m_c exceeds m_bg^power, and orders a pixel's classes as m_c does.

    Args:
        masks: (B, K+1, H, W) float32 in [0, 1], background first.
        power: above 1 lowers the background.

    Returns:
        (B, K, H, W) float32 in [0, 1].
    """
    background = masks[:, :1] ** power
    found = masks[:, 1:]
    return found / (found + background).clamp_min(torch.finfo(found.dtype).tiny)
