"""What may come by the control socket: a plain error, and the next one is served."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import pytest

from hostile.honest_host import ANSWER_S, World

CONNECTIONS = 65


def _ask(world: World, body: bytes) -> tuple[int, dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(world.daemon.socket)
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return _reply(sock)


def _reply(sock: socket.socket) -> tuple[int, dict[str, object]]:
    raw = b""
    while chunk := sock.recv(1 << 16):
        raw += chunk
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body, parse_constant=_no_constant)


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} in an answer")


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc": "2.0", "id": NaN, "method": "ftl_get_devices"}',
        b'{"jsonrpc": "2.0", "id": 1e999, "method": "ftl_get_devices"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "bdev_ftl_create", "params": {"name": "\\ud800", "base_bdev": "a", '
        b'"target": "/t"}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "ftl_get_devices", "params": ' + b'{"a":' * 400 + b"1" + b"}" * 401,
    ],
    ids=["NaN", "infinity", "surrogate", "depth"],
)
def test_what_is_no_json_is_told_so(world: World, body: bytes) -> None:
    status, reply = _ask(world, body)
    error = reply["error"]
    assert isinstance(error, dict)
    assert (status, error["code"]) == (400, -32700)
    assert len(error["message"]) < 250
    assert "Traceback" not in world.daemon.log_tail()
    assert world.state() == "online"


def test_one_connection_too_many_is_told_so(world: World) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS - 1):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(world.daemon.socket)
        status, reply = _ask(world, b'{"jsonrpc": "2.0", "id": 1, "method": "ftl_get_devices"}')
        assert (status, "accepts no more" in str(reply["error"])) == (503, True)
    begin = time.monotonic()
    assert world.state() == "online"
    assert time.monotonic() - begin < ANSWER_S
