"""SSSS's network: the gate's expectation, global cue injection, shapes, frozen norms."""

import pytest
import torch
from torch import nn

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.models.gated_network import GatedNetwork, GlobalCueInjection, gate


def make(backbone="tiny", batch_norm="train", **settings) -> GatedNetwork:
    torch.manual_seed(0)
    net = models.build(backbone, output_stride=16, batch_norm=batch_norm)
    return GatedNetwork(net, 3, **{"width": 8, **settings})


def test_the_gate_is_the_deep_branch_on_average():
    generator = torch.Generator().manual_seed(0)
    deep, shallow = torch.randn(2, 1, 3, 4, 5, generator=generator).unbind()
    many = [x.expand(20000, -1, -1, -1) for x in (deep, shallow)]
    drawn = gate(*many, 0.3, training=True, generator=generator)
    torch.testing.assert_close(drawn.mean(0, keepdim=True), deep, atol=0.04, rtol=0)
    torch.testing.assert_close(
        (drawn == shallow).float().mean(), torch.tensor(0.3), atol=0.01, rtol=0
    )
    other = (deep - 0.3 * shallow) / 0.7
    assert ((drawn == shallow) | (drawn == other)).all()


def test_the_gate_in_evaluation_is_the_mean_of_both():
    found = gate(torch.tensor(2.0), torch.tensor(4.0), 0.25, training=False)
    assert found == 2.5  # .75 · 2 + .25 · 4


def test_draws_come_from_the_generator():
    network, images = make().train(), torch.randn(2, 3, 32, 32)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    first, again, other = (
        network(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    network.eval()
    assert torch.equal(network(images), network(images, torch.Generator()))


def test_the_cue_is_global():
    """A change at one deep position changes the shallow branch everywhere."""
    torch.manual_seed(0)
    cue = GlobalCueInjection(4, 6).eval()
    shallow, deep = torch.randn(1, 4, 5, 7), torch.randn(1, 6, 5, 7)
    before = cue(shallow, deep)
    assert before.shape == (1, 6, 5, 7)
    assert before.min() >= 0
    deep[..., 0, 0] = 30
    changed = (cue(shallow, deep) - before).abs().amax(1)
    assert (changed > 0).float().mean() > 0.9


def test_the_cue_by_hand():
    """(γ + 1)·x + β with γ, β the highest positive values of the deep branch's two halves."""
    cue = GlobalCueInjection(1, 1).eval()
    with torch.no_grad():
        cue.deep[0].weight[:] = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
        cue.skip[0].weight[:] = 1
        cue.project[0].weight[:] = 1
        found = cue(torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[3.0, -0.5]]]]))
    torch.testing.assert_close(found, torch.tensor([[[[5.0, 0.0]]]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2", "resnet18"])
def test_logits_have_the_size_of_the_shallow_stage(backbone):
    network, images = make(backbone).eval(), torch.randn(1, 3, 45, 50)
    with torch.inference_mode():
        assert network(images).shape == (1, 3, 12, 13)
        network.shallow = "C3"
    assert make(backbone, shallow="C3").eval()(images).shape == (1, 3, 6, 7)


def test_without_a_gate_the_shallow_branch_is_idle():
    network = make(psi=0.0).train()
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is None for p in network.cue.parameters())


def test_frozen_norms_keep_their_statistics_and_take_one_image():
    network = make(batch_norm="frozen").train()
    network(torch.randn(1, 3, 32, 32), torch.Generator())
    norms = [m for m in network.aspp.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(not m.training and m.weight.requires_grad for m in norms)
    assert network.join[1].training
    with pytest.raises(UserError, match="at least 2 images"):
        make().train()(torch.randn(1, 3, 32, 32), torch.Generator())
