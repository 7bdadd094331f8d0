"""Clients of an NBD export that stall, never read, or talk nonsense: NVMe/TCP hosts, the control socket, other clients
and a clean halt have their part."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from hostile.honest_host import World, honest_host
from support.nbd_client import BLOCK, FLUSH, READ, WRITE, NbdClient, request

CLIENTS: Final = 40
TIMEOUT_S: Final = 20.0
MIB: Final = 1 << 20


@pytest.fixture
def export(world: World, folder: Path) -> Path:
    path = folder / "ftl0.nbd"
    world.client.call("bdev_ftl_nbd_start", {"name": "ftl0", "socket_path": str(path)})
    return path


def half_a_write(client: NbdClient) -> None:
    client.socket.sendall(request(WRITE, 1, 0, MIB) + bytes(MIB // 2))


def reads_without_end(client: NbdClient) -> None:
    """Until nothing more is taken; nothing is read."""
    client.socket.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            client.socket.sendall(b"".join(request(READ, cookie, 0, MIB) for cookie in range(64)))


@asynccontextmanager
async def stalled(path: Path, how: Callable[[NbdClient], None]) -> AsyncIterator[None]:
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            client = await asyncio.to_thread(NbdClient.connect, path)
            stack.callback(client.close)
            await asyncio.to_thread(how, client)
        yield


@asynccontextmanager
async def nonsense(path: Path) -> AsyncIterator[None]:
    """Connections one after the other: some end in the handshake, some behind it."""
    over = threading.Event()
    rng = random.Random(1)

    def attack() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, EOFError):
                if rng.random() < 0.5:
                    with socket.socket(socket.AF_UNIX) as raw:
                        raw.settimeout(TIMEOUT_S)
                        raw.connect(str(path))
                        raw.sendall(rng.randbytes(rng.randrange(200)))
                else:
                    # The daemon may disconnect it in between.
                    with contextlib.closing(NbdClient.connect(path)) as client:
                        client.socket.sendall(request(rng.randrange(9), 1, rng.getrandbits(64), rng.getrandbits(32)))
                        client.socket.sendall(rng.randbytes(rng.randrange(500)))

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        yield
    finally:
        over.set()
        await asyncio.to_thread(thread.join)


async def still_serves(path: Path) -> None:
    def work() -> None:
        client = NbdClient.connect(path)
        client.ok(WRITE, 0, data=bytes(BLOCK))
        client.ok(FLUSH)
        client.close()

    await asyncio.to_thread(work)


@pytest.mark.parametrize("how", [half_a_write, reads_without_end])
async def test_clients_that_stall(world: World, export: Path, how: Callable[[NbdClient], None]) -> None:
    async with honest_host(world) as host:
        (await host.beside(stalled(export, how))).check()
    async with stalled(export, how):
        await still_serves(export)
    await still_serves(export)


async def test_clients_that_talk_nonsense(world: World, export: Path) -> None:
    async with honest_host(world) as host:
        (await host.beside(nonsense(export))).check()
    await still_serves(export)
