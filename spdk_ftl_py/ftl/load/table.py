"""The table that a load fills: the L2P of the FTL, which the core takes over (shim/ftl/restored_l2p.hpp)."""

from __future__ import annotations

from ... import _shim
from ..media.geometry import Geometry
from .pages import PageOptions


def empty_table(
    geometry: Geometry,
    base_blocks: int,
    pages: PageOptions,
    *,
    with_crcs: bool,
    with_seqs: bool = True,
    many_seqs: bool = True,
) -> _shim.RestoredL2p:
    """base_blocks: of the whole base. pages: as page_options() has them. many_seqs: most LBAs will have a seq. Raises
    MemoryError, OSError if there is no room for pages."""
    return _shim.RestoredL2p(
        geometry.block_count,
        base_blocks,
        zone_size=geometry.zone_size,
        zone_capacity=geometry.zone_capacity,
        with_crcs=with_crcs,
        with_seqs=with_seqs,
        many_seqs=many_seqs,
        **pages,
    )
