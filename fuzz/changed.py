"""What a Python fuzzer makes of a good message. Random bytes alone would hardly ever be taken for one."""

from __future__ import annotations

import atheris

BYTES_MAX = 4160
"""A few more than any message may have."""


def require(holds: bool) -> None:
    assert holds


def changed(input: atheris.FuzzedDataProvider, message: bytes) -> bytes:
    """As it is, or not quite."""
    match input.ConsumeIntInRange(0, 7):
        case 0:
            return input.ConsumeBytes(BYTES_MAX)
        case 1:
            return message[: input.ConsumeIntInRange(0, len(message))]
        case 2:
            return message + input.ConsumeBytes(80)
        case 3 if message:
            raw = bytearray(message)
            for _ in range(input.ConsumeIntInRange(1, 4)):
                raw[input.ConsumeIntInRange(0, len(raw) - 1)] ^= input.ConsumeIntInRange(1, 255)
            return bytes(raw)
    return message
