import copy

import pytest
import torch
from torch import nn

from wsssbench.errors import UserError
from wsssbench.models import CamNetwork, Decoder, build


def statistics(module):
    """Running means of every batch norm, as one vector."""
    means = [m.running_mean for m in module.modules() if hasattr(m, "running_mean")]
    return torch.cat(means).clone()


def step(net, size=33):
    """One forward and backward pass in training mode on three images."""
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    output = net.train()(images)
    output.logits.square().sum().backward()
    return output


def test_train_mode_follows_the_batch():
    net = CamNetwork(build("tiny"), 4)
    before = statistics(net)
    step(net)
    assert not torch.equal(statistics(net), before)


def test_frozen_keeps_the_statistics_and_trains_scale_and_shift():
    net = CamNetwork(build("mobilenet_v2", batch_norm="frozen"), 4)
    before = statistics(net)
    step(net)
    assert torch.equal(statistics(net), before)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms)
    assert all(m.weight.grad is not None and m.bias.grad is not None for m in norms)
    assert net.backbone.features[14].conv[0].training  # only batch norm is held back


def test_frozen_gives_the_same_maps_in_training_and_evaluation():
    net = build("tiny", batch_norm="frozen")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net.train()(images)["C5"], net.eval()(images)["C5"])


def test_frozen_backbone_leaves_the_decoder_training():
    backbone = build("tiny", batch_norm="frozen")
    net = CamNetwork(backbone, 4, decoder=Decoder(backbone.channels, 5, width=8, low_width=8))
    step(net)
    assert net.decoder.aspp.pooling[1].training
    assert not torch.equal(statistics(net.decoder), torch.zeros_like(statistics(net.decoder)))


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
def test_frozen_stages_cut_the_graph(name):
    net = CamNetwork(build(name, frozen_stages=3), 4)
    stages = net.backbone.stages()
    before = [statistics(nn.ModuleList(layers)) for layers in stages]
    features = step(net).features
    assert [features[stage].requires_grad for stage in features] == [False] * 3 + [True] * 2
    for number, layers in enumerate(stages):
        fixed = number < 3
        assert torch.equal(statistics(nn.ModuleList(layers)), before[number]) == fixed
        for parameter in nn.ModuleList(layers).parameters():
            assert parameter.requires_grad != fixed
            assert (parameter.grad is None) == fixed


def test_frozen_stages_of_a_vit():
    net = build("vit_b_16", frozen_stages=2)
    maps = net(torch.randn(1, 3, 16, 32))
    assert [maps[stage].requires_grad for stage in maps] == [False] * 2 + [True] * 3
    assert not net.class_token.requires_grad
    assert not net.encoder.pos_embedding.requires_grad
    first = build("vit_b_16", frozen_stages=1)
    first(torch.randn(1, 3, 16, 32))["C5"].square().sum().backward()
    assert first.class_token.grad is not None
    assert first.conv_proj.weight.grad is None
    # distributed training needs every trainable parameter in the graph
    assert all(p.grad is not None for p in first.parameters() if p.requires_grad)


def test_frozen_stages_can_be_released():
    net = build("tiny", frozen_stages=5)
    assert not any(p.requires_grad for p in net.parameters())
    net.configure(frozen_stages=0).train()
    assert all(p.requires_grad for p in net.parameters())
    assert all(module.training for module in net.modules())


def test_modes_survive_a_copy():
    net = copy.deepcopy(build("tiny", batch_norm="frozen", frozen_stages=1)).train()
    assert not net.stage5[1].training
    assert not net.stage1.training


def test_sync_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"sync needs GPUs.*train or frozen"):
        build("tiny", batch_norm="sync")


def test_sync_converts_backbone_and_decoder(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backbone = build("resnet18", batch_norm="sync")
    net = CamNetwork(backbone, 4, decoder=Decoder(backbone.channels, 5, width=8, low_width=8))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert isinstance(backbone.bn1, nn.SyncBatchNorm)
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(UserError, match="images are on the CPU"):
        net.train()(images)
    plain = build("resnet18")
    plain.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images).features["C5"], plain.eval()(images)["C5"])


@pytest.mark.parametrize(
    ("setting", "text"),
    [({"batch_norm": "freeze"}, "Did you mean 'frozen'"), ({"frozen_stages": 6}, "from 0 to 5")],
)
def test_bad_settings_are_named(setting, text):
    with pytest.raises(UserError, match=text):
        build("tiny", **setting)
