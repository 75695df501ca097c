"""Tables that a profile asks for: chosen rows in a chosen order, against a baseline.

Here the wish is checked against the grid; `ablation_table.py` and `ablation_figures.py` fulfil it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from wsssbench.errors import UserError, unknown
from wsssbench.reporting.averages import NUMBERS, rows
from wsssbench.reporting.records import Run, row_name, split_roles

COLUMNS = {  # name in a profile: (number, head, kind, best)
    "f1": ("cf1", "CF1 %", "percent", "max"),
    "map": ("map", "mAP %", "percent", "max"),
    "miou": ("miou", "mIoU %", "percent", "max"),
    "fp": ("fp", "FP", "fraction", "min"),
    "fn": ("fn", "FN", "fraction", "min"),
    "precision": ("precision", "precision %", "percent", "max"),
    "recall": ("recall", "recall %", "percent", "max"),
    "boundary_error": ("boundary_error", "wrong in band", "fraction", "min"),
    "boundary_miou": ("boundary_miou", "mIoU in band %", "percent", "max"),
    "gap": ("oracle_gap", "gap, points", "points", ""),
}
KEYS = ("name", "title", "rows", "columns", "split", "baseline", "arrows", "note")


@dataclass(frozen=True)
class Ablation:
    """A wished table whose rows, columns and split exist.

    Attributes:
        name: of its files and of its place on the page.
        title: its caption.
        rows: rows as in `Run.row`, in order.
        columns: of COLUMNS.
        split: a scored split; empty while nothing is scored.
        role: of the split, `train` or `val`.
        baseline: the row against which differences are taken, or nothing.
        arrows: whether FP against FN is drawn as well.
        note: a sentence below the table.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ("miou", "fp", "fn")
    split: str = ""
    role: str = ""
    baseline: str = ""
    arrows: bool = False
    note: str = ""

    @property
    def key(self) -> str:
        """What its files are called, and its place on the page."""
        return f"ablation_{self.name}"

    @property
    def best(self) -> str:
        """What the threshold that is best on the training masks is called on this split."""
        return f"{'threshold best on train' if self.role == 'val' else 'best threshold'} (oracle)"

    def runs(self, runs: Iterable[Run]) -> list[Run]:
        """The runs of its rows and of its baseline, row by row."""
        order = list(dict.fromkeys([*self.rows, *([self.baseline] if self.baseline else [])]))
        return sorted(
            (run for run in runs if run.row in order), key=lambda run: order.index(run.row)
        )


def ablations(runs: list[Run], tables: Sequence[Mapping[str, Any]]) -> list[Ablation]:
    """Check what a profile wishes.

    Args:
        runs: all runs of the grid, which say what rows there are.
        tables: the wishes; each has `name`, `title` and `rows`, and may have the other KEYS.

    Raises:
        UserError: an unknown row, column, split or key, or a name used twice.
    """
    found = [_checked(runs, dict(table)) for table in tables]
    for table in found:
        if [other.name for other in found].count(table.name) > 1:
            raise UserError(f"Two tables of the report are called {table.name!r}; rename one.")
    return found


def means(ablation: Ablation, runs: Iterable[Run]) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds per row that has scores, baseline included.

    Seeds of a row that follow different protocols are not averaged: those of the protocol that most
    of them follow count.

    Returns:
        Indexed by row, in order: seeds (how many), NUMBERS and `<number>_sd`.
    """
    frame = _scored(ablation, runs)
    if len(frame):
        most = frame.groupby("experiment")["protocol"].transform(lambda part: part.mode()[0])
        frame = frame[frame["protocol"] == most]
    if frame.empty:
        return pd.DataFrame(columns=["seeds", *NUMBERS, *(f"{name}_sd" for name in NUMBERS)])
    groups = frame.groupby("experiment", sort=False)
    values = groups[list(NUMBERS)]
    return groups.size().to_frame("seeds").join([values.mean(), values.std().add_suffix("_sd")])


def differences(ablation: Ablation, runs: Iterable[Run], number: str) -> pd.DataFrame:
    """Row minus baseline, paired: taken per seed, over the seeds that both have by one protocol.

    Returns:
        Indexed by row: mean, sd (NaN for one seed), seeds (how many).
    """
    frame = _scored(ablation, runs)
    lines = {}
    if len(frame) and ablation.baseline:
        table = frame.pivot(index=["seed", "protocol"], columns="experiment", values=number)
        others = [row for row in ablation.rows if row in table and row != ablation.baseline]
        for row in others if ablation.baseline in table else ():
            if len(gaps := (table[row] - table[ablation.baseline]).dropna()):
                lines[row] = (gaps.mean(), gaps.std(), len(gaps))
    return pd.DataFrame.from_dict(lines, orient="index", columns=["mean", "sd", "seeds"])


def _scored(ablation: Ablation, runs: Iterable[Run]) -> pd.DataFrame:
    """One line per run of the table that has scores on its split."""
    frame = rows([run for run in ablation.runs(runs) if ablation.split in run.splits])
    return frame[frame["split"] == ablation.split] if len(frame) else frame


def _checked(runs: list[Run], table: dict[str, Any]) -> Ablation:
    for key in table:
        if key not in KEYS:
            raise unknown("key of a table of the report", key, KEYS)
    lacking = [key for key in ("name", "title", "rows") if not table.get(key)]
    if lacking:
        raise UserError(f"A table of the report lacks {', '.join(lacking)}.")
    name, wanted = str(table["name"]), [*table["rows"]]
    known = {row_name(run.experiment, run.maps): run.row for run in runs}
    known |= {run.row: run.row for run in runs}
    baseline = table.get("baseline") or ""
    for row in [*wanted, *([baseline] if baseline else [])]:
        if row not in known:
            valid = dict.fromkeys(known.values())
            raise UserError(f"Table {name!r} of the report: {unknown('row', row, valid)}")
    columns = tuple(table.get("columns") or Ablation.columns)
    for column in columns:
        if column not in COLUMNS:
            raise UserError(f"Table {name!r} of the report: {unknown('column', column, COLUMNS)}")
    roles = split_roles(runs)
    split = table.get("split") or next(iter(roles), "")
    if roles and split not in roles:
        raise UserError(f"Table {name!r} of the report: {unknown('split', split, roles)}")
    return Ablation(
        name="".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in name),
        title=str(table["title"]),
        rows=tuple(dict.fromkeys(known[row] for row in wanted)),
        columns=columns,
        split=split,
        role=roles.get(split, "train"),
        baseline=known[baseline] if baseline else "",
        arrows=bool(table.get("arrows")),
        note=str(table.get("note") or ""),
    )
