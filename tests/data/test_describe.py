import shutil

import numpy as np
import pytest
from data_trees import damage, photograph, small_folder

from wsssbench.data.describe import describe
from wsssbench.errors import UserError


@pytest.fixture
def root(tmp_path):
    return small_folder(tmp_path / "set")


def test_tables_by_hand(root):
    tables = describe(root)
    train, val = tables["splits"].to_dict("records")
    assert train == {
        "split": "train",
        "images": 3,
        "masks": 2,
        "unlabelled": 1,
        "labels_per_image": 1.0,
    }
    assert (val["images"], val["labels_per_image"]) == (1, 1.0)
    assert tables["labels_per_image"].to_dict("list") == {
        "labels": [0, 1, 2],
        "train": [1, 1, 1],
        "val": [0, 1, 0],
    }


def test_class_shares_by_hand(root):
    table = describe(root, ["train"])["classes"].set_index("class")
    # a: 48 pixels, 12 cat; b: 42 not ignored, 6 cat, 12 dog; c has no mask
    assert table["images"].tolist()[1:] == [2, 1]
    assert table["mask_images"].tolist() == [2, 2, 1]
    assert table["pixel_share"].tolist() == pytest.approx([60 / 90, 18 / 90, 12 / 90])
    assert table["object_share"]["cat"] == pytest.approx((12 / 48 + 6 / 42) / 2)
    assert table["object_share"]["dog"] == pytest.approx(12 / 42)
    assert table["image_share"]["cat"] == pytest.approx(2 / 3)


def test_sizes(root):
    photograph(root / "JPEGImages/c.jpg", size=(10, 20))
    train = describe(root, ["train"])["sizes"].iloc[0]
    assert (train["min_width_px"], train["median_width_px"], train["max_width_px"]) == (8, 8, 20)
    assert (train["min_height_px"], train["max_height_px"]) == (6, 10)
    assert train["different_sizes"] == 2


def test_without_masks_shares_are_nan(root):
    shutil.rmtree(root / "SegmentationClass")
    table = describe(root)["classes"]
    assert table["pixel_share"].isna().all()
    assert table["object_share"].isna().all()
    assert np.array_equal(table["mask_images"], [0] * 6)


def test_damaged_files_stop_it(root):
    damage(root / "SegmentationClass/a.png", 0.9)
    with pytest.raises(UserError, match=r"a.png is truncated"):
        describe(root)
    (root / "SegmentationClass/a.png").unlink()
    (root / "JPEGImages/a.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"a.jpg is damaged"):
        describe(root)
