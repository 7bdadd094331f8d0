"""The chain that runs live: a host's queue, FtlCore behind it, and the base behind another queue."""

from __future__ import annotations

import random
import select
import socket
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.qpair_rig import host_options
from unit.shim.ftl.core_bench import BLOCK, Bench, content, version_of
from unit.shim.stepped import Stepped

PATH_ERROR = 0x370


class Link:
    """A HostQpair and a TargetQpair joined: `host` is the device, one socket away."""

    def __init__(self, reactor: _shim.Reactor, device: _shim.BlockDevice, **host: Any) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.target = _shim.TargetQpair(
                reactor, ours.fileno(), header_digest=False, data_digest=False, queue_size=32, namespaces={1: device}
            )
            self.host = _shim.HostQpair(reactor, theirs.fileno(), **host_options(device, **host))

    def close(self) -> None:
        self.host.close()
        self.target.close()


class HostPort(Stepped):
    """An IoPort on the far side of the export; the bench goes on while it waits."""

    def __init__(self, bench: Bench, device: _shim.BlockDevice) -> None:
        super().__init__(bench.reactor, device)
        self.bench = bench
        bench.ports.append(self)

    def step(self) -> int:
        return self.bench.step()


@pytest.mark.parametrize("write_buffer_blocks", [16, 96])
def test_writes_received_into_slots_and_others_all_read_back(write_buffer_blocks: int) -> None:
    rng = random.Random(write_buffer_blocks)
    links = []

    def through_a_queue(reactor: _shim.Reactor, media: _shim.EmulatedMedia) -> _shim.BlockDevice:
        links.append(Link(reactor, media))
        return links[0].host

    bench = Bench(wrap_base=through_a_queue, write_buffer_blocks=write_buffer_blocks)
    export = Link(bench.reactor, bench.core)
    links.append(export)
    port = HostPort(bench, export.host)
    model = [0] * bench.block_count
    most = min(bench.core.max_io_blocks, export.host.max_io_blocks)
    try:
        version = 0
        for _ in range(120):
            tickets = []
            for _ in range(rng.randrange(1, 24)):
                version += 1
                count = rng.choice([1, 1, 1, 2, most])
                lba = rng.randrange(bench.block_count - count + 1)
                data = b"".join(content(lba + i, version) for i in range(count))
                # A trim of the same LBAs in between: order within one queue is kept.
                if rng.random() < 0.1:
                    tickets.append(port.port.submit(_shim.Op.DEALLOCATE, lba, 1))
                tickets.append(port.port.submit(_shim.Op.WRITE, lba, count, data, fua=rng.random() < 0.05))
                model[lba : lba + count] = [version] * count
                # Only disjoint I/O may be outstanding on a real host: a queue does not promise order.
                if rng.random() < 0.7:
                    assert {port.wait(ticket).status for ticket in tickets} == {0}
                    tickets = []
            assert {port.wait(ticket).status for ticket in tickets} <= {0}
        assert port.flush() == 0
        found = []
        for lba in range(bench.block_count):
            found.append(version_of(lba, port.read(lba)))
        assert found == model
        assert bench.core.stats().zone_resets > 0
        bench.settle()
        bench.audit()
        stats = bench.core.stats()
        assert (stats.write_buffer_used, stats.write_buffer_reserved) == (0, 0), "no slot leaked"
    finally:
        port.port.close()
        export.close()
        bench.close()
        for link in links:
            link.close()


def wait_in_line(bench: Bench) -> None:
    bench.limit = lambda share: None  # type: ignore[method-assign]
    bench.core.set_pace(0)


@pytest.mark.parametrize("gated", [False, True])
def test_what_waits_of_a_host_that_goes_away_is_not_done_later(gated: bool) -> None:
    """The host repeats it on its next connection, and overwrites it there."""
    bench = Bench(write_buffer_blocks=64)
    bench.put(0, 1, 32)
    gate = _shim.Gate(bench.reactor, bench.core) if gated else None
    export = Link(bench.reactor, gate or bench.core)
    port = HostPort(bench, export.host)
    wait_in_line(bench)
    old = {
        port.port.submit(_shim.Op.WRITE, 0, 1, content(0, 2)),
        port.port.submit(_shim.Op.WRITE, 1, 8, b"".join(content(1 + i, 2) for i in range(8))),
        port.port.submit(_shim.Op.DEALLOCATE, 10, 1),
        port.port.submit(_shim.Op.WRITE_ZEROES, 11, 1),
    }
    bench.settle()
    waited = not old & set(port.completed)
    export.host.close()
    for _ in range(20):
        bench.step()
    drained = export.target.drained
    reserved = bench.core.stats().write_buffer_reserved
    bench.core.set_pace(100)
    bench.settle()
    bench.ports.remove(port)
    port.port.close()
    export.close()
    try:
        assert waited
        assert drained, "it waits on"
        assert reserved == 0
        assert bench.versions(0, 32) == [1] * 32
        bench.put(0, 3)
        assert bench.versions(0, 1) == [3]
        bench.audit()
    finally:
        if gate is not None:
            gate.fail(PATH_ERROR)
        bench.close()


def test_a_compare_and_write_that_waits_is_not_done_later_either() -> None:
    bench = Bench()
    bench.put(0, 1, 32)
    ours, theirs = socket.socketpair()
    with ours:
        target = _shim.TargetQpair(
            bench.reactor, ours.fileno(), header_digest=False, data_digest=False, queue_size=64,
            namespaces={1: bench.core},
        )  # fmt: skip
    wait_in_line(bench)
    # More than the core can compare at once, and a write and a block declared uncorrectable behind each other.
    pairs = range(20)
    raw = [pdus.write(60, 20, content(20, 2)), pdus.command(pdus.sqe(0x04, 61, slba=21))]
    for lba in pairs:
        for place, (opcode, version) in enumerate([(pdus.COMPARE, 1), (pdus.WRITE, 2)]):
            entry = pdus.sqe(
                opcode, 2 * lba + place, slba=lba, sgl_type=pdus.SGL_IN_CAPSULE, sgl_length=BLOCK, flags=0x41 + place
            )
            raw.append(pdus.command(entry, content(lba, version)))
    with theirs:
        theirs.sendall(b"".join(raw))
        bench.settle()
        answered = select.select([theirs], [], [], 0)[0]
    for _ in range(40):
        bench.step()
    drained = target.drained
    bench.core.set_pace(100)
    bench.settle()
    target.close()
    try:
        assert not answered
        assert drained, "they wait on"
        assert bench.versions(0, 32) == [1] * 32
    finally:
        bench.close()


def test_reservations_of_a_host_that_goes_away_are_given_back() -> None:
    bench = Bench(write_buffer_blocks=64)
    export = Link(bench.reactor, bench.core, in_capsule_bytes=0)
    port = HostPort(bench, export.host)
    try:
        data = bytes(BLOCK * 8)
        tickets = [port.port.submit(_shim.Op.WRITE, 8 * i, 8, data) for i in range(4)]
        bench.step()
        bench.step()
        export.host.close()
        for ticket in tickets:
            port.wait(ticket)
        export.target.close()
        bench.settle()
        bench.wait(bench.port.submit(_shim.Op.FLUSH))
        stats = bench.core.stats()
        assert (stats.write_buffer_used, stats.write_buffer_reserved) == (0, 0)
    finally:
        port.port.close()
        export.close()
        bench.close()
