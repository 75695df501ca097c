"""The DVC pipeline of a controlled experiment on a tiny set: what runs after which change."""

import shutil

import pytest
import yaml
from test_pipeline import TOP, changed, repro, shell
from toy_profile import write_params

pytestmark = pytest.mark.slow
PIPELINE = "profiles/toy/dvc.yaml"
KNOBS = {"size": 32, "classes": 2, "train": 4, "val": 2, "rho": 0.0, "q": 0.0}
CLAIM = {
    "name": "problem",
    "mechanism": "A smaller part leaves more of the body out.",
    "experiment": "cam",
    "measure": "body_to_part",
    "expected": "-",
    "cells": ["small"],
    "reference": ["large"],
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for name in ("wsssbench", "notebooks"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TOP / name, folder / name, ignore=ignore)
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(TOP / name, folder / name)
    place = folder / "profiles" / "toy"
    place.mkdir(parents=True)
    shutil.copy(TOP / "profiles" / "study.dvc.yaml", folder / "profiles")
    (place / "dvc.yaml").symlink_to("../study.dvc.yaml")
    study = {
        "question": "Is the body found?",
        "cells": {"large": {"part_ratio": 0.5}, "small": {"part_ratio": 0.1}},
        "tests": {"natural": {}},
        "figures": ["body_to_part"],
        "claims": [CLAIM],
        "crf": {},
    }
    data = {"source": "scenes", "root": "data/toy", "options": KNOBS}
    grid = {"experiments": ["cam"], "cells": ["large", "small"], "seeds": [0]}
    extra = {"root": "../..", "params_file": "profiles/toy/params.yaml"}
    train = {"epochs": 1, "resize": [32, 32]}
    write_params(place, data=data, grid=grid, study=study, train=train, **extra)
    for command in ("git init -q", "dvc init -q", "dvc config core.analytics false"):
        shell(folder, *command.split())
    return folder


def change(folder, **study):
    path = folder / "profiles" / "toy" / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["study"] |= study
    path.write_text(yaml.safe_dump(params))


def names(stages):
    return {stage.rpartition(":")[2] for stage in stages}


def test_first_run_makes_everything_and_the_second_nothing(repository):
    runs = {"run@large-cam-0", "run@small-cam-0"}
    assert names(repro(repository, PIPELINE)) == {"plan", *runs, "report"}
    page = (repository / "reports/toy/index.html").read_text()
    assert "2 of 2 runs" in page
    assert (repository / "reports/toy/study.ipynb").exists()
    assert repro(repository, PIPELINE) == []


def test_a_claim_reruns_the_report_and_a_knob_its_cell(repository):
    change(repository, claims=[{**CLAIM, "expected": "+"}])
    assert names(changed(repository)) == {"plan", "report"}  # the plan looks at the pre-training
    change(repository, claims=[CLAIM], cells={"large": {"part_ratio": 0.5}, "small": {}})
    assert names(changed(repository)) == {"plan", "run@small-cam-0", "report"}
