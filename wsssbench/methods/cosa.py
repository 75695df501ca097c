"""CoSA (Yang et al., ECCV 2024, arXiv 2402.17891): the masks that train the segmentation come from
the class activation maps of a slow copy of the network, the targets that train the maps from its
segmentation.

Two methods bear this name. `preset: released` is what the public code does and the logs of the
published figures ran: a threshold band and no more. `preset: paper` adds what the paper describes
and the code lacks: weights by perplexity (raw), a searched threshold (dts), contrastive separation
(csc); their constants are partly remembered, not read. The published VOC 2012 val 76.2 (ViT-B/16)
is of `released`, with the true image labels masking the classes at test; without them its logs say
73.5 to 73.7.

Departs from the release: the copy starts as a copy, runs in eval mode and takes over the
batch norm's statistics (the release averages parameters only, which batch norm does not survive);
its momentum follows the budget; padding is the mean colour; no Gaussian blur; the rate does not
rise linearly at first; a ViT's position embedding is trained (frozen there) unless
`model.frozen_stages` freezes C2. The decoder's map is a class's share against the background,
sigmoid(class - background): arg max is threshold .5, and a class that the decoder does not see is
not drawn, as it were if each map were divided by its maximum.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss
from torch.nn.functional import one_hot

from wsssbench.errors import UserError, unknown
from wsssbench.methods import swap
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.contrast import contrastive_separation, dealt_anew
from wsssbench.methods.strong_view import strong_view
from wsssbench.methods.swap import IGNORE, Assignment
from wsssbench.mixing.pixels import to_unit
from wsssbench.models.aux_network import AuxCamNetwork, AuxOutput, Pooling
from wsssbench.models.base import STAGES
from wsssbench.models.decoder import LargeFOV, resize
from wsssbench.models.segmentation_losses import masked_cross_entropy, reduce_mask
from wsssbench.refinement.dense_energy import dense_energy
from wsssbench.refinement.threshold_search import Thresholds
from wsssbench.schema import build

HALF_LIFE = 0.036  # of the training, after which the copy has forgotten half (release, VOC)
STRIDE = 16  # of the confidences that the threshold search sees
ANCHORS = 256  # per image and step


@dataclass(frozen=True)
class Parts:
    """What the two methods of this name differ in.

    Attributes:
        raw: one threshold and weights by perplexity instead of a band of unsure pixels.
        dts: the thresholds in use, the band's or `raw`'s and `csc`'s, are `fixed`, or searched:
            `released` as the public code fits the mixture, `converged` to the end.
        csc: whose labels the contrastive separation follows: the earlier stage's map (`aux`,
            paper) or, as controls, the `deep` map, the earlier stage's labels `shuffled`, the
            `truth`; `none` leaves it out.
    """

    raw: bool
    dts: Literal["fixed", "released", "converged"]
    csc: Literal["aux", "deep", "shuffled", "truth", "none"]


PRESETS = {"released": Parts(False, "fixed", "none"), "paper": Parts(True, "released", "aux")}


class CoSA(Method):
    """A classifier and a decoder that learn from each other through a slow copy of both.

    The copy is an average already: leave `train.ema` at 0.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        preset: defaults of `raw`, `dts` and `csc`, see `Parts`; given ones win.
        raw, dts, csc: see `Parts`.
        s2c: what the maps learn: the segmentation's pseudo-labels `spl`, as controls random ones
            (`noise`) or the `truth`, or nothing (`none`).
        aux_level: stage of the second classifier (paper: block 10 of 12; C4 of a ViT is block 9).
        pooling: `max` before the classifiers (release), or `mean`, better from scratch.
        decoder_width: channels of the decoder (release: 512).
        warmup: share of the steps in which only the classifiers learn.
        momentum: of the slow copy; None: from the budget (release: .9994, of 32 000 steps).
        strong: change colours or contrast of what the trained network sees, not the slow copy.
        views: scales of the slow copy's pass, each also mirrored.
        aux_sum: add up the scales of the earlier stage's map; in the release the last one counts.
        low, high: (map, earlier stage's map) thresholds of the band; the release's, whose logged
            run of VOC 2012 had .20 for both low ones.
        split: thresholds of `raw` and of `csc`'s labels.
        w_c2s, w_s2c, w_reg, w_csc: weights of the losses beside the classifiers'. The energy (reg)
            grows with the square of the number of pixels; its weight is for crops of 448 px.
        w_l1: weight of the mean rectified map, a control for `csc`: does it merely shrink the maps?
        perplexity: its alpha and beta (paper's figure: alpha .9).
        csc_space: compare C5's `features` or the class scores (`cam`).
        csc_temperature, csc_limit: of the contrast; the highest perplexity of a sure position.
        evaluate: whose maps and predictions count (the release keeps the better on val).
    """

    kinds = ("decoder", "cam", "aux")
    own_background = ("decoder",)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        preset: Literal["released", "paper"] = "released",
        raw: bool | None = None,
        dts: str | None = None,
        csc: str | None = None,
        s2c: Literal["spl", "noise", "truth", "none"] = "spl",
        aux_level: str = "C4",
        pooling: Pooling = "max",
        decoder_width: int = 512,
        warmup: float = 0.1875,
        momentum: float | None = None,
        strong: bool = True,
        views: tuple[float, ...] = (1.0, 0.5, 1.5),
        aux_sum: bool = False,
        low: tuple[float, float] = (0.25, 0.25),
        high: tuple[float, float] = (0.7, 0.7),
        split: tuple[float, float] = (0.45, 0.45),
        w_c2s: float = 0.1,
        w_s2c: float = 0.05,
        w_reg: float = 0.05,
        w_csc: float = 0.1,
        w_l1: float = 0.0,
        perplexity: tuple[float, float] = (0.8, 1.0),
        csc_space: Literal["features", "cam"] = "features",
        csc_temperature: float = 0.5,
        csc_limit: float = 1.0,
        evaluate: Literal["assignment", "online"] = "assignment",
    ):
        super().__init__()
        decoder = LargeFOV(backbone.channels, num_classes + 1, width=decoder_width)
        self.network = AuxCamNetwork(
            backbone, num_classes, decoder=decoder, level=aux_level, pooling=pooling
        )
        self.assignment = deepcopy(self.network).requires_grad_(False).eval()
        self.parts = _parts({"preset": preset, "raw": raw, "dts": dts, "csc": csc}, "cosa")
        self.s2c, self.warmup, self.momentum = s2c, warmup, momentum
        self.strong, self.views, self.aux_sum = strong, tuple(views), aux_sum
        self.weights = {"c2s": w_c2s, "s2c": w_s2c * (s2c != "none"), "reg": w_reg}
        self.weights |= {"csc": w_csc * (self.parts.csc != "none"), "l1": w_l1}
        self.alpha, self.beta = perplexity
        self.csc_space, self.csc_temperature, self.csc_limit = csc_space, csc_temperature, csc_limit
        self.evaluated = evaluate
        labels = self.parts.csc not in ("none", "truth")  # of the contrast, by `split`
        search = {"mode": self.parts.dts, "band": not self.parts.raw}
        search["single"] = self.parts.raw or labels
        self.thresholds = nn.ModuleList(Thresholds(*t, **search) for t in zip(low, high, split))

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check the switches, the stage, shares, thresholds and the perplexity."""
        _parts(settings, where)
        level = settings.get("aux_level", "C4")
        if level not in STAGES[:-1]:
            raise UserError(f"{where}: aux_level: {unknown('earlier stage', level, STAGES[:-1])}")
        for key in ("warmup", "momentum"):
            got = settings.get(key) or 0
            if not isinstance(got, int | float) or not 0 <= got < 1:
                raise UserError(f"{where}: {key}: expected a number from 0 to below 1, got {got}.")
        low, high = settings.get("low", (0.25,) * 2), settings.get("high", (0.7,) * 2)
        split = settings.get("split", (0.45,) * 2)
        if not all(0 < a <= b < 1 for a, b in (*zip(low, high), *zip(split, split))):
            raise UserError(
                f"{where}: low, high and split: expected thresholds between 0 and 1, low not above "
                f"high; got {list(low)}, {list(high)} and {list(split)}."
            )
        if not 0 < settings.get("perplexity", (0.8, 1))[0] < 1:
            raise UserError(f"{where}: perplexity: its first number, alpha, must be in (0, 1).")

    @classmethod
    def wants_masks(cls, settings: Mapping[str, Any]) -> bool:
        """Whether one of the upper bounds is chosen."""
        return "truth" in (settings.get("s2c"), settings.get("csc"))

    def train(self, mode: bool = True) -> "CoSA":
        """As `nn.Module.train`; the slow copy stays in evaluation mode."""
        super().train(mode)
        self.assignment.eval()
        return self

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Both classifiers' losses; after the warm-up c2s, s2c, reg, csc and l1.

        Raises:
            UserError: the `truth` is to teach, and the batch has no masks.
        """
        images, labels, valid = batch["image"], batch["label"], batch["valid"]
        if self.momentum is None:
            self.step_share = 1 - 0.5 ** (1 / (HALF_LIFE * progress.steps))
        else:
            self.step_share = 1 - self.momentum
        swapping = progress.step > self.warmup * progress.steps
        seen = strong_view(images, valid, progress.generator) if self.strong else images
        out = self.network(seen, with_decoder=swapping)
        losses = {"cls": cls_loss(out.logits, labels), "cls_aux": cls_loss(out.aux_logits, labels)}
        progress.log(cam_mean=out.cam.relu().mean())
        if not swapping:
            return losses
        taught = swap.assign(
            self.assignment, images, lambda _: labels > 0, scales=self.views, aux_sum=self.aux_sum
        )
        for threshold, maps in zip(self.thresholds, (taught.cam, taught.aux)):
            small = resize(maps, [-(-side // STRIDE) for side in maps.shape[-2:]])
            threshold.follow(small.amax(1))
        progress.log(**dict(zip(("low", "high", "split"), self.thresholds[0].values)))
        terms = {}
        if self.weights["c2s"] or self.weights["reg"]:
            masks = [self._mask(taught, row, valid) for row in range(2)]
            seg = resize(out.decoder, images.shape[-2:])
            terms["c2s"] = sum(_balanced(seg, *mask) for mask in masks) / 2
            progress.log(ignored=((masks[0][0] == IGNORE) & valid).sum() / valid.sum())
            if self.weights["reg"]:
                pixels = to_unit(seen).clamp(0, 1) * 255
                terms["reg"] = dense_energy(seg, pixels, masks[0][0], valid)
        if self.weights["s2c"]:
            terms["s2c"] = swap.cam_loss(out.cam, self._target(taught, out, batch, progress))
        if self.weights["csc"]:
            terms["csc"] = self._contrast(taught, out, batch, progress)
        if self.weights["l1"]:
            terms["l1"] = out.cam.relu().mean()
        return losses | {name: self.weights[name] * value for name, value in terms.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the slow copy towards the network; batch norm's statistics are taken over."""
        for slow, fast in zip(self.assignment.parameters(), self.network.parameters()):
            slow.lerp_(fast, self.step_share)
        for slow, fast in zip(self.assignment.buffers(), self.network.buffers()):
            slow.copy_(fast)

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Maps of the evaluated network, its views fused as in training."""
        network = self.assignment if self.evaluated == "assignment" else self.network
        found = swap.assign(
            network,
            images,
            gate,
            scales=self.scales,
            flip=self.flip,
            aux_sum=self.aux_sum,
            stride=stride,
        )
        share = (found.seg[:, 1:] - found.seg[:, :1]).div(found.views).sigmoid()
        maps = {"decoder": share, "cam": found.cam, "aux": found.aux}
        maps = {kind: found.spread(maps[kind]) for kind in self.wanted}
        return Inference(maps, found.probabilities, found.gate)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of backbone, classifiers and decoder; none of the slow copy's."""
        return self.network.parameter_groups()

    def memory(self) -> dict:
        """The confidences that the threshold search has seen."""
        return {"thresholds": [t.memory() for t in self.thresholds]}

    def remember(self, memory: dict) -> None:
        """Take them back."""
        for threshold, kept in zip(self.thresholds, memory["thresholds"], strict=True):
            threshold.remember(kept)

    def _mask(self, taught: Assignment, row: int, valid: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pseudo-mask (B, H, W) of the map (row 0) or the earlier stage's (1), and its weights."""
        cam = (taught.cam, taught.aux)[row]
        low, high, split = self.thresholds[row].values.tolist()
        if not self.parts.raw:
            band = {"low": low, "high": high}
            return swap.band_mask(cam, taught.classes, taught.kept, valid, **band), None
        unsure = swap.perplexity(cam.amax(1), split, alpha=self.alpha, beta=self.beta)
        mask = swap.split_mask(cam, taught.classes, valid, split)
        return mask, swap.reliability(unsure, valid)

    def _target(
        self, taught: Assignment, out: AuxOutput, batch: dict, progress: Progress
    ) -> Tensor:
        """What the maps shall show, (B, K, h, w) in [0, 1]."""
        size = out.cam.shape[-2:]
        if self.s2c == "truth":
            truth = _truth(batch, size)
            truth = one_hot(truth.masked_fill(truth == IGNORE, 0), out.cam.shape[1] + 1)
            return truth.movedim(-1, 1)[:, 1:].float()
        seg = taught.seg
        if self.s2c == "noise":
            drawn = torch.rand(seg.shape, generator=progress.generator, device=seg.device)
            seg = torch.where(seg == swap.NEVER, seg, drawn)
        return taught.spread(swap.segmentation_target(seg, size))

    def _contrast(
        self, taught: Assignment, out: AuxOutput, batch: dict, progress: Progress
    ) -> Tensor:
        """The contrastive separation of the strong view's features or class scores."""
        features = out.features["C5"] if self.csc_space == "features" else out.cam
        size, draw = features.shape[-2:], {"generator": progress.generator}
        valid = reduce_mask(batch["valid"].long(), size).bool()
        if self.parts.csc == "truth":
            labels = _truth(batch, size)
            sure = valid & (labels != IGNORE)
        else:
            row = int(self.parts.csc != "deep")
            cam = resize((taught.cam, taught.aux)[row], size)
            split = float(self.thresholds[row].values[2])
            labels = swap.split_mask(cam, taught.classes, valid, split)
            unsure = swap.perplexity(cam.amax(1), split, alpha=self.alpha, beta=self.beta)
            sure = valid & (unsure <= self.csc_limit)
        if self.parts.csc == "shuffled":
            labels = dealt_anew(labels, sure, **draw)
        progress.log(sure=sure.float().mean())
        return contrastive_separation(
            features, labels, sure, temperature=self.csc_temperature, anchors=ANCHORS, **draw
        )


def _parts(settings: Mapping[str, Any], where: str) -> Parts:
    """The preset's parts with those that the settings name.

    Raises:
        UserError: a value that a part does not have.
    """
    given = {key: settings[key] for key in ("raw", "dts", "csc") if settings.get(key) is not None}
    return build(Parts, {**vars(PRESETS[settings.get("preset", "released")]), **given}, where)


def _truth(batch: dict, size: Sequence[int]) -> Tensor:
    """The true masks (B, *size), for upper bounds."""
    if "mask" not in batch:
        raise UserError("CoSA's upper bounds (truth) need images with masks, and these have none.")
    return reduce_mask(batch["mask"].long(), size)


def _balanced(logits: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    return masked_cross_entropy(logits, mask, balanced=True, weights=weights) / 2
