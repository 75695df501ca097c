"""The strong view of a batch: one photometric operation per image, drawn as CoSA draws it (Yang et
al., ECCV 2024). Nothing moves, so maps of the weak view fit the strong one.

Departs from the release: the operation sees the crop with its padding, which is restored after it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from wsssbench.mixing.pixels import from_bytes, to_bytes

STEPS = 10  # magnitudes are whole numbers from 1 to STEPS - 1


def strong_view(images: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """Images after their operation, each drawn uniformly from OPERATIONS with its magnitude.

    Args:
        images: (B, 3, H, W) float32, ImageNet-normalised.
        valid: (B, H, W) bool, inside the picture; elsewhere pixels stay as they are.
        generator: on the device of the images.
    """
    draw = {"size": (len(images),), "generator": generator, "device": images.device}
    operation = torch.randint(len(OPERATIONS), **draw)
    magnitude = torch.randint(1, STEPS, **draw)
    strong = to_bytes(images)
    for number, change in enumerate(OPERATIONS.values()):
        chosen = operation == number
        if chosen.any():
            strong[chosen] = change(strong[chosen], magnitude[chosen, None, None, None])
    return torch.where(valid[:, None], from_bytes(strong), images)


def _enhance(poor: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Blend away from (factor > 1) or towards (< 1) a poor version of the image, as PIL does."""

    def change(images: Tensor, magnitude: Tensor) -> Tensor:
        low = poor(images).float()
        mixed = low + (0.1 + 0.18 * magnitude) * (images - low)
        return mixed.clamp(0, 255).to(torch.uint8)

    return change


def _grey_mean(images: Tensor) -> Tensor:
    return F.rgb_to_grayscale(images).float().mean((2, 3), keepdim=True).add(0.5).floor()


def _solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    limit = (25.6 * magnitude).clamp_max(255)
    return torch.where(images < limit, images, 255 - images)


def _posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    dropped = 4 + (0.4 * magnitude).int()  # of eight bits
    return ((images.int() >> dropped) << dropped).to(torch.uint8)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, _: images,
    "autocontrast": lambda images, _: F.autocontrast(images),
    "equalize": lambda images, _: F.equalize(images),
    "solarize": _solarize,
    "colour": _enhance(lambda images: F.rgb_to_grayscale(images, 3)),
    "contrast": _enhance(_grey_mean),
    "brightness": _enhance(torch.zeros_like),
    "sharpness": _enhance(lambda images: F.adjust_sharpness(images, 0)),
    "posterize": _posterize,
}
