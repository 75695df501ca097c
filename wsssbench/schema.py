"""Sections of a YAML file as frozen dataclasses: every key and type is checked, in one clear line.

What sections there are is said in `params`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from wsssbench.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Between:
    """Range of a number in an annotation: `Annotated[float, Between(0, 1)]`, ends included.

    Attributes:
        low, high: the ends; None for no upper one.
        open: without `low` itself.
    """

    low: float
    high: float | None = None
    open: bool = False

    def __str__(self) -> str:
        if self.high is None:
            return f"{'more than' if self.open else 'at least'} {self.low:g}"
        return f"{'more than' if self.open else 'from'} {self.low:g} to {self.high:g}"

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.open else number >= self.low
        return above and (self.high is None or number <= self.high)


Count = Annotated[int, Between(1)]
Whole = Annotated[int, Between(0)]
Share = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Between(0, open=True)]
NotNegative = Annotated[float, Between(0)]


def build(kind: type, content: Any, where: str) -> Any:
    """Make the dataclass `kind` from a mapping; every key and type is checked.

    Raises:
        UserError: names the place, what was expected and the nearest valid key.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a section with keys, got {content!r}.")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in content:
        if key not in fields:
            raise UserError(f"{where}: {unknown('key', key, fields)}")
    for key, spec in fields.items():
        needed = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if needed and key not in content:
            raise UserError(f"{where}: the key {key!r} is missing.")
    return kind(
        **{
            key: ()
            if value == [] and fields[key].default == ()
            # a list that may be empty
            else _convert(hints[key], value, f"{where}: {key}")
            for key, value in content.items()
        }
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Annotated:
        number = _convert(args[0], value, where)
        _expect(number in args[1], str(args[1]), value, where)
        return number
    if origin is Literal:
        if value not in args:
            raise UserError(f"{where}: {unknown('value', value, args)}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        _expect(isinstance(value, Mapping), "a mapping", value, where)
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if hint is dict:
        _expect(isinstance(value, Mapping), "a mapping", value, where)
        return dict(value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number, "a number", value, where)
        return float(value)
    names = {int: "a whole number", bool: "true or false", str: "text"}
    _expect(type(value) is hint, names[hint], value, where)
    return value


def _convert_tuple(args: tuple, value: Any, where: str) -> tuple:
    _expect(isinstance(value, list | tuple), "a list", value, where)
    if args[-1] is Ellipsis:
        _expect(len(value) > 0, "a list with at least one entry", value, where)
        args = (args[0],) * len(value)
    _expect(len(args) == len(value), f"a list of {len(args)}", value, where)
    return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value)))


def _expect(valid: bool, wanted: str, value: Any, where: str) -> None:
    if not valid:
        raise UserError(f"{where}: expected {wanted}, got {value!r}.")


def override(section: Any, changes: Mapping, where: str) -> Any:
    """The dataclass `section` with some keys changed; types and keys are checked.

    A key that is a section itself (`random_walk.train`) keeps those of its keys that do not differ.

    Raises:
        UserError: as for `build`.
    """
    if not changes:
        return section
    old = dataclasses.asdict(section)
    nested = {
        key: {**old[key], **value}
        for key, value in changes.items()
        if isinstance(old.get(key), dict) and isinstance(value, Mapping)
    }
    return build(type(section), {**old, **changes, **nested}, where)
