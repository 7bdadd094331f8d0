"""Merges what zones record about their blocks, and held writes, into one entry for each LBA. The newest seq wins."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import FtlConf
from ...errors import FtlError
from ...runtime.progress import Progress
from ...runtime.turns import aside
from ..media.band import CLOSED, FAULTED, FREE
from ..media.blockdev import side_by_side
from ..media.geometry import Geometry
from ..media.layout import ENTRY_FLAG_LOST, cut_crcs
from ..media.superblock import Superblock
from ..media.superblock_content import counter
from ..media.zone import Zone
from .held import HeldIndex, HeldWrites, Recovered
from .history import History, guessed
from .restored import DAMAGE_TOLD_MAX, LoadedBand, Restored, open_zones, used_spares
from .zone_walk import ZoneContent, ZoneReader

log = logging.getLogger(__name__)

VERIFY_RUN_BLOCKS: Final = 32
BAND_SEQ_GAP: Final = 1024
"""Added to the newest band seq found. With emulated zones the newest headers may be missing while later ones exist that
the load cannot see. Their band seqs must not be used again."""

ITEM_BLOCKS: Final = 16
"""Table entries that take about 1 us."""

_UNCHECKED, _GOOD, _DROPPED, _LOST = range(4)


@dataclass(frozen=True)
class _Blocks:
    """What zones record about their data blocks, by column."""

    lba: NDArray[np.uint64]
    seq: NDArray[np.uint64]
    crc: NDArray[np.uint32]
    address: NDArray[np.uint64]
    band: NDArray[np.int64]
    unsure: NDArray[np.bool_]
    """The block must be read before it counts."""
    cut: NDArray[np.bool_]
    """The block may have been cut off."""
    held: NDArray[np.bool_]
    """A held write is as new as the block, or newer."""

    def part(self, rows: NDArray[np.intp]) -> _Blocks:
        return _Blocks(*(getattr(self, each.name)[rows] for each in dataclasses.fields(self)))


class Merge:
    """Reduces the records of the zones to one entry for each LBA."""

    def __init__(
        self,
        reader: ZoneReader,
        superblock: Superblock,
        geometry: Geometry,
        contents: list[list[ZoneContent | None]],
        zones: Sequence[Zone],
        *,
        sequential: bool,
        max_io_blocks: int,
        report: Progress,
        held: Sequence[HeldWrites] = (),
        damage: Sequence[str] = (),
        with_crcs: bool = False,
    ) -> None:
        """damage: damage that is already known."""
        self._reader = reader
        self._superblock = superblock
        self._geometry = geometry
        self._contents = contents
        self._zones = zones
        self._sequential = sequential
        self._run_blocks = max(1, min(VERIFY_RUN_BLOCKS, max_io_blocks))
        self._report = report
        self._every = [zone for band in contents for zone in band if zone is not None]
        self._band_seqs = [max((zone.band_seq for zone in band if zone is not None), default=0) for band in contents]
        # The FTL opens a band only after all of its zones were reset, so a zone with an older band seq holds no valid
        # data.
        self._current = [zone for zone in self._every if zone.band_seq and zone.band_seq == self._band_seqs[zone.band]]
        self._held = HeldIndex(held, geometry.block_count)
        self._damage = [*damage, *(text for zone in self._every for text in zone.damage)]
        self._damaged_bands = {zone.band for zone in self._every if zone.damage}
        self._seq_sums: NDArray[np.float64] = np.zeros(geometry.band_count)
        self._block_counts: NDArray[np.int64] = np.zeros(geometry.band_count, np.int64)
        self._torn = 0
        self._lost = 0
        self._crcs = np.zeros(geometry.block_count, np.uint16) if with_crcs else None
        self._unused: dict[tuple[str, tuple[int, ...]], LoadedBand] = {}

    async def run(self, conf: FtlConf, superblock_zone: int, superblock_used: int) -> Restored:
        entries, recovered, in_force = await self._entries()
        return await aside(
            len(self._zones),
            lambda: self._restored(conf, superblock_zone, superblock_used, entries, recovered, in_force),
        )

    def _restored(
        self,
        conf: FtlConf,
        superblock_zone: int,
        superblock_used: int,
        entries: NDArray[np.uint64],
        recovered: list[Recovered],
        in_force: set[int],
    ) -> Restored:
        self._damage += self._held.damage
        if self._damage and not conf.allow_open_bands:
            raise self._refusal()
        seen = max((zone.highest_seq for zone in self._every), default=0)
        seen = max(seen, self._held.highest_seq)
        band_seq = max((zone.highest_band_seq for zone in self._every), default=0)
        held = {zone.start // self._geometry.zone_size for zone in self._every if zone.checkpoint}
        bands = [self._band(number) for number in range(self._geometry.band_count)]
        to_reset: list[int] = []
        zones = self._geometry.bands
        # A band that has lost all its zones looks free.
        if recovered and not any(
            band.state == FREE and any(band_zones) for band, band_zones in zip(bands, zones, strict=True)
        ):
            # As with emulated zones. A later reset would wait for recovered data, and that data would wait for a band:
            # a deadlock.
            to_reset = [number for number, band in enumerate(bands) if band.state == CLOSED and number not in in_force]
            for number in to_reset:
                bands[number] = LoadedBand(FREE, bands[number].seq, [0] * len(bands[number].write_pointers))
        to_finish, to_empty = open_zones(self._geometry, self._zones, bands, held, to_reset)
        return Restored(
            superblock=self._superblock,
            superblock_zone=superblock_zone,
            superblock_used=superblock_used,
            geometry=self._geometry,
            conf=conf,
            bands=bands,
            l2p=entries,
            crcs=self._crcs,
            next_seq=max(seen + 1, counter(self._superblock, "next_seq")),
            next_band_seq=max(band_seq + 1, counter(self._superblock, "next_band_seq"))
            + (0 if self._sequential else BAND_SEQ_GAP),
            zones_to_finish=to_finish,
            zones_to_empty=to_empty,
            zones_to_reset=[self._zones[zone].start for zone in sorted(held)]
            + used_spares(self._geometry, self._zones),
            damage=self._damage,
            lost_blocks=self._lost,
            torn_blocks=self._torn,
            recovered=recovered,
            bands_to_reset=to_reset,
            history=self._history(),
        )

    def _history(self) -> History:
        highest = np.zeros(self._geometry.band_count, np.uint64)
        for zone in self._current:
            highest[zone.band] = max(int(highest[zone.band]), zone.highest_seq)
        return guessed(np.array(self._band_seqs, np.int64), self._seq_sums, self._block_counts, highest)

    def _band(self, number: int) -> LoadedBand:
        # The load resets a checkpoint before the device is used.
        pointers = [0 if zone is None or zone.checkpoint else zone.written for zone in self._contents[number]]
        unusable = any(zone is not None and not self._zones[zone].usable for zone in self._geometry.bands[number])
        state = CLOSED if any(pointers) else FREE
        ends = [
            zone.end if pointer and zone is not None and zone.walked else pointer
            for zone, pointer in zip(self._contents[number], pointers, strict=True)
        ]
        if number in self._damaged_bands or unusable:
            # The FTL relocates this band before all others, which repairs it.
            state = FAULTED
        seq = self._band_seqs[number]
        if seq:
            return LoadedBand(state, seq, ends)
        # All such bands share one object, as above.
        return self._unused.setdefault((state, tuple(ends)), LoadedBand(state, seq, ends))

    def _refusal(self) -> FtlError:
        listed = "\n  ".join(self._damage[:DAMAGE_TOLD_MAX])
        more = len(self._damage) - DAMAGE_TOLD_MAX
        if more > 0:
            listed += f"\n  and {more} more"
        return FtlError(
            f"FTL {self._superblock.uuid}: {len(self._damage)} of its records are damaged:\n  {listed}\nNothing was "
            "changed. To continue without what is lost, load it with --allow-open-bands: blocks that are known to be "
            "lost then read as errors, other damaged blocks may return older data"
        )

    async def _entries(self) -> tuple[NDArray[np.uint64], list[Recovered], set[int]]:
        """Returns the entries, the held writes that are newer, and the bands that media would need without held
        writes."""
        block_count = self._geometry.block_count

        def of_records() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
            entries = np.full(block_count, _shim.ADDRESS_INVALID, np.uint64)
            seqs = np.zeros(block_count, np.uint64)
            self._apply_records(self._current, entries, seqs)
            return entries, seqs

        def superseded() -> tuple[list[Recovered], set[int]]:
            in_force = self._bands_of(entries) if self._held else set()
            return self._held.supersede(entries, seqs, _shim.ADDRESS_INVALID), in_force

        items = len(self._zones) + block_count // ITEM_BLOCKS
        entries, seqs = await aside(items, of_records)
        if self._current:
            await self._apply_blocks(entries, seqs)
        return entries, *await aside(items, superseded)

    def _bands_of(self, entries: NDArray[np.uint64]) -> set[int]:
        """The bands that hold valid data."""
        addresses = entries[entries != np.uint64(_shim.ADDRESS_INVALID)]
        addresses &= ~np.uint64(_shim.TRIM_FLAG | _shim.LOST_FLAG)
        band_of = {zone: number for number, band in enumerate(self._geometry.bands) for zone in band}
        return {band_of[int(zone)] for zone in np.unique(addresses // np.uint64(self._geometry.zone_size))}

    @staticmethod
    def _apply_records(zones: Iterable[ZoneContent], entries: NDArray[np.uint64], seqs: NDArray[np.uint64]) -> None:
        """Fills entries and seqs from trim records and lost records. Where a record exists twice, the one in the last
        zone counts."""
        for zone in zones:
            for address, records in zone.records:
                for record in records:
                    lba, count = int(record["lba"]), int(record["crc"])
                    if lba >= len(entries):
                        continue
                    part = slice(lba, min(lba + count, len(entries)))
                    flag = _shim.LOST_FLAG if int(record["flags"]) == ENTRY_FLAG_LOST else _shim.TRIM_FLAG
                    newest = seqs[part] <= record["seq"]
                    seqs[part][newest] = record["seq"]
                    entries[part][newest] = np.uint64(flag | address)

    async def _apply_blocks(self, entries: NDArray[np.uint64], record_seqs: NDArray[np.uint64]) -> None:
        items = len(self._zones) + sum(len(zone.entries) for zone in self._current) // ITEM_BLOCKS
        blocks, chosen = await aside(items, functools.partial(self._candidates, entries, record_seqs))
        chosen = await self._without_torn_copies(items, chosen, blocks)

        ordering = functools.partial(self._in_winning_order, blocks, chosen, entries, record_seqs)
        # The content of these arrays is not needed any more.
        del blocks, chosen
        ordered, state = await aside(items, ordering)
        del ordering
        if not len(ordered.lba):
            return
        await self._settle(items, state, ordered)

        def win() -> None:
            winners = _firsts(state, ordered.lba)
            flag = np.where(state[winners] == _LOST, np.uint64(_shim.LOST_FLAG), np.uint64(0))
            entries[ordered.lba[winners]] = ordered.address[winners] | flag
            if self._crcs is not None:
                self._crcs[ordered.lba[winners]] = cut_crcs(ordered.crc[winners])
            record_seqs[ordered.lba[winners]] = ordered.seq[winners]

        await aside(items, win)

    def _in_winning_order(
        self,
        blocks: _Blocks,
        chosen: NDArray[np.intp],
        entries: NDArray[np.uint64],
        record_seqs: NDArray[np.uint64],
    ) -> tuple[_Blocks, NDArray[np.uint8]]:
        dispensable = self._dispensable(blocks.lba[chosen], blocks.seq[chosen], blocks.band[chosen])
        # Applied again: if a record exists twice, the copy in a band that is needed anyway should count.
        zones = sorted(self._current, key=lambda zone: -int(dispensable[zone.band]))
        self._apply_records(zones, entries, record_seqs)
        lba, seq, address = blocks.lba[chosen], blocks.seq[chosen], blocks.address[chosen]
        ordered = blocks.part(chosen[np.lexsort((address, dispensable[blocks.band[chosen]], ~seq, lba))])
        same = (ordered.lba[1:] == ordered.lba[:-1]) & (ordered.seq[1:] == ordered.seq[:-1])
        copies = np.zeros(len(ordered.lba), bool)
        copies[1:] |= same
        copies[:-1] |= same
        return ordered, np.where(ordered.unsure | copies, _UNCHECKED, _GOOD).astype(np.uint8)

    def _candidates(
        self, entries: NDArray[np.uint64], record_seqs: NDArray[np.uint64]
    ) -> tuple[_Blocks, NDArray[np.intp]]:
        """Returns all blocks that zones record, and which of them are newer than the records."""
        zones = self._current
        lengths = [len(zone.entries) for zone in zones]
        table = np.concatenate([zone.entries for zone in zones])
        address = np.concatenate([zone.addresses for zone in zones])
        band = np.repeat(np.array([zone.band for zone in zones], np.int64), lengths)
        unsure = np.repeat(np.array([zone.walked or not self._sequential for zone in zones]), lengths)
        torn_from = np.repeat(np.array([zone.torn_from for zone in zones], np.uint64), lengths)
        cut = (address >= torn_from) | (not self._sequential)
        for zone in zones:
            # From here on the table holds everything.
            zone.entries, zone.addresses = zone.entries[:0], zone.addresses[:0]

        lba, seq = table["lba"], table["seq"]
        candidate = lba < len(entries)
        # Of all data blocks, valid or not; entries of headers have no LBA.
        data, count = band[candidate], self._geometry.band_count
        self._block_counts = np.bincount(data, minlength=count).astype(np.int64)
        sums = np.bincount(data, seq[candidate].astype(np.float64), minlength=count)
        self._seq_sums = sums.astype(np.float64)
        candidate[candidate] = seq[candidate] > record_seqs[lba[candidate]]
        # A held write replaces the block, so damage to the block does not matter.
        held_seqs = np.zeros(len(lba), np.uint64)
        held_seqs[candidate] = self._held.seqs(lba[candidate])
        held = held_seqs >= seq
        unsure |= candidate & held
        return _Blocks(lba, seq, table["crc"], address, band, unsure, cut, held), np.flatnonzero(candidate)

    async def _without_torn_copies(self, items: int, chosen: NDArray[np.intp], blocks: _Blocks) -> NDArray[np.intp]:
        """Drops copies that a header describes but that were never written. Otherwise the originals, which are
        elsewhere, would become dispensable."""

        def in_doubt() -> NDArray[np.intp]:
            order = chosen[np.lexsort((~blocks.seq[chosen], blocks.lba[chosen]))]
            lba, seq = blocks.lba[order], blocks.seq[order]
            again = (lba[1:] == lba[:-1]) & (seq[1:] == seq[:-1])
            copies = np.zeros(len(order), bool)
            copies[1:] |= again
            copies[:-1] |= again
            doubtful: NDArray[np.intp] = order[copies & blocks.cut[order]]
            return doubtful

        doubtful = await aside(items, in_doubt)
        if not len(doubtful):
            return chosen
        whole = await self._verify(blocks.address[doubtful], blocks.crc[doubtful])
        return await aside(items, lambda: np.setdiff1d(chosen, doubtful[~whole], assume_unique=True))

    def _dispensable(self, lba: NDArray[Any], seq: NDArray[Any], band: NDArray[Any]) -> NDArray[np.bool_]:
        """Finds bands whose blocks are all in other bands as well. Unfinished relocations leave such bands, and with
        emulated zones resets do. The merge prefers copies in other bands, so that these bands can be reset: a load may
        find no free band. Bands with the fewest blocks come first."""
        order = np.lexsort((band, ~seq, lba))
        lba, seq, band = lba[order], seq[order], band[order]
        first = np.r_[True, lba[1:] != lba[:-1]] if len(lba) else np.zeros(0, bool)
        group = np.cumsum(first) - 1
        newest = seq == seq[first][group]
        again = np.r_[False, (lba[1:] == lba[:-1]) & (band[1:] == band[:-1]) & newest[:-1]] if len(lba) else first
        kept = newest & ~again
        group, band = group[kept], band[kept]
        copies = np.bincount(group)
        dispensable = np.ones(self._geometry.band_count, bool)
        dispensable[band[copies[group] == 1]] = False
        by_band = np.argsort(band, kind="stable")
        bands, starts, counts = np.unique(band[by_band], return_index=True, return_counts=True)
        for i in map(int, np.argsort(counts, kind="stable")):
            groups = group[by_band[starts[i] : starts[i] + counts[i]]]
            if dispensable[bands[i]] and (copies[groups] > 1).all():
                copies[groups] -= 1
            else:
                dispensable[bands[i]] = False
        return dispensable

    async def _settle(self, items: int, state: NDArray[np.uint8], blocks: _Blocks) -> None:
        """Verifies winners that may be damaged, until no further ones come up. Blocks are in winning order."""

        def unchecked() -> NDArray[np.intp]:
            winners = _firsts(state, blocks.lba)
            those: NDArray[np.intp] = winners[state[winners] == _UNCHECKED]
            return those

        while True:
            open_ = await aside(items, unchecked)
            if not len(open_):
                return
            whole = await self._verify(blocks.address[open_], blocks.crc[open_])
            state[open_[whole]] = _GOOD
            broken = open_[~whole]
            for i in map(int, broken):
                blocks.cut[i] |= await self._never_came(int(blocks.address[i]), int(blocks.band[i]))
            await aside(len(broken), functools.partial(self._judge, broken, state, blocks))

    async def _never_came(self, address: int, band: int) -> bool:
        """Whether the address holds a header. If so, an earlier load continued there after a batch that was cut off
        (room.py)."""
        header = self._reader.header_in_place((await self._reader.blocks(address, 1))[0], address)
        return header is not None and (header.band, header.band_seq) == (band, self._band_seqs[band])

    def _judge(self, broken: NDArray[np.intp], state: NDArray[np.uint8], blocks: _Blocks) -> None:
        """Decides about damaged winners: another copy counts, the block was cut off, or it is lost."""
        lba, seq = blocks.lba, blocks.seq
        for i in map(int, broken):
            following = i + 1
            if following < len(lba) and lba[following] == lba[i] and seq[following] == seq[i]:
                state[i] = _DROPPED
            elif blocks.cut[i] or blocks.held[i]:
                state[i] = _DROPPED
                self._torn += 1
            else:
                state[i] = _LOST
                self._lost += 1
                self._damaged_bands.add(int(blocks.band[i]))
                self._damage.append(
                    f"block {int(blocks.address[i])} (band {int(blocks.band[i])}): LBA {int(lba[i])} can't be read, or "
                    "does not match its CRC"
                )

    async def _verify(self, address: NDArray[Any], crc: NDArray[Any]) -> NDArray[np.bool_]:
        """Returns which blocks match their CRC."""
        whole = np.zeros(len(address), bool)

        def in_runs() -> list[NDArray[np.intp]]:
            order = np.argsort(address)
            # Reads the blocks in between as well: fewer I/Os matter more than fewer blocks.
            zone_size = np.uint64(self._geometry.zone_size)
            zone, offset = address[order] // zone_size, address[order] % zone_size // np.uint64(self._run_blocks)
            breaks = np.flatnonzero((np.diff(zone) != 0) | (np.diff(offset) != 0)) + 1
            return np.split(order, breaks)

        runs = await aside(len(address), in_runs)
        done = itertools.count(1)

        async def check(run: NDArray[np.intp]) -> None:
            first, last = int(address[run[0]]), int(address[run[-1]])
            blocks = await self._reader.blocks(first, last - first + 1)
            for i in run:
                whole[i] = _shim.crc32c(memoryview(blocks[int(address[i]) - first])) == int(crc[i])
            self._report("blocks", next(done) / len(runs))

        await side_by_side(check, runs)
        return whole


def _firsts(state: NDArray[np.uint8], lba: NDArray[Any]) -> NDArray[np.intp]:
    """The first block of each LBA that was not dropped."""
    alive = np.flatnonzero(state != _DROPPED)
    lbas = lba[alive]
    return alive[np.r_[True, lbas[1:] != lbas[:-1]]] if len(alive) else alive
