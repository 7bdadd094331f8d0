"""TargetQpair over FtlCore: write data are received straight into the write buffer, and its slots always come back."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.pdus import Digests
from support.qpair_rig import host_options
from unit.shim.ftl.core_bench import BLOCK, Bench, content

BOTH = Digests(True, True)
LARGE_WRITE_BLOCKS = 8
"""Several of them fit into the bench's write buffer at once."""


@contextmanager
def exported(digests: Digests) -> Iterator[Bench]:
    """A bench whose port goes through a pair of qpairs instead of straight to the core."""
    with Bench() as bench:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            target = _shim.TargetQpair(
                bench.reactor,
                ours.fileno(),
                queue_size=64,
                header_digest=digests.header,
                data_digest=digests.data,
                namespaces={1: bench.core},
                max_io_bytes=bench.core.max_io_blocks * BLOCK,
            )
            host = _shim.HostQpair(
                bench.reactor,
                theirs.fileno(),
                **host_options(
                    bench.core,
                    digests,
                    queue_depth=63,
                    max_h2c_data=8192,
                    max_io_bytes=131072,
                ),
            )
        direct, bench.port = bench.port, _shim.IoPort(bench.reactor, host, 64)
        try:
            yield bench
        finally:
            bench.port.close()
            host.close()
            target.close()
            bench.port = direct


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH], ids=["plain", "digests"])
def test_overwrites_many_times_over_match_a_model(digests: Digests) -> None:
    rng = random.Random(21)
    with exported(digests) as bench:
        model = [0] * bench.block_count
        written = version = 0
        while written < 4 * bench.block_count:
            count = rng.choice([1, 1, 2, LARGE_WRITE_BLOCKS])
            lba = rng.randrange(bench.block_count - count + 1)
            version += 1
            bench.put(lba, version, count, fua=rng.random() < 0.1)
            model[lba : lba + count] = [version] * count
            written += count
        assert bench.versions() == model


def test_many_outstanding_writes_share_the_buffer() -> None:
    """64 writes of 1 to max blocks at a time, many times what the write buffer holds."""
    rng = random.Random(22)
    with exported(pdus.NO_DIGESTS) as bench:
        most = LARGE_WRITE_BLOCKS
        for version in range(1, 6):
            tickets = []
            lba = 0
            while lba < bench.block_count and len(tickets) < 64:
                count = min(rng.randrange(1, most + 1), bench.block_count - lba)
                data = b"".join(content(lba + i, version) for i in range(count))
                tickets.append(bench.port.submit(_shim.Op.WRITE, lba, count, data))
                lba += count
            assert {bench.wait(ticket).status for ticket in tickets} == {0}
            assert bench.versions(0, lba) == [version] * lba


@contextmanager
def raw_host(bench: Bench) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        target = _shim.TargetQpair(
            bench.reactor, ours.fileno(), queue_size=64, header_digest=True, data_digest=True,
            namespaces={1: bench.core},
        )  # fmt: skip
        ours.close()
        theirs.setblocking(False)
        yield theirs
        theirs.close()
        bench.settle()
        target.close()


@pytest.mark.parametrize("end", ["hang up", "break the protocol", "in a capsule"])
def test_slots_of_writes_that_never_come_are_given_back(end: str) -> None:
    with Bench() as bench:
        bench.put(0, 1)
        used = bench.core.stats().write_buffer_used
        blocks = LARGE_WRITE_BLOCKS
        for _ in range(20):
            with raw_host(bench) as peer:
                if end == "in a capsule":
                    peer.send(pdus.write(1, 0, content(0, 9), digests=BOTH)[:1000])
                for cid in range(16):
                    entry = pdus.sqe(pdus.WRITE, cid, cdw12=blocks - 1, sgl_length=blocks * BLOCK)
                    if end != "in a capsule":
                        peer.send(pdus.command(entry, digests=BOTH))
                bench.settle()
                if end == "break the protocol":
                    peer.send(b"\xff" * 8)
                    bench.settle()
        stats = bench.core.stats()
        assert (stats.write_buffer_used, stats.write_buffer_reserved) == (used, 0)
        for version in range(2, 5):
            for lba in range(0, bench.block_count - blocks, blocks):
                bench.put(lba, version, blocks)
        assert bench.versions(0, blocks) == [4] * blocks


def test_a_wrong_data_digest_leaves_the_block_as_it_was() -> None:
    with Bench() as bench:
        bench.put(0, 1)
        with raw_host(bench) as peer:
            for _ in range(100):
                raw = pdus.write(1, 0, content(0, 9), digests=BOTH)
                peer.send(pdus.spoil(raw, len(raw) - 1, raw[-1] ^ 1))
                bench.settle()
                [answer], _rest = pdus.split(peer.recv(1 << 16), BOTH)
                assert answer.status == 0x022
        assert bench.versions(0, 2) == [1, 0]
