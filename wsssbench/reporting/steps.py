"""Panels that show how a pseudo-mask arises: photographs, score maps, masks, edges, regions.

A panel is made by a function for its kind, a figure by `draw`. Arrays in, figure out.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from wsssbench.data import IGNORE
from wsssbench.data.palette import palette
from wsssbench.reporting.style import styled

PANEL_IN, GAP_IN, LINE_IN, BAR_IN = 2.1, 0.1, 0.19, 2.2
LETTERS, LETTER_IN = 26, 0.075  # so many fit above a panel; width of one in the key
SCORES = "inferno"  # evenly spaced for the eye, as in the report's heat maps
EDGE, CLOSED, OUTLINE = "#56B4E9", "#E69F00", "#FFFFFF"
IGNORED, IGNORED_COLOURS = "ignored", ((255, 255, 255), (202, 202, 202))
RIM = withStroke(linewidth=2, foreground="#202020")  # seen on dark and bright scores
TRUE_OUTLINE = "outline of the true object"
STRIPES = 24  # across a mask


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: above it.
        pixels: (H, W, 3) uint8 RGB, or a score map (H, W) float in [0, 1].
        outline: (H, W) bool, an area whose outline is drawn over the picture; None: none.
        key: what colours mean, {words: colour}.
    """

    title: str
    pixels: np.ndarray
    outline: np.ndarray | None = None
    key: Mapping[str, str] = field(default_factory=dict)


def picture(title: str, image: np.ndarray) -> Panel:
    """A photograph, (H, W, 3) uint8 RGB."""
    return Panel(title, image)


def scores(title: str, values: np.ndarray, truth: np.ndarray | None = None) -> Panel:
    """A score map, dark violet (0) to yellow (1).

    Args:
        title: above it.
        values: (H, W) float in [0, 1].
        truth: (H, W) bool, where the object is; its outline is drawn.
    """
    return Panel(title, values.astype(np.float32), truth)


def mask(title: str, ids: np.ndarray, classes: Sequence[str]) -> Panel:
    """A mask in the colours of VOC; ignored pixels are striped in white and grey.

    Args:
        title: above it.
        ids: (H, W) uint8, 0 background, 1..K, 255 ignored.
        classes: names, background first.
    """
    colours = palette()
    pixels = colours[ids]
    rows, columns = np.indices(ids.shape)
    stripe = (rows + columns) // max(1, max(ids.shape) // (2 * STRIPES)) % 2
    ignored = ids == IGNORE
    pixels[ignored] = np.array(IGNORED_COLOURS, np.uint8)[stripe[ignored]]
    shown = [int(i) for i in np.unique(ids)]
    key = {classes[i]: _hex(colours[i]) for i in shown if i < len(classes)}
    key |= {IGNORED: _hex(IGNORED_COLOURS[1])} if IGNORE in shown else {}
    return Panel(title, pixels, key=key)


def edges(title: str, grey: np.ndarray, edge: np.ndarray, closed: np.ndarray) -> Panel:
    """Edges on the grey map in which they were found.

    Args:
        title: above it.
        grey: (H, W) uint8.
        edge: (H, W) bool, found edges.
        closed: (H, W) bool, edges after their gaps were closed.
    """
    pixels = grey[..., None].repeat(3, axis=2)
    pixels[closed] = _rgb(CLOSED)
    pixels[edge] = _rgb(EDGE)
    return Panel(title, pixels, key={"edge (Canny)": EDGE, "added by the closing": CLOSED})


def regions(title: str, numbers: np.ndarray) -> Panel:
    """Regions in pale colours that have no meaning, (H, W) int: 0 is the edge, drawn white."""
    hues = (np.arange(numbers.max() + 1) * 0.618034) % 1  # neighbours in number differ most
    waves = 0.5 + 0.5 * np.cos(2 * np.pi * (hues[:, None] - np.array([0, 1 / 3, 2 / 3])))
    colours = (255 * (0.42 + 0.55 * waves)).astype(np.uint8)
    colours[0] = 255
    return Panel(title, colours[numbers], key={"edge after the closing": "#ffffff"})


@styled
def draw(rows: Sequence[Sequence[Panel | None]]) -> Figure:
    """Rows of panels, all of one size, with one colour bar and one key of the colours below them.

    Args:
        rows: at least one panel, all with pictures of one size; None leaves a place empty.
    """
    panels = [panel for row in rows for panel in row if panel is not None]
    height, width = panels[0].pixels.shape[:2]
    handles = _handles(panels)
    bar_in = BAR_IN * any(panel.pixels.ndim == 2 for panel in panels)
    wide = max(len(row) for row in rows) * (PANEL_IN + GAP_IN) + GAP_IN
    entry = 0.5 + LETTER_IN * max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, int((wide - bar_in) / entry))
    foot = max(0.25 + LINE_IN * -(-len(handles) // columns), 0.5 if bar_in else 0)
    high = PANEL_IN * height / width
    heads = [0.12 + LINE_IN * max(_lines(p) for p in row if p is not None) for row in rows]
    figure = Figure(figsize=(wide, sum(heads) + high * len(rows) + foot), layout="none")
    bottom = figure.get_figheight()
    for head, row in zip(heads, rows):
        bottom -= head + high
        for column, panel in enumerate(row):
            if panel is not None:
                left = GAP_IN + column * (PANEL_IN + GAP_IN)
                _show(_place(figure, left, bottom, PANEL_IN, high), panel)
    if bar_in:
        axis = _place(figure, wide - bar_in + 0.55, foot - 0.23, bar_in - 0.75, 0.1)
        bar = ScalarMappable(Normalize(0, 1), SCORES)
        figure.colorbar(bar, cax=axis, orientation="horizontal", ticks=[0, 0.5, 1])
        axis.text(-0.06, 0.5, "score", transform=axis.transAxes, ha="right", va="center")
    if handles:
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(GAP_IN / wide, (foot - 0.1) / figure.get_figheight()),
            ncols=columns,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.4,
        )
    return figure


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def _show(axis: Axes, panel: Panel) -> None:
    axis.set_title(_wrapped(panel), fontsize=9)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set(visible=True, color="#777777", linewidth=0.6)
    limits = {"cmap": SCORES, "vmin": 0, "vmax": 1} if panel.pixels.ndim == 2 else {}
    axis.imshow(panel.pixels, interpolation="nearest", **limits)
    if panel.outline is not None and panel.outline.any():
        height, width = panel.outline.shape  # padded by a pixel, so that it closes at the border
        places = np.arange(-1, width + 1), np.arange(-1, height + 1)
        lines = axis.contour(*places, np.pad(panel.outline, 1), [0.5], colors=OUTLINE, linewidths=1)
        lines.set_path_effects([RIM])
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _handles(panels: Sequence[Panel]) -> list[Artist]:
    """The key of all colours: as the panels bring them in, what is ignored behind the others."""
    words = {word: colour for panel in panels for word, colour in panel.key.items()}
    handles: list[Artist] = []
    for word, colour in sorted(words.items(), key=lambda item: item[0] == IGNORED):
        hatch = {"hatch": "//////", "facecolor": "white", "linewidth": 0.5, "edgecolor": colour}
        plain = {"facecolor": colour, "edgecolor": "#777777", "linewidth": 0.5}
        handles.append(Patch(label=word, **(hatch if word == IGNORED else plain)))
    if any(panel.outline is not None for panel in panels):
        line = {"color": OUTLINE, "linewidth": 1.2, "path_effects": [RIM]}
        handles.append(Line2D([], [], label=TRUE_OUTLINE, **line))
    return handles


def _wrapped(panel: Panel) -> str:
    return "\n".join(textwrap.wrap(panel.title, LETTERS))


def _lines(panel: Panel) -> int:
    return 1 + _wrapped(panel).count("\n")


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(part) for part in colour))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))
