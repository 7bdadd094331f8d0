"""An FTL that is served by several reactors (conf cores)."""

from __future__ import annotations

import asyncio
import logging

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime import reactors
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended, running_reactors
from unit.daemon.registry_rig import Daemon, World, connected, create

pytestmark = pytest.mark.usefixtures("_two_cpus")


@pytest.fixture
def _two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactors, "usable_cpus", lambda: (0, 1))


class Host:
    """With I/O queues, and a verifying load on each."""

    def __init__(self, controller: Controller, reactor: ReactorLoop) -> None:
        self.controller = controller
        self.reactor = reactor
        self.loads: list[_shim.LoadGenerator] = []

    @classmethod
    async def connect(cls, here: World, daemon: Daemon, reactor: ReactorLoop, queues: int) -> Host:
        host = cls(await connected(here, daemon), reactor)
        namespace = (await host.controller.namespaces())[0]
        for number in range(queues):
            qpair = await host.controller.create_io_qpair(reactor, namespace, queue_depth=32)
            host.loads.append(
                _shim.LoadGenerator(reactor.shim, qpair, first_lba=number * 256, lba_count=256, seed=number)
            )
        return host

    async def run(self, total_blocks: int) -> None:
        ended = []
        for load in self.loads:
            done = asyncio.get_running_loop().create_future()

            def on_event(
                event: _shim.Event, load: _shim.LoadGenerator = load, done: asyncio.Future[None] = done
            ) -> None:
                if load_ended(event, load) and not done.done():
                    done.set_result(None)

            self.reactor.subscribe(load.id, on_event)
            load.start("mixed", total_blocks=total_blocks, queue_depth=24, write_percent=60)
            ended.append(done)
        await asyncio.gather(*ended)

    def check(self) -> None:
        for load in self.loads:
            progress = load.progress()
            assert (progress.io_errors, progress.verify_errors) == (0, 0), progress.as_dict()

    async def close(self) -> None:
        for load in self.loads:
            load.close()
        await self.controller.close()


async def test_queues_are_spread_and_what_they_read_is_verified(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, conf={"cores": 2})
    front = daemon.managed().front
    assert front.cores == 2
    assert len({place[0] for place in front.places()}) == 2
    async with ReactorLoop("host", spin_us=0) as reactor:
        host = await Host.connect(here, daemon, reactor, 4)
        (crossing,) = front._crossings.values()
        await host.run(3000)
        host.check()
        stats = crossing.stats()
        assert stats.ios > 1000, "no queue is on the second reactor"
        # While the write buffer is full, which it may be for long on a busy machine, there are no leases.
        for _ in range(20):
            if crossing.stats().leased_blocks:
                break
            await host.run(300)
        assert crossing.stats().leased_blocks > 0
        # A change with a pause: the core is another one then, the queues stay.
        running = asyncio.ensure_future(host.run(4000))
        await daemon.call("bdev_ftl_set_property", name="ftl0", ftl_property="band_thld", value="80")
        await running
        host.check()
        assert crossing.stats().ios > stats.ios
        await host.close()
    await daemon.halt(undo=True)
    assert not [each for each in running_reactors() if each.name.startswith("reactor-")]


async def test_the_base_goes_and_comes_back_amid_io_on_both_reactors(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, conf={"cores": 2})
    async with ReactorLoop("host", spin_us=0) as reactor:
        host = await Host.connect(here, daemon, reactor, 4)
        running = asyncio.ensure_future(host.run(3000))
        await asyncio.sleep(0.02)
        await here.remove_drive()
        await daemon.wait_for("waiting")
        assert not running.done()
        await here.make_drive()
        await daemon.wait_for("online")
        await running
        host.check()
        await host.close()
    await daemon.halt(undo=True)


async def test_a_daemon_with_fewer_reactors_uses_those_it_has(
    here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = await here.start()
    await create(here, daemon, conf={"cores": 2})
    await daemon.halt()
    monkeypatch.setattr(reactors, "usable_cpus", lambda: (0,))
    caplog.set_level(logging.WARNING)
    daemon = await here.start()
    await daemon.wait_for("online")
    assert daemon.managed().front.cores == 1
    assert "conf cores is 2, but the daemon has 1 reactors" in caplog.text
    properties = {
        each["name"]: each for each in (await daemon.call("bdev_ftl_get_properties", name="ftl0"))["properties"]
    }
    assert properties["cores"]["value"] == 2
    assert properties["cores"]["read-only"]
    with pytest.raises(ParameterError, match="cores can't be changed, because it applies to one load"):
        await daemon.call("bdev_ftl_set_property", name="ftl0", ftl_property="cores", value="1")
    await daemon.halt(undo=True)
