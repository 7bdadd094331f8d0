"""Whether a value from JSON is what an annotation says: for TypedDicts, which nobody checks at run time."""

from __future__ import annotations

import types
import typing
from typing import Any


def mismatches(value: object, wanted: Any, where: str = "") -> list[str]:
    """What differs, by its path; empty where nothing does. A TypedDict may neither lack what it requires nor have what
    it does not name."""
    place = where or "."
    origin = typing.get_origin(wanted)
    if wanted is Any:
        return []
    if typing.is_typeddict(wanted):
        return _of_dict(value, wanted, where)
    if origin in (typing.Union, types.UnionType):
        tried = [mismatches(value, each, where) for each in typing.get_args(wanted)]
        return [] if [] in tried else min(tried, key=len)
    if origin is list:
        if not isinstance(value, list):
            return [f"{place} is {value!r}, no list"]
        (entry,) = typing.get_args(wanted)
        return [text for i, each in enumerate(value) for text in mismatches(each, entry, f"{where}[{i}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{place} is {value!r}, no object"]
        _, entry = typing.get_args(wanted)
        return [text for name, each in value.items() for text in mismatches(each, entry, f"{where}.{name}")]
    if wanted is None or wanted is type(None):
        return [] if value is None else [f"{place} is {value!r}, not null"]
    fits = isinstance(value, wanted) if wanted is not float else isinstance(value, float | int)
    # JSON's true is no number.
    return (
        [] if fits and isinstance(value, bool) == (wanted is bool) else [f"{place} is {value!r}, no {wanted.__name__}"]
    )


def _of_dict(value: object, wanted: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where or '.'} is {value!r}, no {wanted.__name__}"]
    hints = typing.get_type_hints(wanted)
    told = [f"{where}.{name} is missing" for name in sorted(wanted.__required_keys__ - value.keys())]
    for name, each in value.items():
        if name in hints:
            told += mismatches(each, hints[name], f"{where}.{name}")
        else:
            told.append(f"{where}.{name} is not in {wanted.__name__}")
    return told
