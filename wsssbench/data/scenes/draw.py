"""One picture: what is in it, which pixel is what, and the paint over it.

A picture is a function of (settings, split, index) alone. Each ingredient draws from a random
stream of its own: settings that differ in a knob of colour, companions or masks alone give the
same scenes but for that knob, so they can be compared picture by picture.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from wsssbench.data.palette import BACKGROUND, IGNORE
from wsssbench.data.scenes.paint import (
    draw_light,
    finish,
    paint_companion,
    paint_ground,
    paint_thing,
)
from wsssbench.data.scenes.settings import SceneSettings
from wsssbench.data.scenes.things import Thing, place_companions, place_things, silhouette

GOLDEN = 0.6180339887498949  # its multiples, modulo 1, fill [0, 1) evenly


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and all that is known about its pixels.

    image: (H, W, 3) uint8 RGB.
    mask: (H, W) uint8, BACKGROUND, 1..K or IGNORE.
    part: (H, W) uint8, 1 on the visible discriminative parts of objects, else 0.
    companion: (H, W) uint8, class id 1..K whose companion is visible there, else 0.
    instance: (H, W) uint16, 1..n on the objects that count, else 0.
    labels: ids 1..K of the classes in the mask, ascending.
    """

    image: np.ndarray
    mask: np.ndarray
    part: np.ndarray
    companion: np.ndarray
    instance: np.ndarray
    labels: tuple[int, ...]


def draw_scene(
    settings: SceneSettings, split: str, index: int, classes: Sequence[int] | None = None
) -> Scene:
    """Draw picture `index` of a split.

    Args:
        settings: the knobs.
        split: any name; pictures of different splits are independent of each other.
        index: number of the picture, from 0.
        classes: ids 1..K of the objects instead of random ones, e.g. both classes of a pair; empty
            for a ground with companions only. An object that finds no free place is left out.
    """

    def stream(ingredient: str) -> np.random.Generator:
        words = [zlib.crc32(word.encode()) for word in (split, ingredient)]
        return np.random.default_rng([settings.seed, index, *words])

    if classes is None:
        classes = _draw_classes(settings, split, index, stream("classes"))
    things = place_things(settings, classes, stream("objects"))
    alphas = [_alphas(thing, settings.shape) for thing in things]
    mask, part, instance = object_layers(
        settings.shape,
        [(thing.label, alpha["object"], alpha["part"]) for thing, alpha in zip(things, alphas)],
        rim_px=settings.ignore_rim,
        least_px=settings.min_visible_px,
    )
    labels = tuple(int(i) for i in np.unique(mask) if i not in (BACKGROUND, IGNORE))

    light = draw_light(stream("light"))
    image = paint_ground(settings, classes[0] if len(classes) else None, stream("ground"))
    companion = np.zeros(settings.shape, np.uint8)
    for patch in place_companions(settings, things, labels, stream("companions")):
        alpha = silhouette([patch.outline], (), settings.shape)
        paint_companion(image, settings, patch, alpha, stream(f"companion {patch.label}"))
        companion[alpha >= 0.5] = patch.label
    for number, (thing, alpha) in enumerate(zip(things, alphas)):
        paint_thing(image, settings, thing, alpha, light, stream(f"paint {number}"))
        companion[alpha["object"] >= 0.5] = 0
    image = finish(image, light, stream("grain"))
    return Scene(image, mask, part, companion, instance, labels)


def object_layers(
    shape: tuple[int, int],
    objects: Sequence[tuple[int, np.ndarray, np.ndarray]],
    *,
    rim_px: int,
    least_px: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask, part and instance layer of objects that lie over each other, the last one on top.

    Args:
        shape: (H, W).
        objects: class id, coverage of the object, coverage of its part; (H, W) float32 in [0, 1].
        rim_px: px on either side of an outline that become IGNORE in the mask.
        least_px: an object with fewer pixels outside the rim is IGNORE and not an instance.

    Returns:
        mask (H, W) uint8, part (H, W) uint8 of 0 and 1, instance (H, W) uint16.
    """
    top = np.zeros(shape, np.uint16)
    part = np.zeros(shape, np.uint8)
    for number, (_, whole, own_part) in enumerate(objects, 1):
        top[whole >= 0.5] = number
        part[whole >= 0.5] = own_part[whole >= 0.5] >= 0.5
    rim = np.zeros(shape, bool)
    if rim_px:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim_px + 1,) * 2)
        rim = cv2.dilate(top, disc) != cv2.erode(top, disc)

    mask = np.full(shape, BACKGROUND, np.uint8)
    instance = np.zeros(shape, np.uint16)
    count = 0
    for number, (label, _, _) in enumerate(objects, 1):
        own = top == number
        if np.count_nonzero(own & ~rim) < least_px:
            mask[own] = IGNORE
            continue
        count += 1
        mask[own], instance[own] = label, count
    mask[rim] = IGNORE
    part[instance == 0] = 0
    return mask, part, instance


def _alphas(thing: Thing, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    return {
        "object": silhouette([thing.body, thing.part], thing.limbs, shape),
        "body": silhouette([thing.body], (), shape),
        "part": silhouette([thing.part], (), shape),
    }


def _draw_classes(
    settings: SceneSettings, split: str, index: int, rng: np.random.Generator
) -> list[int]:
    """Class ids of the objects.

    The first object's class runs through an evenly spread sequence, so that its counts over a split
    differ by hardly more than one from their expectation, yet no picture depends on another.
    """
    edges = np.cumsum(settings.probabilities())[:-1]
    start = np.random.default_rng([settings.seed, zlib.crc32(split.encode())]).random()
    draws = [(start + index * GOLDEN) % 1]
    while len(draws) < settings.max_objects and rng.random() < settings.another:
        draws.append(rng.random())
    return [int(np.searchsorted(edges, draw, side="right")) + 1 for draw in draws]
