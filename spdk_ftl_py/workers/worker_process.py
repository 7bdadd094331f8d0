"""A child process that does the work, seen from the process that has started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final

from .child import END_S
from .work import Answer, Request

_PROGRAM: Final = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from {} import main; main(int(sys.argv[1]))"
_IN_ORDER: Final = (-signal.SIGTERM, -signal.SIGHUP)
_GRACE_S: Final = 2.0
_LOOK_S: Final = 0.5
"""How often it is asked whether work is still wanted."""


class WorkerDied(Exception):
    """The process has ended before its work."""


class WorkerEnded(WorkerDied):
    """Somebody has ended the process in order, such as an operator or a system that shuts down."""


class WorkerUnwanted(Exception):
    """Nobody wants the work any more. The process still does it: close() ends that."""


class WorkerRefused(Exception):
    """The process runs other code than whoever asks."""


class WorkerProcess:
    """Runs in a session of its own, so that Ctrl-C reaches only who has started it; ends with who has started it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            path = [os.path.abspath(part) for part in sys.path]
            program = _PROGRAM.format(f"{__package__}.child")
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, str(theirs.fileno()), json.dumps(path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a user's code prints must not get between our results
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self.name = f"process {self._process.pid}"

    def run(self, request: Request, wanted: Callable[[], bool] | None = None) -> Iterator[Answer]:
        """wanted: is asked now and then. Raises WorkerDied or its WorkerEnded, WorkerRefused, and WorkerUnwanted if it
        says no."""
        try:
            self._connection.send_bytes(json.dumps(request.to_dict()).encode())
            while "end" not in (message := json.loads(self._received(wanted))):
                if "refused" in message:
                    raise WorkerRefused(message["refused"])
                yield _answer(message, self.name)
        except (EOFError, OSError) as error:
            how = self._how()
            kind = WorkerEnded if self._process.returncode in _IN_ORDER else WorkerDied
            raise kind(f"{self.name} {how}") from error

    def _received(self, wanted: Callable[[], bool] | None) -> bytes:
        while wanted is not None and not self._connection.poll(_LOOK_S):
            if not wanted():
                raise WorkerUnwanted
        return self._connection.recv_bytes()

    def _how(self) -> str:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return "has closed its connection"
        if code >= 0:
            return f"has ended with code {code}"
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (" (kill -9, or no memory was left)" if name == "SIGKILL" else "")

    def kill(self) -> None:
        """Ends it soon, whatever it does; run() raises. For other threads."""
        self._process.terminate()

    def close(self) -> None:
        """Ends it, and waits until it has ended."""
        self._connection.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_S + _GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def not_started(error: OSError) -> str:
    """What is told of a WorkerProcess that could not be made."""
    return f"a process can't be started ({error.strerror or error}): make room, or run fewer at a time"


def _answer(message: dict[str, Any], where: str) -> Answer:
    return Answer(message["key"], message.get("value"), message.get("error", ""), message["seconds"], where)
