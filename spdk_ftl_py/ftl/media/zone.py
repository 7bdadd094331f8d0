"""One zone as a zone report describes it (NVMe ZNS Command Set, Zone Descriptor)."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import ProtocolError

ZONE_REPORT_HEADER_BYTES: Final = 64
ZONE_DESCRIPTOR_BYTES: Final = 64
ZONE_TYPE_SEQUENTIAL: Final = 2

EMPTY: Final = "empty"
IMPLICITLY_OPEN: Final = "implicitly_open"
EXPLICITLY_OPEN: Final = "explicitly_open"
CLOSED: Final = "closed"
READ_ONLY: Final = "read_only"
FULL: Final = "full"
OFFLINE: Final = "offline"

_STATES: Final = {
    0x1: EMPTY,
    0x2: IMPLICITLY_OPEN,
    0x3: EXPLICITLY_OPEN,
    0x4: CLOSED,
    0xD: READ_ONLY,
    0xE: FULL,
    0xF: OFFLINE,
}
ACTIVE_STATES: Final = frozenset({IMPLICITLY_OPEN, EXPLICITLY_OPEN, CLOSED})
UNUSABLE_STATES: Final = frozenset({READ_ONLY, OFFLINE})
# By code. Many times faster than np.isin() for the few zones of a report.
_KNOWN: Final = np.array([code in _STATES for code in range(16)])
_ACTIVE: Final = np.array([_STATES.get(code) in ACTIVE_STATES for code in range(16)])
_UNUSABLE: Final = np.array([_STATES.get(code) in UNUSABLE_STATES for code in range(16)])

ATTRIBUTE_FINISHED: Final = 1 << 0
"""ZFC: the device has finished the zone by itself."""
ATTRIBUTE_FINISH: Final = 1 << 1
"""FZR: the device recommends to finish the zone."""
ATTRIBUTE_RESET: Final = 1 << 2
"""RZR: the device recommends to reset the zone."""

_DESCRIPTOR: Final = np.dtype(
    {
        "names": ["type", "state", "attributes", "capacity", "start", "pointer"],
        "formats": ["u1", "u1", "u1", "<u8", "<u8", "<u8"],
        "offsets": [0, 1, 2, 8, 16, 24],
        "itemsize": ZONE_DESCRIPTOR_BYTES,
    }
)
_WRITTEN_TO_CAPACITY: Final = frozenset({FULL, READ_ONLY, OFFLINE})


class Zone(NamedTuple):
    """A tuple, because there may be half a million of them.

    start, capacity and written are in blocks; written is the distance of the write pointer from start (capacity if the
    zone is full).
    """

    index: int  # type: ignore[assignment]  # tuple.index, which nobody needs of it
    start: int
    capacity: int
    state: str
    written: int
    attributes: int = 0
    """ATTRIBUTE_*; others are ignored."""

    @property
    def usable(self) -> bool:
        return self.state not in UNUSABLE_STATES

    @property
    def finished_by_device(self) -> bool:
        """It may be full without having been written to its end."""
        return self.state == FULL and bool(self.attributes & ATTRIBUTE_FINISHED)

    @property
    def finish_recommended(self) -> bool:
        return bool(self.attributes & ATTRIBUTE_FINISH)

    @property
    def reset_recommended(self) -> bool:
        return bool(self.attributes & ATTRIBUTE_RESET)


def parse_report(
    report: bytes | bytearray | memoryview, *, first_zone: int, zone_size: int, zones_max: int
) -> list[Zone]:
    """The zones of a partial report that starts at zone ``first_zone``, at most ``zones_max``.

    Raises ProtocolError if the report is contradictory: wrong type, gaps, impossible capacity or write pointer.
    """
    if len(report) < ZONE_REPORT_HEADER_BYTES:
        raise ProtocolError(f"zone report has {len(report)} bytes, less than its header of {ZONE_REPORT_HEADER_BYTES}")
    (count,) = struct.unpack_from("<Q", report, 0)
    room = (len(report) - ZONE_REPORT_HEADER_BYTES) // ZONE_DESCRIPTOR_BYTES
    table = np.frombuffer(report, _DESCRIPTOR, min(count, room, zones_max), ZONE_REPORT_HEADER_BYTES)
    _check(table, first_zone, zone_size)
    # Nobody checks zones that are not usable.
    capacities = np.minimum(table["capacity"], np.uint64(zone_size)).tolist()
    states = [_STATES[code] for code in (table["state"] >> 4).tolist()]
    starts, pointers, attributes = table["start"].tolist(), table["pointer"].tolist(), table["attributes"].tolist()
    zones = []
    for index, (start, capacity, state, pointer, attribute) in enumerate(
        zip(starts, capacities, states, pointers, attributes, strict=True), first_zone
    ):
        written = 0 if state == EMPTY else capacity if state in _WRITTEN_TO_CAPACITY else pointer - start
        zones.append(Zone(index, start, capacity, state, written, attribute))
    return zones


def _check(table: NDArray[Any], first_zone: int, zone_size: int) -> None:
    """Raises ProtocolError for the first zone whose description is impossible."""
    index = np.arange(first_zone, first_zone + len(table), dtype=np.uint64)
    code, start, capacity, pointer = table["state"] >> 4, table["start"], table["capacity"], table["pointer"]
    usable = ~_UNUSABLE[code]
    # After the checks above nothing overflows.
    pointed = _ACTIVE[code]
    checks = (
        (table["type"] & 0xF) != ZONE_TYPE_SEQUENTIAL,
        ~_KNOWN[code],
        start != index * np.uint64(zone_size),
        usable & ((capacity == 0) | (capacity > zone_size)),
        pointed & ((pointer < start) | (pointer - start > capacity)),
    )
    wrong = np.flatnonzero(np.logical_or.reduce(checks))
    if not len(wrong):
        return
    row = int(wrong[0])
    zone, which = first_zone + row, [bool(check[row]) for check in checks].index(True)
    at, length, to = int(start[row]), int(capacity[row]), int(pointer[row])
    raise ProtocolError(
        (
            f"zone {zone} has type {int(table['type'][row]) & 0xF}: only sequential-write-required zones (2) are "
            "supported",
            f"zone {zone} is in unknown state {int(code[row]):#x}",
            f"zone {zone} starts at block {at}, expected {zone * zone_size}",
            f"zone {zone} has capacity {length}, zone size is {zone_size}",
            f"zone {zone} has its write pointer at {to}, outside of {at}..{at + length}",
        )[which]
    )
