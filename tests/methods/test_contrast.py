"""Contrastive separation against its reference (golden), by hand, and where it must be zero."""

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch

from wsssbench.methods.contrast import contrastive_separation, dealt_anew

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cosa_csc.npz")
PAIR = log(1 + exp(-2))


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def positions(*features):
    return torch.tensor(features).T[None, :, None].float()  # (1, D, 1, N)


@pytest.mark.parametrize("limit", [1.0, 0.6])
def test_golden(limit):
    features, labels = golden("in_feature"), golden("in_cpl").long()
    sure = golden("in_box") & (golden("in_P") <= limit)
    total = contrastive_separation(features, labels, sure)
    torch.testing.assert_close(total, golden(f"out_total_eps{limit}"), rtol=1e-4, atol=0)
    alone = [contrastive_separation(*each) for each in zip(features[:, None], labels[:, None],
                                                           sure[:, None])]  # fmt: skip
    expected = golden(f"out_loss_eps{limit}")
    torch.testing.assert_close(torch.stack(alone), expected, rtol=1e-4, atol=1e-7)


def test_by_hand():
    x, labels = positions((1, 0), (1, 0), (0, 1)), torch.tensor([[[1, 1, 0]]])
    sure = torch.ones(1, 1, 3, dtype=torch.bool)
    assert float(contrastive_separation(x, labels, sure)) == pytest.approx(PAIR, rel=1e-5)
    # an unsure position is neither anchor nor pair; scale does not matter
    x, labels = torch.cat([3 * x, x[..., :1]], 3), torch.tensor([[[1, 1, 0, 0]]])
    sure = torch.tensor([[[True, True, True, False]]])
    assert float(contrastive_separation(x, labels, sure)) == pytest.approx(PAIR, rel=1e-5)


def test_apart_is_better():
    angles = torch.linspace(0, 3, 8)
    labels, sure = torch.tensor([[[1, 1, 0, 0]]]), torch.ones(1, 1, 4, dtype=torch.bool)
    one = (1.0, 0.0)
    losses = [
        float(contrastive_separation(positions(one, one, far, far), labels, sure))
        for far in ((float(a.cos()), float(a.sin())) for a in angles)
    ]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_order_of_positions_does_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 3, 4, generator=generator)
    labels = torch.randint(0, 3, (2, 3, 4), generator=generator)
    sure = torch.rand(2, 3, 4, generator=generator) < 0.7
    order = torch.randperm(12, generator=generator)
    moved = [t.flatten(-2)[..., order].unflatten(-1, (3, 4)) for t in (x, labels, sure)]
    torch.testing.assert_close(
        contrastive_separation(x, labels, sure), contrastive_separation(*moved)
    )


@pytest.mark.parametrize("case", ["one label", "nothing sure", "zero features"])
def test_zero_with_a_live_gradient(case):
    x = torch.randn(1, 4, 3, 3).requires_grad_()
    labels, sure = torch.zeros(1, 3, 3).long(), torch.ones(1, 3, 3, dtype=torch.bool)
    if case != "one label":
        labels[0, 0] = 1
    if case == "nothing sure":
        sure[:] = False
    loss = contrastive_separation(0 * x if case == "zero features" else x, labels, sure)
    loss.backward()
    assert x.grad.isfinite().all()
    if case != "zero features":
        assert loss == 0
        assert (x.grad == 0).all()


def test_some_anchors_only():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(2, 6, 8, 8), torch.arange(64).view(1, 8, 8).expand(2, -1, -1) % 3
    sure = torch.zeros(2, 8, 8, dtype=torch.bool)
    sure[:, :2] = True  # fewer than anchors: all of them
    draw = {"anchors": 20, "generator": generator}
    torch.testing.assert_close(
        contrastive_separation(x, labels, sure, **draw), contrastive_separation(x, labels, sure)
    )
    sure[:] = True
    drawn = [float(contrastive_separation(x, labels, sure, **draw)) for _ in range(40)]
    whole = float(contrastive_separation(x, labels, sure))
    assert len(set(drawn)) > 1
    assert sum(drawn) / 40 == pytest.approx(whole, rel=0.05)


def test_bfloat16_autocast_changes_nothing():
    x, labels = torch.randn(1, 4, 3, 3), torch.arange(9).view(1, 3, 3) % 2
    sure = torch.ones(1, 3, 3, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive_separation(x, labels, sure)
    torch.testing.assert_close(inside, contrastive_separation(x, labels, sure))


def test_dealt_labels_stay_in_their_image_and_among_the_sure():
    labels = torch.tensor([[[1, 2, 3, 4, 5]], [[6, 7, 8, 9, 0]]])
    sure = torch.tensor([[[True, False, True, True, False]], [[False] * 5]])
    dealt = dealt_anew(labels, sure, torch.Generator().manual_seed(2))
    assert sorted(dealt[0, sure[0]].tolist()) == [1, 3, 4]
    assert sorted(dealt[1, 0].tolist()) == [0, 6, 7, 8, 9]
