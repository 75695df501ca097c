"""How fast is multi-crop inference in batches? Beside the release's way, in one run.

    python benchmarks/multicrop.py                MobileNetV2, 128×128 pixels, windows of 128
    python benchmarks/multicrop.py --backbone resnet50 --height 375 --width 500 --size 448
                                                  as in the release (a GPU)

`one by one` passes window after window, plain and mirrored, as the release does: it enlarges the
maps of all classes to the crop, then to the window, and adds them up. `batches` is `multi_crop`,
for the image's own classes. `fewer` is `multi_crop` of five scales without mirrored windows, other
maps. The maps of the first two must agree to 1e-4. Medians of `--repeats` batches taken in turns;
on a GPU where there is one, else on the CPU.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from measuring import clock, conditions
from torch import Tensor
from torch.nn.functional import interpolate

from wsssbench import models
from wsssbench.methods.multicrop import CropSettings, crop_boxes, multi_crop
from wsssbench.methods.pmm import PMM

AGREEMENT = 1e-4


def one_by_one(method: PMM, images: Tensor, kept: Tensor, form: CropSettings) -> Tensor:
    """The mean maps, one window of one image at a time."""
    height, width = images.shape[-2:]
    total = images.new_zeros(*kept.shape, height, width)
    count = images.new_zeros(height, width)
    shape, side = {"mode": "bilinear", "align_corners": False}, (form.size, form.size)
    for row, image in enumerate(images):
        for _, x1, y1, x2, y2 in crop_boxes(width, height, form):
            crop = interpolate(image[None, :, y1:y2, x1:x2], side, antialias=True, **shape)
            for mirror in (False, True):
                found = method.rewritten(crop.flip(-1) if mirror else crop)
                found = found.flip(-1) if mirror else found
                found = interpolate(found, side, mode="bilinear", align_corners=True)
                found = interpolate(found, (y2 - y1, x2 - x1), **shape)[0]
                total[row, :, y1:y2, x1:x2] += found * kept[row, :, None, None]
                count[y1:y2, x1:x2] += row == 0
    return total / count.clamp_min(1)


def settle(method: PMM, images: Tensor) -> None:
    """Let batch normalisation see its input, or an untrained network's maps would all be 0."""
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    method.train().network(images.repeat(2, 1, 1, 1))
    method.eval()


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--output-stride", type=int, default=8)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--stride", type=int, help="default: two thirds of the size")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    form = CropSettings(size=options.size, stride=options.stride or options.size * 300 // 448)
    fewer = replace(form, scales=(0.75, 1.0, 1.5, 2.0, 3.0))
    backbone = models.build(options.backbone, output_stride=options.output_stride)
    method = PMM(backbone, options.classes).to(device, memory_format=torch.channels_last)
    coarse = torch.randn(options.batch, 3, options.height // 8, options.width // 8)
    images = interpolate(coarse, (options.height, options.width), mode="bicubic").to(device)
    settle(method, images)
    kept = torch.zeros(options.batch, options.classes, dtype=torch.bool, device=device)
    kept[:, :2] = True
    ways = {
        "one by one": lambda: one_by_one(method, images, kept, form),
        "batches": lambda: multi_crop(method.rewritten, images, kept, form, flip=True),
        "fewer": lambda: multi_crop(method.rewritten, images, kept, fewer, flip=False),
    }
    times = {name: [] for name in ways}
    for _ in range(options.repeats):
        found = []
        for name, run in ways.items():
            start = clock(device)
            found.append(run())
            times[name].append((clock(device) - start) / options.batch)
        difference = float((found[0] - found[1]).abs().max())
        if difference > AGREEMENT:
            raise SystemExit(f"The maps differ by {difference:.1e}.")
    seconds = {name: statistics.median(values) for name, values in times.items()}
    windows = len(crop_boxes(options.width, options.height, form))
    table = pd.DataFrame({"way": seconds.keys(), "s per image": seconds.values()})
    table["times faster"] = seconds["one by one"] / table["s per image"]
    print(table.to_markdown(index=False, floatfmt=".3f"))
    print(
        f"{options.backbone}, {options.height}×{options.width}, {windows} windows of "
        f"{options.size}, mirrored too, batch {options.batch}, {device.type}; largest difference "
        f"{difference:.1e}. {conditions()}"
    )
    if options.json:
        table.to_json(options.json, orient="records", indent=1)
    return table


if __name__ == "__main__":
    main()
