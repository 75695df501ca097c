"""Methods by name. A method is one file here, one line in METHODS, one section in params.yaml."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from wsssbench import settings as keywords
from wsssbench.methods.base import Inference, Method, Progress
from wsssbench.methods.cam import CAM
from wsssbench.methods.pmm import PMM
from wsssbench.methods.puzzlecam import PuzzleCAM
from wsssbench.methods.recurseed import RecurSeed
from wsssbench.methods.seam import SEAM

METHODS: dict[str, type[Method]] = {"cam": CAM, "recurseed": RecurSeed,
                                    "puzzlecam": PuzzleCAM, "seam": SEAM,
                                    "pmm": PMM}  # fmt: skip

__all__ = [
    "METHODS",
    "Inference",
    "Method",
    "Progress",
    "build",
    "check_settings",
    "code_of",
    "settings_of",
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


def build(name: str, backbone: nn.Module, num_classes: int, settings: Mapping[str, Any]) -> Method:
    """Make a method from its name, a backbone and its settings."""
    check_settings(name, settings, f"settings of {name}")
    return METHODS[name](backbone, num_classes, **settings)
