"""SIPE (Chen et al., CVPR 2022, arXiv 2203.02909): prototypes of each class and of the background
are taken from the image itself, on features of four stages, and compared with every pixel. The map
gained so (IS-CAM) and the CAM must agree. A pixel is a seed of the class whose CAM covers best
what looks like this pixel.

IS-CAM has a background channel and needs no threshold; the kind `is_cam` is weighed against it, so
threshold .5 is the paper's arg max (`multiscale.against_background`). Departs from the release:
the last checkpoint; momentum is what params.yaml says (1e-4 there, by a slip); the gradient's norm
is not clipped (to 1 there); nothing but `model.frozen_stages: 3` keeps C1..C3 at their ImageNet
weights, `batch_norm: frozen` its statistics; 0/0 in the soft IoU is 0. Expected: VOC 2012 train
58.88 mIoU (ResNet-50, no threshold) against 50.1 of a plain CAM; fewer FN.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multiscale import Merge, merge_views, normalise_max
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
from wsssbench.models.decoder import resize
from wsssbench.models.pcm import similarities
from wsssbench.models.prototypes import GRID, SideFeatures, prototypes, reactivate, winner


class SIPE(Method):
    """CAM and the map of image-specific prototypes, each teaching the other.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        side_widths: channels of the side layers behind C2..C5.
        w_gsc: weight of the consistency (paper: 1). It is a mean over all classes: (K+1)/21 gives a
            present class the weight that it has on VOC. 0 is the paper's row "IPE only": the side
            layers would learn nothing and are left out, seeds and prototypes come from C5.
        seed_train, seed_infer: features by which seeds are found in training and at inference,
            `deep` for C5 or `side`. The release really differs here.
        bg_factor: of the background's soft IoU before the arg max.
        mask_absent: at inference leave classes that are gated out also out of the competition for
            seeds and background; the release lets them compete, each scaled to a maximum of 1.
        merge: how views become the plain map `cam`, see `multiscale.merge_views`.
    """

    kinds = ("is_cam", "cam")
    own_background = ("is_cam",)
    competing = ("is_cam",)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        side_widths: tuple[int, int, int, int] = (128, 128, 256, 256),
        w_gsc: float = 1.0,
        seed_train: Literal["deep", "side"] = "deep",
        seed_infer: Literal["deep", "side"] = "side",
        bg_factor: float = 0.5,
        mask_absent: bool = False,
        merge: Merge = "irn",
    ):
        super().__init__()
        self.network = CamNetwork(backbone, num_classes)
        self.side = SideFeatures(backbone.channels, side_widths) if w_gsc else None
        self.w_gsc, self.bg_factor = w_gsc, bg_factor
        self.mask_absent, self.merge = mask_absent, merge
        self.seed_train, self.seed_infer = seed_train, seed_infer

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check the weight and the widths."""
        check_widths(settings.get("side_widths", (1,)), where)
        if settings.get("w_gsc", 1.0) < 0:
            raise UserError(f"{where}: w_gsc: expected 0 or more, got {settings['w_gsc']}.")

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Soft margin loss of the pooled scores (`cls`); distance of CAM and IS-CAM (`gsc`)."""
        labels, parts = batch["label"], self.parts(batch["image"])
        losses = {"cls": cls_loss(parts["cam"].mean((2, 3)), labels)}
        if self.w_gsc:
            size = parts["side"].shape[-2:]
            allowed = shown(labels) * inside(batch["valid"], size)
            maps = class_maps(parts["cam"], size) * allowed
            found = self.is_cam(maps, parts, allowed, self.seed_train)
            losses["gsc"] = self.w_gsc * (maps - normalise_max(found)).abs().mean()
        return losses

    def parts(self, images: Tensor) -> Parts:
        """One pass: raw scores `cam`, features `deep` and `side` at the size of C4, float32."""
        out = self.network(images)
        deep = resize(out.features["C5"].detach().float(), out.features[GRID].shape[-2:])
        side = self.side(out.features) if self.side else deep
        return {"cam": out.cam, "deep": deep, "side": side}

    def is_cam(self, maps: Tensor, parts: Parts, allowed: Tensor, by: str) -> Tensor:
        """(B, K+1, h, w) float32 in [0, 1] from the CAM's maps and features, see `losses`."""
        with torch.autocast(maps.device.type, enabled=False):  # no similarity in half precision
            scores = soft_iou(maps.detach(), parts[by].detach())
            scores[:, 0] *= self.bg_factor
            seeds = winner(scores, allowed)
            return reactivate(parts["side"], prototypes(parts["side"], seeds))

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """IS-CAM against its background, and the plain CAM."""
        size = tuple(images.shape[-2:])
        scales = read_scales(self.parts, images, self.scales, self.flip)
        kept, maps = gate(scales.probabilities), {}
        for kind in self.wanted:
            if kind == "cam":
                found = merge_views(scales.cams, size, stride=stride, merge=self.merge)
                maps[kind] = found * kept[..., None, None]
                continue
            found, allowed = [], shown(kept)
            for parts in scales.parts:
                competing = allowed[:, 1:] if self.mask_absent else 1
                plain = class_maps(parts["cam"] * competing, parts["side"].shape[-2:])
                found.append(self.is_cam(plain, parts, allowed, self.seed_infer))
            maps[kind] = weighed(fuse(found, kept, [-(-side // stride) for side in size]), kept)
        return Inference(maps, scales.probabilities, kept)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters; those of the classifier and the side layers."""
        groups = self.network.parameter_groups()
        groups["new"] += self.side.parameters() if self.side else []
        return groups


def soft_iou(maps: Tensor, features: Tensor) -> Tensor:
    """How well each map agrees with what looks like a position: U of structure-aware seeds.

    For position p with affinity R[p, q] = relu(cosine of the features): the sum of R·map over q,
    divided by sum of R + sum of map - that.

    Args:
        maps: (B, C, h, w) float32 in [0, 1], the size of the features.
        features: (B, D, h, w) float32.

    Returns:
        (B, C, h, w) float32, 0 or more; 0 for an empty map.
    """
    flat, common, total = maps.flatten(2), [], []
    for block in similarities(features):  # symmetric: columns are as good as rows
        common.append(flat @ block)
        total.append(block.sum(1, keepdim=True))
    inter = torch.cat(common, 2)
    union = torch.cat(total, 2) + flat.sum(2, keepdim=True) - inter
    return (inter / union.clamp_min(1e-8)).unflatten(2, maps.shape[-2:])
