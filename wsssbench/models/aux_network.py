"""A CAM network with a second classifier on an earlier stage, whose map has seen less context.

As in CoSA and other single-stage methods on transformers: class scores may come from the maximum of
each channel over all positions instead of the mean.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from wsssbench.models.base import Backbone
from wsssbench.models.cam_network import CamNetwork, Output

Pooling = Literal["max", "mean"]


@dataclass
class AuxOutput(Output):
    """An `Output` with the second classifier's.

    Attributes:
        aux_cam: (B, K, h', w') float32, raw class scores per position of the earlier stage.
        aux_logits: (B, K) float32, its pooled scores.
    """

    aux_cam: Tensor | None = None
    aux_logits: Tensor | None = None


class AuxCamNetwork(CamNetwork):
    """Backbone, 1×1 classifiers without bias on C5 and on `level`, and a decoder.

    Args:
        backbone: see `backbones.build`.
        num_classes: K, without background.
        decoder: called with the features and the images' size; gives K + 1 logits.
        level: stage of the second classifier. C4 of a ViT is its ninth block.
        pooling: `max` classifies each channel's maximum, `mean` its mean.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        decoder: nn.Module,
        level: str = "C4",
        pooling: Pooling = "max",
    ):
        super().__init__(backbone, num_classes, decoder=decoder)
        self.auxiliary = nn.Conv2d(backbone.channels[level], num_classes, 1, bias=False)
        self.level, self.pooling = level, pooling

    def forward(self, images: Tensor, *, with_decoder: bool = True) -> AuxOutput:
        """As `CamNetwork.forward`."""
        features = self.backbone(images)
        cam, logits = self._classify(self.classifier, features["C5"])
        aux_cam, aux_logits = self._classify(self.auxiliary, features[self.level])
        decoded = self.decoder(features, images.shape[2:]).float() if with_decoder else None
        return AuxOutput(features, cam, logits, decoded, aux_cam, aux_logits)

    def _classify(self, layer: nn.Conv2d, features: Tensor) -> tuple[Tensor, Tensor]:
        cam = layer(features).float()
        if self.pooling == "mean":
            return cam, cam.mean((2, 3))
        return cam, layer(features.amax((2, 3), keepdim=True)).float().flatten(1)
