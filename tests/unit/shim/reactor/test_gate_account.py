"""What a gate with an account counts, and the time its reactor tells."""

from __future__ import annotations

import time

import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import Stepped, block

US = 1000
UNRECOVERED_READ = 0x281


def accounted(*, accounts: bool = True) -> tuple[Stepped, _shim.EmulatedMedia, _shim.Gate]:
    """Its time stands still unless a test moves it."""
    reactor = _shim.Reactor("test")
    media = _shim.EmulatedMedia.conventional(reactor, 64)
    gate = _shim.Gate(reactor, media, accounts=accounts)
    io = Stepped(reactor, gate)
    io.step()
    return io, media, gate


def read_in(io: Stepped, media: _shim.EmulatedMedia, gate: _shim.Gate, latency_ns: int) -> None:
    """The gate holds it for that long."""
    gate.hold()
    ticket = io.port.submit(_shim.Op.READ, 0, 1, bytearray(4096))
    io.step()
    io.now_ns += latency_ns
    io.step()
    gate.set_device(media)
    assert io.wait(ticket).status == 0


def test_each_kind_counts_what_it_is() -> None:
    io, _, gate = accounted()
    with io:
        io.write(0, block(1))
        io.write(1, block(2))
        io.read(0)
        io.flush()
        io.run(_shim.Op.DEALLOCATE, 0, 8)
        io.run(_shim.Op.WRITE_ZEROES, 0, 8)
        account = gate.account()
    counts = {kind: getattr(account, kind).count for kind in ("read", "write", "flush", "trim")}
    assert counts == {"read": 1, "write": 2, "flush": 1, "trim": 2}
    assert (account.state, account.held) == ("open", 0)


@pytest.mark.parametrize(
    ("latency_ns", "bucket"),
    [
        (0, 0),
        (1000, 0),
        (1001, 1),
        (2000, 1),
        (100_000, 7),
        (128_000, 7),
        (128_001, 8),
        ((1 << 24) * US, _shim.LATENCY_BOUNDS - 1),
        ((1 << 24) * US + 1, _shim.LATENCY_BOUNDS),
        (1 << 40, _shim.LATENCY_BOUNDS),
    ],
)
def test_a_latency_is_in_the_bucket_of_its_time(latency_ns: int, bucket: int) -> None:
    io, media, gate = accounted()
    with io:
        read_in(io, media, gate, latency_ns)
        read = gate.account().read
    assert len(read.within) == _shim.LATENCY_BOUNDS + 1
    assert {index: count for index, count in enumerate(read.within) if count} == {bucket: 1}
    assert read.count == 1
    assert read.sum == read.max == read.p50 == read.p999 == latency_ns


def test_percentiles_are_of_the_values() -> None:
    io, media, gate = accounted()
    with io:
        for number in range(1000):
            read_in(io, media, gate, 100 * US if number < 500 else 1000 * US if number < 995 else 50_000 * US)
        read = gate.account().read
    assert 100 * US <= read.p50 <= 1.04 * 100 * US
    assert 1000 * US <= read.p90 <= read.p99 <= 1.04 * 1000 * US
    assert read.p999 == read.max == 50_000 * US
    assert read.sum == (500 * 100 + 495 * 1000 + 5 * 50_000) * US


def test_errors_are_counted_by_what_they_mean() -> None:
    io, media, gate = accounted()
    media.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ, times=2)
    media.inject_fault(op=_shim.Op.FLUSH, status=UNRECOVERED_READ, times=1)
    with io:
        assert io.read_status(0) == io.read_status(0) == UNRECOVERED_READ
        io.read(0)
        io.flush()
        assert io.write(64, block(1)) == 0x080
        account = gate.account()
    errors = {
        (kind, each.name): getattr(account, kind).errors[each]
        for kind in ("read", "write", "flush", "trim")
        for each in _shim.ErrorClass
    }
    assert {key: count for key, count in errors.items() if count} == {
        ("read", "BLOCK"): 2, ("flush", "DOUBT"): 1, ("write", "MISTAKE"): 1,
    }  # fmt: skip
    assert account.read.count == 3


def test_the_time_at_a_gate_that_holds_is_part_of_the_latency() -> None:
    io, media, gate = accounted()
    with io:
        gate.hold()
        ticket = io.port.submit(_shim.Op.WRITE, 0, 1, block(1))
        io.step()
        assert (gate.account().state, gate.account().held, gate.account().write.count) == ("holding", 1, 0)
        io.now_ns += 2_000_000 * US
        io.step()
        gate.set_device(media)
        assert io.wait(ticket).status == 0
        account = gate.account()
    assert (account.state, account.held, account.write.count) == ("open", 0, 1)
    assert account.write.sum == 2_000_000 * US
    assert account.write.within[21] == 1


def test_counts_continue_with_another_device() -> None:
    io, _, gate = accounted()
    with io:
        io.write(0, block(1))
        gate.set_device(_shim.EmulatedMedia.conventional(io.reactor, 64))
        io.write(0, block(1))
        assert gate.account().write.count == 2


def test_a_gate_without_account_says_so() -> None:
    io, _, gate = accounted(accounts=False)
    with io:
        io.write(0, block(1))
        with pytest.raises(RuntimeError, match="keeps no account"):
            gate.account()


def test_a_reactor_tells_its_busy_and_idle_time() -> None:
    reactor = _shim.Reactor("test")
    media = _shim.EmulatedMedia.null(reactor, 64)
    load = _shim.LoadGenerator(reactor, media, lba_count=64, seed=1)
    assert (reactor.busy_ns, reactor.idle_ns) == (0, 0)
    began = time.monotonic_ns()
    reactor.start()
    load.start("write", queue_depth=8, total_blocks=20_000)
    while load.progress().running:
        time.sleep(0.001)
    deadline = time.monotonic() + 10
    while not reactor.idle_ns and time.monotonic() < deadline:
        time.sleep(0.01)
    reactor.stop()
    assert reactor.busy_ns > 0
    assert reactor.idle_ns > 0
    assert reactor.busy_ns + reactor.idle_ns <= time.monotonic_ns() - began
    load.close()
