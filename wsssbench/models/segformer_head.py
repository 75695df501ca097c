"""SegFormer's decoder (Xie et al., NeurIPS 2021): every stage is brought to one width, resized, and
all are joined by a 1×1 layer.

The joining layer is applied to each stage before the resize instead of to all after it: the same
function (both are linear), at a part of the cost.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from wsssbench.models.decoder import STRIDE, resize


class SegformerHead(nn.Module):
    """Segmentation logits at stride 4 from the maps C2..C5.

    Args:
        channels: {"C2": …, …, "C5": …} of the backbone.
        outputs: number of output channels, K + 1 with background first.
        width: channels of every stage and of the joint map.
    """

    levels = ("C2", "C3", "C4", "C5")

    def __init__(self, channels: dict[str, int], outputs: int, *, width: int = 256):
        super().__init__()
        self.linear = nn.ModuleList([nn.Conv2d(channels[name], width, 1) for name in self.levels])
        self.fuse = nn.Conv2d(len(self.levels) * width, width, 1, bias=False)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (B, outputs, ceil(H/4), ceil(W/4)) float of images of `size` (H, W)."""
        grid = tuple(-(-length // STRIDE) for length in size)
        joint: Tensor | float = 0.0
        parts = self.fuse.weight.chunk(len(self.levels), dim=1)
        for name, linear, weight in zip(self.levels, self.linear, parts, strict=True):
            joint = joint + resize(F.conv2d(linear(features[name]), weight), grid)
        return self.classifier(self.dropout(self.norm(joint).relu()))
