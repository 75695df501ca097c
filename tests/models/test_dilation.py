import pytest
import torch
from torch import nn

from wsssbench.errors import UserError
from wsssbench.models import build
from wsssbench.models.dilation import set_output_stride


def kernels(module):
    """(stride, dilation, padding) of every convolution that is not 1×1."""
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    return [(m.stride[0], m.dilation[0], m.padding[0]) for m in found]


def test_resnet50_at_stride_8_by_hand():
    net = build("resnet50", output_stride=8)
    assert kernels(net.layer2)[0] == (2, 1, 1)
    assert kernels(net.layer3) == [(1, 1, 1)] + [(1, 2, 2)] * 5
    assert kernels(net.layer4) == [(1, 2, 2)] + [(1, 4, 4)] * 2
    assert net.layer4[0].downsample[0].stride == (1, 1)


def test_resnet18_dilates_behind_the_removed_stride_within_the_block():
    net = build("resnet18", output_stride=16)
    assert kernels(net.layer3)[:2] == [(2, 1, 1), (1, 1, 1)]
    assert kernels(net.layer4) == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)]


def test_mobilenet_at_stride_8_by_hand():
    net = build("mobilenet_v2", output_stride=8)
    assert kernels(net.features[7:14]) == [(1, 1, 1)] + [(1, 2, 2)] * 6
    assert kernels(net.features[14:18]) == [(1, 2, 2)] + [(1, 4, 4)] * 3


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "tiny"])
@pytest.mark.parametrize("output_stride", [8, 16])
@torch.no_grad()
def test_dilated_network_is_the_same_function_on_a_denser_grid(name, output_stride):
    torch.manual_seed(0)
    coarse = build(name, output_stride=32).eval().double()
    fine = build(name, output_stride=output_stride).eval().double()
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, 3, 97, 130, dtype=torch.double)
    expected, dense = coarse(x), fine(x)
    for stage, stride in coarse.strides.items():
        step = stride // fine.strides[stage]
        torch.testing.assert_close(dense[stage][..., ::step, ::step], expected[stage])


@torch.no_grad()
def test_without_dilation_only_the_strides_go():
    torch.manual_seed(0)
    plain = build("resnet50", output_stride=16, dilate=False).eval()
    dilated = build("resnet50", output_stride=16).eval()
    dilated.load_state_dict(plain.state_dict())
    assert all(dilation == 1 for _, dilation, _ in kernels(plain))
    assert plain.strides == dilated.strides
    x = torch.randn(1, 3, 64, 64)
    first, second = plain(x), dilated(x)
    assert first["C5"].shape == second["C5"].shape == (1, 2048, 4, 4)
    torch.testing.assert_close(first["C4"], second["C4"])
    assert not torch.allclose(first["C5"], second["C5"])


def test_helper_returns_the_strides_and_rejects_others():
    stages = [[nn.Conv2d(1, 1, 5, stride=2, padding=2)] for _ in range(5)]
    assert list(set_output_stride(stages, (2, 4, 8, 16, 32), 8).values()) == [2, 4, 8, 8, 8]
    assert kernels(nn.ModuleList(s[0] for s in stages))[2:] == [(2, 1, 2), (1, 1, 2), (1, 2, 4)]
    with pytest.raises(UserError, match="64; valid: 8, 16, 32"):
        set_output_stride(stages, (2, 4, 8, 16, 32), 64)
