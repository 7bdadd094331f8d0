"""Faults, latencies, schedules and power cuts that come by themselves."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import ZSA_OPEN, ZSA_RESET, Stepped, block, blocks

POWER_LOSS, WRITE_FAULT, UNRECOVERED_READ = 0x005, 0x280, 0x281


@pytest.fixture
def reactor() -> _shim.Reactor:
    return _shim.Reactor("faults")


@pytest.fixture
def media(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, 64)


def test_a_fault_hits_its_op_and_range_only(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    media.inject_fault(op=_shim.Op.READ, lba=10, block_count=2, status=UNRECOVERED_READ)
    with Stepped(reactor, media) as io:
        assert [io.read_status(lba, 2) for lba in (8, 9, 10, 11, 12)] == [0, *[UNRECOVERED_READ] * 3, 0]
        assert io.write(10, blocks(0, 2)) == 0


def test_a_failed_write_leaves_the_old_data(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    with Stepped(reactor, media) as io:
        assert io.write(0, block(1)) == 0
        media.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT, times=1)
        assert io.write(0, block(2)) == WRITE_FAULT
        assert io.read(0) == block(1)
        assert io.write(0, block(2)) == 0


def test_skip_and_times_count_matches(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    media.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ, skip=2, times=3)
    with Stepped(reactor, media) as io:
        io.write(0, block(1))
        assert [io.read_status(0) for _ in range(7)] == [0, 0, *[UNRECOVERED_READ] * 3, 0, 0]


def test_faults_are_cleared_by_id_or_all(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    first = media.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ)
    media.inject_fault(op=_shim.Op.FLUSH, status=WRITE_FAULT)
    with Stepped(reactor, media) as io:
        assert (io.read_status(0), io.flush()) == (UNRECOVERED_READ, WRITE_FAULT)
        media.clear_faults(first)
        assert (io.read_status(0), io.flush()) == (0, WRITE_FAULT)
        media.clear_faults()
        assert (io.read_status(0), io.flush()) == (0, 0)


def test_a_bit_that_rots_stays_wrong(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    with Stepped(reactor, media) as io:
        assert io.write(3, blocks(0, 2)) == 0
        media.rot(4, 8 * 100 + 3)
        wrong = bytearray(block(1))
        wrong[100] ^= 1 << 3
        assert io.read(3, 2) == block(0) + bytes(wrong)
        media.rot(4, 8 * 100 + 3)
        assert io.read(3, 2) == blocks(0, 2)
        for lba, bit in ((64, 0), (0, 8 * 4096)):
            with pytest.raises(ValueError, match=f"block {lba} of this device has no bit {bit}"):
                media.rot(lba, bit)


def test_a_bit_that_flips_on_the_way_is_right_the_next_time(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    media.inject_fault(op=_shim.Op.READ, flip=True, skip=1, times=1)
    with Stepped(reactor, media) as io:
        assert io.write(0, block(1)) == 0
        right, wrong, again = (io.read(0) for _ in range(3))
        assert right == again == block(1)
        assert wrong == bytes([right[0] ^ 1]) + right[1:]


def test_latency_delays_the_effect_and_the_completion(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> None:
    media.inject_fault(op=_shim.Op.WRITE, latency_us=50)
    with Stepped(reactor, media) as io:
        io.now_ns = 1_000_000
        slow = io.port.submit(_shim.Op.WRITE, 0, 1, block(1))
        for _ in range(5):
            io.step()
        assert io.read(0) == bytes(4096)
        io.now_ns += 49_999
        io.step()
        assert slow not in io.completed
        io.now_ns += 1
        io.step()
        assert io.wait(slow).status == 0
        assert io.read(0) == block(1)
        media.clear_faults()


def test_latency_works_on_a_sleeping_reactor_thread(media: _shim.EmulatedMedia, reactor: _shim.Reactor) -> None:
    media.inject_fault(op=_shim.Op.FLUSH, latency_us=2000)
    port = _shim.IoPort(reactor, media, 4)
    reactor.start()
    try:
        port.submit(_shim.Op.FLUSH)
        port.close()
    finally:
        reactor.stop()
    assert [event.status for event in reactor.events()] == [0]


def test_a_fault_in_a_zone_hits_appends_and_zone_actions(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, 8, 8)
    media.inject_fault(lba=10, block_count=1, status=WRITE_FAULT)
    with Stepped(reactor, media) as io:
        assert [io.append(zone * 8, block(0)).status for zone in range(3)] == [0, WRITE_FAULT, 0]
        assert [io.zone_send(zone * 8, ZSA_OPEN) for zone in range(3)] == [0, WRITE_FAULT, 0]
        assert io.zone_send(0, ZSA_RESET, select_all=True) == WRITE_FAULT
        assert [state for _, state, _ in media.zone_states()] == [
            "explicitly_open", "empty", "explicitly_open", "empty",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ({"op": len(_shim.Op)}, TypeError, "op"),
        ({"status": 0x800}, ValueError, "status"),
        ({"latency_us": 2**63}, ValueError, "latency_us"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    media: _shim.EmulatedMedia, fault: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        media.inject_fault(**fault)  # type: ignore[arg-type]


def test_faults_are_bounded(media: _shim.EmulatedMedia) -> None:
    for _ in range(1024):
        media.inject_fault(status=WRITE_FAULT)
    with pytest.raises(ValueError, match="at most 1024 faults"):
        media.inject_fault(status=WRITE_FAULT)


# ---- schedule --------------------------------------------------------------------------------------------------


def order_of(schedule: int | None) -> list[int]:
    reactor = _shim.Reactor("order")
    media = _shim.EmulatedMedia.conventional(reactor, 64)
    media.set_schedule(schedule)
    with Stepped(reactor, media) as io:
        tickets = [io.port.submit(_shim.Op.READ, lba, 1, bytearray(4096)) for lba in range(32)]
        while len(io.completed) < len(tickets):
            io.step()
        return [tickets.index(ticket) for ticket in io.completion_order]


def test_a_schedule_completes_in_an_order_of_its_own_and_none_in_order_of_submission() -> None:
    assert order_of(None) == list(range(32))
    assert order_of(1) == order_of(1)
    assert order_of(1) != order_of(2)
    assert sorted(order_of(1)) == list(range(32))


# ---- power -----------------------------------------------------------------------------------------------------


def test_power_is_cut_at_the_operation_asked_for(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, 16, 16)
    media.cut_power_at(5, seed=1)
    with Stepped(reactor, media) as io:
        assert [io.write(lba, block(lba), fua=True) for lba in range(8)] == [0] * 5 + [POWER_LOSS] * 3
        assert media.operations == 5
        media.power_on()
        assert io.read(0, 6) == blocks(0, 5) + bytes(4096)
        assert io.write(5, block(5)) == 0
        assert media.operations == 7


def test_everything_outstanding_completes_with_power_loss_even_after_power_is_back(
    reactor: _shim.Reactor, media: _shim.EmulatedMedia
) -> None:
    with Stepped(reactor, media) as io:
        media.inject_fault(op=_shim.Op.READ, latency_us=10**9)
        tickets = [io.port.submit(_shim.Op.READ, lba, 1, bytearray(4096)) for lba in range(4)]
        io.step()
        io.step()
        media.power_cut(1)
        media.power_on()
        assert [io.wait(ticket).status for ticket in tickets] == [POWER_LOSS] * 4
        media.clear_faults()
        assert io.read_status(0) == 0


@pytest.mark.parametrize("zoned", [False, True])
def test_a_flush_may_fail_and_lose_the_volatile_cache(reactor: _shim.Reactor, zoned: bool) -> None:
    outcomes = set()
    for attempt in range(12):
        media = (
            _shim.EmulatedMedia.zns(reactor, 4, 16, 16, volatile_cache=True)
            if zoned
            else _shim.EmulatedMedia.conventional(reactor, 64, volatile_cache=True)
        )
        with Stepped(reactor, media) as io:
            assert io.write(0, block(1)) == 0
            assert io.flush() == 0
            for lba in range(1, 4 + attempt):
                assert io.write(lba, block(2)) == 0
            media.inject_fault(op=_shim.Op.FLUSH, status=0x006, times=1, drops_cache=True)
            assert (io.flush(), io.flush()) == (0x006, 0)
            assert io.read(0) == block(1)
            held = [io.read(lba) == block(2) for lba in range(1, 4 + attempt)]
            media.power_cut(1)
            media.power_on()
            assert [io.read(lba) == block(2) for lba in range(1, 4 + attempt)] == held
            outcomes.add(all(held))
    assert outcomes == {True, False}
