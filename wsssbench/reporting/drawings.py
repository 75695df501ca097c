"""Every figure of a report, with the title and the sentence that screen readers get."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from wsssbench.reporting import class_figures, figures
from wsssbench.reporting.averages import aggregate, rows, sweeps
from wsssbench.reporting.protocols import protocols
from wsssbench.reporting.records import Run, mean_table, split_roles
from wsssbench.reporting.style import WIDTH_IN


@dataclass(frozen=True)
class Drawing:
    """A figure, its file name without ending, the section it belongs to, title and description."""

    name: str
    section: str
    title: str
    description: str
    figure: Figure

    @property
    def wide(self) -> bool:
        """Whether it needs the width of the page."""
        return self.figure.get_figwidth() > 1.4 * WIDTH_IN


def drawings(runs: list[Run]) -> list[Drawing]:
    """All figures; those of different protocols are separate."""
    groups = protocols(runs)
    drawn = []
    for letter, members in groups.items():
        alone = len(groups) == 1
        drawer = _Drawer(
            members, *(("", "") if alone else (f"_{letter.lower()}", f", protocol {letter}"))
        )
        splits, names = split_roles(members), dict.fromkeys(run.experiment for run in members)
        # Figures of one kind are as high as each other and stand side by side, split by split.
        for kind in (drawer.intervals, drawer.errors, drawer.thresholds, drawer.sizes):
            drawn += [kind(split) for split in splits]
        for name in names:
            for kind in (drawer.classes, drawer.confusion):
                drawn += [kind(split, name) for split in splits]
        drawn.append(drawer.history())
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

    def thresholds(self, split: str) -> Drawing | None:
        curves = self.sweeps[self.sweeps["split"] == split]
        if curves.empty:
            return None
        best = curves.loc[curves.groupby("experiment", sort=False)["miou"].idxmax()]
        parts = [f"{r.experiment} at {r.threshold:.2f} with {100 * r.miou:.1f} %"
                 for r in best.itertuples()]  # fmt: skip
        text = f"Highest mIoU of the mean curve: {', '.join(parts)}."
        title = f"Scores over the threshold on {split}{self.under}"
        figure = figures.threshold_curves(curves, aggregate(self._scored(split)), title)
        return self._drawing(f"thresholds_{split}", "thresholds", title, text, figure)

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
        parts = [r.history().assign(experiment=r.experiment, seed=r.seed) for r in self.runs]
        history = pd.concat(parts)
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
        return [run for run in self.runs if run.experiment == name]

    def _drawing(self, name: str, *rest) -> Drawing:
        return Drawing(f"{name}{self.end}", *rest)
