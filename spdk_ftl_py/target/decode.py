"""Strict decoding of RPC parameters, as in SPDK: every name is known, no name occurs twice, every type is exact."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from .json_scanner import JsonObject


class DecodeError(ValueError):
    """Says which parameter is wrong, and why. The client gets the method's fixed message, as with SPDK."""


Decoder = Callable[[Any], Any]
Params = dict[str, Any]


def string(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise DecodeError("must be a string")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise DecodeError("must be true or false")
    return value


def bounded_integer(low: int, high: int) -> Decoder:
    def decode(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # SPDK takes 1e3 and 10.0 for integers
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise DecodeError(f"must be an integer between {low} and {high}")
        return value

    return decode


uint8 = bounded_integer(0, 2**8 - 1)
uint16 = bounded_integer(0, 2**16 - 1)
uint32 = bounded_integer(0, 2**32 - 1)
int32 = bounded_integer(-(2**31), 2**31 - 1)
uint64 = bounded_integer(0, 2**64 - 1)

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def uuid(value: Any) -> UUID:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise DecodeError("must be a UUID like 11111111-2222-3333-4444-555555555555")
    return UUID(value)


def hexadecimal(octets: int) -> Decoder:
    def decode(value: Any) -> bytes:
        if not isinstance(value, str) or not re.fullmatch(f"[0-9a-fA-F]{{{2 * octets}}}", value):
            raise DecodeError(f"must be {2 * octets} hexadecimal digits")
        return bytes.fromhex(value)

    return decode


def choice(*values: str) -> Decoder:
    def decode(value: Any) -> str:
        if value not in values or not isinstance(value, str):
            raise DecodeError("must be one of " + ", ".join(values))
        return value

    return decode


def text_up_to(length: int) -> Decoder:
    """Decodes printable ASCII, which serial and model numbers must be."""

    def decode(value: Any) -> str:
        text = string(value)
        if len(text) > length or not all(" " <= character <= "~" for character in text):
            raise DecodeError(f"must be at most {length} printable ASCII characters")
        return text

    return decode


def array_of(decoder: Decoder, length_max: int) -> Decoder:
    def decode(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > length_max:
            raise DecodeError(f"must be an array of at most {length_max}")
        return [decoder(each) for each in value]

    return decode


class Fields:
    """The parameters of a method: their names, their decoders, and which are required (``required=``)."""

    def __init__(
        self,
        required: Mapping[str, Decoder] | None = None,
        optional: Mapping[str, Decoder] | None = None,
        *,
        tolerant: bool = False,
    ) -> None:
        """tolerant: ignores unknown names, as do the few SPDK methods that also pass their params to a transport."""
        self.required = dict(required or {})
        self.optional = dict(optional or {})
        self.tolerant = tolerant

    def decode(self, params: Any) -> dict[str, Any]:
        """Decodes params. Raises DecodeError that names the parameter."""
        if params is None:
            params = JsonObject()
        if not isinstance(params, dict):
            raise DecodeError("params must be an object")
        duplicate = getattr(params, "duplicate_name", None)
        if duplicate is not None:
            raise DecodeError(f"parameter {duplicate} is given twice")
        result: dict[str, Any] = {}
        for name, value in params.items():
            decoder = self.required.get(name) or self.optional.get(name)
            if decoder is None:
                if self.tolerant:
                    continue
                raise DecodeError(f"parameter {name} is unknown")
            try:
                result[name] = decoder(value)
            except DecodeError as error:
                raise DecodeError(f"parameter {name}: {error}") from error
        missing = [name for name in self.required if name not in result]
        if missing:
            raise DecodeError(f"parameter {missing[0]} is missing")
        return result

    def __call__(self, value: Any) -> dict[str, Any]:
        """Decodes an object within params."""
        if not isinstance(value, dict):
            raise DecodeError("must be an object")
        return self.decode(value)
