"""The DVC pipeline on the toy set, in a repository of its own: what runs, and what does not."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from toy_profile import PARAMS, write_params
from toys import make_folder

pytestmark = pytest.mark.slow
TOP = Path(__file__).parents[1]
LATER = ("random_walk", "segment", "evaluate_stages")
BOUND = ("upper_bound", "evaluate_upper_bound")
EXPERIMENTS = {
    "cam": {"title": "CAM", "method": "cam"},
    "biased": {"title": "CAM with bias", "method": "cam", "settings": {"bias": True}},
}


def shell(folder, *command, check=True):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def repro(folder, *options):
    """Run `dvc repro`; the names of the stages that really ran."""
    return re.findall(r"Running stage '([^']+)'", shell(folder, "dvc", "repro", *options))


def changed(folder):
    return set(json.loads(shell(folder, "dvc", "status", "--json")))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    for name in ("wsssbench", "notebooks"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TOP / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(TOP / name, folder / name)
    make_folder(folder / "data" / "toy")
    grid = {"experiments": list(EXPERIMENTS), "seeds": [0]}
    grid |= {"multi_stage": ["cam"], "upper_bound": [0]}
    extra = {"root": ".", "params_file": "params.yaml"}
    write_params(folder, experiments=EXPERIMENTS, grid=grid, **extra)
    shell(folder, "git", "init", "-q")
    shell(folder, "dvc", "init", "-q")
    shell(folder, "dvc", "config", "core.analytics", "false")
    return folder


def test_first_run_makes_everything(repository):
    ran = repro(repository)
    runs = [f"{s}@{e}-0" for s in ("train", "pseudo_masks", "evaluate") for e in EXPERIMENTS]
    runs += [f"{stage}@cam-0" for stage in LATER] + [f"{stage}@0" for stage in BOUND]
    assert sorted(ran) == sorted(["prepare", "plan", *runs, "report"])
    for name in ("train", "pseudo_masks", "evaluate", *LATER):
        assert (repository / "runs/toy/cam-0" / name / f"{name}.ipynb").exists()
    bound = repository / "runs/toy/supervised-0"
    assert {path.name for path in bound.iterdir()} == {"segment", "evaluate_stages"}
    table = (repository / "reports/toy/tables/stages_val.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["experiment", "cam", "supervised"]
    page = (repository / "reports/toy/index.html").read_text()
    assert "CAM with bias" in page


def test_second_run_does_nothing(repository):
    assert repro(repository) == []


def test_metrics_and_plots(repository):
    assert "cam" in shell(repository, "dvc", "metrics", "show", "--json")
    shell(repository, "dvc", "plots", "show", "-o", "plots")
    assert (repository / "plots" / "index.html").exists()


def test_one_experiment_changes_only_itself(repository):
    path = repository / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["experiments"]["biased"]["settings"] = {"bias": True, "dropout": 0.2}
    path.write_text(yaml.safe_dump(params))
    ran = repro(repository)
    assert set(ran) == {
        "plan",
        "train@biased-0",
        "pseudo_masks@biased-0",
        "evaluate@biased-0",
        "report",
    }


def test_a_later_stage_hangs_on_its_own_section(repository):
    """What comes behind these stages runs again because they do; the report reads the plan."""
    path = repository / "params.yaml"
    before = path.read_text()
    for change, stages in (
        ({"experiments": {"cam": {"segment": {"flip": False}}}}, {"segment@cam-0"}),
        ({"segment": {"flip": False}}, {"segment@cam-0", "upper_bound@0"}),
        (
            {
                "random_walk": {"beta": 8.0},
                "experiments": {"cam": {"title": "C"}, "biased": {"segment": {"flip": False}}},
            },
            {"random_walk@cam-0"},
        ),
    ):
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(before), change)))
        assert repro(repository, "plan") == ["plan"]
        assert changed(repository) == stages | {"report"}
    path.write_text(before)
    repro(repository, "plan")
    assert changed(repository) == set()


def merged(old, new):
    """Nested sections with some keys changed."""
    if not isinstance(new, dict):
        return new
    return {**old, **{key: merged(old.get(key, {}), value) for key, value in new.items()}}


def test_the_machine_section_changes_nothing(repository):
    path = repository / "params.yaml"
    before = path.read_text()
    params = yaml.safe_load(before)
    params["machine"]["workers"] = 1
    path.write_text(yaml.safe_dump(params))
    assert changed(repository) == set()
    path.write_text(before)


def test_reporting_code_reruns_the_report_alone(repository):
    path = repository / "wsssbench" / "reporting" / "style.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert changed(repository) == {"report"}
    assert repro(repository) == ["report"]


def test_comments_in_a_method_rerun_no_training(repository):
    path = repository / "wsssbench" / "methods" / "cam.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert repro(repository) == ["plan"]


def test_killed_training_goes_on_from_its_last_epoch(repository):
    path = repository / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["experiments"]["cam"]["train"] = {"epochs": 300}
    path.write_text(yaml.safe_dump(params))
    path_bin = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    running = subprocess.Popen(
        ["dvc", "repro", "train@cam-0"],
        cwd=repository,
        env={**os.environ, "PATH": path_bin, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoint = repository / ".ckpt" / "runs-toy-cam-0-train.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert checkpoint.exists()
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    kill_kernels(repository)
    text = shell(repository, "dvc", "repro", "train@cam-0")
    assert re.search(r"Going on after epoch \d+ of 300", text)
    assert not checkpoint.exists()
    history = (repository / "runs/toy/cam-0/train/history.csv").read_text().splitlines()
    assert len(history) == 301


def kill_kernels(folder):
    """The kernel is in a session of its own; a power cut would take it too."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and b"ipykernel" in (
                process / "cmdline"
            ).read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, PermissionError):
            continue


def test_toy_parameters_have_every_section():
    tracked = yaml.safe_load((TOP / "dvc.yaml").read_text())["stages"]
    sections = set()
    for stage in tracked.values():
        for entry in stage.get("params", []):
            sections |= {name.split(".")[0] for names in entry.values() for name in names}
    assert sections <= set(PARAMS)
