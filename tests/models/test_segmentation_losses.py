"""Pretended under-fitting against published code's results (golden), and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from wsssbench.errors import UserError
from wsssbench.models.segmentation_losses import UNDERFIT, masked_cross_entropy, msc_loss, underfit

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pmm_puf.npz")
CASES = json.loads(str(GOLDEN["meta"]))["cases"]
KNOWN = [case for case in CASES if case["pus_type"] != "bogus"]
ERROR = torch.tensor([0.1, 0.2, 0.9, 0.0])  # the last one ignored


def read(name):
    return torch.from_numpy(GOLDEN[name])


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: f"{case['i']}-{case['data']}")
def test_golden(case):
    """The gate and the mean over all pixels, as in the release."""
    logits = read(f"in_logits_{case['data']}").requires_grad_()
    mask = read(f"in_label_{case['data']}")
    error = cross_entropy(logits, mask, ignore_index=255, reduction="none")
    if case["pus_type"]:
        form = {"mode": case["pus_type"], "beta": case["pus_beta"], "k": case["pus_k"]}
        error = underfit(error, error.mean(), **form)
    loss = case["loss_weight"] * error.mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), read(f"out_loss_{case['i']}"), rtol=1e-5, atol=0)
    torch.testing.assert_close(logits.grad, read(f"out_grad_{case['i']}"), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("mode", "mean"), [("clamp", 0.2), ("ignore", 0.075), ("pow", 0.42804)])
def test_by_hand(mode, mean):
    found = underfit(ERROR, ERROR.mean(), mode=mode).mean()
    torch.testing.assert_close(found, torch.tensor(mean), rtol=0, atol=1e-4)
    assert torch.equal(underfit(ERROR, ERROR.mean(), mode=mode, beta=0.3), ERROR)  # gate shut


def pixels():
    """Logits (1, 2, 2, 2) whose losses are about 0.1, 0.2 and 0.9; the last pixel is 255."""
    right = torch.tensor([[0.1, 0.2], [0.9, 2.0]]).neg().exp()[None]
    mask = torch.tensor([[[0, 0], [0, 255]]])
    return torch.stack([right, 1 - right], 1).log().requires_grad_(), mask


@pytest.mark.parametrize("mode", UNDERFIT)
def test_ignored_pixels_have_no_say(mode):
    logits, mask = pixels()
    shut = masked_cross_entropy(logits, mask, puf={"mode": mode, "beta": 0.4 - 1e-4, "k": 0.5})
    torch.testing.assert_close(shut, masked_cross_entropy(logits, mask))  # 0.3 with the ignored one
    found = masked_cross_entropy(logits, mask, puf={"mode": mode, "beta": 0.4 + 1e-4, "k": 0.5})
    expected = underfit(ERROR[:3], torch.tensor(0.0), mode=mode).mean()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_what_is_above_k_teaches_nothing():
    grads = {}
    for mode in ("clamp", "ignore"):
        logits, mask = pixels()
        masked_cross_entropy(logits, mask, puf={"mode": mode}).backward()
        grads[mode] = logits.grad
    assert torch.equal(grads["clamp"], grads["ignore"])
    assert (grads["clamp"][0, :, 1] == 0).all()
    assert (grads["clamp"][0, :, 0] != 0).all()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("mode", UNDERFIT)
def test_a_mask_of_255_alone(mode, balanced):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask = torch.full((2, 4, 4), 255)
    loss = masked_cross_entropy(logits, mask, balanced=balanced, puf={"mode": mode})
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_every_scale_has_a_gate_of_its_own():
    (sure, mask), unsure = pixels(), torch.zeros(1, 2, 2, 2)
    found = msc_loss([sure, unsure], mask, puf={"beta": 0.5})
    expected = torch.tensor(0.8 / 3 + np.log(2))  # 0.1, 0.2, at most 0.5; all ln 2, gate shut
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)


def test_an_unknown_mode_is_explained():
    with pytest.raises(UserError, match="Did you mean 'clamp'"):
        underfit(ERROR, ERROR.mean(), mode="clam")
