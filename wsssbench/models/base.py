"""What every backbone shares: five named stages, gradient cut, batch-norm mode.

The families (ResNet, MobileNetV2, ViT, tiny) say which layers form a stage; weights are read in
`weights`, strides are removed in `dilation`.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsssbench.errors import UserError, unknown

STAGES = ("C1", "C2", "C3", "C4", "C5")
BATCH_NORM_MODES = ("train", "frozen", "sync")


class Backbone(nn.Module, ABC):
    """A network that returns the feature maps of its five stages.

    A subclass registers its layers under torchvision's names (so that state dicts fit), lists
    them in `stages`, and sets `strides`.

    Attributes:
        channels: {"C1": channels, …, "C5": channels}.
        strides: {"C1": stride, …, "C5": stride} against the image. A map of an (H, W) image has
            the size (ceil(H / stride), ceil(W / stride)).
        head: prefixes of the classification head in torchvision's state dict, left out here.
        attention_maps: maps of self-attention of which `attend` gives queries and keys (MiT); 0:
            there is no `attend`.
        batch_norm: "train" | "frozen" | "sync", see `configure`.
        frozen_stages: 0..5, stages C1..Cn that are not trained.
    """

    head: tuple[str, ...] = ()
    attention_maps: int = 0

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.channels = dict(zip(STAGES, channels, strict=True))
        self.strides: dict[str, int] = {}
        self.batch_norm = "train"
        self.frozen_stages = 0

    @property
    def output_stride(self) -> int:
        """Stride of C5."""
        return self.strides["C5"]

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """The layers of C1..C5, in the order in which they run."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of all stages.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised, any H and W.

        Returns:
            {"C1": (B, channels, ceil(H/stride), ceil(W/stride)) float, …, "C5": …}.
        """
        self.check_device(images)
        maps, x = {}, images
        for number, layers in enumerate(self.stages(), start=1):
            with self.gradient(number):
                for layer in layers:
                    x = layer(x)
            maps[STAGES[number - 1]] = x
        return maps

    def gradient(self, number: int) -> contextlib.AbstractContextManager:
        """Context in which stage `number` (1..5) runs: a frozen one trains without gradient.

        In eval mode the gradient passes, for a saliency that asks for that of the image.
        """
        frozen = self.training and number <= self.frozen_stages
        return torch.set_grad_enabled(torch.is_grad_enabled() and not frozen)

    def configure(self, *, batch_norm: str = "train", frozen_stages: int = 0) -> "Backbone":
        """Choose how batch norm behaves and which stages stay as they are. In place.

        Args:
            batch_norm: "train": statistics of the batch. "frozen": running statistics, scale and
                shift still trained; survives `.train()`. "sync": statistics of the batch over all
                processes (GPUs only).
            frozen_stages: n of 0..5. C1..Cn become a fixed function: no gradient reaches them,
                their batch norm keeps its statistics. 3 is IRN's cut after layer2.

        Raises:
            UserError: unknown mode, n outside 0..5, or "sync" where there is no GPU.
        """
        if batch_norm not in BATCH_NORM_MODES:
            raise unknown("batch_norm", batch_norm, BATCH_NORM_MODES)
        if frozen_stages not in range(len(STAGES) + 1):
            raise UserError(f"frozen_stages is {frozen_stages!r}; give a whole number from 0 to 5.")
        self.batch_norm = batch_norm
        self.frozen_stages = int(frozen_stages)
        if batch_norm == "sync":
            convert_to_sync(self)
        self.freeze()
        return self.train(self.training)

    def freeze(self) -> None:
        """Only parameters of stages that are not frozen take part in training."""
        for number, layers in enumerate(self.stages(), start=1):
            for layer in layers:
                layer.requires_grad_(number > self.frozen_stages)

    def train(self, mode: bool = True) -> "Backbone":
        """As `nn.Module.train`, except that what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        for layers in self.stages()[: self.frozen_stages]:
            for layer in layers:
                layer.eval()
        return self

    def check_device(self, images: Tensor) -> None:
        """Refuse synchronised batch norm on images that are not on a GPU.

        Raises:
            UserError: batch_norm is "sync", the network is training, and `images` is on the CPU.
        """
        if self.batch_norm == "sync" and self.training and not images.is_cuda:
            raise UserError(
                "batch_norm: sync runs on GPUs only and the images are on the CPU. "
                "Set batch_norm to train or frozen."
            )


def convert_to_sync(module: nn.Module) -> None:
    """Replace every batch norm inside `module` by one that is synchronised over processes.

    Raises:
        UserError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "batch_norm: sync needs GPUs and there is none. Set batch_norm to train or frozen."
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(module)
