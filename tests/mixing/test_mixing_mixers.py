"""Each mixer's plan, by hand and at its limits."""

import pytest
import torch
from mix_batches import CLASSES, make_batch, pair_batch

from wsssbench.mixing import MixBatch, apply_mix, build
from wsssbench.mixing.base import beta, pair
from wsssbench.mixing.batch import IGNORE
from wsssbench.mixing.cutmix import cut_box, half_area_box, prop_box
from wsssbench.mixing.saliency_grafting import candidates, source_share

ONE = torch.tensor([1])
PAIR = {"base": torch.tensor([0]), "src": torch.tensor([1])}
SWAP = {"base": torch.tensor([0, 1]), "src": torch.tensor([1, 0])}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


# Pairing


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_derangement(count):
    partners = set()
    for seed in range(20 * count):
        base, src = pair(count, seeded(seed))
        assert base.tolist() == list(range(count))
        assert sorted(src.tolist()) == base.tolist()
        assert (src != base).all()
        partners.add(src[0].item())
    assert partners == set(range(1, count))


def test_other_pairings():
    assert pair(4, seeded(), "cyclic")[1].tolist() == [3, 0, 1, 2]
    found = [pair(3, seeded(seed), "permutation")[1].tolist() for seed in range(60)]
    assert all(sorted(src) == [0, 1, 2] for src in found)
    assert [0, 1, 2] in found
    for kind in ("derangement", "permutation", "cyclic"):
        assert [rows.tolist() for rows in pair(1, seeded(), kind)] == [[0], [0]]


def test_beta():
    low, high = (beta(alpha, 4000, seeded()) for alpha in (0.2, 5.0))
    assert low.mean().item() == pytest.approx(0.5, abs=0.03)
    assert low.var().item() == pytest.approx(1 / 4 / 1.4, abs=0.01)  # 1 / (4 (2 alpha + 1))
    assert high.var().item() == pytest.approx(1 / 4 / 11, abs=0.005)
    assert torch.equal(low, beta(0.2, 4000, seeded()))


# CutMix


def test_cutmix_box_by_hand():
    assert cut_box((10, 20), float64(0.36), torch.tensor([[2, 15]])).tolist() == [
        [0, 11 - 4, 6, 20]
    ]
    plan = build("cutmix", {}).plan_from(
        make_batch(0, 2, 10, 20), {**PAIR, "lam": float64(0.36), "center": torch.tensor([[2, 15]])}
    )
    assert plan.weight.sum() == 78
    assert 1 - plan.weight.mean().item() == pytest.approx(0.61)


@pytest.mark.parametrize(("lam", "area"), [(1.0, 0), (0.0, 8 * 12)])
def test_cutmix_limits(lam, area):
    batch = make_batch(0, 2, 8, 12)
    draws = {**PAIR, "lam": float64(lam), "center": torch.tensor([[4, 6]])}
    out = apply_mix(batch, build("cutmix", {}).plan_from(batch, draws))
    assert out.weight.sum() == area
    row = int(area > 0)
    assert torch.equal(out.images[0], batch.images[row])
    assert torch.equal(out.labels[0], batch.labels[row])


def test_cutmix_granularity_and_probability():
    batch = make_batch(0, 8, 20, 30)
    for seed in range(5):
        one = build("cutmix", {"granularity": "batch"}).plan(batch, seeded(seed))
        assert torch.equal(one.weight, one.weight[:1].expand_as(one.weight))
    each = build("cutmix", {}).plan(batch, seeded())
    assert len(each.info["box"].unique(dim=0)) > 4
    assert build("cutmix", {"prob": 0.0}).plan(batch, seeded()).weight.sum() == 0
    lam = build("cutmix", {"prob": 0.5}).draw(make_batch(0, 400, 3, 4), seeded())["lam"]
    assert 140 < (lam == 1).sum() < 260


def test_half_area_boxes_stay_inside():
    for size in ((9, 14), (33, 47), (5, 5), (1, 1), (2, 7)):
        box = build("cutmix_seg", {}).plan(make_batch(0, 40, *size), seeded()).info["box"]
        top, left, bottom, right = box.T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (bottom <= size[0]).all()
        assert (right <= size[1]).all()
        area = (bottom - top) * (right - left)
        assert ((area - size[0] * size[1] / 2).abs() <= size[1] / 2).all()
    assert half_area_box((4, 6), torch.tensor([[4, 1, 1]])).tolist() == [[1, 1, 4, 5]]


def test_prop_boxes_by_hand():
    """Share 1/4, u = 1/2: half the height and width, in the middle of the free space."""
    half = float64(0.5)
    position = half[:, None].expand(1, 2)
    assert prop_box((8, 12), float64(0.25), half, position).tolist() == [[2, 3, 6, 9]]
    assert prop_box((8, 12), float64(0.0), half, position).tolist() == [[4, 6, 4, 6]]
    plan = build("cutmix_seg", {"kind": "prop", "prop": [0.3, 0.6]}).plan(
        make_batch(0, 50, 40, 60), seeded()
    )
    shares = plan.weight.mean((1, 2, 3))
    assert (shares > 0.27).all()
    assert (shares < 0.63).all()


# Mixup


def test_mixup_limits_and_exchange():
    batch = make_batch(0, 2)
    mixer = build("mixup", {})
    kept = apply_mix(batch, mixer.plan_from(batch, {**PAIR, "lam": float64(1.0)}))
    assert torch.equal(kept.images[0], batch.images[0])
    assert torch.equal(kept.labels[0], batch.labels[0])
    one = apply_mix(batch, mixer.plan_from(batch, {**PAIR, "lam": float64(0.3)}))
    exchanged = {"base": PAIR["src"], "src": PAIR["base"], "lam": float64(0.7)}
    other = apply_mix(batch, mixer.plan_from(batch, exchanged))
    torch.testing.assert_close(one.images, other.images)
    torch.testing.assert_close(one.labels, other.labels)
    torch.testing.assert_close(one.images[0], 0.3 * batch.images[0] + 0.7 * batch.images[1])


def test_mixup_draws_one_weight_for_all():
    plan = build("mixup", {}).plan(make_batch(0, 5), seeded())
    assert len(plan.weight.unique()) == 1
    assert plan.weight[0, 0, 0, 0].item() == pytest.approx(1 - plan.info["lam"].item())


# CowMix


def test_cow_share():
    """At sigma <= H/8 and p = 1/2, half of the image within 0.1 on average over blobs."""
    batch = make_batch(0, 6, 96, 96)
    shares = build("cowmix", {"sigma": [12, 64]}).plan(batch, seeded()).weight.mean((1, 2, 3))
    assert ((shares - 0.5).abs() < 0.1).all()
    fewer = build("cowmix", {"sigma": [12, 64], "p": 0.8}).plan(batch, seeded())
    assert fewer.weight.mean().item() == pytest.approx(0.2, abs=0.1)


def test_cow_limits():
    batch = make_batch(0, 2, 20, 31)
    assert build("cowmix", {"p": 0.0}).plan(batch, seeded()).weight.eq(1).all()
    assert build("cowmix", {"p": 1.0}).plan(batch, seeded()).weight.eq(0).all()


def test_cow_sign():
    batch, mixer = make_batch(0, 2, 40, 31), build("cowmix", {"sigma": [40, 80]})
    draws = mixer.draw(batch, seeded())
    one, other = (
        mixer.plan_from(batch, {**draws, "noise": sign * draws["noise"]}).weight for sign in (1, -1)
    )
    assert (one + other).eq(1).float().mean() > 0.999


def test_cow_noise_on_cells_is_as_smooth():
    """Coarse noise leaves the blobs' scale: the chance that neighbours 20 px apart agree."""
    agreement = []
    for stride in (1, 4):
        batch, mixer = (
            MixBatch(torch.zeros(24, 3, 128, 128), torch.ones(24, 1)),
            build("cowmix", {}),
        )
        noise = torch.randn(24, 128 // stride, 128 // stride, generator=seeded())
        draws = {"base": torch.arange(24), "src": torch.arange(24), "noise": noise, "p": 0.5}
        draws |= {"sigma": torch.full((24,), 12.0), "stride": stride}
        weight = mixer.plan_from(batch, draws).weight
        agreement.append((weight[..., 20:] == weight[..., :-20]).float().mean().item())
    assert agreement[0] == pytest.approx(agreement[1], abs=0.03)
    assert 0.6 < agreement[0] < 0.8  # arcsin law: correlation exp(-20² / 4·12²) = 0.499 -> 2/3


# Saliency Grafting

SALIENT = torch.tensor([[[1.0, 2, 0], [4, 3, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 2], [0, 3, 4]]])


def test_saliency_grafting_by_hand():
    found = candidates(SALIENT[:1], 0.5)
    assert found[0].nonzero().tolist() == [[0, 1], [1, 0], [1, 1]]
    keep = torch.tensor([[[1, 1, 0], [1, 0, 1], [0, 1, 1]]]).bool()
    batch = make_batch(0, 2, 9, 9)
    batch = MixBatch(batch.images, batch.labels, saliency=SALIENT)
    draws = {"base": torch.tensor([1]), "src": torch.tensor([0]), "keep": keep}
    plan = build("saliency_grafting", {"temperature": 0.5}).plan_from(batch, draws)
    assert plan.weight[0, 0, ::3, ::3].nonzero().tolist() == [[0, 1], [1, 0]]
    assert plan.weight.mean().item() == pytest.approx(2 / 9)
    assert 1 - plan.lam_base.item() == pytest.approx(0.4495, abs=1e-4)
    out = apply_mix(batch, plan)
    expected = torch.lerp(batch.labels[1], batch.labels[0], torch.tensor(0.4495))
    torch.testing.assert_close(out.labels[0], expected, atol=1e-4, rtol=0)


def test_saliency_grafting_limits():
    batch = make_batch(0, 2, 12, 12)
    none = apply_mix(batch, build("saliency_grafting", {"p_bernoulli": 0.0}).plan(batch, seeded()))
    assert torch.equal(none.labels, batch.labels)
    assert torch.equal(none.images, batch.images)
    every = build("saliency_grafting", {"p_bernoulli": 1.0}).plan(batch, seeded())
    expected = candidates(batch.saliency, 0.2)[[1, 0]]
    assert torch.equal(every.weight[:, 0, ::4, ::4].bool(), expected)


def test_saliency_grafting_invariances():
    torch.testing.assert_close(candidates(3 * SALIENT + 2, 0.2), candidates(SALIENT, 0.2))
    pasted = candidates(SALIENT, 0.2)
    share = source_share(SALIENT[:1], SALIENT[1:], pasted[:1])
    torch.testing.assert_close(source_share(7 * SALIENT[:1], 3 * SALIENT[1:], pasted[:1]), share)


def test_saliency_grafting_of_empty_maps():
    """A constant map has no salient cell; two maps of zeros are labelled by area."""
    flat = torch.full((1, 3, 3), 2.5)
    assert not candidates(flat, 0.2).any()
    zero, pasted = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool)
    pasted[0, 0] = True
    assert source_share(zero, zero, pasted).item() == pytest.approx(1 / 3)
    assert source_share(zero, flat, pasted).item() == 0


# ClassMix and EdgePredictMix

PREDICTED = [[0, 1, 1], [2, 2, 0]]


def class_batch(mask, labels):
    mask = torch.tensor(mask)
    mask = torch.stack([torch.zeros_like(mask), mask])
    images = torch.randn(2, 3, *mask.shape[1:], generator=seeded())
    return MixBatch(images, torch.tensor([[0] * CLASSES, labels]).float(), mask)


@pytest.mark.parametrize("name", ["classmix", "edgepredictmix"])
def test_class_regions_by_hand(name):
    batch = class_batch(PREDICTED, [1, 1, 0, 0])
    draws = {**PAIR, "chosen": torch.tensor([[1, -1]])}
    plan = build(name, {}).plan_from(batch, draws)
    assert plan.weight.tolist() == [[[[0, 1, 1], [0, 0, 0]]]]
    assert plan.src_classes.tolist() == [[True, False, False, False]]
    rest = build(name, {}).plan_from(batch, {**PAIR, "chosen": torch.tensor([[0, 2]])})
    assert (plan.weight + rest.weight).eq(1).all()


@pytest.mark.parametrize(
    ("rule", "labels", "counts"),
    [
        ("half_floor", [1, 1, 0, 0], {1}),  # of background, 1 and 2
        ("half_ceil", [1, 1, 0, 0], {2}),
        ("half_min1_nobg", [1, 1, 0, 0], {1}),
        ("half_min1_nobg", [0, 1, 0, 0], {1}),
        ("half_min1_nobg", [0, 0, 1, 1], {0}),  # neither label has a pixel
        ("all_fg", [1, 1, 1, 1], {2}),
        ("all_fg", [1, 0, 0, 0], {1}),
    ],
)
def test_class_draw_rules(rule, labels, counts):
    batch = class_batch(PREDICTED, labels)
    drawn = set()
    for seed in range(20):
        chosen = build("classmix", {"draw": rule}).plan(batch, seeded(seed)).info["classes"][0]
        assert chosen.sum().item() in counts
        assert not chosen[3:].any()
        drawn |= set(chosen.nonzero().flatten().tolist())
    if rule in ("half_floor", "half_ceil"):
        assert drawn == {0, 1, 2}
    else:
        assert drawn == {c for c in (1, 2) if labels[c - 1]}


def test_one_class_is_never_half_of_it():
    """`half_floor` of a single class is nothing: the base is left as it is."""
    batch = class_batch([[0, 0, 0], [0, 0, 0]], [1, 1, 0, 0])
    plan = build("classmix", {"draw": "half_floor"}).plan(batch, seeded())
    assert plan.weight.eq(0).all()
    assert torch.equal(apply_mix(batch, plan).images, batch.images)


def test_padding_of_the_source_holds_no_class():
    batch = class_batch(PREDICTED, [1, 1, 0, 0])
    valid = torch.ones(2, 2, 3, dtype=torch.bool)
    valid[1, 1] = False  # class 2 lies there
    batch = MixBatch(batch.images, batch.labels, batch.mask, valid=valid)
    for seed in range(5):
        plan = build("classmix", {}).plan(batch, seeded(seed))
        assert plan.src_classes[0].tolist() == [True, False, False, False]


def test_edge_predict_mix_keeps_what_is_ignored():
    batch = pair_batch([IGNORE, 4, 4, IGNORE], [3, IGNORE, 0, 3])
    plan = build("edgepredictmix", {}).plan(batch, seeded())
    assert plan.weight[0].flatten().tolist() == [1, 0, 0, 1]
    assert apply_mix(batch, plan).mask[0].tolist() == [[3, 4, 4, 3]]
    other = pair_batch([IGNORE, 2, 2, IGNORE], [IGNORE, 3, 0, 3])
    mixed = apply_mix(other, build("edgepredictmix", {}).plan(other, seeded()))
    assert mixed.mask[0].tolist() == [[IGNORE, 3, 2, 3]]
