"""The drawn set on disk: the same bytes every time, whole files, resumed after an interruption."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsssbench.data import layout
from wsssbench.data.palette import read_mask
from wsssbench.data.scenes import draw_scene, prepare, read_hidden
from wsssbench.data.scenes import prepare as prepare_function
from wsssbench.data.scenes.settings import make_settings
from wsssbench.errors import UserError

module = sys.modules[prepare_function.__module__]
FEW = {"size": 40, "train": 6, "val": 3, "holdout": 2, "classes": 4}


def contents(root):
    """SHA-256 of each file by its relative name."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    prepare(root, **FEW)
    return root


def test_folder_is_complete_and_says_the_same_everywhere(drawn):
    classes = layout.read_classes(drawn)
    assert len(classes) == 4
    labels = layout.read_labels(drawn, classes)
    assert layout.splits(drawn) == ["holdout", "train", "val"]
    ids = {split: layout.read_ids(drawn, split) for split in layout.splits(drawn)}
    assert [len(ids[split]) for split in ("train", "val", "holdout")] == [6, 3, 2]
    everything = [name for names in ids.values() for name in names]
    assert len(set(everything)) == 11
    assert sorted(everything) == sorted(labels) == sorted(layout.index_images(drawn))
    for name in everything:
        mask = read_mask(drawn / "SegmentationClass" / f"{name}.png")
        assert [classes[i - 1] for i in np.unique(mask) if 0 < i < 255] == labels[name]
        assert {key: layer.shape for key, layer in read_hidden(drawn, name).items()} == {
            key: (40, 40) for key in ("part", "companion", "instance")
        }


def test_files_hold_what_was_drawn(drawn):
    scene = draw_scene(make_settings(FEW), "val", 1)
    assert np.array_equal(read_mask(drawn / "SegmentationClass/val_00001.png"), scene.mask)
    hidden = read_hidden(drawn, "val_00001")
    for name in ("part", "companion", "instance"):
        assert np.array_equal(hidden[name], getattr(scene, name))
        assert hidden[name].dtype == getattr(scene, name).dtype
    image = cv2.imread(str(drawn / "JPEGImages/val_00001.jpg"))[..., ::-1]
    assert np.abs(image.astype(int) - scene.image).mean() < 8
    with pytest.raises(UserError, match="Only a scenes folder"):
        read_hidden(drawn, "val_99999")


def test_another_run_and_another_process_write_the_same_bytes(drawn, tmp_path):
    prepare(tmp_path / "here", **FEW)
    assert contents(tmp_path / "here") == contents(drawn)
    code = (
        "import cv2, sys; cv2.setNumThreads(3);"
        "from wsssbench.data.scenes import prepare; prepare(sys.argv[1], **eval(sys.argv[2]))"
    )
    there = tmp_path / "there"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, there, repr(FEW)], check=True, env=environment)
    assert contents(there) == contents(drawn)


def test_more_images_leave_the_others_as_they_are(drawn, tmp_path):
    prepare(tmp_path / "more", **{**FEW, "train": 8, "val": 4})
    more = contents(tmp_path / "more")
    for name, digest in contents(drawn).items():
        if "/" in name and "ImageSets" not in name:
            assert more[name] == digest


def test_seed_changes_the_pictures(drawn, tmp_path):
    prepare(tmp_path / "other", **FEW, seed=1)
    name = "JPEGImages/train_00000.jpg"
    assert contents(tmp_path / "other")[name] != contents(drawn)[name]


def test_second_call_draws_nothing(drawn, monkeypatch):
    before = contents(drawn)
    times = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    monkeypatch.setattr(module, "draw_scene", None)
    prepare(drawn, **FEW)
    assert contents(drawn) == before
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == times


def test_other_settings_replace_the_set_cleanly(drawn, tmp_path):
    root = tmp_path / "set"
    prepare(root, **{**FEW, "train": 9, "holdout": 1, "contrast": 0.5, "seed": 4})
    (root / "notes.txt").write_text("mine")
    prepare(root, **FEW)
    assert (root / "notes.txt").read_text() == "mine"
    (root / "notes.txt").unlink()
    assert contents(root) == contents(drawn)


@pytest.mark.parametrize("step", ["draw_scene", "write_mask"])
def test_interrupted_drawing_is_taken_up_again(drawn, tmp_path, monkeypatch, step):
    root = tmp_path / "set"
    original, calls = getattr(module, step), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(root, **FEW)
    finished = contents(drawn)
    assert all(finished[name] == digest for name, digest in contents(root).items())
    assert len(list((root / "SegmentationClass").iterdir())) == 4
    assert not (root / "labels.csv").exists()

    (root / "JPEGImages/.train_00004.jpg.x7").write_bytes(b"half")  # what kill -9 leaves behind
    calls.clear()
    monkeypatch.setattr(module, "draw_scene", _counting(module.draw_scene, calls))
    prepare(root, **FEW)
    assert len(calls) == 11 - 4
    assert contents(root) == finished


def _counting(function, calls):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_a_lost_file_is_drawn_again(drawn, tmp_path):
    prepare(tmp_path, **FEW)
    (tmp_path / "Hidden/train_00002.npz").unlink()
    (tmp_path / "ImageSets/Segmentation/val.txt").unlink()
    prepare(tmp_path, **FEW)
    assert contents(tmp_path) == contents(drawn)


def test_interrupted_replacement_keeps_the_folder_usable(drawn, tmp_path, monkeypatch):
    root = tmp_path / "set"
    prepare(root, **FEW, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare(root, **FEW)
    prepare(root, **FEW)
    assert contents(root) == contents(drawn)


def test_what_cannot_be_removed_is_named(tmp_path, monkeypatch):
    prepare(tmp_path, **FEW)
    monkeypatch.setattr(module.shutil, "rmtree", _raise(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match=r"Cannot replace .*JPEGImages"):
        prepare(tmp_path, **FEW, seed=3)


def _raise(error):
    def function(*_):
        raise error

    return function


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/holiday.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="holds JPEGImages that scenes did not draw"):
        prepare(tmp_path, **FEW)
    assert list(contents(tmp_path)) == ["JPEGImages/holiday.jpg"]

    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(UserError, match="is a file"):
        prepare(file, **FEW)

    strange = tmp_path / "strange"
    strange.mkdir()
    for text in ("{", json.dumps({"mine": 1}), "[]"):
        (strange / "settings.json").write_text(text)
        with pytest.raises(UserError, match="Name a new folder"):
            prepare(strange, **FEW)
        assert (strange / "settings.json").read_text() == text


def test_bad_settings_touch_nothing(drawn):
    before = contents(drawn)
    with pytest.raises(UserError, match="Did you mean 'holdout'"):
        prepare(drawn, **FEW, holdot=3)
    assert contents(drawn) == before


def test_contents_are_chosen_for_all_pictures_in_turn(drawn, tmp_path):
    few = {"size": 40, "train": 8, "val": 0, "holdout": 0, "classes": 4}
    labels = {}
    for name in ("singles", "pairs"):
        prepare(tmp_path / name, contents=name, **few)
        rows = layout.read_labels(tmp_path / name, layout.read_classes(tmp_path / name))
        labels[name] = list(rows.values())
    red, blue, yellow, green = layout.read_classes(drawn)
    assert labels["singles"] == [[red], [blue], [yellow], [green]] * 2
    assert labels["pairs"][:2] == [[red, green], [blue, yellow]]
    assert "contents" not in json.loads((drawn / "settings.json").read_text())
    with pytest.raises(UserError, match="Did you mean 'pairs'"):
        prepare(tmp_path / "x", contents="pair", **few)
    with pytest.raises(UserError, match="all classes are medium"):
        prepare(tmp_path / "x", contents="pairs", medium=4, **few)


def test_splits_without_images_have_no_list(tmp_path):
    prepare(tmp_path, size=32, train=2, val=0, holdout=0)
    assert layout.splits(tmp_path) == ["train"]


def test_sizes_may_differ_and_knobs_come_from_json(tmp_path):
    values = json.loads('{"size": [32, 44], "scale": [0.3, 0.4], "train": 2, "val": 0}')
    prepare(tmp_path, **values, holdout=0)
    assert cv2.imread(str(tmp_path / "JPEGImages/train_00001.jpg")).shape == (32, 44, 3)
    before = contents(tmp_path)
    prepare(tmp_path, **{**values, "scale": (0.3, 0.4), "size": (32, 44)}, holdout=0)
    assert contents(tmp_path) == before
