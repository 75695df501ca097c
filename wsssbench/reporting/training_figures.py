"""What happens while a method with pseudo-masks trains: quality of its seeds, shares of pixels.

Like those of `figures.py`: tidy tables (fractions) in, a Figure out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsssbench.reporting.style import CORRECT, WIDTH_IN, colour_of, legend_columns, styled

METRICS = (("miou", "mIoU, %", 100.0), ("fp", "FP", 1.0), ("fn", "FN", 1.0))
SHARES = (  # column, words, colour; from the bottom upwards
    ("certain_foreground", "certain foreground", CORRECT),
    ("ignored", "ignored", "#dddddd"),
    ("certain_background", "certain background", "#8aa4bd"),
)
MIXED = ("mix_certain_foreground", "foreground of mixed images")
MIXED_COLOUR, START_COLOUR = "#1c2024", "#333333"
START_STYLES = ((0, (1, 1.4)), (0, (6, 2, 1, 2)))
PANEL_IN = 2.35


@styled
def watch_curves(watch: pd.DataFrame, starts: Mapping[str, float], title: str) -> Figure:
    """Seed quality per epoch at one threshold, a panel each for mIoU, FP and FN.

    Thick lines are means over seeds, thin ones single seeds.

    Args:
        watch: experiment, seed, epoch, miou, fp, fn; an experiment per line.
        starts: {what begins: epoch}, drawn as vertical lines.
        title: above the panels.
    """
    colours = colour_of(watch["experiment"])
    columns = legend_columns([*colours, *starts], 2 * WIDTH_IN)
    figure = Figure(figsize=(2 * WIDTH_IN, 3.2 + 0.2 * -(-(len(colours) + len(starts)) // columns)))
    every = figure.subplots(1, 3, sharex=True)
    thin = {"linewidth": 0.7, "alpha": 0.45 if len(colours) <= 5 else 0.25}
    for axes, (column, head, factor) in zip(every, METRICS):
        for name, part in watch.groupby("experiment", sort=False):
            table = factor * part.pivot_table(index="epoch", columns="seed", values=column)
            for _, line in table.items() if table.shape[1] > 1 else ():
                axes.plot(table.index, line, color=colours[name], **thin)
            dot = "o" if len(table) == 1 else ""
            look = {"color": colours[name], "linewidth": 1.9, "marker": dot}
            axes.plot(table.index, table.mean(axis=1), **look)
        axes.set_title(head, fontweight="normal", fontsize=9)
        axes.set_xlabel("epoch")
        axes.margins(y=0.08)
        axes.xaxis.get_major_locator().set_params(integer=True)
        signs = _starts(axes, starts)
    every[1].sharey(every[2])
    every[1].autoscale(axis="y")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    keys = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=[*keys, *signs], loc="outside lower center", ncols=columns)
    return figure


@styled
def pixel_shares(
    history: pd.DataFrame, starts: Mapping[str, Mapping[str, float]], title: str
) -> Figure:
    """Shares of certain and ignored pixels per epoch, stacked, one panel per experiment.

    Args:
        history: experiment, epoch and the shares; one row per seed and epoch, mean over seeds.
        starts: {experiment: {what begins: epoch}}.
        title: above the panels.
    """
    names = list(dict.fromkeys(history["experiment"]))
    across = min(4, len(names))
    down = -(-len(names) // across)
    size = (max(WIDTH_IN, PANEL_IN * across), 1.3 + 1.9 * down)
    figure = Figure(figsize=size)
    every = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    mixed, signs = False, {}
    for axes, name in zip(every.flat, names):
        own = history[history["experiment"] == name]
        shares = own.groupby("epoch").mean(numeric_only=True)
        mixed |= _stack(axes, shares)
        axes.set_title(f"{name}\n{_ends(shares)}", fontweight="normal", fontsize=8.5)
        signs |= {sign.get_label(): sign for sign in _starts(axes, starts.get(name, {}))}
    for axes in every.flat[len(names) :]:
        axes.set_visible(False)
    last = history["epoch"].max()
    every[0, 0].set(xlim=(history["epoch"].min() - 0.5, last + 0.5), ylim=(0, 100))
    every[0, 0].xaxis.get_major_locator().set_params(integer=True, nbins=5)
    for place, axes in enumerate(every.flat[: len(names)]):
        if place + across >= len(names):  # the lowest one of its column
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
    for axes in every[:, 0]:
        axes.set_ylabel("% of pixels")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    keys = [Patch(color=colour, label=words) for _, words, colour in SHARES] + [*signs.values()]
    if mixed:
        keys.append(Line2D([], [], color=MIXED_COLOUR, linestyle=(0, (3, 1.5)), label=MIXED[1]))
    columns = 2 if size[0] < 1.4 * WIDTH_IN else 3
    figure.legend(handles=keys, loc="outside lower center", ncols=columns)
    return figure


def _ends(shares: pd.DataFrame) -> str:
    """Where the share of foreground begins and where it ends, for people who watch for collapse."""
    foreground = 100 * shares[SHARES[0][0]].dropna()
    return (
        f"foreground {foreground.iloc[0]:.0f} → {foreground.iloc[-1]:.0f} %"
        if len(foreground)
        else ""
    )


def _stack(axes: Axes, shares: pd.DataFrame) -> bool:
    """One step per epoch, so that a single epoch shows too; whether there are mixed images."""
    shares = shares.dropna(subset=[column for column, _, _ in SHARES])
    epochs, low = shares.index.to_numpy(float), np.zeros(len(shares))
    if not len(shares):
        axes.text(0.5, 0.5, "no such pixels yet", transform=axes.transAxes, ha="center")
        return False
    edges = np.append(epochs - 0.5, epochs[-1] + 0.5)
    for column, _, colour in SHARES:
        high = low + 100 * shares[column].to_numpy(float)
        axes.stairs(high, edges, baseline=low, fill=True, color=colour, linewidth=0)
        low = high
    if MIXED[0] not in shares or shares[MIXED[0]].isna().all():
        return False
    line = 100 * shares[MIXED[0]].dropna()
    axes.plot(line.index, line, color=MIXED_COLOUR, linestyle=(0, (3, 1.5)), linewidth=1.2,
              marker="." if len(line) == 1 else "")  # fmt: skip
    return True


def _starts(axes: Axes, starts: Mapping[str, float]) -> list[Line2D]:
    """Vertical lines where something begins; returns their keys for a legend."""
    keys = []
    for words, epoch in starts.items():
        # Styles go by the words, so that panels where one of them is missing agree.
        style = START_STYLES[words.startswith("mix")]
        look = {"color": START_COLOUR, "linewidth": 1.0, "linestyle": style}
        # Between the last epoch without it and the first one with it.
        axes.axvline(epoch - 0.5, zorder=1.5, **look)
        keys.append(Line2D([], [], label=words, **look))
    return keys


def shares_in(history: pd.DataFrame) -> bool:
    """Whether a history has the columns of `pixel_shares`, and a value in them."""
    columns = [column for column, _, _ in SHARES]
    return {"epoch", *columns} <= set(history) and bool(history[columns].notna().all(axis=1).any())


def watched(watch: pd.DataFrame) -> bool:
    """Whether a table has the columns of `watch_curves`, and a line."""
    needed: Sequence[str] = ("epoch", "maps", "miou", "fp", "fn")
    return set(needed) <= set(watch) and len(watch) > 0
