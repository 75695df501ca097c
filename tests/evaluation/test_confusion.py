import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, jaccard_score, precision_score, recall_score
from straightforward import STEADY, loop_counts, loop_means

from wsssbench.errors import UserError
from wsssbench.evaluation import ConfusionMatrix

K1 = 4  # classes of the drawn examples
PAIRS = st.tuples(st.integers(1, 6), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.integers(0, K1 - 1)),
        arrays(np.uint8, shape, elements=st.sampled_from([*range(K1), 255])),
    )
)


def scored(prediction, truth, num_classes):
    confusion = ConfusionMatrix(num_classes)
    confusion.update(np.asarray(prediction), np.asarray(truth))
    return confusion


def test_hand_worked_row():
    confusion = scored([[0, 1, 1, 0, 1]], [[0, 0, 1, 1, 255]], 2)
    assert confusion.counts().tolist() == [[2, 2, 1], [2, 2, 1]]
    assert confusion.matrix.tolist() == [[1, 1], [1, 1]]
    assert confusion.miou() == pytest.approx(1 / 3)
    assert confusion.mfp() == pytest.approx(1 / 3)
    assert confusion.mfn() == pytest.approx(1 / 3)


def test_class_predicted_but_never_labelled_counts():
    confusion = scored([0, 0, 1, 1], [0, 0, 0, 0], 2)
    assert confusion.iou().tolist() == [0.5, 0.0]
    assert (confusion.miou(), confusion.mfp(), confusion.mfn()) == (0.25, 1.0, 0.0)


def test_class_absent_from_both_is_left_out():
    confusion = scored([0, 1], [0, 1], 3)
    np.testing.assert_array_equal(confusion.iou(), [1, 1, np.nan])
    np.testing.assert_array_equal(confusion.fp(), [0, 0, np.nan])
    assert (confusion.miou(), confusion.mfp(), confusion.mfn()) == (1.0, 0.0, 0.0)


def test_nothing_counted_is_nan_without_warning(recwarn):
    confusion = scored([0, 1], [255, 255], 2)
    assert np.isnan([confusion.miou(), confusion.mfp(), confusion.mfn()]).all()
    assert not recwarn.list


def test_data_set_ratio_is_no_mean_of_images():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([1]), np.array([1]))
    confusion.update(np.zeros(99, int), np.ones(99, int))
    assert confusion.iou()[1] == pytest.approx(0.01)


def test_prediction_of_no_class_costs_recall_only():
    confusion = scored([255, 7, -1, 300, 1], [1, 1, 1, 0, 1], 2)
    assert confusion.counts().tolist() == [[0, 1, 0], [1, 4, 1]]
    assert confusion.unassigned.tolist() == [1, 3]
    assert confusion.recall().tolist() == [0.0, 0.25]
    assert np.isnan(confusion.precision()[0])
    assert confusion.precision()[1] == 1.0


@pytest.mark.parametrize("value", [3, 254, -1, 256, 70000])
def test_truth_out_of_range_is_an_error_that_names_the_value(value):
    with pytest.raises(UserError, match=rf"Value {value} in the ground truth"):
        scored([0, 0], np.array([0, value]), 3)


def test_failed_update_changes_nothing():
    confusion = scored([0, 1], [0, 1], 2)
    with pytest.raises(UserError):
        confusion.update(np.array([0, 0]), np.array([0, 9]))
    assert confusion.counts().tolist() == [[1, 1, 1], [1, 1, 1]]


def test_shapes_must_agree():
    with pytest.raises(UserError, match=r"\(2, 3\).*\(3, 2\).*full size"):
        scored(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)


def test_scores_are_not_ids():
    with pytest.raises(UserError, match="whole numbers"):
        scored(np.array([0.2, 0.9]), np.array([0, 1]), 2)


@pytest.mark.parametrize("num_classes", [0, 256])
def test_num_classes_must_fit_a_byte(num_classes):
    with pytest.raises(UserError, match="num_classes"):
        ConfusionMatrix(num_classes)


@pytest.mark.parametrize("num_classes", [254, 255])
def test_as_many_classes_as_bytes_allow(num_classes):
    truth = np.array([0, num_classes - 1, 255, num_classes - 1])
    confusion = scored([0, num_classes - 1, 3, 255], truth, num_classes)
    assert confusion.matrix[-1, -1] == 1
    assert confusion.unassigned[-1] == 1
    assert confusion.counts().sum(axis=0).tolist() == [2, 3, 2]


def test_other_ignore_index():
    confusion = ConfusionMatrix(3, ignore_index=0)
    confusion.update(np.array([0, 1, 2, 1]), np.array([0, 1, 2, 2]))
    assert confusion.matrix.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int16])
def test_tensors_and_integer_types_give_the_same(dtype):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 5, (2, 8, 9), generator=generator)
    truth = torch.randint(0, 5, (2, 8, 9), generator=generator)
    truth[0, :3] = 255
    expected = scored(prediction.numpy(), truth.numpy(), 5).matrix
    np.testing.assert_array_equal(scored(prediction.to(dtype), truth.to(dtype), 5).matrix, expected)
    np.testing.assert_array_equal(expected, scored(prediction, truth.int(), 5).matrix)


def test_counts_are_exact_beyond_float32():
    counts = np.array([[2**33 + 1, 1], [0, 2**40 + 1]])
    confusion = ConfusionMatrix.from_counts(counts) + scored([0, 1], [0, 1], 2)
    assert confusion.matrix.dtype == np.int64
    assert confusion.matrix.tolist() == [[2**33 + 2, 1], [0, 2**40 + 2]]


def test_from_counts_keeps_the_column_of_no_class_and_refuses_other_shapes():
    confusion = ConfusionMatrix.from_counts(np.array([[5, 1, 2], [0, 4, 1]]))
    assert confusion.unassigned.tolist() == [2, 1]
    with pytest.raises(UserError, match=r"\(n, n\)"):
        ConfusionMatrix.from_counts(np.zeros((2, 4), int))


def test_only_equal_class_sets_add_up():
    with pytest.raises(UserError, match="cannot be added"):
        ConfusionMatrix(3) + ConfusionMatrix(4)


@STEADY
@given(PAIRS)
def test_equals_masked_sums_and_their_means(pair):
    prediction, truth = pair
    confusion = scored(prediction, truth, K1)
    counts = loop_counts(prediction, truth, K1)
    np.testing.assert_array_equal(confusion.counts(), counts)
    means = confusion.miou(), confusion.mfp(), confusion.mfn()
    np.testing.assert_allclose(means, loop_means(counts), rtol=1e-12)


@STEADY
@given(PAIRS)
def test_parts_of_the_union_add_up(pair):
    confusion = scored(*pair, K1)
    seen = ~np.isnan(confusion.iou())
    parts = confusion.iou() + confusion.fp() + confusion.fn()
    np.testing.assert_allclose(parts[seen], 1.0)
    np.testing.assert_allclose(np.sum(confusion.fp_split(), axis=0), confusion.fp())


@STEADY
@given(PAIRS)
def test_swapping_prediction_and_truth_swaps_fp_and_fn(pair):
    prediction, truth = pair
    truth = np.where(truth == 255, 0, truth)
    one, other = scored(prediction, truth, K1), scored(truth, prediction, K1)
    np.testing.assert_array_equal(one.iou(), other.iou())
    np.testing.assert_array_equal(one.fp(), other.fn())


@STEADY
@given(PAIRS, st.integers(0, 255))
def test_ignored_pixels_never_change_the_result(pair, filler):
    prediction, truth = pair
    more = np.concatenate([prediction, np.full_like(prediction, filler)])
    ignored = np.concatenate([truth, np.full_like(truth, 255)])
    np.testing.assert_array_equal(scored(more, ignored, K1)._counts, scored(*pair, K1)._counts)


@settings(STEADY, max_examples=30)
@given(st.lists(PAIRS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_counts_are_additive_in_any_order(pairs, random):
    together = ConfusionMatrix(K1)
    for pair in pairs:
        together.update(*pair)
    random.shuffle(pairs)
    total = sum((scored(*pair, K1) for pair in pairs), start=ConfusionMatrix(K1))
    np.testing.assert_array_equal(total._counts, together._counts)


def test_against_scikit_learn():
    rng = np.random.default_rng(3)
    prediction, truth = rng.integers(0, 6, 5000), rng.integers(0, 6, 5000)
    truth[:900] = 255
    confusion = scored(prediction, truth, 6)
    p, t = prediction[900:], truth[900:]
    np.testing.assert_array_equal(confusion.matrix, confusion_matrix(t, p))
    np.testing.assert_allclose(confusion.iou(), jaccard_score(t, p, average=None))
    np.testing.assert_allclose(confusion.precision(), precision_score(t, p, average=None))
    np.testing.assert_allclose(confusion.recall(), recall_score(t, p, average=None))


def test_dilating_raises_fp_and_lowers_fn_and_eroding_the_reverse():
    rng = np.random.default_rng(0)
    truth = np.zeros((80, 90), np.uint8)
    truth[20:60, 25:70] = 1
    shape = cv2.GaussianBlur((rng.random((80, 90)) > 0.5).astype(np.float32), (0, 0), 2)
    prediction = ((truth == 1) & (shape > 0.4)).astype(np.uint8)
    prediction[5:15, 5:30] = 1
    kernel = np.ones((3, 3), np.uint8)
    results = [
        scored(mask, truth, 2)
        for mask in (cv2.erode(prediction, kernel), prediction, cv2.dilate(prediction, kernel))
    ]
    fp, fn = [c.mfp() for c in results], [c.mfn() for c in results]
    assert fp[0] < fp[1] < fp[2]
    assert fn[0] > fn[1] > fn[2]
