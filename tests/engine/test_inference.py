import jobs
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from toys import make_folder

from wsssbench import models
from wsssbench.data.folder import Folder
from wsssbench.data.palette import read_mask
from wsssbench.engine.inference import to_mask, write_maps, write_masks
from wsssbench.evaluation.reading import StoredMaps, read_maps
from wsssbench.methods import SFC
from wsssbench.params import PseudoMaskSettings


def stored(maps, keys, gated=None, size=None):
    maps = np.asarray(maps, np.float16)
    gated = np.ones(len(keys), bool) if gated is None else np.asarray(gated)
    return StoredMaps(np.asarray(keys, np.int16), maps, gated, size or maps.shape[1:])


def test_mask_by_hand():
    maps = [[[0.2, 0.6, 0.4]], [[0.1, 0.5, 0.9]]]
    assert to_mask(stored(maps, [3, 7]), 0.3).tolist() == [[0, 3, 7]]
    assert to_mask(stored(maps, [3, 7], [False, True]), 0.3).tolist() == [[0, 7, 7]]
    assert to_mask(stored(maps, [3, 7], [False, False]), 0.3).tolist() == [[0, 0, 0]]
    assert to_mask(stored(maps, [3, 7]), 0.5).tolist() == [[0, 3, 7]]


def test_equality_is_background():
    assert to_mask(stored([[[0.5, 0.25]]], [1]), 0.25).tolist() == [[1, 0]]


@given(arrays.arrays(np.float16, (2, 4, 5), elements=st.floats(0, 1, width=16)), st.floats(0, 1))
def test_mask_equals_argmax_with_a_constant_background(maps, threshold):
    constant = np.full((1, 4, 5), np.float32(threshold))
    expected = np.array([0, 2, 5])[np.concatenate([constant, maps.astype(np.float32)]).argmax(0)]
    assert (to_mask(stored(maps, [2, 5]), threshold) == expected).all()


@pytest.fixture
def method():
    torch.manual_seed(0)
    return jobs.build().eval()


def test_maps_of_images_of_several_sizes(tmp_path, method):
    root = make_folder(tmp_path / "toy")
    for name in ("im001", "im004"):
        path = root / "JPEGImages" / f"{name}.png"
        Image.open(path).resize((50, 27)).save(path)
    folder = Folder(root)
    ids = folder.ids("train")
    settings = PseudoMaskSettings(scales=(1.0, 0.5), batch_size=3)
    write_maps(method, folder, "train", tmp_path / "o", settings, jobs.MACHINE, labels_used=True)
    write_masks(tmp_path / "o/cam/train", ids, 0.3)
    for name in ids:
        height, width = folder.image(name).shape[:2]
        found = read_maps(tmp_path / "o/cam/train/maps" / f"{name}.npz")
        assert found.size == (height, width)
        assert found.maps.shape[1:] == (height, width)
        assert found.keys.tolist() == (np.flatnonzero(folder.label(name)) + 1).tolist()
        assert found.gated.all()
        mask = read_mask(tmp_path / "o/cam/train/masks" / f"{name}.png")
        assert mask.shape == (height, width)
    table = pd.read_csv(tmp_path / "o" / "train.csv")
    assert table.id.tolist() == ids
    assert list(table.columns) == ["id", "red", "green"]


def test_batching_does_not_change_maps(toy_root, tmp_path, method):
    folder = Folder(toy_root)
    ids = folder.ids("train")
    method.maps = ("cam", "pamr")
    for batch_size in (1, 4):
        settings = PseudoMaskSettings(scales=(1.0, 2.0), batch_size=batch_size)
        out = tmp_path / str(batch_size)
        write_maps(method, folder, "train", out, settings, jobs.MACHINE, labels_used=True)
    for name in ids:
        for kind in method.maps:
            paths = [tmp_path / n / kind / "train/maps" / f"{name}.npz" for n in ("1", "4")]
            one, four = (read_maps(path).maps for path in paths)
            np.testing.assert_allclose(one, four, atol=2e-3)


def test_without_labels_labelled_classes_are_stored_but_not_gated(toy_root, tmp_path, method):
    folder = Folder(toy_root)
    ids = folder.ids("val")
    settings = PseudoMaskSettings(scales=(1.0,))
    method.conf_threshold = 1.1  # nothing passes
    write_maps(method, folder, "val", tmp_path / "o", settings, jobs.MACHINE, labels_used=False)
    for name in ids:
        found = read_maps(tmp_path / "o/cam/val/maps" / f"{name}.npz")
        assert found.keys.tolist() == (np.flatnonzero(folder.label(name)) + 1).tolist()
        assert not found.gated.any()
        assert (to_mask(found, 0.3) == 0).all()


def test_labels_do_not_touch_the_gated_maps_of_kinds_whose_classes_compete(toy_root, tmp_path):
    torch.manual_seed(0)
    method = SFC(models.build("tiny", output_stride=8), 2, side_widths=(8, 8, 8, 8), pcm_width=8)
    method.eval()
    folder, kept = Folder(toy_root), {}
    settings = PseudoMaskSettings(scales=(1.0,))
    own = [False, True]
    method.own_gate = lambda probabilities: torch.tensor(own).expand_as(probabilities)
    for known in ([False, False], [True, False], [True, True]):
        folder.label = lambda name, known=known: np.array(known, np.float32)
        out = tmp_path / str(known)
        write_maps(method, folder, "val", out, settings, jobs.MACHINE, labels_used=False)
        found = read_maps(out / "fused/val/maps" / f"{folder.ids('val')[0]}.npz")
        assert found.keys.tolist() == [2, *(np.flatnonzero(known) + 1)]
        assert found.gated.tolist() == [True, *[False] * sum(known)]
        kept[tuple(known)] = found.maps
    for maps in kept.values():
        np.testing.assert_array_equal(maps[0], kept[False, False][0])
    both = kept[True, True]
    assert not np.array_equal(both[0], both[2])  # class 2 beside class 1 looks different


def test_image_without_labels_is_all_background(toy_root, tmp_path, method):
    (toy_root / "labels.csv").write_text("id,labels\n")
    folder = Folder(toy_root)
    ids, out = folder.ids("train"), tmp_path / "o/cam/train"
    settings = PseudoMaskSettings(scales=(1.0,))
    write_maps(method, folder, "train", tmp_path / "o", settings, jobs.MACHINE, labels_used=True)
    write_masks(out, ids, 0.1)
    assert all((read_mask(out / "masks" / f"{name}.png") == 0).all() for name in ids)
