"""A contact sheet for notebooks: images and, below each, the masks of some folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from wsssbench.data.folder import Folder
from wsssbench.data.palette import palette, read_mask
from wsssbench.reporting.overlays import class_overlay
from wsssbench.reporting.style import styled

COLUMN_IN, ROW_IN = 1.45, 1.3


def spread(ids: Sequence[str], count: int) -> list[str]:
    """`count` ids at equal distances over the list."""
    step = max(1, len(ids) // count)
    return list(ids[::step][:count])


@styled
def contact_sheet(root: str | Path, ids: Sequence[str], masks: Mapping[str, Path]) -> Figure:
    """One column per image: the image, then a row per folder of masks.

    Args:
        root: data set folder.
        ids: the images.
        masks: {row title: folder of <id>.png}; a missing file leaves its place empty.
    """
    folder = Folder(root)
    figure = Figure(figsize=(COLUMN_IN * len(ids), ROW_IN * (1 + len(masks))))
    axes = figure.subplots(1 + len(masks), len(ids), squeeze=False)
    for column, name in enumerate(ids):
        image = folder.image(name)
        axes[0, column].imshow(image)
        for row, place in enumerate(masks.values(), 1):
            path = Path(place) / f"{name}.png"
            if path.exists():
                axes[row, column].imshow(class_overlay(image, read_mask(path), palette()))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    for row, title in enumerate(["image", *masks]):
        axes[row, 0].set_ylabel(title)
    return figure
