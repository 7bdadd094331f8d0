"""What a loss of power leaves of an emulated zone, anywhere in it: a batch that was not flushed, far behind those that
were. Each load sees it, or its seq would be given again, and a later load could take it for newer than what was flushed
since. So a walk of an emulated zone can't end where nothing seems to follow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl.media.band import BAND_ROW
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.layout import BatchHeader, parse_batch_header
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import RestoreRig
from unit.shim.ftl.core_bench import content, version_of

ZONES, ZONE_SIZE, CAPACITY = 14, 16384, 13000
CONF = FtlConf(write_buffer_size=24 << 20, lba_rsvd=60)
FLUSHED, LATER = (0, 1270), (5000, 1400)
"""First LBA and count: what is written once, and what is overwritten without a flush."""


class Zone:
    """The zone with the data, on the disk below the emulated zones."""

    def __init__(self, rig: RestoreRig, raw: BlockPort) -> None:
        rows = rig.device.core.band_rows(0, len(rig.device.bands)).view(BAND_ROW)
        self.band = int(np.argmax(rows["valid"]))
        zone = rig.device.geometry.bands[self.band][0]
        assert zone is not None
        self.start = rig.device.geometry.zone_start(zone)
        self._data_blocks = rig.device.geometry.data_blocks
        self._media_uuid = rig.device.media_uuid
        self._raw = raw

    async def blocks(self) -> NDArray[np.uint8]:
        return await self._raw.read(self.start, CAPACITY)

    async def put(self, blocks: NDArray[np.uint8]) -> None:
        for first in range(0, CAPACITY, 250):
            await self._raw.write(self.start + first, np.ascontiguousarray(blocks[first : first + 250]))
        await self._raw.flush()

    def headers(self, blocks: NDArray[np.uint8]) -> list[tuple[int, BatchHeader]]:
        found = []
        for at in range(self._data_blocks):
            header = parse_batch_header(blocks[at], self._media_uuid)
            if header is not None and header.address == self.start + at:
                found.append((at, header))
        return found


async def write(rig: RestoreRig, span: tuple[int, int], version: int) -> None:
    first, count = span
    for lba in range(first, first + count, 100):
        blocks = range(lba, min(lba + 100, first + count))
        await rig.port.write(lba, b"".join(content(each, version) for each in blocks))


async def version(rig: RestoreRig, lba: int) -> int:
    return version_of(lba, (await rig.port.read(lba, 1)).tobytes())


@pytest.mark.parametrize("distance", range(1, 1400, 128))
async def test_what_was_flushed_wins_over_a_batch_that_survived_far_behind(distance: int, reactor: ReactorLoop) -> None:
    disk = _shim.EmulatedMedia.conventional(reactor.shim, ZONES * ZONE_SIZE)
    raw = BlockPort(reactor, disk, name="raw")
    base: Callable[[], _shim.BlockDevice] = lambda: _shim.ZonedOverlay(  # noqa: E731
        reactor.shim, disk, zone_capacity=CAPACITY, initial_state="full"
    )
    rig = RestoreRig(reactor, base(), random.Random(1))
    await rig.create(CONF, num_punits=1)
    await write(rig, FLUSHED, 1)
    await write(rig, LATER, 1)
    await rig.port.flush()
    zone = Zone(rig, raw)
    before = await zone.blocks()
    await write(rig, LATER, 2)
    for _ in range(2000):
        await asyncio.sleep(0)
    after = await zone.blocks()
    uuid = rig.device.uuid
    await rig.crash()
    # The first loss of power: of what was not flushed, one batch is left.
    flushed = zone.headers(before)
    end = flushed[-1][0] + flushed[-1][1].block_count
    at, header = next(each for each in zone.headers(after) if each[0] >= end + distance and len(each[1].entries))
    lost = before.copy()
    lost[at : at + header.block_count] = after[at : at + header.block_count]
    await zone.put(lost)
    rig.base = base()
    await rig.load(uuid=uuid, num_punits=None)
    lba = int(header.entries["lba"][0])
    assert await version(rig, lba) in (1, 2)
    # Its LBA gets the first seq after the load.
    await rig.port.write(lba, content(lba, 3))
    await write(rig, FLUSHED, 3)
    await write(rig, (LATER[0], lba - LATER[0]), 3)
    await write(rig, (lba + 1, sum(LATER) - lba - 1), 3)
    await rig.port.flush()
    await rig.crash()
    # The second one: the zone was reset, and written again. Of that, some blocks are left in the place of headers.
    lost = await zone.blocks()
    for place, _ in flushed[1:4]:
        lost[place] = np.random.default_rng(place).integers(0, 256, lost.shape[1])
    await zone.put(lost)
    rig.base = base()
    await rig.load(uuid=uuid, num_punits=None)
    for first, count in (FLUSHED, LATER):
        found = {await version(rig, each) for each in range(first, first + count)}
        assert found == {3}, f"version 3 was flushed, found {found}"
    await rig.end()
    await raw.close()
