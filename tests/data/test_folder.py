import pickle
import shutil

import numpy as np
import pytest
import torch
from data_trees import damage, photograph, small_folder
from torchvision import tv_tensors

from wsssbench.data import layout
from wsssbench.data.folder import Folder, LabelledImages, prepare
from wsssbench.errors import UserError


@pytest.fixture
def root(tmp_path):
    return small_folder(tmp_path / "set")


def test_a_folder_shows_what_was_written(root):
    folder = Folder(root)
    assert folder.classes == ["cat", "dog"]
    assert folder.num_classes == 2
    assert folder.palette == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    assert folder.splits == ["train", "val"]
    assert folder.ids("train") == ["a", "b", "c"]
    assert folder.label("b").tolist() == [1, 1]
    assert folder.labels["d"].tolist() == [0, 1]
    assert folder.labels["d"].dtype == np.float32
    assert folder.image("a").shape == (6, 8, 3)
    assert np.bincount(folder.mask("b").ravel())[[1, 2, 255]].tolist() == [6, 12, 6]
    assert not folder.has_mask("c")


def test_images_without_label_are_kept_and_counted(root):
    layout.write_labels(root, {"a": ["cat"], "b": []})  # c has no row at all
    folder = Folder(root)
    assert folder.unlabelled(folder.ids("train")) == ["b", "c"]
    assert folder.label("c").tolist() == [0, 0]
    images = LabelledImages(folder, folder.ids("train"))
    assert (len(images), images.unlabelled) == (3, 2)
    assert images[2]["label"].tolist() == [0, 0]


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png", ".bmp"])
def test_other_endings_are_images_too(root, ending):
    shutil.move(photograph(root / f"x{ending.lower()}"), root / "JPEGImages" / f"x.1{ending}")
    layout.write_ids(root, "own", ["x.1"])
    assert Folder(root).ids("own") == ["x.1"]
    assert Folder(root).image("x.1").shape == (6, 8, 3)


def test_file_names_may_hold_blanks_and_letters_of_any_language(root):
    photograph(root / "JPEGImages/zwölf Kühe 1.jpg")
    layout.write_ids(root, "own", ["zwölf Kühe 1"])
    layout.write_labels(root, {"zwölf Kühe 1": ["dog"]})
    folder = Folder(root)
    assert folder.ids("own") == ["zwölf Kühe 1"]
    assert folder.label("zwölf Kühe 1").tolist() == [0, 1]


def test_grey_and_transparent_images_become_rgb(root):
    from PIL import Image

    Image.fromarray(np.full((6, 8), 7, np.uint8)).save(root / "JPEGImages" / "grey.png")
    assert Folder(root).image("grey")[0, 0].tolist() == [7, 7, 7]
    Image.new("RGBA", (8, 6), (1, 2, 3, 0)).save(root / "JPEGImages" / "clear.png")
    assert Folder(root).image("clear")[0, 0].tolist() == [1, 2, 3]


def test_text_files_of_windows_are_read(root):
    (root / "classes.txt").write_bytes("\ufeffbackground\r\ncat\r\ndog\r\n\r\n".encode())
    (root / "labels.csv").write_bytes(b"\xef\xbb\xbfid,labels\r\na,cat dog\r\n\r\n")
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"a\r\n\r\nb \r\n")
    folder = Folder(root)
    assert folder.ids("train") == ["a", "b"]
    assert folder.label("a").tolist() == [1, 1]


def break_root(root):
    shutil.rmtree(root)


def break_classes(root):
    (root / "classes.txt").unlink()


def break_images(root):
    shutil.rmtree(root / "JPEGImages")


def break_image_double(root):
    shutil.copy(root / "JPEGImages/a.jpg", root / "JPEGImages/a.jpeg")


def break_labels(root):
    (root / "labels.csv").unlink()


def break_image_list(root):
    with open(root / "ImageSets/Segmentation/train.txt", "a") as stream:
        stream.write("lost\n")


def write(name, text):
    def act(root):
        (root / name).write_text(text)

    return act


LIST = "ImageSets/Segmentation/train.txt"


@pytest.mark.parametrize(
    ("act", "pattern"),
    [
        (break_root, "folder .*set does not exist.*wsssbench data prepare"),
        (break_classes, "classes.txt does not exist.*`background` first"),
        (write("classes.txt", "cat\ndog\n"), "must start with `background`"),
        (write("classes.txt", "background\npolar bear\n"), "Write polar_bear"),
        (write("classes.txt", "background\ncat\ncat\n"), "'cat' twice"),
        (
            write("classes.txt", "background\n" + "".join(f"c{i}\n" for i in range(255))),
            "names 255 classes; masks hold 254",
        ),
        (break_images, "Image folder .* does not exist.*<id>.jpg"),
        (break_image_double, "holds both a.jpeg and a.jpg"),
        (break_labels, "labels.csv does not exist.*labels_from_masks"),
        (write("labels.csv", "name;labels\n"), "must start with the header `id,labels`"),
        (write("labels.csv", "id,labels\na,cta\n"), "line 2 .id a.*Did you mean 'cat'.*cat, dog"),
        (write("labels.csv", "id,labels\na,cat\na,dog\n"), "line 3: id 'a' has a row already"),
        (write("labels.csv", "id,labels\na,cat,dog\n"), "by a space, not by a comma"),
        (break_image_list, "lists 'lost' without an image in .*JPEGImages"),
        (write(LIST, "a\nb\na\n"), "lists 'a' more than once"),
        (write(LIST, "a.jpg a.png\n"), "lists 'a.jpg a.png' without an image.*without ending"),
        (write(LIST, "\n"), "train.txt is empty"),
    ],
)
def test_faults_are_told_in_one_line_with_a_remedy(root, act, pattern):
    act(root)

    def start_training():
        folder = Folder(root)
        return LabelledImages(folder, folder.ids("train"))

    with pytest.raises(UserError, match=pattern) as error:
        start_training()
    assert "\n" not in str(error.value)


def test_unknown_split_and_id_name_the_nearest(root):
    with pytest.raises(UserError, match=r"Unknown split 'trian'. Did you mean 'train'"):
        Folder(root).ids("trian")
    with pytest.raises(UserError, match="Unknown image id 'z'"):
        Folder(root).image("z")


def test_missing_mask_and_truncated_image_are_named(root):
    with pytest.raises(UserError, match=r"Mask .*c.png does not exist"):
        Folder(root).mask("c")
    path = damage(photograph(root / "JPEGImages/a.jpg", size=(64, 64)))
    with pytest.raises(UserError, match=r"a.jpg is truncated"):
        Folder(root).image("a")
    with pytest.raises(UserError, match=str(path)):
        LabelledImages(Folder(root), ["a"])[0]


def test_items_of_a_trainer(root):
    folder = Folder(root)
    item = LabelledImages(folder, ["b", "a"])[1]
    assert sorted(item) == ["id", "image", "index", "label"]
    assert (item["id"], item["index"]) == ("a", 1)
    assert isinstance(item["image"], tv_tensors.Image)
    assert item["image"].dtype == torch.uint8
    assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), folder.image("a"))
    assert item["label"].tolist() == [1, 0]
    assert item["label"].dtype == torch.float32


def test_items_pass_through_the_transform(root):
    def transform(item):
        return {**item, "image": item["image"][:, :2, :3]}

    assert LabelledImages(Folder(root), ["a"], transform)[0]["image"].shape == (3, 2, 3)


def test_a_change_of_one_item_does_not_reach_the_next(root):
    images = LabelledImages(Folder(root), ["a"])
    images[0]["label"].zero_()
    assert images[0]["label"].tolist() == [1, 0]


def test_loader_workers_give_whole_batches(root):
    images = LabelledImages(Folder(root), ["a", "b"])
    batches = list(torch.utils.data.DataLoader(images, batch_size=2, num_workers=1))
    assert batches[0]["id"] == ["a", "b"]
    assert batches[0]["label"].tolist() == [[1, 0], [1, 1]]
    assert batches[0]["image"].shape == (2, 3, 6, 8)


def test_a_trainer_cannot_reach_masks(root):
    before = LabelledImages(Folder(root), ["a", "b", "c"])
    items = [before[i] for i in range(3)]
    shutil.rmtree(root / "SegmentationClass")
    after = LabelledImages(Folder(root), ["a", "b", "c"])
    for index, item in enumerate(items):
        assert torch.equal(after[index]["image"], item["image"])
        assert torch.equal(after[index]["label"], item["label"])
    # Neither the object nor anything it keeps knows the way to a mask.
    kept = pickle.dumps(after)
    assert b"SegmentationClass" not in kept
    assert b"Folder" not in kept


def test_prepare_links_a_read_only_folder(root, tmp_path, capsys):
    target = tmp_path / "linked"
    prepare(target, copy_from=root)
    assert (target / "JPEGImages").is_symlink()
    assert Folder(target).label("b").tolist() == [1, 1]
    assert "1 images have no label" in capsys.readouterr().out
    prepare(target, copy_from=root)  # a second run finds its own work
    shutil.rmtree(target)
    assert len(list((root / "JPEGImages").iterdir())) == 4  # only links were removed


def test_prepare_derives_labels_only_when_asked(root, tmp_path):
    (root / "labels.csv").unlink()
    target = tmp_path / "linked"
    with pytest.raises(UserError, match="labels_from_masks"):
        prepare(target, copy_from=root)
    prepare(target, copy_from=root, labels_from_masks=True)
    assert not (root / "labels.csv").exists()
    folder = Folder(target)
    assert {name: row.tolist() for name, row in folder.labels.items()} == {
        "a": [1, 0],
        "b": [1, 1],
        "d": [0, 1],
    }
    assert layout.read_about(target)["labels"] == "masks"


def test_prepare_never_replaces_labels_that_a_person_wrote(root):
    layout.write_labels(root, {"a": ["dog"]})
    prepare(root, labels_from_masks=True)
    assert layout.read_labels(root, ["cat", "dog"]) == {"a": ["dog"]}
    assert not (root / "about.json").exists()  # a complete folder is not written to


def test_prepare_refreshes_labels_that_it_wrote(root):
    (root / "labels.csv").unlink()
    prepare(root, labels_from_masks=True)
    (root / "SegmentationClass/a.png").unlink()
    prepare(root, labels_from_masks=True)
    assert sorted(layout.read_labels(root, ["cat", "dog"])) == ["b", "d"]


def test_prepare_keeps_labels_that_were_changed_after_it_wrote_them(root):
    (root / "labels.csv").unlink()
    prepare(root, labels_from_masks=True)
    layout.write_labels(root, {"a": ["dog"]})
    prepare(root, labels_from_masks=True)
    assert layout.read_labels(root, ["cat", "dog"]) == {"a": ["dog"]}


def test_prepare_needs_a_list_and_another_folder(root):
    with pytest.raises(UserError, match="Name another one"):
        prepare(root, copy_from=root)
    shutil.rmtree(root / "ImageSets")
    with pytest.raises(UserError, match=r"holds no list.*train.txt"):
        prepare(root)


def test_a_holdout_is_dealt_out_of_val(root):
    names = layout.read_ids(root, "train")
    layout.write_ids(root, "val", names)
    prepare(root, holdout_of_val=2)
    held, rest = (layout.read_ids(root, split) for split in ("holdout", "val_rest"))
    assert held == names[::2]
    assert rest == names[1::2]
    assert layout.read_ids(root, "val") == names
    for wrong in (1, len(names) + 1):
        with pytest.raises(UserError, match=f"from 2 to {len(names)}"):
            prepare(root, holdout_of_val=wrong)
    prepare(root, holdout_of_val=2)
    layout.write_ids(root, "holdout", names[1:2])
    with pytest.raises(UserError, match=r"holdout\.txt is another list.*holdout_of_val: 0"):
        prepare(root, holdout_of_val=2)
    assert layout.read_ids(root, "holdout") == names[1:2]


def test_links_do_not_replace_what_they_find(root, tmp_path):
    (tmp_path / "target/JPEGImages").mkdir(parents=True)
    with pytest.raises(UserError, match="is not a link"):
        prepare(tmp_path / "target", copy_from=root)


def test_links_inside_a_folder_survive_its_move(tmp_path):
    photograph(tmp_path / "set/source/x.jpg")
    layout.link(tmp_path / "set/source/x.jpg", tmp_path / "set/images/x.jpg", tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "moved")
    assert (tmp_path / "moved/images/x.jpg").exists()


def test_without_links_files_are_copied(root, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr("pathlib.Path.symlink_to", no_links)
    layout.link(root / "JPEGImages/a.jpg", tmp_path / "a.jpg", tmp_path)
    layout.link(root / "JPEGImages/a.jpg", tmp_path / "a.jpg", tmp_path)
    assert (tmp_path / "a.jpg").read_bytes() == (root / "JPEGImages/a.jpg").read_bytes()
