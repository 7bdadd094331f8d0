"""What a load reads of a zone that has no summary, and what it finds there."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load import zone_walk
from spdk_ftl_py.ftl.load.zone_walk import ZoneContent, ZoneReader
from spdk_ftl_py.ftl.media.geometry import BLOCK_BYTES
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.walk_rig import CAPACITY, DEVICE, GEOMETRY, UNREADABLE, ZONE_SIZE, CountingPort, Written


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
    reader = ZoneReader(port, GEOMETRY, DEVICE, sequential=sequential, use_append=written.append)
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


async def test_a_zone_whose_write_pointer_is_known_is_read_to_there(reactor: ReactorLoop) -> None:
    written = Written()
    written.batch(10)
    lost = len(written.blocks)
    for _ in range(30):
        written.batch(127, zeroes=True)
    written.batch(5)
    written.lose(lost, 30 * 128)
    content, _ = await found_in(reactor, written, full=False)
    assert len(content.entries) == 15
    assert content.damage
