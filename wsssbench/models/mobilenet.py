"""MobileNetV2 (Sandler et al., CVPR 2018) with torchvision's layers and parameter names.

C1..C5 end behind the 16-, 24-, 32-, 96- and 1280-channel stages (strides 2, 4, 8, 16, 32).
C1..C4 are linear bottlenecks, so, unlike a ResNet's, their maps take negative values.
"""

from itertools import pairwise

import torchvision
from torch import nn

from wsssbench.models.base import Backbone
from wsssbench.models.dilation import set_output_stride

BOUNDS = (0, 2, 4, 7, 14, 19)  # indices into torchvision's `features`


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2 (width 1.0) without its head.

    Args:
        output_stride: 8, 16 or 32.
        dilate: False leaves the kernels behind a removed stride undilated.
    """

    head = ("classifier.",)

    def __init__(self, *, output_stride: int = 16, dilate: bool = True):
        super().__init__((16, 24, 32, 96, 1280))
        self.features = torchvision.models.mobilenet_v2(weights=None).features
        self.strides = set_output_stride(
            self.stages(), (2, 4, 8, 16, 32), output_stride, dilate=dilate
        )

    def stages(self) -> list[list[nn.Module]]:
        """Slices of `features`."""
        layers = list(self.features)
        return [layers[low:high] for low, high in pairwise(BOUNDS)]
