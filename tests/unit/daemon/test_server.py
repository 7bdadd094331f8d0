"""The daemon's control socket against malformed, oversized, half-sent and impolite HTTP and JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.access.peers import Peer
from spdk_ftl_py.daemon import server as server_module
from spdk_ftl_py.daemon.http_listener import Reply
from spdk_ftl_py.daemon.server import BODY_BYTES_MAX, CONNECTIONS_MAX, RpcServer
from spdk_ftl_py.errors import BusyError, FtlError, NotFoundError
from support.async_tests import rig_options

REPLY_TIMEOUT_S = 20.0


async def get_daemon(params: dict[str, Any]) -> Any:
    return {"params": params}


async def delete(params: dict[str, Any]) -> Any:
    raise NotFoundError(f"FTL bdev {params['name']}: no such FTL")


async def broken(_params: dict[str, Any]) -> Any:
    raise ZeroDivisionError("secret")


METHODS = {"ftl_get_daemon": get_daemon, "bdev_ftl_delete": delete, "bdev_ftl_get_stats": broken}


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[RpcServer]:
    server = RpcServer(folder / "s", METHODS, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()
    assert not (folder / "s").exists()


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[RpcServer]:
    return serving(tmp_path, **rig_options(request))


async def exchange(server: RpcServer, data: bytes, *, half_close: bool = False) -> bytes:
    """Everything the server says until it closes the connection."""
    reader, writer = await asyncio.open_unix_connection(str(server.socket_path))
    try:
        writer.write(data)
        if half_close:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), REPLY_TIMEOUT_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: x", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status_and_reply(raw: bytes) -> tuple[int, Any]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def call(server: RpcServer, request: Any) -> tuple[int, Any]:
    return status_and_reply(await exchange(server, post(json.dumps(request).encode())))


async def assert_alive(server: RpcServer) -> None:
    status, reply = await call(server, {"jsonrpc": "2.0", "id": 7, "method": "ftl_get_daemon"})
    assert (status, reply["id"], reply["result"]) == (200, 7, {"params": {}})


async def test_a_good_call_is_answered_and_the_connection_closed(server: RpcServer) -> None:
    await assert_alive(server)


async def test_a_refusal_has_the_errors_code_and_message(server: RpcServer) -> None:
    _, reply = await call(server, {"id": "a", "method": "bdev_ftl_delete", "params": {"name": "ftl0"}})
    assert reply == {
        "jsonrpc": "2.0",
        "id": "a",
        "error": {"code": -19, "message": "FTL bdev ftl0: no such FTL"},
    }


async def test_the_log_says_who_asked_for_what_failed(server: RpcServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await call(server, {"jsonrpc": "2.0", "id": 1, "method": "bdev_ftl_delete", "params": {"name": "busy"}})
    assert re.search(rf"asked for by pid {os.getpid()} \(.+\), uid {os.geteuid()}, failed: ", caplog.text)


async def test_params_are_validated_by_the_schema(server: RpcServer) -> None:
    for params in ({}, [], {"name": "a", "b": 1}, {"name": 1}, 5):
        _, reply = await call(server, {"id": 1, "method": "bdev_ftl_delete", "params": params})
        assert reply["error"]["code"] == -32602
        assert reply["error"]["message"].startswith("bdev_ftl_delete: ")


async def test_our_own_mistake_is_logged_and_does_not_leak(server: RpcServer, caplog: pytest.LogCaptureFixture) -> None:
    _, reply = await call(server, {"id": 1, "method": "bdev_ftl_get_stats", "params": {"name": "a"}})
    assert reply["error"]["code"] == -32603
    assert "secret" not in reply["error"]["message"]
    await assert_alive(server)
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ([], -32600),
        ([{"id": 1, "method": "ftl_get_daemon"}], -32600),
        (None, -32600),
        ("x", -32600),
        ({}, -32600),
        ({"id": 1}, -32600),
        ({"id": {}, "method": "ftl_get_daemon"}, -32600),
        ({"id": True, "method": "ftl_get_daemon"}, -32600),
        ({"id": 1, "method": 5}, -32600),
        ({"id": 1, "method": "ftl_get_daemon", "jsonrpc": "1.0"}, -32600),
        ({"id": 1, "method": "ftl_get_daemon", "more": 1}, -32600),
        ({"id": 1, "method": "nope"}, -32601),
        ({"id": 1, "method": "__class__"}, -32601),
    ],
)
async def test_a_malformed_call_gets_a_jsonrpc_error(request_: Any, code: int, server: RpcServer) -> None:
    status, reply = await call(server, request_)
    assert (status, reply["error"]["code"]) == (200, code)
    await assert_alive(server)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"id": ' + b"9" * 10_000 + b"}",
        b'{"a":1}{"b":2}',
        b"\x00" * 64,
    ],
)
async def test_a_body_that_is_not_json_gets_a_parse_error(body: bytes, server: RpcServer) -> None:
    status, reply = status_and_reply(await exchange(server, post(body)))
    assert (status, reply["error"]["code"]) == (400, -32700)
    await assert_alive(server)


@pytest.mark.rig(request_timeout_s=1.0)
@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HELLO\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\n: x\r\n\r\n",
    ],
)
async def test_malformed_http_is_refused(raw: bytes, server: RpcServer) -> None:
    answer = await exchange(server, raw)
    assert answer == b"" or answer.split()[1] in (b"400", b"413", b"414", b"431", b"505")
    await assert_alive(server)


async def test_other_methods_and_paths_are_refused(server: RpcServer) -> None:
    assert status_and_reply(await exchange(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 405
    assert status_and_reply(await exchange(server, b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 404
    await assert_alive(server)


async def test_a_body_that_says_it_is_too_large_is_refused_unread(server: RpcServer) -> None:
    raw = await exchange(server, post(b"", length=BODY_BYTES_MAX + 1), half_close=False)
    assert raw.split()[1] == b"413"
    await assert_alive(server)


async def test_an_endless_chunked_body_is_cut_off(server: RpcServer) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.socket_path))
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = 0
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    try:
        while sent < 4 * BODY_BYTES_MAX:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
        answer = await asyncio.wait_for(reader.readline(), REPLY_TIMEOUT_S)
        assert answer == b"" or b" 413 " in answer
    except (ConnectionResetError, BrokenPipeError):
        pass
    finally:
        writer.transport.abort()
    await assert_alive(server)


@pytest.mark.rig(request_timeout_s=0.2)
@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"P",
        b"POST / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        post(b'{"id"', length=100),
    ],
)
async def test_a_half_sent_request_is_cut_off_at_the_deadline(part: bytes, server: RpcServer) -> None:
    assert not (await exchange(server, part)).startswith(b"HTTP/1.1 200")
    await assert_alive(server)


async def test_hanging_up_after_half_a_request_is_harmless(server: RpcServer) -> None:
    for part in (b"", b"POST", post(b'{"id"', length=100)):
        _, writer = await asyncio.open_unix_connection(str(server.socket_path))
        writer.write(part)
        await writer.drain()
        writer.transport.abort()
        assert not (await exchange(server, part, half_close=True)).startswith(b"HTTP/1.1 200")
    await assert_alive(server)


@pytest.mark.rig(request_timeout_s=0.5)
async def test_idle_connections_are_bounded_and_make_room_again(server: RpcServer) -> None:
    idle = [await asyncio.open_unix_connection(str(server.socket_path)) for _ in range(CONNECTIONS_MAX)]
    refused = await exchange(server, post(b"{}"))
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"accepts no more: try again" in refused
    # The server closes them at their deadline.
    for reader, writer in idle:
        assert await asyncio.wait_for(reader.read(), REPLY_TIMEOUT_S) == b""
        writer.transport.abort()
    await assert_alive(server)


@pytest.mark.rig(request_timeout_s=0.2)
async def test_a_slow_method_is_not_cut_off_by_the_deadline_of_its_request(
    monkeypatch: pytest.MonkeyPatch, server: RpcServer
) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def slow(_params: dict[str, Any]) -> Any:
        entered.set()
        await gate.wait()
        return "done"

    server._methods["ftl_get_daemon"] = slow
    pending = asyncio.create_task(call(server, {"id": 1, "method": "ftl_get_daemon"}))
    await entered.wait()
    # Another connection is cut off later than this one's deadline would have been.
    assert await exchange(server, b"POST") in (b"",)
    gate.set()
    assert (await pending)[1]["result"] == "done"


async def test_the_socket_is_the_owners_alone_from_the_first_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real_bind = socket.socket.bind

    class Spy(socket.socket):
        def bind(self, address: Any) -> None:
            real_bind(self, address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(server_module.socket, "socket", Spy)
    old = os.umask(0)
    try:
        async with serving(tmp_path) as server:
            await assert_alive(server)
    finally:
        assert os.umask(old) == 0
    assert modes == [0o600]


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "s"))
    async with serving(tmp_path) as server:
        await assert_alive(server)


async def test_a_live_daemon_is_not_disturbed_by_a_second_one(server: RpcServer) -> None:
    with pytest.raises(BusyError, match="somebody is listening there already"):
        await RpcServer(server.socket_path, METHODS).start()
    await assert_alive(server)


async def test_a_foreign_listener_is_not_disturbed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(tmp_path / "s"))
        foreign.listen()
        with pytest.raises(BusyError, match="listening there already"):
            await RpcServer(tmp_path / "s", METHODS).start()
        assert (tmp_path / "s").exists()


async def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(FtlError, match="not a socket"):
        await RpcServer(tmp_path / "s", METHODS).start()
    assert (tmp_path / "s").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


async def test_a_path_that_is_too_long_or_absent_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "where", tmp_path / ("x" * 200)):
        with pytest.raises(FtlError, match=f"control socket {path}: .*--socket"):
            await RpcServer(path, METHODS).start()
    assert list(tmp_path.iterdir()) == []


async def test_somebody_else_is_refused_and_logged_once(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = server_module.peer_of
    monkeypatch.setattr(server_module, "peer_of", lambda _socket: Peer(os.getpid(), 4_000_000, 7))
    for _ in range(3):
        status, reply = await call(server, {"id": 1, "method": "ftl_get_daemon"})
        assert (status, reply["error"]["code"]) == (403, -13)
        assert "takes no orders from user 4000000" in reply["error"]["message"]
    refused = [line for line in caplog.messages if "may not call it" in line]
    assert len(refused) == 1
    assert re.search(rf"refused: pid {os.getpid()} \(.+\), uid 4000000 may not call it", refused[0])
    monkeypatch.setattr(server_module, "peer_of", real)
    await assert_alive(server)


async def test_a_caller_who_has_gone_is_served_nothing(server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_of", lambda _socket: None)
    status, reply = await call(server, {"id": 1, "method": "ftl_get_daemon"})
    assert (status, "result" in reply) == (403, False)


async def test_members_of_the_group_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_of", lambda _socket: Peer(1, 4_000_000, 1))
    groups = frozenset({7})
    monkeypatch.setattr(server_module, "groups_of", lambda _socket, _peer: groups)
    async with serving(tmp_path, group=os.getegid()) as server:
        assert (await call(server, {"id": 1, "method": "ftl_get_daemon"}))[0] == 403
        groups = frozenset({7, os.getegid()})
        assert (await call(server, {"id": 1, "method": "ftl_get_daemon"}))[0] == 200


async def test_pages_are_answered_beside_the_rpcs(tmp_path: Path) -> None:
    async def page(query: Any) -> Reply:
        return Reply(f"page {dict(query)}\n".encode())

    async with serving(tmp_path, pages={"/metrics": page}) as server:
        reply = await exchange(server, b"GET /metrics?a=1 HTTP/1.1\r\nHost: whatever\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 200")
        assert reply.endswith(b"\r\n\r\npage {'a': '1'}\n")
        status, answer = status_and_reply(await exchange(server, post(b"{}").replace(b"POST /", b"POST /metrics")))
        assert (status, "or GET /metrics" in answer["error"]["message"]) == (404, True)
        await assert_alive(server)
