"""Settings of anything that is chosen by name: its keyword-only arguments, checked before use."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from wsssbench.errors import UserError, unknown

T = TypeVar("T")


def choose(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry `name` of a table.

    Raises:
        UserError: there is none; `kind` says of what, and all names are listed.
    """
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def keyword_settings(maker: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only arguments of a class or function and their defaults."""
    return {name: parameter.default for name, parameter in _keywords(maker).items()}


def check(maker: Callable[..., Any], settings: Mapping[str, Any], where: str) -> None:
    """Check names, types and listed choices of settings for `maker`.

    The default says the type: a float takes whole numbers, a tuple any list (of its length, if
    the annotation says so), None anything. None is a value where the annotation allows it.

    Raises:
        UserError: names the place, the wrong key or value and the valid ones.
    """
    valid = _keywords(maker)
    for key, value in settings.items():
        if key not in valid:
            raise UserError(f"{where}: {unknown('setting', key, valid)}")
        default, annotation = valid[key].default, valid[key].annotation
        if not _fits(value, default, annotation):
            wanted = type(default).__name__
            raise UserError(f"{where}: {key}: expected a {wanted} like {default!r}, got {value!r}.")
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise UserError(f"{where}: {key}: {unknown('value', value, get_args(annotation))}")


def _keywords(maker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(maker).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _fits(value: Any, default: Any, annotation: Any = None) -> bool:
    if default is None or (value is None and type(None) in get_args(annotation)):
        return True
    if isinstance(default, tuple):
        fixed = get_origin(annotation) is tuple and Ellipsis not in get_args(annotation)
        alike = isinstance(value, list | tuple) and (len(value) == len(default) or not fixed)
        return alike and all(_fits(item, default[0]) for item in value)
    if isinstance(value, bool):  # a bool is an int, but no number
        return isinstance(default, bool)
    return isinstance(value, int | float if isinstance(default, float) else type(default))
