"""AFA's pairs, loss and walk against published code's results (golden) and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, pad

from wsssbench.errors import UserError
from wsssbench.refinement.attention_affinity import equal_pairs, pair_loss, step, window

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name):
    """See the `.md` of that name."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype.kind in "fiu"}


@pytest.fixture(scope="module")
def golden():
    found = load("afa_affinity_loss")
    labels = interpolate(found["in_label"][:, None].float(), (8, 11))[:, 0].long()
    return found | {"labels": labels}


def as_label(same, different):
    label = torch.full_like(same, 255, dtype=torch.uint8)
    return label.masked_fill_(same, 1).masked_fill_(different, 0)


def test_golden_pairs(golden):
    radius = int(golden["in_radius"])
    assert torch.equal(window((8, 11), radius), golden["out_mask"] > 0)
    for reach, name in ((radius, "out_aff_label"), (99, "out_aff_label_nomask")):
        pairs = equal_pairs(golden["labels"], reach)
        assert torch.equal(as_label(*pairs), golden[name])
    same, different = equal_pairs(golden["labels"], radius)
    assert same.sum() + 1 == golden["out_pos_count"]
    assert different.sum() + 1 == golden["out_neg_count"]


def test_golden_loss_and_gradient(golden):
    affinity, radius = golden["in_pred"].clone().requires_grad_(), int(golden["in_radius"])
    loss = pair_loss(affinity, golden["labels"], radius)
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden["out_loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(affinity.grad, golden["out_grad"], rtol=0, atol=1e-8)
    unknown = torch.full_like(golden["labels"], 255)
    assert pair_loss(golden["in_pred"], unknown, radius) == golden["out_loss_allignored"] == 0


def test_loss_by_hand():
    # of 3 positions in a row the last is not known: pairs (0,0), (1,1) of one class at affinity 1,
    # (0,1) and (1,0) of two classes
    affinity = torch.tensor([[[1.0, 0.3, 0.9], [0.5, 1.0, 0.9], [0.9, 0.9, 0.9]]])
    labels = torch.tensor([[[0, 2, 255]]])
    torch.testing.assert_close(pair_loss(affinity, labels, 8), torch.tensor(0.5 * 0.8 / 3))
    torch.testing.assert_close(pair_loss(affinity, labels, 0), torch.tensor(0.0))
    alone = pair_loss(torch.tensor([[[0.8]]]), torch.tensor([[[4]]]), 8)
    torch.testing.assert_close(alone, torch.tensor(0.5 * 0.2 / 2))


@pytest.mark.parametrize(
    ("background", "suffix", "radius"), [(0.35, "", 3), (0.55, "", 3), (0.35, "_nomask", 99)]
)
def test_golden_step(background, suffix, radius):
    afa = load("afa_random_walk")
    affinity, kept = afa["in_aff"].clone(), afa["in_cls_label"] > 0
    scores = afa["in_cam"].masked_fill(~kept[..., None, None], -torch.inf)
    scores = pad(scores, (0, 0, 0, 0, 1, 0), value=background).softmax(1)
    found = step(affinity, scores, radius)
    expected = afa[f"out_bg{background}{suffix}"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(affinity, afa["in_aff"])  # not written to


def test_a_walk_that_stays_divides_by_eleven_tenths():
    scores = torch.rand(2, 3, 4, 5)
    stay = torch.eye(20).expand(2, -1, -1)
    torch.testing.assert_close(step(stay, scores, 8), scores / 1.1)
    assert (step(torch.zeros(2, 20, 20), scores, 8) == 0).all()


def test_nothing_reaches_beyond_the_window():
    scores = torch.zeros(1, 1, 5, 7)
    scores[..., 2, 3] = 1
    found = step(torch.ones(1, 35, 35), scores, 1)[0, 0] > 0
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(found, expected)


def test_autocast_changes_nothing():
    affinity, scores = torch.rand(1, 12, 12), torch.rand(1, 2, 3, 4)
    labels = torch.randint(0, 3, (1, 3, 4))
    expected = step(affinity, scores, 2), pair_loss(affinity, labels, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(step(affinity, scores, 2), expected[0])
        assert torch.equal(pair_loss(affinity, labels, 2), expected[1])


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"3×4 must be \(1, 12, 12\), got \(1, 9, 9\)"):
        step(torch.rand(1, 9, 9), torch.rand(1, 2, 3, 4), 2)
    with pytest.raises(UserError, match="grids of 3×3"):
        pair_loss(torch.rand(2, 9, 9), torch.zeros(1, 3, 3, dtype=torch.long), 2)
