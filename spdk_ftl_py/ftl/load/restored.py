"""The result of a load: the FTL as it was, and what the load has to do to its zones."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import FtlConf
from ..media.band import FREE, SHIM_STATES
from ..media.geometry import Geometry
from ..media.superblock import Beside, Superblock
from ..media.zone import ACTIVE_STATES, EMPTY, Zone
from .held import Recovered, RecoveredBlock, RecoveredRecord
from .history import History
from .running import Turn
from .summaries import WalkedZone

log = logging.getLogger(__name__)

DAMAGE_TOLD_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class LoadedBand:
    state: str
    seq: int
    write_pointers: list[int]


@dataclass
class Restored:
    """Everything that FtlDevice needs to continue an FTL."""

    superblock: Superblock
    superblock_zone: int
    """The zone of the newest superblock (0 or 1). The next field says how much of that zone is used."""
    superblock_used: int
    geometry: Geometry
    conf: FtlConf
    bands: list[LoadedBand]
    table: _shim.RestoredL2p
    """The L2P, and the CRC of each LBA's block on media, cut (layout.cut_crcs()), if reads are verified. The core takes
    its memory over, and it is empty then."""
    next_seq: int
    next_band_seq: int
    history: History
    zones_to_finish: list[int]
    """Start addresses of open zones in bands that the FTL no longer writes."""
    zones_to_empty: list[int]
    """Start addresses of open zones without data in free bands."""
    zones_to_reset: list[int]
    """Start addresses of spare zones that are not empty, and of zones of an L2P checkpoint."""
    damage: list[str] = field(default_factory=list)
    lost_blocks: int = 0
    """LBAs that read as an error from this load on."""
    torn_blocks: int = 0
    """Blocks that were cut off. Their writes were not flushed."""
    from_checkpoint: bool = False
    turn: Turn | None = None
    """The running checkpoint that the load has used, and keeps. Its zones are not reset."""
    from_turn: bool = False
    """The load has used a running checkpoint."""
    recovered: list[Recovered] = field(default_factory=list)
    """Held writes that are newer than everything on media, in ascending seq. ``l2p`` does not contain them."""

    superblock_beside: Beside = Beside.INACTIVE
    """The superblock zone without the newest superblock."""
    bands_to_reset: list[int] = field(default_factory=list)
    """Bands that count as free: media do not need their content, and without them no band would be left for recovered
    data. The load resets them, after a flush, before it recovers anything."""
    walked: list[WalkedZone] = field(default_factory=list)
    """Emulated zones that get a summary (summaries.py)."""
    counts: _shim.L2pCounts | None = None
    """Of the table, if it was counted."""
    mapped_blocks: int = 0
    """Entries that the core has got."""
    zones_to_take: list[int] = field(default_factory=list)
    """Start addresses of zones that this load adds (grow.py). Their content is unknown. The load erases them before the
    superblock lists them."""

    def give_up_turn(self) -> None:
        """The running checkpoint is not kept: the load resets its zones."""
        if self.turn is not None:
            self.zones_to_reset += [self.geometry.zone_start(zone) for zone in self.turn.zones]
            self.turn = None

    @property
    def recovered_blocks(self) -> int:
        return sum(1 for item in self.recovered if isinstance(item, RecoveredBlock))

    @property
    def recovered_records(self) -> int:
        return sum(1 for item in self.recovered if isinstance(item, RecoveredRecord))

    def band_arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
        """States, seqs and (bands, punits) write pointers, as FtlCore.load_bands() takes them."""
        code = {state: number for number, state in enumerate(SHIM_STATES)}
        return (
            np.array([code[band.state] for band in self.bands], np.uint8),
            np.array([band.seq for band in self.bands], np.uint64),
            np.array([band.write_pointers for band in self.bands], np.uint64).reshape(len(self.bands), -1),
        )

    @property
    def l2p(self) -> NDArray[np.uint64]:
        """A copy of the whole table: 8 B for each LBA."""
        return self.table.l2p(0, self.table.block_count)

    def describe(self, name: str, *, lossy: bool) -> dict[str, Any]:
        """A summary for the device's properties, as JSON-able values; also logged. lossy: acknowledged writes may be
        missing."""
        description = {
            "clean": self.superblock.clean,
            "from_checkpoint": self.from_checkpoint,
            "from_running_checkpoint": self.from_turn,
            "mapped_blocks": self.mapped_blocks,
            "torn_blocks": self.torn_blocks,
            "lost_blocks": self.lost_blocks,
            "recovered_blocks": self.recovered_blocks,
            "recovered_records": self.recovered_records,
            "lossy": lossy,
            "damage": self.damage[:DAMAGE_TOLD_MAX],
            "damage_count": len(self.damage),
        }
        log.info(
            "%s: loaded after a %s shutdown%s: %d blocks mapped, %d held blocks and %d held records recovered, %d "
            "blocks torn, %d lost, %d records damaged",
            name,
            "clean" if self.superblock.clean else "dirty",
            ", from its L2P checkpoint"
            if self.from_checkpoint
            else ", from its running checkpoint"
            if self.from_turn
            else "",
            description["mapped_blocks"],
            description["recovered_blocks"],
            description["recovered_records"],
            self.torn_blocks,
            self.lost_blocks,
            len(self.damage),
        )
        if lossy:
            log.error(
                "%s: the write buffer file of its last life is missing: writes that hosts did not flush may be lost",
                name,
            )
        for text in self.damage[:DAMAGE_TOLD_MAX]:
            log.error("%s: damaged: %s", name, text)
        return description


def open_zones(
    geometry: Geometry,
    zones: Sequence[Zone],
    bands: Sequence[LoadedBand],
    held: set[int],
    bands_to_reset: Collection[int] = (),
) -> tuple[list[int], list[int]]:
    """Start addresses of open zones: those to finish, and those to reset because they are in free bands and must stay
    writable. Zones of a checkpoint (held) and zones of bands that are reset anyway are not included."""
    to_finish: list[int] = []
    to_empty: list[int] = []
    for number, band in enumerate(geometry.bands):
        if number in bands_to_reset:
            continue
        which = to_empty if bands[number].state == FREE else to_finish
        which += [
            zones[zone].start
            for zone in band
            if zone is not None and zone not in held and zones[zone].state in ACTIVE_STATES
        ]
    return to_finish, to_empty


def used_spares(geometry: Geometry, zones: Sequence[Zone]) -> list[int]:
    return [zones[index].start for index in geometry.spare_zones if zones[index].state != EMPTY]
