"""The second classifier, both poolings, and the LargeFOV decoder."""

import pytest
import torch

from wsssbench import models
from wsssbench.models.aux_network import AuxCamNetwork
from wsssbench.models.decoder import LargeFOV


def make(backbone="tiny", output_stride=8, **settings):
    torch.manual_seed(0)
    backbone = models.build(backbone, output_stride=output_stride)
    decoder = LargeFOV(backbone.channels, 4, width=16)
    return AuxCamNetwork(backbone, 3, decoder=decoder, **settings).eval()


@pytest.mark.parametrize(("level", "stride"), [("C4", 8), ("C2", 4)])
def test_shapes_on_odd_sizes(level, stride):
    with torch.no_grad():
        out = make(level=level)(torch.randn(1, 3, 37, 50))
    assert out.cam.shape == (1, 3, 5, 7)
    assert out.aux_cam.shape == (1, 3, -(-37 // stride), -(-50 // stride))
    assert out.logits.shape == out.aux_logits.shape == (1, 3)
    assert out.decoder.shape == (1, 4, 5, 7)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooled_scores(pooling):
    net, images = make(pooling=pooling), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = net(images, with_decoder=False)
        features = out.features["C4"]
        pooled = features.amax((2, 3)) if pooling == "max" else features.mean((2, 3))
        expected = pooled @ net.auxiliary.weight.flatten(1).T
    torch.testing.assert_close(out.aux_logits, expected)
    assert out.decoder is None


def test_groups():
    groups = make().parameter_groups()
    assert [len(groups[name]) for name in ("new", "decoder")] == [2, 3]


def test_bfloat16_gives_float32_scores():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = make()(torch.randn(1, 3, 32, 32))
    found = (out.cam, out.aux_cam, out.logits, out.aux_logits, out.decoder)
    assert all(x.dtype == torch.float32 for x in found)
