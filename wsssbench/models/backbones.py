"""The table of backbones and the one function that builds them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torchvision import models

from wsssbench.errors import unknown
from wsssbench.models import weights as initial
from wsssbench.models.base import Backbone
from wsssbench.models.mit import MiT
from wsssbench.models.mobilenet import MobileNetV2
from wsssbench.models.resnet import BASIC, BOTTLENECK, ResNet
from wsssbench.models.tiny import Tiny
from wsssbench.models.vit import ViT

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet18": partial(ResNet, models.resnet18, BASIC),
    "resnet50": partial(ResNet, models.resnet50, BOTTLENECK),
    "resnet101": partial(ResNet, models.resnet101, BOTTLENECK),
    "mobilenet_v2": MobileNetV2,
    "vit_b_16": ViT,
    "mit_b0": partial(MiT, (32, 64, 160, 256), (1, 2, 5, 8), (2, 2, 2, 2)),
    "mit_b1": partial(MiT, (64, 128, 320, 512), (1, 2, 5, 8), (2, 2, 2, 2)),
    "mit_tiny": partial(MiT, (16, 32, 64, 128), (1, 2, 4, 4), (1, 1, 1, 2)),
    "tiny": Tiny,
}


def build(
    name: str,
    *,
    weights: str | Path = initial.NONE,
    output_stride: int = 16,
    dilate: bool = True,
    batch_norm: str = "train",
    frozen_stages: int = 0,
) -> Backbone:
    """Build a backbone; without weights its start is drawn from torch's global generator.

    Args:
        name: a key of `BACKBONES`.
        weights: "imagenet", "none" or the path of a state dict (see `weights.load`).
        output_stride: 8, 16 or 32 (vit_b_16: 16).
        dilate: spread the kernels behind a removed stride; False is the network of IRN and
            RecurSeed at output stride 16.
        batch_norm: "train", "frozen" or "sync" (see `Backbone.configure`).
        frozen_stages: 0..5, stages C1..Cn that stay as they are.

    Raises:
        UserError: an unknown name or setting, or weights that cannot be had or do not fit.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    backbone = BACKBONES[name](output_stride=output_stride, dilate=dilate)
    initial.load(backbone, name, weights, all_shapes)
    return backbone.configure(batch_norm=batch_norm, frozen_stages=frozen_stages)


def all_shapes() -> dict[str, initial.Shapes]:
    """Shapes of every architecture's state dict, without allocating any of them."""
    with torch.device("meta"):
        return {name: initial.shapes(construct()) for name, construct in BACKBONES.items()}
