import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, precision_score, recall_score
from straightforward import STEADY

from wsssbench.errors import UserError
from wsssbench.evaluation import average_precision, cf1_sweep, mean_average_precision


def drawn(seed, images=60, classes=4):
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, classes)) < 0.3).astype(np.float32)
    scores = np.clip(0.4 * labels + rng.random((images, classes)) * 0.6, 0, 1).astype(np.float32)
    return scores, labels


def test_average_precision_by_hand():
    assert average_precision([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([0.1, 0.2], [0, 1]) == 1.0


def test_equal_scores_enter_together():
    assert average_precision([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == 0.25
    assert average_precision([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]) == 0.25


def test_no_positive_is_nan():
    assert np.isnan(average_precision([0.5, 0.2], [0, 0]))


@STEADY
@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            arrays(np.float32, n, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])),
            arrays(np.int64, n, elements=st.integers(0, 1)).filter(lambda y: y.any()),
        )
    )
)
def test_average_precision_is_scikit_learns(case):
    scores, labels = case
    assert average_precision(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


def test_mean_leaves_out_classes_without_positives():
    scores, labels = drawn(0)
    labels[:, 2] = 0
    kept = [0, 1, 3]
    expected = average_precision_score(labels[:, kept], scores[:, kept], average="macro")
    assert mean_average_precision(scores, labels) == pytest.approx(expected)
    assert mean_average_precision(
        torch.from_numpy(scores), torch.from_numpy(labels)
    ) == pytest.approx(expected)
    assert np.isnan(mean_average_precision(scores, np.zeros_like(labels)))


def test_f1_sweep_against_scikit_learn():
    scores, labels = drawn(1)
    sweep = cf1_sweep(scores, labels, [0.3, 0.5, 0.7])
    for index, threshold in enumerate(sweep.thresholds):
        chosen = scores >= np.float32(threshold)
        for average, precision, recall in (
            ("macro", sweep.cp, sweep.cr),
            ("micro", sweep.op, sweep.or_),
        ):
            given = precision_score(labels, chosen, average=average, zero_division=0)
            assert precision[index] == pytest.approx(given, abs=1e-5)
            given = recall_score(labels, chosen, average=average, zero_division=0)
            assert recall[index] == pytest.approx(given, abs=1e-5)
    np.testing.assert_allclose(
        sweep.cf1, 2 * sweep.cp * sweep.cr / (sweep.cp + sweep.cr), atol=1e-6
    )
    np.testing.assert_allclose(
        sweep.of1, 2 * sweep.op * sweep.or_ / (sweep.op + sweep.or_), atol=1e-6
    )


def test_f1_is_formed_from_the_means_and_empty_classes_count_as_zero():
    sweep = cf1_sweep(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([[1, 0], [0, 0]]), [0.5])
    assert sweep.cp[0] == pytest.approx(0.25, abs=1e-5)  # (1/2 + 0) / 2
    assert sweep.cr[0] == pytest.approx(0.5, abs=1e-5)  # (1 + 0) / 2
    assert sweep.cf1[0] == pytest.approx(1 / 3, abs=1e-5)


@pytest.mark.parametrize("threshold", [0.15, 0.35, 0.6])  # in float32: above, below, above
def test_a_score_equal_to_the_threshold_is_predicted(threshold):
    scores = np.array([[threshold]], np.float32)
    sweep = cf1_sweep(scores, np.array([[1]]), [threshold, threshold + 1e-6])
    assert sweep.cr.round(3).tolist() == [1, 0]


def test_best_is_the_first_of_equal_thresholds():
    sweep = cf1_sweep(np.array([[0.9], [0.1]]), np.array([[1], [0]]), [0.05, 0.4, 0.6])
    threshold, cp, cr, cf1 = sweep.best()
    assert threshold == 0.4
    assert (cp, cr, cf1) == pytest.approx((1, 1, 1), abs=1e-4)
    assert list(sweep.table().columns) == ["threshold", "cp", "cr", "cf1", "op", "or", "of1"]
    assert sweep.table()["or"].tolist() == sweep.or_.tolist()


def test_wrong_input_is_named():
    with pytest.raises(UserError, match=r"\(2, 3\).*\(3, 2\)"):
        cf1_sweep(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(UserError, match="NaN"):
        mean_average_precision(np.array([[np.nan]]), np.array([[1]]))
