"""Unix sockets of ours: where they are by default, and how they come to be."""

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
"""What the address of a unix socket has room for."""


def run_directory() -> Path:
    """/run/spdk-ftl for root, $XDG_RUNTIME_DIR/spdk-ftl for others.

    Raises ParameterError for others without that: a directory that everybody can write to is no place for it, since
    whoever is there first has the name.
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
    """Of root everybody may enter it, so that members of --socket-group get to the socket, and nobody else write.
    Raises FtlError."""
    mode = 0o755 if own_uid() == ROOT else 0o700
    os.close(open_directory(path, "directory of the control socket", "give --socket", make=True, mode=mode))


def check_place(path: Path, what: str, remedy: str) -> None:
    """Raises FtlError where somebody else could put another socket there, or the directory can't be looked at. A sticky
    one, as /tmp, will do: what is there belongs to who made it."""
    check_parents(path, what, remedy)
    parent = path.absolute().parent
    found = os.stat(parent)
    if not found.st_mode & stat.S_ISVTX:
        check_directory(found, parent, f"{what} {path}: its directory", remedy)


def bind(path: str, mode: int = OWN_MODE, group: int | None = None) -> socket.socket:
    """A socket that is bound, and not listened on. Whatever the umask, its mode is right from the first instant, and
    the group's comes last. Raises OSError, ValueError for a path that is too long."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Of the whole process: nothing else runs in it yet.
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
