"""A full device, always collecting garbage, is halted and crashed at any point: every load finds room to go on.

Bands that were being written at the end are not written further, so a load begins with less room than there was. That
there is always a free band, or one that can be made free, is what docs/restore.md ("Room") says; here it is tried.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError, RoomError
from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.load.room import make_room
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture.shape import SUPERBLOCK_ZONES
from unit.ftl.load.restore_rig import CONF, ZONE_CAPACITY, ZONE_SIZE, RestoreRig
from unit.shim.ftl.core_bench import content

ROUNDS = 8
WRITERS = 32
ZONES = 44
RSVD_LEAST = 25
"""Percent; conf allows no less with so few bands."""


class FullRig(RestoreRig):
    async def write(self, lba: int, block_count: int = 1) -> None:
        change, version = self.model.submit(lba, block_count, trim=False)
        await self.port.write(lba, b"".join(content(lba + i, version) for i in range(block_count)))
        self.model.acknowledge(lba, block_count, change, durable=False)

    async def fill(self) -> None:
        for lba in range(0, self.device.block_count, 8):
            await self.write(lba, min(8, self.device.block_count - lba))

    async def overwrite(self, blocks: int) -> bool:
        """False where the base went away."""
        left = iter(range(blocks))

        async def writer() -> None:
            for _ in left:
                await self.write(self.rng.randrange(self.device.block_count))

        results = await asyncio.gather(*(writer() for _ in range(WRITERS)), return_exceptions=True)
        failed = [result for result in results if result is not None]
        assert all(isinstance(result, MediaError) for result in failed), failed
        assert self.device.state is not FtlState.READ_ONLY, self.device.failure
        return not failed

    async def end_amid_writes(self, *, halt: bool) -> None:
        writing = asyncio.ensure_future(self.overwrite(4 * self.device.block_count))
        for _ in range(self.rng.randrange(400)):
            await asyncio.sleep(0)
        if halt:
            # As the daemon does: the export ends first.
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await self.halt()
            self.model.flushed(list(self.model.completed))
        else:
            await self.crash()
            await asyncio.gather(writing, return_exceptions=True)
            if self.buffer_dir is not None:
                self.model.acknowledged_survives()


@pytest.mark.parametrize("how", ["halt", "crash", "kill", "power", "target"])
@pytest.mark.parametrize(
    ("open_zones", "emulated"), [(7, False), (5, False), (0, True)], ids=["zns", "shared stream", "emulated"]
)
async def test_a_full_device_goes_on_after_each_end(
    how: str, open_zones: int, emulated: bool, tmp_path: Path, reactor: ReactorLoop
) -> None:
    """kill, target: of the process, of the base's power; the write buffer is kept, and has to find room, too."""
    disk: Any
    if emulated:
        disk = _shim.EmulatedMedia.conventional(reactor.shim, ZONES * ZONE_SIZE, volatile_cache=True)
    else:
        disk = _shim.EmulatedMedia.zns(reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=open_zones)

    def base() -> Any:
        if not emulated:
            return disk
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    seed = 11
    disk.set_schedule(seed)
    kept = tmp_path if how in ("kill", "target") else None
    rig = FullRig(reactor, base(), random.Random(seed), buffer_dir=kept)
    await rig.create(replace(CONF, lba_rsvd=RSVD_LEAST))
    assert rig.device.geometry.shared_stream == (open_zones == 5)
    blocks = rig.device.block_count
    await rig.fill()
    assert await rig.overwrite(2 * blocks)
    for number in range(ROUNDS):
        what = f"seed {seed}, round {number}"
        if how in ("power", "target"):
            disk.cut_power_at(disk.operations + rig.rng.randrange(5, 1500), rig.rng.randrange(1 << 32))
            assert not await rig.overwrite(20 * blocks)
            await rig.crash()
            if kept:
                rig.model.acknowledged_survives()
            disk.power_on()
        else:
            assert await rig.overwrite(rig.rng.randrange(1, blocks))
            await rig.end_amid_writes(halt=how == "halt")
        rig.base = base()
        for _ in range(rig.rng.choice([0, 0, 1, 3])):
            # Loads that don't get far.
            await rig.load()
            for _ in range(rig.rng.randrange(200)):
                await asyncio.sleep(0)
            await rig.crash()
            rig.base = base()
        await rig.load()
        await rig.check(what)
    assert await rig.overwrite(2 * blocks)
    await rig.flush()
    await rig.check("at the end")
    assert rig.device.state is FtlState.RUNNING
    assert rig.device.core.stats().reloc_moved_blocks > 0
    await rig.end()


async def test_a_drive_that_finishes_the_last_bands_costs_a_load_and_not_the_device(
    tmp_path: Path, reactor: ReactorLoop
) -> None:
    """Behind a load that found little room, what was recovered has none, and resets wait for it. Nothing is lost, and
    no zone has failed."""
    seed = 4
    disk = _shim.EmulatedMedia.zns(reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7)
    disk.set_schedule(seed)
    rig = FullRig(reactor, disk, random.Random(seed), buffer_dir=tmp_path)
    await rig.create(replace(CONF, lba_rsvd=RSVD_LEAST))
    blocks = rig.device.block_count
    await rig.fill()
    assert await rig.overwrite(2 * blocks)
    stuck = rescued = 0
    for number in range(8):
        await rig.end_amid_writes(halt=False)
        await rig.load()
        writing = asyncio.ensure_future(rig.overwrite(blocks))
        # A life that began without room, and in which this happens before anything is freed, is not helped by another
        # load: that costs the device (FtlDevice._stuck()).
        core = rig.device.core
        while rig.device.loaded_without_room and not core.stats().zone_resets and not writing.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(300):
            for zone, (_, state, _) in enumerate(disk.zone_states()):
                if zone >= SUPERBLOCK_ZONES and state.endswith("open"):
                    disk.set_zone_state(zone, "full")
            await asyncio.sleep(0)
        if not await writing:
            assert isinstance(rig.device.failure, RoomError), f"{number}: {rig.device.failure}"
            stuck += 1
            rig.model.acknowledged_survives()
            await rig.crash()
            await rig.load()
            rescued += rig.device.loaded_without_room
        await rig.check(f"seed {seed}, round {number}")
        assert await rig.overwrite(blocks)
    assert stuck
    assert rescued
    await rig.end()


@pytest.mark.parametrize("use_append", [False, True], ids=["writes", "appends"])
@pytest.mark.parametrize("kept", [True, False], ids=["buffer", "no buffer"])
async def test_a_load_that_empties_a_band_costs_nothing(
    kept: bool, use_append: bool, tmp_path: Path, reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where life after life ended a little after its load, and the last bands have a few blocks each. That they lack
    room is rare; here each of these loads says so, and now and then is cut off by the loss of power."""
    seed = 5
    disk = _shim.EmulatedMedia.zns(reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7, volatile_cache=True)
    disk.set_schedule(seed)
    rig = FullRig(reactor, disk, random.Random(seed), buffer_dir=tmp_path if kept else None)
    await rig.create(replace(CONF, lba_rsvd=RSVD_LEAST, use_append=use_append))
    blocks = rig.device.block_count
    await rig.fill()
    assert await rig.overwrite(2 * blocks)
    emptied: list[int | None] = []

    write = _shim.Op.APPEND if use_append else _shim.Op.WRITE
    number, cutting = 0, False

    async def noted(*args: Any) -> int | None:
        if cutting:
            disk.cut_power_at(disk.operations + rig.rng.randrange(1, 50), rig.rng.randrange(1 << 32))
        elif number % 4 == 0:
            # A zone that can't be written, or not be reset, is no reason to refuse the device.
            disk.inject_fault(op=rig.rng.choice([write, _shim.Op.ZONE_SEND]), status=0x280, times=1)
        emptied.append(await make_room(*args))
        disk.clear_faults()
        return emptied[-1]

    monkeypatch.setattr(loading, "lacks_room", lambda found: True)
    monkeypatch.setattr(loading, "make_room", noted)
    cut_off = 0
    # How often a load finds a band to empty follows from the version of Python, too.
    for number in range(100):
        if number >= 24 and sum(band is not None for band in emptied) >= 5:
            break
        disk.cut_power_at(disk.operations + rig.rng.randrange(5, 600), rig.rng.randrange(1 << 32))
        assert not await rig.overwrite(20 * blocks)
        await rig.crash()
        if kept:
            rig.model.acknowledged_survives()
        disk.power_on()
        if number % 2:
            cutting = True
            try:
                await rig.load()
            except MediaError:
                cut_off += 1
            else:
                await rig.crash()
            cutting = False
            disk.power_cut(number)
            disk.power_on()
        await rig.load()
        await rig.check(f"seed {seed}, round {number}")
        # Nothing was written behind what it has done: all of it counts in the next load.
        await rig.crash()
        await rig.load()
        await rig.check(f"seed {seed}, round {number}, loaded again")
        await rig.flush()
    assert sum(band is not None for band in emptied) >= 5
    assert cut_off
    assert await rig.overwrite(2 * blocks)
    await rig.flush()
    await rig.check("at the end")
    await rig.end()


@pytest.mark.parametrize("use_append", [False, True], ids=["writes", "appends"])
async def test_what_is_written_behind_a_batch_that_was_cut_off_is_found_and_its_missing_blocks_are_no_damage(
    use_append: bool, reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing ones are the newest of their LBAs, and stand nowhere else."""
    disk = _shim.EmulatedMedia.zns(reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7)
    rig = FullRig(reactor, disk, random.Random(1))
    await rig.create(replace(CONF, lba_rsvd=RSVD_LEAST, use_append=use_append))
    await rig.fill()
    await rig.overwrite(rig.device.block_count)
    await rig.flush()
    bands = {zone: (b, p) for b, band in enumerate(rig.device.geometry.bands) for p, zone in enumerate(band)}

    def half_written() -> list[tuple[int, int]]:
        """Start and write pointer, of bands that are not the emptiest."""
        least = min(band.valid for band in rig.device._bands if band.valid)
        return [
            (start, pointer)
            for zone, (start, state, pointer) in enumerate(disk.zone_states())
            if state.endswith("open")
            and start < pointer < start + ZONE_CAPACITY // 2
            and zone in bands
            and rig.device._bands[bands[zone][0]].valid > least
        ]

    while True:
        await rig.overwrite(5)
        await rig.flush()
        found = await rig.versions()
        await rig.crash()
        if chosen := half_written():
            break
        await rig.load()
    start, pointer = chosen[0]
    port = BlockPort(reactor, disk, name="base")
    uuid = rig.device.media_uuid
    first = layout.parse_batch_header((await port.read(start, 1))[0], uuid)
    assert first is not None
    # Of three blocks one came.
    newest = content(0, 1 << 20)
    entries = np.zeros(3, layout.ENTRY)
    entries["lba"], entries["seq"], entries["crc"] = np.arange(3), (1 << 40) + np.arange(3), _shim.crc32c(newest)
    band, punit = bands[start // ZONE_SIZE]
    header = layout.build_batch_header(
        uuid,
        band=band,
        punit=punit,
        band_seq=first.band_seq,
        address=0 if use_append else pointer,
        kind=layout.KIND_DATA,
        stream=0,
        entries=entries,
    )
    await port.write(pointer, header.tobytes() + newest)
    await port.close()
    found[0] = 1 << 20
    pointers: list[int] = []

    async def noted(*args: Any) -> int | None:
        emptied = await make_room(*args)
        pointers.append(disk.zone_states()[start // ZONE_SIZE][2])
        return emptied

    with monkeypatch.context() as patched:
        patched.setattr(loading, "lacks_room", lambda restored: True)
        patched.setattr(loading, "make_room", noted)
        await rig.load()
    # Two in the place of those that are missing, and a batch.
    assert pointers[0] > pointer + 2 + 2 + 1
    # At once: relocation must not come to that band first.
    await rig.crash()
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["torn_blocks"] == 2
    assert rig.device.restored["damage_count"] == 0
    assert await rig.versions() == found
    await rig.end()
