"""CoSA's method: its switches, the slow copy, where gradients run, and that it learns."""

from copy import deepcopy

import pytest
import torch

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings, wants_masks
from wsssbench.methods.base import Progress
from wsssbench.methods.cosa import CoSA, Parts
from wsssbench.refinement.threshold_search import FOLLOW

STEPS = 100
SWAP = {"warmup": 0.0, "pooling": "mean", "decoder_width": 16}
ARMS = {  # of the study of co-occurrence
    "plain": {"s2c": "none", "w_c2s": 0.0, "w_reg": 0.0},
    "spl": {},
    "aux": {"csc": "aux"},
    "deep": {"csc": "deep"},
    "shuffled": {"csc": "shuffled"},
    "truth": {"csc": "truth"},
    "l1": {"w_l1": 0.1},
    "cam space": {"csc": "aux", "csc_space": "cam"},
    "s2c truth": {"s2c": "truth"},
    "s2c noise": {"s2c": "noise"},
    "paper": {"preset": "paper"},
    "converged": {"dts": "converged", "aux_sum": True},
}


def make(seed=0, **settings) -> CoSA:
    torch.manual_seed(seed)
    return CoSA(models.build("tiny", output_stride=8), 3, **{**SWAP, **settings})


def progress(step=50):
    return Progress(1, 1, step, STEPS, torch.Generator().manual_seed(step))


def batch(size=4, sides=(48, 40)):
    """Noise with a square in the colour of its class."""
    generator = torch.Generator().manual_seed(1)
    images = 0.2 * torch.randn(size, 3, *sides, generator=generator)
    mask = torch.zeros(size, *sides, dtype=torch.uint8)
    for i in range(size):
        top, left = 4 + 3 * (i % 5), 2 + 2 * (i % 7)
        images[i, i % 3, top : top + 20, left : left + 20] += 2
        mask[i, top : top + 20, left : left + 20] = i % 3 + 1
    return {
        "image": images,
        "label": torch.eye(3)[torch.arange(size) % 3],
        "valid": torch.ones(size, *sides, dtype=torch.bool),
        "mask": mask,
        "id": [str(i) for i in range(size)],
    }


def gradient(loss, module):
    found = torch.autograd.grad(loss, [*module.parameters()], retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


def fit(method, data, steps, first=0, rate=3e-3):
    """Train for some steps; the losses of each."""
    groups = [p for group in method.parameter_groups().values() for p in group]
    optimizer, history = torch.optim.AdamW(groups, lr=rate), []
    for step in range(first, first + steps):
        losses = method.losses(data, progress(step))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        method.after_step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    return history


def test_presets_and_their_switches():
    assert make().parts == Parts(raw=False, dts="fixed", csc="none")
    assert make(preset="paper").parts == Parts(raw=True, dts="released", csc="aux")
    assert make(preset="paper", csc="none", raw=False).parts == Parts(False, "released", "none")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_and_names_its_losses(arm):
    method = make(**ARMS[arm]).train()
    at = progress()
    losses = method.losses(batch(), at)
    expected = {"cls", "cls_aux"}
    expected |= set() if arm == "plain" else {"c2s", "reg", "s2c"}
    expected |= {"csc"} if method.parts.csc != "none" else set()
    expected |= {"l1"} if arm == "l1" else set()
    assert set(losses) == expected
    assert {"low", "high", "split", "cam_mean"} <= set(at.logged)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.network.parameters() if p.grad is not None)
    assert all(p.grad is None for p in method.assignment.parameters())


def test_the_network_sees_the_images_themselves_without_the_strong_view():
    for strong in (False, True):
        method, data, seen = make(strong=strong).train(), batch(), []
        method.network.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        method.losses(data, progress())
        assert torch.equal(seen[0], data["image"]) is not strong


def test_where_gradients_run():
    method = make(csc="deep", split=(0.5, 0.5)).train()
    losses, net = method.losses(batch(), progress()), method.network
    for name, trained in {
        "c2s": (net.decoder, net.backbone),
        "reg": (net.decoder, net.backbone),
        "s2c": (net.classifier, net.backbone),
        "csc": (net.backbone,),
        "cls": (net.classifier, net.backbone),
        "cls_aux": (net.auxiliary, net.backbone),
    }.items():
        for part in (net.backbone, net.classifier, net.auxiliary, net.decoder):
            assert (gradient(losses[name], part) > 0) == any(part is t for t in trained), name


def test_only_the_classifiers_learn_in_the_warmup():
    method = make(warmup=0.2).train()
    assert set(method.losses(batch(), progress(20))) == {"cls", "cls_aux"}
    assert "s2c" in method.losses(batch(), progress(21))
    before = deepcopy(method.network.decoder.state_dict())
    fit(method, batch(), 2)
    for name, value in method.network.decoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_slow_copy_follows():
    method = make(momentum=0.9).train()
    fit(method, batch(), 1)
    start = deepcopy(method.assignment.state_dict())
    goal = method.network.state_dict()
    for _ in range(5):
        method.after_step()
    for name, value in method.assignment.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(value, goal[name])
        else:
            expected = goal[name] + 0.9**5 * (start[name] - goal[name])
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_the_momentum_keeps_the_share_of_the_budget():
    method = make()
    method.losses(batch(1), Progress(1, 1, 0, 2000, torch.Generator()))
    assert 1 - method.step_share == pytest.approx(0.9904, abs=1e-4)


def test_the_slow_copy_starts_equal_and_never_trains():
    method = make().train()
    assert not method.assignment.training
    assert not any(module.training for module in method.assignment.modules())
    assert method.network.training
    for name, value in method.network.state_dict().items():
        assert torch.equal(value, method.assignment.state_dict()[name])
    grouped = {id(p) for group in method.parameter_groups().values() for p in group}
    assert grouped == {id(p) for p in method.network.parameters()}


def test_evaluated_network():
    images = batch()["image"]
    for kind in ("assignment", "online"):
        method = make(evaluate=kind).eval()
        method.maps, method.scales = method.kinds, (1.0, 0.5)
        before = method.infer(images, lambda p: p > -1).maps
        other = method.network if kind == "assignment" else method.assignment
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        after = method.infer(images, lambda p: p > -1).maps
        assert all(torch.equal(before[k], after[k]) for k in method.kinds)


@torch.inference_mode()
def test_all_kinds_of_maps_on_odd_sizes():
    method = make().eval()
    method.maps, method.scales = method.kinds, (1.0, 0.5)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        found = method.infer(torch.randn(2, 3, 37, 50), lambda _: gate, stride)
        assert tuple(found.maps) == CoSA.kinds
        assert found.probabilities.shape == (2, 3)
        for maps in found.maps.values():
            assert maps.shape == (2, 3, *size)
            assert maps.dtype == torch.float32
            assert (maps[~gate] == 0).all()
            assert 0 <= maps.min() <= maps.max() <= 1


@torch.inference_mode()
def test_half_is_the_arg_max_of_the_segmentation():
    method = make().eval()
    method.scales, method.flip = (1.0,), False
    images = batch()["image"]
    maps = method.score_maps(images, torch.ones(4, 3))[:, 1:]
    logits = torch.nn.functional.interpolate(
        method.assignment(images).decoder, images.shape[-2:], mode="bilinear", align_corners=False
    )
    best = torch.where(maps.amax(1) > 0.5, maps.argmax(1) + 1, 0)
    assert (best == logits.argmax(1)).float().mean() > 0.999  # but for ties


@torch.inference_mode()
def test_a_mirrored_image_gives_mirrored_maps():
    method = make().eval()
    method.maps, images = method.kinds, torch.randn(1, 3, 32, 48)
    for kind, maps in method.infer(images, lambda p: p > -1).maps.items():
        mirrored = method.infer(images.flip(-1), lambda p: p > -1).maps[kind].flip(-1)
        torch.testing.assert_close(mirrored, maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", ["released", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_one_of_odd_size_without_labels(preset, dtype):
    method, data = make(preset=preset).train(), batch(1, (37, 21))
    data["label"][:] = 0
    data["valid"][:, 20:] = False
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, progress())
    sum(losses.values()).backward()
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(p.grad.isfinite().all() for p in method.network.parameters() if p.grad is not None)


def test_nothing_valid_is_finite():
    method, data = make(preset="paper").train(), batch(2)
    data["valid"][:] = False
    losses = method.losses(data, progress())
    assert losses["c2s"] == losses["reg"] == losses["csc"] == 0
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ("parts", "searched"),
    [({}, "110"), ({"csc": "truth"}, "110"), ({"csc": "aux"}, "111"), ({"raw": True}, "001")],
)
def test_thresholds_that_are_used_follow_the_confidences(parts, searched):
    method = make(dts="released", **parts).train()
    start = [t.values.clone() for t in method.thresholds]
    fit(method, batch(), 3)
    for before, after in zip(start, method.thresholds):
        moved = (after.values - before).abs()
        assert (moved > 0).tolist() == [mark == "1" for mark in searched]
        assert moved.max() <= 3 * FOLLOW


def test_fixed_thresholds_stay():
    start = [t.values.clone() for t in make().thresholds]
    fixed = make().train()
    fit(fixed, batch(), 2)
    assert all(torch.equal(t.values, before) for t, before in zip(fixed.thresholds, start))


def test_training_goes_on_exactly_from_what_is_kept():
    data, whole = batch(), make(preset="paper").train()
    fit(whole, data, 2)
    state, memory = deepcopy(whole.state_dict()), deepcopy(whole.memory())
    after = fit(whole, data, 3, first=2)
    resumed = make(seed=9, preset="paper").train()
    resumed.load_state_dict(state)
    resumed.remember(memory)
    assert fit(resumed, data, 3, first=2) == after
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_it_learns_to_segment():
    """From image labels alone: losses fall, decoder and maps find more of the squares."""
    data, method = batch(6, (32, 32)), make(warmup=0.1).train()
    method.maps, method.scales, method.flip = ("decoder", "cam"), (1.0,), False

    def found():
        gate = data["label"] > 0
        with torch.no_grad():
            maps = method.eval().infer(data["image"], lambda _: gate).maps
        method.train()
        truth = data["mask"] > 0
        claimed = [m.amax(1) > 0.5 for m in maps.values()]
        return [float((c & truth).sum() / (c | truth).sum()) for c in claimed]

    history = fit(method, data, 11)
    before = found()
    history += fit(method, data, 60, first=11)
    assert history[-1]["cls"] < 0.5 * history[0]["cls"]
    assert history[-1]["c2s"] < 0.5 * history[12]["c2s"]
    after = found()
    assert after[0] > before[0] + 0.1
    assert after[1] > before[1]


def test_upper_bounds_ask_for_masks():
    assert wants_masks("cosa", {"csc": "truth"})
    assert wants_masks("cosa", {"s2c": "truth"})
    assert not wants_masks("cosa", {"preset": "paper"})
    assert not wants_masks("cam", {})
    data = batch()
    del data["mask"]
    with pytest.raises(UserError, match="need images with masks"):
        make(s2c="truth").losses(data, progress())


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"dts": "of"}, "fixed, released, converged"),
        ({"csc": "auxiliary"}, "Unknown value"),
        ({"raw": "yes"}, "true or false"),
        ({"aux_level": "C5"}, "Unknown earlier stage 'C5'"),
        ({"warmup": 1.0}, "from 0 to below 1, got 1.0"),
        ({"momentum": "auto"}, "from 0 to below 1, got auto"),
        ({"low": [0.8, 0.2]}, "low not above high"),
        ({"split": [0.0, 0.5]}, "between 0 and 1"),
        ({"perplexity": [1.0, 1.0]}, r"alpha, must be in \(0, 1\)"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("cosa", settings, "here")
    check_settings("cosa", {"preset": "paper", "dts": None, "momentum": 0.99}, "here")
