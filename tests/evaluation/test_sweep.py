import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from straightforward import STEADY, loop_means, loop_sweep

from wsssbench.errors import UserError
from wsssbench.evaluation import DEFAULT_THRESHOLDS, ConfusionMatrix, ThresholdSweep

K = 3
GRID = [0.0, 0.05, 0.15, 0.25, 0.5, 0.5000001, 0.9]
VALUES = st.sampled_from([0.0, -0.0, -0.4, 0.05, 0.15, 0.25, 0.5, 0.7, 0.9, 1.0, 1e-7])


def images(dtype):
    """(maps (K, H, W), truth (H, W)) with many ties between maps and with thresholds."""
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 6))
    return shapes.flatmap(
        lambda shape: st.tuples(
            arrays(dtype, (K, *shape), elements=VALUES.map(lambda v: float(dtype(v)))),
            arrays(np.uint8, shape, elements=st.sampled_from([*range(K + 1), 255])),
        )
    )


def swept(maps, truth, thresholds=GRID):
    sweep = ThresholdSweep(len(maps) + 1, thresholds)
    sweep.update(maps, truth)
    return sweep


def random_image(seed, k=K, size=(24, 31), dtype=np.float32):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k + 1, size).astype(np.uint8)
    truth[rng.random(size) < 0.1] = 255
    return rng.random((k, *size)).astype(dtype), truth


def test_a_value_equal_to_the_threshold_is_background():
    sweep = ThresholdSweep(2, [0.4, 0.6])
    sweep.update(np.array([[[0.4, 0.6]]], np.float32), np.array([[0, 1]]))
    assert sweep.miou()[0] == 1.0
    assert sweep.counts()[1].tolist() == [[2, 1, 1], [0, 1, 0]]


def test_ties_between_classes_go_to_the_lower_id_whatever_the_order_of_keys():
    maps, truth = np.full((2, 1, 1), 0.8, np.float32), np.array([[2]])
    sweep = ThresholdSweep(4, [0.5])
    sweep.update_sparse([3, 2], maps, truth)
    assert sweep.counts()[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]


@settings(STEADY, max_examples=60)
@given(st.one_of(images(np.float32), images(np.float16), images(np.float64)))
def test_equals_the_loop_over_thresholds(image):
    np.testing.assert_array_equal(swept(*image).counts(), loop_sweep(*image, GRID))


@settings(STEADY, max_examples=40)
@given(images(np.float32))
def test_means_are_those_of_a_confusion_matrix(image):
    maps, truth = image
    sweep = swept(maps, truth)
    for index, threshold in enumerate(GRID):
        background = np.full((1, *truth.shape), threshold, np.float32)
        confusion = ConfusionMatrix(K + 1)
        confusion.update(np.concatenate([background, maps]).argmax(axis=0), truth)
        expected = [confusion.miou(), confusion.mfp(), confusion.mfn()]
        row = [sweep.miou()[index], sweep.mfp()[index], sweep.mfn()[index]]
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_equals_the_loop_on_larger_images(k, dtype):
    maps, truth = random_image(k, k, dtype=dtype)
    maps[:, :, :9] = np.float32(0.35)  # equal to a threshold in float32, not in float16
    maps[k // 2] = 0
    sweep = swept(maps, truth, DEFAULT_THRESHOLDS)
    np.testing.assert_array_equal(sweep.counts(), loop_sweep(maps, truth, DEFAULT_THRESHOLDS))


def test_every_float16_falls_on_the_right_side_of_every_threshold():
    values = np.arange(2**15, dtype=np.uint16).view(np.float16)
    values = values[~np.isnan(values)].reshape(1, 1, -1)
    thresholds = [0.0, 1e-8, 0.1, 0.3, 1 / 3, 0.35, 0.95, 1.0]
    sweep = swept(values, np.ones((1, values.size), np.uint8), thresholds)
    expected = [int((values.astype(np.float32) > np.float32(t)).sum()) for t in thresholds]
    assert sweep.counts()[:, 1, 0].tolist() == expected


@settings(STEADY, max_examples=30)
@given(st.one_of(images(np.float32), images(np.float16)), st.permutations(range(1, K + 1)))
def test_sparse_equals_dense(image, keys):
    maps, truth = image
    sparse = ThresholdSweep(K + 1, GRID)
    present = [key for key in keys if maps[key - 1].any()]
    sparse.update_sparse(present, maps[[key - 1 for key in present]], truth)
    np.testing.assert_array_equal(sparse.counts(), swept(maps, truth).counts())


def test_no_map_at_all_is_all_background():
    truth = np.array([[0, 2, 255]], np.uint8)
    sweep = ThresholdSweep(3, [0.1, 0.2])
    sweep.update_sparse([], np.zeros((0, 1, 3), np.float16), truth)
    assert sweep.counts()[1].tolist() == [[2, 1, 1], [0, 0, 0], [0, 1, 0]]


@settings(STEADY, max_examples=25)
@given(st.lists(images(np.float32), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_counts_are_additive_in_any_order(drawn, random):
    together = ThresholdSweep(K + 1, GRID)
    for image in drawn:
        together.update(*image)
    random.shuffle(drawn)
    total = sum((swept(*image) for image in drawn), start=ThresholdSweep(K + 1, GRID))
    np.testing.assert_array_equal(total.counts(), together.counts())


def test_ignored_pixels_never_change_the_result():
    maps, truth = random_image(1)
    wider = np.concatenate([maps, np.ones_like(maps)], axis=2)
    ignored = np.concatenate([truth, np.full_like(truth, 255)], axis=1)
    np.testing.assert_array_equal(swept(wider, ignored).counts(), swept(maps, truth).counts())


@pytest.mark.parametrize("present", [[1, 2, 3], [1], [2]])
def test_other_ignore_index(present):
    maps, truth = random_image(9)
    maps = maps[np.array(present) - 1]
    truth[truth == 255] = 0
    usual, other = ThresholdSweep(K + 1, GRID), ThresholdSweep(K + 1, GRID, ignore_index=2)
    usual.update_sparse(present, maps, np.where(truth == 2, 255, truth))
    other.update_sparse(present, maps, truth)
    np.testing.assert_array_equal(usual.counts(), other.counts())


def test_higher_thresholds_trade_fp_for_fn():
    counts = swept(*random_image(2), DEFAULT_THRESHOLDS).counts()
    assert (np.diff(counts[:, 1:, 0], axis=0) <= 0).all()
    assert (np.diff(counts[:, 0, 0]) >= 0).all()


def test_best_takes_the_first_of_equal_thresholds_and_its_own_fp_and_fn():
    sweep = swept(np.array([[[0.5, 0.5, 0.5]]]), np.array([[1, 1, 0]]), [0.1, 0.2, 0.7])
    assert sweep.best() == (0.1, pytest.approx(1 / 3), pytest.approx(1 / 3), 0.0)
    assert sweep.at(0.7) == (0.7, pytest.approx(1 / 6), 0.0, 1.0)


def test_best_of_nothing_is_nan():
    threshold, *scores = ThresholdSweep(2, [0.3, 0.5]).best()
    assert threshold == 0.3
    assert np.isnan(scores).all()


def test_at_compares_in_float32_and_names_what_was_swept():
    sweep = swept(*random_image(3), np.arange(0.05, 0.5, 0.05))
    assert sweep.at(0.15)[0] == pytest.approx(0.15)
    with pytest.raises(UserError, match=r"0\.33 was not swept.*0\.15"):
        sweep.at(0.33)


def test_table_holds_one_row_per_threshold():
    image = random_image(4)
    table = swept(*image).table()
    assert list(table.columns) == ["threshold", "miou", "fp", "fn"]
    for row, counts in zip(table.to_numpy(), loop_sweep(*image, GRID), strict=True):
        np.testing.assert_allclose(row[1:], loop_means(counts), rtol=1e-12)


def test_tensors_and_any_memory_order():
    maps, truth = random_image(5)
    expected = swept(maps, truth).counts()
    tensors = torch.from_numpy(maps), torch.from_numpy(truth).long()
    np.testing.assert_array_equal(swept(*tensors).counts(), expected)
    strided = np.asfortranarray(maps), np.asfortranarray(truth)
    np.testing.assert_array_equal(swept(*strided).counts(), expected)
    coarse = torch.from_numpy(maps).bfloat16()
    np.testing.assert_array_equal(
        swept(coarse, truth).counts(), swept(coarse.float().numpy(), truth).counts()
    )


def test_many_classes_and_many_thresholds():
    maps, truth = random_image(6, k=253, size=(9, 11))
    thresholds = np.linspace(0.001, 0.999, 300)
    sweep = swept(maps, truth, thresholds)
    np.testing.assert_array_equal(sweep.counts(), loop_sweep(maps, truth, thresholds))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nan_of_either_sign_is_an_error(dtype, sign):
    maps, truth = random_image(7, dtype=dtype)
    maps[1, 3, 4] = np.copysign(dtype(np.nan), dtype(sign))
    with pytest.raises(UserError, match="NaN"):
        swept(maps, truth)


def test_infinite_and_negative_values_are_ordered():
    maps = np.array([[[np.inf, -np.inf, -1.0, 0.3]]], np.float32)
    assert swept(maps, np.ones((1, 4), np.uint8), [0.0, 0.5]).counts()[:, 1, 0].tolist() == [2, 1]


@pytest.mark.parametrize(
    "thresholds", [[], [0.5, 0.5], [0.5, 0.4], [-0.1, 0.5], [np.nan], [0.1, 0.1 + 1e-12]]
)
def test_thresholds_must_increase_in_float32(thresholds):
    with pytest.raises(UserError, match="increasing"):
        ThresholdSweep(3, thresholds)


def test_wrong_input_is_named():
    sweep, (maps, truth) = ThresholdSweep(K + 1, GRID), random_image(8)
    with pytest.raises(UserError, match="4 score maps for 3 foreground classes"):
        sweep.update(np.concatenate([maps, maps[:1]]), truth)
    with pytest.raises(UserError, match="do not fit"):
        sweep.update(maps, truth[1:])
    with pytest.raises(UserError, match="class 4"):
        sweep.update_sparse([4], maps[:1], truth)
    with pytest.raises(UserError, match="two maps"):
        sweep.update_sparse([2, 2], maps[:2], truth)
    with pytest.raises(UserError, match="Value 77 in the ground truth"):
        sweep.update(maps, np.where(truth == 1, 77, truth))
    assert sweep.counts().sum() == 0
    with pytest.raises(UserError, match="cannot be added"):
        sweep + ThresholdSweep(K + 1, GRID[1:])


def test_empty_keeps_thresholds_and_classes_and_no_counts():
    sweep = ThresholdSweep(K + 1, GRID, ignore_index=7)
    sweep.update(*random_image(10, size=(3, 4)))
    fresh = sweep.empty()
    assert fresh.counts().sum() == 0
    np.testing.assert_array_equal((fresh + sweep).counts(), sweep.counts())
