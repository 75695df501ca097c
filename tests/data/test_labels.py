import numpy as np
import pytest
from data_trees import small_folder

from wsssbench.data import layout
from wsssbench.data.labels import labels_from_masks, present_ids
from wsssbench.data.palette import write_mask
from wsssbench.errors import UserError


@pytest.fixture
def root(tmp_path):
    folder = small_folder(tmp_path / "set")
    (folder / "labels.csv").unlink()
    return folder


def test_labels_are_the_classes_of_the_masks(root):
    rows = labels_from_masks(root, ["a", "b", "c", "d"])
    assert rows == {"a": ["cat"], "b": ["cat", "dog"], "d": ["dog"]}  # c has no mask: no row
    assert (root / "labels.csv").read_text() == "id,labels\na,cat\nb,cat dog\nd,dog\n"


def test_only_the_ids_asked_for_are_labelled(root):
    assert labels_from_masks(root, ["a", "a"]) == {"a": ["cat"]}


def test_all_lists_are_labelled_by_default(root):
    assert sorted(labels_from_masks(root)) == ["a", "b", "d"]


def test_labels_of_a_person_are_replaced_only_on_request(root):
    layout.write_labels(root, {"a": ["dog"]})
    with pytest.raises(UserError, match="Move it away"):
        labels_from_masks(root, ["a"])
    assert labels_from_masks(root, ["a"], replace=True) == {"a": ["cat"]}


def test_a_mask_of_background_and_ignore_gives_an_empty_row(root):
    write_mask(root / "SegmentationClass/c.png", np.array([[0, 255]]))
    assert labels_from_masks(root, ["c"]) == {"c": []}
    assert layout.read_labels(root, ["cat", "dog"]) == {"c": []}


def test_present_ids_ascend(tmp_path):
    write_mask(tmp_path / "m.png", np.array([[9, 0, 255, 2, 9]]))
    assert present_ids(tmp_path / "m.png") == [2, 9]


def test_strange_values_and_missing_masks_stop_it(root):
    write_mask(root / "SegmentationClass/a.png", np.array([[0, 3]]))
    with pytest.raises(UserError, match=r"a.png holds the value 3.*1..2 only"):
        labels_from_masks(root, ["b", "a"])
    assert not (root / "labels.csv").exists()
    with pytest.raises(UserError, match="No mask in"):
        labels_from_masks(root, ["c"])
