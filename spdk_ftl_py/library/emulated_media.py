"""Emulated drives, in memory or in a file, for scripts without hardware."""

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
    """Emulated media with blocks of 4096 B, in the process of the script. The media are released, and their file can be
    used again, when Python has collected everything that used them."""

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
        """A ZNS drive. zone_blocks: size of a zone. zone_capacity: writable blocks of a zone; default: all.
        max_open_zones: also the limit of active zones; 0: no limit. path: a sparse file that keeps data, and PATH.zones
        with the zones, when the process ends; None: memory.

        Raises ParameterError for an impossible geometry, or a file of another one, and FtlError if the file can't be
        used, or is in use.
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
        """A drive without zones: for an nv cache, or with zone_capacity for the base of an FTL. path and errors: as
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
