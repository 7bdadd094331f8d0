"""A real spdk_tgt as a process of the test's own: private RPC socket, no huge pages, one core, no PCI devices.

SPDK_TGT may name a program that runs it somewhere else, such as in a container. Then SPDK_FTL_TEST_KILL says how it is
killed there (programs.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from spdk.rpc.client import JSONRPCException

from .programs import KILL_ENVIRONMENT, TargetClient, kill_process

# Less, and one of its subsystems does not get its pools (seen with v26.05: 512 and 1024 MiB are too little).
MEMORY_MIB = 2048
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 40


class SpdkTargetError(RuntimeError):
    """The target did not start, or died. The message ends with the target's log."""


class SpdkTarget(TargetClient):
    """``spdk_tgt``, running from construction to close()."""

    def __init__(self, program: str, folder: Path, *arguments: str) -> None:
        super().__init__(str(folder / "spdk.sock"))
        self._log = folder / "spdk_tgt.log"
        core = min(os.sched_getaffinity(0))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # Without locks on cores, so that test runs side by side are no reason to fail.
                [
                    *(program, "--no-huge", "-s", str(MEMORY_MIB), "--no-pci", "-m", f"[{core}]"),
                    *("--disable-cpumask-locks", "-r", self.socket, *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise SpdkTargetError(f"spdk_tgt ended with {self._process.returncode}\n{self.log_tail()}")
            if self._listens():
                with contextlib.suppress(JSONRPCException):
                    # Answers when every subsystem is up.
                    self.call("framework_wait_init")
                    return
            if time.monotonic() > deadline:
                raise SpdkTargetError(f"spdk_tgt takes no RPC\n{self.log_tail()}")
            time.sleep(0.1)  # a wait for another process; nothing announces the socket

    def _listens(self) -> bool:
        """SPDK's client leaks its socket where it can't connect, as to the file that a killed target has left."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_tail(self) -> str:
        """The last 40 lines of that."""
        return "\n".join(self.log().splitlines()[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        """SIGKILL, as by the machine's out-of-memory killer."""
        kill_process(self._process, elsewhere=KILL_ENVIRONMENT in os.environ)
        self._remove_trace()

    def _remove_trace(self) -> None:
        """What a target that is killed leaves in shared memory, some MiB each time."""
        Path(f"/dev/shm/spdk_tgt_trace.pid{self._process.pid}").unlink(missing_ok=True)

    def close(self) -> None:
        """Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                kill_process(self._process, elsewhere=KILL_ENVIRONMENT in os.environ)
        self._process.wait()
        self._remove_trace()

    def __enter__(self) -> SpdkTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
