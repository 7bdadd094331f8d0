"""What the core tells when a turn of the running checkpoint begins (docs/checkpoint.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.band import BAND_ROW
from unit.shim.ftl.core_bench import Bench
from unit.shim.ftl.core_model import _Walk
from unit.shim.ftl.test_wide_records import band_of_records, large
from unit.shim.stepped import Stepped

TRIMS = 500
"""Their records are in three headers or more."""
DEPTH = 50
STEPS_MAX = 20_000
MARKED = 65_000
"""LBAs of a Write Uncorrectable that takes several polls."""


def rows(bench: Bench) -> NDArray[Any]:
    return bench.core.band_rows(0, len(bench.zones)).view(BAND_ROW)


def bands_of_trims(bench: Bench) -> set[int]:
    """Where the L2P says that the records of the trims are."""
    addresses = bench.core.l2p(0, 2 * TRIMS)[::2] & np.uint64((1 << 62) - 1)
    assert (addresses < bench.media.block_count).all()
    return {bench.zone_of(int(address))[0] for address in addresses}


def test_a_closed_band_settles_until_the_l2p_names_the_copies_of_records_in_it() -> None:
    with Bench(
        punits=1, zone_size=512, zone_capacity=400, band_count=20, volatile_cache=False, verify_reads=False
    ) as bench:
        bench.gc = bench.auto_reset = False
        for lba in range(0, 2 * TRIMS, 25):
            bench.put(lba, 1, 25)
        for first in range(0, TRIMS, DEPTH):
            trims = range(first, first + DEPTH)
            tickets = [bench.port.submit(_shim.Op.DEALLOCATE, 2 * each, 1) for each in trims]
            assert all(bench.wait(ticket).status == 0 for ticket in tickets)
        assert bench.flush() == 0
        bench.settle()
        source = band_of_records(bench)
        assert bands_of_trims(bench) == {source}
        bench.core.close_zone(source, 0)
        bench.settle()
        assert rows(bench)["settling"].sum() == 0

        # Relocation's band ends with the first copies, and the others wait for the next one.
        streams = set(range(bench.user_classes, 8))
        bench.core.start_move(source)
        target = None
        for _ in range(STEPS_MAX):
            bench.step()
            if target is None:
                found = np.flatnonzero(rows(bench)["settling"])
                target = int(found[0]) if len(found) else None
            if target is not None:
                bench.withheld |= streams
                bench.core.take_queued(bench.core.bands()[target].stream)
                bench.core.close_zone(target, 0)
                if bench.core.bands()[target].state == _shim.BandState.CLOSED:
                    break
        bench.settle()
        assert target is not None
        assert bench.core.bands()[source].state == _shim.BandState.MOVING
        assert bench.core.bands()[target].state == _shim.BandState.CLOSED
        assert bands_of_trims(bench) == {source}
        assert 0 < rows(bench)["settling"][target] < TRIMS

        bench.withheld.clear()
        bench.settle()
        assert bench.core.bands()[source].state == _shim.BandState.CLOSED
        assert source not in bands_of_trims(bench)
        assert target in bands_of_trims(bench)
        assert rows(bench)["settling"].sum() == 0


def test_what_has_a_seq_before_they_part_is_in_the_l2p() -> None:
    """Blocks that a Write Uncorrectable has not reached yet get a later seq."""
    with large(block_count=1 << 17) as bench:
        bench.put(MARKED - 1, 1)
        assert bench.flush() == 0
        bench.settle()
        ticket = bench.port.submit(_shim.Op.WRITE_UNCORRECTABLE, 0, MARKED)
        while bench.address(0) == _shim.ADDRESS_INVALID:
            bench.step()
        assert bench.address(MARKED - 1) < _shim.SLOT_FLAG, "it was not reached yet"
        seq = bench.core.part_seqs()
        assert seq == bench.core.next_seq
        assert bench.wait(ticket).status == 0
        assert bench.address(MARKED - 1) >= _shim.TRIM_FLAG
        assert bench.flush() == 0
        bench.settle()
        base = Stepped(bench.reactor, bench.media)
        walk = _Walk(bench, base)
        walk.run()
        assert walk.newest[0].seq < seq <= walk.newest[MARKED - 1].seq
        base.port.close()
