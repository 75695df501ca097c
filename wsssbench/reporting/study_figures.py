"""Figures of a controlled experiment: what is dialled in, measures over it, the claims' effects."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsssbench.reporting.claims import Found
from wsssbench.reporting.style import (
    COLOURS,
    WIDTH_IN,
    colour_of,
    legend_columns,
    marker_of,
    styled,
)

LAYERS = {"body": COLOURS[0], "unique part": COLOURS[4], "companion": COLOURS[3]}
VERDICTS = {  # colour, marker
    "seen": (COLOURS[2], "o"),
    "none seen": (COLOURS[2], "s"),
    "not seen": ("#777777", "o"),
    "opposite": (COLOURS[1], "D"),
    "unexpected": (COLOURS[1], "s"),
    "too few seeds": ("#777777", "x"),
}
ROW_IN = 0.42


@styled
def cell_pictures(
    pictures: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]], title: str
) -> Figure:
    """One column per cell: the picture, and below it what its pixels are.

    Args:
        pictures: {cell: (image (H, W, 3) uint8, {name in LAYERS: (H, W) bool})}.
        title: above the panels.
    """
    figure = Figure(figsize=(max(WIDTH_IN, 1.3 * len(pictures)), 3.5))
    axes = figure.subplots(2, len(pictures), squeeze=False)
    shown = {name for _, layers in pictures.values() for name, layer in layers.items()
             if layer.any()}  # fmt: skip
    for column, (cell, (image, layers)) in enumerate(pictures.items()):
        grey = image.mean(axis=2, keepdims=True) / 255
        paint = np.broadcast_to(0.75 + 0.25 * grey, image.shape).copy()
        for name, layer in layers.items():
            paint[layer] = 0.3 * grey[layer] + 0.7 * np.array(to_rgb(LAYERS[name]))
        axes[0, column].imshow(image)
        axes[1, column].imshow(paint)
        axes[0, column].set_title(cell, fontsize=9, fontweight="normal", loc="center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    keys = [Patch(color=colour, label=name) for name, colour in LAYERS.items() if name in shown]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


@styled
def over_cells(curves: pd.DataFrame, cells: Sequence[str], title: str, label: str) -> Figure:
    """A measure over the cells, one line per row of `curves`, with 95 % intervals over seeds.

    Args:
        curves: row, cell, mean, low, high.
        cells: their order.
        title: above the axes.
        label: of the vertical axis.
    """
    names = list(dict.fromkeys(curves["row"]))
    colours, markers = colour_of(names), marker_of(names)
    figure = Figure(figsize=(WIDTH_IN, 3.6))
    axes = figure.subplots()
    for place, name in enumerate(names):
        part = curves[curves["row"] == name].set_index("cell").reindex(cells)
        shift = 0.16 * (place - (len(names) - 1) / 2) / max(1, len(names) - 1)
        x, look = np.arange(len(cells)) + shift, {"color": colours[name]}
        axes.plot(x, part["mean"], marker=markers[name], markersize=5, **look)
        axes.vlines(x, part["low"], part["high"], linewidth=1.1, **look)
    axes.set_xticks(range(len(cells)), cells)
    axes.set(ylabel=textwrap.fill(label, 38), xlim=(-0.4, len(cells) - 0.6))
    axes.margins(y=0.1)
    axes.set_title(title)
    keys = [
        Line2D([], [], color=colours[name], marker=markers[name], markersize=5, label=name)
        for name in names
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=legend_columns(names))
    return figure


@styled
def forest(found: Sequence[Found], title: str) -> Figure:
    """Effects of the claims with their intervals; small dots are the seeds' paired differences.

    Args:
        found: claims that were run.
        title: above the axes.
    """
    height = 1.1 + ROW_IN * len(found)
    figure = Figure(figsize=(1.6 * WIDTH_IN, height))
    axes = figure.subplots()
    for place, one in enumerate(found):
        colour, marker = VERDICTS[one.verdict]
        y = len(found) - 1 - place
        spread = np.linspace(-0.14, 0.14, len(one.differences)) if len(one.differences) > 1 else 0
        axes.plot(one.differences, y + spread, ".", color=colour, alpha=0.45, markersize=5)
        axes.hlines(y, one.effect.low, one.effect.high, color=colour, linewidth=2)
        axes.plot(one.effect.mean, y, marker, color=colour, markersize=7)
    axes.axvline(0, color="#777777", linewidth=1)
    signs = {"+": "expected > 0", "-": "expected < 0", "0": "expected 0"}
    words = [f"{one.claim.name}\n{one.claim.measure}, {signs[one.claim.expected]}" for one in found]
    axes.set_yticks(range(len(found))[::-1], words)
    axes.set(ylim=(-0.6, len(found) - 0.4), xlabel="effect: mean paired difference")
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    used = dict.fromkeys(one.verdict for one in found)
    keys = [
        Line2D([], [], color=VERDICTS[name][0], marker=VERDICTS[name][1], linewidth=2, label=name)
        for name in VERDICTS if name in used
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside lower center", ncols=max(1, min(4, len(keys))))
    return figure
