"""A block device driven by hand: one I/O at a time, or many outstanding, on a reactor without a thread."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spdk_ftl_py import _shim

STEPS_MAX = 10_000

ZSA_CLOSE, ZSA_FINISH, ZSA_OPEN, ZSA_RESET, ZSA_OFFLINE, ZSA_SET_EXTENSION = 1, 2, 3, 4, 5, 0x10
ZONE_STATE_NAMES = {
    0x1: "empty",
    0x2: "implicitly_open",
    0x3: "explicitly_open",
    0x4: "closed",
    0xD: "read_only",
    0xE: "full",
    0xF: "offline",
}


@dataclass(frozen=True)
class Completion:
    status: int
    result: int


@dataclass(frozen=True)
class ReportedZone:
    kind: int
    state: str
    attributes: int
    capacity: int
    start: int
    write_pointer: int


class Stepped:
    """An IoPort whose reactor is stepped until the I/O in question completes. Time stands still unless told."""

    def __init__(self, reactor: _shim.Reactor, device: _shim.BlockDevice, depth: int = 64) -> None:
        self.reactor = reactor
        self.device = device
        self.port = _shim.IoPort(reactor, device, depth)
        self.now_ns = 1
        self.completed: dict[int, Completion] = {}
        self.completion_order: list[int] = []

    def __enter__(self) -> Stepped:
        return self

    def __exit__(self, *_: object) -> None:
        self.port.close()

    def step(self) -> int:
        work = self.reactor.step(self.now_ns)
        for event in self.reactor.events():
            if event.kind == _shim.EventKind.IO_DONE and event.source == self.port.id:
                self.completed[event.ticket] = Completion(event.status, event.result)
                self.completion_order.append(event.ticket)
        return work

    def wait(self, ticket: int) -> Completion:
        for _ in range(STEPS_MAX):
            if ticket in self.completed:
                return self.completed.pop(ticket)
            self.step()
        raise AssertionError(f"I/O {ticket} did not complete within {STEPS_MAX} steps")

    def write(self, lba: int, data: bytes | NDArray[np.uint8], *, fua: bool = False) -> int:
        block_count = len(data) // self.device.block_bytes
        return self.wait(self.port.submit(_shim.Op.WRITE, lba, block_count, data, fua=fua)).status

    def append(self, zone_start: int, data: bytes, *, fua: bool = False) -> Completion:
        block_count = len(data) // self.device.block_bytes
        return self.wait(self.port.submit(_shim.Op.APPEND, zone_start, block_count, data, fua=fua))

    def read(self, lba: int, block_count: int = 1) -> bytes:
        data = bytearray(b"\xa5" * (block_count * self.device.block_bytes))
        status = self.wait(self.port.submit(_shim.Op.READ, lba, block_count, data)).status
        assert status == 0, hex(status)
        return bytes(data)

    def read_status(self, lba: int, block_count: int = 1) -> int:
        data = bytearray(block_count * self.device.block_bytes)
        return self.wait(self.port.submit(_shim.Op.READ, lba, block_count, data)).status

    def run(self, op: _shim.Op, lba: int = 0, block_count: int = 0, *, fua: bool = False) -> int:
        return self.wait(self.port.submit(op, lba, block_count, fua=fua)).status

    def flush(self) -> int:
        return self.run(_shim.Op.FLUSH)

    def zone_send(self, lba: int, action: int, *, select_all: bool = False) -> int:
        ticket = self.port.submit(_shim.Op.ZONE_SEND, lba, zone_action=action, zone_all=select_all)
        return self.wait(ticket).status

    def report(
        self, lba: int = 0, *, zones: int = 64, zone_filter: int = 0, partial: bool = False
    ) -> tuple[int, list[ReportedZone]]:
        """NR_ZONES and the descriptors that a buffer for `zones` of them got."""
        data = bytearray(b"\xa5" * (64 * (1 + zones)))
        ticket = self.port.submit(_shim.Op.ZONE_REPORT, lba, buffer=data, zone_filter=zone_filter, zone_all=partial)
        status = self.wait(ticket).status
        assert status == 0, hex(status)
        (zone_count,) = struct.unpack_from("<Q", data)
        found = []
        for offset in range(64, len(data), 64):
            kind, state, attributes, capacity, start, write_pointer = struct.unpack_from("<BBB5xQQQ", data, offset)
            if kind == 0:
                assert not any(data[offset:])
                break
            found.append(ReportedZone(kind, ZONE_STATE_NAMES[state >> 4], attributes, capacity, start, write_pointer))
        return zone_count, found


def block(tag: int, block_bytes: int = 4096) -> bytes:
    """A block that tells which one it is."""
    return struct.pack("<Q", tag + 1) * (block_bytes // 8)


def blocks(first_tag: int, block_count: int, block_bytes: int = 4096) -> bytes:
    return b"".join(block(first_tag + i, block_bytes) for i in range(block_count))
