"""FtlCore as a block device: writes, reads, flush, FUA, trim."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, STEP_NS, UUID_OF_TESTS, Bench, content, version_of
from unit.shim.ftl.core_model import recover, restarted
from unit.shim.stepped import Stepped


def test_blocks_never_written_read_zeroes() -> None:
    with Bench() as bench:
        assert bench.versions() == [0] * bench.block_count


def test_a_write_is_read_back_from_the_buffer_and_from_media() -> None:
    with Bench() as bench:
        bench.put(7, 1, 3)
        assert bench.address(7) >> 62 == 1, "still in a slot"
        assert bench.versions(6, 5) == [0, 1, 1, 1, 0]
        stats = bench.core.stats()
        assert (stats.user_writes, stats.user_written_blocks) == (1, 3)
        assert (stats.user_reads, stats.user_read_blocks) == (1, 5)
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
            count = rng.choice([1, 1, 1, 2, 8])
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
        bench.settle()
        bench.audit()
        stats = bench.core.stats()
        assert stats.reloc_moved_blocks > 0
        assert stats.zone_resets > 0
        assert stats.crc_errors == stats.read_errors == stats.write_errors == 0


def test_the_last_of_overlapping_writes_and_trims_wins() -> None:
    with Bench(write_buffer_blocks=16) as bench:
        rng = random.Random(2)
        model = [0] * bench.block_count
        tickets = []
        for version in range(1, 400):
            lba = rng.randrange(12)
            if rng.random() < 0.2:
                model[lba : lba + 4] = [0] * 4
                tickets.append(bench.port.submit(_shim.Op.DEALLOCATE, lba, 4))
            else:
                model[lba : lba + 2] = [version] * 2
                data = content(lba, version) + content(lba + 1, version)
                tickets.append(bench.port.submit(_shim.Op.WRITE, lba, 2, data))
            if len(tickets) == 40 or version == 399:
                assert {bench.wait(ticket).status for ticket in tickets} == {0}
                assert bench.versions(0, 16) == model[:16]
                tickets = []


def test_fua_is_on_media_and_flushed_when_it_completes() -> None:
    with Bench() as bench:
        bench.put(3, 1)
        bench.put(5, 2, fua=True)
        assert bench.on_media([5])
        assert bench.core.stats().base_flushes == 1
        bench.media.power_cut(7)
        bench.close()
        bench.media.power_on()
        assert recover(bench).versions[5] == 2


def test_a_base_without_volatile_cache_is_not_flushed() -> None:
    with Bench(volatile_cache=False) as bench:
        bench.put(3, 1)
        assert bench.flush() == 0
        assert bench.on_media([3])
        assert bench.core.stats().base_flushes == 0


def test_flushes_that_wait_together_share_one_of_the_base() -> None:
    with Bench() as bench:
        bench.put(3, 1)
        tickets = [bench.port.submit(_shim.Op.FLUSH) for _ in range(20)]
        assert {bench.wait(ticket).status for ticket in tickets} == {0}
        assert bench.core.stats().base_flushes == 1
        assert bench.core.stats().flushes == 20


def test_more_flushes_than_epochs_all_complete() -> None:
    with Bench(write_buffer_blocks=512) as bench:
        port = _shim.IoPort(bench.reactor, bench.core, 1024)
        tickets = set()
        for version in range(1, 400):
            tickets.add(port.submit(_shim.Op.WRITE, version % 8, 1, content(version % 8, version)))
            tickets.add(port.submit(_shim.Op.FLUSH))
        for _ in range(20_000):
            if not tickets:
                break
            bench.reactor.step(bench.now_ns)
            bench.now_ns += 1000
            for event in bench.reactor.events():
                if event.source == port.id:
                    assert event.status == 0
                    tickets.discard(event.ticket)
                elif event.kind == _shim.EventKind.BAND_NEXT_NEEDED:
                    free = next(n for n, band in enumerate(bench.core.bands()) if band.state == _shim.BandState.FREE)
                    bench.core.open_band(event.stream, free, bench.band_seq)
                    bench.band_seq += 1
        assert not tickets
        assert bench.on_media(range(8))
        port.close()


def test_data_does_not_wait_for_company_for_ever() -> None:
    with Bench() as bench:
        bench.put(3, 1)
        for _ in range(10_000_000 // STEP_NS):
            bench.step()
        assert bench.on_media([3])


def test_trims_of_nothing_leave_no_record() -> None:
    with Bench() as bench:
        assert bench.run(_shim.Op.WRITE_ZEROES, 0, bench.block_count) == 0
        assert bench.flush() == 0
        assert bench.core.stats().media_written_blocks == 0
        bench.put(4, 1)
        for _ in range(3):
            assert bench.run(_shim.Op.DEALLOCATE, 0, bench.block_count) == 0
            assert bench.flush() == 0
        assert bench.core.stats().media_trim_blocks == 1
        assert bench.address(4) & _shim.TRIM_FLAG
        assert bench.address(3) == _shim.ADDRESS_INVALID


def test_one_trim_of_everything_survives_gc_and_later_writes() -> None:
    rng = random.Random(8)
    with Bench(fill_percent=50) as bench:
        for lba in range(bench.block_count):
            bench.put(lba, 1)
        assert bench.run(_shim.Op.DEALLOCATE, 0, bench.block_count) == 0
        assert bench.versions() == [0] * bench.block_count
        model = [0] * bench.block_count
        for version in range(2, 6 * bench.block_count):
            lba = rng.randrange(bench.block_count // 2)
            bench.put(lba, version)
            model[lba] = version
        assert bench.versions() == model
        assert bench.flush() == 0
        bench.settle()
        bench.audit()
        bench.media.power_cut(3)
        bench.close()
        bench.media.power_on()
        assert recover(bench).versions == model


def test_reads_of_scattered_blocks_find_each_of_them() -> None:
    rng = random.Random(4)
    with Bench() as bench:
        lbas = list(range(bench.block_count))
        rng.shuffle(lbas)
        for lba in lbas[: bench.block_count * 3 // 4]:
            bench.put(lba, lba + 1)
        expected = [0] * bench.block_count
        for lba in lbas[: bench.block_count * 3 // 4]:
            expected[lba] = lba + 1
        tickets = {}
        most = bench.core.max_io_blocks
        for first in range(0, bench.block_count - most, most * 2):
            data = bytearray(b"\xa5" * (most * BLOCK))
            tickets[bench.port.submit(_shim.Op.READ, first, most, data)] = (first, data)
        for ticket, (first, data) in tickets.items():
            assert bench.wait(ticket).status == 0
            found = [version_of(first + i, bytes(data[i * BLOCK : (i + 1) * BLOCK])) for i in range(most)]
            assert found == expected[first : first + most]


def test_a_base_of_2_to_the_30_blocks_and_more_works_with_wide_entries() -> None:
    reactor = _shim.Reactor("wide")
    zone_size = 1 << 26
    media = _shim.EmulatedMedia.zns(reactor, 20, zone_size, 64)
    zones = [[(n + 4) * zone_size] for n in range(16)]
    config = _shim.CoreConfig(
        uuid=bytes(16), block_count=300, bands=zones, zone_size=zone_size, zone_capacity=64,
        write_buffer_blocks=32, reloc_buffer_blocks=32, batch_blocks=16,
    )  # fmt: skip
    core = _shim.FtlCore(reactor, media, config)
    port = Stepped(reactor, core)
    core.open_band(_shim.STREAM_USER, 15, 1)
    try:
        for lba in range(40):
            assert port.write(lba, content(lba, 1)) == 0
        assert port.run(_shim.Op.DEALLOCATE, 10, 5) == 0
        assert port.flush() == 0
        entries = core.l2p(0, 41)
        assert int(entries[0]) >> 30 > 0
        assert int(entries[12]) & _shim.TRIM_FLAG
        assert int(entries[40]) == _shim.ADDRESS_INVALID
        for lba in range(41):
            assert version_of(lba, port.read(lba)) == (1 if lba < 10 or 15 <= lba < 40 else 0)
    finally:
        core.close()
        port.port.close()


def test_another_core_loaded_with_the_l2p_reads_the_same() -> None:
    rng = random.Random(21)
    with Bench() as bench:
        for version in range(1, 1000):
            bench.put(rng.randrange(bench.block_count), version)
        assert bench.run(_shim.Op.DEALLOCATE, 7, 20) == 0
        assert bench.flush() == 0
        before = bench.versions()
        counts = bench.core.valid_counts().copy()
        bench.settle()
        bench.close()
        recovered = recover(bench)
        assert recovered.versions == before
        again = restarted(bench, recovered)
        assert again.versions() == before
        assert sum(again.core.valid_counts()) >= sum(counts) - len(counts)
        again.close()


def test_the_write_buffer_file_holds_what_is_accepted_and_not_on_media(tmp_path: Path) -> None:
    path = tmp_path / "ftl0.buffer"
    with Bench(write_buffer_path=str(path)) as bench:
        for lba in range(5):
            bench.put(lba, lba + 1)
        bench.put(2, 9)
        assert bench.run(_shim.Op.DEALLOCATE, 4, 1) == 0
        raw = path.read_bytes()
        magic, version, _, uuid, slots, records, slots_at, records_at, data_at, blocks = struct.unpack_from(
            "<8sII16sIIQQQQ", raw
        )
        assert (magic, version, uuid, blocks) == (b"FTLWRBUF", 1, UUID_OF_TESTS.bytes, bench.block_count)
        held = {}
        for slot in range(slots):
            lba, seq, crc, state = struct.unpack_from("<QQII", raw, slots_at + 24 * slot)
            if state:
                data = raw[data_at + slot * BLOCK : data_at + (slot + 1) * BLOCK]
                assert _shim.crc32c(data) == crc
                held[seq] = (lba, version_of(lba, data))
        assert held == {1: (0, 1), 2: (1, 2), 3: (2, 3), 4: (3, 4), 5: (4, 5), 6: (2, 9)}
        trims = [struct.unpack_from("<QQIII", raw, records_at + 32 * n) for n in range(records)]
        assert [trim for trim in trims if trim[4]] == [(4, 7, 1, 1, 1)]
        assert bench.flush() == 0
        raw = path.read_bytes()
        assert not any(struct.unpack_from("<QQII", raw, slots_at + 24 * slot)[3] for slot in range(slots))
        assert not any(struct.unpack_from("<QQIII", raw, records_at + 32 * n)[4] for n in range(records))


def test_a_write_buffer_file_that_cant_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no/such/place"):
        Bench(write_buffer_path=str(tmp_path / "no/such/place"))


def test_impossible_settings_are_refused() -> None:
    impossible = (
        {"batch_blocks": 1},
        {"write_buffer_blocks": 2},
        {"zone_capacity": 3, "block_count": 9},
        {"block_count": 1 << 40},
    )
    for options in impossible:
        with pytest.raises(ValueError, match=r"\w"):
            Bench(**options)  # type: ignore[arg-type]


def test_drain_reports_once_everything_is_durable() -> None:
    with Bench() as bench:
        bench.put(1, 1, 4)
        ticket = bench.core.drain()
        assert bench.until(_shim.EventKind.DRAINED).ticket == ticket
        assert bench.on_media(range(1, 5))
        assert bench.core.stats().base_flushes == 1


def test_with_no_share_nothing_is_accepted_until_there_is_one() -> None:
    with Bench() as bench:
        bench.put(1, 1)
        bench.core.set_pace(0)
        write = bench.port.submit(_shim.Op.WRITE, 2, 1, content(2, 2))
        flush = bench.port.submit(_shim.Op.FLUSH)
        assert bench.wait(flush).status == 0, "what was accepted before drains all the same"
        bench.settle()
        assert write not in bench.completed
        assert bench.core.stats().throttled_ns > 0
        bench.core.set_pace(100)
        assert bench.wait(write).status == 0
        assert bench.versions(1, 2) == [1, 2]


def test_close_can_be_repeated_and_fails_what_comes_later() -> None:
    bench = Bench()
    bench.put(1, 1)
    bench.core.close()
    bench.core.close()
    with pytest.raises(ValueError, match="closed"):
        bench.core.open_band(0, 5, 9)
    bench.close()


def test_a_write_larger_than_the_buffer_is_accepted_bit_by_bit() -> None:
    with Bench(write_buffer_blocks=8, fill_percent=50) as bench:
        count = bench.core.max_io_blocks
        assert count == 256
        for version in range(1, 6):
            data = b"".join(content(5 + i, version) for i in range(count))
            large = bench.port.submit(_shim.Op.WRITE, 5, count, data)
            later = bench.port.submit(_shim.Op.WRITE, 100, 1, content(100, 1000 + version))
            assert bench.wait(large).status == 0
            assert bench.wait(later).status == 0
            assert bench.versions(5, count) == [version] * 95 + [1000 + version] + [version] * 160
