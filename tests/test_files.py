import json
import os
import stat

import pytest

from wsssbench.errors import UserError, unknown
from wsssbench.files import atomic, check_writable, read_json, write_json, write_text


def fail(stream):
    stream.write(b"half")
    raise ValueError


def test_writes_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with pytest.raises(ValueError), atomic(path) as stream:
        fail(stream)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]
    with atomic(path, durable=True) as stream:
        stream.write(b"new")
    assert path.read_text() == "new"


def test_disk_full_is_said_plainly(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(UserError, match=r"Disk full while writing .*a\.txt"), atomic(path):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match="No permission to write"):
        write_text(tmp_path / "a.txt", "x")


def test_a_file_in_the_place_of_a_directory(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="a file lies where a directory is needed"):
        write_text(tmp_path / "a" / "b.txt", "x")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match=r"c cannot be written: .*the other way round"):
        write_text(tmp_path / "c", "x")
    check_writable(tmp_path / "d" / "e")
    assert sorted(os.listdir(tmp_path)) == ["a", "c", "d"]
    assert os.listdir(tmp_path / "d" / "e") == []


def test_a_place_that_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"xx cannot be written to \(.*\)\. Choose another"):
        write_text(tmp_path / ("x" * 300) / "a.txt", "x")

    def refuse(*_, **__):  # as /proc does
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"out cannot be written to \(No such file or directory\)"):
        check_writable(tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        (tmp_path / "another.txt").read_text()  # of the block, not of the place


def test_json_without_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": float("nan"), "b": [1.0, float("nan")], "c": (2,)})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.0, None], "c": [2]}
    assert read_json(path, "") == {"a": None, "b": [1.0, None], "c": [2]}


def test_json_errors_end_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"does not exist\. Do this\."):
        read_json(tmp_path / "a.json", "Do this.")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "b.json", "Do this.")


def test_unknown_names_the_nearest():
    assert "Did you mean 'train'?" in str(unknown("split", "trian", ["train", "val"]))
    assert "Did you mean" not in str(unknown("split", "xyz", ["train", "val"]))
