import re
import shutil
import subprocess
import sys

import pytest
from toy_profile import write_params
from toys import make_folder
from typer.testing import CliRunner

from wsssbench import cli
from wsssbench.errors import UserError

runner = CliRunner()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "data" / "toy")
    write_params(tmp_path)
    return tmp_path


def test_help_names_every_command():
    text = runner.invoke(cli.app, ["--help"]).output
    for command in (
        "data",
        "train",
        "pseudo-masks",
        "evaluate",
        "report",
        "run",
        "methods",
        "doctor",
    ):
        assert re.search(rf"\b{command}\b", text)


def test_steps_one_after_the_other(workplace):
    for command in (["data", "prepare"], ["train"], ["pseudo-masks"], ["evaluate"], ["report"]):
        result = runner.invoke(cli.app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (workplace / "reports" / "toy" / "index.html").exists()
    masks, truth = "runs/toy/cam-0/pseudo_masks/cam/val/masks", "data/toy/SegmentationClass"
    lists = "data/toy/ImageSets/Segmentation/val.txt"
    result = runner.invoke(
        cli.app, ["evaluate", masks, truth, "--ids", lists, "--classes", "data/toy/classes.txt"]
    )
    assert "mIoU" in result.output


def test_verify_and_describe(workplace):
    assert "0 errors" in runner.invoke(cli.app, ["data", "verify", "data/toy"]).output
    assert "green" in runner.invoke(cli.app, ["data", "describe", "data/toy"]).output
    (workplace / "data/toy/JPEGImages/im000.png").unlink()
    result = runner.invoke(cli.app, ["data", "verify", "data/toy"])
    assert result.exit_code == 1
    assert "im000" in result.output


def test_labels_are_written_once_and_on_request(workplace):
    labels = workplace / "data/toy/labels.csv"
    before = labels.read_text()
    labels.unlink()
    result = runner.invoke(cli.app, ["data", "labels", "data/toy"])
    assert "12 rows" in result.output
    assert labels.read_text() == before
    with pytest.raises(UserError):
        runner.invoke(cli.app, ["data", "labels", "data/toy"], catch_exceptions=False)


def test_labels_need_a_list_of_the_images(workplace):
    (workplace / "data/toy/labels.csv").unlink()
    shutil.rmtree(workplace / "data/toy/ImageSets")
    with pytest.raises(UserError, match=r"toy/ImageSets/Segmentation holds no list.*train.txt"):
        runner.invoke(cli.app, ["data", "labels", "data/toy"], catch_exceptions=False)


def test_a_folder_without_masks_to_convert_is_an_error(workplace):
    command = ["data", "convert-masks", "data/toy/ImageSets", "converted", "3"]
    with pytest.raises(UserError, match=r"Folder data/toy/ImageSets holds no mask"):
        runner.invoke(cli.app, command, catch_exceptions=False)


def test_methods_lists_settings():
    text = runner.invoke(cli.app, ["methods"]).output
    assert "cam:" in text
    assert "dropout=0.0" in text


def test_doctor(workplace):
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "train 9 images" in result.output
    (workplace / "data/toy/labels.csv").unlink()
    assert "labels.csv does not exist" in runner.invoke(cli.app, ["doctor"]).output
    made = {"options": {"labels_from_masks": True, "holdout_of_val": 2}, "val": "val_rest"}
    write_params(workplace, data=made)
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    write_params(workplace, data={"root": "data/elsewhere"})
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "MISSING" in result.output
    (workplace / "data/drawn/a").mkdir(parents=True)
    write_study(workplace)
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "(data/drawn) is drawn run by run" in result.output


@pytest.mark.slow
def test_a_mistake_is_one_line_and_exit_status_one(workplace):
    write_params(workplace, train={"epoch": 1})
    command = [sys.executable, "-m", "wsssbench", "train"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: params.yaml: train: Unknown key 'epoch'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere", "data/toy/SegmentationClass"], "nowhere"),
        (["data/toy/SegmentationClass"], "GT_DIR is missing"),
        (["data/toy/SegmentationClass", "nowhere"], "Folder nowhere does not exist"),
        (["data/toy/SegmentationClass", "two.txt"], "Folder two.txt does not exist"),
        (["data/toy/SegmentationClass", "data/toy/ImageSets"], "data/toy/ImageSets names no image"),
        (["data/toy/SegmentationClass"] * 2 + ["--out", "two.txt"], "cannot be written"),
        (["data/toy/SegmentationClass"] * 2 + ["--ids", "no.txt"], "no.txt does not exist"),
        (["data/toy/SegmentationClass"] * 2 + ["--ids", "two.txt"], "names 'im001' more than once"),
        (["data/toy/SegmentationClass"] * 2 + ["--classes", "names.txt"], "must be called"),
    ],
)
def test_evaluate_says_what_is_wrong(workplace, arguments, text):
    (workplace / "two.txt").write_text("im001\nim000\nim001\n")
    with pytest.raises(UserError, match=text):
        runner.invoke(cli.app, ["evaluate", *arguments], catch_exceptions=False)


def test_a_folder_without_masks_goes_through_all_that_needs_none(workplace):
    shutil.rmtree(workplace / "data/toy/SegmentationClass")
    result = runner.invoke(cli.app, ["run"], catch_exceptions=False)
    assert "Not scored: no image of train, val has a mask." in result.output
    assert any((workplace / "runs/toy/cam-0/pseudo_masks/cam/val/masks").iterdir())
    assert not (workplace / "reports").exists()


def test_tables_of_the_report_shrink_with_the_grid(workplace):
    experiments = {"cam": {"method": "cam"}, "other": {"method": "cam"}}
    tables = [{"name": "a", "title": "Both.", "rows": ["cam", "other"], "baseline": "other"},
              {"name": "b", "title": "One.", "rows": ["other/cam"]}]  # fmt: skip
    write_params(workplace, experiments=experiments, report={"gallery": 0, "tables": tables})
    result = runner.invoke(cli.app, ["report"], catch_exceptions=False)
    assert result.exit_code == 0
    made = {path.stem for path in (workplace / "reports/toy/tables").glob("ablation_*.csv")}
    assert made == {"ablation_a"}


def write_study(folder):
    cells = {"question": "?", "cells": {"a": {}}, "tests": {"t": {}}}
    data = {"source": "scenes", "root": "data/drawn"}
    write_params(folder, study=cells, data=data, grid={"cells": ["a"]})


@pytest.mark.parametrize("command", ["data prepare", "run", "train", "report"])
def test_a_study_is_no_grid(workplace, command):
    write_study(workplace)
    with pytest.raises(UserError, match=r"is a study\. Run: python -m wsssbench study -p toy"):
        runner.invoke(cli.app, command.split(), catch_exceptions=False)
    assert not (workplace / "reports").exists()
    assert not (workplace / "data/drawn").exists()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("study -p toy -e cam -e typo", "Unknown experiment 'typo'. Valid: cam"),
        ("study -p toy -c a -c b", "Unknown cell 'b'. Valid: a"),
        ("study -p toy -s 0 -s 7", r"Seed 7 is not in grid\.seeds of .*choose from 0"),
        ("run -e cam -e cma", "Unknown experiment 'cma'. Did you mean 'cam'"),
        ("train -e cam -e cma", "Unknown experiment 'cma'. Did you mean 'cam'"),
        ("segment -e supervised -e cma", "Unknown experiment 'cma'. Did you mean 'cam'"),
    ],
)
def test_all_names_are_checked_before_the_first_run(workplace, monkeypatch, command, text):
    for stage in ("prepare.prepare", "train.train", "segment.segment", "study.run"):
        monkeypatch.setattr(f"wsssbench.stages.{stage}", lambda *_: pytest.fail("work has begun"))
    if command.startswith("study"):
        write_study(workplace)
    with pytest.raises(UserError, match=text):
        runner.invoke(cli.app, command.split(), catch_exceptions=False)
