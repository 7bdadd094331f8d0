"""Random 4 KiB writes with and without an nv cache, in one run: an FTL here, its drives in an embedded target over
NVMe/TCP.

    python bench/nv_cache.py [--seconds 3] [--depths 1,32,128]

The load is put on the FTL directly, without a host's connection: a write costs what the FTL and the way to its drives
cost. The drives are memory, so what shows is the second command of each write, not the speed of a cache device.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.daemon.base import BaseLink, DaemonIdentity
from spdk_ftl_py.daemon.requests import FtlOptions
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended
from spdk_ftl_py.spdk.rpc import TargetRpc

ZNS = "name={},zones=128,zone_size=16M,capacity=12M,max_open=14"
CACHE = "name={},size=256M{}"
KINDS = {"none": None, "vss": ",md_size=8", "non-vss": ""}
NQN = "nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-0000000000be"


async def measure(socket: Path, kind: str, depths: list[int], seconds: float) -> list[tuple[int, float, float, float]]:
    """(depth, kIOPS, p50 and p99 in us)."""
    uuid = uuid4()
    cache_bdev = None if KINDS[kind] is None else f"C-{kind}"
    options = FtlOptions(name=kind, target=str(socket), base_bdev=f"Z-{kind}", cache=cache_bdev)
    link = BaseLink(TargetRpc(str(socket)), lambda: options, uuid, DaemonIdentity(NQN, uuid, "127.0.0.1"))
    reactor = ReactorLoop(kind)
    await reactor.start()
    try:
        await link.claim()
        base, cache = await link.connect(reactor), await link.connect_cache(reactor)
        ftl = await creation.create(reactor, base, name=kind, conf=FtlConf(), uuid=uuid, cache=cache)
        load = _shim.LoadGenerator(reactor.shim, ftl.core, lba_count=ftl.block_count, seed=1)
        done = asyncio.Event()
        reactor.subscribe(load.id, lambda event: done.set() if load_ended(event, load) else None)
        rows = []
        for depth in depths:
            done.clear()
            load.start("write", queue_depth=depth, time_limit_s=seconds)
            await done.wait()
            progress: dict[str, Any] = load.progress().as_dict()
            assert progress["io_errors"] == 0, progress
            latency = progress["latency_ns"]
            rate = progress["done_ios"] / progress["elapsed_ns"] * 1e6
            rows.append((depth, rate, latency["p50"] / 1e3, latency["p99"] / 1e3))
        load.close()
        await ftl.halt()
        return rows
    finally:
        await link.disconnect()
        await link.unclaim()
        await reactor.stop()


async def run(socket: Path, depths: list[int], seconds: float, rounds: int) -> None:
    await TargetRpc(str(socket)).call("nvmf_create_transport", {"trtype": "TCP"})
    best: dict[tuple[str, int], tuple[float, float, float]] = {}
    for _ in range(rounds):
        for kind in KINDS:
            for depth, *values in await measure(socket, kind, depths, seconds):
                rate, p50, p99 = values
                best[kind, depth] = max(best.get((kind, depth), (0.0, 0.0, 0.0)), (rate, p50, p99))
    print("| nv cache | queue depth | kIOPS | p50 us | p99 us |\n|---|---|---|---|---|")
    for (kind, depth), (rate, p50, p99) in best.items():
        print(f"| {kind} | {depth} | {rate:.1f} | {p50:.0f} | {p99:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--depths", default="1,32,128")
    parser.add_argument("--rounds", type=int, default=2, help="of all kinds, one after the other; the best counts")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "target.sock"
        drives = [f"--zns={ZNS.format(f'Z-{kind}')}" for kind in KINDS]
        drives += [f"--malloc={CACHE.format(f'C-{kind}', more)}" for kind, more in KINDS.items() if more is not None]
        command = [sys.executable, "-m", "spdk_ftl_py.cli", "target", "-r", str(socket), *drives]
        target = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert target.stdout is not None
            while "listening on" not in (line := target.stdout.readline()):
                assert line, "the target did not start"
            depths = [int(depth) for depth in args.depths.split(",")]
            asyncio.run(run(socket, depths, args.seconds, args.rounds))
        finally:
            target.terminate()
            target.communicate()


if __name__ == "__main__":
    main()
