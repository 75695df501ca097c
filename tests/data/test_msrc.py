import zipfile

import numpy as np
import pytest
from data_trees import msrc_tree
from PIL import Image

from wsssbench.data import layout, msrc
from wsssbench.data.folder import Folder
from wsssbench.data.palette import palette
from wsssbench.data.verify import verify
from wsssbench.errors import UserError


@pytest.fixture
def tree(tmp_path):
    return msrc_tree(tmp_path / "msrc")


def prepare(root, tree, **options):
    msrc.prepare(root, archives=tree.parent, check_counts=False, **options)
    return Folder(root)


def test_colours_of_the_distribution():
    assert len(msrc.COLOURS) == 21
    every = [*msrc.COLOURS.values(), *msrc.VOID_COLOURS.values()]
    assert len(set(every)) == 24
    # The distribution draws with VOC's colour map; ids 19, 20 and 26… are not used.
    ids = [palette().tolist().index(list(colour)) for colour in every]
    assert sorted(ids) == [*range(19), *range(21, 26)]


def test_folder(tree, tmp_path, capsys):
    folder = prepare(tmp_path / "set", tree)
    assert folder.num_classes == 17
    assert folder.classes[:5] == ["building", "tree", "cow", "sheep", "aeroplane"]
    assert not set(folder.classes) & {"grass", "sky", "water", "road", "horse", "mountain"}
    assert verify(folder.root, masks_for=["train", "val"]).errors == []
    assert folder.image("1_1_s").shape == (4, 6, 3)
    assert "12 train, 4 val, 8 without any class" in capsys.readouterr().out


def test_masks_by_hand(tree, tmp_path):
    folder = prepare(tmp_path / "set", tree)
    grass, plane = folder.mask("1_1_s"), folder.mask("2_1_s")
    assert (grass[:2] == 0).all()
    assert (plane[:2] == 5).all()
    for mask in (grass, plane):
        assert (mask[2:] == 255).all()  # horse, mountain, void


def test_a_few_stray_colours_are_ignored():
    rgb = np.zeros((20, 20, 3), np.uint8)
    rgb[:] = msrc.COLOURS["cow"]
    rgb[0, 0] = (1, 2, 3)
    mask = msrc.convert_truth(rgb, ["cow"], [name for name in msrc.COLOURS if name != "cow"])
    assert mask[0, 0] == 255
    assert (mask == 1).sum() == 399


def test_labels_are_from_the_masks_and_marked_so(tree, tmp_path):
    folder = prepare(tmp_path / "set", tree)
    rows = layout.read_labels(folder.root, folder.classes)
    assert rows["1_3_s"] == []
    assert rows["2_3_s"] == ["aeroplane"]
    assert layout.read_about(folder.root)["labels"] == "masks"


def test_background_is_a_choice(tree, tmp_path):
    folder = prepare(tmp_path / "set", tree, background=["sky"])
    assert folder.num_classes == 20
    assert folder.classes[1] == "grass"
    assert (folder.mask("1_1_s")[:2] == 2).all()
    again = prepare(tmp_path / "set", tree)  # another choice redraws every mask
    assert (again.mask("1_1_s")[:2] == 0).all()
    with pytest.raises(UserError, match="Did you mean 'grass'"):
        prepare(tmp_path / "set", tree, background=["gras"])
    with pytest.raises(UserError, match="between 0 and 1"):
        prepare(tmp_path / "set", tree, val_share=25)


def test_split_is_stratified_and_the_same_everywhere(tree, tmp_path):
    folder = prepare(tmp_path / "set", tree)
    train, val = folder.ids("train"), folder.ids("val")
    assert not set(train) & set(val)
    assert [name[0] for name in val] == ["1", "1", "2", "2"]
    ids = [f"{scene}_{number}_s" for scene in (10, 9) for number in range(1, 31)]
    one, two = msrc.split_by_scene(ids, 0.25), msrc.split_by_scene(reversed(ids), 0.25)
    assert one == two
    assert [sum(name.startswith("9_") for name in part) for part in one] == [22, 8]
    assert one[0][0].startswith("9_")  # numbers in their natural order
    assert one[1][:3] == ["9_2_s", "9_6_s", "9_8_s"]  # frozen: other machines draw the same


def test_a_scene_of_one_image_trains():
    train, val = msrc.split_by_scene(["1_1_s", "2_1_s", "2_2_s"], 0.9)
    assert "1_1_s" in train
    assert (len(train), len(val)) == (2, 1)
    assert len(msrc.split_by_scene(["2_1_s", "2_2_s"], 0.01)[1]) == 1


def test_from_the_zip_archive(tree, tmp_path):
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / msrc.ARCHIVE.name, "w") as archive:
        for path in sorted(tree.rglob("*.bmp")):
            archive.write(path, path.relative_to(tree.parent))
        archive.writestr(f"{tree.name}/Images/Thumbs.db", "x")
    msrc.prepare(tmp_path / "one", archives=tmp_path / "zip", check_counts=False)
    two = prepare(tmp_path / "two", tree)
    one = Folder(tmp_path / "one")
    assert one.ids("val") == two.ids("val")
    assert np.array_equal(one.image("2_8_s"), two.image("2_8_s"))


def test_faults_are_named(tree, tmp_path):
    with pytest.raises(UserError, match=r"holds 16 images instead of 591"):
        msrc.prepare(tmp_path / "set", archives=tree)
    with pytest.raises(
        UserError, match=r"msrc_objcategimagedatabase_v2.zip does not exist.*micros"
    ):
        msrc.prepare(tmp_path / "set")
    strange = np.full((4, 6, 3), 1, np.uint8)
    Image.fromarray(strange).save(tree / "GroundTruth/1_2_s_GT.bmp")
    with pytest.raises(UserError, match=r"1_2_s_GT.bmp: 24 pixels .*RGB \(1, 1, 1\)"):
        prepare(tmp_path / "set", tree)
    (tree / "GroundTruth/1_2_s_GT.bmp").unlink()
    with pytest.raises(UserError, match=r"1_2_s_GT.bmp .and 0 more. is missing"):
        prepare(tmp_path / "set", tree)
