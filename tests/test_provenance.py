import subprocess

import torch

from wsssbench import provenance


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state_sees_code_and_not_reports(tmp_path, monkeypatch):
    (tmp_path / "wsssbench").mkdir()
    code = tmp_path / "wsssbench" / "__init__.py"
    code.write_text("x = 1\n")
    (tmp_path / "reports").mkdir()
    report = tmp_path / "reports" / "a.csv"
    report.write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance.wsssbench, "__file__", str(code))
    state = provenance.git_state()
    assert len(state["git_revision"]) == 12
    assert state["git_dirty"] is False
    report.write_text("2\n")
    (tmp_path / "profiles" / "a").mkdir(parents=True)
    (tmp_path / "profiles" / "a" / "dvc.lock").write_text("schema: '2.0'\n")
    assert provenance.git_state()["git_dirty"] is False
    code.write_text("x = 2\n")
    assert provenance.git_state()["git_dirty"] is True


def test_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.wsssbench, "__file__", str(tmp_path / "a" / "b.py"))
    assert provenance.git_state() == {"git_revision": "unknown", "git_dirty": True}


def test_memory_and_versions():
    assert 10 < provenance.peak_memory_mib(torch.device("cpu")) < 10**6
    assert provenance.versions()["torch"] == torch.__version__
    assert provenance.device_name(torch.device("cpu")).startswith("CPU")
