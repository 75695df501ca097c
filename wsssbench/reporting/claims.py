"""What the measures of a study's runs say of its claims: pairing, effects, verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from wsssbench.evaluation.mechanisms import TAGS
from wsssbench.evaluation.paired import Effect, effect, verdict
from wsssbench.reporting.origins import revision_of
from wsssbench.reporting.study_figures import Shown
from wsssbench.study_params import Claim, StudySettings

UNIT = ["seed", "label"]
PAIR = ["cell", *UNIT]
RUN = ["cell", "experiment", "seed"]


@dataclass(frozen=True)
class Found:
    """A claim with what was measured.

    Attributes:
        claim: what was to be tested.
        effect: mean paired difference with its interval.
        verdict: see `evaluation.paired.verdict`.
        differences: (seeds,) mean difference of each seed.
        classes: "m of n": classes, of those that take part, whose mean difference has the sign of
            the effect; empty for a measure of no single class.
    """

    claim: Claim
    effect: Effect
    verdict: str
    differences: np.ndarray
    classes: str

    @property
    def contrast(self) -> str:
        """What is subtracted from what."""
        claim, where = self.claim, " and ".join(self.claim.cells)
        first = f"{claim.experiment} − {claim.control}" if claim.control else claim.experiment
        if not claim.reference:
            return f"{first}, in {where}"
        back = " and ".join(claim.reference)
        if claim.control:
            return f"({first}) in {where}, minus the same in {back}"
        return f"{first}, in {where} minus in {back}"


@dataclass(frozen=True)
class Study:
    """What a study asked and what its runs gave.

    Attributes:
        name, title, note: of the profile.
        settings: section `study` of its params.yaml.
        cells: those that were to run.
        experiments: {name: title} of those.
        seeds: with which they were to run.
        table: measures of the finished runs, see `claims.assess`.
        records: of the finished runs.
        left_out: runs that did not pass the gate, see `claims.passing`.
        others: how many finished runs have settings that the profile has no more; not used.
        found: its claims.
        pictures: {test: {cell: a picture}}.
    """

    name: str
    title: str
    note: str
    settings: StudySettings
    cells: Sequence[str]
    experiments: Mapping[str, str]
    seeds: Sequence[int]
    table: pd.DataFrame
    records: Sequence[Mapping[str, Any]]
    left_out: pd.DataFrame
    others: int
    found: Sequence[Found]
    pictures: Mapping[str, Mapping[str, Shown]] = field(default_factory=dict)

    def title_of(self, row: str) -> str:
        """Title of the experiment of a row, with the kind of maps if it names one."""
        experiment, _, kind = row.partition("/")
        title = self.experiments.get(experiment, experiment)
        return f"{title}, {kind}" if kind else title

    @property
    def points(self) -> dict[str, list[str]]:
        """What stands for the cells in figures, see `StudySettings.points_of`."""
        return self.settings.points_of(self.cells)

    def over_cells(self, figure: str) -> pd.DataFrame:
        """The lines of an entry of `settings.figures`, see `curves`."""
        measure, test, roles = self.settings.figure(figure)
        return curves(self.table, measure, test, roles, points=self.points)

    @property
    def under(self) -> str:
        """Where the numbers of a table come from, in a line."""
        planned = len(self.cells) * len(self.experiments) * len(self.seeds)
        text = f"{len(self.records)} of {planned} runs: cells {', '.join(self.cells)}; "
        text += f"seeds {', '.join(map(str, self.seeds))}"
        if self.settings.gate:
            text += f"; {len(self.left_out)} left out by the gate"
        if self.others:
            text += f"; {self.others} more have other settings and are not used"
        known = [record["provenance"] for record in self.records]
        devices = dict.fromkeys(str(one.get("device")) for one in known)
        revisions = dict.fromkeys(revision_of(one) for one in known)
        for word, values in (("", devices), ("revision ", revisions)):
            if values:
                text += f"; {word}{', '.join(values)}"
        return text + "."


def assess(table: pd.DataFrame, claims: Iterable[Claim], tests: Sequence[str]) -> list[Found]:
    """Test the claims.

    Args:
        table: cell, experiment, kind, seed, test, label, role, measure, value; a first kind is
            marked by `main`.
        claims: of the study.
        tests: test sets, the usual one first.
    """
    return [_assess(table, claim, claim.test or tests[0]) for claim in claims]


def _assess(table: pd.DataFrame, claim: Claim, test: str) -> Found:
    units = differences(table, claim, test)
    by_seed = units.groupby(level="seed").mean().to_numpy()  # these classes, no sample of more
    found = effect(by_seed)
    by_class = units[units.index.get_level_values("label") > 0].groupby(level="label").mean()
    agree = int((np.sign(by_class) == np.sign(found.mean)).sum())
    return Found(
        claim,
        found,
        verdict(found, claim.expected),
        by_seed,
        f"{agree} of {len(by_class)}" if len(by_class) else "",
    )


def differences(table: pd.DataFrame, claim: Claim, test: str) -> pd.Series:
    """The paired differences of a claim, indexed by seed and label.

    Rows are subtracted within a cell and the differences averaged over the cells. Pairs that lack a
    side are out, and seeds that lack a cell, lest a difference of cells pass for one of rows.

    Args:
        table: see `assess`.
        claim: what to subtract from what.
        test: the test set.
    """
    table = table[(table["test"] == test) & (table["measure"] == claim.measure)]
    table = table.dropna(subset="value")
    here = table[table["cell"].isin(claim.cells)]
    there = table[table["cell"].isin(claim.reference)]
    if claim.roles:
        here = here[here["role"].isin(claim.roles)]
        fits = there["role"].isin(claim.roles)
        known = fits.groupby(there["cell"]).transform("any")  # a balanced cell has no such role
        there = there[fits | ~known]

    def of(part: pd.DataFrame, cells: Sequence[str]) -> pd.Series:
        rows = [claim.experiment, *([claim.control] if claim.control else [])]
        first, *second = (_row(part, row, claim.measure).groupby(PAIR)["value"].mean()
                          for row in rows)  # fmt: skip
        gap = (first - second[0] if second else first).dropna()
        return _complete(gap, len(set(cells))).groupby(level=UNIT).mean()

    gap = of(here, claim.cells)
    return (gap - of(there, claim.reference)).dropna() if claim.reference else gap


def _complete(gap: pd.Series, cells: int) -> pd.Series:
    """The differences of those seeds that have all cells."""
    index = gap.index.to_frame(index=False)
    return gap[index.groupby("seed")["cell"].transform("nunique").to_numpy() == cells]


def _row(table: pd.DataFrame, row: str, measure: str) -> pd.DataFrame:
    """The lines of a row `experiment` or `experiment/kind`; the classifier's are of no kind."""
    experiment, _, kind = row.partition("/")
    table = table[table["experiment"] == experiment]
    if measure in TAGS:
        return table[table["kind"] == ""]
    return table[table["kind"] == kind] if kind else table[table["main"]]


def passing(
    table: pd.DataFrame, least: float, roles: Sequence[str], test: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out the runs whose classifier has not learnt the classes that a study is about.

    Args:
        table: see `assess`.
        least: F1 that each class needs.
        roles: of these classes.
        test: where.

    Returns:
        The table without these runs; the runs left out: cell, experiment, seed, worst (lowest F1).
    """
    f1 = table[(table["measure"] == "tag_f1") & (table["test"] == test) & table["role"].isin(roles)]
    worst = f1.groupby(RUN, sort=False)["value"].min().rename("worst").reset_index()
    out = worst[worst["worst"] < least]
    kept = ~pd.MultiIndex.from_frame(table[RUN]).isin(pd.MultiIndex.from_frame(out[RUN]))
    return table[kept], out


def curves(
    table: pd.DataFrame,
    measure: str,
    test: str,
    roles: Sequence[str] = (),
    *,
    points: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """A measure in each cell.

    Args:
        table: see `assess`.
        measure: its name.
        test: the test set.
        roles: classes to average over; all by default.
        points: {name: cells that are averaged and bear it}, see `StudySettings.points_of`; a seed
            counts if it has all of them.

    Returns:
        row (`experiment` or `experiment/kind`), cell (name of a point), mean, low, high (95 %
        interval), seeds.
    """
    table = table[(table["test"] == test) & (table["measure"] == measure)].dropna(subset="value")
    if roles:
        table = table[table["role"].isin(roles)]
    plain = table["main"] | (table["kind"] == "")
    names = table["experiment"].where(plain, table["experiment"] + "/" + table["kind"])
    lines = []
    for row, of_row in table.groupby(names, sort=False):
        for point, cells in points.items():
            by_seed = of_row[of_row["cell"].isin(cells)].groupby("seed")
            whole = by_seed["cell"].nunique() == len(cells)
            found = effect(by_seed["value"].mean()[whole].to_numpy())
            if found.seeds:
                lines.append((row, point, found.mean, found.low, found.high, found.seeds))
    return pd.DataFrame(lines, columns=["row", "cell", "mean", "low", "high", "seeds"])
