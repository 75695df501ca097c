"""What SIPE and SFC share between network and mask: maps with a background channel, read-out.

Both add what the two mirror images of a view give before anything is rectified, make their maps at
each scale, add the scales at the size of the image and divide each channel, the background too, by
its maximum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsssbench.errors import UserError
from wsssbench.methods.multiscale import against_background, make_views, normalise_max, unflip
from wsssbench.models.decoder import resize
from wsssbench.models.pcm import resize_aligned

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scales:
    """What the views of a batch gave.

    Attributes:
        cams: per scale (B, V, K, h, w) float32, raw class scores, the mirrored view still mirrored.
        parts: per scale the sum of both mirror images, `cam` among them, each (B, …, h, w).
        probabilities: (B, K) float32, mean over the views.
    """

    cams: list[Tensor]
    parts: list[Parts]
    probabilities: Tensor


def read_scales(
    run: Callable[[Tensor], Parts], images: Tensor, scales: Sequence[float], flip: bool
) -> Scales:
    """Run a network on every view of (B, 3, H, W) images; `run` gives float32 maps, with `cam`."""
    cams, parts, scores = [], [], []
    for scale in scales:
        found = run(make_views(images, scale, flip))
        views = {
            name: part.unflatten(0, (-1, len(images))).transpose(0, 1)
            for name, part in found.items()
        }
        cams.append(views["cam"])
        parts.append({name: unflip(view).sum(1) for name, view in views.items()})
        scores.append(views["cam"].mean((3, 4)).sigmoid().mean(1))
    return Scales(cams, parts, torch.stack(scores).mean(0))


def class_maps(cam: Tensor, size: Sequence[int]) -> Tensor:
    """Raw (B, K, h, w) scores -> (B, K+1, *size) float32 in [0, 1], background first.

    Each class divided by its maximum + 1e-5; the background is what the highest class leaves.
    """
    maps = normalise_max(cam.relu())
    return resize_aligned(torch.cat([1 - maps.amax(1, keepdim=True), maps], 1), size)


def shown(labels: Tensor) -> Tensor:
    """(B, K) labels -> (B, K+1, 1, 1) float32: 1 for the background and for present classes."""
    present = (labels > 0).float()
    return torch.cat([torch.ones_like(present[:, :1]), present], 1)[..., None, None]


def inside(valid: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) bool -> (B, 1, *size) float32, nearest neighbour."""
    return interpolate(valid[:, None].float(), tuple(size), mode="nearest")


def fuse(maps: Sequence[Tensor], kept: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Add the scales, divide by the maximum.

    Args:
        maps: per scale (B, K+1, h, w) float32, background first.
        kept: (B, K) bool; n classes in all, in the order of `kept.nonzero()`.
        size: of the result.

    Returns:
        Backgrounds (B, *size) and kept classes (n, *size), float32 in [0, 1).
    """
    image, channel = kept.nonzero(as_tuple=True)
    image = torch.cat([torch.arange(len(kept), device=kept.device), image])
    channel = torch.cat([channel.new_zeros(len(kept)), channel + 1])
    total = sum(resize(scale[image, channel][:, None], size)[:, 0] for scale in maps)
    total = normalise_max(total)
    return total[: len(kept)], total[len(kept) :]


def weighed(fused: tuple[Tensor, Tensor], kept: Tensor) -> Tensor:
    """(B, K, h, w) float32 in [0, 1], see `against_background`; 0 for classes not kept.

    Args:
        fused: backgrounds (B, h, w) and kept classes (n, h, w), as `fuse` gives them.
        kept: (B, K) bool.
    """
    background, classes = fused
    image, channel = kept.nonzero(as_tuple=True)
    found = background.new_zeros(*kept.shape, *background.shape[-2:])
    found[image, channel] = classes
    return against_background(found, background[:, None])


def check_widths(widths: Any, where: str) -> None:
    """Refuse side layers without channels.

    Raises:
        UserError: names the widths.
    """
    if min(widths) < 1:
        raise UserError(f"{where}: side_widths: expected numbers of 1 or more, got {widths}.")
