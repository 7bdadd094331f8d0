"""Users and groups of this machine, by number and name."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path
from typing import Final

from ..errors import ParameterError

ROOT: Final = 0
_OVERFLOW_UID: Final = 65534
_ID_MAX: Final = (1 << 32) - 2


def show_user(uid: int) -> str:
    """For messages: ``user alice (uid 1000)``."""
    if is_unmapped(uid):
        return f"a user without a number in this user namespace (uid {uid})"
    with contextlib.suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"user {uid}"


def show_group(gid: int) -> str:
    """For messages: ``group disk (gid 6)``."""
    with contextlib.suppress(KeyError):
        return f"group {grp.getgrgid(gid).gr_name} (gid {gid})"
    return f"group {gid}"


def uid_of(user: str) -> int:
    """The number of a user, given by name or number. Raises ParameterError."""
    try:
        return _number(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise ParameterError(f"there is no user {user!r}: give the name or number of an existing one") from None


def gid_of(group: str) -> int:
    """The number of a group, given by name or number. Raises ParameterError."""
    try:
        return _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ParameterError(f"there is no group {group!r}: give the name or number of an existing one") from None


def is_unmapped(uid: int) -> bool:
    """The number that the kernel shows for every user without a number in this user namespace; only if the namespace
    lacks some. Otherwise it is an ordinary user, usually nobody."""
    return uid == _overflow_uid() and not _has_all_users()


def _number(text: str) -> int:
    number = int(text)
    if number > _ID_MAX:
        raise ValueError(text)
    return number


def _overflow_uid() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return _OVERFLOW_UID


def _has_all_users() -> bool:
    """This process is not in a user namespace of its own, as some containers are."""
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return True
    return sum(int(line.split()[2]) for line in lines) > _ID_MAX


def own_uid() -> int:
    return os.geteuid()
