"""Segmentation networks of the last stage: DeepLabV2 (Chen et al., TPAMI 2018, as most papers here
train it) and DeepLabV3+ (Chen et al., ECCV 2018, see `decoder`), on any backbone.

Losses live in `segmentation_losses`. Departs from the DeepLabV2 release: torchvision's ResNet (no
ceil mode in the max-pool, stride in the 3×3, the first block of a stage keeps the dilation before
it), of the same sizes at output stride 8; weights from ImageNet at most, never from masks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsssbench.models.base import Backbone, convert_to_sync
from wsssbench.models.decoder import Decoder, resize


class DeepLab(nn.Module, ABC):
    """A backbone with a segmentation head.

    Attributes:
        group: parameter group of the head.
    """

    group = "decoder"

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    @abstractmethod
    def pyramid(self, images: Tensor) -> list[Tensor]:
        """All logits that training compares with the mask, the prediction last.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised, any H and W.

        Returns:
            Tensors (B, outputs, h, w) float32, background first, each of its own size.
        """

    def forward(self, images: Tensor) -> Tensor:
        """The prediction alone: (B, outputs, h, w) float32 logits of (B, 3, H, W) images."""
        return self.pyramid(images)[-1]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: {"backbone": […], "new": […], "decoder": […]}."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": [], "decoder": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                inside = name.startswith("backbone.")
                groups["backbone" if inside else self.group].append(parameter)
        return groups


class DeepLabV2(DeepLab):
    """Four dilated 3×3 classifiers on C5, summed; with `msc` on three sizes of the image.

    Args:
        backbone: see `backbones.build`; of output stride 8 in the papers.
        outputs: K + 1, background first.
        msc: also see the image at `scales` and predict the highest logit of all sizes.
        rates: dilations of the classifiers.
        scales: of the further copies.
    """

    group = "new"

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        *,
        msc: bool = True,
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (0.75, 0.5),
    ):
        super().__init__(backbone)
        self.scales = tuple(scales) if msc else ()
        channels = backbone.channels["C5"]
        self.classifiers = nn.ModuleList(
            nn.Conv2d(channels, outputs, 3, padding=rate, dilation=rate) for rate in rates
        )
        for classifier in self.classifiers:
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Logits (B, outputs, h, w) of the image, of each copy, and their maximum.

        h and w are the sides of C5, for the maximum those of the image's own; without `msc` the
        list holds the image's logits alone.
        """
        logits = [self._classify(images)]
        for scale in self.scales:
            size = [max(1, int(side * scale)) for side in images.shape[-2:]]
            logits.append(self._classify(resize(images, size)))
        if not self.scales:
            return logits
        highest = torch.stack([resize(view, logits[0].shape[-2:]) for view in logits]).amax(0)
        return [*logits, highest]

    def _classify(self, images: Tensor) -> Tensor:
        features = self.backbone(images)["C5"]
        return sum(classifier(features).float() for classifier in self.classifiers)


class DeepLabV3Plus(DeepLab):
    """The decoder of `decoder` with few low-level channels, at stride 4.

    Args:
        backbone: see `backbones.build`; of output stride 16 or 8.
        outputs: K + 1, background first.
        width, low_width: see `Decoder`.
    """

    def __init__(self, backbone: Backbone, outputs: int, *, width: int = 256, low_width: int = 48):
        super().__init__(backbone)
        self.decoder = Decoder(
            backbone.channels,
            outputs,
            output_stride=backbone.output_stride,
            width=width,
            low_width=low_width,
        )
        if backbone.batch_norm == "sync":
            convert_to_sync(self.decoder)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The prediction alone: (B, outputs, ceil(H/4), ceil(W/4)) logits.

        Raises:
            UserError: one image in training.
        """
        return [self.decoder(self.backbone(images), images.shape[-2:]).float()]
