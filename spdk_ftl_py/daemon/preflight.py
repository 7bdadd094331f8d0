"""The checks of `spdk-ftl serve` before it accepts orders: for settings that can't work on this machine.

A check changes nothing, or undoes what it has changed. Each failure names the option, the fault, and the remedy.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import mmap
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ..access.paths import open_directory
from ..errors import FtlError
from ..runtime.descriptors import raise_descriptor_limit
from ..runtime.sockets import is_of_several_machines
from .checks import split_address
from .export_sockets import ExportSockets

DESCRIPTORS_MIN: Final = 128
"""What the daemon itself needs: sockets for 64 orders at a time, files, and one FTL with its base."""
PROBE_BYTES: Final = 1 << 20
"""Less than the write buffer of any FTL takes by default."""
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_PORTS_OF_ROOT: Final = 1024
_ANY: Final = frozenset({"0.0.0.0", "::"})
_ANOTHER_BUFFER_DIR: Final = "give another with --buffer-dir"

log = logging.getLogger(__name__)


def check_descriptors() -> None:
    """Raises the limit of open files as far as possible. Raises FtlError if it is too low even then."""
    limit = raise_descriptor_limit()
    if limit < DESCRIPTORS_MIN:
        raise FtlError(
            f"the limit of open files is {limit}: the daemon needs {DESCRIPTORS_MIN} at least, and about 20 more for "
            "each FTL and 1 for each connection of a host: raise the hard limit (ulimit -Hn; LimitNOFILE= of a systemd "
            "unit)",
            errno=errno.EMFILE,
        )


def check_listen(listen: str, kept: ExportSockets) -> None:
    """Raises FtlError if no export can listen there now. kept: addresses that only this daemon can use."""
    host, port = split_address(listen)
    shown = f"--listen {listen}"
    if is_of_several_machines(host):
        raise FtlError(
            f"{shown}: is an address of several machines, at which nobody can connect: give an address of this machine",
            errno=errno.EADDRNOTAVAIL,
        )
    if kept.has(host, port):
        return
    family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # As listening_socket() does: who listens at the same port by IPv4 is in nobody's way.
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        raise FtlError(f"{shown}: {_why_not(error, port)}", errno=error.errno or errno.EIO) from error


def check_apart(listen: str, others: Mapping[str, tuple[str, int]]) -> None:
    """others: where else the daemon listens, by option and its value. Raises FtlError if exports could never listen at
    ``listen``."""
    host, port = split_address(listen)
    for other, (other_host, other_port) in others.items():
        same_family = (":" in host) == (":" in other_host)
        if port and port == other_port and same_family and (host == other_host or _ANY & {host, other_host}):
            raise FtlError(
                f"--listen {listen}: {other} takes that port: give each another port, or leave it out of --listen for "
                "a free one",
                errno=errno.EADDRINUSE,
            )


def _why_not(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "no network interface of this machine has that address: give one that `ip address` lists, or start the "
            "daemon after the network is up (network-online.target)"
        )
    if error.errno == errno.EADDRINUSE:
        return f"another program listens at port {port}: end it, give another port, or none for a free one"
    if error.errno in (errno.EACCES, errno.EPERM) and port < _PORTS_OF_ROOT:
        return (
            f"only root may listen at port {port}: give a port from {_PORTS_OF_ROOT} on (NVMe/TCP has 4420), or give "
            "the daemon CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6: give an IPv4 address"
    return f"{error.strerror}: give another address"


def check_l2p_directory(path: Path) -> None:
    """Raises FtlError unless it is a directory of this user alone. Whether it has room, each FTL finds out."""
    os.close(open_directory(path, "L2P directory", "give another with --l2p-dir"))


def check_buffer_directory(path: Path) -> None:
    """The directory exists. Raises FtlError if no write buffer could be made there; warns if it is not in memory."""
    shown = f"buffer directory {path}"
    folder = open_directory(path, "buffer directory", _ANOTHER_BUFFER_DIR)
    name = f".probe.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                os.posix_fallocate(descriptor, 0, PROBE_BYTES)
                with mmap.mmap(descriptor, PROBE_BYTES) as memory:
                    memory[0] = 1
            finally:
                os.close(descriptor)
                os.unlink(name, dir_fd=folder)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.ENODEV
            if number in (errno.ENOSPC, errno.EDQUOT):
                raise FtlError(
                    f"{shown}: its file system is full ({os.strerror(number)}), and an FTL needs 6 MiB there by "
                    "default: make room (`ls -l` there; `df` names the file system), enlarge it (mount -o "
                    f"remount,size=), or {_ANOTHER_BUFFER_DIR}",
                    errno=number,
                ) from error
            raise FtlError(
                f"{shown}: no write buffer can be made there ({os.strerror(number)}): {_ANOTHER_BUFFER_DIR}, in memory "
                "(a tmpfs such as /dev/shm)",
                errno=number,
            ) from error
        kind = _file_system(os.fstat(folder).st_dev)
        if kind and kind not in IN_MEMORY:
            log.warning(
                "%s is on a disk (%s), not in memory, so the kernel writes all of it there: use a tmpfs (/dev/shm)",
                shown,
                kind,
            )
    finally:
        os.close(folder)


def is_in_memory(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return _file_system(directory.stat().st_dev) in IN_MEMORY
    return False


def _file_system(device: int) -> str:
    """Its type; empty if the kernel does not tell."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""


class NewDirectories:
    """Those of these directories, and of their parents, that do not exist yet; and those of these files. Use as
    ``with``: if it is left with an error before keep(), it removes them, as far as they are empty."""

    def __init__(self, *paths: Path, files: Sequence[Path] = ()) -> None:
        self._files = [each for each in files if not os.path.lexists(each)]
        wanted = [each for path in map(Path.absolute, paths) for each in (path, *path.parents)]
        missing = {each for each in wanted if not os.path.lexists(each)}
        self._missing = sorted(missing, key=lambda path: len(path.parts), reverse=True)

    def keep(self) -> None:
        self._missing, self._files = [], []

    def __enter__(self) -> NewDirectories:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            return
        for each in self._files:
            with contextlib.suppress(OSError):
                found = each.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_size == 0:
                    each.unlink()
        for each in self._missing:
            with contextlib.suppress(OSError):
                each.rmdir()
