"""Drives in memory, or in a file, for scripts that have none."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import _shim
from ..errors import FtlError, ParameterError
from ..runtime.reactor import ReactorLoop
from .block_device import BlockDevice

if TYPE_CHECKING:
    from ..rpcs.parameters import StrPath


class EmulatedMedia(BlockDevice):
    """Emulated media of 4096 B blocks, in the process of the script. They go, and their file is free for another, when
    Python has collected all that used them."""

    @classmethod
    def zns(
        cls,
        reactor: ReactorLoop,
        *,
        zone_count: int,
        zone_blocks: int,
        zone_capacity: int | None = None,
        max_open_zones: int = 0,
        path: StrPath | None = None,
    ) -> EmulatedMedia:
        """A ZNS drive. zone_blocks: size of a zone. zone_capacity: how many blocks of it can be written; all of them
        where it is not given. max_open_zones: also of active ones; 0: any number. path: of a sparse file that keeps
        data and zones (in PATH.zones) when the process ends; None: memory.

        Raises ParameterError for a geometry that makes no sense, or a file of another one, and FtlError where the file
        can't be used, or is used already.
        """
        return cls._made(
            reactor,
            path,
            lambda file: _shim.EmulatedMedia.zns(
                reactor.shim,
                zone_count,
                zone_blocks,
                zone_blocks if zone_capacity is None else zone_capacity,
                max_open_zones=max_open_zones,
                max_active_zones=max_open_zones,
                path=file,
            ),
        )

    @classmethod
    def conventional(cls, reactor: ReactorLoop, *, block_count: int, path: StrPath | None = None) -> EmulatedMedia:
        """A drive without zones: an nv cache, or with zone_capacity a base of an FTL. path, and what it raises: as
        zns()."""
        return cls._made(
            reactor, path, lambda file: _shim.EmulatedMedia.conventional(reactor.shim, block_count, path=file)
        )

    @classmethod
    def _made(
        cls,
        reactor: ReactorLoop,
        path: StrPath | None,
        make: Callable[[str | None], _shim.EmulatedMedia],
    ) -> EmulatedMedia:
        file = None if path is None else os.fspath(path)
        name = "emulated media" if file is None else f"emulated media {file}"
        try:
            return cls(reactor, make(file), name=name)
        except ValueError as error:
            raise ParameterError(f"{name}: {error}") from error
        except OSError as error:
            raise FtlError(f"{name}: {error.strerror or error}: use another file", errno=error.errno) from error
