"""A small network of our own that learns the synthetic set from scratch on a CPU.

Five stages of convolution, batch norm and ReLU, strides 2, 4, 8, 16, 32; no published weights.
"""

from torch import nn
from torchvision.ops import Conv2dNormActivation

from wsssbench.models.base import Backbone
from wsssbench.models.dilation import set_output_stride

CHANNELS = (16, 32, 64, 96, 128)


class Tiny(Backbone):
    """Five 3×3 convolutions, each with stride 2 before `output_stride` is applied.

    Args:
        output_stride: 8, 16 or 32.
        dilate: False leaves the kernels behind a removed stride undilated.
    """

    def __init__(self, *, output_stride: int = 16, dilate: bool = True):
        super().__init__(CHANNELS)
        inputs = (3, *CHANNELS)
        for number, (before, after) in enumerate(zip(inputs, CHANNELS, strict=False), start=1):
            layer = Conv2dNormActivation(before, after, 3, stride=2)
            nn.init.kaiming_normal_(layer[0].weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"stage{number}", layer)
        self.strides = set_output_stride(
            self.stages(), (2, 4, 8, 16, 32), output_stride, dilate=dilate
        )

    def stages(self) -> list[list[nn.Module]]:
        """stage1..stage5."""
        return [[getattr(self, f"stage{number}")] for number in range(1, 6)]
