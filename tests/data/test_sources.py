"""The table of data sources, and what the sources share: unpacking and running in parallel."""

import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
from data_trees import child_environment, damage, small_folder

from wsssbench.data import BACKGROUND, IGNORE, SOURCES, prepare
from wsssbench.data.archives import Archive, check_size, unpack
from wsssbench.errors import UserError
from wsssbench.parallel import in_processes, in_threads

ARCHIVE = Archive("things.zip", "https://example.org", 1234, "abc")


def test_constants():
    assert (BACKGROUND, IGNORE) == (0, 255)


def test_table_leads_to_the_sources(tmp_path):
    assert sorted(SOURCES) == ["coco14", "folder", "msrc", "scenes", "voc12"]
    prepare("folder", small_folder(tmp_path / "set"))
    with pytest.raises(UserError, match=r"Unknown data source 'voc'. Did you mean 'voc12'"):
        prepare("voc", tmp_path)
    with pytest.raises(UserError, match=r"source folder: Unknown setting 'copy_form'.*'copy_from'"):
        prepare("folder", tmp_path, copy_form="x")


def test_what_a_folder_of_one_s_own_must_hold(tmp_path):
    for options, name in (({}, "mine"), ({"copy_from": str(tmp_path / "theirs")}, "theirs")):
        with pytest.raises(UserError, match=rf"{name} does not exist\. Put it there: JPEGImages"):
            prepare("folder", tmp_path / "mine", **options)


def test_looking_at_data_needs_no_torch():
    code = "import sys, wsssbench.data, wsssbench.data.verify; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=child_environment(), text=True) == "False\n"


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name * 50)
    return path


def test_unpack_takes_what_is_wanted(tmp_path):
    path = zipped(tmp_path / "things.zip", ["top/a.txt", "top/b.bin"])
    target = unpack(ARCHIVE, path, tmp_path / "out/things", lambda name: name.endswith("txt"))
    assert [str(p.relative_to(target)) for p in target.rglob("*.*")] == ["top/a.txt"]
    assert [p.name for p in target.parent.iterdir()] == ["things"]
    path.unlink()
    assert unpack(ARCHIVE, path, target, lambda name: True) == target  # finished before


def test_unpack_is_all_or_nothing(tmp_path, monkeypatch):
    path = zipped(tmp_path / "things.zip", ["a", "b"])
    extract = zipfile.ZipFile.extract

    def interrupted(self, name, target):
        if name == "b":
            raise KeyboardInterrupt
        return extract(self, name, target)

    monkeypatch.setattr(zipfile.ZipFile, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(ARCHIVE, path, tmp_path / "out/things", lambda name: True)
    assert list((tmp_path / "out").iterdir()) == []


def test_unpack_tells_damage_from_a_wrong_file(tmp_path):
    path = zipped(tmp_path / "things.zip", ["a", "b"])
    with pytest.raises(
        UserError, match=r"holds none of the files.*Get things.zip .1234 bytes, md5"
    ):
        unpack(ARCHIVE, path, tmp_path / "things", lambda name: False)
    with pytest.raises(UserError, match="incomplete or damaged"):
        unpack(ARCHIVE, damage(path), tmp_path / "things", lambda name: True)
    with pytest.raises(UserError, match="instead of 1234"):
        check_size(ARCHIVE, path)


def test_unpack_keeps_inside_its_target(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("x")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(outside, "../evil.txt")
    with pytest.raises(UserError, match=r"evil.tar is incomplete or damaged"):
        unpack(ARCHIVE, tmp_path / "evil.tar", tmp_path / "out/things", lambda name: True)
    assert not (tmp_path / "out/evil.txt").exists()


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES"])
def test_unpack_without_space_or_permission(tmp_path, monkeypatch, code):
    import errno

    path = zipped(tmp_path / "things.zip", ["a"])

    def fails(*_):
        raise OSError(getattr(errno, code), "no")

    monkeypatch.setattr(zipfile.ZipFile, "extract", fails)
    with pytest.raises(UserError, match=r"Disk full|No permission"):
        unpack(ARCHIVE, path, tmp_path / "things", lambda name: True)


def test_threads_keep_the_order():
    def slow_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(in_threads(slow_first, range(5), "squares")) == [0, 1, 4, 9, 16]


def test_processes_keep_the_order():
    assert list(in_processes(abs, [-3, 1, -2], "absolute", workers=1)) == [3, 1, 2]
    assert list(in_processes(abs, [-3, 1, -2], "absolute", workers=2)) == [3, 1, 2]


def test_an_error_cancels_what_waits():
    done = []

    def act(number):
        if number == 0:
            raise KeyboardInterrupt
        time.sleep(0.005)
        done.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(in_threads(act, range(400), "waiting", workers=2))
    assert len(done) < 100
