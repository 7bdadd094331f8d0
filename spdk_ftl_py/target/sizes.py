"""Sizes as users write them (4096, 16M, 2G), and the limits of emulated bdevs. This module imports only errors, because
rpc.py loads it with our plugin."""

from __future__ import annotations

MEDIA_BYTES_MAX = 2**46
METADATA_BYTES = (0, 8, 16, 32, 64, 128)
APPEND_BYTES_MIN = 8192
"""A host learns the largest append as a power of two of 4 KiB pages (ZASL), and 0 means that there is no limit."""
UINT32_END = 2**32

_SUFFIXES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Raises ValueError."""
    number = text.strip().upper()
    number = number[:-2] if number.endswith("IB") else number
    suffix = number[-1:] if number[-1:].isalpha() else ""
    digits = number[: len(number) - len(suffix)]
    if suffix not in _SUFFIXES or not digits.isascii() or not digits.isdigit() or len(digits) > 20:
        raise ValueError(f"{text!r} is not a size: write digits, optionally followed by K, M, G or T")
    return int(digits) * _SUFFIXES[suffix]


def parse_bytes(text: str, what: str) -> int:
    """Raises ParameterError that says which size is wrong."""
    from ..errors import ParameterError

    try:
        return parse_size(text)
    except ValueError as error:
        raise ParameterError(f"{what}: {error}") from error
