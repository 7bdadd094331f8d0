"""Parses JSON from strangers: only what RFC 8259 allows, of bounded depth, with text that can be written anywhere."""

from __future__ import annotations

import json
import re
from typing import Any, Final

DEPTH_MAX: Final = 64
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*"|([\[\]{}])', re.DOTALL)


def loads(raw: bytes | bytearray | str) -> Any:
    """Raises ValueError, which names the fault, for anything else."""
    try:
        text = raw if isinstance(raw, str) else raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    _check_depth(text)
    value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    # JSON can escape half of a surrogate pair, but that is not text: whatever writes it would fail.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a string has half of a surrogate pair") from None
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _check_depth(text: str) -> None:
    """Checked before json sees the text, because its own limit is that of the interpreter's stack."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match.group(1)
        if bracket is None:
            continue
        depth += 1 if bracket in "[{" else -1
        if depth > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX}")
