"""The segmentation network of SSSS (Araslanov & Roth, CVPR 2020): ASPP, global cue injection and a
stochastic gate that mixes a deep with a shallow branch. Losses live in `methods.ssss`.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from wsssbench.models.base import Backbone, convert_to_sync
from wsssbench.models.decoder import ASPP, aspp_rates
from wsssbench.models.pcm import resize_aligned

SKIP_WIDTH = 48  # channels of the shallow stage beside the deep branch, as in DeepLabV3+


class GlobalCueInjection(nn.Module):
    """Shallow features, scaled and shifted by what the deep branch sees anywhere in the image.

    Args:
        shallow: channels of the shallow stage.
        width: channels of the deep branch and of the result.
    """

    def __init__(self, shallow: int, width: int):
        super().__init__()
        self.deep = Conv2dNormActivation(width, 2 * width, 1)
        # the cue brings scale and shift, so the norm has none
        self.skip = nn.Sequential(
            nn.Conv2d(shallow, width, 1, bias=False), nn.BatchNorm2d(width, affine=False)
        )
        self.project = Conv2dNormActivation(width, width, 1)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """(B, shallow, h, w) and (B, width, h', w') -> (B, width, h, w) >= 0."""
        scale, shift = self.deep(deep).amax((2, 3), keepdim=True).chunk(2, 1)
        return self.project((self.skip(shallow) * (scale + 1) + shift).relu())


class GatedNetwork(nn.Module):
    """Foreground logits at the shallow stage's stride.

    Args:
        backbone: see `backbones.build`. With `batch_norm: frozen` ASPP's norms keep their
            statistics too (the release's recipe).
        outputs: K; the background has a constant logit elsewhere.
        shallow: stage that joins before and behind the gate (release: ResNet's layer1).
        width: channels of every layer.
        psi: share of the gate's elements that come from the shallow branch, in [0, 1); 0: no gate.
    """

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        *,
        shallow: str = "C2",
        width: int = 256,
        psi: float = 0.3,
    ):
        super().__init__()
        self.shallow, self.psi = shallow, psi
        self.backbone = backbone
        channels = backbone.channels
        self.aspp = ASPP(channels["C5"], width, aspp_rates(backbone.output_stride))
        self.skip = Conv2dNormActivation(channels[shallow], SKIP_WIDTH, 1)
        self.join = Conv2dNormActivation(width + SKIP_WIDTH, width, 3)
        self.cue = GlobalCueInjection(channels[shallow], width)
        self.head = nn.Sequential(
            Conv2dNormActivation(width, width, 3),
            nn.Dropout(0.5),
            Conv2dNormActivation(width, width, 3),
            nn.Dropout(0.1),
            nn.Conv2d(width, outputs, 1),
        )
        for part in (self.aspp, self.skip, self.join, self.cue, self.head):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)
            if backbone.batch_norm == "sync":
                convert_to_sync(part)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised.
            generator: of the gate's draws in training.

        Returns:
            (B, outputs, h, w) float32, h×w the size of the shallow stage.

        Raises:
            UserError: one image in training, unless the norms are frozen.
        """
        features = self.backbone(images)
        shallow = features[self.shallow]
        high = resize_aligned(self.aspp(features["C5"]), shallow.shape[-2:])
        x = self.join(torch.cat([high, self.skip(shallow)], 1))
        if self.psi:
            x = gate(x, self.cue(shallow, x), self.psi, training=self.training, generator=generator)
        return self.head(x).float()

    def train(self, mode: bool = True) -> "GatedNetwork":
        """As `nn.Module.train`, except that frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.backbone.batch_norm == "frozen":
            for module in self.aspp.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: {"backbone": […], "new": [all others]}."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["backbone" if name.startswith("backbone.") else "new"].append(parameter)
        return groups


def gate(
    deep: Tensor,
    shallow: Tensor,
    psi: float,
    *,
    training: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stochastic gate.

    In training an element is the shallow one with probability psi, else the deep one less what the
    shallow one adds on average: the expectation is `deep`. In evaluation it is
    (1-psi)·deep + psi·shallow, as released, which is another expectation.

    Args:
        deep: (B, C, h, w) float.
        shallow: (B, C, h, w) float.
        psi: in [0, 1).
        training: draw.
        generator: of the draws.

    Returns:
        (B, C, h, w) float.
    """
    if not training:
        return (1 - psi) * deep + psi * shallow
    kept = torch.empty_like(deep, dtype=torch.float32).uniform_(generator=generator) >= psi
    return torch.where(kept, (deep - psi * shallow) / (1 - psi), shallow)
