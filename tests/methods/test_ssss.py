"""SSSS's scores, masks and losses: published code's results (golden), by hand, in training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import multilabel_soft_margin_loss

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings
from wsssbench.methods.base import Progress
from wsssbench.methods.ssss import (
    IGNORE,
    SSSS,
    balanced,
    focal_penalty,
    mask_loss,
    ngwp,
    pseudo_mask,
    with_constant,
)
from wsssbench.models.pcm import resize_aligned

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ngwp.npz")
FEW = settings(deadline=None, derandomize=True, max_examples=15)


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def make(batch_norm="train", **changed) -> SSSS:
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8, batch_norm=batch_norm)
    return SSSS(backbone, 3, **{"decoder_width": 8, "mask_start": 1, **changed})


def progress(epoch=1, seed=0):
    return Progress(epoch, 9, 0, 9, torch.Generator().manual_seed(seed))


def squares(size=4, side=48):
    """Coloured squares on noise: class = colour."""
    generator = torch.Generator().manual_seed(1)
    images = 0.2 * torch.randn(size, 3, side, side, generator=generator)
    labels, truth = torch.zeros(size, 3), torch.zeros(size, side, side, dtype=torch.long)
    for row in range(size):
        top, left = torch.randint(0, side // 2, (2,), generator=generator)
        inside = (slice(top, top + side // 2), slice(left, left + side // 2))
        images[row, row % 3][inside] += 2
        labels[row, row % 3], truth[row][inside] = 1, 1 + row % 3
    valid = torch.ones(size, side, side, dtype=torch.bool)
    ids = [str(row) for row in range(size)]
    return {"image": images, "label": labels, "valid": valid, "id": ids}, truth


def test_golden():
    x = golden("in_logits").requires_grad_()
    images, labels = golden("in_image"), golden("in_labels")
    logits = with_constant(x)
    masks = logits.softmax(1)
    pooled, penalty = ngwp(logits, masks), focal_penalty(masks)
    near = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(pooled, golden("out_ngwp"), **near)
    torch.testing.assert_close(penalty, golden("out_focal"), **near)
    torch.testing.assert_close(pooled + penalty, golden("out_score"), **near)
    share = (masks[:, 1:].mean((2, 3)) * labels).sum(1) / labels.sum(1)
    torch.testing.assert_close(share, golden("out_cls_fg"), **near)

    method, size = make(), images.shape[-2:]
    with torch.no_grad():
        refined = resize_aligned(method.refined(masks, images, labels), size)
        method.use_pamr = False
        plain = resize_aligned(method.refined(masks, images, labels), size)
    torch.testing.assert_close(refined, golden("out_mask_pamr"), rtol=0, atol=1e-5)
    torch.testing.assert_close(plain[:, :, ::4, ::4], golden("out_mask_cam"), rtol=0, atol=1e-5)
    taught, expected = pseudo_mask(refined), golden("out_pseudo_gt")
    expected = expected.argmax(1).masked_fill(expected.sum(1) == 0, IGNORE)
    assert torch.equal(taught, expected)

    cls, mask = (
        multilabel_soft_margin_loss(pooled + penalty, labels),
        mask_loss(logits, taught, labels),
    )
    torch.testing.assert_close(cls, golden("out_loss_cls"), rtol=1e-5, atol=0)
    torch.testing.assert_close(mask, golden("out_loss_mask"), rtol=1e-4, atol=0)
    assert mask[-1] == 0
    (cls + mask.mean()).backward()
    torch.testing.assert_close(x.grad, golden("out_grad"), rtol=0, atol=1e-7)


def test_scores_by_hand():
    logits = with_constant(torch.tensor([[[[2.0, 0.0], [-1.0, 3.0]]]]))
    masks = logits.softmax(1)
    expected = torch.tensor([[[0.7311, 0.2689], [0.1192, 0.8808]]])
    torch.testing.assert_close(masks[:, 1], expected, atol=1e-4, rtol=0)
    assert float(ngwp(logits, masks)) == pytest.approx(1.3284, abs=1e-4)
    assert float(focal_penalty(masks)) == pytest.approx(-0.0842, abs=1e-4)


def test_the_penalty_ends_at_an_empty_and_a_full_mask_and_rises_between():
    area = torch.linspace(0, 1, 21).view(1, -1, 1, 1)
    found = focal_penalty(torch.cat([area[:, :1], area], 1))[0]
    assert float(found[0]) == pytest.approx(-4.60517, abs=1e-4)
    assert found[-1] == 0
    assert (found.diff()[:-1] > 0).all()


def test_pseudo_mask_by_hand():
    background = torch.tensor([0.9, 0.64, 0.62, 0.1, 0.1])  # above .7 · .9 = .63
    first = torch.tensor([0.05, 0.3, 0.05, 0.4, 0.2])  # above .6 · .4 = .24
    faint = torch.tensor([0.0, 0.0, 0.0, 0.1, 0.15])  # never above .2
    masks = torch.stack([background, first, faint]).view(1, 3, 1, 5)
    assert pseudo_mask(masks).tolist() == [[[0, IGNORE, IGNORE, 1, IGNORE]]]


def test_mask_loss_by_hand():
    # two pixels of background, one of class 1, one ignored: weights (3 - 2)/4 and (3 - 1)/4
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 3.0, 9.0]]).view(1, 2, 1, 4)
    target = torch.tensor([[[0, 0, 1, IGNORE]]])
    error = logits.logsumexp(1)[0, 0] - torch.tensor([1.0, 1.0, 3.0, 9.0])
    expected = (0.25 * (error[0] + error[1]) + 0.5 * error[2]) / 4
    torch.testing.assert_close(mask_loss(logits, target, torch.ones(1, 1))[0], expected)
    assert mask_loss(logits, target, torch.zeros(1, 1)) == 0  # class 1 is not a label
    assert mask_loss(logits, torch.full_like(target, IGNORE), torch.ones(1, 1)) == 0


@given(st.integers(0, 999), st.floats(0.5, 4))
@FEW
def test_half_splits_as_the_release_does(seed, power):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(2, 4, 5, 6, generator=generator).softmax(1)
    released = torch.cat([masks[:, :1] ** power, masks[:, 1:]], 1).argmax(1)
    maps = balanced(masks, power)
    assert 0 <= maps.min() <= maps.max() <= 1
    found = torch.cat([torch.full_like(maps[:, :1], 0.5), maps], 1).argmax(1)
    assert torch.equal(found, released)
    assert (balanced(torch.zeros(1, 3, 2, 2), power) == 0).all()


def test_masks_teach_from_their_start_and_only_inside_the_picture():
    data, _ = squares()
    method = make(mask_start=3).train()
    assert set(method.losses(data, progress(2))) == {"cls"}
    assert set(method.losses(data, progress(3))) == {"cls", "mask"}
    data["valid"][:, :, 30:] = False
    masks = torch.rand(4, 4, 12, 12).softmax(1)
    taught = method.target(masks, data["image"], data["label"], data["valid"])
    assert (taught[..., 30:] == IGNORE).all()
    assert (taught[..., :30] != IGNORE).any()
    allowed = torch.cat([torch.ones(4, 1), data["label"]], 1) > 0
    for row, kept in zip(taught, allowed):
        assert set(row.unique().tolist()) <= {*kept.nonzero()[:, 0].tolist(), IGNORE}


def test_weights_act():
    data, _ = squares()
    plain = make(use_pamr=False).train().losses(data, progress())
    double = make(use_pamr=False, w_mask=2.0).train().losses(data, progress())
    assert plain["mask"] > 0
    torch.testing.assert_close(double["mask"], 2 * plain["mask"])
    bare = make(w_focal=0.0).eval()
    logits, masks, scores = bare.forward_masks(data["image"])
    torch.testing.assert_close(scores, ngwp(logits, masks))


def test_training_lowers_the_losses_and_finds_the_squares():
    data, truth = squares(6)
    method = make(decoder_width=16, mask_start=12).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    values = []
    for epoch in range(1, 46):
        losses = method.losses(data, progress(epoch, epoch))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        values.append({name: float(value.detach()) for name, value in losses.items()})
    assert values[-1]["cls"] < 0.3 * values[0]["cls"]
    assert values[-1]["mask"] < values[11]["mask"]
    method.scales, method.flip = (1.0,), False
    found = method.eval().score_maps(data["image"], data["label"]).argmax(1)
    assert (found == truth).float().mean() > 0.75  # 0.25 before the masks teach


def test_the_penalty_makes_masks_larger():
    data, _ = squares()
    areas = []
    for weight in (0.0, 1.0):
        method = make(w_focal=weight, mask_start=99).train()
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
        for step in range(8):
            loss = method.losses(data, progress(1, step))["cls"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            masks = method.eval().forward_masks(data["image"])[1][:, 1:].mean((2, 3))
        areas.append(float(masks[data["label"] > 0].mean()))
    assert areas[1] > areas[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_image_of_odd_size_without_labels(dtype):
    data = {
        "image": torch.zeros(1, 3, 53, 37),
        "label": torch.zeros(1, 3),
        "valid": torch.ones(1, 53, 37, dtype=torch.bool),
        "id": ["a"],
    }
    method = make("frozen").train()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, progress())
    sum(losses.values()).backward()
    assert losses["mask"] == 0
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@torch.inference_mode()
def test_maps_of_several_views():
    method = make().eval()
    method.scales = (1.0, 0.5)
    images = torch.randn(2, 3, 37, 50)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        found = method.infer(images, lambda _: gate, stride)
        maps = found.maps["masks"]
        assert maps.shape == (2, 3, *size)
        assert 0 < maps[0, 0].max() <= maps.max() <= 1
        assert (maps[~gate] == 0).all()
    method.flip = False
    method.scales = (1.0,)
    first = method.infer(images, lambda _: gate)
    assert (found.probabilities >= first.probabilities).all()  # the highest of all views
    _, masks, scores = method.forward_masks(images)
    torch.testing.assert_close(first.probabilities, scores.sigmoid())
    expected = balanced(resize_aligned(masks, (37, 50)), 3.0)
    torch.testing.assert_close(first.maps["masks"][gate], expected[gate])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.infer(images, lambda _: gate).maps["masks"].dtype == torch.float32


@torch.inference_mode()
def test_a_mirrored_image_gives_mirrored_maps():
    method, images = make().eval(), torch.randn(1, 3, 32, 48)
    maps = method.score_maps(images, torch.ones(1, 3))
    mirrored = method.score_maps(images.flip(-1), torch.ones(1, 3)).flip(-1)
    torch.testing.assert_close(mirrored, maps, atol=1e-4, rtol=0)


def test_wrong_settings_are_explained():
    for wrong, text in [
        ({"psi": 1.0}, r"psi: expected a share in \[0, 1\), got 1.0"),
        ({"shallow": "C6"}, "Unknown stage 'C6'"),
        ({"focal_shift": 0.0}, "focal_shift"),
        ({"pamr": {"sgima": 0.1}}, "Did you mean 'sigma'"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("ssss", wrong, "here")
