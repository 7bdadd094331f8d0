"""The chain that runs live: a host's queue, FtlCore behind it, and the base behind another queue."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support.qpair_rig import host_options
from unit.shim.ftl.core_bench import BLOCK, Bench, content, version_of
from unit.shim.stepped import Stepped


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
