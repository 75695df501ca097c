"""Run directories as records. Which runs there are comes from params, never from what lies on disk.

Reading only, and tolerant: a run that failed or never ran stays in the list with a reason.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

STAGES = ("train", "pseudo_masks", "evaluate")
NAMES = ("id", "class", "truth", "size", "truth_classes", "predicted_classes")
ROLES = ("train", "val")


@dataclass(frozen=True)
class Run:
    """One experiment at one seed.

    Attributes:
        path: its directory, which need not exist.
        status: `done`, `failed` or `not run`.
        reason: why it is not done, in words; empty when done.
        record: content of evaluate/record.json; empty unless done.
        provenance: how it was trained; also of runs that were trained but never scored.
    """

    experiment: str
    seed: int
    path: Path
    status: str
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Directory name, experiment and seed."""
        return f"{self.experiment}-{self.seed}"

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Scores per split, training splits first."""
        parts = self.record.get("splits", {})
        return {split: parts[split] for split in _by_role(parts)}

    @property
    def timing(self) -> dict[str, Any]:
        """pseudo_masks/timing.json: seconds of inference and its images; empty when missing."""
        return _json(self.path / "pseudo_masks" / "timing.json")

    def history(self) -> pd.DataFrame:
        """train/history.csv, one row per epoch; empty when missing."""
        return read_table(self.path / "train" / "history.csv")

    def table(self, split: str, name: str) -> pd.DataFrame:
        """evaluate/<split>/<name>.csv; empty when missing."""
        return read_table(self.path / "evaluate" / split / f"{name}.csv")


def load_runs(runs_dir: str | Path, experiments: Iterable[str], seeds: Iterable[int]) -> list[Run]:
    """Every run of experiments × seeds, in that order, whether it exists or not.

    Args:
        runs_dir: the directory that holds `<experiment>-<seed>/`.
        experiments: names as in params.yaml.
        seeds: seeds as in params.yaml.
    """
    seeds = list(seeds)
    return [load_run(Path(runs_dir) / f"{e}-{s}", e, s) for e in experiments for s in seeds]


def load_run(path: Path, experiment: str, seed: int) -> Run:
    """Read one run directory."""
    place = path / "evaluate" / "record.json"
    record, provenance = _json(place), _json(path / "train" / "provenance.json")
    if record.get("splits"):
        known = provenance | (record.get("provenance") or {})
        return Run(experiment, seed, path, "done", record=record, provenance=known)
    status, reason = _why(path)
    return Run(experiment, seed, path, status, reason, provenance=provenance)


def split_roles(runs: Iterable[Run]) -> dict[str, str]:
    """{split: role} over all runs, training splits first."""
    parts = {split: part for run in runs for split, part in run.splits.items()}
    return {split: parts[split].get("role", split) for split in _by_role(parts)}


def mean_table(runs: Iterable[Run], split: str, name: str, keys: tuple[str, ...]) -> pd.DataFrame:
    """evaluate/<split>/<name>.csv averaged over the seeds of each experiment.

    Args:
        runs: the runs; those without the file are left out.
        split: split name.
        name: file name without ending.
        keys: columns that identify a line of the table; the others are averaged (NaN left out).

    Returns:
        experiment, keys, averaged columns; lines in the order of the files. Empty without files.
    """
    parts = []
    for run in runs:
        table = run.table(split, name)
        if set(keys) <= set(table.columns):
            parts.append(table.assign(experiment=run.experiment))
    by = ["experiment", *keys]
    if not parts:
        return pd.DataFrame(columns=by)
    return pd.concat(parts).groupby(by, sort=False, as_index=False).mean(numeric_only=True)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file, or an empty frame where it is missing or empty. Ids and names stay text."""
    try:
        # Only empty cells and nan are missing: ids such as 001 and a class `NA` are names.
        names = dict.fromkeys(NAMES, str)
        return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=["", "nan"])
    except (FileNotFoundError, NotADirectoryError, pd.errors.EmptyDataError):
        return pd.DataFrame()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _by_role(splits: dict[str, dict]) -> list[str]:
    def order(split: str) -> int:
        role = splits[split].get("role", split)
        return ROLES.index(role) if role in ROLES else len(ROLES)

    return sorted(splits, key=order)


def _why(path: Path) -> tuple[str, str]:
    """Status and reason of a run without scores."""
    for stage in STAGES:
        if error := _notebook_error(path / stage / f"{stage}.ipynb"):
            return "failed", f"stopped in {stage}: {error}"
    if (path / "evaluate" / "record.json").exists():
        return "failed", "evaluate/record.json holds no scores"
    begun = [s for s in STAGES if (path / s).is_dir() and any((path / s).iterdir())]
    if begun:
        return "failed", f"has no scores; the last stage with files is {begun[-1]}"
    return "not run", "no files"


def _notebook_error(path: Path) -> str:
    """The error an executed notebook stopped at, in one line, or nothing."""
    outputs = (o for cell in _json(path).get("cells", []) for o in cell.get("outputs", []))
    for output in outputs:
        if output.get("output_type") == "error":
            text = " ".join(f"{output.get('ename')}: {output.get('evalue')}".split())
            return text if len(text) <= 200 else text[:199] + "…"
    return ""
