"""Figures of a sensitivity study (`stages.sensitivity`): tidy tables (fractions) in, a Figure out.

All of them look at true masks.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsssbench.reporting.style import WIDTH_IN, colour_of, legend_columns, marker_of, styled

GREY = "#555555"
MEASURES = {
    "coverage": "share of all pixels that are called so",
    "precision": "share of these that are right",
    "found": "share of the true ones that are found",
}
METRICS = {
    "miou": ("mIoU, %", 100),
    "boundary_error": ("wrong near outlines, %", 100),
    "fp": ("FP", 1),
    "fn": ("FN", 1),
}
PARAMETERS = {
    "beta": "exponent beta",
    "log2_steps": "log2 of the steps",
    "walk_radius": "radius",
    "per_class": "divided by",
}
DIVISORS = {0.0: "image's\nmaximum", 1.0: "class's\nmaximum"}
BEFORE_LINE = {"color": GREY, "linestyle": (0, (1, 1.4)), "linewidth": 1.4}


@styled
def seed_curves(seeds: pd.DataFrame, own: Mapping[str, float], title: str) -> Figure:
    """What certain foreground (left) and certain background (right) are worth over the threshold.

    Args:
        seeds: part (foreground, background), threshold, coverage, precision, found.
        own: the threshold in use of each part, a vertical line.
        title: above the panels.
    """
    figure = Figure(figsize=(1.5 * WIDTH_IN, 3.5))
    both = figure.subplots(1, 2, sharey=True)
    colours = colour_of(MEASURES)
    styles = dict(zip(MEASURES, ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))))
    words = {"foreground": "above", "background": "up to"}
    for axes, (part, side) in zip(both, words.items()):
        table = seeds[seeds["part"] == part]
        for name in MEASURES:
            look = {"color": colours[name], "linestyle": styles[name]}
            axes.plot(table["threshold"], 100 * table[name], **look)
        axes.axvline(own[part], color=GREY, linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 101), xlabel=f"{part} {side} this score")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"certain {part}", fontweight="normal", fontsize=9)
    both[0].set_ylabel("%")
    keys = [
        Line2D([], [], color=colours[name], linestyle=styles[name], label=text)
        for name, text in MEASURES.items()
    ]
    keys.append(Line2D([], [], color=GREY, linewidth=1, label="threshold of the experiment"))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    figure.legend(handles=keys, loc="outside lower center", ncols=2)
    return figure


@styled
def crf_curves(crfs: pd.DataFrame, title: str) -> Figure:
    """Scores over the iterations of a dense CRF, one colour per parameter set; at 0 without it.

    Args:
        crfs: parameter_set, iterations, miou, fp, fn, boundary_error; first the row before.
        title: above the panels.
    """
    before, after = crfs.iloc[0], crfs.iloc[1:]
    names = list(dict.fromkeys(after["parameter_set"]))
    colours, markers = colour_of(names), marker_of(names)
    figure = Figure(figsize=(1.5 * WIDTH_IN, 4.9))
    every = figure.subplots(2, 2, sharex=True)
    for axes, (column, (words, factor)) in zip(every.flat, METRICS.items()):
        axes.axhline(factor * before[column], **BEFORE_LINE)
        for name, part in after.groupby("parameter_set", sort=False):
            steps = [0, *part["iterations"]]
            values = factor * np.array([before[column], *part[column]])
            axes.plot(steps, values, color=colours[name], marker=markers[name], markersize=4.5)
        axes.set_title(words, fontweight="normal", fontsize=9)
        axes.margins(y=0.1)
    for axes in every[1]:
        axes.set_xticks(sorted({0, *after["iterations"]}))
        axes.set_xlabel("iterations")
    every[1, 0].sharey(every[1, 1])
    every[1, 0].autoscale(axis="y")
    keys = [
        Line2D([], [], color=colours[name], marker=markers[name], markersize=4.5, label=name)
        for name in names
    ]
    _finish(figure, title, keys)
    return figure


@styled
def walk_curves(walks: pd.DataFrame, title: str) -> Figure:
    """Mean IoU after a random walk, a panel per setting that differs from the experiment's (bold).

    Args:
        walks: parameter, value, own, miou, best_miou; first the row before.
        title: above the panels.
    """
    before, after = walks.iloc[0], walks.iloc[1:]
    names = list(dict.fromkeys(after["parameter"]))
    figure = Figure(figsize=(max(WIDTH_IN, 2.1 * len(names)), 3.3))
    every = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    stage, best = colour_of(("stage", "best")).values()
    at_stage = {"color": stage, "marker": "o", "markersize": 5}
    at_best = {"color": best, "marker": "D", "markersize": 5, "markerfacecolor": "white"}
    for axes, name in zip(every, names):
        part = after[after["parameter"] == name]
        places = np.arange(len(part))
        full, dashed = ("", "") if name == "per_class" else ("-", (0, (4, 2)))
        axes.axhline(100 * before["miou"], **BEFORE_LINE)
        axes.plot(places, 100 * part["miou"], linestyle=full, **at_stage)
        axes.plot(places, 100 * part["best_miou"], linestyle=dashed, **at_best)
        _ticks(axes, name, part)
    every[0].set_ylabel("mIoU, %")
    every[0].margins(y=0.1)
    keys = [
        Line2D([], [], label="at the stage's threshold", **at_stage),
        Line2D([], [], label="at the best threshold", linestyle=(0, (4, 2)), **at_best),
    ]
    _finish(figure, title, keys)
    return figure


def _ticks(axes: Axes, name: str, part: pd.DataFrame) -> None:
    """The values, the experiment's own in bold."""
    axes.set_xlabel(PARAMETERS[name])
    words = [DIVISORS[v] if name == "per_class" else f"{v:g}" for v in part["value"]]
    axes.set_xticks(range(len(part)), words)
    axes.set_xlim(-0.5, len(part) - 0.5)
    for label, own in zip(axes.get_xticklabels(), part["own"]):
        label.set_fontweight("bold" if own else "normal")


def _finish(figure: Figure, title: str, keys: list[Line2D]) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    keys = [*keys, Line2D([], [], label="before", **BEFORE_LINE)]
    columns = legend_columns([str(key.get_label()) for key in keys], figure.get_figwidth())
    figure.legend(handles=keys, loc="outside lower center", ncols=columns)
