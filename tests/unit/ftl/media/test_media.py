"""The control path on emulated media: port, layout, superblock."""

from __future__ import annotations

import asyncio
import errno
import sys
from uuid import uuid4

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError, UnsupportedError
from spdk_ftl_py.ftl.media import layout, superblock
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import plan
from spdk_ftl_py.ftl.media.superblock import Superblock, SuperblockWriter
from unit.ftl.media.media_rig import UUID_A, ZONE_CAPACITY, ZONE_SIZE, ZONES
from unit.ftl.media.summaries import build_summary


def blocks(count: int, fill: int = 7) -> np.ndarray:
    return np.full((count, 4096), fill, np.uint8)


@pytest.mark.rig(max_io_blocks=32)
async def test_what_was_written_is_read_back_in_parts_of_any_size(port: BlockPort) -> None:
    data = np.random.default_rng(1).integers(0, 256, (40, 4096), np.uint8)
    await port.write(0, data[:16])
    assert await port.append(0, data[16:40]) == 16
    await port.flush()
    assert np.array_equal(await port.read(0, 40), data)


async def test_errors_carry_the_status_and_its_name(port: BlockPort) -> None:
    with pytest.raises(MediaError, match=r"base: write at block 5 failed: zone invalid write") as caught:
        await port.write(5, blocks(1))
    assert caught.value.status == 0x1BC
    await port.write(0, blocks(1))


async def test_more_ios_than_the_port_is_deep_wait_their_turn(port: BlockPort) -> None:
    await asyncio.gather(*(port.write(zone * ZONE_SIZE, blocks(1, zone)) for zone in range(50)))
    for zone in range(50):
        assert (await port.read(zone * ZONE_SIZE, 1) == zone).all()


async def test_a_cancelled_io_gives_its_slot_back_when_it_is_done(port: BlockPort) -> None:
    for _ in range(10):
        task = asyncio.ensure_future(port.read(0, 4))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await port.read(0, 1)).shape == (1, 4096)


async def test_many_places_are_read_as_one_list(port: BlockPort) -> None:
    await asyncio.gather(*(port.write(zone * ZONE_SIZE, blocks(2, zone)) for zone in range(50)))
    for count in (1, 2):
        read = await port.read_each([zone * ZONE_SIZE for zone in range(50)] * 10, count)
        assert read is not None
        assert read.shape == (500, count, 4096)
        assert (read == np.tile(np.arange(50, dtype=np.uint8), 10)[:, None, None]).all()
    empty = await port.read_each([])
    assert empty is not None
    assert not len(empty)


async def test_a_list_with_one_bad_place_is_none_and_the_next_one_is_whole(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    media.inject_fault(op=_shim.Op.READ, lba=3 * ZONE_SIZE, block_count=1, status=0x281, times=1)
    places = [zone * ZONE_SIZE for zone in range(50)]
    assert await port.read_each(places) is None
    assert await port.read_each(places) is not None


async def test_a_list_that_was_cancelled_is_waited_for(port: BlockPort) -> None:
    places = [zone * ZONE_SIZE for zone in range(50)] * 20
    for _ in range(5):
        task = asyncio.ensure_future(port.read_each(places))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await port.read_each(places[:3]) is not None
    task = asyncio.ensure_future(port.read_each(places))
    await asyncio.sleep(0)
    await port.close()
    assert await task is not None
    with pytest.raises(MediaError, match="after close"):
        await port.read_each(places)


async def test_a_list_of_the_shim_refuses_what_makes_no_sense(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    reads = _shim.ReadList(port._reactor.shim, media, 4)
    rows = np.empty((3, 4096), np.uint8)
    for addresses, count in (([], 1), ([0], 0), ([0, 1, 2, 3], 1), ([0, 1], 2)):
        with pytest.raises(ValueError, match="room"):
            reads.start(addresses, count, rows)
    before = sys.getrefcount(rows)
    reads.start([0, 1, 2], 1, rows)
    assert sys.getrefcount(rows) == before + 1
    while sys.getrefcount(rows) > before:
        reads.release()
        await asyncio.sleep(0)
    reads.close()
    reads.close()
    with pytest.raises(RuntimeError, match="closed"):
        reads.start([0], 1, rows)


@pytest.mark.rig(max_io_blocks=1)
async def test_zones_are_reported_64_at_a_time_at_least(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    before = media.operations
    assert [zone.index for zone in await port.zones()] == list(range(ZONES))
    assert media.operations - before == 3


async def test_zones_are_reported_as_many_at_a_time_as_fit_in_an_io(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    await port.write(0, blocks(3))
    await port.write(129 * ZONE_SIZE, blocks(48))
    media.set_zone_state(70, "offline")
    media.set_zone_state(71, "read_only")
    before = media.operations
    zones = await port.zones()
    assert media.operations - before == 1
    assert [zone.index for zone in zones] == list(range(ZONES))
    states = {zone.index: (zone.state, zone.written) for zone in zones if zone.state != "empty"}
    assert states[0] == ("implicitly_open", 3)
    assert states[129] == ("full", ZONE_CAPACITY)
    assert (states[70][0], states[71][0]) == ("offline", "read_only")
    assert {zone.capacity for zone in zones if zone.usable} == {ZONE_CAPACITY}


@pytest.mark.rig(max_io_blocks=1)
async def test_a_failing_zone_report_is_enodev(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    media.inject_fault(op=_shim.Op.ZONE_REPORT, status=0x006, do_not_retry=True, skip=1)
    with pytest.raises(MediaError, match="zone report at block 4096 failed") as caught:
        await port.zones()
    assert caught.value.errno == errno.ENODEV


async def test_zones_are_reset_side_by_side_and_progress_is_told(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    for zone in range(20):
        await port.zone_action(_shim.ZoneAction.FINISH, zone * ZONE_SIZE)
    told: list[float] = []
    await port.reset_zones([zone * ZONE_SIZE for zone in range(20)], told.append)
    assert all(state == "empty" for _, state, _ in media.zone_states())
    assert told == sorted(told)
    assert told[-1] == 1.0


async def test_a_zone_that_cant_be_reset_is_an_error(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    media.set_zone_state(3, "read_only")
    with pytest.raises(MediaError, match="reset of the zone at block 192 failed"):
        await port.reset_zones([zone * ZONE_SIZE for zone in range(20)])


# --- layout


def entries(count: int) -> np.ndarray:
    made = np.zeros(count, layout.ENTRY)
    made["lba"] = np.arange(count) + 5
    made["seq"] = np.arange(count) + 100
    made["crc"] = 0xDEADBEEF
    return made


def header(**change: object) -> np.ndarray:
    fields: dict[str, object] = {
        "band": 3,
        "punit": 1,
        "band_seq": 9,
        "address": 777,
        "kind": layout.KIND_DATA,
        "stream": 1,
        "entries": entries(127),
    }
    return layout.build_batch_header(UUID_A, **{**fields, **change})  # type: ignore[arg-type]


def test_a_batch_header_is_parsed_as_built() -> None:
    parsed = layout.parse_batch_header(header(), UUID_A)
    assert parsed is not None
    assert (parsed.band, parsed.punit, parsed.band_seq, parsed.address) == (3, 1, 9, 777)
    assert (parsed.kind, parsed.stream, parsed.block_count) == (layout.KIND_DATA, 1, 128)
    assert np.array_equal(parsed.entries, entries(127))


def test_fields_lie_where_the_document_says() -> None:
    block = header().tobytes()
    assert block[:8] == b"FTLBATCH"
    assert block[8:12] == b"\2\0\0\0"
    assert block[16:32] == UUID_A.bytes
    assert int.from_bytes(block[32:40], "little") == 9
    assert int.from_bytes(block[40:48], "little") == 777
    assert [int.from_bytes(block[a:b], "little") for a, b in ((48, 52), (52, 54), (54, 56), (56, 60), (60, 64))] == [
        127,
        1,
        1,
        3,
        1,
    ]
    assert int.from_bytes(block[64 + 24 : 64 + 32], "little") == 6
    zeroed = block[:12] + bytes(4) + block[16:]
    assert int.from_bytes(block[12:16], "little") == _shim.crc32c(zeroed)


def test_a_damaged_or_foreign_header_does_not_exist() -> None:
    for offset in (0, 13, 20, 45, 64, 4095):
        block = header().copy()
        block[offset] ^= 1
        assert layout.parse_batch_header(block, UUID_A) is None
    assert layout.parse_batch_header(header(), uuid4()) is None
    assert layout.parse_batch_header(np.zeros(4096, np.uint8), UUID_A) is None


def test_counts_and_kinds_that_cant_be_are_not_believed() -> None:
    assert layout.parse_batch_header(header(entries=entries(128)), UUID_A) is None
    assert layout.parse_batch_header(header(kind=9), UUID_A) is None
    assert layout.parse_batch_header(header(band_seq=1 << 63), UUID_A) is None
    endless = entries(3)
    endless["seq"][1] = (1 << 64) - 1
    assert layout.parse_batch_header(header(entries=endless), UUID_A) is None
    for band_seq, its in ((1 << 63, entries(3)), (9, endless)):
        summary = build_summary(UUID_A, band=3, punit=1, band_seq=band_seq, entries=its, summary_blocks=1)
        assert layout.parse_summary(summary, UUID_A, band=3, punit=1) is None
        assert layout.parse_summary_block(summary[0], UUID_A) is None
    trim = layout.parse_batch_header(header(kind=layout.KIND_TRIM, entries=entries(168)), UUID_A)
    assert trim is not None
    assert trim.block_count == 1


def test_another_format_version_is_refused_by_name_where_no_host_can_write() -> None:
    for block, dtype in (
        (header(), layout.BATCH_HEADER),
        (Superblock(UUID_A, 1, True, {}).build(), layout.SUPERBLOCK),
    ):
        record = np.frombuffer(block.tobytes(), dtype).copy()
        record["version"] = 1
        record["crc"] = 0
        if dtype is layout.BATCH_HEADER:
            assert layout.parse_batch_header(layout.seal(record), UUID_A) is None
        else:
            with pytest.raises(
                UnsupportedError, match="the superblock has media format version 1, but this software supports 2"
            ):
                Superblock.parse(layout.seal(record), UUID_A)


def test_a_summary_is_whole_or_nothing() -> None:
    all_blocks = build_summary(UUID_A, band=3, punit=1, band_seq=9, entries=entries(400), summary_blocks=3)
    parsed = layout.parse_summary(all_blocks, UUID_A, band=3, punit=1)
    assert parsed is not None
    assert (parsed.band_seq, parsed.row_count) == (9, 400)
    assert np.array_equal(layout.summary_entries(parsed), entries(400))
    assert parsed.highest_seq == int(entries(400)["seq"].max())
    assert layout.parse_summary(all_blocks, UUID_A, band=3, punit=0) is None
    all_blocks[1][100] ^= 1
    assert layout.parse_summary(all_blocks, UUID_A, band=3, punit=1) is None


# --- superblock


async def test_the_newest_superblock_is_found_across_both_zones(port: BlockPort) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    assert await superblock.find(port, await port.zones()) is None
    for generation in range(1, 3 * ZONE_CAPACITY):
        await writer.write({"next_seq": generation}, clean=generation % 2 == 0)
        if generation % 10 == 1 or generation % ZONE_CAPACITY < 2:
            found = await superblock.find(port, await port.zones(), UUID_A)
            assert found is not None
            assert (found[0].generation, found[0].clean) == (generation, generation % 2 == 0)
            assert found[0].content["next_seq"] == generation
            assert found[2] == (generation - 1) % ZONE_CAPACITY + 1
    assert await superblock.find(port, await port.zones(), uuid4()) is None


async def test_a_failed_superblock_write_goes_to_the_other_zone(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    media.set_zone_state(0, "read_only")
    await writer.write({"n": 2}, clean=True)
    found = await superblock.find(port, await port.zones(), UUID_A)
    assert found is not None
    assert (found[0].content["n"], found[1], found[2]) == (2, 1, 1)
    media.set_zone_state(1, "read_only")
    with pytest.raises(MediaError):
        await writer.write({"n": 3}, clean=True)
    found = await superblock.find(port, await port.zones(), UUID_A)
    assert found is not None
    assert found[0].content["n"] == 2


@pytest.mark.parametrize(("op", "status"), [(_shim.Op.WRITE, 0x280), (_shim.Op.FLUSH, 0x007)])
@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_never_more_than_one_superblock_zone_is_active(
    op: _shim.Op, status: int, failures: int, media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    """The others that may be are for bands."""
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    for n in range(2 * ZONE_CAPACITY):
        if n % 7 == 1:
            media.inject_fault(op=op, status=status, do_not_retry=True, times=failures)
        await writer.write({"n": n}, clean=False)
        assert sum(state not in ("empty", "full") for _, state, _ in media.zone_states()) <= 1
        found = await superblock.find(port, await port.zones(), UUID_A)
        assert found is not None
        assert (found[0].content["n"], found[0].generation) == (n, n + 1)


def active_superblock_zones(media: _shim.EmulatedMedia) -> list[int]:
    return [zone for zone, (_, state, _) in enumerate(media.zone_states()[:2]) if state not in ("empty", "full")]


async def resumed_writer(port: BlockPort) -> SuperblockWriter:
    zones = await port.zones()
    found = await superblock.find(port, zones, UUID_A)
    assert found is not None
    geometry = plan(zones, zone_size=ZONE_SIZE, num_punits=2)
    return SuperblockWriter(
        port,
        geometry,
        UUID_A,
        generation=found.superblock.generation,
        zone=found.zone,
        written=found.used,
        beside=found.beside,
    )


@pytest.mark.parametrize("lands", [False, True], ids=["written in part", "written and not flushed"])
async def test_a_resumed_writer_leaves_the_zone_in_which_its_predecessor_died(
    lands: bool, media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    """The daemon dies in the attempt to use the other zone. Both zones are active then."""
    writer = SuperblockWriter(port, plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2), UUID_A)
    await writer.write({"n": 1}, clean=False)
    await port.write(ZONE_SIZE, Superblock(UUID_A, 2 if lands else 1, False, {"n": 2}).build() if lands else blocks(1))
    assert active_superblock_zones(media) == [0, 1]
    await (await resumed_writer(port)).write({"n": 3}, clean=False)
    assert len(active_superblock_zones(media)) == 1
    # The zone that was left must not look like damage once the other one is full.
    for n in range(4, ZONE_CAPACITY + 2):
        await (await resumed_writer(port)).write({"n": n}, clean=False)
        assert len(active_superblock_zones(media)) <= 1
        found = await superblock.find(port, await port.zones(), UUID_A)
        assert found is not None
        assert (found.superblock.content["n"], found.damage) == (n, None)


async def test_a_superblock_zone_that_was_never_written_is_not_finished(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    """Full and without a superblock it would be taken for damage once the other zone is full."""
    writer = SuperblockWriter(port, plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2), UUID_A)
    await writer.write({"n": 0}, clean=False)
    media.inject_fault(op=_shim.Op.WRITE, status=0x280, do_not_retry=True, times=6)
    with pytest.raises(MediaError):
        await writer.write({"n": 0}, clean=False)
    for n in range(1, ZONE_CAPACITY):
        await writer.write({"n": n}, clean=False)
        found = await superblock.find(port, await port.zones(), UUID_A)
        assert found is not None
        assert (found.superblock.content["n"], found.damage) == (n, None)


async def test_a_superblock_zone_whose_state_is_unknown_is_left(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    writer = SuperblockWriter(port, plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2), UUID_A)
    await writer.write({"n": 1}, clean=False)
    media.inject_fault(op=_shim.Op.WRITE, status=0x280, do_not_retry=True, times=1)
    media.inject_fault(op=_shim.Op.ZONE_REPORT, status=0x280, do_not_retry=True, times=1)
    await writer.write({"n": 2}, clean=False)
    assert active_superblock_zones(media) == [1]


async def test_a_superblock_written_twice_hides_none_behind_it(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    """Where a zone says that it is full, the end of what counts is found by generation."""
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    media.inject_fault(op=_shim.Op.FLUSH, status=0x007, do_not_retry=True, times=1)
    await writer.write({"n": 2}, clean=False)
    await writer.write({"n": 3}, clean=False)
    await port.zone_action(_shim.ZoneAction.FINISH, 0)
    found = await superblock.find(port, await port.zones(), UUID_A)
    assert found is not None
    assert found[0].content["n"] == 3


async def test_a_resumed_writer_goes_on_behind_the_newest(port: BlockPort) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    for n in range(ZONE_CAPACITY + 3):
        await writer.write({"n": n}, clean=False)
    found = await superblock.find(port, await port.zones(), UUID_A)
    assert found is not None
    again = SuperblockWriter(port, geometry, UUID_A, generation=found[0].generation, zone=found[1], written=found[2])
    await again.write({"n": "next"}, clean=True)
    newest = await superblock.find(port, await port.zones(), UUID_A)
    assert newest is not None
    assert (newest[0].content["n"], newest[0].generation) == ("next", found[0].generation + 1)


@pytest.mark.parametrize("superblocks", [ZONE_CAPACITY - 5, ZONE_CAPACITY], ids=["open", "full"])
async def test_a_superblock_that_can_not_be_read_hides_no_other(
    superblocks: int, media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    for generation in range(1, superblocks + 1):
        block = Superblock(UUID_A, generation, False, {}).build()
        await port.write(generation - 1, bytes(4096) if generation == 9 else block)
    media.inject_fault(op=_shim.Op.READ, lba=11, block_count=1, status=0x281)
    found = await superblock.find(port, await port.zones(), UUID_A)
    assert found is not None
    assert (found.superblock.generation, found.used, found.damage) == (superblocks, superblocks, None)


@pytest.mark.parametrize("superblocks", [1, ZONE_CAPACITY, ZONE_CAPACITY + 1, ZONE_CAPACITY + 2])
@pytest.mark.parametrize("how", ["zeroed", "unreadable"])
async def test_the_newest_superblock_is_missed_where_it_does_not_verify(
    superblocks: int, how: str, media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    for generation in range(1, superblocks + 1):
        zone, offset = divmod(generation - 1, ZONE_CAPACITY)
        block = Superblock(UUID_A, generation, True, {}).build()
        if generation == superblocks:
            address = zone * ZONE_SIZE + offset
            if how == "zeroed":
                block = np.zeros(4096, np.uint8)
            else:
                media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=0x281)
        await port.write(zone * ZONE_SIZE + offset, block)
    found = await superblock.find(port, await port.zones(), UUID_A)
    if superblocks == 1:
        assert found is None
    else:
        assert found is not None
        assert found.superblock.generation == superblocks - 1
        assert found.damage is not None
        assert f"block {address} " in found.damage


def test_superblocks_that_say_nonsense_do_not_exist() -> None:
    good = Superblock(UUID_A, 1, True, {"name": "ftl0"}).build()
    assert Superblock.parse(good, UUID_A) == Superblock(UUID_A, 1, True, {"name": "ftl0"})
    record = np.frombuffer(good.tobytes(), layout.SUPERBLOCK).copy()
    for change in (
        {"length": 5000},
        {"length": 3},
        {"json": np.void(b"[]".ljust(4032, b" "))},
        {"length": 4032, "json": np.void(b"[" * 4032)},
    ):
        bad = record.copy()
        for name, value in change.items():
            bad[name] = value
        bad["crc"] = 0
        assert Superblock.parse(layout.seal(bad), UUID_A) is None
