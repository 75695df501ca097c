import struct
import time
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from straightforward import loop_counts, loop_means

from wsssbench.errors import UserError
from wsssbench.evaluation import ConfusionMatrix, boundaries, evaluate_folder
from wsssbench.evaluation.reading import read_mask

NAMES = ["a", "b", "c", "d", "e"]
CLASSES = ["cat", "dog", "cow"]


def save(path, mask, palette=True):
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(np.asarray(mask, np.uint8))
    if palette:
        image.putpalette(np.random.default_rng(0).bytes(768))  # indices matter, colours do not
    image.save(path)


@pytest.fixture
def masks(tmp_path):
    """Blocky truth with ignored pixels, and predictions that are wrong in places; odd sizes."""
    rng = np.random.default_rng(0)
    arrays = {}
    for number, name in enumerate(NAMES):
        size = (40 + number, 50 - number)
        coarse = rng.integers(0, 4, (6, 6)).repeat(9, 0).repeat(9, 1)[: size[0], : size[1]]
        truth = np.where(rng.random(size) < 0.05, 255, coarse).astype(np.uint8)
        wrong = rng.random(size) < 0.3
        prediction = np.where(wrong, rng.integers(0, 4, size), coarse).astype(np.uint8)
        prediction[:2, :2] = 255
        save(tmp_path / "pred" / f"{name}.png", prediction, palette=number % 2 == 0)
        save(tmp_path / "truth" / f"{name}.png", truth)
        arrays[name] = prediction, truth
    return tmp_path / "pred", tmp_path / "truth", arrays


def test_scores_are_those_of_all_pixels_together(masks):
    pred, truth, arrays = masks
    scores = evaluate_folder(pred, truth, NAMES, 4, classes=CLASSES)
    confusion = ConfusionMatrix(4)
    for pair in arrays.values():
        confusion.update(*pair)
    np.testing.assert_array_equal(scores.confusion._counts, confusion._counts)
    expected = [loop_counts(*arrays[name], 4) for name in NAMES]
    np.testing.assert_array_equal(scores.counts, expected)
    summary = scores.summary()
    assert list(summary) == ["miou", "fp", "fn", "precision", "recall"]
    assert summary["miou"] == confusion.miou()
    assert summary["recall"] == pytest.approx(confusion.recall()[1:].mean())


def test_tables_have_the_promised_columns(masks):
    scores = evaluate_folder(*masks[:2], NAMES, 4, classes=CLASSES)
    per_class = scores.per_class()
    columns = ["class", "iou", "fp", "fn", "precision", "recall", "truth_px", "predicted_px"]
    assert list(per_class.columns) == columns
    assert per_class["class"].tolist() == ["background", *CLASSES]
    np.testing.assert_array_equal(per_class["predicted_px"], scores.counts[:, :, 0].sum(axis=0))
    np.testing.assert_array_equal(per_class["truth_px"], scores.counts[:, :, 1].sum(axis=0))
    table = scores.confusion_table()
    assert list(table.columns) == ["truth", "background", *CLASSES]
    np.testing.assert_array_equal(table.iloc[:, 1:], scores.confusion.matrix)
    assert list(scores.objects.columns) == ["size", "low_px", "high_px", "objects", "recall", "iou"]
    assert scores.objects["objects"].sum() == len(scores.object_list) > 0
    assert set(scores.object_list["class"]) <= set(CLASSES)


def test_boundary_band_of_all_images_together(masks):
    pred, truth, arrays = masks
    scores = evaluate_folder(pred, truth, NAMES, 4, boundary_px=2)
    bands = [boundaries.within_band(*arrays[name], 4, 2) for name in NAMES]
    assert scores.boundary == boundaries.summary(sum(bands[1:], start=bands[0]), 2)
    assert scores.boundary != evaluate_folder(pred, truth, NAMES, 4).boundary


def test_per_image_rows(masks):
    pred, truth, arrays = masks
    table = evaluate_folder(pred, truth, NAMES, 4, classes=CLASSES).per_image
    assert table["id"].tolist() == NAMES
    for row in table.itertuples():
        prediction, mask = arrays[row.id]
        assert (row.miou, row.fp, row.fn) == pytest.approx(
            loop_means(loop_counts(prediction, mask, 4))
        )
        valid = mask != 255
        assert row.wrong_fraction == pytest.approx((prediction != mask)[valid].mean())
        present = [CLASSES[c - 1] for c in np.unique(mask[valid]) if c]
        assert row.truth_classes.split() == present


def test_parallel_equals_serial_and_keeps_the_order(masks):
    pred, truth, _ = masks
    names = NAMES[::-1] * 4
    serial = evaluate_folder(pred, truth, names, 4, workers=1)
    parallel = evaluate_folder(pred, truth, names, 4, workers=4)
    np.testing.assert_array_equal(parallel.counts, serial.counts)
    pd.testing.assert_frame_equal(parallel.per_image, serial.per_image)
    pd.testing.assert_frame_equal(parallel.object_list, serial.object_list)
    assert parallel.boundary == serial.boundary
    assert parallel.per_image["id"].tolist() == names


def test_no_list_means_every_prediction(masks):
    pred, truth, _ = masks
    (pred / "d.png").unlink()
    assert evaluate_folder(pred, truth, None, 4).ids == ["a", "b", "c", "e"]


def test_progress_sees_every_image(masks):
    seen = []

    def progress(iterable, desc, total):
        for item in iterable:
            seen.append((desc, total))
            yield item

    evaluate_folder(*masks[:2], NAMES, 4, progress=progress)
    assert seen == [("evaluate", 5)] * 5


def test_other_readers_can_be_used(masks):
    pred, truth, arrays = masks
    scores = evaluate_folder(
        pred, truth, NAMES, 4, read=lambda path: arrays[path.stem][path.parent.name == "truth"]
    )
    assert scores.counts.sum() == evaluate_folder(pred, truth, NAMES, 4).counts.sum()


def test_intervals_hold_the_scores(masks):
    scores = evaluate_folder(*masks[:2], NAMES, 4)
    for name, (low, high) in scores.intervals(samples=200).items():
        assert low <= scores.summary()[name] <= high


def test_unlabelled_classes_are_listed_and_still_scored(masks):
    pred, truth, arrays = masks
    scores = evaluate_folder(pred, truth, NAMES, 4, classes=CLASSES)
    labels = {name: sorted(set(np.unique(arrays[name][1])) - {0, 255}) for name in NAMES}
    assert scores.unlabelled(labels) == []
    dropped = labels["b"].pop(0)
    assert scores.unlabelled(labels) == [("b", CLASSES[dropped - 1])]


def test_image_of_one_class_and_nothing_valid(tmp_path):
    save(tmp_path / "pred" / "x.png", np.zeros((5, 6)))
    save(tmp_path / "truth" / "x.png", np.full((5, 6), 255))
    scores = evaluate_folder(tmp_path / "pred", tmp_path / "truth", ["x"], 3)
    assert np.isnan(scores.summary()["miou"])
    assert scores.per_image["truth_classes"].tolist() == [""]
    assert np.isnan(scores.per_image["wrong_fraction"][0])


def failure(masks, **arguments):
    with pytest.raises(UserError) as caught:
        evaluate_folder(*masks[:2], **{"ids": NAMES, "num_classes": 4, **arguments})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("side", [0, 1])
def test_missing_mask(masks, side, workers):
    (masks[side] / "c.png").unlink()
    text = failure(masks, workers=workers)
    assert str(masks[side] / "c.png") in text
    assert "does not exist" in text


def test_an_error_stops_the_images_that_wait(masks):
    read = []

    def slow(path):
        read.append(path)
        time.sleep(0.005)
        return read_mask(path)

    (masks[0] / "a.png").unlink()
    failure(masks, ids=NAMES * 40, read=slow, workers=2)
    assert len(read) < 100


def test_missing_folder_and_empty_folder(masks, tmp_path):
    assert "does not exist" in failure((tmp_path / "nowhere", masks[1]))
    (tmp_path / "empty").mkdir()
    assert "Nothing to evaluate" in failure((tmp_path / "empty", masks[1]), ids=None)
    assert "Nothing to evaluate" in failure(masks, ids=[])


def test_other_size(masks):
    save(masks[0] / "b.png", np.zeros((20, 24)))
    text = failure(masks)
    assert f"{masks[0] / 'b.png'} is 24x20" in text
    assert "49x41 pixels" in text
    assert "full size" in text


def test_rgb_mask(masks):
    Image.new("RGB", (50, 40)).save(masks[0] / "a.png")
    text = failure(masks)
    assert f"{masks[0] / 'a.png'} is a mask of mode RGB" in text
    assert "class ids" in text


@pytest.mark.parametrize("side", [0, 1])
def test_value_that_is_no_class(masks, side):
    mask = masks[2]["d"][side].copy()
    mask[7, 9] = 37
    save(masks[side] / "d.png", mask)
    assert f"{masks[side] / 'd.png'} holds value 37, but ids are 0..3" in failure(masks)


def test_damaged_mask(masks):
    whole = (masks[1] / "e.png").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no image"):
        (masks[1] / "e.png").write_bytes(broken)
        assert f"Mask {masks[1] / 'e.png'} is damaged" in failure(masks)


def test_names_must_fit_the_classes(masks):
    assert "2 class names for 3 foreground classes" in failure(masks, classes=["cat", "dog"])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_reader_gives_ids_whatever_the_bit_depth(tmp_path, bits):
    ids = np.arange(6).reshape(2, 3).astype(np.uint8) & (2**bits - 1)
    image = Image.fromarray(ids)
    image.putpalette(bytes(range(256)) * 3)
    image.save(tmp_path / "palette.png", bits=bits)
    assert read_mask(tmp_path / "palette.png").tolist() == ids.tolist()
    write_grey(tmp_path / "grey.png", ids, bits)
    assert read_mask(tmp_path / "grey.png").tolist() == ids.tolist()
    assert read_mask(tmp_path / "grey.png").dtype == np.uint8


def write_grey(path, ids, bits):
    """A grey PNG of few bits per pixel, as image optimisers write them; Pillow cannot."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = ids.shape
    values = np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
