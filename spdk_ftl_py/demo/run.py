"""The demo itself: set up, create, write, verify, delete, compare, tear down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..client import DaemonClient
from ..errors import FtlError, MediaError
from ..runtime.tasks import cancelled_by_signals
from ..spdk.rpc import TargetRpc
from .processes import Child, run_rpc, spdk_ftl
from .report import Report
from .screen import Phase, Screen
from .workload import HOST_NQN, LARGE_IO_BLOCKS, Host, LoadKind, LoadPattern, Result

ZONE_BYTES: Final = 16 << 20
ZONE_CAPACITY_BYTES: Final = 12 << 20
OPEN_ZONES: Final = 14
BASE_BDEV: Final = "Nvme0n1"
FTL_BDEV: Final = "ftl0"
SNAPSHOT_METHODS: Final = ("bdev_get_bdevs", "nvmf_get_subsystems", "bdev_nvme_get_controllers")

RANDOM_WRITE_PART: Final = 10 / 60
RANDOM_LARGE_WRITE_PART: Final = 8 / 60
RANDOM_READ_PART: Final = 0.07
"""The maximum part of the whole time."""
RANDOM_IO_BLOCKS: Final = 16
"""When the time for 4 KiB writes is over, the demo writes the rest in I/Os of this size; and when the time for these is
over, sequentially."""
ENDING_S: Final = 2.0
"""For the kernel to report the end of a program whose connections are gone."""
ENDING_POLL_S: Final = 0.02
TRIM_PART: Final = 50
"""The demo trims one block out of this number."""


@dataclass(frozen=True)
class Options:
    media_bytes: int
    write_multiple: int
    """The minimum number of times that the demo writes the logical capacity: once sequentially, then at random as long
    as time allows."""
    time_s: float
    """The planned time of the whole demo. With less time measurements get shorter; verification does not."""
    seed: int
    keep: bool


class Interrupted(FtlError):
    """The user interrupted the demo."""


async def run_demo(options: Options, screen: Screen, report: Report) -> None:
    """Runs the demo. Stops every process at the end and removes the temporary directory (unless it is to be kept), also
    after an error.

    Raises FtlError if the demo fails.
    """
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="spdk-ftl-demo-"))
    try:
        with cancelled_by_signals():
            await Demo(options, screen, report, folder, began).run()
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None
    finally:
        report.values["elapsed_s"] = round(time.monotonic() - began, 2)
        if options.keep:
            screen.say(f"logs and state are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


class Demo:
    def __init__(self, options: Options, screen: Screen, report: Report, folder: Path, began: float) -> None:
        self._options = options
        self._screen = screen
        self._report = report
        self._began = began
        self._rpc_socket = str(folder / "target.sock")
        self._daemon_socket = str(folder / "ftl.sock")
        drive = (
            f"name={BASE_BDEV},size={options.media_bytes},zone_size={ZONE_BYTES},capacity={ZONE_CAPACITY_BYTES},"
            f"max_open={OPEN_ZONES},max_active={OPEN_ZONES}"
        )
        self._target = Child(
            "spdk-ftl target",
            spdk_ftl("target", "--rpc-socket", self._rpc_socket, "--zns", drive),
            "spdk-ftl target: listening on ",
            folder / "target.log",
        )
        self._daemon = Child(
            "spdk-ftl serve",
            spdk_ftl(
                "serve", "--socket", self._daemon_socket, "--state-dir", str(folder / "state"),
                "--buffer-dir", str(folder / "buffers"),
            ),
            "spdk-ftl: ready",
            folder / "serve.log",
        )  # fmt: skip
        self._rpc = TargetRpc(self._rpc_socket)

    async def run(self) -> None:
        try:
            await self._start()
            before = await self._snapshot()
            await self._create()
            await self._drive()
            await self._delete(before)
            await self._stop()
        finally:
            # The daemon first: it undoes what it made in the target.
            await self._daemon.stop()
            await self._target.stop()

    async def _start(self) -> None:
        size = self._options.media_bytes / (1 << 30)
        with self._screen.phase("start target and daemon") as phase:
            await asyncio.gather(self._target.start(), self._daemon.start())
            await self._rpc.call("nvmf_create_transport", {"trtype": "TCP"})
            phase.note = (
                f"{size:g} GiB emulated ZNS: zones of {ZONE_BYTES >> 20} MiB, capacity {ZONE_CAPACITY_BYTES >> 20} "
                "MiB, "
                f"{OPEN_ZONES} open"
            )

    async def _snapshot(self) -> dict[str, Any]:
        return {method: await self._rpc.call(method) for method in SNAPSHOT_METHODS}

    async def _create(self) -> None:
        with self._screen.phase("spdk-rpc bdev_ftl_create") as phase:
            out = await self._spdk_rpc("bdev_ftl_create", "-b", FTL_BDEV, "-d", BASE_BDEV, "--host", HOST_NQN)
            created = json.loads(out)
            bdevs = await self._rpc.call("bdev_get_bdevs", {"name": FTL_BDEV})
            if bdevs[0]["num_blocks"] * bdevs[0]["block_size"] <= 0:
                raise FtlError(f"bdev {FTL_BDEV} in the target has no blocks")
            self._report.values["uuid"] = created["uuid"]
            phase.note = f"{created['name']}, uuid {created['uuid']}"

    async def _spdk_rpc(self, *arguments: str) -> str:
        return await run_rpc(
            "-s", self._rpc_socket, "--plugin", "spdk_ftl_py", *arguments, daemon_socket=self._daemon_socket
        )

    # --- I/O

    async def _drive(self) -> None:
        devices = await asyncio.to_thread(DaemonClient(self._daemon_socket).call, "ftl_get_devices")
        export = next(device["export"] for device in devices if device["name"] == FTL_BDEV)
        host = await Host.connect(export["traddr"], export["trsvcid"], export["subnqn"], seed=self._options.seed)
        try:
            self._report.values["capacity_blocks"] = host.block_count
            await self._write(host)
            await self._verify(host)
        finally:
            with contextlib.suppress(FtlError):
                await host.close()
        await self._read_stats()

    async def _write(self, host: Host) -> None:
        values = self._report.values
        capacity = host.block_count
        result = await self._load(
            host,
            "sequential write 128 KiB",
            "write",
            capacity,
            pattern="sequential",
            io_blocks=LARGE_IO_BLOCKS,
            queue_depth=16,
        )
        values["sequential_write_mib_s"] = round(result.mib_s, 1)
        at_random = max(0, self._options.write_multiple - 1) * capacity
        result = await self._load(
            host,
            "random write 4 KiB",
            "write",
            at_random,
            io_blocks=1,
            queue_depth=64,
            time_limit_s=self._options.time_s * RANDOM_WRITE_PART,
        )
        values["random_write_iops"] = round(result.iops)
        values["random_write_p50_us"] = round(result.p50_us, 1)
        values["random_write_p99_us"] = round(result.p99_us, 1)
        left = at_random - result.blocks
        if left > 0:
            name = f"random write {RANDOM_IO_BLOCKS * 4} KiB"
            time_limit_s = self._options.time_s * RANDOM_LARGE_WRITE_PART
            result = await self._load(
                host, name, "write", left, io_blocks=RANDOM_IO_BLOCKS, queue_depth=32, time_limit_s=time_limit_s
            )
            left -= result.blocks
        if left > 0:
            name = "the rest in sequence"
            await self._load(host, name, "write", left, pattern="sequential", io_blocks=LARGE_IO_BLOCKS, queue_depth=16)
        with self._screen.phase("flush"):
            await host.flush()
        result = await self._load(host, "trim at random", "trim", capacity // TRIM_PART, io_blocks=8, queue_depth=8)
        values["trimmed_blocks"] = result.blocks

    async def _verify(self, host: Host) -> None:
        values = self._report.values
        result = await self._load(
            host,
            "random read 4 KiB, verified",
            "read",
            host.block_count,
            io_blocks=1,
            queue_depth=64,
            time_limit_s=self._options.time_s * RANDOM_READ_PART,
        )
        values["random_read_iops"] = round(result.iops)
        values["random_read_p50_us"] = round(result.p50_us, 1)
        values["random_read_p99_us"] = round(result.p99_us, 1)
        self._report.verified(result)
        result = await self._load(
            host,
            "verify every block",
            "read",
            host.block_count,
            pattern="sequential",
            io_blocks=LARGE_IO_BLOCKS,
            queue_depth=16,
        )
        values["sequential_read_mib_s"] = round(result.mib_s, 1)
        self._report.verified(result)
        if result.blocks < host.block_count:
            raise FtlError(f"only {result.blocks} of {host.block_count} blocks were verified")
        if values["verify_errors"]:
            raise FtlError(f"{values['verify_errors']} blocks differ from what was written last")

    async def _load(
        self,
        host: Host,
        name: str,
        kind: LoadKind,
        total_blocks: int,
        *,
        pattern: LoadPattern = "random",
        **options: Any,
    ) -> Result:
        total = total_blocks
        with self._screen.phase(name, total) as phase:
            try:
                result = await host.run(
                    phase, kind, pattern=pattern, total_blocks=total_blocks, watch=self._check_alive, **options
                )
            except MediaError:
                await self._check_ending()
                raise
            _note(phase, result, options["io_blocks"])
        return result

    def _check_alive(self) -> None:
        self._target.check_alive()
        self._daemon.check_alive()

    async def _check_ending(self) -> None:
        """As _check_alive(), for a lost connection: those of a program that is killed go a moment before it does."""
        deadline = time.monotonic() + ENDING_S
        while time.monotonic() < deadline:
            self._check_alive()
            await asyncio.sleep(ENDING_POLL_S)

    async def _read_stats(self) -> None:
        stats = json.loads(await self._spdk_rpc("bdev_ftl_get_stats", "-b", FTL_BDEV))
        values = self._report.values
        for key in (
            "host_written_blocks",
            "media_written_blocks",
            "write_amplification",
            "gc_moved_blocks",
            "zone_resets",
        ):
            values[key] = stats[key]
        values["stats"] = stats
        multiple = self._options.write_multiple
        written = values["host_written_blocks"]
        if written < multiple * values["capacity_blocks"]:
            raise FtlError(f"the FTL counts {written} written blocks, fewer than {multiple} times its capacity")

        if values["media_written_blocks"] <= values["host_written_blocks"]:
            raise FtlError(
                f"the FTL counts {values['media_written_blocks']} blocks written to media, no more than the "
                f"{values['host_written_blocks']} blocks of the host"
            )
        if stats["lost_blocks"]:
            raise FtlError(f"the FTL lost {stats['lost_blocks']} blocks")

    # --- the end

    async def _delete(self, before: dict[str, Any]) -> None:
        with self._screen.phase("spdk-rpc bdev_ftl_delete") as phase:
            await self._spdk_rpc("bdev_ftl_delete", "-b", FTL_BDEV)
            after = await self._snapshot()
            for method in SNAPSHOT_METHODS:
                if after[method] != before[method]:
                    self._report.values["target_as_before"] = False
                    raise FtlError(f"{method} of the target is not as before: {before[method]} became {after[method]}")
            self._report.values["target_as_before"] = True
            phase.note = "target is as it was before"

    async def _stop(self) -> None:
        with self._screen.phase("stop daemon and target"):
            await self._daemon.check_clean_stop()
            await self._target.check_clean_stop()


def _note(phase: Phase, result: Result, io_blocks: int) -> None:
    if io_blocks == 1:
        phase.note = f"{result.iops / 1000:.1f} kIOPS, p50 {result.p50_us:.0f} µs, p99 {result.p99_us:.0f} µs"
    else:
        phase.note = f"{result.mib_s:.0f} MiB/s"
