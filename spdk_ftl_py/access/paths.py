"""Directories and files that no other user can replace, redirect or lock.

A user who can write to a directory controls what its names stand for. So a directory that this package keeps files in
must belong to the user who runs it, or to root; nobody else may be able to write to it, or to put another in its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from ..errors import BusyError, FtlError
from .users import ROOT, is_unmapped, own_uid, show_user

OTHERS_WRITE: Final = 0o022
OTHERS_DO_ANYTHING: Final = 0o077
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_trusted_owner(uid: int) -> bool:
    return uid in (own_uid(), ROOT) and not is_unmapped(uid)


def open_directory(path: Path, what: str, remedy: str, *, make: bool = False, mode: int = 0o700) -> int:
    """A descriptor of the directory, for names relative to it. make: creates it with that mode, and its parents, if it
    is missing.

    what, remedy: for messages, ``state directory`` and ``give another with --state-dir``. Raises FtlError unless the
    path is a directory of this user in which nobody else can write, and not a link.
    """
    path = path.absolute()
    shown = f"{what} {path}"
    try:
        if make and not os.path.lexists(path):
            for parent in reversed(path.parents):
                if not parent.exists():
                    # Its own mode, because the umask might let everybody write.
                    _make(parent, 0o755)
            _make(path, mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        owner = show_owner(path)
        if path.is_symlink():
            where = os.path.realpath(path)
            raise FtlError(
                f"{shown} is a symbolic link{owner}, which is not followed: give {where} itself, remove the link, or "
                f"{remedy}",
                errno=errno.ELOOP,
            ) from error
        if error.errno == errno.ENOTDIR and os.path.lexists(path):
            raise FtlError(
                f"{shown}: is not a directory{owner}: remove it, or {remedy}", errno=errno.ENOTDIR
            ) from error
        raise FtlError(f"{shown} can't be used: {error.strerror}{owner}: {remedy}", errno=error.errno) from error
    try:
        check_directory(os.fstat(descriptor), path, what, remedy)
        check_parents(path, what, remedy)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make(path: Path, mode: int) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)


def check_directory(found: os.stat_result, path: Path, what: str, remedy: str) -> None:
    """Raises FtlError if the directory belongs to another user, or another user can write to it."""
    if not is_trusted_owner(found.st_uid):
        raise FtlError(
            f"{what} {path} belongs to {show_user(found.st_uid)}, not to {show_user(own_uid())} who runs this: "
            f"remove it, or `chown {own_uid()} {path}` if its content is yours, or {remedy}",
            errno=errno.EPERM,
        )
    if found.st_mode & OTHERS_WRITE:
        raise FtlError(
            f"{what} {path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}): check its content, "
            f"then `chmod go-w {path}`, or {remedy}",
            errno=errno.EPERM,
        )


def check_parents(path: Path, what: str, remedy: str) -> None:
    """Checks the parents of a path whose last part was checked already. Raises FtlError if another user can replace any
    of them.

    Sticky directories such as /tmp are allowed: users can't rename there what is not theirs. A group that may write to
    a parent is accepted, because its owner allowed that. A parent whose owner has no number in this user namespace
    can't be judged, and counts as the machine's.
    """
    last = Path(os.path.realpath(path.absolute().parent))
    for parent in (last, *last.parents):
        try:
            found = os.stat(parent)
        except OSError as error:
            raise FtlError(f"{what} {path}: {parent}: {error.strerror}: {remedy}", errno=error.errno) from error
        if not is_trusted_owner(found.st_uid) and not is_unmapped(found.st_uid):
            why, mend = f"belongs to {show_user(found.st_uid)}", f"`chown {own_uid()} {parent}`"
        elif found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            why, mend = f"can be written by everybody (mode {stat.S_IMODE(found.st_mode):04o})", f"`chmod o-w {parent}`"
        else:
            continue
        raise FtlError(
            f"{what} {path}: its directory {parent} {why}, so anybody with that right could replace it: {mend}, or "
            f"{remedy}",
            errno=errno.EPERM,
        )


def open_file(name: str | Path, flags: int, what: str, *, directory: int | None = None) -> int:
    """Opens a regular file of this user that nobody else can write; created with mode 0600 if flags have O_CREAT. Does
    not follow links, and does not block. Raises OSError as open(2) does, FtlError if the file belongs to another
    user."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        check_file(os.fstat(descriptor), what, OTHERS_WRITE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_file(found: os.stat_result, what: str, forbidden: int) -> None:
    """what: names the file in messages. forbidden: mode bits. Raises FtlError."""
    if not stat.S_ISREG(found.st_mode):
        raise FtlError(f"{what} is not a file{_owner(found)}: remove it", errno=errno.EEXIST)
    if not is_trusted_owner(found.st_uid):
        raise FtlError(
            f"{what} belongs to {show_user(found.st_uid)}, not to {show_user(own_uid())} who runs this: remove it",
            errno=errno.EPERM,
        )
    if found.st_mode & forbidden:
        raise FtlError(
            f"{what} is open to others (mode {stat.S_IMODE(found.st_mode):04o}): check its content, then `chmod 600` "
            "it",
            errno=errno.EPERM,
        )


class HeldElsewhereError(BusyError):
    """Another process holds the lock."""


def lock_file(name: str | Path, what: str, *, directory: int | None = None) -> int:
    """A descriptor that holds the lock until it is closed.

    what: names the lock in messages. Raises HeldElsewhereError; FtlError if the lock can't be taken, or if others could
    take it: a user who may open a file may also lock it.
    """
    path = Path(name)
    try:
        descriptor = open_file(name, os.O_RDWR | os.O_CREAT, what, directory=directory)
    except OSError as error:
        owner = show_owner(path, directory=directory)
        # A kernel that protects links in sticky directories returns another error for them.
        reason = "is a symbolic link" if _is_link(path, directory) else f"can't be opened: {error.strerror}"
        remedy = "make room in its file system, and make that writable" if error.errno in _NO_ROOM else "remove it"
        raise FtlError(f"{what}: {reason}{owner}: {remedy}", errno=error.errno) from error
    try:
        check_file(os.fstat(descriptor), what, OTHERS_DO_ANYTHING)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HeldElsewhereError(f"{what} is held by another process") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def show_owner(path: Path, *, directory: int | None = None) -> str:
    """For messages: ``, of user alice (uid 1000)``; empty if the file is missing, or belongs to this user."""
    try:
        found = os.lstat(path) if directory is None else os.stat(path, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return ""
    return _owner(found)


def _is_link(path: Path, directory: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _owner(found: os.stat_result) -> str:
    return "" if found.st_uid == own_uid() else f", of {show_user(found.st_uid)}"
