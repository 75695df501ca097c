"""Reading the CSV files: schema, vocabulary, errors with file and line, status, search."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

import wsssbench
from wsssbench import published
from wsssbench.errors import UserError
from wsssbench.published import vocabulary

GOOD = {
    "method": "seam",
    "label": "SEAM",
    "backbone": "WideResNet-38",
    "supervision": "I",
    "dataset": "VOC2012",
    "split": "train",
    "stage": "seed",
    "metric": "miou",
    "value": "55.40",
    "unit": "percent",
    "source": "a paper, table 1",
    "labels_at_test": "yes",
    "note": "",
}


def write(folder: Path, *rows: dict[str, str], name: str = "some.csv") -> Path:
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return folder


def test_schema_and_types():
    figures = published.load()
    assert list(figures) == [*published.COLUMNS, "printed", "file"]
    assert figures["value"].dtype == float
    assert figures.drop(columns="value").map(type).eq(str).all(axis=None)
    assert len(figures) > 500
    assert published.STATUS_FILE.removesuffix(".csv") not in set(figures["file"])


def test_every_word_of_the_files_is_in_the_vocabulary():
    figures = published.load()
    for column, words in published.WORDS.items():
        if column in figures:
            assert set(figures[column]) <= set(words)
    metrics = figures["metric"].str.split(":").str[0]
    assert set(metrics) <= set(vocabulary.METRICS)
    parts = {part for method in figures["method"] for part in vocabulary.parts(method)}
    assert parts <= set(vocabulary.METHODS)


def test_vocabulary_holds_nothing_unused():
    figures = published.load()
    for column in ("backbone", "supervision", "dataset", "split", "stage", "unit"):
        assert set(published.WORDS[column]) <= set(figures[column])
    assert set(vocabulary.METRICS) == set(figures["metric"].str.split(":").str[0])
    assert set(vocabulary.MARKS) == {
        mark for note in figures["note"] for mark in vocabulary.marks(note)
    }
    methods = [*figures["method"], *published.status()["method"]]
    assert set(vocabulary.METHODS) == {part for name in methods for part in vocabulary.parts(name)}


def test_no_figure_twice():
    keys = ["method", "backbone", "dataset", "split", "stage", "metric", "source"]
    figures = published.load()
    assert figures[figures.duplicated(keys, keep=False)].empty


def test_values_lie_in_the_range_of_their_unit():
    figures = published.load()
    for unit, (low, high) in vocabulary.RANGES.items():
        assert figures[figures["unit"] == unit]["value"].between(low, high).all()
    assert set(figures[figures["metric"] == "miou"]["unit"]) == {"percent"}
    means = figures[figures["metric"].isin(["fp", "fn"])]
    assert set(means["unit"]) == {"fraction"}


def test_printed_value_is_kept_beside_the_number(tmp_path):
    row = published.load(write(tmp_path, GOOD)).iloc[0]
    assert (row["value"], row["printed"], row["file"]) == (55.4, "55.40", "some")


@pytest.mark.parametrize(
    ("column", "word", "message"),
    [
        ("supervision", "image", "Unknown supervision 'image'"),
        ("dataset", "VOC12", "Did you mean 'VOC2012'"),
        ("split", "trainaug", "Did you mean 'train_aug'"),
        ("stage", "seeds", "Did you mean 'seed'"),
        ("metric", "mIoU", "Unknown metric 'mIoU'"),
        ("metric", "iou:horsey", "Unknown detail of iou 'horsey'. Did you mean 'horse'"),
        ("metric", "map:horse", "Unknown detail of map"),
        ("method", "seam+cdaa", "Unknown method 'cdaa'. Did you mean 'cda'"),
        ("backbone", "R50", "Unknown backbone 'R50'"),
        ("unit", "%", "Unknown unit '%'"),
        ("labels_at_test", "", "Unknown labels_at_test ''"),
        ("note", "a guess [guessed]", "Unknown mark 'guessed'"),
        ("value", "about 60", "value 'about 60' is not a number"),
        ("value", "", "value '' is not a number"),
        ("value", "nan", "is not in [0, 100]"),
        ("value", "101", "value 101 is not in [0, 100], as percent is"),
        ("source", "", "source is empty"),
        ("label", "", "label is empty"),
    ],
)
def test_bad_cell_is_an_error_with_file_and_line(tmp_path, column, word, message):
    write(tmp_path, GOOD, GOOD | {column: word})
    with pytest.raises(UserError) as error:
        published.load(tmp_path)
    assert f"{tmp_path / 'some.csv'}, line 3: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fraction_above_one_is_refused(tmp_path):
    write(tmp_path, GOOD | {"unit": "fraction", "metric": "fp", "value": "1.2"})
    with pytest.raises(UserError, match=r"line 2: value 1\.2 is not in"):
        published.load(tmp_path)


def test_missing_column_and_unquoted_comma_are_errors(tmp_path):
    short = {key: value for key, value in GOOD.items() if key != "note"}
    with pytest.raises(UserError, match="line 1: the columns must be method,label"):
        published.load(write(tmp_path, short))
    text = f"{','.join(GOOD)}\n{','.join(GOOD.values()).replace('SEAM', 'SEAM, again')}\n"
    (tmp_path / "some.csv").write_text(text)
    with pytest.raises(UserError, match="line 2: 13 cells are needed"):
        published.load(tmp_path)


def test_folder_without_figures_gives_an_empty_table(tmp_path):
    figures = published.load(tmp_path)
    assert list(figures) == [*published.COLUMNS, "printed", "file"]
    assert figures.empty


def test_find_selects_by_columns():
    rows = published.find(method="seam", dataset="VOC2012", split="train", stage="seed")
    assert set(rows["value"]) == {55.4, 55.41}
    both = published.find(method="seam", split="train", stage=["seed", "seed+rw"], metric="miou")
    assert set(both["value"]) == {55.4, 55.41, 63.6}
    assert list(both.index) == list(range(len(both)))
    assert published.find(method="cowmix").empty


def test_find_leaves_asides_out_unless_asked():
    words = {"method": "irnet", "stage": "seed+rw", "metric": "miou"}
    assert set(published.find(**words)["value"]) == {66.3, 66.5}
    with_reports = published.find(asides=True, **words)["value"]
    assert set(with_reports) == {46.4, 64.9, 65.9, 66.0, 66.3, 66.5}
    figures = published.load()
    reports = figures["note"].str.contains("[issue report]", regex=False)
    assert set(figures[reports]["file"]) == {"reproductions"}
    assert reports.sum() == (figures["file"] == "reproductions").sum()


def test_checks_during_training_are_no_results():
    words = {"method": "sfc", "metric": "miou", "dataset": "VOC2012", "split": "train"}
    assert set(published.find(stage="seed", **words)["value"]) == {64.7}
    assert set(published.find(stage="prototype seed", **words)["value"]) == {63.13}
    assert len(published.find(stage="seed", asides=True, **words)) > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"methd": "seam"}, "Unknown column 'methd'. Did you mean 'method'"),
        ({"method": "smea"}, "Did you mean 'seam'"),
        ({"stage": ["seed", "sead"]}, "Unknown stage 'sead'"),
    ],
)
def test_find_names_unknown_words(words, message):
    with pytest.raises(UserError, match=message):
        published.find(**words)


def test_status_has_every_planned_method_on_both_data_sets():
    status = published.status()
    assert list(status) == list(published.STATUS_COLUMNS)
    assert not status.duplicated(["method", "dataset"]).any()
    planned = {
        *("cam", "scg", "pamr", "dense_crf", "random_walk", "recurseed", "edgepredictmix"),
        *("cutmix", "saliency_grafting", "cda", "classmix", "cowmix", "puzzlemix", "copypaste"),
        *("puzzlecam", "seam", "pmm", "sfc", "sipe", "cosa", "afa", "ssss"),
    }
    assert planned <= set(status["method"])
    for _, rows in status.groupby("method"):
        assert set(rows["dataset"]) == {"VOC2012", "COCO2014"}
    assert status["why"].str.len().gt(0).all()


def test_unknown_status_is_an_error_with_file_and_line(tmp_path):
    row = {"method": "cam", "dataset": "VOC2012", "status": "verfied", "why": "because"}
    write(tmp_path, row, name=published.STATUS_FILE)
    with pytest.raises(UserError, match=r"status\.csv, line 2: Unknown status 'verfied'"):
        published.status(tmp_path)
    write(tmp_path, row | {"status": "verified", "why": ""}, name=published.STATUS_FILE)
    with pytest.raises(UserError, match="line 2: why is empty"):
        published.status(tmp_path)


def test_files_end_lines_alike_and_have_no_stray_blanks():
    for file in files("wsssbench.published").iterdir():
        if file.name.endswith(".csv"):
            text = file.read_bytes().decode()
            assert "\r" not in text, file.name
            assert text.endswith("\n"), file.name
            assert ", ," not in text, file.name
            assert " ," not in text, file.name


def test_the_files_are_declared_as_package_data():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "*.csv" in project["tool"]["setuptools"]["package-data"]["wsssbench.published"]


def test_figures_are_found_in_an_installed_package(tmp_path):
    """From a zip there is no path to open: only the package's resources can give the files."""
    root = Path(wsssbench.__file__).parent
    sources = [root / "__init__.py", root / "errors.py", *(root / "published").glob("*.*")]
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for source in sources:
            archive.write(source, Path("wsssbench") / source.relative_to(root))
    code = (
        "from wsssbench import published;"
        "print(published.__file__, len(published.load()), len(published.status()))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "package.zip")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, figures, status = done.stdout.split()
    assert "package.zip" in where
    assert (int(figures), int(status)) == (len(published.load()), len(published.status()))
