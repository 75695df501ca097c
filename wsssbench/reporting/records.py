"""Run directories as records. Which runs there are comes from params, never from what lies on disk.

Reading only, and tolerant: a run that failed or never ran stays in the list with a reason.
One training is read out in one or several kinds of maps (`cam`, `scg`, `decoder`, …); each is a run
of its own here, with its own scores, and all kinds of one training share its directory.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from wsssbench.multistage import LATER, masks_dir, scores_dir
from wsssbench.multistage import STAGES as MASK_STAGES

STAGES = ("train", "pseudo_masks", "evaluate")
NEXT = ("random_walk", "segment", "evaluate_stages")
NAMES = ("id", "class", "truth", "size", "truth_classes", "predicted_classes")
ROLES = ("train", "val")
LATEST = MASK_STAGES["segment"]  # kinds of a network of their own


@dataclass(frozen=True)
class Run:
    """One experiment at one seed, read out in one kind of maps.

    Attributes:
        path: directory of the training, which need not exist.
        status: `done`, `failed` or `not run`.
        reason: why it is not done, in words; empty when done.
        record: content of its record.json; empty unless done.
        provenance: how it was trained; also of runs that were trained but never scored.
        maps: kind of maps.
        main: whether this is the experiment's usual kind, which goes by the experiment's name.
        given: title that the profile gives the experiment now; without one that of the time of
            scoring counts.
    """

    experiment: str
    seed: int
    path: Path
    status: str
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    maps: str = "cam"
    main: bool = True
    given: str = ""

    @property
    def row(self) -> str:
        """Name of its row in tables and figures: `cam`, or `cam/scg` for another kind of maps."""
        return row_name(self.experiment, "" if self.main else self.maps)

    @property
    def later(self) -> bool:
        """Whether a stage after the pseudo-masks left it."""
        return self.maps in LATER

    @property
    def training(self) -> str:
        """Directory name, experiment and seed; kinds of maps share it."""
        return f"{self.experiment}-{self.seed}"

    @property
    def name(self) -> str:
        """`cam-0`, or `cam-0/scg` for another kind of maps than the main one."""
        return row_name(self.training, "" if self.main else self.maps)

    @property
    def title(self) -> str:
        """For people: the experiment's title, with the kind of maps unless it is the main one."""
        title = self.given or self.record.get("title") or self.experiment
        return title if self.main else f"{title}, {self.maps}"

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

    def watch(self) -> pd.DataFrame:
        """train/watch.csv, one row per epoch and kind of maps; empty when missing."""
        return read_table(self.path / "train" / "watch.csv")

    def table(self, split: str, name: str) -> pd.DataFrame:
        """<name>.csv of a split among the scores; empty when missing."""
        return read_table(scores_dir(self.path, self.maps) / split / f"{name}.csv")


def row_name(name: str, maps: str) -> str:
    """`name/maps`, or the name alone where `maps` is empty."""
    return f"{name}/{maps}" if maps else name


def load_runs(
    runs_dir: str | Path,
    kinds: Mapping[str, Sequence[str]],
    seeds: Iterable[int],
    titles: Mapping[str, str] | None = None,
) -> list[Run]:
    """Every run of experiments × kinds of maps × seeds, in that order, whether it exists or not.

    Args:
        runs_dir: the directory that holds `<experiment>-<seed>/`.
        kinds: {experiment: its kinds of maps, the main one first}, as in params.yaml.
        seeds: seeds as in params.yaml.
        titles: {experiment: title}, where it is not to be that of the time of scoring.
    """
    seeds, top, titles = list(seeds), Path(runs_dir), titles or {}
    return [
        load_run(
            top / f"{experiment}-{seed}",
            experiment,
            seed,
            maps,
            main=maps == chosen[0],
            given=titles.get(experiment, ""),
        )
        for experiment, chosen in kinds.items()
        for maps in chosen
        for seed in seeds
    ]


def load_run(
    path: Path,
    experiment: str,
    seed: int,
    maps: str = "cam",
    main: bool = True,
    given: str = "",
) -> Run:
    """Read one kind of maps of one run directory; the arguments are those of `Run`."""
    place = scores_dir(path, maps) / "record.json"
    record, provenance = _json(place), _json(path / "train" / "provenance.json")
    kind = {"maps": maps, "main": main, "given": given}
    if record.get("splits"):
        then = record.get("provenance") or {}
        trained = path / "segment" / "network" if maps in LATEST else path / "train"
        now = _json(trained / "provenance.json")
        if now and then and now.get("finished") != then.get("finished"):
            reason = "was trained again after it was scored; run the stages after the training"
            return Run(experiment, seed, path, "failed", reason, provenance=provenance, **kind)
        known = provenance | then
        return Run(experiment, seed, path, "done", "", record, known, **kind)
    status, reason = _why(path, maps)
    return Run(experiment, seed, path, status, reason, provenance=provenance, **kind)


def titles_of(runs: Iterable[Run]) -> dict[str, str]:
    """{row: its title}; the row's own name where nobody has given a title."""
    found: dict[str, str] = {}
    for run in runs:
        if run.given or run.record.get("title"):
            found.setdefault(run.row, run.title)
    return {run.row: found.get(run.row, run.row) for run in runs}


def trainings(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """{directory name: its kinds of maps, in their order}; costs and histories belong to these."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.training, []).append(run)
    return found


def main_runs(runs: Iterable[Run]) -> list[Run]:
    """The runs of each experiment's usual kind of maps."""
    return [run for run in runs if run.main]


def split_roles(runs: Iterable[Run]) -> dict[str, str]:
    """{split: role} over all runs, training splits first."""
    parts = {split: part for run in runs for split, part in run.splits.items()}
    return {split: parts[split].get("role", split) for split in _by_role(parts)}


def mean_table(runs: Iterable[Run], split: str, name: str, keys: tuple[str, ...]) -> pd.DataFrame:
    """A file <name>.csv of one split averaged over the seeds of each row.

    Args:
        runs: the runs; those without the file are left out.
        split: split name.
        name: file name without ending.
        keys: columns that identify a line of the table; the others are averaged (NaN left out).

    Returns:
        experiment (the run's row), keys, averaged columns; lines in the order of the files. Empty
        without files.
    """
    parts = []
    for run in runs:
        table = run.table(split, name)
        if set(keys) <= set(table.columns):
            parts.append(table.assign(experiment=run.row))
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


def _why(path: Path, maps: str) -> tuple[str, str]:
    """Status and reason of a run without scores."""
    for stage in (*STAGES, *NEXT):
        if error := _notebook_error(path / stage / f"{stage}.ipynb"):
            return "failed", f"stopped in {stage}: {error}"
    if (place := scores_dir(path, maps) / "record.json").exists():
        return "failed", f"{place.relative_to(path)} holds no scores"
    if maps in LATER:
        if (masks_dir(path, maps) / "protocol.json").exists():
            return "failed", f"has masks of the kind {maps}, but no scores"
        return "not run", "the stages after the pseudo-masks were not run"
    places = {"train": path / "train"} | {stage: path / stage / maps for stage in STAGES[1:]}
    begun = [s for s, place in places.items() if place.is_dir() and any(place.iterdir())]
    if begun == ["train"] and any((path / "evaluate").glob("*/record.json")):
        return "failed", f"has no {maps} maps, only other kinds; make the pseudo-masks again"
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
