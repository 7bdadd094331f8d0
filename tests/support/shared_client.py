"""A client of a queue over vfio-user: submission and completion queue, data and PRP lists in a memfd, its doorbells in
another one. The server side (_shim.SharedTargetQpair, _shim.SharedAdminQueue) is driven step by step."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from spdk_ftl_py import _shim

PAGE: Final = 4096
BASE: Final = 0x7F00_0000_0000
"""The IOVA of the first page."""
DATA_PAGES: Final = 256
DOORBELLS: Final = 0x1000
STEPS_MAX: Final = 2000

FLUSH, WRITE, READ, WRITE_UNCORRECTABLE, COMPARE, WRITE_ZEROES, DSM = 0x00, 0x01, 0x02, 0x04, 0x05, 0x08, 0x09
VERIFY, RESERVATION_REPORT, COPY, ZONE_SEND, ZONE_RECEIVE, APPEND = 0x0C, 0x0E, 0x19, 0x79, 0x7A, 0x7D
PRPS, SGL = 0x00, 0x40
SGL_BLOCK, SGL_SEGMENT, SGL_LAST_SEGMENT = 0x00, 0x20, 0x30


def entry(
    opcode: int,
    cid: int,
    *,
    nsid: int = 1,
    flags: int = PRPS,
    prps: tuple[int, int] = (0, 0),
    sgl: bytes = b"",
    slba: int = 0,
    cdw12: int = 0,
    cdw13: int = 0,
) -> bytes:
    """A submission queue entry."""
    data = sgl or struct.pack("<QQ", *prps)
    return struct.pack("<BBHI16x16sQII8x", opcode, flags, cid, nsid, data, slba, cdw12, cdw13)


def descriptor(kind: int, address: int, length: int) -> bytes:
    """An SGL descriptor."""
    return struct.pack("<QI3xB", address, length, kind)


def memfd(name: str, size: int, *, seal: bool = False) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seal:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


@dataclass(frozen=True)
class Answer:
    cid: int
    status: int
    result: int
    sqhd: int


@dataclass
class SharedClient:
    """The client, and what the server shares with it. The server side is opened with serve()."""

    reactor: _shim.Reactor
    sq_entries: int = 16
    cq_entries: int = 16
    qid: int = 1
    data_pages: int = DATA_PAGES
    max_io_bytes: int = 131072
    tail: int = 0
    head: int = 0
    phase: int = 1
    now_ns: int = 1
    sqhd: int = 0
    """As the server last told."""
    events: list[_shim.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sq_pages = -(-self.sq_entries * 64 // PAGE)
        self.cq_pages = -(-self.cq_entries * 16 // PAGE)
        self.first_data = self.sq_pages + self.cq_pages
        self.size = (self.first_data + self.data_pages) * PAGE
        self.fd = memfd("client", self.size)
        self.memory = mmap.mmap(self.fd, self.size)
        self.bar0_fd = memfd("bar0", 2 * PAGE, seal=True)
        self.bar0 = mmap.mmap(self.bar0_fd, 2 * PAGE)
        self.record_fd = memfd("record", _shim.SharedTargetQpair.record_bytes(self.sq_entries))
        self.map = _shim.DmaMap()
        self.map.map(BASE, self.size, self.fd, 0, True)

    def close(self) -> None:
        self.memory.close()
        self.bar0.close()
        for fd in (self.fd, self.bar0_fd, self.record_fd):
            os.close(fd)

    # --- the server

    @property
    def sq_iova(self) -> int:
        return BASE

    @property
    def cq_iova(self) -> int:
        return BASE + self.sq_pages * PAGE

    def config(self, flush_alarm: _shim.FlushAlarm | None = None) -> _shim.SharedQpairConfig:
        return _shim.SharedQpairConfig(
            qid=self.qid,
            sq_iova=self.sq_iova,
            cq_iova=self.cq_iova,
            sq_entries=self.sq_entries,
            cq_entries=self.cq_entries,
            max_io_bytes=self.max_io_bytes,
            flush_alarm=flush_alarm,
        )

    def serve(
        self,
        devices: dict[int, _shim.BlockDevice],
        bars: dict[int, tuple[int, int]] | None = None,
        *,
        flush_alarm: _shim.FlushAlarm | None = None,
    ) -> _shim.SharedTargetQpair:
        """A new server of the queue, which goes on from its record."""
        config = self.config(flush_alarm)
        return _shim.SharedTargetQpair(
            self.reactor, self.map, self.bar0_fd, self.record_fd, config, devices, bars or {}
        )

    def serve_admin(self) -> _shim.SharedAdminQueue:
        queues = (self.sq_iova, self.cq_iova, self.sq_entries, self.cq_entries)
        return _shim.SharedAdminQueue(self.reactor, self.map, self.bar0_fd, self.record_fd, *queues)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now_ns += 1000
            self.reactor.step(self.now_ns)
        self.events += self.reactor.events()

    # --- memory

    def iova(self, page: int, offset: int = 0) -> int:
        """Of a page of data."""
        return BASE + (self.first_data + page) * PAGE + offset

    def put(self, page: int, data: bytes, offset: int = 0) -> None:
        at = (self.first_data + page) * PAGE + offset
        self.memory[at : at + len(data)] = data

    def get(self, page: int, length: int, offset: int = 0) -> bytes:
        at = (self.first_data + page) * PAGE + offset
        return self.memory[at : at + length]

    def prps(self, pages: Sequence[int], offset: int = 0, list_page: int | None = None) -> tuple[int, int]:
        """Of data that begins at an offset in the first page; list_page: where a list begins, if one is needed."""
        first, rest = self.iova(pages[0], offset), [self.iova(page) for page in pages[1:]]
        if len(rest) <= 1:
            return first, rest[0] if rest else 0
        assert list_page is not None
        return first, self.prp_list(rest, list_page)

    def prp_list(self, addresses: Sequence[int], page: int, offset: int = 0) -> int:
        start = self.iova(page, offset)
        while True:
            room = (PAGE - offset) // 8
            if len(addresses) <= room:
                self.put(page, struct.pack(f"<{len(addresses)}Q", *addresses), offset)
                return start
            here, addresses = addresses[: room - 1], addresses[room - 1 :]
            self.put(page, struct.pack(f"<{room}Q", *here, self.iova(page + 1)), offset)
            page, offset = page + 1, 0

    # --- queues

    def doorbell(self, number: int, value: int) -> None:
        """number: 0 for the submission queue's tail, 1 for the completion queue's head."""
        # In one store: struct.pack_into() writes zeroes first.
        with memoryview(self.bar0) as raw, raw.cast("I") as doorbells:
            doorbells[DOORBELLS // 4 + 2 * self.qid + number] = value

    def push(self, *entries: bytes, ring: bool = True) -> None:
        for each in entries:
            self.memory[self.tail * 64 : self.tail * 64 + 64] = each
            self.tail = (self.tail + 1) % self.sq_entries
        if ring:
            self.doorbell(0, self.tail)

    def pop(self, *, most: int = 1 << 30, ring: bool = True) -> list[Answer]:
        """New completions."""
        answers = []
        while len(answers) < most:
            at = self.sq_pages * PAGE + self.head * 16
            # The phase first: the server may be writing the entry.
            if self.memory[at + 14] & 1 != self.phase:
                break
            result, sqhd, sqid, cid, status = struct.unpack_from("<QHHHH", self.memory, at)
            assert sqid == self.qid
            self.sqhd = sqhd
            answers.append(Answer(cid, status >> 1 & 0x7FF, result, sqhd))
            self.head += 1
            if self.head == self.cq_entries:
                self.head, self.phase = 0, 1 - self.phase
        if ring:
            self.doorbell(1, self.head)
        return answers

    def run(self, *entries: bytes) -> list[Answer]:
        """Sends commands, as the queue has room for them, and waits for all answers."""
        waiting, answers = list(entries), []
        for _ in range(STEPS_MAX):
            while waiting and (self.tail + 1) % self.sq_entries != self.sqhd:
                self.push(waiting.pop(0))
            self.step()
            answers += self.pop()
            if len(answers) == len(entries):
                return answers
        raise AssertionError(f"{len(answers)} of {len(entries)} commands completed")

    def status(self, command: bytes) -> int:
        (answer,) = self.run(command)
        return answer.status


@contextmanager
def shared_client(reactor: _shim.Reactor | None = None, **options: int) -> Iterator[SharedClient]:
    client = SharedClient(reactor or _shim.Reactor("test"), **options)
    try:
        yield client
    finally:
        client.close()
