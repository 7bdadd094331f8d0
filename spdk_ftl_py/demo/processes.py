"""The demo's child processes. The demo starts them, waits until they report that they are ready, and always stops
them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Final

from ..errors import FtlError
from ..time_limit import time_limit

READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 15.0
RPC_TIMEOUT_S: Final = 60.0
LOG_TAIL_BYTES: Final = 2000
LINE_BYTES_MAX: Final = 1 << 16


class ChildError(FtlError):
    """A program of the demo has failed. The message ends with the program's last output."""


def environment(**extra: str) -> dict[str, str]:
    """The environment for children. They can import this package, whether it is installed or not."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", **extra}


def spdk_ftl(*arguments: str) -> list[str]:
    """The command line of a `spdk-ftl` subcommand, run by this interpreter."""
    return [sys.executable, "-m", "spdk_ftl_py.cli", *arguments]


def spdk_rpc(*arguments: str) -> list[str]:
    """The command line of SPDK's own spdk-rpc: from this environment, otherwise from PATH.

    Raises FtlError if the spdk package is not installed.
    """
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        script = shutil.which("spdk-rpc", path=folder)
        if script is not None:
            return [script, *arguments]
    for point in metadata.entry_points(group="console_scripts"):
        if point.name == "spdk-rpc":
            module, _, function = point.value.partition(":")
            code = f"import sys; from {module} import {function}; sys.argv[0] = 'spdk-rpc'; sys.exit({function}())"
            return [sys.executable, "-c", code, *arguments]
    script = shutil.which("spdk-rpc")
    if script is None:
        raise FtlError("spdk-rpc is not installed: install it with `python3 -m pip install spdk`")
    return [script, *arguments]


class Child:
    """One long-running program. Its stderr goes to a log file, which is shown if the program fails."""

    def __init__(self, name: str, command: list[str], ready: str, log: Path) -> None:
        """ready: the beginning of the line on stdout with which the program reports that it is ready."""
        self.name = name
        self._command = command
        self._ready = ready
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the program, also again after it has ended. Raises ChildError if it ends or is not ready in time; it
        is stopped then."""
        self._drain = None
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment(),
                # Not our own directory: `python -m` searches it first, and in a checkout the package lacks its
                # extension.
                cwd=self._log.parent,
                limit=LINE_BYTES_MAX,
                # Ctrl-C goes to the demo only, which then stops its children in order.
                start_new_session=True,
            )
        try:
            async with time_limit(READY_TIMEOUT_S):
                await self._wait_ready(self._process)
        except asyncio.TimeoutError:
            await self.stop()
            raise ChildError(f"{self.name} is not ready after {READY_TIMEOUT_S:g} s{self._said()}") from None
        except BaseException:
            await self.stop()
            raise
        self._drain = asyncio.create_task(self._read_on(self._process), name=f"stdout of {self.name}")

    async def stop(self) -> int | None:
        """Asks the program to end, and kills it if it does not. Returns the exit code, or None if it was never started.
        Idempotent."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            if self._drain is None:
                self._drain = asyncio.create_task(self._read_on(process))
            try:
                async with time_limit(STOP_TIMEOUT_S):
                    await process.wait()
            except asyncio.TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._drain is not None:
            await asyncio.gather(self._drain, return_exceptions=True)
        return process.returncode

    def ask_to_end(self) -> None:
        """Asks the program to end, and does not wait."""
        if self._process is not None and self._process.returncode is None:
            # os.kill() instead of the process's own method, which may reap the process without asyncio's knowledge.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    async def kill(self) -> None:
        """Sends SIGKILL, and returns when the program is gone. Idempotent."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            # No second signal: sending it may reap the process without asyncio's knowledge, which then reports exit
            # code 255.
            await self._process.wait()
        await self.stop()

    def check_alive(self) -> None:
        """Raises ChildError if the program has ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            raise ChildError(f"{self.name} ended with exit code {self._process.returncode}{self._said()}")

    async def check_clean_stop(self) -> None:
        """Stops the program. Raises ChildError unless its exit code is 0."""
        code = await self.stop()
        if code != 0:
            raise ChildError(f"{self.name} ended with exit code {code} when asked to stop{self._said()}")

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            line = await process.stdout.readline()
            if not line:
                code = await process.wait()
                raise ChildError(f"{self.name} ended with exit code {code} before it was ready{self._said()}")
            if line.decode(errors="replace").startswith(self._ready):
                return

    @staticmethod
    async def _read_on(process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while await process.stdout.read(LINE_BYTES_MAX):
            pass

    def log_tail(self) -> str:
        """The last output of the program."""
        try:
            return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""

    def _said(self) -> str:
        text = self.log_tail()
        return f"; it said:\n{text}" if text else ""


async def run_rpc(*arguments: str, daemon_socket: str) -> str:
    """Runs SPDK's own spdk-rpc, and returns its stdout. Raises ChildError with its output if it fails."""
    command = spdk_rpc(*arguments)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(SPDK_FTL_SOCK=daemon_socket),
        cwd=Path(daemon_socket).parent,
    )
    try:
        async with time_limit(RPC_TIMEOUT_S):
            out, err = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, asyncio.TimeoutError):
            raise ChildError(f"spdk-rpc {' '.join(arguments)}: did not end within {RPC_TIMEOUT_S:g} s") from None
        raise
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip()[-LOG_TAIL_BYTES:]
        raise ChildError(f"spdk-rpc {' '.join(arguments)}: exit code {process.returncode}: {said}")
    return out.decode()
