"""Methods by name. A method is one file here, one line in METHODS, one section in params.yaml."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from wsssbench.errors import UserError, unknown
from wsssbench.methods.base import Inference, Method, Progress
from wsssbench.methods.cam import CAM

METHODS: dict[str, type[Method]] = {"cam": CAM}

__all__ = ["METHODS", "Inference", "Method", "Progress", "build", "check_settings", "settings_of"]


def settings_of(name: str) -> dict[str, Any]:
    """The settings a method takes and their defaults.

    Raises:
        UserError: there is no such method.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_settings(name: str, settings: Mapping[str, Any], where: str) -> None:
    """Check names and types of a method's settings, before anything is built.

    Raises:
        UserError: names the place, the wrong key or type and the valid ones.
    """
    valid = settings_of(name)
    for key, value in settings.items():
        if key not in valid:
            raise UserError(f"{where}: {unknown('setting', key, valid)}")
        default = valid[key]
        kinds = (int, float) if isinstance(default, float) else type(default)
        if default is not None and not isinstance(value, kinds):
            wanted = type(default).__name__
            raise UserError(f"{where}: {key}: expected a {wanted} like {default!r}, got {value!r}.")


def build(name: str, backbone: nn.Module, num_classes: int, settings: Mapping[str, Any]) -> Method:
    """Make a method from its name, a backbone and its settings."""
    check_settings(name, settings, f"settings of {name}")
    return METHODS[name](backbone, num_classes, **settings)
