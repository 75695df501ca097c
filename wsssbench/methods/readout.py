"""From a network's views of an image to its score maps: the plain CAM, the CAM refined once by SCG
and PAMR or smoothed by CVS, the decoder's map. Every kind comes from the same passes of the network
but for `crops`, which has windows of its own.

The refined kinds follow RecurSeed's evaluation (Jo et al., arXiv 2204.06754): for SCG the views are
added on the grid of C3, their features too; PAMR runs at the size of the image. The decoder's map
is the mean softmax of the views, each class divided by its own maximum.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from wsssbench.methods.base import Gate, Inference
from wsssbench.methods.multicrop import CROPS, CropSettings, multi_crop, read_crops
from wsssbench.methods.multiscale import Merge, make_views, merge_views, normalise_max, unflip
from wsssbench.models.cam_network import CamNetwork
from wsssbench.models.decoder import resize
from wsssbench.refinement.cvs import cvs
from wsssbench.refinement.pamr import pamr_weights, propagate
from wsssbench.refinement.scg import scg

CAM_KINDS = ("cam", "scg", "pamr", "scg+pamr", "cvs")
KINDS = ("decoder", *CAM_KINDS)


@dataclass(frozen=True)
class ScgSettings:
    """Which stages SCG compares and its thresholds, see `refinement.scg`."""

    levels: tuple[str, ...] = ("C1", "C2", "C3", "C4", "C5")
    first_threshold: float = 0.5
    second_threshold: float = 0.1
    foreground: float = 0.3
    background: float = 0.05
    order: int = 2
    second_weight: float = 1.0

    def refine(self, cams: Tensor, features: dict[str, Tensor]) -> Tensor:
        """SCG of (B, K, h, w) maps in [0, 1]; the stages' features are brought to h×w."""
        size = cams.shape[-2:]
        levels = [resize(features[name].float(), size) for name in self.levels]
        return scg(
            cams,
            levels,
            first_threshold=self.first_threshold,
            second_threshold=self.second_threshold,
            foreground=self.foreground,
            background=self.background,
            order=self.order,
            second_weight=self.second_weight,
        )


@dataclass(frozen=True)
class PamrSettings:
    """Reach and sharpness of PAMR, see `refinement.pamr`."""

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    sigma: float = 0.1

    def weights(self, images: Tensor) -> Tensor:
        """Neighbours' weights of (B, 3, H, W) images; depend on the image only."""
        return pamr_weights(images, dilations=self.dilations, sigma=self.sigma)

    def refine(self, weights: Tensor, maps: Tensor, kept: Tensor) -> Tensor:
        """PAMR of the maps (B, C, H, W) that `kept` (B, C) bool names; the others become 0."""
        image, channel = kept.nonzero(as_tuple=True)
        refined = torch.zeros_like(maps, dtype=torch.float32)
        if len(image):
            pairs = propagate(
                weights,
                maps[image, channel],
                index=image,
                dilations=self.dilations,
                iterations=self.iterations,
            )
            refined[image, channel] = pairs
        return refined


def read_out(
    network: CamNetwork,
    images: Tensor,
    gate: Gate,
    *,
    kinds: Sequence[str],
    scales: Sequence[float],
    flip: bool,
    stride: int = 1,
    merge: Merge = "irn",
    scg: ScgSettings = ScgSettings(),
    pamr: PamrSettings = PamrSettings(),
    crops: CropSettings | None = None,
) -> Inference:
    """Score maps of the classes that the gate keeps.

    Args:
        network: gives CAM, features and, for the kind `decoder`, decoder logits.
        images: (B, 3, H, W) float32, ImageNet-normalised.
        gate: probabilities (B, K) -> (B, K) bool; only kept classes are refined.
        kinds: of KINDS and CROPS.
        scales: of the views.
        flip: add the mirrored ones.
        stride: 1 for maps of H×W, s for ceil(H/s)×ceil(W/s).
        merge: how the views of the kind `cam` become one map.
        scg: settings of this refinement.
        pamr: settings of this refinement.
        crops: the windows of the kinds CROPS, which need them.

    Returns:
        Maps per kind; the probabilities are the views' mean.
    """
    size = tuple(images.shape[-2:])
    grid = tuple(-(-side // network.backbone.strides["C3"]) for side in size)
    levels = scg.levels if any(kind.startswith("scg") for kind in kinds) else ()

    def apart(x: Tensor) -> Tensor:  # (V·B, …) -> (B, V, …)
        return x.unflatten(0, (-1, len(images))).transpose(0, 1)

    def added(x: Tensor, size: Sequence[int]) -> Tensor:  # the views' sum, at another size
        return resize(unflip(apart(x.float())).sum(1), size)

    views, scores = [], []
    sums: dict[str, Tensor | float] = defaultdict(float)
    for scale in scales:
        out = network(make_views(images, scale, flip), with_decoder="decoder" in kinds)
        views.append(apart(out.cam))
        scores.append(apart(out.logits.float().sigmoid()).mean(1))
        if levels:
            sums["cam"] = sums["cam"] + added(out.cam.relu(), grid)
        for level in levels:
            sums[level] = sums[level] + added(out.features[level], grid)
        if out.decoder is not None:
            logits = resize(out.decoder.float(), [max(1, round(side * scale)) for side in size])
            sums["decoder"] = sums["decoder"] + added(logits.softmax(1), size)
    probabilities = torch.stack(scores).mean(0)
    kept = gate(probabilities)
    shown = kept[..., None, None]

    @cache
    def plain(stride: int) -> Tensor:
        return merge_views(views, size, stride=stride, merge=merge) * shown

    weights = pamr.weights(images) if any(kind.endswith("pamr") for kind in kinds) else None
    refined = resize(scg.refine(normalise_max(sums["cam"]) * shown, sums), size) if levels else None
    maps = {}
    if chosen := [kind for kind in kinds if kind in CROPS]:
        mean = multi_crop(
            lambda x: network(x, with_decoder=False).cam.relu(), images, kept, crops, flip
        )
        maps = read_crops(chosen, mean, stride)
    for kind in kinds:
        if kind in ("cam", "cvs"):
            maps[kind] = plain(stride) if kind == "cam" else cvs(plain(stride))
        elif kind not in CROPS:
            found = plain(1) if kind == "pamr" else refined
            if kind == "decoder":
                found = normalise_max(sums["decoder"][:, 1:]) * shown
            if kind.endswith("pamr"):
                found = pamr.refine(weights, found, kept)
            maps[kind] = resize(found * shown, [-(-side // stride) for side in size])
    return Inference({kind: maps[kind] for kind in kinds}, probabilities, kept)
