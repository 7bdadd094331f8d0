"""All bands of an FTL, packed for a browser: first all of them, then those that have changed.

An answer is `header length (4 B) | header (JSON, padded) | columns`, everything little endian; each column begins at a
multiple of its item's size. A band takes 26 B, so 65,536 bands are 1.7 MB once, and few kB after that. A view costs
memory from its first question on, and time only when it is asked.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...ftl.device import FtlDevice
from ...ftl.media.band import REPORTED_STATES

COLUMNS: Final = (
    ("seq", "<f8"),
    ("band", "<u4"),
    ("valid", "<u4"),
    ("capacity", "<u4"),
    ("resets", "<u4"),
    ("state", "<u1"),
    ("stream", "<u1"),
)
"""Of an answer, in this order. seq: when the band was opened, as a count of bands; valid, capacity: in blocks."""
_ALIGNMENT: Final = 8
_LENGTH: Final = np.dtype("<u4")


class BandsView:
    """What browsers have been told of the bands of one FtlDevice. It does not keep that alive, with all its memory:
    whoever asks has it."""

    def __init__(self, ftl: FtlDevice) -> None:
        self._told = _columns(ftl)
        self._version = 1
        self._changed_in = np.full(len(ftl.bands), self._version, np.int64)
        """By band: the version that brought its last change."""

    def answer(self, ftl: FtlDevice, since: str) -> bytes:
        """The bands that have changed since the answer with this cursor. All bands if it is not a cursor of this
        FtlDevice: the page is new, or the FTL was loaded again."""
        now = _columns(ftl)
        changed = np.zeros(len(self._changed_in), bool)
        for name, values in now.items():
            changed |= values != self._told[name]
        if changed.any():
            self._version += 1
            self._changed_in[changed] = self._version
            self._told = now
        version = self._version_of(ftl, since)
        numbers = np.flatnonzero(self._changed_in > version).astype("<u4")
        return _packed(self._header(ftl, len(numbers), whole=version == 0), {**now, "band": numbers}, numbers)

    def _version_of(self, ftl: FtlDevice, cursor: str) -> int:
        """0 if it is not a cursor of this view."""
        tail = cursor.rpartition(".")[2]
        if not (tail.isascii() and tail.isdigit() and len(tail) < 16):
            return 0
        version = int(tail)
        return version if version <= self._version and cursor == _cursor(ftl, version) else 0

    def _header(self, ftl: FtlDevice, rows: int, *, whole: bool) -> dict[str, Any]:
        geometry = ftl.geometry
        return {
            "cursor": _cursor(ftl, self._version),
            "whole": whole,
            "rows": rows,
            "bands": len(self._changed_in),
            "band_blocks": geometry.band_blocks,
            "next_seq": ftl.next_band_seq,
            "states": REPORTED_STATES,
            "shared_stream": geometry.shared_stream,
            # stream is a class; the first ones are of data of hosts, the others of relocated data.
            "classes": ftl.placement.classes,
            "user_classes": ftl.placement.user_classes,
            "columns": COLUMNS,
            # Zone of band b in punit p: first_zone + b * punits + p, unless that zone was replaced.
            "punits": geometry.punits,
            "first_zone": ftl.zone_map.first_zone,
            "replaced": ftl.zone_map.replaced,
        }


def _columns(ftl: FtlDevice) -> dict[str, NDArray[Any]]:
    bands = ftl.bands
    arrays: dict[str, NDArray[Any]] = {
        "seq": bands.seq,
        "valid": bands.valid,
        "capacity": bands.capacity,
        "resets": bands.resets,
        "state": bands.reported_states(),
        "stream": bands.streams,
    }
    types = dict(COLUMNS)
    return {name: values.astype(types[name]) for name, values in arrays.items()}


def _cursor(ftl: FtlDevice, version: int) -> str:
    return f"{ftl.uuid}.{ftl.incarnation}.{version}"


def _packed(header: dict[str, Any], columns: dict[str, NDArray[Any]], numbers: NDArray[np.uint32]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH.itemsize) % _ALIGNMENT)
    parts = [np.array(len(text), _LENGTH).tobytes(), text]
    parts += [(columns[name] if name == "band" else columns[name][numbers]).tobytes() for name, _ in COLUMNS]
    return b"".join(parts)
