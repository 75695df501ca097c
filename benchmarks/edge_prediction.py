"""How fast is edge prediction? Compared in one run with the loop over regions.

    python benchmarks/edge_prediction.py                    16 images of 512×512 px per kind of map
    python benchmarks/edge_prediction.py --loop-images 16   the loop on all of them (minutes)

Draws score maps of two classes: smooth ones (blurred, textured ellipses, as after PAMR), the same
with a little and with much noise per pixel, and pure noise. Times edge prediction of each image on
one thread, its parts, and the region rule as a loop that masks and counts region after region; the
loop's labels must equal ours. The median over images of each image's best of `--repeats` counts
(others may be using the machine). The column `pool_ms` is the wall time per image of one call for
the whole batch, on a thread per core; it includes the certain filter and the copies, as does
`one_image_ms`, one call for one image.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pandas as pd
import torch
from measuring import conditions

from wsssbench.parallel import cpus
from wsssbench.refinement.certain_filter import certain_filter
from wsssbench.refinement.edge_prediction import edge_map, edge_predict, fill_regions

IGNORE = 255
KINDS = {"smooth": 0.0, "little noise": 0.05, "much noise": 0.15, "only noise": None}
CLASSES = 2


def draw(kind: str, count: int, size: int) -> torch.Tensor:
    """(count, 2, size, size) float32 in [0, 1]; the same for each call."""
    rng = np.random.default_rng(0)
    shape = (count, CLASSES, size, size)
    noise = KINDS[kind]
    if noise is None:
        return torch.from_numpy(rng.random(shape, dtype=np.float32))
    maps = np.zeros(shape, np.float32)
    for score in maps.reshape(-1, size, size):
        centre = tuple(map(int, rng.integers(size // 5, size - size // 5, 2)))
        axes = tuple(map(int, rng.integers(size // 10 + 1, size // 3 + 2, 2)))
        cv2.ellipse(score, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        grid = rng.random((max(2, size // 16), max(2, size // 16)), dtype=np.float32)
        texture = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        score[:] = cv2.GaussianBlur(score, (0, 0), 1 + size / 40) * (0.6 + 0.5 * texture)
    maps += noise * rng.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(maps.clip(0, 1))


def straightforward(labels: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the region rule, a mask for each region."""
    filled = labels.copy()
    count, region = cv2.connectedComponents((edge == 0).astype(np.uint8), connectivity=4)
    for index in range(1, count):
        inside = region == index
        values, votes = np.unique(labels[inside], return_counts=True)
        if len(values) > 1:
            filled[inside & (labels == IGNORE)] = values[votes.argmax()]
    filled[(edge != 0) & (labels == 0)] = IGNORE
    return filled


def median_ms(run: Callable[[int], object], count: int, repeats: int) -> float:
    """Median over `count` items of the best time of `run(index)`."""
    best = np.full(count, np.inf)
    for _ in range(repeats):
        for index in range(count):
            start = time.perf_counter()
            run(index)
            best[index] = min(best[index], time.perf_counter() - start)
    return 1000 * float(np.median(best))


def measure(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """One row of the table; SystemExit if the loop gives other labels."""
    maps = draw(kind, options.images, options.size)
    present = torch.ones(len(maps), CLASSES, dtype=torch.bool)
    grey = (255 * maps.amax(1)).byte().numpy()
    labels = certain_filter(maps, present).byte().numpy()
    edges = [edge_map(plane) for plane in grey]
    filled = edge_predict(maps, present).byte().numpy()
    loops = min(options.loop_images, len(maps))
    looped = [straightforward(labels[index], edges[index]) for index in range(loops)]
    if not np.array_equal(looped, filled[:loops]):
        raise SystemExit(f"Edge prediction and the loop differ on the maps {kind!r}.")

    def timed(run: Callable[[int], object], count: int = len(maps)) -> float:
        return median_ms(run, count, options.repeats)

    row = {
        "regions": float(np.median([region_count(edge) for edge in edges])),
        "edges_ms": timed(lambda index: edge_map(grey[index])),
        "regions_ms": timed(lambda index: fill_regions(labels[index], edges[index])),
        "both_ms": timed(lambda index: fill_regions(labels[index], edge_map(grey[index]))),
        "one_image_ms": timed(lambda i: edge_predict(maps[i : i + 1], present[i : i + 1])),
        "pool_ms": timed(lambda _: edge_predict(maps, present), 1) / len(maps),
        "loop_ms": median_ms(lambda index: straightforward(labels[index], edges[index]), loops, 1),
    }
    return {**row, "faster_than_loop": row["loop_ms"] / row["regions_ms"]}


def region_count(edge: np.ndarray) -> int:
    """How many 4-connected regions the edges leave."""
    return cv2.connectedComponents((edge == 0).astype(np.uint8), connectivity=4)[0] - 1


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="images per kind of map")
    parser.add_argument("--size", type=int, default=512, help="side of an image, px")
    parser.add_argument("--loop-images", type=int, default=3, help="images the slow loop runs on")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # otherwise `one thread` would be several
    try:
        table = pd.DataFrame({kind: measure(kind, options) for kind in KINDS}).T
    finally:
        cv2.setNumThreads(threads)
    table = table.rename_axis("maps")
    print(table.to_markdown(floatfmt=".2f"))
    pool = min(options.images, cpus())
    print(f"\nSame labels as the loop. Pool of {pool} threads. {conditions()}")
    return table


if __name__ == "__main__":
    main()
