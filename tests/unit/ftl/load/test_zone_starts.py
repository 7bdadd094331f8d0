"""Emulated zones whose drive loses any blocks that were not flushed: where anything of a later life of a zone is on
media, the first block of that life is, too. So no load takes what an earlier life has left for the newest, and hides
what came after it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError, MediaError
from spdk_ftl_py.ftl.media.layout import (
    CHECKPOINT,
    CHECKPOINT_MAGIC,
    parse_batch_header,
    parse_record,
    parse_summary_block,
)
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.emulated_rig import EmulatedRig, emulated_rig
from unit.shim.ftl.core_bench import BLOCK

CRASHES = 16
MEDIA = [
    {"zones": 44, "zone_size": 64, "capacity": 48},
    {"zones": 44, "zone_size": 256, "capacity": 200},
    {"zones": 80, "zone_size": 16, "capacity": 16},
]


@dataclass(frozen=True)
class Life:
    """The newest thing in a zone, or the first block of the zone."""

    band_seq: int = 0
    generation: int = 0
    """Of a block of an L2P checkpoint."""


def life_of(rig: EmulatedRig, block: NDArray[np.uint8], address: int) -> Life:
    uuid = rig.device.media_uuid
    header = parse_batch_header(block, uuid)
    if header is not None and header.address == address:
        return Life(band_seq=header.band_seq)
    summary = parse_summary_block(block, uuid)
    if summary is not None:
        return Life(band_seq=summary.band_seq)
    record = parse_record(block, CHECKPOINT, CHECKPOINT_MAGIC, uuid)
    if record is not None and int(record["address"]) == address:
        return Life(generation=int(record["generation"]))
    return Life()


class Lives:
    """What is in each zone, followed from crash to crash."""

    def __init__(self, rig: EmulatedRig) -> None:
        self._rig = rig
        self._newest: dict[int, Life] = {}
        self.begun = 0
        self.checkpoints = 0

    async def check(self) -> None:
        image = await self._rig.image()
        for place in self._rig.places():
            blocks = range(place.start, place.start + self._rig.capacity)
            lives = [life_of(self._rig, image[address], address) for address in blocks]
            newest = Life(max(each.band_seq for each in lives), max(each.generation for each in lives))
            before = self._newest.get(place.start, Life())
            begun = newest.band_seq > before.band_seq
            copied = newest.generation > before.generation
            starts = (begun and lives[0].band_seq == newest.band_seq) or (
                copied and lives[0].generation == newest.generation
            )
            assert starts or not (begun or copied), f"zone at {place.start}: {newest}, but it begins with {lives[0]}"
            self.begun += begun
            self.checkpoints += copied
            self._newest[place.start] = newest


async def crash_in(rig: EmulatedRig, kind: str) -> None:
    disk, rng = rig.disk, rig.rng
    if kind == "power":
        disk.cut_power_at(disk.operations + rng.randrange(5, rng.choice([60, 1500])), rng.randrange(1 << 32))
        await rig.traffic(1500)
        await rig.crash()
    elif kind == "kill":
        await rig.traffic(rng.randrange(300))
        await rig.crash()
    else:
        await rig.traffic(rng.randrange(200))
        if kind == "halt cut":
            await rig.flush()
            disk.cut_power_at(disk.operations + rng.randrange(1, 40), rng.randrange(1 << 32))
        # What a halt writes last is in doubt then, but all that was accepted is on media before.
        rig.model.flushed(list(rig.model.completed))
        with contextlib.suppress(MediaError, FtlError):
            await rig.halt()
        await rig.port.close()
    disk.cut_power_at(0, 0)
    disk.power_on()


async def load_again(rig: EmulatedRig, lives: Lives, what: str) -> None:
    """Power may fail in the load."""
    disk, rng = rig.disk, rig.rng
    while True:
        if rng.random() < 0.4:
            disk.cut_power_at(disk.operations + rng.randrange(1, 200), rng.randrange(1 << 32))
        try:
            await rig.reload()
            await rig.check(what)
            await rig.raw.read(0, 1)  # it may have failed since
        except MediaError:
            disk.cut_power_at(0, 0)
            with contextlib.suppress(FtlError):
                await rig.crash()
            disk.power_on()
            await lives.check()
            continue
        disk.cut_power_at(0, 0)
        return


@pytest.mark.parametrize("seed", range(6))
async def test_a_later_life_begins_with_its_first_block(seed: int, reactor: ReactorLoop) -> None:
    async with emulated_rig(reactor, seed=seed, **MEDIA[seed % len(MEDIA)]) as rig:
        conf = FtlConf(write_buffer_size=rig.rng.choice([16, 64]) * BLOCK, lba_rsvd=60)
        await rig.create(conf, num_punits=2)
        lives = Lives(rig)
        for crash in range(CRASHES):
            kind = rig.rng.choice(["power", "power", "power", "kill", "halt", "halt cut", "halt cut"])
            await crash_in(rig, kind)
            await lives.check()
            await load_again(rig, lives, f"crash {crash} ({kind})")
        assert lives.begun > 5
        assert lives.checkpoints > 0
