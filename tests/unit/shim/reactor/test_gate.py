"""Gate: what a lost device leaves undone, the next one does; nobody in front notices more than a pause."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.qpair_rig import host_options
from unit.shim.ftl.cache_bench import CacheBench
from unit.shim.ftl.core_bench import BLOCK, Bench, content, version_of
from unit.shim.stepped import Stepped

PATH_ERROR = 0x370
ABORTED = 0x007
NOT_READY = 0x082
WRITE_FAULT = 0x280


class Gated:
    """Two benches of the same size on one reactor, a gate in front of the first's core, a pair of qpairs before it."""

    def __init__(self, first: Bench, second: Bench, gate: _shim.Gate) -> None:
        self.first = first
        self.second = second
        self.gate = gate
        self.reactor = first.reactor
        self.done: dict[int, int] = {}
        self.connect()

    def connect(self) -> None:
        self.done.clear()
        ours, self.socket = socket.socketpair()
        self.target = _shim.TargetQpair(
            self.reactor, ours.fileno(), queue_size=64, header_digest=False, data_digest=False,
            namespaces={1: self.gate},
        )  # fmt: skip
        self.host = _shim.HostQpair(self.reactor, self.socket.fileno(), **host_options(self.gate, queue_depth=63))
        ours.close()
        self.socket.close()
        self.port = _shim.IoPort(self.reactor, self.host, 64)

    def write(self, lba: int, version: int, block_count: int = 1, *, fua: bool = False) -> int:
        data = b"".join(content(lba + i, version) for i in range(block_count))
        return self.port.submit(_shim.Op.WRITE, lba, block_count, data, fua=fua)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            # Their bands are served too, by the bench whose turn it is.
            self.first.now_ns = self.second.now_ns = max(self.first.now_ns, self.second.now_ns) + 10_000
            self.reactor.step(self.first.now_ns)
            for event in self.reactor.events():
                if event.kind == _shim.EventKind.IO_DONE and event.source == self.port.id:
                    self.done[event.ticket] = event.status
                elif event.kind == _shim.EventKind.IO_DONE:
                    raise AssertionError("an I/O of nobody")
                else:
                    for bench in (self.first, self.second):
                        if event.source == bench.core.id and event.kind == _shim.EventKind.BAND_NEXT_NEEDED:
                            bench.wanting.add(event.stream)
            for bench in (self.first, self.second):
                if bench.wanting and not bench.failed:
                    bench.manage()

    def wait(self, *tickets: int) -> list[int]:
        for _ in range(20_000):
            if all(ticket in self.done for ticket in tickets):
                return [self.done.pop(ticket) for ticket in tickets]
            self.step()
        raise AssertionError("not completed")

    def lose(self) -> None:
        """The first core's base is gone, as the daemon tells it."""
        self.first.failed = True
        self.first.core.fail(PATH_ERROR)

    def read(self, lba: int) -> int:
        buffer = bytearray(BLOCK)
        assert self.wait(self.port.submit(_shim.Op.READ, lba, 1, buffer)) == [0]
        return version_of(lba, bytes(buffer))

    def close(self) -> None:
        self.host.close()
        self.target.close()
        self.port.close()


@pytest.mark.parametrize("base_volatile", [False, True])
@pytest.mark.parametrize("cache_fails", [False, True])
def test_a_write_that_the_nv_cache_held_back_is_repeated_with_its_own_data(
    base_volatile: bool, cache_fails: bool
) -> None:
    """Its blocks may be durable on the base long before the cache has flushed; the gate still needs them."""
    options = {"band_count": 40, "volatile_cache": base_volatile}
    with CacheBench(metadata_bytes=0, ring=2000, cache_volatile=not cache_fails, **options) as first:
        if cache_fails:
            first.cache.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT)
        else:
            first.cache.inject_fault(op=_shim.Op.FLUSH, latency_us=20_000)
        with Bench(reactor=first.reactor, **options) as second:  # type: ignore[arg-type]
            rig = Gated(first, second, _shim.Gate(first.reactor, first.core))
            tickets = {}
            for lba in range(0, 96, 8):
                tickets[lba] = rig.write(lba, 100 + lba, 8)
                rig.step(150)
            rig.lose()
            rig.step(3000)
            repeated = [lba for lba, ticket in tickets.items() if ticket not in rig.done]
            assert len(repeated) > 2
            assert rig.gate.held == len(repeated)
            rig.gate.hold()
            rig.gate.set_device(second.core)
            assert set(rig.wait(*(tickets[lba] for lba in repeated))) == {0}
            for lba in repeated:
                assert [rig.read(lba + i) for i in range(8)] == [100 + lba] * 8
            rig.gate.fail(NOT_READY)
            rig.close()


@contextmanager
def gated(**options: object) -> Iterator[Gated]:
    with Bench(**options) as first, Bench(reactor=first.reactor, **options) as second:  # type: ignore[arg-type]
        rig = Gated(first, second, _shim.Gate(first.reactor, first.core))
        try:
            yield rig
        finally:
            rig.gate.fail(NOT_READY)
            rig.close()


def test_an_open_gate_is_the_device() -> None:
    with gated() as rig:
        for attribute in ("block_count", "block_bytes", "max_io_blocks", "volatile_cache", "zoned"):
            assert getattr(rig.gate, attribute) == getattr(rig.first.core, attribute)
        assert rig.gate.state == "open"
        assert rig.wait(rig.write(3, 7), rig.port.submit(_shim.Op.FLUSH)) == [0, 0]
        assert rig.read(3) == 7
        assert rig.wait(rig.port.submit(_shim.Op.DEALLOCATE, 3, 1)) == [0]
        assert rig.read(3) == 0


def test_a_gate_holds_what_a_lost_core_did_not_do_and_the_next_one_does_it() -> None:
    with gated() as rig:
        rig.lose()
        tickets = [rig.write(lba, 1) for lba in range(8)]
        rig.step(50)
        assert (rig.gate.state, rig.gate.held, rig.done) == ("holding", 8, {})
        tickets += [rig.write(lba, 1) for lba in range(8, 12)]
        rig.step(50)
        assert (rig.gate.held, rig.done) == (12, {})
        rig.gate.set_device(rig.second.core)
        assert set(rig.wait(*tickets)) == {0}
        assert rig.gate.state == "open"
        assert [rig.read(lba) for lba in range(13)] == [1] * 12 + [0]


def test_writes_received_into_the_lost_core_s_memory_are_written_with_what_was_received() -> None:
    with gated() as rig:
        rig.first.core.set_pace(0)  # nothing is accepted: writes wait in their reserved slots
        rig.first.wanting.clear()
        tickets = [rig.write(4 * number, 5, 4) for number in range(5)]
        rig.reactor.step()
        for _ in range(100):
            rig.reactor.step()
        assert rig.first.core.stats().write_buffer_reserved == 20
        rig.lose()
        rig.step(20)
        rig.gate.hold()
        assert rig.gate.held == 5
        assert rig.gate.sweep() is False  # five writes have their data there
        # The lost core keeps them, whatever is sent to it.
        others = Stepped(rig.reactor, rig.first.core)
        late = others.port.submit(_shim.Op.WRITE, 0, 1, content(0, 9))
        for _ in range(5):
            rig.reactor.step()
        assert [event.status for event in rig.reactor.events() if event.ticket == late] == [PATH_ERROR]
        others.port.close()
        assert rig.first.core.stats().write_buffer_reserved == 20
        rig.gate.set_device(rig.second.core)
        assert set(rig.wait(*tickets)) == {0}
        assert [rig.read(lba) for lba in range(20)] == [5] * 20
        assert rig.gate.sweep() is True


@contextmanager
def host_of(rig: Gated) -> Iterator[socket.socket]:
    """The host's end of a connection to an I/O queue on the gate."""
    ours, peer = socket.socketpair()
    with peer:
        target = _shim.TargetQpair(
            rig.reactor, ours.fileno(), queue_size=8, header_digest=False, data_digest=False, namespaces={1: rig.gate}
        )
        ours.close()
        yield peer
    rig.step(5)
    target.close()


def test_a_write_whose_data_are_still_being_received_goes_to_the_next_core() -> None:
    with gated() as rig, host_of(rig) as peer:
        raw = pdus.write(1, 6, content(6, 3))
        peer.send(raw[:1000])
        rig.step(5)
        rig.lose()
        rig.step(5)
        rig.gate.hold()
        rig.gate.set_device(rig.second.core)
        assert rig.gate.sweep() is False  # the rest of the data goes there, too
        peer.send(raw[1000:])
        rig.step(20)
        assert rig.gate.sweep() is True
        assert rig.read(6) == 3


def test_a_core_is_empty_though_data_are_still_received_into_its_memory() -> None:
    """So it can be halted, and what arrives by then is the next one's."""
    with gated() as rig, host_of(rig) as peer:
        raw = pdus.write(1, 6, content(6, 3))
        peer.send(raw[:1000])
        rig.step(5)
        rig.gate.hold()
        assert (rig.gate.sweep(), rig.gate.emptied()) == (False, True)
        rig.first.core.drain()
        rig.step(20)
        while not rig.first.core.begin_close():
            rig.step()
        peer.send(raw[1000:])
        rig.step(5)
        assert rig.gate.held == 1
        assert (rig.gate.sweep(), rig.gate.emptied()) == (False, True)
        rig.gate.set_device(rig.second.core)
        rig.step(20)
        assert rig.gate.sweep() is True
        assert rig.read(6) == 3


def test_a_core_is_not_empty_before_it_has_answered_what_it_was_sent() -> None:
    with gated() as rig:
        rig.first.core.set_pace(0)
        rig.first.wanting.clear()
        ticket = rig.write(0, 5)
        for _ in range(100):
            rig.reactor.step()
        rig.gate.hold()
        assert rig.gate.emptied() is False
        rig.first.core.set_pace(100)
        assert rig.wait(ticket) == [0]
        assert rig.gate.emptied() is True
        rig.gate.set_device(rig.second.core)


def test_an_fua_write_takes_no_memory_of_the_core() -> None:
    # Of one that was accepted, part may be on media and its slots used again when the base is lost.
    with gated() as rig:
        rig.gate.fail(NOT_READY)
        rig.gate.set_device(rig.first.core)
        ticket = rig.write(0, 1, 8, fua=True)
        for _ in range(4):
            rig.reactor.step()
        rig.lose()
        rig.step(20)
        assert rig.gate.held == 1
        rig.gate.hold()
        assert rig.gate.sweep() is True
        rig.gate.set_device(rig.second.core)
        assert rig.wait(ticket) == [0]
        assert [rig.read(lba) for lba in range(8)] == [1] * 8


def test_a_failing_gate_fails_what_it_held_and_all_that_comes_until_it_has_a_device() -> None:
    with gated() as rig:
        rig.lose()
        held = [rig.write(0, 1), rig.port.submit(_shim.Op.FLUSH)]
        rig.step(20)
        rig.gate.fail(PATH_ERROR)
        assert rig.wait(*held) == [PATH_ERROR, PATH_ERROR]
        assert rig.wait(rig.write(1, 1)) == [PATH_ERROR]
        rig.gate.hold()  # too late: a host that was told has to be told again
        assert rig.gate.state == "failing"
        rig.gate.set_device(rig.second.core)
        assert rig.wait(rig.write(1, 2)) == [0]
        assert rig.read(1) == 2


def test_errors_of_a_device_that_is_there_are_not_held() -> None:
    with gated() as rig:
        rig.first.core.fail_writes(WRITE_FAULT)
        assert rig.wait(rig.write(0, 1)) == [WRITE_FAULT]
        assert rig.gate.state == "open"


def test_held_io_keeps_its_order() -> None:
    with gated() as rig:
        rig.gate.hold()
        direct = Stepped(rig.reactor, rig.gate)
        tickets = [direct.port.submit(_shim.Op.WRITE, 0, 1, content(0, version)) for version in range(1, 20)]
        rig.reactor.step()
        assert rig.gate.held == 19
        rig.gate.set_device(rig.second.core)
        direct.port.close()
        done = [event for event in rig.reactor.events() if event.kind == _shim.EventKind.IO_DONE]
        assert len([event for event in done if event.ticket in tickets and event.status == 0]) == 19
        assert rig.read(0) == 19


def test_a_connection_that_ends_takes_what_is_held_for_it_along() -> None:
    with gated() as rig:
        rig.gate.hold()
        for lba in range(10):
            rig.write(lba, 1)
        rig.step(20)
        assert rig.gate.held == 10
        rig.host.close()
        rig.step(20)
        assert rig.gate.held == 0
        rig.target.close()  # has nothing to wait for
        rig.gate.set_device(rig.second.core)
        rig.port.close()
        rig.connect()
        assert rig.read(0) == 0  # never executed behind the host's back


@pytest.mark.parametrize("fua", [False, True])
def test_what_a_lost_core_gives_back_for_a_connection_that_has_ended_is_not_repeated(fua: bool) -> None:
    """Its host has repeated it by another connection, and may have written something newer since."""
    with gated() as rig:
        if fua:  # accepted, and waits for the base
            rig.first.media.inject_fault(op=_shim.Op.FLUSH, latency_us=100_000)
        else:  # waits to be accepted
            rig.first.core.set_pace(0)
            rig.first.manage = lambda: None  # type: ignore[method-assign]
        ticket = rig.write(0, 1, fua=fua)
        rig.step(2000)
        assert (rig.gate.state, rig.gate.held, ticket in rig.done) == ("open", 0, False)
        ended = rig.target
        rig.host.close()
        rig.step(20)
        rig.gate.hold()
        rig.gate.set_device(rig.second.core)
        rig.port.close()
        rig.connect()
        assert rig.wait(rig.write(0, 2)) == [0]
        rig.lose()
        rig.step(12_000)  # what the base still had comes back, too
        ended.close()
        assert rig.read(0) == 2


def test_only_a_device_that_looks_the_same_can_follow() -> None:
    with gated() as rig:
        rig.gate.hold()
        ticket = rig.write(0, 1)
        rig.step(10)
        for other, what in (
            (_shim.EmulatedMedia.null(rig.reactor, 10), "block_count"),
            (_shim.EmulatedMedia.null(rig.reactor, rig.gate.block_count, block_bytes=512), "block_bytes"),
            (_shim.EmulatedMedia.conventional(rig.reactor, rig.gate.block_count), "volatile_cache"),
        ):
            with pytest.raises(ValueError, match=f"{what} of the new device differs"):
                rig.gate.set_device(other)
        with pytest.raises(ValueError, match="a gate itself"):
            rig.gate.set_device(rig.gate)
        with pytest.raises(ValueError, match="a gate itself"):
            _shim.Gate(rig.reactor, rig.gate)
        with pytest.raises(ValueError, match="status 0"):
            rig.gate.fail(0)
        assert (rig.gate.state, rig.gate.held) == ("holding", 1)
        rig.gate.set_device(rig.second.core)
        assert rig.wait(ticket) == [0]


def test_a_connection_made_anew_repeats_what_had_no_answer() -> None:
    """A gate over host qpairs: what a host that reconnects is."""
    reactor = _shim.Reactor("test")
    media = _shim.EmulatedMedia.conventional(reactor, 256)
    rng = random.Random(23)

    def connect() -> tuple[_shim.HostQpair, _shim.TargetQpair]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            target = _shim.TargetQpair(
                reactor, ours.fileno(), queue_size=32, header_digest=False, data_digest=False, namespaces={1: media}
            )
            return _shim.HostQpair(reactor, theirs.fileno(), **host_options(media)), target

    host, target = connect()
    gate = _shim.Gate(reactor, host)
    load = _shim.LoadGenerator(reactor, gate, lba_count=256, seed=1)
    load.start("mixed", queue_depth=16, total_blocks=4000, write_percent=60)
    for _ in range(6):
        for _ in range(rng.randrange(5, 60)):
            reactor.step()
        target.close()
        for _ in range(rng.randrange(3)):
            reactor.step()
        if rng.random() < 0.5:
            host.close()
        host, target = connect()
        gate.set_device(host)
    while load.progress().running:
        reactor.step()
    progress = load.progress()
    assert (progress.io_errors, progress.verify_errors) == (0, 0)
    for _ in range(3):
        reactor.step()
    assert gate.sweep()
    load.close()
    host.close()
    target.close()


def test_hostile_orders_in_any_sequence_leave_every_io_with_one_answer() -> None:
    for seed in range(12):
        rng = random.Random(seed)
        with gated() as rig:
            cores = [rig.first.core, rig.second.core]
            tickets = []
            for _ in range(150):
                match rng.randrange(7):
                    case 0:
                        rig.gate.hold()
                    case 1:
                        rig.gate.set_device(rng.choice(cores))
                    case 2:
                        rig.gate.fail(PATH_ERROR)
                    case 3:
                        rig.gate.sweep()
                    case _ if len(tickets) - len(rig.done) < 60:
                        tickets.append(rig.write(rng.randrange(64), 1, rng.randrange(1, 5), fua=rng.random() < 0.2))
                if rng.random() < 0.01:
                    rig.lose()
                rig.step(rng.randrange(4))
            rig.gate.set_device(rig.second.core)
            assert set(rig.wait(*tickets)) <= {0, PATH_ERROR}, f"seed {seed}"
            assert rig.gate.held == 0


def test_a_larger_device_may_follow_and_then_no_smaller_one() -> None:
    reactor = _shim.Reactor("test")
    sizes = [64, 64, 100, 99]
    devices = [_shim.EmulatedMedia.conventional(reactor, size) for size in sizes]
    gate = _shim.Gate(reactor, devices[0])
    gate.hold()
    gate.set_device(devices[1])
    assert gate.block_count == 64
    gate.hold()
    with Stepped(reactor, gate) as io:
        first = io.port.submit(_shim.Op.WRITE, 63, 1, b"o" * 4096)
        gate.set_device(devices[2])
        assert gate.block_count == 100
        assert io.wait(first).status == 0
        assert io.write(99, b"n" * 4096) == 0
        gate.hold()
        with pytest.raises(ValueError, match=r"block_count of the new device .* 99 instead of 100"):
            gate.set_device(devices[3])
        assert (gate.state, gate.block_count) == ("holding", 100)
        gate.set_device(devices[2])
        assert io.read(99) == b"n" * 4096
        assert io.read(63) == b"o" * 4096
