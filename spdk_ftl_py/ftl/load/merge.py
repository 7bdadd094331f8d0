"""Merges what zones record about their blocks, and held writes, into one entry for each LBA. The newest seq wins."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import FtlConf
from ...errors import FtlError, MemoryShortError
from ...runtime.progress import Progress
from ...runtime.turns import Turns, aside
from ..media.band import CLOSED, FAULTED, FREE
from ..media.blockdev import side_by_side
from ..media.geometry import SUMMARY_ENTRIES, Geometry
from ..media.layout import ENTRY, ENTRY_FLAG_LOST, crcs, cut_crcs, parse_summary_block
from ..media.superblock import Superblock
from ..media.superblock_content import counter
from ..media.zone import ACTIVE_STATES, FULL, Zone
from .held import HeldIndex, HeldWrites, Recovered
from .history import History, guessed, unpacked
from .pages import NO_PAGES, PageOptions
from .restored import DAMAGE_TOLD_MAX, LoadedBand, Restored, open_zones, used_spares
from .running import RunningCheckpoint, Turn
from .summaries import ROWS_AT_A_TIME, WalkedZone
from .table import empty_table
from .zone_walk import ZoneContent, ZoneReader

VERIFY_RUN_BLOCKS: Final = 32
BAND_SEQ_GAP: Final = 1 << 16
"""Added to the newest band seq found, with the number of bands. With emulated zones the newest headers may be missing
while later ones exist that the load cannot see. Their band seqs must not be used again. A band that is opened again was
reset after a flush, and the headers before a flush are seen."""
HIDDEN_SEQS: Final = 1 << 30
"""Added to the newest seq found if something could not be read that says what a zone has: more than are hidden
there."""

FREE_BESIDE_TURN: Final = 3
"""Free bands that a load must have beside those of the running checkpoint to keep it."""
ITEM_BLOCKS: Final = 16
"""Table entries that take about 1 us."""
DOUBTFUL_ROWS: Final = 4
"""The same of rows in doubt."""
RECORD_HEADER_ITEMS: Final = 16
"""us for each header of records."""

_COPY: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("address", "<u8"), ("crc", "<u4"), ("in_table", "<u4")])
"""As RestoredL2p.copies()."""
_BROKEN: Final = np.dtype(
    [("lba", "<u8"), ("seq", "<u8"), ("address", "<u8"), ("band", "<i8"), ("cut", "?"), ("held", "?")]
)
"""A block that was verified, and does not match its CRC. cut: it may have been cut off. held: a held write is as new,
or newer."""
_RECORD: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("block_count", "<u8"), ("entry", "<u8"), ("band", "<i8")])
_ROW_BYTES: Final = ENTRY.itemsize


class Merge:
    """Reduces the records of the zones to one entry for each LBA. take() gets the zones of one band after the other; it
    keeps nothing of them that grows with their blocks, except for versions that are on media more than once."""

    def __init__(
        self,
        reader: ZoneReader,
        superblock: Superblock,
        geometry: Geometry,
        zones: Sequence[Zone],
        *,
        sequential: bool,
        max_io_blocks: int,
        base_blocks: int,
        report: Progress,
        held: Sequence[HeldWrites] = (),
        damage: Sequence[str] = (),
        with_crcs: bool = False,
        begin_with: RunningCheckpoint | None = None,
        pages: PageOptions = NO_PAGES,
    ) -> None:
        """pages: as page_options() has them. damage: damage that is already known. begin_with: bands that are
        unchanged are not taken. Raises MemoryShortError."""
        self._reader = reader
        self._superblock = superblock
        self._geometry = geometry
        self._zones = zones
        self._sequential = sequential
        self._run_blocks = max(1, min(VERIFY_RUN_BLOCKS, max_io_blocks))
        self._report = report
        nothing: list[ZoneContent | None] = [None] * geometry.punits
        # Bands that were not written share one list: with very many of them, the garbage collector would take long
        # otherwise.
        self._contents = [nothing] * geometry.band_count
        self._every: list[ZoneContent] = []
        self._current: list[ZoneContent] = []
        self._band_seqs = [0] * geometry.band_count
        self._one_at_a_time = asyncio.Lock()
        self._held = HeldIndex(held, geometry.block_count)
        self._damage = list(damage)
        self._damaged_bands: set[int] = set()
        self._seq_sums: NDArray[np.float64] = np.zeros(geometry.band_count)
        self._block_counts: NDArray[np.int64] = np.zeros(geometry.band_count, np.int64)
        self._unsure_zone = np.full(geometry.zone_count, not sequential, bool)
        """Its blocks are verified before they count."""
        self._broken: list[NDArray[Any]] = []
        self._walked: list[WalkedZone] = []
        self._walked_rows = 0
        self._unreadable: set[int] = set()
        """Zones with data that could not be read."""
        self._torn = 0
        self._lost = 0
        self._unused: dict[tuple[str, tuple[int, ...]], LoadedBand] = {}
        self._begun_with = begin_with
        try:
            self._l2p = (
                empty_table(geometry, base_blocks, pages, with_crcs=with_crcs)
                if begin_with is None
                else begin_with.table
            )
        except MemoryError as error:
            raise MemoryShortError(
                f"FTL {superblock.uuid}: there is not enough memory to load {geometry.block_count} blocks: end other "
                "programs, or load it on a machine with more memory; the load can be repeated"
            ) from error
        self._held.mark(self._l2p)
        if begin_with is not None:
            for number, seq in begin_with.seqs.items():
                self._band_seqs[number] = seq

    def take_blank(self, band: int, zones: list[ZoneContent | None]) -> None:
        """Zones without anything in them. Bands may share one list."""
        self._contents[band] = zones

    async def take(self, band: int, zones: list[ZoneContent | None]) -> None:
        """The zones of one band; None if a zone is missing, or was not written. Their entries are gone afterwards."""
        async with self._one_at_a_time:
            self._contents[band] = zones
            seq = max((zone.band_seq for zone in zones if zone is not None), default=0)
            self._band_seqs[band] = seq
            # The FTL opens a band only after all of its zones were reset, so a zone with an older band seq holds no
            # valid data.
            newest = [zone for zone in zones if zone is not None and seq and zone.band_seq == seq]
            rows = sum(len(zone.entries) if zone.summary is None else zone.summary.row_count for zone in newest)
            for each in newest:
                # However small each zone of the band is.
                broken = len(self._broken)
                await self._add(each, rows // ITEM_BLOCKS)
                await self._keep_walked(each, self._broken[broken:])
            for zone in zones:
                if zone is not None:
                    zone.summary = None
                    zone.entries, zone.addresses = zone.entries[:0].copy(), zone.addresses[:0].copy()

    async def _add(self, zone: ZoneContent, items: int) -> None:
        unsure = zone.walked or not self._sequential
        self._unsure_zone[zone.start // self._geometry.zone_size] = unsure
        summary, entries, addresses = zone.summary, zone.entries, zone.addresses
        if summary is not None:
            adding = functools.partial(self._l2p.add_summary, summary, zone.start, all_doubtful=unsure)
        else:
            adding = functools.partial(self._l2p.add, _row_bytes(entries), addresses, all_doubtful=unsure)
        doubtful, blocks, seq_sum = await aside(items, adding)
        self._block_counts[zone.band] += blocks
        self._seq_sums[zone.band] += seq_sum
        if len(doubtful) and summary is not None:
            in_doubt = summary.rows(doubtful).view(ENTRY)
            # NumPy 1 would add them in 32 bits if the start fits into these.
            there = doubtful.astype(np.uint64) + np.uint64(zone.start)
            await self._merge_verified(zone, in_doubt, there, unsure)
        elif len(doubtful):
            await self._merge_verified(zone, entries[doubtful], addresses[doubtful], unsure)

    async def _keep_walked(self, zone: ZoneContent, broken: Sequence[NDArray[Any]]) -> None:
        """For its summary; as many zones as memory is meant for, the others in later loads. broken: of this zone."""
        rows = len(zone.entries)
        if self._sequential or not zone.read_to_end or (self._walked and self._walked_rows + rows > ROWS_AT_A_TIME):
            return
        self._walked_rows += rows
        refused = np.concatenate([np.empty(0, np.uint64), *(each["address"] for each in broken)])
        self._walked.append(await aside(rows // ITEM_BLOCKS, lambda: WalkedZone.of(zone, refused)))

    async def _merge_verified(
        self, zone: ZoneContent, entries: NDArray[Any], addresses: NDArray[np.uint64], unsure: bool
    ) -> None:
        items = len(entries) // DOUBTFUL_ROWS

        def to_check() -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.intp]]:
            # A held write replaces the block, so damage to the block does not matter.
            held = self._held.seqs(np.ascontiguousarray(entries["lba"])) >= entries["seq"]
            whole = ~(held | unsure)
            return held, whole, np.flatnonzero(~whole)

        held, whole, check = await aside(items, to_check)
        whole[check] = await self._verify(addresses[check], entries["crc"][check])

        def take() -> None:
            self._l2p.merge(_row_bytes(entries[whole]), np.ascontiguousarray(addresses[whole]))
            if whole.all():
                return
            broken = np.zeros(np.count_nonzero(~whole), _BROKEN)
            broken["lba"], broken["seq"] = entries["lba"][~whole], entries["seq"][~whole]
            broken["address"], broken["band"], broken["held"] = addresses[~whole], zone.band, held[~whole]
            broken["cut"] = (addresses[~whole] >= zone.torn_from) | (not self._sequential)
            self._broken.append(broken)

        await aside(items, take)

    async def run(self, conf: FtlConf, superblock_zone: int, superblock_used: int) -> Restored:
        """After all bands."""
        await aside(len(self._zones), self._collect)
        self._report("bands", 1.0)
        recovered, in_force = await self._settled()
        self._report("bands", 1.0)
        await aside(self._geometry.block_count // ITEM_BLOCKS, self._l2p.drop_seqs)
        return await aside(
            len(self._zones),
            lambda: self._restored(conf, superblock_zone, superblock_used, recovered, in_force),
        )

    def _collect(self) -> None:
        self._every = [zone for band in self._contents for zone in band if zone is not None]
        self._current = [zone for zone in self._every if zone.band_seq and zone.band_seq == self._band_seqs[zone.band]]
        self._damage += [text for zone in self._every for text in zone.damage]
        self._damaged_bands.update(zone.band for zone in self._every if zone.damage)

    def _restored(
        self,
        conf: FtlConf,
        superblock_zone: int,
        superblock_used: int,
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
        unchanged: Collection[int] = ()
        if self._begun_with is not None:
            seen = max(seen, self._begun_with.turn.next_seq - 1)
            band_seq = max(band_seq, self._begun_with.highest_band_seq)
            unchanged = self._begun_with.seqs
        bands = [
            self._unchanged_band(number) if number in unchanged else self._band(number)
            for number in range(self._geometry.band_count)
        ]
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
        turn = self._turn_to_keep(bands)
        if turn is not None:
            # A loss of power can undo a finish.
            active = [zone for zone in turn.zones if self._zones[zone].state in ACTIVE_STATES]
            to_finish += [self._zones[zone].start for zone in active]
        return Restored(
            superblock=self._superblock,
            superblock_zone=superblock_zone,
            superblock_used=superblock_used,
            geometry=self._geometry,
            conf=conf,
            bands=bands,
            table=self._l2p,
            next_seq=max(seen + 1, counter(self._superblock, "next_seq")) + self._hidden_seqs(),
            next_band_seq=max(band_seq + 1, counter(self._superblock, "next_band_seq"))
            + (0 if self._sequential else BAND_SEQ_GAP + len(bands)),
            zones_to_finish=to_finish,
            zones_to_empty=to_empty,
            zones_to_reset=[self._zones[zone].start for zone in sorted(held - set(turn.zones if turn else ()))]
            + used_spares(self._geometry, self._zones),
            turn=turn,
            from_turn=self._begun_with is not None,
            damage=self._damage,
            lost_blocks=self._lost,
            torn_blocks=self._torn,
            recovered=recovered,
            bands_to_reset=to_reset,
            history=self._history(),
            walked=[] if self._damage else [zone for zone in self._walked if self._is_settled(zone, bands)],
        )

    def _hidden_seqs(self) -> int:
        """How many seqs there may be behind those that were seen, in blocks that can't be read now, and can be later: a
        load that reads them must not take them for newer than what is written from now on."""
        return HIDDEN_SEQS if any(zone.unreadable for zone in self._every) else 0

    def _is_settled(self, zone: WalkedZone, bands: Sequence[LoadedBand]) -> bool:
        """Whether all that the load knows of it is certain, and nothing is written to it before its reset."""
        number = zone.start // self._geometry.zone_size
        closed = bands[zone.band].state == CLOSED and self._zones[number].state == FULL
        return closed and number not in self._unreadable

    def _turn_to_keep(self, bands: Sequence[LoadedBand]) -> Turn | None:
        """The running checkpoint, if the next load may still rely on it, and the FTL can spare its bands."""
        begun_with = self._begun_with
        if begun_with is None or self._damage:
            return None
        others = sum(
            band.state == FREE and number not in begun_with.bands and any(zone is not None for zone in zones)
            for number, (band, zones) in enumerate(zip(bands, self._geometry.bands, strict=True))
        )
        return begun_with.turn if others >= FREE_BESIDE_TURN else None

    def _history(self) -> History:
        highest = np.zeros(self._geometry.band_count, np.uint64)
        for zone in self._current:
            highest[zone.band] = max(int(highest[zone.band]), zone.highest_seq)
        begun_with = self._begun_with
        known = None if begun_with is None else unpacked(begun_with.history, begun_with.turn.next_seq)
        if begun_with is None or known is None:
            return guessed(np.array(self._band_seqs, np.int64), self._seq_sums, self._block_counts, highest)
        there = sorted(begun_with.seqs)
        highest[there] = known.data_seqs[there]
        found = guessed(np.array(self._band_seqs, np.int64), self._seq_sums, self._block_counts, highest)
        found.classes[there], found.data_seqs[there] = known.classes[there], known.data_seqs[there]
        found.opened_seqs[there] = known.opened_seqs[there]
        return found

    def _unchanged_band(self, number: int) -> LoadedBand:
        """As it was when the running checkpoint began. All of its zones are full, or empty."""
        assert self._begun_with is not None
        zones = self._geometry.bands[number]
        pointers = [
            0 if zone is None else min(int(pointer), self._zones[zone].written, self._geometry.zone_capacity)
            for zone, pointer in zip(zones, self._begun_with.pointers[number], strict=True)
        ]
        state = FAULTED if number in self._begun_with.faulted else CLOSED
        return LoadedBand(state, self._band_seqs[number], pointers)

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

    async def _settled(self) -> tuple[list[Recovered], set[int]]:
        """Returns the held writes that are newer, and the bands that media would need without held writes."""
        items = len(self._zones) + self._geometry.block_count // ITEM_BLOCKS
        # A host that flushes each trim leaves very many headers of records.
        items += RECORD_HEADER_ITEMS * sum(len(zone.records) for zone in self._current)

        def records_applied() -> tuple[NDArray[Any], bool]:
            records = _records(self._current)
            self._apply(_newest_first(records))
            return records, len(np.unique(records["seq"])) < len(records)

        records, again = await aside(items, records_applied)
        await self._settle_broken()
        rows = await aside(items, self._rows_of_copies)
        if len(rows) or again:
            dispensable = await aside(items, lambda: self._dispensable(rows))
            # Applied again: if a record exists twice, the copy in a band that is needed anyway should count.
            await aside(items, lambda: self._apply(_newest_first(records, dispensable)))
            await self._settle_copies(items, rows, dispensable)

        def superseded() -> tuple[list[Recovered], set[int]]:
            in_force = self._bands_in_force() if self._held else set()
            return self._held.supersede(self._l2p), in_force

        return await aside(items, superseded)

    def _bands_in_force(self) -> set[int]:
        counts = self._l2p.count(self._geometry.zone_size, self._geometry.zone_count)
        return set(self._zone_bands()[np.flatnonzero(counts.blocks + counts.records)].tolist())

    def _zone_bands(self) -> NDArray[np.int64]:
        """The band of each zone; -1 if there is none."""
        bands = np.full(self._geometry.zone_count, -1, np.int64)
        for number, zones in enumerate(self._geometry.bands):
            bands[[zone for zone in zones if zone is not None]] = number
        return bands

    def _apply(self, records: NDArray[Any]) -> None:
        """Trim records and lost records, in the order in which they win."""
        lba, count, seq, entry = (
            np.ascontiguousarray(records[each]) for each in ("lba", "block_count", "seq", "entry")
        )
        which, first, part = _shim.uncovered_parts(lba, count, self._geometry.block_count)
        which = which.astype(np.intp)
        self._l2p.apply_records(first, part, seq[which], entry[which])

    async def _settle_broken(self) -> None:
        """Decides about blocks that do not match their CRC, and for which nothing newer or as new is known."""
        broken = np.concatenate([np.empty(0, _BROKEN), *self._broken])

        def remaining() -> NDArray[Any]:
            there = broken[self._is_unknown(broken)]
            return there[np.lexsort((~there["address"], ~there["seq"], there["lba"]))]

        # By version, the newest first.
        broken = await aside(len(broken), remaining)
        turns = Turns()
        lost: int | None = None
        # A version is lost if any of its copies should be there.
        for i in np.flatnonzero(~(broken["cut"] | broken["held"])).tolist():
            await turns()
            lba, seq, address, band = (int(broken[name][i]) for name in ("lba", "seq", "address", "band"))
            if lba != lost and not await self._never_came(address, band):
                lost = lba
                self._lose(lba, seq, address, band)

        def torn() -> int:
            there = broken[self._is_unknown(broken)]
            again = (there["lba"][1:] == there["lba"][:-1]) & (there["seq"][1:] == there["seq"][:-1])
            return len(there) - int(np.count_nonzero(again))

        self._torn += await aside(len(broken), torn)

    def _is_unknown(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether nothing newer or as new is known for their LBAs."""
        unknown: NDArray[np.bool_] = self._l2p.seqs_of(np.ascontiguousarray(rows["lba"])) < rows["seq"]
        return unknown

    async def _never_came(self, address: int, band: int) -> bool:
        """Whether the address holds a header. If so, an earlier load continued there after a batch that was cut off
        (room.py)."""
        header = self._reader.header_in_place((await self._reader.blocks(address, 1))[0], address)
        return header is not None and (header.band, header.band_seq) == (band, self._band_seqs[band])

    def _lose(self, lba: int, seq: int, address: int, band: int) -> None:
        lost = np.uint64(_shim.LOST_FLAG | address)
        self._l2p.put(np.array([lba], np.uint64), np.array([lost], np.uint64), seqs=np.array([seq], np.uint64))
        self._lost += 1
        self._damaged_bands.add(band)
        self._damage.append(f"block {address} (band {band}): LBA {lba} can't be read, or does not match its CRC")

    def _rows_of_copies(self) -> NDArray[Any]:
        """All blocks of the newest versions that are on media more than once, as _COPY. in_table: the CRC is not known
        yet."""
        copies = self._l2p.copies().view(_COPY)
        copies = copies[self._is_newest_block(copies)]
        broken = np.concatenate([np.empty(0, _BROKEN), *self._broken])
        broken = broken[self._is_newest_block(broken) & ~broken["cut"]]
        lbas = np.unique(np.concatenate([copies["lba"], broken["lba"]]))
        known = np.zeros(len(lbas), _COPY)
        known["lba"], known["seq"] = lbas, self._l2p.seqs_of(lbas)
        known["address"], known["in_table"] = self._l2p.entries_of(lbas), 1
        return np.concatenate([known, copies])

    def _is_newest_block(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether their LBAs have a block with this seq."""
        lba = np.ascontiguousarray(rows["lba"])
        is_block = (self._l2p.entries_of(lba) & np.uint64(_shim.LOST_FLAG)) == 0
        newest: NDArray[np.bool_] = is_block & (self._l2p.seqs_of(lba) == rows["seq"])
        return newest

    def _dispensable(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Finds bands whose blocks are all in other bands as well. Unfinished relocations leave such bands, and with
        emulated zones resets do. The merge prefers copies in other bands, so that these bands can be reset: a load may
        find no free band. Bands with the fewest blocks come first."""
        geometry = self._geometry
        bands = self._zone_bands()
        in_table = self._l2p.count(geometry.zone_size, geometry.zone_count).blocks
        owned = np.bincount(bands[bands >= 0], in_table[bands >= 0], minlength=geometry.band_count).astype(np.int64)
        band_of = bands[(rows["address"] // np.uint64(geometry.zone_size)).astype(np.intp)]
        # What is left has one block of each version, in the table.
        owned -= np.bincount(band_of[rows["in_table"] == 1], minlength=geometry.band_count)
        dispensable: NDArray[np.bool_] = owned == 0
        _, group = np.unique(rows["lba"], return_inverse=True)
        pairs = np.unique(np.stack([group, band_of], axis=1), axis=0)
        group, band = pairs[:, 0], pairs[:, 1]
        copies = np.bincount(group)
        dispensable[band[copies[group] == 1]] = False
        by_band = np.argsort(band, kind="stable")
        numbers, starts, counts = np.unique(band[by_band], return_index=True, return_counts=True)
        for i in map(int, np.argsort(counts, kind="stable")):
            groups = group[by_band[starts[i] : starts[i] + counts[i]]]
            if dispensable[numbers[i]] and (copies[groups] > 1).all():
                copies[groups] -= 1
            else:
                dispensable[numbers[i]] = False
        return dispensable

    async def _settle_copies(self, items: int, rows: NDArray[Any], dispensable: NDArray[np.bool_]) -> None:
        """Chooses one block of each version that is on media more than once: one that matches its CRC."""
        if not len(rows):
            return
        zone_size = np.uint64(self._geometry.zone_size)

        def in_winning_order() -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]:
            band_of = self._zone_bands()[(rows["address"] // zone_size).astype(np.intp)]
            order = np.lexsort((rows["address"], dispensable[band_of], rows["lba"]))
            there = rows[order]
            verified = self._unsure_zone[(there["address"] // zone_size).astype(np.intp)]
            verified |= self._held.seqs(np.ascontiguousarray(there["lba"])) >= there["seq"]
            return there, band_of[order], verified

        rows, band_of, good = await aside(items, in_winning_order)
        lba, address, crc = (np.ascontiguousarray(rows[name]) for name in ("lba", "address", "crc"))
        unknown = np.flatnonzero((rows["in_table"] == 1) & ~good)
        crc[unknown] = await self._crcs_at(address[unknown])
        first = np.r_[True, lba[1:] != lba[:-1]]
        version = np.cumsum(first) - 1
        open_ = np.flatnonzero(first & ~good)
        good[open_] = await self._verify(address[open_], crc[open_], told=True)
        # All other copies of these at once: there may be very many.
        failed = np.zeros(int(version[-1]) + 1, bool)
        failed[version[open_[~good[open_]]]] = True
        open_ = np.flatnonzero(failed[version] & ~good & ~first)
        good[open_] = await self._verify(address[open_], crc[open_], told=True)

        def winners() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
            those = np.flatnonzero(good)
            _, firsts = np.unique(version[those], return_index=True)
            found = those[firsts]
            lasts = np.flatnonzero(np.r_[first[1:], True])
            return found[rows["in_table"][found] == 0], np.delete(lasts, version[found])

        chosen, lost = await aside(items, winners)
        for i in lost.tolist():
            self._lose(int(lba[i]), int(rows["seq"][i]), int(address[i]), int(band_of[i]))
        await aside(items, lambda: self._l2p.put(lba[chosen], address[chosen], crcs=cut_crcs(crc[chosen])))

    async def _crcs_at(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The CRCs of these blocks, as the summaries of their zones say."""
        size = np.uint64(self._geometry.zone_size)
        found = np.zeros(len(addresses), np.uint32)
        if not len(addresses):
            return found

        def by_place() -> tuple[NDArray[np.int64], list[tuple[int, NDArray[np.intp]]]]:
            start, offset = addresses // size * size, (addresses % size).astype(np.int64)
            place = start.astype(np.int64) + self._geometry.data_blocks + offset // SUMMARY_ENTRIES
            order = np.argsort(place, kind="stable")
            places, firsts = np.unique(place[order], return_index=True)
            return offset % SUMMARY_ENTRIES, list(zip(places.tolist(), np.split(order, firsts[1:]), strict=True))

        entries, work = await aside(len(addresses), by_place)

        async def one(item: tuple[int, NDArray[np.intp]]) -> None:
            where, of_it = item
            part = parse_summary_block((await self._reader.blocks(where, 1))[0], self._superblock.media_uuid)
            entry = entries[of_it]
            if part is not None and int(entry.max()) < len(part.entries):
                found[of_it] = part.entries["crc"][entry]

        await side_by_side(one, work)
        return found

    async def _verify(self, address: NDArray[Any], crc: NDArray[Any], *, told: bool = False) -> NDArray[np.bool_]:
        """Returns which blocks match their CRC. told: progress is."""
        whole = np.zeros(len(address), bool)
        if not len(address):
            return whole

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
            blocks, readable = await self._reader.blocks_read(first, last - first + 1)
            if not readable.all():
                self._unreadable.add(first // self._geometry.zone_size)
            wanted = blocks[(address[run] - np.uint64(first)).astype(np.intp)]
            whole[run] = crcs(wanted) == crc[run]
            if told:
                self._report("blocks", next(done) / len(runs))

        await side_by_side(check, runs)
        return whole


def _row_bytes(entries: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(entries).view(np.uint8).reshape(-1, _ROW_BYTES)


def _records(zones: Sequence[ZoneContent]) -> NDArray[Any]:
    """The trim records and lost records of these zones, in their order."""
    parts = [np.empty(0, _RECORD)]
    for zone in zones:
        for address, entries in zone.records:
            part = np.zeros(len(entries), _RECORD)
            part["lba"], part["seq"], part["block_count"] = entries["lba"], entries["seq"], entries["crc"]
            lost = entries["flags"] == ENTRY_FLAG_LOST
            flag = np.where(lost, np.uint64(_shim.LOST_FLAG), np.uint64(_shim.TRIM_FLAG))
            part["entry"], part["band"] = flag | np.uint64(address), zone.band
            parts.append(part)
    return np.concatenate(parts)


def _newest_first(records: NDArray[Any], dispensable: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Of two copies, the one in a band that is not dispensable, else the last one."""
    keys = [-np.arange(len(records))]
    if dispensable is not None:
        keys.append(dispensable[records["band"]])
    return records[np.lexsort((*keys, ~records["seq"]))]
