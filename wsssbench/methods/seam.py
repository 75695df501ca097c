"""SEAM (Wang et al., CVPR 2020, arXiv 2004.04581): the maps of an image and of its small copy must
agree (ER); a pixel correlation module rewrites each map by likeness of low-level features, and each
rewritten map must match the other copy's map (ECR). No gradient runs from a rewritten map into the
network: `ecr` and `min` train the module alone, the rest learns from `cls` and `er`.

Departs from the release: any backbone instead of Wide-ResNet-38 (the module sees C3 and C4, 512 and
1024 channels in ResNet-50, as there); the classifier has no row for the background, which no loss
would train; SGD's momentum is what params.yaml says; maps of empty classes are 0, not -1. Needs
ImageNet weights. Expected: VOC 2012 train 55.4 mIoU (Wide-ResNet-38, batch_norm: frozen, best
threshold).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError, unknown
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multiscale import EPS, Merge, make_views, merge_views
from wsssbench.methods.readout import PamrSettings
from wsssbench.models.base import STAGES
from wsssbench.models.cam_network import CamNetwork
from wsssbench.models.decoder import resize
from wsssbench.models.pcm import PCM, resize_aligned, winners
from wsssbench.refinement.cvs import cvs
from wsssbench.schema import build

View = tuple[Tensor, Sequence[int]]  # (B, V, K, h, w) maps of one scale; height and width, px


class SEAM(Method):
    """Two copies of an image with equal maps, and maps rewritten by pixel correlation.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        second_scale: of the small copy.
        levels: the two stages that the correlation module compares.
        widths: channels to which they are brought, and of the features compared.
        dropout: channel dropout before the classifier.
        w_min, w_er, w_ecr: weights of the losses beside `cls` (release: all 1).
        release_start: start the classifier Xavier-uniform as the release does; False: as CAM's,
            about 2.4 times smaller, from which a short training learns faster (docs/findings.md).
        merge: how views become one map, see `multiscale.merge_views`.
        pamr: keys of `PamrSettings` that differ from the defaults, for maps refined once.
    """

    kinds = ("pcm", "cam", "pcm+pamr", "pamr", "pcm+cvs", "cvs")

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        second_scale: float = 0.3,
        levels: tuple[str, str] = ("C3", "C4"),
        widths: tuple[int, int, int] = (64, 128, 192),
        dropout: float = 0.5,
        w_min: float = 1.0,
        w_er: float = 1.0,
        w_ecr: float = 1.0,
        release_start: bool = True,
        merge: Merge = "seam",
        pamr: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = CamNetwork(backbone, num_classes, dropout=dropout)
        if release_start:
            nn.init.xavier_uniform_(self.network.classifier.weight)
        self.pcm = PCM(*(backbone.channels[level] for level in levels), widths)
        self.second_scale, self.levels, self.merge = second_scale, levels, merge
        self.weights = {"cls": 1.0, "min": w_min, "er": w_er, "ecr": w_ecr}
        self.pamr = build(PamrSettings, pamr or {}, "pamr")

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check `second_scale`, `levels` and the keys of `pamr`."""
        scale = settings.get("second_scale", 0.3)
        if not 0 < scale <= 1:
            raise UserError(f"{where}: second_scale: expected a number in (0, 1], got {scale}.")
        for level in settings.get("levels", ()):
            if level not in STAGES:
                raise UserError(f"{where}: levels: {unknown('stage', level, STAGES)}")
        build(PamrSettings, settings.get("pamr") or {}, f"{where}.pamr")

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Both copies' classification and background losses, ER and ECR."""
        images, cams, rewritten = batch["image"], [], []
        small = [max(1, int(side * self.second_scale)) for side in images.shape[-2:]]
        for copy in (images, resize_aligned(images, small)):
            cam, maps = self.maps_of(copy)
            cams.append(resize_aligned(cam, copy.shape[-2:]))
            rewritten.append(resize_aligned(maps, copy.shape[-2:]))
        losses = seam_losses(cams, rewritten, batch["label"])
        return {name: self.weights[name] * value for name, value in losses.items()}

    def maps_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One pass: raw scores (B, K, h, w) and rewritten maps (B, K+1, h, w), both float32."""
        out = self.network(images)
        low, high = (out.features[level] for level in self.levels)
        return out.cam, self.pcm(out.cam, images, low, high)

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Multi-scale maps, before and after the correlation module, refined or not."""

        def apart(x: Tensor) -> Tensor:  # (V·B, …) -> (B, V, …)
            return x.unflatten(0, (-1, len(images))).transpose(0, 1)

        views: dict[str, list[View]] = {"cam": [], "pcm": []}
        scores = []
        for scale in self.scales:
            copies = make_views(images, scale, self.flip)
            cam, rewritten = self.maps_of(copies)
            sides = copies.shape[-2:]
            views["cam"].append((apart(cam), sides))
            views["pcm"].append((apart(rewritten[:, 1:]), sides))
            scores.append(apart(_pooled(cam, sides).sigmoid()).mean(1))
        probabilities = torch.stack(scores).mean(0)
        kept = gate(probabilities)
        maps = self.read(self.wanted, views, images, kept, stride)
        return Inference(maps, probabilities, kept)

    def read(
        self,
        kinds: Sequence[str],
        views: dict[str, list[View]],
        images: Tensor,
        kept: Tensor,
        stride: int,
    ) -> dict[str, Tensor]:
        """Maps of the kinds from the views' `cam` and `pcm`, for the kept classes."""
        size = tuple(images.shape[-2:])
        weights = self.pamr.weights(images) if any(k.endswith("pamr") for k in kinds) else None
        maps = {}
        for kind in kinds:
            source = views["pcm" if kind.startswith("pcm") else "cam"]
            if kind.endswith("pamr"):
                found = self.pamr.refine(weights, self.merged(source, kept, size), kept)
                maps[kind] = resize(found, [-(-side // stride) for side in size])
                continue
            found = self.merged(source, kept, size, stride)
            maps[kind] = cvs(found) if kind.endswith("cvs") else found
        return maps

    def merged(
        self, views: Sequence[View], kept: Tensor, size: tuple[int, int], stride: int = 1
    ) -> Tensor:
        """(B, K, ceil(H/stride), ceil(W/stride)) float32 in [0, 1), of the kept classes only."""
        image, channel = kept.nonzero(as_tuple=True)
        maps = views[0][0].new_zeros(*kept.shape, *(-(-side // stride) for side in size))
        if len(image):
            pairs = [resize_aligned(view[image, :, channel], sides) for view, sides in views]
            pairs = [view[:, :, None] for view in pairs]  # one class each: (n, V, 1, h, w)
            maps[image, channel] = merge_views(pairs, size, stride=stride, merge=self.merge)[:, 0]
        return maps

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters; those of classifier and correlation module."""
        groups = self.network.parameter_groups()
        groups["new"] += self.pcm.parameters()
        return groups


def seam_losses(
    cams: Sequence[Tensor], rewritten: Sequence[Tensor], labels: Tensor
) -> dict[str, Tensor]:
    """The four losses, unweighted, from the maps of the image and of its small copy.

    Args:
        cams: (B, K, H, W) and (B, K, h, w) float32, raw scores at the size of each copy.
        rewritten: (B, K+1, H, W) and (B, K+1, h, w) float32, with background first.
        labels: (B, K) in [0, 1].

    Returns:
        `cls` and `min`, means of both copies; `er`; `ecr`, a sum of both copies.
    """
    small = cams[1].shape[-2:]
    foreground = labels[..., None, None]
    shown = torch.cat([torch.ones_like(foreground[:, :1]), foreground], 1)
    maps = [resize_aligned(max_norm(cam), small) * foreground for cam in cams]
    targets = [winners(cam.detach()) for cam in maps]
    readings = [resize_aligned(max_norm(cam), small) * shown for cam in rewritten]
    return {
        "cls": sum(cls_loss(cam.mean((2, 3)), labels) for cam in cams) / 2,
        "min": sum(lowest(cam[:, 1:] * foreground) for cam in rewritten) / 2,
        "er": (maps[0] - maps[1]).abs().mean(),
        "ecr": hardest(targets[1] - readings[0]) + hardest(targets[0] - readings[1]),
    }


def max_norm(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> [0, 1) by the lowest and highest rectified value of each map."""
    maps = maps.relu()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low - EPS).relu() / (high - low + EPS)


def lowest(maps: Tensor, share: float = 0.25) -> Tensor:
    """Mean over images of the lowest quarter of (B, K, h, w) maps' highest class per position."""
    top = maps.amax(1).flatten(1)
    return top.topk(max(1, int(top.shape[1] * share)), largest=False).values.relu().mean()


def hardest(error: Tensor, share: float = 0.2) -> Tensor:
    """Mean over images of the largest fifth of the absolute (B, C, h, w) errors."""
    error = error.abs().flatten(1)
    return error.topk(max(1, int(error.shape[1] * share))).values.mean()


def _pooled(cam: Tensor, size: Sequence[int]) -> Tensor:
    """Mean of (B, K, h, w) at `size`, as training takes it, one axis at a time to save memory."""
    rows = resize_aligned(cam, (size[0], cam.shape[3])).mean(2, keepdim=True)
    return resize_aligned(rows, (1, size[1])).mean((2, 3))
