"""How fast is the dense CRF? Beside the C++ library behind the published figures, in one run.

    pip install pydensecrf2                             optional; without it: our own figures
    python benchmarks/dense_crf.py                      375×500, 21 and 3 labels, 10 iterations
    python benchmarks/dense_crf.py --json figures.json  writes the table to a file as well

A call does all of it, from the image and the energies to the marginals; only the lattice of the
Gaussian is kept from call to call, as for all images of a size. The time is the median of
`--repeats` calls, taken in turns; the memory is the peak of one earlier call above what was in use
before (on a CPU only where Linux tells it). The best labels must agree. The library takes one
thread, and so does ours on the CPU. Where there is a GPU, ours runs there as well.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from measuring import clock, conditions, with_peak_memory
from torch import Tensor

from wsssbench.refinement.dense_crf import PARAMETER_SETS, dense_crf, unary_from_scores

try:
    from pydensecrf.densecrf import DenseCRF2D
except ImportError:
    DenseCRF2D = None

COLUMNS = [
    *("case", "device", "library_s", "ours_s", "times_faster"),
    *("library_mb", "ours_mb", "labels_equal_percent"),
]
AGREEMENT = 0.999  # share of pixels
MISSING = "pydensecrf is not installed: no figures of the library. `pip install pydensecrf2`"


def draw(size: tuple[int, int], labels: int) -> tuple[Tensor, Tensor]:
    """Image (H, W, 3) uint8 of soft regions, about as varied as a photograph; scores (L, H, W)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3 + labels, 12, 12, generator=generator)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    regions = 255 * (0.7 * (6 * smooth[:3]).floor() / 6 + 0.3 * smooth[:3])
    noise = torch.randn(3, *size, generator=generator)
    image = (regions + noise).clamp(0, 255).byte().movedim(0, 2).contiguous()
    jitter = torch.randn(labels, *size, generator=generator)
    return image, (8 * smooth[3:] + jitter).softmax(0)


def library(image: np.ndarray, unary: np.ndarray, settings: dict) -> Tensor:
    """The same marginals from pydensecrf."""
    labels, height, width = unary.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(unary.reshape(labels, -1))
    weight, sxy = settings["gaussian"]
    crf.addPairwiseGaussian(sxy=sxy, compat=weight)
    weight, sxy, srgb = settings["bilateral"]
    crf.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=image, compat=weight)
    return torch.from_numpy(np.array(crf.inference(settings["iterations"]))).view(unary.shape)


def compare(name: str, labels: int, device: torch.device, options: argparse.Namespace) -> dict:
    """One row of the table; SystemExit if the labels differ."""
    settings = {**PARAMETER_SETS[name], "iterations": options.iterations}
    image, scores = draw((options.height, options.width), labels)
    unary = unary_from_scores(scores)
    ours_image, ours_unary = image.to(device), unary.to(device)
    runs = {"ours": lambda: dense_crf(ours_image, ours_unary, **settings)}
    if DenseCRF2D:
        runs["library"] = lambda: library(image.numpy(), unary.numpy(), settings)
    row: dict = {"case": f"{name}, {labels} labels", "device": device.type}
    results, seconds = {}, {}
    for who, run in runs.items():
        run()
        results[who], row[f"{who}_mb"] = with_peak_memory(run, device)
        seconds[who] = []
    for _ in range(options.repeats):
        for who, run in runs.items():
            start = clock(device)
            run()
            seconds[who].append(clock(device) - start)
    for who, values in seconds.items():
        row[f"{who}_s"] = statistics.median(values)
    if "library" in runs:
        ours, theirs = results["ours"].cpu(), results["library"]
        equal = float((ours.argmax(0) == theirs.argmax(0)).double().mean())
        if equal < AGREEMENT:
            raise SystemExit(f"{row['case']}: the labels differ, {equal:.2%} are equal.")
        row["labels_equal_percent"] = 100 * equal
        row["times_faster"] = row["library_s"] / row["ours_s"]
    return row


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--labels", type=int, nargs="+", default=[21, 3])
    parser.add_argument("--sets", nargs="+", choices=PARAMETER_SETS, default=["psa", "irn"])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [
        compare(name, labels, device, options)
        for device in map(torch.device, devices)
        for name in options.sets
        for labels in options.labels
    ]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    formats = ("", "", ".3f", ".3f", ".2f", ".0f", ".0f", ".2f")
    print(table.to_markdown(index=False, floatfmt=formats))
    print(conditions())
    if not DenseCRF2D:
        print(MISSING)
    if options.json:
        table.to_json(options.json, orient="records", indent=1)
    return table


if __name__ == "__main__":
    main()
