"""Where targets serve bases and caches by vfio-user to the daemon."""

from __future__ import annotations

import functools
from pathlib import Path
from uuid import UUID

from ..errors import FtlError
from .preflight import is_in_memory
from .state import default_buffer_directory, make_buffer_directory


def base_endpoint(buffer_dir: Path | None, device: UUID, role: str) -> Path | None:
    """The endpoint of an FTL's base or cache bdev (role: "base" or "cache"). None: the daemon has no place for it."""
    directory = None if buffer_dir is None else _in_memory(buffer_dir)
    return None if directory is None else directory / f"{device}.{role}"


@functools.cache
def _in_memory(buffer_dir: Path) -> Path | None:
    """The target puts the controller's doorbells into the endpoint, and the I/O threads write them. A file system on a
    disk could keep them waiting."""
    if is_in_memory(buffer_dir):
        return buffer_dir
    try:
        directory = make_buffer_directory(default_buffer_directory())
    except FtlError:
        return None
    return directory if is_in_memory(directory) else None
