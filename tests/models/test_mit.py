"""MiT: names and shapes of its release, attention by the book, and how its weights are found."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsssbench.errors import UserError
from wsssbench.models import STAGES, build, weights_hash
from wsssbench.models.mit import Attention
from wsssbench.models.segformer_head import SegformerHead


def release_shapes(widths, reductions=(8, 4, 2, 1), depth=2):
    """Entries of the released state dict, written down from its layout."""
    found, before = {}, 3

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    for i, (c, reduction) in enumerate(zip(widths, reductions, strict=True), start=1):
        size = 7 if i == 1 else 3
        layer(f"patch_embed{i}.proj", c, before, size, size)
        layer(f"patch_embed{i}.norm", c)
        for j in range(depth):
            block = f"block{i}.{j}"
            layer(f"{block}.norm1", c)
            layer(f"{block}.attn.q", c, c)
            layer(f"{block}.attn.kv", 2 * c, c)
            layer(f"{block}.attn.proj", c, c)
            if reduction > 1:
                layer(f"{block}.attn.sr", c, c, reduction, reduction)
                layer(f"{block}.attn.norm", c)
            layer(f"{block}.norm2", c)
            layer(f"{block}.mlp.fc1", 4 * c, c)
            layer(f"{block}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
            layer(f"{block}.mlp.fc2", c, 4 * c)
        layer(f"norm{i}", c)
        before = c
    return found


def test_entries_are_those_of_the_release():
    with torch.device("meta"):
        for name, widths in (("mit_b0", (32, 64, 160, 256)), ("mit_b1", (64, 128, 320, 512))):
            state = build(name).state_dict()
            assert {k: tuple(v.shape) for k, v in state.items()} == release_shapes(widths)


def test_a_state_dict_with_its_head_is_loaded(tmp_path):
    shapes = release_shapes((32, 64, 160, 256)) | {"head.weight": (1000, 256), "head.bias": (1000,)}
    state = {name: torch.full(shape, 0.01) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "mit_b0.pth")
    loaded = build("mit_b0", weights=tmp_path / "mit_b0.pth")
    assert all((value == 0.01).all() for value in loaded.state_dict().values())
    with pytest.raises(UserError, match="looks like mit_b0"):
        build("mit_b1", weights=tmp_path / "mit_b0.pth")


def test_imagenet_weights_are_put_in_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        build("mit_b0", weights="imagenet")
    path = tmp_path / "hub" / "checkpoints" / "mit_b0.pth"
    for part in (str(path), "github.com/NVlabs/SegFormer", "weights: PATH", "weights: none"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"mit_b0\.pth"):
        weights_hash("mit_b0", "imagenet")
    path.parent.mkdir(parents=True)
    source = build("mit_b0")
    torch.save(source.state_dict(), path)
    loaded = build("mit_b0", weights="imagenet")
    assert torch.equal(loaded.norm4.weight, source.norm4.weight)
    assert weights_hash("mit_b0", "imagenet") == weights_hash("mit_b0", path)
    with pytest.raises(UserError, match="no ImageNet weights for mit_tiny"):
        build("mit_tiny", weights="imagenet")


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(97, 130), (64, 96), (20, 9)])
@torch.no_grad()
def test_maps_have_the_announced_channels_and_strides(output_stride, size):
    net = build("mit_tiny", output_stride=output_stride).eval()
    assert tuple(net.strides.values()) == tuple(min(s, output_stride) for s in (4, 4, 8, 16, 32))
    maps, queries, keys = net.attend(torch.randn(2, 3, *size))
    assert tuple(maps) == STAGES
    for name, stride in net.strides.items():
        grid = tuple(-(-side // stride) for side in size)
        assert tuple(maps[name].shape) == (2, net.channels[name], *grid), name
    positions = maps["C5"].shape[2] * maps["C5"].shape[3]
    assert queries.shape == keys.shape == (2, net.attention_maps, positions, 32)


@pytest.mark.parametrize("reduction", [1, 2])
@torch.no_grad()
def test_attention_by_the_book(reduction):
    torch.manual_seed(0)
    layer, x = Attention(12, 3, reduction), torch.randn(2, 4, 6, 12)
    found, queries, keys = layer(x)
    seen = x.flatten(1, 2)
    if reduction > 1:
        seen = layer.norm(layer.sr(x.permute(0, 3, 1, 2)).flatten(2).mT)
    q, (k, v) = layer.q(x.flatten(1, 2)), layer.kv(seen).chunk(2, 2)
    mixed = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        raw = q[..., part] @ k[..., part].mT
        torch.testing.assert_close(queries[:, head] @ keys[:, head].mT, raw)
        mixed.append((raw / 2).softmax(2) @ v[..., part])  # 2 = √4
    expected = layer.proj(torch.cat(mixed, 2)).view(x.shape)
    torch.testing.assert_close(found, expected)


def test_paths_are_dropped_in_training_only():
    torch.manual_seed(0)
    net, images = build("mit_tiny"), torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net.eval()(images)["C5"], net(images)["C5"])
        assert not torch.equal(net.train()(images)["C5"], net(images)["C5"])
    assert [block.drop_path.p for block in net.block4] == pytest.approx([0.075, 0.1])


def test_frozen_stages_get_no_gradient_and_all_else_learns():
    net = build("mit_tiny", frozen_stages=2)
    net(torch.randn(2, 3, 40, 33))["C5"].square().sum().backward()
    for name, parameter in net.named_parameters():
        frozen = name.startswith(("patch_embed1", "block1", "norm1"))
        assert (parameter.grad is None) == frozen, name


def test_other_output_strides_are_refused():
    with pytest.raises(UserError, match="output_stride is 4; valid: 8, 16, 32"):
        build("mit_tiny", output_stride=4)


@torch.no_grad()
def test_segformer_head_by_the_book():
    """Resize, put together, join: the join before the resize is the same function."""
    torch.manual_seed(0)
    channels = {"C2": 4, "C3": 6, "C4": 8, "C5": 10}
    head = SegformerHead(channels, 5, width=7).eval()
    sizes = ((9, 12), (5, 6), (3, 3), (3, 3))
    maps = {k: torch.randn(2, c, *s) for (k, c), s in zip(channels.items(), sizes, strict=True)}
    wide = [
        F.interpolate(layer(maps[name]), (9, 12), mode="bilinear", align_corners=False)
        for name, layer in zip(channels, head.linear, strict=True)
    ]
    joint = head.norm(head.fuse(torch.cat(wide, 1))).relu()
    found = head(maps, (34, 47))
    torch.testing.assert_close(found, head.classifier(joint))
    assert found.shape == (2, 5, 9, 12)
    assert isinstance(head.norm, nn.BatchNorm2d)
