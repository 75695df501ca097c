"""ResNet-18/50/101 (He et al., CVPR 2016) with torchvision's layers and parameter names.

C1 is the stem after its max-pool (stride 4), C2..C5 are layer1..layer4.
"""

from collections.abc import Callable

from torch import nn

from wsssbench.models.base import Backbone
from wsssbench.models.dilation import set_output_stride

BASIC = (64, 64, 128, 256, 512)
BOTTLENECK = (64, 256, 512, 1024, 2048)


class ResNet(Backbone):
    """A torchvision ResNet without its head.

    Args:
        constructor: torchvision's function, e.g. `torchvision.models.resnet50`.
        channels: of C1..C5, `BASIC` or `BOTTLENECK`.
        output_stride: 8, 16 or 32.
        dilate: False leaves the kernels behind a removed stride undilated.
    """

    head = ("fc.",)

    def __init__(
        self,
        constructor: Callable[..., nn.Module],
        channels: tuple[int, ...],
        *,
        output_stride: int = 16,
        dilate: bool = True,
    ):
        super().__init__(channels)
        net = constructor(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        self.strides = set_output_stride(
            self.stages(), (4, 4, 8, 16, 32), output_stride, dilate=dilate
        )

    def stages(self) -> list[list[nn.Module]]:
        """Stem, layer1, layer2, layer3, layer4."""
        stem = [self.conv1, self.bn1, self.relu, self.maxpool]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
