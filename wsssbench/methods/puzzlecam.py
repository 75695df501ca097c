"""Puzzle-CAM (Jo & Yu, ICIP 2021, arXiv 2101.11253): the map of the whole image must agree with the
one put together from its tiles, each classified alone. Tiles without the most discriminative part
must use the rest of the object, and the agreement hands that to the map of the whole image.

Departs from the release: the last checkpoint, not the best on the training masks; SGD's momentum is
what params.yaml says (the release passes the weight decay there); crops that do not divide are
refused; its entropy term on the tiles, unused in the published run, is left out. Expected: VOC 2012
train 51.5 mIoU against 47.8 of its CAM (ResNet-50, trained batch norm, threshold and checkpoint
best on the train masks); fewer FN, more FP.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss as cls_loss

from wsssbench.errors import UserError
from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multiscale import Merge
from wsssbench.methods.readout import CAM_KINDS, PamrSettings, ScgSettings, read_out
from wsssbench.models.cam_network import CamNetwork
from wsssbench.models.pcm import normalise
from wsssbench.schema import build


class PuzzleCAM(Method):
    """A classifier whose map of the whole image and map of its tiles must agree.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        pieces: tiles per image, a square number.
        alpha: last weight of the reconstruction loss.
        schedule: share of the steps in which the weight rises from 0 to alpha; 0: it is alpha.
        level: compare raw scores (`feature`) or maps divided by their maximum (`cam`).
        re_loss, re_mask: form of the reconstruction loss, see `reconstruction`.
        release_start: start the classifier He-normal as the release does; False: as CAM's,
            about 2.4 times smaller, from which a short training learns faster (docs/findings.md).
        merge: how views become one map, see `multiscale.merge_views`.
        scg, pamr: keys of `ScgSettings` and `PamrSettings` that differ from the defaults.
    """

    kinds = CAM_KINDS

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        pieces: int = 4,
        alpha: float = 4.0,
        schedule: float = 0.5,
        level: Literal["feature", "cam"] = "feature",
        re_loss: Literal["l1", "l2"] = "l1",
        re_mask: Literal["masked", "none", "selection"] = "masked",
        release_start: bool = True,
        merge: Merge = "irn",
        scg: Mapping[str, Any] | None = None,
        pamr: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = CamNetwork(backbone, num_classes)
        if release_start:
            nn.init.kaiming_normal_(self.network.classifier.weight)
        self.pieces, self.alpha, self.schedule, self.level = pieces, alpha, schedule, level
        self.form = {"loss": re_loss, "mask": re_mask}
        self.merge = merge
        self.scg = build(ScgSettings, scg or {}, "scg")
        self.pamr = build(PamrSettings, pamr or {}, "pamr")

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check `pieces`, `schedule` and the keys of `scg` and `pamr`."""
        pieces, schedule = settings.get("pieces", 4), settings.get("schedule", 0.5)
        if pieces < 1 or isqrt(pieces) ** 2 != pieces:
            raise UserError(f"{where}: pieces: expected a square number like 4 or 9, got {pieces}.")
        if not 0 <= schedule <= 1:
            raise UserError(f"{where}: schedule: expected a share from 0 to 1, got {schedule}.")
        build(ScgSettings, settings.get("scg") or {}, f"{where}.scg")
        build(PamrSettings, settings.get("pamr") or {}, f"{where}.pamr")

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Soft margin losses of both maps (`cls`, `p_cls`) and their distance (`re`).

        Raises:
            UserError: the crop cannot be cut into tiles of whole cells of the network.
        """
        images, labels = batch["image"], batch["label"]
        check_crop(images.shape[-2:], self.pieces, self.network.backbone.output_stride)
        whole = self.network(images)
        tiled = merge(self.network(tile(images, self.pieces)).cam, self.pieces)
        maps = whole.cam
        if self.level == "cam":
            maps, tiled = normalise(maps), normalise(tiled)
        weight = ramp(progress.step, progress.steps, self.alpha, self.schedule)
        progress.log(alpha=weight)
        return {
            "cls": cls_loss(whole.logits, labels),
            "p_cls": cls_loss(tiled.mean((2, 3)), labels),
            "re": weight * reconstruction(maps, tiled, labels, **self.form),
        }

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Multi-scale maps of whole images, as those of CAM; see `readout` for the arithmetic."""
        return read_out(
            self.network,
            images,
            gate,
            kinds=self.wanted,
            scales=self.scales,
            flip=self.flip,
            stride=stride,
            merge=self.merge,
            scg=self.scg,
            pamr=self.pamr,
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters and the classifier's."""
        return self.network.parameter_groups()


def tile(x: Tensor, pieces: int) -> Tensor:
    """Cut into n×n tiles, n = floor(sqrt(pieces)), row by row; the tile is the outer index.

    Args:
        x: (B, C, H, W), H and W divisible by n.
        pieces: number of tiles.

    Returns:
        (n·n·B, C, H/n, W/n); tile t of image b stands at t·B + b.
    """
    side = isqrt(pieces)
    return torch.cat([part for row in x.chunk(side, 2) for part in row.chunk(side, 3)])


def merge(tiles: Tensor, pieces: int) -> Tensor:
    """The inverse of `tile`: (n·n·B, C, h, w) -> (B, C, n·h, n·w)."""
    side = isqrt(pieces)
    parts = tiles.chunk(side * side)
    rows = [torch.cat(parts[start : start + side], 3) for start in range(0, side * side, side)]
    return torch.cat(rows, 2)


def reconstruction(
    whole: Tensor, tiled: Tensor, labels: Tensor, *, loss: str = "l1", mask: str = "masked"
) -> Tensor:
    """L_re: distance of the two maps; both receive its gradient.

    Args:
        whole: (B, K, h, w) float32, map of the whole image.
        tiled: (B, K, h, w) float32, map of its tiles.
        labels: (B, K) in [0, 1].
        loss: "l1" or "l2".
        mask: "masked": absent classes count as zero in the mean over B·K·h·w; "selection": mean
            over an image's own classes, 0 without any, then over images; "none": every class.

    Returns:
        A scalar.
    """
    error = whole - tiled
    error = (error.abs() if loss == "l1" else error.square()).mean((2, 3))
    if mask == "none":
        return error.mean()
    error = error * labels
    if mask == "masked":
        return error.mean()
    return (error.sum(1) / labels.sum(1).clamp_min(1)).mean()


def ramp(step: int, steps: int, alpha: float, schedule: float) -> float:
    """Weight of L_re at a 0-based step: linear from 0 to alpha in `schedule` of all steps."""
    return min(alpha * step / (steps * schedule), alpha) if schedule else alpha


def check_crop(size: tuple[int, int], pieces: int, stride: int) -> None:
    """Refuse sizes (H, W) px whose tiles are no whole number of the network's cells.

    Raises:
        UserError: names the nearest sizes that work.
    """
    side = isqrt(pieces)
    unit = side * stride
    for length in size:
        if length % unit:
            below = length // unit * unit
            near = f"{below} or {below + unit}" if below else f"{unit}"
            raise UserError(
                f"Puzzle-CAM cuts the crop into {side}×{side} tiles of whole cells of {stride} px, "
                f"so train.crop must be a multiple of {unit}; {length} is not. Give {near}."
            )
