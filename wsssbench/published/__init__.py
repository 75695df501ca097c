"""Figures from papers, talks, project pages and issue threads, with their source. None is ours.

One CSV file per group of source tables, one figure per row:

method          id of the workbench where there is one; `a+b` is a with b added, `a-b` a without b
label           the name as the source prints it
backbone        of the network that made the scored masks
supervision, dataset, split, stage, metric     words of `vocabulary.py`, where their meaning stands;
                a score of one class is `iou:person`
value, unit     as printed; `percent`, `fraction` or `count`
source          paper, table, README, log or issue in which the figure stands; where one source has
                several figures of a kind (checks of a log), the source names the one
labels_at_test  whether true image labels took part in the prediction that was scored: `yes` for all
                scores on training images; on validation images several published ones did as well
note            what else is needed to compare. Marks in square brackets: [inferred] concluded, not
                stated; [from memory, not re-read]; [subset] scored on a part of the split;
                [issue report] a run reported in an issue thread, not the published one;
                [log check] printed by a log during training, by another protocol than the result's

`status.csv` says for each method and data set whether our code reproduced the published figure.
Our own figures never stand here: they come from run records.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

import pandas as pd

from wsssbench.errors import UserError, unknown
from wsssbench.published import vocabulary

COLUMNS = (
    *("method", "label", "backbone", "supervision", "dataset", "split", "stage", "metric"),
    *("value", "unit", "source", "labels_at_test", "note"),
)
STATUS_COLUMNS = ("method", "dataset", "status", "why")
STATUS_FILE = "status.csv"
WORDS = {
    "backbone": vocabulary.BACKBONES,
    "supervision": vocabulary.SUPERVISION,
    "dataset": vocabulary.DATASETS,
    "split": vocabulary.SPLITS,
    "stage": vocabulary.STAGES,
    "unit": vocabulary.UNITS,
    "labels_at_test": vocabulary.LABELS_AT_TEST,
    "status": vocabulary.STATUSES,
}

__all__ = ["COLUMNS", "STATUS_COLUMNS", "find", "load", "status", "vocabulary"]


def load(folder: Traversable | None = None) -> pd.DataFrame:
    """All published figures.

    Args:
        folder: another folder of such CSV files; by default the one of the package.

    Returns:
        One row per figure: the columns of the files (`value` float, the others text), `printed`
        (the value as the source prints it) and `file` (name without ending).

    Raises:
        UserError: a file has other columns, an unknown word or a value out of its unit's range;
            the text names file and line.
    """
    folder = folder or files(__name__)
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".csv"))
    rows = [
        {**row, "printed": row["value"], "file": name.removesuffix(".csv")}
        for name in names
        if name != STATUS_FILE
        for row in _rows(folder / name, COLUMNS, _check_figure)
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "printed", "file"]).astype({"value": float})


def status(folder: Traversable | None = None) -> pd.DataFrame:
    """Per method and data set: `verified`, `not verified` or `not run`, and why (all text).

    Raises:
        UserError: as `load`.
    """
    file = (folder or files(__name__)) / STATUS_FILE
    return pd.DataFrame(_rows(file, STATUS_COLUMNS, _check_status), columns=list(STATUS_COLUMNS))


def find(
    figures: pd.DataFrame | None = None,
    *,
    asides: bool = False,
    **wanted: str | Sequence[str],
) -> pd.DataFrame:
    """The figures whose columns have the wanted words.

    Args:
        figures: what to search; by default everything that `load` returns.
        asides: keep what is no published result, see `vocabulary.ASIDES`.
        wanted: column=word or column=[word, …]: `find(method="seam", stage=["seed", "seed+rw"])`.

    Raises:
        UserError: there is no such column, or a word is not in the column's vocabulary.
    """
    figures = load() if figures is None else figures
    keep = pd.Series(True, index=figures.index)
    for mark in () if asides else vocabulary.ASIDES:
        keep &= ~figures["note"].str.contains(f"[{mark}]", regex=False)
    for column, words in wanted.items():
        if column not in figures:
            raise unknown("column", column, figures.columns)
        words = [words] if isinstance(words, str) else list(words)
        for word in words:
            _check_word(column, word)
        keep &= figures[column].isin(words)
    return figures[keep].reset_index(drop=True)


def _rows(file: Traversable, columns: Sequence[str], check: Callable) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline=""))
    if tuple(reader.fieldnames or ()) != columns:
        raise UserError(f"{file}, line 1: the columns must be {','.join(columns)}.")
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        if None in row or None in row.values():
            raise UserError(f"{where}: {len(columns)} cells are needed (quote cells with a comma).")
        try:
            check(row)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        yield row


def _check_word(column: str, word: str) -> None:
    if column == "method":
        for part in vocabulary.parts(word):
            if part not in vocabulary.METHODS:
                raise unknown("method", part, vocabulary.METHODS)
    elif column == "metric":
        metric, _, detail = word.partition(":")
        if metric not in vocabulary.METRICS:
            raise unknown("metric", metric, vocabulary.METRICS)
        if detail and detail not in vocabulary.DETAILS.get(metric, ()):
            raise unknown(f"detail of {metric}", detail, vocabulary.DETAILS.get(metric, ()))
    elif column in WORDS and word not in WORDS[column]:
        raise unknown(column, word, WORDS[column])


def _check_figure(row: dict[str, str]) -> None:
    for column, word in row.items():
        _check_word(column, word)
    for column in ("label", "source"):
        if not row[column]:
            raise UserError(f"{column} is empty.")
    for mark in vocabulary.marks(row["note"]):
        if mark not in vocabulary.MARKS:
            raise unknown("mark", mark, vocabulary.MARKS)
    try:
        value = float(row["value"])
    except ValueError:
        raise UserError(f"value {row['value']!r} is not a number.") from None
    low, high = vocabulary.RANGES[row["unit"]]
    if not low <= value <= high:
        raise UserError(f"value {row['value']} is not in [{low}, {high}], as {row['unit']} is.")


def _check_status(row: dict[str, str]) -> None:
    for column, word in row.items():
        _check_word(column, word)
    if not row["why"]:
        raise UserError("why is empty.")
