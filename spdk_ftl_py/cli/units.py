"""Numbers for people, with units."""

from __future__ import annotations

from typing import Final

BLOCK_BYTES: Final = 4096
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_TIMES: Final = (("s", 1e6), ("ms", 1e3), ("us", 1.0))


def show_bytes(count: float) -> str:
    """1536 -> "1.50 KiB". Three digits."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_BINARY) - 1:
        size, unit = size / 1024, unit + 1
    return f"{_digits(size)} {_BINARY[unit]}" if unit else f"{size:.0f} B"


def show_us(time_us: float) -> str:
    """1234.5 -> "1.23 ms"; 0 -> "0 us". Three digits."""
    for unit, factor in _TIMES:
        if time_us >= 0.9995 * factor:
            return f"{_digits(time_us / factor)} {unit}"
    return f"{time_us:.0f} us"


def show_count(count: float) -> str:
    """1234567 -> "1,234,567"."""
    return f"{count:,.0f}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
