import numpy as np
import pytest
import torch
from toys import make_folder

from wsssbench.data.folder import Folder
from wsssbench.data.palette import read_mask
from wsssbench.engine.inference import store_maps, to_mask
from wsssbench.errors import UserError
from wsssbench.evaluation.reading import StoredMaps
from wsssbench.refinement.dense_crf import PARAMETER_SETS, crf_labels, crf_scores
from wsssbench.stages.crf import ON_LABELS, sharpen_all, sharpen_maps, sharpen_mask, sharpen_scores

SIZE = (37, 45)  # no multiple of 4
SETS = sorted(PARAMETER_SETS)


def image(boxes):
    """Grey noise with a box per (colour channel, top, left, side)."""
    pixels = np.random.default_rng(0).integers(100, 120, (*SIZE, 3)).astype(np.uint8)
    for channel, top, left, side in boxes:
        pixels[top : top + side, left : left + side] = 20
        pixels[top : top + side, left : left + side, channel] = 240
    return pixels


def box(top, left, side):
    inside = np.zeros(SIZE, bool)
    inside[top : top + side, left : left + side] = True
    return inside


ONE = image([(0, 6, 8, 14)])
TWO = image([(0, 6, 8, 14), (1, 18, 26, 12)])
FIRST, SECOND = box(6, 8, 14), box(18, 26, 12)


def stored(keys, maps, gated=None, size=SIZE):
    maps = np.asarray(maps, np.float16).reshape(len(keys), *np.shape(maps)[-2:])
    gated = np.ones(len(keys), bool) if gated is None else np.asarray(gated)
    return StoredMaps(np.asarray(keys, np.int16), maps, gated, size)


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize("iterations", [1, None])
@pytest.mark.parametrize("name", SETS)
def test_the_only_class_of_an_image_survives(name, iterations):
    maps = np.where(FIRST, 0.8, 0.05)
    found = sharpen_maps(ONE, stored([2], [maps]), 0.3, name, iterations)
    assert set(np.unique(found)) == {0, 2}
    assert iou(found == 2, FIRST) > 0.9


@pytest.mark.parametrize("name", SETS)
def test_class_ids_are_those_of_the_maps_in_any_order(name):
    maps = [np.where(SECOND, 0.8, 0.05), np.where(FIRST, 0.7, 0.05)]
    found = sharpen_maps(TWO, stored([19, 7], maps), 0.3, name, 1)
    assert found.dtype == np.uint8
    assert found.shape == SIZE
    assert set(np.unique(found)) == {0, 7, 19}
    assert iou(found == 19, SECOND) > 0.9
    assert iou(found == 7, FIRST) > 0.9
    swapped = sharpen_maps(TWO, stored([7, 19], maps[::-1]), 0.3, name, 1)
    assert np.array_equal(found, swapped)


@pytest.mark.parametrize("name", SETS)
def test_without_classes_all_is_background(name):
    nothing = stored([], np.zeros((0, *SIZE)))
    assert not sharpen_maps(ONE, nothing, 0.3, name, None).any()
    closed = stored([1], [np.where(FIRST, 0.9, 0)], gated=[False])
    assert not sharpen_maps(ONE, closed, 0.3, name, None).any()


def test_only_gated_maps_take_part():
    maps = [np.where(FIRST, 0.8, 0.05), np.where(SECOND, 0.9, 0.05)]
    both = sharpen_maps(TWO, stored([1, 2], maps, gated=[True, False]), 0.3, "irn", 1)
    alone = sharpen_maps(TWO, stored([1], maps[:1]), 0.3, "irn", 1)
    assert np.array_equal(both, alone)
    assert set(np.unique(both)) == {0, 1}


def test_irn_sharpens_the_mask_and_the_others_the_scores():
    assert ON_LABELS == ("irn",)
    given = stored([1, 2], [np.where(FIRST, 0.6, 0.25), np.where(SECOND, 0.5, 0.1)])
    mask = torch.from_numpy(to_mask(given, 0.3).astype(np.int64))
    by_hand = crf_labels(TWO, mask, 3, "irn", iterations=1)
    assert np.array_equal(sharpen_maps(TWO, given, 0.3, "irn", 1), by_hand.numpy())
    maps = torch.from_numpy(given.maps.astype(np.float32))
    scores = torch.cat([torch.full((1, *SIZE), 0.3), maps])
    by_hand = crf_scores(TWO, scores, "psa").argmax(0)
    assert np.array_equal(sharpen_maps(TWO, given, 0.3, "psa", None), by_hand.numpy())


def test_no_iteration_leaves_the_mask_as_it_is():
    given = stored([1, 2], [np.where(FIRST, 0.6, 0.25), np.where(SECOND, 0.5, 0.1)])
    for name in SETS:
        assert np.array_equal(sharpen_maps(TWO, given, 0.3, name, 0), to_mask(given, 0.3)), name


def test_a_coarse_map_gets_the_edges_of_the_image():
    """A map at stride 4 whose object is shifted; the CRF finds the object's own outline."""
    full = np.where(np.roll(FIRST, (1, 2), (0, 1)), 0.8, 0.05)
    small = full[1::4, 1::4][: -(-SIZE[0] // 4), : -(-SIZE[1] // 4)]
    given = stored([1], [small])
    before = to_mask(given, 0.3) == 1
    after = sharpen_maps(ONE, given, 0.3, "deeplab", None) == 1
    assert before.shape == after.shape == SIZE
    assert iou(after, FIRST) > max(0.95, iou(before, FIRST))


def test_scores_with_classes_that_are_nowhere():
    scores = torch.zeros(6, *SIZE)
    scores[3] = torch.from_numpy(np.where(FIRST, 0.9, 0.01))
    scores[5] = 0.04  # nowhere at least .05
    scores[0] = 1 - scores.sum(0)
    found = sharpen_scores(ONE, scores, "deeplab", None)
    assert set(np.unique(found)) == {0, 3}
    by_hand = crf_scores(ONE, scores[[0, 3]], "deeplab").argmax(0).numpy()
    assert np.array_equal(found == 3, by_hand == 1)
    everything = sharpen_scores(ONE, scores, "deeplab", None, least=0.0)
    assert np.array_equal(found, everything)


def test_scores_without_any_class_or_background():
    nothing = torch.zeros(4, *SIZE)
    nothing[0] = 1
    assert not sharpen_scores(ONE, nothing, "deeplab", None).any()
    full = torch.zeros(4, *SIZE)
    full[2] = 1
    assert (sharpen_scores(ONE, full, "deeplab", None) == 2).all()


@pytest.mark.parametrize("name", SETS)
def test_masks_keep_their_classes_and_what_is_ignored(name):
    mask = np.where(FIRST, 7, np.where(SECOND, 19, 0)).astype(np.uint8)
    mask[0] = 255
    found = sharpen_mask(TWO, mask, name, 1)
    assert set(np.unique(found)) == {0, 7, 19, 255}
    assert np.array_equal(found == 255, mask == 255)
    assert iou(found == 7, FIRST) > 0.9
    assert iou(found == 19, SECOND) > 0.9
    assert not sharpen_mask(TWO, np.zeros(SIZE, np.uint8), name, 1).any()
    assert (sharpen_mask(TWO, np.full(SIZE, 7, np.uint8), name, 1) == 7).all()


def test_all_of_a_list(tmp_path):
    folder = Folder(make_folder(tmp_path / "toy", images=4, size=SIZE))
    ids = ["im002", "im000"]
    for name in ids:
        keys = np.flatnonzero(folder.label(name)) + 1
        truth = folder.mask(name)
        maps = np.stack([np.where(truth == key, 0.7, 0.1) for key in keys])
        store_maps(tmp_path / "maps" / f"{name}.npz", keys, torch.from_numpy(maps), SIZE)
    out = tmp_path / "out" / "train" / "masks"
    sharpen_all(folder, ids, tmp_path / "maps", out, 0.3, "irn", 1)
    assert sorted(path.name for path in out.iterdir()) == ["im000.png", "im002.png"]
    for name in ids:
        assert iou(read_mask(out / f"{name}.png") > 0, folder.mask(name) > 0) > 0.8
    with pytest.raises(UserError, match=r"im003\.npz do not exist"):
        sharpen_all(folder, ["im003"], tmp_path / "maps", out, 0.3, "irn", 1)
