"""CVS against published code's results (golden), by hand, and its invariances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.refinement.cvs import cvs, variation

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pmm_cvs.npz")
CASES = json.loads(str(GOLDEN["meta"]))["cases"]
STEADY = settings(deadline=None, derandomize=True, max_examples=12)


def draw(seed, peak=1.0):
    """(3, 9, 11) maps in [0, peak]."""
    return peak * torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(seed)) ** 3


@pytest.mark.parametrize("case", range(len(CASES)))
def test_golden(case):
    maps, chosen = torch.from_numpy(GOLDEN["in_cam"]), CASES[case]
    form = {"scale": chosen["cv_scale"], "threshold": chosen["cam_thresh"]}
    off = torch.from_numpy(GOLDEN[f"out_cv_{case}"]).float()
    torch.testing.assert_close(variation(maps, **form), off, rtol=0, atol=1e-6)
    smooth, expected = cvs(maps, **form), torch.from_numpy(GOLDEN[f"out_cvs_{case}"])
    torch.testing.assert_close(smooth, expected, rtol=0, atol=2e-6)
    background, expected = (1 - smooth) ** chosen["alpha"], GOLDEN[f"out_bg_{case}"]
    torch.testing.assert_close(background, torch.from_numpy(expected), rtol=0, atol=2e-6)


def test_by_hand():
    maps = torch.tensor([[1, 0.5], [0.2, 0.02]])
    torch.testing.assert_close(variation(maps), torch.tensor(0.17470), rtol=0, atol=1e-5)
    smooth = cvs(maps)
    expected = torch.tensor([[1, 0.56436], [0.26493, 0]])
    torch.testing.assert_close(smooth, expected, rtol=0, atol=1e-5)
    background = torch.tensor([[0, 1.072e-4], [3.385e-2, 1]])
    torch.testing.assert_close((1 - smooth) ** 11, background, rtol=1e-3, atol=1e-6)


def test_a_value_at_the_threshold_stays_and_does_not_count():
    maps = torch.tensor([[0.05, 0.4, 0.4]])
    assert variation(maps) == 0
    torch.testing.assert_close(cvs(maps), maps)


@STEADY
@given(st.integers(0, 100), st.floats(0, 2))
def test_order_stays_and_nothing_is_lowered(seed, scale):
    maps = draw(seed)
    smooth = cvs(maps, scale=scale)
    assert (smooth >= maps - 1e-6)[maps >= 0.05].all()
    assert (smooth[maps < 0.05] == 0).all()
    order = maps.flatten(1).argsort(1)
    assert (smooth.flatten(1).gather(1, order).diff(dim=1) >= 0).all()
    assert smooth.max() <= 1
    torch.testing.assert_close(cvs(maps[1], scale=scale), smooth[1])  # one map, any leading axes


@STEADY
@given(st.integers(0, 100), st.floats(1.1, 5))
def test_the_same_share_at_any_brightness(seed, factor):
    maps = draw(seed, 0.2)
    maps[maps <= 0.05] = 0
    torch.testing.assert_close(variation(maps), variation(factor * maps), rtol=1e-4, atol=1e-5)


def test_constant_empty_and_large_maps():
    assert torch.equal(cvs(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))
    assert cvs(torch.zeros(0, 4, 4)).shape == (0, 4, 4)
    flat = torch.full((1, 4, 4), 0.3)
    torch.testing.assert_close(cvs(flat), flat)
    large = torch.full((400, 400), 0.06, dtype=torch.float16)
    large[:300] = 0.6  # in half precision the deviation is infinite
    found = cvs(large)
    assert found.dtype == torch.float32
    assert 0.06 < found[-1, 0] < 0.2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cvs(large), found)


def test_the_power_never_reaches_zero():
    maps = torch.tensor([[1.0, 0.06, 0.06, 0.06, 0.06, 0.06]])
    found = cvs(maps, scale=3.0)
    torch.testing.assert_close(found[0, 1], torch.tensor(0.06) ** 0.05)
