import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsssbench.errors import UserError
from wsssbench.models import CamNetwork, Decoder, build
from wsssbench.models.decoder import ASPP, aspp_rates, resize

CHANNELS = {"C2": 6, "C5": 10}


def maps(batch, low, high):
    generator = torch.Generator().manual_seed(0)
    return {
        "C2": torch.randn(batch, 6, *low, generator=generator),
        "C5": torch.randn(batch, 10, *high, generator=generator),
    }


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_rates_keep_their_reach_in_the_image():
    assert aspp_rates(16) == (6, 12, 18)
    assert aspp_rates(8) == (12, 24, 36)
    assert aspp_rates(32) == (3, 6, 9)


def test_layers_are_those_of_the_recipe():
    decoder = Decoder({"C2": 256, "C5": 2048}, 21)
    layers = [(m.in_channels, m.out_channels, *m.kernel_size) for m in convolutions(decoder)]
    assert layers == [
        (2048, 256, 1, 1),
        *[(2048, 256, 3, 3)] * 3,
        (2048, 256, 1, 1),
        (1280, 256, 1, 1),
        (256, 256, 1, 1),
        (512, 256, 3, 3),
        (256, 256, 3, 3),
        (256, 21, 3, 3),
    ]
    assert [m.dilation[0] for m in convolutions(decoder.aspp.branches)] == [1, 6, 12, 18]
    assert all(m.bias is None for m in convolutions(decoder))
    assert [m.p for m in decoder.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5, 0.1]
    assert len([m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]) == 9
    narrow = Decoder({"C2": 256, "C5": 2048}, 21, low_width=48)
    assert narrow.head[0][0].in_channels == 304


@torch.no_grad()
def test_pyramid_without_dilated_branches_by_hand():
    """One position, rates of any reach: 3×3 kernels see only their centre."""
    aspp = ASPP(1, 1, (2, 3)).eval()
    for layer in [*aspp.branches, aspp.pooling, aspp.project]:
        layer[0].weight.fill_(1.0)
    x = torch.tensor([[[[2.0]]]])
    scale = 1 / (1 + 1e-5) ** 0.5  # batch norm with fresh statistics
    torch.testing.assert_close(aspp(x), torch.tensor([[[[4 * 2 * scale * scale]]]]))


@torch.no_grad()
def test_image_pooling_reaches_every_position():
    aspp = ASPP(10, 4, (50,)).eval()  # 50: beyond the map, only the centre of each kernel counts
    x = maps(1, (4, 4), (9, 9))["C5"].abs()
    changed = x.clone()
    changed[0, :, 8, 8] += 5
    assert not torch.allclose(aspp(x)[0, :, 0, 0], aspp(changed)[0, :, 0, 0])


@pytest.mark.parametrize("size", [(97, 130), (64, 64), (33, 20)])
@torch.no_grad()
def test_output_has_stride_four(size):
    def grid(stride):
        return tuple(-(-length // stride) for length in size)

    decoder = Decoder(CHANNELS, 3, width=8, low_width=4).eval()
    assert decoder(maps(2, grid(4), grid(16)), size).shape == (2, 3, *grid(4))


@torch.no_grad()
def test_coarse_early_maps_are_brought_to_stride_four():
    """A ViT has no map at stride 4."""
    decoder = Decoder(CHANNELS, 3, width=8, low_width=4).eval()
    assert decoder(maps(1, (3, 4), (3, 4)), (48, 60)).shape == (1, 3, 12, 15)


def test_resize_is_bilinear_without_aligned_corners():
    row = torch.tensor([[[[0.0, 4.0]]]])
    expected = torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]])
    torch.testing.assert_close(resize(row, (1, 4)), expected)
    assert resize(row, (1, 2)) is row


def test_one_image_in_training_is_refused_and_fine_in_evaluation():
    decoder = Decoder(CHANNELS, 3, width=8, low_width=4)
    single = maps(1, (8, 8), (2, 2))
    with pytest.raises(UserError, match=r"at least 2 images per process.*batch_size"):
        decoder.train()(single, (32, 32))
    assert decoder.eval()(single, (32, 32)).shape == (1, 3, 8, 8)
    assert decoder.train()(maps(2, (8, 8), (2, 2)), (32, 32)).shape == (2, 3, 8, 8)


def test_gradient_reaches_every_parameter_and_both_maps():
    decoder = Decoder(CHANNELS, 3, width=8, low_width=4)
    features = {key: x.requires_grad_() for key, x in maps(2, (16, 16), (4, 4)).items()}
    logits = decoder(features, (64, 64))
    F.cross_entropy(logits, torch.zeros(2, 16, 16, dtype=torch.long)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    assert all(x.grad.abs().sum() > 0 for x in features.values())


@torch.no_grad()
def test_mirror_symmetric_kernels_give_a_mirrored_result():
    torch.manual_seed(0)
    backbone = build("tiny", output_stride=16)
    decoder = Decoder(backbone.channels, 5, width=8, low_width=8)
    net = CamNetwork(backbone, 4, decoder=decoder).eval().double()
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.copy_((parameter + parameter.flip(-1)) / 2)
    images = torch.randn(1, 3, 33, 65, dtype=torch.double)
    torch.testing.assert_close(net(images.flip(-1)).decoder.flip(-1), net(images).decoder)
