"""DeepLabV3+ decoder (Chen et al., ECCV 2018) in the form of RecurSeed and EdgePredictMix.

ASPP on the last map, joined with an early one (C2) at stride 4. Departs from DeepLabV3+ where the
RecurSeed repository does: 256 low-level channels (48 only in its multi-stage network), dropout
.5 and .1, and a 3×3 classifier without bias. Layers start from PyTorch's defaults.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from wsssbench.errors import UserError

STRIDE = 4  # of the decoder's output against the image


def aspp_rates(output_stride: int) -> tuple[int, int, int]:
    """(6, 12, 18) at output stride 16, (12, 24, 36) at 8: the same reach in the image."""
    unit = 96 // output_stride
    return (unit, 2 * unit, 3 * unit)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear, align_corners False."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, three dilated 3×3 and image pooling, joined by 1×1.

    Args:
        channels: of the input.
        width: of every branch and of the output.
        rates: dilations of the three 3×3 branches.
    """

    def __init__(self, channels: int, width: int, rates: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList([Conv2dNormActivation(channels, width, 1)])
        for rate in rates:
            self.branches.append(Conv2dNormActivation(channels, width, 3, dilation=rate))
        self.pooling = Conv2dNormActivation(channels, width, 1)
        self.project = Conv2dNormActivation(width * (len(rates) + 2), width, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w).

        Raises:
            UserError: one image in training: its pooled value has no batch statistics.
        """
        norm = self.pooling[1]
        if len(x) < 2 and norm.training and isinstance(norm, nn.BatchNorm2d):
            raise UserError(
                "The decoder normalises one pooled value per image over the batch, so it trains "
                "on at least 2 images per process and got 1. Raise batch_size or use fewer devices."
            )
        pooled = self.pooling(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        maps = [branch(x) for branch in self.branches]
        return self.dropout(self.project(torch.cat([*maps, pooled], dim=1)))


class Decoder(nn.Module):
    """Segmentation logits at stride 4 from the maps C2 and C5 of a backbone.

    Args:
        channels: {"C1": …, "C5": …} of the backbone.
        outputs: number of output channels, K + 1 with background first.
        output_stride: of C5; sets the dilations.
        width: channels of ASPP and of the two last hidden layers.
        low_width: channels to which C2 is brought: 256 (single-stage RecurSeed) or 48 (DeepLabV3+).
        rates: dilations instead of `aspp_rates(output_stride)`.
    """

    def __init__(
        self,
        channels: dict[str, int],
        outputs: int,
        *,
        output_stride: int = 16,
        width: int = 256,
        low_width: int = 256,
        rates: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.aspp = ASPP(channels["C5"], width, rates or aspp_rates(output_stride))
        self.low_level = Conv2dNormActivation(channels["C2"], low_width, 1)
        self.head = nn.Sequential(
            Conv2dNormActivation(width + low_width, width, 3),
            nn.Dropout(0.5),
            Conv2dNormActivation(width, width, 3),
            nn.Dropout(0.1),
            nn.Conv2d(width, outputs, 3, padding=1, bias=False),
        )

    def forward(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Logits.

        Args:
            features: maps of the backbone; C2 (B, channels, h, w), C5 (B, channels, h', w').
            size: (H, W) of the images. Where C2 is coarser than stride 4 (ViT) it is resized.

        Returns:
            (B, outputs, ceil(H/4), ceil(W/4)) float logits.

        Raises:
            UserError: one image in training.
        """
        grid = tuple(-(-length // STRIDE) for length in size)
        high = resize(self.aspp(features["C5"]), grid)
        low = resize(self.low_level(features["C2"]), grid)
        return self.head(torch.cat([high, low], dim=1))


class LargeFOV(nn.Module):
    """Two dilated 3×3 convolutions and a 1×1 one on C5, without norm or bias (DeepLab's LargeFOV in
    the form of CoSA and other single-stage methods on transformers).

    Args:
        channels: {"C1": …, "C5": …} of the backbone.
        outputs: number of output channels, K + 1 with background first.
        width: of the two hidden layers.
        dilation: of the 3×3 convolutions.
    """

    def __init__(
        self, channels: dict[str, int], outputs: int, *, width: int = 512, dilation: int = 5
    ):
        super().__init__()
        options = {"padding": dilation, "dilation": dilation, "bias": False}
        self.layers = nn.Sequential(
            nn.Conv2d(channels["C5"], width, 3, **options),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, **options),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
        )

    def forward(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """(B, outputs, h, w) float logits at the size of C5; `size` as for `Decoder`, not used."""
        return self.layers(features["C5"])
