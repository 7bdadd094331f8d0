"""A daemon with one FTL, an honest host that works on it, and how it and the control socket fare beside an attack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.processes import Daemon, EmbeddedTarget

HONEST_NQN = "nqn.2026-11.io.example:honest"
ZNS = "name=Nvme0n1,zones=64,zone_size=4M,capacity=3M,max_open=14"
ANSWER_S = 1.0
"""In which the control socket has to answer, whatever a peer does."""
IOPS_PART = 0.5
MEASURE_S = 1.0
QUEUE_DEPTH = 16
CONTROL_EVERY_S = 0.1


class World:
    """The daemon, and where hosts find its FTL."""

    def __init__(self, daemon: Daemon, target: EmbeddedTarget) -> None:
        self.daemon = daemon
        self.target = target
        self.client = DaemonClient(daemon.socket, timeout_s=60.0)
        self.client.call(
            "bdev_ftl_create",
            {"name": "ftl0", "base_bdev": "Nvme0n1", "target": target.socket, "no_attach": True},
        )
        [device] = self.client.call("ftl_get_devices")
        export = device["export"]
        self.port = int(export["trsvcid"])
        self.nqn = str(export["subnqn"])

    def state(self) -> str:
        [device] = self.client.call("ftl_get_devices")
        return str(device["state"])


@dataclass
class Fared:
    """How it went beside an attack."""

    iops_before: float
    iops: float
    io_errors: int
    verify_errors: int
    slowest_answer_s: float

    def check(self, *, iops_part: float = IOPS_PART) -> None:
        assert not self.io_errors, self
        assert not self.verify_errors, self
        assert self.slowest_answer_s < ANSWER_S, self
        assert self.iops > self.iops_before * iops_part, self


class HonestHost:
    """Reads, which it verifies, and writes."""

    def __init__(self, reactor: ReactorLoop, controller: Controller, load: _shim.LoadGenerator, world: World) -> None:
        self.controller = controller
        self._reactor = reactor
        self._load = load
        self._world = world
        self._answers_s = [0.0]

    async def measure(self, seconds: float = MEASURE_S, *, write_percent: int = 50) -> dict[str, Any]:
        """What progress() says, with iops."""
        ended = asyncio.Event()
        self._reactor.subscribe(self._load.id, lambda event: ended.set() if event.kind == _shim.EV_LOAD_DONE else None)
        self._load.start(
            "mixed", io_blocks=1, queue_depth=QUEUE_DEPTH, time_limit_s=seconds, write_percent=write_percent
        )
        try:
            await asyncio.wait_for(ended.wait(), seconds + 30)
        finally:
            self._reactor.unsubscribe(self._load.id)
        progress: dict[str, Any] = dict(self._load.progress())
        return progress | {"iops": progress["done_ios"] / (progress["elapsed_ns"] / 1e9)}

    async def beside(self, attack: Any, *, settle_s: float = 0.2, seconds: float = MEASURE_S) -> Fared:
        """attack: an async context manager; measured while it goes on."""
        before = await self.measure()
        async with attack:
            await asyncio.sleep(settle_s)
            asking = asyncio.create_task(self._ask())
            during = await self.measure(seconds)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return Fared(
            before["iops"],
            during["iops"],
            during["io_errors"] + before["io_errors"],
            during["verify_errors"],
            max(self._answers_s),
        )

    async def _ask(self) -> None:
        self._answers_s = [0.0]
        while True:
            begin = time.monotonic()
            # Counts also where the answer never comes.
            self._answers_s.append(0.0)
            try:
                await asyncio.to_thread(self._world.state)
            finally:
                self._answers_s[-1] = time.monotonic() - begin
            await asyncio.sleep(CONTROL_EVERY_S)


@asynccontextmanager
async def honest_host(world: World) -> AsyncIterator[HonestHost]:
    reactor = ReactorLoop("honest")
    await reactor.start()
    try:
        controller = await Controller.connect("127.0.0.1", world.port, world.nqn, hostnqn=HONEST_NQN)
        try:
            [namespace] = await controller.namespaces()
            qpair = await controller.create_io_qpair(reactor, namespace)
            load = _shim.LoadGenerator(reactor.shim, qpair, lba_count=4096, seed=1)
            try:
                yield HonestHost(reactor, controller, load, world)
            finally:
                load.close()
        finally:
            await controller.close()
    finally:
        await reactor.stop()
