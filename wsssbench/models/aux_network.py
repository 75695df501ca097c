"""A CAM network with a second classifier on an earlier stage, whose map has seen less context.

As in CoSA and other single-stage methods on transformers: class scores may come from the maximum of
each channel over all positions instead of the mean.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from wsssbench.models.base import Backbone
from wsssbench.models.cam_network import CamNetwork, Output, Pooling, classify


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
        super().__init__(backbone, num_classes, decoder=decoder, pooling=pooling)
        self.auxiliary = nn.Conv2d(backbone.channels[level], num_classes, 1, bias=False)
        self.level = level

    def forward(self, images: Tensor, *, with_decoder: bool = True) -> AuxOutput:
        """As `CamNetwork.forward`."""
        out = super().forward(images, with_decoder=with_decoder)
        aux = classify(self.auxiliary, out.features[self.level], self.pooling)
        return AuxOutput(out.features, out.cam, out.logits, out.decoder, *aux)
