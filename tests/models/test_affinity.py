from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsssbench.models import STAGES, AffinityNet, BoundaryNet, build
from wsssbench.models.base import Backbone
from wsssbench.refinement.affinity_labels import pair_labels
from wsssbench.refinement.affinity_losses import affinity_losses
from wsssbench.refinement.pairs import feature_affinity, path_affinity


def boundary_net(name="tiny", **settings):
    torch.manual_seed(0)
    return BoundaryNet(build(name, **settings))


class GivenMaps(Backbone):
    """Returns maps that were handed to it, whatever the image."""

    def __init__(self, maps, strides):
        super().__init__([maps[name].shape[1] for name in STAGES])
        self.maps, self.strides = maps, dict(zip(STAGES, strides))

    def stages(self):
        return [[] for _ in STAGES]

    def forward(self, images):
        self.seen = images
        return self.maps


def release_maps(height=48, width=32):
    """C1..C5 of strides 4, 4, 8, 16, 16, as in IRNet."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, 3 + n, height // stride, width // stride, generator=generator)
        for n, (name, stride) in enumerate(zip(STAGES, (4, 4, 8, 16, 16)))
    }


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2", "resnet18", "vit_b_16"])
@pytest.mark.parametrize("size", [(33, 50), (16, 64)])
@torch.no_grad()
def test_any_backbone_and_any_size(name, size):
    images = torch.randn(1, 3, *size)
    net = boundary_net(name)
    assert net(images).shape == (1, 1, -(-size[0] // 4), -(-size[1] // 4))
    features = AffinityNet(net.backbone).eval()(images)
    assert features.shape[2:] == (-(-size[0] // 8), -(-size[1] // 8))


@torch.no_grad()
def test_layers_are_those_of_the_paper():
    with torch.device("meta"):
        net, affinity = (kind(build("resnet50")) for kind in (BoundaryNet, AffinityNet))
    assert [net.heads[name][0].in_channels for name in STAGES] == [64, 256, 512, 1024, 2048]
    assert all(head[0].out_channels == 32 and head[0].bias is None for head in net.heads.values())
    assert all(head[1].num_groups == 4 for head in net.heads.values())
    assert (net.join.in_channels, net.join.out_channels) == (160, 1)
    assert net.join.bias is not None
    assert [head.out_channels for head in affinity.heads.values()] == [64, 128, 256]
    assert tuple(affinity.join.weight.shape) == (448, 448, 1, 1)
    assert affinity.join.bias is None


@torch.no_grad()
def test_boundary_logits_step_by_step():
    maps = release_maps()
    net = BoundaryNet(GivenMaps(maps, (4, 4, 8, 16, 16)))
    for head in net.heads.values():
        nn.init.normal_(head[1].weight)
        nn.init.normal_(head[1].bias)
    parts = []
    for name, factor in zip(STAGES, (1, 1, 2, 4, 4)):
        convolution, norm = net.heads[name]
        x = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], maps[name])
        groups = x.unflatten(1, (4, 8))
        variance, mean = torch.var_mean(groups, (2, 3, 4), keepdim=True, correction=0)
        x = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
        x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        parts.append(x.clamp_min(0))
    expected = F.conv2d(torch.cat(parts, dim=1), net.join.weight, net.join.bias)
    logits = net(torch.zeros(2, 3, 48, 32))
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (2, 1, 12, 8)


@pytest.mark.parametrize("size", [(33, 50), (48, 32), (600, 20)])
@torch.no_grad()
def test_images_are_padded_never_cut(size):
    """At right and below, with 0, to multiples of 16; 600 is beyond the release's 512."""
    padded = [-(-side // 16) * 16 for side in size]
    backbone = GivenMaps(release_maps(*padded), (4, 4, 8, 16, 16))
    images = torch.randn(2, 3, *size)
    boundary = BoundaryNet(backbone)(images)
    assert list(backbone.seen.shape[2:]) == padded
    assert torch.equal(backbone.seen[..., : size[0], : size[1]], images)
    assert backbone.seen.count_nonzero() == images.count_nonzero()
    assert list(boundary.shape[2:]) == [-(-side // 4) for side in size]


@torch.no_grad()
def test_boundary_is_the_sigmoid_of_the_mean_logit_of_both_mirror_images():
    net = boundary_net()
    images = torch.randn(2, 3, 33, 50)
    found = net.boundary(images)
    expected = ((net(images) + net(images.flip(-1)).flip(-1)) / 2).sigmoid()
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 1, 9, 13)
    assert 0 <= found.min() < found.max() <= 1
    torch.testing.assert_close(net.boundary(images.flip(-1)), found.flip(-1))
    separate = torch.cat([net.boundary(image[None]) for image in images])
    torch.testing.assert_close(separate, found)


def test_only_the_heads_of_the_boundary_net_train():
    net = boundary_net().train()
    assert not net.backbone.stage1[1].training
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    logits = net(torch.randn(2, 3, 48, 80))
    labels = torch.zeros(2, 12, 20, dtype=torch.long)
    labels[:, :, 9:] = 1
    affinity_losses(path_affinity(logits.sigmoid(), 3), pair_labels(labels, 3, 1)).total.backward()
    assert all(parameter.grad is None for parameter in net.backbone.parameters())
    groups = net.parameter_groups()
    assert groups["backbone"] == []
    heads = [*net.heads.parameters(), *net.join.parameters()]
    assert {id(p) for p in groups["new"]} == {id(p) for p in heads}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads)
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_affinity_net_trains_all_that_is_not_frozen():
    torch.manual_seed(0)
    net = AffinityNet(build("tiny", batch_norm="frozen", frozen_stages=2)).train()
    groups = net.parameter_groups()
    assert {id(p) for p in groups["new"]} == {
        id(p) for p in [*net.heads.parameters(), *net.join.parameters()]
    }
    open_stages = [net.backbone.stage3, net.backbone.stage4, net.backbone.stage5]
    assert {id(p) for p in groups["backbone"]} == {
        id(p) for stage in open_stages for p in stage.parameters()
    }
    feature_affinity(net(torch.randn(2, 3, 64, 96)), 3).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in [*groups["new"], *groups["backbone"][:1]])


@torch.no_grad()
def test_golden_affinity_features():
    """See `random_walk.md`: published heads and affinity on given maps at stride 8."""
    with np.load(Path(__file__).parents[1] / "golden" / "random_walk.npz") as stored:
        golden = {k: torch.from_numpy(v) for k, v in stored.items() if k.startswith(("in_", "out"))}
    unused = torch.zeros(1, 1, 24, 30)
    maps = {"C1": unused, "C2": unused}
    maps |= {f"C{level - 1}": golden[f"in_psa_conv{level}"] for level in (4, 5, 6)}
    net = AffinityNet(GivenMaps(maps, (4, 4, 8, 8, 8)), widths=(4, 5, 6))
    for number, head in zip((3, 4, 5), net.heads.values(), strict=True):
        head.weight.copy_(golden[f"in_psa_f8_{number}"])
    net.join.weight.copy_(golden["in_psa_f9"])
    features = net(torch.zeros(1, 3, 96, 120))
    affinity = feature_affinity(features, 5).flatten(2)
    torch.testing.assert_close(affinity, golden["out_psa_aff"], rtol=0, atol=1e-6)


def test_outputs_stay_float32_under_autocast():
    images = torch.randn(1, 3, 32, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert boundary_net()(images).dtype == torch.float32
        assert AffinityNet(build("tiny"))(images).dtype == torch.float32


def train(net, affinity_of, labels, images, rate):
    """First and last loss of a few steps."""
    optimiser = torch.optim.SGD(net.parameter_groups()["new"], lr=rate, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = affinity_losses(affinity_of(net(images)), labels).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def test_both_learn_where_two_colours_meet():
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 64, 96)
    images[..., 50:] = 2
    images += 0.1 * torch.randn(images.shape)
    labels = torch.zeros(2, 64, 96, dtype=torch.long)
    labels[..., 50:] = 1
    net = boundary_net()
    pairs = pair_labels(labels[..., 2::4, 2::4], 4, 1)
    first, last = train(net, lambda z: path_affinity(z.sigmoid(), 4), pairs, images, 0.1)
    assert last < 0.5 * first
    boundary = net.boundary(images)[0, 0]
    assert boundary[:, 11:14].amax(1).mean() > 2 * boundary[:, 16:22].mean()
    net = AffinityNet(build("tiny"))
    pairs = pair_labels(labels[..., 4::8, 4::8], 3, 1)
    first, last = train(net, lambda f: feature_affinity(f, 3), pairs, images, 0.05)
    assert last < 0.7 * first
