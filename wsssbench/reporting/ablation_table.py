"""The table of an ablation: scores at the best and at the protocol's threshold, what changes
against the baseline, and what papers print for the same rows.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from wsssbench.published import vocabulary
from wsssbench.reporting.ablations import COLUMNS, Ablation, differences, means
from wsssbench.reporting.counterparts import REFERENCE, Printed, data_set, printed
from wsssbench.reporting.origins import origin_line
from wsssbench.reporting.protocols import differing, in_short, protocol, protocols
from wsssbench.reporting.records import Run, titles_of
from wsssbench.reporting.table import Column, Table, write

SWEPT = ("miou", "fp", "fn")  # known at every threshold, so also at the best one
PUBLISHED = ("f1", "map", *SWEPT)
THRESHOLD_ONLY = ["threshold"]  # protocols that differ in this compare at the best threshold
# In the CSV file beside what the table shows: where each row comes from.
BESIDE = (
    *("gap", "maps", "split", "seed_list", "dataset", "backbone", "device", "git_revision"),
    *("threshold", "pairs", "published_source"),
)
PAIRED = "Differences are paired: mean ± standard deviation over the seeds that both rows have."


def ablation_table(
    ablation: Ablation,
    runs: list[Run],
    figures: pd.DataFrame,
    names: Mapping[str, str] | None = None,
) -> Table:
    """One row per chosen row, also for those that were not run.

    Args:
        ablation: what is wished.
        runs: all runs of the grid.
        figures: `published.find()`.
        names: {experiment: published method} where they differ.
    """
    values = means(ablation, runs)
    both = {"difference": differences(ablation, runs, "miou")}
    both["oracle_difference"] = differences(ablation, runs, "oracle_miou")
    found = _published(ablation, runs, figures, names or {})
    lines = []
    for row in ablation.rows:
        used = values.loc[row].to_dict() if row in values.index else {}
        members = [run for run in runs if run.row == row]
        line = _head(row, members, ablation, int(used.pop("seeds", 0))) | used
        for name, table in both.items():
            if row in table.index:
                line[name], line[f"{name}_sd"], line["pairs"] = table.loc[row]
        line |= {f"published_{name}": found[row, name].text for name in PUBLISHED}
        line["published_difference"] = _published_difference(found, row, ablation.baseline)
        line["published_source"] = "; ".join(_sources(found, [row], ablation))
        lines.append(line)
    frame = pd.DataFrame(lines)
    members = [run for run in ablation.runs(runs) if ablation.split in run.splits]
    columns = _own_columns(ablation, frame, differing(protocols(members)))
    columns += _published_columns(ablation, frame, runs)
    notes = [*_notes(ablation, frame, members), *_published_notes(ablation, frame, found)]
    under = origin_line(members, ablation.split)
    shown = [name for column in columns for name in (column.key, f"{column.key}_sd")]
    kept = [name for name in dict.fromkeys([*shown, *BESIDE]) if name in frame]
    shape = frame[kept], tuple(columns), tuple(notes)
    return Table(ablation.key, ablation.title, *shape, under=under)


def _head(row: str, members: list[Run], ablation: Ablation, used: int) -> dict:
    """Row, title, `used` seeds, why nothing is scored, and where its numbers come from."""
    scored = [run for run in members if ablation.split in run.splits]
    first = next(iter(scored), members[0])
    other = next((run for run in members if run.status != "done"), None)
    gap = f"{other.status}: {other.reason}" if other else f"no scores on {ablation.split}"
    short = "" if used == len(members) else f" of {len(members)}"
    known = {key: first.provenance.get(key) for key in ("dataset", "backbone", "device")}
    revisions = dict.fromkeys(str(run.provenance.get("git_revision")) for run in scored)
    return {
        "experiment": row,
        "title": titles_of(members)[row],
        "maps": first.maps,
        "seeds": f"{used}{short}",
        "gap": "" if scored else gap,
        "split": ablation.split,
        "seed_list": " ".join(str(run.seed) for run in scored),
        **known,
        "git_revision": " ".join(revisions),
    }


def _own_columns(ablation: Ablation, frame: pd.DataFrame, apart: list[str]) -> list[Column]:
    """Columns of our scores; where the rows' protocols keep them `apart`, no best one is marked."""

    def rule_of(rule: str, prefix: str = "") -> str:
        return rule if not apart or (prefix and apart == THRESHOLD_ONLY) else ""

    def has(key: str) -> bool:
        return key in frame and bool(frame[key].notna().any())

    def group(prefix: str, head: str, more: tuple[str, ...] = ()) -> list[Column]:
        wanted = [COLUMNS[name] for name in ablation.columns if name in (*SWEPT, *more)]
        at = [Column(f"{prefix}threshold", "at", "threshold", head)]
        at = (
            at if prefix or (has("threshold") and frame["threshold"].round(6).nunique() > 1) else []
        )
        change = Column(f"{prefix}difference", _change(ablation), "change", head)
        scores = [Column(f"{prefix}{key}", text, kind, head, rule_of(rule, prefix))
                  for key, text, kind, rule in wanted if has(f"{prefix}{key}")]  # fmt: skip
        return [*at, *scores, *([change] if has(change.key) else [])] if scores else []

    rest = [Column(key, text, kind, "", rule_of(rule))
            for name, (key, text, kind, rule) in COLUMNS.items()
            if name in ablation.columns and name not in (*SWEPT, "precision", "recall")
            and has(key)]  # fmt: skip
    titled = (frame["title"].str.lower() != frame["experiment"].str.lower()).any()
    columns = [Column("experiment", "row"), *([Column("title", "title")] if titled else [])]
    scored = [
        *group("oracle_", ablation.best),
        *group("", "protocol threshold", ("precision", "recall")),
        *rest,
    ]
    return [*columns, Column("seeds", "seeds"), *(scored or [Column("miou", "mIoU %", "percent")])]


def _change(ablation: Ablation) -> str:
    return f"mIoU − {ablation.baseline}, points"


def _published(
    ablation: Ablation, runs: list[Run], figures: pd.DataFrame, names: Mapping[str, str]
) -> dict[tuple[str, str], Printed]:
    """What papers print, per row and column."""
    found = {}
    for row in dict.fromkeys([*ablation.rows, *filter(None, [ablation.baseline])]):
        members = [run for run in runs if run.row == row]
        run = next((run for run in members if ablation.split in run.splits), members[0])
        for name in PUBLISHED:
            found[row, name] = printed(run, figures, names, name, ablation.split, ablation.role)
    return found


def _published_columns(ablation: Ablation, frame: pd.DataFrame, runs: list[Run]) -> list[Column]:
    """Columns of printed figures; their head says on which data they were measured."""
    ours = {run.provenance.get("dataset") for run in ablation.runs(runs)} - {None}
    same = ours and all(data_set(name) == REFERENCE for name in ours)
    head = f"published, {REFERENCE} {ablation.role}"
    head = head if same else f"{head}: another data set"
    columns = [Column(f"published_{name}", COLUMNS[name][1].replace("CF1", "F1"), "range", head)
               for name in PUBLISHED if name in ablation.columns]  # fmt: skip
    columns.append(Column("published_difference", _change(ablation), "range", head))
    return [column for column in columns if frame[column.key].ne("").any()]


def _published_difference(found: Mapping[tuple[str, str], Printed], row: str, baseline: str) -> str:
    """Printed mIoU minus that of the baseline, where one source prints both."""
    if not baseline or row == baseline:
        return ""
    own, base = found[row, "miou"].values, found[baseline, "miou"].values
    gaps = {round(own[source] - base[source], 2) for source in own if source in base}
    return write(gaps.pop() / 100, "change") if len(gaps) == 1 else ""


def _sources(
    found: Mapping[tuple[str, str], Printed], rows: Iterable[str], ablation: Ablation
) -> list[str]:
    """The sources of the figures that the table shows in these rows."""
    shown = [found[row, name].values for row in rows
             for name in PUBLISHED if name in ablation.columns]  # fmt: skip
    return list(dict.fromkeys(source for values in shown for source in values))


def _published_notes(
    ablation: Ablation, frame: pd.DataFrame, found: Mapping[tuple[str, str], Printed]
) -> list[str]:
    """What the printed figures are, and where they stand."""
    sources = _sources(found, ablation.rows, ablation)
    if not sources:
        return []
    shown = [found[row, name] for row in ablation.rows
             for name in PUBLISHED if name in ablation.columns]  # fmt: skip
    backbones = dict.fromkeys(backbone for one in shown for backbone in one.backbones)
    text = f"Published: {', '.join(backbones)}; mIoU, FP and FN at the best threshold. "
    notes = [f"{text}Source: {'; '.join(sources)}."]
    notes += vocabulary.remarks(method for one in shown for method in one.methods)
    branch = frame[(frame["maps"] != "decoder") & frame["published_miou"].ne("")]
    names = branch["experiment"].str.split("/").str[0]
    if branch.assign(name=names).duplicated(["name", "published_miou"]).any():
        notes.append("A paper's one figure of a CAM branch stands beside each kind of its maps.")
    return notes


def _notes(ablation: Ablation, frame: pd.DataFrame, members: list[Run]) -> list[str]:
    """The wish's own note, how differences are taken, and whether the rows share a protocol."""
    notes = [ablation.note] if ablation.note else []
    if ablation.baseline and "pairs" in frame:
        notes.append(PAIRED)
    elif ablation.baseline and members:
        notes.append(f"No differences: {ablation.baseline} has no seed in common with these rows.")
    groups = protocols(members)
    if len(groups) == 1:
        notes.append(f"Protocol: {in_short(protocol(members[0]))}.")
    elif groups:
        fields = differing(groups)
        text = f"The rows follow different protocols; they differ in: {', '.join(fields)}."
        only = " Columns at the best threshold compare all the same."
        notes.append(text + (only if fields == THRESHOLD_ONLY else ""))
    return notes
