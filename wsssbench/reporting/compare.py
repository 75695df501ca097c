"""Published figures beside ours, and what is verified. Nothing is compared across data sets.

A published figure and ours stand side by side only if data set, split, stage, metric and the use of
image labels agree; else the published one gets a column that names its data set.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from wsssbench.published import vocabulary
from wsssbench.reporting.averages import aggregate, rows
from wsssbench.reporting.counterparts import REFERENCE, counterpart, data_set, published_name
from wsssbench.reporting.protocols import protocol
from wsssbench.reporting.records import Run, trainings
from wsssbench.reporting.table import Column, Table

IMAGES = {("VOC2012", "train"): 1464, ("VOC2012", "val"): 1449}
UNITS = {"percent": ("miou",), "fraction": ("fp", "fn")}  # one table each
KEYS = ("split", "stage", "metric", "labels_at_test")


def ours(
    runs: Iterable[Run], figures: pd.DataFrame, names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Our figures in the terms of the published ones.

    Args:
        runs: all runs.
        figures: published figures, see `counterparts` for which of them a row belongs to.
        names: {experiment: published method} where they differ.

    Returns:
        One line per row × split × use of labels × metric: experiment (the row), method, dataset,
        split, stage, labels_at_test, metric, images, our_backbone, best and best_sd (at the
        threshold that is best on the training masks, as papers print it), value and value_sd (at
        the protocol's threshold). Fractions.
    """
    runs = list(runs)
    known = {run.row: run for run in runs if run.status == "done"}
    lines = []
    for _, row in aggregate(rows(runs)).iterrows():
        if row["protocol"] == "":
            continue
        run = known[row["experiment"]]
        part, fields = run.splits.get(row["split"], {}), protocol(run)
        method, stage = counterpart(run, figures, names)
        line = {"experiment": row["experiment"], "method": method, "split": row["split"]}
        line |= {"dataset": data_set(fields["dataset"]), "stage": stage}
        line |= {"images": part.get("images"), "our_backbone": run.provenance.get("backbone")}
        used = "yes" if part.get("labels_used") else "no"
        for metric in ("miou", "fp", "fn"):
            scores = _pair(row, "value", metric) | _pair(row, "best", f"oracle_{metric}")
            lines.append(line | {"metric": metric, "labels_at_test": used} | scores)
            if pd.notna(row[f"labelled_{metric}"]):
                scores = _pair(row, "value", f"labelled_{metric}")
                lines.append(line | {"metric": metric, "labels_at_test": "yes"} | scores)
    return pd.DataFrame(lines)


def published_tables(
    runs: list[Run], figures: pd.DataFrame, names: Mapping[str, str] | None = None
) -> list[Table]:
    """Published beside ours, one table per unit; none where there is nothing to set beside.

    Args:
        runs: all runs.
        figures: `published.find()`.
        names: {experiment: published method} where they differ.
    """
    mine = ours(runs, figures, names)
    if mine.empty or figures.empty:
        return []
    same = figures["dataset"].isin(mine["dataset"]).any()
    tables = []
    for kind, metrics in UNITS.items():
        part = mine[mine["metric"].isin(metrics)], figures[figures["metric"].isin(metrics)]
        tables.append(_side_by_side(*part, kind) if same else _apart(*part, kind))
    tables += [] if same else [_sources(mine, figures)]
    return [table for table in tables if len(table.frame)]


def status_table(
    runs: list[Run], status: pd.DataFrame, names: Mapping[str, str] | None = None
) -> Table:
    """Verified, not verified, not run: one row per method, one column per data set, and why.

    Args:
        runs: all runs; methods run here on data without a published figure are `not verified`.
        status: `published.status()`.
        names: {experiment: published method} where they differ.
    """
    sets = list(dict.fromkeys(status["dataset"]))
    done: dict[str, list[Run]] = {}
    for kinds in trainings(runs).values():
        scored = [run for run in kinds if run.status == "done"]
        name = published_name(kinds[0], names or {}, status["method"])
        # `recurseed+classmix` is a run of classmix, maps `scg+pamr` are of both; each counts once
        parts = {name.split("+")[-1], *(part for run in scored for part in run.maps.split("+"))}
        for method in dict.fromkeys([name, *sorted(parts & set(status["method"]))]):
            if method:
                done.setdefault(method, []).extend(scored[:1])
    lines = []
    for method in dict.fromkeys([*done, *status["method"]]):
        own = status[status["method"] == method]
        line = {"method": method} | dict(zip(own["dataset"], own["status"]))
        line["why"] = "; ".join(dict.fromkeys(own["why"])) or "no line in published/status.csv"
        here = done.get(method, [])
        where = ", ".join(dict.fromkeys(str(r.provenance.get("dataset")) for r in here))
        line["here"] = f"{len(here)} runs on {where}" if here else "not run"
        lines.append(line)
    columns = (
        Column("method", "method"),
        *(Column(name, name) for name in sets),
        Column("why", "why"),
        Column("here", "in this report"),
    )
    frame = pd.DataFrame(lines, columns=[c.key for c in columns])
    note = "Verified: our run agrees with the published figure. A run on another data set does not."
    return Table("status", "Verified against publications or not.", frame, columns, (note,))


def _side_by_side(mine: pd.DataFrame, figures: pd.DataFrame, kind: str) -> Table:
    """One row per published figure of the same data set and kind; ours beside it or `not run`."""
    keys = ["dataset", *KEYS]
    figures = figures.merge(mine[keys].drop_duplicates(), on=keys)
    whole = [IMAGES.get((d, s)) in (None, n)
             for d, s, n in mine[["dataset", "split", "images"]].to_numpy()]  # fmt: skip
    mine = mine[whole]
    lines = []
    for _, figure in figures.iterrows():
        line = {name: figure[name] for name in ("label", "backbone", *KEYS, "source")}
        line["published"] = _printed(figure)
        alike = _alike(mine, figure, keys)
        for _, row in mine[alike].iterrows():
            gap = (row["best"] if pd.notna(row["best"]) else row["value"]) - _fraction(figure)
            own = {name: row[name] for name in OWN_FIELDS}
            lines.append(line | own | {"difference": gap})
        if not alike.any():
            lines.append(line | {"experiment": "not run"})
    lines.sort(key=lambda line: line["experiment"] == "not run")
    columns = (
        *(Column("label", "method"), Column("backbone", "backbone"), *_key_columns(kind)),
        *(Column("published", "published", "range"), Column("experiment", "our experiment")),
        Column("our_backbone", "our backbone"),
        *_own_columns(kind, "ours"),
        Column("difference", "ours − published", "points" if kind == "percent" else kind),
        Column("source", "source"),
    )
    note = "Ours at the threshold that is best on the training masks, as most papers print it; "
    note += "beside it ours at the protocol's threshold. ± over seeds; papers rarely give any."
    notes = (note,) if all(whole) else (note, "A run on a part of a split is not compared.")
    notes = (*notes, *vocabulary.remarks(figures["method"]))
    caption = f"Published beside ours on {', '.join(dict.fromkeys(figures['dataset']))}."
    return Table(f"published_{kind}", caption, _frame(lines, columns), columns, notes)


def _apart(mine: pd.DataFrame, figures: pd.DataFrame, kind: str) -> Table:
    """One row per figure of ours; published ones of another data set in a column of their own."""
    figures = figures[figures["dataset"] == REFERENCE]
    lines, methods = [], []
    for _, row in mine.iterrows():
        alike = _alike(figures, row, KEYS)
        methods += [row["method"]] if alike.any() else []
        found = [f"{backbone} {', '.join(map(_printed, group.to_dict('records')))}"
                 for backbone, group in figures[alike].groupby("backbone", sort=False)]  # fmt: skip
        line = {name: row[name] for name in (*OWN_FIELDS, *KEYS)}
        lines.append(line | {"published": "; ".join(found) or "none"})
    lines = lines if any(line["published"] != "none" for line in lines) else []
    data = ", ".join(dict.fromkeys(mine["dataset"]))
    columns = (
        *(Column("experiment", "experiment"), Column("our_backbone", "backbone")),
        *_key_columns(kind),
        *_own_columns(kind, f"ours ({data})"),
        Column("published", f"published ({REFERENCE})"),
    )
    note = f"{data} is not {REFERENCE}: other images, other classes. The columns must not be "
    note += "compared; the published one says what the method reached in its paper."
    caption = f"Ours on {data}; the published figures belong to another data set."
    notes = (note, *vocabulary.remarks(methods))
    return Table(f"published_{kind}", caption, _frame(lines, columns), columns, notes)


def _sources(mine: pd.DataFrame, figures: pd.DataFrame) -> Table:
    """Where the figures of the column of `_apart` stand, each once."""
    figures = figures[figures["dataset"] == REFERENCE]
    figures = figures.merge(mine[["method", *KEYS]].drop_duplicates(), on=["method", *KEYS])
    figures = figures.assign(published=[_printed(f) for f in figures.to_dict("records")])
    columns = (
        *(Column("label", "method"), Column("backbone", "backbone"), Column("split", "split")),
        *(Column("stage", "stage"), Column("labels_at_test", "image labels at test")),
        *(Column("metric", "metric"), Column("published", f"published ({REFERENCE})", "range")),
        *(Column("unit", "unit"), Column("source", "source"), Column("note", "note")),
    )
    frame = figures[[column.key for column in columns]]
    return Table("published_sources", "Where the published figures stand.", frame, columns)


def _alike(table: pd.DataFrame, row: pd.Series, keys: Iterable[str]) -> pd.Series:
    """Which rows of `table` have the method of `row` and agree with it in the keys."""
    same = table["method"] == row["method"]
    for key in keys:
        same &= table[key] == row[key]
    return same


def _pair(row: pd.Series, name: str, column: str) -> dict[str, float]:
    return {name: row[column], f"{name}_sd": row[f"{column}_sd"]}


def _printed(figure: Mapping) -> str:
    return str(figure.get("printed", f"{figure['value']:g}"))


def _fraction(figure: pd.Series) -> float:
    return figure["value"] / 100 if figure["unit"] == "percent" else figure["value"]


def _key_columns(kind: str) -> list[Column]:
    heads = {"split": "split", "stage": "stage", "labels_at_test": "image labels at test"}
    columns = [Column(name, head) for name, head in heads.items()]
    return [*columns, Column("metric", "metric")] if len(UNITS[kind]) > 1 else columns


def _own_columns(kind: str, group: str) -> list[Column]:
    unit = "mIoU %, " if kind == "percent" else ""
    return [
        Column("best", f"{unit}best threshold", kind, group),
        Column("value", f"{unit}protocol threshold", kind, group),
    ]


def _frame(lines: list[dict], columns: Iterable[Column]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=[*(c.key for c in columns), "best_sd", "value_sd"])


OWN_FIELDS = ("experiment", "our_backbone", "best", "best_sd", "value", "value_sd")
