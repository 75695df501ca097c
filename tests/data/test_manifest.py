import hashlib
import os
import shutil

import numpy as np
import pytest
from data_trees import photograph, small_folder

from wsssbench.data import layout
from wsssbench.data.manifest import check, manifest
from wsssbench.data.palette import write_mask
from wsssbench.errors import UserError


@pytest.fixture
def root(tmp_path):
    return small_folder(tmp_path / "set")


def test_counts(root):
    record = manifest(root)
    assert record["name"] == "set"
    assert record["classes"] == ["cat", "dog"]
    assert record["splits"] == {"train": 3, "val": 1}
    assert (record["images"], record["masks"], record["unlabelled"]) == (4, 3, 1)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert record["bytes"] == sum(path.stat().st_size for path in files)


def test_content_hash_by_hand(root):
    lines = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{path.relative_to(root)}\0{digest}\n")
    assert manifest(root)["content_hash"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_place_and_time_do_not_matter(root, tmp_path):
    shutil.copytree(root, tmp_path / "elsewhere/set")
    os.utime(tmp_path / "elsewhere/set/labels.csv", (0, 0))
    assert manifest(tmp_path / "elsewhere/set") == manifest(root)


def test_only_the_named_splits_count(root):
    record = manifest(root, ["val"])
    assert (record["images"], record["masks"], record["splits"]) == (1, 1, {"val": 1})
    photograph(root / "JPEGImages/a.jpg", seed=99)
    assert manifest(root, ["val"]) == record
    check(root, record)


def change_image(root):
    photograph(root / "JPEGImages/a.jpg", size=(7, 8))


def change_label_of_same_length(root):
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(text.replace("a,cat", "a,dog"))


def change_list(root):
    layout.write_ids(root, "train", "ab")


def change_order(root):
    layout.write_ids(root, "train", "acb")


def change_classes(root):
    layout.write_classes(root, ["cat", "cow"])
    layout.write_labels(root, {"a": ["cat"]})


def remove_labels(root):
    (root / "labels.csv").unlink()


def remove_mask(root):
    (root / "SegmentationClass/a.png").unlink()


def change_mask(root):
    write_mask(root / "SegmentationClass/a.png", np.arange(48).reshape(6, 8))


@pytest.mark.parametrize(
    ("act", "pattern"),
    [
        (change_image, "other images, lists or labels"),
        (change_label_of_same_length, "other images, lists or labels"),
        (change_list, "split train has 2 images, was 3"),
        (change_order, "other images, lists or labels"),
        (change_classes, "other classes"),
        (remove_mask, "2 masks, were 3"),
        (change_mask, "masks of other sizes"),
    ],
)
def test_the_quick_check_sees_changes(root, act, pattern):
    record = manifest(root)
    check(root, record)
    act(root)
    with pytest.raises(UserError, match=f"changed since prepare.*{pattern}.*Run prepare again"):
        check(root, record)
    assert manifest(root)["content_hash"] != record["content_hash"]


def test_missing_labels_are_told(root):
    record = manifest(root)
    remove_labels(root)
    with pytest.raises(UserError, match=r"labels.csv does not exist"):
        check(root, record)


def test_a_training_stage_runs_without_masks(root):
    record = manifest(root)
    shutil.rmtree(root / "SegmentationClass")
    check(root, record, masks=False)
    with pytest.raises(UserError, match="0 masks, were 3"):
        check(root, record)


def test_hidden_layers_count(root):
    before = manifest(root)
    (root / "Hidden").mkdir()
    np.savez(root / "Hidden/a.npz", part=np.zeros((6, 8), np.uint8))
    after = manifest(root)
    assert after["content_hash"] != before["content_hash"]
    assert after["listing_hash"] == before["listing_hash"]
    assert after["masks_listing_hash"] != before["masks_listing_hash"]


def test_labels_tell_where_they_are_from(root):
    assert manifest(root)["labels"] is None
    layout.write_about(root, "folder", "masks")
    assert manifest(root)["labels"] == "masks"


def test_forbidden_file_is_named(root, monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("hashlib.file_digest", forbidden)
    with pytest.raises(UserError, match="No permission to read"):
        manifest(root)
