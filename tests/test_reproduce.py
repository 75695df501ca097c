"""Stages of a small DVC project, several at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from wsssbench.errors import UserError
from wsssbench.reproduce import (
    affected,
    environment,
    longest_first,
    read_graph,
    reproduce,
    visible_gpus,
)

DOT = """strict digraph {
"a";
"b@1";
"b@2";
"c";
"d";
"a" -> "b@1";
"a" -> "b@2";
"b@1" -> "c";
}
"""
GRAPH = {"a": set(), "b@1": {"a"}, "b@2": {"a"}, "c": {"b@1"}, "d": set()}


def test_graph_is_read_with_stages_that_nothing_joins():
    assert read_graph(DOT) == GRAPH
    assert read_graph("strict digraph {\n\n}\n") == {}


def test_what_comes_after_a_change_is_affected():
    assert affected(GRAPH, ["b@1"]) == {"b@1", "c"}
    assert affected(GRAPH, ["a"]) == {"a", "b@1", "b@2", "c"}
    assert affected(GRAPH, ["elsewhere.dvc"]) == set()


def test_longest_chain_comes_first():
    assert longest_first(GRAPH) == ["a", "b@1", "b@2", "c", "d"]
    assert longest_first({"x": set(), "y": set(), "z": {"y"}}) == ["y", "x", "z"]


def test_jobs_share_cores_and_keep_to_their_gpu(monkeypatch):
    monkeypatch.setattr("wsssbench.reproduce.cpus", lambda: 8)
    assert environment({"A": "1"}, 2, None) == {"A": "1", "OMP_NUM_THREADS": "4"}
    assert environment({"OMP_NUM_THREADS": "3"}, 16, "5") == {
        "OMP_NUM_THREADS": "3",
        "CUDA_VISIBLE_DEVICES": "5",
    }


def test_gpus_are_those_that_are_visible(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-7")
    assert visible_gpus() == ["2", "GPU-7"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    told = tmp_path / "nvidia-smi"
    told.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: 1)'\necho 'GPU 1: X (UUID: 2)'\n")
    told.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


def test_unknown_file_is_one_line():
    with pytest.raises(UserError, match=r"nothing/dvc\.yaml does not exist"):
        reproduce("nothing/dvc.yaml")


def test_negative_number_of_jobs_is_one_line(tmp_path):
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(UserError, match="JOBS is -1; give the number"):
        reproduce(tmp_path / "dvc.yaml", -1)


MEET = (  # a stage of a pair is done once the other one has begun
    "touch {own}.here; for i in $(seq 300); do test -e {other}.here && break; sleep 0.1; done; "
    "test -e {other}.here && cp source {own}"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    stages = {
        "left": {"cmd": MEET.format(own="l", other="r"), "deps": ["source"], "outs": ["l"]},
        "right": {"cmd": MEET.format(own="r", other="l"), "deps": ["source"], "outs": ["r"]},
        "last": {"cmd": "cat l r more > both", "deps": ["l", "r", "more"], "outs": ["both"]},
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "source").write_text("s")
    (folder / "more").write_text("1")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    return folder


def run(folder, *options, env=None):
    command = [sys.executable, "-m", "wsssbench.reproduce", "dvc.yaml", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_stages_run_at_once_and_only_where_something_changed(project):
    status, said, wrong = run(project, "--jobs", "2")
    assert status == 0, said + wrong
    assert (project / "both").read_text() == "ss1"
    assert "[3/3] last" in said
    assert "left | Running stage 'left':" in said

    assert run(project, "--jobs", "2")[1] == "dvc.yaml: everything is up to date.\n"

    (project / "more").write_text("2")
    status, said, _ = run(project, "--jobs", "2")
    assert status == 0
    assert "[1/1] last" in said
    assert (project / "both").read_text() == "ss2"


@pytest.mark.slow
def test_failed_stage_is_named_and_a_second_call_goes_on(project):
    (project / "more").unlink()
    (project / "source").write_text("t")
    status, said, wrong = run(project, "--jobs", "2")
    assert status == 1
    assert wrong.startswith("Error: Failed: last; see the lines that begin with the name.")
    assert "last | ERROR" in said
    (project / "more").write_text("3")
    status, said, _ = run(project, "--jobs", "1")  # by DVC itself
    assert status == 0
    assert (project / "both").read_text() == "tt3"
    assert "Stage 'left' didn't change" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "inherited"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),  # in a script: nohup make reproduce &
    ],
)
def test_interrupted_run_stops_its_stages(tmp_path, sent, inherited):
    stages = {"long": {"cmd": "echo $$ > pid; exec sleep 300", "outs": ["never"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True
    )
    command = [sys.executable, "-m", "wsssbench.reproduce", "dvc.yaml", "--jobs", "2"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
    )
    for _ in range(600):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    running.send_signal(sent)
    assert running.wait(60) == 130
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):  # until somebody has taken note of its end
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
