"""What a load reads of a zone that has no summary, and what it finds there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load import zone_walk
from spdk_ftl_py.ftl.load.zone_walk import ZoneContent, ZoneReader
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import BLOCK_BYTES, summary_blocks
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.media.summaries import build_summary

DEVICE = UUID("c3a79a9e-7f0a-4f0e-a9a1-1c2f6c8e2b11")
CAPACITY, ZONE_SIZE = 13_000, 16_384
DATA = CAPACITY - summary_blocks(CAPACITY)
BAND_SEQ = 5
UNREADABLE = 0x281
_GEOMETRY: Any = SimpleNamespace(
    data_blocks=DATA, summary_blocks=summary_blocks(CAPACITY), zone_capacity=CAPACITY, punits=1
)


@dataclass
class Written:
    """What is put into a zone, block by block."""

    append: bool = False
    blocks: list[bytes] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    entries: int = 0

    def batch(self, count: int, *, zeroes: bool = False) -> int:
        """Returns the offset of its header."""
        at = len(self.blocks)
        data = [bytes(BLOCK_BYTES) if zeroes else random.Random(at + i).randbytes(BLOCK_BYTES) for i in range(count)]
        entries = np.zeros(count, layout.ENTRY)
        entries["lba"] = np.arange(self.entries, self.entries + count)
        entries["seq"] = entries["lba"] + 1
        entries["crc"] = [_shim.crc32c(block) for block in data]
        header = layout.build_batch_header(
            DEVICE,
            band=0,
            punit=0,
            band_seq=BAND_SEQ,
            address=0 if self.append else at,
            kind=layout.KIND_DATA,
            stream=0,
            entries=entries,
        )
        self.headers.append(at)
        self.blocks += [header.tobytes(), *data]
        self.entries += count
        return at

    def lose(self, first: int, count: int = 1, content: bytes = bytes(BLOCK_BYTES)) -> None:
        self.blocks[first : first + count] = [content] * count


class CountingPort(BlockPort):
    """Counts what is read."""

    reads = 0
    blocks_read = 0

    async def _submit_once(
        self, op: _shim.Op, lba: int, block_count: int, buffer: Any, **options: Any
    ) -> tuple[int, int]:
        if op == _shim.Op.READ:
            self.reads += 1
            self.blocks_read += block_count
        return await super()._submit_once(op, lba, block_count, buffer, **options)

    async def read_each(self, addresses: Sequence[int], block_count: int = 1) -> NDArray[np.uint8] | None:
        self.reads += 1
        self.blocks_read += len(addresses) * block_count
        return await super().read_each(addresses, block_count)


async def found_in(
    reactor: ReactorLoop,
    written: Written,
    *,
    full: bool = True,
    sequential: bool = True,
    unreadable: int | None = None,
) -> tuple[ZoneContent, CountingPort]:
    """What the walk finds in a zone that was finished (or is still open) behind these blocks."""
    drive = _shim.EmulatedMedia.zns(reactor.shim, 2, ZONE_SIZE, CAPACITY, max_append_blocks=32)
    port = CountingPort(reactor, drive, name="base")
    for first in range(0, len(written.blocks), 256):
        await port.write(first, b"".join(written.blocks[first : first + 256]))
    if full:
        await port.zone_action(_shim.ZoneAction.FINISH, 0)
    if unreadable is not None:
        drive.inject_fault(op=_shim.Op.READ, lba=unreadable, block_count=1, status=UNREADABLE)
    reader = ZoneReader(port, _GEOMETRY, DEVICE, sequential=sequential, use_append=written.append)
    content = await reader.read_zone(0, 0, 0, CAPACITY if full else len(written.blocks), full=full)
    await port.close()
    return content, port


def lbas(content: ZoneContent) -> list[int]:
    return sorted(map(int, content.entries["lba"]))


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("batches", [0, 1, 60])
async def test_a_walk_reads_little_more_than_was_written(append: bool, batches: int, reactor: ReactorLoop) -> None:
    written = Written(append)
    for _ in range(batches):
        written.batch(31)
    content, port = await found_in(reactor, written)
    assert lbas(content) == list(range(31 * batches))
    assert content.damage == []
    assert content.end == max(1, len(written.blocks))
    assert port.reads < batches + 12
    assert port.blocks_read < len(written.blocks) + 400


async def test_a_walk_reads_several_short_batches_at_a_time(reactor: ReactorLoop) -> None:
    written = Written()
    for _ in range(1500):
        written.batch(1)
    content, port = await found_in(reactor, written)
    assert lbas(content) == list(range(1500))
    assert port.reads < 90
    assert port.blocks_read < len(written.blocks) + 400


@pytest.mark.parametrize("pattern", [0, 0xFF])
async def test_a_drive_may_return_either_pattern_for_what_was_never_written(pattern: int, reactor: ReactorLoop) -> None:
    written = Written()
    written.batch(127)
    written.lose(128, CAPACITY - 128, bytes([pattern]) * BLOCK_BYTES)
    content, port = await found_in(reactor, written)
    assert (len(content.entries), content.end, content.damage) == (127, 128, [])
    assert port.blocks_read < 400


LOST_TO_ZEROES = "a batch header is damaged"


@pytest.mark.parametrize("lost", [1, 129, 257, 600])
async def test_headers_that_read_as_zeroes_are_missed(lost: int, reactor: ReactorLoop) -> None:
    """And the data behind them are zeroes, too, so that all of it looks as if it was never written."""
    written = Written()
    written.batch(50)
    first = written.batch(127, zeroes=True)
    while len(written.blocks) < first + lost:
        written.batch(127, zeroes=True)
    following = written.entries
    for _ in range(3):
        written.batch(127)
    written.lose(first, lost)
    content, _ = await found_in(reactor, written)
    assert any(LOST_TO_ZEROES in text for text in content.damage)
    assert lbas(content) == [*range(50), *range(following, written.entries)]


async def test_a_hole_in_the_middle_of_a_zone_is_missed_however_long(reactor: ReactorLoop) -> None:
    written = Written()
    while len(written.blocks) < 9_000:
        written.batch(127)
    there = [at for at in written.headers if at < 1280 or at >= 1280 + 5120]
    written.lose(1280, 5120)
    content, _ = await found_in(reactor, written)
    assert any(LOST_TO_ZEROES in text for text in content.damage)
    assert len(content.entries) == 127 * len(there)


async def test_without_the_check_of_two_headers_zeroes_would_be_the_end(
    reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round: a walk that stops behind fewer blocks loses a batch without notice."""
    written = Written()
    written.batch(50)
    lost = written.batch(127, zeroes=True)
    written.batch(10)
    written.lose(lost)
    monkeypatch.setattr(zone_walk, "BLANK_BLOCKS", 1)
    monkeypatch.setattr(zone_walk, "BLANK_PROBES", 1)
    content, _ = await found_in(reactor, written)
    assert (len(content.entries), content.damage) == (50, [])


async def test_blocks_that_cant_be_read_are_not_taken_for_blank(reactor: ReactorLoop) -> None:
    written = Written()
    written.batch(10)
    lost = len(written.blocks)
    for _ in range(5):
        written.batch(127, zeroes=True)
    written.batch(5)
    written.lose(lost, 5 * 128)
    content, _ = await found_in(reactor, written)
    assert (len(content.entries), content.damage) == (10, []), "docs/restore.md: a load does not notice this"
    content, _ = await found_in(reactor, written, unreadable=lost + 200)
    assert len(content.entries) == 15
    assert any(LOST_TO_ZEROES in text for text in content.damage)


@pytest.mark.parametrize("case", ["open", "emulated"])
async def test_only_a_zone_that_is_full_and_written_in_order_ends_at_its_blanks(
    case: str, reactor: ReactorLoop
) -> None:
    """Data of earlier lives, and of writes that overtook others, are behind holes of emulated zones. And in a zone
    whose write pointer is known, all up to there was written."""
    written = Written()
    written.batch(10)
    lost = len(written.blocks)
    for _ in range(30):
        written.batch(127, zeroes=True)
    written.batch(5)
    written.lose(lost, 30 * 128)
    content, _ = await found_in(reactor, written, full=case != "open", sequential=case != "emulated")
    assert len(content.entries) == 15
    assert bool(content.damage) == (case == "open")


@pytest.mark.parametrize("unreadable", [False, True])
@pytest.mark.parametrize("index", [0, 1, summary_blocks(CAPACITY) - 1])
async def test_lists_and_walks_agree_on_which_emulated_zones_are_empty(
    index: int, unreadable: bool, reactor: ReactorLoop
) -> None:
    """A loss of power may leave any blocks of a zone that was not flushed: here a batch behind a hole, and a block of
    the summary, from which a walk takes the sequence number of the band. If a load took these rows, and another one
    did not, because it read lists (or could not), there would be two rows with one seq."""
    written = Written(blocks=[bytes(BLOCK_BYTES)] * 500)
    written.batch(10)
    rows = np.zeros(DATA, layout.ENTRY)
    summary = build_summary(
        DEVICE, band=0, punit=0, band_seq=BAND_SEQ, entries=rows, summary_blocks=summary_blocks(CAPACITY)
    )
    blocks = np.zeros((CAPACITY, BLOCK_BYTES), np.uint8)
    blocks[: len(written.blocks)] = np.frombuffer(b"".join(written.blocks), np.uint8).reshape(-1, BLOCK_BYTES)
    blocks[DATA + index] = summary[index]
    drive = _shim.EmulatedMedia.zns(reactor.shim, 2, ZONE_SIZE, CAPACITY, max_append_blocks=32)
    port = CountingPort(reactor, drive, name="base")
    for first in range(0, CAPACITY, 250):
        await port.write(first, blocks[first : first + 250].tobytes())
    if unreadable:
        drive.inject_fault(op=_shim.Op.READ, lba=DATA + 3, block_count=1, status=UNREADABLE)
    reader = ZoneReader(port, _GEOMETRY, DEVICE, sequential=False)
    assert (await reader.blank([0])).tolist() == [index == 1]
    content = await reader.read_zone(0, 0, 0, CAPACITY, full=True)
    assert (content.band_seq, len(content.entries)) == ((0, 0) if index == 1 else (BAND_SEQ, 10))
    await port.close()
