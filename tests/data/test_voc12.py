import shutil

import numpy as np
import pytest
from data_trees import annotation, damage, pack_tar, sbd_mask, sbd_tree, voc_tree
from PIL import Image

from wsssbench.data import layout, voc12
from wsssbench.data.folder import Folder
from wsssbench.data.verify import verify
from wsssbench.errors import UserError


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The two official archives, small."""
    trees, folder = tmp_path_factory.mktemp("trees"), tmp_path_factory.mktemp("archives")
    voc_tree(trees)
    sbd_tree(trees)
    pack_tar(trees / "VOCdevkit", folder / "VOCtrainval_11-May-2012.tar", "w", trees)
    pack_tar(trees / "benchmark_RELEASE", folder / "benchmark.tgz", "w:gz", trees)
    return folder


@pytest.fixture
def trees(tmp_path):
    voc_tree(tmp_path / "trees")
    sbd_tree(tmp_path / "trees")
    return tmp_path / "trees"


def contents(root):
    """What a prepared folder shows: name -> bytes, unpacked sources left out."""
    names = [
        p for p in root.rglob("*") if p.is_file() and "source" not in p.relative_to(root).parts
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in names}


def test_from_archives(archives, tmp_path, capsys):
    root = tmp_path / "voc12"
    voc12.prepare(root, archives=archives, check_counts=False)
    folder = Folder(root)
    assert folder.num_classes == 20
    assert folder.classes[9] == "cow"
    assert folder.ids("train") == ["2007_000001", "2007_000002"]
    assert folder.ids("val") == ["2007_000003"]
    # SBD lists a VOC train and a VOC val picture too: the one is kept once, the other left out
    assert folder.ids("train_aug") == ["2007_000001", "2007_000002", "2008_000004", "2008_000005"]
    assert "train_aug 4 images" in capsys.readouterr().out
    assert verify(root, masks_for=["train_aug", "val"]).errors == []
    assert not (root / "source/voc/VOCdevkit/VOC2012/ImageSets/Main").exists()


def test_labels_are_the_objects_of_the_xml_files(archives, tmp_path):
    voc12.prepare(tmp_path / "set", archives=archives, check_counts=False)
    labels = layout.read_labels(tmp_path / "set", voc12.CLASSES)
    assert labels == {
        "2007_000001": ["aeroplane", "person"],  # the person is marked difficult
        "2007_000002": ["person"],
        "2007_000003": ["tvmonitor"],
        "2008_000004": ["cow"],
        "2008_000005": ["bus", "car"],
    }


def test_masks_are_vocs_where_there_is_one_and_sbds_elsewhere(archives, tmp_path):
    root = tmp_path / "set"
    voc12.prepare(root, archives=archives, check_counts=False)
    folder = Folder(root)
    own = folder.mask("2007_000001")  # SBD annotated it as well, with value 7
    assert np.unique(own).tolist() == [0, 1, 255]
    for name in ("2008_000004", "2008_000005"):
        assert np.array_equal(folder.mask(name), sbd_mask(name))
        assert Image.open(folder.mask_path(name)).mode == "P"
    assert not folder.has_mask("2007_000009")


def test_from_unpacked_trees(trees, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    voc12.prepare(one, archives=trees, check_counts=False)
    voc12.prepare(two, voc=trees / "VOCdevkit", sbd=trees / "benchmark_RELEASE", check_counts=False)
    assert contents(one) == contents(two)
    assert not (one / "source").exists()
    assert (one / "JPEGImages").resolve() == (trees / "VOCdevkit/VOC2012/JPEGImages").resolve()


def test_a_second_run_changes_nothing(trees, tmp_path):
    root = tmp_path / "set"
    voc12.prepare(root, archives=trees, check_counts=False)
    mask = root / "SegmentationClass/2008_000004.png"
    before, written = contents(root), mask.stat().st_mtime_ns
    voc12.prepare(root, archives=trees, check_counts=False)
    assert contents(root) == before
    assert mask.stat().st_mtime_ns == written


def test_an_interrupted_run_is_no_data_set_and_goes_on(archives, tmp_path, monkeypatch):
    whole, root = tmp_path / "whole", tmp_path / "set"
    voc12.prepare(whole, archives=archives, check_counts=False)
    read = voc12.read_sbd_mask

    def interrupted(path):
        if path.stem == "2008_000005":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(voc12, "read_sbd_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        voc12.prepare(root, archives=archives, check_counts=False)
    assert layout.splits(root) == []
    monkeypatch.undo()
    voc12.prepare(root, archives=archives, check_counts=False)
    assert contents(root) == contents(whole)


def test_without_sbd(trees, tmp_path):
    voc12.prepare(tmp_path / "set", archives=trees, sbd=False, check_counts=False)
    assert Folder(tmp_path / "set").splits == ["train", "val"]


def test_train_aug_is_a_union_without_val():
    assert voc12.train_aug(["a", "b"], ["c"], ["d", "c", "a"]) == ["a", "b", "d"]


def test_published_counts_are_consistent():
    assert sum(voc12.IMAGES_PER_LABELS.values()) == voc12.LIST_SIZES["train_aug"]


def test_parts_of_an_object_are_no_labels(tmp_path):
    (tmp_path / "x.xml").write_text(annotation([("horse", 1), ("dog", 0)], parts=["head"]))
    assert voc12.object_names(tmp_path / "x.xml") == ["dog", "horse"]
    (tmp_path / "x.xml").write_text(annotation([("cart", 0)]))
    with pytest.raises(UserError, match=r"x.xml: Unknown class 'cart'. Did you mean 'ca"):
        voc12.object_names(tmp_path / "x.xml")
    (tmp_path / "x.xml").write_text("<annotation><object>")
    with pytest.raises(UserError, match=r"x.xml is damaged"):
        voc12.object_names(tmp_path / "x.xml")


def test_missing_archives_say_where_to_get_them(tmp_path, trees):
    with pytest.raises(UserError) as error:
        voc12.prepare(tmp_path / "set")
    text = str(error.value)
    for part in (
        str(tmp_path / "set/archives/VOCtrainval_11-May-2012.tar"),
        "1999639040 bytes",
        "6cd6e144f989b92b3379bac3b3de84fd",
        "host.robots.ox.ac.uk",
        "voc: PATH",
        "download: true",
    ):
        assert part in text
    with pytest.raises(UserError, match=r"benchmark.tgz does not exist.*sbd: false"):
        voc12.prepare(tmp_path / "set", voc=trees / "VOCdevkit", check_counts=False)
    with pytest.raises(UserError, match="is no VOC 2012 tree"):
        voc12.prepare(tmp_path / "set", voc=tmp_path)
    with pytest.raises(UserError, match="is no SBD tree"):
        voc12.prepare(tmp_path / "set", archives=trees, sbd=tmp_path, check_counts=False)


def test_wrong_counts_name_the_file_and_where_to_get_it(trees, archives, tmp_path, capsys):
    with pytest.raises(UserError, match=r"VOC train of .* has 2 images instead of 1464.*Get VOCtr"):
        voc12.prepare(tmp_path / "set", archives=trees)
    assert "VOC train: 2 images, expected 1464" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"tar has \d+ bytes instead of 1999639040"):
        voc12.prepare(tmp_path / "set", archives=archives)


@pytest.mark.parametrize(
    ("table", "value", "pattern"),
    [
        ("IMAGES_PER_CLASS", {"cow": 2}, "with cow: 1 images instead of 2.*Annotations"),
        ("IMAGES_PER_LABELS", {1: 9}, "with 1 labels: 2 images instead of 9.*Annotations"),
        ("LIST_SIZES", {"SBD val": 7}, "SBD val of .*dataset has 2 .*Get benchmark.tgz"),
    ],
)
def test_every_published_count_is_compared(trees, tmp_path, monkeypatch, table, value, pattern):
    sizes = {"VOC train": 2, "VOC val": 1, "SBD train": 2, "SBD val": 2, "train_aug": 4}
    monkeypatch.setattr(voc12, "LIST_SIZES", sizes)
    monkeypatch.setattr(voc12, "IMAGES_PER_CLASS", {"cow": 1, "person": 2})
    monkeypatch.setattr(voc12, "IMAGES_PER_LABELS", {1: 2, 2: 2})
    voc12.prepare(tmp_path / "right", archives=trees)
    monkeypatch.setattr(voc12, table, {**getattr(voc12, table), **value})
    with pytest.raises(UserError, match=pattern):
        voc12.prepare(tmp_path / "wrong", archives=trees)


@pytest.mark.parametrize("name", ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"])
def test_truncated_archive_leaves_nothing_behind(archives, tmp_path, name):
    shutil.copytree(archives, tmp_path / "archives")
    damage(tmp_path / "archives" / name)
    root = tmp_path / "set"
    with pytest.raises(UserError, match=rf"{name} .*(incomplete|unpacked).*Get {name}.*again"):
        voc12.prepare(root, archives=tmp_path / "archives", check_counts=False)
    left = [path.name for path in (root / "source").iterdir()]
    assert left == ([] if name.startswith("VOC") else ["voc"])


def test_missing_and_damaged_sources_are_named(trees, tmp_path):
    tree = trees / "VOCdevkit/VOC2012"
    mat = trees / "benchmark_RELEASE/dataset/cls/2008_000004.mat"
    for path, pattern in [
        (damage(mat, 0.3), "000004.mat is damaged.*Unpack benchmark.tgz"),
        (mat, "000004.mat does not exist"),
        (tree / "SegmentationClass/2007_000002.png", "000002.png does not exist.*Unpack VOC"),
        (tree / "Annotations/2007_000002.xml", "000002.xml does not exist"),
    ]:
        if "does not" in pattern:
            path.unlink()
        with pytest.raises(UserError, match=pattern):
            voc12.prepare(tmp_path / "set", archives=trees, check_counts=False)


def test_the_source_itself_is_never_written_to(trees):
    with pytest.raises(UserError, match="Name another root"):
        voc12.prepare(trees / "VOCdevkit/VOC2012", archives=trees, check_counts=False)


def test_another_data_set_is_not_overwritten(trees, tmp_path):
    layout.write_about(tmp_path / "set", "coco14", "x")
    with pytest.raises(UserError, match=r"source 'coco14'. Choose another root"):
        voc12.prepare(tmp_path / "set", archives=trees, check_counts=False)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/SegmentationClass").symlink_to(trees)
    with pytest.raises(UserError, match="links to masks elsewhere"):
        voc12.prepare(tmp_path / "linked", archives=trees, check_counts=False)


def test_download_uses_torchvision_and_says_what_to_do_when_it_fails(
    archives, tmp_path, monkeypatch
):
    calls = []

    def fetch(url, folder, filename, md5):
        calls.append((filename, md5))
        if filename == "benchmark.tgz":
            raise OSError("no network")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(archives / filename, folder)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(UserError, match=r"benchmark.tgz failed .no network.*put it in .*archives"):
        voc12.prepare(tmp_path / "set", download=True, check_counts=False)
    assert calls == [(voc12.VOC.name, voc12.VOC.md5), (voc12.SBD.name, voc12.SBD.md5)]
    shutil.copy(archives / "benchmark.tgz", tmp_path / "set/archives")
    voc12.prepare(tmp_path / "set", download=True, check_counts=False)
    assert len(calls) == 2  # what is there is not fetched again


def test_checksums_are_those_torchvision_knows():
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert (voc12.VOC.name, voc12.VOC.md5) == (
        DATASET_YEAR_DICT["2012"]["filename"],
        DATASET_YEAR_DICT["2012"]["md5"],
    )
    assert (voc12.SBD.name, voc12.SBD.md5) == (SBDataset.filename, SBDataset.md5)
