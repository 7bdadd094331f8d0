"""SharedHostQpair against a server made of memfds: what it sends, where data go, and what it does not put up with."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support.qpair_rig import Done, Driver
from support.shared_server import BLOCK, DOORBELLS, QUEUE_IOVA, RANGE_IOVA, Command, SharedServer

PATH_ERROR = 0x370
DEPTH = 4
Op = _shim.Op


@dataclass
class Host(Driver):
    def __post_init__(self) -> None:
        gc.collect()  # cores of earlier tests have ranges, too, and only so many are found on the hot path
        self.server = SharedServer(_shim.SharedQueueMemory(DEPTH, 64 << 10))
        self.ranges = _shim.MappedRanges()
        self.qpair = self.make()
        self.port = _shim.IoPort(self.reactor, self.qpair, 32)
        self.now_ns = 1

    def make(self, **options: Any) -> _shim.SharedHostQpair:
        given: dict[str, Any] = {
            "nsid": 3, "memory_iova": QUEUE_IOVA, "sq_doorbell": 8, "cq_doorbell": 12, "block_count": 256,
            "volatile_cache": True, "zoned": True, "zone_size": 64, "zone_capacity": 64, "io_timeout_ms": 1000,
        }  # fmt: skip
        return _shim.SharedHostQpair(
            self.reactor, self.server.memory, self.ranges, self.server.doorbells, **{**given, **options}
        )

    def use(self, **options: Any) -> None:
        self.port.close()
        self.qpair.close()
        self.qpair = self.make(**options)
        self.port = _shim.IoPort(self.reactor, self.qpair, 32)

    def submit(self, op: _shim.Op, *args: Any, **options: Any) -> int:
        return self.port.submit(op, *args, **options)

    def settle(self) -> None:
        for _ in range(6):
            self.now_ns += 1000
            self.reactor.step(self.now_ns)
        self.collect()

    def finished(self, ticket: int) -> Done:
        self.settle()
        return self.done.pop(ticket)

    def sent(self) -> Command:
        self.settle()
        (command,) = self.server.take()
        return command

    def run(self, op: _shim.Op, *args: Any, **options: Any) -> Done:
        ticket = self.submit(op, *args, **options)
        self.settle()
        self.server.serve()
        return self.finished(ticket)

    def lost(self) -> _shim.QpairClose:
        (event,) = [event for event in self.events if event.kind == _shim.EventKind.HOST_QPAIR_LOST]
        assert not self.qpair.connected
        return _shim.QpairClose(event.reason)

    def close(self) -> None:
        self.qpair.close()
        self.port.close()
        self.server.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.mark.parametrize("blocks", [1, 2, 3, 16])
def test_data_of_memory_that_is_not_mapped_go_through_the_slots_buffer(host: Host, blocks: int) -> None:
    data = random.Random(blocks).randbytes(blocks * BLOCK)
    assert host.run(Op.WRITE, 5, blocks, data).status == 0
    assert host.server.disk[5 * BLOCK : (5 + blocks) * BLOCK] == data
    target = bytearray(blocks * BLOCK)
    assert host.run(Op.READ, 5, blocks, target).status == 0
    assert target == data
    assert (host.qpair.stats.direct_bytes, host.qpair.stats.bounced_bytes) == (0, 2 * blocks * BLOCK)


def test_every_operation_becomes_its_command(host: Host) -> None:
    for op, arguments, options, expected in (
        (Op.FLUSH, (), {}, {"opcode": 0, "slba": 0}),
        (Op.WRITE, (9, 1, bytes(BLOCK)), {"fua": True}, {"opcode": 1, "slba": 9, "cdw12": 1 << 30}),
        (Op.WRITE_ZEROES, (7, 65536), {}, {"opcode": 8, "slba": 7, "cdw12": 0xFFFF}),
        (Op.APPEND, (64, 2, bytes(2 * BLOCK)), {}, {"opcode": 0x7D, "slba": 64, "cdw12": 1}),
        (Op.ZONE_SEND, (64,), {"zone_action": 4}, {"opcode": 0x79, "slba": 64, "cdw13": 4, "prp1": 0}),
        (Op.ZONE_REPORT, (0, 0, bytearray(128)), {"zone_all": True}, {"opcode": 0x7A, "cdw12": 31, "cdw13": 1 << 16}),
        (Op.DEALLOCATE, (7, 9), {}, {"opcode": 9, "slba": 4 << 32}),
    ):
        ticket = host.submit(op, *arguments, **options)
        command = host.sent()
        assert {name: getattr(command, name) for name in expected} == expected
        assert (command.nsid, command.raw[1]) == (3, 0)
        if op == Op.DEALLOCATE:
            assert host.server.receive(command, 16) == b"\0\0\0\0\x09\0\0\0\x07" + bytes(7)
        host.server.complete(command.cid, result=66 if op == Op.APPEND else 0)
        assert host.finished(ticket) == Done(0, 66 if op == Op.APPEND else 0)


def test_an_error_comes_with_do_not_retry_and_leaves_the_buffer_alone(host: Host) -> None:
    target = bytearray(BLOCK)
    ticket = host.submit(Op.READ, 0, 1, target)
    command = host.sent()
    host.server.send(command, b"x" * BLOCK)
    host.server.complete(command.cid, status=0x4281)  # unrecovered read, DNR (bit 14 of the status)
    assert host.finished(ticket) == Done(0x281, 1)
    assert target == bytes(BLOCK)


def test_an_append_outside_of_its_zone_is_an_error(host: Host) -> None:
    ticket = host.submit(Op.APPEND, 64, 1, bytes(BLOCK))
    host.server.complete(host.sent().cid, result=128)
    assert host.finished(ticket).status == 0x006


def test_commands_beyond_the_depth_wait_and_queues_go_round(host: Host) -> None:
    tickets = [host.submit(Op.WRITE, number, 1, bytes([number]) * BLOCK) for number in range(11)]
    seen = []
    for _ in range(11):
        host.settle()
        commands = host.server.take()
        assert len(commands) <= DEPTH
        seen += [command.slba for command in commands]
        for command in reversed(commands):
            host.server.execute(command)
            host.server.complete(command.cid)
    host.settle()
    assert seen == list(range(11))
    assert [host.done[ticket].status for ticket in tickets] == [0] * 11
    assert [host.server.disk[number * BLOCK] for number in range(11)] == list(range(11))
    assert host.server.cq_doorbell == host.server.tail == 11 % (DEPTH + 1)


def test_a_queue_that_somebody_has_used_goes_on_there(host: Host) -> None:
    host.use(used_entries=2)
    host.server.head = host.server.tail = 2
    assert host.run(Op.WRITE, 1, 1, b"a" * BLOCK).status == 0
    with pytest.raises(ValueError, match="have 5 entries"):
        host.make(used_entries=DEPTH + 1)


# --- memory that the server has mapped -------------------------------------------------------------------------------


def wanted(host: Host) -> _shim.SharedRange | None:
    host.settle()
    asked = [event for event in host.events if event.kind == _shim.EventKind.SHARED_MEMORY_WANTED]
    host.events.clear()
    assert len(asked) <= 1
    return host.qpair.take_wanted() if asked else None


@pytest.mark.parametrize("receives", [False, True])
def test_mapped_memory_is_used_directly_for_its_direction(host: Host, receives: bool) -> None:
    pages = _shim.SharedPages(64 * BLOCK, receives)
    memory = pages.array
    memory[:] = 7
    assert host.run(Op.WRITE, 0, 3, memory[BLOCK : 4 * BLOCK]).status == 0
    shared = wanted(host)
    assert shared is not None
    assert (shared.offset, shared.receives) == (0, receives)
    assert host.qpair.stats.direct_bytes == 0
    host.server.map(shared)
    host.ranges.add(shared, RANGE_IOVA)

    ticket = host.submit(Op.WRITE, 8, 3, memory[BLOCK : 4 * BLOCK])
    command = host.sent()
    assert host.server.pages(command, 3 * BLOCK) == [(RANGE_IOVA + n * BLOCK, BLOCK) for n in (1, 2, 3)]
    host.server.execute(command)
    host.server.complete(command.cid)
    assert host.finished(ticket).status == 0
    assert host.server.disk[8 * BLOCK : 11 * BLOCK] == b"\7" * (3 * BLOCK)
    assert host.qpair.stats.direct_bytes == 3 * BLOCK

    host.server.disk[: 2 * BLOCK] = b"\1" * BLOCK + b"\2" * BLOCK
    ticket = host.submit(Op.READ, 0, 2, memory[: 2 * BLOCK])
    command = host.sent()
    assert (command.prp1 == RANGE_IOVA) is receives
    host.server.execute(command)
    assert bool(memory[0] == 1) is receives, "memory that only sends is written by nobody but us"
    host.server.complete(command.cid)
    assert host.finished(ticket).status == 0
    assert bytes(memory[: 2 * BLOCK]) == b"\1" * BLOCK + b"\2" * BLOCK
    assert wanted(host) is None


def test_an_io_that_no_prp_list_can_describe_is_copied(host: Host) -> None:
    pages = _shim.SharedPages(64 * BLOCK, True)
    host.run(Op.WRITE, 0, 1, pages.array[:BLOCK])
    shared = wanted(host)
    assert shared is not None
    host.server.map(shared)
    host.ranges.add(shared, RANGE_IOVA)
    pages.array[: 3 * BLOCK] = [n % 251 for n in range(3 * BLOCK)]
    for start, direct in ((0, True), (4, True), (2, False)):
        before = host.qpair.stats.direct_bytes
        assert host.run(Op.WRITE, 0, 2, pages.array[start : start + 2 * BLOCK]).status == 0
        assert (host.qpair.stats.direct_bytes > before) is direct
        assert bytes(host.server.disk[: 2 * BLOCK]) == bytes(pages.array[start : start + 2 * BLOCK])


def test_memory_that_was_given_up_is_never_named_again(host: Host) -> None:
    pages = _shim.SharedPages(64 * BLOCK, True)
    host.run(Op.WRITE, 0, 1, pages.array[:BLOCK])
    shared = wanted(host)
    assert shared is not None
    assert not shared.gone
    host.ranges.add(shared, RANGE_IOVA)
    host.port.close()
    host.port = _shim.IoPort(host.reactor, host.qpair, 32)
    del pages
    assert shared.gone
    # The same addresses may be other memory now.
    others = [_shim.SharedPages(64 * BLOCK, True) for _ in range(4)]
    for other in others:
        other.array[:BLOCK] = 9
        assert host.run(Op.WRITE, 0, 1, other.array[:BLOCK]).status == 0
    assert host.qpair.stats.direct_bytes == 0


# --- a server that means no good -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cid", [1, DEPTH, 0xFFFF])
def test_a_completion_of_no_command_ends_the_connection(host: Host, cid: int) -> None:
    tickets = [host.submit(Op.FLUSH)]
    host.settle()
    assert host.server.take()[0].cid == 0
    host.server.complete(cid)
    host.settle()
    assert host.lost() is _shim.QpairClose.PROTOCOL_ERROR
    tickets.append(host.submit(Op.READ, 0, 1, bytearray(BLOCK)))
    host.settle()
    assert [host.done[ticket].status for ticket in tickets] == [PATH_ERROR] * 2


def test_a_command_that_is_completed_twice_ends_the_connection(host: Host) -> None:
    tickets = [host.submit(Op.FLUSH) for _ in range(2)]
    host.settle()
    first, _ = host.server.take()
    host.server.complete(first.cid)
    host.server.complete(first.cid)
    host.settle()
    assert [host.done[ticket].status for ticket in tickets] == [0, PATH_ERROR]
    assert host.lost() is _shim.QpairClose.PROTOCOL_ERROR


def test_phases_at_random_neither_hang_nor_complete_anything_twice(host: Host) -> None:
    dice = random.Random(7)
    for _ in range(40):
        if not host.qpair.connected:
            host.use()
            host.server.head, host.server.tail, host.server.phase = 0, 0, 1
            host.server.maps[QUEUE_IOVA][host.server.memory.cq_offset :][: 16 * (DEPTH + 1)]
        tickets = [host.submit(Op.WRITE, 1, 1, bytes(BLOCK)) for _ in range(6)]
        for _ in range(3):
            for _ in range(dice.randrange(8)):
                host.server.complete(dice.randrange(6), dice.randrange(3), phase=dice.randrange(2))
            host.settle()
        host.qpair.close()
        host.settle()
        assert sorted(host.done) == sorted(tickets)
        host.done.clear()


def test_a_late_answer_reaches_nobody(host: Host) -> None:
    """A server hangs, the command is given up, and its memory is used again. Then the server goes on."""
    target = bytearray(BLOCK)
    pages = _shim.SharedPages(BLOCK, False)
    host.run(Op.WRITE, 0, 1, pages.array[:BLOCK])
    shared = wanted(host)
    assert shared is not None
    host.server.map(shared)
    host.ranges.add(shared, RANGE_IOVA)
    tickets = [host.submit(Op.READ, 0, 1, target), host.submit(Op.READ, 0, 1, pages.array[:BLOCK])]
    host.settle()
    commands = host.server.take()
    host.now_ns += 1_200_000_000
    host.settle()
    assert host.lost() is _shim.QpairClose.TIMED_OUT
    assert [host.done[ticket].status for ticket in tickets] == [PATH_ERROR] * 2
    target[:] = b"n" * BLOCK
    pages.array[:BLOCK] = ord("n")
    for command in commands:
        host.server.send(command, b"o" * BLOCK)
        host.server.complete(command.cid)
    host.settle()
    assert target == bytes(pages.array[:BLOCK]) == b"n" * BLOCK


def test_a_shrunk_bar0_ends_the_connection_and_nothing_else(host: Host) -> None:
    os.ftruncate(host.server.bar0, 0)
    ticket = host.submit(Op.FLUSH)
    assert host.finished(ticket).status == PATH_ERROR
    assert host.server.doorbells.broken
    assert host.lost() is _shim.QpairClose.PEER_CLOSED


def test_the_server_cannot_shrink_our_memory(host: Host) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(host.server.memory.fd, 0)
    pages = _shim.SharedPages(BLOCK, True)
    host.run(Op.WRITE, 0, 1, pages.array[:BLOCK])
    shared = wanted(host)
    assert shared is not None
    with pytest.raises(PermissionError):
        os.ftruncate(shared.fd, 0)


def test_impossible_queues_are_refused(host: Host) -> None:
    for options, words in (
        ({"sq_doorbell": 4096}, "no doorbell at 4096"),
        ({"cq_doorbell": 6}, "no doorbell at 6"),
        ({"block_bytes": 130}, "multiple of dwords"),
        ({"block_bytes": 1 << 20}, "longer than max_io_bytes"),
    ):
        with pytest.raises(ValueError, match=words):
            host.make(**options)
    for depth, io_bytes in ((0, 4096), (4096, 4096), (1, 0), (1, (1 << 20) + 1)):
        with pytest.raises(ValueError, match="must be within"):
            _shim.SharedQueueMemory(depth, io_bytes)
    with pytest.raises(ValueError, match="8192 bytes"):
        _shim.Doorbells(host.server.bar0, DOORBELLS, 8192)
