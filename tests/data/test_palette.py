import cv2
import numpy as np
import pytest
from data_trees import damage, grey_png, photograph
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from wsssbench.data.palette import (
    BACKGROUND,
    IGNORE,
    convert_masks,
    ids_from_colours,
    open_image,
    palette,
    read_mask,
    write_mask,
)
from wsssbench.errors import UserError

VOC_COLOURS = {  # from the figure on the challenge's page
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}


def test_palette_is_vocs():
    assert palette(21).tolist() == [list(colour) for colour in VOC_COLOURS.values()]
    assert palette()[IGNORE].tolist() == [224, 224, 192]


def test_palette_colours_all_differ():
    assert len(np.unique(palette(256), axis=0)) == 256


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_masks_survive_the_disk(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("masks") / "m.png"
    write_mask(path, mask)
    assert np.array_equal(read_mask(path), mask)


def test_other_programs_see_palette_colours(tmp_path):
    mask = np.array([[0, 15], [20, 255]], dtype=np.int64)
    write_mask(tmp_path / "m.png", mask)
    assert Image.open(tmp_path / "m.png").mode == "P"
    bgr = cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_COLOR)
    assert np.array_equal(bgr[..., ::-1], palette()[mask])


@pytest.mark.parametrize("mode", ["L", "1"])
def test_single_channel_masks_are_read(tmp_path, mode):
    values = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    image = Image.fromarray(values.astype(bool) if mode == "1" else values)
    image.save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == mode
    assert read_mask(tmp_path / "m.png").tolist() == values.tolist()


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_keep_their_ids(tmp_path, bits):
    values = np.array([[0, 1, 2, 3, 1], [3, 2, 1, 0, 2]])
    (tmp_path / "m.png").write_bytes(grey_png(values, bits))
    assert np.asarray(Image.open(tmp_path / "m.png")).max() > 3  # the decoder stretches
    assert read_mask(tmp_path / "m.png").tolist() == values.tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_mask_is_refused_with_a_remedy(tmp_path, mode):
    path = tmp_path / "m.png"
    Image.fromarray(palette()[np.array([[0, 1]])]).convert(mode).save(path)
    with pytest.raises(UserError, match="RGB mask where a palette or single-channel") as error:
        read_mask(path)
    assert str(path) in str(error.value)
    assert "wsssbench data convert-masks" in str(error.value)


def test_sixteen_bit_mask_is_refused(tmp_path):
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="8-bit"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.array([[256]]), np.array([[-1]])]
)
def test_what_is_no_mask_is_not_written(tmp_path, mask):
    with pytest.raises(ValueError, match="mask"):
        write_mask(tmp_path / "m.png", mask)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_mask(tmp_path, monkeypatch):
    write_mask(tmp_path / "m.png", np.array([[1]]))

    def half(self, stream, **_):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        write_mask(tmp_path / "m.png", np.array([[2]]))
    monkeypatch.undo()
    assert read_mask(tmp_path / "m.png").tolist() == [[1]]
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_damaged_missing_empty_and_forbidden_files_are_named(tmp_path, monkeypatch):
    cut = damage(photograph(tmp_path / "cut.jpg", size=(64, 64)))
    with pytest.raises(UserError, match=r"Image .*cut.jpg is truncated.*again"):
        open_image(cut)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UserError, match=r"empty.jpg is empty"):
        open_image(tmp_path / "empty.jpg")
    with pytest.raises(UserError, match=r"Mask .*none.png does not exist"):
        read_mask(tmp_path / "none.png")

    def forbidden(path):
        raise PermissionError

    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(UserError, match=r"chmod \+r .*cut.jpg"):
        open_image(cut)


@given(arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 7, 20, 255])))
def test_ids_from_colours_inverts_the_palette(mask):
    ids = [*range(21), 255]
    assert np.array_equal(ids_from_colours(palette()[mask], palette()[ids], ids), mask)


def test_unknown_colour_is_named():
    rgb = np.array([[[0, 0, 0], [1, 2, 3], [1, 2, 3], [9, 9, 9]]], np.uint8)
    with pytest.raises(UserError, match=r"3 pixels .* RGB \(1, 2, 3\)"):
        ids_from_colours(rgb, palette(3), range(3))


def test_convert_masks_needs_a_number_of_classes_that_masks_can_hold(tmp_path):
    for wrong in (1, 256, 400):
        with pytest.raises(UserError, match="give 2 to 255"):
            convert_masks(tmp_path, tmp_path / "out", wrong)


def test_convert_masks_makes_readable_masks(tmp_path):
    mask = np.array([[BACKGROUND, 1, 2], [2, IGNORE, 0]], np.uint8)
    rgb = palette()[mask]
    rgb[1, 1] = 255  # a white outline
    (tmp_path / "rgb").mkdir()
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "rgb" / "a.png")
    assert convert_masks(tmp_path / "rgb", tmp_path / "ids", num_classes=3) == 1
    assert np.array_equal(read_mask(tmp_path / "ids" / "a.png"), mask)
    with pytest.raises(UserError, match="Name another folder"):
        convert_masks(tmp_path / "rgb", tmp_path / "rgb", num_classes=3)
    with pytest.raises(UserError, match=r"a.png: 2 pixels .* \(0, 128, 0\)"):
        convert_masks(tmp_path / "rgb", tmp_path / "ids", num_classes=2)
    with pytest.raises(UserError, match="does not exist"):
        convert_masks(tmp_path / "nothing", tmp_path / "ids", num_classes=2)
