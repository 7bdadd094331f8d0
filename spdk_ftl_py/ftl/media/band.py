"""Bands as Python sees them: the shim's states, and which of their zones have failed.

Bands keeps counts for questions about all bands (how many are free, how much they can take, which can be reset), and
updates these with each change. So only a choice among all bands takes longer with more of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import CLASSES_MAX
from .geometry import Geometry
from .zone_map import ZoneMap
from .zone_wear import ZoneWear

FREE: Final = "free"
QUEUED: Final = "queued"
OPEN: Final = "open"
CLOSING: Final = "closing"
CLOSED: Final = "closed"
MOVING: Final = "moving"
RESETTING: Final = "resetting"
FAULTED: Final = "faulted"
RETIRED: Final = "retired"
"""A state of Python only: the band has no zone left. For the shim the band is free, but it is never opened."""

CHECKPOINT: Final = "checkpoint"
"""A reported state only: the band holds a running checkpoint. In Python it counts as RETIRED until it is given back."""

MENDING: Final = "mending"
"""A reported state only: the band is free, but has failed zones, which must be replaced before it can be opened."""

SHIM_STATES: Final = tuple(state.name.lower() for state in _shim.BandState)
"""By the shim's number."""
BAND_ROW: Final = np.dtype(_shim.band_row_layout())
"""What FtlCore.changed_bands() and band_rows() return."""
_STATES: Final = (*SHIM_STATES, RETIRED, "unknown")
REPORTED_STATES: Final = (*_STATES, MENDING, CHECKPOINT)
"""What Bands.reported_states() has the indices of."""
_CODE: Final = {state: code for code, state in enumerate(_STATES)}
_FREE, _QUEUED, _OPEN, _CLOSING, _CLOSED, _MOVING, _RESETTING, _FAULTED, _RETIRED, _UNKNOWN = range(len(_STATES))
_FEW: Final = frozenset({_QUEUED, _OPEN, _CLOSING, _MOVING, _RESETTING, _FAULTED})
"""Only few bands are in one of these states, so the shim lists them."""
_CLOSED_STATES: Final = frozenset({_CLOSED, _FAULTED})


@dataclass(frozen=True)
class Band:
    """One band at the time of the request. Only methods of Bands change it."""

    index: int
    zones: list[int | None]
    """Zone numbers by punit; None if a zone is missing."""
    zone_blocks: int
    state: str = FREE
    seq: int = 0
    stream: int = 0
    valid: int = 0
    written: int = 0
    bad_punits: set[int] = field(default_factory=set)
    """Zones that must not be written again; they are replaced when the band is free."""
    relocate: bool = False
    """The band must be emptied, whatever that gains: the base recommends a reset of one of its zones."""

    @property
    def capacity(self) -> int:
        """Data blocks that it holds if all its zones are written in full batches."""
        return self.zone_blocks * sum(1 for zone in self.zones if zone is not None)

    @property
    def capacity_to_come(self) -> int:
        """The same after its reset, if there is no spare for its failed zones."""
        bad = sum(1 for punit in self.bad_punits if self.zones[punit] is not None)
        return self.capacity - self.zone_blocks * bad

    @property
    def endangered(self) -> bool:
        """It is moved before other bands, whatever that gains."""
        return self.state == FAULTED or (self.state == CLOSED and (bool(self.bad_punits) or self.relocate))

    @property
    def reported_state(self) -> str:
        """The reported state: a free band that can't be opened yet is not reported as free."""
        return MENDING if self.state == FREE and self.bad_punits else self.state

    @property
    def invalid(self) -> int:
        """Blocks that relocating it gains, including those that headers of short batches took."""
        return max(0, self.capacity - self.valid)

    @property
    def room(self) -> int:
        """Data blocks that can still be written to it, as a lower bound."""
        return max(0, self.capacity - self.written)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view: NDArray[Any] = array.view()
    view.flags.writeable = False
    return view


class _Items(NamedTuple):
    """The arrays of Bands, as memory: one item of a numpy array takes several times as long."""

    valid: memoryview
    seq: memoryview
    capacity: memoryview
    capacity_to_come: memoryview
    broken: memoryview
    resets: memoryview
    state: memoryview
    stream: memoryview
    written: memoryview
    unwritten: memoryview
    ready: memoryview


class Bands:
    """All bands. refresh() takes the changes from the shim; a band is unknown until the shim has reported it."""

    def __init__(self, geometry: Geometry, zone_map: ZoneMap, wear: ZoneWear | None = None) -> None:
        """wear: by default no zone was reset yet."""
        count = geometry.band_count
        self._geometry = geometry
        self.zone_map = zone_map
        self.wear = wear or ZoneWear(geometry.zone_count)
        self.valid = np.zeros(count, np.int64)
        """By band, like the other arrays; read-only for others."""
        self.seq = np.zeros(count, np.int64)
        self.opened_seq = np.zeros(count, np.int64)
        """The core's next_seq when the band was opened. Of bands that were loaded: about that."""
        self.data_seq = np.zeros(count, np.int64)
        """The seq of the data blocks that were written to the band, on average; opened_seq if there are none."""
        self.capacity = np.full(count, geometry.band_blocks, np.int64)
        self.capacity_to_come = self.capacity.copy()
        self.faulted = np.zeros(count, bool)
        """In state FAULTED."""
        self.broken = np.zeros(count, bool)
        """It has failed zones."""
        self.closed = np.zeros(count, bool)
        """CLOSED or FAULTED."""
        self.relocate = np.zeros(count, bool)
        """The base recommends a reset of one of its zones."""
        self.resets = np.zeros(count, np.uint32)
        """How often the band was reset since the FTL was created: as the most worn one of its zones."""
        self.whole_capacity = geometry.band_blocks
        """The capacity of a band with all its zones."""
        self.free_capacity = 0
        """Data blocks of the bands that are ready to be opened."""
        self._state = np.full(count, _UNKNOWN, np.uint8)
        self._stream = np.zeros(count, np.uint8)
        self._written = np.zeros(count, np.int64)
        self._unwritten = np.ones(count, bool)
        self._ready = np.zeros(count, bool)
        self._ready_count = 0
        self._resting: list[tuple[int, int, int]] = []
        """A heap of (resets, seq, number) with every band that is ready, and some that are no longer ready."""
        self._emptied: dict[int, None] = {}
        self._emptied_unwritten: dict[int, None] = {}
        self._to_mend: dict[int, None] = {}
        self._bad_punits: dict[int, set[int]] = {}
        self._to_empty: set[int] = set()
        """Where relocate is set."""
        self._kept: set[int] = set()
        """Bands that hold a running checkpoint. For the shim they are free."""
        self.measured = 0
        """Increases with every change of capacity or capacity_to_come."""
        self.moving_changes = 0
        """Increases whenever a band that is being moved may have changed, or is another one: what was calculated from
        these holds until then."""
        arrays: tuple[NDArray[Any], ...] = (
            self.valid, self.seq, self.capacity, self.capacity_to_come, self.broken, self.resets, self._state,
            self._stream, self._written, self._unwritten, self._ready,
        )  # fmt: skip
        self.one = _Items(*(array.data for array in arrays))
        counts = np.zeros(len(_STATES), np.int64)
        counts[_UNKNOWN] = count
        rooms, queued, writing = (np.zeros(CLASSES_MAX, np.int64) for _ in range(3))
        self._counts = counts.data
        """By state."""
        self._rooms = rooms.data
        """By stream (class), like the next ones: data blocks that can still be written to its bands."""
        self._queued = queued.data
        self._writing = writing.data
        """Bands that are queued or open."""
        self._account = _shim.BandColumns(
            valid=self.valid,
            seq=self.seq,
            opened_seq=self.opened_seq,
            data_seq=self.data_seq,
            capacity=self.capacity,
            written=self._written,
            stream=self._stream,
            unwritten=self._unwritten,
            state=self._state,
            closed=self.closed,
            faulted=self.faulted,
            counts=counts,
            rooms=rooms,
            queued=queued,
            writing=writing,
            # A reset clears the failure of a zone, but such a zone is not trusted again.
            lasting_state=_RETIRED,
        )
        self.to_look_at: dict[str, NDArray[Any]] = {
            "valid": _read_only(self.valid),
            "capacity": _read_only(self.capacity),
            "band_class": _read_only(self._stream),
            "resets": _read_only(self.resets),
            "closed": _read_only(self.closed),
        }
        """The arrays as policies see them (BandTable)."""
        self.count_resets()
        for number in zone_map.incomplete:
            self._measure(number)

    # --- one band

    def __getitem__(self, number: int) -> Band:
        return Band(
            number,
            self.zone_map.of_band(number),
            self._geometry.zone_blocks,
            _STATES[self._state[number]],
            int(self.seq[number]),
            int(self._stream[number]),
            int(self.valid[number]),
            int(self._written[number]),
            set(self._bad_punits.get(number, ())),
            bool(self.relocate[number]),
        )

    def __iter__(self) -> Iterator[Band]:
        return (self[number] for number in range(len(self)))

    def __len__(self) -> int:
        return len(self._state)

    def at(self, zone: int) -> tuple[Band, int] | None:
        """The band and punit of a zone; None if the zone is in no band."""
        place = self.zone_map.place(zone)
        return None if place is None else (self[place[0]], place[1])

    # --- changes

    def refresh(self, rows: NDArray[np.uint8]) -> int:
        """Takes the account of some bands. Returns their number."""
        self.moving_changes += 1
        for number, state, faulted_punits in self._account.take(rows):
            if faulted_punits:
                self._add_bad(number, {punit for punit in range(self._geometry.punits) if faulted_punits >> punit & 1})
            self._file(number, state)
        return len(rows) // BAND_ROW.itemsize

    def _add_bad(self, number: int, punits: set[int]) -> None:
        known = self._bad_punits.setdefault(number, set())
        if not punits <= known:
            known |= punits
            self._measure(number)

    def ordered(self, number: int, state: str, *, stream: int | None = None) -> None:
        """An order for this band was given; the shim will report the same state."""
        if stream is not None:
            self.one.stream[number] = stream
            self.one.written[number] = 0
            self.one.unwritten[number] = True
        self._file(number, _CODE[state])

    def count_resets(self) -> None:
        """Zones were reset other than with their bands. Looks at all bands."""
        bands = self.zone_map.bands()
        try:
            zones = np.array(bands, np.intp)
        except TypeError:
            # Some are None.
            for number in range(len(bands)):
                self._count_resets(number)
        else:
            self.resets[:] = self.wear.counts[zones].max(axis=1, initial=0)
        self._resting.clear()
        for number in np.flatnonzero(self._ready).tolist():
            self._rest(number)

    def _count_resets(self, number: int) -> None:
        self.one.resets[number] = self.wear.most(zone for zone in self.zone_map.of_band(number) if zone is not None)

    def want_empty(self, number: int) -> None:
        """The base recommends a reset of one of its zones: the band is moved, whatever that gains, until its reset."""
        self.relocate[number] = True
        self._to_empty.add(number)

    def put_off(self, numbers: Iterable[int]) -> None:
        """Empty bands that could not be reset yet: they come after the others."""
        for number in numbers:
            for emptied in (self._emptied_unwritten, self._emptied):
                if number in emptied:
                    del emptied[number]
                    emptied[number] = None

    def keep_closed(self, number: int, punit: int) -> None:
        """A free band is not opened before mended(), as if this zone of it had failed."""
        self._add_bad(number, {punit})

    def keep(self, number: int) -> None:
        """A band that is ready, or that a load found so, holds a running checkpoint from now on: it is not opened
        before give_back()."""
        self._kept.add(number)
        self._file(number, _RETIRED)

    def give_back(self, number: int) -> None:
        """The shim has the order to reset a band that was kept."""
        self._kept.discard(number)
        self._file(number, _RESETTING)

    @property
    def kept_count(self) -> int:
        return len(self._kept)

    def rezoned(self, number: int) -> None:
        """The band has other zones; failed ones still keep it from being opened."""
        self._measure(number)

    def mended(self, band: Band) -> None:
        """None of its zones counts as failed any more; without any zone the band is retired."""
        self._bad_punits.pop(band.index, None)
        self._measure(band.index)
        retired = self.capacity[band.index] == 0
        self._file(band.index, _RETIRED if retired else int(self._state[band.index]))

    def retire_empty(self) -> None:
        """After a load: bands that have lost all their zones are retired."""
        for number in np.flatnonzero(self.capacity == 0).tolist():
            self._file(number, _RETIRED)

    def _measure(self, number: int) -> None:
        """Updates what depends on the zones of the band. _file() updates its place."""
        self.measured += 1
        self.moving_changes += 1
        self._unfile(number)
        band = self[number]
        self.capacity[number] = band.capacity
        self.capacity_to_come[number] = band.capacity_to_come
        self.broken[number] = bool(band.bad_punits)
        self._count_resets(number)
        self._file(number, int(self._state[number]))

    def _unfile(self, number: int) -> None:
        """Of a band that is free."""
        one = self.one
        if one.ready[number]:
            one.ready[number] = False
            self._ready_count -= 1
            self.free_capacity -= one.capacity[number]
        self._to_mend.pop(number, None)

    def _file(self, number: int, state: int) -> None:
        """Puts the band where its state belongs. Called for each band several times while it is written and freed, so
        it looks only where a band can be."""
        one = self.one
        before = self._account.file(number, state)
        if before == _FREE:
            self._unfile(number)
        if before == _MOVING or state == _MOVING:
            self.moving_changes += 1
        if state == _FREE:
            self._file_free(number, reset=before == _RESETTING)
        if state in _CLOSED_STATES and one.valid[number] == 0:
            if one.unwritten[number]:
                self._emptied.pop(number, None)
                self._emptied_unwritten.setdefault(number)
            else:
                # Between two accounts it may have been reset, written and emptied again.
                self._emptied_unwritten.pop(number, None)
                self._emptied.setdefault(number)
        elif before in _CLOSED_STATES:
            self._emptied.pop(number, None)
            self._emptied_unwritten.pop(number, None)

    def _file_free(self, number: int, *, reset: bool) -> None:
        one = self.one
        if reset:
            zones = [zone for zone in self.zone_map.of_band(number) if zone is not None]
            self.wear.add(zones)
            one.resets[number] = self.wear.most(zones)
        if number in self._to_empty:
            self.relocate[number] = False
            self._to_empty.discard(number)
        if one.broken[number]:
            self._to_mend[number] = None
        else:
            one.ready[number] = True
            self._ready_count += 1
            self.free_capacity += one.capacity[number]
            self._rest(number)

    def _rest(self, number: int) -> None:
        heapq.heappush(self._resting, (self.one.resets[number], self.one.seq[number], number))

    # --- all bands

    def reported_states(self) -> NDArray[np.uint8]:
        """Of each band, as an index of REPORTED_STATES."""
        mending = np.uint8(REPORTED_STATES.index(MENDING))
        states = np.where((self._state == _FREE) & self.broken, mending, self._state)
        states[sorted(self._kept)] = REPORTED_STATES.index(CHECKPOINT)
        return states

    @property
    def streams(self) -> NDArray[np.uint8]:
        """Of each band, the stream that wrote it last. Read-only."""
        return self._stream

    def in_state(self, *states: str) -> list[Band]:
        """In ascending order. FREE, CLOSED and RETIRED look at all bands."""
        codes = [_CODE[state] for state in states]
        if all(code in _FEW for code in codes):
            numbers = sorted(number for code in codes for number in self._account.in_state(code))
        else:
            numbers = np.flatnonzero(np.isin(self._state, codes)).tolist()
        return [self[number] for number in numbers]

    def moving(self) -> list[int]:
        """The numbers of the bands that are being moved, in no certain order."""
        return self._account.in_state(_MOVING)

    def resetting_capacity(self) -> int:
        """Data blocks of the bands that are being reset."""
        return self._account.resetting_capacity()

    def moving_valid(self) -> int:
        """Valid blocks of the bands that are being moved."""
        return self._account.moving_valid()

    def count(self, *states: str) -> int:
        return sum([int(self._counts[_CODE[state]]) for state in states])

    @property
    def moving_count(self) -> int:
        moving: int = self._counts[_MOVING]
        return moving

    @property
    def resetting_count(self) -> int:
        resetting: int = self._counts[_RESETTING]
        return resetting

    @property
    def freeing_count(self) -> int:
        """That are being moved or reset."""
        freeing: int = self._counts[_MOVING] + self._counts[_RESETTING]
        return freeing

    def counts(self) -> dict[str, int]:
        """Number of bands by reported state (Band.reported_state), without empty states."""
        counts = dict(zip(_STATES, self._counts, strict=True))
        counts[FREE], counts[MENDING] = self._ready_count, len(self._to_mend)
        counts[CHECKPOINT] = len(self._kept)
        counts[RETIRED] -= len(self._kept)
        return {state: count for state, count in sorted(counts.items()) if count}

    @property
    def free_count(self) -> int:
        """Ready to be opened."""
        return self._ready_count

    def first_free(self) -> int | None:
        """The ready band that was reset least; of several the one that rested longest."""
        while self._resting:
            resets, seq, number = self._resting[0]
            one = self.one
            if one.ready[number] and one.seq[number] == seq and one.resets[number] == resets:
                return number
            heapq.heappop(self._resting)
        return None

    def free(self) -> list[Band]:
        """All ready bands, in the order of first_free()."""
        bands = [self[number] for number in np.flatnonzero(self._ready).tolist()]
        return sorted(bands, key=lambda band: (self.resets[band.index], band.seq, band.index))

    def last_free(self) -> int | None:
        """The ready band that was reset most. Looks at all bands."""
        if not self._ready_count:
            return None
        return int(np.argmax(np.where(self._ready, self.resets.astype(np.int64), -1)))

    @property
    def emptied_count(self) -> int:
        return len(self._emptied) + len(self._emptied_unwritten)

    def emptied(self, most: int) -> list[int]:
        """Bands in CLOSED or FAULTED without valid data: at most so many, and in addition all to which nothing was
        written."""
        few = [number for number, _ in zip(self._emptied, range(most), strict=False)]
        return [*self._emptied_unwritten, *few]

    @property
    def endangered(self) -> NDArray[np.bool_]:
        """For each band: whether it is moved before others, whatever that gains. As Band.endangered."""
        marked: NDArray[np.bool_] = self.faulted | (self.closed & (self.broken | self.relocate))
        return marked

    def movable(self, most_valid: NDArray[np.int64], room: int, allowed: NDArray[np.bool_]) -> int:
        """Sets allowed for closed bands with something in force, but at most room blocks, and most_valid[band]. Returns
        how many these are."""
        return self._account.movable(most_valid, room, allowed)

    def is_endangered(self, number: int) -> bool:
        """The same of one band."""
        state = self.one.state[number]
        return state == _FAULTED or (
            state == _CLOSED and bool(self._bad_punits.get(number) or number in self._to_empty)
        )

    def any_endangered(self) -> bool:
        if self._counts[_FAULTED] > 0:
            return True
        return bool(self._bad_punits or self._to_empty) and bool(self.endangered.any())

    def to_mend(self) -> list[Band]:
        """Bands that are free, except for failed zones."""
        return [self[number] for number in self._to_mend]

    def any_to_mend(self) -> bool:
        return bool(self._to_mend)

    def being_written(self, stream: int) -> list[int]:
        """Queued or open bands of this stream (class)."""
        written = [*self._account.in_state(_QUEUED), *self._account.in_state(_OPEN)]
        return [number for number in written if self.one.stream[number] == stream]

    def is_written(self, stream: int) -> bool:
        """Whether there are such bands."""
        return bool(self._writing[stream])

    def queued_count(self, *streams: int) -> int:
        queued, count = self._queued, 0
        for stream in streams:
            count += queued[stream]
        return count

    def room(self, *streams: int) -> int:
        """Data blocks that can still be written to the streams' bands, as a lower bound."""
        rooms, room = self._rooms, 0
        for stream in streams:
            room += rooms[stream]
        return room

    def broken_numbers(self) -> list[int]:
        return sorted(number for number, bad in self._bad_punits.items() if bad)
