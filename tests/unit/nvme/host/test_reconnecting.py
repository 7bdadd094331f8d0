"""A host that stays: connections come and go, its I/O gets one answer each."""

from __future__ import annotations

import asyncio
import random

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import NotFoundError
from spdk_ftl_py.nvme.host.reconnecting import ReconnectingHost
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import load_ended
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, Bench, bench, io, until

PATH_ERROR = 0x370
BLOCKS = 1024


async def connect(here: Bench, **options: object) -> ReconnectingHost:
    options = {"reconnect_delay_s": 0.01, **options}
    return await ReconnectingHost.connect(
        here.reactor,
        "127.0.0.1",
        here.port,
        SUBNQN,
        hostnqn=HOSTNQN,
        **options,  # type: ignore[arg-type]
    )


async def test_verified_io_goes_on_through_lost_connections() -> None:
    rng = random.Random(31)
    async with bench() as here:
        host = await connect(here)
        load = _shim.LoadGenerator(here.reactor.shim, host.device, lba_count=BLOCKS, seed=1)
        done = asyncio.Event()
        here.reactor.subscribe(load.id, lambda event: done.set() if load_ended(event, load) else None)
        load.start("mixed", total_blocks=1 << 40, queue_depth=32, write_percent=50)
        for losses in range(1, 6):
            before = load.progress().done_blocks
            await until(lambda before=before: load.progress().done_blocks > before + rng.randrange(2000))
            await here.subsystem.disconnect()
            await until(lambda losses=losses: host.losses == losses and host.connected)
        load.stop()
        await done.wait()
        load.start("read", pattern="sequential", total_blocks=BLOCKS)
        done.clear()
        await done.wait()
        progress = load.progress()
        assert (progress.io_errors, progress.verify_errors) == (0, 0)
        here.reactor.unsubscribe(load.id)
        load.close()
        await host.close()
        await host.close()


async def test_a_target_that_is_gone_for_a_while_is_waited_for(here: Bench) -> None:
    (namespace,) = here.subsystem.namespaces.values()
    host = await connect(here)
    await here.target.close()
    write = asyncio.ensure_future(io(here.reactor, host.device, _shim.Op.WRITE, 1, 1, b"\x5a" * 4096))
    await until(lambda: host.device.held == 1)
    successor = NvmfTarget(here.reactor)
    assert await successor.listen("127.0.0.1", here.port) == here.port
    await until(lambda: any(each.connections for each in successor._listeners.values()))  # in vain, so far
    assert not write.done()
    again = Subsystem(SUBNQN, allow_any_host=True)
    again.add_namespace(namespace.device, uuid=namespace.uuid, nguid=namespace.nguid)
    again.add_listener("127.0.0.1", here.port)
    successor.add_subsystem(again)
    assert await write == (0, 0)
    await host.close()
    await successor.close()


async def test_after_the_timeout_io_fails(here: Bench) -> None:
    host = await connect(here, loss_timeout_s=0.1)
    await here.target.close()
    assert await io(here.reactor, host.device, _shim.Op.FLUSH) == (PATH_ERROR, 0)
    await host.failed.wait()
    assert host.failure is not None
    assert not host.connected
    await host.close()


async def test_another_namespace_in_its_place_is_refused(here: Bench) -> None:
    host = await connect(here)
    here.subsystem.remove_namespace(1)
    here.subsystem.add_namespace(here.media(), nsid=1)
    await here.subsystem.disconnect()
    await asyncio.wait_for(host.failed.wait(), 20)
    assert host.failure is not None
    assert "from the previous one" in host.failure.message
    await host.close()


@pytest.mark.rig(namespace=False)
async def test_a_namespace_that_is_not_there_leaves_nothing_behind(here: Bench) -> None:
    with pytest.raises(NotFoundError, match="no namespace 1"):
        await connect(here)
    await until(lambda: not here.subsystem.controllers)


async def test_closing_while_it_reconnects_fails_what_it_holds(here: Bench) -> None:
    host = await connect(here)
    await here.target.close()
    flush = asyncio.ensure_future(io(here.reactor, host.device, _shim.Op.FLUSH))
    await until(lambda: host.device.held == 1)
    await host.close()
    assert await flush == (0x371, 0)
