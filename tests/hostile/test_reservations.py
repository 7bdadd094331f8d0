"""A host that has its writes granted and sends nothing: what it holds comes back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from hostile.honest_host import World, honest_host
from hostile.peers import Peer
from support.pdus import WRITE, command, sqe

STRANGER = "nqn.2026-11.io.example:stranger"
QUEUES = 16
QUEUE_SIZE = 128
BLOCKS = 8
SILENCE_S = 15.0
SLACK_S = 5.0


@asynccontextmanager
async def granted(world: World, queues: list[Peer]) -> AsyncIterator[None]:
    with ExitStack() as stack:
        admin = stack.enter_context(Peer(world.port))
        queues += admin.io_queues(world.nqn, STRANGER, QUEUES, QUEUE_SIZE)
        for queue in queues:
            stack.enter_context(queue)
            writes = [sqe(WRITE, cid, slba=5000, cdw12=BLOCKS - 1, sgl_length=BLOCKS * 4096) for cid in range(127)]
            queue.sock.sendall(b"".join(command(write) for write in writes))
        yield
        begin = time.monotonic()
        for queue in queues:
            queue.sock.settimeout(SILENCE_S + SLACK_S)
            while queue.sock.recv(1 << 16):
                pass
        assert time.monotonic() - begin < SILENCE_S + SLACK_S


async def test_writes_that_were_granted_and_never_come(world: World) -> None:
    async with honest_host(world) as host:
        (await host.beside(granted(world, []))).check()
    assert world.state() == "online"
