"""What the tests of SIPE and SFC share: golden inputs, a batch, small backbones, a toy to learn."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from wsssbench.methods.base import Progress
from wsssbench.methods.multiscale import with_background

FOLDER = Path(__file__).parents[1] / "golden"
STAGES = {"C2": "x1", "C3": "x2", "C4": "x3", "C5": "x4"}
CLOSE = {"rtol": 0, "atol": 1e-5}


def load(*names):
    """Arrays of several fixtures as tensors; later ones win."""
    arrays = {}
    for name in names:
        arrays |= np.load(FOLDER / f"{name}.npz")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Given(nn.Module):
    """A backbone whose stages are set by hand; the images do not matter."""

    batch_norm = "train"

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.channels = {name: x.shape[1] for name, x in features.items()}

    def forward(self, images):
        return self.features


def given(golden, prefix="in"):
    return Given({stage: golden[f"{prefix}_{name}"] for stage, name in STAGES.items()})


def set_weights(method, golden):
    """The fixture's 1×1 weights."""
    layers = {"classifier": method.network.classifier}
    layers |= {f"side{i}": layer for i, layer in enumerate(method.side.layers, start=1)}
    if "in_w_f9" in golden and getattr(method, "pcm", None):
        layers["f9"] = method.pcm.f9
    for name, layer in layers.items():
        layer.weight.data = golden[f"in_w_{name}"][:, :, None, None].clone()
    return layers


def progress(**changes):
    known = {"epoch": 1, "epochs": 1, "step": 0, "steps": 1}
    return Progress(**(known | changes), generator=torch.Generator().manual_seed(0))


def batch(size=3, sides=(64, 56), classes=3):
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(size, *sides, dtype=torch.bool)
    valid[0, : sides[0] // 4] = False
    return {
        "image": torch.randn(size, 3, *sides, generator=generator) * valid[:, None],
        "label": torch.eye(classes)[torch.arange(size) % classes],
        "valid": valid,
        "id": [str(i) for i in range(size)],
    }


def gradient(loss, module):
    """Sum of the absolute gradients of a module's parameters; the graph stays."""
    found = torch.autograd.grad(loss, [*module.parameters()], retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


class Colours(nn.Module):
    """A backbone without weights: how much brighter or darker each colour is than grey, blurred."""

    batch_norm = "train"
    strides = {"C3": 4, "C4": 4}
    channels = dict.fromkeys(STAGES, 6)

    def forward(self, images):
        fine = avg_pool2d(5 * torch.cat([images - 0.4, 0.4 - images], 1).relu(), 4)
        coarse = avg_pool2d(fine, 3, 1, 1, count_include_pad=False)
        return {"C2": fine, "C3": fine, "C4": coarse, "C5": coarse}


def badges(count=9, side=48):
    """Bodies of one colour for both classes, each with a small badge of its class's colour.

    Every third image is empty. A batch and its masks (B, H, W).
    """
    generator = torch.Generator().manual_seed(3)
    images = torch.tensor([0.3, 0.3, 0.6])[:, None, None].repeat(count, 1, side, side)
    labels, masks = torch.zeros(count, 2), torch.zeros(count, side, side, dtype=torch.int64)
    body, badge = torch.tensor([0.6, 0.5, 0.2]), torch.eye(3)
    for row in range(count):
        if (kind := row % 3) == 2:
            continue
        top, left = (4 * int(x) for x in torch.randint(0, side // 4 - 5, (2,), generator=generator))
        images[row, :, top : top + 24, left : left + 24] = body[:, None, None]
        images[row, :, top + 8 : top + 16, left + 8 : left + 16] = badge[kind][:, None, None]
        masks[row, top : top + 24, left : left + 24] = kind + 1
        labels[row, kind] = 1
    images += 0.05 * torch.randn(images.shape, generator=generator)
    valid = torch.ones(count, side, side, dtype=torch.bool)
    return {"image": images, "label": labels, "valid": valid, "id": [""] * count}, masks


def train(method, data, steps=20):
    """The named losses of each step."""
    optimizer, values = torch.optim.AdamW(method.parameters(), lr=0.03), []
    method.begin(data["label"])
    for step in range(steps):
        losses = method.train().losses(data, progress(step=step, steps=steps))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        values.append({name: float(loss.detach()) for name, loss in losses.items()})
    return values


@torch.inference_mode()
def scores(method, data, masks):
    """Per kind of maps {threshold: share of the objects' and the found pixels that is right}."""
    method.eval().maps, method.scales, method.flip = method.kinds, (1.0,), False
    found = method.infer(data["image"], lambda _: data["label"] > 0).maps
    table = {}
    for kind, maps in found.items():
        table[kind] = {}
        for threshold in (0.1, 0.2, 0.3, 0.4, 0.5):
            classes = with_background(maps, threshold).argmax(1)
            right = (classes == masks) & (masks > 0)
            table[kind][threshold] = float(right.sum() / ((classes > 0) | (masks > 0)).sum())
    return table
