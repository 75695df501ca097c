"""How fast is the one-pass threshold sweep? Compared in one run with decoding and with a loop.

    python benchmarks/threshold_sweep.py                        400 images, 20 thresholds, 21 classes
    python benchmarks/threshold_sweep.py --loop-images 400      the loop on all of them (minutes)

Draws images with 1-3 classes into a temporary folder: ground truth as palette PNGs, one score map
for each class of the image, once as 8-bit grey PNGs and once as the float16 npz that the stage
pseudo_masks writes. Every time is the best of `--repeats`, taken in turns, on one thread.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from wsssbench.evaluation import ThresholdSweep, evaluate_maps
from wsssbench.evaluation.reading import read_maps, read_mask

IGNORE = 255


def draw(rng: np.random.Generator, size: tuple[int, int], num_classes: int) -> tuple:
    """Ellipses with a 5 px rim of ignored pixels, and blurred, shifted, noisy maps of them.

    Returns:
        truth (H, W) uint8, keys (n,) int16, maps (n, H, W) uint8: scores in steps of 1 / 255.
    """
    height, width = size
    truth = np.zeros(size, np.uint8)
    chosen = rng.choice(np.arange(1, num_classes), rng.integers(1, 4), replace=False)
    for label in map(int, chosen):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = tuple(int(rng.integers(side // 16 + 1, side // 3 + 2)) for side in (width, height))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(truth, centre, axes, angle, 0, 360, label, -1)
        cv2.ellipse(truth, centre, axes, angle, 0, 360, IGNORE, 5)
    keys = np.unique(truth[(truth > 0) & (truth != IGNORE)])
    keys = keys if len(keys) else chosen[:1]
    maps = np.empty((len(keys), height, width), np.uint8)
    for label, out in zip(keys, maps, strict=True):
        grid = rng.random((max(2, height // 16), max(2, width // 16))).astype(np.float32)
        texture = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        near = cv2.GaussianBlur((truth == label).astype(np.float32), (0, 0), 8)
        score = near * (0.4 + 0.8 * texture) + 0.3 * (texture - 0.6)
        out[:] = np.clip(255 * score, 0, 255).round()
    return truth, keys.astype(np.int16), maps


def generate(root: Path, count: int, size: tuple[int, int], num_classes: int) -> list[str]:
    """Write `count` images; returns their names."""
    rng = np.random.default_rng(0)
    for folder in ("truth", "png", "npz"):
        (root / folder).mkdir()
    names = [f"{index:05d}" for index in range(count)]
    for name in names:
        truth, keys, maps = draw(rng, size, num_classes)
        image = Image.fromarray(truth)
        image.putpalette(rng.bytes(768))
        image.save(root / "truth" / f"{name}.png")
        for key, values in zip(keys, maps, strict=True):
            Image.fromarray(values).save(root / "png" / f"{name}-{key}.png")
        scores = (maps.astype(np.float32) / 255).astype(np.float16)
        np.savez(root / "npz" / f"{name}.npz", keys=keys, maps=scores, size=np.array(size))
    return names


def straightforward(
    keys: np.ndarray, maps: np.ndarray, truth: np.ndarray, thresholds: np.ndarray, num_classes: int
) -> np.ndarray:
    """(T, K+1, 3) P, T, TP: an argmax for each threshold, masked sums for each class."""
    scores = np.zeros((num_classes, *truth.shape), np.float32)
    scores[keys] = maps
    valid = truth != IGNORE
    counts = np.zeros((len(thresholds), num_classes, 3), np.int64)
    for row, threshold in zip(counts, thresholds, strict=True):
        scores[0] = threshold
        prediction = scores.argmax(axis=0)
        for label in range(num_classes):
            predicted, labelled = (prediction == label) & valid, (truth == label) & valid
            row[label] = predicted.sum(), labelled.sum(), (predicted & labelled).sum()
    return counts


def measure(tasks: dict[str, Callable[[], object]], repeats: int) -> tuple[dict, dict]:
    """Best time of each task in seconds, and its last result."""
    times, results = dict.fromkeys(tasks, float("inf")), {}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            results[name] = task()
            times[name] = min(times[name], time.perf_counter() - start)
    return times, results


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--classes", type=int, default=21, help="background included")
    parser.add_argument("--thresholds", type=int, default=20)
    parser.add_argument(
        "--loop-images", type=int, default=40, help="images the slow loop is run on"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    thresholds = np.arange(1, options.thresholds + 1) / (options.thresholds + 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = options.height, options.width
        names = generate(root, options.images, size, options.classes)
        table = compare(root, names, options, thresholds)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    print(f"The sweep's counts equal those of the loop. Load of the machine: {os.getloadavg()}.")
    return table


def compare(
    root: Path, names: list[str], options: argparse.Namespace, thresholds: np.ndarray
) -> pd.DataFrame:
    files = {name: sorted((root / "png").glob(f"{name}-*.png")) for name in names}
    levels = np.arange(256, dtype=np.float32) / 255

    def truth(name: str) -> np.ndarray:
        return read_mask(root / "truth" / f"{name}.png")

    def from_png(name: str) -> tuple[list[int], np.ndarray]:
        keys = [int(path.stem.split("-")[1]) for path in files[name]]
        return keys, np.stack([read_mask(path) for path in files[name]])

    def sweep_png() -> ThresholdSweep:
        sweep = ThresholdSweep(options.classes, thresholds)
        for name in names:
            keys, maps = from_png(name)
            scores = cv2.LUT(maps.reshape(1, -1), levels).reshape(maps.shape)
            sweep.update_sparse(keys, scores, truth(name))
        return sweep

    def sweep_npz(chosen: list[str] = names) -> ThresholdSweep:
        places = root / "npz", root / "truth"
        return evaluate_maps(*places, chosen, options.classes, thresholds, workers=1)

    def loop() -> np.ndarray:
        counts = np.zeros((len(thresholds), options.classes, 3), np.int64)
        for name in looped:
            stored = read_maps(root / "npz" / f"{name}.npz")
            image = stored.keys, stored.maps, truth(name)
            counts += straightforward(*image, thresholds, options.classes)
        return counts

    looped = names[: options.loop_images]
    times, _ = measure(
        {
            "decode the ground truth (PNG)": lambda: [truth(n) for n in names],
            "decode all PNG files (ground truth, 8-bit maps)": lambda: [
                (truth(n), from_png(n)) for n in names
            ],
            "sweep, from PNG files": sweep_png,
            "read ground truth (PNG) and maps (npz)": lambda: [
                (truth(n), read_maps(root / "npz" / f"{n}.npz")) for n in names
            ],
            "sweep, from PNG and npz": sweep_npz,
        },
        options.repeats,
    )
    loop_time, loop_counts = measure({"loop": loop}, 1)
    if not np.array_equal(loop_counts["loop"], sweep_npz(looped).counts()):
        raise SystemExit("The sweep differs from the loop over thresholds.")
    times[f"loop, from PNG and npz ({len(looped)} images)"] = loop_time["loop"]
    per_image = {
        name: 1000 * seconds / (len(looped) if name.startswith("loop") else len(names))
        for name, seconds in times.items()
    }
    table = pd.DataFrame({"what": per_image.keys(), "ms_per_image": per_image.values()})
    for short, row in (("truth", 0), ("all_png", 1), ("png_npz", 3), ("sweep_npz", 4)):
        table[f"x_{short}"] = table["ms_per_image"] / table["ms_per_image"][row]
    return table


if __name__ == "__main__":
    main()
