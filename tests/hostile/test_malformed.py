"""Malformed PDUs and capsules before a daemon, in every state of a connection, from several threads: an honest host
beside them sees no error, and when they have gone the daemon is what it was before.

2,000 of them, 10,000 with `tox -e hostile` (SPDK_FTL_MALFORMED_PDUS). SPDK_FTL_MALFORMED=SEED does the same ones again,
SEED:NUMBER one connection of them; what fails says which. The sanitizers have tests/unit/nvme/target/test_malformed.py.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hostile.honest_host import ANSWER_S, HONEST_NQN, World, honest_host
from hostile.malformed import Assault, assail_together, assaults
from hostile.seeds import chosen_pdus, chosen_seed
from support.system import Daemon

THREADS = 4
QUICK_PDUS = 2000
WARM_UP_PDUS = 400
GROWTH_MAX_KIB = 16 << 10
GONE_S = 20.0


def _rss_kib(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


def _descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def _hosts(world: World) -> list[tuple[str, int]]:
    controllers = world.client.call("bdev_ftl_get_hosts", {"name": "ftl0"})["controllers"]
    return [(controller["hostnqn"], controller["num_io_qpairs"]) for controller in controllers]


async def test_malformed_pdus_and_capsules_in_every_state(world: World) -> None:
    seed, only = chosen_seed()
    pdus = chosen_pdus(QUICK_PDUS)

    def assault() -> Assault:
        return Assault(world.port, world.nqn, keys=world.keys, claimed=HONEST_NQN)

    @asynccontextmanager
    async def attack(threads: list[Assault]) -> AsyncIterator[None]:
        """At least as long as it is looked at, and until enough was sent."""
        task = asyncio.create_task(assail_together(threads, seed, pdus))
        try:
            yield
        finally:
            await task

    async with honest_host(world) as host:
        if only is not None:
            with assaults(1, assault) as (one,):
                await asyncio.to_thread(one.connection, seed, only)
            return
        # What the first of each kind makes the daemon keep for good (caches, pools) is no growth.
        with assaults(1, assault) as warm_up:
            await assail_together(warm_up, f"{seed}-before", WARM_UP_PDUS)
        await _as_before(world, _descriptors(world.daemon))
        descriptors, rss_kib = _descriptors(world.daemon), _rss_kib(world.daemon)
        with assaults(THREADS, assault) as threads:
            begin = time.monotonic()
            (await host.beside(attack(threads))).check()
            tried = {state: sum(each.sent[state] for each in threads) for state in threads[0].states}
        print(f"{sum(tried.values())} in {time.monotonic() - begin:.1f} s: {tried}")
        assert all(tried.values()), tried
        await _as_before(world, descriptors)
        grown = _rss_kib(world.daemon) - rss_kib
        print(f"grown by {grown} KiB")
        assert grown < GROWTH_MAX_KIB
        assert not (await host.measure())["io_errors"]
        begin = time.monotonic()
        assert world.state() == "online"
        assert time.monotonic() - begin < ANSWER_S
    # Nobody waits for a task that died, but asyncio says so.
    log = world.daemon.log()
    assert "Traceback" not in log
    assert "never retrieved" not in log


async def _as_before(world: World, descriptors: int) -> None:
    """Of all that was opened nothing is left but the honest host's admin queue and its one I/O queue."""
    deadline = time.monotonic() + GONE_S
    while True:
        hosts, there = await asyncio.to_thread(_hosts, world), _descriptors(world.daemon)
        if hosts == [(HONEST_NQN, 1)] and there <= descriptors:
            return
        assert time.monotonic() < deadline, f"{hosts}, {there} descriptors instead of {descriptors}"
        await asyncio.sleep(0.05)
