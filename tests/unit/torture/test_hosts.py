"""Hosts that stay connected: what they notice, and what they do not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture.hosts import MIXES, Hosts
from unit.nvme.nvme_loop import SUBNQN, Bench, bench, until

BLOCKS = 512
IOS = 300


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Hosts, Bench, _shim.EmulatedMedia]]:
    async with bench(namespace=False) as here:
        media = here.media(BLOCKS)
        here.subsystem.add_namespace(media)
        reactor = ReactorLoop("hosts", spin_us=0)
        await reactor.start()
        try:
            hosts = await Hosts.connect(reactor, "127.0.0.1", str(here.port), SUBNQN, count=2, seed=1, timeout_s=20)
            try:
                yield hosts, here, media
            finally:
                await hosts.close()
        finally:
            await reactor.stop()


async def load(hosts: Hosts, seed: int) -> None:
    """Some I/O of the first mix, everything of it answered."""
    wanted = hosts.ios + IOS
    hosts.start(MIXES[0], random.Random(seed))
    await until(lambda: hosts.ios >= wanted or bool(hosts.violations))
    await hosts.stop()


async def test_hosts_find_nothing_wrong_with_a_drive_that_does_what_it_should() -> None:
    async with connected() as (hosts, _, _):
        for seed in range(3):
            await load(hosts, seed)
            await hosts.flush_all()
            await hosts.verify(random.Random(seed))
        assert hosts.violations == []
        assert hosts.blocks_verified >= 3 * BLOCKS
        assert hosts.flushes >= 6
        assert hosts.waiting == 0


async def test_connections_that_break_under_load_are_made_again_and_nothing_fails() -> None:
    async with connected() as (hosts, here, _):
        hosts.start(MIXES[0], random.Random(1))
        for losses in (2, 4):
            # Both are there: who is not can't be lost.
            await until(lambda: all(host.connected for host in hosts._hosts))
            await here.subsystem.disconnect()
            wanted = hosts.ios + IOS
            await until(lambda losses=losses, wanted=wanted: hosts.losses >= losses and hosts.ios > wanted)
        await hosts.stop()
        await hosts.verify(random.Random(1))
        assert hosts.violations == []
        assert hosts.longest_pause_s > 0


@pytest.mark.parametrize("harm", ["zeroes", "another block", "half a block", "an older version"])
async def test_hosts_notice(harm: str) -> None:
    async with connected() as (hosts, here, media):
        drive = BlockPort(here.reactor, media, name="drive")
        try:
            await load(hosts, 1)
            earlier = await drive.read(0, BLOCKS)
            await load(hosts, 2)
            later = await drive.read(0, BLOCKS)
            written = [lba for lba in range(BLOCKS) if later[lba].any()]
            changed = [lba for lba in written if earlier[lba].any() and (earlier[lba] != later[lba]).any()]
            lba = changed[0] if harm == "an older version" else written[0]
            block = {
                "zeroes": later[lba] * 0,
                "another block": later[written[1]],
                "half a block": later[lba].copy(),
                "an older version": earlier[lba],
            }[harm]
            if harm == "half a block":
                block[2048:] = 0
            await drive.write(lba, block.copy())
            await hosts.verify(random.Random(1))
        finally:
            await drive.close()
        (violation,) = hosts.violations
        kinds = {"zeroes": {"lost"}, "an older version": {"older", "resurrected"}}.get(harm, {"garbage"})
        assert violation.lba == lba
        assert violation.kind in kinds


async def test_an_io_that_fails_is_a_violation_and_ends_the_load() -> None:
    async with connected() as (hosts, here, _):
        hosts.start(MIXES[0], random.Random(1))
        here.subsystem.remove_namespace(1)
        await until(lambda: bool(hosts.violations))
        await asyncio.wait_for(hosts.stop(), 20)
        assert {violation.kind for violation in hosts.violations} <= {"io_error", "read_error"}
