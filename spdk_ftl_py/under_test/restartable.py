"""Programs that a test can kill and start again with the same configuration, as users do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from ..client import DaemonClient
from ..errors import FtlError
from ..results import CreatedFtl, Device
from .options import BASE, FtlOptions
from .programs import Daemon, EmbeddedTarget, ProgramError
from .spdk_tgt import SpdkTarget

POLL_S: Final = 0.05
NAME: Final = "ftl0"


class _Program(Protocol):
    def kill(self) -> None: ...

    def close(self) -> None: ...


P = TypeVar("P", bound=_Program)


class Restartable(Generic[P]):
    """A program that runs from its construction until stop()."""

    def __init__(self, start: Callable[[], P]) -> None:
        """start: starts the program, and returns it when it is ready. Raises what start raises."""
        self._start: Callable[[], P] = start
        self._now: P | None = start()

    @property
    def now(self) -> P:
        """The running program. Raises ProgramError if it does not run."""
        if self._now is None:
            raise ProgramError("the program does not run: call start() first")
        return self._now

    @property
    def running(self) -> bool:
        """Whether the program runs: not after kill() or stop(), until start()."""
        return self._now is not None

    def kill(self) -> None:
        """Kills the program (SIGKILL), which loses what it has in memory. Does nothing if it does not run."""
        if self._now is not None:
            now, self._now = self._now, None
            now.kill()

    def stop(self) -> None:
        """Ends the program as a user does (SIGTERM). Idempotent. Raises ProgramError, with the program's log, if it
        does not end."""
        if self._now is not None:
            now, self._now = self._now, None
            now.close()

    def start(self) -> None:
        """Starts the program again, with the same configuration and files. Does nothing if it runs. Raises ProgramError
        if it does not become ready."""
        if self._now is None:
            self._now = self._start()

    def kill_and_restart(self) -> None:
        """Calls kill() and start()."""
        self.kill()
        self.start()


class TargetUnderTest(Restartable[EmbeddedTarget | SpdkTarget]):
    """An SPDK target with an NVMe/TCP transport and one base bdev, whose data outlives it.

    By default it is the embedded target, whose base bdev is an emulated ZNS drive. With program, it is that spdk_tgt,
    whose base bdev is a file (bdev_aio), for which the FTL emulates zones.
    """

    def __init__(self, folder: Path, options: FtlOptions, program: str | None = None) -> None:
        """folder: for the socket, the log and the base bdev. program: path of an spdk_tgt. Raises ProgramError or
        SpdkTargetError if the target does not start."""
        self._folder = folder
        self._options = options
        self._program = program
        super().__init__(self._started)

    def _started(self) -> EmbeddedTarget | SpdkTarget:
        if self._program is None:
            target: EmbeddedTarget | SpdkTarget = EmbeddedTarget(
                self._folder, "--zns", self._options.drive(self._folder / "drive")
            )
        else:
            target = SpdkTarget(self._program, self._folder)
        try:
            target.call("nvmf_create_transport", trtype="TCP")
            if self._program is not None:
                file = self._folder / "drive"
                file.touch()
                with file.open("r+b") as base:
                    base.truncate(self._options.base_bytes)
                target.call("bdev_aio_create", name=BASE, filename=str(file), block_size=4096)
        except BaseException:
            target.close()
            raise
        return target

    @property
    def emulates_zones(self) -> bool:
        """Whether the FTL has to emulate the zones of the base bdev."""
        return self._program is not None

    @property
    def socket(self) -> str:
        """Path of the target's JSON-RPC socket, as for ``spdk-rpc -s``."""
        return self.now.socket

    def call(self, method: str, **params: Any) -> Any:
        """Calls an RPC of the target with these parameters, and returns its result. Raises
        spdk.rpc.client.JSONRPCException if the RPC fails."""
        return self.now.call(method, **params)

    def log(self) -> str:
        """Everything that the target has logged, also before it was killed."""
        return self.now.log()


class DaemonUnderTest(Restartable[Daemon]):
    """``spdk-ftl serve``. Its state and write buffers are in a folder of the test, and outlive the program."""

    def __init__(self, folder: Path) -> None:
        """Raises ProgramError if it does not start."""
        super().__init__(lambda: Daemon(folder))

    @property
    def socket(self) -> str:
        """Path of the daemon's control socket, as for SPDK_FTL_SOCK."""
        return self.now.socket

    @property
    def client(self) -> DaemonClient:
        """A new client of the daemon (docs/python.md)."""
        return DaemonClient(self.socket)

    def log(self) -> str:
        """Everything that the daemon has logged, also before it was killed."""
        return self.now.log()


@dataclass(frozen=True)
class FtlUnderTest:
    """An FTL that the daemon has created on the base bdev of the target, and attached as a bdev of the target."""

    name: str
    uuid: str
    target: TargetUnderTest
    daemon: DaemonUnderTest

    @classmethod
    def create(cls, target: TargetUnderTest, daemon: DaemonUnderTest, options: FtlOptions) -> FtlUnderTest:
        """Creates the FTL ``ftl0``. Raises FtlError as bdev_ftl_create does."""
        params = {"name": NAME, "base_bdev": BASE, "target": target.socket, **options.create}
        if target.emulates_zones:
            params.setdefault("zone_capacity", options.zone_blocks)
        created: CreatedFtl = daemon.client.call("bdev_ftl_create", params)
        if options.hosts is None:
            daemon.client.bdev_ftl_allow_any_host(name=NAME, allow_any_host=True)
        else:
            for host in options.hosts:
                daemon.client.bdev_ftl_add_host(name=NAME, host=host)
        return cls(NAME, created["uuid"], target, daemon)

    @property
    def device(self) -> Device:
        """The answer of ftl_get_devices for this FTL, now. Raises NotFoundError if the FTL was deleted."""
        (device,) = self.daemon.client.ftl_get_devices(name=self.name)
        return device

    @property
    def num_blocks(self) -> int:
        """The size of the FTL, in blocks of 4096 B."""
        return self.device["num_blocks"]

    @property
    def traddr(self) -> str:
        """The address of the FTL's export for NVMe/TCP hosts: an IPv4 address of this machine."""
        return self.device["export"]["traddr"]

    @property
    def trsvcid(self) -> str:
        """The TCP port of the FTL's export."""
        return self.device["export"]["trsvcid"]

    @property
    def nqn(self) -> str:
        """The NQN of the FTL's export. The FTL is namespace 1."""
        return self.device["export"]["subnqn"]

    def wait_until_online(self, timeout_s: float = 60.0) -> Device:
        """Waits until the FTL serves I/O and is a bdev of the target, such as after a restart of daemon or target.
        Returns the answer of ftl_get_devices.

        Raises FtlError if the FTL fails, or is not online after timeout_s; the message says what the FTL waits for.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            device = self.device
            if device["state"] == "online" and device["attached"]:
                return device
            if device["state"] == "failed":
                raise FtlError(f"{self.name} has failed: {device['error']}")
            if time.monotonic() > deadline:
                raise FtlError(
                    f"{self.name} is not online after {timeout_s:g} s, but {device['state']}: "
                    f"{device.get('waiting_for') or device['error'] or 'its bdev is not in the target'}"
                )
            time.sleep(POLL_S)
