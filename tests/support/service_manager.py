"""What systemd does for a service, as far as it is of use here: it listens for it, keeps the sockets that it is given,
and hands all of them over to whoever is started next."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.system import Daemon

MESSAGE_BYTES_MAX = 4096
DESCRIPTORS_MAX = 64
WAIT_S = 60.0
WATCHDOG_S = 2.0
_FIRST = 3

_LAUNCHER = """
import os, sys
given = [int(each) for each in sys.argv[1].split(",") if each]
# Out of the way first.
high = [os.dup2(fd, 500 + i, inheritable=False) for i, fd in enumerate(given)]
for fd in given:
    os.close(fd)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "spdk_ftl_py.cli", *sys.argv[2:]])
"""


class Manager:
    """From construction to close()."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "notify"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(self._path))
        self.units: list[tuple[str, socket.socket]] = []
        """Of .socket units: their names and what listens."""
        self.kept: list[tuple[str, int]] = []
        """The store of descriptors."""
        self.told: list[str] = []
        """Every line of the notifications."""

    def listen_unix(self, name: str, path: Path, mode: int = 0o600) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen()
        self.units.append((name, listener))

    def start(self, *arguments: str) -> Daemon:
        """The daemon, once it says that it is ready."""
        given = [*((name, unit.fileno()) for name, unit in self.units), *self.kept]
        descriptors = [number for _, number in given]
        return Daemon(
            self._folder,
            *arguments,
            launcher=(sys.executable, "-c", _LAUNCHER, ",".join(map(str, descriptors))),
            descriptors=descriptors,
            environment={
                "NOTIFY_SOCKET": str(self._path),
                "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
                "LISTEN_FDS": str(len(given)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in given),
            },
        )

    def wait_for(self, line: str) -> None:
        """Until it has been told that, this time or before."""
        deadline = time.monotonic() + WAIT_S
        while line not in self.told:
            self._take(max(0.0, deadline - time.monotonic()))
            assert time.monotonic() < deadline, self.told

    def catch_up(self) -> None:
        while self._take(0.0):
            pass

    def _take(self, timeout_s: float) -> bool:
        if not select.select([self._notified], [], [], timeout_s)[0]:
            return False
        message, descriptors, _, _ = socket.recv_fds(self._notified, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
        lines = message.decode().splitlines()
        self.told += lines
        said: dict[str, Any] = dict(line.partition("=")[::2] for line in lines)
        name = said.get("FDNAME", "stored")
        if "FDSTORE" in said:
            self.kept += [(name, descriptor) for descriptor in descriptors]
        elif "FDSTOREREMOVE" in said:
            for each in [each for each in self.kept if each[0] == name]:
                self.kept.remove(each)
                os.close(each[1])
        return True

    def close(self) -> None:
        for _, listener in self.units:
            listener.close()
        for _, descriptor in self.kept:
            os.close(descriptor)
        self._notified.close()


@contextmanager
def service_manager(folder: Path) -> Iterator[Manager]:
    manager = Manager(folder)
    try:
        yield manager
    finally:
        manager.close()
