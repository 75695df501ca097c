"""The pixel correlation module against published code's results (golden) and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsssbench.models.pcm import PCM, DeepPCM, correlate, normalise, resize_aligned, winners

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "seam_pcm.npz")
VALUE = {"rtol": 0, "atol": 1e-5}


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def golden_module() -> PCM:
    module = PCM(12, 14, (6, 7, 9))
    module.load_state_dict(
        {f"{name}.weight": golden(f"in_{name}") for name in ("f8_3", "f8_4", "f9")}
    )
    return module


@pytest.mark.parametrize("values", [1, 1000, 2**24])
def test_golden_correlation(values):
    features = F.conv2d(golden("in_pcm_f"), golden("in_f9"))
    for name in ("pcm_cam", "pcm_cam_small"):
        found = correlate(golden(f"in_{name}"), features, values=values)
        torch.testing.assert_close(found, golden(f"out_{name.replace('_cam', '')}"), **VALUE)


def test_golden_forward_and_gradients():
    module, x = golden_module(), golden("in_x")
    conv4, conv5, conv6 = (golden(f"in_conv{i}").requires_grad_() for i in (4, 5, 6))
    fc8 = golden("in_fc8").requires_grad_()
    cam = F.conv2d(conv6, fc8)[:, 1:]
    rewritten = resize_aligned(module(cam, x, conv4, conv5), x.shape[-2:])
    large = resize_aligned(cam, x.shape[-2:])
    torch.testing.assert_close(large[:, :, ::8, ::8], golden("out_cam")[:, 1:], **VALUE)
    torch.testing.assert_close(rewritten[:, :, ::8, ::8], golden("out_cam_rv"), **VALUE)
    rewritten.abs().sum().backward()
    assert all(tensor.grad is None for tensor in (fc8, conv4, conv5, conv6))
    norms = torch.stack(
        [layer.weight.grad.norm() for layer in (module.f8_3, module.f8_4, module.f9)]
    )
    expected = golden("out_rv_grad_norm")
    assert (expected[[0, 4, 5, 6]] == 0).all()  # fc8 and the three feature maps
    # The channels of a map sum to 1, so that this gradient is what rounding and 1e-5 leave: the
    # released order of operations in float64 is 1.5 % to 3 % away from the released figures, too.
    torch.testing.assert_close(norms, expected[1:4], rtol=0.05, atol=0)


def test_two_positions_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).T.reshape(1, 2, 1, 2)
    found = correlate(torch.tensor([[[[1.0, 0.0]]]]), features)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.625, 0.375]), **VALUE)


def test_extremes():
    maps = torch.rand(1, 3, 2, 2)
    orthogonal = torch.eye(4).reshape(1, 4, 2, 2)
    torch.testing.assert_close(correlate(maps, orthogonal), maps, atol=1e-4, rtol=0)
    equal = torch.ones(1, 5, 2, 2)
    mean = maps.mean((2, 3), keepdim=True).expand_as(maps)
    torch.testing.assert_close(correlate(maps, equal), mean, atol=1e-4, rtol=0)
    constant = torch.full_like(maps, 0.4)
    found = correlate(constant, torch.randn(1, 5, 2, 2))
    torch.testing.assert_close(found, constant, atol=1e-4, rtol=0)
    assert (correlate(maps, torch.zeros(1, 5, 2, 2)) == 0).all()  # no likeness anywhere: no map


@pytest.mark.parametrize("values", [30, 2**24])
def test_two_rounds_are_one_after_the_other(values):
    maps, features = torch.rand(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    expected = correlate(correlate(maps, features), features)
    found = correlate(maps, features, rounds=2, values=values)
    torch.testing.assert_close(found, expected)


def test_features_of_views_may_be_added_in_any_order():
    module, images, deep = DeepPCM(4, 5), torch.randn(2, 3, 24, 16), torch.randn(2, 4, 3, 2)
    found = module(images, deep, (3, 2)).sum(0)
    torch.testing.assert_close(found, module(images.sum(0)[None], deep.sum(0)[None], (3, 2))[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(images, deep.bfloat16(), (3, 2)).dtype == torch.float32


def test_positions_may_be_permuted():
    maps, features = torch.rand(2, 3, 4, 6), torch.randn(2, 5, 4, 6)
    order = torch.randperm(24)

    def shuffled(x):
        return x.flatten(2)[..., order].unflatten(2, (4, 6))

    found = correlate(shuffled(maps), shuffled(features))
    torch.testing.assert_close(found, shuffled(correlate(maps, features)))


@pytest.mark.parametrize("values", [2**24, 300])
def test_gradient_is_that_of_the_formula(values):
    maps = torch.rand(2, 3, 5, 7)
    features = torch.randn(2, 5, 5, 7).requires_grad_()
    correlate(maps, features, values=values).square().sum().backward()
    found, features.grad = features.grad, None
    unit = features.flatten(2) / (features.flatten(2).norm(dim=1, keepdim=True) + 1e-5)
    similarity = torch.einsum("bci,bcj->bij", unit, unit).relu()
    weights = similarity / (similarity.sum(1, keepdim=True) + 1e-5)
    torch.einsum("bci,bij->bcj", maps.flatten(2), weights).square().sum().backward()
    torch.testing.assert_close(found, features.grad)


def test_winners_by_hand():
    maps = torch.tensor([[[[0.7, 0.2, 0.0]], [[0.3, 0.2, 0.0]]]])
    expected = [[[0.3, 0.8, 1.0]], [[0.7, 0.2, 0.0]], [[0.0, 0.2, 0.0]]]  # a tie keeps both
    torch.testing.assert_close(winners(maps), torch.tensor([expected]))
    assert (normalise(-maps) == 0).all()


def test_colour_helps_an_object_and_hurts_where_the_background_shares_it():
    """A map that fires on a part spreads to whatever has the colour of that part."""
    truth = torch.zeros(8, 8, dtype=torch.bool)
    truth[2:6, 1:7] = True
    seed = torch.zeros(1, 1, 8, 8)
    seed[..., 2:6, 1:5] = 1.0
    own = torch.stack([truth.float(), 1 - truth.float()])[None]
    assert iou(seed, truth) == pytest.approx(16 / 24)
    assert iou(correlate(seed, own), truth) == 1
    shared = torch.ones(1, 2, 8, 8)
    assert iou(correlate(seed, shared), truth) == 24 / 64  # the map is the same everywhere


def iou(maps, truth):
    found = maps[0, 0] >= 0.9 * maps.max()
    return float((found & truth).sum() / (found | truth).sum())
