"""What a load reads of an emulated zone that has no summary. Such a zone is full after a restart, and holds what its
earlier lives left."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load import zone_walk
from spdk_ftl_py.ftl.load.zone_walk import HEADER_PROBE_BLOCKS, ZoneContent, ZoneReader
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.geometry import BLOCK_BYTES
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.walk_rig import (
    BAND_SEQ,
    CAPACITY,
    DATA,
    DEVICE,
    GEOMETRY,
    UNREADABLE,
    ZONE_SIZE,
    CountingPort,
    Written,
)
from unit.ftl.media.summaries import build_summary

SUMMARY_BLOCKS = CAPACITY - DATA


def summary(band_seq: int) -> NDArray[np.uint8]:
    entries = np.zeros(DATA, layout.ENTRY)
    return build_summary(
        DEVICE, band=0, punit=0, band_seq=band_seq, entries=entries, summary_blocks=SUMMARY_BLOCKS
    )  # fmt: skip


def zone_with(written: Written, *, used_before: bool = False) -> NDArray[np.uint8]:
    """(capacity, 4096). used_before: an earlier life has filled it to its end, with a summary."""
    blocks = np.zeros((CAPACITY, BLOCK_BYTES), np.uint8)
    if used_before:
        older = Written(band_seq=BAND_SEQ - 2)
        while len(older.blocks) < DATA:
            older.batch(min(100, DATA - len(older.blocks) - 1))
        put(blocks, older)
        blocks[DATA:] = summary(older.band_seq)
    put(blocks, written)
    return blocks


def put(blocks: NDArray[np.uint8], written: Written) -> None:
    blocks[: len(written.blocks)] = np.frombuffer(b"".join(written.blocks), np.uint8).reshape(-1, BLOCK_BYTES)


async def found_in(
    reactor: ReactorLoop, blocks: NDArray[np.uint8], *, unreadable: int | None = None, ask_blank: bool = False
) -> tuple[ZoneContent, CountingPort, bool]:
    """The content, the port, and what blank() says of the zone, if it is asked."""
    drive = _shim.EmulatedMedia.zns(reactor.shim, 2, ZONE_SIZE, CAPACITY, max_append_blocks=32)
    port = CountingPort(reactor, drive, name="base")
    for first in range(0, len(blocks), 250):
        await port.write(first, blocks[first : first + 250].tobytes())
    if unreadable is not None:
        drive.inject_fault(op=_shim.Op.READ, lba=unreadable, block_count=1, status=UNREADABLE)
    reader = ZoneReader(port, GEOMETRY, DEVICE, sequential=False)
    blank = ask_blank and bool((await reader.blank([0]))[0])
    content = await reader.read_zone(0, 0, 0, CAPACITY, full=True)
    await port.close()
    return content, port, blank


def lbas(content: ZoneContent) -> list[int]:
    return sorted(map(int, content.entries["lba"]))


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("batches", [1, 20])
async def test_a_walk_reads_a_little_more_than_was_written(
    batches: int, used_before: bool, reactor: ReactorLoop
) -> None:
    """However large the zone, and whatever earlier lives have left in it."""
    written = Written()
    for _ in range(batches):
        written.batch(31)
    content, port, _ = await found_in(reactor, zone_with(written, used_before=used_before))
    assert lbas(content) == list(range(31 * batches))
    assert (content.band_seq, content.end) == (BAND_SEQ, len(written.blocks))
    assert port.blocks_read < len(written.blocks) + 2500 < DATA // 3
    assert port.reads < batches + 30


@pytest.mark.parametrize("used_before", [False, True])
async def test_a_zone_without_a_first_header_is_not_read_to_its_end(used_before: bool, reactor: ReactorLoop) -> None:
    """Then nothing of this life was flushed."""
    written = Written(blocks=[b"x" * BLOCK_BYTES])
    blocks = zone_with(written)
    if used_before:
        blocks[1:] = np.frombuffer(b"y" * BLOCK_BYTES, np.uint8)
    content, port, _ = await found_in(reactor, blocks)
    assert (content.band_seq, len(content.entries), content.end) == (0, 0, 1)
    assert port.blocks_read < 2500


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("lost", [1, 127, 128, 129, 2000, 4000])
async def test_batches_behind_headers_that_are_lost_are_found(
    lost: int, used_before: bool, reactor: ReactorLoop
) -> None:
    """Media that lost what was flushed to them: one header, or a part of the zone that is no longer than what follows
    it."""
    written = Written()
    written.batch(50)
    first = written.batch(127)
    while len(written.blocks) < first + lost:
        written.batch(127)
    following = written.entries
    while len(written.blocks) < first + 2 * lost + 300:
        written.batch(127)
    blocks = zone_with(written, used_before=used_before)
    blocks[first : first + lost] = 0
    content, _, _ = await found_in(reactor, blocks)
    assert lbas(content) == [*range(50), *range(following, written.entries)]


async def test_blocks_that_cant_be_read_are_not_taken_for_the_end(reactor: ReactorLoop) -> None:
    """Two headers of them, or more, may be there: the next one is at most 128 blocks away."""
    written = Written()
    written.batch(10)
    lost = len(written.blocks)
    written.batch(127)
    written.batch(127)
    written.batch(5)
    blocks = zone_with(written)
    blocks[lost : lost + 256] = 0
    content, _, _ = await found_in(reactor, blocks, unreadable=lost + 200)
    assert len(content.entries) == 15
    assert lbas(content)[-1] == written.entries - 1


async def test_a_summary_of_this_life_replaces_headers_however_many_are_lost(reactor: ReactorLoop) -> None:
    """Most of it is there, so the zone was written to its end."""
    written = Written()
    written.batch(100)
    blocks = zone_with(written)
    blocks[DATA:] = summary(BAND_SEQ)
    blocks[DATA + 40] = 0
    behind = Written(blocks=[bytes(BLOCK_BYTES)] * (DATA - HEADER_PROBE_BLOCKS // 2))
    behind.batch(7)
    at = behind.headers[0]
    blocks[at : at + 8] = np.frombuffer(b"".join(behind.blocks[at:]), np.uint8).reshape(-1, BLOCK_BYTES)
    content, _, _ = await found_in(reactor, blocks)
    assert len(content.entries) >= 107


@pytest.mark.parametrize("whole_summary", [False, True])
@pytest.mark.parametrize("unreadable", [None, DATA + 3])
@pytest.mark.parametrize("index", [0, 1, SUMMARY_BLOCKS - 1])
async def test_lists_and_walks_agree_on_which_zones_are_empty(
    index: int, unreadable: int | None, whole_summary: bool, reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power may leave any blocks of a zone that was not flushed: here a batch behind a hole, and a block of
    the summary, from which a walk takes the sequence number of the band. If a load took these rows, and another one
    did not, because it read lists (or could not), there would be two rows with one seq."""
    if whole_summary:
        # As if it were short.
        monkeypatch.setattr(zone_walk, "SUMMARY_READ_BLOCKS", SUMMARY_BLOCKS)
    written = Written(blocks=[bytes(BLOCK_BYTES)] * 500)
    written.batch(10)
    blocks = zone_with(written)
    blocks[DATA + index] = summary(BAND_SEQ)[index]
    content, _, blank = await found_in(reactor, blocks, unreadable=unreadable, ask_blank=True)
    assert blank == (index == 1)
    assert (content.band_seq, len(content.entries)) == ((0, 0) if index == 1 else (BAND_SEQ, 10))
