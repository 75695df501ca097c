"""CowMix (French et al., 2020): paste another image under a mask of smooth random blobs.

Follows the segmentation use in WilhelmT/ClassMix: Gaussian-filtered noise (reflected border,
truncated at 4σ) above a threshold. Departs from it: σ scales with the crop; the noise may be drawn
on a coarser grid than the pixels, which leaves the statistics of the blobs as they are and the
draws small; partners by derangement. Expected: below CutMix in ClassMix's ablation.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.base import Mixer, Pairing, move, uniform
from wsssbench.mixing.batch import MixBatch, MixPlan

TRUNCATE = 4.0
CELLS_PER_SIGMA = 4


class CowMix(Mixer):
    """Pastes where the smoothed noise exceeds mean + √2·erfinv(2p-1)·std, a share of about 1-p.

    Args:
        sigma: range of the blobs' scale in px, drawn log-uniformly (8 to 32 px at 321).
        crop: side of the crop for which `sigma` is meant; another crop scales it.
        p: share of the base.
        pairing: see `base.pair`.
    """

    def __init__(
        self,
        *,
        sigma: tuple[float, float] = (13.0, 51.0),
        crop: int = 512,
        p: float = 0.5,
        pairing: Pairing = "derangement",
    ):
        super().__init__(pairing=pairing)
        if not 0 < sigma[0] <= sigma[1]:
            raise UserError(f"cowmix: sigma: expected a range above 0, got {sigma!r}.")
        if not 0 <= p <= 1:
            raise UserError(f"cowmix: p: expected a number from 0 to 1, got {p!r}.")
        self.sigma, self.crop, self.p = tuple(sigma), crop, p

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Any]:
        """`sigma`: (B',) float64 px; `p`; `noise`: (B', h, w) float32 from N(0, 1), one value
        per cell of `stride` pixels.
        """
        rows = self.rows(batch, generator)
        count, size = len(rows["base"]), batch.images.shape[-2:]
        low, high = (side * math.sqrt(math.prod(size)) / self.crop for side in self.sigma)
        sigma = uniform(math.log(low), math.log(high), (count,), generator).exp()
        stride = max(1, int(low / CELLS_PER_SIGMA))
        cells = [-(-side // stride) for side in size]
        noise = torch.randn(count, *cells, generator=generator)
        return {**rows, "sigma": sigma, "p": self.p, "noise": noise, "stride": stride}

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """Weight 1 above the threshold; `stride` may be missing, then it is 1."""
        device = batch.images.device
        base, src, noise = (move(draws[name], device) for name in ("base", "src", "noise"))
        sigma = move(draws["sigma"].float(), device)
        smooth = smooth_noise(noise, sigma, batch.images.shape[-2:], draws.get("stride", 1))
        weight = (smooth > threshold(smooth, draws["p"]))[:, None].float()
        info = {name: value for name, value in draws.items() if name != "noise"}
        return MixPlan(base, src, weight, info=info)


def smooth_noise(noise: Tensor, sigma: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Gaussian filter with a reflected border (edge pixel repeated), as scipy's default.

    Args:
        noise: (B, ceil(H/stride), ceil(W/stride)) float32.
        sigma: (B,) float32 px.
        size: (H, W).
        stride: pixels per cell of noise.

    Returns:
        (B, H, W) float32.
    """
    down, across = (
        _filter_matrix(side, cells, sigma, stride) for side, cells in zip(size, noise.shape[1:])
    )
    return down @ noise @ across.mT


def threshold(smooth: Tensor, p: float) -> Tensor:
    """The value that a normal field (B, H, W) stays below with probability p: (B, 1, 1)."""
    deviation, mean = torch.std_mean(smooth, dim=(1, 2), correction=0, keepdim=True)
    quantile = torch.erfinv(torch.tensor(2 * p - 1, dtype=torch.float64)).item()
    return mean + math.sqrt(2) * quantile * deviation


def _filter_matrix(pixels: int, cells: int, sigma: Tensor, stride: int) -> Tensor:
    """(B, pixels, cells): weight of each cell, of its mirror images too, in each pixel; rows add
    up to 1.
    """
    sigma = sigma[:, None, None]
    reach = (TRUNCATE * sigma + 0.5).floor()
    at = torch.arange(pixels, device=sigma.device)[:, None] + 0.5
    cell = (torch.arange(cells, device=sigma.device) + 0.5) * stride
    period = 2 * cells * stride
    total: Tensor | float = 0.0
    for shift in range(-2, 3):  # mirrored twice at most: enough for reach <= 2 sides
        for image in (cell, -cell):
            distance = (at - image - shift * period).abs()
            weight = torch.exp(-0.5 * (distance / sigma).square())
            total = total + weight * (distance <= reach)
    return total / total.sum(dim=2, keepdim=True)
