"""One zone as a zone report describes it (NVMe ZNS Command Set, Zone Descriptor)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

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

ATTRIBUTE_FINISHED: Final = 1 << 0
"""ZFC: the device has finished it by itself."""
ATTRIBUTE_FINISH: Final = 1 << 1
"""FZR: it would like it to be finished."""
ATTRIBUTE_RESET: Final = 1 << 2
"""RZR: it would like it to be reset."""

_DESCRIPTOR = struct.Struct("<BBBB4xQQQ32x")


@dataclass(frozen=True, slots=True)
class Zone:
    """start, capacity and written are in blocks; written is how far the write pointer is from start (capacity if
    full)."""

    index: int
    start: int
    capacity: int
    state: str
    written: int
    attributes: int = 0
    """ATTRIBUTE_*; others mean nothing to us."""

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
    """The zones of a partial report that was asked for at zone ``first_zone``, at most ``zones_max``.

    Raises ProtocolError where the device contradicts itself: wrong type, gaps, impossible capacity or write pointer.
    """
    if len(report) < ZONE_REPORT_HEADER_BYTES:
        raise ProtocolError(f"zone report has {len(report)} bytes, its header alone has {ZONE_REPORT_HEADER_BYTES}")
    (count,) = struct.unpack_from("<Q", report, 0)
    room = (len(report) - ZONE_REPORT_HEADER_BYTES) // ZONE_DESCRIPTOR_BYTES
    zones = []
    for i in range(min(count, room, zones_max)):
        kind, state_byte, attributes, _, capacity, start, pointer = _DESCRIPTOR.unpack_from(
            report, ZONE_REPORT_HEADER_BYTES + i * ZONE_DESCRIPTOR_BYTES
        )
        index = first_zone + i
        if kind & 0xF != ZONE_TYPE_SEQUENTIAL:
            raise ProtocolError(
                f"zone {index} has type {kind & 0xF}: only sequential-write-required zones (2) are known"
            )
        state = _STATES.get(state_byte >> 4)
        if state is None:
            raise ProtocolError(f"zone {index} is in unknown state {state_byte >> 4:#x}")
        if start != index * zone_size:
            raise ProtocolError(f"zone {index} starts at block {start}, expected {index * zone_size}")
        usable = state not in UNUSABLE_STATES
        if usable and not 0 < capacity <= zone_size:
            raise ProtocolError(f"zone {index} has capacity {capacity}, zone size is {zone_size}")
        # Of zones of no use nobody has checked it.
        capacity = min(capacity, zone_size)
        zones.append(Zone(index, start, capacity, state, _written(index, state, start, pointer, capacity), attributes))
    return zones


def _written(index: int, state: str, start: int, pointer: int, capacity: int) -> int:
    if state in (FULL, READ_ONLY, OFFLINE):
        return capacity
    if state == EMPTY:
        return 0
    if not start <= pointer <= start + capacity:
        raise ProtocolError(f"zone {index} has its write pointer at {pointer}, outside of {start}..{start + capacity}")
    return pointer - start
