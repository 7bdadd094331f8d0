"""Loading an FTL: after a halt, after a crash at any point, after damage. Promises 1 to 4 across loads."""

from __future__ import annotations

import errno
import itertools
import random
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import Limit
from spdk_ftl_py.errors import ConfError, FtlError, GeometryError, MediaError, NotFoundError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.load.grow import Grow
from spdk_ftl_py.ftl.load.merge import Merge
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import CONF, ZONE_CAPACITY, ZONE_SIZE, MakeRestoreRig, RestoreRig
from unit.shim.ftl.core_bench import content

OTHER = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")


async def l2p_of(rig: RestoreRig) -> Any:
    port = BlockPort(rig.reactor, rig.base, name="base")
    try:
        return await restore(port, rig.device.uuid)
    finally:
        await port.close()


async def test_after_a_halt_every_block_and_trim_is_there(rig: RestoreRig) -> None:
    await rig.create()
    await rig.traffic(3000)
    before = await rig.versions()
    assert 0 < before.count(0) < len(before) - 100
    await rig.halt()
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["clean"] is True
    assert rig.device.restored["torn_blocks"] == 0
    assert await rig.versions() == before
    assert rig.device.stats()["core"]["next_seq"] > 3000


async def test_a_new_ftl_can_be_halted_and_loaded_empty(rig: RestoreRig) -> None:
    await rig.create()
    await rig.halt()
    for _ in range(3):
        await rig.load()
        assert set(await rig.versions()) == {0}
        await rig.halt()


async def crashes(rig: RestoreRig, drive: Any, seed: int, count: int) -> dict[str, int]:
    total = {"moved": 0, "torn": 0, "trims": 0, "dirty": 0}
    for crash in range(count):
        drive.cut_power_at(drive.operations + rig.rng.randrange(20, 1500), rig.rng.randrange(1 << 32))
        await rig.traffic(6000)
        core = rig.device.core.stats()
        total["moved"] += core.reloc_moved_blocks
        total["trims"] += core.media_trim_blocks
        await rig.crash()
        drive.power_on()
        while True:
            # Sometimes power fails in the load as well.
            drive.cut_power_at(drive.operations + rig.rng.randrange(1, 400), rig.rng.randrange(1 << 32))
            try:
                await rig.load()
                drive.cut_power_at(0, 0)
                await rig.versions()
                break
            except MediaError:
                await rig.crash()
                drive.power_on()
        assert rig.device.restored is not None
        total["torn"] += rig.device.restored["torn_blocks"]
        total["dirty"] += not rig.device.restored["clean"]
        found = await rig.check(f"seed {seed}, crash {crash}")
        await rig.crash()
        await rig.load()
        assert await rig.versions() == found, "loaded twice gives the same"
    return total


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_flushed_survives_power_cuts_also_in_the_load(seed: int, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(seed=seed)
    drive = rig.base
    await rig.create()
    total = await crashes(rig, drive, seed, 8)
    assert total["moved"] > 0
    assert total["trims"] > 0
    assert total["dirty"] == 8


@pytest.mark.parametrize(
    ("conf", "media"),
    [({"use_append": True}, {}), ({}, {"open_zones": 5, "zones": 62}), ({}, {"zones": 45, "max_io_blocks": 8})],
    ids=["append", "shared stream", "spare zone"],
)
async def test_power_cuts_with(conf: dict[str, Any], media: dict[str, Any], make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(seed=77, **media)
    drive = rig.base
    await rig.create(replace(CONF, **conf))
    assert rig.device.geometry.shared_stream == ("open_zones" in media)
    total = await crashes(rig, drive, 77, 6)
    assert total["moved"] > 0


async def test_everything_acknowledged_and_written_survives_the_end_of_the_process(rig: RestoreRig) -> None:
    await rig.create()
    for _ in range(6):
        await rig.traffic(1500)
        await rig.flush()
        before = await rig.versions()
        await rig.crash()
        await rig.load()
        assert await rig.versions() == before
        await rig.check("after a crash")


@pytest.mark.parametrize("clean", [False, True], ids=["crash", "halt"])
async def test_a_load_leaves_the_superblock_zone_in_which_a_daemon_died(clean: bool, rig: RestoreRig) -> None:
    """A zone that stayed active would be missing among those that bands may use."""
    await rig.create()
    await rig.traffic(200)
    await (rig.halt() if clean else rig.crash())
    port = BlockPort(rig.reactor, rig.base, name="base")
    await port.write(ZONE_SIZE, bytes(4096))
    await port.close()
    await rig.load()
    states = [state for _, state, _ in rig.base.zone_states()[:2]]
    assert sum(state not in ("empty", "full") for state in states) == 1
    await rig.check("after the load")


async def test_a_load_only_reads_until_it_knows_everything(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1000)
    await rig.flush()
    await rig.crash()
    before = drive.zone_states()
    found = await l2p_of(rig)
    again = await l2p_of(rig)
    assert drive.zone_states() == before
    assert np.array_equal(found.l2p, again.l2p)
    assert (found.next_seq, found.next_band_seq, found.bands) == (again.next_seq, again.next_band_seq, again.bands)
    assert found.zones_to_finish
    await rig.load()
    await rig.check("after the load")


@pytest.mark.rig(open_zones=7)
async def test_progress_is_told_and_zones_left_open_are_finished(rig: RestoreRig) -> None:
    await rig.create()
    await rig.traffic(500)
    await rig.crash()
    told: dict[str, float] = {}
    await rig.load(progress=told.__setitem__)
    assert told["zone report"] == told["bands"] == told["superblock"] == 1.0
    await rig.traffic(500)


@pytest.mark.parametrize("where", [(Merge, "_rows_of_copies"), (loading, "plan_growth"), (loading, "_fill")])
async def test_without_memory_a_load_names_it_and_leaves_no_trace(
    where: tuple[Any, str], rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(600)
    await rig.flush()
    await rig.crash()

    def refused(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(*where, refused)
    before = drive.zone_states()
    with pytest.raises(FtlError, match=r"ftl0: there is not enough memory to load FTL .* end other programs") as caught:
        await rig.load(grow=Grow())
    assert caught.value.errno == errno.ENOMEM
    if where[1] != "_fill":
        assert drive.zone_states() == before
    monkeypatch.undo()
    await rig.load()
    await rig.check("after the load")


# --- what is refused


async def test_another_uuid_is_refused_and_what_is_there_is_named(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.halt()
    states = drive.zone_states()
    with pytest.raises(NotFoundError, match=f"holds FTL 'ftl0' with uuid {rig.device.uuid}: give that uuid to load it"):
        await rig.load(uuid=OTHER)
    assert drive.zone_states() == states


async def test_an_ftl_whose_superblock_can_not_be_erased_keeps_its_bands(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(800)
    versions = await rig.versions()
    await rig.halt()
    drive.inject_fault(op=_shim.Op.ZONE_SEND, lba=0, block_count=1, status=0x280)
    with pytest.raises(MediaError):
        await creation.create(rig.reactor, drive, name="ftl1", conf=CONF, num_punits=2)
    drive.clear_faults()
    await rig.load()
    assert await rig.versions() == versions


async def test_a_base_without_an_ftl_is_refused(rig: RestoreRig) -> None:
    drive = rig.base
    with pytest.raises(NotFoundError, match="holds no FTL"):
        await loading.load(rig.reactor, drive, name="ftl0", uuid=OTHER)
    await rig.create()


async def test_conf_that_contradicts_what_is_there_is_refused_and_other_conf_is_taken(rig: RestoreRig) -> None:
    await rig.create()
    await rig.halt()
    with pytest.raises(ConfError, match="lba_rsvd = 40: the FTL was created with 30"):
        await rig.load(settings={"lba_rsvd": 40})
    with pytest.raises(ConfError, match="use_append = True: the FTL was created with False"):
        await rig.load(settings={"use_append": True})
    with pytest.raises(ConfError, match=r"num_punits = 3: FTL .* has 2 parallel units"):
        await rig.load(num_punits=3)
    with pytest.raises(ConfError, match="lba_rsvd = 20: the FTL was created with 30, and overprovisioning determines"):
        await rig.load(settings={"lba_rsvd": 20})
    await rig.load(settings={"lba_rsvd": 30, "use_append": False, "invalid_thld": 11})
    assert (rig.device.conf.invalid_thld, rig.device.conf.write_buffer_size) == (11, CONF.write_buffer_size)


async def test_a_setting_goes_back_to_its_default_when_that_is_given(rig: RestoreRig) -> None:
    await rig.create(replace(CONF, invalid_thld=11, reloc_policy="greedy").with_limits(high=Limit(7)))
    await rig.halt()
    await rig.load()
    assert (rig.device.conf.invalid_thld, rig.device.conf.limits["high"].limit) == (11, 7)
    await rig.halt()
    await rig.load(settings={"invalid_thld": 10, "limits": {"high": {"limit": 5}}})
    await rig.halt()
    await rig.load()
    conf = rig.device.conf
    assert (conf.invalid_thld, conf.limits["high"].limit, conf.reloc_policy) == (10, 5, "greedy")


@pytest.mark.parametrize(
    ("zones", "size", "capacity", "limit", "message"),
    [
        (44, 64, 40, 7, "the capacity of zone 2 is 40, but was at least 48"),
        (44, 64, 48, 4, "its limit of open zones is 4, but was at least 7"),
        (40, 64, 48, 7, r"has shrunk by 4 zones \(256 blocks, 1 MiB\) to 40: .*at least 2816 blocks \(11 MiB\)"),
        (22, 128, 48, 7, "its zone size is 128, but was 64"),
    ],
)
async def test_a_device_that_has_changed_is_refused(
    zones: int, size: int, capacity: int, limit: int, message: str, rig: RestoreRig
) -> None:
    drive = rig.base
    await rig.create()
    await rig.halt()
    other = _shim.EmulatedMedia.zns(
        rig.reactor.shim, zones, size, capacity, max_open_zones=limit, max_active_zones=limit
    )
    old, new = BlockPort(rig.reactor, drive, name="old"), BlockPort(rig.reactor, other, name="new")
    await new.write(0, (await old.read(0, 2))[:2])
    with pytest.raises(GeometryError, match=message):
        await loading.load(rig.reactor, other, name="ftl0", uuid=rig.device.uuid)
    assert other.zone_states()[0][2] == 2
    await old.close()
    await new.close()


# --- damage


async def copied_with(rig: RestoreRig, drive: Any, damage: dict[int, bytes]) -> Any:
    """Another drive with the same zones and content, but for some blocks."""
    copy = _shim.EmulatedMedia.zns(rig.reactor.shim, 44, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7, max_active_zones=7)
    source, sink = BlockPort(rig.reactor, drive, name="source"), BlockPort(rig.reactor, copy, name="sink")
    for start, state, pointer in drive.zone_states():
        written = ZONE_CAPACITY if state == "full" else pointer - start
        if written:
            blocks = await source.read(start, written)
            for i in range(written):
                if start + i in damage:
                    blocks[i] = np.frombuffer(damage[start + i], np.uint8)
            await sink.write(start, blocks)
    await source.close()
    await sink.close()
    return copy


async def full_zone(rig: RestoreRig, drive: Any) -> tuple[int, list[int], list[int], Any]:
    """Of a closed zone that begins with two batches of data: its start, offsets of headers, offsets of the second
    batch's blocks in force, its summary."""
    found = await l2p_of(rig)
    bands = rig.device.core.bands()
    port = BlockPort(rig.reactor, drive, name="base")
    try:
        for number, band in enumerate(rig.device.geometry.bands):
            if bands[number].state != _shim.BandState.CLOSED or bands[number].valid == 0:
                continue  # it was being relocated, or had been: copies of what stands here make good for damage
            for punit, zone in enumerate(band):
                assert zone is not None
                start = zone * ZONE_SIZE
                blocks = await port.read(start, ZONE_CAPACITY)
                summary = layout.parse_summary(blocks[-1:], rig.device.media_uuid, band=number, punit=punit)
                if summary is None:
                    continue
                flags = layout.summary_entries(summary)["flags"]
                headers = np.flatnonzero(flags & layout.SUMMARY_FLAG_HEADER)
                offsets = [i for i in range(ZONE_CAPACITY - 1) if np.any(found.l2p == np.uint64(start + i))]
                if len(headers) < 3 or (flags[headers[:2]] & 0xFFFF != layout.KIND_DATA).any():
                    continue  # what a header of records says, no summary tells
                following = [i for i in offsets if headers[1] < i < headers[2]]
                if len(following) > 1:
                    return start, [int(i) for i in headers], following, layout.summary_entries(summary)
        raise AssertionError("no zone fits")
    finally:
        await port.close()


async def test_damaged_metadata_that_is_told_elsewhere_costs_nothing(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    await rig.crash()
    before = await l2p_of(rig)
    start, headers, _, _ = await full_zone(rig, drive)
    # Summary gone: headers tell. Header gone: the summary does.
    for address in (start + ZONE_CAPACITY - 1, start + headers[1], start):
        rig.base = await copied_with(rig, drive, {address: bytes(4096)})
        after = await l2p_of(rig)
        assert after.damage == []
        assert np.array_equal(after.l2p, before.l2p)


async def test_damage_is_refused_with_a_list_or_gone_without_on_demand(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    versions = await rig.versions()
    await rig.crash()
    start, headers, inside, _ = await full_zone(rig, drive)
    damage = {start + ZONE_CAPACITY - 1: bytes(4096), start + headers[1]: bytes(4096)}
    rig.base = await copied_with(rig, drive, damage)
    blocks = f"blocks {start + headers[1]} to {start + headers[2] - 1}"
    with pytest.raises(FtlError, match=rf"(?s){blocks} .*allow-open-bands"):
        await rig.load()
    await rig.load(settings={"allow_open_bands": True})
    assert rig.device.restored is not None
    assert rig.device.restored["damage_count"] == 1
    after = await rig.versions()
    different = [lba for lba, version in enumerate(versions) if after[lba] != version]
    assert len(different) == len(inside)
    await rig.traffic(1000)


async def test_a_clean_superblock_is_not_believed_where_a_newer_one_is_damaged(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(500)
    await rig.halt()
    await rig.load()
    await rig.traffic(500)
    await rig.flush()
    await rig.crash()
    _, _, pointer = drive.zone_states()[0]
    rig.base = await copied_with(rig, drive, {pointer - 1: bytes(4096)})
    with pytest.raises(FtlError, match="newest superblock is damaged"):
        await rig.load()
    await rig.load(settings={"allow_open_bands": True})
    assert rig.device.restored is not None
    # Without the last one of its first life the newest that is left is that life's clean one.
    assert (rig.device.restored["clean"], rig.device.restored["lossy"]) == (False, True)
    await rig.check("after the load")


async def test_a_damaged_block_in_a_zone_without_summary_reads_as_an_error(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    await rig.crash()
    start, _, inside, summary = await full_zone(rig, drive)
    lba = int(summary["lba"][inside[0]])
    damage = {start + ZONE_CAPACITY - 1: bytes(4096), start + inside[0]: b"x" * 4096}
    rig.base = await copied_with(rig, drive, damage)
    with pytest.raises(FtlError, match=f"LBA {lba} can't be read, or does not match its CRC"):
        await rig.load()
    await rig.load(settings={"allow_open_bands": True})
    for _ in range(2):
        with pytest.raises(MediaError):
            await rig.port.read(lba, 1)
        await rig.halt()
        await rig.load(settings={"allow_open_bands": True})
    await rig.port.write(lba, b"y" * 4096)
    assert (await rig.port.read(lba, 1) == ord("y")).all()


# --- emulated zones


async def test_copies_that_a_header_promises_and_that_never_came_make_no_band_dispensable(rig: RestoreRig) -> None:
    """Else what they promised is taken from wherever it stands, and more bands are in use than need be."""
    drive = rig.base
    await rig.create()
    geometry = rig.device.geometry
    await rig.crash()
    port = BlockPort(rig.reactor, drive, name="base")

    async def batch(band: int, lbas: list[int], *, torn: bool = False) -> None:
        start = geometry.zone_start(geometry.bands[band][0])
        entries = np.zeros(len(lbas), layout.ENTRY)
        entries["lba"], entries["seq"] = lbas, np.array(lbas) + 1
        blocks = [np.frombuffer(content(lba, 1), np.uint8) for lba in lbas]
        entries["crc"] = [_shim.crc32c(block.tobytes()) for block in blocks]
        header = layout.build_batch_header(
            rig.device.media_uuid,
            band=band,
            punit=0,
            band_seq=band,
            address=start,
            kind=layout.KIND_DATA,
            stream=1,
            entries=entries,
        )
        await port.write(start, np.concatenate([header] if torn else [header, *blocks]))
        await port.zone_action(_shim.ZoneAction.FINISH, start)

    await batch(1, [10, 11])
    await batch(2, [12, 13])
    await batch(4, [10, 11, 12, 13])
    await batch(6, [10, 11, 12, 13], torn=True)
    await port.close()
    found = await l2p_of(rig)
    start = geometry.zone_start(geometry.bands[4][0])
    assert found.l2p[10:14].tolist() == [start + 1, start + 2, start + 3, start + 4]


def headers_made_up(uuid: UUID, version: int) -> list[bytes]:
    """What whoever may write to the device can write: all that they say verifies."""
    entries = np.zeros(20, layout.ENTRY)
    entries["lba"], entries["seq"] = np.arange(20), 1 << 50
    blocks = []
    for band, punit in itertools.product(range(21), range(2)):
        block = layout.build_batch_header(
            uuid, band=band, punit=punit, band_seq=1 << 40, address=0, kind=layout.KIND_DATA, stream=0, entries=entries
        )
        record = np.frombuffer(block.tobytes(), layout.BATCH_HEADER).copy()
        record["version"], record["crc"] = version, 0
        blocks.append(layout.seal(record).tobytes())
    return blocks


@pytest.mark.parametrize("version", [layout.FORMAT_VERSION, layout.FORMAT_VERSION + 1])
async def test_data_that_look_like_headers_are_data(version: int, reactor: ReactorLoop) -> None:
    # With emulated zones a walk comes through data of earlier lives.
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(1))
    await rig.create()
    made_up = headers_made_up(rig.device.media_uuid, version)
    written: dict[int, bytes] = {}
    for turn in range(4 * rig.device.block_count):
        lba = rig.rng.randrange(rig.device.block_count)
        written[lba] = content(lba, turn) if lba < 50 else made_up[turn % len(made_up)]
        await rig.port.write(lba, written[lba])
    await rig.port.flush()
    await rig.crash()
    rig.base = zoned()
    await rig.load()
    for lba, block in written.items():
        assert (await rig.port.read(lba, 1)).tobytes() == block, lba
    await rig.end()


async def test_emulated_zones_are_loaded_although_their_write_pointers_are_gone(reactor: ReactorLoop) -> None:
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE, volatile_cache=True)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    for seed in range(3):
        rig = RestoreRig(reactor, zoned(), random.Random(seed))
        await rig.create()
        for crash in range(6):
            disk.cut_power_at(disk.operations + rig.rng.randrange(20, 1500), rig.rng.randrange(1 << 32))
            await rig.traffic(6000)
            await rig.crash()
            disk.power_on()
            rig.base = zoned()
            await rig.load()
            found = await rig.check(f"seed {seed}, crash {crash}")
            if crash % 2:
                await rig.halt()
                rig.base = zoned()
                await rig.load()
                assert await rig.versions() == found
        uuid = rig.device.uuid
        await rig.end()
        # The next one is another FTL on the same disk: nothing of this one may come back.
        fresh = RestoreRig(reactor, zoned(), random.Random(seed))
        await fresh.create()
        assert set(await fresh.versions()) == {0}
        await fresh.crash()
        fresh.base = zoned()
        await fresh.load()
        assert set(await fresh.versions()) == {0}
        await fresh.end()
        with pytest.raises(NotFoundError):
            await loading.load(reactor, zoned(), name="ftl0", uuid=uuid)
