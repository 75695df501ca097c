"""Is there an effect? Paired differences over training seeds, and how far they could be chance.

Student's t interval: seeds are few, and percentiles of a bootstrap cannot reach beyond the values
that it is made of; with five seeds and no effect they leave out 0 in 15 % of all cases instead of
5 %.
"""

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


def effect(differences: np.ndarray) -> Effect:
    """The mean over seeds and its 95 % interval.

    Args:
        differences: (seeds,) paired difference of each seed.

    Returns:
        Mean NaN for no seed, interval NaN for fewer than two.
    """
    count = len(differences)
    if not count:
        return Effect(*[float("nan")] * 3, 0, 0)
    mean = float(np.mean(differences))
    agreeing = int((np.sign(differences) == np.sign(mean)).sum())
    reach = float("nan")
    if count > 1:
        reach = float(stats.sem(differences) * stats.t.ppf(0.975, count - 1))
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
