"""The products of `recurseed_steps` as panels, numbers and sentences."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd

from wsssbench.data import BACKGROUND, IGNORE
from wsssbench.evaluation import ConfusionMatrix
from wsssbench.reporting import steps as drawn
from wsssbench.reporting.steps import Panel
from wsssbench.stages.recurseed_steps import DECODER_STEPS, EDGE_PREDICTION, Steps

MIXED = "mixed"
IN_A_ROW = 4
Rows = list[list[Panel | None]]


def pair(steps: Steps) -> Rows:
    """Image and truth of the two images."""
    mix = steps.mix
    partner = drawn.mask("its ground truth", mix.partner_truth, steps.classes)
    return [[*_given(steps), drawn.picture("partner", mix.partner), partner]]


def maps(steps: Steps, *names: str) -> Rows:
    """Image, truth and the maps of the named steps: a row per class if several are compared."""
    each = [_maps(steps, name, steps.present, steps.maps[name], steps.truth) for name in names]
    if len(names) == 1 or len(steps.present) < 2:
        return _cut([*_given(steps), *(panel for row in each for panel in row)])
    return [[given, *row] for given, row in zip_longest(_given(steps), zip(*each))]


def certain(steps: Steps, name: str) -> Rows:
    """Image, truth, the step's strongest score and its certain part."""
    return [[*_given(steps), *_filtered(steps, name)]]


def edges(steps: Steps) -> Rows:
    """Image, truth, strongest score and certain part; edges, regions, edge-predicted mask."""
    found = steps.edges
    return [
        [*_given(steps), *_filtered(steps, DECODER_STEPS[-1])],
        [
            drawn.edges("edges of the score", found.grey, found.canny, found.closed),
            drawn.regions(f"regions: {found.regions.max()}", found.regions),
            drawn.mask("edge-predicted mask", steps.masks[EDGE_PREDICTION], steps.classes),
        ],
    ]


def mixed(steps: Steps) -> Rows:
    """Both images with their masks, what is pasted; the mixed image with its targets."""
    mix, classes = steps.mix, steps.classes
    cut = np.where(mix.pasted[..., None], mix.partner, np.uint8(255))
    return [
        [
            drawn.picture("image", steps.image),
            drawn.mask("edge-predicted mask", steps.masks[EDGE_PREDICTION], classes),
            drawn.picture("partner", mix.partner),
            drawn.mask("edge-predicted mask", mix.partner_mask, classes),
        ],
        [
            drawn.picture("what is pasted", cut),
            drawn.picture("mixed image", mix.image),
            drawn.mask("mixed mask", mix.mask, classes),
            drawn.mask("ground truth, mixed alike", mix.truth, classes),
        ],
        *_cut(_maps(steps, "mixed target", mix.shown, mix.maps, mix.truth)),
    ]


def numbers(steps: Steps) -> pd.DataFrame:
    """What each step's mask says and how true that is, in %.

    Returns:
        A row per step. `foreground`, `background` and `ignored` are shares of the picture; `iou` is
        the mean over the classes of this image, background included, of the pixels that are not
        ignored; `found` is the share of the true objects' pixels that carry their class.
    """
    rows = {name: _score(steps, mask, steps.truth) for name, mask in steps.masks.items()}
    rows[MIXED] = _score(steps, steps.mix.mask, steps.mix.truth)
    return (100 * pd.DataFrame.from_dict(rows, orient="index")).round(1)


def in_words(steps: Steps, *names: str) -> str:
    """The numbers of the named steps, a line each, for print."""
    return "\n".join(
        f"{name}: foreground {row.foreground:.1f} %, background {row.background:.1f} %, ignored "
        f"{row.ignored:.1f} %; IoU where certain {row.iou:.1f} %, objects found {row.found:.1f} %"
        for name, row in numbers(steps).loc[list(names)].iterrows()
    )


def the_pair(steps: Steps) -> str:
    """Which images they are and what they show, for print."""
    shown = np.unique(steps.mix.partner_truth)
    partner = [i for i in shown if i not in (BACKGROUND, IGNORE)]
    return (
        f"image {steps.image_id}: {names(steps, steps.present)}; "
        f"partner {steps.partner_id}: {names(steps, partner)}"
    )


def the_mix(steps: Steps) -> str:
    """What is pasted and what the mixed image counts as, for print."""
    mix = steps.mix
    return (
        f"drawn: {names(steps, mix.chosen)}; pasted: {100 * mix.pasted.mean():.1f} % of the "
        f"image; classes of the mixed image: {names(steps, mix.shown)}"
    )


def names(steps: Steps, ids: Sequence[int]) -> str:
    """The names of mask ids, for print."""
    return ", ".join(steps.classes[i] for i in ids) or "nothing"


def _given(steps: Steps) -> list[Panel]:
    return [
        drawn.picture("image", steps.image),
        drawn.mask("ground truth", steps.truth, steps.classes),
    ]


def _filtered(steps: Steps, name: str) -> list[Panel]:
    objects = (steps.truth != BACKGROUND) & (steps.truth != IGNORE)
    return [
        drawn.scores("strongest score", steps.maps[name].max(0, initial=0), objects),
        drawn.mask("certain part", steps.masks[name], steps.classes),
    ]


def _cut(panels: list[Panel]) -> Rows:
    return [panels[start : start + IN_A_ROW] for start in range(0, len(panels), IN_A_ROW)]


def _maps(
    steps: Steps, title: str, ids: Sequence[int], maps: np.ndarray, truth: np.ndarray
) -> list[Panel]:
    return [
        drawn.scores(f"{title}: {steps.classes[i]}", values, truth == i)
        for i, values in zip(ids, maps, strict=True)
    ]


def _score(steps: Steps, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    inside = steps.valid | (mask != IGNORE)  # a pasted pixel may lie beside the picture
    said, there = mask[inside], truth[inside]
    sure, known = said != IGNORE, there != IGNORE
    objects = known & (there != BACKGROUND)
    matrix = ConfusionMatrix(len(steps.classes))
    matrix.update(said[sure], there[sure])
    return {
        "foreground": (sure & (said != BACKGROUND)).mean(),
        "background": (said == BACKGROUND).mean(),
        "ignored": (~sure).mean(),
        "iou": matrix.miou(),
        "found": (said == there)[objects].mean() if objects.any() else float("nan"),
    }
