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
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.ftl.load.restore_rig import CONF, MakeRestoreRig, RestoreRig

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
