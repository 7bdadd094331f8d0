"""HostQpair and TargetQpair joined by a socketpair: what is submitted on one side happens on the other."""

from __future__ import annotations

import gc
import random
import socket
import struct
import sys

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.pdus import Digests
from support.qpair_rig import IDLE_ROUNDS, Driver, Rig, joined

BLOCKS = 2048
ALL_DIGESTS = [Digests(header, data) for header in (False, True) for data in (False, True)]
ERRORS = [
    0x001, 0x002, 0x004, 0x005, 0x006, 0x007, 0x00B, 0x00F, 0x011, 0x022, 0x080, 0x081, 0x082, 0x1B8, 0x1B9, 0x1BA,
    0x1BB, 0x1BC, 0x1BD, 0x1BE, 0x1BF, 0x280, 0x281, 0x282, 0x370, 0x371,
]  # fmt: skip

digest_kinds = pytest.mark.parametrize("digests", ALL_DIGESTS, ids=lambda d: f"hdgst{d.header:d}ddgst{d.data:d}")


def conventional(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS, volatile_cache=True)


def zns(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(reactor, 8, 64, 48, max_open_zones=4, max_active_zones=6)


def run_random(rig: Rig, commands: int, seed: int) -> None:
    """Random reads, writes, zeroes and trims against a model; what is in flight never overlaps."""
    rng = random.Random(seed)
    block_bytes = rig.host.block_bytes
    model = bytearray(BLOCKS * block_bytes)
    busy: set[int] = set()
    flying: dict[int, tuple[range, bytearray | None]] = {}

    def reap(most: int) -> None:
        rig.until(lambda: len(flying) - sum(ticket in rig.done for ticket in flying) <= most)
        for ticket in [ticket for ticket in flying if ticket in rig.done]:
            done = rig.done.pop(ticket)
            blocks, buffer = flying.pop(ticket)
            assert done.status == 0, f"status {done.status:#x}"
            busy.difference_update(blocks)
            if buffer is not None:
                assert buffer == model[blocks.start * block_bytes : blocks.stop * block_bytes], f"seed {seed}"

    for _ in range(commands):
        count = rng.choice((1, 1, 1, 1, 2, 3, 8, 131072 // block_bytes))
        lba = rng.randrange(BLOCKS - count + 1)
        blocks = range(lba, lba + count)
        while not busy.isdisjoint(blocks) or len(flying) >= 64:
            reap(len(flying) - 1)
        at = slice(lba * block_bytes, (lba + count) * block_bytes)
        kind = rng.randrange(16)
        buffer = None
        if kind < 7:
            model[at] = data = rng.randbytes(count * block_bytes)
            ticket = rig.submit(_shim.Op.WRITE, lba, count, data, fua=kind == 0)
        elif kind < 14:
            buffer = bytearray(count * block_bytes)
            ticket = rig.submit(_shim.Op.READ, lba, count, buffer)
        else:
            model[at] = bytes(count * block_bytes)
            ticket = rig.submit((_shim.Op.WRITE_ZEROES, _shim.Op.DEALLOCATE)[kind - 14], lba, count)
        busy.update(blocks)
        flying[ticket] = (blocks, buffer)
    reap(0)


@digest_kinds
@pytest.mark.parametrize("success_flag", [False, True])
def test_random_commands_match_a_model(digests: Digests, success_flag: bool) -> None:
    with joined(conventional, digests=digests, target={"success_flag": success_flag}) as (rig, _):
        run_random(rig, 1500, seed=1)
        stats = rig.target.stats()
        assert stats.commands == 1500
        assert stats.errors == 0
        assert stats.bytes_in > stats.write_blocks * 4096


def test_completions_in_any_order_match_a_model() -> None:
    with joined(conventional) as (rig, media):
        media.set_schedule(11)
        run_random(rig, 1500, seed=11)


@pytest.mark.parametrize("threaded", [False, True])
def test_ten_thousand_random_commands(threaded: bool) -> None:
    with joined(conventional, threaded=threaded, digests=Digests(True, True)) as (rig, _):
        run_random(rig, 10_000, seed=2)


@pytest.mark.parametrize("in_capsule_bytes", [0, 512, 8192])
@pytest.mark.parametrize("max_h2c_data", [4096, 12288])
def test_writes_arrive_in_capsules_and_in_pieces_of_any_size(in_capsule_bytes: int, max_h2c_data: int) -> None:
    host = {"in_capsule_bytes": in_capsule_bytes, "max_h2c_data": max_h2c_data}
    target = {"in_capsule_bytes": in_capsule_bytes, "max_h2c_data": max_h2c_data}
    with joined(conventional, host=host, target=target, digests=Digests(False, True)) as (rig, _):
        run_random(rig, 500, seed=3)


@digest_kinds
def test_interleaved_metadata_travels_with_its_block(digests: Digests) -> None:
    def with_metadata(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.conventional(reactor, BLOCKS, metadata_bytes=8)

    with joined(with_metadata, digests=digests) as (rig, _):
        assert rig.host.block_bytes == 4104
        assert rig.host.metadata_bytes == 8
        data = random.Random(4).randbytes(31 * 4104)
        rig.write(5, data)
        assert rig.read(5, 31) == data
        run_random_metadata = random.Random(5).randbytes(4104)
        rig.write(7, run_random_metadata)
        assert rig.read(7) == run_random_metadata


def test_blocks_of_512_bytes_work() -> None:
    def small(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.conventional(reactor, BLOCKS, block_bytes=512)

    with joined(small) as (rig, _):
        run_random(rig, 500, seed=6)


@pytest.mark.parametrize("status", ERRORS, ids=lambda status: f"{status:#05x}")
def test_every_status_reaches_the_issuer(status: int) -> None:
    data = bytes(4096 * 4)
    with joined(conventional) as (rig, media):
        media.inject_fault(status=status)
        assert rig.run(_shim.Op.READ, 0, 1, bytearray(4096)).status == status
        assert rig.run(_shim.Op.WRITE, 0, 1, data[:4096]).status == status
        assert rig.run(_shim.Op.WRITE, 0, 4, data).status == status
        assert rig.run(_shim.Op.FLUSH).status == status
        assert rig.run(_shim.Op.DEALLOCATE, 0, 1).status == status
        assert rig.run(_shim.Op.WRITE_ZEROES, 0, 1).status == status
        assert rig.target.stats().errors == 6
        media.clear_faults()
        assert rig.read(0, 4) == data
        assert rig.host.connected


def test_a_zoned_namespace_works_through_the_queue() -> None:
    with joined(zns) as (rig, media):
        first, second = random.Random(7).randbytes(4096), random.Random(8).randbytes(4096 * 32)
        assert rig.ok(_shim.Op.APPEND, 64, 1, first) == 64
        assert rig.ok(_shim.Op.APPEND, 64, 8, second[: 8 * 4096]) == 65
        rig.write(73, second)
        assert rig.read(64, 9) == first + second[: 8 * 4096]
        assert rig.read(73, 32) == second
        assert rig.run(_shim.Op.WRITE, 70, 1, first).status == 0x1BC
        assert rig.run(_shim.Op.APPEND, 64, 8, second[: 8 * 4096]).status in (0x1B8, 0x1B9)

        report = bytearray(64 * 9)
        rig.ok(_shim.Op.ZONE_REPORT, 0, 0, report)
        assert struct.unpack_from("<Q", report)[0] == 8
        zones = [struct.unpack_from("<BBB5xQQQ", report, 64 + 64 * zone) for zone in range(8)]
        assert [zone[4] for zone in zones] == [64 * zone for zone in range(8)]
        assert zones[1][1] >> 4 == 2
        assert zones[1][5] == 105
        assert {zone[3] for zone in zones} == {48}

        rig.ok(_shim.Op.ZONE_SEND, 64, zone_action=2)
        only_full = bytearray(64 * 9)
        rig.ok(_shim.Op.ZONE_REPORT, 0, 0, only_full, zone_filter=5)
        assert struct.unpack_from("<Q", only_full)[0] == 1
        rig.ok(_shim.Op.ZONE_SEND, 0, zone_action=4, zone_all=True)
        assert {state for _, state, _ in media.zone_states()} == {"empty"}
        assert rig.run(_shim.Op.ZONE_SEND, 0, zone_action=5).status == 0x1BF


def test_a_partial_zone_report_counts_only_what_it_holds() -> None:
    with joined(zns) as (rig, _):
        report = bytearray(64 * 3)
        rig.ok(_shim.Op.ZONE_REPORT, 0, 0, report, zone_all=True)
        assert struct.unpack_from("<Q", report)[0] == 2
        rig.ok(_shim.Op.ZONE_REPORT, 0, 0, report)
        assert struct.unpack_from("<Q", report)[0] == 8


def test_appends_larger_than_zasl_never_leave_the_host() -> None:
    with joined(zns, host={"max_append_bytes": 16384}) as (rig, _):
        assert rig.host.max_append_blocks == 4
        assert rig.run(_shim.Op.APPEND, 0, 5, bytes(5 * 4096)).status == 0x002
        assert rig.target.stats().commands == 0


def test_io_larger_than_mdts_never_leaves_the_host() -> None:
    with joined(conventional) as (rig, _):
        assert rig.host.max_io_blocks == 32
        assert rig.run(_shim.Op.WRITE, 0, 33, bytes(33 * 4096)).status == 0x002
        assert rig.run(_shim.Op.READ, 0, 33, bytearray(33 * 4096)).status == 0x002
        assert rig.run(_shim.Op.WRITE_ZEROES, 0, 65537).status == 0x002
        assert rig.target.stats().commands == 0


def test_what_lies_beyond_the_end_is_out_of_range() -> None:
    with joined(conventional) as (rig, _):
        assert rig.run(_shim.Op.READ, BLOCKS - 1, 2, bytearray(8192)).status == 0x080
        assert rig.run(_shim.Op.WRITE, BLOCKS, 1, bytes(4096)).status == 0x080
        assert rig.run(_shim.Op.WRITE, (1 << 64) - 1, 8, bytes(8 * 4096)).status == 0x080
        assert rig.run(_shim.Op.DEALLOCATE, BLOCKS - 1, 2).status == 0x080
        assert rig.run(_shim.Op.WRITE_ZEROES, BLOCKS - 1, 2).status == 0x080


@pytest.mark.parametrize("threaded", [False, True])
def test_more_io_than_queue_depth_waits_for_slots(threaded: bool) -> None:
    with joined(conventional, threaded=threaded, host={"queue_depth": 3}, target={"queue_size": 4}) as (rig, media):
        media.inject_fault(latency_us=200)
        tickets = [rig.submit(_shim.Op.WRITE, lba, 1, bytes([lba % 251]) * 4096) for lba in range(200)]
        assert {done.status for done in rig.wait(*tickets)} == {0}
        media.clear_faults()
        assert all(rig.read(lba) == bytes([lba % 251]) * 4096 for lba in range(200))


def test_large_commands_share_the_buffer_pool() -> None:
    """127 commands of 128 KiB need 16 MiB; the pool has 2."""
    with joined(conventional, host={"queue_depth": 127}, target={"queue_size": 128}) as (rig, _):
        data = [random.Random(lba).randbytes(131072) for lba in range(64)]
        tickets = [rig.submit(_shim.Op.WRITE, 32 * lba, 32, data[lba]) for lba in range(64)]
        assert {done.status for done in rig.wait(*tickets)} == {0}
        buffers = [bytearray(131072) for _ in range(127)]
        tickets = [rig.submit(_shim.Op.READ, 32 * (i % 64), 32, buffer) for i, buffer in enumerate(buffers)]
        assert {done.status for done in rig.wait(*tickets)} == {0}
        assert all(buffer == data[i % 64] for i, buffer in enumerate(buffers))


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("side", ["host", "target"])
def test_a_lost_connection_fails_everything_outstanding(threaded: bool, side: str) -> None:
    with joined(conventional, threaded=threaded, host={"queue_depth": 4}) as (rig, media):
        media.inject_fault(latency_us=200_000)
        buffers = [bytearray(131072) for _ in range(20)]
        tickets = [rig.submit(_shim.Op.READ, 32 * i, 32, buffer) for i, buffer in enumerate(buffers)]
        tickets += [rig.submit(_shim.Op.WRITE, 32 * i, 32, bytes(131072)) for i in range(20)]
        rig.until(lambda: rig.target.stats().commands == 4)
        if side == "host":
            rig.host.close()
        else:
            rig.target.close()
        statuses = {done.status for done in rig.wait(*tickets)}
        # With a thread some may have been served before the connection went, if this process was held up for long.
        assert 0x370 in statuses
        assert statuses <= ({0, 0x370} if threaded else {0x370})
        assert not rig.host.connected
        assert rig.run(_shim.Op.READ, 0, 1, bytearray(4096)).status == 0x370
        kind, reason = (
            (_shim.EventKind.TARGET_QPAIR_CLOSED, _shim.QpairClose.PEER_CLOSED)
            if side == "host"
            else (_shim.EventKind.HOST_QPAIR_LOST, _shim.QpairClose.PEER_CLOSED)
        )
        rig.until(lambda: bool(rig.events))
        assert [(event.kind, event.reason) for event in rig.events] == [(kind, reason)]


@pytest.mark.parametrize("threaded", [False, True])
def test_close_waits_for_io_at_the_device(threaded: bool) -> None:
    with joined(conventional, threaded=threaded) as (rig, media):
        media.inject_fault(latency_us=20_000)
        rig.submit(_shim.Op.WRITE, 0, 1, b"x" * 4096)
        rig.until(lambda: rig.target.stats().commands == 1)
        rig.target.close()
        rig.target.close()
        assert media.operations == 1


@pytest.mark.parametrize("threaded", [False, True])
def test_a_target_qpair_dropped_without_close_waits_for_its_io(threaded: bool) -> None:
    peer = Driver(threaded=threaded)
    media = conventional(peer.reactor)
    media.inject_fault(latency_us=5_000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        holder = [
            _shim.TargetQpair(
                peer.reactor, ours.fileno(), queue_size=4, header_digest=False, data_digest=False, namespaces={1: media}
            )
        ]
        theirs.sendall(pdus.write(1, 0, b"x" * 4096))
        if threaded:
            peer.reactor.start()
        peer.until(lambda: holder[0].stats().commands == 1)
        holder.clear()
        gc.collect()
        assert media.operations == 1
    peer.reactor.stop()


def test_a_namespace_comes_and_goes() -> None:
    with joined(conventional) as (rig, media):
        other = _shim.EmulatedMedia.conventional(rig.reactor, 16)
        rig.write(0, b"a" * 4096)
        rig.target.set_namespace(1, None)
        assert rig.run(_shim.Op.READ, 0, 1, bytearray(4096)).status == 0x00B
        rig.target.set_namespace(1, other)
        assert rig.read(0) == bytes(4096)
        assert rig.run(_shim.Op.READ, 16, 1, bytearray(4096)).status == 0x080
        rig.target.set_namespace(1, media)
        assert rig.read(0) == b"a" * 4096


def test_io_under_way_survives_the_removal_of_its_namespace() -> None:
    with joined(conventional) as (rig, media):
        media.inject_fault(latency_us=5_000)
        buffer = bytearray(4096)
        ticket = rig.submit(_shim.Op.READ, 0, 1, buffer)
        rig.until(lambda: rig.target.stats().commands == 1)
        held = sys.getrefcount(media)
        rig.target.set_namespace(1, None)
        assert not rig.target.give_back_removed()
        assert rig.wait(ticket)[0].status == 0
        # The target's slot is free when the answer is on its way.
        rig.until(rig.target.give_back_removed)
        assert sys.getrefcount(media) < held, "the queue has let go of it"
        assert rig.target.give_back_removed()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_depth": 0}, "queue_depth"),
        ({"queue_depth": 4097}, "queue_depth"),
        ({"block_bytes": 4097}, "dwords"),
        ({"max_h2c_data": 4095}, "max_h2c_data"),
        ({"max_io_bytes": 100}, "max_io_bytes"),
    ],
)
def test_a_host_qpair_refuses_settings_it_cannot_keep(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message), joined(conventional, host=options):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 1}, "queue_size"),
        ({"queue_size": 4097}, "queue_size"),
        ({"max_io_bytes": 5000}, "max_io_bytes"),
        ({"max_h2c_data": 5000}, "max_h2c_data"),
        ({"in_capsule_bytes": (1 << 20) + 1}, "in_capsule_bytes"),
        ({"sqhd": 32}, "sqhd"),
    ],
)
def test_a_target_qpair_refuses_settings_it_cannot_keep(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message), joined(conventional, target=options):
        pass


def test_an_fd_that_is_no_stream_socket_is_refused() -> None:
    reactor = _shim.Reactor("fd")
    with open("/dev/null") as file, pytest.raises(RuntimeError, match="must be a socket"):
        _shim.TargetQpair(reactor, file.fileno(), queue_size=2, header_digest=False, data_digest=False, namespaces={})


def test_a_target_is_drained_when_its_last_command_is_back() -> None:
    with joined(conventional) as (rig, media):
        assert isinstance(media, _shim.EmulatedMedia)
        media.inject_fault(latency_us=1_000_000, times=1)
        now_ns = 1
        rig.reactor.step(now_ns)
        rig.submit(_shim.Op.WRITE, 0, 1, bytes(4096))
        for _ in range(IDLE_ROUNDS):
            rig.reactor.step(now_ns)
        assert rig.target.connected
        assert not rig.target.drained
        rig.host.close()
        for _ in range(IDLE_ROUNDS):
            rig.reactor.step(now_ns)
        assert not rig.target.connected
        assert not rig.target.drained, "the drive still has the write"
        rig.reactor.step(now_ns + 2_000_000_000)
        rig.reactor.step(now_ns + 2_000_000_000)
        assert rig.target.drained
