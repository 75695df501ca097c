"""CoSA's threshold search against published code's results (golden) and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wsssbench.refinement.threshold_search import BINS, Confidences, find_thresholds

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cosa_dts.npz")
CASES = ("easy", "skew", "bimodal", "uniform", "spiky")


def search(values, components, mode="released"):
    x, n = torch.as_tensor(values, dtype=torch.float64).unique(return_counts=True)
    return find_thresholds(x, n.double(), components, mode)


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    values = torch.from_numpy(GOLDEN[f"in_{case}"])
    expected = GOLDEN[f"out_{case}"]
    exact = torch.cat([search(values, 3), search(values, 2)])
    np.testing.assert_allclose(exact, expected, atol=1e-6)
    binned = Confidences(1)
    binned.add(values)
    found = torch.cat([binned.thresholds(k, "released") for k in (3, 2)])
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_by_hand():
    values = [0.1, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.9]
    assert search(values, 2).tolist() == [0.3]
    assert search(values, 3).tolist() == [0.3, 0.7]


def test_a_converged_fit_finds_the_valley():
    """Two clusters around .12 and .88: the released fit stops short of the valley."""
    bimodal = torch.from_numpy(GOLDEN["in_bimodal"])
    assert float(search(bimodal, 2)) == pytest.approx(0.377, abs=1e-3)
    assert float(search(bimodal, 2, "converged")) == pytest.approx(0.454, abs=0.01)
    generator = torch.Generator().manual_seed(0)
    clusters = [m + 0.03 * torch.randn(800, generator=generator) for m in (0.2, 0.5, 0.8)]
    low, high = search(torch.cat(clusters), 3, "converged").tolist()
    assert (low, high) == pytest.approx((0.35, 0.65), abs=0.02)


@pytest.mark.parametrize("mode", ["released", "converged"])
@pytest.mark.parametrize("components", [2, 3])
def test_too_few_values_give_no_threshold(mode, components):
    assert search([0.01, 0.02, 0.03], components, mode) is None  # all left out
    assert search([0.5] * 20, components, mode) is None
    found = search([0.2, 0.2, 0.6, 0.6, 0.9], components, mode)
    assert len(found) == components - 1
    assert ((found >= 0.2) & (found <= 0.9)).all()


def test_oldest_batches_leave():
    """As the golden ring of values, a slot per batch."""
    kept = Confidences(3)
    for value in (0.1, 0.3, 0.5, 0.7):
        kept.add(torch.full((2, 5), value))
    assert kept.at == 1
    counts = kept.slots.sum(0)
    assert counts.sum() == 30
    assert counts[[int(v * BINS) for v in (0.3, 0.5, 0.7)]].tolist() == [10, 10, 10]
    kept.add(torch.tensor([0.0, 1.0]))  # both ends have a bin
    assert kept.slots[1, 0] == kept.slots[1, -1] == 1


def test_slots_not_yet_filled_are_uniform():
    started, full = Confidences(1000), Confidences(1)
    started.add(torch.full((100,), 0.9))
    full.add((torch.arange(BINS) + 0.5) / BINS)
    expected = full.thresholds(3, "released")
    torch.testing.assert_close(started.thresholds(3, "released"), expected, atol=0.02, rtol=0)
