"""Peers that send without end: the event loop serves the others too."""

from __future__ import annotations

import socket
import threading

from hostile.honest_host import World, honest_host
from hostile.peers import Peer, threads
from spdk_ftl_py.nvme.wire import AdminOp, Sqe
from unit.nvme.nvme_loop import capsule

STRANGER = "nqn.2026-11.io.example:stranger"
FLOODS = 4


def _send_for_ever(peer: Peer, raw: bytes, ended: threading.Event) -> None:
    """Reads what comes, too: a peer that does not is stopped by its own socket."""

    def read() -> None:
        while peer.sock.recv(1 << 20):
            pass

    def reading() -> None:
        try:
            read()
        except OSError:
            pass

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        while not ended.is_set():
            peer.sock.sendall(raw)
    finally:
        with_shutdown(peer.sock)
        reader.join()


def with_shutdown(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


async def test_capsules_without_end_before_a_connect(world: World) -> None:
    """What is no Connect is refused, and the peer goes on: over and over, from several connections."""
    raw = capsule(Sqe(AdminOp.IDENTIFY)) * 512

    def flood(ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                with Peer(world.port) as peer:
                    _send_for_ever(peer.initialize(), raw, ended)
            except (OSError, EOFError):
                pass

    async with honest_host(world) as host:
        (await host.beside(threads(flood, FLOODS))).check()
    assert world.state() == "online"


async def test_admin_commands_without_end(world: World) -> None:
    raw = capsule(Sqe(AdminOp.KEEP_ALIVE)) * 512

    def flood(ended: threading.Event) -> None:
        with Peer(world.port) as peer:
            assert peer.initialize().connect(world.nqn, STRANGER).status == 0
            _send_for_ever(peer, raw, ended)

    async with honest_host(world) as host:
        (await host.beside(threads(flood, FLOODS))).check()
    assert world.state() == "online"


async def test_connections_without_end(world: World) -> None:
    def flood(ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                Peer(world.port, timeout_s=1.0).sock.close()
            except OSError:
                pass

    async with honest_host(world) as host:
        (await host.beside(threads(flood, FLOODS))).check()
    assert world.state() == "online"
