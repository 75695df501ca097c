"""The two-target cross entropy and its pixel weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mix_batches import CLASSES, make_batch, pair_batch, pasting

from wsssbench.errors import UserError
from wsssbench.mixing import (
    MixBatch,
    MixPlan,
    apply_mix,
    build,
    mixed_cross_entropy,
    pixel_weight,
)
from wsssbench.mixing.batch import IGNORE


def test_two_targets_by_hand():
    """(.75 + .25 + 1)·ln 3 over a weight of 2; the ignored base pixel has no weight."""
    out = apply_mix(pair_batch([0, IGNORE], [1, 2], [[1, 1]] * 2), pasting([0.25, 1]))
    loss = mixed_cross_entropy(torch.zeros(1, 3, 1, 2), out)
    assert loss.item() == pytest.approx(math.log(3))
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]).T.view(1, 3, 1, 2)
    left, right = (logits[0, :, 0, i].log_softmax(0) for i in (0, 1))
    expected = -(0.75 * left[0] + 0.25 * left[1] + right[2]) / 2
    torch.testing.assert_close(mixed_cross_entropy(logits, out), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(9, 14), (5, 7), (3, 4), (18, 28)]))
def test_hard_weights_give_the_ordinary_cross_entropy(seed, size):
    batch = make_batch(seed, padded=bool(seed % 2))
    out = apply_mix(batch, build("cutmix_seg", {}).plan(batch, torch.Generator().manual_seed(seed)))
    logits = torch.randn(3, CLASSES + 1, *size, generator=torch.Generator().manual_seed(seed))
    mask = F.interpolate(out.mask[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    expected = F.cross_entropy(logits, mask, ignore_index=IGNORE)
    torch.testing.assert_close(mixed_cross_entropy(logits, out), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["identity", "mixup", "classmix"])
def test_all_ignored_gives_zero_and_zero_gradients(name):
    batch = make_batch(ignored=2.0)
    out = apply_mix(batch, build(name, {}).plan(batch, torch.Generator().manual_seed(0)))
    logits = torch.randn(3, CLASSES + 1, 9, 14, requires_grad=True)
    loss = mixed_cross_entropy(logits, out)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_half_precision_logits():
    batch = make_batch()
    out = apply_mix(batch, build("mixup", {}).plan(batch, torch.Generator().manual_seed(0)))
    logits = torch.randn(3, CLASSES + 1, 9, 14)
    loss = mixed_cross_entropy(logits.bfloat16(), out)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, mixed_cross_entropy(logits, out), atol=0.02, rtol=0)


def test_pixel_weights():
    probs = torch.tensor([[0.97, 0.5], [0.968, 0.1]]).T.view(1, 2, 1, 2)
    probs = torch.stack([probs[:, 0], 1 - probs[:, 0]], 1)
    assert pixel_weight(probs, "none").item() == 1
    assert pixel_weight(probs, "fraction").item() == 1
    assert pixel_weight(probs, "fraction", threshold=0.969).item() == 0.5
    assert pixel_weight(probs, "threshold", threshold=0.969).tolist() == [[[1, 0]]]


def test_confidence_scales_pixels_not_their_share():
    out = apply_mix(pair_batch([0, 1], [1, 2], [[1, 1]] * 2), pasting([0, 0]))
    logits = torch.randn(1, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    left = F.cross_entropy(logits[..., :1], torch.tensor([[[0]]]))
    loss = mixed_cross_entropy(logits, out, confidence=torch.tensor([[[1.0, 0.0]]]))
    torch.testing.assert_close(loss, left / 2)
    whole = mixed_cross_entropy(logits, out)
    scaled = mixed_cross_entropy(logits, out, confidence=torch.tensor(0.25))
    torch.testing.assert_close(scaled, whole / 4)


def test_masks_are_needed():
    batch = MixBatch(torch.zeros(2, 3, 1, 4), torch.ones(2, 2))
    plan = MixPlan(torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 1, 1, 4))
    with pytest.raises(UserError, match="needs masks"):
        mixed_cross_entropy(torch.zeros(1, 3, 1, 4), apply_mix(batch, plan))
