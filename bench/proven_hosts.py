"""What DH-HMAC-CHAP costs: nothing of I/O, since it is over before that, and some milliseconds of a connection.

    python bench/proven_hosts.py [--pairs 25] [--seconds 0.5] [--depth 32] [--connections 20]

One target in this process with media in memory, and hosts on a reactor thread of their own, by TCP over loopback:
one that has proved who it is, both ways, on admin and I/O queue, and one that need not. Random 4 KiB reads and writes
in turns, each to a namespace of its own, and a second host that need not, which shows what the machine alone makes of
the ratio. I/Os in a second, and in a second of this process's CPU time. Then the time of a connection, by group.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys
from spdk_ftl_py.nvme.auth.messages import DhGroup
from spdk_ftl_py.nvme.auth.response import Policy
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import ReactorLoop

SUBNQN = "nqn.2026-11.io.example:bench"
PLAIN, PROVING = "nqn.2026-11.io.example:plain", "nqn.2026-11.io.example:proving"
BLOCKS = 65536


class Host:
    def __init__(self, controller: Controller, load: _shim.LoadGenerator, reactor: ReactorLoop) -> None:
        self._controller = controller
        self._load = load
        self._reactor = reactor

    @classmethod
    async def connect(cls, reactor: ReactorLoop, port: int, nsid: int, hostnqn: str, keys: HostKeys | None) -> Host:
        controller = await Controller.connect("127.0.0.1", port, SUBNQN, hostnqn=hostnqn, keys=keys)
        namespace = (await controller.namespaces())[nsid - 1]
        qpair = await controller.create_io_qpair(reactor, namespace)
        return cls(controller, _shim.LoadGenerator(reactor.shim, qpair, lba_count=BLOCKS, seed=1), reactor)

    async def run(self, seconds: float, depth: int) -> tuple[float, float]:
        """I/Os per second, and per second of CPU time."""
        cpu_s = time.process_time()
        ended = asyncio.Event()
        self._reactor.subscribe(
            self._load.id, lambda event: ended.set() if event.kind == _shim.EventKind.LOAD_DONE else None
        )
        self._load.start("mixed", io_blocks=1, queue_depth=depth, time_limit_s=seconds, write_percent=50)
        await ended.wait()
        self._reactor.unsubscribe(self._load.id)
        progress = self._load.progress()
        assert not progress.io_errors
        assert not progress.verify_errors
        done, elapsed_s = progress.done_ios, progress.elapsed_ns / 1e9
        return done / elapsed_s, done / (time.process_time() - cpu_s)

    async def close(self) -> None:
        self._load.close()
        await self._controller.close()


async def connection_ms(port: int, hostnqn: str, keys: HostKeys | None, policy: Policy | None, count: int) -> float:
    took = []
    for _ in range(count):
        begin = time.monotonic()
        controller = await Controller.connect("127.0.0.1", port, SUBNQN, hostnqn=hostnqn, keys=keys, policy=policy)
        took.append(time.monotonic() - begin)
        await controller.close()
        await asyncio.sleep(0.1)  # so that the target's quarter of the time for such calculations is not what is timed
    return statistics.median(took) * 1e3


async def bench(pairs: int, seconds: float, depth: int, connections: int) -> None:
    keys = HostKeys(HeldKey(DhchapKey.generate()), HeldKey(DhchapKey.generate()))
    serving, reactor = ReactorLoop("target", spin_us=0), ReactorLoop("hosts", spin_us=0)
    await serving.start()
    await reactor.start()
    target = NvmfTarget(serving)
    port = await target.listen("127.0.0.1", 0)
    subsystem = Subsystem(SUBNQN, allow_any_host=True)
    for _ in range(3):
        subsystem.add_namespace(_shim.EmulatedMedia.conventional(serving.shim, BLOCKS))
    subsystem.add_host(PROVING, keys)
    subsystem.add_listener("127.0.0.1", port)
    target.add_subsystem(subsystem)
    hosts = {
        "with": await Host.connect(reactor, port, 1, PROVING, keys),
        "without": await Host.connect(reactor, port, 2, PLAIN, None),
        "without, again": await Host.connect(reactor, port, 3, PLAIN, None),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in hosts}
    names = list(hosts)
    for number in range(pairs + 1):
        for name in names[number % 3 :] + names[: number % 3]:
            runs[name].append(await hosts[name].run(seconds, depth))
    for name in ("with", "without, again"):
        for kind, what in enumerate(("second", "second of CPU time")):
            # The first round filled the media.
            ratios = [one[kind] / other[kind] for one, other in zip(runs[name][1:], runs["without"][1:], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            print(f"I/Os per {what}, {name} / without: {median:.3f} (quartiles {low:.3f}, {high:.3f})")
    for host in hosts.values():
        await host.close()
    print(f"a connection without: {await connection_ms(port, PLAIN, None, None, connections):.1f} ms")
    for group in DhGroup:
        policy = Policy(dh_groups=(group,))
        took = await connection_ms(port, PROVING, keys, policy, connections)
        print(f"a connection, both ways, {group.name.lower()}: {took:.1f} ms")
    await target.close()
    await reactor.stop()
    await serving.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--connections", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(bench(arguments.pairs, arguments.seconds, arguments.depth, arguments.connections))
