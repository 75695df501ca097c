"""Is there an effect? Paired differences over training seeds, and how far they could be chance.

Seeds are few, and percentiles of a bootstrap cannot reach beyond the values that it is made of:
with five seeds and no effect they leave out 0 in 15 % of all cases instead of 5 %. So the bootstrap
gives the standard error, corrected for the number of seeds, and Student's t the interval. Where a
seed has one value this is the usual t interval (6 % in the same trial, normal values).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST_SEEDS = 5  # below that there is no verdict


class Effect(NamedTuple):
    """Mean difference, its interval, number of seeds, and how many have the sign of the mean."""

    mean: float
    low: float
    high: float
    seeds: int
    agreeing: int


def effect(groups: Sequence[np.ndarray], *, samples: int = 20_000, level: float = 0.95) -> Effect:
    """The mean of the groups' means and its interval.

    Args:
        groups: the paired differences of each seed, (m,) each; several where each seed measures
            several units, such as classes. Seeds are drawn with replacement, then units in each.
        samples: resamplings; the same ones at each call.
        level: of the interval.

    Returns:
        Interval NaN for fewer than two seeds.
    """
    nothing = float("nan")
    centres = np.array([group.mean() for group in groups])
    count = len(centres)
    if not count:
        return Effect(nothing, nothing, nothing, 0, 0)
    mean = float(centres.mean())
    agreeing = int((np.sign(centres) == np.sign(mean)).sum())
    if count < 2:
        return Effect(mean, nothing, nothing, count, agreeing)
    draws = np.random.default_rng(0)
    chosen = draws.integers(count, size=(samples, count))
    drawn = centres[chosen]
    for place, group in enumerate(groups):
        if len(group) > 1:
            where = chosen == place
            units = draws.integers(len(group), size=(int(where.sum()), len(group)))
            drawn[where] = group[units].mean(axis=1)
    error = drawn.mean(axis=1).std() * np.sqrt(count / (count - 1))
    reach = float(error * stats.t.ppf((1 + level) / 2, count - 1))
    return Effect(mean, mean - reach, mean + reach, count, agreeing)


def verdict(found: Effect, expected: str) -> str:
    """What an effect says of a claim.

    Args:
        found: the effect.
        expected: "+", "-", or "0" for none.

    Returns:
        `seen`, `not seen` or `opposite`; for "0" `none seen` or `unexpected`; `too few seeds` or
        `not run` without enough values.
    """
    if not found.seeds:
        return "not run"
    if found.seeds < LEAST_SEEDS:
        return "too few seeds"
    sign = "+" if found.low > 0 else "-" if found.high < 0 else "0"
    if expected == "0":
        return "none seen" if sign == "0" else "unexpected"
    return "not seen" if sign == "0" else "seen" if sign == expected else "opposite"
