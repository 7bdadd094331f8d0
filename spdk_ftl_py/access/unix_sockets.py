"""The unix sockets of this package: their default paths, and how they are created."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from ..errors import ParameterError
from .paths import check_directory, check_parents, open_directory
from .users import ROOT, own_uid

RUN_DIRECTORY: Final = "/run/spdk-ftl"
SOCKET_NAME: Final = "spdk-ftl.sock"
RUNTIME_ENVIRONMENT: Final = "XDG_RUNTIME_DIR"
OWN_MODE: Final = 0o600
GROUP_MODE: Final = 0o660
PATH_BYTES_MAX: Final = 107
"""The longest path in the address of a unix socket."""


def run_directory() -> Path:
    """/run/spdk-ftl for root, $XDG_RUNTIME_DIR/spdk-ftl for others.

    Raises ParameterError for others if that variable is not set: in a directory that everybody can write to, the first
    user to come could take the name.
    """
    if own_uid() == ROOT:
        return Path(RUN_DIRECTORY)
    given = os.environ.get(RUNTIME_ENVIRONMENT, "")
    if not given.startswith("/"):
        raise ParameterError(
            f"no place for the control socket: ${RUNTIME_ENVIRONMENT} is not set (a login session sets it, usually to "
            "/run/user/UID): set it, or name a socket with --socket or $SPDK_FTL_SOCK, in a directory that only you "
            "can write to"
        )
    return Path(given) / "spdk-ftl"


def make_run_directory(path: Path) -> None:
    """Creates the directory. Everybody may enter root's, so that members of --socket-group get to the socket, but
    nobody else can write to it. Raises FtlError."""
    mode = 0o755 if own_uid() == ROOT else 0o700
    os.close(open_directory(path, "directory of the control socket", "give --socket", make=True, mode=mode))


def check_place(path: Path, what: str, remedy: str) -> None:
    """Raises FtlError if another user could put another socket there, or the directory can't be checked. A sticky
    directory such as /tmp is allowed: files there belong to their creators."""
    check_parents(path, what, remedy)
    parent = path.absolute().parent
    found = os.stat(parent)
    if not found.st_mode & stat.S_ISVTX:
        check_directory(found, parent, f"{what} {path}: its directory", remedy)


def bind(path: str, mode: int = OWN_MODE, group: int | None = None) -> socket.socket:
    """A socket that is bound, but does not listen. Whatever the umask is, its mode is right from the start, and its
    group is set last. Raises OSError; ValueError for a path that is too long."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The umask belongs to the whole process: nothing else runs in it yet.
    umask = os.umask(0o177)
    try:
        listener.bind(path)
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
        if mode != OWN_MODE:
            os.chmod(path, mode)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener
