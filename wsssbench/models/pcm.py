"""Pixel correlation: SEAM's module (Wang et al., CVPR 2020), self-attention without a residual, and
SFC's (Zhao et al., AAAI 2024), which compares the last stage and smooths twice.

Every position's scores become a mean over the positions whose features look alike. Which losses
train a module is decided in `methods.seam` and `methods.sfc`.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5
BLOCK_VALUES = 2**24  # similarities that exist at once: 64 MiB


class PCM(nn.Module):
    """Rewrites maps by the likeness of an image's colours and of two stages of the backbone.

    Runs in float32 under autocast too: bfloat16 has too few digits for a similarity.

    Args:
        low, high: channels of the two stages (SEAM: 512 and 1024).
        widths: channels to which the two are brought and of the features compared.
    """

    def __init__(self, low: int, high: int, widths: tuple[int, int, int] = (64, 128, 192)):
        super().__init__()
        self.f8_3 = nn.Conv2d(low, widths[0], 1, bias=False)
        self.f8_4 = nn.Conv2d(high, widths[1], 1, bias=False)
        self.f9 = nn.Conv2d(3 + widths[0] + widths[1], widths[2], 1, bias=False)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def forward(self, cam: Tensor, images: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Rewritten maps; only the module's own weights receive a gradient.

        Args:
            cam: (B, K, h, w) float, raw class scores.
            images: (B, 3, H, W) float, normalised; brought to h×w, as the stages are.
            low: (B, low, h', w') float.
            high: (B, high, h'', w'') float.

        Returns:
            (B, K+1, h, w) float32 in [0, 1], background first.
        """
        size = cam.shape[-2:]
        with torch.autocast(cam.device.type, enabled=False):
            first = self.f8_3(resize_aligned(low.detach(), size)).relu()
            second = self.f8_4(resize_aligned(high.detach(), size)).relu()
            features = self.f9(torch.cat([resize_aligned(images, size), first, second], 1))
            return correlate(winners(normalise(cam.detach().float())), features)


class DeepPCM(nn.Module):
    """SFC's features for `correlate`: colours and the last stage, which gets their gradient.

    Linear, so the features of several views may be added. float32 under autocast too.

    Args:
        channels: of the last stage.
        width: of the features.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.f9 = nn.Conv2d(3 + channels, width, 1, bias=False)

    def forward(self, images: Tensor, deep: Tensor, size: Sequence[int]) -> Tensor:
        """Normalised images (B, 3, H, W) and (B, channels, h', w') -> (B, width, *size) float32."""
        with torch.autocast(deep.device.type, enabled=False):
            return self.f9(torch.cat([resize_aligned(x, size) for x in (images, deep)], 1))


def correlate(
    maps: Tensor, features: Tensor, *, rounds: int = 1, values: int = BLOCK_VALUES
) -> Tensor:
    """Mean of each map over the positions, weighted by relu(cosine) of the features.

    The N×N similarities (N = h·w) are made for some columns at a time; with one round and without
    gradient no more than those is ever stored.

    Args:
        maps: (B, C, h', w') float32, any range; resized to h×w.
        features: (B, D, h, w) float32.
        rounds: how often the mean is taken, with the same weights.
        values: similarities per block.

    Returns:
        (B, C, h, w) float32; up to 1e-5 a convex combination of the map's own values.
    """
    size = features.shape[-2:]
    source = resize_aligned(maps, size).flatten(2)  # (B, C, N)
    blocks: Iterable[Tensor] = similarities(features, values)
    if rounds > 1:
        blocks = list(blocks)
    for _ in range(rounds):
        source = torch.cat([source @ s / (s.sum(1, keepdim=True) + EPS) for s in blocks], 2)
    return source.unflatten(2, size)


def similarities(features: Tensor, values: int = BLOCK_VALUES) -> Iterator[Tensor]:
    """relu(cosine) of all N = h·w positions of (B, D, h, w) features, some columns at a time.

    Yields:
        (B, N, n) float32 in [0, 1], about `values` numbers; together (B, N, N), symmetric.
    """
    unit = (features / (features.norm(dim=1, keepdim=True) + EPS)).flatten(2)  # (B, D, N)
    keys = unit.transpose(1, 2)
    for queries in unit.split(max(1, values // (len(unit) * unit.shape[2])), dim=2):
        yield (keys @ queries).relu()


def normalise(cam: Tensor) -> Tensor:
    """Raw (B, K, h, w) scores -> [0, 1): each map rectified, divided by its maximum + 1e-5."""
    positive = cam.relu()
    return (positive - EPS).relu() / (positive.amax((2, 3), keepdim=True) + EPS)


def winners(maps: Tensor) -> Tensor:
    """Only the highest class of each position, and the background that it leaves.

    Args:
        maps: (B, K, h, w) float in [0, 1].

    Returns:
        (B, K+1, h, w): 1 - the highest class in front; classes below it are 0, ties all stay.
    """
    top = maps.amax(1, keepdim=True)
    return torch.cat([1 - top, maps * (maps >= top)], 1)


def resize_aligned(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size) float32, bilinear, align_corners True as everywhere in SEAM."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x.float()
    return F.interpolate(x.float(), tuple(size), mode="bilinear", align_corners=True)
