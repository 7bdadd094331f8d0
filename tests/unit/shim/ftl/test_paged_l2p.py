"""An L2P that may take less memory than it has entries: the rest is in a file (shim/ftl/paged_memory.hpp). Torture has
worlds with such a table; here are those things that do not happen there."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim import stepped
from unit.shim.ftl.core_bench import UUID_OF_TESTS, Bench, content, version_of

BASE: dict[str, Any] = {"band_count": 24, "punits": 1, "zone_size": 512, "zone_capacity": 512, "fill_percent": 75}
INTERNAL_ERROR = 0x006


def paged(folder: Path, **options: Any) -> dict[str, Any]:
    """8 frames of 16 entries, and 8 of 32 CRCs."""
    return {"page_folder": str(folder), "page_memory": 1, "page_bytes": 64, **options}


@pytest.fixture
def works_again() -> Iterator[None]:
    yield
    _shim.fail_l2p_pages(False)


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("narrow", [True, False])
def test_random_writes_reads_and_trims_are_what_they_would_be_in_memory(
    tmp_path: Path, threads: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    # Other threads take their time.
    monkeypatch.setattr(stepped, "STEPS_MAX", 10_000_000)
    if not narrow:
        _shim.limit_narrow_l2p(0)
    try:
        with Bench(**BASE, **paged(tmp_path, page_threads=threads)) as bench:
            model = [0] * bench.block_count
            for version in range(1, 500 if threads else 6000):
                lba, count = rng.randrange(bench.block_count - 8), rng.randint(1, 8)
                if rng.random() < 0.05:
                    assert bench.run(_shim.Op.DEALLOCATE, lba, count) == 0
                    model[lba : lba + count] = [0] * count
                else:
                    bench.put(lba, version, count)
                    model[lba : lba + count] = [version] * count
            assert bench.versions() == model
            bench.settle()
            bench.audit()
            stats = bench.core.stats()
            assert stats.reloc_moved_blocks > 1000 or threads
            assert stats.l2p_page_reads > 500
            assert stats.l2p_page_writes > 500
            assert stats.l2p_page_waits < stats.l2p_page_reads + stats.l2p_page_writes
    finally:
        _shim.limit_narrow_l2p()


def test_more_pages_are_wanted_at_once_than_can_come(tmp_path: Path) -> None:
    """Each read needs a page of its own, and to have a frame for it another one must go to the file."""
    base = {**BASE, "band_count": 60, "zone_size": 1024, "zone_capacity": 1024}
    with Bench(**base, **paged(tmp_path, page_memory=48 << 10, page_threads=False)) as bench:
        port = stepped.Stepped(bench.reactor, bench.core, 1024)
        bench.ports.append(port)
        for lba in range(0, bench.block_count, 8):
            bench.put(lba, 1, min(8, bench.block_count - lba))
        rng = random.Random(6)
        for version in range(2, 12):
            lbas = rng.sample(range(0, bench.block_count, 32), 1000)
            tickets = [port.port.submit(_shim.Op.WRITE, lba, 1, content(lba, version)) for lba in lbas]
            blocks = [bytearray(4096) for _ in lbas]
            for _ in range(stepped.STEPS_MAX):
                bench.step()
                if len(port.completed) == len(tickets):
                    break
            assert {port.completed.pop(ticket).status for ticket in tickets} == {0}
            tickets = [port.port.submit(_shim.Op.READ, lba, 1, block) for lba, block in zip(lbas, blocks, strict=True)]
            for _ in range(stepped.STEPS_MAX):
                bench.step()
                if len(port.completed) == len(tickets):
                    break
            assert {port.completed.pop(ticket).status for ticket in tickets} == {0}
            assert [version_of(lba, bytes(block)) for lba, block in zip(lbas, blocks, strict=True)] == [version] * 1000
        port.port.close()
        bench.ports.remove(port)


@pytest.mark.parametrize("memory", [1, 12 << 10])
def test_relocation_goes_on_however_much_hosts_read(tmp_path: Path, memory: int) -> None:
    steps = []
    for depth in (0, 300):
        base = {**BASE, "band_count": 40}
        with Bench(**base, **paged(tmp_path, page_memory=memory, page_threads=False)) as bench:
            port = stepped.Stepped(bench.reactor, bench.core, 1024)
            bench.ports.append(port)
            order = list(range(bench.block_count))
            random.Random(2).shuffle(order)
            for lba in order:
                bench.put(lba, 1)
            bench.settle()
            bench.gc = False
            rng = random.Random(3)
            moved = bench.core.stats().reloc_moved_blocks
            states = [band.state for band in bench.core.bands()]
            bench.core.start_move(states.index(_shim.BandState.CLOSED))
            out: dict[int, bytearray] = {}
            for step in range(6000):
                while len(out) < depth:
                    block = bytearray(4096)
                    out[port.port.submit(_shim.Op.READ, rng.randrange(bench.block_count), 1, block)] = block
                bench.step()
                for ticket in list(port.completed):
                    assert port.completed.pop(ticket).status == 0
                    del out[ticket]
                if bench.core.stats().reloc_moved_blocks - moved >= 300:
                    steps.append(step)
                    break
            while out:
                bench.step()
                for ticket in list(port.completed):
                    del port.completed[ticket], out[ticket]
            port.port.close()
            bench.ports.remove(port)
    assert len(steps) == 2
    assert steps[1] < 2 * steps[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_read_whose_other_blocks_are_on_their_way_fails_too(tmp_path: Path, works_again: None, seed: int) -> None:
    """It ends with them, when the core has not looked at its pages since."""
    rng = random.Random(seed)
    with Bench(**BASE, **paged(tmp_path, page_threads=False)) as bench:
        for lba in range(0, bench.block_count, 8):
            bench.put(lba, 1, 8)
        for lba in range(15, 512, 16):
            assert bench.run(_shim.Op.DEALLOCATE, lba, 1) == 0
        bench.settle()
        for _ in range(10):
            bench.read(rng.randrange(512))
        for count in (32, 32):
            bench.read(0, count)
        _shim.fail_l2p_pages(True)
        for count in (64, 96, 128, 200):
            data = bytearray(b"x" * 4096 * count)
            done = bench.wait(bench.port.submit(_shim.Op.READ, 0, count, data))
            if done.status:
                break
            blocks = [bytes(data[lba * 4096 :][:4096]) for lba in range(count)]
            versions = [version_of(lba, block) for lba, block in enumerate(blocks)]
            assert versions == [0 if lba % 16 == 15 else 1 for lba in range(count)]
        assert bench.failed


def test_a_host_waits_for_a_page_and_others_do_not(tmp_path: Path) -> None:
    with Bench(**BASE, **paged(tmp_path, page_threads=False)) as bench:
        for lba in range(0, bench.block_count, 8):
            bench.put(lba, 1, 8)
        bench.settle()
        far, near = 5, bench.block_count - 3
        bench.versions(near, 1)
        before = bench.core.stats()
        data = bytearray(4096), bytearray(4096)
        missing = bench.port.submit(_shim.Op.READ, far, 1, data[0])
        there = bench.port.submit(_shim.Op.READ, near, 1, data[1])
        while missing not in bench.completed:
            bench.step()
        order = bench.completion_order
        assert order.index(there) < order.index(missing)
        assert {bench.completed.pop(ticket).status for ticket in (there, missing)} == {0}
        assert bytes(data[0]) == content(far, 1)
        assert bytes(data[1]) == content(near, 1)
        after = bench.core.stats()
        assert after.l2p_page_reads > before.l2p_page_reads
        assert after.l2p_page_waits == before.l2p_page_waits


@pytest.mark.parametrize("threads", [False, True])
def test_a_file_that_fails_fails_the_core_before_anything_wrong_leaves_it(
    tmp_path: Path, threads: bool, works_again: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepped, "STEPS_MAX", 10_000_000)
    with Bench(**BASE, **paged(tmp_path, page_threads=threads)) as bench:
        for lba in range(0, bench.block_count, 8):
            bench.put(lba, 1, 8)
        assert bench.flush() == 0
        bench.settle()
        written = bench.core.stats().media_written_blocks
        resets = bench.core.stats().zone_resets
        _shim.fail_l2p_pages(True)
        wrong = 0
        for lba in range(0, bench.block_count, 64):
            data = bytearray(b"x" * 4096)
            done = bench.wait(bench.port.submit(_shim.Op.READ, lba, 1, data))
            wrong += done.status == 0 and bytes(data) != content(lba, 1)
            if done.status:
                assert done.status == INTERNAL_ERROR
                break
        else:
            raise AssertionError("nothing failed")
        assert wrong == 0
        assert bench.failed
        assert bench.run(_shim.Op.WRITE_ZEROES, 0, bench.block_count) == INTERNAL_ERROR
        assert bench.flush() == INTERNAL_ERROR
        bench.settle()
        assert bench.core.stats().media_written_blocks == written
        assert bench.core.stats().zone_resets == resets
        with pytest.raises(OSError, match="pages of the L2P are lost") as error:
            bench.core.l2p(0, bench.block_count)
        assert (error.value.errno, error.value.filename) == (errno.EIO, str(tmp_path))
        with pytest.raises(OSError, match="pages of the L2P are lost"):
            _shim.checkpoint_pages(
                *(bench.core, 0, bench.block_count),
                media_end=bench.media.block_count,
                uuid=UUID_OF_TESTS.bytes,
                generation=1,
                wide=False,
            )


def test_pages_that_fail_under_relocation_do_not_make_it_drop_blocks(tmp_path: Path, works_again: None) -> None:
    """To a core without entries all blocks of a band look superseded, and the band would be reset."""
    rng = random.Random(9)
    with Bench(**BASE, **paged(tmp_path, page_threads=False)) as bench:
        for version in range(1, 4000):
            bench.put(rng.randrange(bench.block_count - 8), version, 8)
        assert bench.flush() == 0
        bench.settle()
        moved = bench.core.stats().reloc_moved_blocks
        assert moved > 0
        _shim.fail_l2p_pages(True)
        resets = bench.core.stats().zone_resets
        for version in range(4000, 4200):
            if bench.write(rng.randrange(bench.block_count), content(0, version)) != 0:
                break
        bench.settle()
        assert bench.failed
        assert bench.core.stats().zone_resets == resets


def test_a_table_is_restored_in_pages_and_taken_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with Bench(**BASE) as bench:
        blocks = bench.block_count
        table = _shim.RestoredL2p(
            blocks, bench.media.block_count, zone_size=512, zone_capacity=512, with_crcs=True, **paged(tmp_path)
        )
        plain = _shim.RestoredL2p(blocks, bench.media.block_count, zone_size=512, zone_capacity=512, with_crcs=True)
        addresses = np.uint64(bench.zones[0][0]) + np.arange(300, dtype=np.uint64)
        for seed in range(20):
            lbas = rng.choice(blocks, 300, replace=False).astype(np.uint64)
            seqs = rng.integers(1, 1 << 20, 300, np.uint64)
            crcs = rng.integers(0, 1 << 16, 300, np.uint16)
            for each in (table, plain):
                each.put(lbas, addresses, seqs=seqs, crcs=crcs)
                each.apply_records(
                    np.array([seed * 7], np.uint64), np.array([20], np.uint64), np.array([1 << 19], np.uint64),
                    np.array([bench.zones[1][0] | (2 << 62)], np.uint64),
                )  # fmt: skip
        wanted = plain.l2p(0, blocks)
        assert np.array_equal(table.l2p(0, blocks), wanted)
        assert np.array_equal(table.crcs(0, blocks), plain.crcs(0, blocks))
        grown = table.grown(blocks, bench.media.block_count, zone_size=512, zone_capacity=512)
        assert np.array_equal(grown.l2p(0, blocks), wanted)
        counts = table.count(512, bench.media.block_count // 512)
        for band in (0, 1):
            bench.core.load_band(band, _shim.BandState.CLOSED, band + 1, [512])
        bench.core.take_l2p(table, counts)
        assert np.array_equal(bench.core.l2p(0, blocks), wanted)
        bench.step()
        assert bench.core.stats().l2p_page_reads > 0
        # The other table has the core's own memory now.
        assert os.listdir(tmp_path) == []


def test_entries_of_a_checkpoint_are_put_over_pages(tmp_path: Path) -> None:
    for wide in (False, True):
        kind = np.uint64 if wide else np.uint32
        table = _shim.RestoredL2p(5000, 1 << 20, with_crcs=True, **paged(tmp_path))
        entries = np.arange(4321, dtype=kind)
        table.put_range(77, entries.reshape(1, -1), 4321)
        table.put_crcs(77, entries.astype(np.uint16).reshape(1, -1), 4321)
        assert np.array_equal(table.l2p(77, 4321), entries.astype(np.uint64))
        assert np.array_equal(table.crcs(77, 4321), entries.astype(np.uint16))
        assert table.l2p(76, 1)[0] == _shim.ADDRESS_INVALID


def test_a_broken_table_is_refused(tmp_path: Path, works_again: None) -> None:
    with Bench(**BASE) as bench:
        table = _shim.RestoredL2p(
            bench.block_count, bench.media.block_count, zone_size=512, zone_capacity=512, with_crcs=True,
            **paged(tmp_path),
        )  # fmt: skip
        lbas = np.arange(0, bench.block_count, 16, dtype=np.uint64)
        table.put(lbas, np.full(len(lbas), bench.zones[0][0], np.uint64))
        counts = table.count(512, bench.media.block_count // 512)
        _shim.fail_l2p_pages(True)
        with pytest.raises(OSError, match="pages of the L2P are lost"):
            table.entries_of(lbas)
        _shim.fail_l2p_pages(False)
        with pytest.raises(OSError, match="pages of the L2P are lost"):
            bench.core.take_l2p(table, counts)


@pytest.mark.parametrize(("folder", "number"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_a_directory_that_is_none_is_named(tmp_path: Path, folder: str, number: int) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a file of") as error:
        _shim.RestoredL2p(1 << 20, 1 << 21, page_folder=str(tmp_path / folder), page_memory=1)
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / folder))
    with pytest.raises(OSError, match="a file of"):
        Bench(**BASE, **paged(tmp_path / folder))


def test_a_table_that_fits_has_no_file(tmp_path: Path) -> None:
    with Bench(**BASE, page_folder=str(tmp_path / "missing"), page_memory=1 << 20) as bench:
        bench.put(0, 1)
        assert bench.core.stats().l2p_page_writes == 0


@pytest.mark.parametrize("page_bytes", [0, 32, 96])
def test_pages_of_strange_sizes_are_refused(tmp_path: Path, page_bytes: int) -> None:
    with pytest.raises(ValueError, match="page_bytes must be a power of two"):
        _shim.RestoredL2p(1 << 20, 1 << 21, page_folder=str(tmp_path), page_memory=1, page_bytes=page_bytes)
