from functools import cache

import pytest
import torch
import torchvision

from wsssbench.errors import UserError
from wsssbench.models import BACKBONES, STAGES, build
from wsssbench.models.vit import resize_position

NATIVE = {
    "resnet18": (4, 4, 8, 16, 32),
    "resnet50": (4, 4, 8, 16, 32),
    "mobilenet_v2": (2, 4, 8, 16, 32),
    "tiny": (2, 4, 8, 16, 32),
}
STRIDED = [(name, stride) for name in NATIVE for stride in (8, 16, 32)]


@cache
def backbone(name, output_stride=16):
    torch.manual_seed(0)
    return build(name, output_stride=output_stride).eval()


@cache
def reference(name):
    torch.manual_seed(1)
    return getattr(torchvision.models, name)(weights=None).eval()


def headless(name):
    """State dict of torchvision's network without the classifier."""
    state = reference(name).state_dict()
    return {k: v for k, v in state.items() if k.split(".")[0] not in ("fc", "classifier", "heads")}


def images(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def assert_sizes(net, maps, height, width):
    assert tuple(maps) == STAGES
    for stage, stride in net.strides.items():
        size = (-(-height // stride), -(-width // stride))
        assert tuple(maps[stage].shape) == (1, net.channels[stage], *size), stage


@pytest.mark.parametrize(("name", "output_stride"), STRIDED)
@pytest.mark.parametrize("size", [(97, 130), (64, 96)])
@torch.no_grad()
def test_maps_have_the_announced_channels_and_strides(name, output_stride, size):
    net = backbone(name, output_stride)
    assert tuple(net.strides.values()) == tuple(min(s, output_stride) for s in NATIVE[name])
    assert net.output_stride == output_stride
    assert_sizes(net, net(images(*size)), *size)


@pytest.mark.parametrize("name", ["resnet101", "vit_b_16"])
@torch.no_grad()
def test_large_backbones_have_the_announced_maps(name):
    net = backbone(name)
    assert net.output_stride == 16
    assert_sizes(net, net(images(33, 50)), 33, 50)


@pytest.mark.parametrize("name", sorted(k for k in BACKBONES if "tiny" not in k and "mit" not in k))
def test_parameter_names_are_those_of_torchvision(name):
    backbone(name).load_state_dict(headless(name), strict=True)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@torch.no_grad()
def test_native_stride_gives_the_logits_of_torchvision(name):
    net, whole = build(name, output_stride=32).eval(), reference(name)
    net.load_state_dict(headless(name))
    pooled = net(images(97, 130))["C5"].mean(dim=(2, 3))
    logits = whole.fc(pooled) if name == "resnet18" else whole.classifier(pooled)
    torch.testing.assert_close(logits, whole(images(97, 130)))


@pytest.mark.parametrize(
    ("output_stride", "replaced"), [(16, (False, False, True)), (8, (False, True, True))]
)
@torch.no_grad()
def test_resnet50_equals_torchvision_with_dilation(output_stride, replaced):
    net = build("resnet50", output_stride=output_stride).eval()
    net.load_state_dict(headless("resnet50"))
    dilated = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced)
    dilated.load_state_dict(reference("resnet50").state_dict())
    x = images(97, 130)
    layers = [module for name, module in dilated.eval().named_children() if name != "fc"][:-1]
    for layer in layers:
        x = layer(x)
    torch.testing.assert_close(net(images(97, 130))["C5"], x)


@torch.no_grad()
def test_vit_equals_torchvision_on_its_own_grid():
    net, whole = backbone("vit_b_16"), reference("vit_b_16")
    net.load_state_dict(headless("vit_b_16"))
    tokens = []
    hook = whole.encoder.register_forward_hook(lambda _, __, output: tokens.append(output))
    whole(images(224, 224))
    hook.remove()
    maps = net(images(224, 224))
    torch.testing.assert_close(maps["C5"].flatten(2).transpose(1, 2), tokens[0][:, 1:])
    torch.testing.assert_close(maps["C1"], whole.conv_proj(images(224, 224)))


@torch.no_grad()
def test_vit_pads_on_the_right_and_at_the_bottom():
    net = backbone("vit_b_16")
    padded = torch.nn.functional.pad(images(33, 50), (0, 14, 0, 15))
    torch.testing.assert_close(net(images(33, 50))["C5"], net(padded)["C5"])


def test_position_is_resized_per_axis_and_the_class_token_kept():
    rows = torch.arange(4.0).view(4, 1).expand(4, 4)
    cells = torch.stack([rows, rows.T], dim=-1).reshape(1, 16, 2)
    embedding = torch.cat([torch.full((1, 1, 2), 9.0), cells], dim=1)
    assert resize_position(embedding, (4, 4)) is embedding
    wide = resize_position(embedding, (4, 8))
    assert wide.shape == (1, 33, 2)
    assert (wide[:, 0] == 9).all()
    down, across = wide[0, 1:].view(4, 8, 2).unbind(-1)
    torch.testing.assert_close(down, torch.arange(4.0).view(4, 1).expand(4, 8))
    assert (across.diff(dim=1)[:, 2:5] > 0).all()
    torch.testing.assert_close(across + across.flip(1), torch.full((4, 8), 3.0))  # symmetric


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "tiny"])
@torch.no_grad()
def test_mirror_symmetric_kernels_give_mirrored_maps(name):
    """Holds where every strided convolution samples symmetrically: W = multiple of 32, plus 1."""
    net = build(name, output_stride=16).eval().double()
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.copy_((parameter + parameter.flip(-1)) / 2)
    x = images(48, 65).double()
    maps, mirrored = net(x), net(x.flip(-1))
    for stage in STAGES:
        torch.testing.assert_close(mirrored[stage].flip(-1), maps[stage])


def test_tiny_is_small_and_every_parameter_learns():
    net = build("tiny", output_stride=8)
    assert 100_000 <= sum(p.numel() for p in net.parameters()) <= 200_000
    net(images(32, 32, batch=2))["C5"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_same_seed_same_network():
    first, second = (torch.manual_seed(3) and build("tiny").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(UserError, match=r"'resnet5'.*Did you mean 'resnet50'.*mobilenet_v2"):
        build("resnet5")


@pytest.mark.parametrize(("name", "stride"), [("tiny", 12), ("resnet18", 4), ("vit_b_16", 8)])
def test_impossible_output_stride_is_refused(name, stride):
    with pytest.raises(UserError, match=f"output_stride is {stride}.*16"):
        build(name, output_stride=stride)
