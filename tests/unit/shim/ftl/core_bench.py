"""An FtlCore on emulated zoned media, stepped by hand, with a band manager just good enough to keep it going."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import numpy as np

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.band import BAND_ROW
from unit.shim.stepped import Completion, Stepped

BLOCK = 4096
UUID_OF_TESTS = UUID("6f1f0b7e-7c3c-4b0a-9c53-0a1d3ad5c0de")
RESERVED_BANDS = 2
GC_START_FREE_BANDS = 4
STEP_NS = 10_000
READ_BLOCKS = 32
ZEROES = bytes(BLOCK)
Table = tuple[tuple[int, ...], tuple[int, ...]]
"""Classes by age: classes, and limits."""


def content(lba: int, version: int) -> bytes:
    """The whole block tells LBA and version; version 0 is zeroes."""
    return ZEROES if version == 0 else struct.pack("<QQ", lba, version) * (BLOCK // 16)


def version_of(lba: int, block: bytes) -> int:
    """The version a block of `lba` holds; fails on anything that is not one whole version of it."""
    if block == ZEROES:
        return 0
    found_lba, version = struct.unpack_from("<QQ", block)
    assert found_lba == lba, f"LBA {lba} reads a block of LBA {found_lba}"
    assert block == content(lba, version), f"LBA {lba} reads a block torn or mixed"
    return int(version)


class Bench(Stepped):
    """Reads and writes go to the core (Stepped's methods). Time goes on by STEP_NS a step."""

    def __init__(
        self,
        *,
        band_count: int = 12,
        punits: int = 2,
        zone_size: int = 64,
        zone_capacity: int = 48,
        media_zone_capacity: int | None = None,
        fill_percent: int = 60,
        volatile_cache: bool = True,
        max_append_blocks: int = 32,
        schedule_seed: int | None = None,
        reactor: _shim.Reactor | None = None,
        media: _shim.EmulatedMedia | None = None,
        wrap_base: Callable[[_shim.Reactor, _shim.EmulatedMedia], _shim.BlockDevice] | None = None,
        first_band_seq: int = 1,
        extra_zones: int = 2,
        **options: Any,
    ) -> None:
        reactor = reactor or _shim.Reactor("bench")
        self.punits = punits
        self.zone_size = zone_size
        self.zone_capacity = zone_capacity
        self.shared_stream = bool(options.get("shared_stream", False))
        self.user_classes = 1
        streams = 2 if self.shared_stream else 1 + int(options.get("classes_max", 2))
        self.media = media or _shim.EmulatedMedia.zns(
            reactor,
            2 + band_count * punits + extra_zones,
            zone_size,
            media_zone_capacity or zone_capacity,
            max_open_zones=streams * punits + 1,
            max_active_zones=streams * punits + 1,
            volatile_cache=volatile_cache,
            max_append_blocks=max_append_blocks,
        )
        self.media.set_schedule(schedule_seed)
        self.zones = [[(2 + b * punits + p) * zone_size for p in range(punits)] for b in range(band_count)]
        summary = -(-zone_capacity // 169)
        self.data_blocks = zone_capacity - summary
        settings: dict[str, Any] = {
            "uuid": UUID_OF_TESTS.bytes,
            "block_count": band_count * punits * (self.data_blocks - 4) * fill_percent // 100,
            "bands": self.zones,
            "zone_size": zone_size,
            "zone_capacity": zone_capacity,
            "write_buffer_blocks": 32,
            "reloc_buffer_blocks": 32,
            "batch_blocks": 16,
        }
        base = wrap_base(reactor, self.media) if wrap_base else self.media
        config = _shim.CoreConfig(**(settings | options))
        self.core = _shim.FtlCore(reactor, base, config)
        self.trim_chunk = config.trim_chunk
        super().__init__(reactor, self.core)
        self.block_count = self.core.block_count
        self.base = Stepped(reactor, self.media)
        self.ports: list[Stepped] = [self, self.base]
        self.events: list[_shim.Event] = []
        self.band_seq = first_band_seq
        self.wanting: set[int] = set()
        self.withheld: set[int] = set()
        """Streams that get no band."""
        self.gc = True
        self.failed = False
        self.auto_reset = True
        self.full = False

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.core.close()
        self.port.close()
        self.base.port.close()

    # --- stepping

    def step(self) -> int:
        self.now_ns += STEP_NS
        work = self.reactor.step(self.now_ns)
        manage = False
        for event in self.reactor.events():
            if event.kind == _shim.EventKind.IO_DONE:
                for port in self.ports:
                    if event.source == port.port.id:
                        done = port.completed

                        done[event.ticket] = Completion(event.status, event.result)
                        port.completion_order.append(event.ticket)
                continue
            assert event.kind != _shim.EventKind.OVERFLOW
            self.events.append(event)
            manage = True
            if event.kind == _shim.EventKind.BAND_NEXT_NEEDED:
                self.wanting.add(event.stream)
            elif event.kind == _shim.EventKind.CORE_FAILED:
                self.failed = True
            elif event.kind == _shim.EventKind.BAND_RESET_DONE and event.status and event.failed_punit is not None:
                self.core.replace_zone(event.band, event.failed_punit, None)
        if (manage or self.wanting) and not self.failed:
            self.manage()
        return work

    def manage(self) -> None:
        # Not bands(): this is called very often, and the sanitizers watch every object.
        rows = self.core.band_rows(0, len(self.zones)).view(BAND_ROW)
        states, valid = rows["state"].tolist(), rows["valid"].tolist()
        closed = (_shim.BandState.CLOSED, _shim.BandState.FAULTED)
        free = [number for number, state in enumerate(states) if state == _shim.BandState.FREE]
        if self.auto_reset and not self.full:
            for number, state in enumerate(states):
                if state in closed and valid[number] == 0:
                    self.core.reset_band(number)
                    states[number] = _shim.BandState.RESETTING
        moving = [state for state in states if state in (_shim.BandState.MOVING, _shim.BandState.RESETTING)]
        busy = bool(moving)
        for stream in sorted(self.wanting, reverse=True):
            of_reloc = stream >= self.user_classes
            reserve = 0 if of_reloc or (self.shared_stream and busy) else RESERVED_BANDS
            if len(free) > reserve and stream not in self.withheld:
                self.core.open_band(stream, free.pop(0), self.band_seq)
                self.band_seq += 1
                self.wanting.discard(stream)
        self.limit(0 if moving and len(free) < RESERVED_BANDS else 100)
        if self.gc and len(free) <= GC_START_FREE_BANDS and len(moving) < 2:
            victims = [(valid[n], n) for n, state in enumerate(states) if state in closed]
            # With plenty of room only bands that give back a good part of theirs.
            most = self.punits * self.data_blocks * (100 if len(free) <= RESERVED_BANDS else 75) // 100
            if victims and min(victims)[0] < most:
                self.core.start_move(min(victims)[1])

    def place(self, user: Table, *relocated: Table, unwritten: int = 0, **more: Any) -> None:
        """A placement: classes and limits of each table. Classes are numbered without gaps."""
        tables = relocated or (((max(user[0]) + 1,), ()),)
        user_classes = more.pop("user_classes", max(*user[0], unwritten) + 1)
        self.core.set_placement(
            classes=more.pop("classes", max(max(classes) for classes, _ in tables) + 1),
            user_classes=user_classes,
            user=user,
            unwritten=unwritten,
            relocated=tables,
            **more,
        )
        self.user_classes = user_classes
        self.wanting.clear()

    def class_of(self, lba: int) -> int:
        """Of the band that the LBA is in."""
        return self.core.bands()[self.zone_of(self.address(lba))[0]].stream

    def limit(self, share: int) -> None:
        self.core.set_pace(share)

    def settle(self, steps: int = 2000) -> None:
        """Steps until nothing moves any more."""
        idle = 0
        for _ in range(steps):
            idle = 0 if self.step() else idle + 1
            if idle > 3:
                return

    def write_to_the_end_of(self, band: int) -> None:
        """From LBA 1 on, until it is open no longer."""
        lba = 1
        while self.core.bands()[band].state == _shim.BandState.OPEN:
            self.put(lba, 1)
            lba += 1

    def until(self, kind: int, *, steps: int = 20_000) -> _shim.Event:
        """The next event of a kind, from what was not looked at yet."""
        for _ in range(steps):
            for position, event in enumerate(self.events):
                if event.kind == kind:
                    return self.events.pop(position)
            self.step()
        raise AssertionError(f"no event {kind} within {steps} steps")

    def take(self, kind: int) -> list[_shim.Event]:
        found = [event for event in self.events if event.kind == kind]
        self.events = [event for event in self.events if event.kind != kind]
        return found

    def audit(self) -> None:
        """The bands' counts are what the L2P says."""
        entries = self.core.l2p(0, self.block_count)
        tags = entries >> np.uint64(62)
        addresses = entries & np.uint64((1 << 62) - 1)
        on_media = tags == 0
        records = (tags >= 2) & (addresses < self.media.block_count)
        for number, band in enumerate(self.core.bands()):
            inside = (addresses // self.zone_size - 2) // self.punits == number
            references = int(np.count_nonzero(records & inside))
            assert band.references == references, f"band {number}"
            data = int(np.count_nonzero(on_media & inside))
            assert data + bool(references) <= band.valid <= data + references, f"band {number}"

    # --- content

    def put(self, lba: int, version: int, block_count: int = 1, *, fua: bool = False) -> None:
        data = b"".join(content(lba + i, version) for i in range(block_count))
        status = self.write(lba, data, fua=fua)
        assert status == 0, hex(status)

    def versions(self, lba: int = 0, block_count: int | None = None) -> list[int]:
        """What every LBA reads, as versions."""
        count = self.block_count - lba if block_count is None else block_count
        most = READ_BLOCKS
        found = []
        for first in range(lba, lba + count, most):
            part = min(most, lba + count - first)
            data = self.read(first, part)
            found += [version_of(first + i, data[i * BLOCK : (i + 1) * BLOCK]) for i in range(part)]
        return found

    def address(self, lba: int) -> int:
        return int(self.core.l2p(lba, 1)[0])

    def on_media(self, lbas: Iterable[int]) -> bool:
        return all(self.address(lba) < 1 << 62 for lba in lbas)

    def zone_of(self, address: int) -> tuple[int, int]:
        """(band, punit) of an address."""
        zone = address // self.zone_size - 2
        return zone // self.punits, zone % self.punits
