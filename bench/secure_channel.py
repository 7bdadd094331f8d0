"""What TLS and digests cost: I/O queues in the clear, with digests and by TLS, to one target in this process, in turns.

    python bench/secure_channel.py [--seconds 1] [--rounds 5] [--modes plain,digests,tls256,tls384]

Machines are busy with other things, so each round has every mode once, and medians are printed: kIOPS, CPU time of all
threads for each I/O (both ends, and the kernel's part of loopback), and what both are of the first mode's.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import ReactorLoop

NQN = "nqn.2026-11.io.example:bench"
HOSTNQN = "nqn.2026-11.io.example:host-"
BLOCKS = 1 << 18
LOADS: dict[str, dict[str, Any]] = {
    "write 4 KiB QD32": {"kind": "write", "queue_depth": 32},
    "read 4 KiB QD32": {"kind": "read", "queue_depth": 32},
    "write 128 KiB QD16": {"kind": "write", "queue_depth": 16, "io_blocks": 32, "pattern": "sequential"},
    "read 128 KiB QD16": {"kind": "read", "queue_depth": 16, "io_blocks": 32, "pattern": "sequential"},
}


async def measure(reactor: ReactorLoop, device: _shim.BlockDevice, seconds: float, **how: Any) -> tuple[float, float]:
    """(kIOPS, CPU µs for each I/O)."""
    generator = _shim.LoadGenerator(reactor.shim, device, lba_count=BLOCKS, seed=1)
    done = asyncio.Event()
    reactor.subscribe(generator.id, lambda event: done.set() if event.kind == _shim.EventKind.LOAD_DONE else None)
    before = cpu_s()
    generator.start(time_limit_s=seconds, **how)
    await done.wait()
    progress = generator.progress().as_dict()
    spent = cpu_s() - before
    reactor.unsubscribe(generator.id)
    generator.close()
    ios = int(progress["done_ios"])
    return ios / int(progress["elapsed_ns"]) * 1e6, spent / max(ios, 1) * 1e6


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def options_of(mode: str, subsystem: Subsystem) -> dict[str, Any]:
    """Of Controller.connect()."""
    if not mode.startswith("tls"):
        return {"header_digest": mode == "digests", "data_digest": mode == "digests"}
    from spdk_ftl_py.nvme.auth.messages import HashId
    from spdk_ftl_py.nvme.auth.psk import HeldPsk, Psk

    psk = HeldPsk(Psk.generate(HashId.SHA384 if mode == "tls384" else HashId.SHA256))
    subsystem.add_host(HOSTNQN + mode, psk=psk)
    return {"psk": psk}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", default="plain,digests,tls256,tls384")
    args = parser.parse_args()
    modes = args.modes.split(",")
    async with ReactorLoop("target") as target_reactor, ReactorLoop("host") as host_reactor:
        target = NvmfTarget(target_reactor)
        port = await target.listen("127.0.0.1", 0)
        subsystem = Subsystem(NQN, allow_any_host=True)
        subsystem.add_namespace(_shim.EmulatedMedia.null(target_reactor.shim, BLOCKS))
        subsystem.add_listener("127.0.0.1", port)
        target.add_subsystem(subsystem)
        controllers, qpairs = [], {}
        for mode in modes:
            options = options_of(mode, subsystem)
            controller = await Controller.connect("127.0.0.1", port, NQN, hostnqn=HOSTNQN + mode, **options)
            [namespace] = await controller.namespaces()
            qpairs[mode] = await controller.create_io_qpair(host_reactor, namespace)
            controllers.append(controller)
        print(f"{'':22}{'mode':>10}{'kIOPS':>10}{'ratio':>8}{'CPU us':>10}{'ratio':>8}")
        for load, how in LOADS.items():
            measured: dict[str, list[tuple[float, float]]] = {mode: [] for mode in modes}
            for _ in range(args.rounds):
                for mode in modes:
                    measured[mode].append(await measure(host_reactor, qpairs[mode], args.seconds, **how))
            medians = {
                mode: [statistics.median(column) for column in zip(*measured[mode], strict=True)] for mode in modes
            }
            first = medians[modes[0]]
            for mode, (kiops, cpu_us) in medians.items():
                ratios = kiops / first[0], cpu_us / first[1]
                print(f"{load:22}{mode:>10}{kiops:10.1f}{ratios[0]:8.2f}{cpu_us:10.2f}{ratios[1]:8.2f}", flush=True)
        for controller in controllers:
            await controller.close()
        await target.close()


if __name__ == "__main__":
    asyncio.run(main())
