"""Figures about what is in the images: classes, their confusion, the size of objects.

Like those of `figures.py`: tidy tables (fractions) in, a Figure out.
"""

import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from wsssbench.reporting.style import (
    CORRECT,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    WIDTH_IN,
    colour_of,
    legend_columns,
    marker_of,
    styled,
)

ANNOTATED_CLASSES = 24  # above this, numbers in the cells of a confusion matrix cannot be read


@styled
def per_class_bars(table: pd.DataFrame, title: str) -> Figure:
    """IoU, FP and FN per class as one stacked bar each; the three add up to the union.

    Args:
        table: columns class, iou, fp, fn; one row per class.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 1.3 + 0.25 * len(table)))
    axes = figure.subplots()
    places, left = np.arange(len(table)), np.zeros(len(table))
    parts = (("IoU", "iou", CORRECT), ("FP (false)", "fp", FALSE_POSITIVE),
             ("FN (missed)", "fn", FALSE_NEGATIVE))  # fmt: skip
    for label, column, colour in parts:
        values = 100 * table[column].fillna(0).to_numpy()
        axes.barh(places, values, left=left, color=colour, label=label, height=0.74)
        left += values
    for place, iou in zip(places, table["iou"]):
        text = "absent" if np.isnan(iou) else f"{100 * iou:.1f}"
        # White on the bar where it fits, else beside it on the lighter neighbour's edge.
        axes.text(1, place, text, va="center", ha="left", fontsize=8, fontweight="bold",
                  color="white" if not np.isnan(iou) else "#444444")  # fmt: skip
    axes.set_yticks(places, table["class"])
    axes.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.6), xlabel="share of the union, %")
    axes.set_title(title, wrap=True)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def confusion_heatmap(confusion: pd.DataFrame, title: str) -> Figure:
    """Where the pixels of each true class went, in per cent of that class.

    Args:
        confusion: column truth, then one column of counts per predicted class, in the same order.
        title: above the axes.
    """
    names = list(confusion["truth"])
    counts = confusion.drop(columns="truth").to_numpy(dtype=float)
    total = counts.sum(axis=1, keepdims=True)
    share = 100 * np.divide(counts, total, where=total > 0, out=np.full(counts.shape, np.nan))
    few = len(names) <= ANNOTATED_CLASSES
    size = max(WIDTH_IN, 1.4 + (0.29 if few else 0.16) * len(names))
    figure = Figure(figsize=(size, size * 0.86))
    axes = figure.subplots()
    # The square root spreads out the few per cent in which classes are confused.
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="none")
    small = {"fontsize": 8.5 if few else 6.5}
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 30, **small)
    axes.set_yticks(range(len(names)), names, **small)
    if len(names) <= 6:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for place in np.argwhere(np.isfinite(share)) if few else ():
        value = share[tuple(place)]
        if value >= 0.5:
            axes.text(place[1], place[0], f"{value:.0f}", ha="center", va="center",
                      fontsize=9 if len(names) <= 12 else 7,
                      color="white" if value > 35 else "#222222")  # fmt: skip
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("% of the true class's pixels")
    bar.outline.set_visible(False)
    return figure


@styled
def size_curves(objects: pd.DataFrame, title: str) -> Figure:
    """IoU and recall of objects by their size.

    Args:
        objects: experiment, size, objects (count), recall, iou; sizes in ascending order.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 3.4))
    both = figure.subplots(1, 2, sharey=True)
    sizes = list(objects["size"].unique())
    counts = objects.groupby("size", sort=False)["objects"].max()
    colours, markers = colour_of(objects["experiment"]), marker_of(objects["experiment"])
    for axes, column, head in zip(both, ("recall", "iou"), ("pixels found", "IoU")):
        for name, part in objects.groupby("experiment", sort=False):
            part = part.set_index("size").reindex(sizes)
            axes.plot(range(len(sizes)), 100 * part[column], color=colours[name],
                      marker=markers[name], label=name if axes is both[0] else None)  # fmt: skip
        labels = [f"{size}\nn={counts[size]:.0f}" for size in sizes]
        axes.set_xticks(range(len(sizes)), labels)
        axes.set(xlabel="object size", ylim=(0, 100), xlim=(-0.4, len(sizes) - 0.6))
        axes.set_title(head, fontweight="normal", fontsize=9)
    both[0].set_ylabel("%")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    figure.legend(loc="outside lower center", ncols=legend_columns(colours))
    return figure
