"""How fast is the one-pass threshold sweep? Compared in one run with decoding and with a loop.

    python benchmarks/threshold_sweep.py                       400 masks, 20 thresholds, 21 classes
    python benchmarks/threshold_sweep.py --loop-images 400     the loop on all of them (minutes)

Writes masks as palette PNGs into a temporary folder, and beside them score maps of the classes of
each image as the stage pseudo_masks writes them (float16 npz). Each task is timed image by image,
the best of `--repeats` counts for each image (others may be using the machine), on one thread. The
loop takes an argmax for each threshold and masked sums for each class; its counts must equal those
of the sweep. The last row is the wall time of `evaluate_maps` with a thread per core.
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
from measuring import conditions
from PIL import Image

from wsssbench.evaluation import ThresholdSweep, evaluate_maps
from wsssbench.evaluation.reading import StoredMaps, read_maps, read_mask

IGNORE = 255
CLASSES_PER_IMAGE = (0.65, 0.27, 0.08)  # shares of images with 1, 2 and 3 classes, as in VOC


def draw(
    rng: np.random.Generator, size: tuple[int, int], num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw ellipses with a 5 px rim of ignored pixels, and blurred, textured score maps of them.

    Returns:
        truth (H, W) uint8, keys (n,) int16, maps (n, H, W) float16 in [0, 1].
    """
    height, width = size
    truth = np.zeros(size, np.uint8)
    count = 1 + rng.choice(len(CLASSES_PER_IMAGE), p=CLASSES_PER_IMAGE)
    keys = np.sort(rng.choice(np.arange(1, num_classes), count, replace=False)).astype(np.int16)
    for label in map(int, keys):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = tuple(int(rng.integers(side // 10 + 1, side // 3 + 2)) for side in (width, height))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(truth, centre, axes, angle, 0, 360, label, -1)
        cv2.ellipse(truth, centre, axes, angle, 0, 360, IGNORE, 5)
    maps = np.empty((count, *size), np.float16)
    for label, score_map in zip(keys, maps, strict=True):
        grid = rng.random((max(2, height // 16), max(2, width // 16))).astype(np.float32)
        texture = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        near = cv2.GaussianBlur((truth == label).astype(np.float32), (0, 0), 8)
        score_map[:] = np.clip(near * (0.4 + 0.8 * texture) + 0.3 * (texture - 0.6), 0, 1)
    return truth, keys, maps


def generate(root: Path, count: int, size: tuple[int, int], num_classes: int) -> list[str]:
    """Write `count` masks to root/truth and their maps to root/maps; returns their names."""
    rng = np.random.default_rng(0)
    (root / "truth").mkdir()
    (root / "maps").mkdir()
    names = [f"{index:05d}" for index in range(count)]
    for name in names:
        truth, keys, maps = draw(rng, size, num_classes)
        image = Image.fromarray(truth)
        image.putpalette(rng.bytes(768))
        image.save(root / "truth" / f"{name}.png")
        np.savez(root / "maps" / f"{name}.npz", keys=keys, maps=maps, size=np.array(size))
    return names


def straightforward(
    stored: StoredMaps, truth: np.ndarray, thresholds: np.ndarray, num_classes: int
) -> np.ndarray:
    """(T, K+1, 3) P, T, TP of one image: the loop over thresholds and classes."""
    scores = np.zeros((num_classes, *truth.shape), np.float32)
    scores[stored.keys] = stored.maps
    valid = truth != IGNORE
    counts = np.zeros((len(thresholds), num_classes, 3), np.int64)
    for row, threshold in zip(counts, thresholds, strict=True):
        scores[0] = threshold
        prediction = scores.argmax(axis=0)
        for label in range(num_classes):
            predicted, labelled = (prediction == label) & valid, (truth == label) & valid
            row[label] = predicted.sum(), labelled.sum(), (predicted & labelled).sum()
    return counts


def seconds_per_image(
    tasks: dict[str, Callable[[str], object]], names: list[str], repeats: int
) -> dict[str, float]:
    """Mean over images of each image's best time; the tasks take turns."""
    best = {task: np.full(len(names), np.inf) for task in tasks}
    for _ in range(repeats):
        for task, run in tasks.items():
            for index, name in enumerate(names):
                start = time.perf_counter()
                run(name)
                best[task][index] = min(best[task][index], time.perf_counter() - start)
    return {task: float(times.mean()) for task, times in best.items()}


def compare(
    root: Path, names: list[str], looped: list[str], thresholds: np.ndarray, options: object
) -> pd.DataFrame:
    """Time all tasks on the generated files; SystemExit if sweep and loop differ."""
    sweep = ThresholdSweep(options.classes, thresholds)
    loop_counts = np.zeros((len(thresholds), options.classes, 3), np.int64)

    def decode(name: str) -> np.ndarray:
        return read_mask(root / "truth" / f"{name}.png")

    def read(name: str) -> tuple[StoredMaps, np.ndarray]:
        return read_maps(root / "maps" / f"{name}.npz"), decode(name)

    def sweep_kept(name: str) -> None:
        sweep.update_sparse(kept[name].keys, kept[name].maps, decode(name))

    def sweep_read(name: str) -> None:
        stored, truth = read(name)
        sweep.update_sparse(stored.keys, stored.maps, truth)

    def loop_read(name: str) -> None:
        loop_counts[:] += straightforward(*read(name), thresholds, options.classes)

    def parallel(chosen: list[str]) -> ThresholdSweep:
        return evaluate_maps(root / "maps", root / "truth", chosen, options.classes, thresholds)

    kept = {name: read(name)[0] for name in names}
    tasks = {
        "decode the PNG masks": decode,
        "decode, and sweep maps in memory": sweep_kept,
        "decode, and read the maps": read,
        "decode, read the maps and sweep": sweep_read,
    }
    times = seconds_per_image(tasks, names, options.repeats)
    times |= seconds_per_image({"decode, read the maps and loop": loop_read}, looped, 1)
    whole = seconds_per_image({"": lambda _: parallel(names)}, [""], options.repeats)
    times["evaluate_maps, all cores"] = whole[""] / len(names)
    if not np.array_equal(loop_counts, parallel(looped).counts()):
        raise SystemExit("The sweep's counts differ from those of the loop.")
    table = pd.DataFrame({"ms_per_image": 1000 * pd.Series(times)}).rename_axis("task")
    ms = table["ms_per_image"]
    table["times_decoding"] = ms / ms["decode the PNG masks"]
    table["times_reading"] = ms / ms["decode, and read the maps"]
    table["faster_than_loop"] = ms["decode, read the maps and loop"] / ms
    return table


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--classes", type=int, default=21, help="background included")
    parser.add_argument("--thresholds", type=int, default=20)
    parser.add_argument("--loop-images", type=int, default=40, help="images the slow loop runs on")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    thresholds = np.arange(1, options.thresholds + 1) / (options.thresholds + 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = generate(root, options.images, (options.height, options.width), options.classes)
        looped = names[: options.loop_images]
        table = compare(root, names, looped, thresholds, options)
    print(table.to_string(float_format="{:.2f}".format))
    print(f"Loop on {len(looped)} of {len(names)} images: same counts. {conditions()}")
    return table


if __name__ == "__main__":
    main()
