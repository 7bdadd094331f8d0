"""Meter, Split, Delay and ErrorInjector: what goes through, what is counted, late, wrong or refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py._shim import Op
from support import pdus
from unit.shim.stepped import Stepped, block, blocks

OK, INVALID_OPCODE, INVALID_FIELD, INTERNAL_ERROR, ABORTED, OUT_OF_RANGE = 0, 0x001, 0x002, 0x006, 0x007, 0x080
MS = 1_000_000


@pytest.fixture
def reactor() -> _shim.Reactor:
    return _shim.Reactor("virtual", 0)


@pytest.fixture
def media(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, 64, volatile_cache=True)


@pytest.fixture
def injector(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> Iterator[tuple[_shim.ErrorInjector, Stepped]]:
    device = _shim.ErrorInjector(reactor, media)
    with Stepped(reactor, device) as io:
        yield device, io


def _delay(reactor: _shim.Reactor, base: _shim.BlockDevice, read_us: int, write_us: int) -> _shim.Delay:
    return _shim.Delay(
        reactor, base, avg_read_us=read_us, p99_read_us=read_us, avg_write_us=write_us, p99_write_us=write_us
    )


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["meter", "split", "delay", "errors"])
def test_every_operation_reaches_the_base(kind: str, reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    device: _shim.BlockDevice
    if kind == "meter":
        device = _shim.Meter(reactor, media)
    elif kind == "split":
        device = _shim.Split(reactor, media, offset=0, block_count=64)
    elif kind == "delay":
        device = _delay(reactor, media, 0, 0)
    else:
        device = _shim.ErrorInjector(reactor, media)
    assert (device.block_count, device.volatile_cache, device.max_io_blocks) == (64, True, 256)
    with Stepped(reactor, device) as io:
        assert io.write(3, blocks(7, 4)) == OK
        assert io.read(3, 4) == blocks(7, 4)
        assert io.run(Op.WRITE_ZEROES, 3, 1) == OK
        assert io.run(Op.DEALLOCATE, 4, 1) == OK
        assert io.read(3, 4) == bytes(8192) + blocks(9, 2)
        assert io.flush() == OK
        assert io.write(63, blocks(0, 2)) == OUT_OF_RANGE
        assert io.run(Op.DEALLOCATE, 64, 1) == OUT_OF_RANGE
        assert io.run(Op.WRITE_ZEROES, 2**64 - 1, 2) == OUT_OF_RANGE
        assert io.run(Op.DEALLOCATE, 0, 0) == INVALID_FIELD
        assert io.wait(io.port.submit(Op.APPEND, 0, 1, block(1))).status == INVALID_OPCODE
        # A write that is in the cache is lost with the power, one with FUA is not: both flags went down.
        assert io.flush() == OK
        assert io.write(10, block(1), fua=True) == OK
        assert io.write(11, block(2)) == OK
        lost = 0
        for seed in range(8):
            media.power_cut(seed)
            media.power_on()
            assert io.read(10) == block(1)
            lost += io.read(11) != block(2)
            assert io.write(11, block(2)) == OK
        assert lost > 0


def test_more_ios_than_a_device_holds_wait_in_order(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    with Stepped(reactor, _shim.Meter(reactor, media), depth=1500) as io:
        tickets = [io.port.submit(Op.WRITE, i % 64, 1, block(i)) for i in range(1500)]
        assert {io.wait(ticket).status for ticket in tickets} == {OK}
        assert io.read(0, 64) == b"".join(block(max(i for i in range(lba, 1500, 64))) for lba in range(64))


def test_stacked_devices_pass_errors_with_their_status(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    device = _delay(reactor, _shim.Split(reactor, _shim.Meter(reactor, media), offset=32, block_count=8), 0, 0)
    media.inject_fault(op=Op.READ, lba=33, block_count=1, status=0x281)
    with Stepped(reactor, device) as io:
        assert io.read_status(0) == OK
        assert io.read_status(1) == 0x281
        assert io.write(7, block(5)) == OK
        assert io.write(8, block(5)) == OUT_OF_RANGE
    with Stepped(reactor, media) as io:
        assert io.read(39) == block(5)


def test_zones_end_at_a_delay_and_pass_a_meter(reactor: _shim.Reactor) -> None:
    zns = _shim.EmulatedMedia.zns(reactor, 4, 64, 48)
    meter = _shim.Meter(reactor, zns)
    assert (meter.zoned, meter.zone_size, meter.zone_capacity, meter.max_append_blocks) == (True, 64, 48, 32)
    with Stepped(reactor, meter) as io:
        assert io.append(64, blocks(1, 2)).result == 64
        assert io.append(64, blocks(3, 1)).result == 66
        assert io.report(64, zones=1)[1][0].write_pointer == 67
        assert meter.stats().write.operations == 2
    for device, refused in ((_delay(reactor, zns, 0, 0), 0x1BC), (_shim.ErrorInjector(reactor, zns), INTERNAL_ERROR)):
        assert not device.zoned
        with Stepped(reactor, device) as io:
            assert io.zone_send(0, 4) == INVALID_OPCODE
            assert io.write(5, block(1)) == refused  # by the zone beneath: not its write pointer


# --- meter -----------------------------------------------------------------------------------------------------------


def test_a_meter_counts_as_spdk_does(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    meter = _shim.Meter(reactor, media)
    with Stepped(reactor, meter) as io:
        io.write(0, blocks(0, 3))
        io.read(0, 2)
        io.read(0, 1)
        io.run(Op.DEALLOCATE, 0, 8)
        io.run(Op.WRITE_ZEROES, 0, 8)
        io.flush()
        for status in (0x281, 0x006, 0x007):
            media.inject_fault(op=Op.READ, status=status, times=1)
            assert io.read_status(0) == status
    stats = meter.stats("maxmin")
    assert (stats.read.operations, stats.read.bytes) == (2, 3 * 4096)
    assert (stats.write.operations, stats.write.bytes) == (1, 3 * 4096)
    assert (stats.unmap.operations, stats.unmap.bytes) == (1, 8 * 4096)
    assert (stats.failed, stats.aborted, stats.nvme_error) == (1, 1, 1)
    assert 0 < stats.read.latency_ns_min <= stats.read.latency_ns_max < stats.read.latency_ns
    anew = meter.stats("error")
    assert (anew.read.operations, anew.read.latency_ns_max, anew.read.latency_ns_min) == (2, 0, 2**64 - 1)
    assert anew.failed == 1
    assert meter.stats("all").as_dict()["nvme_error"] == 0
    assert meter.stats().read.operations == 0
    with pytest.raises(ValueError, match="reset 'some'"):
        meter.stats("some")  # type: ignore[arg-type]


def test_null_media_and_what_is_on_it_grow(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    null = _shim.EmulatedMedia.null(reactor, 8)
    meter = _shim.Meter(reactor, null)
    with Stepped(reactor, meter) as io:
        null.resize(16)
        assert io.read_status(8) == OUT_OF_RANGE
        meter.resize(16)
        assert io.read_status(15) == OK
    with pytest.raises(ValueError, match="at least 1"):
        null.resize(0)
    with pytest.raises(ValueError, match="only null media"):
        media.resize(128)


def test_a_split_needs_its_blocks(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    for offset, count in ((64, 1), (63, 2), (0, 0), (0, 65), (2**64 - 1, 2)):
        with pytest.raises(ValueError, match="the base device has 64"):
            _shim.Split(reactor, media, offset=offset, block_count=count)


# --- delay -----------------------------------------------------------------------------------------------------------


def test_reads_and_writes_are_late_and_nothing_else(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    delay = _delay(reactor, media, 1000, 5000)
    with Stepped(reactor, delay) as io:
        read, write = io.port.submit(Op.READ, 0, 1, bytearray(4096)), io.port.submit(Op.WRITE, 0, 1, block(1))
        flush = io.port.submit(Op.FLUSH)
        assert io.wait(flush).status == OK
        start = io.now_ns
        for at, done in ((MS - 1, set()), (MS, {read}), (5 * MS - 1, {read}), (5 * MS, {read, write})):
            io.now_ns = start + at
            for _ in range(4):
                io.step()
            assert set(io.completed) == done


def test_one_in_a_hundred_is_a_p99(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    delay = _shim.Delay(reactor, media, avg_read_us=0, p99_read_us=1000, avg_write_us=0, p99_write_us=0)
    with Stepped(reactor, delay, depth=2000) as io:
        for _ in range(2000):
            io.port.submit(Op.READ, 0, 1, bytearray(4096))
        while io.step():
            pass
        assert 5 <= 2000 - len(io.completed) <= 50
        io.now_ns += MS
        while io.step():
            pass
        assert len(io.completed) == 2000


def test_a_lower_latency_waits_for_the_higher_one(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    delay = _delay(reactor, media, 1000, 0)
    with Stepped(reactor, delay) as io:
        first = io.port.submit(Op.READ, 0, 1, bytearray(4096))
        for _ in range(4):
            io.step()
        delay.set_latency("avg_read", 0)
        delay.set_latency("p99_read", 0)
        second = io.port.submit(Op.READ, 0, 1, bytearray(4096))
        for _ in range(4):
            io.step()
        assert not io.completed
        io.now_ns += MS
        for _ in range(4):
            io.step()
        assert io.completion_order == [first, second]
    with pytest.raises(ValueError, match="out of range"):
        delay.set_latency("avg_read", 2**63)
    with pytest.raises(ValueError, match="kind 'mean'"):
        delay.set_latency("mean", 1)  # type: ignore[arg-type]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_the_next_ios_of_a_kind_fail(injector: tuple[_shim.ErrorInjector, Stepped]) -> None:
    device, io = injector
    device.inject(Op.WRITE, "failure", 2)
    assert io.read(0) == bytes(4096)
    assert [io.write(0, block(1)) for _ in range(3)] == [INTERNAL_ERROR, INTERNAL_ERROR, OK]
    device.inject(Op.READ, "nvme_failure", 1, status=0x281)
    assert [io.read_status(0) for _ in range(2)] == [0x281, OK]
    device.inject(None, "failure", 1)
    assert (io.flush(), io.run(Op.DEALLOCATE, 0, 1), io.run(Op.WRITE_ZEROES, 0, 1)) == (
        INTERNAL_ERROR,
        INTERNAL_ERROR,
        OK,
    )
    device.clear()
    assert io.write(0, block(2)) == OK
    for op in (Op.WRITE_ZEROES, Op.APPEND):
        with pytest.raises(ValueError, match="only reads, writes"):
            device.inject(op, "failure", 1)
    with pytest.raises(ValueError, match="0x7ff"):
        device.inject(Op.READ, "nvme_failure", 1, status=0x800)


def test_errors_of_the_base_become_general_ones(
    injector: tuple[_shim.ErrorInjector, Stepped], media: _shim.EmulatedMedia
) -> None:
    _, io = injector
    media.inject_fault(op=Op.READ, status=0x281, times=1)
    assert io.read_status(0) == INTERNAL_ERROR


def test_an_injection_waits_for_its_queue_depth(injector: tuple[_shim.ErrorInjector, Stepped]) -> None:
    device, io = injector
    device.inject(Op.READ, "failure", 1, queue_depth=2)
    assert io.read_status(0) == OK
    tickets = [io.port.submit(Op.READ, 0, 1, bytearray(4096)) for _ in range(4)]
    assert [io.wait(ticket).status for ticket in tickets] == [OK, OK, INTERNAL_ERROR, OK]


def test_pending_io_waits_until_it_is_resumed(injector: tuple[_shim.ErrorInjector, Stepped]) -> None:
    device, io = injector
    device.inject(Op.WRITE, "pending", 5)
    tickets = [io.port.submit(Op.WRITE, i, 1, block(i)) for i in range(3)]
    for _ in range(10):
        io.step()
    assert not io.completed
    assert io.read(0, 3) == bytes(3 * 4096)
    device.resume_pending()
    assert [io.wait(ticket).status for ticket in tickets] == [OK] * 3
    assert io.read(0, 3) == blocks(0, 3)
    assert io.write(0, block(1)) == OK
    device.inject(Op.FLUSH, "pending", 5)
    ticket = io.port.submit(Op.FLUSH)
    io.step()
    device.abort_pending()
    assert io.wait(ticket).status == ABORTED
    assert io.flush() == ABORTED  # it would be held


def test_what_has_no_memory_is_tried_again_in_order(injector: tuple[_shim.ErrorInjector, Stepped]) -> None:
    device, io = injector
    device.inject(Op.WRITE, "nomem", 2)
    first, second = io.port.submit(Op.WRITE, 0, 1, block(1)), io.port.submit(Op.WRITE, 0, 1, block(2))
    for done in (0, 0, 2):
        for _ in range(10):
            io.step()
        assert len(io.completed) == done
        io.now_ns += 10 * MS
    assert io.completion_order == [first, second]
    assert io.read(0) == block(2)


def test_a_write_is_corrupted_on_media_and_not_in_the_hosts_memory(
    injector: tuple[_shim.ErrorInjector, Stepped],
) -> None:
    device, io = injector
    for offset in (0, 1, 4095, 4096, 8191):
        data = bytearray(blocks(1, 2))
        device.inject(Op.WRITE, "corrupt", 1, corrupt_offset=offset, corrupt_value=0xFF)
        assert io.write(0, bytes(data)) == OK
        data[offset] ^= 0xFF
        assert io.read(0, 2) == data
        assert io.write(0, bytes(data)) == OK
        assert io.read(0, 2) == data
    device.inject(Op.WRITE, "corrupt", 1, corrupt_offset=8192, corrupt_value=0xFF)  # behind the data
    assert io.write(0, blocks(1, 2)) == OK
    assert io.read(0, 2) == blocks(1, 2)


def test_a_read_is_corrupted_on_its_way_up(injector: tuple[_shim.ErrorInjector, Stepped]) -> None:
    device, io = injector
    io.write(0, blocks(1, 2))
    device.inject(Op.READ, "corrupt", 1, corrupt_offset=5000, corrupt_value=0x10)
    wrong = bytearray(blocks(1, 2))
    wrong[5000] ^= 0x10
    assert io.read(0, 2) == wrong
    assert io.read(0, 2) == blocks(1, 2)


def test_many_corrupted_writes_at_once_take_turns(injector: tuple[_shim.ErrorInjector, Stepped]) -> None:
    device, io = injector
    device.inject(Op.WRITE, "corrupt", 40, corrupt_offset=0, corrupt_value=0x80)
    tickets = [io.port.submit(Op.WRITE, i, 1, block(i)) for i in range(40)]
    assert [io.wait(ticket).status for ticket in tickets] == [OK] * 40
    for i in range(40):
        wrong = bytearray(block(i))
        wrong[0] ^= 0x80
        assert io.read(i) == wrong


def test_io_that_is_cancelled_before_the_base_has_it_no_longer_counts(
    reactor: _shim.Reactor, media: _shim.EmulatedMedia
) -> None:
    gate = _shim.Gate(reactor, media)
    gate.hold()
    injector = _shim.ErrorInjector(reactor, gate)
    injector.inject(Op.WRITE, "corrupt", 1000, corrupt_value=1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        qpair = _shim.TargetQpair(
            reactor, ours.fileno(), queue_size=1024, header_digest=False, data_digest=False, namespaces={1: injector}
        )
        theirs.setblocking(False)
        for cid in range(600):
            theirs.send(pdus.read(cid, 0, 1))
            reactor.step()
        theirs.send(pdus.write(601, 0, block(1)))
        reactor.step()
    for _ in range(100):
        reactor.step()
    assert qpair.drained
    qpair.close()
    gate.set_device(media)
    injector.inject(Op.READ, "failure", 1, queue_depth=1)
    with Stepped(reactor, injector) as io:
        assert io.read(0) == bytes(4096)
