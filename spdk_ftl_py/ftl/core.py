"""Makes and closes the shim's FtlCore for a conf and geometry."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from typing import Final
from uuid import UUID

from .. import _shim
from ..conf import FtlConf, write_buffer_blocks
from ..errors import ConfError, FtlError, MediaError, MemoryShortError
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import to_its_end
from ..runtime.turns import aside
from ..runtime.waiting import until
from .load.pages import NO_PAGES, PageOptions, file_error
from .media.geometry import BLOCK_BYTES, Geometry

CLOSE_TIMEOUT_S: Final = 10.0
CLOSE_INTERVAL_S: Final = 0.002
_OF_THE_CORE: Final = (
    *("lba_rsvd", "write_buffer_size", "band_thld", "max_reloc_qdepth", "nv_cache", "use_append", "verify_reads"),
    "l2p_dram_limit",
)
"""Settings that the core gets at its construction."""


async def make_core(
    reactor: ReactorLoop,
    base: _shim.BlockDevice,
    uuid: UUID,
    conf: FtlConf,
    geometry: Geometry,
    *,
    next_seq: int = 1,
    buffer: Path | None = None,
    buffer_blocks: int = 0,
    no_data: bool = False,
    media_uuid: UUID | None = None,
    pages: PageOptions = NO_PAGES,
) -> _shim.FtlCore:
    """An FtlCore for a conf and geometry. media_uuid: the uuid in its records on the base, if that differs. pages: of
    its L2P, unless it takes over a table. Raises ConfError if its pools can't be made, MemoryShortError, FtlError if
    the file for its write buffer or pages can't be made."""
    try:
        bands = await aside(geometry.zone_count, geometry.band_zone_starts)
        config = functools.partial(
            _shim.CoreConfig,
            uuid=uuid.bytes,
            media_uuid=(media_uuid or uuid).bytes,
            block_count=geometry.block_count,
            bands=bands,
            zone_size=geometry.zone_size,
            zone_capacity=geometry.zone_capacity,
            batch_blocks=geometry.batch_blocks,
            use_append=conf.use_append,
            shared_stream=geometry.shared_stream,
            # Whatever the policy has: another one may come under I/O. docs/performance.md, "Memory of open bands".
            classes_max=max(2, geometry.classes_max),
            finish_zones=geometry.finish_zones,
            flush_zone_starts=isinstance(base, _shim.ZonedOverlay),
            write_buffer_blocks=buffer_blocks or write_buffer_blocks(conf, geometry),
            write_buffer_path=None if buffer is None else str(buffer),
            max_reloc_qdepth=conf.max_reloc_qdepth,
            max_active_relocs=conf.max_active_relocs,
            band_threshold=conf.band_thld,
            next_seq=next_seq,
            verify_reads=conf.verify_reads,
            no_data=no_data,
            **pages,
        )
        made: list[_shim.FtlCore] = []
        try:
            await to_its_end(
                aside(geometry.zone_count, lambda: made.append(_shim.FtlCore(reactor.shim, base, config())))
            )
        except asyncio.CancelledError:
            # Otherwise its reactor would hold it forever.
            for core in made:
                core.close()
            raise
        return made[0]
    except MemoryError as error:
        raise MemoryShortError(
            f"there is not enough memory for the FTL's data path: {error}: end other programs; this can be repeated"
        ) from error
    except ValueError as error:
        raise ConfError(f"can't create the FTL's data path: {error}") from error
    except _shim.PageFileError as error:
        raise FtlError(file_error(error, "can't create the FTL's data path"), errno=error.errno) from error
    except OSError as error:
        wanted = (buffer_blocks or write_buffer_blocks(conf, geometry)) * BLOCK_BYTES
        raise FtlError(
            f"can't create the write buffer file {buffer} of {wanted} bytes ({os.strerror(error.errno or 0)}): make "
            "room there, give the daemon another --buffer-dir, or the FTL a smaller write_buffer_size",
            errno=error.errno,
        ) from error


def core_serves(made: FtlConf, conf: FtlConf, *, cached: bool) -> bool:
    """Whether a core that was made with the one conf can continue with the other. cached: with an nv cache."""
    counts = [name for name in _OF_THE_CORE if cached or name != "nv_cache"]
    same = all(getattr(conf, name) == getattr(made, name) for name in counts)
    return same and conf.max_active_relocs <= made.max_active_relocs


async def end_core(core: _shim.FtlCore, name: str) -> None:
    """Returns when the core is closed. Idempotent. Raises MediaError if the base does not complete outstanding I/O.
    Then the core stays closed to all I/O, and is released when the base is."""
    if not await until(core.begin_close, timeout_s=CLOSE_TIMEOUT_S, poll_s=CLOSE_INTERVAL_S):
        raise MediaError(
            f"{name}: the base device has not answered for {CLOSE_TIMEOUT_S:g} s: outstanding I/O "
            "cannot complete until it answers"
        )


def close_core(reactor: ReactorLoop, core: _shim.FtlCore) -> None:
    """Closes the core of a device that never began to serve."""
    reactor.unsubscribe(core.id)
    core.close()
