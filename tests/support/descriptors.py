"""What this process has open."""

from __future__ import annotations

import contextlib
import os

Descriptors = frozenset[tuple[int, int, int]]


def open_descriptors() -> Descriptors:
    """(descriptor, device, inode) of each."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        # The directory's own descriptor is closed by now.
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            found.add((int(name), status.st_dev, status.st_ino))
    return frozenset(found)


def opened_since(before: Descriptors) -> Descriptors:
    """A count would not do: what earlier tests left to the garbage collector may be closed at any moment."""
    return open_descriptors() - before
