"""How fast is the random walk? Compared in one run with powers of the dense transition matrix.

    python benchmarks/random_walk.py                        47×63 against dense powers, 94×125 alone
    python benchmarks/random_walk.py --dense-pixels 12000   94×125 too: minutes, 1.1 GB
    python benchmarks/random_walk.py --size 120x160 --json figures.json

94×125 is an image of PASCAL VOC at stride 4, 120×160 one of COCO. The dense walk does as the
published code does: an N×N matrix of affinities, normalised, squared again and again, times the
maps. Both results must agree. The first call of each gives its peak memory above what was in use
before (on a CPU only where Linux tells it), the median of `--repeats` further ones its time; the
dense walk has `--dense-repeats` of its own, with none its first call is the time. On the CPU with
one thread, unless OMP_NUM_THREADS says more, and on a GPU where there is one.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
import torch.nn.functional as F
from measuring import clock, conditions, with_peak_memory
from torch import Tensor

from wsssbench.refinement import random_walk
from wsssbench.refinement.pairs import directions, path_cells

AGREEMENT = 2e-4  # the repeated squares drift
BETA = 10


def draw(classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Smooth maps (K, h, w) in [0, 1] and the outlines of soft regions (1, h, w)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, classes + 8, 5, 6, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    region = fine[classes:].argmax(0)
    edges = F.max_pool2d(region[None].float(), 3, 1, 1) != region
    noise = 0.1 * torch.rand(1, height, width, generator=generator)
    return fine[:classes].clamp(0, 1), (0.8 * edges + noise).clamp(0, 1)


def dense_walk(maps: Tensor, boundary: Tensor, radius: int, log2_steps: int) -> Tensor:
    """IRNet's walk through the N×N transition matrix."""
    height, width = maps.shape[1:]
    reach = radius - 1
    padded = F.pad(boundary[0], (reach, reach, 0, reach), value=1.0)
    number = torch.arange(height * width, device=maps.device).view(height, width)
    matrix = torch.zeros(height * width, height * width, device=maps.device)
    matrix.fill_diagonal_(1)
    for dy, dx in directions(radius):
        path = [
            padded[y : y + height, reach + x : reach + x + width] for y, x in path_cells((dy, dx))
        ]
        affinity = 1 - torch.stack(path).amax(0)
        rows = slice(0, max(0, height - dy))
        left, right = max(0, -dx), max(0, dx)
        columns = slice(left, max(left, width - right))
        source = number[rows, columns].flatten()
        partner = source + dy * width + dx
        matrix[source, partner] = matrix[partner, source] = affinity[rows, columns].flatten()
    matrix.pow_(BETA)
    matrix /= matrix.sum(0)
    for _ in range(log2_steps):
        matrix = matrix @ matrix
    return ((maps * (1 - boundary)).flatten(1) @ matrix).view_as(maps)


def measure(height: int, width: int, options: argparse.Namespace, device: torch.device) -> dict:
    """One row of the table; SystemExit if the results differ."""
    maps, boundary = (x.to(device) for x in draw(options.classes, height, width))
    steps = {"radius": options.radius, "log2_steps": options.log2_steps}

    def ours() -> Tensor:
        return random_walk(maps, boundary, beta=BETA, **steps)

    def dense() -> Tensor:
        return dense_walk(maps, boundary, **steps)

    walked, ours_mb, ours_ms = measured(ours, options.repeats, device)
    dense_ms = dense_mb = difference = float("nan")
    if height * width <= options.dense_pixels:
        expected, dense_mb, dense_ms = measured(dense, options.dense_repeats, device)
        difference = float((walked - expected).abs().max())
        if not difference <= AGREEMENT:
            raise SystemExit(f"{height}×{width}: the results differ by {difference:.1e}.")
    return {
        "map": f"{height}×{width}, {options.classes} classes",
        "device": device.type,
        "dense_ms": dense_ms,
        "ours_ms": ours_ms,
        "times_faster": dense_ms / ours_ms,
        "dense_mb": dense_mb,
        "ours_mb": ours_mb,
        "largest_difference": difference,
    }


def measured(
    run: Callable[[], Tensor], repeats: int, device: torch.device
) -> tuple[Tensor, float, float]:
    """Result and MB of a first call; ms, the median of the repeated ones (none: of the first)."""

    def timed(call: Callable) -> tuple:
        start = clock(device)
        return call(), 1000 * (clock(device) - start)

    (result, memory), first = timed(lambda: with_peak_memory(run, device))
    repeated = [timed(run)[1] for _ in range(repeats)]
    return result, memory, statistics.median(repeated or [first])


def sides(text: str) -> tuple[int, int]:
    height, width = text.lower().split("x")
    return int(height), int(width)


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=sides, nargs="+", default=[(47, 63), (94, 125)])
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--radius", type=int, default=5)
    parser.add_argument("--log2-steps", type=int, default=8)
    parser.add_argument("--dense-pixels", type=int, default=3000, help="no dense walk beyond")
    parser.add_argument("--dense-repeats", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [
        measure(*size, options, device)
        for device in map(torch.device, devices)
        for size in options.size
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
