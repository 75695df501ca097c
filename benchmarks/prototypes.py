"""What do SIPE's and SFC's prototypes cost, beside a plain transcription of the released code?

    python benchmarks/prototypes.py             VOC: 16 images, 20 classes, 32×32, 768 features
    python benchmarks/prototypes.py --classes 80 --images 4

Prototypes and map, forward and backward. The transcription makes, as the released code does, a
tensor of images × classes × features × positions. SIPE's seeds likewise: the transcription makes
one of images × classes × positions × positions. Both results must agree. The first call of each
gives its peak memory above what was in use before, the median of `--repeats` further ones, taken
in turns, its time.
"""

import argparse
import statistics
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from measuring import clock, conditions, with_peak_memory
from torch import Tensor

from wsssbench.methods.sipe import soft_iou
from wsssbench.models.prototypes import prototypes, reactivate, winner

AGREEMENT = 1e-4


def draw(
    images: int, channels: int, grid: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features (B, D, h, w) that are asked for their gradient, seeds (B, C, h, w)."""
    features = torch.randn(images, width, grid, grid, generator=generator)
    scores = torch.rand(images, channels, grid, grid, generator=generator)
    return features.requires_grad_(), winner(scores, torch.ones(1, channels, 1, 1))


def ours(features: Tensor, seeds: Tensor) -> Tensor:
    """Gradient of the map's square: two matrix products forward."""
    found = reactivate(features, prototypes(features, seeds))
    return torch.autograd.grad(found.square().sum(), features)[0]


def plain(features: Tensor, seeds: Tensor) -> Tensor:
    """The same as the releases do it."""
    centres = (features[:, None] * seeds[:, :, None]).mean((3, 4))
    found = F.cosine_similarity(features[:, None], centres[..., None, None], dim=2).relu()
    return torch.autograd.grad(found.square().sum(), features)[0]


@torch.no_grad()
def our_iou(features: Tensor, maps: Tensor) -> Tensor:
    """SIPE's soft IoU by one matrix product."""
    return soft_iou(maps, features)


@torch.no_grad()
def plain_iou(features: Tensor, maps: Tensor) -> Tensor:
    """The same with every pair of positions for every class."""
    unit = (features / (features.norm(dim=1, keepdim=True) + 1e-5)).flatten(2)
    affinity = (unit.transpose(1, 2) @ unit).relu()[:, None]
    flat = maps.flatten(2)[:, :, None]
    inter = (affinity * flat).sum(-1)
    union = affinity.sum(-1) + flat.sum(-1) - inter
    return (inter / union).view_as(maps)


def compare(name: str, runs: tuple, arguments: tuple, device: torch.device, repeats: int) -> dict:
    """One row of the table; SystemExit if the results differ."""
    results, row, seconds = [], {"case": name, "device": device.type}, ([], [])
    for who, run in zip(("plain", "ours"), runs):
        found, row[f"{who}_mb"] = with_peak_memory(lambda run=run: run(*arguments), device)
        results.append(found)
    row["largest_difference"] = float((results[0] - results[1]).abs().max())
    if not row["largest_difference"] <= AGREEMENT:
        raise SystemExit(f"{name}: the results differ by {row['largest_difference']:.1e}.")
    for _ in range(repeats):
        for run, times in zip(runs, seconds):
            start = clock(device)
            run(*arguments)
            times.append(clock(device) - start)
    plain_s, ours_s = (statistics.median(times) for times in seconds)
    return row | {"plain_ms": 1000 * plain_s, "ours_ms": 1000 * ours_s}


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--grid", type=int, default=32, help="side of the maps")
    parser.add_argument("--channels", type=int, default=768, help="of the features")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    rows = []
    for device in map(torch.device, ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        drawn = draw(options.images, options.classes + 1, options.grid, options.channels,
                     torch.Generator().manual_seed(0))  # fmt: skip
        both = tuple(x.detach().to(device).requires_grad_(x.requires_grad) for x in drawn)
        for name, runs in (("prototypes", (plain, ours)), ("seeds", (plain_iou, our_iou))):
            rows.append(compare(name, runs, both, device, options.repeats))
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False, floatfmt=("", "", ".0f", ".0f", ".1e", ".0f", ".0f")))
    print(
        f"{options.images} images, {options.classes} classes, {options.grid}×{options.grid} × "
        f"{options.channels}. {conditions()}"
    )
    if options.json:
        table.to_json(options.json, orient="records", indent=1)
    return table


if __name__ == "__main__":
    main()
