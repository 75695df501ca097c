"""Every figure of a report, with the title and the sentence that screen readers get.

Experiments are shown with their main kind of maps; the kinds of one experiment meet in figures of
their own, and where an ablation asks for them.
"""

from collections.abc import Iterable

import pandas as pd

from wsssbench.reporting import class_figures, figures
from wsssbench.reporting.ablation_figures import step_figure, steps
from wsssbench.reporting.ablations import Ablation, means
from wsssbench.reporting.averages import aggregate, rows, sweeps
from wsssbench.reporting.drawing import Drawing, file_name
from wsssbench.reporting.protocols import protocols
from wsssbench.reporting.records import Run, main_runs, mean_table, split_roles
from wsssbench.reporting.training_drawings import training_drawings


def drawings(
    runs: list[Run], ablations: Iterable[Ablation] = (), every: list[Run] | None = None
) -> list[Drawing]:
    """All figures but those of the later stages; those of different protocols are separate.

    Args:
        runs: what was read out of the methods' own networks.
        ablations: tables of chosen rows, whose figures are drawn as well.
        every: all runs, among which their rows are; `runs` by default.
    """
    groups = protocols(runs)
    drawn = [step_drawing(ablation, every or runs) for ablation in ablations if ablation.arrows]
    for letter, members in groups.items():
        end = ("", "") if len(groups) == 1 else (f"_{letter.lower()}", f", protocol {letter}")
        drawer = _Drawer(main_runs(members), *end)
        splits, names = split_roles(drawer.runs), dict.fromkeys(run.row for run in drawer.runs)
        # Figures of one kind are as high as each other and stand side by side, split by split.
        for kind in (drawer.intervals, drawer.errors, drawer.thresholds, drawer.sizes):
            drawn += [kind(split) for split in splits]
        for name in dict.fromkeys(run.experiment for run in members if not run.main):
            kinds = _Drawer([run for run in members if run.experiment == name], *end)
            drawn += [kinds.thresholds(split, name) for split in split_roles(kinds.runs)]
        for name in names:
            for kind in (drawer.classes, drawer.confusion):
                drawn += [kind(split, name) for split in splits]
        drawn.append(drawer.history())
    drawn += training_drawings(runs)
    return [drawing for drawing in drawn if drawing is not None]


class _Drawer:
    """Draws the figures of one protocol's runs; a method returns None where data is missing."""

    def __init__(self, runs: list[Run], end: str, under: str):
        self.runs, self.end, self.under = runs, end, under
        self.rows, self.sweeps = rows(runs), sweeps(runs)

    def intervals(self, split: str) -> Drawing | None:
        table = self._scored(split)
        if table.empty or table["miou_low"].isna().all():
            return None
        parts = [f"{r.experiment} {100 * r.miou:.1f} %" for r in aggregate(table).itertuples()]
        text = f"Mean over seeds: {', '.join(parts)}."
        title = f"mIoU on {split}{self.under}"
        figure = figures.interval_plot(table, title)
        return self._drawing(f"intervals_{split}", "results", title, text, figure)

    def errors(self, split: str) -> Drawing | None:
        table = self._scored(split)
        if table.empty:
            return None
        parts = [f"{r.experiment} FP {r.fp:.3f}, FN {r.fn:.3f}"
                 for r in aggregate(table).itertuples()]  # fmt: skip
        text = f"Mean over seeds: {'; '.join(parts)}."
        title = f"False against missed detection on {split}{self.under}"
        figure = figures.fp_against_fn(table, title)
        return self._drawing(f"fp_fn_{split}", "results", title, text, figure)

    def thresholds(self, split: str, experiment: str = "") -> Drawing | None:
        """Of the experiments, or of the kinds of maps of one of them."""
        curves = self.sweeps[self.sweeps["split"] == split]
        if curves.empty:
            return None
        best = curves.loc[curves.groupby("experiment", sort=False)["miou"].idxmax()]
        parts = [f"{r.experiment} at {r.threshold:.2f} with {100 * r.miou:.1f} %"
                 for r in best.itertuples()]  # fmt: skip
        text = f"Highest mIoU of the mean curve: {', '.join(parts)}."
        of = f"Maps of {experiment}: scores" if experiment else "Scores"
        title = f"{of} over the threshold on {split}{self.under}"
        figure = figures.threshold_curves(curves, aggregate(self._scored(split)), title)
        name = f"thresholds_{experiment}_{split}" if experiment else f"thresholds_{split}"
        return self._drawing(name, "thresholds", title, text, figure)

    def sizes(self, split: str) -> Drawing | None:
        table = mean_table(self.runs, split, "objects", ("size",))
        if not {"recall", "iou", "objects"} <= set(table.columns):
            return None
        text = "Share of pixels found and IoU of small to large objects, per experiment."
        title = f"Objects by size on {split}{self.under}"
        figure = class_figures.size_curves(table, title)
        return self._drawing(f"sizes_{split}", "sizes", title, text, figure)

    def classes(self, split: str, name: str) -> Drawing | None:
        table = mean_table(self._of(name), split, "per_class", ("class",))
        if not {"iou", "fp", "fn"} <= set(table.columns) or table["iou"].isna().all():
            return None
        low, high = table.loc[table["iou"].idxmin()], table.loc[table["iou"].idxmax()]
        text = f"Lowest IoU: {low['class']}, {100 * low['iou']:.1f} %. "
        text += f"Highest: {high['class']}, {100 * high['iou']:.1f} %."
        title = f"{name} on {split}{self.under}: IoU, FP and FN per class"
        figure = class_figures.per_class_bars(table, title)
        return self._drawing(f"classes_{name}_{split}", "classes", title, text, figure)

    def confusion(self, split: str, name: str) -> Drawing | None:
        table = mean_table(self._of(name), split, "confusion", ("truth",))
        if table.empty:
            return None
        text = "Per true class the share of its pixels that each class was predicted for."
        title = f"{name} on {split}{self.under}: confusion"
        figure = class_figures.confusion_heatmap(table[["truth", *table["truth"]]], title)
        return self._drawing(f"confusion_{name}_{split}", "classes", title, text, figure)

    def history(self) -> Drawing | None:
        parts = [r.history().assign(experiment=r.row, seed=r.seed) for r in self.runs]
        history = pd.concat(parts) if parts else pd.DataFrame()
        if not {"epoch", "loss", "lr"} <= set(history.columns):
            return None
        ends = history[history["epoch"] == history["epoch"].max()].groupby("experiment", sort=False)
        parts = [f"{name} {loss:.3f}" for name, loss in ends["loss"].mean().items()]
        text = f"Loss after {history['epoch'].max():.0f} epochs: {', '.join(parts)}."
        title = f"Training{self.under}"
        figure = figures.history_curves(history, title)
        return self._drawing("history", "training", title, text, figure)

    def _scored(self, split: str) -> pd.DataFrame:
        return self.rows[(self.rows["split"] == split) & self.rows["miou"].notna()]

    def _of(self, name: str) -> list[Run]:
        return [run for run in self.runs if run.row == name]

    def _drawing(self, name: str, *rest) -> Drawing:
        return Drawing(file_name(f"{name}{self.end}"), *rest)


def step_drawing(ablation: Ablation, runs: list[Run]) -> Drawing | None:
    """FP against FN of an ablation's rows; None where nothing is scored."""
    chosen = ablation.runs(runs)
    table = means(ablation, chosen)
    known = {run.row: (run.experiment, run.maps) for run in chosen}
    table = table[table["fp"].notna() | table["oracle_fp"].notna()]
    if table.empty:
        return None
    origin = pd.DataFrame([known[row] for row in table.index], table.index, ["experiment", "maps"])
    table = origin.join(table)
    best = table["oracle_fp"].notna().any()
    head, prefix = ("best threshold", "oracle_") if best else ("protocol threshold", "")
    parts = [f"{row} FP {line[f'{prefix}fp']:.3f}, FN {line[f'{prefix}fn']:.3f}"
             for row, line in table.iterrows()]  # fmt: skip
    text = f"Mean over seeds on {ablation.split}, {head}: {'; '.join(parts)}."
    title = f"{ablation.title.rstrip('.')}: false against missed detection on {ablation.split}"
    figure = step_figure(table, steps(ablation, chosen), title, ablation.best)
    return Drawing(ablation.key, ablation.key, title, text, figure)
