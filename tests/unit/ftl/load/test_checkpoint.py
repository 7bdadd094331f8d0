"""The L2P checkpoint: used after a clean halt and never else; whatever befalls it costs nothing but time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FlushDoubtError, FtlError, MediaError
from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.load import checkpoint, checkpoint_blocks
from spdk_ftl_py.ftl.load import restore as restore_module
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.load.restored import Restored
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media import superblock as superblocks
from spdk_ftl_py.ftl.media.band import FREE
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import ZONE_CAPACITY, ZONE_SIZE, MakeRestoreRig, RestoreRig
from unit.ftl.load.test_restore import copied_with, l2p_of

WRITE_FAULT = 0x280
LAST_OF_L2P, LAST_OF_CRCS = -2, -1
"""Blocks of a checkpoint: there are few enough LBAs for one block of CRCs."""


async def place_of(rig: RestoreRig) -> tuple[superblocks.Superblock, dict[str, Any] | None]:
    """The newest superblock, and what it says of a checkpoint."""
    port = BlockPort(rig.reactor, rig.base, name="base")
    try:
        found = await superblocks.find(port, await port.zones(), rig.device.uuid)
    finally:
        await port.close()
    assert found is not None
    return found[0], found[0].content.get("checkpoint")


async def addresses_of(rig: RestoreRig) -> list[int]:
    """Of the blocks of the checkpoint."""
    _, place = await place_of(rig)
    assert place is not None
    return [place["zones"][i // ZONE_CAPACITY] * ZONE_SIZE + i % ZONE_CAPACITY for i in range(place["blocks"])]


async def from_bands(rig: RestoreRig, monkeypatch: pytest.MonkeyPatch) -> Restored:
    """What a load finds that does not look at the checkpoint."""

    async def none(*args: Any, **options: Any) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read", none)
        return await l2p_of(rig)


def holds_data(l2p: Any) -> Any:
    """By LBA; what was trimmed and what was never written read the same."""
    return (l2p >> np.uint64(62)) == 0


def came_from_checkpoint(rig: RestoreRig) -> bool:
    assert rig.device.restored is not None
    return bool(rig.device.restored["from_checkpoint"])


async def halted(rig: RestoreRig, operations: int) -> list[int]:
    """Made, written to and halted. What its blocks hold."""
    await rig.create()
    await rig.traffic(operations)
    versions = await rig.versions()
    await rig.halt()
    return versions


async def loads_without_it(rig: RestoreRig, versions: list[int]) -> None:
    await rig.load()
    assert not came_from_checkpoint(rig)
    assert await rig.versions() == versions


# --- what it is


async def test_it_says_what_the_bands_say(monkeypatch: pytest.MonkeyPatch, rig: RestoreRig) -> None:
    await rig.create()
    for _ in range(3):
        await rig.traffic(2500)
        versions = await rig.versions()
        assert versions.count(0) > 0
        await rig.halt()
        read, walked = await l2p_of(rig), await from_bands(rig, monkeypatch)
        assert (read.from_checkpoint, walked.from_checkpoint) == (True, False)
        assert np.array_equal(holds_data(read.l2p), holds_data(walked.l2p))
        assert [band.seq for band in read.bands if band.state != "free"] == [
            band.seq for band in walked.bands if band.state != "free"
        ]
        assert [(band.state, band.write_pointers) for band in read.bands] == [
            (band.state, band.write_pointers) for band in walked.bands
        ]
        assert read.next_seq >= walked.next_seq
        assert read.next_band_seq >= walked.next_band_seq
        assert (read.zones_to_finish, read.zones_to_reset) == (walked.zones_to_finish, walked.zones_to_reset)
        await rig.load()
        assert came_from_checkpoint(rig)
        assert await rig.versions() == versions


@pytest.mark.parametrize("max_io_blocks", [1, 8, 256])
async def test_a_load_from_it_reads_no_band(max_io_blocks: int, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(max_io_blocks=max_io_blocks)
    drive = rig.base
    await rig.create()
    await rig.traffic(2500)
    await rig.halt()
    told: dict[str, float] = {}
    blocks = await addresses_of(rig)
    before = drive.operations
    port = BlockPort(rig.reactor, drive, name="base")
    found = await restore(port, rig.device.uuid, progress=told.__setitem__)
    await port.close()
    assert found.from_checkpoint
    # A zone report, two searches for superblocks, the checkpoint.
    searches = -(-superblocks.SEARCH_BLOCKS // max_io_blocks) * 2
    assert drive.operations - before <= 1 + searches + len(blocks)
    assert told["checkpoint"] == 1.0
    assert "bands" not in told
    await rig.load()


async def test_entries_beyond_32_bits_have_8_bytes(monkeypatch: pytest.MonkeyPatch, reactor: ReactorLoop) -> None:
    # 4 TiB of addresses, of which next to nothing can be written.
    drive = _shim.EmulatedMedia.zns(reactor.shim, 64, 1 << 24, ZONE_CAPACITY)
    rig = RestoreRig(reactor, drive, random.Random(5))
    await rig.create()
    assert rig.device.geometry.checkpoint_entry_bytes == 8
    assert rig.device.geometry.l2p_entry_bytes == 4, "without the holes"
    await rig.traffic(3000)
    versions = await rig.versions()
    await rig.halt()
    read, walked = await l2p_of(rig), await from_bands(rig, monkeypatch)
    assert read.from_checkpoint
    assert np.array_equal(holds_data(read.l2p), holds_data(walked.l2p))
    await rig.load()
    assert await rig.versions() == versions
    await rig.end()


@pytest.mark.parametrize("base_blocks", [1 << 20, 1 << 31])
def test_narrow_entries_keep_their_flags(base_blocks: int) -> None:
    payloads = [0, 1, 77, (1 << 30) - (9000 if base_blocks == 1 << 20 else 2)]
    entries = [flag | payload for flag in (0, _shim.TRIM_FLAG, _shim.LOST_FLAG) for payload in payloads]
    wide = np.array([*entries, _shim.ADDRESS_INVALID], np.uint64)
    table = _shim.RestoredL2p(20, base_blocks, with_seqs=False)
    table.put_range(3, checkpoint_blocks.narrow(wide).reshape(1, -1), len(wide))
    assert np.array_equal(table.l2p(3, len(wide)), wide)


# --- when it counts


async def test_the_first_superblock_after_the_load_makes_it_stale_and_its_bands_are_free(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    for _ in range(4):
        await rig.traffic(700)
        await rig.halt()
        free = sum(state.state == _shim.BandState.FREE for state in rig.device.core.bands())
        superblock, place = await place_of(rig)
        assert superblock.clean
        assert place is not None
        await rig.load()
        superblock, stale = await place_of(rig)
        assert (superblock.clean, stale) == (False, None)
        states, bands = drive.zone_states(), rig.device.core.bands()
        # Relocation may have begun at once, in a band that the checkpoint was in.
        opened = {
            zone
            for number, zones in enumerate(rig.device.geometry.bands)
            if bands[number].state == _shim.BandState.OPEN
            for zone in zones
        }
        assert all(states[zone][2] == states[zone][0] or zone in opened for zone in place["zones"])
        assert (
            sum(
                state.state in (_shim.BandState.FREE, _shim.BandState.QUEUED, _shim.BandState.OPEN)
                for state in rig.device.core.bands()
            )
            >= free
        )
        await rig.crash()
        await rig.load()
        assert not came_from_checkpoint(rig)
        await rig.check("after a crash")


@pytest.mark.rig(open_zones=0)
async def test_a_stale_one_that_was_used_would_be_noticed(monkeypatch: pytest.MonkeyPatch, rig: RestoreRig) -> None:
    """Three things stand between a stale checkpoint and its use; without them the tests here see it."""
    remembered: dict[str, Any] = {}
    build, parse = superblocks.Superblock.build, superblocks.Superblock.parse.__func__  # type: ignore[attr-defined]

    def build_stale(self: superblocks.Superblock) -> Any:
        content = dict(self.content)
        if content.get("checkpoint"):
            remembered.update(place=content["checkpoint"], generation=self.generation)
        elif remembered:
            content["checkpoint"] = remembered["place"]
        return build(superblocks.Superblock(self.uuid, self.generation, self.clean, content, self.hidden))

    def parse_stale(cls: Any, block: Any, uuid: Any = None) -> Any:
        found = parse(cls, block, uuid)
        if found is not None and remembered:
            object.__setattr__(found, "clean", True)
        return found

    class NotCheckedReader(checkpoint._Reader):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._generation = remembered["generation"]

        def _check_zones(self, zones: Any, sequential: bool) -> None:
            pass

    async def left_alone(port: Any, action: int, start: int) -> None:
        pass

    await rig.create()
    await rig.traffic(300)
    monkeypatch.setattr(superblocks.Superblock, "build", build_stale)
    monkeypatch.setattr(superblocks.Superblock, "parse", classmethod(parse_stale))
    monkeypatch.setattr(checkpoint, "_Reader", NotCheckedReader)
    monkeypatch.setattr(loading, "_tidy_zone", left_alone)
    await rig.halt()
    await rig.load()
    assert came_from_checkpoint(rig)
    await rig.traffic(20)
    await rig.flush()
    await rig.crash()
    await rig.load()
    assert came_from_checkpoint(rig)
    with pytest.raises(AssertionError):
        await rig.check("from a stale checkpoint")
    monkeypatch.undo()


async def test_it_is_not_used_where_somebody_has_been_at_the_device_since(rig: RestoreRig) -> None:
    drive = rig.base
    versions = await halted(rig, 300)
    _, place = await place_of(rig)
    assert place is not None
    start = next(
        start
        for start, _, pointer in drive.zone_states()[2:]
        if start < pointer < start + ZONE_CAPACITY and start // ZONE_SIZE not in place["zones"]
    )
    port = BlockPort(rig.reactor, drive, name="base")
    await port.zone_action(_shim.ZoneAction.FINISH, start)
    await port.close()
    await loads_without_it(rig, versions)


# --- what befalls it


async def test_damage_of_any_of_its_blocks_costs_nothing_but_time(rig: RestoreRig) -> None:
    drive = rig.base
    versions = await halted(rig, 1500)
    addresses = await addresses_of(rig)
    assert len(addresses) >= 3
    for address in addresses:
        port = BlockPort(rig.reactor, drive, name="base")
        block = (await port.read(address, 1))[0].copy()
        await port.close()
        block[64 + 5] ^= 4
        for content in (block.tobytes(), bytes(4096)):
            rig.base = await copied_with(rig, drive, {address: content})
            await rig.load()
            assert not came_from_checkpoint(rig)
            assert rig.device.restored is not None
            assert rig.device.restored["damage_count"] == 0
            assert await rig.versions() == versions
            await rig.crash()


@pytest.mark.parametrize(
    "change",
    [
        {"section": 9},
        {"count": 1100},
        {"first": 1 << 40},
        {"generation": 1},
        {"address": 7},
        {"index": 77},
        {"version": 1},
    ],
)
@pytest.mark.parametrize("which", [LAST_OF_L2P, LAST_OF_CRCS])
async def test_what_can_not_be_is_not_believed(which: int, change: dict[str, int], rig: RestoreRig) -> None:
    drive = rig.base
    versions = await halted(rig, 500)
    address = (await addresses_of(rig))[which]
    port = BlockPort(rig.reactor, drive, name="base")
    record = (await port.read(address, 1)).view(layout.CHECKPOINT).reshape(-1).copy()
    await port.close()
    for name, value in change.items():
        record[name] = value
    record["crc"] = 0
    rig.base = await copied_with(rig, drive, {address: layout.seal(record).tobytes()})
    await loads_without_it(rig, versions)


async def test_entries_that_point_nowhere_are_not_believed(rig: RestoreRig) -> None:
    drive = rig.base
    versions = await halted(rig, 500)
    addresses = await addresses_of(rig)
    port = BlockPort(rig.reactor, drive, name="base")
    address = addresses[LAST_OF_L2P]
    good = (await port.read(address, 1)).view(layout.CHECKPOINT).reshape(-1).copy()
    await port.close()
    assert int(good["section"][0]) == checkpoint.SECTION_L2P
    # A slot, a superblock, a zone of the checkpoint, beyond the end.
    for entry in (1 << 30, 5, addresses[0], 44 * ZONE_SIZE):
        record = good.copy()
        record["data"][0].view("<u4")[1] = entry
        record["crc"] = 0
        rig.base = await copied_with(rig, drive, {address: layout.seal(record).tobytes()})
        await loads_without_it(rig, versions)
        await rig.crash()


@pytest.mark.parametrize("place", [{}, 5, {"zones": [0], "blocks": 1}, {"zones": [2, 2], "blocks": 60}])
async def test_a_superblock_that_names_what_can_not_be_one_is_no_error(
    place: Any, monkeypatch: pytest.MonkeyPatch, rig: RestoreRig
) -> None:
    await rig.create()
    await rig.traffic(500)
    versions = await rig.versions()

    async def nonsense(*args: Any, **options: Any) -> Any:
        return place

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", nonsense)
        await rig.halt()
    await loads_without_it(rig, versions)


@pytest.mark.rig(max_io_blocks=1)
@pytest.mark.parametrize("full", [True, False])
async def test_it_does_not_keep_the_superblock_from_its_other_zone(
    full: bool, monkeypatch: pytest.MonkeyPatch, reactor: ReactorLoop
) -> None:
    """Two bands are being written, and one is being closed, when the core is closed: with a zone for the checkpoint and
    one for the superblock, these are too many. full: the superblock's zone is. Else the checkpoint is one too many at
    once, and a halt is clean without it."""
    active = 3 if full else 4
    disk = _shim.EmulatedMedia.zns(reactor.shim, 26, ZONE_SIZE, ZONE_CAPACITY, max_active_zones=4)
    rig = RestoreRig(reactor, disk, random.Random(5))
    await rig.create(num_punits=1)
    close = FtlDevice._close_core

    async def send(action: _shim.ZoneAction, zone: int) -> None:
        port = BlockPort(reactor, disk, name="base")
        await port.zone_action(action, zone * ZONE_SIZE)
        await port.close()

    async def closed(device: FtlDevice) -> None:
        await close(device)
        for band in reversed(device.bands):
            states = [state for _, state, _ in disk.zone_states()]
            if sum(state in ("implicitly_open", "explicitly_open", "closed") for state in states) >= active:
                break
            if band.state == FREE and states[band.zones[0]] == "empty":
                await send(_shim.ZoneAction.OPEN, band.zones[0])

    monkeypatch.setattr(FtlDevice, "_close_core", closed)
    from_checkpoint = 0
    begun: set[int] = set()
    for _ in range(4):
        await rig.traffic(100)
        while full and any(disk.zone_states()[zone][1] == "implicitly_open" for zone in (0, 1)):
            await rig.device.write_superblock(clean=False)
        versions = await rig.versions()
        await rig.halt()
        assert rig.device.halted_cleanly
        # The drive of the next life has no such zones.
        for zone, (_, state, pointer) in enumerate(disk.zone_states()):
            if state == "explicitly_open" and pointer == zone * ZONE_SIZE:
                await send(_shim.ZoneAction.RESET, zone)
        begun.add(max((0, 1), key=lambda zone: disk.zone_states()[zone][1] == "implicitly_open"))
        await rig.load(num_punits=1)
        from_checkpoint += came_from_checkpoint(rig)
        assert await rig.versions() == versions
    assert begun == ({0, 1} if full else {0})
    assert from_checkpoint == (4 if full else 0)
    await rig.end()


async def test_its_zone_is_no_reason_to_hide_a_flush_in_doubt(rig: RestoreRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or to do without it."""
    await rig.create()
    await rig.traffic(50)
    device = rig.device
    await device._drain()
    await device._close_core()
    port = BlockPort(rig.reactor, rig.base, name="base")
    answers: list[Any] = [FlushDoubtError("in doubt", status=0x06), {"zones": [5]}]

    async def run(writer: Any, *args: Any) -> Any:
        writer._to_finish = 5
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def refused(action: Any, start: int) -> None:
        raise MediaError("refused", status=0x06)

    monkeypatch.setattr(checkpoint._Writer, "run", run)
    monkeypatch.setattr(port, "zone_action", refused)
    arguments: Any = (port, device.geometry, device.media_uuid, 1, device.core)
    try:
        with pytest.raises(FlushDoubtError):
            await checkpoint.write(*arguments, with_crcs=False)
        assert await checkpoint.write(*arguments, with_crcs=False) == {"zones": [5]}
    finally:
        await port.close()
        await rig.crash()


async def test_whoever_waits_for_a_halt_sees_it_being_written(rig: RestoreRig) -> None:
    """A large one takes longer than a base that does not answer is waited for."""
    await rig.create()
    await rig.traffic(500)
    seen = [rig.device.checkpoint_part]
    halt = asyncio.ensure_future(rig.halt())
    while not halt.done():
        await asyncio.sleep(0)
        if rig.device.checkpoint_part != seen[-1]:
            seen.append(rig.device.checkpoint_part)
    await halt
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert len(seen) > 3
    assert seen == sorted(seen)


async def test_a_halt_is_clean_without_it_where_its_zones_fail(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(500)
    versions = await rig.versions()
    # All but what the superblock needs.
    drain = rig.device._drain

    async def drain_then_fail() -> None:
        await drain()
        drive.inject_fault(op=_shim.Op.WRITE, lba=2 * ZONE_SIZE, block_count=42 * ZONE_SIZE, status=WRITE_FAULT)

    rig.device._drain = drain_then_fail  # type: ignore[method-assign]
    await rig.halt()
    drive.clear_faults()
    superblock, place = await place_of(rig)
    assert (superblock.clean, place) == (True, None)
    await loads_without_it(rig, versions)


async def test_without_a_free_band_a_halt_is_clean_without_it(monkeypatch: pytest.MonkeyPatch, rig: RestoreRig) -> None:
    await rig.create()
    await rig.traffic(500)
    versions = await rig.versions()
    monkeypatch.setattr(checkpoint._Writer, "_room", lambda *args: [])
    await rig.halt()
    superblock, place = await place_of(rig)
    assert (superblock.clean, place) == (True, None)
    await rig.load()
    assert await rig.versions() == versions


def leave_out_at(device: FtlDevice, step: int) -> None:
    """There is no more time for the checkpoint from that step of it on."""
    progress = device._on_checkpoint_progress

    def counted(name: str, part: float) -> None:
        if device.checkpoint_steps == step:
            device.leave_out_checkpoint()
        progress(name, part)

    device._on_checkpoint_progress = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("emulated", [False, True], ids=["zoned", "emulated zones"])
async def test_one_that_is_left_out_at_any_point_costs_nothing_but_time(
    emulated: bool, make_rig: MakeRestoreRig, reactor: ReactorLoop
) -> None:
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE, volatile_cache=True)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(8)) if emulated else await make_rig()
    await rig.create()
    step, left_out = 0, True
    while left_out:
        await rig.traffic(300)
        versions = await rig.versions()
        leave_out_at(rig.device, step)
        await rig.halt()
        superblock, place = await place_of(rig)
        assert superblock.clean
        left_out = place is None
        step += 1
        for crashed in (False, True):
            if crashed:
                await rig.crash()
            rig.base = zoned() if emulated else rig.base
            await rig.load()
            assert came_from_checkpoint(rig) == (not left_out and not crashed)
            assert await rig.versions() == versions
        rig.model.restart(versions)
    assert step > 3
    await rig.end()


# --- crashes


async def halts_and_crashes(rig: RestoreRig, disk: Any, rounds: int, again: Any) -> dict[str, int]:
    """Power fails at any media operation of halts and of the loads behind them. again(): the base when power is
    back."""
    total = {"clean": 0, "from checkpoint": 0, "cut in the halt": 0, "cut in the load": 0, "checkpoints in pieces": 0}
    rng = rig.rng
    # Batches leave by the clock, so that a seed alone does not decide what is met.
    for number in range(4 * rounds):
        if number >= rounds and all(total.values()):
            break
        await rig.traffic(rng.choice([5, 50, 400]))
        if rng.random() < 0.8:
            # Power may have failed with the last I/O of the check.
            with contextlib.suppress(MediaError):
                await rig.flush()
        if rng.random() < 0.7:
            disk.cut_power_at(disk.operations + rng.randrange(1, 16), rng.randrange(1 << 32))
        if rng.random() < 0.15:
            leave_out_at(rig.device, rng.randrange(6))
        try:
            await rig.port.close()
            await rig.device.halt()
            if not rig.device.failed.is_set():
                # Everything acknowledged is durable.
                rig.model.flushed(list(rig.model.completed))
        except MediaError:
            total["cut in the halt"] += 1
        disk.cut_power_at(0, 0)
        disk.power_cut(rng.randrange(1 << 32))
        disk.power_on()
        while True:
            rig.base = again()
            walked = await _pieces(rig)
            total["checkpoints in pieces"] += walked
            if rng.random() < 0.5:
                disk.cut_power_at(disk.operations + rng.randrange(1, 90), rng.randrange(1 << 32))
            try:
                await rig.load()
                await rig.check(f"round {number}")
                disk.cut_power_at(0, 0)
                break
            except MediaError:
                total["cut in the load"] += 1
                await rig.crash()
                disk.power_on()
        assert rig.device.restored is not None
        assert rig.device.restored["damage_count"] == 0
        total["clean"] += rig.device.restored["clean"]
        total["from checkpoint"] += rig.device.restored["from_checkpoint"]
    return total


async def _pieces(rig: RestoreRig) -> bool:
    """Whether a checkpoint that no superblock names is on media."""
    found = await l2p_of(rig)
    if found.from_checkpoint:
        return False
    return bool(found.zones_to_reset)


@pytest.mark.parametrize("seed", range(6))
async def test_power_cuts_in_halts_and_loads_are_harmless(seed: int, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(seed=seed)
    drive = rig.base
    await rig.create()
    total = await halts_and_crashes(rig, drive, 25, lambda: drive)
    print(f"seed {seed}: {total}")
    assert all(total.values()), total


@pytest.mark.parametrize("seed", range(3))
async def test_power_cuts_in_halts_and_loads_are_harmless_with_emulated_zones(seed: int, reactor: ReactorLoop) -> None:
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE, volatile_cache=True)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(seed))
    await rig.create()
    total = await halts_and_crashes(rig, disk, 20, zoned)
    print(f"seed {seed}: {total}")
    assert all(total.values()), total
    await rig.end()


async def test_a_checkpoint_of_emulated_zones_may_have_anything_behind_it(reactor: ReactorLoop) -> None:
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE, volatile_cache=True)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(8))
    await rig.create()
    for _ in range(5):
        await rig.traffic(2500)
        versions = await rig.versions()
        await rig.halt()
        rig.base = zoned()
        await rig.load()
        assert came_from_checkpoint(rig)
        assert await rig.versions() == versions
        rig.model.restart(versions)
    await rig.end()


async def test_of_emulated_zones_too_it_is_gone_once_it_was_used(reactor: ReactorLoop) -> None:
    """A reset erases nothing there, and here the newest superblock gets lost."""
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(8))
    await rig.create()
    await rig.traffic(500)
    await rig.halt()
    rig.base = zoned()
    await rig.load()
    assert came_from_checkpoint(rig)
    await rig.traffic(3)
    await rig.flush()
    versions = await rig.versions()
    await rig.crash()
    port = BlockPort(reactor, disk, name="disk")
    found = [superblocks.Superblock.parse(block) for block in await port.read(0, 2 * ZONE_SIZE)]
    generations = [0 if superblock is None else superblock.generation for superblock in found]
    await port.write(generations.index(max(generations)), bytes(4096))
    await port.close()
    rig.base = zoned()
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["clean"] is True
    assert not came_from_checkpoint(rig)
    assert await rig.versions() == versions
    await rig.end()


async def test_a_stale_one_that_can_not_be_overwritten_is_no_reason_not_to_load(
    caplog: pytest.LogCaptureFixture, reactor: ReactorLoop
) -> None:
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(8))
    versions = await halted(rig, 500)
    _, place = await place_of(rig)
    assert place is not None
    rig.base = zoned()
    # Behind the superblock.
    disk.inject_fault(op=_shim.Op.WRITE, status=0x280, skip=1, times=1)
    await rig.load()
    assert came_from_checkpoint(rig)
    assert f"write at block {place['zones'][0] * ZONE_SIZE} failed" in caplog.text
    assert await rig.versions() == versions
    await rig.end()


def test_restore_knows_no_other_errors_of_it() -> None:
    """NotUsableError stays inside."""
    assert issubclass(checkpoint.NotUsableError, FtlError)
    assert "NotUsableError" not in vars(restore_module)


async def test_without_the_memory_for_it_the_bands_are_read(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.create()
    await rig.traffic(600)
    await rig.halt()
    made = _shim.RestoredL2p

    def make(*blocks: int, with_seqs: bool = True, **options: Any) -> _shim.RestoredL2p:
        if not with_seqs:
            raise MemoryError
        return made(*blocks, **options)

    monkeypatch.setattr(_shim, "RestoredL2p", make)
    await rig.load()
    assert not came_from_checkpoint(rig)
    assert "not using its L2P checkpoint: there is not enough memory" in caplog.text
    await rig.check("after the load")
    monkeypatch.undo()
    await rig.halt()
    await rig.load()
    assert came_from_checkpoint(rig)
