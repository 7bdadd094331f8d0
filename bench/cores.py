"""How an FTL scales with `cores`: what is measured here, and what a model makes of it (docs/performance.md).

  python bench/cores.py                                    40 seconds; CPUs 0 and 1
  python bench/cores.py --cpus 2,3 --repeats 9 --json c.json
  python bench/cores.py --media memory                     without a base queue: the core's reactor has the drive

Everything is in one process and in memory: a client (load generators, and the hosts' end of NVMe/TCP queues over
loopback), an FTL, and a drive behind an NVMe/TCP queue. Client, front, core and drive are reactor threads. The front
receives PDUs, copies, computes CRCs and answers; the core has L2P, write buffer, batches and the base's queue. `one` is
an FTL whose only reactor does the work of both.

Measured: 1. The CPU time of each thread for one I/O, with all threads pinned on one CPU, so that no thread waits for
another one's cache lines, and none spins. 2. The throughput on two CPUs, with one reactor and with front and core.
Modelled: the throughput on two CPUs (which checks the model), and with n fronts. The model takes the CPU times of 1.
and assumes that all CPUs work at the same time, so that the fullest one limits. It leaves out contention: cache lines
and memory that CPUs share, hyperthreads, wakeups. Clients and drives cost nothing in the model of n fronts.

Run it on a machine with no other work. Exit code 1: an I/O failed, or a block was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from spdk_ftl_py import _shim, outputs
from spdk_ftl_py.bench.cpu import machine
from spdk_ftl_py.bench.progress import progress
from spdk_ftl_py.bench.statistics import Sample, ratios
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.runtime.sockets import keep_off_pacing
from spdk_ftl_py.runtime.waiting import until

KINDS: Final = ("write", "read")
QUEUES: Final = 4
LEASES: Final = 256
ZONE_CAPACITY: Final = 4096
DRIVE_BLOCKS: Final = 128 * ZONE_CAPACITY
"""Enough for what the windows of one FTL write, so that nothing is relocated. (If it is, the script says so.)"""
USED_BLOCKS: Final = 1 << 16
BLOCK: Final = 4096
BASE_DEPTH: Final = 128
MAX_IO_BLOCKS: Final = 32
WARM_S: Final = 0.15
SPIN_US: Final = 20
"""The daemon's."""
LOOPBACK: Final = "127.0.0.1"
FRONTS: Final = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Layout:
    name: str
    cpus: Mapping[str, int]
    """By thread."""
    spin_us: int

    @property
    def crossed(self) -> bool:
        return "front" in self.cpus


@dataclass(frozen=True)
class Window:
    kiops: float
    us: dict[str, float]
    """CPU time for one I/O, by thread."""


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over loopback, as the product's are."""
    ours = socket.socket()
    with socket.socket() as listener:
        for each in (listener, ours):
            keep_off_pacing(each, LOOPBACK)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    for each in (ours, theirs):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
    return ours, theirs


class Queue:
    """An NVMe/TCP I/O queue after Connect; `device` is the host's end."""

    def __init__(
        self, host: ReactorLoop, target: ReactorLoop, device: _shim.BlockDevice, *, depth: int, in_capsule_bytes: int
    ) -> None:
        self._ours, self._theirs = connected()
        io_bytes = MAX_IO_BLOCKS * BLOCK
        self._target = _shim.TargetQpair(
            target.shim,
            self._theirs.fileno(),
            queue_size=depth + 1,
            header_digest=False,
            data_digest=False,
            namespaces={1: device},
            max_io_bytes=io_bytes,
            in_capsule_bytes=in_capsule_bytes,
        )
        self.device = _shim.HostQpair(
            host.shim,
            self._ours.fileno(),
            queue_depth=depth,
            nsid=1,
            header_digest=False,
            data_digest=False,
            max_h2c_data=io_bytes,
            in_capsule_bytes=in_capsule_bytes,
            block_count=device.block_count,
            block_bytes=BLOCK,
            metadata_bytes=0,
            max_io_bytes=io_bytes,
            max_append_bytes=device.max_append_blocks * BLOCK,
            volatile_cache=device.volatile_cache,
            zoned=device.zoned,
            zone_size=device.zone_size,
            zone_capacity=device.zone_capacity,
            max_open_zones=device.max_open_zones,
            max_active_zones=device.max_active_zones,
        )

    async def close(self) -> None:
        """Nothing may be in flight."""
        self.device.close()
        await until(lambda: self._target.drained, timeout_s=10, poll_s=0.001)
        self._target.close()
        self._ours.close()
        self._theirs.close()


class Rig:
    """One FTL at a time, with its client and its drive."""

    def __init__(self, layout: Layout, number: int, depth: int) -> None:
        """number: which of the rigs it is."""
        self.layout = layout
        self.moved_blocks = 0
        """By relocation."""
        self._depth = depth
        self._reactors = {
            name: ReactorLoop(f"{name}-bench{number}", spin_us=layout.spin_us, cpu=cpu)
            for name, cpu in layout.cpus.items()
        }
        self._hosts: list[Queue] = []
        self._loads: list[_shim.LoadGenerator] = []
        self._done = asyncio.Semaphore(0)
        self._media: _shim.EmulatedMedia
        self._base: Queue | None = None
        self._device: FtlDevice
        self._gate: _shim.Gate

    async def start(self) -> None:
        """Writes every block of the drive, so that no window pays for memory that is used for the first time."""
        for reactor in self._reactors.values():
            await reactor.start()
        core = self._reactors["core"]
        drive = self._reactors.get("drive", core)
        self._media = _shim.EmulatedMedia.conventional(drive.shim, DRIVE_BLOCKS, max_io_blocks=MAX_IO_BLOCKS)
        load = _shim.LoadGenerator(drive.shim, self._media, lba_count=DRIVE_BLOCKS, seed=1, verify="none")
        drive.subscribe(load.id, self._on_event)
        load.start("write", pattern="sequential", io_blocks=MAX_IO_BLOCKS, total_blocks=DRIVE_BLOCKS)
        await self._done.acquire()
        load.close()
        if drive is not core:
            self._base = Queue(core, drive, self._media, depth=BASE_DEPTH, in_capsule_bytes=4096)

    async def create(self) -> None:
        """A new FTL on the drive, filled as far as it is used."""
        core, client = self._reactors["core"], self._reactors["client"]
        base = _shim.ZonedOverlay(
            core.shim, self._base.device if self._base else self._media, zone_capacity=ZONE_CAPACITY,
            max_open_zones=14, initial_state="empty",
        )  # fmt: skip
        self._device = await creation.create(core, base, name="bench", conf=FtlConf())
        self._gate = _shim.Gate(core.shim, self._device.core)
        device: _shim.BlockDevice = self._gate
        front = core
        if self.layout.crossed:
            front = self._reactors["front"]
            device = _shim.Crossing(front.shim, core.shim, self._gate, leases=LEASES)
        part = USED_BLOCKS // QUEUES
        for number in range(QUEUES):
            queue = Queue(client, front, device, depth=self._depth, in_capsule_bytes=8192)
            self._hosts.append(queue)
            load = _shim.LoadGenerator(
                client.shim, queue.device, first_lba=number * part, lba_count=part, seed=number + 1, verify="whole"
            )
            client.subscribe(load.id, self._on_event)
            self._loads.append(load)
        for load in self._loads:
            load.start("write", pattern="sequential", io_blocks=MAX_IO_BLOCKS, queue_depth=4, total_blocks=part)
        await self._ended()
        # Out of the write buffer.
        await self._device.flush_base()

    def _on_event(self, event: _shim.Event) -> None:
        if event.kind == _shim.EventKind.LOAD_DONE:
            self._done.release()

    async def _ended(self) -> None:
        for _ in self._loads:
            await self._done.acquire()
        for load in self._loads:
            found = load.progress().as_dict()
            if found["io_errors"] or found["verify_errors"]:
                raise FtlError(f"{found['io_errors']} I/Os failed, and {found['verify_errors']} blocks were wrong")

    def _ios(self) -> int:
        return sum(int(str(load.progress().as_dict()["done_ios"])) for load in self._loads)

    async def window(self, kind: str, seconds: float) -> Window:
        threads = thread_files(self._reactors)
        for load in self._loads:
            load.start(kind=kind, queue_depth=self._depth, time_limit_s=seconds + 2 * WARM_S)  # type: ignore[arg-type]
        await asyncio.sleep(WARM_S)
        ios, began, before = self._ios(), time.monotonic(), {name: cpu_ns(path) for name, path in threads.items()}
        await asyncio.sleep(seconds)
        ios, took = self._ios() - ios, time.monotonic() - began
        us = {name: (cpu_ns(path) - before[name]) / ios / 1e3 for name, path in threads.items()}
        await self._ended()
        return Window(ios / took / 1e3, us)

    async def delete(self) -> None:
        for load in self._loads:
            load.close()
        for queue in self._hosts:
            await queue.close()
        self._hosts, self._loads = [], []
        self.moved_blocks += self._device.core.stats().reloc_moved_blocks
        await self._device.halt()
        self._gate.fail(0x370)

    async def stop(self) -> None:
        if self._base is not None:
            await self._base.close()
        for reactor in self._reactors.values():
            await reactor.stop()


def thread_files(reactors: Mapping[str, ReactorLoop]) -> dict[str, Path]:
    names = {reactor.name[:15]: name for name, reactor in reactors.items()}
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if (name := names.get((task / "comm").read_text().strip())) is not None:
            found[name] = task / "schedstat"
    return found


def cpu_ns(path: Path) -> int:
    return int(path.read_text().split()[0])


# --- the model


def on_cpus(us: Mapping[str, float], layout: Layout) -> tuple[float, float]:
    """kIOPS if the CPUs work at the same time, so that the fullest one limits, and if they work by turns."""
    load: dict[int, float] = {}
    for name, cpu in layout.cpus.items():
        load[cpu] = load.get(cpu, 0.0) + us[name]
    return 1e3 / max(load.values()), 1e3 / sum(load.values())


@dataclass(frozen=True)
class Scaled:
    kind: str
    fronts: int
    kiops: float
    limit: str
    even_kiops: float
    """With hosts' queues spread evenly over the core's reactor and the fronts, as the daemon does, and as much I/O on
    each."""


def scaled(kind: str, one_us: float, front_us: float, core_us: float, fronts: int, base_kiops: float) -> Scaled:
    limits = {"fronts": fronts * 1e3 / front_us, "core": 1e3 / core_us, "base": base_kiops}
    limit = min(limits, key=lambda name: limits[name])
    share = 1 / (fronts + 1)
    even = min(1e3 / (share * one_us + (1 - share) * core_us), 1e3 / (share * front_us), base_kiops)
    return Scaled(kind, fronts, limits[limit], limit, even)


# --- the script


def layouts(cpus: Sequence[int], *, drive: bool, apart: bool) -> list[Layout]:
    """drive: there is a drive's thread. apart: it is on the client's CPU if there is no front."""
    first, second = cpus
    more = {"drive": second} if drive else {}
    beside = {"drive": first} if drive else {}
    return [
        Layout("costs/one", {"client": second, "core": second, **more}, 0),
        Layout("costs/crossed", {"client": second, "front": second, "core": second, **more}, 0),
        # Only the front's work moves.
        Layout("check/one", {"client": first, "core": second, **(beside if apart else more)}, SPIN_US),
        Layout("check/crossed", {"client": first, "front": first, "core": second, **more}, SPIN_US),
    ]


async def measure(args: argparse.Namespace, tried: Sequence[Layout]) -> dict[tuple[str, str], list[Window]]:
    found: dict[tuple[str, str], list[Window]] = {}
    rigs = [Rig(layout, number, args.depth) for number, layout in enumerate(tried)]
    with progress(Console(stderr=True), (args.repeats + 1) * len(tried)) as tell:
        for rig in rigs:
            await rig.start()
            tell("drives", 1)
        for repeat in range(args.repeats):
            # By turns, and none is always the first.
            for rig in (*rigs[repeat % len(rigs) :], *rigs[: repeat % len(rigs)]):
                await rig.create()
                for kind in KINDS:
                    found.setdefault((rig.layout.name, kind), []).append(await rig.window(kind, args.seconds))
                await rig.delete()
                tell(rig.layout.name, 1)
    for rig in rigs:
        if rig.moved_blocks:
            told = f"{rig.layout.name}: {rig.moved_blocks} blocks were relocated: give fewer --seconds"
            print(f"bench/cores.py: {told}", file=sys.stderr)
        await rig.stop()
    return found


@dataclass(frozen=True)
class Cost:
    kind: str
    layout: str
    thread: str
    us: Sample


@dataclass(frozen=True)
class Check:
    """Throughput in kIOPS, or a ratio of two (then there are no CPUs)."""

    kind: str
    layout: str
    cpus: dict[str, int]
    measured: Sample
    predicted: float
    by_turns: float


@dataclass(frozen=True)
class Results:
    costs: list[Cost]
    checks: list[Check]
    model: list[Scaled]


def results(found: Mapping[tuple[str, str], Sequence[Window]], tried: Sequence[Layout], base_kiops: float) -> Results:
    told = Results([], [], [])
    for kind in KINDS:
        us: dict[str, dict[str, Sample]] = {}
        for which in ("one", "crossed"):
            windows = found[f"costs/{which}", kind]
            us[which] = {name: Sample.of([each.us[name] for each in windows]) for name in windows[0].us}
            told.costs.extend(Cost(kind, which, name, sample) for name, sample in us[which].items())
        pairs = zip(found["costs/crossed", kind], found["costs/one", kind], strict=True)
        crossing = Sample.of([each.us["front"] + each.us["core"] - other.us["core"] for each, other in pairs])
        told.costs.append(Cost(kind, "crossed - one", "front + core", crossing))
        checks: list[Check] = []
        for layout in tried:
            group, _, which = layout.name.partition("/")
            if group == "check":
                predicted, turns = on_cpus({name: sample.median for name, sample in us[which].items()}, layout)
                kiops = Sample.of([each.kiops for each in found[layout.name, kind]])
                checks.append(Check(kind, which, dict(layout.cpus), kiops, predicted, turns))
        one, crossed = checks
        measured = ratios(*([each.kiops for each in found[f"check/{name}", kind]] for name in ("crossed", "one")))
        ratio = crossed.predicted / one.predicted, crossed.by_turns / one.by_turns
        told.checks.extend((one, crossed, Check(kind, "crossed / one", {}, measured, *ratio)))
        times = us["one"]["core"].median, us["crossed"]["front"].median, us["crossed"]["core"].median
        alone = min(1e3 / times[0], base_kiops)
        told.model.append(Scaled(kind, 0, alone, "one reactor", alone))
        told.model.extend(scaled(kind, *times, fronts, base_kiops) for fronts in FRONTS)
    return told


def show(values: Results) -> None:
    print("Measured: us of CPU time for one I/O, all threads on one CPU\n")
    print("| I/O | FTL | thread | us | ± |\n|---|---|---|---:|---:|")
    for cost in values.costs:
        spread = (cost.us.high - cost.us.low) / 2
        print(f"| {cost.kind} | {cost.layout} | {cost.thread} | {cost.us.median:.2f} | {spread:.2f} |")
    print("\nMeasured on two CPUs, and predicted from the table above: kIOPS\n")
    print("| I/O | FTL | threads by CPU | measured | ± | predicted | measured / predicted | if CPUs work by turns |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for check in values.checks:
        by_cpu = {cpu: [name for name, at in check.cpus.items() if at == cpu] for cpu in check.cpus.values()}
        where = "; ".join(f"{cpu}: {', '.join(names)}" for cpu, names in sorted(by_cpu.items()))
        digits = 0 if check.cpus else 2
        print(
            f"| {check.kind} | {check.layout} | {where} | {check.measured.median:.{digits}f} | "
            f"{100 * check.measured.spread:.0f}% | {check.predicted:.{digits}f} | "
            f"{check.measured.median / check.predicted:.2f} | {check.by_turns:.{digits}f} |"
        )
    print("\nModelled, without contention: kIOPS\n")
    print("| I/O | fronts | kIOPS | limit | queues on the core's reactor, too |\n|---|---:|---:|---|---:|")
    for each in values.model:
        print(f"| {each.kind} | {each.fronts} | {each.kiops:.0f} | {each.limit} | {each.even_kiops:.0f} |")


def plain(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if value == float("inf") else value


def two_cpus(given: str) -> list[int]:
    cpus = [int(each) for each in given.split(",")]
    if len(set(cpus)) != 2 or not set(cpus) <= os.sched_getaffinity(0):
        raise argparse.ArgumentTypeError(f"{given}: give two CPUs on which this process may run, like 0,1")
    return cpus


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each window (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each window (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=32, help=f"I/Os on each of {QUEUES} queues (default: %(default)s)")
    parser.add_argument("--cpus", type=two_cpus, default="0,1", help="the two CPUs to use (default: %(default)s)")
    parser.add_argument(
        "--media",
        choices=("tcp", "memory"),
        default="tcp",
        help="how the core reaches its drive (default: %(default)s)",
    )
    parser.add_argument(
        "--drive-apart", action="store_true", help="measure one reactor with the drive on the client's CPU"
    )
    parser.add_argument(
        "--base-kiops", type=float, default=float("inf"), help="what the base can do, for the model (default: any)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    args = parser.parse_args()
    outputs.check(args.json)
    if min(args.seconds, args.repeats, args.depth, args.base_kiops) <= 0 or args.depth > BASE_DEPTH:
        parser.error(f"--seconds, --repeats, --depth and --base-kiops are above 0, and --depth is at most {BASE_DEPTH}")
    tried = layouts(args.cpus, drive=args.media == "tcp", apart=args.drive_apart)
    try:
        found = asyncio.run(measure(args, tried))
    except FtlError as error:
        print(f"bench/cores.py: {error.message}", file=sys.stderr)
        return 1
    values = results(found, tried, args.base_kiops)
    show(values)
    if args.json:
        told = {"machine": machine(), "options": vars(args), **dataclasses.asdict(values)}
        Path(args.json).write_text(json.dumps(plain(told), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
