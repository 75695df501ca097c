"""Puzzle-CAM's tiles and losses against published code's results (golden) and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings
from wsssbench.methods.base import Progress
from wsssbench.methods.puzzlecam import (
    PuzzleCAM,
    check_crop,
    merge,
    ramp,
    reconstruction,
    tile,
)
from wsssbench.models.base import Backbone
from wsssbench.models.pcm import normalise

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "puzzle.npz")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Pointwise(Backbone):
    """1×1 convolutions only: no position sees another."""

    def __init__(self):
        super().__init__((4,) * 5)
        self.layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 4, 4, 1) for i in range(5)])
        self.strides = {name: 1 for name in models.STAGES}

    def stages(self):
        return [[layer] for layer in self.layers]


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def make(output_stride=8, **settings) -> PuzzleCAM:
    torch.manual_seed(0)
    return PuzzleCAM(models.build("tiny", output_stride=output_stride), 3, **settings)


def progress(step=10, steps=10):
    return Progress(1, 1, step, steps, torch.Generator())


def batch(size=4, side=48):
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(size, 3, side, side, generator=generator),
        "label": torch.eye(3)[torch.arange(size) % 3],
        "valid": torch.ones(size, side, side, dtype=torch.bool),
        "id": [str(i) for i in range(size)],
    }


@pytest.mark.parametrize("case", range(4))
def test_golden_tiles(case):
    x, pieces = golden(f"in_tile_{case}_x"), int(GOLDEN[f"in_tile_{case}_pieces"])
    tiles = tile(x, pieces)
    assert torch.equal(tiles, golden(f"out_tile_{case}"))
    assert torch.equal(merge(tiles, pieces), golden(f"out_tile_{case}_merged"))


def test_golden_convolution_through_the_puzzle():
    weight, bias, x = (golden(f"in_conv_{name}") for name in ("w", "b", "x"))
    whole = F.conv2d(x, weight, bias, padding=1)
    tiled = merge(F.conv2d(tile(x, 4), weight, bias, padding=1), 4)
    torch.testing.assert_close(whole, golden("out_conv_whole"), **CLOSE)
    torch.testing.assert_close(tiled, golden("out_conv_puzzle"), **CLOSE)


def test_golden_maps_and_schedule():
    torch.testing.assert_close(normalise(golden("in_cam_x")), golden("out_cam"), **CLOSE)
    steps, alpha, schedule = GOLDEN["in_alpha_params"]
    found = [ramp(step, steps, alpha, schedule) for step in GOLDEN["in_alpha_iters"]]
    np.testing.assert_allclose(found, GOLDEN["out_alpha"], rtol=1e-12)


@pytest.mark.parametrize("level", ["feature", "cam"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_golden_losses(level, loss):
    whole, tiles, labels = (golden(f"in_loss_{name}") for name in ("feat", "tiles", "label"))
    whole.requires_grad_()
    tiles.requires_grad_()
    found = losses_of(whole, tiles, labels, level, loss)
    unmasked = losses_of(whole, tiles, labels, level, loss, re_mask="none")["re"] / 4
    total = sum(found.values())
    expected = golden(f"out_loss_{loss.upper()}_{level}")
    listed = torch.stack([found["cls"], found["p_cls"], found["re"] / 4, unmasked, total])
    torch.testing.assert_close(listed, expected, **CLOSE)
    if (loss, level) == ("l1", "feature"):
        total.backward()
        torch.testing.assert_close(whole.grad, golden("out_grad_feat"), **CLOSE)
        torch.testing.assert_close(tiles.grad, golden("out_grad_tiles"), **CLOSE)


def losses_of(whole, tiles, labels, level, loss, **settings):
    """The method's losses with a network that gives these maps."""
    method = make(level=level, re_loss=loss, **settings)
    outputs = iter([models.Output({}, cam, cam.mean((2, 3))) for cam in (whole, tiles)])
    method.network.forward = lambda images: next(outputs)
    side = 8 * whole.shape[-1]
    data = {"image": torch.zeros(len(whole), 3, side, side), "label": labels}
    return method.losses(data, progress())


def test_order_of_tiles_by_hand():
    x = torch.tensor([[[[1.0, 2], [3, 4]]], [[[5.0, 6], [7, 8]]]])
    assert tile(x[:1], 4).flatten().tolist() == [1, 2, 3, 4]
    assert tile(x, 4).flatten().tolist() == [1, 5, 2, 6, 3, 7, 4, 8]  # tile t of image b: t·B + b


@pytest.mark.parametrize("pieces", [1, 4, 9, 16])
@pytest.mark.parametrize("images", [1, 3])
def test_merge_undoes_tile(pieces, images):
    x = torch.randn(images, 2, 24, 12)
    tiles = tile(x, pieces)
    assert tiles.shape[0] == pieces * images
    assert torch.equal(merge(tiles, pieces), x)


def test_reconstruction_by_hand():
    whole = torch.tensor([[[[2.0]], [[5.0]]]])
    tiled = torch.tensor([[[[0.5]], [[9.0]]]])
    labels = torch.tensor([[1.0, 0.0]])
    # differences 1.5 and 4, the second class is absent
    for loss, mask, expected in [
        ("l1", "masked", 0.75),
        ("l1", "none", 2.75),
        ("l1", "selection", 1.5),
        ("l2", "masked", 1.125),
        ("l2", "none", 9.125),
        ("l2", "selection", 2.25),
    ]:
        found = reconstruction(whole, tiled, labels, loss=loss, mask=mask)
        assert float(found) == pytest.approx(expected), (loss, mask)


@pytest.mark.parametrize("mask", ["masked", "selection"])
def test_images_without_labels_are_not_compared(mask):
    maps = torch.randn(2, 3, 4, 4)
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    alone = reconstruction(maps[:1], -maps[:1], labels[:1], mask=mask)
    torch.testing.assert_close(reconstruction(maps, -maps, labels, mask=mask), alone / 2)


def test_schedule_by_hand():
    found = [ramp(step, 9900, 4.0, 0.5) for step in (0, 100, 4950, 9899)]
    assert found == pytest.approx([0, 0.0808, 4, 4], abs=1e-4)
    assert ramp(0, 10, 4.0, 0.0) == 4  # without a schedule the weight is alpha from the start


def test_weight_acts_and_is_logged():
    method = make().eval()  # batch statistics would not be the same twice
    whole = method.losses(batch(), at := progress(5, 10))
    assert at.logged["alpha"] == 4
    early = method.losses(batch(), at := progress(1, 10))
    assert at.logged["alpha"] == pytest.approx(0.8)
    torch.testing.assert_close(early["re"] * 5, whole["re"])
    assert method.losses(batch(), progress(0, 10))["re"] == 0
    assert list(whole) == ["cls", "p_cls", "re"]


def test_both_maps_receive_the_gradient_of_the_reconstruction():
    method = make()
    outputs, forward = [], method.network.forward
    method.network.forward = lambda images: outputs.append(forward(images)) or outputs[-1]
    losses = method.losses(batch(), progress())
    for output in outputs:
        output.cam.retain_grad()
    losses["re"].backward()
    whole, tiles = (output.cam.grad for output in outputs)
    labels = batch()["label"] > 0
    assert tiles.shape[0] == 4 * whole.shape[0]
    torch.testing.assert_close(merge(tiles, 4), -whole)
    assert (whole[labels] != 0).any()
    assert (whole[~labels] == 0).all()


def test_without_context_both_maps_are_equal():
    torch.manual_seed(0)
    method = PuzzleCAM(Pointwise(), 3)
    losses = method.losses(batch(2, 12), progress())
    assert losses["re"] < 1e-6
    torch.testing.assert_close(losses["cls"], losses["p_cls"])
    assert make().losses(batch(2), progress())["re"] > 1e-3


@pytest.mark.parametrize("settings", [{}, {"level": "cam"}, {"re_mask": "selection"}])
def test_steps_lower_the_loss(settings):
    method = make(**settings).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    data, totals = batch(), []
    data["label"][0] = 0  # an image without labels
    for _ in range(5):
        total = sum(method.losses(data, progress()).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_one_without_labels(dtype):
    method, data = make().train(), batch(1)
    data["label"][:] = 0
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, progress())
    sum(losses.values()).backward()
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())
    assert losses["re"] == 0


def test_maps_are_those_of_cam_on_odd_sizes():
    method = make().eval()
    method.scales, method.maps = (1.0, 0.5), method.kinds
    gate = torch.tensor([[True, False, True], [False, False, False]])
    with torch.inference_mode():
        found = method.infer(torch.randn(2, 3, 37, 50), lambda _: gate, 4)
    assert tuple(found.maps) == ("cam", "scg", "pamr", "scg+pamr", "cvs")
    for maps in found.maps.values():
        assert maps.shape == (2, 3, 10, 13)
        assert (maps[~gate] == 0).all()
        assert 0 <= maps.min() <= maps.max() <= 1 + 1e-6


def test_the_classifier_starts_as_the_release_or_as_cam():
    torch.manual_seed(0)
    backbone = models.build("tiny")
    width = backbone.channels["C5"]
    for released, spread in ((True, (2 / width) ** 0.5), (False, (3 * width) ** -0.5)):
        weight = PuzzleCAM(backbone, 50, release_start=released).network.classifier.weight
        assert weight.std().item() == pytest.approx(spread, rel=0.1)


def test_crops_that_do_not_divide_are_explained():
    with pytest.raises(UserError, match=r"2×2 tiles.*multiple of 32; 500 is not. Give 480 or 512"):
        make(output_stride=16).losses(batch(2, 500), progress())
    with pytest.raises(UserError, match=r"3×3 tiles.*multiple of 48; 40 is not. Give 48\."):
        check_crop((48, 40), 9, 16)
    check_crop((96, 48), 9, 16)


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"pieces": 5}, "square number like 4 or 9, got 5"),
        ({"pieces": 0}, "square number"),
        ({"schedule": 2.0}, "share from 0 to 1"),
        ({"level": "map"}, "feature, cam"),
        ({"pamr": {"sgima": 0.1}}, "Did you mean 'sigma'"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("puzzlecam", settings, "here")
