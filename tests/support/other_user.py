"""Another user of the same machine: what he tries, and what he waits with. Needs root."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UID = 65533
GID = 65533
"""Nobody's, so that nothing here belongs to him by chance."""
WAIT_S = 60.0
RECEIVED_MAX = 1 << 16


def become(uid: int = UID, gid: int = GID, groups: Sequence[int] = ()) -> None:
    """For good: without root's groups and capabilities."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def as_other_user(work: Callable[[], Any], *, uid: int = UID, gid: int = GID, groups: Sequence[int] = ()) -> Any:
    """What work returns, which has to be JSON; done in a process of that user. What it imports has to be loaded."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        told: dict[str, Any] = {}
        try:
            become(uid, gid, groups)
            told = {"result": work()}
        except BaseException:
            told = {"failed": traceback.format_exc()}
        finally:
            with contextlib.suppress(OSError), os.fdopen(writer, "w") as file:
                json.dump(told, file)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = json.load(file)
    os.waitpid(child, 0)
    assert "failed" not in told, told["failed"]
    return told["result"]


def attempt(what: Callable[[], Any]) -> str:
    """The name of the error that it gets, or what it got."""
    try:
        got = what()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return f"done: {got!r}"[:200]


class Impostor:
    """A process of the other user that listens where somebody of ours is expected, and notes what it is told."""

    def __init__(self, bind: Callable[[], socket.socket]) -> None:
        reader, self._notes = os.pipe()
        self._reader = reader
        self._received = b""
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(reader)
                become()
                self._serve(bind())
            finally:
                os._exit(1)
        os.close(self._notes)
        assert self._read(WAIT_S) == b"+", "the impostor could not get the place"

    def _serve(self, listener: socket.socket) -> None:
        listener.listen()
        os.write(self._notes, b"+")
        taken = [listener]
        while True:
            for ready in select.select(taken, [], [])[0]:
                if ready is listener:
                    taken.append(listener.accept()[0])
                    os.write(self._notes, b"c")
                    continue
                try:
                    data = ready.recv(RECEIVED_MAX)
                except OSError:
                    data = b""
                if data:
                    os.write(self._notes, data)
                else:
                    taken.remove(ready)
                    ready.close()

    def _read(self, timeout_s: float) -> bytes:
        if not select.select([self._reader], [], [], timeout_s)[0]:
            return b""
        return os.read(self._reader, 1)

    def wait_for_caller(self) -> None:
        """Somebody has connected."""
        deadline = time.monotonic() + WAIT_S
        while b"c" not in self._received:
            assert time.monotonic() < deadline, "nobody came"
            self._received += self._read(1.0)

    def close(self) -> bytes:
        """All it was told, a c for each connection. Idempotent."""
        if self._pid:
            # What was sent before is in its sockets; it has taken it when it waits again.
            time.sleep(0.1)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            while chunk := os.read(self._reader, RECEIVED_MAX):
                self._received += chunk
            os.close(self._reader)
        return self._received


@contextmanager
def impostor_at(path: Path) -> Iterator[Impostor]:
    """At a unix socket, open to all."""

    def bind() -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o666)
        return listener

    made = Impostor(bind)
    try:
        yield made
    finally:
        made.close()
        path.unlink(missing_ok=True)


@contextmanager
def impostor_at_port(port: int) -> Iterator[Impostor]:
    """Of 127.0.0.1."""

    def bind() -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return listener

    made = Impostor(bind)
    try:
        yield made
    finally:
        made.close()


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All that is below it: kind, mode, owner, size and content."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        content = b"" if path.is_symlink() or not path.is_file() else path.read_bytes()
        link = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(folder))] = (oct(info.st_mode), info.st_uid, info.st_gid, link, content)
    return found
