"""SCG against published code's results (golden), hand examples and its invariances."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.errors import UserError
from wsssbench.refinement import scg
from wsssbench.refinement.scg import correlation_orders, resize_features, self_correlation

STEADY = settings(deadline=None, derandomize=True, max_examples=40)
MODULE = importlib.import_module("wsssbench.refinement.scg")
SPA = {
    "cub": {"first_threshold": 0.1, "second_threshold": 0.5, "second_weight": 2.0},
    "ilsvrc": {"first_threshold": 0.2, "second_threshold": 0.2},
    "order3": {"first_threshold": 0.2, "second_threshold": 0.2, "order": 3},
}
RS = {"default": {}, "it2w2": {"order": 3, "second_weight": 2.0}}
AFFINITY = {"rtol": 0, "atol": 1e-6}
MAP = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden():
    """See `scg.md`."""
    with np.load(Path(__file__).parents[1] / "golden" / "scg.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype == np.float32}


def draw(images=2, classes=3, grid=(5, 7), channels=(4, 6), seed=0):
    """Maps with class 0 absent from image 0, and sparse features with a zero vector."""
    generator = torch.Generator().manual_seed(seed)
    cams = torch.rand(images, classes, *grid, generator=generator) ** 3
    cams[0, 0] = 0
    features = [
        (torch.randn(images, count, *grid, generator=generator) + 0.5).relu() for count in channels
    ]
    features[0][0, :, 0, 1] = 0
    return cams, features


def row_of(vectors):
    """(N, C) vectors -> one level on a grid of 1×N."""
    return torch.as_tensor(vectors).float().T[None, :, None]


@pytest.mark.parametrize("case", SPA)
def test_golden_spa(golden, case):
    levels = [golden["in_spa_f4"], golden["in_spa_f5"]]
    correlation = self_correlation(levels, variant="spa", **SPA[case])
    torch.testing.assert_close(correlation, golden[f"out_spa_{case}_hsc"], **AFFINITY)
    cams = golden[f"out_spa_{case}_camnorm"][None]
    maps = scg(cams, levels, foreground=0.1, variant="spa", **SPA[case])
    torch.testing.assert_close(maps[0], golden[f"out_spa_{case}_scm"], **MAP)


@pytest.mark.parametrize("case", RS)
def test_golden_rs(golden, case):
    levels = [golden[f"in_rs_f{level}"] for level in range(3)]
    correlation = self_correlation(levels, **RS[case])
    torch.testing.assert_close(correlation, golden[f"out_rs_{case}_hsc"], **AFFINITY)
    maps = scg(golden["in_rs_cams"], levels, **RS[case])
    torch.testing.assert_close(maps, golden[f"out_rs_{case}_scm"], **MAP)


def test_golden_orders(golden):
    cub = {"first_threshold": 0.1, "second_threshold": 0.5, "variant": "spa"}
    third = {"first_threshold": 0.2, "second_threshold": 0.2, "order": 3, "variant": "spa"}
    first, second = correlation_orders(golden["in_spa_f4"], **cub)
    torch.testing.assert_close(first, golden["out_spa_cub_fo_f4"], **AFFINITY)
    torch.testing.assert_close(second, golden["out_spa_cub_ho_f4"], **AFFINITY)
    _, second = correlation_orders(golden["in_spa_f5"], **third)
    torch.testing.assert_close(second, golden["out_spa_order3_ho_f5"], **AFFINITY)
    first, second = correlation_orders(golden["in_rs_f1"])
    torch.testing.assert_close(first, golden["out_rs_default_sc1_1"], **AFFINITY)
    torch.testing.assert_close(second, golden["out_rs_default_sc2_1"], **AFFINITY)


def test_three_positions_by_hand():
    level = row_of([[1, 0], [1, 0], [0, 1]])
    expected = torch.tensor([[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 1]])
    torch.testing.assert_close(self_correlation([level])[0], expected)
    maps = scg(torch.tensor([1.0, 0.1, 0.0]).view(1, 1, 1, 3), [level])
    torch.testing.assert_close(maps.flatten(), torch.tensor([1.0, 0.5, 0.0]))


def test_four_directions_by_hand():
    angles = torch.deg2rad(torch.tensor([0.0, 35, 70, 105]))
    level = row_of(torch.stack([angles.cos(), angles.sin()], dim=1))
    first, second = correlation_orders(level)
    columns = torch.tensor([[0.5497, 0.4503, 0, 0], [0.3105, 0.3790, 0.3105, 0]])
    expected = torch.cat([columns, columns.flip(0, 1)]).T
    torch.testing.assert_close(first[0], expected, rtol=0, atol=5e-5)
    rows = [[0.5, 0, 0.25, 0], [0, 0.75, 0, 0.5], [0.5, 0, 0.75, 0], [0, 0.25, 0, 0.5]]
    torch.testing.assert_close(second[0], torch.tensor(rows), rtol=0, atol=1e-6)
    columns = torch.tensor([[0.3665, 0.3002, 0.3333, 0], [0.1915, 0.4627, 0.1915, 0.1542]])
    expected = torch.cat([columns, columns.flip(0, 1)]).T
    torch.testing.assert_close(self_correlation([level])[0], expected, rtol=0, atol=5e-5)
    alone = self_correlation([level], order=1)[0]
    assert alone[2, 0] == 0  # reached through position 1 only
    torch.testing.assert_close(alone, first[0])


def test_limits_of_the_certain_positions_belong_to_them():
    level = row_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    maps = scg(torch.tensor([[0.3, 0.2, 0.05], [0.2999, 0.3, 0.0501]]).view(1, 2, 1, 3), [level])
    torch.testing.assert_close(maps[0, :, 0], torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    level = row_of([[1, 0], [0.8, 0.6], [0.6, 0.8]])
    cams = torch.tensor([[1, 0.2, 0.05], [1, 0.2, 0.0501]]).view(1, 2, 1, 3)
    limit, above = scg(cams, [level])[0, :, 0, 1]
    assert limit == 0  # position 2 resembles the background more
    assert above > 0  # there is no background


def test_identical_features_are_almost_a_constant():
    correlation = self_correlation([torch.ones(1, 3, 2, 5)])[0]
    expected = torch.full((10, 10), 1 / 10).fill_diagonal_(1 / 9)
    torch.testing.assert_close(correlation, expected / expected.sum(0))


def test_a_similarity_at_the_threshold_stays():
    level = row_of([[0.8, 0.6], [1, 0]])
    similarity = float(torch.nn.functional.normalize(level, dim=1)[0, 0, 0, 0])
    above = float(np.nextafter(np.float32(similarity), np.float32(1)))
    kept, _ = correlation_orders(level, first_threshold=similarity)
    dropped, _ = correlation_orders(level, first_threshold=above)
    assert kept[0, 0, 1] > 0.4
    assert dropped[0, 0, 1] == 0


@given(order=st.integers(1, 5), threshold=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 99))
@STEADY
def test_columns_sum_to_the_number_of_levels(order, threshold, seed):
    _, features = draw(seed=seed)
    settings = {"first_threshold": threshold, "order": order}
    correlation = self_correlation(features, **settings)
    filled = [level.flatten(2).any(1).float() for level in features]  # a zero feature adds nothing
    assert not filled[0].all()
    assert correlation.shape == (2, 35, 35)
    torch.testing.assert_close(correlation.sum(1), filled[0] + filled[1])
    first, _ = correlation_orders(features[0], **settings)
    torch.testing.assert_close(first.sum(1), filled[0])


@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    images=st.integers(1, 3),
    classes=st.integers(1, 4),
    order=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@STEADY
def test_maps_reach_from_0_to_1_or_are_zero(grid, images, classes, order, seed):
    generator = torch.Generator().manual_seed(seed)
    cams = torch.rand(images, classes, *grid, generator=generator) ** 2
    features = [torch.rand(images, 3, *grid, generator=generator)]
    cams[0, 0] = 0
    maps = scg(cams, features, order=order)
    assert maps.shape == cams.shape
    assert maps.dtype == torch.float32
    high = maps.amax((2, 3))
    assert ((maps.amin((2, 3)) == 0) & (high <= 1)).all()
    assert ((high == 0) | (high > 0.99)).all()  # rounding noise divided by itself plus epsilon
    assert (maps[0, 0] == 0).all()


@given(seed=st.integers(0, 99))
@STEADY
def test_length_of_features_does_not_matter(seed):
    cams, features = draw(seed=seed)
    power = torch.randint(-3, 4, (2, 1, 5, 7), generator=torch.Generator().manual_seed(seed))
    scaled = [level * 2.0**power for level in features]  # exact, no similarity crosses a threshold
    torch.testing.assert_close(scg(cams, scaled), scg(cams, features), **MAP)


def test_permuted_positions_give_permuted_maps():
    cams, features = draw()
    order = torch.randperm(35, generator=torch.Generator().manual_seed(3))

    def permute(x):
        return x.flatten(2)[..., order].view_as(x)

    maps = scg(permute(cams), [permute(level) for level in features])
    torch.testing.assert_close(maps, permute(scg(cams, features)), **MAP)


def test_classes_do_not_influence_each_other():
    cams, features = draw(classes=4)
    torch.testing.assert_close(scg(cams[:, 1:3], features), scg(cams, features)[:, 1:3], **MAP)


def test_a_batch_is_its_images():
    cams, features = draw(images=3)
    single = [scg(cams[i : i + 1], [level[i : i + 1] for level in features]) for i in range(3)]
    torch.testing.assert_close(torch.cat(single), scg(cams, features), **MAP)


def test_memory_bound_does_not_change_the_result(monkeypatch):
    cams, features = draw(images=5)
    together, sizes, real = scg(cams, features), [], MODULE.self_correlation

    def spy(levels, **settings):
        sizes.append(len(levels[0]))
        return real(levels, **settings)

    monkeypatch.setattr(MODULE, "self_correlation", spy)
    monkeypatch.setattr(MODULE, "CPU_BYTES", 2 * 4 * 4 * 35**2)
    torch.testing.assert_close(scg(cams, features), together, **MAP)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_as_float32(dtype):
    cams, features = draw()
    cams, features = cams.to(dtype), [level.to(dtype) for level in features]
    maps = scg(cams, features)
    assert maps.dtype == torch.float32
    expected = scg(cams.float(), [level.float() for level in features])
    torch.testing.assert_close(maps, expected)


def test_autocast_changes_nothing():
    cams, features = draw()
    expected = scg(cams, features), self_correlation(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scg(cams, features), expected[0])
        assert torch.equal(self_correlation(features), expected[1])


@pytest.mark.parametrize(("positions", "threads"), [(36, 1), (35, 2)])
def test_small_grids_take_one_thread(monkeypatch, positions, threads):
    cams, features = draw()
    before, seen, real = torch.get_num_threads(), [], MODULE.self_correlation

    def spy(*args, **settings):
        seen.append(torch.get_num_threads())
        return real(*args, **settings)

    monkeypatch.setattr(MODULE, "self_correlation", spy)
    monkeypatch.setattr(MODULE, "SHARED_FROM", positions)
    try:
        torch.set_num_threads(2)
        scg(cams, features)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [threads]


def test_no_gradient_and_inputs_stay():
    cams, features = draw()
    before = [tensor.clone() for tensor in (cams, *features)]
    for tensor in (cams, *features):
        tensor.requires_grad_()
    assert not scg(cams, features).requires_grad
    assert not self_correlation(features[:1]).requires_grad
    for tensor, copy in zip((cams, *features), before, strict=True):
        assert torch.equal(tensor, copy)


def test_recall_rises_for_a_uniform_object():
    """The map fires on a third of the object; at a fixed threshold SCG finds the rest."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(16, 20, dtype=torch.bool)
    truth[4:13, 5:16] = True
    direction = torch.where(truth, 0, 1)
    level = torch.eye(8)[direction].permute(2, 0, 1)[None]
    level = level + 0.3 * torch.rand(1, 8, 16, 20, generator=generator)
    cams = torch.zeros(1, 1, 16, 20)
    cams[..., 4:13, 5:9] = 1
    found = scg(cams, [level])[0, 0] >= 0.3
    assert (found & truth).sum() / truth.sum() > 0.95
    assert (found & ~truth).sum() / (~truth).sum() < 0.05


def test_resize_features():
    features = [torch.rand(2, 3, 8, 6), torch.rand(2, 5, 2, 3).half()]
    resized = resize_features(features, (4, 3))
    assert [tuple(level.shape) for level in resized] == [(2, 3, 4, 3), (2, 5, 4, 3)]
    assert {level.dtype for level in resized} == {torch.float32}
    means = features[0].unflatten(2, (4, 2)).unflatten(4, (3, 2)).mean((3, 5))
    torch.testing.assert_close(resized[0], means)  # halving averages 2×2


@pytest.mark.parametrize(
    ("cams", "features", "settings", "message"),
    [
        ((2, 3, 4, 5), [], {}, "at least one level"),
        ((2, 3, 4, 5), [(2, 6, 4, 5), (2, 6, 8, 10)], {}, "one grid"),
        ((2, 3, 4, 5), [(2, 6, 4, 5), (1, 6, 4, 5)], {}, "one grid"),
        ((2, 3, 4, 5), [(2, 6, 20)], {}, "one grid"),
        ((2, 3, 8, 10), [(2, 6, 4, 5)], {}, "resize_features"),
        ((3, 4, 5), [(2, 6, 4, 5)], {}, "maps"),
        ((2, 3, 4, 5), [(2, 6, 4, 5)], {"order": 0}, "order"),
        ((2, 3, 4, 5), [(2, 6, 4, 5)], {"variant": "sap"}, "Did you mean 'spa'"),
    ],
)
def test_errors_say_what_is_wrong(cams, features, settings, message):
    with pytest.raises(UserError, match=message) as error:
        scg(torch.rand(cams), [torch.rand(shape) for shape in features], **settings)
    assert "\n" not in str(error.value)
