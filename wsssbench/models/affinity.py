"""Networks that tell where classes meet, on any backbone: IRNet's boundary branch (Ahn, Cho, Kwak,
CVPR 2019) and AffinityNet (Ahn & Kwak, CVPR 2018). No losses, no walk.

Departs from the releases: IRNet's displacement field, which separates instances, is left out;
images are padded to the next multiple of 16, not to 512, which cut larger ones off; maps of other
strides than the releases' are resized to the one that the heads work at.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsssbench.models.base import STAGES, Backbone
from wsssbench.models.decoder import resize


class BoundaryNet(nn.Module):
    """IRNet's boundary branch on the five maps of a frozen backbone.

    Args:
        backbone: gives C1..C5 (in the paper a ResNet-50 with ImageNet weights, not those of the
            CAM). It is frozen here, in place: evaluation mode for good, no gradient.
        width: channels of each map's head.
        groups: of the group norm.
    """

    stride = 4  # of the output
    multiple = 16  # sides of what the backbone sees, so that its maps nest

    def __init__(self, backbone: Backbone, *, width: int = 32, groups: int = 4):
        super().__init__()
        self.backbone = backbone.configure(batch_norm="frozen", frozen_stages=len(STAGES))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width)
                )
                for name, channels in backbone.channels.items()
            }
        )
        self.join = nn.Conv2d(len(STAGES) * width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Boundary logits.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised, any H and W.

        Returns:
            (B, 1, ceil(H/4), ceil(W/4)) float32; their sigmoid is the boundary map.
        """
        features, inner, outer = _features(self, images)
        # ReLU after resizing: the other way round gives a different map
        maps = [resize(head(features[name]), inner).relu() for name, head in self.heads.items()]
        return self.join(torch.cat(maps, dim=1)).float()[..., : outer[0], : outer[1]]

    @torch.no_grad()
    def boundary(self, images: Tensor) -> Tensor:
        """Boundary maps from the mean logits of each image and its mirror image.

        Args:
            images: as for `forward`.

        Returns:
            (B, 1, ceil(H/4), ceil(W/4)) float32 in [0, 1], without gradient.
        """
        return ((self(images) + self(images.flip(-1)).flip(-1)) / 2).sigmoid()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: {"backbone": [], "new": [the heads']}."""
        return _parameter_groups(self)


class AffinityNet(nn.Module):
    """AffinityNet: features whose distance tells whether two positions show one class.

    C3, C4 and C5 are brought to 1/8 of their channels each (64, 128 and 256 on a ResNet-50), and a
    last layer mixes them. All is trained together.

    Args:
        backbone: gives C3..C5; the release freezes batch norm and the first two stages
            (`batch_norm="frozen", frozen_stages=2`).
        widths: channels of the three heads instead of an eighth.
    """

    stride = 8
    multiple = 8

    def __init__(self, backbone: Backbone, *, widths: tuple[int, int, int] | None = None):
        super().__init__()
        self.backbone = backbone
        names = STAGES[2:]
        if widths is None:
            widths = tuple(max(1, backbone.channels[name] // 8) for name in names)
        self.heads = nn.ModuleDict(
            {
                name: nn.Conv2d(backbone.channels[name], width, 1, bias=False)
                for name, width in zip(names, widths, strict=True)
            }
        )
        self.join = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for head in self.heads.values():
            nn.init.kaiming_normal_(head.weight)
        nn.init.xavier_uniform_(self.join.weight, gain=4)  # the release's, for spread-out features

    def forward(self, images: Tensor) -> Tensor:
        """Features for `feature_affinity`.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised, any H and W.

        Returns:
            (B, C, ceil(H/8), ceil(W/8)) float32 >= -1, C the sum of the heads' widths.
        """
        features, inner, outer = _features(self, images)
        maps = [F.elu(resize(head(features[name]), inner)) for name, head in self.heads.items()]
        return F.elu(self.join(torch.cat(maps, dim=1)).float())[..., : outer[0], : outer[1]]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: {"backbone": […], "new": [the heads', at ten times the rate]}."""
        return _parameter_groups(self)


def _features(
    network: BoundaryNet | AffinityNet, images: Tensor
) -> tuple[dict[str, Tensor], tuple[int, ...], tuple[int, ...]]:
    """The backbone's maps of the images, padded right and below with the mean colour; the size of
    the output with this padding; its size without.
    """
    height, width = images.shape[2:]
    multiple = max(network.multiple, *network.backbone.strides.values())
    padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
    inner = tuple(side // network.stride for side in padded.shape[2:])
    outer = tuple(-(-side // network.stride) for side in (height, width))
    return network.backbone(padded), inner, outer


def _parameter_groups(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups["backbone" if name.startswith("backbone.") else "new"].append(parameter)
    return groups
