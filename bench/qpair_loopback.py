"""The I/O queues alone: LoadGenerator, HostQpair, loopback TCP, TargetQpair, null media; a reactor thread each side.

    python bench/qpair_loopback.py [--seconds 2] [--digests] [--depths 1,32,128]

With --serve it only listens, for spdk_nvme_perf and the like; prints the port.
"""

from __future__ import annotations

import argparse
import asyncio

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import ReactorLoop

NQN = "nqn.2026-11.io.example:bench"
HOSTNQN = "nqn.2026-11.io.example:bench-host"
BLOCKS = 1 << 18


async def measure(reactor: ReactorLoop, device: _shim.BlockDevice, seconds: float, **how: object) -> dict[str, object]:
    generator = _shim.LoadGenerator(reactor.shim, device, lba_count=BLOCKS, seed=1)
    done = asyncio.Event()
    reactor.subscribe(generator.id, lambda event: done.set() if event.kind == _shim.EventKind.LOAD_DONE else None)
    generator.start(time_limit_s=seconds, **how)  # type: ignore[arg-type]
    await done.wait()
    progress = generator.progress().as_dict()
    reactor.unsubscribe(generator.id)
    generator.close()
    return progress


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--depths", default="1,32,128")
    parser.add_argument("--digests", action="store_true")
    parser.add_argument("--serve", type=float, default=0.0, help="listen for so many seconds, do nothing else")
    parser.add_argument("--media", choices=["null", "memory"], default="null")
    args = parser.parse_args()

    target_reactor, host_reactor = ReactorLoop("target"), ReactorLoop("host")
    await target_reactor.start()
    await host_reactor.start()
    make = _shim.EmulatedMedia.null if args.media == "null" else _shim.EmulatedMedia.conventional
    media = make(target_reactor.shim, BLOCKS)
    target = NvmfTarget(target_reactor)
    port = await target.listen("127.0.0.1", 0)
    subsystem = Subsystem(NQN, allow_any_host=True)
    subsystem.add_namespace(media)
    subsystem.add_listener("127.0.0.1", port)
    target.add_subsystem(subsystem)
    try:
        if args.serve:
            print(port, NQN, flush=True)
            await asyncio.sleep(args.serve)
            return
        controller = await Controller.connect(
            "127.0.0.1", port, NQN, hostnqn=HOSTNQN, header_digest=args.digests, data_digest=args.digests
        )
        [namespace] = await controller.namespaces()
        qpair = await controller.create_io_qpair(host_reactor, namespace)
        print(f"{'':24}{'kIOPS':>10}{'MiB/s':>10}{'p50 us':>10}{'p99 us':>10}")
        for kind in ("write", "read"):
            for depth in [int(depth) for depth in args.depths.split(",")]:
                report(await measure(host_reactor, qpair, args.seconds, kind=kind, queue_depth=depth), kind, depth, 1)
            how = {"kind": kind, "queue_depth": 16, "io_blocks": 32, "pattern": "sequential"}
            report(await measure(host_reactor, qpair, args.seconds, **how), kind, 16, 32)
        await controller.close()
    finally:
        await target.close()
        await host_reactor.stop()
        await target_reactor.stop()


def report(progress: dict[str, object], kind: str, depth: int, io_blocks: int) -> None:
    seconds = int(str(progress["elapsed_ns"])) / 1e9
    ios, blocks = int(str(progress["done_ios"])), int(str(progress["done_blocks"]))
    latency = progress["latency_ns"]
    assert isinstance(latency, dict)
    print(
        f"{kind} {io_blocks * 4} KiB QD{depth}".ljust(24) + f"{ios / seconds / 1e3:10.1f}{blocks / 256 / seconds:10.0f}"
        f"{latency['p50'] / 1e3:10.1f}{latency['p99'] / 1e3:10.1f}"
    )


if __name__ == "__main__":
    asyncio.run(main())
