"""Bars and abort_io() against commands that are more than one read or write: Compare, Verify, Copy, Write
Uncorrectable, fused pairs, and those for Python."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.pdus import FUSE_FIRST, FUSE_SECOND, R2T, SGL_IN_CAPSULE, SGL_TRANSPORT, Pdu, command, sqe
from support.qpair_rig import Peer, target_peer
from unit.shim.ftl.core_bench import Bench

BLOCK = 4096
BLOCKS = 256
ZEROES, DATA = bytes(BLOCK), b"\7" * BLOCK
FUA = 1 << 30
REGISTER, REPORT = 0x0D, 0x0E
OK, FIELD, FAILED_FUSED, NO_NAMESPACE, PREEMPTED, CONFLICT = 0, 0x002, 0x009, 0x00B, 0x01B, 0x083
INACCESSIBLE, PATH_ERROR, DIFFERS = 0x302, 0x370, 0x285
SLOW_US = 100_000


def io(opcode: int, data: bytes = b"", *, cid: int = 1, flags: int = 0x40, cdw12: int = 0, r2t: bool = False) -> bytes:
    """A command for block 3, in its capsule or with an R2T."""
    kind = SGL_TRANSPORT if r2t or not data else SGL_IN_CAPSULE
    entry = sqe(opcode, cid, slba=3, cdw12=cdw12, sgl_type=kind, sgl_length=len(data), flags=flags)
    return command(entry, b"" if r2t else data)


def copy(source: int = 10, *, cid: int = 1, r2t: bool = False, ranges: int = 1) -> bytes:
    """To block 3."""
    data = b"".join(struct.pack("<QQH14x", 0, source + i, 0) for i in range(ranges))
    return io(pdus.COPY, data, cid=cid, cdw12=ranges - 1, r2t=r2t)


def pair(expected: bytes = ZEROES, data: bytes = DATA, *, cdw12: int = 0, r2t: bool = False) -> bytes:
    return io(pdus.COMPARE, expected, cid=1, flags=FUSE_FIRST) + io(
        pdus.WRITE, data, cid=2, flags=FUSE_SECOND, cdw12=cdw12, r2t=r2t
    )


def statuses(answers: list[Pdu]) -> list[tuple[int, int]]:
    return [(answer.cid, answer.status) for answer in answers]


@contextmanager
def core_peer(**options: Any) -> Iterator[tuple[Peer, _shim.TargetQpair, _shim.Gate, _shim.FtlCore]]:
    """An FtlCore behind a gate. Writes stay in its buffer of 32 blocks, because nobody opens a band."""
    cores = []

    def device(reactor: _shim.Reactor) -> _shim.Gate:
        cores.append(Bench(reactor=reactor).core)
        return _shim.Gate(reactor, cores[0], accounts=True)

    with target_peer(device, queue_size=64, **options) as (peer, qpair, gate):
        yield peer, qpair, gate, cores[0]
        if gate.state != "failing":
            gate.fail(PATH_ERROR)
        cores[0].fail(PATH_ERROR)


READS = {
    "read": pdus.read(1, 3, 1),
    "compare": io(pdus.COMPARE, ZEROES),
    "verify": io(pdus.VERIFY),
}
CHANGES = {
    "write": io(pdus.WRITE, DATA),
    "write zeroes": io(pdus.WRITE_ZEROES),
    "write uncorrectable": io(pdus.WRITE_UNCORRECTABLE),
    "copy": copy(),
    "deallocate": command(
        sqe(pdus.DSM, 1, slba=4 << 32, sgl_type=SGL_IN_CAPSULE, sgl_length=16), struct.pack("<IIQ", 0, 1, 3)
    ),
    "flush": command(sqe(pdus.FLUSH, 1)),
}


@pytest.mark.parametrize("bars", [(0, 0), (0, CONFLICT), (CONFLICT, CONFLICT), (INACCESSIBLE, INACCESSIBLE)])
def test_bars_decide_by_whether_a_command_only_reads(bars: tuple[int, int]) -> None:
    with core_peer(bars={1: bars}) as (peer, qpair, gate, _):
        for name, raw in (READS | CHANGES).items():
            if name == "flush" and not bars[1]:
                continue  # it would wait for a band
            (answer,) = peer.exchange(raw)
            expected = bars[0] if name in READS else bars[1]
            assert answer.type == pdus.C2H_DATA if name == "read" and not expected else answer.status == expected, name
        if bars[1]:
            assert qpair.stats().write_blocks == 0
            assert gate.account().write.count == gate.account().trim.count == 0


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ((0, CONFLICT), [(1, FAILED_FUSED), (2, CONFLICT)]),
        ((CONFLICT, CONFLICT), [(1, CONFLICT), (2, CONFLICT)]),
        ((INACCESSIBLE, INACCESSIBLE), [(1, INACCESSIBLE), (2, INACCESSIBLE)]),
        ((0, 0), [(1, OK), (2, OK)]),
    ],
)
def test_a_fused_pair_is_barred_as_a_whole(bars: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    with core_peer(bars={1: bars}) as (peer, qpair, _, _core):
        assert statuses(peer.exchange(pair())) == expected
        assert qpair.stats().write_blocks == int(bars == (0, 0))
        qpair.set_bars(1, (0, 0))
        assert statuses(peer.exchange(io(pdus.COMPARE, DATA if bars == (0, 0) else ZEROES))) == [(1, OK)]


TRANSFERS = {
    "compare": (io(pdus.COMPARE, ZEROES, r2t=True), ZEROES, True),
    "write": (io(pdus.WRITE, DATA, r2t=True), DATA, False),
    "copy": (copy(r2t=True), struct.pack("<QQH14x", 0, 10, 0), False),
}


@pytest.mark.parametrize("name", TRANSFERS)
@pytest.mark.parametrize("bars", [(0, CONFLICT), (CONFLICT, CONFLICT), (INACCESSIBLE, INACCESSIBLE)])
def test_no_data_is_asked_for_that_is_barred_and_none_goes_on_that_is_barred_meanwhile(
    name: str, bars: tuple[int, int]
) -> None:
    raw, data, reads = TRANSFERS[name]
    expected = bars[0] if reads else bars[1]
    with core_peer() as (peer, qpair, gate, _):
        (grant,) = peer.exchange(raw)
        assert grant.type == R2T
        qpair.set_bars(1, bars)
        assert statuses(peer.exchange(pdus.h2c_data(1, grant.u16(10), 0, data))) == [(1, expected)]
        if expected:
            assert statuses(peer.exchange(raw)) == [(1, expected)]
        account = gate.account()
        assert (account.read.count, account.write.count) == (int(not expected), 0)
        qpair.set_bars(1, (0, 0))
        assert statuses(peer.exchange(io(pdus.WRITE, DATA))) == [(1, OK)]


def test_a_pair_whose_data_is_on_its_way_is_barred() -> None:
    with core_peer() as (peer, qpair, gate, _):
        (grant,) = peer.exchange(pair(r2t=True))
        qpair.set_bars(1, (0, CONFLICT))
        answers = peer.exchange(pdus.h2c_data(2, grant.u16(10), 0, DATA))
        assert statuses(answers) == [(1, FAILED_FUSED), (2, CONFLICT)]
        assert gate.account().write.count == 0


def test_a_copy_that_is_barred_between_read_and_write_writes_nothing() -> None:
    with core_peer() as (peer, qpair, gate, core):
        gate.hold()
        assert peer.exchange(copy(), io(pdus.VERIFY, cid=2)) == []
        qpair.set_bars(1, (0, CONFLICT))
        gate.set_device(core)
        assert sorted(statuses(peer.pdus())) == [(1, CONFLICT), (2, OK)]
        assert gate.account().write.count == 0


def test_commands_in_line_for_a_lane_are_barred_one_after_the_other() -> None:
    """Many of them: those that fail give their lanes back at once."""
    with core_peer() as (peer, qpair, gate, core):
        gate.hold()
        assert peer.exchange(*(io(pdus.VERIFY, cid=cid) for cid in range(60))) == []
        assert gate.held == 4
        qpair.set_bars(1, (CONFLICT, CONFLICT))
        gate.set_device(core)
        answers = peer.pdus()
        assert sorted(statuses(answers)) == [(cid, OK if cid < 4 else CONFLICT) for cid in range(60)]
        qpair.set_bars(1, (0, 0))
        assert len(peer.exchange(*(io(pdus.VERIFY, cid=cid) for cid in range(60)))) == 60


# --- abort_io()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (pair(), [(1, PREEMPTED), (2, FAILED_FUSED)]),
        (copy(), [(1, PREEMPTED)]),
        (io(pdus.COMPARE, ZEROES), [(1, PREEMPTED)]),
        (io(pdus.VERIFY), [(1, PREEMPTED)]),
        (io(pdus.WRITE_UNCORRECTABLE), [(1, PREEMPTED)]),
    ],
)
def test_what_a_gate_holds_is_taken_back(raw: bytes, expected: list[tuple[int, int]]) -> None:
    with core_peer() as (peer, qpair, gate, core):
        gate.hold()
        assert peer.exchange(raw) == []
        qpair.abort_io(1)
        assert qpair.aborting == 1
        assert statuses(peer.pdus()) == expected
        assert (qpair.aborting, gate.held) == (0, 0)
        gate.set_device(core)
        assert statuses(peer.exchange(io(pdus.COMPARE, ZEROES))) == [(1, OK)]


def test_a_pair_that_the_core_has_accepted_is_waited_for() -> None:
    with core_peer() as (peer, qpair, gate, core):
        assert peer.exchange(pair(cdw12=FUA)) == []
        qpair.abort_io(1)
        qpair.abort_io(1)
        assert peer.pdus() == []
        assert qpair.aborting == 1
        core.fail(PATH_ERROR)
        # It is not held for the next core.
        assert statuses(peer.pdus()) == [(1, OK), (2, PATH_ERROR)]
        assert (qpair.aborting, gate.held) == (0, 0)


def test_an_aborted_copy_does_not_go_on_when_its_read_could_not_be_taken_back() -> None:
    """Also if the host is allowed to write: it may be preempted without a reservation."""
    media = []

    def slow(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
        media.append(_shim.EmulatedMedia.conventional(reactor, BLOCKS))
        media[0].inject_fault(op=_shim.Op.READ, latency_us=SLOW_US)
        return media[0]

    with target_peer(slow) as (peer, qpair, device):
        assert peer.exchange(copy(ranges=2)) == []
        qpair.abort_io(1)
        assert qpair.aborting == 1
        peer.until(lambda: qpair.aborting == 0)
        (answer,) = peer.pdus()
        assert (answer.status, answer.u32(8)) == (PREEMPTED, 0)
        assert device.operations == 1
        device.clear_faults()
        assert statuses(peer.exchange(copy())) == [(1, OK)]


def test_abort_io_ends_what_has_not_reached_the_device() -> None:
    with core_peer() as (peer, qpair, gate, core):
        gate.hold()
        assert peer.exchange(*(io(pdus.VERIFY, cid=10 + i) for i in range(6))) == []
        (grant,) = peer.exchange(io(pdus.WRITE, DATA, cid=20, r2t=True))
        (second,) = peer.exchange(pair(r2t=True))
        qpair.abort_io(1)
        assert qpair.aborting == 4
        answers = peer.pdus()
        answers += peer.exchange(pdus.h2c_data(20, grant.u16(10), 0, DATA))
        answers += peer.exchange(pdus.h2c_data(2, second.u16(10), 0, DATA))
        assert sorted(statuses(answers)) == [
            (1, PREEMPTED), (2, FAILED_FUSED), *((10 + i, PREEMPTED) for i in range(6)), (20, PREEMPTED),
        ]  # fmt: skip
        assert qpair.aborting == 0
        gate.set_device(core)
        assert statuses(peer.exchange(pair())) == [(1, OK), (2, OK)]
        assert gate.account().write.count == 1


@pytest.mark.parametrize("raw", [pair(), copy(), io(pdus.COMPARE, ZEROES), io(REGISTER, bytes(16))])
def test_a_host_that_leaves_while_its_io_is_aborted_leaves_nothing(raw: bytes) -> None:
    with core_peer(reservations=True) as (peer, qpair, gate, _):
        gate.hold()
        peer.exchange(raw)
        qpair.abort_io(1)
        peer.hang_up()
        assert qpair.aborting == 0
        assert qpair.drained


# --- commands for Python


def test_reservation_commands_pass_a_reservation_but_no_inaccessible_path() -> None:
    register = io(REGISTER, struct.pack("<QQ", 1, 2))
    report = command(sqe(REPORT, 2, slba=15, sgl_length=64))
    with core_peer(reservations=True, bars={1: (CONFLICT, CONFLICT)}) as (peer, qpair, _, _core):
        assert peer.exchange(register, report) == []
        first, second = qpair.take_command(), qpair.take_command()
        assert first is not None
        assert second is not None
        assert qpair.take_command() is None
        assert (first.opcode, first.length, first.data) == (REGISTER, 16, struct.pack("<QQ", 1, 2))
        qpair.abort_io(1)
        assert qpair.aborting == 0
        assert qpair.complete_command(second.token, OK, b"\1\2\3")
        assert qpair.complete_command(first.token, OK)
        assert not qpair.complete_command(first.token, OK)
        data, done = peer.pdus()
        assert (data.cid, data.data) == (2, b"\1\2\3".ljust(64, b"\0"))
        assert (done.cid, done.status) == (1, OK)
        qpair.set_bars(1, (INACCESSIBLE, INACCESSIBLE))
        assert statuses(peer.exchange(register, report)) == [(1, INACCESSIBLE), (2, INACCESSIBLE)]
        assert qpair.take_command() is None


def test_a_namespace_that_is_replaced_leaves_its_commands_for_python_alone() -> None:
    with core_peer(reservations=True) as (peer, qpair, gate, _):
        assert peer.exchange(io(REGISTER, bytes(16))) == []
        qpair.set_namespace(1, None)
        taken = qpair.take_command()
        assert taken is not None
        assert taken.nsid == 1
        assert statuses(peer.exchange(io(pdus.VERIFY, cid=2))) == [(2, NO_NAMESPACE)]
        assert qpair.complete_command(taken.token, NO_NAMESPACE)
        assert statuses(peer.pdus()) == [(1, NO_NAMESPACE)]
        qpair.set_namespace(1, gate)
        assert statuses(peer.exchange(io(pdus.VERIFY))) == [(1, OK)]


# --- a host's fused Flush, and what a gate counts


def test_a_fused_flush_of_all_namespaces_is_refused_also_if_there_are_none() -> None:
    with core_peer(namespaces={}) as (peer, _, _gate, _core):
        flush = sqe(pdus.FLUSH, 1, nsid=0xFFFFFFFF, flags=FUSE_FIRST)
        assert statuses(peer.exchange(command(flush))) == [(1, FIELD)]
        assert statuses(peer.exchange(io(pdus.WRITE, DATA, cid=2, flags=FUSE_SECOND))) == [(2, NO_NAMESPACE)]
        flush = sqe(pdus.FLUSH, 1, nsid=0xFFFFFFFF)
        assert statuses(peer.exchange(command(flush))) == [(1, OK)]


def test_a_comparison_that_fails_is_no_error_of_the_device() -> None:
    with core_peer() as (peer, _, gate, _core):
        assert statuses(peer.exchange(pair())) == [(1, OK), (2, OK)]
        assert statuses(peer.exchange(pair())) == [(1, DIFFERS), (2, FAILED_FUSED)]
        account = gate.account()
        assert account.write.count == 2
        assert not any(account.write.errors)
