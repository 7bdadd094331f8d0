"""A vfio-user server of the simplest kind, below the messages: queues in shared memory, executed when a test says so.

It has what a server gets (fds, addresses), and can do what a hostile one can.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, field

from spdk_ftl_py import _shim

BAR0_BYTES = 8192
DOORBELLS = 4096
BLOCK = 4096
QUEUE_IOVA = 1 << 40
RANGE_IOVA = 1 << 41
OPS = {
    0: "flush",
    1: "write",
    2: "read",
    8: "write_zeroes",
    9: "dsm",
    0x79: "zone_send",
    0x7A: "report",
    0x7D: "append",
}


@dataclass(frozen=True)
class Command:
    cid: int
    opcode: int
    nsid: int
    prp1: int
    prp2: int
    slba: int
    cdw12: int
    cdw13: int
    raw: bytes

    @property
    def name(self) -> str:
        return OPS[self.opcode]

    @property
    def blocks(self) -> int:
        return (self.cdw12 & 0xFFFF) + 1


@dataclass
class SharedServer:
    memory: _shim.SharedQueueMemory
    bar0: int = field(default_factory=lambda: os.memfd_create("bar0"))
    disk: bytearray = field(default_factory=lambda: bytearray(256 * BLOCK))

    def __post_init__(self) -> None:
        os.ftruncate(self.bar0, BAR0_BYTES)
        self.registers = mmap.mmap(self.bar0, BAR0_BYTES)
        self.maps = {QUEUE_IOVA: mmap.mmap(self.memory.fd, self.memory.bytes)}
        self.doorbells = _shim.Doorbells(self.bar0, DOORBELLS, BAR0_BYTES - DOORBELLS)
        self.head = self.tail = 0
        self.phase = 1

    def close(self) -> None:
        os.close(self.bar0)

    def map(self, shared: _shim.SharedRange, iova: int = RANGE_IOVA) -> None:
        self.maps[iova] = mmap.mmap(shared.fd, shared.bytes, offset=shared.offset)

    def take(self) -> list[Command]:
        """What the host has put into the queue."""
        tail = struct.unpack_from("<I", self.registers, DOORBELLS + 8)[0]
        commands = []
        while self.head != tail:
            at = self.memory.sq_offset + self.head * 64
            raw = bytes(self.maps[QUEUE_IOVA][at : at + 64])
            opcode, _, cid, nsid, prp1, prp2, slba, cdw12, cdw13 = struct.unpack("<BBHI16xQQQII8x", raw)
            commands.append(Command(cid, opcode, nsid, prp1, prp2, slba, cdw12, cdw13, raw))
            self.head = (self.head + 1) % self.memory.entries
        return commands

    def pages(self, command: Command, length: int) -> list[tuple[int, int]]:
        """(address, bytes) of the command's data."""
        first = min(length, BLOCK - command.prp1 % BLOCK)
        found = [(command.prp1, first)]
        left = length - first
        if 0 < left <= BLOCK:
            found.append((command.prp2, left))
        elif left:
            count = -(-left // BLOCK)
            for address in struct.unpack(f"<{count}Q", self.read(command.prp2, 8 * count)):
                found.append((address, min(left, BLOCK)))
                left -= BLOCK
        return found

    def _place(self, address: int) -> tuple[mmap.mmap, int]:
        iova = max(each for each in self.maps if each <= address)
        return self.maps[iova], address - iova

    def read(self, address: int, length: int) -> bytes:
        memory, at = self._place(address)
        return bytes(memory[at : at + length])

    def write(self, address: int, data: bytes) -> None:
        memory, at = self._place(address)
        memory[at : at + len(data)] = data

    def receive(self, command: Command, length: int) -> bytes:
        return b"".join(self.read(*page) for page in self.pages(command, length))

    def send(self, command: Command, data: bytes) -> None:
        for address, length in self.pages(command, len(data)):
            self.write(address, data[:length])
            data = data[length:]

    def execute(self, command: Command) -> None:
        """Reads and writes of the disk; everything else succeeds."""
        at, length = command.slba * BLOCK, command.blocks * BLOCK
        if command.name == "write":
            self.disk[at : at + length] = self.receive(command, length)
        elif command.name == "read":
            self.send(command, bytes(self.disk[at : at + length]))

    def complete(self, cid: int, status: int = 0, result: int = 0, *, phase: int | None = None) -> None:
        """status: SCT << 8 | SC."""
        at = self.memory.cq_offset + self.tail * 16
        bit = self.phase if phase is None else phase
        self.maps[QUEUE_IOVA][at : at + 16] = struct.pack("<QHHHH", result, self.head, 1, cid, status << 1 | bit)
        self.tail += 1
        if self.tail == self.memory.entries:
            self.tail, self.phase = 0, self.phase ^ 1

    def serve(self) -> int:
        commands = self.take()
        for command in commands:
            self.execute(command)
            self.complete(command.cid)
        return len(commands)

    @property
    def cq_doorbell(self) -> int:
        return int(struct.unpack_from("<I", self.registers, DOORBELLS + 12)[0])
