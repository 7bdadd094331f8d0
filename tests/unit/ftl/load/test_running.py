"""The running checkpoint: whatever a crash leaves, a load with it finds what a load of everything finds."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.load.restored import Restored
from spdk_ftl_py.ftl.load.running import TurnWriter
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.ftl.load.restore_rig import CONF, MakeRestoreRig, RestoreRig
from unit.shim.ftl.core_bench import content

OFTEN = dataclasses.replace(CONF, running_checkpoint=4)
"""A turn for each 50 blocks or so that hosts write."""
ROOMY = {"zones": 64, "open_zones": 14}


async def both(rig: RestoreRig) -> tuple[Restored, Restored]:
    """What a load finds with the running checkpoint, and what a load of everything finds. Both are the same."""
    port = BlockPort(rig.reactor, rig.base, name="base")
    try:
        quick = await restore(port, rig.device.uuid)
        whole = await restore(port, rig.device.uuid, use_checkpoint=False)
        await compare(port, quick, whole)
    finally:
        await port.close()
    return quick, whole


async def compare(port: BlockPort, quick: Restored, whole: Restored) -> None:
    """Which copy of a version counts may differ, and a trim of what was never written may be missing."""
    assert quick.damage == whole.damage == []
    assert quick.next_seq >= whole.next_seq
    assert quick.next_band_seq >= whole.next_band_seq
    there, wanted = quick.l2p, whole.l2p
    tag = np.uint64(_shim.LOST_FLAG)
    for lba in np.flatnonzero(there != wanted).tolist():
        one, other = there[lba], wanted[lba]
        if (one & tag) == 0 and (other & tag) == 0 and one != other:
            blocks = [await port.read(int(address), 1) for address in (one, other)]
            assert np.array_equal(*blocks), f"LBA {lba}: {one} instead of {other}"
            continue
        zeroes = [
            int(each) == _shim.ADDRESS_INVALID or each & tag == np.uint64(_shim.TRIM_FLAG) for each in (one, other)
        ]
        assert zeroes == [True, True], f"LBA {lba}: {one:x} instead of {other:x}"


async def loaded_after_crash(rig: RestoreRig, *, buffer: bool = False) -> None:
    while True:
        # Sometimes power fails in the load as well.
        rig.base.cut_power_at(rig.base.operations + rig.rng.randrange(1, 400), rig.rng.randrange(1 << 32))
        try:
            await rig.load()
            rig.base.cut_power_at(0, 0)
            await rig.versions()
            return
        except MediaError:
            await rig.crash()
            rig.base.power_on()
            await both(rig)


@pytest.mark.parametrize("seed", range(3))
async def test_both_loads_find_the_same_whenever_power_fails(make_rig: MakeRestoreRig, seed: int) -> None:
    rig = await make_rig(seed=seed, volatile_cache=True, **ROOMY)
    await rig.create(OFTEN)
    rig.device.checkpointing.pause_s = 0
    used = turns = 0
    for _ in range(10):
        rig.base.cut_power_at(rig.base.operations + rig.rng.randrange(20, 2500), rig.rng.randrange(1 << 32))
        await rig.traffic(6000)
        turns += rig.device.checkpointing.turns
        await rig.crash()
        rig.base.power_on()
        quick, _ = await both(rig)
        used += quick.from_turn
        await loaded_after_crash(rig)
        rig.device.checkpointing.pause_s = 0
        await rig.check(f"seed {seed}")
    assert turns > 10
    assert used > 5, (used, turns)


@pytest.mark.parametrize("seed", range(3))
async def test_a_crash_just_after_a_turn_counts(make_rig: MakeRestoreRig, seed: int) -> None:
    """What was in the write buffer when its page was copied is durable by then."""
    rig = await make_rig(seed=seed, volatile_cache=True, **ROOMY)
    await rig.create(OFTEN)
    await rig.traffic(800)
    for crash in range(12):
        rig.device.checkpointing.pause_s = 0
        turns = rig.device.checkpointing.turns
        traffic = asyncio.ensure_future(rig.traffic(100_000))
        while rig.device.checkpointing.turns == turns:
            await asyncio.sleep(0)
        rig.base.power_cut(crash)
        await traffic
        await rig.crash()
        rig.base.power_on()
        quick, _ = await both(rig)
        assert quick.from_turn
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["from_running_checkpoint"]
        await rig.check(f"seed {seed}, crash {crash}")


async def one_turn(rig: RestoreRig) -> None:
    """Now, though it is not due."""
    checkpointing = rig.device.checkpointing
    checkpointing.pause_s = 0
    await checkpointing.ended()
    turns = checkpointing.turns
    checkpointing._began_at = -(1 << 40)
    checkpointing.look()
    await checkpointing.ended()
    assert checkpointing.turns == turns + 1


@pytest.mark.rig(volatile_cache=True, **ROOMY)
async def test_a_turn_counts_when_all_that_its_pages_saw_is_durable(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that was only in the write buffer when its page was copied has a version before, of which nothing else
    says where it is."""
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=100))
    await rig.traffic(2500)
    await rig.flush()
    save, step = rig.device.checkpointing._save, TurnWriter.step
    used = []

    async def step_after_a_write(writer: TurnWriter) -> bool:
        change, version = rig.model.submit(7, 1, trim=False)
        await rig.port.write(7, content(7, version))
        rig.model.acknowledge(7, 1, change, durable=False)
        used.append(rig.device.core.stats().write_buffer_used)
        return await step(writer)

    async def save_and_see() -> None:
        used.append(rig.device.core.stats().write_buffer_used)
        await save()

    monkeypatch.setattr(TurnWriter, "step", step_after_a_write)
    monkeypatch.setattr(rig.device.checkpointing, "_save", save_and_see)
    await one_turn(rig)
    assert used[-2:] == [1, 0]
