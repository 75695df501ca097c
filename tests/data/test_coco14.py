import json
import signal
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
from data_trees import CATEGORIES, child_environment, coco_tree, square

from wsssbench.data import coco14, layout
from wsssbench.data.folder import Folder
from wsssbench.data.verify import verify
from wsssbench.errors import UserError


@pytest.fixture
def tree(tmp_path):
    return coco_tree(tmp_path / "coco")


def prepare(root, tree, **options):
    coco14.prepare(root, archives=tree, workers=1, check_counts=False, **options)
    return Folder(root)


def contents(root):
    names = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in names}


def test_category_ids_become_1_to_k_in_ascending_order():
    ids, names = coco14.category_map(CATEGORIES)
    assert ids == {1: 1, 10: 2, 90: 3}
    assert names == ["person", "traffic_light", "toothbrush"]


def test_masks_by_hand(tree, tmp_path):
    folder = prepare(tmp_path / "set", tree)
    first = folder.mask("COCO_train2014_000000000009")
    expected = np.zeros((10, 12), np.uint8)
    expected[:6, :6] = 1  # the person
    expected[2:4, 2:4] = 3  # the toothbrush is smaller: on top, though listed first
    assert np.array_equal(first, expected)
    second = folder.mask("COCO_train2014_000000000025")
    expected = np.zeros((10, 12), np.uint8)
    expected[:, :2] = 255  # the crowd, run-length coded down the columns
    expected[2:4, 2:4] = 3
    assert np.array_equal(second, expected)
    assert folder.mask("COCO_train2014_000000000030").max() == 0
    light = folder.mask("COCO_val2014_000000000042")
    assert (light == 2).sum() == 9
    assert (light[5:8, 8:11] == 2).all()


def test_an_object_lies_over_a_crowd():
    crowd = {
        "category_id": 1,
        "iscrowd": 1,
        "area": 1,  # smaller than the object, and below it all the same
        "segmentation": {"size": [4, 4], "counts": [0, 16]},
    }
    person = {"category_id": 1, "iscrowd": 0, "area": 4, "segmentation": square(0, 0, 2, 2)}
    mask = coco14.draw_mask(4, 4, [person, crowd], {1: 1})
    assert (mask[:2, :2] == 1).all()
    assert (mask == 255).sum() == 12


def test_compressed_run_lengths_are_read():
    from pycocotools import mask as coco

    region = np.zeros((5, 7), np.uint8)
    region[1:3, 2:6] = 1
    code = coco.encode(np.asfortranarray(region))
    code["counts"] = code["counts"].decode()  # as in a JSON file
    item = {"category_id": 1, "iscrowd": 0, "area": 8, "segmentation": code}
    assert np.array_equal(coco14.draw_mask(5, 7, [item], {1: 4}), 4 * region)


def test_several_polygons_are_one_object():
    both = [*square(0, 0, 2, 2), *square(3, 3, 5, 5)]
    item = {"category_id": 1, "iscrowd": 0, "area": 8, "segmentation": both}
    assert (coco14.draw_mask(6, 6, [item], {1: 1}) == 1).sum() == 8


def test_labels_and_lists(tree, tmp_path, capsys):
    folder = prepare(tmp_path / "set", tree)
    assert folder.classes == ["person", "traffic_light", "toothbrush"]
    assert folder.ids("train") == [f"COCO_train2014_{i:012d}" for i in (9, 25, 30)]
    assert folder.ids("val") == ["COCO_val2014_000000000042"]
    assert layout.read_labels(folder.root, folder.classes) == {
        "COCO_train2014_000000000009": ["person", "toothbrush"],
        "COCO_train2014_000000000025": ["person", "toothbrush"],  # the crowd counts
        "COCO_train2014_000000000030": [],
        "COCO_val2014_000000000042": ["traffic_light"],
    }
    assert "train 3 images, 1 of them without any object" in capsys.readouterr().out
    assert verify(folder.root, masks_for=["train", "val"]).errors == []
    about = layout.read_about(folder.root)
    assert about["categories"] == {
        "person": {"category_id": 1, "mask_id": 1},
        "traffic_light": {"category_id": 10, "mask_id": 2},
        "toothbrush": {"category_id": 90, "mask_id": 3},
    }


def test_from_zip_archives(tree, tmp_path):
    (tmp_path / "zips").mkdir()
    for name, folder in [
        ("annotations_trainval2014.zip", "annotations"),
        ("train2014.zip", "train2014"),
        ("val2014.zip", "val2014"),
    ]:
        with zipfile.ZipFile(tmp_path / "zips" / name, "w") as archive:
            for path in sorted((tree / folder).iterdir()):
                archive.write(path, f"{folder}/{path.name}")
            archive.writestr(f"{folder}/captions_train2014.json", "{}")
    one, two = prepare(tmp_path / "one", tmp_path / "zips"), prepare(tmp_path / "two", tree)
    assert not (one.root / "source/annotations/annotations/captions_train2014.json").exists()
    shown = {name: text for name, text in contents(one.root).items() if "source" not in name}
    assert shown == contents(two.root)


def test_two_processes_draw_the_same(tree, tmp_path):
    one = prepare(tmp_path / "one", tree)
    coco14.prepare(tmp_path / "two", archives=tree, workers=2, check_counts=False)
    assert contents(one.root) == contents(tmp_path / "two")


def test_a_killed_run_leaves_whole_masks_and_goes_on(tree, tmp_path, capsys):
    root = tmp_path / "set"
    script = f"""
        import os, signal
        from PIL import Image
        from wsssbench.data import coco14
        save, calls = Image.Image.save, []
        def dying(self, stream, **options):
            calls.append(1)
            if len(calls) == 3:
                stream.write(b"half a mask")
                stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            save(self, stream, **options)
        Image.Image.save = dying
        coco14.prepare({str(root)!r}, archives={str(tree)!r}, workers=1, check_counts=False)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=child_environment())
    assert done.returncode == -signal.SIGKILL
    masks = sorted(path for path in (root / "SegmentationClass").glob("[!.]*"))
    assert len(masks) == 2
    assert len(list((root / "SegmentationClass").glob(".*"))) == 1  # what it was writing
    assert layout.splits(root) == []
    written = [path.stat().st_mtime_ns for path in masks]
    prepare(root, tree)
    assert "train: 2 masks are there already" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in masks] == written
    assert contents(root) == contents(prepare(tmp_path / "whole", tree).root)


def test_missing_sources_say_where_to_get_them(tree, tmp_path):
    with pytest.raises(UserError, match=r"annotations_trainval2014.zip does not.*cocodataset.org"):
        coco14.prepare(tmp_path / "set")
    (tree / "train2014/COCO_train2014_000000000025.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 3 images, e.g. COCO_train2014_0+25.jpg.*Unpa"):
        prepare(tmp_path / "set", tree)
    (tree / "annotations/instances_train2014.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"instances_train2014.json is damaged"):
        prepare(tmp_path / "set", tree)


def test_published_counts_are_compared(tree, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="3 images and 3 categories instead of 82783 and 80"):
        coco14.prepare(tmp_path / "set", archives=tree, workers=1)
    monkeypatch.setattr(coco14, "COUNTS", {"train": 3, "val": 1})
    monkeypatch.setattr(coco14, "NUM_CLASSES", 3)
    coco14.prepare(tmp_path / "set", archives=tree, workers=1)


def test_files_of_different_categories_are_refused(tree, tmp_path):
    path = tree / "annotations/instances_val2014.json"
    instances = json.loads(path.read_text())
    instances["categories"].append({"id": 2, "name": "bicycle"})
    path.write_text(json.dumps(instances))
    with pytest.raises(UserError, match="different categories"):
        prepare(tmp_path / "set", tree)
