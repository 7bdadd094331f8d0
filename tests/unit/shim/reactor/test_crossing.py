"""Crossing: a device on another reactor is that device, whichever of the two reactors comes first."""

from __future__ import annotations

import gc
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spdk_ftl_py import _shim
from support.descriptors import open_descriptors, opened_since
from support.qpair_rig import host_options
from unit.shim.ftl.core_bench import BLOCK, Bench, content, version_of

LEASES = 8
PATH_ERROR = 0x370


class Crossed:
    """Two benches of the same size on the core's reactor, a gate in front of the first one's core, a crossing to the
    front's reactor, and a pair of qpairs there. Who is stepped next is random."""

    def __init__(self, first: Bench, second: Bench, seed: int, leases: int) -> None:
        self.benches = (first, second)
        self.rng = random.Random(seed)
        self.core_reactor = first.reactor
        self.front = _shim.Reactor("front")
        self.gate = _shim.Gate(self.core_reactor, first.core)
        self.crossing = _shim.Crossing(self.front, self.core_reactor, self.gate, leases)
        self.done: dict[int, int] = {}
        self.now_ns = 1
        self.managed: set[Bench] = set()
        ours, theirs = socket.socketpair()
        self.target = _shim.TargetQpair(
            self.front, ours.fileno(), queue_size=64, header_digest=False, data_digest=False,
            namespaces={1: self.crossing}, max_io_bytes=32 * BLOCK,
        )  # fmt: skip
        self.host = _shim.HostQpair(self.front, theirs.fileno(), **host_options(self.gate, queue_depth=63))
        ours.close()
        theirs.close()
        self.port = _shim.IoPort(self.front, self.host, 64)

    def step(self) -> None:
        self.now_ns += 10_000
        if self.rng.random() < 0.5:
            self.front.step(self.now_ns)
            for event in self.front.events():
                if event.kind == _shim.EventKind.IO_DONE and event.source == self.port.id:
                    self.done[event.ticket] = event.status
            return
        self.core_reactor.step(self.now_ns)
        for event in self.core_reactor.events():
            for bench in self.benches:
                if event.source == bench.core.id:
                    self.managed.add(bench)
                    if event.kind == _shim.EventKind.BAND_NEXT_NEEDED:
                        bench.wanting.add(event.stream)
        for bench in self.benches:
            if (bench.wanting or bench in self.managed) and not bench.failed:
                bench.manage()
        self.managed.clear()

    def settle(self, steps: int = 400) -> None:
        for _ in range(steps):
            self.step()

    def wait(self, *tickets: int | None) -> list[int]:
        for _ in range(40_000):
            if all(ticket in self.done for ticket in tickets):
                return [self.done.pop(ticket) for ticket in tickets if ticket is not None]
            self.step()
        raise AssertionError("not completed")

    def write(self, lba: int, version: int, block_count: int = 1, *, fua: bool = False) -> int:
        data = b"".join(content(lba + i, version) for i in range(block_count))
        return self.port.submit(_shim.Op.WRITE, lba, block_count, data, fua=fua)

    def read(self, lba: int, block_count: int = 1) -> list[int]:
        """The versions there."""
        buffer = bytearray(block_count * BLOCK)
        assert self.wait(self.port.submit(_shim.Op.READ, lba, block_count, buffer)) == [0]
        return [version_of(lba + i, bytes(buffer[i * BLOCK :][:BLOCK])) for i in range(block_count)]

    def lose(self) -> None:
        self.benches[0].failed = True
        self.benches[0].core.fail(PATH_ERROR)

    def close(self) -> None:
        self.port.close()
        self.host.close()
        if self.gate.state != "open":
            self.gate.fail(PATH_ERROR)
        while not self.target.drained:
            self.target_closes()
        self.target.close()

    def target_closes(self) -> None:
        self.front.step(self.now_ns)
        self.core_reactor.step(self.now_ns)


@contextmanager
def crossed(seed: int = 1, *, leases: int = LEASES, **options: object) -> Iterator[Crossed]:
    first = Bench(**options)  # type: ignore[arg-type]
    second = Bench(reactor=first.reactor, **options)  # type: ignore[arg-type]
    rig = Crossed(first, second, seed, leases)
    yield rig
    rig.close()


def test_a_crossing_is_refused_in_front_of_another_and_on_one_reactor() -> None:
    core, front = _shim.Reactor("core"), _shim.Reactor("front")
    media = _shim.EmulatedMedia.conventional(core, 64)
    crossing = _shim.Crossing(front, core, media)
    with pytest.raises(ValueError, match="a crossing itself"):
        _shim.Crossing(core, front, crossing)
    with pytest.raises(ValueError, match="the same"):
        _shim.Crossing(core, core, media)
    with pytest.raises(ValueError, match="at most 256 leases"):
        _shim.Crossing(front, core, media, 257)
    assert (crossing.block_count, crossing.max_io_blocks) == (media.block_count, media.max_io_blocks)
    assert crossing.allocated_blocks() == media.allocated_blocks()


def test_nothing_stays_of_a_crossing_that_outlives_the_threads_of_its_reactors() -> None:
    before = open_descriptors()
    core, front = _shim.Reactor("core"), _shim.Reactor("front")
    gate = _shim.Gate(core, _shim.EmulatedMedia.conventional(core, 64))
    crossing = _shim.Crossing(front, core, gate)
    for each in (core, front):
        each.start()
    for each in (front, core):
        each.stop()
    gate.fail(PATH_ERROR)
    assert opened_since(before)
    del each, crossing, gate, core, front
    gc.collect()
    assert not opened_since(before)


@pytest.mark.parametrize("leases", [0, LEASES])
@pytest.mark.parametrize("seed", range(3))
def test_random_io_reads_back(seed: int, leases: int) -> None:
    with crossed(seed, leases=leases) as rig:
        rng = random.Random(seed)
        count = min(256, rig.gate.block_count)
        newest = [0] * count
        version = 0
        for _ in range(60):
            tickets, busy = [], set()
            for _ in range(rng.randrange(1, 24)):
                blocks = rng.choice([1, 1, 1, 2, 4, 16])
                lba = rng.randrange(count - blocks)
                if busy.intersection(range(lba, lba + blocks)):
                    continue
                busy.update(range(lba, lba + blocks))
                version += 1
                kind = rng.random()
                if kind < 0.1:
                    tickets.append(rig.port.submit(_shim.Op.DEALLOCATE, lba, blocks))
                elif kind < 0.15:
                    tickets.append(rig.port.submit(_shim.Op.FLUSH))
                    continue
                else:
                    tickets.append(rig.write(lba, version, blocks, fua=kind > 0.95))
                newest[lba : lba + blocks] = [0 if kind < 0.1 else version] * blocks
            assert set(rig.wait(*tickets)) <= {0}
            lba = rng.randrange(count - 8)
            assert rig.read(lba, 8) == newest[lba : lba + 8]
        for lba in range(0, count - 15, 16):
            assert rig.read(lba, 16) == newest[lba : lba + 16]
        stats = rig.crossing.stats()
        assert stats.ios > 100
        assert (stats.leased_blocks > 50) == (leases > 0)


def test_writes_of_one_queue_stay_in_order() -> None:
    with crossed(5) as rig:
        for round_ in range(30):
            tickets = [rig.write(7, 1 + round_ * 10 + number) for number in range(10)]
            assert rig.wait(*tickets) == [0] * 10
            assert rig.read(7) == [round_ * 10 + 10]


@pytest.mark.parametrize("seed", range(4))
def test_a_lost_core_takes_no_write_along_and_its_leases_come_back(seed: int) -> None:
    with crossed(seed) as rig:
        rig.wait(rig.write(0, 1))
        rig.settle()
        assert rig.crossing.stats().leases == LEASES
        tickets = [rig.write(lba, 2, 2) for lba in range(0, 60, 2)]
        for _ in range(rig.rng.randrange(40)):
            rig.step()
        rig.lose()
        more = [rig.write(lba, 3) for lba in range(100, 110)]
        for _ in range(rig.rng.randrange(200)):
            rig.step()
        rig.gate.set_device(rig.benches[1].core)
        assert rig.wait(*tickets, *more) == [0] * 40
        assert rig.read(100, 10) == [3] * 10
        # Those that the first core had answered are in its write buffer; a restore would bring them (not this gate).
        found = rig.read(0, 16)
        assert set(found) <= {0, 2}
        for _ in range(20):
            rig.wait(rig.write(0, 4))
            rig.settle(50)
        assert rig.gate.sweep(), "the lost core's memory is still in use"
        assert rig.crossing.stats().leases == LEASES


def test_leases_come_back_while_the_gate_holds() -> None:
    with crossed(2) as rig:
        rig.wait(rig.write(0, 1))
        rig.settle()
        assert rig.crossing.stats().leases == LEASES
        rig.gate.hold()
        rig.settle()
        assert rig.crossing.stats().leases == 0
        assert rig.gate.sweep()
        held = rig.write(3, 2)
        rig.settle()
        assert rig.gate.held == 1
        rig.gate.set_device(rig.benches[1].core)
        assert rig.wait(held) == [0]
        assert rig.read(3) == [2]


@pytest.mark.parametrize("seed", range(4))
def test_a_host_that_leaves_takes_its_held_writes_along(seed: int) -> None:
    with crossed(seed) as rig:
        rig.wait(rig.write(0, 1))
        rig.gate.hold()
        rig.settle(rig.rng.randrange(100))
        for lba in range(20):
            rig.write(lba, 2, 1 + lba % 3)
        rig.settle(rig.rng.randrange(5, 100))
        rig.host.close()
        for _ in range(2000):
            rig.step()
            if rig.target.drained:
                break
        assert rig.target.drained, "held I/O of a host that left was not taken back"
        assert rig.gate.held == 0
        rig.settle()
        assert rig.gate.sweep()


def test_cancels_that_cross_completions_harm_nobody() -> None:
    for seed in range(30):
        with crossed(seed) as rig:
            for lba in range(20):
                rig.write(lba, 2)
            rig.settle(rig.rng.randrange(30))
            rig.host.close()
            for _ in range(2000):
                rig.step()
                if rig.target.drained:
                    break
            assert rig.target.drained


def test_writes_that_wait_get_the_room_that_leases_had() -> None:
    # A write of all slots can only be accepted if no lease keeps one.
    with crossed(3, write_buffer_blocks=16) as rig:
        rig.wait(rig.write(0, 1))
        rig.settle()
        assert rig.crossing.stats().leases == LEASES
        direct = _shim.IoPort(rig.core_reactor, rig.gate, 64)
        for lba in range(40):
            direct.submit(_shim.Op.WRITE, 64 + lba, 1, content(64 + lba, 5))
        least = LEASES
        for _ in range(3000):
            rig.step()
            least = min(least, rig.crossing.stats().leases)
        assert least == 0
        assert rig.read(64, 16) == [5] * 16
        direct.close()


def test_leases_return_when_the_crossing_goes() -> None:
    core, front = _shim.Reactor("core"), _shim.Reactor("front")
    bench = Bench(reactor=core)
    gate = _shim.Gate(core, bench.core)
    crossing = _shim.Crossing(front, core, gate, LEASES)
    port = _shim.IoPort(front, crossing, 4)
    bench.manage()
    port.submit(_shim.Op.WRITE, 0, 1, content(0, 1))
    for now in range(1, 60):
        front.step(now)
        core.step(now)
    assert crossing.stats().leases == LEASES
    gate.hold()
    assert not gate.sweep()
    port.close()
    del crossing, port, front
    gc.collect()
    for now in range(60, 64):
        core.step(now)
    assert gate.sweep()


@pytest.mark.parametrize("leases", [0, 64])
def test_two_threads_verify_what_they_read(leases: int) -> None:
    core, front = _shim.Reactor("core"), _shim.Reactor("front")
    # All that is written fits into one band, so no band manager is needed once that band is open.
    bench = Bench(reactor=core, band_count=8, zone_size=1024, zone_capacity=1000, write_buffer_blocks=256)
    last = bench.block_count - 1
    assert bench.write(last, content(last, 1)) == 0
    bench.settle()
    gate = _shim.Gate(core, bench.core)
    crossing = _shim.Crossing(front, core, gate, leases)
    ours, theirs = socket.socketpair()
    target = _shim.TargetQpair(
        front, ours.fileno(), queue_size=64, header_digest=False, data_digest=False, namespaces={1: crossing}
    )
    host_reactor = _shim.Reactor("host")
    host = _shim.HostQpair(host_reactor, theirs.fileno(), **host_options(gate, queue_depth=63))
    load = _shim.LoadGenerator(host_reactor, host, lba_count=400, seed=3, max_io_blocks=8)
    for each in (core, front, host_reactor):
        each.start()
    try:
        load.start("mixed", io_blocks=1, total_blocks=1500, queue_depth=48, write_percent=50)
        until = time.monotonic() + 30
        while load.progress().running:
            assert time.monotonic() < until, "the load does not end"
            time.sleep(0.005)
        progress = load.progress()
        assert (progress.io_errors, progress.verify_errors, progress.done_blocks) == (0, 0, 1500)
        assert (crossing.stats().leased_blocks > 0) == (leases > 0)
    finally:
        load.close()
        host.close()
        target.close()
        for each in (core, front, host_reactor):
            each.stop()
        ours.close()
        theirs.close()
