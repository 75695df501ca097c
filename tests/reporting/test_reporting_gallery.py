import base64
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsssbench.errors import UserError
from wsssbench.reporting import open_masks, worst_images
from wsssbench.reporting.explore import confused_pairs, images_with, in_words, worst_class
from wsssbench.reporting.gallery import TILE_PX, cases, extremes
from wsssbench.reporting.masks import masks_of_run
from wsssbench.reporting.records import read_table


def per_image(*scores):
    return pd.DataFrame({"id": [f"i{n}" for n in range(len(scores))], "miou": scores})


def test_extremes_alternate_and_ties_go_by_id():
    table = per_image(0.5, 0.2, 0.9, 0.2, float("nan"))
    chosen = [("i1", "worst", 0.2), ("i2", "best", 0.9), ("i3", "worst", 0.2), ("i0", "best", 0.5)]
    assert extremes(table, 2) == chosen


def test_no_image_is_both_worst_and_best():
    assert extremes(per_image(0.5, 0.2, 0.9), 5) == [
        ("i1", "worst", 0.2), ("i2", "best", 0.9), ("i0", "worst", 0.5)]  # fmt: skip
    assert extremes(per_image(0.5), 3) == [("i0", "worst", 0.5)]
    assert extremes(pd.DataFrame(), 3) == []


@pytest.fixture
def masks(fake):
    return masks_of_run(fake["runs"] / "cam-0", "train", fake["data"])


@pytest.fixture
def scores(fake):
    return read_table(fake["runs"] / "cam-0" / "evaluate" / "cam" / "train" / "per_image.csv")


def test_a_case_shows_the_five_pictures(masks, scores):
    rows, problems = cases(masks, scores, 2)
    assert problems == []
    assert [row.kind for row in rows] == ["worst", "worst", "best", "best"]
    heads = [tile.head for tile in rows[0].tiles]
    assert heads == ["image", "ground truth", "score map", "pseudo-mask", "errors"]
    assert rows[0].name == scores.sort_values("miou")["id"].iloc[0]
    names = scores.set_index("id").loc[rows[0].name, "truth_classes"].split()
    assert [name for name, _ in rows[0].tiles[1].classes] == [n for n in names if n != "background"]
    for tile in rows[0].tiles:
        data = base64.b64decode(tile.uri.removeprefix("data:image/jpeg;base64,"))
        assert max(Image.open(BytesIO(data)).size) <= TILE_PX


def test_equal_input_gives_equal_pictures(masks, scores):
    assert cases(masks, scores, 2) == cases(masks, scores, 2)


def test_the_budget_ends_the_rows(masks, scores):
    size = sum(case.size for case in cases(masks, scores, 1)[0])
    assert len(cases(masks, scores, 4, budget=size)[0]) == 2
    assert len(cases(masks, scores, 4, budget=size - 1)[0]) == 1
    assert cases(masks, scores, 4, budget=0) == ([], [])


def test_a_missing_or_wrong_file_costs_one_row_only(own, scores):
    masks = masks_of_run(own["runs"] / "cam-0", "train", own["data"])
    worst, second = scores.sort_values("miou")["id"].iloc[:2]
    (masks.predictions / f"{worst}.png").unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(masks.predictions / f"{second}.png")
    rows, problems = cases(masks, scores, 2)
    assert len(rows) == 2
    assert problems[0].startswith(f"{worst}: ")
    assert "Sizes of" in problems[1]
    assert "Not shown" in worst_images(masks, scores, 2).html


def test_without_maps_there_is_no_heat(own, scores):
    for path in (own["runs"] / "cam-0").glob("pseudo_masks/cam/train/maps/*"):
        path.unlink()
    masks = masks_of_run(own["runs"] / "cam-0", "train", own["data"])
    rows, _ = cases(masks, scores, 1)
    assert len(rows[0].tiles) == 4


def test_an_image_without_any_kept_class_has_a_cold_map(own, masks):
    name = masks.ids[0]
    place = own["runs"] / "cam-0" / "pseudo_masks" / "cam" / "train" / "maps"
    shared = {"size": np.int32([4, 4])}
    np.savez(place / f"{name}.npz", keys=np.zeros(0, int), maps=np.zeros((0, 4, 4)), **shared)
    masks = masks_of_run(own["runs"] / "cam-0", "train", own["data"])
    assert not masks.heat(name).any()
    maps = np.stack([np.full((4, 4), 0.9), np.full((4, 4), 0.2)])
    gate = {"keys": np.array([1, 2]), "gated": np.array([False, True])}
    np.savez(place / f"{name}.npz", maps=maps, **gate, **shared)
    assert masks.heat(name).max() == np.float32(0.2)  # class 1 may not appear, however sure


def test_any_folder_of_masks(fake, tmp_path):
    predictions = fake["runs"] / "cam-0" / "pseudo_masks" / "cam" / "val" / "masks"
    masks = open_masks(predictions=str(predictions), truth=str(fake["data"] / "SegmentationClass"))
    assert masks.ids == sorted(fake["truth"]["val"])
    assert masks.classes[:2] == ["background", "disc"]
    assert masks.num_classes == 5
    assert masks.word == "prediction"
    image, truth, prediction = masks.read(masks.ids[0])
    assert image.std() > 10
    assert truth.shape == prediction.shape


def test_a_bare_folder_of_masks_has_numbered_classes_and_grey_images(tmp_path):
    for folder, value in (("mine", 1), ("true", 3)):
        (tmp_path / folder).mkdir()
        mask = np.full((6, 8), 255, np.uint8)
        mask[0, 0] = value
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    masks = open_masks(predictions=str(tmp_path / "mine"), truth=str(tmp_path / "true"))
    assert masks.classes == ["background", "class_1", "class_2", "class_3"]
    assert (masks.read("a")[0] == 128).all()


def test_wrong_places_are_named(fake, tmp_path):
    with pytest.raises(UserError, match=r"pseudo_masks/cam/test/masks does not exist"):
        open_masks(str(fake["runs"] / "cam-0"), "test", str(fake["data"]))
    with pytest.raises(UserError, match="No PNG masks in"):
        open_masks(predictions=str(tmp_path), truth=str(tmp_path))
    predictions = fake["runs"] / "cam-0" / "pseudo_masks" / "cam" / "val" / "masks"
    with pytest.raises(UserError, match=r"has no mask val_00\.png"):
        open_masks(predictions=str(predictions), truth=str(tmp_path))


def test_paths_are_also_found_from_a_folder_below(fake, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "runs").symlink_to(fake["runs"])
    (tmp_path / "data").symlink_to(fake["data"])
    monkeypatch.chdir(tmp_path / "notebooks")
    assert len(open_masks("runs/cam-0", "train", "data").ids) == 8


def test_a_notebook_gets_the_style_with_the_gallery(masks, scores):
    html = worst_images(masks, scores, 1)._repr_html_()
    assert html.startswith("<style>")
    assert len(re.findall("<img ", html)) == 10


def test_worst_class_leaves_out_the_background_and_absent_classes():
    table = pd.DataFrame({"class": ["background", "a", "b", "c"], "iou": [0.1, None, 0.5, 0.4]})
    assert worst_class(table) == "c"
    assert worst_class(table.iloc[:2]) == ""


def test_images_with_a_class_in_truth_or_prediction():
    table = pd.DataFrame({"id": list("abc"), "truth_classes": ["cat", "background", None],
                          "predicted_classes": ["background", "cat dog", "wildcat"]})  # fmt: skip
    assert list(images_with(table, "cat")["id"]) == ["a", "b"]


def test_confused_pairs_by_hand():
    table = pd.DataFrame({"truth": ["bg", "a", "b"], "bg": [90, 5, 0], "a": [10, 15, 7],
                          "b": [0, 0, 3]})  # fmt: skip
    assert confused_pairs(table, 2).values.tolist() == [
        ["bg", "a", 10, 10.0], ["b", "a", 7, 70.0]]  # fmt: skip


def test_scores_in_words():
    scores = {"miou": 0.506, "fp": 0.302, "fn": 0.201, "precision": 0.6, "recall": 0.7}
    ends = {"miou": (0.48, 0.53), "fp": (0.28, 0.32), "fn": (0.18, 0.22)}
    text = in_words(scores, ends, {"width_px": 5, "error": 0.3})
    assert text.splitlines()[0] == "mIoU 50.6 % (48.0 … 53.0)"
    assert "wrong within 5 px of a boundary: 0.300" in text
