"""Striped (raid0, concat) and Mirror (raid1), against what the same writes do to plain memory, and with members that
fail."""

from __future__ import annotations

import random

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py._shim import Op
from unit.shim.stepped import STEPS_MAX, Stepped, block, blocks

OK, INVALID_OPCODE, INTERNAL_ERROR, OUT_OF_RANGE = 0, 0x001, 0x006, 0x080


@pytest.fixture
def reactor() -> _shim.Reactor:
    return _shim.Reactor("raids", 0)


def _media(reactor: _shim.Reactor, *sizes: int) -> list[_shim.EmulatedMedia]:
    return [_shim.EmulatedMedia.conventional(reactor, size, volatile_cache=True) for size in sizes]


def _failed(reactor: _shim.Reactor, mirror: _shim.Mirror) -> list[tuple[int, int]]:
    return [
        (event.member, event.status)
        for event in reactor.events()
        if event.kind == _shim.EventKind.MEMBER_FAILED and event.source == mirror.id
    ]


# --- striped ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strip", "lengths"), [(4, (32, 32, 32)), (1, (20, 20)), (8, (24,)), (0, (10, 1, 33))])
def test_a_striped_device_is_one_device(strip: int, lengths: tuple[int, ...], reactor: _shim.Reactor) -> None:
    prng = random.Random(f"{strip} {lengths}")
    members = _media(reactor, *(length + 3 for length in lengths))
    device = _shim.Striped(reactor, members, lengths, strip)
    size = sum(lengths)
    assert (device.block_count, device.volatile_cache, device.zoned) == (size, True, False)
    content = [bytes(4096)] * size
    with Stepped(reactor, device) as io:
        for tag in range(150):
            lba = prng.randrange(size)
            count = prng.randint(1, size - lba)
            op = prng.choice((Op.WRITE, Op.WRITE, Op.WRITE_ZEROES, Op.DEALLOCATE))
            if op == Op.WRITE:
                assert io.write(lba, blocks(1000 * tag, count)) == OK
            else:
                assert io.run(op, lba, count) == OK
            content[lba : lba + count] = [
                block(1000 * tag + i) if op == Op.WRITE else bytes(4096) for i in range(count)
            ]
            lba = prng.randrange(size)
            count = prng.randint(1, size - lba)
            assert io.read(lba, count) == b"".join(content[lba : lba + count])
        assert io.flush() == OK
        assert io.write(size, block(1)) == OUT_OF_RANGE
        assert io.zone_send(0, 4) == INVALID_OPCODE
    for index, member in enumerate(members):  # nothing outside, and in SPDK's places
        with Stepped(reactor, member) as io:
            assert io.read(lengths[index], 3) == bytes(3 * 4096)
            for lba in range(lengths[index]):
                row, offset = divmod(lba, strip or 1)
                raid_lba = (row * len(lengths) + index) * strip + offset if strip else sum(lengths[:index]) + lba
                assert io.read(lba) == content[raid_lba]


def test_data_in_many_parts_is_cut_at_blocks(reactor: _shim.Reactor) -> None:
    """512 strips of one block: more pieces than a device has in its pool."""
    members = [_shim.EmulatedMedia.conventional(reactor, 600, max_io_blocks=1024) for _ in range(2)]
    device = _shim.Striped(reactor, members, [600, 600], 1)
    with Stepped(reactor, device) as io:
        tickets = [io.port.submit(Op.WRITE, 0, 1000, blocks(10_000 * i, 1000)) for i in range(3)]
        assert [io.wait(ticket).status for ticket in tickets] == [OK] * 3
        assert io.completion_order == tickets
        assert io.read(0, 1000) == blocks(20_000, 1000)


def test_an_error_of_a_member_is_a_general_one(reactor: _shim.Reactor) -> None:
    members = _media(reactor, 16, 16)
    device = _shim.Striped(reactor, members, [16, 16], 4)
    members[1].inject_fault(status=0x281)
    with Stepped(reactor, device) as io:
        assert io.write(0, blocks(0, 4)) == OK
        assert io.write(2, blocks(0, 4)) == INTERNAL_ERROR
        assert io.flush() == INTERNAL_ERROR


def test_raid0_grows(reactor: _shim.Reactor) -> None:
    nulls = [_shim.EmulatedMedia.null(reactor, 8) for _ in range(2)]
    device = _shim.Striped(reactor, nulls, [8, 8], 4)
    for null in nulls:
        null.resize(12)
    device.resize(12)
    assert device.block_count == 24
    with Stepped(reactor, device) as io:
        assert io.read_status(23) == OK
    with pytest.raises(ValueError, match="whole strips"):
        device.resize(13)


def test_members_that_do_not_fit_are_refused(reactor: _shim.Reactor) -> None:
    small, large = _media(reactor, 8, 16)
    other = _shim.EmulatedMedia.conventional(reactor, 64, block_bytes=512)
    for members, lengths, strip in (
        ([], [], 4), ([small, large], [8], 4), ([small, large], [8, 16], 4), ([small, large], [16, 16], 4),
        ([small, large], [6, 6], 4), ([small, other], [8, 8], 4), ([small, large], [0, 8], 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            _shim.Striped(reactor, members, lengths, strip)
    for members, count in (([], 8), ([small, large], 16), ([small, large], 0), ([small, other], 8)):
        with pytest.raises(ValueError, match=r"\w"):
            _shim.Mirror(reactor, members, count)


# --- mirror ----------------------------------------------------------------------------------------------------------


class Pair:
    """A mirror of two, each behind an injector of errors."""

    def __init__(self, reactor: _shim.Reactor) -> None:
        self.reactor = reactor
        self.media = _media(reactor, 64, 70)
        self.errors = [_shim.ErrorInjector(reactor, each) for each in self.media]
        self.mirror = _shim.Mirror(reactor, self.errors, 64)

    def content(self, member: int, lba: int = 0, count: int = 1) -> bytes:
        with Stepped(self.reactor, self.media[member]) as io:
            return io.read(lba, count)


def test_writes_reach_every_member(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    assert (pair.mirror.block_count, pair.mirror.volatile_cache) == (64, True)
    with Stepped(reactor, pair.mirror) as io:
        assert io.write(0, blocks(0, 8), fua=True) == OK
        assert io.run(Op.WRITE_ZEROES, 2, 1) == OK
        assert io.run(Op.DEALLOCATE, 3, 1) == OK
        assert io.flush() == OK
        assert io.write(63, blocks(0, 2)) == OUT_OF_RANGE
    for media in pair.media:
        media.power_cut(1)  # FUA and the flush went to both
        media.power_on()
    assert pair.content(0, 0, 8) == pair.content(1, 0, 8) == blocks(0, 2) + bytes(8192) + blocks(4, 4)


@pytest.mark.parametrize("op", [Op.WRITE, Op.FLUSH, Op.DEALLOCATE])
def test_a_member_that_fails_is_left_alone_and_nothing_is_lost(op: Op, reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    with Stepped(reactor, pair.mirror) as io:
        assert io.write(0, block(1)) == OK
        pair.errors[0].inject(op, "failure", 1)
        ticket = io.port.submit(op, 8, 0 if op == Op.FLUSH else 1, block(2) if op == Op.WRITE else None)
        kinds = []
        while not io.completed:
            reactor.step(1)
            for event in reactor.events():
                kinds.append((event.kind, event.source))
                if event.kind == _shim.EventKind.IO_DONE:
                    assert (event.ticket, event.status) == (ticket, OK)
                    io.completed[ticket] = None  # type: ignore[assignment]
        assert (_shim.EventKind.MEMBER_FAILED, pair.mirror.id) in kinds
        assert pair.mirror.gone() == [0]
        before = pair.media[0].operations
        assert io.write(0, block(3)) == OK
        assert io.read(0) == block(3)
        assert pair.media[0].operations == before
    assert pair.content(1) == block(3)
    assert pair.mirror.release()
    pair.errors[1].inject(Op.WRITE, "failure", 1)
    with Stepped(reactor, pair.mirror) as io:
        assert io.write(0, block(4)) == INTERNAL_ERROR
        assert io.read_status(0) == INTERNAL_ERROR  # no member is left
    assert pair.mirror.gone() == [0, 1]


def test_a_block_that_one_member_can_not_read_is_written_again(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    with Stepped(reactor, pair.mirror) as io:
        assert io.write(5, block(5)) == OK
        for member in (0, 1):
            pair.errors[member].inject(Op.READ, "failure", 1)
            before = pair.media[member].operations
            assert io.read(5) == block(5)
            assert _failed(reactor, pair.mirror) == []
            assert pair.media[0].operations > before or member == 1
        assert pair.mirror.gone() == []


def test_a_block_that_can_not_be_written_again_ends_the_member(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    with Stepped(reactor, pair.mirror) as io:
        assert io.write(5, block(5)) == OK
        pair.errors[0].inject(Op.READ, "failure", 1)
        pair.errors[0].inject(Op.WRITE, "failure", 1)
        assert io.read(5) == block(5)
        assert pair.mirror.gone() == [0]


def test_a_block_that_no_member_can_read_is_an_error(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    for errors in pair.errors:
        errors.inject(Op.READ, "failure", 1)
    with Stepped(reactor, pair.mirror) as io:
        assert io.read_status(5) == INTERNAL_ERROR
        assert pair.mirror.gone() == [0]
        assert io.read_status(5) == OK


def test_old_data_is_not_written_over_new(reactor: _shim.Reactor) -> None:
    """The read of the second member is slow; meanwhile a host writes. Without the check both members would differ."""
    media = _media(reactor, 64, 64)
    errors = _shim.ErrorInjector(reactor, media[0])
    slow = _shim.Delay(reactor, media[1], avg_read_us=1000, p99_read_us=1000, avg_write_us=0, p99_write_us=0)
    mirror = _shim.Mirror(reactor, [errors, slow], 64)
    with Stepped(reactor, mirror) as io:
        assert io.write(5, block(1)) == OK
        errors.inject(Op.READ, "failure", 1)
        data = bytearray(4096)
        read = io.port.submit(Op.READ, 5, 1, data)
        for _ in range(6):
            io.step()
        assert read not in io.completed
        assert io.write(5, block(2)) == OK
        io.now_ns += 2_000_000
        assert io.wait(read).status == OK
        for _ in range(6):
            io.step()
        assert bytes(data) in (block(1), block(2))
    for each in media:
        with Stepped(reactor, each) as io:
            assert io.read(5)[:8] == block(2)[:8]
    assert mirror.gone() == []


def test_writes_wait_for_a_block_that_is_written_again(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    with Stepped(reactor, pair.mirror) as io:
        assert io.write(5, block(1)) == OK
        pair.errors[0].inject(Op.READ, "failure", 1)
        pair.errors[0].inject(Op.WRITE, "pending", 1)  # the data written again is held
        data = bytearray(4096)
        read = io.port.submit(Op.READ, 5, 1, data)
        for _ in range(6):
            io.step()
        write = io.port.submit(Op.WRITE, 5, 1, block(2))
        for _ in range(6):
            io.step()
        assert not io.completed
        pair.errors[0].resume_pending()
        assert io.wait(read).status == io.wait(write).status == OK
        assert bytes(data) == block(1)
    assert pair.content(0, 5) == pair.content(1, 5) == block(2)


def test_a_member_is_let_go_when_its_io_is_back(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    with Stepped(reactor, pair.mirror) as io:
        pair.errors[0].inject(Op.WRITE, "pending", 1)
        write = io.port.submit(Op.WRITE, 5, 1, block(2))
        for _ in range(6):
            io.step()
        pair.mirror.remove(0)
        pair.mirror.remove(0)
        assert not pair.mirror.release()
        pair.errors[0].resume_pending()
        assert io.wait(write).status == OK
        assert pair.mirror.release()
        assert pair.mirror.gone() == [0]
        with pytest.raises(ValueError, match="no member 2"):
            pair.mirror.remove(2)


def test_reads_go_to_the_idle_member(reactor: _shim.Reactor) -> None:
    pair = Pair(reactor)
    with Stepped(reactor, pair.mirror) as io:
        before = [each.operations for each in pair.media]
        for _ in range(16):
            io.port.submit(Op.READ, 0, 4, bytearray(4 * 4096))
        for _ in range(STEPS_MAX):
            if len(io.completed) == 16:
                break
            io.step()
        assert [each.operations - was for each, was in zip(pair.media, before, strict=True)] == [8, 8]


def test_more_writes_than_the_pool_holds_wait(reactor: _shim.Reactor) -> None:
    mirror = _shim.Mirror(reactor, _media(reactor, *(16 for _ in range(7))), 16)
    with Stepped(reactor, mirror, depth=400) as io:
        tickets = [io.port.submit(Op.WRITE, i % 16, 1, block(i)) for i in range(400)]
        assert {io.wait(ticket).status for ticket in tickets} == {OK}
        assert io.read(15) == block(399)
