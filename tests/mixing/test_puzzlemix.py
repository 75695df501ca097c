"""Puzzle Mix: the release's integers, labels, transports and images; odd sizes; empty saliency."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mix_batches import CLASSES, make_batch

from wsssbench.errors import UserError
from wsssbench.mixing import MixBatch, apply_mix
from wsssbench.mixing.batch import IGNORE
from wsssbench.mixing.blocks import block_saliency, move_blocks, transport_plan
from wsssbench.mixing.graph_cut import grid_energy, swap_labels
from wsssbench.mixing.pixels import to_unit
from wsssbench.mixing.puzzlemix import PuzzleMix, block_costs

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "puzzlemix.npz")
PARAMETERS = json.loads(str(GOLDEN["meta"]))["parameters"]
CASES = range(len(PARAMETERS))


def golden(name, case):
    return torch.from_numpy(GOLDEN[f"{name}_{case}"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def golden_plan(case, **settings):
    images = golden("in_x", case)
    batch = MixBatch(
        images,
        torch.eye(len(images)),
        torch.ones(images[:, 0].shape, dtype=torch.int64),
        saliency=golden("in_saliency", case),
    )
    known = PARAMETERS[case]
    mixer = PuzzleMix(n_labels=known["n_labels"], transport=known["transport"], **settings)
    draws = {
        "base": torch.arange(len(images)),
        "src": golden("in_perm", case),
        "blocks": torch.tensor(known["block_num"]),
        "share": golden("in_alpha", case),
    }
    return batch, mixer.plan_from(batch, draws)


def golden_costs(case):
    names = ("out_unary_cost", "out_weight_rows", "out_weight_cols")
    return [GOLDEN[f"{name}_{case}"] for name in names]


@pytest.mark.parametrize("case", CASES)
def test_costs_of_the_release(case):
    images, src, known = golden("in_x", case), golden("in_perm", case), PARAMETERS[case]
    salient = block_saliency(golden("in_saliency", case), images.shape[2:], known["block_num"])
    ours = block_costs(
        *(to_unit(images), to_unit(images[src]), salient, salient[src]),
        share=golden("in_alpha", case).item(),
        n_labels=known["n_labels"],
        **{name: known[name] for name in ("beta", "gamma", "eta")},
    )
    for cost, expected in zip(ours, golden_costs(case), strict=True):
        assert (cost - torch.from_numpy(expected)).abs().max() <= 1


@pytest.mark.parametrize("case", CASES)
def test_labels_of_the_release(case):
    for labels, energy, *costs in zip(
        GOLDEN[f"out_labels_{case}"], GOLDEN[f"out_energy_{case}"], *golden_costs(case)
    ):
        ours = swap_labels(*costs)
        assert grid_energy(ours, *costs) == energy == grid_energy(labels, *costs)
        assert np.array_equal(ours, labels)


@pytest.mark.parametrize("case", [0, 1, 3])
def test_images_of_the_release(case):
    """Rows paired with themselves are left alone here, whatever the release makes of them."""
    batch, plan = golden_plan(case)
    out = apply_mix(batch, plan)
    mixed = plan.base != plan.src
    assert mixed.sum() >= 2
    expected = {"shares": 1 - golden("out_mask", case)}
    if PARAMETERS[case]["transport"]:
        for layer, number in (("base", 1), ("src", 2)):
            moves = golden(f"out_plan{number}", case).bool()  # (B, from, to)
            origin = torch.where(moves.any(1), moves.int().argmax(1), -1)
            expected[f"origin_{layer}"] = origin
    for name, values in expected.items():
        assert torch.equal(plan.info[name][mixed].double(), values[mixed].double())
    torch.testing.assert_close(out.images[mixed], golden("out_x", case)[mixed], atol=1e-6, rtol=0)
    ratio = golden("out_ratio", case)
    for row, (base, src) in enumerate(zip(plan.base, plan.src)):
        if base != src:
            assert out.labels[row, base].item() == pytest.approx(ratio[row].item(), abs=1e-6)
            assert out.labels[row, src].item() == pytest.approx(1 - ratio[row].item(), abs=1e-6)


@pytest.mark.parametrize("case", [2, 4])
def test_own_partner_is_left_alone(case):
    batch, plan = golden_plan(case)
    out = apply_mix(batch, plan)
    assert not plan.weight.any()
    assert torch.equal(out.images, batch.images)
    assert torch.equal(out.mask, batch.mask)


def random_costs(seed, rows, cols, n_labels, smooth):
    draw = np.random.default_rng(seed)
    unary = draw.integers(-5, 100, (rows, cols, n_labels))
    return unary, *(
        draw.integers(0, smooth, shape) for shape in ((rows - 1, cols), (rows, cols - 1))
    )


@pytest.mark.parametrize("smooth", [1, 30, 200])
@pytest.mark.parametrize("seed", range(4))
def test_two_labels_reach_the_global_minimum(seed, smooth):
    costs = random_costs(seed, 3, 4, 2, smooth)
    best = min(
        grid_energy(np.reshape(labels, (3, 4)), *costs)
        for labels in itertools.product((0, 1), repeat=12)
    )
    assert grid_energy(swap_labels(*costs), *costs) == best


@pytest.mark.parametrize("smooth", [1, 30, 200])
@pytest.mark.parametrize("seed", range(4))
def test_many_labels_are_no_worse_than_simple_answers(seed, smooth):
    costs = random_costs(seed, 5, 7, 4, smooth)
    labels = swap_labels(*costs)
    assert labels.shape == (5, 7)
    energy = grid_energy(labels, *costs)
    simple = [costs[0].argmin(2), *(np.full((5, 7), label) for label in range(4))]
    assert energy <= min(grid_energy(answer, *costs) for answer in simple)


def test_energy_by_hand():
    unary = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 0, 0]]])
    labels = np.array([[0, 2], [1, 1]])
    # 1 + 6 + 8 + 0, and 10·(1/2)² + 20·(1/2)² + 30·1² + 40·0
    rows, cols = np.array([[10, 20]]), np.array([[30], [40]])
    assert grid_energy(labels, unary, rows, cols) == 15 + 2.5 + 5 + 30


def test_ties_take_the_lower_label():
    empty = np.zeros((3, 4, 3), int), np.ones((2, 4), int), np.ones((3, 3), int)
    assert not swap_labels(*empty).any()


def halves_batch(height=32, width=48):
    """Image 0 is salient on the left, image 1 on the right; both are grey."""
    saliency = torch.zeros(2, height, width)
    saliency[0, :, : width // 2] = 1
    saliency[1, :, width // 2 :] = 1
    images = torch.stack([torch.full((3, height, width), value) for value in (0.3, -0.4)])
    return MixBatch(images, torch.eye(2, CLASSES), saliency=saliency)


def draws_of(blocks, share=0.5, base=(0, 1), src=(1, 0)):
    return {
        "base": torch.tensor(base),
        "src": torch.tensor(src),
        "blocks": torch.tensor(blocks),
        "share": torch.tensor(share, dtype=torch.float64),
    }


@pytest.mark.parametrize("blocks", [4, 8, 16])
def test_each_keeps_its_salient_half(blocks):
    plan = PuzzleMix(transport=False).plan_from(halves_batch(), draws_of(blocks))
    left = torch.arange(48) < 24
    assert torch.equal(plan.weight[0, 0], (~left).float().expand(32, -1))
    assert torch.equal(plan.weight[1, 0], left.float().expand(32, -1))
    out = apply_mix(halves_batch(), plan)
    assert out.labels[:, :2].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    still = PuzzleMix().plan_from(halves_batch(), draws_of(blocks))
    assert torch.equal(still.weight, plan.weight)
    images = apply_mix(halves_batch(), still).images  # salient blocks are where they are kept
    assert torch.equal(images, out.images)


def test_transport_by_hand():
    """2x2 blocks, kept on the right; a step costs 0.8, a diagonal step 1.6.

    Block 0 takes place 1 for 0.8 - 0.9, block 3 stays for -0.05. Blocks 1 and 2 find no place at a
    negative cost and vanish.
    """
    kept = torch.tensor([[[0.0, 1], [0, 0.5]]])
    salient = torch.tensor([[[0.9, 0.0], [0.05, 0.05]]])
    assert transport_plan(kept, salient).tolist() == [[-1, 0, -1, 3]]


def test_moving_blocks_by_hand():
    values = torch.arange(30).view(1, 5, 6)
    moved = move_blocks(values, torch.tensor([[3, 0, -1, 2]]), 2, -1)
    expected = values.clone()
    expected[0, :2, :3], expected[0, :2, 3:] = values[0, 2:4, 3:], values[0, :2, :3]
    expected[0, 2:4, :3], expected[0, 2:4, 3:] = -1, values[0, 2:4, :3]
    assert torch.equal(moved, expected)  # the last row belongs to no block
    assert torch.equal(values, torch.arange(30).view(1, 5, 6))
    stays = torch.arange(4)[None]
    assert torch.equal(move_blocks(values, stays, 2, -1), values)


def test_masks_travel_with_their_blocks():
    """Every image is painted with its own mask, so that image and mask must stay in step."""
    batch = make_batch(2, count=4, height=32, width=48, per_image=2, padded=True)
    painted = batch.mask.float()[:, None].expand(-1, 3, -1, -1) + 1
    dense = {"rs": painted[:, :1].expand(-1, 2 * CLASSES, -1, -1)}
    batch = replace(batch, images=painted, dense=dense)
    plan = PuzzleMix(blocks=(8,)).plan(batch, seeded(1))
    holes = 0
    for name in ("base", "src"):
        view, origin = getattr(plan, f"{name}_view"), plan.info[f"origin_{name}"]
        empty = (origin < 0).view(4, 8, 8).repeat_interleave(4, 1).repeat_interleave(6, 2)
        holes += empty.sum()
        assert torch.equal(view.images[:, 0] == 0, empty)
        assert torch.equal(view.images[:, 0][~empty], view.mask[~empty].float() + 1)
        assert torch.equal(view.dense["rs"][:, 3], view.images[:, 0])
        assert (view.mask[empty] == IGNORE).all()
        assert view.valid[empty].all()
    assert holes > 0


def test_identity_fills_the_holes():
    batch = make_batch(2, count=4, height=32, width=48)
    draws = draws_of(8, 0.5, (0, 1, 2, 3), (1, 2, 3, 0))
    plan, mean = (PuzzleMix(fill=fill).plan_from(batch, draws) for fill in ("identity", "mean"))
    for name in ("origin_base", "origin_src"):
        own = torch.arange(64).expand(4, -1)
        assert (mean.info[name] < 0).any()
        filled = torch.where(mean.info[name] < 0, own, mean.info[name])
        assert torch.equal(plan.info[name], filled)


@pytest.mark.parametrize("transport", [False, True])
@pytest.mark.parametrize("size", [(33, 47), (224, 224), (5, 3), (2, 9), (1, 6)])
def test_any_size(size, transport):
    batch = make_batch(1, count=3, height=size[0], width=size[1])
    plan = PuzzleMix(transport=transport).plan(batch, seeded(4))
    n = int(plan.info["blocks"])
    assert n <= min(size)
    assert plan.weight.shape == (3, 1, *size)
    assert not plan.weight[..., size[0] // n * n :, :].any()
    assert not plan.weight[..., size[1] // n * n :].any()
    out = apply_mix(batch, plan)
    assert out.images.isfinite().all()
    assert ((out.labels >= 0) & (out.labels <= 1)).all()
    assert set(plan.weight.unique().tolist()) <= {0, 0.5, 1}


def test_draws():
    batch, mixer = make_batch(height=16, width=16), PuzzleMix(blocks=(2, 4, 8, 16, 32))
    draws = [mixer.draw(batch, seeded(seed)) for seed in range(200)]
    blocks = [int(one["blocks"]) for one in draws]
    assert {n: blocks.count(n) > 30 for n in set(blocks)} == dict.fromkeys((2, 4, 8, 16), True)
    shares = torch.stack([one["share"] for one in draws])
    assert abs(shares.mean() - 0.5) < 0.07
    assert abs(shares.std() - 12**-0.5) < 0.04
    assert int(mixer.draw(make_batch(height=1, width=16), seeded())["blocks"]) == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_without_saliency(share):
    batch = replace(make_batch(height=16, width=24), saliency=torch.zeros(3, 4, 6))
    plan = PuzzleMix().plan_from(batch, draws_of(4, share, (0, 1, 2), (1, 2, 0)))
    assert apply_mix(batch, plan).images.isfinite().all()
    assert plan.weight.mean() == pytest.approx(1 - share, abs=0.05)


def test_wanted_share_moves_the_mask():
    batch = make_batch(3, count=5, height=32, width=32)
    mixer, rows = PuzzleMix(eta=5.0), ((0, 1, 2, 3, 4), (1, 2, 3, 4, 0))
    means = [
        mixer.plan_from(batch, draws_of(8, share, *rows)).weight.mean()
        for share in (0.9, 0.6, 0.4, 0.1)
    ]
    assert means == sorted(means)
    assert means[0] < 0.3 < 0.7 < means[-1]


@pytest.mark.parametrize("case", ["one image", "all ignored", "no labels"])
def test_poor_batches(case):
    batch = make_batch(count=1 if case == "one image" else 3, height=16, width=16)
    if case == "all ignored":
        batch = replace(batch, mask=torch.full_like(batch.mask, IGNORE))
    if case == "no labels":
        batch = replace(batch, labels=torch.zeros_like(batch.labels))
    out = apply_mix(batch, PuzzleMix().plan(batch, seeded()))
    if case == "one image":
        assert torch.equal(out.images, batch.images)
        assert torch.equal(out.labels, batch.labels)
        assert torch.equal(out.mask, batch.mask)
    if case == "all ignored":
        assert (out.mask == IGNORE).all()
    if case == "no labels":
        assert not out.labels.any()


def test_same_seed_same_plan_and_nothing_else_moves():
    batch = make_batch(height=16, width=24)
    copies = [batch.images.clone(), batch.mask.clone(), batch.saliency.clone()]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (PuzzleMix().plan(batch, seeded(5)) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.src_view.images, second.src_view.images)
    assert torch.equal(PuzzleMix().plan_from(batch, first.info).weight, first.weight)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    for before, after in zip(copies, (batch.images, batch.mask, batch.saliency)):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": ()},
        {"blocks": (0, 4)},
        {"n_labels": 1},
        {"alpha": 0.0},
        {"beta": -1.0},
        {"gamma": 1.5},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match="puzzlemix: "):
        PuzzleMix(**settings)


def test_needs_saliency():
    with pytest.raises(UserError, match="PuzzleMix needs `saliency`"):
        PuzzleMix().plan(replace(make_batch(), saliency=None), seeded())
