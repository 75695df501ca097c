"""Worst and best images of a split, each as a row of small pictures that explain it.

Which images is decided by their own mIoU (per_image.csv); such per-image scores serve for choosing
pictures only, never for tables.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from wsssbench.data import BACKGROUND, IGNORE
from wsssbench.data.palette import palette
from wsssbench.errors import UserError
from wsssbench.reporting.masks import Masks
from wsssbench.reporting.overlays import CATEGORIES, class_overlay, error_overlay, heat_overlay
from wsssbench.reporting.rendering import render
from wsssbench.reporting.style import jpeg_uri

TILE_PX = 220


@dataclass(frozen=True)
class Tile:
    """One picture: what it is, its alternative text, a data URI, the classes in it with colours."""

    head: str
    text: str
    uri: str
    classes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Case:
    """One image: id, `worst` or `best`, its mIoU (fraction), its pictures."""

    name: str
    kind: str
    miou: float
    tiles: tuple[Tile, ...]

    @property
    def size(self) -> int:
        """Bytes that it adds to a page."""
        return sum(len(tile.uri) for tile in self.tiles)


def extremes(per_image: pd.DataFrame, count: int) -> list[tuple[str, str, float]]:
    """(id, kind, mIoU) of the worst and the best images, alternating, the most extreme first.

    Args:
        per_image: columns id, miou; images without a score are left out, ties go by id.
        count: how many of each kind; no image appears twice.
    """
    if not {"id", "miou"} <= set(per_image.columns):
        return []
    ranked = per_image.dropna(subset="miou").sort_values(["miou", "id"])
    order = list(zip(ranked["id"], ranked["miou"]))
    count = min(count, (len(order) + 1) // 2)
    chosen = []
    for place in range(count):
        chosen.append((order[place][0], "worst", order[place][1]))
        if len(order) - 1 - place > place:
            chosen.append((order[-1 - place][0], "best", order[-1 - place][1]))
    return chosen


def cases(
    masks: Masks, per_image: pd.DataFrame, count: int, budget: int = 10**7
) -> tuple[list[Case], list[str]]:
    """Rows of pictures of the worst and best images, worst first.

    Args:
        masks: where the pictures lie.
        per_image: columns id, miou.
        count: how many worst and how many best.
        budget: bytes that all rows together may take.

    Returns:
        The rows, and one line for each chosen image whose files are missing or broken.
    """
    found: list[Case] = []
    problems = []
    for name, kind, miou in extremes(per_image, count):
        try:
            case = case_of(masks, name, kind, miou)
        except UserError as error:
            problems.append(f"{name}: {error}")
            continue
        budget -= case.size
        if budget < 0:
            break
        found.append(case)
    return sorted(found, key=lambda case: case.kind != "worst"), problems


def case_of(masks: Masks, name: str, kind: str, miou: float) -> Case:
    """Image, truth, heat map (where there are maps), prediction and errors of one image."""
    image, truth, prediction = masks.read(name)
    colours, heat = palette(), masks.heat(name)
    tiles = [
        Tile("image", f"Image {name}", _uri(image)),
        Tile("ground truth", *_masked(truth, masks.classes, class_overlay(image, truth, colours))),
    ]
    if heat is not None:
        head = "score map" if heat.any() else "score map: no class is kept"
        tiles.append(Tile(head, "Largest class score", _uri(heat_overlay(image, heat))))
    shown = class_overlay(image, prediction, colours)
    tiles.append(Tile(masks.word, *_masked(prediction, masks.classes, shown)))
    overlay = error_overlay(image, truth, prediction)
    tiles.append(Tile("errors", f"Errors, mIoU {100 * miou:.1f} %", _uri(overlay)))
    return Case(name, kind, miou, tuple(tiles))


class Gallery:
    """Rows of pictures that a notebook shows; `html` for a page."""

    def __init__(self, rows: list[Case], problems: list[str] | None = None):
        self.html = render(
            "gallery.html.j2", rows=rows, problems=problems or [], legend=CATEGORIES.values()
        )

    def _repr_html_(self) -> str:
        return render("gallery_alone.html.j2", html=self.html)


def worst_images(masks: Masks, per_image: pd.DataFrame, count: int = 4) -> Gallery:
    """The `count` worst images and as many of the best, for a notebook."""
    return Gallery(*cases(masks, per_image, count))


def _masked(mask: np.ndarray, classes: list[str], picture: np.ndarray) -> tuple:
    present = [int(c) for c in np.unique(mask) if c not in (BACKGROUND, IGNORE)]
    names = [classes[c] if c < len(classes) else f"unknown id {c}" for c in present]
    colours = ["#{:02x}{:02x}{:02x}".format(*palette()[c]) for c in present]
    text = "Classes: " + (", ".join(names) or "none")
    return text, _uri(picture), tuple(zip(names, colours))


def _uri(picture: np.ndarray) -> str:
    """JPEG data URI, at most TILE_PX wide or high."""
    image = Image.fromarray(picture)
    image.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    return jpeg_uri(image)
