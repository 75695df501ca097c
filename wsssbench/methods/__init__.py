"""Methods by name. A method is one file here, one line in METHODS, one section in params.yaml."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from wsssbench import settings as keywords
from wsssbench.methods.afa import AFA
from wsssbench.methods.base import Inference, Method, Progress
from wsssbench.methods.cam import CAM
from wsssbench.methods.cosa import CoSA
from wsssbench.methods.pmm import PMM
from wsssbench.methods.puzzlecam import PuzzleCAM
from wsssbench.methods.recurseed import RecurSeed
from wsssbench.methods.seam import SEAM
from wsssbench.methods.sfc import SFC
from wsssbench.methods.sipe import SIPE
from wsssbench.methods.ssss import SSSS

METHODS: dict[str, type[Method]] = {
    "afa": AFA,
    "cam": CAM,
    "cosa": CoSA,
    "pmm": PMM,
    "puzzlecam": PuzzleCAM,
    "recurseed": RecurSeed,
    "seam": SEAM,
    "sfc": SFC,
    "sipe": SIPE,
    "ssss": SSSS,
}

__all__ = [
    "METHODS",
    "Inference",
    "Method",
    "Progress",
    "build",
    "check_settings",
    "code_of",
    "settings_of",
    "wants_masks",
]


def settings_of(name: str) -> dict[str, Any]:
    """The settings a method takes and their defaults.

    Raises:
        UserError: there is no such method.
    """
    return keywords.keyword_settings(keywords.choose("method", name, METHODS))


def check_settings(name: str, settings: Mapping[str, Any], where: str) -> None:
    """Check a method's settings, before anything is built.

    Raises:
        UserError: names the place, the wrong key or type and the valid ones.
    """
    chosen = keywords.choose("method", name, METHODS)
    keywords.check(chosen, settings, where)
    chosen.check(settings, where)


def code_of(name: str, settings: Mapping[str, Any]) -> list[str]:
    """Files below the package behind a method with these settings; the rest they import."""
    chosen = keywords.choose("method", name, METHODS)
    return [f"methods/{name}.py", *chosen.code(settings)]


def wants_masks(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a method with these settings learns from true masks: an upper bound."""
    return keywords.choose("method", name, METHODS).wants_masks(settings)


def build(name: str, backbone: nn.Module, num_classes: int, settings: Mapping[str, Any]) -> Method:
    """Make a method from its name, a backbone and its settings."""
    check_settings(name, settings, f"settings of {name}")
    return METHODS[name](backbone, num_classes, **settings)
