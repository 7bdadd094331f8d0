"""How the sockets of connections within this machine differ from others."""

from __future__ import annotations

import asyncio
import socket

import pytest

from spdk_ftl_py.runtime.sockets import accept, keep_off_pacing, listening_socket


def congestion_control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_connections_on_loopback_are_not_paced(address: str) -> None:
    with await listening_socket(address, 0, 1) as listener:
        client = socket.socket(listener.family)
        with client:
            client.setblocking(False)
            keep_off_pacing(client, address)
            await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
            ours, _ = await accept(listener)
            with ours:
                assert congestion_control(ours) == congestion_control(client) == b"reno"


@pytest.mark.parametrize("address", ["192.0.2.1", "0.0.0.0", "2001:db8::1", "fe80::1%lo"])
def test_other_connections_keep_what_the_system_has(address: str) -> None:
    with socket.socket() as sock:
        before = congestion_control(sock)
        keep_off_pacing(sock, address)
        assert congestion_control(sock) == before
