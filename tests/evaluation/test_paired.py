"""Effects over seeds: the interval is honest for five seeds, and what the verdicts are."""

import numpy as np
import pytest
from scipy import stats

from wsssbench.evaluation.paired import Effect, effect, verdict


def test_mean_and_agreement_by_hand():
    found = effect(np.array([0.2, -0.1, 0.3]))
    assert found.mean == pytest.approx((0.2 - 0.1 + 0.3) / 3)
    assert (found.seeds, found.agreeing) == (3, 2)
    assert found.low < found.mean < found.high


def test_the_interval_is_that_of_the_t_test():
    values = np.array([0.1, 0.4, -0.2, 0.3, 0.25])
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert effect(values)[1:3] == pytest.approx(tuple(known))


def test_equal_differences_have_no_width():
    assert effect(np.full(5, 0.2))[:3] == pytest.approx((0.2, 0.2, 0.2))


def test_few_or_no_seeds():
    nothing = effect(np.array([]))
    assert np.isnan(nothing.mean)
    assert nothing.seeds == 0
    alone = effect(np.array([0.4]))
    assert alone.mean == 0.4
    assert np.isnan(alone.low)


def test_five_seeds_without_an_effect_seldom_pass_for_one():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = effect(rng.normal(0, 1, 5))
        hits += found.low > 0 or found.high < 0
    assert hits / 2000 == pytest.approx(0.05, abs=0.015)  # percentiles of a bootstrap: .15


@pytest.mark.parametrize(
    ("ends", "expected", "said"),
    [
        ((0.1, 0.3), "+", "seen"),
        ((0.1, 0.3), "-", "opposite"),
        ((-0.1, 0.3), "+", "not seen"),
        ((-0.3, -0.1), "-", "seen"),
        ((-0.1, 0.3), "0", "none seen"),
        ((0.1, 0.3), "0", "unexpected"),
    ],
)
def test_verdicts(ends, expected, said):
    assert verdict(Effect(0.0, *ends, 5, 5), expected) == said
    assert verdict(Effect(0.0, *ends, 4, 4), expected) == "too few seeds"
    assert verdict(Effect(0.0, *ends, 0, 0), expected) == "not run"
