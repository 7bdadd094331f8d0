"""The programs of a system under test as processes of their own: the embedded target, the daemon, stock spdk-rpc.

Each runs from its construction to close(). Files and sockets are in a folder of the caller, whose path must be short:
the path of a socket may have 107 characters.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from spdk.rpc.client import JSONRPCClient, JSONRPCException

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
RPC_TIMEOUT_S = 120.0
LOG_TAIL_LINES = 60
LISTEN_ATTEMPTS_MAX = 20


DAEMON_ENVIRONMENT = "SPDK_FTL_DAEMON"
"""Names a program that runs ``spdk-ftl`` somewhere else, such as in a container. The daemon is started with it."""
KILL_ENVIRONMENT = "SPDK_FTL_TEST_KILL"
"""Names a command that gets the pid of such a program, and kills (SIGKILL) what the program runs. SIGKILL of the
program itself would not reach that."""


class ProgramError(AssertionError):
    """A program did not start, did not stop, or failed. The message ends with the output of the program."""


def kill_process(process: subprocess.Popen[bytes], *, elsewhere: bool = False) -> None:
    """SIGKILL, and waits for the end. elsewhere: the process is a program that runs the real one somewhere else.

    Raises ProgramError if that could not be killed.
    """
    command = shlex.split(os.environ.get(KILL_ENVIRONMENT, "")) if elsewhere else []
    if command and process.poll() is None:
        done = subprocess.run([*command, str(process.pid)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProgramError(f"{shlex.join(command)} {process.pid} exited with {done.returncode}: {done.stderr}")
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ProgramError(f"{shlex.join(command)} {process.pid} has not ended that process") from None
    process.kill()
    process.wait()


def surroundings(**added: str) -> dict[str, str]:
    """Our environment, with a PYTHONPATH that means the same in other folders."""
    environment = {**os.environ, **added}
    if paths := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths.split(os.pathsep)))
    return environment


class TargetClient:
    """The RPC socket of a target, embedded or real."""

    def __init__(self, socket_path: str) -> None:
        self.socket = socket_path

    def call(self, method: str, **params: Any) -> Any:
        """One RPC with exactly these parameters: newer clients' subcommands send some that older targets refuse.

        Raises JSONRPCException.
        """
        client = JSONRPCClient(self.socket, timeout=RPC_TIMEOUT_S)
        try:
            return client.call(method, params)
        finally:
            client.close()

    def rpc(self, *arguments: str, daemon: Daemon | None = None) -> subprocess.CompletedProcess[str]:
        """Runs the stock spdk-rpc program as a user does; with a daemon, also with our plugin."""
        program = Path(sysconfig.get_path("scripts")) / "spdk-rpc"
        environment = surroundings(SPDK_FTL_SOCK=daemon.socket if daemon is not None else "")
        plugin = ("--plugin", "spdk_ftl_py") if daemon is not None else ()
        return subprocess.run(
            [str(program), "-s", self.socket, "-t", str(RPC_TIMEOUT_S), *plugin, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=RPC_TIMEOUT_S,
            check=False,
        )

    def ftl(self, daemon: Daemon, *arguments: str) -> str:
        """Runs a command of our plugin, and returns what it printed. Raises ProgramError if it fails."""
        done = self.rpc(*arguments, daemon=daemon)
        if done.returncode != 0:
            raise ProgramError(
                f"spdk-rpc {' '.join(arguments)} exited with {done.returncode}\n{done.stdout}{done.stderr}\n"
                f"--- daemon ---\n{daemon.log_tail()}"
            )
        return done.stdout

    def bdev(self, name: str) -> dict[str, Any] | None:
        found: list[dict[str, Any]] = self.call("bdev_get_bdevs")
        return next((bdev for bdev in found if bdev["name"] == name), None)

    def export(self, bdev_name: str, nqn: str) -> int:
        """Exports the bdev as namespace 1 of a new subsystem for all hosts. Returns the port on 127.0.0.1."""
        self.call("nvmf_create_subsystem", nqn=nqn, serial_number="SPDKFTLTEST", allow_any_host=True)
        self.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev_name})
        return self.listen(nqn)

    def listen(self, nqn: str) -> int:
        """Adds a listener on a free port of 127.0.0.1, and returns the port. SPDK takes no port 0, so this tries ports
        that were free a moment ago."""
        for _ in range(LISTEN_ATTEMPTS_MAX):
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = int(server.getsockname()[1])
            address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
            try:
                self.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
                return port
            except JSONRPCException as error:
                refused = error
        raise ProgramError(f"{nqn} can't listen anywhere: {refused}")

    def state(self) -> dict[str, Any]:
        """The part of the target's state that must be the same before an FTL is created and after it is deleted."""
        bdevs: list[dict[str, Any]] = self.call("bdev_get_bdevs")
        subsystems: list[dict[str, Any]] = self.call("nvmf_get_subsystems")
        return {
            "bdevs": {bdev["name"]: (bdev["claimed"], bdev.get("claim_type")) for bdev in bdevs},
            "subsystems": sorted(
                (entry["nqn"], sorted(map(str, entry["listen_addresses"])), str(entry.get("hosts", [])))
                for entry in subsystems
            ),
            "controllers": sorted(entry["name"] for entry in self.call("bdev_nvme_get_controllers")),
        }


P = TypeVar("P", bound="Program")


class Program:
    """A ``spdk-ftl`` command that is ready after construction, and runs until close()."""

    def __init__(
        self,
        folder: Path,
        name: str,
        ready: str,
        *arguments: str,
        launcher: Sequence[str] = (sys.executable, "-m", "spdk_ftl_py.cli"),
        descriptors: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        elsewhere: bool = False,
    ) -> None:
        """folder: for the log. ready: part of the line with which the program says that it is ready. launcher: the
        command that runs it; it gets these descriptors of ours, and these additional environment variables. elsewhere:
        the launcher is a program like that of SPDK_FTL_DAEMON.

        Raises ProgramError if the program is not ready within a minute; it was stopped then.
        """
        self._name = name
        self._elsewhere = elsewhere
        self._log = folder / f"{name}.log"
        # Appended to: a program that is started again goes on in the log of the one that was killed.
        with self._log.open("ab") as log:
            # Not from the checkout's root: the package under test is the installed one.
            self.process = subprocess.Popen(
                [*launcher, *arguments],
                cwd=folder,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=surroundings(PYTHONUNBUFFERED="1", **(environment or {})),
            )
        try:
            self._wait_for(ready)
        except BaseException:
            self.close()
            raise

    def _wait_for(self, ready: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        said = b""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while ready.encode() not in said or not said.endswith(b"\n"):
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            received = os.read(descriptor, 4096) if readable else b""
            if not received:
                raise ProgramError(f"{self._name} did not get ready: {said.decode()!r}\n{self.log_tail()}")
            said += received

    def log(self) -> str:
        """Everything that the program has written to stderr so far."""
        return self._log.read_text(errors="replace")

    def log_tail(self) -> str:
        """The last 60 lines of log()."""
        return "\n".join(self.log().splitlines()[-LOG_TAIL_LINES:])

    def close(self) -> None:
        """Ends the program as a user does (SIGTERM). Idempotent. Raises ProgramError if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise ProgramError(f"{self._name} did not stop within {STOP_TIMEOUT_S} s\n{self.log_tail()}") from None
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        """Kills the program (SIGKILL), as the machine's out-of-memory killer does. Idempotent."""
        kill_process(self.process, elsewhere=self._elsewhere)
        self.close()

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EmbeddedTarget(Program, TargetClient):
    """``spdk-ftl target``. The arguments are its options, such as --zns and --malloc."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        TargetClient.__init__(self, str(folder / "target.sock"))
        Program.__init__(self, folder, "target", "listening on", "target", "-r", self.socket, *arguments)


class Daemon(Program):
    """``spdk-ftl serve``. The arguments are its further options."""

    def __init__(self, folder: Path, *arguments: str, **started: Any) -> None:
        """started: further parameters of Program."""
        self.socket = str(folder / "daemon.sock")
        state = str(folder / "state")
        # Of its own: write buffers of daemons that tests kill would stay in the user's.
        buffers = str(folder / "buffers")
        if (program := os.environ.get(DAEMON_ENVIRONMENT)) and "launcher" not in started:
            started = {**started, "launcher": (program,), "elsewhere": True}
        super().__init__(
            *(folder, "daemon", "ready", "serve", "--socket", self.socket),
            *("--state-dir", state, "--buffer-dir", buffers, *arguments),
            **started,
        )
