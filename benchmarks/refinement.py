"""How fast are the refinements? Each beside a plain transcription of its formulas, in one run.

    python benchmarks/refinement.py                      SCG: 32×32 × 1024 channels, PAMR: 512×512
    python benchmarks/refinement.py --json figures.json  writes the table to a file as well

The transcriptions do as the published code does: SCG's takes class by class and image by image and
copies the columns of H that a class selects, PAMR's gathers the 48 neighbours of every map in every
iteration. Both results must agree. The first call of each gives its peak memory above what was in
use before (on a CPU only where Linux tells it), the median of `--repeats` further ones, taken in
turns, its time. On the CPU, and on a GPU where there is one.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from measuring import clock, conditions, with_peak_memory
from torch import Tensor

from wsssbench.refinement import pamr, scg

AGREEMENT = 1e-4


@dataclass(frozen=True)
class Case:
    """A refinement and its transcription, both called with the same tensors."""

    name: str
    plain: Callable[..., Tensor]
    ours: Callable[..., Tensor]
    arguments: tuple[Tensor | list[Tensor], ...]


def make_cases(options: argparse.Namespace, device: torch.device) -> list[Case]:
    """All comparisons; add a line for another refinement."""
    generator = torch.Generator().manual_seed(0)
    grid, size, classes = options.grid, options.size, options.classes
    cams, level = draw_scg(options.images, classes, grid, options.channels, generator)
    images, maps = draw_pamr(options.images, classes, size, generator)
    scg_name = f"SCG, {options.images}×{classes} maps, {grid}×{grid}×{options.channels}"
    pamr_name = f"PAMR, {options.images}×{classes} maps, {size}×{size}"
    return [
        Case(scg_name, plain_scg, scg, (cams.to(device), [level.to(device)])),
        Case(pamr_name, plain_pamr, pamr, (images.to(device), maps.to(device))),
    ]


def draw_scg(
    images: int, classes: int, grid: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Maps (B, K, h, w) that fire on a part of one of eight regions, features (B, C, h, w)."""
    coarse = torch.rand(images, 8, 4, 4, generator=generator)
    size = (grid, grid)
    region = F.interpolate(coarse, size, mode="bicubic", align_corners=False).argmax(1)
    direction = torch.randn(8, channels, generator=generator).relu()
    level = direction[region].movedim(3, 1)
    level = level + 0.3 * torch.randn(level.shape, generator=generator).relu()
    coarse = torch.rand(images, classes, 4, 4, generator=generator)
    part = F.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 1)
    inside = region[:, None] == torch.arange(classes)[:, None, None] % 8
    return part * inside, level


def draw_pamr(
    images: int, classes: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) of soft blobs and noise, maps (B, C, H, W)."""
    coarse = torch.rand(images, 3 + classes, 8, 8, generator=generator)
    both = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    noise = 0.05 * torch.rand(images, 3, size, size, generator=generator)
    return (4 * both[:, :3]).floor() / 4 + noise, both[:, 3:].contiguous()


def plain_scg(cams: Tensor, features: list[Tensor]) -> Tensor:
    """SCG with its default settings, the loops over images and classes written out."""

    def scaled(values: Tensor) -> Tensor:
        return (values - values.min()) / (values.max() - values.min() + 1e-10)

    def resemblance(matrix: Tensor, selected: Tensor) -> Tensor:
        if not selected.any():
            return torch.zeros(len(matrix), device=matrix.device)
        columns = matrix[:, selected.nonzero()[:, 0]]
        low = columns.min(dim=0, keepdim=True).values
        high = columns.max(dim=0, keepdim=True).values
        return scaled(((columns - low) / (high - low + 1e-10)).sum(dim=1))

    result = torch.empty_like(cams)
    for number, image_cams in enumerate(cams):
        matrix = sum(plain_correlation(level[number]) for level in features)
        for target, cam in zip(result[number], image_cams):
            foreground = resemblance(matrix, cam.flatten() >= 0.3)
            background = resemblance(matrix, cam.flatten() <= 0.05)
            target[:] = scaled((foreground - background).relu()).view_as(cam)
    return result


def plain_correlation(level: Tensor) -> Tensor:
    """(C, h, w) features of one image -> (N, N) H of this level."""

    def normalised(matrix: Tensor) -> Tensor:
        return matrix / (matrix.sum(dim=0, keepdim=True) + 1e-10)

    vectors = level.flatten(1)
    vectors = vectors / (vectors.norm(dim=0, keepdim=True) + 1e-10)
    cosine = (vectors.T @ vectors).relu()
    cosine[cosine < 0.5] = 0
    first = normalised(cosine)
    step = cosine.clone()
    step[range(len(step)), range(len(step))] = 0
    step = normalised(step)
    second = normalised(step @ step)
    second[second < 0.1 / len(second)] = 0
    return normalised(torch.maximum(first, second))


def plain_pamr(images: Tensor, maps: Tensor) -> Tensor:
    """PAMR with its default settings, every neighbour's values copied."""
    dilations = (1, 2, 4, 8, 12, 24)

    def neighbours(values: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 48, H, W)."""
        height, width = values.shape[2:]
        padded = F.pad(values, (24,) * 4, mode="replicate")
        gathered = []
        for d in dilations:
            for y in (24 - d, 24, 24 + d):
                for x in (24 - d, 24, 24 + d):
                    if (y, x) != (24, 24):
                        gathered.append(padded[:, :, y : y + height, x : x + width])
        return torch.stack(gathered, dim=2)

    near, centre = neighbours(images), images.unsqueeze(2)
    samples = torch.cat([near, centre.expand(-1, -1, len(dilations), -1, -1)], dim=2)
    deviation = samples.std(dim=2, keepdim=True)
    weights = (-(near - centre).abs() / (1e-8 + 0.1 * deviation)).mean(1, keepdim=True).softmax(2)
    del near, samples
    for _ in range(10):
        maps = (neighbours(maps) * weights).sum(dim=2)
    return maps


def compare(case: Case, device: torch.device, repeats: int) -> dict[str, str | float]:
    """One row of the table; SystemExit if the results differ."""
    expected, plain_mb = with_peak_memory(lambda: case.plain(*case.arguments), device)
    result, ours_mb = with_peak_memory(lambda: case.ours(*case.arguments), device)
    difference = float((result - expected).abs().max())
    if not difference <= AGREEMENT:
        raise SystemExit(f"{case.name}: the results differ by {difference:.1e}.")
    del expected, result
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(repeats):
        for name, run in (("plain", case.plain), ("ours", case.ours)):
            start = clock(device)
            run(*case.arguments)
            seconds[name].append(clock(device) - start)
    plain, ours = (1000 * statistics.median(seconds[name]) for name in ("plain", "ours"))
    return {
        "case": case.name,
        "device": device.type,
        "plain_ms": plain,
        "ours_ms": ours,
        "times_faster": plain / ours,
        "plain_mb": plain_mb,
        "ours_mb": ours_mb,
        "largest_difference": difference,
    }


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--grid", type=int, default=32, help="side of SCG's maps")
    parser.add_argument("--channels", type=int, default=1024, help="of SCG's features")
    parser.add_argument("--size", type=int, default=512, help="side of PAMR's images, px")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [
        compare(case, device, options.repeats)
        for device in map(torch.device, devices)
        for case in make_cases(options, device)
    ]
    table = pd.DataFrame(rows)
    formats = ("", "", ".1f", ".1f", ".1f", ".0f", ".0f", ".1e")
    print(table.to_markdown(index=False, floatfmt=formats))
    print(conditions())
    if options.json:
        table.to_json(options.json, orient="records", indent=1)
    return table


if __name__ == "__main__":
    main()
