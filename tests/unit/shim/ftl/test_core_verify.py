"""What a host reads is what was written, or an error: media that rot, reads that go wrong on their way, memory too."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.layout import cut_crcs
from support.shared_client import READ, Answer, entry, shared_client
from unit.shim.ftl.cache_bench import CacheBench
from unit.shim.ftl.core_bench import BLOCK, Bench, content, version_of
from unit.shim.ftl.core_model import recover, restarted

UNRECOVERED_READ = 0x281
INTERNAL_ERROR = 0x006
NOT_KNOWN = 0x7FF
WRITE_FAULT = 0x280
GUARD_CHECK = 0x282
BITS = 8 * BLOCK
BUFFER_BLOCKS = 32


def forget_buffer(bench: Bench) -> None:
    """No slot of the write buffer has anything else than the last LBA any more."""
    for version in range(1, BUFFER_BLOCKS + 1):
        bench.put(bench.block_count - 1, version)
    assert bench.flush() == 0


def put_on_media(bench: Bench, lba: int, version: int, block_count: int = 1) -> None:
    """And nowhere else."""
    bench.put(lba, version, block_count)
    assert bench.flush() == 0
    forget_buffer(bench)
    assert bench.on_media(range(lba, lba + block_count))


def close_band_of(bench: Bench, lba: int) -> int:
    """Writes other LBAs until the band that has this one is closed."""
    band = bench.zone_of(bench.address(lba))[0]
    version = 100
    while bench.core.bands()[band].state in (_shim.BandState.OPEN, _shim.BandState.CLOSING):
        bench.put(bench.block_count - 1, version)
        version += 1
    return band


def unreadable(bench: Bench) -> list[tuple[int, int, int]]:
    return [(event.band, event.address, event.status) for event in bench.take(_shim.EventKind.BAND_UNREADABLE)]


def test_a_block_that_rotted_is_an_error_and_its_neighbours_are_read() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7, block_count=4)
        bench.media.rot(bench.address(4), 4321)
        assert bench.read_status(4) == UNRECOVERED_READ
        assert bench.read_status(3, 4) == UNRECOVERED_READ
        assert [bench.versions(lba, 1) for lba in (3, 5, 6)] == [[7], [7], [7]]
        stats = bench.core.stats()
        assert (stats.user_crc_errors, stats.crc_errors) == (4, 4), "each of two reads looked twice"
        assert (stats.reads_repeated, stats.unreadable_blocks) == (2, 2)
        band = bench.zone_of(bench.address(4))[0]
        assert unreadable(bench) == [(band, bench.address(4), UNRECOVERED_READ)], "told once"


def test_every_single_bit_that_flips_is_noticed() -> None:
    rng = random.Random(20261128)
    with Bench() as bench:
        put_on_media(bench, 0, 1, block_count=8)
        for _ in range(400):
            lba, bit = rng.randrange(8), rng.randrange(BITS)
            bench.media.rot(bench.address(lba), bit)
            assert bench.read_status(lba) == UNRECOVERED_READ, (lba, bit)
            bench.media.rot(bench.address(lba), bit)
            assert bench.versions(lba, 1) == [1]


def test_one_wrong_block_in_65536_has_the_right_crc() -> None:
    """Cut as it is kept: uniform, and of the same parity as the whole, so that an odd number of flipped bits shows."""
    rng = np.random.default_rng(1)
    crcs = rng.integers(0, 1 << 32, 1 << 21, dtype=np.uint32)
    counts = np.bincount(cut_crcs(crcs), minlength=1 << 16)
    assert counts.max() < 32 + 8 * 32**0.5, "32 are expected of each"
    assert (np.bitwise_count(cut_crcs(crcs)) % 2 == np.bitwise_count(crcs) % 2).all()
    block = bytearray(rng.bytes(BLOCK))
    whole = _shim.crc32c(bytes(block))
    block[77] ^= 8
    assert (whole ^ _shim.crc32c(bytes(block))).bit_count() % 2 == 1


def test_what_came_wrong_once_is_read_again() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7, block_count=4)
        bench.media.inject_fault(op=_shim.Op.READ, flip=True, times=1)
        assert bench.versions(3, 4) == [7] * 4
        stats = bench.core.stats()
        assert (stats.user_crc_errors, stats.reads_repeated, stats.unreadable_blocks) == (1, 1, 0)
        assert not unreadable(bench)


def slow_reads(reactor: _shim.Reactor, _media: _shim.EmulatedMedia) -> _shim.BlockDevice:
    """A base whose reads have come a while before it says so."""
    drive = _shim.EmulatedMedia.conventional(reactor, 64 * 64)
    late = {"avg_read_us": 100, "p99_read_us": 100, "avg_write_us": 0, "p99_write_us": 0}
    return _shim.ZonedOverlay(reactor, _shim.Delay(reactor, drive, **late), zone_capacity=48)


def test_a_host_that_changes_the_memory_of_its_read_blames_no_band() -> None:
    """What it has changed is read again, where it can't."""
    with Bench(wrap_base=slow_reads) as bench, shared_client(bench.reactor) as client:
        put_on_media(bench, 3, 7, block_count=4)
        qpair = client.serve({1: bench.core})
        client.push(entry(READ, 1, prps=client.prps(range(4), list_page=200), slba=3, cdw12=3))
        answers: list[Answer] = []
        for _ in range(10_000):
            bench.step()
            answers = client.pop()
            if answers:
                break
            client.put(0, bytes([bench.now_ns >> 8 & 0xFF]) * 4 * BLOCK)
        assert [answer.status for answer in answers] == [0]
        assert client.get(3, BLOCK) == content(6, 7), "nothing was changed after the last of them had come"
        stats = bench.core.stats()
        assert (stats.user_crc_errors, stats.reads_repeated, stats.unreadable_blocks) == (4, 4, 0)
        assert not unreadable(bench)
        qpair.close()


def test_a_second_read_is_verified_as_well() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7)
        bench.media.inject_fault(op=_shim.Op.READ, flip=True, times=2)
        assert bench.read_status(3) == UNRECOVERED_READ
        assert bench.versions(3, 1) == [7]


@pytest.mark.parametrize("status", [UNRECOVERED_READ, 0x282])
def test_a_block_that_media_cant_give_costs_a_large_read_only_a_second_try(status: int) -> None:
    with Bench() as bench:
        put_on_media(bench, 0, 5, block_count=16)
        bad = bench.address(9)
        bench.media.inject_fault(op=_shim.Op.READ, lba=bad, block_count=1, status=status, times=1)
        assert bench.versions(0, 16) == [5] * 16
        assert not unreadable(bench)
        bench.media.inject_fault(op=_shim.Op.READ, lba=bad, block_count=1, status=status)
        assert bench.read_status(0, 16) == status
        assert unreadable(bench) == [(bench.zone_of(bad)[0], bad, status)]
        assert bench.versions(0, 9) == [5] * 9
        assert bench.versions(10, 6) == [5] * 6


def test_an_error_that_is_not_the_mediums_is_passed_on_at_once() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7)
        bench.media.inject_fault(op=_shim.Op.READ, status=NOT_KNOWN, do_not_retry=True, times=1)
        assert bench.read_status(3) == NOT_KNOWN
        assert not unreadable(bench)
        assert bench.versions(3, 1) == [7]


def test_a_second_read_that_fails_is_not_judged_by_what_the_first_one_brought() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7)
        bench.media.inject_fault(op=_shim.Op.READ, flip=True, times=1)
        bench.media.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR, do_not_retry=True, skip=1, times=1)
        forget_buffer(bench)
        assert bench.read_status(3) == INTERNAL_ERROR
        assert bench.core.stats().crc_errors == 1
        assert [status for _, _, status in unreadable(bench)] == [INTERNAL_ERROR]


def test_reads_that_the_base_takes_in_parts_are_verified() -> None:
    reactor = _shim.Reactor("parts")
    media = _shim.EmulatedMedia.zns(
        reactor, 30, 64, 48, max_open_zones=7, max_active_zones=7, max_io_blocks=3, max_append_blocks=3
    )
    with Bench(reactor=reactor, media=media) as bench:
        put_on_media(bench, 0, 5, block_count=16)
        assert bench.versions(0, 16) == [5] * 16
        media.inject_fault(op=_shim.Op.READ, flip=True, skip=2, times=1)
        assert bench.versions(0, 16) == [5] * 16
        assert bench.core.stats().reads_repeated == 1
        media.rot(bench.address(7), 1)
        assert bench.read_status(0, 16) == UNRECOVERED_READ
        assert bench.versions(0, 7) + bench.versions(8, 8) == [5] * 15


@pytest.mark.parametrize("volatile_cache", [True, False])
def test_what_the_write_buffer_still_has_is_taken_from_there(volatile_cache: bool) -> None:
    with Bench(volatile_cache=volatile_cache) as bench:
        bench.put(3, 1)
        bench.put(3, 7)
        assert bench.flush() == 0
        bench.media.rot(bench.address(3), 99)
        assert bench.versions(3, 1) == [7]
        assert bench.core.stats().reads_rescued == 1
        assert len(unreadable(bench)) == 1, "moved while it is still there"
        forget_buffer(bench)
        assert bench.read_status(3) == UNRECOVERED_READ


def test_a_move_takes_from_the_write_buffer_what_media_cant_give() -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        put_on_media(bench, 0, 1)
        band = bench.zone_of(bench.address(0))[0]
        lba = 1
        while bench.core.bands()[band].state in (_shim.BandState.OPEN, _shim.BandState.CLOSING):
            bench.put(lba, 1)
            lba += 1
        assert bench.flush() == 0
        last = max((each for each in range(lba) if bench.zone_of(bench.address(each))[0] == band), key=bench.address)
        bench.media.rot(bench.address(last), 5)
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        assert bench.core.stats().reads_rescued == 1
        assert bench.versions(0, lba) == [1] * lba


def test_a_block_that_is_overwritten_while_it_is_read_is_compared_with_what_it_was() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7)
        bench.media.inject_fault(op=_shim.Op.READ, latency_us=1000, times=1)
        data = bytearray(BLOCK)
        ticket = bench.port.submit(_shim.Op.READ, 3, 1, data)
        bench.step()
        bench.put(3, 8)
        assert bench.wait(ticket).status == 0
        assert version_of(3, bytes(data)) == 7
        assert bench.core.stats().crc_errors == 0
        assert bench.versions(3, 1) == [8]


@pytest.mark.parametrize("change", ["written", "written, and on media", "trimmed"])
def test_a_bad_block_that_changes_while_it_is_read_is_read_as_it_is_then(change: str) -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7)
        bench.media.rot(bench.address(3), 8)
        bench.media.inject_fault(op=_shim.Op.READ, latency_us=1000, times=1)
        data = bytearray(BLOCK)
        ticket = bench.port.submit(_shim.Op.READ, 3, 1, data)
        bench.step()
        if change == "trimmed":
            assert bench.run(_shim.Op.DEALLOCATE, 3, 1) == 0
        else:
            bench.put(3, 8, fua=change != "written")
        assert bench.wait(ticket).status == 0
        assert version_of(3, bytes(data)) == (0 if change == "trimmed" else 8)
        assert not unreadable(bench)


def test_a_block_that_was_moved_is_verified_where_it_is() -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        put_on_media(bench, 0, 5, block_count=8)
        band = close_band_of(bench, 0)
        before = bench.address(0)
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        assert bench.address(0) != before
        assert bench.versions(0, 8) == [5] * 8
        bench.media.rot(bench.address(2), 3)
        assert bench.read_status(2) == UNRECOVERED_READ
        assert bench.versions(0, 2) == [5] * 2


def test_a_band_with_a_bad_block_is_told_as_faulted_and_its_move_keeps_the_error() -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        put_on_media(bench, 0, 1)
        put_on_media(bench, 0, 5, block_count=8)
        bench.media.rot(bench.address(2), 3)
        assert bench.read_status(2) == UNRECOVERED_READ
        band = close_band_of(bench, 2)
        its = bench.core.bands()[band]
        assert (its.state, its.unreadable, its.faulted_punits) == (_shim.BandState.FAULTED, True, [])
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 1
        assert [event.lba for event in bench.take(_shim.EventKind.BLOCK_LOST)] == [2]
        bench.core.reset_band(band)
        assert bench.until(_shim.EventKind.BAND_RESET_DONE).status == 0
        its = bench.core.bands()[band]
        assert (its.state, its.unreadable) == (_shim.BandState.FREE, False)
        assert bench.read_status(2) == UNRECOVERED_READ
        assert len(unreadable(bench)) == 1, "a lost block is no news"
        assert bench.flush() == 0
        bench.media.power_cut(1)
        bench.close()
        bench.media.power_on()
        again = restarted(bench, recover(bench))
        assert again.read_status(2) == UNRECOVERED_READ
        assert again.versions(0, 2) + again.versions(3, 5) == [5] * 7
        again.put(2, 9)
        assert again.versions(2, 1) == [9]
        again.close()


def test_a_closed_band_with_a_bad_block_is_faulted_at_once() -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        put_on_media(bench, 0, 5)
        band = close_band_of(bench, 0)
        assert bench.core.bands()[band].state == _shim.BandState.CLOSED
        bench.media.rot(bench.address(0), 3)
        assert bench.read_status(0) == UNRECOVERED_READ
        assert bench.core.bands()[band].state == _shim.BandState.FAULTED


def test_a_slot_whose_memory_changed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "buffer"
    with Bench(write_buffer_path=str(path)) as bench:
        bench.media.inject_fault(op=_shim.Op.WRITE, latency_us=10**6)
        bench.put(3, 7)
        at = path.read_bytes().find(content(3, 7))
        assert at > 0
        with path.open("r+b") as file:
            file.seek(at + 100)
            file.write(b"\xff")
        assert bench.read_status(3) == UNRECOVERED_READ
        assert bench.core.stats().user_crc_errors == 1
        bench.put(3, 8)
        assert bench.versions(3, 1) == [8]


def test_what_a_load_brings_needs_crcs_and_is_verified() -> None:
    with Bench() as bench:
        put_on_media(bench, 3, 7)
        bench.media.power_cut(1)
        bench.close()
        bench.media.power_on()
        recovered = recover(bench)
        again = restarted(bench, recovered)
        with pytest.raises(ValueError, match="blocks need their CRCs"):
            again.core.load_l2p(0, recovered.entries)
        with pytest.raises(ValueError, match="the number of CRCs differs"):
            again.core.load_l2p(0, recovered.entries, recovered.crcs[:-1])
        assert int(again.core.crcs(3, 1)[0]) == int(cut_crcs(np.array([_shim.crc32c(content(3, 7))], np.uint32))[0])
        assert again.versions(3, 1) == [7]
        again.media.rot(again.address(3), 1)
        assert again.read_status(3) == UNRECOVERED_READ
        again.close()


def test_a_device_that_does_not_verify_returns_what_media_give() -> None:
    with Bench(verify_reads=False) as bench:
        put_on_media(bench, 3, 7)
        bench.media.rot(bench.address(3), 0)
        assert bench.read(3) != content(3, 7)
        assert bench.core.stats().crc_errors == 0
        with pytest.raises(ValueError, match="does not verify reads"):
            bench.core.crcs(0, 1)
        bench.core.load_l2p(0, bench.core.l2p(0, 0))
        # What media refuse is tried again all the same.
        bench.media.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ, times=1)
        bench.read(3)
        assert bench.core.stats().reads_repeated == 1


def test_a_band_that_is_bad_as_a_whole_is_told_once() -> None:
    with Bench() as bench:
        put_on_media(bench, 0, 5, block_count=16)
        bench.media.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ)
        bands = {bench.zone_of(bench.address(lba))[0] for lba in range(16)}
        assert all(bench.read_status(lba) == UNRECOVERED_READ for lba in range(16))
        assert {band for band, _, _ in unreadable(bench)} == bands
        assert bench.core.stats().unreadable_blocks == 16


@pytest.mark.parametrize("lba", [0, 17])
def test_a_rot_that_another_lbas_block_would_explain_is_noticed(lba: int) -> None:
    """A misdirected read: a whole block, of a version of its own."""
    with Bench() as bench:
        put_on_media(bench, 0, 5, block_count=32)
        wrong = bytearray(content(lba, 5))
        right = bytearray(content(lba + 1, 5))
        for bit in range(BITS):
            if (wrong[bit // 8] ^ right[bit // 8]) >> bit % 8 & 1:
                bench.media.rot(bench.address(lba), bit)
        assert bench.base.read(bench.address(lba)) == bytes(right)
        assert bench.read_status(lba) == UNRECOVERED_READ


MODES = pytest.mark.parametrize("metadata_bytes", [8, 64, 0])


@MODES
def test_what_the_nv_cache_still_has_is_taken_from_there(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes) as bench:
        bench.put(3, 6)
        put_on_media(bench, 3, 7, block_count=4)
        bench.media.rot(bench.address(4), 99)
        assert bench.versions(3, 4) == [7] * 4
        stats = bench.core.stats()
        assert (stats.reads_rescued, stats.unreadable_blocks) == (1, 0)
        assert len(unreadable(bench)) == 1
        bench.cache.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ, times=1)
        assert bench.read_status(4) == UNRECOVERED_READ, "the cache does not count where it can't"
        bench.cache.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR, times=2)
        assert bench.versions(4, 1) == [7], "one that is busy is waited for"
        assert bench.stats().busy_answers == 2
        bench.cache.inject_fault(op=_shim.Op.READ, flip=True, times=1)
        assert bench.read_status(4) == UNRECOVERED_READ
        assert bench.versions(4, 1) == [7]
        while bench.stats().written_blocks < bench.ring:
            bench.put(bench.block_count - 1, 2, block_count=1)
        forget_buffer(bench)
        forget_buffer(bench)
        assert bench.read_status(4) == UNRECOVERED_READ, "its place has something else"


@pytest.mark.parametrize("busy", [0, 2])
@MODES
def test_a_move_takes_from_the_nv_cache_what_media_cant_give(metadata_bytes: int, busy: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, ring=800) as bench:
        bench.gc = bench.auto_reset = False
        put_on_media(bench, 0, 5, block_count=8)
        band = close_band_of(bench, 0)
        forget_buffer(bench)
        for lba in (2, 3):
            bench.media.rot(bench.address(lba), 3)
        if busy:
            bench.cache.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR, times=busy)
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        assert bench.stats().busy_answers == busy
        assert bench.core.stats().reads_rescued == 2
        assert bench.versions(0, 8) == [5] * 8


@pytest.mark.parametrize(
    ("status", "final"), [(UNRECOVERED_READ, False), (INTERNAL_ERROR, False), (INTERNAL_ERROR, True), (0x1BB, False)]
)
def test_what_a_host_reads_from_a_bad_block_comes_from_the_write_buffer_whatever_the_base_calls_it(
    status: int, final: bool
) -> None:
    """SPDK's targets have one answer for whatever failed in a bdev."""
    with Bench(write_buffer_blocks=128) as bench:
        bench.gc = False
        for lba in range(40):
            bench.put(lba, 1)
        bench.settle()
        address = bench.address(5)
        assert address < 1 << 62
        bench.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=status, do_not_retry=final)
        data = bytearray(BLOCK)
        reading = bench.port.submit(_shim.Op.READ, 5, 1, data)
        for _ in range(30_000):
            if reading in bench.completed:
                break
            bench.now_ns += 1_000_000
            bench.step()
        assert bench.wait(reading).status == 0
        assert bytes(data) == content(5, 1)
        assert bench.core.stats().reads_rescued == 1
        assert len(bench.take(_shim.EventKind.BAND_UNREADABLE)) == 1


@MODES
def test_a_cache_that_fails_while_it_is_asked_leaves_nobody_waiting(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, ring=800) as bench:
        bench.gc = bench.auto_reset = False
        put_on_media(bench, 0, 5, block_count=8)
        band = close_band_of(bench, 0)
        forget_buffer(bench)
        bench.media.rot(bench.address(2), 3)
        bench.cache.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR)
        reading = bench.port.submit(_shim.Op.READ, 2, 1, bytearray(BLOCK))
        bench.core.start_move(band)
        for _ in range(5_000):
            bench.step()
        assert bench.stats().busy_answers > 2
        bench.cache.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT)
        bench.port.submit(_shim.Op.WRITE, 100, 1, bytearray(BLOCK))
        bench.until(_shim.EventKind.CACHE_FAILED)
        assert bench.wait(reading).status == UNRECOVERED_READ
        lost = bench.until(_shim.EventKind.BLOCK_LOST)
        assert (lost.lba, lost.status) == (2, GUARD_CHECK), "what media said, not the cache"
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 1


@MODES
def test_a_cache_that_has_failed_is_not_asked(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes) as bench:
        put_on_media(bench, 3, 7)
        bench.core.forget_cache()
        forget_buffer(bench)
        bench.media.rot(bench.address(3), 99)
        assert bench.read_status(3) == UNRECOVERED_READ
