"""The interface to systemd, or another service manager with the same protocol: listening sockets that it hands over and
keeps, notifications, and the watchdog. (sd_listen_fds(3), sd_notify(3), sd_pid_notify_with_fds(3),
sd_watchdog_enabled(3).)

It applies only to the main process of the service, so the variables are removed from the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Collection, MutableMapping, Sequence
from typing import Final

from ..errors import ParameterError

FIRST_DESCRIPTOR: Final = 3
DESCRIPTORS_MAX: Final = 4096
_FDS: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_NOTIFY: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = ("WATCHDOG_PID", "WATCHDOG_USEC")

log = logging.getLogger(__name__)


class ServiceManager:
    """The manager that started this process; without one, nothing is handed over or notified."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the variables for this process from environment. Raises ParameterError if they are invalid."""
        self._address = environment.pop(_NOTIFY, "")
        silence_s = _take_watchdog(environment)
        self.watchdog_s = silence_s if self._address else 0.0
        """The manager restarts this process after a silence of so many seconds; 0: it does not."""
        self._given = _take_sockets(environment)
        self._stored: set[str] = {name for name, _ in self._given}

    @property
    def is_there(self) -> bool:
        return bool(self._address)

    def notify(self, *lines: str, sockets: Sequence[socket.socket] = ()) -> bool:
        """Sends READY=1 and the like. False if that fails, which is logged, and not fatal."""
        if not self._address:
            return False
        where = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # Do not wait for a manager that does not read.
                sender.setblocking(False)
                sender.connect(where)
                socket.send_fds(sender, ["\n".join(lines).encode()], [each.fileno() for each in sockets])
        except OSError as error:
            log.warning("can't reach the service manager at %s to send %s: %s", self._address, lines[0], error)
            return False
        return True

    def take(self, name: str) -> list[socket.socket]:
        """Sockets that were handed over under that name. The caller closes them."""
        taken = [sock for given, sock in self._given if given == name]
        self._given = [(given, sock) for given, sock in self._given if given != name]
        return taken

    def take_all(self, prefix: str) -> dict[str, socket.socket]:
        """Sockets that were handed over under names with that prefix. The caller closes them."""
        names = {name for name, _ in self._given if name.startswith(prefix)}
        taken = {}
        for name in names:
            first, *more = self.take(name)
            taken[name] = first
            for each in more:
                each.close()
        return taken

    def take_unix(self, path: str) -> socket.socket | None:
        """The unix socket that was handed over with that address, under whatever name."""
        for each in self._given:
            if each[1].family == socket.AF_UNIX and each[1].getsockname() == path:
                self._given.remove(each)
                return each[1]
        return None

    def keep(self, name: str, sock: socket.socket) -> None:
        """Has the manager keep the socket, and hand it over to the next process."""
        if self.notify("FDSTORE=1", f"FDNAME={name}", sockets=[sock]):
            self._stored.add(name)

    def forget(self, name: str) -> None:
        """The kept socket of that name is no longer needed. Idempotent."""
        for sock in self.take(name):
            sock.close()
        if name in self._stored:
            self._stored.discard(name)
            self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def forget_others(self, prefix: str, names: Collection[str]) -> None:
        """Gives up kept sockets whose names have that prefix, except these."""
        for name in [each for each in self._stored if each.startswith(prefix) and each not in names]:
            self.forget(name)

    def close(self) -> None:
        """Closes sockets that nobody has taken. Idempotent."""
        for name, sock in self._given:
            log.debug("the service manager handed over socket %s, which is not needed", name)
            sock.close()
        self._given = []


def _take_watchdog(environment: MutableMapping[str, str]) -> float:
    pid, period = (environment.pop(name, "") for name in _WATCHDOG)
    if not period or pid not in ("", str(os.getpid())):
        return 0.0
    if not (period.isascii() and period.isdecimal()) or len(period) > 20:
        raise ParameterError(f"$WATCHDOG_USEC is {period[:40]!r}: must be a number of microseconds")
    return int(period) / 1e6


def _take_sockets(environment: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    pid, count, names = (environment.pop(name, "") for name in _FDS)
    if pid != str(os.getpid()) or not count:
        return []
    if not count.isdecimal() or int(count) > DESCRIPTORS_MAX:
        raise ParameterError(f"$LISTEN_FDS is {count!r}: must be a number of at most {DESCRIPTORS_MAX}")
    given = names.split(":") if names else []
    sockets = []
    for index in range(int(count)):
        descriptor = FIRST_DESCRIPTOR + index
        name = given[index] if index < len(given) else "unknown"
        try:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
            fcntl.fcntl(descriptor, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise ParameterError(
                f"file descriptor {descriptor} ({name}), handed over by the service manager, is not a socket: "
                f"{error.strerror}"
            ) from error
        if not _listens(sock):
            sock.close()
            raise ParameterError(
                f"the socket {name} that the service manager hands over does not listen: use a .socket unit with "
                "ListenStream=, and without Accept=yes"
            )
        sock.setblocking(False)
        sockets.append((name, sock))
    return sockets


def _listens(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False
