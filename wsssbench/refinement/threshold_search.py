"""CoSA's dynamic threshold (Yang et al., ECCV 2024): a mixture of Gaussians fitted to the
confidences of the last batches says where background ends and foreground begins.

Departs from the release: the confidences are kept and fitted as a histogram (the release refits
10^5 samples in every step). Its fit starts from variance 1, ten times too wide for values in
[0, 1], and mostly stops long before it has found the clusters; `released` keeps that, `converged`
does not, and takes as boundary the point where two neighbours are equally likely.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

BINS = 256
LOWEST = 0.05  # confidences up to here are left out
REGULARISER = 1e-6  # of the variances
FOLLOW = 0.01  # share of a found threshold that is taken over per step
Mode = Literal["released", "converged"]


def find_thresholds(
    values: Tensor, counts: Tensor, components: int, mode: Mode = "released"
) -> Tensor | None:
    """Boundaries in a weighted sample of confidences.

    Args:
        values: (N,) float, ascending, distinct, in [0, 1].
        counts: (N,) float >= 0, how often each occurs.
        components: 2 for one threshold, 3 for a lower and an upper one.
        mode: `released`: the largest value of the first component, with 3 also the smallest one of
            the last. `converged`: where the posteriors of neighbours are equal.

    Returns:
        (components - 1,) float64 ascending; None where fewer than `components` values are left.
    """
    kept = (values > LOWEST) & (counts > 0)
    x, n = values[kept].double(), counts[kept].double()
    if len(x) < components:
        return None
    start = _starts(x, n, components)
    mean = (n * x).sum() / n.sum()
    spread = (n * (x - mean).square()).sum() / n.sum() / components**2
    released = mode == "released"
    fit = _fit(x, n, start, 1.0 if released else float(spread), 1e-3 if released else 1e-6)
    if not released:
        return _crossings(*fit)
    component = _log_joint(x, *fit).argmax(0)
    first, last = x[component == 0], x[component == components - 1]
    low = first.max() if len(first) else x[0]
    high = last.min() if len(last) else x[-1]
    return torch.stack([low] if components == 2 else [low, high])


class Confidences:
    """Histograms of the last batches' confidences; slots not yet filled count as uniform.

    Attributes:
        slots: (length, BINS) float32 on the CPU.
        at: slot of the next batch.
    """

    def __init__(self, length: int = 100):
        self.slots = torch.full((length, BINS), float("nan"))
        self.at = 0

    def add(self, confidences: Tensor) -> None:
        """Put a batch's confidences, any shape, float in [0, 1], in place of the oldest."""
        places = (confidences.flatten().float() * BINS).long().clamp_(0, BINS - 1)
        self.slots[self.at] = torch.bincount(places, minlength=BINS).float().cpu()
        self.at = (self.at + 1) % len(self.slots)

    def thresholds(self, components: int, mode: Mode) -> Tensor | None:
        """`find_thresholds` of all slots."""
        filled = self.slots[~self.slots[:, 0].isnan()]
        uniform = filled.sum() / max(1, len(filled)) / BINS * (len(self.slots) - len(filled))
        values = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
        return find_thresholds(values, filled.sum(0) + uniform, components, mode)


class Thresholds(nn.Module):
    """A map's thresholds, fixed or following the confidences of the last batches.

    Args:
        low, high: of a band between background and foreground.
        split: the one threshold of labels without a band.
        mode: how they are searched; `fixed`: not at all.
        band, single: whether `low` and `high`, whether `split` is searched; each is a fit of its
            own in every step, so only what is used.

    Attributes:
        values: (3,) float32: low, high, split.
    """

    def __init__(
        self,
        low: float,
        high: float,
        split: float,
        *,
        mode: Literal["fixed"] | Mode = "fixed",
        band: bool = True,
        single: bool = False,
    ):
        super().__init__()
        self.register_buffer("values", torch.tensor([low, high, split]))
        self.mode, self.band, self.single = mode, band, single
        self.seen = Confidences()

    @torch.no_grad()
    def follow(self, confidences: Tensor) -> None:
        """Take over a share of the thresholds that a batch's confidences, any shape, lead to."""
        if self.mode == "fixed":
            return
        self.seen.add(confidences)
        searched = [(3, self.values[:2])] * self.band + [(2, self.values[2:])] * self.single
        for components, followed in searched:
            found = self.seen.thresholds(components, self.mode)
            if found is not None:
                followed.lerp_(found.to(followed), FOLLOW)

    def memory(self) -> dict:
        """The confidences, for a checkpoint."""
        return {} if self.mode == "fixed" else {"slots": self.seen.slots, "at": self.seen.at}

    def remember(self, memory: dict) -> None:
        """Take them back."""
        if memory:
            self.seen.slots, self.seen.at = memory["slots"].clone(), memory["at"]


def _starts(x: Tensor, n: Tensor, components: int) -> Tensor:
    """Smallest and largest value, between them the median."""
    if components == 2:
        return torch.stack([x[0], x[-1]])
    half = n.cumsum(0) / n.sum()
    at_most = x[int((half < 0.5).sum())]
    above = x[min(int((half <= 0.5).sum()), len(x) - 1)]
    return torch.stack([x[0], (at_most + above) / 2, x[-1]])


def _fit(
    x: Tensor, n: Tensor, mean: Tensor, variance: float, tolerance: float, steps: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Expectation maximisation from equal weights; weights, means and variances, (k,) each."""
    weight, variance = torch.full_like(mean, 1 / len(mean)), torch.full_like(mean, variance)
    before = -math.inf
    for _ in range(steps):
        joint = _log_joint(x, weight, mean, variance)
        total = joint.logsumexp(0)
        share = n * (joint - total).exp()
        mass = share.sum(1) + 10 * torch.finfo(x.dtype).eps
        mean = (share * x).sum(1) / mass
        variance = (share * (x - mean[:, None]).square()).sum(1) / mass + REGULARISER
        weight = mass / mass.sum()
        likelihood = float((n * total).sum() / n.sum())
        if abs(likelihood - before) < tolerance:
            break
        before = likelihood
    return weight, mean, variance


def _log_joint(x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(k, N) log of weight times density."""
    distance = (x - mean[:, None]).square() / variance[:, None]
    return weight.log()[:, None] - 0.5 * (distance + (2 * math.pi * variance).log()[:, None])


def _crossings(weight: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Between neighbouring means the first point where the upper component is as likely."""
    order = mean.argsort()
    weight, mean, variance = weight[order], mean[order], variance[order]
    share = torch.linspace(0, 1, 4097, dtype=mean.dtype)
    found = []
    for i in range(len(mean) - 1):
        x = mean[i] + share * (mean[i + 1] - mean[i])
        joint = _log_joint(x, weight, mean, variance)
        ahead = joint[i + 1] >= joint[i]
        found.append(x[int(ahead.float().argmax())] if ahead.any() else x[-1])
    return torch.stack(found)
