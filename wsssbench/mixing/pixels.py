"""Between ImageNet-normalised images and photographs, for mixers that look at or store colours."""

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def to_unit(images: Tensor) -> Tensor:
    """(..., 3, H, W) normalised float -> RGB, in [0, 1] but for jitter and rounding."""
    mean, deviation = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return images * deviation + mean


def to_bytes(images: Tensor) -> Tensor:
    """(..., 3, H, W) normalised float -> uint8 RGB, rounded and clamped."""
    return (to_unit(images) * 255).round().clamp(0, 255).to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 RGB -> normalised float32."""
    images = images.float() / 255
    mean, deviation = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (images - mean) / deviation
