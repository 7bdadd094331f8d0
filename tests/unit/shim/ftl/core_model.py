"""What a device must hold, what of it must survive a loss of power, and what is found on media after one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media import layout
from unit.shim.ftl.core_bench import BLOCK, UUID_OF_TESTS, Bench, content, version_of
from unit.shim.stepped import ZSA_FINISH, Stepped

LBA_NONE = (1 << 64) - 1
"""Of a header, in a summary."""
LOST = -1
RECORD_LOST = 2


class Model:
    """Changes are numbered in order of submission; a version of 0 is "reads zeroes"."""

    def __init__(self, block_count: int) -> None:
        self.block_count = block_count
        self.change = 0
        self.version = 0
        self.history: list[dict[int, int]] = [{0: 0} for _ in range(block_count)]
        """Per LBA: change -> version it made, from the oldest that may still be found on."""
        self.completed = [0] * block_count
        """Per LBA: newest change that was acknowledged."""
        self.durable = [0] * block_count
        """Per LBA: the change that must have survived, or a newer one."""

    def submit(self, lba: int, block_count: int, *, trim: bool) -> tuple[int, int]:
        """(change, version) of a write or trim."""
        self.change += 1
        self.version += 1
        version = 0 if trim else self.version
        for each in range(lba, lba + block_count):
            self.history[each][self.change] = version
        return self.change, version

    def acknowledge(self, lba: int, block_count: int, change: int, *, durable: bool) -> None:
        for each in range(lba, lba + block_count):
            self.completed[each] = max(self.completed[each], change)
            if durable:
                self.make_durable(each, change)

    def make_durable(self, lba: int, change: int) -> None:
        if change > self.durable[lba]:
            self.durable[lba] = change
            self.history[lba] = {c: v for c, v in self.history[lba].items() if c >= change}

    def flushed(self, completed_before: list[int]) -> None:
        for lba, change in enumerate(completed_before):
            self.make_durable(lba, change)

    def acknowledged_survives(self) -> None:
        """What is left of a crash must hold everything that was acknowledged, flushed or not."""
        self.flushed(self.completed)

    def current(self, lba: int) -> int:
        """When nothing is outstanding."""
        return self.history[lba][max(self.history[lba])]

    def check(self, found: list[int], what: str) -> None:
        """Each LBA holds its durable version or a newer one."""
        for lba, version in enumerate(found):
            assert version in self.history[lba].values(), (
                f"{what}: LBA {lba} holds version {version}, allowed are {self.history[lba]} (change: version)"
            )

    def restart(self, found: list[int]) -> None:
        """After a loss of power: what is there is durable."""
        for lba, version in enumerate(found):
            self.history[lba] = {self.change: version}
            self.completed[lba] = self.durable[lba] = self.change


@dataclass
class Recovered:
    """Newest seq wins over everything on media that verifies."""

    entries: np.ndarray  # L2P for FtlCore.load_l2p
    crcs: np.ndarray
    versions: list[int]
    next_seq: int = 1
    next_band_seq: int = 1
    bands: list[tuple[_shim.BandState, int, list[int]]] = field(default_factory=list)
    """state, seq, relative write pointers"""


@dataclass
class _Newest:
    seq: int
    entry: int
    version: int


def recover(bench: Bench) -> Recovered:
    """Walks the media as docs/media-layout.md says."""
    base = Stepped(bench.reactor, bench.media)
    try:
        return _Walk(bench, base).run()
    finally:
        base.port.close()


class _Walk:
    def __init__(self, bench: Bench, base: Stepped) -> None:
        self.bench = bench
        self.base = base
        self.newest: dict[int, _Newest] = {}
        self.next_seq = 1

    def run(self) -> Recovered:
        states = {start: (state, pointer) for start, state, pointer in self.bench.media.zone_states()}
        bands = []
        for number, starts in enumerate(self.bench.zones):
            pointers = []
            seqs = {0}
            whole = True
            for punit, start in enumerate(starts):
                state, pointer = states[start]
                written = self.bench.zone_capacity if state == "full" else pointer - start
                pointers.append(written)
                summarised = False
                if written:
                    seq, summarised = self.walk_zone(number, punit, start, written)
                    seqs.add(seq)
                whole &= summarised
                if state == "closed":
                    assert self.base.zone_send(start, ZSA_FINISH) == 0
            free = not any(pointers)
            band = _shim.BandState
            bands.append((band.FREE if free else band.CLOSED if whole else band.FAULTED, max(seqs), pointers))
        block_count = self.bench.block_count
        entries = np.full(block_count, _shim.ADDRESS_INVALID, np.uint64)
        versions = [0] * block_count
        crcs = np.zeros(block_count, np.uint32)
        for lba, newest in self.newest.items():
            entries[lba] = newest.entry
            versions[lba] = newest.version
            if newest.version > 0:
                crcs[lba] = _shim.crc32c(content(lba, newest.version))
        return Recovered(
            entries, layout.cut_crcs(crcs), versions, self.next_seq, max(seq for _, seq, _ in bands) + 1, bands
        )

    def walk_zone(self, band: int, punit: int, start: int, written: int) -> tuple[int, bool]:
        """(band seq, has its summary)."""
        raw = b"".join(self.base.read(start + offset, min(64, written - offset)) for offset in range(0, written, 64))
        media = np.frombuffer(raw, np.uint8).reshape(-1, BLOCK)
        data_blocks = self.bench.data_blocks
        described: dict[int, tuple[int, int, int, int]] = {}
        offset, band_seq = 0, 0
        while offset < min(written, data_blocks):
            header = layout.parse_batch_header(media[offset], UUID_OF_TESTS)
            if header is None:
                break
            assert header.address in (0, start + offset)
            assert (header.band, header.punit) == (band, punit)
            assert band_seq in (0, header.band_seq)
            band_seq = header.band_seq
            described[offset] = (LBA_NONE, 0, 0, layout.SUMMARY_FLAG_HEADER | header.kind)
            for i, entry in enumerate(header.entries):
                lba, seq, crc, flags = (int(entry[name]) for name in ("lba", "seq", "crc", "flags"))
                if header.kind == layout.KIND_DATA:
                    at = offset + 1 + i
                    described[at] = (lba, seq, crc, flags)
                    if at < written and _shim.crc32c(media[at].tobytes()) == crc:
                        self.note(lba, seq, start + at, version_of(lba, media[at].tobytes()))
                else:
                    flag, version = (_shim.LOST_FLAG, LOST) if flags == RECORD_LOST else (_shim.TRIM_FLAG, 0)
                    for each in range(lba, lba + crc):
                        self.note(each, seq, flag | (start + offset), version)
            offset += header.block_count
        if written < self.bench.zone_capacity:
            return band_seq, False
        summary = layout.parse_summary(media[data_blocks:], UUID_OF_TESTS, band=band, punit=punit)
        if summary is None:
            return band_seq, False
        entries = layout.summary_entries(summary)
        assert summary.band_seq == band_seq
        told = {i: tuple(int(e[name]) for name in ("lba", "seq", "crc", "flags")) for i, e in enumerate(entries)}
        assert told == described, "a summary says what the headers said"
        return band_seq, True

    def note(self, lba: int, seq: int, entry: int, version: int) -> None:
        self.next_seq = max(self.next_seq, seq + 1)
        if lba not in self.newest or seq > self.newest[lba].seq:
            self.newest[lba] = _Newest(seq, entry, version)


def restarted(bench: Bench, recovered: Recovered, **options: object) -> Bench:
    """Another core on the same media, loaded with what was recovered."""
    again = Bench(
        reactor=bench.reactor,
        media=bench.media,
        first_band_seq=recovered.next_band_seq,
        next_seq=recovered.next_seq,
        **options,  # type: ignore[arg-type]
    )
    for number, (state, seq, pointers) in enumerate(recovered.bands):
        again.core.load_band(number, state, seq, pointers)
    table = _shim.RestoredL2p(again.block_count, bench.media.block_count, with_crcs=True, with_seqs=False)
    every = np.arange(again.block_count, dtype=np.uint64)
    known = recovered.entries != np.uint64(_shim.ADDRESS_INVALID)
    table.put(every[known], recovered.entries[known], crcs=recovered.crcs[known])
    zone_count = bench.media.block_count // again.zone_size
    again.core.take_l2p(table, table.count(again.zone_size, zone_count, trim_chunk=again.trim_chunk))
    again.events.clear()
    return again
