"""AFA's affinity head: the release's convolution over attention maps, and its CAM network."""

import pytest
import torch

from wsssbench.errors import UserError
from wsssbench.models import build
from wsssbench.models.affinity_head import AffinityCamNetwork, AffinityHead


def network(name="tiny", **settings):
    torch.manual_seed(0)
    return AffinityCamNetwork(build(name, output_stride=8), 4, **settings)


@torch.no_grad()
def test_head_is_a_convolution_over_attention_maps():
    torch.manual_seed(0)
    head, queries, keys = AffinityHead(6), torch.randn(2, 6, 9, 5), torch.randn(2, 6, 9, 5)
    maps = queries @ keys.mT
    expected = head.join(maps + maps.mT)[:, 0].sigmoid()
    found = head(queries, keys)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize(("name", "maps"), [("tiny", 4), ("mit_tiny", 8)])
def test_affinity_of_any_backbone(name, maps):
    net = network(name)
    out = net(torch.randn(2, 3, 33, 50))
    assert out.cam.shape == (2, 4, 5, 7)
    assert out.affinity.shape == (2, 35, 35)
    assert net.affinity.join.in_channels == maps
    assert (net.compare is None) == (name == "mit_tiny")
    out.affinity.sum().backward()
    learning = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(n.startswith("backbone.") for n in learning)
    assert "affinity.join.weight" in learning
    assert "classifier.weight" not in learning
    assert net(torch.randn(1, 3, 32, 32), with_affinity=False).affinity is None


def test_features_may_be_chosen_and_attention_must_exist():
    assert network("mit_tiny", source="features").compare is not None
    with pytest.raises(UserError, match="Tiny has none"):
        network(source="attention")


def test_new_layers_learn_at_the_rate_of_new_layers():
    net = network()
    groups = net.parameter_groups()
    new = [*net.classifier.parameters(), *net.compare.parameters(), *net.affinity.parameters()]
    assert {id(p) for p in groups["new"]} == {id(p) for p in new}


@torch.no_grad()
def test_max_pooling_classifies_the_highest_values():
    net = network(pooling="max").eval()
    out = net(torch.randn(2, 3, 33, 50))
    highest = out.features["C5"].amax((2, 3))
    torch.testing.assert_close(out.logits, highest @ net.classifier.weight[:, :, 0, 0].T)


def test_autocast_keeps_float32():
    net = network("mit_tiny")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(torch.randn(2, 3, 32, 32))
    assert out.affinity.dtype == out.cam.dtype == out.logits.dtype == torch.float32
    assert torch.isfinite(out.affinity).all()
