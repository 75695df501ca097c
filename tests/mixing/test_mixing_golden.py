"""Boxes, blobs and class masks of the published code, from its recorded draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wsssbench.mixing import (
    MIXERS,
    MixBatch,
    MixPlan,
    apply_mix,
    mixed_cross_entropy,
    pixel_weight,
)
from wsssbench.mixing.apply import class_slots
from wsssbench.mixing.batch import IGNORE
from wsssbench.mixing.classmix import choose_classes
from wsssbench.mixing.cowmix import smooth_noise, threshold
from wsssbench.mixing.cutmix import cut_box, half_area_box, prop_box

ROWS = torch.zeros(1, dtype=torch.long)


def load(name):
    path = Path(__file__).parents[1] / "golden" / f"{name}.npz"
    with np.load(path) as stored:
        return {k: torch.from_numpy(stored[k]) for k in stored if stored[k].dtype.kind != "U"}


@pytest.fixture(scope="module")
def cutmix():
    return load("cutmix_box")


@pytest.fixture(scope="module")
def classmix():
    return load("classmix")


def blank(count, size):
    """Images without content: only their size matters."""
    return MixBatch(torch.zeros(1, 3, *size).expand(count, -1, -1, -1), torch.ones(count, 1))


def test_cutmix_boxes(cutmix):
    for size, lam, center, box, kept in zip(
        *(cutmix[k] for k in ("in_size", "in_lam", "in_center", "out_box", "out_lam"))
    ):
        sides = tuple(size[2:].tolist())
        assert cut_box(sides, lam[None], center[None])[0].tolist() == box.tolist()
        draws = {"base": ROWS, "src": ROWS, "lam": lam[None], "center": center[None]}
        batch = blank(1, sides)
        plan = MIXERS["cutmix"]().plan_from(batch, draws)
        assert apply_mix(batch, plan).lam_base.item() == pytest.approx(kept.item(), abs=1e-6)


def test_cutmix_of_a_batch(cutmix):
    images, labels = cutmix["in_mix_x"], cutmix["in_mix_y"]
    size = tuple(images.shape[2:])
    centers = torch.cartesian_prod(*(torch.arange(side) for side in size))
    lam = torch.tensor([0.37], dtype=torch.float64)  # as recorded in the fixture's meta
    boxes = cut_box(size, lam.expand(len(centers)), centers)
    found = (boxes == cutmix["in_mix_box"]).all(1).nonzero()[0]
    draws = {"base": torch.arange(4), "src": cutmix["in_mix_perm"], "lam": lam}
    batch = MixBatch(images, labels)
    mixer = MIXERS["cutmix"]()
    out = apply_mix(batch, mixer.plan_from(batch, {**draws, "lam": lam, "center": centers[found]}))
    assert torch.equal(out.images, cutmix["out_mix_x"])
    torch.testing.assert_close(out.labels, cutmix["out_mix_y"], atol=1e-6, rtol=0)
    torch.testing.assert_close(out.lam_base.double(), cutmix["out_mix_lam"].expand(4))


def test_cutmix_pastes_as_often(cutmix):
    size, count = tuple(cutmix["in_stat_size"].tolist()), int(cutmix["in_stat_n"])
    draws = MIXERS["cutmix"]().draw(blank(count, size), torch.Generator().manual_seed(0))
    top, left, bottom, right = cut_box(size, draws["lam"], draws["center"]).T
    row, column = torch.arange(size[0])[:, None], torch.arange(size[1])[:, None]
    inside = (row >= top) & (row < bottom), (column >= left) & (column < right)
    coverage = (inside[0].double() @ inside[1].double().T) / count
    expected = cutmix["out_stat_coverage"]
    deviation = 4 * (expected * (1 - expected) * 2 / count).sqrt()
    assert ((coverage - expected).abs() <= deviation.clamp_max(0.02)).all()
    kept = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    assert kept.mean().item() == pytest.approx(cutmix["out_stat_lam_mean"].item(), abs=0.006)
    assert kept.std().item() == pytest.approx(cutmix["out_stat_lam_std"].item(), abs=0.006)


@pytest.mark.parametrize("case", [0, 1, 2])  # case 3 holds boxes that the release loses
def test_boxes_of_a_given_share(case):
    golden = load("boxmask_semisup")
    size = tuple(golden[f"in_size_{case}"].tolist())
    proportion, *more = (golden[f"in_draw{i}_{case}"] for i in range(3 if case < 2 else 2))
    proportion, position = proportion[:, 0], more[-1][:, 0]
    exponent = more[0][:, 0] if case < 2 else torch.full_like(proportion, 0.5)
    assert torch.equal(prop_box(size, proportion, exponent, position), golden[f"out_rect_{case}"])
    rows = torch.arange(len(proportion))
    draws = {"proportion": proportion, "exponent": exponent, "position": position}
    plan = MIXERS["cutmix_seg"]().plan_from(
        blank(len(rows), size), {"base": rows, "src": rows, **draws}
    )
    inside = golden[f"out_mask_{case}"] == (0 if case == 1 else 1)  # case 1 is not inverted
    assert torch.equal(plan.weight.bool(), inside)


@pytest.mark.parametrize("case", [0, 1])
def test_boxes_of_half_the_area(classmix, case):
    size = tuple(classmix[f"in_cut_size_{case}"].tolist())
    cut = classmix[f"in_cut_draws_{case}"][None]
    batch = blank(1, size)
    plan = MIXERS["cutmix_seg"]().plan_from(batch, {"base": ROWS, "src": ROWS, "cut": cut})
    assert torch.equal(1 - plan.weight[0, 0], classmix[f"out_cut_mask_{case}"].float())
    assert torch.equal(half_area_box(size, cut), plan.info["box"])


@pytest.mark.parametrize("case", range(5))
def test_cow_masks(case):
    golden = {k[: -len("_0")]: v for k, v in load("cowmix").items() if k.endswith(str(case))}
    noise, sigma, p = golden["in_noise"][None], golden["in_sigma"][None], golden["in_p"].item()
    size = tuple(noise.shape[1:])
    smooth = smooth_noise(noise, sigma.float(), size)
    torch.testing.assert_close(smooth[0].double(), golden["out_smooth"], atol=1e-6, rtol=0)
    limit = threshold(smooth, p).double().squeeze()
    torch.testing.assert_close(limit, golden["out_threshold"], atol=1e-6, rtol=0)
    draws = {"base": ROWS, "src": ROWS, "sigma": sigma, "p": p, "noise": noise}
    plan = MIXERS["cowmix"]().plan_from(blank(1, size), draws)
    differ = (plan.weight[0, 0] != golden["out_mask"]).float().mean()
    assert differ <= 1e-3


@pytest.mark.parametrize("case", [0, 1, 2])
def test_class_mix(classmix, case):
    """The release pastes image i on image i+1; its pseudo-label is our mixed mask."""
    golden = {k[: -len("_0")]: v for k, v in classmix.items() if k.endswith(f"_{case}")}
    probs, ignore = golden["in_probs"], int(golden["in_ignore"])
    count, channels, height, width = probs.shape
    images = golden.get("in_images", torch.zeros(count, 3, height, width))
    labels = torch.ones(count, channels - 1)
    mask = probs.argmax(1)
    mask = mask.masked_fill(mask == ignore, IGNORE)
    batch = MixBatch(images, labels, mask, {"probs": probs})
    draws = {"base": torch.arange(count).roll(-1), "src": torch.arange(count)}
    plan = MIXERS["classmix"](draw="half_floor").plan_from(
        batch, {**draws, "chosen": golden["in_chosen"]}
    )
    assert torch.equal(plan.weight[:, 0], golden["out_mask"].float())
    out = apply_mix(batch, plan)
    if "out_images" in golden:
        assert torch.equal(out.images, golden["out_images"])
    if "out_probs" in golden:
        assert torch.equal(out.dense["probs"], golden["out_probs"])
    best, pseudo = out.dense["probs"].max(1)
    assert torch.equal(best, golden["out_maxprob"])
    assert torch.equal(pseudo, golden["out_pseudo"])
    assert torch.equal(out.mask, pseudo.masked_fill(pseudo == ignore, IGNORE))
    share = pixel_weight(out.dense["probs"], "fraction")
    assert share.item() == pytest.approx(golden["out_weight"].item(), abs=1e-6)
    if "out_loss" in golden:
        # the release takes the mean over all pixels, we over those that are not ignored
        counted = (out.mask != IGNORE).float().mean()
        for kind, expected in (("fraction", "out_loss"), ("threshold", "out_loss_threshold")):
            weight = pixel_weight(out.dense["probs"], kind)
            loss = mixed_cross_entropy(golden["in_student_logits"], out, confidence=weight)
            torch.testing.assert_close(loss * counted, golden[expected], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_class_draw(classmix, case):
    """The recorded draw is reached when its classes have the highest scores."""
    golden = {k[: -len("_0")]: v for k, v in classmix.items() if k.endswith(f"_{case}")}
    mask = golden["in_probs"].argmax(1)
    mask = mask.masked_fill(mask == golden["in_ignore"], IGNORE)
    count, channels = golden["in_unique"].shape
    slots, labels = class_slots(mask, channels - 1), torch.ones(count, channels - 1)
    listed = torch.arange(channels)

    def members(name):
        return (golden[name][:, :, None] == listed).any(1)

    scores = members("in_chosen") * 0.5 + 0.25
    chosen = choose_classes(slots, labels, scores, "half_floor")
    assert torch.equal(chosen, members("in_chosen"))
    everything = choose_classes(slots, labels, scores, "all_fg")
    assert torch.equal(everything, members("in_unique") & (listed > 0))


def test_plans_carry_their_draws(cutmix):
    draws = {"base": ROWS, "src": ROWS, "lam": torch.ones(1), "center": torch.zeros(1, 2).long()}
    plan = MIXERS["cutmix"]().plan_from(blank(1, (4, 5)), draws)
    assert isinstance(plan, MixPlan)
    assert draws.items() <= plan.info.items()
