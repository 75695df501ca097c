"""Where things lie: outlines of objects and companions, and their coverage of the pixel grid.

Points are (x, y) in px, the upper left corner of the image is (0, 0). Colours are no concern here.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from wsssbench.data.scenes.looks import BODIES, CORNERS, body_name
from wsssbench.data.scenes.settings import SceneSettings

SUPERSAMPLING = 4
PLACES_TRIED = 16
OVERLAP = 0.25  # of the smaller radius; more would hide parts and with them the class


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object: `body` and `part` are (n, 2) float64 outlines, limbs are (line (m, 2), width)."""

    label: int
    centre: np.ndarray
    radius: float
    angle: float
    body: np.ndarray
    part: np.ndarray
    limbs: tuple[tuple[np.ndarray, float], ...]


@dataclasses.dataclass(frozen=True)
class Companion:
    """A patch on the ground that goes with class `label`; `outline` is (n, 2) float64."""

    label: int
    outline: np.ndarray
    angle: float


def place_things(
    settings: SceneSettings, labels: Sequence[int], rng: np.random.Generator
) -> list[Thing]:
    """Objects of the classes `labels` (ids from 1), later ones on top.

    Objects hardly overlap; one that finds no place is made smaller, and left out at the smallest
    size. The first is always there.
    """
    height, width = settings.shape
    low, high = (0.5 * bound * min(height, width) for bound in settings.scale)
    things: list[Thing] = []
    for label in labels:
        radius = rng.uniform(low, high)
        while True:
            margin = min(0.8 * radius, 0.5 * min(height, width))
            places = rng.uniform(margin, (width - margin, height - margin), (PLACES_TRIED, 2))
            overlaps = [_overlap(place, radius, things) for place in places]
            best = int(np.argmin(overlaps))
            if overlaps[best] <= OVERLAP or radius * 0.8 < low:
                break
            radius *= 0.8
        if overlaps[best] <= OVERLAP:
            things.append(_make_thing(settings, label, places[best], radius, rng))
    return things


def place_companions(
    settings: SceneSettings,
    things: Sequence[Thing],
    present: Sequence[int],
    rng: np.random.Generator,
) -> list[Companion]:
    """Companions of the classes in `present` with probability rho, of the others with q.

    The same numbers are drawn for every class whatever the probabilities, so a higher rho or q adds
    companions and moves none.
    """
    height, width = settings.shape
    companions = []
    for label in range(1, settings.classes + 1):
        chance, turn, size = rng.random(3)
        angles = 2 * np.pi * (turn + np.arange(PLACES_TRIED) / PLACES_TRIED)
        places = rng.random((PLACES_TRIED, 2)) * (width, height)
        if chance >= (settings.rho if label in present else settings.q):
            continue
        anchor = next((thing for thing in things if thing.label == label), None)
        if label in present and anchor is not None:
            area = np.pi * anchor.radius**2 * settings.companion_area
            patches = [_beside(anchor, area, settings.gap, angle) for angle in angles]
        else:
            low, high = (0.5 * bound * min(height, width) for bound in settings.scale)
            area = np.pi * (low + size * (high - low)) ** 2 * settings.companion_area
            patches = [_patch(area, angle) + place for angle, place in zip(angles, places)]
        costs = [_misplacement(patch, settings.shape, things, anchor) for patch in patches]
        best = int(np.argmin(costs))
        companions.append(Companion(label, patches[best], angles[best]))
    return companions


def silhouette(
    outlines: Sequence[np.ndarray],
    lines: Sequence[tuple[np.ndarray, float]],
    shape: tuple[int, int],
) -> np.ndarray:
    """Share of each pixel that outlines (filled) and lines of a width cover, float32 in [0, 1]."""
    height, width = shape
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    for outline in outlines:
        cv2.fillPoly(fine, [_grid(outline)], 255)
    for line, thickness in lines:
        cv2.polylines(fine, [_grid(line)], False, 255, max(1, round(thickness * SUPERSAMPLING)))
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def polygon_area(points: np.ndarray) -> float:
    """Area inside an outline (n, 2), px²."""
    x, y = points.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def _make_thing(
    settings: SceneSettings,
    label: int,
    centre: np.ndarray,
    radius: float,
    rng: np.random.Generator,
) -> Thing:
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    reach = 1 + _waves(BODIES[body_name(settings, label)][0], turns)
    reach *= 1 + 0.04 * _waves(rng.standard_normal(4), turns)
    reach *= radius * np.sqrt(np.pi / polygon_area(_polar(reach, turns)))
    width = max(2.0, 0.11 * radius)
    twigs = np.random.default_rng(rng.integers(2**32))  # so that `thin` moves nothing but limbs
    lengths = radius * twigs.uniform(0.5, 0.9, settings.thin)

    part = _part_outline(label, rng.uniform(0, 2 * np.pi))
    area = np.pi * radius**2 + width * lengths.sum()
    part *= np.sqrt(settings.part_ratio * area / polygon_area(part))
    # At the far end, like a head: a CAM that spreads around the part must cross the whole body.
    towards = turns[np.argmax(reach)] + rng.uniform(-0.4, 0.4)
    room = 0.95 * np.interp(towards, turns, reach, period=2 * np.pi) - np.hypot(*part.T).max()
    distance = max(0.0, room) * rng.uniform(0.7, 1)
    angle = rng.uniform(0, 2 * np.pi)
    ahead = distance * _polar(np.ones(1), np.array([towards + angle]))
    if _outside(part + centre + ahead, settings.shape) > _outside(
        part + centre - ahead, settings.shape
    ):
        angle, ahead = angle + np.pi, -ahead  # a part beyond the frame would hide the class

    roots = 2 * np.pi * (np.arange(settings.thin) + twigs.uniform(-0.25, 0.25, settings.thin))
    roots = roots / max(settings.thin, 1) + twigs.uniform(0, 2 * np.pi)
    limbs = []
    for root, bend, length in zip(roots, twigs.uniform(-0.5, 0.5, settings.thin), lengths):
        edge = np.interp(root, turns, reach, period=2 * np.pi)
        far = np.array([0.85 * edge, edge + 0.5 * length, edge + length])
        line = _polar(far, root + angle + np.array([0, 0.3 * bend, bend]) * radius / far)
        limbs.append((line + centre, width))
    body = _polar(reach, turns + angle) + centre
    return Thing(label, centre, radius, angle, body, part + centre + ahead, tuple(limbs))


def _part_outline(label: int, angle: float) -> np.ndarray:
    corners = CORNERS[(label - 1) % len(CORNERS)]
    if corners == 5:  # a star
        return _polar(np.tile([1.0, 0.5], 5), angle + np.arange(10) * np.pi / 5)
    count = corners or 32
    return _polar(np.ones(count), angle + np.arange(count) * 2 * np.pi / count)


def _patch(area: float, angle: float) -> np.ndarray:
    """A kidney-shaped patch around (0, 0), its long side across the direction `angle`."""
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    outline = _polar(1 + _waves((0.12, 0.34), turns - np.pi / 2), turns + angle)
    return outline * np.sqrt(area / polygon_area(outline))


def _beside(anchor: Thing, area: float, gap: float, angle: float) -> np.ndarray:
    patch = _patch(area, angle)
    ahead = np.array([np.cos(angle), np.sin(angle)])
    own = np.concatenate([anchor.body, anchor.part]) - anchor.centre
    return patch + anchor.centre + ahead * ((own @ ahead).max() - (patch @ ahead).min() + gap)


def _misplacement(
    patch: np.ndarray, shape: tuple[int, int], things: Sequence[Thing], anchor: Thing | None
) -> float:
    """How much of a patch lies outside the image or under objects that are not its anchor; px."""
    centre, radius = patch.mean(axis=0), np.hypot(*(patch - patch.mean(axis=0)).T).mean()
    others = [thing for thing in things if thing is not anchor]
    hidden = [t.radius + radius - np.hypot(*(t.centre - centre)) for t in others]
    return _outside(patch, shape) + max(0.0, *hidden, 0.0)


def _outside(points: np.ndarray, shape: tuple[int, int]) -> float:
    """How far the farthest point lies beyond the frame, 0 if none does; px."""
    return max(0.0, float(np.maximum(-points, points - np.array(shape[::-1])).max()))


def _overlap(place: np.ndarray, radius: float, things: Sequence[Thing]) -> float:
    """Deepest overlap with an object already placed, as a share of the smaller radius."""
    depths = [
        (radius + thing.radius - np.hypot(*(place - thing.centre))) / min(radius, thing.radius)
        for thing in things
    ]
    return max(depths, default=0.0)


def _waves(amplitudes: Sequence[float], angles: np.ndarray) -> np.ndarray:
    return sum(a * np.cos(k * angles) for k, a in enumerate(amplitudes, 1))


def _polar(reach: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=-1)


def _grid(points: np.ndarray) -> np.ndarray:
    """Points in the finer pixel grid; OpenCV counts from the centre of a pixel."""
    return np.rint(points * SUPERSAMPLING - 0.5).astype(np.int32)
