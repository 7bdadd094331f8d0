"""The scrub of zones without a summary: headers are all that tells of what is in them."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import Bench
from unit.shim.ftl.test_core_scrub import UNRECOVERED_READ, end, fill, scrub

CRC_BYTE = 300
"""Of a header: no byte of its magic, uuid or seq."""
ADDRESS_BITS = (1 << 62) - 1


@pytest.mark.parametrize("first", [False, True], ids=["records", "data"])
def test_a_rotten_header_of_a_zone_that_was_finished_early_is_bad(first: bool) -> None:
    """Of one with trim records alone, the last in its zone, no data is missing, and the walk ends there anyway."""
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        assert bench.run(_shim.Op.DEALLOCATE, 0, 4) == 0
        assert bench.flush() == 0
        bench.settle()
        header = int(bench.core.l2p(0, 1)[0]) & ADDRESS_BITS
        band, punit = bench.zone_of(header)
        assert bench.core.close_zone(band, punit)
        version = 9000
        while bench.core.bands()[band].state in (_shim.BandState.OPEN, _shim.BandState.CLOSING):
            bench.put(bench.block_count - 1, version)
            version += 1
        bench.settle()
        assert scrub(bench, band).end == _shim.ScrubEnd.READ
        bench.media.rot(bench.zones[band][punit] if first else header, 8 * CRC_BYTE)
        assert scrub(bench, band).end == _shim.ScrubEnd.BAD
        assert bench.core.stats().scrub_bad_metadata == 1


def test_a_header_of_a_band_that_is_being_written_and_cant_be_read_is_bad() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = next(n for n, each in enumerate(bench.core.bands()) if each.state == _shim.BandState.OPEN and each.valid)
        assert scrub(bench, band).end == _shim.ScrubEnd.READ
        bench.media.inject_fault(op=_shim.Op.READ, lba=bench.zones[band][0], block_count=1, status=UNRECOVERED_READ)
        found = scrub(bench, band)
        assert (found.end, found.status) == (_shim.ScrubEnd.BAD, UNRECOVERED_READ)


@pytest.mark.parametrize("steps", range(1200, 1281, 8))
def test_overwrites_meanwhile_hide_nothing_that_is_missing(steps: int) -> None:
    """The header of one batch is rotten. What is overwritten of the batch before, just after it was read, must not
    count as seen."""
    with Bench(band_count=12) as bench:
        bench.gc = bench.auto_reset = False
        batches = []
        for first in range(0, 60, 10):
            batches.append(range(first, first + 10))
            for lba in batches[-1]:
                bench.put(lba, 1)
            assert bench.flush() == 0
            bench.settle()
            # Records between two batches of data.
            assert bench.run(_shim.Op.DEALLOCATE, first, 1) == 0
            assert bench.flush() == 0
            bench.settle()
        while bench.core.bands()[0].state != _shim.BandState.CLOSED:
            bench.put(bench.block_count - 1, 7)
            bench.flush()
            bench.settle()
        for start in bench.zones[0]:
            for block in range(bench.data_blocks, bench.zone_capacity):
                for bit in range(8 * 80):
                    bench.media.rot(start + block, bit)
        rotten = bench.address(batches[4][1]) - 2
        bench.media.rot(rotten, 8 * 100)
        bench.core.set_scrub_rate(1000)
        bench.core.start_scrub(0)
        for _ in range(steps):
            bench.step()
        for lba in batches[1][1:]:
            bench.put(lba, 2)

        assert end(bench).end == _shim.ScrubEnd.BAD
