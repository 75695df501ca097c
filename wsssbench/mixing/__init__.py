"""Mixers by name: two images -> one. A mixer is one file here and one line in MIXERS.

    mixer = build("cutmix", {"beta": 1.0})
    mixed = apply_mix(batch, mixer.plan(batch, generator))

No mixing at all (`none`) is the trainer's business.
"""

from collections.abc import Mapping
from typing import Any

from wsssbench import settings as keywords
from wsssbench.mixing.apply import apply_mix
from wsssbench.mixing.base import Mixer
from wsssbench.mixing.batch import Layer, MixBatch, MixOut, MixPlan
from wsssbench.mixing.cda import CDA
from wsssbench.mixing.classmix import ClassMix
from wsssbench.mixing.copypaste import CopyPaste
from wsssbench.mixing.cowmix import CowMix
from wsssbench.mixing.cutmix import CutMix, CutMixSeg
from wsssbench.mixing.edgepredictmix import EdgePredictMix
from wsssbench.mixing.identity import Identity
from wsssbench.mixing.losses import mixed_cross_entropy, pixel_weight
from wsssbench.mixing.mixup import Mixup
from wsssbench.mixing.puzzlemix import PuzzleMix
from wsssbench.mixing.saliency_grafting import SaliencyGrafting

MIXERS: dict[str, type[Mixer]] = {
    "identity": Identity,
    "mixup": Mixup,
    "cutmix": CutMix,
    "cutmix_seg": CutMixSeg,
    "cowmix": CowMix,
    "saliency_grafting": SaliencyGrafting,
    "classmix": ClassMix,
    "edgepredictmix": EdgePredictMix,
    "cda": CDA,
    "copypaste": CopyPaste,
    "puzzlemix": PuzzleMix,
}

__all__ = [
    "MIXERS",
    "Layer",
    "MixBatch",
    "MixOut",
    "MixPlan",
    "Mixer",
    "apply_mix",
    "build",
    "check_settings",
    "mixed_cross_entropy",
    "pixel_weight",
    "settings_of",
]


def settings_of(name: str) -> dict[str, Any]:
    """The settings a mixer takes and their defaults.

    Raises:
        UserError: there is no such mixer.
    """
    return keywords.keyword_settings(keywords.choose("mixer", name, MIXERS))


def check_settings(name: str, settings: Mapping[str, Any], where: str) -> None:
    """Check names and types of a mixer's settings, before anything is built.

    Raises:
        UserError: names the place, the wrong key or value and the valid ones.
    """
    keywords.check(keywords.choose("mixer", name, MIXERS), settings, where)


def build(name: str, settings: Mapping[str, Any]) -> Mixer:
    """Make a mixer from its name and settings.

    Raises:
        UserError: unknown name or setting, or a value out of range.
    """
    check_settings(name, settings, f"settings of {name}")
    return MIXERS[name](**settings)
