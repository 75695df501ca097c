"""Colour over the outlines: ground, clutter, companions, shaded objects, light and grain."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from wsssbench.data.scenes.looks import (
    GROUNDS,
    Look,
    PartLook,
    body_looks,
    companion_look,
    part_look,
)
from wsssbench.data.scenes.settings import SceneSettings
from wsssbench.data.scenes.textures import TILE_PX, sample
from wsssbench.data.scenes.things import Companion, Thing

CLUTTER_PER_PX = 40 / 128**2  # small things per px at clutter 1
BLUR_PX = 2.5  # of an object's edge at contrast 0
GRAIN = 0.012  # standard deviation of the sensor noise


def paint_ground(
    settings: SceneSettings, label: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Ground with its clutter, (H, W, 3) float32 in [0, 1]; `label` chooses it under `context`."""
    height, width = settings.shape
    chance, any_ground = rng.random(), int(rng.integers(len(GROUNDS)))
    own = label is not None and chance < settings.context
    look = GROUNDS[(label - 1) % len(GROUNDS) if own else any_ground]
    ground = _textured(look, settings.shape, rng.uniform(-0.2, 0.2), rng)
    ground *= 1 + 0.16 * _sample(rng, "mottle", settings.shape, 2.5, 0.0)[..., None]
    shade = tuple((127 * ground.mean(axis=(0, 1))).tolist())
    ground = _to_bytes(ground)
    for _ in range(round(settings.clutter * CLUTTER_PER_PX * height * width)):
        _drop(ground, shade, rng)
    return ground.astype(np.float32) / 255


def paint_companion(
    image: np.ndarray,
    settings: SceneSettings,
    companion: Companion,
    alpha: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Lay a companion flat on the ground; changes `image` (H, W, 3) in place."""
    look = companion_look(settings, companion.label)
    colours = _textured(look, settings.shape, companion.angle, rng)
    # A brighter middle gives the patch a slight bulge without an outline.
    colours *= 0.9 + 0.15 * cv2.GaussianBlur(alpha, (0, 0), 3.0)[..., None]
    _blend(image, colours, alpha)


def paint_thing(
    image: np.ndarray,
    settings: SceneSettings,
    thing: Thing,
    alphas: dict[str, np.ndarray],
    light: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Paint an object with its shadow; changes `image` (H, W, 3) float32 RGB in place.

    Args:
        image: what lies below.
        settings: `contrast` and the looks.
        thing: the object.
        alphas: (H, W) float32 coverage of `object` (all of it), `body` and `part`.
        light: (3,) unit vector to the light, x to the right, y down, z to the viewer.
        rng: for jitter of colours and textures.
    """
    window = _window(alphas["object"], margin=int(4 + 0.5 * thing.radius))
    whole, body, part = (alphas[name][window] for name in ("object", "body", "part"))
    below = image[window]
    mean = below.mean(axis=(0, 1))
    _shade_ground(below, whole, light, thing.radius, settings.contrast)

    common, own, weight = body_looks(settings, thing.label)
    colours = weight * _textured(common, whole.shape, thing.angle, rng)
    if weight < 1:
        colours += (1 - weight) * _textured(own, whole.shape, thing.angle, rng)
    limb = 0.75 * (weight * np.array(common.dark) + (1 - weight) * np.array(own.dark))
    _blend(colours, np.broadcast_to(np.float32(limb), colours.shape), 1 - body)
    spot = _window(part, margin=0)
    outline = thing.part - (window[1].start + spot[1].start, window[0].start + spot[0].start)
    _blend(
        colours[spot], _part_colours(part_look(thing.label), part[spot].shape, outline), part[spot]
    )

    colours *= _shading(whole, light, thing.radius)[..., None]
    colours = mean + settings.contrast * (colours - mean)
    blur_px = BLUR_PX * (1 - settings.contrast)
    soft = cv2.GaussianBlur(whole, (0, 0), blur_px) if blur_px > 0.2 else whole
    _blend(below, colours, soft)


def finish(image: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven light and sensor grain over the picture, (H, W, 3) float32 -> uint8."""
    height, width = image.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    field = 1 + 0.12 * (light[0] * x + light[1] * y) - 0.06 * (x * x + y * y)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return _to_bytes(image * field[..., None].astype(np.float32) + GRAIN * grain)


def draw_light(rng: np.random.Generator) -> np.ndarray:
    """A light somewhere above, (3,) unit vector as in `paint_thing`."""
    angle = rng.uniform(-0.85, -0.15) * np.pi
    light = np.array([0.75 * np.cos(angle), 0.75 * np.sin(angle), 0.75])
    return light / np.linalg.norm(light)


def _textured(
    look: Look, shape: tuple[int, int], angle: float, rng: np.random.Generator
) -> np.ndarray:
    """(H, W, 3) float32 in about [0, 1]; tint, brightness and zoom vary a little."""
    tint = 1 + 0.05 * rng.standard_normal(3) + 0.06 * rng.standard_normal()
    pattern = _sample(rng, look.kind, shape, look.zoom * rng.uniform(0.85, 1.2), angle)
    return _between(look.dark * tint, look.light * tint, 0.5 + 0.5 * pattern)


def _sample(
    rng: np.random.Generator, kind: str, shape: tuple[int, int], zoom: float, angle: float
) -> np.ndarray:
    return sample(kind, shape, zoom, angle, tuple(rng.uniform(0, TILE_PX, 2)))


def _drop(ground: np.ndarray, shade: tuple[float, float, float], rng: np.random.Generator) -> None:
    """One pebble, leaf or twig in a muted colour over its shadow, drawn into the uint8 ground."""
    height, width = ground.shape[:2]
    hue, saturation, value = rng.uniform((0, 0.05, 0.25), (1, 0.4, 0.8))
    colour = tuple(255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)))
    centre = rng.uniform(0, (width, height))
    angle, long = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 5.0)
    slim = rng.choice([0.2, 0.45, 0.8])
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    leaf = np.stack([long * np.cos(turns), slim * long * np.sin(turns)], axis=-1)
    turned = leaf @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for shift, tone in ((0.8, shade), (0.0, colour)):
        points = np.rint((turned + centre + shift) * 16).astype(np.int32)
        cv2.fillPoly(ground, [points], tone, lineType=cv2.LINE_AA, shift=4)


def _part_colours(look: PartLook, shape: tuple[int, int], outline: np.ndarray) -> np.ndarray:
    """The pattern of a part whose first corner says how it is turned, (H, W, 3) float32."""
    centre = outline.mean(axis=0)
    right, down = outline[0] - centre
    reach, turn = float(np.hypot(right, down)), float(np.arctan2(down, right))
    x = (np.arange(shape[1], dtype=np.float32) + 0.5 - centre[0]) / reach
    y = (np.arange(shape[0], dtype=np.float32)[:, None] + 0.5 - centre[1]) / reach
    far, angle = np.hypot(x, y), np.arctan2(y, x) - turn
    along = x * np.cos(turn) + y * np.sin(turn)
    wave = {
        "core": 0.45 - far,
        "sectors": np.sin(3 * angle) * far,
        "bars": np.sin(3 * np.pi * along) - 0.3,
        "halves": along,
        "rings": np.cos(3 * np.pi * far) - 0.1,
    }[look.pattern]
    second = np.clip(0.5 + 0.5 * reach * wave, 0, 1).astype(np.float32)  # edges about 1 px wide
    return _between(look.colour, look.second, second)


def _shading(alpha: np.ndarray, light: np.ndarray, radius: float) -> np.ndarray:
    """Brightness of a cushion-shaped relief under the light, (H, W) float32 around 1."""
    inside = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    rise = np.minimum(inside / (0.7 * radius), 1)
    dome = cv2.GaussianBlur(np.sqrt(1 - (1 - rise) ** 2), (0, 0), max(0.8, 0.1 * radius))
    slope_x = cv2.Sobel(dome, cv2.CV_32F, 1, 0, scale=1 / 8) * 0.7 * radius
    slope_y = cv2.Sobel(dome, cv2.CV_32F, 0, 1, scale=1 / 8) * 0.7 * radius
    facing = (light[2] - light[0] * slope_x - light[1] * slope_y) / np.sqrt(
        1 + slope_x**2 + slope_y**2
    )
    return (0.5 + 0.7 * np.maximum(facing, 0)).astype(np.float32)


def _shade_ground(
    ground: np.ndarray, alpha: np.ndarray, light: np.ndarray, radius: float, strength: float
) -> None:
    away = -light[:2] * 0.22 * radius
    shift = np.float32([[1, 0, away[0]], [0, 1, away[1]]])
    cast = cv2.warpAffine(alpha, shift, alpha.shape[::-1], flags=cv2.INTER_LINEAR)
    cast = cv2.GaussianBlur(cast, (0, 0), max(1.0, 0.1 * radius))
    ground *= 1 - 0.5 * strength * cast[..., None]


def _between(first: Sequence[float], second: Sequence[float], share: np.ndarray) -> np.ndarray:
    """Colours from `first` (share 0) to `second` (share 1), (H, W) -> (H, W, 3) float32."""
    first, second = np.float32(first), np.float32(second)
    return first + share[..., None] * (second - first)


def _blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> None:
    below += alpha[..., None] * (above - below)


def _window(alpha: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Smallest window around the covered pixels, `margin` px wider, inside the image."""
    slices = []
    for axis in (1, 0):
        hit = np.flatnonzero(alpha.max(axis=axis))
        low, high = (hit[0], hit[-1] + 1) if len(hit) else (0, 1)
        slices.append(slice(max(0, low - margin), high + margin))
    return tuple(slices)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
