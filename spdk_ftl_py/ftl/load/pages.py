"""Where the L2P is if it may not take as much memory as it needs: pages of a file, the busiest of them in memory
(shim/ftl/paged_memory.hpp). The file has no name, and is of no use to a later process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ...conf import FtlConf
from ...errors import ConfError
from ..media.geometry import Geometry

MIB: Final = 1 << 20
CRC_BYTES: Final = 2
PageOptions = Mapping[str, Any]
"""Arguments of CoreConfig and RestoredL2p."""
NO_PAGES: Final[PageOptions] = MappingProxyType({})
"""Everything is in memory."""


@dataclass(frozen=True)
class Pages:
    """The file's directory, and what tests change."""

    folder: Path
    memory: int | None = None
    """In bytes, instead of conf l2p_dram_limit."""
    page_bytes: int = 4096
    threads: bool = True
    """False: nothing depends on when threads run."""


def pages_needed(conf: FtlConf, geometry: Geometry) -> bool:
    """Whether the limit leaves no memory for some of them."""
    return 0 < conf.l2p_dram_limit * MIB < _needed(conf, geometry)


def _needed(conf: FtlConf, geometry: Geometry) -> int:
    return geometry.block_count * (geometry.l2p_entry_bytes + (CRC_BYTES if conf.verify_reads else 0))


def page_options(pages: Pages | None, conf: FtlConf, geometry: Geometry) -> PageOptions:
    """Raises ConfError if not everything may be in memory, and there is no directory."""
    memory = conf.l2p_dram_limit * MIB if pages is None or pages.memory is None else pages.memory
    if memory == 0 or memory >= _needed(conf, geometry):
        return NO_PAGES
    if pages is None:
        raise ConfError(
            f"conf l2p_dram_limit = {conf.l2p_dram_limit}: there is no directory for the pages of the L2P that are not "
            "in memory: give one on a local drive (l2p_dir), or leave the limit out"
        )
    return {
        "page_folder": str(pages.folder),
        "page_memory": memory,
        "page_bytes": pages.page_bytes,
        "page_threads": pages.threads,
    }


def file_error(error: OSError, name: str) -> str:
    """What to say about a PageFileError."""
    return (
        f"{name}: {error.strerror} for the L2P in {error.filename}: make room there, give the daemon another --l2p-dir "
        "on a local drive, or the FTL more memory (conf l2p_dram_limit; 0: all that it needs)"
    )
