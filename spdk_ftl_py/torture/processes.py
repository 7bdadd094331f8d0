"""Torture of real processes. Daemon and target are killed with SIGKILL, or the daemon is ended in order, while hosts
stay connected and send I/O."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..client import DaemonClient
from ..daemon.vfio_user_export import FOLDER, remove_stray_endpoints
from ..demo.processes import Child, spdk_ftl
from ..errors import FtlError
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import cancelled_by_signals
from ..spdk.rpc import TargetRpc
from .hosts import HOST_NQN, MIXES, Hosts
from .model import Violation
from .report import Progress, Report

BASE_BDEV: Final = "Nvme0n1"
CACHE_BDEV: Final = "Cache0"
FTL_BDEV: Final = "ftl0"
DRIVE: Final = "zones=64,zone_size=2M,capacity=1536K,max_open=14,max_active=14"
CACHE_BYTES: Final = 64 << 20
SHAPES: Final = ((1, 15), (2, 20), (4, 40))
"""(zones written in parallel, the part of the drive that is then reserved, in %)."""
HOSTS: Final = 2
IO_TIMEOUT_S: Final = 60.0
"""How long hosts and daemon wait for a process that was killed. An I/O that takes longer breaks a promise."""
POLL_S: Final = 0.05
LOAD_S: Final = (0.02, 0.6)
"""The duration of the load before a kill."""
REST_S: Final = (0.0, 0.4)
"""The time from a kill to the restart."""
SECOND_KILL_PART: Final = 0.2
"""The part of the crashes with another one during the recovery."""
SECOND_KILL_S: Final = (0.1, 1.5)
IDLE_PART: Final = 0.15
"""The part of the crashes with no I/O outstanding. All of it is acknowledged then, and little of it flushed."""
SETTLE_S: Final = 0.2
HALT_S: Final = (0.0, 0.3)
"""The time from the beginning of a halt to the kill."""
BACK_TIMEOUT_S: Final = 60.0
LOOPBACK: Final = "127.0.0.1"
TARGET_NQN: Final = "nqn.2026-11.io.spdk-ftl:torture"
"""Of the target's own export of the FTL."""

DAEMON_KILLED: Final = "daemon killed"
TARGET_KILLED: Final = "target killed"
BOTH_KILLED: Final = "both killed"
DAEMON_ENDED: Final = "daemon ended in order"
HALT_KILLED: Final = "daemon killed as it halts"
BUFFER_LOST: Final = "both killed, write buffer lost"
"""With an nv cache only, which then holds what was completed."""


@dataclass(frozen=True)
class Options:
    seed: int
    crashes: int
    use_append: bool = False
    cache: bool = False
    """Use an nv cache in a file."""
    keep: bool = False
    """Keep the directory with state, drive and logs."""
    vfio_user: bool = False
    """The target reaches the FTL by vfio-user, and hosts reach it through the target."""
    cores: int = 1
    """Reactors that serve the hosts."""
    drive: str = DRIVE
    shapes: tuple[tuple[int, int], ...] = SHAPES
    kinds: tuple[str, ...] = ()
    """Of crashes, in turn; empty: all that are possible."""
    blocks: int = 0
    """Hosts use only the first so many blocks of the FTL; 0: all."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class Interrupted(FtlError):
    """The user interrupted the run."""


async def run_processes(options: Options, report: Report, progress: Progress) -> None:
    """Runs the torture. Stops every process at the end and removes the directory (unless it is to be kept), also after
    an error.

    The report has the broken promises. Raises FtlError if the programs cannot run at all.
    """
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="spdk-ftl-torture-"))
    report.values["replay"] = replay(options)
    try:
        with cancelled_by_signals():
            await _World(options, report, progress, folder).run()
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None
    finally:
        report.values["elapsed_s"] = round(time.monotonic() - began, 2)
        if options.keep:
            report.values["folder"] = str(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def replay(options: Options) -> str:
    """The command that repeats the run, as far as that is possible with processes."""
    more = " --use-append" * options.use_append + " --cache non-vss" * options.cache
    more += " --transport vfio-user" * options.vfio_user
    more += f" --cores {options.cores}" * (options.cores > 1)
    return f"spdk-ftl torture --processes --seed {options.seed} --crashes {options.crashes}{more}"


class _World:
    """One target with one drive, one daemon with one FTL, and their hosts."""

    def __init__(self, options: Options, report: Report, progress: Progress, folder: Path) -> None:
        self._options = options
        self._report = report
        self._progress = progress
        self._rng = random.Random(options.seed)
        self._daemon_socket = str(folder / "ftl.sock")
        self._buffers = folder / "buffers"
        self._endpoints = folder / "state" / FOLDER
        self._rpc = TargetRpc(str(folder / "target.sock"))
        # What a user keeps to restart a target: its drive, and this configuration.
        config: list[dict[str, Any]] = [{"method": "nvmf_create_transport", "params": {"trtype": "TCP"}}]
        if options.cache:
            with (folder / "cache").open("wb") as file:
                file.truncate(CACHE_BYTES)
            bdev = {"name": CACHE_BDEV, "filename": str(folder / "cache"), "block_size": 4096}
            config.append({"method": "bdev_aio_create", "params": bdev})
        (folder / "target.json").write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": config}]}))
        self._target = Child(
            "spdk-ftl target",
            spdk_ftl(
                "target", "--rpc-socket", self._rpc.address, "--config", str(folder / "target.json"),
                "--zns", f"name={BASE_BDEV},path={folder / 'drive'},{options.drive}",
            ),
            "spdk-ftl target: listening on ",
            folder / "target.log",
        )  # fmt: skip
        self._daemon = Child(
            "spdk-ftl serve",
            spdk_ftl(
                "serve", "--socket", self._daemon_socket, "--state-dir", str(folder / "state"),
                "--buffer-dir", str(self._buffers), "--reactors", str(options.cores),
            ),
            "spdk-ftl: ready",
            folder / "serve.log",
        )  # fmt: skip
        self._kinds = options.kinds or (
            *(DAEMON_KILLED, TARGET_KILLED, BOTH_KILLED, DAEMON_ENDED, HALT_KILLED),
            *([BUFFER_LOST] if options.cache else []),
        )
        self._turns = itertools.cycle(self._kinds)
        self._offering: asyncio.Task[None] | None = None
        """The target offers the FTL to hosts as soon as it has it."""
        self._port = ""
        self._crashes = 0
        self._last_kind = "no crash yet"
        self._pauses: dict[str, float] = {}

    async def run(self) -> None:
        reactor = ReactorLoop("torture hosts")
        hosts: Hosts | None = None
        try:
            await asyncio.gather(self._target.start(), self._daemon.start())
            await self._create()
            await reactor.start()
            hosts = await self._connect(reactor)
            while self._crashes < self._options.crashes and not hosts.violations:
                await self._crash(hosts)
            if not hosts.violations:
                await self._finish(hosts)
        finally:
            await self._offer_no_more()
            if hosts is not None:
                await hosts.close()
                self._take_stock(hosts)
            await reactor.stop()
            # The daemon first: it undoes what it made in the target.
            await self._daemon.stop()
            await self._target.stop()
            # Keepers would wait a while for the next daemon.
            remove_stray_endpoints(self._endpoints, ())

    async def _create(self) -> None:
        params: dict[str, Any] = {"name": FTL_BDEV, "base_bdev": BASE_BDEV, "target": self._rpc.address}
        params["num_punits"], params["overprovisioning"] = self._rng.choice(self._options.shapes)
        if self._options.vfio_user:
            params["transport"] = "vfio-user"
        else:
            params["hosts"] = [HOST_NQN.format(number) for number in range(HOSTS)]
        if self._options.use_append:
            params["use_append"] = True
        if self._options.cache:
            params["cache"] = CACHE_BDEV
        if self._options.cores > 1:
            params["conf"] = {"cores": self._options.cores}
        await asyncio.to_thread(DaemonClient(self._daemon_socket).call, "bdev_ftl_create", params)

    async def _connect(self, reactor: ReactorLoop) -> Hosts:
        if self._options.vfio_user:
            self._port = str(_free_port())
            await self._offer()
            traddr, trsvcid, subnqn = LOOPBACK, self._port, TARGET_NQN
        else:
            devices = await asyncio.to_thread(DaemonClient(self._daemon_socket).call, "ftl_get_devices")
            export = next(device["export"] for device in devices if device["name"] == FTL_BDEV)
            traddr, trsvcid, subnqn = export["traddr"], export["trsvcid"], export["subnqn"]
        hosts = await Hosts.connect(
            reactor,
            traddr,
            trsvcid,
            subnqn,
            count=HOSTS,
            seed=self._options.seed,
            timeout_s=IO_TIMEOUT_S,
            blocks=self._options.blocks,
        )
        self._report.values |= {"hosts": HOSTS, "capacity_blocks": hosts.block_count}
        return hosts

    async def _offer(self) -> None:
        """The target exports its bdev of the FTL, as soon as it has that. Raises FtlError."""
        while FTL_BDEV not in await self._bdevs():  # noqa: ASYNC110 - another process; nothing announces it
            await asyncio.sleep(POLL_S)
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": LOOPBACK, "trsvcid": self._port}
        for method, params in (
            ("nvmf_create_subsystem", {"allow_any_host": True}),
            ("nvmf_subsystem_add_ns", {"namespace": {"bdev_name": FTL_BDEV}}),
            ("nvmf_subsystem_add_listener", {"listen_address": address}),
        ):
            await self._rpc.call(method, {"nqn": TARGET_NQN, **params})

    async def _offer_no_more(self) -> None:
        if self._offering is not None:
            self._offering.cancel()
            await asyncio.gather(self._offering, return_exceptions=True)
            self._offering = None

    # --- one crash

    async def _crash(self, hosts: Hosts) -> None:
        """Load, kill, restart and flush, and then every block is read. Faults are in hosts.violations afterwards."""
        rng = self._rng
        kind = next(self._turns)
        hosts.start(rng.choice(MIXES), rng)
        await self._watched(hosts, asyncio.sleep(rng.uniform(*LOAD_S)))
        if rng.random() < IDLE_PART:
            await self._watched(hosts, hosts.stop())
        hosts.longest_pause_s = 0.0
        await self._kill_and_restart(kind)
        if rng.random() < SECOND_KILL_PART and self._crashes < self._options.crashes:
            await self._watched(hosts, asyncio.sleep(rng.uniform(*SECOND_KILL_S)))
            await self._kill_and_restart(rng.choice(self._kinds))
            kind = "killed again in the recovery"
        # A flush completes only once the base has it, so every program is back then.
        await self._watched(hosts, hosts.flush_all())
        self._pauses[kind] = max(self._pauses.get(kind, 0.0), hosts.longest_pause_s)
        if hosts.running:
            await self._watched(hosts, asyncio.sleep(SETTLE_S))
            await self._watched(hosts, hosts.stop())
        await self._watched(hosts, hosts.verify(rng))
        self._show(hosts)

    async def _kill_and_restart(self, kind: str) -> None:
        self._crashes += 1
        self._last_kind = kind
        self._report.count("kinds", {kind: 1})
        both = [self._daemon, self._target]
        children = {BOTH_KILLED: both, BUFFER_LOST: both, TARGET_KILLED: [self._target]}.get(kind, [self._daemon])
        self._rng.shuffle(children)
        if kind == DAEMON_ENDED:
            await self._daemon.check_clean_stop()
        elif kind == HALT_KILLED:
            self._daemon.ask_to_end()
            await asyncio.sleep(self._rng.uniform(*HALT_S))
        if self._target in children:
            await self._offer_no_more()
        for child in children:
            await child.kill()
        if kind == BUFFER_LOST:
            shutil.rmtree(self._buffers)
        for child in self._rng.sample(children, len(children)):
            await asyncio.sleep(self._rng.uniform(*REST_S))
            await child.start()
        if self._options.vfio_user and self._target in children:
            self._offering = asyncio.create_task(self._offer(), name="the target's export")

    async def _watched(self, hosts: Hosts, work: Any) -> None:
        """Waits until work is done, a promise is broken, or nothing has moved for too long."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=POLL_S)
                self._daemon.check_alive()
                self._target.check_alive()
                if self._offering is not None and self._offering.done():
                    self._offering.result()
                if hosts.violations:
                    return
                if hosts.waiting and hosts.pause_s > IO_TIMEOUT_S + POLL_S:
                    hosts.violations.append(
                        Violation("wedged", -1, f"{hosts.waiting} I/Os have not completed after {hosts.pause_s:.0f} s")
                    )
                    return
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- the end

    async def _finish(self, hosts: Hosts) -> None:
        """Checks that the target's own bdev came back, and that both programs end in order."""
        deadline = time.monotonic() + BACK_TIMEOUT_S
        while FTL_BDEV not in await self._bdevs():
            if time.monotonic() > deadline:
                detail = f"bdev {FTL_BDEV} is not in the target {BACK_TIMEOUT_S:g} s after the last crash"
                hosts.violations.append(Violation("not_attached", -1, detail))
                return
            await asyncio.sleep(POLL_S)
        await hosts.close()
        await self._daemon.check_clean_stop()
        await self._target.check_clean_stop()

    async def _bdevs(self) -> list[str]:
        # The name may be an alias or the bdev's own name: spdk/attach.py decides that.
        return [
            name for bdev in await self._rpc.call("bdev_get_bdevs") for name in (bdev["name"], *bdev.get("aliases", ()))
        ]

    def _show(self, hosts: Hosts) -> None:
        self._progress(self._crashes, f"{hosts.blocks_verified:,} blocks verified, {self._last_kind} last")

    def _take_stock(self, hosts: Hosts) -> None:
        self._report.values |= {
            "crashes": self._crashes,
            "blocks_verified": hosts.blocks_verified,
            "ios": hosts.ios,
            "flushes": hosts.flushes,
            "connections_lost": hosts.losses,
            "pauses_s": {kind: round(pause, 2) for kind, pause in self._pauses.items()},
        }
        found = [
            {
                "kind": each.kind,
                "lba": each.lba,
                "detail": each.detail,
                "crash": self._crashes,
                "after": self._last_kind,
            }
            for each in hosts.violations
        ]
        if found:
            logs = {child.name: child.log_tail() for child in (self._daemon, self._target)}
            self._report.values["logs"] = logs
            self._report.violated(found, replay(self._options))
