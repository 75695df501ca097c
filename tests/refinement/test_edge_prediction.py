from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsssbench.errors import UserError
from wsssbench.refinement import edge_prediction
from wsssbench.refinement.certain_filter import certain_filter
from wsssbench.refinement.edge_prediction import edge_map, edge_predict, fill_regions

STEADY = settings(deadline=None, derandomize=True, max_examples=60)


@pytest.fixture(scope="module")
def golden():
    """See `ep_ccl.md`."""
    path = Path(__file__).parents[1] / "golden" / "ep_ccl.npz"
    with np.load(path) as stored:
        return dict(stored)


@pytest.fixture
def threads(monkeypatch):
    """A pool even on one core."""
    edge_prediction._pool.cache_clear()
    monkeypatch.setattr(edge_prediction, "cpus", lambda: 3)
    yield
    edge_prediction._pool.cache_clear()


def region_by_region(labels, edge):
    """The region rule as plainly as possible: flood each region, sort its values, count."""
    filled, seen = labels.copy(), edge != 0
    height, width = labels.shape
    for start in zip(*np.nonzero(~seen), strict=True):
        if seen[start]:
            continue
        seen[start] = True
        region = [start]
        for y, x in region:
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= near[0] < height and 0 <= near[1] < width and not seen[near]:
                    seen[near] = True
                    region.append(near)
        inside = [int(labels[place]) for place in region]
        winner = min(set(inside), key=lambda value: (-inside.count(value), value))
        for place, value in zip(region, inside, strict=True):
            filled[place] = winner if value == 255 else value
    filled[(edge != 0) & (labels == 0)] = 255
    return filled


def labels_and_edges(*values):
    shapes = st.tuples(st.integers(1, 7), st.integers(1, 8))
    return shapes.flatmap(
        lambda shape: st.tuples(
            arrays(np.uint8, shape, elements=st.sampled_from([0, 255, *values])),
            arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 255])),
        )
    )


def score_maps(seed, count=3, k=4, size=(37, 45), noise=0.1):
    """(maps (B, K, H, W), labels (B, K)): blurred discs with noise; labels of 0, 1, … classes."""
    rng = np.random.default_rng(seed)
    maps = np.zeros((count, k, *size), np.float32)
    for score in maps.reshape(-1, *size):
        centre = tuple(int(rng.integers(side)) for side in size[::-1])
        cv2.circle(score, centre, int(rng.integers(4, 16)), 1.0, -1)
        score[:] = cv2.GaussianBlur(score, (0, 0), 2)
    maps += noise * rng.standard_normal(maps.shape).astype(np.float32)
    labels = np.arange(k) < np.arange(count)[:, None]
    return torch.from_numpy(maps.clip(0, 1)), torch.from_numpy(rng.permuted(labels, axis=1))


def test_ring_by_hand():
    edge = np.zeros((7, 7), np.uint8)
    edge[1:6, 1:6] = 255
    edge[2:5, 2:5] = 0
    labels = np.zeros((7, 7), np.uint8)
    labels[2:5, 2:5] = np.array([[3, 255, 3], [255, 3, 255], [3, 255, 3]])
    labels[0, 3] = 255
    labels[1, 1], labels[1, 2], labels[1, 3] = 0, 3, 255
    filled = fill_regions(labels, edge)
    assert (filled[2:5, 2:5] == 3).all()
    outside = np.ones((7, 7), bool)
    outside[1:6, 1:6] = False
    assert outside.sum() == 24
    assert (filled[outside] == 0).all()
    assert filled[1, 1:4].tolist() == [255, 3, 255]
    assert (filled[(edge != 0) & (labels == 0)] == 255).all()


def test_without_edges_the_whole_picture_is_one_region():
    labels = np.array([[7, 7, 255], [0, 7, 255]], np.uint8)
    assert fill_regions(labels, np.zeros_like(labels)).tolist() == [[7, 7, 7], [0, 7, 7]]


def test_uncertain_pixels_vote_and_equality_goes_to_the_smallest_value():
    none = np.zeros((1, 5), np.uint8)
    for before, after in [
        ([255, 255, 3, 3, 9], [3, 3, 3, 3, 9]),
        ([255, 9, 3, 3, 9], [3, 9, 3, 3, 9]),
        ([255, 0, 3, 3, 0], [0, 0, 3, 3, 0]),
        ([255, 255, 255, 3, 9], [255, 255, 255, 3, 9]),
    ]:
        assert fill_regions(np.array([before], np.uint8), none).tolist() == [after]


def test_regions_do_not_meet_at_corners():
    edge = np.array([[0, 255], [255, 0]], np.uint8)
    labels = np.array([[5, 5], [0, 255]], np.uint8)
    assert fill_regions(labels, edge).tolist() == [[5, 5], [255, 255]]


def test_nothing_is_certain():
    labels = np.full((5, 6), 255, np.uint8)
    edge = np.zeros_like(labels)
    edge[2] = 255
    assert (fill_regions(labels, edge) == 255).all()


@STEADY
@given(labels_and_edges(3), labels_and_edges(*range(1, 255)))
def test_fill_regions_equals_the_flood_fill(few, many):
    for labels, edge in (few, many):
        before = labels.copy(), edge.copy()
        filled = fill_regions(labels, edge)
        np.testing.assert_array_equal(filled, region_by_region(labels, edge))
        np.testing.assert_array_equal(labels, before[0])
        np.testing.assert_array_equal(edge, before[1])
        np.testing.assert_array_equal(
            filled[::-1, ::-1], fill_regions(labels[::-1, ::-1], edge[::-1, ::-1])
        )


@STEADY
@given(labels_and_edges(3, 9))
def test_what_may_change(drawn):
    labels, edge = drawn
    filled = fill_regions(labels, edge)
    changed = filled != labels
    on_edge = edge != 0
    assert (labels[changed & ~on_edge] == 255).all()
    assert (labels[changed & on_edge] == 0).all()
    assert (filled[changed & on_edge] == 255).all()
    assert set(np.unique(filled)) <= {*np.unique(labels), 255}


def test_as_published(golden):
    grey, labels = golden["in_map_u8"], golden["in_label"]
    np.testing.assert_array_equal(edge_map(grey, closing=1), golden["out_edge"])
    np.testing.assert_array_equal(edge_map(grey), golden["in_edge_closed"])
    for edge, expected in [
        ("out_edge", "out_label_open"),
        ("in_edge_closed", "out_label_closed"),
    ]:
        np.testing.assert_array_equal(fill_regions(labels, golden[edge]), golden[expected])
    without = fill_regions(labels, np.zeros_like(labels))
    np.testing.assert_array_equal(without, golden["out_label_noedge"])


@pytest.mark.parametrize(("closing", "expected"), [(1, "out_label_open"), (5, "out_label_closed")])
def test_from_the_maps_as_published(golden, closing, expected):
    maps = torch.rand(1, 12, 57, 70)  # classes that are absent
    maps[0, golden["in_class_keys"] - 1] = torch.from_numpy(golden["in_prob"])
    labels = torch.zeros(1, 12)
    labels[0, golden["in_class_keys"] - 1] = 1
    filtered = certain_filter(maps, labels)[0].numpy()
    np.testing.assert_array_equal(filtered, golden["in_label"])
    refined = edge_predict(maps, labels, closing=closing)
    assert refined.dtype == torch.int64
    np.testing.assert_array_equal(refined[0].numpy(), golden[expected])


@pytest.mark.parametrize("seed", range(4))
def test_is_the_region_rule_on_the_certain_filter(seed):
    maps, labels = score_maps(seed, noise=0.1 * seed)
    masks = edge_predict(maps, labels)
    filtered = certain_filter(maps, labels).byte().numpy()
    for image, present, mask, before in zip(maps, labels, masks.numpy(), filtered, strict=True):
        score = image[present].amax(0) if present.any() else torch.zeros_like(image[0])
        edge = edge_map((255 * score).byte().numpy())
        np.testing.assert_array_equal(mask, region_by_region(before, edge))
        ids = torch.nonzero(present).flatten() + 1
        assert set(np.unique(mask)) <= {0, 255, *ids.tolist()}
        assert not ((mask == 255) & (before != 255) & (edge == 0)).any()
    assert (masks[0] == 0).all()


def test_a_batch_is_its_images_and_inputs_stay(threads):
    maps, labels = score_maps(0, count=5)
    valid = torch.rand(5, 1, 45) < 0.9
    valid = valid.expand(5, 37, 45)
    copies = maps.clone(), labels.clone(), valid.clone()
    for seen in (None, valid):
        masks = edge_predict(maps, labels, valid=seen)
        for index in range(5):
            one = slice(index, index + 1)
            alone = None if seen is None else seen[one]
            assert torch.equal(masks[one], edge_predict(maps[one], labels[one], valid=alone))
    assert all(torch.equal(*pair) for pair in zip((maps, labels, valid), copies, strict=True))


def test_threads_are_kept_between_calls(threads):
    maps, labels = score_maps(1)
    edge_predict(maps, labels)
    edge_predict(maps, labels)
    assert edge_prediction._pool.cache_info().misses == 1


def test_an_error_in_a_thread_comes_back(threads, monkeypatch):
    monkeypatch.setattr(edge_prediction, "edge_map", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        edge_predict(*score_maps(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_mean_what_they_say(dtype):
    maps, labels = score_maps(2)
    maps = maps.to(dtype)
    assert torch.equal(edge_predict(maps, labels), edge_predict(maps.float(), labels))


@STEADY
@given(
    arrays(np.float32, (2, 2, 6, 7), elements=st.sampled_from([0.0, 0.1, 0.4, 0.55, 1.0])),
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(1, 6), st.integers(1, 7)),
)
def test_padding_is_as_if_cut_away(maps, box):
    top, left, height, width = box
    inside = np.s_[..., top : top + height, left : left + width]
    valid = torch.zeros(2, 6, 7, dtype=torch.bool)
    valid[inside] = True
    maps, labels = torch.from_numpy(maps), torch.tensor([[1, 1], [0, 1]])
    masks = edge_predict(maps, labels, valid=valid)
    assert torch.equal(masks[inside], edge_predict(maps[inside], labels))
    assert (masks[~valid] == 255).all()


def test_padding_of_any_shape_does_not_vote():
    valid = torch.ones(1, 40, 40, dtype=torch.bool)
    valid[0, 8:, 8:] = False  # most of the picture
    maps = torch.full((1, 1, 40, 40), 0.08)
    maps[0, 0, :3, :10] = 0.12  # uncertain, and too close to the rest to make an edge
    maps[0, 0, 8:, 8:] = 1.0
    mask = edge_predict(maps, torch.tensor([[1]]), valid=valid)
    assert (mask[valid] == 0).all()
    assert (mask[~valid] == 255).all()
    none = edge_predict(maps, torch.tensor([[1]]), valid=torch.zeros_like(valid))
    assert (none == 255).all()


def test_a_certain_score_of_one_is_not_taken_for_padding():
    maps = torch.ones(1, 1, 6, 6)
    maps[0, 0, 3:] = 1 - 2**-24
    valid = torch.ones(1, 6, 6, dtype=torch.bool)
    valid[0, 0] = False
    limits = {"certain": 1.0, "uncertain": 0.0}
    mask = edge_predict(maps, torch.tensor([[1]]), valid=valid, **limits)
    assert mask[0, :, 0].tolist() == [255, 1, 1, 255, 255, 255]
    maps[0, 0, 3] = 1
    mask = edge_predict(maps, torch.tensor([[1]]), valid=valid, **limits)
    assert mask[0, :, 0].tolist() == [255, 1, 1, 1, 1, 1]


def test_scores_that_are_no_number_join_their_region():
    maps = torch.full((1, 1, 9, 9), 0.05)
    maps[0, 0, 4, 4] = float("nan")
    assert (certain_filter(maps, torch.ones(1, 1))[0, 4, 4] == 255).all()
    assert (edge_predict(maps, torch.ones(1, 1)) == 0).all()


def test_flat_maps():
    labels = torch.tensor([[1, 1]])
    for score, expected in [(0.0, 0), (0.3, 255), (0.6, 1)]:
        mask = edge_predict(torch.full((1, 2, 9, 11), score), labels)
        assert (mask == expected).all()
    assert (edge_predict(torch.ones(1, 2, 9, 11), torch.zeros(1, 2)) == 0).all()


def test_an_object_that_fades_is_filled_up_to_its_outline():
    maps = torch.zeros(1, 1, 60, 60)
    maps[0, 0, 10:50, 10:50] = torch.linspace(0.9, 0.4, 40)
    labels = torch.tensor([[True]])
    filtered, mask = certain_filter(maps, labels)[0], edge_predict(maps, labels)[0]
    assert (filtered[12:48, 40:48] == 255).all()
    assert (mask[12:48, 12:48] == 1).all()
    assert (mask[:6] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 2), (3, 5)])
def test_tiny_images(size):
    maps = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0))
    assert edge_predict(maps, torch.ones(2, 2)).shape == (2, *size)


def test_empty_batches():
    assert edge_predict(torch.zeros(0, 2, 8, 8), torch.zeros(0, 2)).shape == (0, 8, 8)
    assert edge_predict(torch.zeros(2, 2, 0, 8), torch.ones(2, 2)).shape == (2, 0, 8)


def test_wrong_arguments():
    maps, labels = torch.zeros(1, 2, 8, 8), torch.ones(1, 2)
    for change, text in [
        ({"closing": 4}, "odd"),
        ({"closing": 0}, "odd"),
        ({"low": 120}, "low <= high"),
        ({"certain": 2}, "certain = 2"),
        ({"valid": torch.ones(1, 8, 9, dtype=torch.bool)}, "valid"),
    ]:
        with pytest.raises(UserError, match=text):
            edge_predict(maps, labels, **change)
    with pytest.raises(UserError, match="254 classes"):
        edge_predict(torch.zeros(1, 255, 2, 2), torch.ones(1, 255))
    plane = np.zeros((4, 4), np.uint8)
    for call in (
        lambda: edge_map(plane.astype(np.float32)),
        lambda: edge_map(plane[None]),
        lambda: fill_regions(plane.astype(np.int64), plane),
        lambda: fill_regions(plane, plane[:3]),
    ):
        with pytest.raises(UserError):
            call()
