"""The goals of vfio-user: an FTL with shared memory at both hops, its client and base in one process.

target core: the embedded target. It has the base, attaches `ftl0`, and runs the load (RPC ftltgt_bench_bdev). daemon
core: the daemon, and a second embedded target with the raw bdevs. The first one attaches these as well, one by NVMe/TCP
and one by vfio-user. So the same client, on the same core, reaches all three, and each is on the other core."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spdk.rpc.client import JSONRPCException

from ..client import DaemonClient
from ..errors import FtlError
from ..under_test.programs import Daemon, EmbeddedTarget
from .bed import BASE, BLOCK_BYTES, BLOCKS_MIB, FTL, Options, zns_drive
from .cpu import cpu_ns, pinned
from .measured import Timing
from .plan import SHARED_GOALS, Section
from .rows import Row, row
from .statistics import Sample, ratios
from .workloads import WORKLOADS, Workload

SECONDS: Final = 1
"""The shortest window of ftltgt_bench_bdev."""
SECONDS_MAX: Final = 60
"""Within which a range must have been written once."""
BASE_FACTOR: Final = 2
"""Windows are longer than those of the other beds, and nothing may be relocated."""
PART: Final = 8
"""The part of the base, and of the raw bdevs as much, that is used: an eighth."""
RAW: Final = {"tcp": "nqn.2026-11.io.spdk-ftl:bench-tcp", "vfio-user": "nqn.2026-11.io.spdk-ftl:bench-vfio-user"}
"""The raw bdevs by transport, and their subsystems."""
VFIO_USER: Final = {"trtype": "VFIOUSER", "trsvcid": "0"}


@dataclass(frozen=True)
class Plan:
    """raw: the transport of the raw bdev that the workload is compared with. None: the value itself is judged."""

    metric: str
    raw: str | None
    value: Callable[[dict[str, Any]], float]


def _mean(result: dict[str, Any]) -> float:
    return float(result["latency_us"]["mean"])


PLANS: Final = {
    "read-qd1": Plan("latency_to_raw_tcp", "tcp", _mean),
    "write-qd1": Plan("latency_to_raw_tcp", "tcp", _mean),
    "seq-write": Plan("mib_s_to_raw_vfio_user", "vfio-user", lambda result: float(result["mib_s"])),
    "write-qd128": Plan("cpu_us_daemon", None, lambda result: float(result["cpu_us_daemon"])),
}


@dataclass
class Found:
    """raw[i] and ftl[i] are neighbours."""

    workload: Workload
    raw: list[float] = field(default_factory=list)
    ftl: list[float] = field(default_factory=list)
    moved_blocks: int = 0
    """By relocation: none are expected."""


class SharedBed:
    """Started when constructed; runs until close()."""

    def __init__(self, folder: Path, options: Options) -> None:
        """folder: its path must be short. Raises ProgramError or FtlError; nothing runs then."""
        self._stack = contextlib.ExitStack()
        self._blocks = BASE_FACTOR * options.base_mib * BLOCKS_MIB // PART
        try:
            other = folder / "raw"
            other.mkdir()
            drive = zns_drive(BASE_FACTOR * options.base_mib)
            with pinned(options.target_core):
                self.target = self._stack.enter_context(EmbeddedTarget(folder, "--zns", drive))
            with pinned(options.other_core):
                self.raw = self._stack.enter_context(EmbeddedTarget(other))
                self.daemon = self._stack.enter_context(Daemon(folder, "--transport", "vfio-user"))
            self.target.call("nvmf_create_transport", trtype="TCP")
            self._attach_raw(other)
            self._stack.callback(self._clean)
            # Once, every block of the base: no window pays for memory that is used for the first time.
            self._fill(FTL, self.renew(), BASE_FACTOR * options.base_mib * BLOCKS_MIB)
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._stack.close()

    def __enter__(self) -> SharedBed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attach_raw(self, folder: Path) -> None:
        for transport, nqn in RAW.items():
            shared = transport == "vfio-user"
            self.raw.call("nvmf_create_transport", trtype="VFIOUSER" if shared else "TCP")
            self.raw.call(
                "bdev_malloc_create", name=f"Raw-{transport}", num_blocks=self._blocks, block_size=BLOCK_BYTES
            )
            if shared:
                self.raw.call("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
                self.raw.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": f"Raw-{transport}"})
                address = {**VFIO_USER, "traddr": str(folder)}
                self.raw.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
            else:
                port = self.raw.export(f"Raw-{transport}", nqn)
                address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
            self.target.call("bdev_nvme_attach_controller", name=transport, subnqn=nqn, **address)
            self._fill(raw_bdev(transport), self._blocks)

    def renew(self) -> int:
        """A new FTL. Returns the number of its blocks. Raises FtlError if a hop is not shared."""
        self._delete()
        client = DaemonClient(self.daemon.socket)
        client.call(
            "bdev_ftl_create",
            {"name": FTL, "base_bdev": BASE, "target": self.target.socket, "force": True, "transport": "vfio-user"},
        )
        (device,) = client.call("ftl_get_devices")
        check_shared(device, self.target.call("nvmf_get_subsystems"))
        return int(device["num_blocks"])

    def _delete(self) -> None:
        client = DaemonClient(self.daemon.socket)
        if client.call("ftl_get_devices"):
            client.call("bdev_ftl_delete", {"name": FTL})

    def _clean(self) -> None:
        """The daemon keeps a directory in /dev/shm for an FTL. One that has already ended can't be asked."""
        with contextlib.suppress(FtlError):
            self._delete()

    def renew_filled(self) -> None:
        """A new FTL whose part that is used is written."""
        self.renew()
        self._fill(FTL, self._blocks)

    def _fill(self, bdev: str, blocks: int, total: int = 0) -> None:
        """Each run writes the range from its beginning, so one of them has to be long enough for all of it. total:
        what is to be written, if that is more."""
        wanted = max(blocks, total)
        seconds = SECONDS
        while seconds <= SECONDS_MAX:
            done = self._run(bdev, WORKLOADS["seq-write"], seconds, blocks)["blocks"]
            if done >= wanted:
                return
            seconds = longer(seconds, done, wanted)
        raise FtlError(f"{bdev}: {wanted} blocks can't be written within {SECONDS_MAX} s")

    def run(self, bdev: str, workload: Workload, seconds: int) -> dict[str, Any]:
        """As ftltgt_bench_bdev answers, with cpu_us_daemon: the CPU time of the daemon for each I/O."""
        before = cpu_ns(self.daemon.process.pid)
        result = self._run(bdev, workload, seconds, self._blocks)
        after = cpu_ns(self.daemon.process.pid)
        if before is None or after is None:
            raise FtlError(f"the daemon's CPU time is unknown:\n{self.daemon.log_tail()}")
        return {**result, "cpu_us_daemon": (after - before) / 1e3 / result["ios"]}

    def _run(self, bdev: str, workload: Workload, seconds: int, blocks: int) -> dict[str, Any]:
        given = parameters(bdev, workload, seconds, blocks)
        try:
            result: dict[str, Any] = self.target.call("ftltgt_bench_bdev", **given)
        except JSONRPCException as error:
            raise FtlError(f"{workload.name} on {bdev}: {error}") from error
        errors = result["io_errors"] + result["verify_errors"]
        if errors or not result["ios"]:
            raise FtlError(f"{workload.name} on {bdev}: {result['ios']} I/Os, {errors} errors")
        return result

    def moved_blocks(self) -> int:
        """By relocation, since the FTL was created."""
        return int(DaemonClient(self.daemon.socket).call("bdev_ftl_get_stats", {"name": FTL})["gc_moved_blocks"])


def longer(seconds: int, done: int, wanted: int) -> int:
    """How long to try next, after so many blocks within these seconds. Always longer than before."""
    return max(seconds + 1, math.ceil(1.25 * seconds * wanted / done))


def raw_bdev(transport: str) -> str:
    """Of the controller that is attached by it."""
    return f"{transport}n1"


def parameters(bdev: str, workload: Workload, seconds: int, blocks: int) -> dict[str, Any]:
    """Of ftltgt_bench_bdev. blocks: the range, from the first block on. Reads accept only what was written there."""
    run = workload.run()
    return {
        "name": bdev, "rw": run["kind"], "pattern": run["pattern"], "io_size": run["io_blocks"] * BLOCK_BYTES,
        "queue_depth": run["queue_depth"], "seconds": seconds, "num_blocks": blocks,
        "verify": run["kind"] == "read",
    }  # fmt: skip


def check_shared(device: dict[str, Any], subsystems: list[dict[str, Any]]) -> None:
    """device: of ftl_get_devices. subsystems: of the target. Raises FtlError unless both hops are by vfio-user."""
    if device["transport"] != "vfio-user" or not device["attached"]:
        raise FtlError(f"{FTL} is not attached by vfio-user, but by {device['transport']}")
    listening = {each["trtype"] for subsystem in subsystems for each in subsystem["listen_addresses"]}
    if listening != {"VFIOUSER"}:
        raise FtlError(f"the base of {FTL} is served by {', '.join(sorted(listening)) or 'nothing'}, not by vfio-user")


def measure_shared(bed: SharedBed, section: Section, timing: Timing, tell: Callable[[str], None]) -> list[Found]:
    """By turns, as other workloads, but a window is of whole seconds, and each of writes begins with a new FTL."""
    seconds = max(SECONDS, int(timing.seconds))
    found = []
    for workload in section.workloads:
        plan = PLANS[workload.name]
        each = Found(workload)
        found.append(each)
        if not workload.writes:
            bed.renew_filled()
        for repeat in range(timing.repeats):
            tell(f"{section.name}/{workload.name}")
            for side in ("raw", "ftl") if repeat % 2 == 0 else ("ftl", "raw"):
                if side == "ftl":
                    if workload.writes:
                        bed.renew()
                    before = bed.moved_blocks()
                    each.ftl.append(plan.value(bed.run(FTL, workload, seconds)))
                    each.moved_blocks += bed.moved_blocks() - before
                elif plan.raw is not None:
                    each.raw.append(plan.value(bed.run(raw_bdev(plan.raw), workload, seconds)))
    return found


def shared_rows(prefix: str, found: list[Found]) -> Iterator[Row]:
    """The goals of vfio-user."""
    for each in found:
        name, plan = each.workload.name, PLANS[each.workload.name]
        goal = SHARED_GOALS[name, plan.metric]
        raw = Sample.of(each.raw) if each.raw else None
        ratio = ratios(each.ftl, each.raw) if each.raw else None
        why = f"relocation moved {each.moved_blocks} blocks meanwhile" if each.moved_blocks else None
        yield row(f"{prefix}/fresh/{name}", plan.metric, raw, Sample.of(each.ftl), ratio, goal, why=why)
