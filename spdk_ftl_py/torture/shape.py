"""The size and kind of a world's drive and FTL. They are small, so that rare events happen all the time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .. import _shim
from ..conf import RELOC_POLICIES, FtlConf
from ..ftl.load.pages import Pages
from ..ftl.media.geometry import BLOCK_BYTES
from ..runtime.reactor import ReactorLoop
from .options import NO_CACHE, VSS

SUPERBLOCK_ZONES: Final = 2
LEAST_RESERVE: Final = 15
"""lba_rsvd: the minimum of the geometry, which causes the most garbage collection."""
AMPLE_RESERVE: Final = 60
"""A large reserve: the host can write much before any band has to be reset."""
RESERVE_STEP: Final = 5
RESERVE_MOST: Final = 75
NARROW: Final = "narrow"
NUMBERED: Final = "numbered"
"""Narrow, with blocks numbered without holes."""
COMPACT: Final = "compact"
L2P_FORMS: Final = (NARROW, NARROW, NUMBERED, COMPACT)
"""Forms of the L2P's entries (shim/ftl/l2p.hpp), as often as they are chosen."""
PAGED_L2P: Final = 1 / 6
"""Worlds whose L2P is paged."""
OTHER_POLICIES: Final = 1 / 3
"""Worlds with any of the policies that ship."""


@dataclass(frozen=True)
class Shape:
    emulated_zones: bool
    """A ZonedOverlay on a conventional drive. It does not know its write pointers after a restart."""
    zone_count: int
    zone_size: int
    zone_capacity: int
    open_zones: int
    """The drive's limit; 0: none."""
    punits: int
    max_io_blocks: int
    max_append_blocks: int
    cache: str
    """One of CACHES."""
    cache_blocks: int
    cache_metadata_bytes: int
    cache_is_volatile: bool
    conf: FtlConf
    volatile_cache: bool = True
    """The drive has a volatile cache."""
    l2p: str = NARROW
    """One of L2P_FORMS."""
    paged_l2p: bool = False
    """Only a small part of it is in memory."""

    @classmethod
    def choose(cls, rng: random.Random, *, use_append: bool, cache: str) -> Shape:
        punits = rng.choice((1, 1, 2, 2, 3))
        capacity = rng.choice((12, 18, 24, 40, 64, 90)) if punits == 1 else rng.choice((10, 14, 20, 32, 48))
        zone_size = 1 << (capacity - 1).bit_length()
        if rng.random() < 0.3:
            zone_size *= 2
        bands = rng.randint(12, 24)
        split, shared = 3 * punits + 1, 2 * punits + 1
        conf = FtlConf(
            lba_rsvd=rng.choice((LEAST_RESERVE, LEAST_RESERVE, AMPLE_RESERVE)),
            write_buffer_size=rng.choice((8, 16, 32, 64)) * BLOCK_BYTES,
            use_append=use_append,
            max_active_relocs=rng.randint(1, 3),
            max_reloc_qdepth=rng.choice((1, 4, 32)),
            reloc_policy=_policy(rng),
            scrub_days=0,  # scrubs are ordered
        )
        return cls(
            emulated_zones=not use_append and rng.random() < 0.25,
            zone_count=SUPERBLOCK_ZONES + bands * punits + rng.randint(0, 3),
            zone_size=zone_size,
            zone_capacity=capacity,
            open_zones=rng.choice((split, split, shared, split + 3, 0)),
            punits=punits,
            max_io_blocks=rng.choice((8, 32, 256)),
            max_append_blocks=rng.choice((4, 8, 16, 32)),
            cache=cache,
            # The minimum is two bands.
            cache_blocks=2 * punits * capacity + rng.choice((1, 2, 40)),
            cache_metadata_bytes=rng.choice((8, 16, 64)) if cache == VSS else 0,
            cache_is_volatile=rng.random() < 0.6,
            conf=conf,
        )

    def with_more_reserve(self) -> Shape | None:
        """Returns None if no larger reserve is possible."""
        more = self.conf.lba_rsvd + RESERVE_STEP
        return None if more > RESERVE_MOST else replace(self, conf=replace(self.conf, lba_rsvd=more))

    def media(self, reactor: ReactorLoop, *, hidden_zones: int = 0) -> _shim.EmulatedMedia:
        """hidden_zones: the number of zones that the drive gains when it grows."""
        if self.emulated_zones:
            return _shim.EmulatedMedia.conventional(
                reactor.shim,
                self.zone_count * self._emulated_zone_size,
                volatile_cache=self.volatile_cache,
                max_io_blocks=self.max_io_blocks,
                hidden_blocks=hidden_zones * self._emulated_zone_size,
            )
        return _shim.EmulatedMedia.zns(
            reactor.shim,
            self.zone_count,
            self.zone_size,
            self.zone_capacity,
            max_open_zones=self.open_zones,
            max_active_zones=self.open_zones,
            max_append_blocks=min(self.max_append_blocks, self.max_io_blocks),
            max_io_blocks=self.max_io_blocks,
            volatile_cache=self.volatile_cache,
            hidden_zones=hidden_zones,
        )

    def cache_media(self, reactor: ReactorLoop) -> _shim.EmulatedMedia | None:
        if self.cache == NO_CACHE:
            return None
        return _shim.EmulatedMedia.conventional(
            reactor.shim,
            self.cache_blocks,
            metadata_bytes=self.cache_metadata_bytes,
            volatile_cache=self.cache_is_volatile,
            max_io_blocks=self.max_io_blocks,
        )

    def base(self, reactor: ReactorLoop, media: _shim.BlockDevice, *, new: bool) -> _shim.BlockDevice:
        """The base for an FTL; a new one for each load."""
        if not self.emulated_zones:
            return media
        return _shim.ZonedOverlay(
            reactor.shim,
            media,
            zone_capacity=self.zone_capacity,
            max_open_zones=self.open_zones,
            initial_state="empty" if new else "full",
        )

    @property
    def narrow_blocks(self) -> int:
        """What _shim.limit_narrow_l2p() takes for this form of the L2P."""
        usable = self.zone_count * self.zone_capacity
        return {NARROW: self.zone_count * self.used_zone_size, NUMBERED: usable, COMPACT: 0}[self.l2p]

    def pages(self, folder: Path) -> Pages:
        """For create() and load(): the fewest frames, of pages of 8 to 32 LBAs."""
        return Pages(folder, memory=1 if self.paged_l2p else None, page_bytes=64, threads=False)

    @property
    def used_zone_size(self) -> int:
        """The zone size that the FTL uses."""
        return self._emulated_zone_size if self.emulated_zones else self.zone_size

    @property
    def _emulated_zone_size(self) -> int:
        return 1 << (self.zone_capacity - 1).bit_length()

    def __str__(self) -> str:
        kind = "emulated zones" if self.emulated_zones else "zones"
        return (
            f"{self.zone_count} {kind} of {self.zone_capacity}/{self.zone_size} blocks, {self.punits} punits, "
            f"{self.open_zones or 'any number of'} open, lba_rsvd {self.conf.lba_rsvd}, write buffer "
            f"{self.conf.write_buffer_blocks} blocks{', append' if self.conf.use_append else ''}"
            f"{'' if self.volatile_cache else ', no volatile cache'}{self._cache_text()}, "
            f"{'paged ' if self.paged_l2p else ''}{self.l2p} L2P"
        )

    def _cache_text(self) -> str:
        if self.cache == NO_CACHE:
            return ""
        kind = f"{self.cache} ({self.cache_metadata_bytes} B)" if self.cache_metadata_bytes else self.cache
        return f", {'volatile ' if self.cache_is_volatile else ''}cache of {self.cache_blocks} blocks {kind}"


def _policy(rng: random.Random) -> str:
    """One of two for most worlds. A third of them have any of those that ship: by a generator of its own, because what
    follows of the world shall not depend on how many there are."""
    usual = rng.choice(("seed", "greedy"))
    other = random.Random(repr(rng.getstate()))
    return other.choice(RELOC_POLICIES) if other.random() < OTHER_POLICIES else usual
