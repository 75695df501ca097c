from pathlib import Path

import pytest
import torch

from wsssbench.engine import checkpoint
from wsssbench.errors import UserError


def test_round_trip_and_fingerprint(tmp_path, capsys):
    path = tmp_path / "a.pt"
    assert checkpoint.load(path, "x") is None
    checkpoint.save(path, {"epoch": 3, "w": torch.ones(2)}, "x")
    assert checkpoint.load(path, "x")["epoch"] == 3
    assert checkpoint.load(path, "y") is None
    assert "other settings" in capsys.readouterr().err


def test_damaged_file_starts_anew(tmp_path, capsys):
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK\x03\x04 half a file")
    assert checkpoint.load(path, "x") is None
    assert "cannot be read" in capsys.readouterr().err


def test_fingerprint_depends_on_every_part():
    marks = {
        checkpoint.fingerprint({"lr": 0.1}, 0, "code"),
        checkpoint.fingerprint({"lr": 0.2}, 0, "code"),
        checkpoint.fingerprint({"lr": 0.1}, 1, "code"),
        checkpoint.fingerprint({"lr": 0.1}, 0, "other"),
    }
    assert len(marks) == 4
    assert checkpoint.fingerprint({"a": 1, "b": 2}) == checkpoint.fingerprint({"b": 2, "a": 1})


def test_paths_of_runs_do_not_meet():
    first = checkpoint.path_for(Path("runs/a/cam-0/train"))
    assert first != checkpoint.path_for(Path("runs/b/cam-0/train"))
    assert first.parent == checkpoint.ROOT


def test_lock_is_released(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("runs/a")
    with checkpoint.in_use(out), pytest.raises(UserError, match="in use"), checkpoint.in_use(out):
        pass
    with checkpoint.in_use(out):
        pass
