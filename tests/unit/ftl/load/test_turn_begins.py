"""Turns of the running checkpoint that begin beside other work, and their bands when these are needed elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.gc import standstill
from spdk_ftl_py.ftl.load import running
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.load.running import TurnWriter
from spdk_ftl_py.ftl.media.band import BAND_ROW, CLOSED, FAULTED, MOVING, OPEN, RESETTING, SHIM_STATES
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.waiting import until
from unit.ftl.load.restore_rig import RestoreRig
from unit.ftl.load.test_running import OFTEN, ROOMY, both, one_turn
from unit.shim.ftl.core_bench import content

SELDOM = dataclasses.replace(OFTEN, running_checkpoint=100)
OLD = 1500
"""LBAs: every other one is trimmed, and the records are in several headers."""
LEFT = 32
"""Valid blocks beside these records."""
TURNS_MAX = 20_000


async def write(rig: RestoreRig, lba: int, block_count: int = 1) -> None:
    change, version = rig.model.submit(lba, block_count, trim=False)
    await rig.port.write(lba, b"".join(content(each, version) for each in range(lba, lba + block_count)))
    rig.model.acknowledge(lba, block_count, change, durable=False)


async def trim(rig: RestoreRig, lba: int) -> None:
    change, _ = rig.model.submit(lba, 1, trim=True)
    await rig.port._submit(_shim.Op.DEALLOCATE, lba, 1)
    rig.model.acknowledge(lba, 1, change, durable=False)


def rows(rig: RestoreRig) -> NDArray[Any]:
    return rig.device.core.band_rows(0, rig.device.geometry.band_count).view(BAND_ROW)


def state_of(rig: RestoreRig, band: int) -> str:
    return SHIM_STATES[rows(rig)["state"][band]]


async def a_band_of_records(rig: RestoreRig) -> int:
    """Closed, with records in force, and some valid blocks."""
    for lba in range(0, OLD, 8):
        await write(rig, lba, 8)
    await rig.flush()
    await asyncio.gather(*(trim(rig, lba) for lba in range(0, OLD, 2)))
    await rig.flush()
    references = [band.references for band in rig.device.core.bands()]
    assert max(references) > 3 * 169, references
    band = references.index(max(references))
    lba = OLD
    while state_of(rig, band) != CLOSED:
        assert lba < OLD + 200
        await write(rig, lba)
        lba += 1
        await rig.flush()
    for each in range(OLD, lba - LEFT):
        await write(rig, each)
    await rig.flush()
    return band


def place_of_trims(rig: RestoreRig) -> set[int]:
    """The bands that the L2P names."""
    addresses = rig.device.core.l2p(0, OLD)[::2] & np.uint64((1 << 62) - 1)
    geometry = rig.device.geometry
    bands = {zone: number for number, zones in enumerate(geometry.bands) for zone in zones}
    return {bands[int(zone)] for zone in np.unique(addresses // np.uint64(geometry.zone_size))}


@pytest.mark.rig(**ROOMY)
async def test_a_band_that_closes_before_the_l2p_names_the_records_in_it(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of trim records have landed there when a turn begins, and its pages name the old place, which is reset
    before the crash."""
    await rig.create(SELDOM)
    source = await a_band_of_records(rig)
    manager, core = rig.device._manager, rig.device.core
    assert source in place_of_trims(rig)
    may_take = manager.reserve.may_take
    with monkeypatch.context() as patch:
        patch.setattr(
            manager.reserve,
            "may_take",
            lambda stream, number, **options: (
                stream not in manager.classes.reloc and may_take(stream, number, **options)
            ),
        )
        patch.setattr(manager.reserve, "may_keep", lambda number: True)
        patch.setattr(rig.device.checkpointing, "_is_starved", lambda: False)
        assert manager._start_move(source)
        (target,) = manager.bands.being_written(manager.classes.reloc[0])
        # It ends with the first copies, and the others wait for the next band.
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)
            now = rows(rig)[target]
            if now["written"] and state_of(rig, target) == OPEN:
                core.close_zone(target, 0)
                if now["settling"]:
                    core.close_zone(target, 1)
            if state_of(rig, target) == CLOSED:
                break
        assert (state_of(rig, source), state_of(rig, target)) == (MOVING, CLOSED)
        assert rows(rig)["settling"][target] > 0
        await one_turn(rig)
        assert rows(rig)["settling"][target] > 0
        assert target not in place_of_trims(rig)
    manager.wake()
    before = (MOVING, CLOSED, RESETTING)
    assert await until(lambda: state_of(rig, source) not in before, timeout_s=20, poll_s=0.001)
    assert target in place_of_trims(rig)
    await rig.flush()
    await rig.crash()
    quick, _ = await both(rig)
    assert quick.from_turn
    await rig.load()
    await rig.check("the records count")


class Told:
    """A core that tells something else of one band, and of its seqs."""

    def __init__(self, core: Any, band: int, **changes: Any) -> None:
        self._core = core
        self._band = band
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def band_rows(self, first: int, count: int) -> NDArray[np.uint8]:
        told = self._core.band_rows(first, count).view(BAND_ROW).copy()
        for name, value in self._changes.items():
            told[name][self._band - first] = value
        return told.view(np.uint8)

    def part_seqs(self) -> int:
        return int(self._core.part_seqs()) + 3


@pytest.mark.rig(**ROOMY)
@pytest.mark.parametrize(
    ("changes", "known", "state"),
    [
        ({}, True, CLOSED),
        ({"settling": 1}, False, CLOSED),
        ({"state": SHIM_STATES.index(FAULTED)}, True, FAULTED),
        ({"faulted_punits": 2}, True, FAULTED),
    ],
)
async def test_what_a_turn_says_of_a_band(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], known: bool, state: str
) -> None:
    await rig.create(SELDOM)
    await rig.traffic(1500)
    await rig.flush()
    band = int(np.flatnonzero(rows(rig)["state"] == SHIM_STATES.index(CLOSED))[0])
    begin = TurnWriter.begin
    seqs = []

    async def begin_with(writer: TurnWriter) -> None:
        core = writer._core
        seqs.append(core.next_seq + 3)
        told: Any = Told(core, band, **changes)
        writer._core = told
        await begin(writer)
        writer._core = core

    monkeypatch.setattr(TurnWriter, "begin", begin_with)
    await one_turn(rig)
    turn = rig.device.checkpointing.turn
    assert turn is not None
    assert [turn.next_seq] == seqs
    await rig.crash()
    port = BlockPort(rig.reactor, rig.base, name="base")
    found = await restore(port, rig.device.uuid)
    read = await running.read(port, found.geometry, found.superblock, await port.zones(), need_crcs=True)
    await port.close()
    assert read is not None
    assert (band in read.seqs) == known
    assert found.from_turn
    assert found.bands[band].state == state


# --- its bands are needed elsewhere


@pytest.mark.rig(**ROOMY)
async def test_moves_that_wait_get_its_bands(rig: RestoreRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.create(SELDOM)
    await rig.traffic(1500)
    await one_turn(rig)
    reserve = rig.device._manager.reserve
    starved = True
    monkeypatch.setattr(reserve, "moves_starved", lambda: starved)
    monkeypatch.setattr(type(rig.device.bands), "free_count", property(lambda bands: 0))
    rig.device._manager.wake()
    assert await until(lambda: rig.device.checkpointing.turn is None, timeout_s=5, poll_s=0.01)
    await rig.device.checkpointing.ended()
    assert rig.device.bands.kept_count == 0
    starved = False


@pytest.mark.rig(**ROOMY)
@pytest.mark.parametrize("halting", [False, True])
async def test_they_are_given_back_before_the_device_ends(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch, halting: bool
) -> None:
    """Whoever waits, and even where it does not look by itself: a halt has stopped it."""
    await rig.create(SELDOM)
    await rig.traffic(1500)
    await one_turn(rig)
    checkpointing, manager = rig.device.checkpointing, rig.device._manager
    monkeypatch.setattr(standstill, "STUCK_S", 0.02)
    monkeypatch.setattr(checkpointing, "look", lambda: None)
    if halting:
        checkpointing.stop()
    ends: list[str] = []
    monkeypatch.setattr(manager, "_on_stuck", ends.append)
    with monkeypatch.context() as patch:
        patch.setattr(
            manager._standstill,
            "_patience_s",
            lambda: standstill.STUCK_S if rig.device.bands.kept_count else None,
        )
        manager.wake()
        assert await until(lambda: rig.device.bands.kept_count == 0, timeout_s=5, poll_s=0.01)
        assert not ends
        assert checkpointing.turn is None
        assert not checkpointing.give_up()
        patch.setattr(manager._standstill, "_patience_s", lambda: standstill.STUCK_S)
        manager.wake()
        assert await until(lambda: bool(ends), timeout_s=5, poll_s=0.01)
    await rig.crash()
    quick, _ = await both(rig)
    assert not quick.from_turn


@pytest.mark.rig(**ROOMY)
@pytest.mark.parametrize("why", ["starved", "given up", "halt"])
async def test_a_turn_does_not_wait_for_a_drain_that_waits_for_its_bands(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    await rig.create(SELDOM)
    await rig.traffic(1500)
    await one_turn(rig)
    checkpointing = rig.device.checkpointing
    drained = asyncio.Event()
    waits = asyncio.Event()

    async def drain() -> None:
        waits.set()
        await drained.wait()

    monkeypatch.setattr(checkpointing, "_drain", drain)
    turning = asyncio.ensure_future(one_turn(rig))
    await asyncio.wait_for(waits.wait(), 5)
    assert rig.device.bands.kept_count == 2
    try:
        if why == "starved":
            monkeypatch.setattr(checkpointing, "_is_starved", lambda: True)
        elif why == "given up":
            assert checkpointing.give_up()
        else:
            await asyncio.wait_for(rig.halt(), 10)
        with pytest.raises(AssertionError):
            await asyncio.wait_for(turning, 5)
    finally:
        drained.set()
    assert checkpointing.given_up == 1
    if why != "halt":
        # Then those of the turn that counts.
        assert await until(lambda: checkpointing.turn is None, timeout_s=5, poll_s=0.01)
        await checkpointing.ended()
        assert rig.device.bands.kept_count == 0
        await rig.crash()
        await both(rig)


@pytest.mark.rig(**ROOMY)
async def test_a_turn_that_memory_is_too_short_for_is_given_up(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.create(SELDOM)
    await rig.traffic(500)

    async def step(writer: TurnWriter) -> bool:
        raise MemoryError

    monkeypatch.setattr(TurnWriter, "step", step)
    with pytest.raises(AssertionError):
        await one_turn(rig)
    checkpointing = rig.device.checkpointing
    assert (checkpointing.given_up, checkpointing.status()["bands"]) == (1, 0)
    assert "there is not enough memory" in caplog.text


@pytest.mark.rig(**ROOMY)
async def test_after_a_turn_that_is_given_up_hosts_write_as_much_as_after_a_whole_one(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=40))
    checkpointing = rig.device.checkpointing
    checkpointing.ask_s = 0
    began: list[int] = []

    async def step(writer: TurnWriter) -> bool:
        began.append(rig.device.core.stats().user_written_blocks)
        raise MemoryError

    monkeypatch.setattr(TurnWriter, "step", step)
    # The traffic takes less time than a pause.
    monkeypatch.setattr("spdk_ftl_py.ftl.gc.checkpointing.BAND_POLL_S", 0)
    await rig.traffic(1500)
    await checkpointing.ended()
    interval = rig.device.block_count * 40 // 100
    assert interval // 8 <= began[0] < interval
    assert len(began) > 2
    # Hosts write while it begins, too.
    assert (np.diff(began) >= interval // 2).all()
