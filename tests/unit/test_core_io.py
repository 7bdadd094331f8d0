"""FtlCore as a block device: writes, reads, flush, FUA, trim."""

from __future__ import annotations

import random

import pytest

from unit.core_bench import Bench


def test_blocks_never_written_read_zeroes() -> None:
    with Bench() as bench:
        assert bench.versions() == [0] * bench.block_count


def test_a_write_is_read_back_from_the_buffer_and_from_media() -> None:
    with Bench() as bench:
        bench.put(7, 1, 3)
        assert bench.address(7) >> 62 == 1, "still in a slot"
        assert bench.versions(6, 5) == [0, 1, 1, 1, 0]
        assert bench.flush() == 0
        assert bench.on_media([7, 8, 9])
        assert bench.versions(6, 5) == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("options", [{}, {"use_append": True}, {"shared_stream": True, "punits": 1}, {"punits": 3}])
@pytest.mark.parametrize("schedule_seed", [None, 3])
def test_random_overwrites_many_times_over_match_a_model(options: dict[str, object], schedule_seed: int | None) -> None:
    rng = random.Random(11)
    with Bench(schedule_seed=schedule_seed, **options) as bench:  # type: ignore[arg-type]
        model = [0] * bench.block_count
        written = 0
        version = 0
        while written < 5 * bench.block_count:
            count = rng.choice([1, 1, 1, 2, bench.core.max_io_blocks])
            lba = rng.randrange(bench.block_count - count + 1)
            version += 1
            bench.put(lba, version, count)
            model[lba : lba + count] = [version] * count
            written += count
            if rng.random() < 0.02:
                assert bench.flush() == 0
            if rng.random() < 0.2:
                probe = rng.randrange(bench.block_count)
                assert bench.versions(probe, 1) == [model[probe]]
        assert bench.versions() == model
        stats = bench.core.stats()
        assert stats["reloc_moved_blocks"] > 0
        assert stats["zone_resets"] > 0
        assert stats["crc_errors"] == stats["read_errors"] == stats["write_errors"] == 0
