"""Which objects are cut out, and a bank's way to the disk and back."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsssbench.errors import UserError
from wsssbench.mixing.batch import IGNORE
from wsssbench.mixing.instance_bank import (
    INDEX,
    Instance,
    InstanceBank,
    cut_instance,
    find_instance,
    write_bank,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cda_pool.npz")


def picture(seed=0, shape=(10, 12)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def mask_of(*boxes, shape=(10, 10)):
    """Boxes (class, top, left, bottom, right) on background."""
    mask = np.zeros(shape, np.int64)
    for klass, top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = klass
    return mask


def some_bank(folder, count=3, klass=2):
    images = [picture(seed) for seed in range(count)]
    masks = [mask_of((klass, 2, 3, 7, 9), shape=(10, 12))] * count
    return write_bank(folder, images, masks, [f"im/{i}" for i in range(count)])


@pytest.mark.parametrize("case", range(24))
def test_pool_of_the_release(case):
    found = find_instance(GOLDEN[f"in_seg_{case}"])
    if GOLDEN["out_keep"][case]:
        assert found == (GOLDEN["out_class"][case] + 1, tuple(GOLDEN["out_box"][case]))
    else:
        assert found is None


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (mask_of((3, 2, 4, 4, 9)), (3, (2, 4, 4, 9))),  # ratio 0.1
        (mask_of((3, 3, 0, 10, 10)), (3, (3, 0, 10, 10))),  # ratio 0.7
        (mask_of((3, 2, 4, 5, 7)), None),  # 0.09
        (mask_of((3, 3, 0, 10, 10), (3, 0, 0, 1, 1)), None),  # 0.71
        (mask_of((3, 2, 4, 4, 9), (1, 9, 9, 10, 10)), None),  # two classes
        (mask_of((3, 2, 4, 4, 9), (3, 9, 0, 10, 1)), (3, (2, 0, 10, 9))),  # a stray pixel
        (mask_of((3, 2, 4, 4, 9), (IGNORE, 6, 6, 9, 9)), (3, (2, 4, 4, 9))),
        (np.full((10, 10), IGNORE), None),
        (np.zeros((10, 10), int), None),
        (mask_of((3, 0, 0, 10, 10)), None),
    ],
)
def test_rule(mask, expected):
    assert find_instance(mask) == expected


def test_cut_holds_copies_of_the_box():
    image, mask = picture(shape=(10, 10)), mask_of((3, 2, 4, 4, 9), (3, 5, 4, 6, 5))
    klass, instance = cut_instance(image, mask)
    assert klass == 3
    assert np.array_equal(instance.image, image[2:6, 4:9])
    assert np.array_equal(instance.segment, mask[2:6, 4:9] == 3)
    instance.image[:] = 0
    assert image.any()


def test_oldest_go_first():
    bank = InstanceBank(2)
    for shade in (1, 2, 3):
        bank.add(4, Instance(np.full((1, 1, 3), shade, np.uint8), np.ones((1, 1), bool)))
    assert [one.image[0, 0, 0] for one in bank.pool[4]] == [2, 3]
    assert (len(bank), bank.counts(5)) == (2, [0, 0, 0, 2, 0])
    with pytest.raises(UserError, match="class 4, but the images have 3 classes"):
        bank.counts(3)


def test_written_bank_comes_back(tmp_path):
    assert some_bank(tmp_path) == {2: 3}
    bank = InstanceBank.load(tmp_path)
    assert bank.counts(2) == [0, 3]
    for seed, instance in enumerate(bank.pool[2]):
        assert np.array_equal(instance.image, picture(seed)[2:7, 3:9])
        assert instance.segment.all()
    index = json.loads((tmp_path / INDEX).read_text())
    assert [entry["id"] for entry in index["instances"]] == ["im/0", "im/1", "im/2"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_segment_survives_the_disk(tmp_path):
    segment = np.random.default_rng(0).random((10, 12)) < 0.5
    write_bank(tmp_path, [picture()], [segment * 7], ["a"])
    assert np.array_equal(InstanceBank.load(tmp_path).pool[7][0].segment, segment)


def test_capacity_takes_evenly_spaced_ones(tmp_path):
    some_bank(tmp_path, count=6)
    kept = InstanceBank.load(tmp_path, capacity=3).pool[2]
    for instance, seed in zip(kept, (0, 2, 4), strict=True):
        assert np.array_equal(instance.image, picture(seed)[2:7, 3:9])
    assert len(InstanceBank.load(tmp_path, capacity=None)) == 6


def test_rewriting_forgets_the_old_bank(tmp_path):
    some_bank(tmp_path, count=3)
    some_bank(tmp_path, count=1, klass=5)
    assert InstanceBank.load(tmp_path).counts(5) == [0, 0, 0, 0, 1]


def one_line(folder):
    with pytest.raises(UserError) as caught:
        InstanceBank.load(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def test_interrupted_writing_leaves_no_index(tmp_path):
    some_bank(tmp_path)

    def images():
        yield picture()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bank(tmp_path, images(), [mask_of((2, 2, 3, 7, 9), shape=(10, 12))] * 2, "ab")
    assert "not complete" in one_line(tmp_path)


def test_missing_folder_is_one_line(tmp_path):
    assert "write_bank" in one_line(tmp_path / "nowhere")


def test_empty_bank_is_one_line(tmp_path):
    assert write_bank(tmp_path, [picture()], [np.zeros((10, 12), int)], ["a"]) == {}
    assert "no instance" in one_line(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{}", '{"instances": [{"class": "x", "file": "a"}]}'])
def test_other_json_is_one_line(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    assert "not the index" in one_line(tmp_path)


def test_damaged_files_are_named(tmp_path):
    some_bank(tmp_path)
    path = tmp_path / "002" / "000002.png"
    whole = path.read_bytes()
    opaque = cv2.imencode(".png", picture())[1].tobytes()
    flipped = bytes([*whole[:80], whole[80] ^ 255, *whole[81:]])
    for content in (b"", whole[: len(whole) // 2], flipped, opaque):
        path.write_bytes(content)
        text = one_line(tmp_path)
        assert str(path) in text
        assert "damaged" in text
    path.unlink()
    assert "cannot be read" in one_line(tmp_path)


def test_sizes_must_agree(tmp_path):
    with pytest.raises(UserError, match="a: the image is 10x12 px, its mask 9x12 px"):
        write_bank(tmp_path, [picture()], [np.zeros((9, 12), int)], ["a"])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "bank").write_text("")
    with pytest.raises(UserError, match="Choose another folder"):
        write_bank(tmp_path / "bank", [], [], [])
