"""A daemon with one FTL, an honest host that works on it and proves who it is, and how it and the control socket fare
beside an attack."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys, write_key_file
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.processes import Daemon, EmbeddedTarget

HONEST_NQN = "nqn.2026-11.io.example:honest"
ZNS = "name=Nvme0n1,zones=64,zone_size=4M,capacity=3M,max_open=14"
ANSWER_S = 1.0
"""In which the control socket has to answer, whatever a peer does."""
IOPS_PART = 0.5
MEASURE_S = 0.3
WINDOWS = 5
"""The best of them counts, before and during: what else this machine has to do only makes single ones worse."""
QUEUE_DEPTH = 16
CONTROL_EVERY_S = 0.1


class World:
    """The daemon, and where hosts find its FTL: the honest one, which has keys, and any other, since those that may
    connect can cost most."""

    def __init__(self, daemon: Daemon, target: EmbeddedTarget, folder: Path) -> None:
        self.daemon = daemon
        self.target = target
        self.client = DaemonClient(daemon.socket, timeout_s=60.0)
        key, ctrlr_key = DhchapKey.generate(), DhchapKey.generate()
        self.keys = HostKeys(HeldKey(key), HeldKey(ctrlr_key))
        write_key_file(folder / "key", key)
        write_key_file(folder / "ctrlr-key", ctrlr_key)
        self.client.call(
            "bdev_ftl_create",
            {
                "name": "ftl0",
                "base_bdev": "Nvme0n1",
                "target": target.socket,
                "no_attach": True,
                "hosts": [HONEST_NQN],
                "dhchap_key": str(folder / "key"),
                "dhchap_ctrlr_key": str(folder / "ctrlr-key"),
                "allow_any_host": True,
            },
        )
        [device] = self.client.call("ftl_get_devices")
        export = device["export"]
        self.port = int(export["trsvcid"])
        self.nqn = str(export["subnqn"])

    def cpu_s(self) -> float:
        """Of the threads that do the FTL's I/O: it is alone on the reactors that FTLs share."""
        total, found = 0.0, False
        for task in Path(f"/proc/{self.daemon.process.pid}/task").iterdir():
            _, name, rest = re.split(r"[()]", (task / "stat").read_text(), maxsplit=2)
            if name.startswith("reactor-"):
                fields = rest.split()
                total, found = total + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), True
        assert found, "the daemon has no reactor"
        return total

    def state(self) -> str:
        [device] = self.client.call("ftl_get_devices")
        return str(device["state"])


@dataclass
class Fared:
    """How it went beside an attack."""

    iops_before: float
    iops: float
    per_cpu_s: float
    """I/Os for each second that the FTL's thread ran: what it would do with a processor of its own. Where the machine
    has other things to do it has less, the more so the busier it is."""
    io_errors: int
    verify_errors: int
    slowest_answer_s: float

    def check(self, *, iops_part: float = IOPS_PART) -> None:
        assert not self.io_errors, self
        assert not self.verify_errors, self
        assert self.slowest_answer_s < ANSWER_S, self
        assert max(self.iops, self.per_cpu_s) > self.iops_before * iops_part, self


class HonestHost:
    """Reads, which it verifies, and writes."""

    def __init__(self, reactor: ReactorLoop, block_count: int, load: _shim.LoadGenerator, world: World) -> None:
        self.block_count = block_count
        self._reactor = reactor
        self._load = load
        self._world = world
        self._answers_s = [0.0]

    async def measure(self, seconds: float = MEASURE_S, *, write_percent: int = 50) -> dict[str, Any]:
        """What progress() says, with iops and per_cpu_s."""
        cpu_before_s = self._world.cpu_s()
        ended = asyncio.Event()
        self._reactor.subscribe(
            self._load.id, lambda event: ended.set() if event.kind == _shim.EventKind.LOAD_DONE else None
        )
        self._load.start(
            "mixed", io_blocks=1, queue_depth=QUEUE_DEPTH, time_limit_s=seconds, write_percent=write_percent
        )
        try:
            await asyncio.wait_for(ended.wait(), seconds + 30)
        finally:
            self._reactor.unsubscribe(self._load.id)
        progress: dict[str, Any] = self._load.progress().as_dict()
        cpu_s = max(self._world.cpu_s() - cpu_before_s, 1 / os.sysconf("SC_CLK_TCK"))
        return progress | {
            "iops": progress["done_ios"] / (progress["elapsed_ns"] / 1e9),
            "per_cpu_s": progress["done_ios"] / cpu_s,
        }

    async def beside(self, attack: AbstractAsyncContextManager[None], *, settle_s: float = 0.2) -> Fared:
        """attack: an async context manager; measured while it goes on."""
        before = [await self.measure() for _ in range(WINDOWS)]
        during: list[dict[str, Any]] = []
        async with attack:
            await asyncio.sleep(settle_s)
            asking = asyncio.create_task(self._ask())
            during = [await self.measure() for _ in range(WINDOWS)]
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        fared = Fared(
            _best(before, "iops"),
            _best(during, "iops"),
            _best(during, "per_cpu_s"),
            sum(window["io_errors"] for window in during),
            sum(window["verify_errors"] for window in during),
            max(self._answers_s),
        )
        print(fared)
        return fared

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


def _best(windows: list[dict[str, Any]], what: str) -> float:
    return max(float(window[what]) for window in windows)


@asynccontextmanager
async def honest_host(world: World) -> AsyncIterator[HonestHost]:
    reactor = ReactorLoop("honest")
    await reactor.start()
    try:
        controller = await Controller.connect("127.0.0.1", world.port, world.nqn, hostnqn=HONEST_NQN, keys=world.keys)
        try:
            [namespace] = await controller.namespaces()
            qpair = await controller.create_io_qpair(reactor, namespace)
            load = _shim.LoadGenerator(reactor.shim, qpair, lba_count=4096, seed=1)
            try:
                yield HonestHost(reactor, namespace.block_count, load, world)
            finally:
                load.close()
        finally:
            await controller.close()
    finally:
        await reactor.stop()
