"""From uint8 photographs to network input, jointly for image, mask and validity (torchvision v2).

Order as in the CAM literature: resize the longer side, flip, jitter, JPEG, normalise, crop. The
crop comes after the normalisation, so that padding with zeros is padding with the mean colour.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from wsssbench.data.palette import IGNORE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(image: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 or float in [0, 1] -> float32, ImageNet's mean and deviation removed."""
    return F.normalize(F.to_dtype(image, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)


def denormalise(image: Tensor) -> Tensor:
    """Inverse of `normalise`: float32 (..., 3, H, W) -> float32 RGB in [0, 1] (clamped)."""
    shape = (3, 1, 1)
    mean = torch.tensor(IMAGENET_MEAN, device=image.device).view(shape)
    deviation = torch.tensor(IMAGENET_STD, device=image.device).view(shape)
    return (image * deviation + mean).clamp(0, 1)


def resize_longer_side(sample: dict, longer_px: int) -> dict:
    """Resize image (bicubic, antialiased) and masks (nearest) so that the longer side fits."""
    height, width = sample["image"].shape[-2:]
    factor = longer_px / max(height, width)
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    if size == [height, width]:
        return sample
    resized = dict(sample)
    for key, value in sample.items():
        if isinstance(value, tv_tensors.Image):
            mode = v2.InterpolationMode.BICUBIC
            resized[key] = F.resize(value, size, interpolation=mode, antialias=True)
        elif isinstance(value, tv_tensors.Mask):
            resized[key] = F.resize(value, size, interpolation=v2.InterpolationMode.NEAREST)
    return resized


class TrainTransform:
    """Random resize, flip, colour jitter, optional JPEG compression, normalisation, crop.

    Takes a dict with `image` (tv_tensors.Image uint8 (3, H, W)) and, if wanted, tv_tensors.Mask
    entries of the same size. Gives the same dict with `image` float32 (3, crop, crop), masks
    (crop, crop) padded with 255, and `valid` bool (crop, crop), true inside the picture. A picture
    smaller than the crop is placed at a uniform random offset. Draws come from torch's global
    generator; the loader seeds it per sample.

    Args:
        crop: side of the square crop, px.
        resize: (lowest, highest) length of the longer side, px, uniform over whole numbers.
        flip: probability of mirroring.
        jitter: strengths of brightness, contrast, saturation and hue.
        jpeg: (lowest, highest) JPEG quality 1..100, or None for no compression.
    """

    def __init__(
        self,
        crop: int,
        resize: tuple[int, int],
        flip: float = 0.5,
        jitter: Sequence[float] = (0, 0, 0, 0),
        jpeg: tuple[int, int] | None = None,
    ):
        self.resize = resize
        steps: list[torch.nn.Module] = [v2.RandomHorizontalFlip(flip)]
        if any(jitter):
            steps.append(v2.ColorJitter(*jitter))
        if jpeg:
            steps.append(v2.JPEG(jpeg))
        self.colour = v2.Compose(steps)
        fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
        self.crop = v2.RandomCrop(crop, pad_if_needed=True, fill=fill)

    def __call__(self, sample: dict) -> dict:
        """Transform one sample."""
        low, high = self.resize
        longer = int(torch.randint(low, high + 1, ()))
        sample = self.colour(resize_longer_side(sample, longer))
        image = tv_tensors.Image(normalise(sample["image"]))
        inside = tv_tensors.Mask(torch.zeros(image.shape[-2:], dtype=torch.uint8))
        sample = self.crop({**sample, "image": image, "valid": inside})
        sample["valid"] = sample["valid"].as_subclass(Tensor) != IGNORE
        return {
            key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value
            for key, value in sample.items()
        }
