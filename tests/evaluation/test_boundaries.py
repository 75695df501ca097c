import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from straightforward import STEADY

from wsssbench.evaluation import boundaries

TRUTHS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 0, 1, 2, 255]))
)


def plain_band(truth, width):
    """Every pixel against every other one."""
    band = np.zeros(truth.shape, bool)
    places = list(np.ndindex(truth.shape))
    for i, j in places:
        band[i, j] = truth[i, j] != 255 and any(
            truth[k, m] != truth[i, j] and (i - k) ** 2 + (j - m) ** 2 <= width**2
            for k, m in places
        )
    return band


@settings(STEADY, max_examples=50)
@given(TRUTHS, st.integers(0, 4))
def test_band_is_what_lies_within_reach_of_another_value(truth, width):
    np.testing.assert_array_equal(boundaries.boundary_band(truth, width), plain_band(truth, width))


def test_band_by_hand():
    truth = np.array([[0, 0, 0, 0, 1, 1, 1, 1]], np.uint8)
    assert boundaries.boundary_band(truth, 2).tolist() == [
        [False, False, True, True, True, True, False, False]
    ]


def test_image_of_one_class_has_no_band():
    truth = np.full((9, 9), 3, np.uint8)
    assert not boundaries.boundary_band(truth, 5).any()
    summary = boundaries.summary(boundaries.within_band(truth, truth, 4, 5), 5)
    assert summary["width_px"] == 5
    assert np.isnan([summary["error"], summary["miou"]]).all()


def test_error_and_miou_count_the_band_only():
    truth = np.array([[0, 0, 0, 0, 1, 1, 1, 1]], np.uint8)
    prediction = np.array([[1, 0, 0, 1, 1, 1, 1, 0]], np.uint8)
    confusion = boundaries.within_band(prediction, truth, 2, 2)
    assert confusion.matrix.tolist() == [[1, 1], [0, 2]]
    summary = boundaries.summary(confusion, 2)
    assert summary["error"] == pytest.approx(1 / 4)
    assert summary["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_rim_of_ignored_pixels_has_a_band_on_both_sides_and_is_left_out():
    truth = np.array([[0, 0, 0, 255, 255, 1, 1, 1]], np.uint8)
    assert boundaries.boundary_band(truth, 1).tolist() == [
        [False, False, True, False, False, True, False, False]
    ]


def test_prediction_of_no_class_is_an_error():
    truth = np.array([[0, 1]], np.uint8)
    confusion = boundaries.within_band(np.array([[0, 255]], np.uint8), truth, 2, 1)
    assert boundaries.summary(confusion, 1)["error"] == 0.5
