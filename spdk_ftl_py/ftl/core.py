"""Makes the shim's FtlCore for a conf and geometry."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from uuid import UUID

from .. import _shim
from ..conf import FtlConf, write_buffer_blocks
from ..errors import ConfError, FtlError
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import to_its_end
from ..runtime.turns import aside
from .media.geometry import BLOCK_BYTES, Geometry


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
) -> _shim.FtlCore:
    """An FtlCore for a conf and geometry. media_uuid: the uuid in its records on the base, if that differs. Raises
    ConfError if its pools can't be made, FtlError if the write buffer file can't be made."""
    try:
        bands = await aside(geometry.zone_count, geometry.band_zone_starts)
        making = functools.partial(
            _shim.FtlCore,
            reactor.shim,
            base,
            uuid=uuid.bytes,
            media_uuid=(media_uuid or uuid).bytes,
            block_count=geometry.block_count,
            bands=bands,
            zone_size=geometry.zone_size,
            zone_capacity=geometry.zone_capacity,
            batch_blocks=geometry.batch_blocks,
            use_append=conf.use_append,
            shared_stream=geometry.shared_stream,
            finish_zones=geometry.finish_zones,
            write_buffer_blocks=buffer_blocks or write_buffer_blocks(conf, geometry),
            write_buffer_path=None if buffer is None else str(buffer),
            max_reloc_qdepth=conf.max_reloc_qdepth,
            max_active_relocs=conf.max_active_relocs,
            band_threshold=conf.band_thld,
            next_seq=next_seq,
            verify_reads=conf.verify_reads,
            no_data=no_data,
        )
        made: list[_shim.FtlCore] = []
        try:
            await to_its_end(aside(geometry.zone_count, lambda: made.append(making())))
        except asyncio.CancelledError:
            # Otherwise its reactor would hold it for ever.
            for core in made:
                core.close()
            raise
        return made[0]
    except (ValueError, MemoryError) as error:
        raise ConfError(f"can't create the FTL's data path: {error}") from error
    except OSError as error:
        wanted = (buffer_blocks or write_buffer_blocks(conf, geometry)) * BLOCK_BYTES
        raise FtlError(
            f"can't create the write buffer file {buffer} of {wanted} bytes ({os.strerror(error.errno or 0)}): make "
            "room there, give the daemon another --buffer-dir, or the FTL a smaller write_buffer_size",
            errno=error.errno,
        ) from error
