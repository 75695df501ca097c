"""The report's figures. Each function takes tidy tables (fractions) and returns a Figure.

Axes carry units, experiments differ in colour and marker, legends stand outside the data.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsssbench.reporting.style import WIDTH_IN, colour_of, legend_columns, marker_of, styled


@styled
def threshold_curves(sweep: pd.DataFrame, marks: pd.DataFrame, title: str) -> Figure:
    """Mean IoU (above), FP and FN (below) over the background threshold, one colour per experiment.

    Args:
        sweep: experiment, threshold, miou, fp, fn.
        marks: experiment, threshold (the protocol's, filled circle) and oracle_threshold (the
            best one, open diamond); a missing column or NaN draws nothing.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.8))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    colours = colour_of(sweep["experiment"])
    for name, part in sweep.groupby("experiment", sort=False):
        shared = {"color": colours[name]}
        upper.plot(part["threshold"], 100 * part["miou"], **shared)
        lower.plot(part["threshold"], part["fp"], **shared)
        lower.plot(part["threshold"], part["fn"], linestyle=(0, (4, 2)), **shared)
        for _, mark in marks[marks["experiment"] == name].iterrows():
            for column, look in (("threshold", _PROTOCOL), ("oracle_threshold", _ORACLE)):
                at = mark.get(column, np.nan)
                height = np.interp(at, part["threshold"], 100 * part["miou"])
                upper.plot([at], [height], **shared, **look, linestyle="", zorder=3)
    upper.set(ylabel="mIoU, %")
    upper.margins(y=0.09)
    upper.set_title(title, wrap=True)
    lower.set(ylabel="FP and FN", xlabel="background threshold", xlim=(0, 1), ylim=(0, None))
    keys = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    signs = [
        Line2D([], [], color="#555555", linestyle="", label="protocol", **_PROTOCOL),
        Line2D([], [], color="#555555", linestyle="", label="best (oracle)", **_ORACLE),
        Line2D([], [], color="#555555", label="FP"),
        Line2D([], [], color="#555555", linestyle=(0, (4, 2)), label="FN"),
    ]
    columns = 4 if max(map(len, colours)) <= 8 else 2  # so that the four signs fill whole rows
    handles = _by_rows(keys, signs, columns=columns)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


@styled
def fp_against_fn(rows: pd.DataFrame, title: str) -> Figure:
    """False against missed detection: one small mark per seed, a large one for the mean.

    Along the grey lines the mean foreground IoU, 1 − FP − FN, is constant.

    Args:
        rows: experiment, fp, fn; one row per run.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.9))
    axes = figure.subplots()
    colours, markers = colour_of(rows["experiment"]), marker_of(rows["experiment"])
    for name, part in rows.groupby("experiment", sort=False):
        look = {"color": colours[name], "marker": markers[name], "linewidths": 0}
        axes.scatter(part["fn"], part["fp"], s=22, alpha=0.55, **look)
        axes.scatter(part["fn"].mean(), part["fp"].mean(), s=80, label=name, zorder=3, **look)
    centre = [rows[column].agg(["min", "max"]).mean() for column in ("fn", "fp")]
    half = max(0.06, 0.7 * max(np.ptp(rows[column]) for column in ("fn", "fp")))
    axes.set(xlim=window(centre[0], half), ylim=window(centre[1], half), aspect="equal")
    axes.set(xlabel="FN: missed share of the union", ylabel="FP: false share of the union")
    axes.set_title(title, wrap=True)
    iso_lines(axes)
    columns = legend_columns([*colours, "equal foreground IoU"])
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


@styled
def history_curves(history: pd.DataFrame, title: str) -> Figure:
    """Loss (above) and learning rate (below) per epoch, one thin line per run.

    Args:
        history: experiment, seed, epoch, loss, lr.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.0))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1.8))
    colours = colour_of(history["experiment"])
    for (name, _), part in history.groupby(["experiment", "seed"], sort=False):
        shared = {"color": colours[name], "linewidth": 1.3, "alpha": 0.85}
        dot = "o" if len(part) == 1 else ""
        upper.plot(part["epoch"], part["loss"], marker=dot, **shared)
        lower.plot(part["epoch"], part["lr"], marker=dot, **shared)
    upper.set_ylabel("loss")
    upper.set_title(title, wrap=True)
    lower.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    lower.xaxis.get_major_locator().set_params(integer=True)
    keys = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=legend_columns(colours))
    return figure


@styled
def interval_plot(rows: pd.DataFrame, title: str) -> Figure:
    """Mean IoU of every seed with its interval over images; the bar is the mean over seeds.

    Args:
        rows: experiment, seed, miou, miou_low, miou_high; one row per run.
        title: above the axes.
    """
    names = list(dict.fromkeys(rows["experiment"]))
    figure = Figure(figsize=(WIDTH_IN, 1.5 + 0.2 * len(rows) + 0.25 * len(names)))
    axes = figure.subplots()
    colours, markers = colour_of(names), marker_of(names)
    place, ticks = 0.0, []
    for name in names:
        part = rows[rows["experiment"] == name]
        where = place + np.arange(len(part)) * 0.5
        values = 100 * part[["miou", "miou_low", "miou_high"]].to_numpy()
        axes.hlines(where, values[:, 1], values[:, 2], color=colours[name], linewidth=1.4)
        axes.plot(values[:, 0], where, markers[name], color=colours[name], markersize=5.5)
        axes.vlines(values[:, 0].mean(), where[0] - 0.3, where[-1] + 0.3, color=colours[name],
                    linewidth=3, alpha=0.35)  # fmt: skip
        ticks.append(where.mean())
        place = where[-1] + 1.1
    axes.set_yticks(ticks, names)
    axes.set(xlabel="mIoU, % (line: 95 % interval over images)", ylim=(place - 0.4, -0.6))
    axes.set_title(title, wrap=True)
    axes.grid(visible=False, axis="y")
    return figure


def _by_rows(*groups: list[Line2D], columns: int) -> list[Line2D]:
    """Handles in the order in which a legend, which fills columns, shows each group in own rows."""
    rows = []
    for group in groups:
        padding = [Line2D([], [], linestyle="", label=" ")] * (-len(group) % columns)
        padded = [*group, *padding]
        rows += [padded[i : i + columns] for i in range(0, len(padded), columns)]
    return [row[column] for column in range(columns) for row in rows]


def window(centre: float, half: float) -> tuple[float, float]:
    """An interval of length 2 × `half` around `centre`, moved so that it begins at 0 or above."""
    low = max(0.0, centre - half)
    return low, low + 2 * half


def iso_lines(axes: Axes, at_end: bool = False, colour: str = "#b0b0b0") -> None:
    """Grey lines of equal mean foreground IoU, each with its value on the line.

    Args:
        axes: FN to the right, FP upwards, with their final limits.
        at_end: write the value near the upper left end of the line instead of in its middle.
        colour: of the lines.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    step = 0.05 if right - left < 0.3 else 0.1
    first = True
    for iou in np.arange(step, 1, step):
        ends = np.clip([1 - iou - top, 1 - iou - bottom], left, right)
        if np.ptp(ends) < 0.1 * (right - left):
            continue
        label = "equal foreground IoU" if first else None
        place = ends[0] + 0.05 * (right - left) if at_end else ends.mean()
        axes.plot(ends, 1 - iou - ends, color=colour, linewidth=0.9, zorder=0, label=label)
        axes.text(place, 1 - iou - place, f"{100 * iou:.0f} %", fontsize=7.5,
                  color="#666666", ha="center", va="center", rotation=-45, zorder=0.5,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        first = False


_PROTOCOL = {"marker": "o", "markersize": 5.5}
# A ring, so that both can be seen where the protocol's threshold happens to be the best one.
_ORACLE = {"marker": "D", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6}
