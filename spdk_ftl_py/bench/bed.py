"""The processes that bench/run.py measures: a target with a raw bdev and a base, and a daemon with an FTL on the base.

The target runs on the target core. Daemon and client share the other core, so each of them costs the other CPU time."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..client import DaemonClient
from ..errors import FtlError
from ..under_test.programs import Daemon, EmbeddedTarget, TargetClient
from ..under_test.spdk_tgt import MEMORY_MIB, SpdkTarget
from .client import Address, Client, Window
from .cpu import pinned
from .measured import Timing
from .perf import Perf
from .workloads import Workload

RAW: Final = "Raw0"
BASE: Final = "Base0"
CACHE: Final = "Cache0"
FTL: Final = "ftl0"
RAW_NQN: Final = "nqn.2026-11.io.spdk-ftl:bench-raw"
BLOCK_BYTES: Final = 4096
ZONE_BLOCKS: Final = 1024
BLOCKS_MIB: Final = 256
BUDGET: Final = 0.85
"""The part of the base that can be written before relocation begins (limit_start_threshold)."""
POLL_S: Final = 0.02


@dataclass(frozen=True)
class Variant:
    """How FTL and connections differ from the plain variant."""

    name: str = ""
    cache: bool = False
    digests: bool = False
    create: dict[str, Any] = field(default_factory=dict)
    """Further parameters of bdev_ftl_create."""


VARIANTS: Final = {
    variant.name: variant
    for variant in (
        Variant(),
        Variant("cache", cache=True),
        Variant("digests", digests=True),
        Variant("no-verify", create={"conf": {"verify_reads": False}}),
    )
}


@dataclass(frozen=True)
class Options:
    program: str | None
    """Path of an spdk_tgt; None: the embedded target."""
    base_mib: int = 2048
    target_core: int | None = 0
    other_core: int | None = 1
    client_core: int | None = 1
    perf: str | None = None
    """Path of spdk_nvme_perf, for the windows; None: our client."""
    target_arguments: tuple[str, ...] = ()
    daemon_arguments: tuple[str, ...] = ()
    create: dict[str, Any] = field(default_factory=dict)

    @property
    def target_name(self) -> str:
        return "embedded" if self.program is None else "spdk_tgt"


class Bed:
    """Started when constructed; runs until close()."""

    def __init__(self, folder: Path, options: Options) -> None:
        """Raises ProgramError, SpdkTargetError or FtlError; nothing runs then."""
        self.options = options
        self._stack = contextlib.ExitStack()
        self._variant = Variant()
        self._written = 0
        self._qpairs = 1
        self.touched = False
        """Whether every block of the bdevs has been written."""
        try:
            with pinned(options.target_core):
                self.target = self._stack.enter_context(_start_target(folder, options))
            self.target.call("nvmf_create_transport", trtype="TCP")
            self._create_bdevs()
            port = self.target.export(RAW, RAW_NQN)
            self.raw = Address("127.0.0.1", str(port), RAW_NQN)
            with pinned(options.other_core):
                self.daemon = self._stack.enter_context(Daemon(folder, *options.daemon_arguments))
            self.client = self._stack.enter_context(Client(folder, options.client_core))
            self.perf = Perf(options.perf, folder, options.client_core) if options.perf else None
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._stack.close()

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> dict[str, int]:
        """Pids of the processes whose CPU time counts, by name."""
        return {"target": _pid(self.target), "daemon": self.daemon.process.pid}

    def _create_bdevs(self) -> None:
        blocks = self.options.base_mib * BLOCKS_MIB
        self.target.call("bdev_malloc_create", name=RAW, num_blocks=blocks, block_size=BLOCK_BYTES)
        if self.options.program is not None:
            self.target.call("bdev_malloc_create", name=BASE, num_blocks=blocks, block_size=BLOCK_BYTES)
        self.target.call("bdev_malloc_create", name=CACHE, num_blocks=blocks // 8, block_size=BLOCK_BYTES)

    # --- the FTL

    def create(self, variant: Variant) -> None:
        """Creates a new, empty FTL. Connects the client to it as "ftl", and to the raw bdev as "raw"."""
        self._delete()
        params: dict[str, Any] = {
            "name": FTL, "base_bdev": BASE, "target": self.target.socket, "force": True, "no_attach": True,
            "allow_any_host": True, **self.options.create, **variant.create,
        }  # fmt: skip
        if self.options.program is not None:
            params.setdefault("zone_capacity", ZONE_BLOCKS)
        if variant.cache:
            params["cache"] = CACHE
        self.daemon_client.call("bdev_ftl_create", params)
        self._variant = variant
        self._written = 0
        self._connect()

    def _connect(self) -> None:
        for side, address in (("raw", self.raw), ("ftl", self.ftl)):
            self.client.connect(side, address, qpairs=self._qpairs, digests=self._variant.digests)
            if self.perf is not None:
                self.perf.connect(side, address, digests=self._variant.digests)

    def want_qpairs(self, count: int) -> None:
        """Connects with exactly this number of qpairs, because idle qpairs cost time at both ends."""
        if count != self._qpairs:
            self._qpairs = count
            self._connect()

    def _delete(self) -> None:
        if self.devices():
            self.client.disconnect("ftl")
            self.daemon_client.call("bdev_ftl_delete", {"name": FTL})

    @property
    def daemon_client(self) -> DaemonClient:
        return DaemonClient(self.daemon.socket)

    def devices(self) -> list[dict[str, Any]]:
        return list(self.daemon_client.call("ftl_get_devices"))

    @property
    def ftl(self) -> Address:
        (device,) = self.devices()
        export = device["export"]
        return Address(export["traddr"], export["trsvcid"], export["subnqn"])

    @property
    def block_count(self) -> int:
        return int(self.devices()[0]["num_blocks"])

    def stats(self) -> dict[str, Any]:
        return dict(self.daemon_client.call("bdev_ftl_get_stats", {"name": FTL}))

    def window(
        self, side: str, workload: Workload, timing: Timing, *, blocks: int = 0, total_blocks: int = 0
    ) -> Window:
        """One window that is measured. blocks: the range, from the first block on; 0: all."""
        if self.perf is not None:
            return self.perf.run(side, workload, seconds=timing.seconds, total_blocks=total_blocks)
        return self.client.run(
            side, workload, seconds=timing.seconds, warm_s=timing.warm_s, pids=self.pids, blocks=blocks,
            total_blocks=total_blocks,
        )  # fmt: skip

    # --- what an empty FTL still takes

    @property
    def raw_block_count(self) -> int:
        return self.options.base_mib * BLOCKS_MIB

    @property
    def whole_budget(self) -> int:
        """Blocks that can be written to a new FTL before it relocates anything."""
        return int(self.raw_block_count * BUDGET)

    @property
    def budget(self) -> int:
        """The part of whole_budget that is left, in blocks."""
        return max(0, self.whole_budget - self._written)

    def wrote(self, blocks: int) -> None:
        """To be called after writes to the FTL."""
        self._written += blocks

    def renew(self) -> None:
        """Creates a new FTL of the same variant, unless the present one is still empty."""
        if self._written:
            self.create(self._variant)


def settled(bed: Bed, patience_s: float = 10.0) -> None:
    """Waits until the FTL relocates nothing, but at most patience_s, because relocation may never end."""
    deadline = time.monotonic() + patience_s
    moved = -1
    while time.monotonic() < deadline:
        now = int(bed.stats()["gc_moved_blocks"])
        if now == moved:
            return
        moved = now
        time.sleep(10 * POLL_S)


def zns_drive(size_mib: int) -> str:
    """The base, as --zns of the embedded target takes it."""
    zone = ZONE_BLOCKS * BLOCK_BYTES
    return f"name={BASE},size={size_mib}M,zone_size={zone},capacity={zone},max_open=64,max_active=64"


def _start_target(folder: Path, options: Options) -> EmbeddedTarget | SpdkTarget:
    if options.program is None:
        return EmbeddedTarget(folder, "--zns", zns_drive(options.base_mib), *options.target_arguments)
    memory = MEMORY_MIB + 2 * options.base_mib + options.base_mib // 8
    return SpdkTarget(options.program, folder, "-s", str(memory), *options.target_arguments)


def _pid(target: TargetClient) -> int:
    if isinstance(target, EmbeddedTarget):
        return target.process.pid
    if isinstance(target, SpdkTarget):
        return target.pid
    raise FtlError(f"{target} has no process")
