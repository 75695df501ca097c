"""The stages after the pseudo-masks: seed -> random walk -> dense CRF, and segmentation networks.

Stages follow different protocols, so each has columns of its own; rows are experiments.
"""

import re
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from wsssbench.files import read_json
from wsssbench.multistage import CRF, PPMG, SEGMENT, WALK
from wsssbench.params import UPPER_BOUND
from wsssbench.reporting.averages import aggregate, rows
from wsssbench.reporting.counterparts import REFERENCE, data_set, printed
from wsssbench.reporting.drawing import Drawing, file_name
from wsssbench.reporting.records import Run, row_name, split_roles, titles_of
from wsssbench.reporting.style import WIDTH_IN, colour_of, legend_columns, marker_of, styled
from wsssbench.reporting.table import Column, Table

PSEUDO = {"": "seed", CRF: "+ CRF", PPMG: "+ PPMG", WALK: "+ random walk",
          f"{WALK}+{CRF}": "+ random walk, CRF"}  # fmt: skip
VAL = {"": "own network", CRF: "own network + CRF", PPMG: "own network + PPMG",
       SEGMENT: "segmentation network",
       f"{SEGMENT}+{CRF}": "segmentation network + CRF"}  # fmt: skip
SECTION = "stages"
TEXT = (
    "What the stages after the pseudo-masks make of them. The random walk needs image labels and "
    "runs on training images; the segmentation network learns from the pseudo-masks and predicts "
    "without labels. Thresholds are those of each stage's protocol, not the best ones."
)
MIXED = (
    "Seeds of one row follow different protocols: shown are those of the protocol that most follow."
)
SHARE = f"Share: mIoU over that of the same network trained on true masks ({UPPER_BOUND})."


def stage_tables(
    runs: list[Run], figures: pd.DataFrame, names: Mapping[str, str] | None = None
) -> list[Table]:
    """Pseudo-masks per stage on training splits, predictions per stage on val.

    Args:
        runs: all runs, those of the later stages among them.
        figures: published figures.
        names: {experiment: published method} where they differ.
    """
    if not any(run.later and run.status == "done" for run in runs):
        return []
    tables = []
    for split, role in split_roles(runs).items():
        stages = PSEUDO if role == "train" else VAL
        table = _table(runs, figures, names or {}, split, role, stages)
        tables += [table] if table else []
    return tables


def _table(
    runs: list[Run],
    figures: pd.DataFrame,
    names: Mapping[str, str],
    split: str,
    role: str,
    stages: Mapping[str, str],
) -> Table | None:
    means, titles = _means(runs, split), titles_of(runs)
    lines = []
    for experiment in _experiments(runs):
        line, seeds = {"experiment": experiment, "title": titles[experiment]}, []
        for kind in stages:
            row, top = _row(experiment, kind), _row(UPPER_BOUND, kind)
            if row not in means.index:
                continue
            for number in ("miou", "fp", "fn"):
                line[f"{kind}.{number}"] = means.loc[row, number]
                line[f"{kind}.{number}_sd"] = means.loc[row, f"{number}_sd"]
            seeds.append(int(means.loc[row, "seeds"]))
            run = next(run for run in runs if run.row == row and run.status == "done")
            line[f"{kind}.published"] = printed(run, figures, names, "miou", split, role).text
            if top in means.index and experiment != UPPER_BOUND:
                line[f"{kind}.share"] = means.loc[row, "miou"] / means.loc[top, "miou"]
        if seeds:
            line["seeds"] = " to ".join(str(count) for count in sorted({min(seeds), max(seeds)}))
            lines.append(line)
    if not lines:
        return None
    frame = pd.DataFrame(lines)
    columns = _columns(frame, stages, _group(runs, role))
    frame = frame.fillna({c.key: "" for c in columns if c.kind == "range"})
    notes = ["Mean ± sample standard deviation over seeds. Best of a column: ★.", *_starts(runs)]
    notes += [SHARE] if any(column.head == "share %" for column in columns) else []
    notes += [MIXED] if _mixed(runs, split) else []
    what = "Pseudo-masks" if role == "train" else "Predictions without image labels"
    caption = f"{what} per stage on {split}."
    shape = (caption, frame, columns, tuple(notes))
    return Table(f"stages_{split}", *shape, apart=(UPPER_BOUND,))


def _columns(frame: pd.DataFrame, stages: Mapping[str, str], group: str) -> tuple[Column, ...]:
    """The columns that hold anything, the published ones last, under `group`."""
    columns = [Column(key, key) for key in ("experiment", "title", "seeds")]
    for kind, head in stages.items():
        columns += [
            Column(f"{kind}.miou", "mIoU %", "percent", head, "max"),
            Column(f"{kind}.fp", "FP", "fraction", head, "min"),
            Column(f"{kind}.fn", "FN", "fraction", head, "min"),
            Column(f"{kind}.share", "share %", "percent", head),
        ]
    for kind, head in stages.items():
        columns.append(Column(f"{kind}.published", head, "range", group))
    filled = {key for key in frame if frame[key].fillna("").ne("").any()}
    return tuple(column for column in columns if column.key in filled)


def _group(runs: list[Run], role: str) -> str:
    same = any(data_set(run.provenance.get("dataset")) == REFERENCE for run in runs)
    return f"published, {REFERENCE} {role}" + ("" if same else ": another data set")


def _means(runs: list[Run], split: str) -> pd.DataFrame:
    """Scored rows of a split, indexed by row: mean over the seeds that share a protocol."""
    means = aggregate(rows(runs))
    means = means[(means["split"] == split) & means["miou"].notna()]
    means = means.sort_values("seeds", ascending=False, kind="stable")
    return means.drop_duplicates("experiment").set_index("experiment")


def _mixed(runs: list[Run], split: str) -> bool:
    """Whether seeds of one row follow different protocols."""
    means = aggregate(rows([run for run in runs if run.experiment in _experiments(runs)]))
    means = means[(means["split"] == split) & means["miou"].notna()]
    return bool(means["experiment"].duplicated().any())


def stage_drawings(runs: list[Run]) -> list[Drawing]:
    """MIoU from stage to stage, a figure per split."""
    drawn = []
    for split, role in split_roles(runs).items():
        stages, lines = PSEUDO if role == "train" else VAL, {}
        means = _means(runs, split)
        for experiment in _experiments(runs):
            found = {head: means.loc[_row(experiment, kind), ["miou", "miou_sd"]]
                     for kind, head in stages.items()
                     if _row(experiment, kind) in means.index}  # fmt: skip
            if found and (len(found) > 1 or experiment == UPPER_BOUND):
                lines[experiment] = pd.DataFrame(found).T
        if not lines:
            continue
        title = f"From stage to stage on {split}"
        parts = [f"{name} {100 * table['miou'].iloc[0]:.1f} to {100 * table['miou'].iloc[-1]:.1f} %"
                 for name, table in lines.items()]  # fmt: skip
        figure = stage_figure(lines, list(stages.values()), title)
        text = f"mIoU of the first and the last stage: {', '.join(parts)}."
        drawn.append(Drawing(file_name(f"stages_{split}"), SECTION, title, text, figure))
    return drawn


@styled
def stage_figure(lines: Mapping[str, pd.DataFrame], stages: list[str], title: str) -> Figure:
    """One line per experiment over the stages, bars for the deviation over seeds.

    Args:
        lines: per experiment a table indexed by stage with miou and miou_sd, fractions.
        stages: their order.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 3.9))
    axes = figure.subplots()
    colours, markers = colour_of(lines), marker_of(lines)
    shown = [stage for stage in stages if any(stage in table.index for table in lines.values())]
    for place, (name, table) in enumerate(lines.items()):
        shift = 0.05 * (place - (len(lines) - 1) / 2)
        table = table.loc[[stage for stage in shown if stage in table.index]].astype(float)
        axes.errorbar(
            [shown.index(stage) + shift for stage in table.index],
            100 * table["miou"],
            100 * table["miou_sd"].fillna(0),
            color=colours[name],
            marker=markers[name],
            capsize=2,
            label=name,
        )
    heads = [re.sub(r" (?=network|\+|CRF$)", "\n", stage).replace("+\n", "+ ") for stage in shown]
    axes.set_xticks(range(len(shown)), heads)
    axes.set(ylabel="mIoU, %", xlim=(-0.4, len(shown) - 0.6))
    axes.set_title(title, wrap=True)
    figure.legend(loc="outside lower center", ncols=legend_columns(lines))
    return figure


def _experiments(runs: list[Run]) -> list[str]:
    """Those that go on after the pseudo-masks, in their order, the upper bound last."""
    names = dict.fromkeys(run.experiment for run in runs if run.later)
    return sorted(names, key=lambda name: name == UPPER_BOUND)


def _row(experiment: str, kind: str) -> str:
    """Name of a row; none where there is no such kind.

    The upper bound has no seed; its usual kind, the segmentation, goes by its name alone.
    """
    if experiment == UPPER_BOUND and kind in ("", SEGMENT):
        return UPPER_BOUND if kind else ""
    return row_name(experiment, kind)


def _starts(runs: list[Run]) -> list[str]:
    """A sentence on walks that start from another kind than the column `seed` shows."""
    texts = []
    for experiment in _experiments(runs):
        members = [run for run in runs if run.experiment == experiment]
        path = members[0].path / "random_walk" / "start.json"
        kind = read_json(path, "")["kind"] if path.exists() else ""
        usual = next((run.maps for run in members if run.main), "")
        if kind and kind != usual:
            texts.append(f"The later stages of {experiment} start from its kind {kind}.")
    return texts
