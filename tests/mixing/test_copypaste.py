"""Copy-Paste: objects by components, their way through scale, shift and mirror."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mix_batches import CLASSES, make_batch

from wsssbench.errors import UserError
from wsssbench.mixing import MixBatch, apply_mix
from wsssbench.mixing.batch import IGNORE
from wsssbench.mixing.classmix import ClassMix
from wsssbench.mixing.copypaste import CopyPaste, components, positions, take_linear, take_nearest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws_of(base, src, keep, *, scale=1.0, shift=(0.0, 0.0), flip=False):
    count = len(base)
    return {
        "base": torch.tensor(base),
        "src": torch.tensor(src),
        "scale": torch.full((count,), scale, dtype=torch.float64),
        "shift": torch.tensor([shift] * count, dtype=torch.float64),
        "flip": torch.tensor([flip] * count),
        "keep": [torch.tensor(numbers, dtype=torch.int64) for numbers in keep],
    }


def two_images(mask, labels=(1, 1, 1, 1)):
    """Image 0 is background throughout, image 1 has `mask`; the pixels count from 0 and 1000."""
    mask = torch.as_tensor(mask)
    height, width = mask.shape
    images = torch.arange(3.0 * height * width).view(1, 3, height, width)
    labels = torch.tensor([[1.0, 0, 0, 0], labels])
    masks = torch.stack([torch.zeros_like(mask), mask])
    return MixBatch(torch.cat([images, images + 1000]), labels, masks)


BLOBS = np.zeros((8, 10), np.int64)
BLOBS[0:2, 0:2] = 2  # 4 px
BLOBS[2, 2] = 2  # touches it at a corner
BLOBS[5:8, 0:3] = 2  # 9 px
BLOBS[0:3, 5:9] = 1  # 12 px
BLOBS[7, 9] = 4  # 1 px
BLOBS[4, 5:9] = IGNORE


def test_components_by_hand():
    batch = two_images(BLOBS)
    numbers = components(batch, 0)[1]
    assert numbers.max() == 4
    for number, (klass, area) in enumerate([(1, 12), (2, 5), (2, 9), (4, 1)], start=1):
        assert (BLOBS[numbers == number] == klass).all()
        assert (numbers == number).sum() == area
    assert not components(batch, 0)[0].any()
    few = components(batch, 5 / 80)[1]  # 5 px are enough
    assert [(few == number).sum() for number in (1, 2, 3)] == [12, 5, 9]
    assert few.max() == 3


def test_absent_classes_and_padding_are_no_objects():
    batch = two_images(BLOBS, labels=(0, 1, 0, 0))
    assert set(BLOBS[components(batch, 0)[1] > 0]) == {2}
    valid = torch.ones(2, 8, 10, dtype=torch.bool)
    valid[:, :5] = False
    numbers = components(replace(batch, valid=valid), 0)[1]
    assert (numbers > 0).sum() == 9


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_unmoved_it_is_classmix(seed, padded):
    batch = make_batch(seed, count=4, height=13, width=18, padded=padded)
    mixer = CopyPaste(scale=(1.0, 1.0), min_area=0.0, flip=0.0)
    draws = mixer.draw(batch, seeded(seed))
    numbers = components(batch, 0)
    draws["keep"] = [torch.arange(1, 1 + numbers[row].max()) for row in draws["src"].tolist()]
    plan = mixer.plan_from(batch, draws)
    scores = torch.rand(4, CLASSES + 1, generator=seeded())
    rows = {"base": draws["base"], "src": draws["src"], "scores": scores}
    expected = ClassMix(draw="all_fg").plan_from(batch, rows)
    assert plan.weight.any()
    assert torch.equal(plan.weight, expected.weight)
    for rule in ("visible", "union", "area"):
        ours, theirs = (apply_mix(batch, one, label_rule=rule) for one in (plan, expected))
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.dense["rs"], theirs.dense["rs"])
        assert torch.equal(ours.labels, theirs.labels)


def test_chosen_objects_only():
    batch = two_images(BLOBS)
    plan = CopyPaste(min_area=0.0).plan_from(batch, draws_of([0], [1], [[1, 3]]))
    out = apply_mix(batch, plan)
    pasted = torch.as_tensor((BLOBS == 1) | (BLOBS == 2)) & (torch.arange(8) >= 5)[:, None]
    pasted |= torch.as_tensor(BLOBS == 1)
    assert torch.equal(plan.weight[0, 0].bool(), pasted)
    assert plan.src_classes.tolist() == [[True, True, False, False]]
    assert torch.equal(out.images[0][:, pasted], batch.images[1][:, pasted])
    assert torch.equal(out.images[0][:, ~pasted], batch.images[0][:, ~pasted])
    assert out.labels.tolist() == [[1, 1, 0, 0]]


def test_mirror_by_hand():
    batch = two_images(BLOBS)
    plan = CopyPaste(min_area=0.0).plan_from(batch, draws_of([0], [1], [[1]], flip=True))
    out = apply_mix(batch, plan)
    assert torch.equal(plan.weight[0, 0], torch.as_tensor(BLOBS == 1).float().flip(-1))
    assert torch.equal(plan.src_view.images[0], batch.images[1].flip(-1))
    assert torch.equal(out.mask[0], torch.as_tensor(np.where(BLOBS == 1, 1, 0)).flip(-1))


@pytest.mark.parametrize(
    ("scale", "shift", "expected"),
    [
        (1.0, 0.7, [0, 1, 2, 3]),
        (0.5, 0.0, [0.5, 2.5, 4.5, 6.5]),  # the source fills the first half
        (0.5, 1.0, [-3.5, -1.5, 0.5, 2.5]),
        (2.0, 0.0, [-0.25, 0.25, 0.75, 1.25]),
        (2.0, 1.0, [1.75, 2.25, 2.75, 3.25]),
    ],
)
def test_positions(scale, shift, expected):
    at = positions(4, torch.tensor([scale]), torch.tensor([shift]))
    assert at.tolist() == [pytest.approx(expected)]


def test_take_nearest_and_linear_by_hand():
    values = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    rows, cols = torch.tensor([[0.0, 1, 2]]), torch.tensor([[-0.5, 0.4, 1.6, 2.5]])
    near = take_nearest(values, rows, cols, -7)
    assert near.tolist() == [[[1, 1, 3, -7], [4, 4, 6, -7], [-7, -7, -7, -7]]]
    rows, cols = torch.tensor([[0.25, 5.0]]), torch.tensor([[0.5, 9.0, 1.0]])
    linear = take_linear(values[:, None], rows, cols)
    assert linear.tolist() == [[[[2.25, 3.75, 2.75], [4.5, 6.0, 5.0]]]]


def test_half_size_by_hand():
    """Scale 1/2, flush with the lower right corner: four quarters of the source's blocks."""
    mask = np.zeros((8, 8), np.int64)
    mask[4:8, 0:4] = 3
    batch = two_images(mask)
    draws = draws_of([0], [1], [[1]], scale=0.5, shift=(1.0, 1.0))
    plan = CopyPaste(min_area=0.0).plan_from(batch, draws)
    expected = torch.zeros(8, 8)
    expected[6:8, 4:6] = 1
    assert torch.equal(plan.weight[0, 0], expected)
    means = torch.nn.functional.avg_pool2d(batch.images[1], 2)  # positions half between pixels
    assert torch.allclose(plan.src_view.images[0][:, 4:, 4:], means)
    assert (plan.src_view.mask[0, :4] == IGNORE).all()


def test_what_leaves_the_frame_gives_no_label():
    mask = np.zeros((8, 8), np.int64)
    mask[0:3, 0:3] = 2
    batch = two_images(mask)
    draws = draws_of([0], [1], [[1]], scale=2.0, shift=(1.0, 1.0))
    plan = CopyPaste().plan_from(batch, draws)
    assert not plan.weight.any()
    assert not plan.src_classes.any()
    assert apply_mix(batch, plan).labels.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_pasted_pixels_are_labelled_foreground(seed, padded):
    batch = make_batch(seed, count=5, height=23, width=31, padded=padded)
    plan = CopyPaste().plan(batch, seeded(seed))
    pasted = plan.weight[:, 0].bool()
    shown = plan.src_view.mask[pasted]
    assert ((shown > 0) & (shown != IGNORE)).all()
    for row in range(5):
        classes = plan.src_view.mask[row][pasted[row]].unique()
        assert plan.src_classes[row].nonzero()[:, 0].tolist() == (classes - 1).tolist()
        assert (plan.src_view.labels[row][classes - 1] > 0).all()
    out = apply_mix(batch, plan)
    assert torch.equal(out.images.permute(0, 2, 3, 1)[~pasted],
                       batch.images.permute(0, 2, 3, 1)[~pasted])  # fmt: skip
    assert ((out.mask[pasted] > 0) & (out.mask[pasted] != IGNORE)).all()


def test_subsets_have_uniform_sizes():
    batch = two_images(BLOBS)
    batch = batch_of(batch, [1] * 600)
    keep = CopyPaste(min_area=0.0).draw(batch, seeded())["keep"]
    sizes = torch.tensor([len(numbers) for numbers in keep]).bincount()
    assert sizes[0] == 0
    assert (sizes[1:] - 150).abs().max() < 45
    members = torch.cat(keep).bincount(minlength=5)
    assert members[0] == 0
    assert (members[1:] - 375).abs().max() < 50


def batch_of(batch, rows):
    layer = batch.pick(torch.tensor(rows))
    return MixBatch(layer.images, layer.labels, layer.mask)


def test_scales_are_logarithmic():
    scale = CopyPaste().draw(make_batch(count=400), seeded())["scale"].log()
    assert -math.log(2) <= scale.min() < -0.6
    assert 0.6 < scale.max() <= math.log(2)
    assert abs(scale.mean()) < 0.07


@pytest.mark.parametrize("case", ["one image", "no labels", "all ignored", "all background"])
def test_nothing_to_paste(case):
    batch = make_batch(count=1 if case == "one image" else 3, per_image=2)
    if case == "no labels":
        batch = make_batch(per_image=0)
    elif case != "one image":
        mask = torch.full_like(batch.mask, IGNORE if case == "all ignored" else 0)
        batch = replace(batch, mask=mask)
    plan = CopyPaste().plan(batch, seeded())
    out = apply_mix(batch, plan)
    assert not plan.weight.any()
    for ours, before in ((out.images, batch.images), (out.labels, batch.labels),
                         (out.mask, batch.mask)):  # fmt: skip
        assert torch.equal(ours, before)


def test_same_seed_same_plan_and_nothing_else_moves():
    batch = make_batch(per_image=2)
    copies = [batch.images.clone(), batch.mask.clone(), batch.dense["rs"].clone()]
    state = torch.get_rng_state()
    first, second = (CopyPaste().plan(batch, seeded(5)) for _ in range(2))
    other = CopyPaste().plan(batch, seeded(6))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.src_view.images, other.src_view.images)
    assert torch.equal(CopyPaste().plan_from(batch, first.info).weight, first.weight)
    assert torch.equal(torch.get_rng_state(), state)
    for before, after in zip(copies, (batch.images, batch.mask, batch.dense["rs"])):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "settings", [{"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"min_area": 2.0}, {"flip": -0.1}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match="copypaste: "):
        CopyPaste(**settings)


def test_needs_masks():
    with pytest.raises(UserError, match="CopyPaste needs `mask`"):
        CopyPaste().plan(replace(make_batch(), mask=None), seeded())
