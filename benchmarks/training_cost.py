"""What does each method cost beside a plain CAM: a training step, its memory, the maps of an image?

    python benchmarks/training_cost.py                                    tiny, crop 128, batch 16
    python benchmarks/training_cost.py --backbone mobilenet_v2 --crop 224 --batch 12 --threads 1
    python benchmarks/training_cost.py --methods cam seam --csv > cost.csv

A step is forward, backward, optimiser and what the method does after it (an EMA, a memory), at the
end of a training, when all of its losses act. Maps are made as `pseudo_masks` makes them: four
scales and their mirror images. Each method takes its turn in every round, and times are compared
within the round: what else the machine does hits all alike. Memory is the peak of weights and
steps together, in a process of its own per method. On a GPU where there is one, else on the CPU.
With one thread on a CPU, time is the process's own: other programs do not count.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import pandas as pd
import torch
from measuring import clock, conditions, with_peak_memory
from torch import Tensor, nn
from torch.nn.functional import interpolate

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import METHODS, Method, Progress, build, settings_of

LAST = 10_000  # an epoch behind every start epoch
PLAIN = "cam"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS = {name: (name, {}) for name in METHODS} | {
    f"recurseed+{mixer}": ("recurseed", {"mix": {"mixer": mixer}})
    for mixer in ("classmix", "edgepredictmix")
}


@dataclass
class Run:
    """A method in training, all on one device."""

    method: Method
    optimizer: torch.optim.Optimizer
    batch: dict
    generator: torch.Generator

    def step(self) -> None:
        """One training step; the rate is 0, so every step meets the same weights."""
        self.method.train()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast():
            at = Progress(LAST, LAST, LAST - 1, LAST, self.generator)
            losses = self.method(self.batch, at)
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        self.optimizer.step()
        self.method.after_step()

    def maps(self) -> None:
        """Maps of the first image, of its labels."""
        self.method.eval()
        image, label = self.batch["image"][:1], self.batch["label"][:1] > 0
        with torch.inference_mode(), autocast():
            self.method.infer(image, lambda _: label)


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def make_run(row: str, options: argparse.Namespace) -> Run:
    """Build a row's method on its device and take one step of everything.

    Raises:
        UserError: the method does not take this backbone, crop or batch.
    """
    torch.manual_seed(0)
    name, settings = ROWS[row]
    if "decoder_width" in settings_of(name):
        settings = {**settings, "decoder_width": options.decoder_width}
    backbone = models.build(options.backbone, output_stride=options.output_stride)
    method = build(name, backbone, options.classes, settings)
    method = method.to(DEVICE, memory_format=torch.channels_last)
    parameters = [p for group in method.parameter_groups().values() for p in group]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
    run = Run(method, optimizer, make_batch(options), torch.Generator(DEVICE))
    run.step()
    return run


def make_batch(options: argparse.Namespace) -> dict:
    """Smooth noise with two labels per image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(
        options.batch, 3, options.crop // 8, options.crop // 8, generator=generator
    )
    images = interpolate(coarse, options.crop, mode="bicubic")
    images = images + 0.05 * torch.randn(images.shape, generator=generator)
    rows = torch.arange(options.batch)
    labels = torch.zeros(options.batch, options.classes)
    labels[rows, rows % options.classes] = 1
    labels[rows, (3 * rows + 1) % options.classes] = 1
    valid = torch.ones(options.batch, options.crop, options.crop, dtype=torch.bool)
    batch: dict[str, Tensor | list[str]] = {"label": labels.to(DEVICE), "valid": valid.to(DEVICE)}
    batch["image"] = images.to(DEVICE, memory_format=torch.channels_last)
    return {**batch, "id": [str(row) for row in range(options.batch)]}


def peak_mb(row: str, options: argparse.Namespace) -> float:
    """Peak memory of two steps above what the process needed before, in MB."""
    nn.Conv2d(3, 8, 3)(torch.randn(1, 3, 8, 8)).sum().backward()  # the first one loads libraries
    return with_peak_memory(lambda: make_run(row, options).step(), DEVICE)[1]


def peak_elsewhere(row: str, arguments: list[str]) -> float:
    """`peak_mb` in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, __file__, *arguments, "--peak-of", row]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds() -> float:
    """With one thread on a CPU those of this process alone."""
    alone = DEVICE.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else clock(DEVICE)


def measure(runs: dict[str, Run], repeats: int) -> pd.DataFrame:
    """Seconds of each row, round and part (`step`, `maps`); the first round is left out."""
    found = []
    for number in range(repeats + 1):
        for row, run in runs.items():
            for part in ("step", "maps"):
                started = seconds()
                getattr(run, part)()
                found.append((row, number, part, seconds() - started))
    times = pd.DataFrame(found, columns=["method", "round", "part", "s"])
    return times[times["round"] > 0]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--output-stride", type=int, default=16)
    parser.add_argument("--decoder-width", type=int, default=64)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU; PyTorch's choice by default")
    parser.add_argument("--csv", action="store_true", help="print CSV alone instead of Markdown")
    parser.add_argument("--peak-of", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> pd.DataFrame | None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak_of:
        print(json.dumps(peak_mb(options.peak_of, options)))
        return None
    runs: dict[str, Run] = {}
    for row in dict.fromkeys([PLAIN, *options.methods]):
        try:
            runs[row] = make_run(row, options)
        except UserError as error:
            print(f"{row} is left out: {error}", file=sys.stderr)
    times = measure(runs, options.repeats).pivot(
        index=["method", "round"], columns="part", values="s"
    )
    table = pd.DataFrame(index=pd.Index(runs, name="method"))
    relative = times / times.loc[PLAIN].reindex(times.index, level="round")
    for part in ("step", "maps"):
        table[f"{part} ms"] = 1000 * times[part].groupby("method").median()
        table[f"{part} × CAM"] = relative[part].groupby("method").median()
    table["MB"] = [peak_elsewhere(row, arguments) for row in runs]
    table["MB × CAM"] = table["MB"] / table["MB"][PLAIN]
    if options.csv:
        print(table.to_csv(float_format="%.4g"), end="")
        return table
    print(table.to_markdown(floatfmt=("", ".1f", ".2f", ".1f", ".2f", ".0f", ".2f")))
    print(
        f"{options.backbone}, crop {options.crop}, batch {options.batch}, decoder width "
        f"{options.decoder_width}, {DEVICE.type}. {conditions()}"
    )
    return table


if __name__ == "__main__":
    main()
