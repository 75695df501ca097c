"""Tidy rows from runs, and their mean and spread over seeds. No formatting here."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from wsssbench.reporting.protocols import protocols
from wsssbench.reporting.records import Run, split_roles, titles_of

SCORES = ("miou", "fp", "fn")
COSTS = ("wall_s", "inference_s", "peak_memory_mib")
NUMBERS = (
    *("threshold", *SCORES, "oracle_threshold", "oracle_miou", "oracle_fp", "oracle_fn"),
    *("oracle_gap", "precision", "recall", "map", "cf1", "cf1_threshold"),
    *("labelled_miou", "labelled_fp", "labelled_fn"),
    *("boundary_error", "boundary_miou", "boundary_width_px"),
    *(f"{score}_{end}" for score in SCORES for end in ("low", "high")),
    *COSTS,
)
SUMMARY = (
    *(name for score in SCORES for name in (score, f"{score}_sd")),
    *("oracle_miou", "oracle_gap", "labelled_miou", "map", "cf1", "boundary_error"),
)


def rows(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per run and split, tidy; fractions stay fractions.

    Runs without scores get a row for every split that another run has (one with an empty split
    if none has any), with NaN in the numbers.

    Returns:
        experiment (the run's row: `cam`, or `cam/scg` for another kind of maps), title, method,
        seed, status, reason, protocol (letter, empty if not done), split, role, images,
        labels_used, and the float columns NUMBERS. Costs stand with the main kind alone: they are
        those of the training and of all its kinds together.
    """
    runs = list(runs)
    roles = split_roles(runs)
    letters = {run.name: letter for letter, group in protocols(runs).items() for run in group}
    titles = titles_of(runs)
    lines = []
    for run in runs:
        head = {"experiment": run.row, "title": titles[run.row]}
        head |= {"method": run.provenance.get("method", ""), "seed": run.seed}
        head |= {"status": run.status, "reason": run.reason, "protocol": letters.get(run.name, "")}
        for split in run.splits or roles or [""]:
            lines.append(head | _scores(run, split, roles.get(split, "")))
    frame = pd.DataFrame(lines)
    return frame.astype(dict.fromkeys(NUMBERS, float)) if len(frame) else frame


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, per experiment × split × protocol.

    Args:
        frame: output of `rows`.

    Returns:
        One row per group, in order of appearance: experiment, title, method, split, role,
        protocol, status, reason, seeds (how many went in), planned, and for each of NUMBERS the
        mean and `<name>_sd` (NaN for a single seed). An experiment of which nothing is done keeps
        a row per split, without numbers and with protocol "".
    """
    if frame.empty:
        return frame
    planned = frame.groupby("experiment")["seed"].nunique()
    lines = []
    for (experiment, _), group in frame.groupby(["experiment", "split"], sort=False):
        done = group[group["status"] == "done"]
        for letter, part in done.groupby("protocol", sort=False) if len(done) else [("", group)]:
            texts = ["experiment", "title", "method", "split", "role", "status", "reason"]
            line = part.iloc[0][texts].to_dict() | {"protocol": letter}
            line |= {"seeds": len(part) if letter else 0, "planned": int(planned[experiment])}
            values = part[list(NUMBERS)]
            line |= values.mean().to_dict() | values.std(ddof=1).add_suffix("_sd").to_dict()
            lines.append(line)
    return pd.DataFrame(lines)


def wide(means: pd.DataFrame) -> pd.DataFrame:
    """One row per experiment, columns `<split>.<name>`: what a comparison table shows.

    Args:
        means: output of `aggregate`, of one protocol (rows of not-run experiments may be in it).
    """
    texts = ["experiment", "title", "method", "status", "reason", "seeds", "planned"]
    lines = []
    for _, group in means.groupby("experiment", sort=False):
        line = group.iloc[0][texts].to_dict()
        for _, part in group.iterrows():
            values = part.drop([*texts, "split", "role", "protocol"])
            line |= {f"{part['split']}.{name}": value for name, value in values.items()}
        lines.append(line)
    return pd.DataFrame(lines)


def sweeps(runs: Iterable[Run]) -> pd.DataFrame:
    """Scores over thresholds, mean over seeds: experiment, split, threshold, miou, fp, fn."""
    parts = []
    for run in runs:
        for split in run.splits:
            table = run.table(split, "sweep")
            if {"threshold", *SCORES} <= set(table.columns):
                # Rounded: thresholds carry float noise, which would keep seeds apart.
                table["threshold"] = table["threshold"].round(6)
                parts.append(table.assign(experiment=run.row, split=split))
    by = ["experiment", "split", "threshold"]
    if not parts:
        return pd.DataFrame(columns=[*by, *SCORES])
    return pd.concat(parts).groupby(by, sort=False, as_index=False)[list(SCORES)].mean()


def summary(means: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Nested means for `dvc metrics show`: {experiment: {split: {miou, miou_sd, …}}}.

    Only SUMMARY, so that the listing can be read; missing numbers are left out. An experiment
    that was scored under two protocols appears once for each.
    """
    content: dict[str, dict[str, Any]] = {}
    for _, row in means.iterrows():
        letters = means.loc[means["experiment"] == row["experiment"], "protocol"].unique()
        name = (
            row["experiment"] if len(letters) == 1 else f"{row['experiment']} ({row['protocol']})"
        )
        part = content.setdefault(
            name, {"seeds": int(row["seeds"]), "planned": int(row["planned"])}
        )
        values = {n: round(float(row[n]), 6) for n in SUMMARY if pd.notna(row[n])}
        if values:
            part[row["split"]] = values
    return content


def _scores(run: Run, split: str, role: str) -> dict[str, Any]:
    part = run.splits.get(split, {})
    line: dict[str, Any] = {"split": split, "role": role, "images": part.get("images")}
    line |= {"labels_used": part.get("labels_used")}
    line |= {name: part.get(name) for name in NUMBERS}
    line |= {f"labelled_{s}": (part.get("with_labels") or {}).get(s) for s in SCORES}
    band = part.get("boundary_band") or {}
    line |= {f"boundary_{name}": band.get(name) for name in ("error", "miou", "width_px")}
    for score in SCORES:
        line[f"{score}_low"], line[f"{score}_high"] = part.get(f"{score}_interval") or (None, None)
    costs = {**run.provenance, **run.timing} if run.status == "done" and run.main else {}
    return line | {name: costs.get(name) for name in COSTS}
