"""What do RecurSeed and EdgePredictMix cost in a training step, at equal passes of the network?

    python benchmarks/recurseed_step.py                     MobileNetV2, crop 224, batch 12
    python benchmarks/recurseed_step.py --backbone resnet50 --crop 512 --batch 16   (a GPU)

Each row is a step forward and backward. `plain` teaches CAM and decoder fixed targets that lie
ready: the same passes and losses without making targets. What is above it is what SCG, PAMR, the
certain filter and, with mixing, edge prediction and the mix take. Medians of `--repeats` steps
taken in turns; on a GPU where there is one, else on the CPU.
"""

import argparse
import statistics
from pathlib import Path

import pandas as pd
import torch
from measuring import clock, conditions
from torch import Tensor
from torch.nn.functional import interpolate

from wsssbench import models
from wsssbench.methods.base import Progress
from wsssbench.methods.recurseed import RecurSeed, Target

EPM = {"mixer": "edgepredictmix", "start": 1}


def make_batch(options: argparse.Namespace, device: torch.device) -> dict:
    """Smooth noise with two labels per image."""
    generator = torch.Generator().manual_seed(0)
    side = options.crop // 8
    coarse = torch.randn(options.batch, 3, side, side, generator=generator)
    images = interpolate(coarse, options.crop, mode="bicubic")
    images = images + 0.05 * torch.randn(images.shape, generator=generator)
    labels = torch.zeros(options.batch, options.classes)
    for row, chosen in enumerate(labels):
        chosen[[row % options.classes, (row * 3 + 1) % options.classes]] = 1
    valid = torch.ones(options.batch, options.crop, options.crop, dtype=torch.bool)
    images = images.to(device, memory_format=torch.channels_last)
    ids = [str(row) for row in range(options.batch)]
    return {"image": images, "label": labels.to(device), "valid": valid.to(device), "id": ids}


class Ready(RecurSeed):
    """RecurSeed whose target lies ready: what remains are the passes and the losses."""

    ready: Target

    def target(self, out, images: Tensor, labels: Tensor, valid: Tensor) -> Target:
        """The target that was made once."""
        return self.ready


class ReadyTwice(Ready):
    """Two passes of that kind, for comparison with a mixed second pass."""

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """The losses of both passes."""
        twice = [super(ReadyTwice, self).losses(batch, progress) for _ in range(2)]
        return {f"{name}_{i}": value for i, one in enumerate(twice) for name, value in one.items()}


def step(method: RecurSeed, batch: dict, device: torch.device) -> float:
    """Seconds of one forward and backward pass."""
    generator = torch.Generator(device).manual_seed(0)
    method.zero_grad(set_to_none=True)
    started = clock(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        losses = method.losses(batch, Progress(1, 1, 0, 1, generator))
    torch.stack([value.float() for value in losses.values()]).sum().backward()
    return clock(device) - started


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--output-stride", type=int, default=16)
    parser.add_argument("--decoder-width", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = make_batch(options, device)
    chosen = {"decoder_width": options.decoder_width, "rs_start": 1}
    rows = {
        "plain, one pass": (Ready, {}),
        "RecurSeed": (RecurSeed, {}),
        "plain, two passes": (ReadyTwice, {}),
        "RecurSeed + EdgePredictMix": (RecurSeed, {"mix": EPM}),
    }
    methods = {}
    for name, (kind, more) in rows.items():
        torch.manual_seed(0)
        backbone = models.build(options.backbone, output_stride=options.output_stride)
        method = kind(backbone, options.classes, **chosen, **more).to(
            device, memory_format=torch.channels_last
        )
        methods[name] = method.train()
    with torch.no_grad():
        first = methods["RecurSeed"]
        out = first.network(batch["image"])
        ready = first.target(out, batch["image"], batch["label"], batch["valid"])
    for method in methods.values():
        method.ready = ready
        step(method, batch, device)  # warm
    times = {name: [] for name in methods}
    for _ in range(options.repeats):
        for name, method in methods.items():
            times[name].append(step(method, batch, device))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    table = pd.DataFrame({"step": seconds.keys(), "ms": [1000 * s for s in seconds.values()]})
    plain = ["plain, one pass"] * 2 + ["plain, two passes"] * 2
    table["over plain"] = [f"{seconds[n] / seconds[p] - 1:+.0%}" for n, p in zip(seconds, plain)]
    print(table.to_markdown(index=False, floatfmt=".0f"))
    print(
        f"{options.backbone}, crop {options.crop}, batch {options.batch}, decoder width "
        f"{options.decoder_width}, {device.type}. {conditions()}"
    )
    if options.json:
        table.to_json(options.json, orient="records", indent=1)
    return table


if __name__ == "__main__":
    main()
