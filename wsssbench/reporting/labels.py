"""Names beside points, placed so that they cover neither points, lines, words nor each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

ANGLES = np.deg2rad(np.arange(0, 360, 15))
DISTANCES_PT = (9, 13, 18, 26, 36, 48)
LEADER_PT = 20  # from this distance on a thin line ties a name to its point
MARGIN_PT = 1.5
ROUNDS = 3
STEPS = np.linspace(0.2, 1, 9)[:, None]  # along the way from a point to its name
PATCH = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}


@dataclass(frozen=True)
class Name:
    """A point in data coordinates, the text beside it and its colour."""

    x: float
    y: float
    text: str
    colour: str


def place_names(
    axes: Axes,
    names: Sequence[Name],
    lines: Sequence[np.ndarray] = (),
    size: float = 8.5,
    radius_pt: float = 5.0,
) -> None:
    """Write the names. Call it last: the limits of the axes must stand.

    Each name tries places around its point, near ones first, and takes the one that covers least;
    a few rounds let early names make room for later ones.

    Args:
        axes: where to write.
        names: what to write.
        lines: (n, 2) points along each line that is better not covered, data coordinates.
        size: of the letters, pt.
        radius_pt: of the marks at the points.
    """
    figure = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    unit = figure.dpi / 72  # pixels per point
    frame = axes.get_window_extent(renderer).padded(-2 * unit)
    points = axes.transData.transform([(name.x, name.y) for name in names])
    marks = [_box(point, (2 * radius_pt * unit, 2 * radius_pt * unit)) for point in points]
    sizes = [_extent(axes, name.text, size, renderer) for name in names]
    words = [text.get_window_extent(renderer).extents for text in axes.texts]
    dots = [axes.transData.transform(line) for line in lines if len(line)]
    dots = np.concatenate(dots) if dots else np.empty((0, 2))
    order = sorted(range(len(names)), key=lambda i: -_crowd(points, i))
    placed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for _ in range(ROUNDS):
        for i in order:
            taken = [box for j, (_, box) in placed.items() if j != i]
            costs = []
            for shift, box in _places(points[i], sizes[i], radius_pt, unit):
                cost = sum(40 * _overlap(box, other) for other in taken)
                cost += sum(12 * _overlap(box, other) for other in (*marks, *words))
                leader = points[i] + STEPS * shift
                cost += sum(6 * _inside(other, leader) for other in taken) * unit
                cost += 9 * _inside(box, dots) * unit + 200 * _beyond(box, frame)
                costs.append((cost + 0.6 * np.hypot(*shift), tuple(shift), box))
            _, shift, box = min(costs, key=lambda item: item[:2])
            placed[i] = np.array(shift), box
    for i, (shift, _) in sorted(placed.items()):
        _write(axes, names[i], shift / unit, size, radius_pt)


def _write(axes: Axes, name: Name, shift: np.ndarray, size: float, radius_pt: float) -> None:
    far = np.hypot(*shift) > LEADER_PT + radius_pt
    leader = {"arrowstyle": "-", "color": name.colour, "linewidth": 0.7, "alpha": 0.6,
              "shrinkA": 0, "shrinkB": radius_pt + 0.5}  # fmt: skip
    text = axes.annotate(
        name.text, (name.x, name.y), xytext=tuple(shift), textcoords="offset points",
        ha="center", va="center", fontsize=size, color=name.colour, zorder=6, bbox=PATCH,
        arrowprops=leader if far else None, annotation_clip=False,
    )  # fmt: skip
    text.set_in_layout(False)


def _places(point: np.ndarray, size: np.ndarray, radius_pt: float, unit: float):
    """Shifts of a name's centre and its box, px: its edge at each distance in each direction."""
    for distance in DISTANCES_PT:
        for angle in ANGLES:
            direction = np.array([np.cos(angle), np.sin(angle)])
            reach = (distance - 4 + radius_pt) * unit
            # The box touches the circle of this reach with its nearest edge.
            shift = direction * reach + np.sign(direction.round(6)) * size / 2 * np.abs(direction)
            yield shift, _box(point + shift, size + 2 * MARGIN_PT * unit)


def _extent(axes: Axes, text: str, size: float, renderer) -> np.ndarray:
    """Width and height of a text, px."""
    probe = axes.text(0, 0, text, fontsize=size, transform=None)
    box = probe.get_window_extent(renderer)
    probe.remove()
    return np.array([box.width, box.height])


def _box(centre: np.ndarray, size) -> np.ndarray:
    """(x0, y0, x1, y1)."""
    half = np.asarray(size) / 2
    return np.concatenate([centre - half, centre + half])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Root of the common area, so that a slight overlap counts as well."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.sqrt(np.prod(sides))) if (sides > 0).all() else 0.0


def _inside(box: np.ndarray, dots: np.ndarray) -> int:
    return int(((dots >= box[:2]) & (dots <= box[2:])).all(axis=1).sum())


def _beyond(box: np.ndarray, frame) -> float:
    """How far a box leaves the frame, px."""
    low = np.maximum(np.array([frame.x0, frame.y0]) - box[:2], 0)
    high = np.maximum(box[2:] - np.array([frame.x1, frame.y1]), 0)
    return float(low.sum() + high.sum())


def _crowd(points: np.ndarray, i: int) -> float:
    """How near the other points are: the crowded ones choose first."""
    distances = np.hypot(*(np.delete(points, i, axis=0) - points[i]).T)
    return float((1 / (distances + 5)).sum())
