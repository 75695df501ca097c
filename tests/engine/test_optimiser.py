import pytest
import torch
from jobs import settings
from torch import nn

from wsssbench.engine import optimiser


def rates(groups, **changes):
    optimizer = optimiser.make(groups, settings(**changes))
    return {group["name"]: group["lr"] for group in optimizer.param_groups}, optimizer


@pytest.fixture
def groups():
    return {name: [nn.Parameter(torch.zeros(1))] for name in ("backbone", "new", "decoder")}


def test_every_group_has_its_rate(groups):
    found, _ = rates(groups, lr=0.1, lr_new=0.2, lr_decoder=0.5)
    assert found == {"backbone": 0.1, "new": 0.2, "decoder": 0.5}
    found, _ = rates(groups, lr=0.1, lr_new=0.2)
    assert found["decoder"] == 0.2


def test_frozen_and_missing_groups_are_left_out(groups):
    groups["backbone"][0].requires_grad_(False)
    found, _ = rates({**groups, "decoder": []}, lr=0.1, lr_new=0.2)
    assert found == {"new": 0.2}


def test_poly_and_drop_by_hand(groups):
    given = settings(lr=0.1, lr_new=0.2, power=2.0, drop=(3, 0.1))
    optimizer = optimiser.make(groups, given)
    for step, epoch, expected in ((0, 1, 0.1), (5, 2, 0.025), (5, 3, 0.0025)):
        optimiser.set_rate(optimizer, step, 10, epoch, given)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        assert optimizer.param_groups[1]["lr"] == pytest.approx(2 * expected)
