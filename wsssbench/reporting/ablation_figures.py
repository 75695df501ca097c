"""False against missed detection, step by step: one point per row of an ablation, arrows between.

Along the grey lines the mean foreground IoU, 1 − FP − FN, is constant.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from wsssbench.reporting.ablations import Ablation
from wsssbench.reporting.figures import iso_lines, window
from wsssbench.reporting.labels import Name, place_names
from wsssbench.reporting.records import Run
from wsssbench.reporting.style import WIDTH_IN, colour_of, marker_of, styled

EXPLANATION = "Grey: equal mean foreground IoU. Whiskers: ± standard deviation over seeds."
MARK_PT = 4.5
CURVE = 0.14
SHORTEST_PT = 2 * MARK_PT + 9  # below it the head of an arrow would have no room


def steps(ablation: Ablation, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Pairs of rows (from, to): what each row is a step from.

    A refined kind of maps comes from the kind that it refines: `scg+pamr` from `scg`, `scg` from
    `cam`. Any other row comes from the row above it of the same experiment, and an experiment's
    first row from the baseline.
    """
    kinds = {run.row: (run.experiment, _parts(run.maps)) for run in runs}
    order = ablation.rows
    if ablation.baseline and ablation.baseline not in order:
        order = (ablation.baseline, *order)
    found = []
    for place, row in enumerate(order):
        own, parts = kinds[row]
        above = [other for other in order[:place] if kinds[other][0] == own]
        fewer = [other for other in above if kinds[other][1] < parts]
        if fewer and "decoder" not in parts:
            found.append((max(fewer, key=lambda other: len(kinds[other][1])), row))
        elif above:
            found.append((above[-1], row))
        elif ablation.baseline and row != ablation.baseline:
            found.append((ablation.baseline, row))
    return found


@styled
def step_figure(
    points: pd.DataFrame, arrows: Sequence[tuple[str, str]], title: str, best: str
) -> Figure:
    """FP against FN at the best threshold and at the protocol's, with an arrow per step.

    Args:
        points: indexed by row: experiment, maps, and fp, fn, oracle_fp, oracle_fn with `_sd`.
        arrows: pairs of rows.
        title: above the panels.
        best: what the best threshold is called.
    """
    both = (("oracle_", best), ("", "protocol threshold"))
    panels = [panel for panel in both if points[f"{panel[0]}fp"].notna().any()]
    figure = Figure(figsize=(WIDTH_IN * (1.0 if len(panels) == 1 else 2.0), 5.3))
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    limits = _limits(points, [prefix for prefix, _ in panels])
    colours, markers = colour_of(points["experiment"]), marker_of(points["maps"])
    for axes, (prefix, head) in zip(every, panels):
        axes.set(**limits, aspect="equal", xlabel="FN: missed share of the union")
        axes.set_title(head, fontweight="normal", fontsize=9)
        iso_lines(axes, at_end=True, colour="#cfcfcf")
        _marks(axes, points, prefix, colours, markers)
    for axis in (every[0].xaxis, every[0].yaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    every[0].set_ylabel("FP: false share of the union")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    figure.supxlabel(EXPLANATION, x=0.01, ha="left", fontsize=8, color="#555555")
    figure.draw_without_rendering()
    for axes, (prefix, _) in zip(every, panels):
        lines = _arrows(axes, points, arrows, prefix, colours)
        shown = points[points[f"{prefix}fp"].notna()]
        names = [Name(line[f"{prefix}fn"], line[f"{prefix}fp"], row, colours[line["experiment"]])
                 for row, line in shown.iterrows()]  # fmt: skip
        place_names(axes, names, [*lines, *_whiskers(shown, prefix)], radius_pt=MARK_PT)
    return figure


def _parts(maps: str) -> frozenset[str]:
    return frozenset(maps.split("+")) - {"cam"}


def _limits(points: pd.DataFrame, prefixes: list[str]) -> dict[str, tuple[float, float]]:
    """Both axes equally long, around all points of all panels with their whiskers."""
    ends = {}
    for name in ("fn", "fp"):
        values = points[[f"{p}{name}" for p in prefixes]].to_numpy(float)
        spread = np.nan_to_num(points[[f"{p}{name}_sd" for p in prefixes]].to_numpy(float))
        ends[name] = np.nanmin(values - spread), np.nanmax(values + spread)
    half = max(0.05, 0.6 * max(high - low for low, high in ends.values()))
    return {axis: window(sum(ends[name]) / 2, half)
            for axis, name in (("xlim", "fn"), ("ylim", "fp"))}  # fmt: skip


def _marks(axes: Axes, points: pd.DataFrame, prefix: str, colours: dict, markers: dict) -> None:
    for _, line in points.iterrows():
        colour = colours[line["experiment"]]
        x, y = line[f"{prefix}fn"], line[f"{prefix}fp"]
        axes.errorbar(x, y, xerr=_spread(line, f"{prefix}fn"), yerr=_spread(line, f"{prefix}fp"),
                      fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5)  # fmt: skip
        axes.plot(x, y, markers[line["maps"]], markersize=2 * MARK_PT * 0.8, color=colour,
                  markeredgecolor="white", markeredgewidth=0.8, zorder=4)  # fmt: skip


def _spread(line: pd.Series, name: str) -> float:
    return float(np.nan_to_num(line[f"{name}_sd"]))


def _whiskers(points: pd.DataFrame, prefix: str) -> list[np.ndarray]:
    """Points along the whiskers, data coordinates."""
    lines, along = [], np.linspace(-1, 1, 9)
    for _, line in points.iterrows():
        centre = np.array([line[f"{prefix}fn"], line[f"{prefix}fp"]])
        for side, name in enumerate(("fn", "fp")):
            reach = np.zeros(2)
            reach[side] = _spread(line, f"{prefix}{name}")
            lines.append(centre + along[:, None] * reach)
    return lines


def _arrows(
    axes: Axes, points: pd.DataFrame, arrows: Sequence[tuple[str, str]], prefix: str, colours: dict
) -> list[np.ndarray]:
    """Draw the steps; returns points along each, data coordinates."""
    lines = []
    for start, end in arrows:
        if not {start, end} <= set(points.index):
            continue
        ends = points.loc[[start, end], [f"{prefix}fn", f"{prefix}fp"]].to_numpy(float)
        if np.isnan(ends).any() or _length_pt(axes, ends) < SHORTEST_PT:
            continue
        arrow = FancyArrowPatch(
            *map(tuple, ends), arrowstyle="-|>", mutation_scale=9, linewidth=1.1, zorder=2,
            connectionstyle=f"arc3,rad={CURVE}", shrinkA=MARK_PT + 1, shrinkB=MARK_PT + 1,
            color=colours[points.loc[end, "experiment"]], alpha=0.55,
        )  # fmt: skip
        axes.add_patch(arrow)
        lines.append(_arc(axes, ends))
    return lines


def _length_pt(axes: Axes, ends: np.ndarray) -> float:
    start, end = axes.transData.transform(ends)
    return float(np.hypot(*(end - start))) * 72 / axes.figure.dpi


def _arc(axes: Axes, ends: np.ndarray) -> np.ndarray:
    """The curve that an arrow follows: matplotlib's arc3, a parabola bent to its right."""
    start, end = axes.transData.transform(ends)
    middle = (start + end) / 2 + CURVE * np.array([(end - start)[1], -(end - start)[0]])
    t = np.linspace(0.05, 0.95, 25)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    return axes.transData.inverted().transform(curve)
