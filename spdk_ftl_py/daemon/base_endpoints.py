"""Where targets serve bases and caches by vfio-user to the daemon."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import Final
from uuid import UUID

from ..errors import FtlError
from .preflight import is_in_memory
from .state import default_buffer_directory, make_buffer_directory

ROLES: Final = (".base", ".cache")
LEFT_S: Final = 3600.0
"""An endpoint that has been empty for so long is nobody's: whoever makes one has the target serve it at once."""


def base_endpoint(buffer_dir: Path | None, device: UUID, role: str) -> Path | None:
    """The endpoint of an FTL's base or cache bdev (role: "base" or "cache"). None: the daemon has no place for it."""
    directory = None if buffer_dir is None else _in_memory(buffer_dir)
    return None if directory is None else directory / f"{device}.{role}"


@functools.cache
def _in_memory(buffer_dir: Path) -> Path | None:
    """The target puts the controller's doorbells into the endpoint, and the I/O threads write them. A file system on a
    disk could keep them waiting."""
    if is_in_memory(buffer_dir):
        remove_left_endpoints(buffer_dir)
        return buffer_dir
    try:
        directory = make_buffer_directory(default_buffer_directory())
    except FtlError:
        return None
    remove_left_endpoints(directory)
    return directory if is_in_memory(directory) else None


def remove_left_endpoints(directory: Path) -> None:
    """Removes what FTLs have left that were never deleted. An FTL that still needs its directory makes it again."""
    with contextlib.suppress(OSError):
        for each in directory.iterdir():
            with contextlib.suppress(OSError):
                if each.suffix in ROLES and time.time() - each.stat().st_mtime >= LEFT_S:
                    each.rmdir()
