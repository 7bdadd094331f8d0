"""Zones on a conventional device. The state machine itself: test_zone_table_model.py."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import ZSA_RESET, Completion, Stepped, block, blocks

INVALID_OPCODE, WRITE_FAULT, ZONE_READ_ONLY, INVALID_FIELD, OUT_OF_RANGE = 0x001, 0x280, 0x1BA, 0x002, 0x080
NOT_READY = 0x082


@pytest.fixture
def reactor() -> _shim.Reactor:
    return _shim.Reactor("overlay")


def test_zones_are_cut_from_the_base_as_zone_block_does(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 1000, volatile_cache=True, max_io_blocks=20)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=100, max_open_zones=5)
    assert (overlay.zone_size, overlay.zone_capacity, overlay.block_count) == (128, 100, 7 * 128)
    assert (overlay.max_open_zones, overlay.max_active_zones, overlay.max_append_blocks) == (5, 0, 20)
    assert (overlay.zoned, overlay.volatile_cache, overlay.max_io_blocks) == (True, True, 20)
    with Stepped(reactor, overlay) as io:
        count, zones = io.report()
        assert (count, {zone.state for zone in zones}) == (7, {"empty"})


def test_data_lies_on_the_base_where_the_zone_says(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=6)
    with Stepped(reactor, overlay) as io, Stepped(reactor, base) as below:
        assert io.write(8, blocks(0, 2)) == 0
        assert io.append(8, blocks(2, 3), fua=True) == Completion(0, 10)
        assert io.flush() == 0
        assert below.read(8, 6) == blocks(0, 5) + bytes(4096)
        assert io.read(8, 5) == blocks(0, 5)
        below.write(13, block(99))
        assert io.run(_shim.Op.WRITE_ZEROES, 13, 1) == 0
        assert below.read(13) == bytes(4096)


def test_after_a_restart_every_zone_is_full_until_it_is_reset(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8, initial_state="full")
    with Stepped(reactor, overlay) as io, Stepped(reactor, base) as below:
        below.write(0, blocks(0, 3))
        assert io.read(0, 3) == blocks(0, 3)
        assert {zone.state for zone in io.report()[1]} == {"full"}
        assert io.write(8, block(0)) == 0x1B9
        assert io.zone_send(8, ZSA_RESET) == 0
        assert io.write(8, block(0)) == 0
        assert io.report(zone_filter=5)[0] == 7


def test_writes_in_order_may_be_outstanding_in_one_zone(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 1024)
    base.set_schedule(4)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=512)
    with Stepped(reactor, overlay, depth=512) as io:
        # More than the overlay lends to its base at once.
        tickets = [io.port.submit(_shim.Op.WRITE, lba, 1, block(lba)) for lba in range(512)]
        assert {io.wait(ticket).status for ticket in tickets} == {0}
        assert io.report()[1][0].state == "full"
        for lba in range(0, 512, 64):
            assert io.read(lba, 64) == blocks(lba, 64)


def test_a_zone_whose_write_failed_becomes_read_only(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8)
    with Stepped(reactor, overlay) as io:
        assert io.write(0, blocks(0, 2)) == 0
        base.inject_fault(op=_shim.Op.WRITE, lba=2, block_count=1, status=WRITE_FAULT, times=1)
        assert io.write(2, block(2)) == WRITE_FAULT
        assert io.report()[1][0].state == "read_only"
        assert io.write(3, block(3)) == ZONE_READ_ONLY
        assert io.read(0, 2) == blocks(0, 2)
        assert io.write(8, block(0)) == 0
        base.inject_fault(op=_shim.Op.WRITE, lba=9, block_count=1, status=WRITE_FAULT, times=1)
        assert io.append(8, block(0)) == Completion(WRITE_FAULT, 1), "with DNR"
        assert io.report()[1][1].state == "read_only"


@pytest.mark.parametrize("append", [False, True])
def test_a_write_that_a_busy_base_refuses_may_be_repeated(reactor: _shim.Reactor, append: bool) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8)
    with Stepped(reactor, overlay) as io:

        def write(lba: int, block_count: int) -> int:
            return io.append(0, blocks(lba, block_count)).status if append else io.write(lba, blocks(lba, block_count))

        for lba, block_count, state in ((0, 2, "empty"), (2, 5, "closed"), (7, 1, "closed")):
            base.inject_fault(op=_shim.Op.WRITE, status=NOT_READY, times=1)
            assert write(lba, block_count) == NOT_READY
            zone = io.report()[1][0]
            assert (zone.state, zone.write_pointer) == (state, lba)
            assert write(lba, block_count) == 0
        assert io.report()[1][0].state == "full"
        assert io.read(0, 8) == blocks(0, 8)


def test_a_write_that_a_busy_base_refuses_ends_a_zone_that_is_written_further(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8)
    with Stepped(reactor, overlay) as io:
        base.inject_fault(op=_shim.Op.WRITE, status=NOT_READY, times=1)
        tickets = [io.port.submit(_shim.Op.WRITE, lba, 1, block(lba)) for lba in range(2)]
        assert [io.wait(ticket).status for ticket in tickets] == [NOT_READY, 0]
        assert io.report()[1][0].state == "read_only"


def test_a_failed_read_or_flush_changes_no_zone(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8)
    with Stepped(reactor, overlay) as io:
        base.inject_fault(op=_shim.Op.READ, status=0x281)
        base.inject_fault(op=_shim.Op.FLUSH, status=WRITE_FAULT)
        assert io.write(0, block(0)) == 0
        assert (io.read_status(0), io.flush()) == (0x281, WRITE_FAULT)
        assert io.report()[1][0].state == "implicitly_open"


def test_a_zone_is_reset_after_the_writes_that_are_at_the_base(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    base.inject_fault(op=_shim.Op.WRITE, latency_us=100)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8)
    for select_all in (False, True):
        with Stepped(reactor, overlay) as io:
            write = io.port.submit(_shim.Op.WRITE, 0, 4, blocks(0, 4))
            reset = io.port.submit(_shim.Op.ZONE_SEND, 0, zone_action=ZSA_RESET, zone_all=select_all)
            for _ in range(5):
                io.step()
            assert not io.completed
            io.now_ns += 200_000
            assert io.wait(write).status == 0
            assert io.wait(reset).status == 0
            assert io.completion_order == [write, reset]
            assert io.report()[1][0].state == "empty"


def test_without_zone_commands_it_is_what_zone_block_is_over_nvmeof(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8, zone_commands=False)
    assert (overlay.zoned, overlay.max_append_blocks) == (True, 0)
    with Stepped(reactor, overlay) as io:
        assert io.append(0, block(0)).status == INVALID_OPCODE
        assert io.zone_send(0, ZSA_RESET) == INVALID_OPCODE
        assert io.wait(io.port.submit(_shim.Op.ZONE_REPORT, 0, buffer=bytearray(128))).status == INVALID_OPCODE
        assert io.write(0, block(0)) == 0
        assert io.write(0, block(0)) == 0x1BC


def test_requests_that_make_no_sense(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 64, max_io_blocks=4)
    overlay = _shim.ZonedOverlay(reactor, base, zone_capacity=8)
    with Stepped(reactor, overlay) as io:
        assert io.write(0, blocks(0, 5)) == INVALID_FIELD
        assert io.append(0, blocks(0, 5)).status == INVALID_FIELD
        assert io.run(_shim.Op.WRITE_ZEROES, 0, 0) == INVALID_FIELD
        assert io.read_status(63, 2) == OUT_OF_RANGE
        assert io.run(_shim.Op.DEALLOCATE, 63, 2) == OUT_OF_RANGE
        assert io.run(_shim.Op.DEALLOCATE, 0, 64) == 0
        assert io.run(_shim.Op.WRITE_ZEROES, 0, 8) == 0
        assert {zone.state for zone in io.report()[1][1:]} == {"empty"}


def test_overlays_that_make_no_sense_are_refused(reactor: _shim.Reactor) -> None:
    base = _shim.EmulatedMedia.conventional(reactor, 100)
    for capacity in (0, 101):
        with pytest.raises(ValueError, match=f"zone_capacity {capacity} must be within"):
            _shim.ZonedOverlay(reactor, base, zone_capacity=capacity)
    with pytest.raises(ValueError, match="can't be divided into such zones"):
        _shim.ZonedOverlay(reactor, base, zone_capacity=70)
    with pytest.raises(ValueError, match="initial_state 'closed'"):
        _shim.ZonedOverlay(reactor, base, zone_capacity=8, initial_state="closed")
    with pytest.raises(ValueError, match="zoned itself"):
        _shim.ZonedOverlay(reactor, _shim.EmulatedMedia.zns(reactor, 4, 8, 8), zone_capacity=8)
