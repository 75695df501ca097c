"""A classifier whose 1×1 layer is applied at every position, so that it also draws maps.

One network for the CAM baseline (CAM of Zhou et al., CVPR 2016, in the form of IRN) and, with a
decoder, for the single-stage methods. Losses and map processing live elsewhere.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from wsssbench.models.base import Backbone, convert_to_sync
from wsssbench.models.decoder import Decoder


@dataclass
class Output:
    """What one pass gives.

    Attributes:
        features: {"C1": (B, channels, h, w), …, "C5": …}, as the backbone returns them.
        cam: (B, K, h, w) float32, raw class scores per position of C5, any sign.
        logits: (B, K) float32, the mean of `cam` over all positions.
        decoder: (B, K + 1, ceil(H/4), ceil(W/4)) float32 logits, background first; or None.
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
        decoder: a `Decoder` with K + 1 outputs, or None.
        dropout: probability with which a whole channel of C5 is dropped before the classifier
            in training (PSA: 0.5).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        bias: bool = False,
        decoder: Decoder | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
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
        features = self.backbone(images)
        # float32 under autocast too: a mean over the map in bfloat16 loses the small scores
        cam = self.classifier(self.dropout(features["C5"])).float()
        decoded = None
        if with_decoder and self.decoder is not None:
            decoded = self.decoder(features, images.shape[2:]).float()
        return Output(features, cam, cam.mean(dim=(2, 3)), decoded)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: {"backbone": […], "new": [classifiers'], "decoder": […]}."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": [], "decoder": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = name.split(".")[0]
                groups[part if part in groups else "new"].append(parameter)
        return groups
