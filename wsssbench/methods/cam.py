"""CAM (Zhou et al., CVPR 2016, as the first stage of Ahn et al., CVPR 2018 and 2019): a multi-label
classifier whose last 1×1 layer, applied per pixel, gives one map per class.

Departs from the releases: SGD's momentum and weight decay are what params.yaml says (three official
repositories pass the decay into the momentum slot); scales are resized as float tensors, not as
uint8 PIL images. Expected: VOC 2012 train 48.3-48.8 mIoU (ResNet-50, IRNet's recipe, best
threshold).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss

from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multicrop import CROPS, CropSettings
from wsssbench.methods.multiscale import Merge
from wsssbench.methods.readout import CAM_KINDS, PamrSettings, ScgSettings, read_out
from wsssbench.models.cam_network import CamNetwork
from wsssbench.schema import build


class CAM(Method):
    """Plain class activation maps: precise in class, incomplete in extent.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        bias: give the classifier a bias (then pooling and classifying no longer commute).
        dropout: channel dropout before the classifier (PSA: 0.5).
        merge: how views become one map, see `multiscale.merge_views`.
        scg, pamr: keys of `ScgSettings` and `PamrSettings` that differ from the defaults, for maps
            that are refined once.
        crops: keys of `CropSettings` that differ, for the kinds `crops`; these do not follow
            pseudo_masks.scales.
    """

    kinds = (*CAM_KINDS, *CROPS)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        merge: Merge = "irn",
        scg: Mapping[str, Any] | None = None,
        pamr: Mapping[str, Any] | None = None,
        crops: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = CamNetwork(backbone, num_classes, bias=bias, dropout=dropout)
        self.merge = merge
        self.scg = build(ScgSettings, scg or {}, "scg")
        self.pamr = build(PamrSettings, pamr or {}, "pamr")
        self.crops = build(CropSettings, crops or {}, "crops").check("crops")

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check the keys of `scg`, `pamr` and `crops`."""
        build(ScgSettings, settings.get("scg") or {}, f"{where}.scg")
        build(PamrSettings, settings.get("pamr") or {}, f"{where}.pamr")
        build(CropSettings, settings.get("crops") or {}, f"{where}.crops").check(f"{where}.crops")

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Multi-label soft margin loss of the pooled scores, mean over classes and batch."""
        logits = self.network(batch["image"]).logits.float()
        progress.log(confidence=_confidence(logits.detach(), batch["label"]))
        return {"cls": multilabel_soft_margin_loss(logits, batch["label"])}

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Multi-scale maps and the views' mean class score; see `readout` for the arithmetic."""
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
            crops=self.crops,
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters and the classifier's."""
        return self.network.parameter_groups()


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean probability given to the truth of each class and image; 1 is a converged classifier."""
    return torch.where(labels > 0.5, logits.sigmoid(), (-logits).sigmoid()).mean()
