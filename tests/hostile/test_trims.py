"""A host that trims without end: reads, writes and trims of others go on."""

from __future__ import annotations

import struct
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from hostile.honest_host import HonestHost, World, honest_host
from hostile.peers import Peer, threads
from support.pdus import DSM, RESP, SGL_IN_CAPSULE, command, split, sqe

STRANGER = "nqn.2026-11.io.example:stranger"
QUEUES = 16
QUEUE_SIZE = 128
RANGES = 256
DEALLOCATE = 4
PAUSE_S = 0.1
COMMAND_SIZE_LIMIT = 0x183


def _trim(cid: int, ranges: list[tuple[int, int]]) -> bytes:
    data = b"".join(struct.pack("<IIQ", 0, count, lba) for lba, count in ranges)
    # CDW10 has the number of ranges, CDW11 that they are to be deallocated.
    slba = (len(ranges) - 1) | DEALLOCATE << 32
    return command(sqe(DSM, cid, slba=slba, sgl_type=SGL_IN_CAPSULE, sgl_length=len(data)), data)


def _ranges(kind: str, first: int, count: int) -> list[tuple[int, int]]:
    """Of the blocks that are not the honest host's."""
    if kind == "one":
        return [(first, count)]
    if kind == "all of it over and over":
        return [(first, count)] * RANGES
    part = count // RANGES
    return [(first + i * part, part) for i in range(RANGES)]


def _trim_for_ever(queue: Peer, ranges: list[tuple[int, int]], ended: threading.Event, refused: list[int]) -> None:
    outstanding = [_trim(cid, ranges) for cid in range(QUEUE_SIZE - 1)]
    queue.sock.sendall(b"".join(outstanding))
    stream = b""
    # A pause, since what is measured is not how busy this process can be.
    while not ended.wait(PAUSE_S):
        received = queue.sock.recv(1 << 16)
        if not received:
            return
        pdus, stream = split(stream + received)
        again = [pdu.cid for pdu in pdus if pdu.type == RESP]
        refused.extend(pdu.status for pdu in pdus if pdu.status)
        queue.sock.sendall(b"".join(outstanding[cid] for cid in again))


@asynccontextmanager
async def trims(world: World, host: HonestHost, kind: str, refused: list[int]) -> AsyncIterator[None]:
    ranges = _ranges(kind, host.block_count // 2, host.block_count // 2)
    with ExitStack() as stack:
        admin = stack.enter_context(Peer(world.port))
        queues = admin.io_queues(world.nqn, STRANGER, QUEUES, QUEUE_SIZE)
        for queue in queues:
            stack.enter_context(queue)
        turns = iter(queues)
        async with threads(lambda ended: _trim_for_ever(next(turns), ranges, ended, refused), QUEUES):
            yield


@pytest.mark.parametrize("kind", ["one", "many", "all of it over and over"])
async def test_trims_without_end(world: World, kind: str) -> None:
    refused: list[int] = []
    async with honest_host(world) as host:
        (await host.beside(trims(world, host, kind, refused))).check()
    assert set(refused) == ({COMMAND_SIZE_LIMIT} if kind == "all of it over and over" else set())
