"""An FTL on emulated zones, whose states nobody knows after a crash, and what a load finds on its disk."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.load.restored import Restored
from spdk_ftl_py.ftl.load.zone_walk import ZoneContent, ZoneReader
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import RestoreRig
from unit.shim.ftl.core_bench import BLOCK

CONF = FtlConf(write_buffer_size=64 * BLOCK, lba_rsvd=60)
AT_A_TIME = 250


@dataclass(frozen=True)
class Place:
    """A zone of a band."""

    band: int
    punit: int
    start: int


class EmulatedRig(RestoreRig):
    def __init__(self, reactor: ReactorLoop, *, zones: int, zone_size: int, capacity: int, seed: int) -> None:
        self.disk = _shim.EmulatedMedia.conventional(reactor.shim, zones * zone_size, volatile_cache=True)
        self.disk.set_schedule(seed)
        self.capacity = capacity
        self.raw = BlockPort(reactor, self.disk, name="raw")
        super().__init__(reactor, None, random.Random(seed))
        self.base = self.again()

    def again(self) -> Any:
        """As after a restart."""
        return _shim.ZonedOverlay(self.reactor.shim, self.disk, zone_capacity=self.capacity, initial_state="full")

    async def reload(self) -> None:
        self.base = self.again()
        await self.load()

    async def crash_and_reload(self) -> None:
        await self.crash()
        await self.reload()

    async def found(self) -> Restored:
        """What a load would find."""
        port = BlockPort(self.reactor, self.again(), name="base")
        try:
            return await restore(port, self.device.uuid)
        finally:
            await port.close()

    def places(self) -> list[Place]:
        geometry = self.device.geometry
        return [
            Place(band, punit, geometry.zone_start(zone))
            for band, zones in enumerate(geometry.bands)
            for punit, zone in enumerate(zones)
            if zone is not None
        ]

    async def contents(self) -> list[ZoneContent]:
        """Of all zones with records of the FTL."""
        port = BlockPort(self.reactor, self.again(), name="base")
        reader = ZoneReader(port, self.device.geometry, self.device.media_uuid, sequential=False)
        read = [
            await reader.read_zone(place.band, place.punit, place.start, self.capacity, full=True)
            for place in self.places()
        ]
        await port.close()
        return [content for content in read if content.band_seq]

    async def walked(self) -> list[ZoneContent]:
        return [content for content in await self.contents() if content.walked]

    def summary_of(self, start: int) -> tuple[int, int]:
        """Its first block, and how many it has."""
        return start + self.device.geometry.data_blocks, self.device.geometry.summary_blocks

    async def image(self) -> NDArray[np.uint8]:
        return await self.raw.read(0, self.disk.block_count)

    async def put(self, image: NDArray[np.uint8], addresses: NDArray[Any]) -> None:
        for address in addresses.tolist():
            await self.raw.write(address, np.ascontiguousarray(image[address : address + 1]))
        await self.raw.flush()


@asynccontextmanager
async def emulated_rig(
    reactor: ReactorLoop, *, zones: int = 20, zone_size: int = 512, capacity: int = 400, seed: int = 1
) -> AsyncIterator[EmulatedRig]:
    """Nothing is created yet."""
    rig = EmulatedRig(reactor, zones=zones, zone_size=zone_size, capacity=capacity, seed=seed)
    try:
        yield rig
    finally:
        rig.disk.cut_power_at(0, 0)
        rig.disk.power_on()
        await rig.end()
        await rig.raw.close()


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Addresses of blocks that differ."""
    return np.flatnonzero((before != after).any(axis=1))


def same(one: Restored, other: Restored) -> bool:
    """For each LBA the same block; and the same seq comes next, or a greater one."""
    return np.array_equal(one.l2p, other.l2p) and one.next_seq <= other.next_seq


async def closed_zone(rig: EmulatedRig) -> ZoneContent:
    """A zone with a summary that the FTL wrote when the zone was full, after a crash."""
    await rig.create(CONF)
    for _ in range(40):
        await rig.traffic(100)
        await rig.flush()
        l2p = rig.device.core.l2p(0, rig.device.block_count)
        for zone in await rig.contents():
            zone.addresses, zone.entries = zone.data_blocks()
            if zone.summary is not None and np.isin(zone.addresses, l2p).sum() > 100:
                await rig.crash()
                return zone
    raise AssertionError("no zone was closed")
