"""A unix socket at a path where no other process listens. Its owner removes it when it closes it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from ..errors import BusyError, FtlError
from .paths import HeldElsewhereError, lock_file, show_owner
from .peers import command_of, peer_of
from .unix_sockets import OWN_MODE, PATH_BYTES_MAX, check_place

LOCK_SUFFIX: Final = ".spdk-ftl.lock"
"""Of its own: the owner removes the file, and PATH.lock could be somebody else's (/etc/.pwd.lock)."""
_ATTEMPTS: Final = 100
"""To lock a file that its owner has not removed meanwhile."""


class OwnedSocket:
    """Listens at the path, with mode 0600, until close(). A file ``PATH.spdk-ftl.lock`` keeps other processes of this
    package out; close() removes both."""

    def __init__(self, path: Path, what: str, remedy: str, *, backlog: int) -> None:
        """what, remedy: for messages, such as ``NBD socket`` and ``give another with --socket``. Replaces a socket at
        which no process listens.

        Raises BusyError if a process listens there, FtlError if the path can't be used. Nothing is left then.
        """
        self.path = path.absolute()
        self._what = f"{what} {self.path}"
        self._remedy = remedy
        self._check_file()
        check_place(self.path, what, remedy)
        self._lock: int | None = self._take_lock()
        try:
            self._remove_stale()
            self.socket = self._bind(backlog)
        except BaseException:
            self._drop_lock()
            raise
        self._identity = _identity(self.path)

    def close(self) -> None:
        """Removes the socket, unless somebody has put another in its place. Idempotent."""
        self.socket.close()
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        self._drop_lock()

    @property
    def _lock_path(self) -> str:
        return f"{self.path}{LOCK_SUFFIX}"

    def _take_lock(self) -> int:
        for _ in range(_ATTEMPTS):
            try:
                lock = lock_file(self._lock_path, f"{self._what}: its lock {self._lock_path}")
            except HeldElsewhereError:
                raise self._busy(self._probe() or "somebody") from None
            except FtlError as error:
                raise FtlError(f"{error.message}, or {self._remedy}", errno=error.errno) from error
            # Its owner may have removed it between our open() and flock().
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._lock_path), os.fstat(lock)):
                    return lock
            os.close(lock)
        raise self._busy("somebody")

    def _drop_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._lock_path)
            os.close(lock)

    def _check_file(self) -> bool:
        """Whether there is a socket. Raises FtlError if the path can't be that of one."""
        if len(os.fsencode(self.path)) > PATH_BYTES_MAX:
            raise FtlError(
                f"{self._what}: the path is longer than {PATH_BYTES_MAX} bytes: {self._remedy}",
                errno=errno.ENAMETOOLONG,
            )
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FtlError(f"{self._what}: {error.strerror}: {self._remedy}", errno=error.errno) from error
        if not stat.S_ISSOCK(mode):
            raise FtlError(
                f"{self._what}: is a file{show_owner(self.path)}, not a socket: remove it, or {self._remedy}",
                errno=errno.EEXIST,
            )
        return True

    def _remove_stale(self) -> None:
        if not self._check_file():
            return
        who = self._probe()
        if who is not None:
            raise self._busy(who)
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise FtlError(
                f"{self._what}: an unused socket{show_owner(self.path)} is there, and it can't be removed "
                f"({error.strerror}): remove it, or {self._remedy}",
                errno=error.errno,
            ) from error

    def _probe(self) -> str | None:
        """Who listens there. Raises FtlError if that can't be found out."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # A full backlog must not block us.
            probe.setblocking(False)
            try:
                probe.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                return None
            except BlockingIOError:
                return "somebody"
            except OSError as error:
                raise FtlError(
                    f"{self._what}: a socket{show_owner(self.path)} is there, and it can't be checked "
                    f"({error.strerror}): remove it, or {self._remedy}",
                    errno=error.errno,
                ) from error
            peer = peer_of(probe)
            return "somebody" if peer is None else f"{peer}{command_of(peer.pid)}"

    def _busy(self, who: str) -> BusyError:
        return BusyError(f"{self._what}: {who} is listening there already: end that, or {self._remedy}")

    def _bind(self, backlog: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self.path))
            # Until it listens, nobody can connect, whatever the umask let bind() make.
            os.chmod(self.path, OWN_MODE)
            listener.listen(backlog)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise FtlError(
                f"{self._what} can't be created: {error.strerror}: {self._remedy}", errno=error.errno
            ) from error
        return listener


def _identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
