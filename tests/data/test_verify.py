import shutil

import numpy as np
import pytest
from data_trees import damage, photograph, small_folder
from PIL import Image

from wsssbench.data import layout
from wsssbench.data.palette import palette, write_mask
from wsssbench.data.verify import verify
from wsssbench.errors import UserError


@pytest.fixture
def root(tmp_path):
    return small_folder(tmp_path / "set")


def found(report, severity):
    return [str(problem) for problem in report.problems if problem.severity == severity]


def test_a_sound_folder_has_notes_only(root):
    report = verify(root, masks_for=["val"])
    report.raise_on_errors()
    assert found(report, "error") == []
    assert found(report, "warning") == []
    assert report.counts == {"unlabelled": 1, "train": 3, "val": 1, "images": 4, "masks": 3}
    notes = "\n".join(found(report, "note"))
    assert "1 of 3 images of train have no mask, e.g. 'c'" in notes
    assert "1 images of train have no label, e.g. 'c'. They are kept" in notes
    assert str(report).endswith("0 errors, 0 warnings, 2 notes")


def test_class_frequencies_by_hand(root):
    table = verify(root).classes.set_index("class")
    assert table.loc["cat"].tolist() == [2, 2, 12 + 6]
    assert table.loc["dog"].tolist() == [2, 2, 12 + 48]


def remove(name):
    def act(root):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def write(name, text):
    def act(root):
        (root / name).write_text(text)

    return act


def other_size(root):
    write_mask(root / "SegmentationClass/a.png", np.zeros((6, 9), np.uint8))


def strange_value(root):
    write_mask(root / "SegmentationClass/a.png", np.full((6, 8), 3))


def colour_mask(root):
    Image.fromarray(palette()[np.ones((6, 8), int)]).save(root / "SegmentationClass/a.png")


def truncated_image(root):
    damage(photograph(root / "JPEGImages/b.jpg", size=(64, 64)))


def truncated_mask(root):
    damage(root / "SegmentationClass/a.png", 0.9)


def turned_image(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 6, 3), np.uint8)
    Image.fromarray(pixels).save(root / "JPEGImages/a.jpg", exif=exif)


LISTS = "ImageSets/Segmentation"


@pytest.mark.parametrize(
    ("act", "pattern", "remedy"),
    [
        (remove(""), "set does not exist", "wsssbench data prepare"),
        (remove("classes.txt"), "classes.txt does not exist", "`background` first"),
        (remove("JPEGImages"), "Image folder .* does not exist", "<id>.jpg"),
        (remove("JPEGImages/b.jpg"), "id 'b' has no image", "Put the image there or correct"),
        (remove("SegmentationClass/d.png"), "1 of 1 images of val have no mask", "Add <id>.png"),
        (remove(LISTS), "there is no list", "Write train.txt"),
        (write(f"{LISTS}/val.txt", ""), "val.txt is empty", "one id per line"),
        (write(f"{LISTS}/train.txt", "a\nb\na\n"), "'a' is listed more than once", "Keep it once"),
        (write(f"{LISTS}/train.txt", "a a\n"), "id 'a a' has no image", "correct the list"),
        (remove("labels.csv"), "labels.csv does not exist", "labels_from_masks"),
        (write("labels.csv", "id,labels\na,cow\n"), "Unknown class 'cow'", "Valid: cat, dog"),
        (other_size, "the mask is 9×6, its image 8×6", "Export the mask"),
        (turned_image, "the mask is 8×6, its image 6×8", "EXIF"),
        (strange_value, "mask values 3 are neither a class .1..2. nor 255", "Correct the mask"),
        (colour_mask, "a.png is an RGB mask", "convert-masks"),
        (truncated_image, "b.jpg is truncated", "again"),
        (truncated_mask, "a.png is truncated", "again"),
    ],
)
def test_every_fault_is_found_with_its_remedy(root, act, pattern, remedy):
    act(root)
    report = verify(root, masks_for=["val"])
    with pytest.raises(UserError, match=pattern) as error:
        report.raise_on_errors()
    assert remedy in str(error.value)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_all_faults_are_found_in_one_go(root):
    other_size(root)
    truncated_image(root)
    write_mask(root / "SegmentationClass/d.png", np.full((6, 8), 77))
    layout.write_ids(root, "train", "abcx")
    report = verify(root)
    assert len(report.errors) == 4
    with pytest.raises(UserError, match=r"4 error.s. .* \| and 1 more: wsssbench data verify"):
        report.raise_on_errors()


def test_problems_are_sorted_by_severity(root):
    other_size(root)
    layout.write_ids(root, "val", "da")
    severities = [problem.severity for problem in verify(root).problems]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_ignore_is_no_strange_value(root):
    write_mask(root / "SegmentationClass/a.png", np.full((6, 8), 255))
    assert verify(root).errors == []


def test_unlabelled_class_in_a_mask_is_a_warning(root):
    layout.write_labels(root, {"a": ["cat"], "b": ["cat"], "c": ["dog"], "d": ["dog", "cat"]})
    report = verify(root)
    warnings, notes = found(report, "warning"), "\n".join(found(report, "note"))
    assert len(warnings) == 1
    assert "masks of 1 images hold a class that the labels lack, e.g. 'b' (dog)" in warnings[0]
    assert "labels of 1 images name a class that the mask lacks, e.g. 'd' (cat)" in notes


def test_a_class_that_nobody_has_is_a_warning(root):
    layout.write_labels(root, {"a": ["cat"], "b": ["cat"]})
    assert any("no image has the label 'dog'" in text for text in found(verify(root), "warning"))


def test_shared_images_of_train_and_val_are_a_warning(root):
    layout.write_ids(root, "val", "ad")
    warnings = found(verify(root), "warning")
    assert len(warnings) == 1
    assert "1 images are in train as well as in val, e.g. 'a'" in warnings[0]
    layout.write_ids(root, "train_small", "ab")  # a part of train is no leak
    assert len(found(verify(root, ["train", "train_small"]), "warning")) == 0
    layout.write_ids(root, "val_small", "d")
    assert len(found(verify(root, ["train_small", "val_small", "val"]), "warning")) == 1


def test_splits_can_be_chosen(root):
    truncated_image(root)
    assert verify(root, ["val"]).errors == []
    assert "Did you mean 'val'" in str(verify(root, ["va"]).errors[0])
    assert "Unknown split for scoring 'test'" in str(verify(root, masks_for=["test"]).errors[0])


def test_labels_of_no_image_are_an_error(root):
    layout.write_labels(root, {"a.jpg": ["cat"], "b.jpg": ["dog"]})
    errors = found(verify(root), "error")
    assert len(errors) == 1
    assert "none of its 2 ids is that of an image on the lists. Ids are file names" in errors[0]


def test_labels_may_be_left_out_for_scoring_only(root):
    (root / "labels.csv").unlink()
    assert verify(root, ["val"], need_labels=False).errors == []


def test_forbidden_folder_is_named(root, monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("os.listdir", forbidden)
    report = verify(root)
    assert "No permission to read" in str(report.errors[0])
    assert "chmod +rx" in str(report.errors[0])


def test_interruption_stops_at_once(root, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsssbench.data.scan.read_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(root)
