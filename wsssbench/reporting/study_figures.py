"""Figures of a controlled experiment: what is dialled in, measures over it, the claims' effects."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsssbench.reporting.overlays import class_overlay, heat_overlay
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
    "none seen": ("#777777", "s"),
    "not seen": ("#777777", "o"),
    "opposite": (COLOURS[1], "D"),
    "unexpected": (COLOURS[1], "s"),
    "too few seeds": ("#777777", "x"),
}
ROW_IN = 0.42


@dataclass(frozen=True)
class Shown:
    """A test picture of a cell.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        layers: (H, W) uint8, place in LAYERS from 1, 0 for the rest.
        maps: {title of a method: (H, W) float in [0, 1], its map of one class}.
    """

    image: np.ndarray
    layers: np.ndarray
    maps: Mapping[str, np.ndarray]


@styled
def cell_pictures(pictures: Mapping[str, Shown], title: str) -> Figure:
    """One column per cell: the picture, what its pixels are, and the maps of the methods.

    Args:
        pictures: {cell: the same picture there}.
        title: above the panels.
    """
    methods = list(dict.fromkeys(name for shown in pictures.values() for name in shown.maps))
    rows = ["picture", "pixels", *methods]
    size = max(WIDTH_IN, 1.3 * len(pictures)), 0.8 + 1.25 * len(rows)
    figure = Figure(figsize=size)
    axes = figure.subplots(len(rows), len(pictures), squeeze=False)
    colours = np.zeros((256, 3), np.uint8)
    colours[1 : len(LAYERS) + 1] = [[255 * v for v in to_rgb(c)] for c in LAYERS.values()]
    for column, (cell, shown) in enumerate(pictures.items()):
        panels = {
            "picture": shown.image,
            "pixels": class_overlay(shown.image, shown.layers, colours),
        }
        panels |= {name: heat_overlay(shown.image, heat) for name, heat in shown.maps.items()}
        for row, name in enumerate(rows):
            if name in panels:
                axes[row, column].imshow(panels[name])
        axes[0, column].set_title(cell, fontsize=9, fontweight="normal", loc="center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(textwrap.fill(name, 18), fontsize=8)
    present = {place for shown in pictures.values() for place in np.unique(shown.layers)}
    named = enumerate(LAYERS.items(), 1)
    keys = [Patch(color=colour, label=name) for i, (name, colour) in named if i in present]
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
    axes.set_title(title, wrap=True)
    keys = [
        Line2D([], [], color=colours[name], marker=markers[name], markersize=5, label=name)
        for name in names
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=legend_columns(names))
    return figure


@styled
def forest(claims: pd.DataFrame, title: str) -> Figure:
    """Effects of the claims with their intervals; small dots are the seeds' paired differences.

    Args:
        claims: those that were run, see `study_claims.claims_of`.
        title: above the axes.
    """
    height = 1.1 + ROW_IN * len(claims)
    figure = Figure(figsize=(1.6 * WIDTH_IN, height))
    axes = figure.subplots()
    for place, one in enumerate(claims.itertuples()):
        colour, marker = VERDICTS[one.verdict]
        y = len(claims) - 1 - place
        differences = np.array(one.differences.split(), float)
        spread = np.linspace(-0.14, 0.14, len(differences)) if len(differences) != 1 else 0
        axes.plot(differences, y + spread, ".", color=colour, alpha=0.45, markersize=5)
        axes.hlines(y, one.low, one.high, color=colour, linewidth=2)
        axes.plot(one.mean, y, marker, color=colour, markersize=7)
    axes.axvline(0, color="#777777", linewidth=1)
    signs = {"+": "expected > 0", "−": "expected < 0", "0": "expected 0"}
    words = [f"{one.claim}\n{one.measure}, {signs[one.expected]}" for one in claims.itertuples()]
    axes.set_yticks(range(len(claims))[::-1], words)
    axes.set(ylim=(-0.6, len(claims) - 0.4), xlabel="effect: mean paired difference")
    axes.grid(axis="y", visible=False)
    axes.set_title(title, wrap=True)
    used = set(claims["verdict"])
    keys = [
        Line2D([], [], color=VERDICTS[name][0], marker=VERDICTS[name][1], linewidth=2, label=name)
        for name in VERDICTS if name in used
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside lower center", ncols=max(1, min(4, len(keys))))
    return figure
