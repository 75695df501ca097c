"""Measures of single failures: each by hand on a few pixels, and what must leave them unchanged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.evaluation import mechanisms
from wsssbench.evaluation.mechanisms import (
    MEASURES,
    Case,
    auc,
    best_threshold,
    mask_at,
    share_above,
)

NAN = float("nan")


def line(maps, truth, part=None, companion=None, keys=(1,)):
    """A picture of one row; maps as one list per class."""
    size = (1, len(truth))
    zeros = [0] * len(truth)
    return Case(
        np.array(keys),
        np.array(maps, np.float32).reshape(len(keys), *size),
        np.array(truth, np.uint8).reshape(size),
        np.array(part or zeros, bool).reshape(size),
        np.array(companion or zeros, np.uint8).reshape(size),
    )


# body body part | companion rest rest ignored
CASE = line(
    [[0.4, 0.2, 1.0, 0.3, 0.1, 0.0, 0.9]],
    [1, 1, 1, 0, 0, 0, 255],
    part=[0, 0, 1, 0, 0, 0, 0],
    companion=[0, 0, 0, 1, 0, 0, 1],
)


def values(found):
    return {(one.label, one.measure): pytest.approx(one.value, nan_ok=True) for one in found}


def test_measures_of_a_map_by_hand():
    found = values(mechanisms.of_maps([CASE], [1, 2]))
    assert found[1, "body_to_part"] == 0.3
    assert found[1, "companion_leak"] == 0.3 / (1.6 / 3)
    assert found[1, "rest_leak"] == 0.05 / (1.6 / 3)
    assert found[1, "body_auc"] == 5 / 6  # only .2 below .3 is out of order
    assert found[1, "companion_auc"] == 2 / 3
    # 10 % of the three other pixels: three tenths of the pixel of score .3, above it one of two
    assert found[1, "body_recall_matched"] == 0.5
    # 70 % of three object pixels: two of them and a tenth of that of score .2, below .3
    assert found[1, "companion_fp_matched"] == 1.0
    assert all(found[2, name] == NAN for name in mechanisms.MAPS)


def test_measures_of_masks_by_hand():
    both = line(
        [[0.9, 0.2, 0.8, 0.0, 0.6], [0.1, 0.7, 0.1, 0.9, 0.0]],
        [1, 1, 1, 2, 0],
        part=[0, 0, 1, 1, 0],
        companion=[0, 0, 0, 0, 1],
        keys=(1, 2),
    )
    masks = [mask_at(both, 0.5), mask_at(CASE, 0.25)]
    assert masks[0].tolist() == [[1, 2, 1, 2, 1]]
    assert masks[1].tolist() == [[1, 0, 1, 1, 0, 0, 1]]
    found = values(mechanisms.of_masks([both, CASE], masks, {1: 2, 2: 1}, 1))
    assert found[1, "body_recall"] == 2 / 4
    assert found[1, "part_recall"] == 1.0
    assert found[1, "partner_leak"] == 1 / 2  # CASE has no partner in it
    assert found[2, "partner_leak"] == NAN  # nor has class 2 a body here
    assert found[1, "companion_share"] == 1.0  # two false pixels, both on the companion
    assert found[1, "iou"] == 4 / 8
    assert found[1, "class_fp"] == 2 / 8
    assert found[1, "class_fn"] == 2 / 8
    assert found[0, "miou"] == pytest.approx((4 / 8 + 1 / 2 + 2 / 5) / 3)
    assert found[2, "iou"] == 1 / 2
    # outlines: the last three pixels of the first; the third, fourth and sixth of the second
    assert found[0, "boundary_error"] == 2 / 6


def test_measures_of_tags_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.7], [0.2, 0.4]])
    present = np.array([[1, 0], [0, 1], [1, 1]], bool)
    companions = np.array([[1, 1], [1, 0], [0, 0]], bool)
    found = values(mechanisms.of_tags(probabilities, present, companions))
    assert found[1, "tag_f1"] == 0.5
    assert found[2, "tag_f1"] == 2 / 3
    assert found[1, "companion_tag"] == 0.6
    assert found[2, "companion_tag"] == 0.1


def test_every_measure_has_words_and_is_made():
    names = {one.measure for one in mechanisms.of_maps([CASE], [1])}
    masks = mechanisms.of_masks([CASE], [mask_at(CASE, 0.5)], {1: 1}, 1)
    names |= {f"{one.measure}@{at}" for one in masks for at in ("best", "fixed")}
    names |= {one.measure for one in mechanisms.of_tags(*[np.ones((2, 1), bool)] * 3)}
    assert names | {"threshold@best", "threshold@fixed"} == set(MEASURES)


def test_best_threshold_separates():
    assert 0.3 <= best_threshold([line([[0.9, 0.8, 0.29, 0.1]], [1, 1, 0, 0])], 2) < 0.8


def test_a_picture_without_a_class_is_background():
    empty = Case(np.zeros(0, int), np.zeros((0, 2, 3), np.float32), *np.zeros((3, 2, 3), np.uint8))
    assert not mask_at(empty, 0.0).any()
    assert values(mechanisms.of_maps([empty], [1]))[1, "body_auc"] == NAN


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_auc_and_matched_share_see_order_only(seed, many, few):
    """A rising function of every score, as of a map that merely grows, changes nothing."""
    rng = np.random.default_rng(seed)
    high, low = rng.integers(0, 9, many) / 8, rng.integers(0, 9, few) / 8
    pairs = [(h > x) + (h == x) / 2 for h in high for x in low]
    assert auc(high, low) == pytest.approx(np.mean(pairs))
    assert auc(low, high) == pytest.approx(1 - auc(high, low))
    assert auc(high**0.3, low**0.3) == pytest.approx(auc(high, low))
    assert share_above(high**0.3, low**0.3, 0.4) == pytest.approx(share_above(high, low, 0.4))
    assert share_above(low, low, 0.4) == pytest.approx(0.4)


def test_nothing_to_compare_is_nan():
    none = np.zeros(0)
    assert np.isnan([auc(none, none), share_above(np.ones(1), none, 0.5)]).all()
