"""What is on media of a summary that a load has written, in part or as a whole, while its zone stays as it is, and when
it is written again (summaries.py)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.load.zone_walk import ZoneContent
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.async_tests import rig_options
from unit.ftl.load.emulated_rig import CONF, EmulatedRig, changed, closed_zone, emulated_rig, same
from unit.shim.ftl.core_bench import content


@pytest.fixture(name="rig")
def rig_of_the_test(reactor: ReactorLoop, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[EmulatedRig]:
    return emulated_rig(reactor, **rig_options(request))


@pytest.mark.parametrize("seed", range(8))
async def test_any_part_of_it_is_as_good_as_none(seed: int, rig: EmulatedRig) -> None:
    """What is on media of a summary of three blocks, over what was there before."""
    await rig.create(CONF)
    await rig.traffic(1500)
    await rig.crash()
    before, first = await rig.image(), await rig.found()
    await rig.reload()
    await rig.crash()
    after = await rig.image()
    new = changed(before, after)
    areas = np.concatenate([np.arange(at, at + n) for at, n in (rig.summary_of(z.start) for z in first.walked)])
    summary_blocks = np.intersect1d(new, areas)
    assert len(summary_blocks) == len(areas) > 3
    rng = np.random.default_rng(seed)
    await rig.put(before, new)
    for _ in range(6):
        some = summary_blocks[rng.random(len(summary_blocks)) < rng.choice([0.2, 0.5, 0.9])]
        await rig.put(after, some)
        found = await rig.found()
        assert np.array_equal(found.l2p, first.l2p)
        assert found.next_seq == first.next_seq
        await rig.put(before, summary_blocks)


@pytest.mark.parametrize("lost_header", [True, False])
@pytest.mark.parametrize("lost", range(3))
async def test_a_summary_that_is_known_in_part_is_not_completed(lost: int, lost_header: bool, rig: EmulatedRig) -> None:
    """Blocks without a header, of which a summary knows some: a load does not take these. With another part of a
    summary the next load would, and their seqs were given again."""
    zone = await closed_zone(rig)
    geometry = rig.device.geometry
    at, count = rig.summary_of(zone.start)
    assert count == 3
    described = range(zone.start + lost * 168, zone.start + min((lost + 1) * 168, geometry.data_blocks))
    headers = [a for a in range(zone.start, zone.start + geometry.data_blocks) if a not in zone.addresses]
    assert len(headers) > 3
    # The batch at the border of what the lost block describes, so that the other side is known.
    border = described[-1] + 1 if lost < 2 else described[0]
    header = max(a for a in headers[1:] if a < border)
    await rig.raw.write(at + lost, bytes(4096))
    if lost_header:
        await rig.raw.write(header, bytes(4096))
    await rig.raw.flush()
    first, before = await rig.found(), await rig.image()
    following = min(a for a in [*headers, zone.start + geometry.data_blocks] if a > header)
    crosses = header < border < following
    assert (zone.start in [each.start for each in first.walked]) == (not (lost_header and crosses))
    await rig.reload()
    await rig.crash()
    after = await rig.image()
    assert same(first, await rig.found())
    # Whatever of it is there.
    for index in range(count):
        for part in ([index], [each for each in range(count) if each != index]):
            await rig.put(before, np.arange(at, at + count))
            await rig.put(after, at + np.array(part))
            assert np.array_equal((await rig.found()).l2p, first.l2p)


# --- and afterwards


POWER_CUTS = [pytest.param({"capacity": 48, "zone_size": 64, "zones": 44}, id="summary of 1 block")]
POWER_CUTS += [pytest.param({"capacity": 200, "zone_size": 256, "zones": 44}, id="2 blocks")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("media", POWER_CUTS)
async def test_power_cuts_at_any_time(
    media: dict[str, int], seed: int, reactor: ReactorLoop, rigs: AsyncExitStack
) -> None:
    """Zones are reset, written again, and lose any of their blocks that were not flushed. Loads lose power, too."""
    rig = await rigs.enter_async_context(emulated_rig(reactor, seed=seed, **media))
    disk, rng = rig.disk, rig.rng
    await rig.create()
    summarised = 0
    for crash in range(14):
        disk.cut_power_at(disk.operations + rng.randrange(20, 1500), rng.randrange(1 << 32))
        await rig.traffic(3000)
        await rig.crash()
        disk.power_on()
        while True:
            summarised += len((await rig.found()).walked)
            if rng.random() < 0.6:
                disk.cut_power_at(disk.operations + rng.randrange(1, 200), rng.randrange(1 << 32))
            try:
                await rig.reload()
                await rig.check(f"crash {crash}")
                disk.cut_power_at(0, 0)
                break
            except MediaError:
                await rig.crash()
                disk.power_on()
    assert summarised > 10


LBA = 5


class Lives:
    """A zone with a summary that a load has written, and what later lives of it leave there."""

    def __init__(self, rig: EmulatedRig, zone: ZoneContent, seq: int) -> None:
        self._rig = rig
        self._zone = zone
        self._seq = seq

    def _batch(self, life: int, offset: int) -> np.ndarray[Any, Any]:
        """Of one block, with a seq that no other version of LBA has."""
        data, entries = content(LBA, life), np.zeros(1, layout.ENTRY)
        entries["lba"], entries["seq"], entries["crc"] = LBA, self._seq, _shim.crc32c(data)
        header = layout.build_batch_header(
            self._rig.device.media_uuid,
            band=self._zone.band,
            punit=self._zone.punit,
            band_seq=self._zone.band_seq + life,
            address=self._zone.start + offset,
            kind=layout.KIND_DATA,
            stream=0,
            entries=entries,
        )
        return np.stack([header, np.frombuffer(data, np.uint8)])

    async def batch(self, life: int, offset: int) -> int:
        """Returns the address of the block."""
        address = self._zone.start + offset
        await self._rig.raw.write(address, self._batch(life, offset))
        await self._rig.raw.flush()
        return address + 1


async def summarised(rig: EmulatedRig) -> Lives:
    await rig.create(CONF)
    await rig.traffic(300)
    await rig.flush()
    await rig.crash()
    (zone, *_) = await rig.walked()
    await rig.reload()
    await rig.crash()
    return Lives(rig, zone, (await rig.found()).next_seq + 100)


async def test_a_later_batch_without_its_first_header_stays_unseen(rig: EmulatedRig) -> None:
    """This can only be left by an earlier release (test_zone_starts.py)."""
    lives = await summarised(rig)
    before = await rig.found()
    await lives.batch(1, 300)
    assert same(before, await rig.found())


async def test_a_later_life_with_its_first_header_counts(rig: EmulatedRig) -> None:
    lives = await summarised(rig)
    address = await lives.batch(1, 300)
    await lives.batch(1, 0)
    found = await rig.found()
    assert int(found.l2p[LBA]) in (address, address - 300)
