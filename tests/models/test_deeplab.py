"""DeepLabV2 and V3+: sizes, start, groups; their losses by hand and against PIL's reduction."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wsssbench.errors import UserError
from wsssbench.models import build
from wsssbench.models.decoder import resize
from wsssbench.models.deeplab import DeepLabV2, DeepLabV3Plus
from wsssbench.models.segmentation_losses import masked_cross_entropy, msc_loss, reduce_mask


def v2(output_stride=8, **settings):
    torch.manual_seed(0)
    return DeepLabV2(build("tiny", output_stride=output_stride), 4, **settings)


def v3(output_stride=8, **settings):
    torch.manual_seed(0)
    backbone = build("tiny", output_stride=output_stride, **settings)
    return DeepLabV3Plus(backbone, 4, width=16)


def scenes(count, side=48):
    """Images with one coloured square of class 1..3 each, on a grid of 8 px, and their masks."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.randn(count, 3, side, side, generator=generator)
    masks = torch.zeros(count, side, side, dtype=torch.long)
    for i in range(count):
        top, left = (8 * torch.randint(0, 4, (2,), generator=generator)).tolist()
        images[i, i % 3, top : top + 24, left : left + 24] += 2
        masks[i, top : top + 24, left : left + 24] = 1 + i % 3
    return images, masks


@pytest.mark.parametrize(("side", "cells"), [(321, 41), (513, 65)])
@torch.no_grad()
def test_sizes_of_the_recipe(side, cells):
    images = torch.randn(1, 3, side, side)
    *scales, highest = v2().eval().pyramid(images)
    expected = [cells, *(-(-int(side * scale) // 8) for scale in (0.75, 0.5))]
    assert [z.shape for z in scales] == [(1, 4, n, n) for n in expected]
    assert highest.shape == scales[0].shape
    assert v3().eval()(images).shape == (1, 4, -(-side // 4), -(-side // 4))


@torch.no_grad()
def test_maximum_over_the_scales():
    net, images = v2().eval(), torch.randn(2, 3, 65, 50)
    *scales, highest = net.pyramid(images)
    assert (highest >= scales[0]).all()
    assert (highest > scales[0]).any()
    resized = [resize(z, highest.shape[-2:]) for z in scales]
    torch.testing.assert_close(highest, torch.stack(resized).amax(0))
    half = resize(images, (32, 25))
    torch.testing.assert_close(scales[2], v2(msc=False).eval()(half))
    torch.testing.assert_close(net(images), highest)
    single = v2(msc=False).eval()
    assert len(single.pyramid(images)) == 1
    torch.testing.assert_close(single(images), scales[0])


def test_start_of_the_classifiers():
    net = DeepLabV2(build("resnet50", output_stride=8), 21)
    assert [layer.dilation[0] for layer in net.classifiers] == [6, 12, 18, 24]
    for layer in net.classifiers:
        assert layer.weight.shape == (21, 2048, 3, 3)
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        assert (layer.bias == 0).all()


@torch.no_grad()
def test_classifiers_are_summed_with_their_biases():
    net = v2(msc=False).eval()
    for number, layer in enumerate(net.classifiers):
        layer.bias.fill_(10.0**number)
    found = net(torch.zeros(1, 3, 32, 32))
    features = net.backbone(torch.zeros(1, 3, 32, 32))["C5"]
    expected = sum(layer(features) for layer in net.classifiers)
    torch.testing.assert_close(found, expected)
    assert found.mean() == pytest.approx(1111, abs=5)


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "mobilenet_v2", "tiny"])
@torch.no_grad()
def test_any_backbone_and_odd_sizes(name):
    backbone = build(name, output_stride=16)
    images = torch.randn(1, 3, 33, 50)
    assert DeepLabV2(backbone, 3).eval()(images).shape == (1, 3, 3, 4)
    net = DeepLabV3Plus(backbone, 3, width=8).eval()
    assert net(images).shape == (1, 3, 9, 13)
    assert net.decoder.low_level[0].out_channels == 48


@pytest.mark.parametrize(("make", "head"), [(v2, "new"), (v3, "decoder")])
def test_groups_hold_every_trainable_parameter_once(make, head):
    net = make()
    net.backbone.configure(frozen_stages=2)
    groups = net.parameter_groups()
    assert set(groups) == {"backbone", "new", "decoder"}
    part = net.classifiers if head == "new" else net.decoder
    assert {id(p) for p in groups[head]} == {id(p) for p in part.parameters()}
    trained = [p for p in net.parameters() if p.requires_grad]
    assert sorted(id(p) for group in groups.values() for p in group) == sorted(map(id, trained))
    assert 0 < len(groups["backbone"]) < len(list(net.backbone.parameters()))


@pytest.mark.parametrize("make", [v2, v3])
def test_logits_stay_float32_under_autocast(make):
    net = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pyramid = net.pyramid(torch.randn(2, 3, 48, 40))
        loss = msc_loss(pyramid, torch.zeros(2, 48, 40, dtype=torch.long))
    loss.backward()
    assert all(z.dtype == torch.float32 for z in pyramid)
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_batch_of_one():
    images, masks = scenes(1)
    net = v2().train()
    msc_loss(net.pyramid(images), masks).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    with pytest.raises(UserError, match="at least 2 images"):
        v3().train()(images)


@pytest.mark.parametrize("make", [v2, v3])
def test_eight_images_are_learned_by_heart(make):
    images, masks = scenes(8)
    net = make().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(60):
        loss = msc_loss(net.pyramid(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = resize(net.eval()(images), (48, 48)).argmax(1)
    ious = []
    for kind in range(4):
        both, either = (found == kind) & (masks == kind), (found == kind) | (masks == kind)
        ious.append(float(both.sum() / either.sum()))
    assert np.mean(ious) >= 0.95


def test_cross_entropy_by_hand():
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 0, 0, 0] = 2.0
    mask = torch.tensor([[[0, 0, 1, 255]]])
    sure, unsure = -logits[0, :, 0, 0].log_softmax(0)[0], torch.tensor(3.0).log()
    torch.testing.assert_close(masked_cross_entropy(logits, mask), (sure + 2 * unsure) / 3)
    balanced = masked_cross_entropy(logits, mask, balanced=True)
    torch.testing.assert_close(balanced, (sure + unsure) / 2 + unsure)
    expected = F.cross_entropy(logits, mask, ignore_index=255)
    torch.testing.assert_close(masked_cross_entropy(logits, mask), expected)


def test_balanced_is_twice_the_mean_for_equal_counts():
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 4, 6, 6), torch.zeros(2, 6, 6, dtype=torch.long)
    mask[:, :3] = 2
    plain = masked_cross_entropy(logits, mask)
    torch.testing.assert_close(masked_cross_entropy(logits, mask, balanced=True), 2 * plain)
    mask[:, :3] = 255  # nothing but background is left
    plain = masked_cross_entropy(logits, mask)
    torch.testing.assert_close(masked_cross_entropy(logits, mask, balanced=True), plain)


@pytest.mark.parametrize("balanced", [False, True])
def test_masks_without_any_certain_pixel(balanced):
    pyramid = [torch.randn(2, 3, n, n).requires_grad_() for n in (5, 3)]
    loss = msc_loss(pyramid, torch.full((2, 33, 33), 255), balanced=balanced)
    loss.backward()
    assert loss == 0
    assert all((z.grad == 0).all() for z in pyramid)


def test_loss_of_the_scales_is_their_sum():
    torch.manual_seed(0)
    pyramid = [torch.randn(2, 3, n, n) for n in (5, 4, 3, 5)]
    mask = torch.randint(0, 3, (2, 33, 33))
    parts = [masked_cross_entropy(z, mask) for z in pyramid]
    torch.testing.assert_close(msc_loss(pyramid, mask), sum(parts))


@pytest.mark.parametrize(
    ("size", "cells"), [((321, 321), (41, 41)), ((320, 97), (21, 13)), ((8, 12), (4, 2))]
)
def test_masks_are_reduced_as_pil_does_it(size, cells):
    mask = np.random.default_rng(0).integers(0, 21, size, dtype=np.uint8)
    expected = Image.fromarray(mask).resize(cells[::-1], Image.NEAREST)
    found = reduce_mask(torch.from_numpy(mask).long()[None], cells)
    assert torch.equal(found[0], torch.from_numpy(np.array(expected)).long())
