"""What a class looks like: its name, body, unique part, companion and ground.

Everything follows from the class id and a few settings, nothing from the seed.
"""

import colorsys
import dataclasses
import functools

import numpy as np

from wsssbench.data.scenes.settings import SceneSettings
from wsssbench.data.scenes.textures import KINDS


@dataclasses.dataclass(frozen=True)
class Look:
    """A texture between two colours; colours are RGB in [0, 1], zoom is image px per tile px."""

    kind: str
    zoom: float
    dark: tuple[float, float, float]
    light: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class PartLook:
    """The unique part: an outline with `corners` (0: a disc), a pattern in two colours."""

    corners: int
    pattern: str
    colour: tuple[float, float, float]
    second: tuple[float, float, float]


# Outline r(angle) = 1 + sum of a_k cos(k angle), k = 1..6; muted colours, so that parts stand out.
BODIES = {
    "beetle": (
        (0.04, 0.3, 0, 0.03, 0, 0),
        Look("spots", 0.4, (0.34, 0.23, 0.17), (0.72, 0.55, 0.4)),
    ),
    "peanut": (
        (0.05, 0.42, 0, 0, 0, 0),
        Look("checks", 0.4, (0.29, 0.36, 0.52), (0.62, 0.69, 0.8)),
    ),
    "kite": (
        (0.1, 0.08, 0.17, 0, 0, 0),
        Look("stripes", 0.5, (0.45, 0.27, 0.4), (0.8, 0.64, 0.72)),
    ),
    "bean": ((0, 0.32, -0.1, 0, 0, 0), Look("hatch", 0.5, (0.55, 0.44, 0.2), (0.86, 0.77, 0.52))),
    "starfish": (
        (0, 0, 0, 0, 0.2, 0),
        Look("scales", 0.45, (0.52, 0.3, 0.24), (0.85, 0.62, 0.5)),
    ),
    "pear": ((0.3, 0.15, 0, 0, 0, 0), Look("waves", 0.45, (0.25, 0.42, 0.36), (0.58, 0.75, 0.66))),
    "flower": ((0, 0, 0, 0, 0, 0.14), Look("mottle", 0.3, (0.44, 0.38, 0.54), (0.8, 0.76, 0.88))),
    "cushion": ((0, 0, 0, 0.1, 0, 0), Look("bricks", 0.4, (0.36, 0.3, 0.28), (0.66, 0.6, 0.56))),
    "drop": ((0.4, 0.1, 0.08, 0, 0, 0), Look("grain", 0.5, (0.22, 0.33, 0.4), (0.58, 0.71, 0.78))),
    "egg": ((0.12, 0.14, 0, 0, 0, 0), Look("spots", 0.25, (0.58, 0.56, 0.46), (0.9, 0.88, 0.8))),
}

GROUNDS = (
    Look("mottle", 0.60, (0.24, 0.33, 0.16), (0.44, 0.53, 0.29)),  # grass
    Look("waves", 0.90, (0.70, 0.61, 0.45), (0.80, 0.72, 0.56)),  # sand
    Look("waves", 0.60, (0.20, 0.33, 0.42), (0.34, 0.48, 0.56)),  # water
    Look("bricks", 1.00, (0.62, 0.60, 0.58), (0.49, 0.37, 0.32)),  # wall
    Look("stripes", 1.10, (0.40, 0.30, 0.21), (0.52, 0.40, 0.29)),  # planks
    Look("grain", 0.80, (0.36, 0.36, 0.38), (0.50, 0.50, 0.51)),  # asphalt
    Look("scales", 1.10, (0.42, 0.45, 0.50), (0.58, 0.61, 0.64)),  # tiles
    Look("mottle", 1.00, (0.74, 0.77, 0.80), (0.90, 0.92, 0.94)),  # snow
    Look("mottle", 0.45, (0.30, 0.22, 0.17), (0.45, 0.35, 0.28)),  # soil
    Look("checks", 1.40, (0.60, 0.57, 0.50), (0.72, 0.69, 0.62)),  # cloth
)

PART_COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "blue": (0.10, 0.25, 0.95),
    "yellow": (0.98, 0.86, 0.08),
    "green": (0.08, 0.75, 0.20),
    "magenta": (0.92, 0.12, 0.78),
    "cyan": (0.08, 0.85, 0.90),
    "orange": (0.98, 0.50, 0.05),
    "violet": (0.50, 0.15, 0.85),
    "lime": (0.65, 0.98, 0.10),
    "pink": (1.00, 0.55, 0.68),
    "navy": (0.06, 0.08, 0.45),
    "teal": (0.02, 0.45, 0.45),
    "maroon": (0.50, 0.04, 0.12),
    "gold": (0.80, 0.60, 0.05),
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.05),
    "sky": (0.50, 0.78, 1.00),
    "olive": (0.42, 0.45, 0.05),
    "coral": (1.00, 0.42, 0.35),
    "mint": (0.55, 0.98, 0.75),
}
PATTERNS = ("core", "sectors", "bars", "halves", "rings")
CORNERS = (0, 3, 5, 4)


def partner(settings: SceneSettings, label: int) -> int:
    """The other class of the pair of `label` (ids from 1); a class of no pair is its own."""
    other = settings.classes + 1 - label
    return other if min(label, other) <= settings.pairs else label


def shares_body(settings: SceneSettings, label: int) -> bool:
    """Whether the class has a partner with (`share` of) the same body; the others are controls."""
    pair = min(label, settings.classes + 1 - label)
    return pair <= settings.pairs - settings.control_pairs


def body_name(settings: SceneSettings, label: int) -> str:
    """Key in BODIES; the classes of a pair have the same one, medium classes their own."""
    names = list(BODIES)
    pair = min(label, partner(settings, label))
    if pair <= settings.pairs:
        return names[(pair - 1) % settings.bodies]
    medium = label - settings.pairs - 1
    return names[(settings.bodies + medium) % len(names)]


def class_names(settings: SceneSettings) -> list[str]:
    """Names of the classes 1..K: colour of the part and kind of body, such as `red_beetle`."""
    colours = list(PART_COLOURS)
    labels = range(1, settings.classes + 1)
    return [f"{colours[label - 1]}_{body_name(settings, label)}" for label in labels]


@functools.cache
def body_looks(settings: SceneSettings, label: int) -> tuple[Look, Look, float]:
    """Common look of the pair, own look of the class, and the weight of the common one."""
    common = BODIES[body_name(settings, label)][1]
    own = _derived(label, hue=0.07, kind=4, saturation=0.42)
    if partner(settings, label) == label:
        return common, common, 1.0
    return common, own, settings.share if shares_body(settings, label) else 0.0


def part_look(label: int) -> PartLook:
    """The part that only class `label` has."""
    colour = list(PART_COLOURS.values())[label - 1]
    bright = float(np.dot(colour, (0.3, 0.6, 0.1))) > 0.5
    second = (0.08, 0.08, 0.10) if bright else (0.97, 0.97, 0.95)
    return PartLook(
        CORNERS[(label - 1) % len(CORNERS)], PATTERNS[(label - 1) % len(PATTERNS)], colour, second
    )


@functools.cache
def companion_look(settings: SceneSettings, label: int) -> Look:
    """Texture of the companion of a class, its colours `companion_difference` off the body's."""
    common, own, weight = body_looks(settings, label)
    far = _derived(label, hue=0.55, kind=7, saturation=0.6)
    t = settings.companion_difference
    colours = []
    for name in ("dark", "light"):
        body = weight * np.array(getattr(common, name)) + (1 - weight) * np.array(
            getattr(own, name)
        )
        colours.append(tuple((1 - t) * body + t * np.array(getattr(far, name))))
    return Look(far.kind, far.zoom, *colours)


def _derived(label: int, *, hue: float, kind: int, saturation: float) -> Look:
    """Look number `label` of a series whose hues are spread by the golden ratio."""
    tone = (hue + 0.381966 * label) % 1
    dark = colorsys.hsv_to_rgb(tone, saturation, 0.42)
    light = colorsys.hsv_to_rgb(tone, saturation * 0.6, 0.78)
    return Look(KINDS[(kind + 2 * label) % len(KINDS)], 0.5, dark, light)
