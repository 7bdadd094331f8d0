"""The load generator: it does the I/O it was asked for, and no wrong block escapes it."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import Stepped, block

LBA_COUNT = 256


class Rig:
    """A generator on conventional media, stepped."""

    def __init__(self, *, first_lba: int = 0, lba_count: int = LBA_COUNT, seed: int = 7, **media: bool) -> None:
        self.reactor = _shim.Reactor("load")
        self.media = _shim.EmulatedMedia.conventional(self.reactor, 1024, **media)
        self.load = _shim.LoadGenerator(
            self.reactor, self.media, first_lba=first_lba, lba_count=lba_count, seed=seed, max_io_blocks=16
        )
        self.io = Stepped(self.reactor, self.media)

    def run(self, kind: str, **options: object) -> dict[str, object]:
        self.load.start(kind, **options)  # type: ignore[arg-type]
        return self.finish()

    def finish(self) -> dict[str, object]:
        for _ in range(100_000):
            self.reactor.step()
            for event in self.reactor.events():
                if event.kind == _shim.EventKind.LOAD_DONE:
                    progress = self.load.progress()
                    assert not progress.running
                    assert event.source == self.load.id
                    assert event.done_blocks == progress.done_blocks
                    assert event.errors == progress.verify_errors + progress.io_errors
                    return progress.as_dict()
        raise AssertionError("the load did not end")

    def swap_blocks(self, first: int, second: int) -> None:
        a, b = self.io.read(first), self.io.read(second)
        assert self.io.write(first, b) == 0
        assert self.io.write(second, a) == 0


def test_a_sequential_write_reaches_every_block_and_a_read_verifies_them() -> None:
    rig = Rig()
    written = rig.run("write", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT, queue_depth=8)
    assert (written["done_blocks"], written["done_ios"]) == (LBA_COUNT, LBA_COUNT // 16)
    assert (rig.load.versions() == 1).all()
    read = rig.run("read", pattern="sequential", io_blocks=5, total_blocks=LBA_COUNT, queue_depth=3)
    assert (read["read_blocks"], read["verify_errors"], read["io_errors"]) == (LBA_COUNT, 0, 0)


def test_a_sequential_run_wraps_without_overlapping_itself() -> None:
    rig = Rig(lba_count=24)
    rig.media.set_schedule(5)
    assert rig.run("write", pattern="sequential", io_blocks=16, total_blocks=96, queue_depth=8)["done_blocks"] == 96
    assert (rig.load.versions() == 4).all()
    assert rig.run("read", pattern="sequential", io_blocks=1, total_blocks=24)["verify_errors"] == 0


def test_random_and_mixed_load_in_random_order_verifies() -> None:
    rig = Rig()
    rig.media.set_schedule(11)
    assert rig.run("write", total_blocks=2000, queue_depth=64)["io_errors"] == 0
    mixed = rig.run("mixed", total_blocks=4000, queue_depth=64, io_blocks=4, write_percent=30)
    assert mixed["verify_errors"] == 0
    assert mixed["done_blocks"] == 4000
    assert 0.2 < int(str(mixed["written_blocks"])) / 4000 < 0.4
    assert rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)["verify_errors"] == 0


def test_more_queue_depth_than_blocks_does_not_stall() -> None:
    rig = Rig(lba_count=4)
    assert rig.run("mixed", total_blocks=500, queue_depth=200, write_percent=50)["done_blocks"] == 500


def test_the_same_seed_gives_the_same_load() -> None:
    def versions(seed: int) -> list[int]:
        rig = Rig(seed=seed)
        rig.run("write", total_blocks=500)
        return [int(version) for version in rig.load.versions()]

    assert versions(1) == versions(1)
    assert versions(1) != versions(2)


def test_trimmed_blocks_are_expected_to_read_zeroes_and_their_versions_do_not_come_again() -> None:
    rig = Rig()
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    old = rig.io.read(3)
    rig.run("trim", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT)
    assert not rig.load.versions().any()
    assert rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)["verify_errors"] == 0
    assert rig.io.write(3, old) == 0
    undead = rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)
    assert undead["mismatch"] == {"older": 1, "newer": 0, "wrong_lba": 0, "zeroes": 0, "garbage": 0}
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    assert (rig.load.versions() == 2).all()


def test_each_kind_of_wrong_block_is_told_apart() -> None:
    rig = Rig()
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    first_version = rig.io.read(10)
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)

    rig.io.write(10, first_version)
    rig.swap_blocks(20, 21)
    rig.io.run(_shim.Op.WRITE_ZEROES, 30, 1)
    torn = bytearray(rig.io.read(40))
    torn[2048:] = bytes(2048)
    rig.io.write(40, bytes(torn))
    flipped = bytearray(rig.io.read(41))
    flipped[4095] ^= 1
    rig.io.write(41, bytes(flipped))
    rig.io.write(42, block(1))
    almost_zero = bytearray(4096)
    almost_zero[4000] = 1
    rig.io.write(43, bytes(almost_zero))

    found = rig.run("read", pattern="sequential", total_blocks=LBA_COUNT, io_blocks=16)
    assert found["mismatch"] == {"older": 1, "newer": 0, "wrong_lba": 2, "zeroes": 1, "garbage": 4}
    assert found["verify_errors"] == 8
    examples = found["mismatches"]
    assert isinstance(examples, list)
    by_lba = {example["lba"]: example for example in examples}
    assert by_lba[10] == {
        "kind": "older",
        "lba": 10,
        "expected_version": 2,
        "found_lba": 10,
        "found_version": 1,
    }
    assert (by_lba[20]["kind"], by_lba[20]["found_lba"]) == ("wrong_lba", 21)
    assert {lba for lba, example in by_lba.items() if example["kind"] == "garbage"} == {40, 41, 42, 43}


def test_a_newer_version_than_expected_is_an_error() -> None:
    rig = Rig()
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    other = _shim.LoadGenerator(rig.reactor, rig.media, lba_count=LBA_COUNT, seed=7)
    for _ in range(2):
        other.start("write", pattern="sequential", total_blocks=10)
        while other.progress().running:
            rig.reactor.step()
    other.close()
    rig.reactor.events()
    assert rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)["mismatch"] == {
        "older": 0, "newer": 10, "wrong_lba": 0, "zeroes": 0, "garbage": 0,
    }  # fmt: skip


def test_blocks_of_another_seed_are_garbage() -> None:
    rig = Rig(seed=1)
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    other = _shim.LoadGenerator(rig.reactor, rig.media, lba_count=LBA_COUNT, seed=2)
    other.start("read", pattern="sequential", total_blocks=4)
    while other.progress().running:
        rig.reactor.step()
    assert other.progress().verify_errors == 4
    other.close()


def test_only_the_first_mismatches_are_kept_but_all_are_counted() -> None:
    rig = Rig()
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    rig.io.run(_shim.Op.DEALLOCATE, 0, LBA_COUNT)
    found = rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)
    assert found["verify_errors"] == LBA_COUNT
    assert isinstance(found["mismatches"], list)
    assert len(found["mismatches"]) == 16


def test_a_read_that_brings_no_data_does_not_pass() -> None:
    reactor = _shim.Reactor("null")
    media = _shim.EmulatedMedia.null(reactor, 64)
    load = _shim.LoadGenerator(reactor, media, lba_count=64, seed=1)
    for kind in ("write", "read"):
        load.start(kind, pattern="sequential", total_blocks=64)
        while load.progress().running:
            reactor.step()
    assert load.progress().mismatch.as_dict() == {"older": 0, "newer": 0, "wrong_lba": 0, "zeroes": 64, "garbage": 0}
    load.close()


def test_the_range_of_lbas_is_respected() -> None:
    rig = Rig(first_lba=100, lba_count=50)
    rig.run("write", total_blocks=1000, queue_depth=16)
    assert not any(rig.io.read(0, 100))
    assert not any(rig.io.read(150, 200))
    assert any(rig.io.read(100, 50))


def test_io_errors_are_counted_and_the_blocks_of_a_failed_write_may_hold_either_version() -> None:
    rig = Rig()
    rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    rig.media.inject_fault(op=_shim.Op.WRITE, lba=5, block_count=1, status=0x280)
    failed = rig.run("write", pattern="sequential", total_blocks=LBA_COUNT)
    assert (failed["io_errors"], failed["last_error_status"], failed["last_error_lba"]) == (1, 0x280, 5)
    assert failed["done_blocks"] == LBA_COUNT - 1
    versions = rig.load.versions()
    assert versions[5] == np.iinfo(np.uint32).max
    assert (np.delete(versions, 5) == 2).all()
    assert rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)["verify_errors"] == 0
    rig.media.clear_faults()
    assert rig.io.write(5, block(5)) == 0
    assert rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)["mismatch"] == {
        "older": 0, "newer": 0, "wrong_lba": 0, "zeroes": 0, "garbage": 1,
    }  # fmt: skip


def test_a_time_limit_and_stop_end_a_run() -> None:
    rig = Rig()
    rig.reactor.step(1_000)
    rig.load.start("write", time_limit_s=1.0)
    rig.reactor.step(2_000)
    assert rig.load.progress().running
    rig.reactor.step(1_000_001_000)
    for _ in range(3):
        rig.reactor.step(1_000_001_000)
    assert not rig.load.progress().running
    assert rig.load.progress().elapsed_ns == 1_000_000_000
    rig.reactor.events()

    rig.load.start("write", total_blocks=10**12)
    rig.reactor.step()
    rig.load.stop()
    assert rig.finish()["io_errors"] == 0


def test_latencies_are_ordered() -> None:
    rig = Rig()
    latency = rig.run("write", total_blocks=1000)["latency_ns"]
    assert isinstance(latency, dict)
    order = [latency[key] for key in ("min", "p50", "p90", "p99", "p999", "max")]
    assert order == sorted(order)
    assert latency["min"] <= latency["mean"] <= latency["max"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "scribble"}, "'write', 'read', 'trim' or 'mixed'"),
        ({"pattern": "zigzag"}, "'random' or 'sequential'"),
        ({"io_blocks": 0}, "io_blocks 0"),
        ({"io_blocks": 17}, "io_blocks 17 must be within 1..16"),
        ({"queue_depth": 0}, "queue_depth 0"),
        ({"queue_depth": 257}, "queue_depth 257"),
        ({"total_blocks": 0}, "either total_blocks or time_limit_s"),
        ({"write_percent": 101}, "write_percent"),
        ({"time_limit_s": -1.0}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    rig = Rig()
    with pytest.raises(ValueError, match=message):
        rig.run(**{"kind": "write", "total_blocks": 1, **options})  # type: ignore[arg-type]
    assert rig.run("write", total_blocks=1)["done_blocks"] == 1


def test_a_generator_that_makes_no_sense_is_refused() -> None:
    reactor = _shim.Reactor("refused")
    media = _shim.EmulatedMedia.conventional(reactor, 64)
    for first_lba, lba_count in ((0, 65), (64, 1), (2**64 - 1, 2), (0, 0)):
        with pytest.raises(ValueError, match="exceed the device's"):
            _shim.LoadGenerator(reactor, media, first_lba=first_lba, lba_count=lba_count, seed=0)
    small = _shim.EmulatedMedia.conventional(reactor, 64, block_bytes=512)
    with pytest.raises(ValueError, match="4096 bytes"):
        _shim.LoadGenerator(reactor, small, lba_count=64, seed=0)


def test_a_running_generator_refuses_a_second_run_and_close_waits_for_its_io() -> None:
    rig = Rig()
    rig.load.start("write", total_blocks=10**9)
    with pytest.raises(RuntimeError, match="is already running"):
        rig.load.start("read", total_blocks=1)
    rig.load.close()
    rig.load.close()
    with pytest.raises(RuntimeError, match="closed"):
        rig.load.progress()


def test_dropping_a_running_generator_lets_its_io_finish() -> None:
    rig = Rig()
    rig.media.inject_fault(latency_us=1000)
    rig.load.start("write", total_blocks=10**9, queue_depth=32)
    rig.reactor.step(1)
    rig.reactor.step(2)
    del rig.load
    before = rig.media.operations
    for _ in range(5):
        rig.reactor.step(10_000_000)
    assert rig.media.operations == before + 32


def test_it_runs_on_a_reactor_thread() -> None:
    reactor = _shim.Reactor("threaded")
    media = _shim.EmulatedMedia.conventional(reactor, 4096)
    load = _shim.LoadGenerator(reactor, media, lba_count=4096, seed=3)
    reactor.start()
    try:
        load.start("write", pattern="sequential", io_blocks=32, total_blocks=4096)
        while load.progress().running:
            pass
        load.start("mixed", total_blocks=20_000, queue_depth=64, write_percent=50)
        while load.progress().running:
            pass
        assert load.progress().verify_errors == 0
        load.close()
    finally:
        reactor.stop()


def test_blocks_that_another_generator_wrote_are_whole_but_not_exact() -> None:
    rig = Rig()
    rig.run("write", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT)
    for verify, wrong in (("exact", LBA_COUNT), ("whole", 0), ("none", 0)):
        rig.load = _shim.LoadGenerator(
            rig.reactor, rig.media, lba_count=LBA_COUNT, seed=7, max_io_blocks=16, verify=verify
        )
        read = rig.run("read", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT)
        assert (read["read_blocks"], read["verify_errors"]) == (LBA_COUNT, wrong)
        assert rig.load.versions().size == (LBA_COUNT if verify == "exact" else 0)


def test_whole_blocks_are_verified_and_with_none_nothing_is() -> None:
    rig = Rig()
    for verify, wrong in (("whole", 2), ("none", 0)):
        rig.load = _shim.LoadGenerator(
            rig.reactor, rig.media, lba_count=LBA_COUNT, seed=7, max_io_blocks=16, verify=verify
        )
        rig.run("mixed", write_percent=50, total_blocks=2 * LBA_COUNT, queue_depth=8)
        rig.run("write", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT)
        assert rig.run("read", total_blocks=LBA_COUNT)["verify_errors"] == 0
        rig.swap_blocks(3, 9)
        assert rig.run("read", pattern="sequential", total_blocks=LBA_COUNT)["verify_errors"] == wrong


def test_an_unknown_way_to_verify_is_refused() -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="verify 'some' must be"):
        _shim.LoadGenerator(rig.reactor, rig.media, lba_count=8, seed=7, verify="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("verify", ["exact", "whole"])
def test_with_sync_a_write_is_done_when_its_flush_is(verify: str) -> None:
    rig = Rig(volatile_cache=True)
    rig.load = _shim.LoadGenerator(
        rig.reactor,
        rig.media,
        lba_count=LBA_COUNT,
        seed=7,
        max_io_blocks=16,
        verify=verify,  # type: ignore[arg-type]
    )
    written = rig.run("write", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT, queue_depth=4, sync=True)
    assert (written["done_ios"], written["written_blocks"], written["io_errors"]) == (LBA_COUNT // 16, LBA_COUNT, 0)
    rig.media.power_cut(1)
    rig.media.power_on()
    assert rig.run("read", pattern="sequential", io_blocks=16, total_blocks=LBA_COUNT)["verify_errors"] == 0
