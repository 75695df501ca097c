"""A classifier whose 1×1 layer is applied at every position, so that it also draws maps.

One network for the CAM baseline (CAM of Zhou et al., CVPR 2016, in the form of IRN) and, with a
decoder, for the single-stage methods. Losses and map processing live elsewhere.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from wsssbench.models.base import Backbone, convert_to_sync

Pooling = Literal["mean", "max"]


@dataclass
class Output:
    """What one pass gives.

    Attributes:
        features: {"C1": (B, channels, h, w), …, "C5": …}, as the backbone returns them.
        cam: (B, K, h, w) float32, raw class scores per position of C5, any sign.
        logits: (B, K) float32, the mean of `cam` over all positions; with `pooling` max the scores
            of each channel's highest value.
        decoder: (B, K + 1, h, w) float32 logits, background first, of the decoder's own size (most:
            ceil(H/4), ceil(W/4); `LargeFOV`: as C5); or None.
    """

    features: dict[str, Tensor]
    cam: Tensor
    logits: Tensor
    decoder: Tensor | None = None


class CamNetwork(nn.Module):
    """Backbone, 1×1 classifier on C5 and, optionally, a decoder.

    The classifier is linear, so classifying every position and averaging equals averaging and
    classifying; the first order gives the map for nothing.

    Args:
        backbone: see `backbones.build`.
        num_classes: K, without background.
        bias: give the classifier a bias (published CAM networks have none).
        decoder: a `Decoder` or `SegformerHead` with K + 1 outputs, or None.
        dropout: probability with which a whole channel of C5 is dropped before the classifier
            in training (PSA: 0.5).
        pooling: "mean", or "max": the classifier sees the highest value of each
            channel (AFA, CoSA).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        bias: bool = False,
        decoder: nn.Module | None = None,
        dropout: float = 0.0,
        pooling: Pooling = "mean",
    ):
        super().__init__()
        self.pooling = pooling
        self.backbone = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(backbone.channels["C5"], num_classes, 1, bias=bias)
        self.decoder = decoder
        if decoder is not None and backbone.batch_norm == "sync":
            convert_to_sync(decoder)

    def forward(self, images: Tensor, *, with_decoder: bool = True) -> Output:
        """Class scores, maps and features of (B, 3, H, W) normalised images.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised.
            with_decoder: False skips the decoder (its parameters then get no gradient).
        """
        return self.read(self.backbone(images), images.shape[2:], with_decoder=with_decoder)

    def read(
        self, features: dict[str, Tensor], size: tuple[int, int], *, with_decoder: bool
    ) -> Output:
        """What the features of images of `size` (H, W) show."""
        cam, logits = classify(self.classifier, self.dropout(features["C5"]), self.pooling)
        decoded = None
        if with_decoder and self.decoder is not None:
            decoded = self.decoder(features, size).float()
        return Output(features, cam, logits, decoded)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: {"backbone": […], "new": [the heads'], "decoder": […]}."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": [], "decoder": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = name.split(".")[0]
                groups[part if part in groups else "new"].append(parameter)
        return groups


def classify(layer: nn.Conv2d, features: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """Class scores at every position, (B, K, h, w), and of the image, (B, K), both float32."""
    # float32 under autocast too: a mean over the map in bfloat16 loses the small scores
    cam = layer(features).float()
    if pooling == "mean":
        return cam, cam.mean((2, 3))
    return cam, layer(features.amax((2, 3), keepdim=True)).float().flatten(1)
