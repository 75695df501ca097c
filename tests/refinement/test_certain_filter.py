import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsssbench.errors import UserError
from wsssbench.refinement.certain_filter import BACKGROUND, IGNORE, certain_filter, shares

STEADY = settings(deadline=None, derandomize=True, max_examples=60)
SCORES = st.sampled_from([0.0, 0.05, 0.1, 0.11, 0.3, 0.54, 0.55, 0.56, 0.9, 1.0])


@st.composite
def batches(draw):
    """(maps (B, K, H, W) with ties, labels (B, K), valid (B, H, W))."""
    count, k, height, width = (draw(st.integers(1, most)) for most in (3, 4, 4, 5))
    maps = draw(arrays(np.float32, (count, k, height, width), elements=SCORES.map(np.float32)))
    labels = draw(arrays(bool, (count, k)))
    valid = draw(arrays(bool, (count, height, width)))
    return torch.from_numpy(maps), torch.from_numpy(labels), torch.from_numpy(valid)


def pixel_by_pixel(maps, labels, valid):
    """The definition, one pixel after the other."""
    result = torch.full((len(maps), *maps.shape[2:]), IGNORE)
    for b, y, x in torch.nonzero(valid).tolist():
        present = torch.nonzero(labels[b] > 0).flatten().tolist()
        score, best = max(((maps[b, c, y, x].item(), -c) for c in present), default=(0.0, 0))
        if score >= np.float32(0.55):
            result[b, y, x] = 1 - best
        elif score <= np.float32(0.10):
            result[b, y, x] = BACKGROUND
    return result


def test_limits():
    maps = torch.tensor([0.56, 0.55, 0.54, 0.11, 0.10, 0.09]).view(1, 1, 1, 6)
    mask = certain_filter(maps, torch.tensor([[True]]))
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[[1, 1, IGNORE, IGNORE, BACKGROUND, BACKGROUND]]]


def test_the_larger_of_two_classes_decides_and_the_lower_id_at_equality():
    maps = torch.tensor([[[0.6, 0.9, 0.7, 0.3]], [[0.9, 0.6, 0.7, 0.2]]])[None]
    assert certain_filter(maps, torch.ones(1, 2)).tolist() == [[[2, 1, 1, IGNORE]]]


def test_absent_classes_never_win():
    maps = torch.tensor([[[1.0, 1.0]], [[0.6, 0.05]], [[0.9, 0.9]]])[None].repeat(2, 1, 1, 1)
    mask = certain_filter(maps, torch.tensor([[0.0, 0.3, 0.0], [1.0, 0.0, 1.0]]))
    assert mask.tolist() == [[[2, BACKGROUND]], [[1, 1]]]


def test_images_without_classes_are_background():
    maps = torch.ones(2, 3, 2, 2)
    assert (certain_filter(maps, torch.zeros(2, 3)) == BACKGROUND).all()
    mask = certain_filter(maps, torch.tensor([[0, 0, 0], [0, 0, 1]]))
    assert (mask[0] == BACKGROUND).all()
    assert (mask[1] == 3).all()
    assert certain_filter(maps[:0], torch.zeros(0, 3)).shape == (0, 2, 2)


@STEADY
@given(batches())
def test_equals_the_definition(batch):
    maps, labels, valid = batch
    copies = [value.clone() for value in batch]
    mask = certain_filter(maps, labels, valid=valid)
    assert torch.equal(mask, pixel_by_pixel(maps, labels, valid))
    assert torch.equal(mask, certain_filter(maps, labels.float(), valid=valid))
    singles = [
        certain_filter(maps[i : i + 1], labels[i : i + 1], valid=valid[i : i + 1])
        for i in range(len(maps))
    ]
    assert torch.equal(mask, torch.cat(singles))
    assert all(torch.equal(*pair) for pair in zip(batch, copies, strict=True))


@STEADY
@given(batches())
def test_half_precision_maps_mean_what_they_say(batch):
    maps, labels, _ = batch
    for dtype in (torch.float16, torch.bfloat16):
        low = maps.to(dtype)
        assert torch.equal(certain_filter(low, labels), certain_filter(low.float(), labels))


def test_other_limits():
    maps = torch.tensor([0.2, 0.5, 0.8]).view(1, 1, 1, 3)
    present = torch.tensor([[True]])
    assert certain_filter(maps, present, certain=0.5, uncertain=0.5).tolist() == [[[0, 1, 1]]]
    assert certain_filter(maps, present, certain=0.8, uncertain=0).tolist() == [[[255, 255, 1]]]


def test_no_number_is_uncertain_and_no_gradient_is_kept():
    maps = torch.tensor([float("nan"), 0.9]).view(1, 1, 1, 2).requires_grad_()
    mask = certain_filter(maps, torch.tensor([[1]]))
    assert mask.tolist() == [[[IGNORE, 1]]]
    assert not mask.requires_grad


def test_guard_against_an_empty_map():
    maps = torch.tensor([[[0.9, 0.3, 0.0]], [[0.0, 0.0, 0.0]]])[None].repeat(3, 1, 1, 1)
    maps[2, 1, 0, 2] = 0.01
    labels = torch.tensor([[1, 1], [1, 0], [1, 1]])
    mask = certain_filter(maps, labels, guard_empty=True)
    assert mask.tolist() == [[[1, 255, 255]], [[1, 255, 0]], [[1, 255, 0]]]
    assert certain_filter(maps, labels)[0].tolist() == [[1, 255, 0]]
    valid = torch.tensor([True, True, False]).expand(3, 1, 3)
    maps[:, 0, 0, 1] = 0.05
    mask = certain_filter(maps, labels, guard_empty=True, valid=valid)
    assert mask.tolist() == [[[1, 255, 255]], [[1, 0, 255]], [[1, 255, 255]]]


def test_shares():
    mask = torch.tensor([[[0, 0, 3, 255], [255, 1, 0, 255]]])
    valid = torch.tensor([[[True, True, True, True], [True, False, False, False]]])
    assert [value.item() for value in shares(mask)] == pytest.approx([2 / 8, 3 / 8, 3 / 8])
    assert [value.item() for value in shares(mask, valid)] == pytest.approx([0.2, 0.4, 0.4])
    assert [value.item() for value in shares(mask, torch.zeros_like(valid))] == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"maps": torch.ones(2, 4, 4)}, r"\(B, K, H, W\)"),
        ({"maps": torch.ones(1, 2, 4, 4, dtype=torch.int64)}, "floating point"),
        ({"labels": torch.ones(1, 3)}, r"\(1, 2\)"),
        ({"valid": torch.ones(1, 4, 5, dtype=torch.bool)}, r"\(1, 4, 4\)"),
        ({"valid": torch.ones(1, 4, 4)}, "bool"),
        ({"maps": torch.ones(1, 255, 1, 1), "labels": torch.ones(1, 255)}, "254 classes"),
        ({"certain": 0.05}, "uncertain <= certain"),
        ({"certain": 1.1}, "certain = 1.1"),
        ({"certain": 0, "uncertain": 0}, "certain > 0"),
        ({"uncertain": -0.1}, "uncertain = -0.1"),
    ],
)
def test_wrong_arguments(change, text):
    arguments = {"maps": torch.ones(1, 2, 4, 4), "labels": torch.ones(1, 2), **change}
    with pytest.raises(UserError, match=text):
        certain_filter(**arguments)
