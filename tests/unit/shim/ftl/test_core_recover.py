"""FtlCore takes back what an earlier life had accepted: blocks and records that are newer than everything on media."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, Bench, content
from unit.shim.ftl.core_model import recover, restarted

TRIM, LOST = 1, 2
UNRECOVERED_READ = 0x281


def take(bench: Bench, lba: int, seq: int, version: int) -> bool:
    data = content(lba, version)
    return bench.core.recover_block(lba, seq, _shim.crc32c(data), data)


def test_a_recovered_block_is_read_at_once_and_goes_to_media_with_its_seq() -> None:
    with Bench(next_seq=100) as bench:
        assert take(bench, 7, 41, 3)
        assert take(bench, 9, 42, 4)
        assert bench.versions(7, 3) == [3, 0, 4]
        assert not bench.on_media([7])
        assert bench.flush() == 0
        assert bench.on_media([7, 9])
        found = recover(bench)
        assert (found.versions[7], found.versions[9], found.next_seq) == (3, 4, 43)
        assert bench.core.next_seq == 100


def test_what_is_written_later_overrides_a_recovered_block() -> None:
    with Bench(next_seq=100) as bench:
        assert take(bench, 7, 41, 3)
        bench.put(7, 5)
        assert bench.flush() == 0
        assert recover(bench).versions[7] == 5


def test_recovered_items_are_held_in_the_new_file(tmp_path: Path) -> None:
    with Bench(next_seq=100, write_buffer_path=str(tmp_path / "buffer")) as bench:
        before = (tmp_path / "buffer").read_bytes()
        assert take(bench, 7, 41, 3)
        assert bench.core.recover_record(20, 5, 42, TRIM)
        raw = (tmp_path / "buffer").read_bytes()
        assert raw != before
        assert content(7, 3) in raw


def test_a_recovered_trim_leaves_alone_what_is_newer_on_media() -> None:
    with Bench() as bench:
        for lba in range(10, 16):
            bench.put(lba, lba)
        assert bench.flush() == 0
        found = recover(bench)
        # As the merge of a load gives it: superseded entries are not there, newer ones are.
        found.entries[[10, 11, 13]] = _shim.ADDRESS_INVALID
        found.next_seq = 50
        again = restarted(bench, found)
        assert take(again, 11, 30, 77)
        assert again.core.recover_record(10, 4, 31, TRIM)
        assert take(again, 13, 32, 78)
        expected = [0, 0, 12, 78, 14, 15]
        assert again.versions(10, 6) == expected
        assert again.flush() == 0
        again.settle()
        assert again.versions(10, 6) == expected
        again.audit()
        again.close()


def test_a_recovered_lost_record_reads_as_an_error_until_it_is_written() -> None:
    with Bench(next_seq=100) as bench:
        assert bench.core.recover_record(5, 1, 41, LOST)
        assert bench.read_status(5) == UNRECOVERED_READ
        assert bench.flush() == 0
        assert bench.read_status(5) == UNRECOVERED_READ
        bench.put(5, 9)
        assert bench.versions(5, 1) == [9]


def test_without_a_free_slot_it_says_so() -> None:
    with Bench(next_seq=100, write_buffer_blocks=8) as bench:
        assert [take(bench, lba, 1 + lba, 1) for lba in range(9)] == [True] * 8 + [False]
        assert bench.versions(0, 9) == [1] * 8 + [0]


def test_without_a_free_record_it_says_so() -> None:
    with Bench(next_seq=5000) as bench:
        taken = [bench.core.recover_record(n % 50, 1, 1 + n, TRIM) for n in range(2049)]
        assert taken == [True] * 2048 + [False]
        assert bench.flush() == 0
        assert bench.core.recover_record(3, 1, 4000, TRIM)


def test_impossible_items_are_refused() -> None:
    with Bench(next_seq=100) as bench:
        data = content(1, 1)
        crc = _shim.crc32c(data)
        recover_block, recover_record = bench.core.recover_block, bench.core.recover_record
        for lba, seq, its_crc, block, message in (
            (bench.block_count, 1, crc, data, "last LBA"),
            (1, 100, crc, data, "next_seq"),
            (1, 0, crc, data, "next_seq"),
            (1, 1, crc ^ 1, data, "CRC"),
            (1, 1, crc, data[:-1], "one block"),
        ):
            with pytest.raises(ValueError, match=message):
                recover_block(lba, seq, its_crc, block)
        for lba, count, seq, flags in (
            (bench.block_count - 1, 2, 1, TRIM),
            (1, 0, 1, TRIM),
            (1, 1, 100, TRIM),
            (1, 1, 1, 3),
        ):
            with pytest.raises(ValueError, match="recover_record"):
                recover_record(lba, count, seq, flags)
        assert bench.core.recover_block(1, 1, crc, np.frombuffer(data, np.uint8))
        assert bench.core.stats().write_buffer_used == 1
        assert len(data) == BLOCK
