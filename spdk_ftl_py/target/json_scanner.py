"""Splits a byte stream into JSON values, as SPDK's JSON-RPC server does: no delimiter, strict grammar, bounded size.

The scanner is incremental. It looks at each byte once, however small the peer's pieces are.
"""

from __future__ import annotations

import json
import re
from typing import Any

JSON_BYTES_MAX = 256 * 1024  # as SPDK's receive buffer
JSON_VALUES_MAX = 8192
JSON_DEPTH_MAX = 64

_WHITESPACE = re.compile(rb"[ \t\r\n]*")
_STRING_STOP = re.compile(rb'["\\\x00-\x1f]')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_START = re.compile(rb"[-0-9]")
_NUMBER_CHARACTERS = re.compile(rb"[-+.0-9eE]*")
_LITERALS = (b"true", b"false", b"null")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_INTEGER_DIGITS_MAX = 40  # longer than any integer that an RPC takes; longer ones become floats

# The token that may come next.
_VALUE, _FIRST_VALUE_OR_END, _FIRST_NAME_OR_END, _NAME, _COLON, _COMMA_OR_END = range(6)


class JsonError(ValueError):
    """The bytes are not JSON, or exceed a limit. The next value in the stream cannot be found."""


class JsonObject(dict[str, Any]):
    """A decoded object that records whether a name occurred twice. No RPC accepts that."""

    duplicate_name: str | None = None


def _build_object(pairs: list[tuple[str, Any]]) -> JsonObject:
    result = JsonObject(pairs)
    if len(result) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                result.duplicate_name = name
            names.add(name)
    return result


def _build_integer(text: str) -> int | float:
    return int(text) if len(text) <= _INTEGER_DIGITS_MAX else float(text)


def _refuse_constant(text: str) -> Any:
    raise JsonError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_build_object, parse_int=_build_integer, parse_constant=_refuse_constant, strict=True
)


def decode_json(data: bytes) -> Any:
    """Decodes one whole JSON value. Objects become JsonObject. Raises JsonError."""
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            raise JsonError("half a surrogate pair in a string")
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(str(error)) from error
    return value


class JsonScanner:
    """feed() takes bytes, and next() returns complete values. After a JsonError the stream cannot be used."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._restart(0)

    def _restart(self, start: int) -> None:
        self._start = start  # of the current value; the next feed() drops what lies before
        self._position = start
        self._stack: list[int] = []  # "{" or "["
        self._expect = _VALUE
        self._values = 0
        self._in_string = False

    @property
    def room(self) -> int:
        """Bytes that feed() still takes."""
        return JSON_BYTES_MAX - (len(self._buffer) - self._start)

    def feed(self, data: bytes) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._position -= self._start
            self._start = 0
        self._buffer += data

    def next(self) -> Any:
        """Returns the next complete value, decoded, or None if there is none yet. Raises JsonError.

        A bare ``null`` is returned as the string "null". Neither is a request.
        """
        end = self._scan()
        if end is None:
            if self.room <= 0:
                raise JsonError(f"a JSON value is longer than {JSON_BYTES_MAX} bytes")
            return None
        data = bytes(self._buffer[self._start : end])
        self._restart(end)
        value = decode_json(data)
        return "null" if value is None else value

    def _scan(self) -> int | None:
        buffer = self._buffer
        while True:
            if self._in_string:
                if not self._skip_string():
                    return None
                if self._value_done():
                    return self._position
                continue
            match = _WHITESPACE.match(buffer, self._position)
            assert match is not None
            if self._position == self._start and not self._stack:
                self._start = match.end()  # space between values does not count against the limit
            self._position = match.end()
            if self._position >= len(buffer):
                return None
            character = buffer[self._position]
            if character in b"{[":
                self._open(character)
            elif character in b"}]":
                self._close(character)
                if self._value_done():
                    return self._position
            elif character in b",:":
                self._separate(character)
            elif character == 0x22:
                if self._expect not in (_VALUE, _FIRST_VALUE_OR_END, _NAME, _FIRST_NAME_OR_END):
                    raise JsonError("an unexpected string")
                self._count(1)
                self._position += 1
                self._in_string = True
            else:
                if not self._skip_scalar():
                    return None
                if self._value_done():
                    return self._position

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > JSON_VALUES_MAX:
            raise JsonError(f"more than {JSON_VALUES_MAX} values")

    def _open(self, character: int) -> None:
        if self._expect not in (_VALUE, _FIRST_VALUE_OR_END):
            raise JsonError("an unexpected value")
        if len(self._stack) >= JSON_DEPTH_MAX:
            raise JsonError(f"nested more than {JSON_DEPTH_MAX} deep")
        self._count(1)
        self._stack.append(character)
        self._expect = _FIRST_NAME_OR_END if character == 0x7B else _FIRST_VALUE_OR_END
        self._position += 1

    def _close(self, character: int) -> None:
        opening = 0x7B if character == 0x7D else 0x5B
        first = _FIRST_NAME_OR_END if opening == 0x7B else _FIRST_VALUE_OR_END
        if not self._stack or self._stack[-1] != opening or self._expect not in (first, _COMMA_OR_END):
            raise JsonError(f"an unexpected {chr(character)}")
        self._count(1)
        self._stack.pop()
        self._position += 1
        self._expect = _VALUE  # _value_done() sets what follows

    def _separate(self, character: int) -> None:
        if character == 0x3A and self._expect == _COLON:
            self._expect = _VALUE
        elif character == 0x2C and self._expect == _COMMA_OR_END and self._stack:
            self._expect = _NAME if self._stack[-1] == 0x7B else _VALUE
        else:
            raise JsonError(f"an unexpected {chr(character)}")
        self._position += 1

    def _value_done(self) -> bool:
        """Called after a string, scalar or closing bracket: sets what may come next. Returns True if the outermost
        value is complete."""
        if self._expect in (_NAME, _FIRST_NAME_OR_END):
            self._expect = _COLON
            return False
        self._expect = _COMMA_OR_END
        return not self._stack

    def _skip_string(self) -> bool:
        while True:
            match = _STRING_STOP.search(self._buffer, self._position)
            if match is None:
                self._position = len(self._buffer)
                return False
            stop = match.start()
            character = self._buffer[stop]
            if character == 0x22:
                self._position = stop + 1
                self._in_string = False
                return True
            if character != 0x5C:
                raise JsonError("a control character in a string")
            if stop + 1 >= len(self._buffer):
                self._position = stop
                return False
            self._position = stop + 2  # decode_json() checks which escape it is

    def _skip_scalar(self) -> bool:
        """Skips a number or literal. Returns False if it may continue in bytes that have not arrived."""
        if self._expect not in (_VALUE, _FIRST_VALUE_OR_END):
            raise JsonError("an unexpected value")
        rest = bytes(self._buffer[self._position : self._position + 8])
        if _NUMBER_START.match(rest):
            run = _NUMBER_CHARACTERS.match(self._buffer, self._position)
            assert run is not None
            if run.end() - self._position > 4096:
                raise JsonError("a number of more than 4096 characters")
            if run.end() == len(self._buffer):
                return False
            if not _NUMBER.fullmatch(self._buffer, self._position, run.end()):
                raise JsonError("not a number")
            self._position = run.end()
        else:
            for literal in _LITERALS:
                if rest.startswith(literal):
                    self._position += len(literal)
                    break
                if literal.startswith(rest):
                    return False
            else:
                raise JsonError("neither a value nor an end")
        self._count(1)
        return True
