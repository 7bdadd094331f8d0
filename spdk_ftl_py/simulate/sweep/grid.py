"""The points of a sweep: each combination of the values that are swept."""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ...errors import ParameterError

POINTS_MAX: Final = 1_000_000
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
Types = Mapping[str, Callable[[str], Any]]
"""By setting, types as argparse has them."""

_BETWEEN: Final = re.compile(r"(?<!\\),")


@dataclass(frozen=True)
class Axis:
    """As it was given: ``policy=greedy,sepbit``."""

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    base: Mapping[str, Any]
    """A value for each setting of a simulation."""
    axes: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def points(self) -> list[dict[str, Any]]:
        """In the order of the results: the last axis changes from one point to the next."""
        combinations = itertools.product(*self.axes.values())
        return [{**self.base, **dict(zip(self.axes, values, strict=True))} for values in combinations]

    @property
    def varying(self) -> list[str]:
        """Names of axes with more than one value."""
        return [name for name, values in self.axes.items() if len(values) > 1]

    def to_dict(self) -> dict[str, Any]:
        return {"base": dict(self.base), "axes": {name: list(values) for name, values in self.axes.items()}}


def axis(given: str) -> Axis:
    r"""``NAME=VALUE,VALUE``; ``\,`` is a comma in a value. Raises ParameterError."""
    name, equals, values = given.partition("=")
    name = name.replace("-", "_")
    texts = tuple(text.replace("\\,", ",") for text in _BETWEEN.split(values))
    if not equals or not _NAME.fullmatch(name) or not all(texts):
        raise ParameterError(f"{given[:80]!r}: must be NAME=VALUE,VALUE,… such as reserved=10,20")
    return Axis(name, texts)


def grid(axes: Sequence[Axis], base: Mapping[str, Any], types: Types = MappingProxyType({})) -> Grid:
    """types: convert and check the values of some settings; others get the types that they have in base. Raises
    ParameterError."""
    swept: dict[str, list[Any]] = {}
    for each in axes:
        if each.name not in base:
            raise ParameterError(f"{each.name!r} can't be swept: use {', '.join(base)}")
        if each.name in swept:
            raise ParameterError(f"{each.name} is given twice: write all of its values after one {each.name}=")
        values = [_value(each.name, text, base[each.name], types) for text in each.texts]
        if len(set(values)) < len(values):
            raise ParameterError(f"{each.name}={','.join(each.texts)[:80]} has a value twice: give each value once")
        swept[each.name] = values
    made = Grid(base, swept)
    if len(made) > POINTS_MAX:
        raise ParameterError(f"{len(made):,} points: at most {POINTS_MAX:,} are possible")
    return made


def _value(name: str, text: str, like: Any, types: Types) -> Any:
    if name not in types:
        return _typed(name, text, like)
    try:
        return types[name](text)
    except argparse.ArgumentTypeError as error:
        raise ParameterError(f"{name}: {error}") from None


def _typed(name: str, text: str, like: Any) -> Any:
    if isinstance(like, bool):
        if text not in ("true", "false"):
            raise ParameterError(f"{name}={text}: must be true or false")
        return text == "true"
    if isinstance(like, int | float):
        convert: Callable[[str], int | float] = int if isinstance(like, int) else float
        try:
            value = convert(text)
        except ValueError:
            raise ParameterError(f"{name}={text}: must be a number") from None
        if not math.isfinite(value):
            raise ParameterError(f"{name}={text}: must be a finite number")
        return value
    return text
