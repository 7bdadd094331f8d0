"""SPDK's JSON-RPC framing: how values are cut from a stream, what is answered, what closes a connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.errors import ExistsError, FtlError
from spdk_ftl_py.target.json_scanner import JSON_BYTES_MAX, JSON_DEPTH_MAX, JSON_VALUES_MAX, JsonError, JsonScanner
from spdk_ftl_py.target.jsonrpc import CONNECTIONS_MAX, OUTSTANDING_REQUESTS_MAX, JsonRpcServer, RpcError

INVALID_REQUEST = {"code": -32600, "message": "Invalid request"}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
documents = st.lists(json_values, max_size=4) | st.dictionaries(st.text(), json_values, max_size=4)


def scan(data: bytes, cuts: list[int] | None = None) -> list[Any]:
    scanner, found, start = JsonScanner(), [], 0
    for end in sorted({min(cut, len(data)) for cut in cuts or []} | {len(data)}):
        scanner.feed(data[start:end])
        start = end
        while (value := scanner.next()) is not None:
            found.append(value)
    return found


@given(st.lists(documents, max_size=4), st.sampled_from(["", " ", "\n", "\r\n\t "]), st.lists(st.integers(0, 400)))
def test_values_are_cut_apart_wherever_the_stream_is(values: list[Any], between: str, cuts: list[int]) -> None:
    assert scan(between.join(json.dumps(value) for value in values).encode(), cuts) == values


@given(st.binary(max_size=64))
def test_no_bytes_at_all_upset_the_scanner(data: bytes) -> None:
    """Any outcome but values, waiting for more or JsonError is a bug."""
    with contextlib.suppress(JsonError):
        for value in scan(data, list(range(len(data)))):
            json.dumps(value)


@given(documents, st.data())
def test_what_the_scanner_accepts_is_what_python_accepts(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value).encode())
    if text:
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from(list(b'{}[],:"\\0a-. \x00\xff')))
    try:
        found = scan(bytes(text))
    except JsonError:
        found = []
    if found and len(found) == 1:
        assert json.loads(json.dumps(found[0])) == found[0]


@pytest.mark.parametrize(
    "text",
    [
        "x", "{,", "{1", '{"a" 1', '{"a":}', "[1,]", "[,", "]", "}", "[}", '{"a":1,}', "[01 ", "[1.e3 ", "[.5", "[+1",
        "[NaN", "[Infinity", "[tru]", '["\n"]', '["\\x"]', '["\\ud800"]', "[1 2", '{"a":1 "b"', ",", ":", '{"a"::1',
        "[--1 ",
    ],
)  # fmt: skip
def test_what_is_not_json_is_an_error(text: str) -> None:
    with pytest.raises(JsonError):
        scan(text.encode())


@pytest.mark.parametrize("data", [b'["\xff"]', b'["\xc0\xaf"]', b'["\xed\xa0\x80"]'])
def test_strings_must_be_utf_8(data: bytes) -> None:
    with pytest.raises(JsonError):
        scan(data)


def test_the_limits_are_spdks() -> None:
    assert len(scan(b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX)) == 1
    with pytest.raises(JsonError, match="deep"):
        scan(b"[" * (JSON_DEPTH_MAX + 1))
    most = JSON_VALUES_MAX - 2
    assert len(scan(b"[" + b",".join([b"0"] * most) + b"]")) == 1
    with pytest.raises(JsonError, match="values"):
        scan(b"[" + b",".join([b"0"] * (most + 1)) + b"]")
    longest = JSON_BYTES_MAX - 5
    assert scan(b'["' + b"x" * longest + b'"]') == [["x" * longest]]
    with pytest.raises(JsonError, match="longer"):
        scan(b'["' + b"x" * JSON_BYTES_MAX)


def test_blanks_between_values_are_free() -> None:
    scanner = JsonScanner()
    for _ in range(3):
        scanner.feed(b" " * (JSON_BYTES_MAX - 2))
        assert scanner.next() is None
    scanner.feed(b"[]")
    assert scanner.next() == []


# --- the server ------------------------------------------------------------------------------------------------------


class Echo:
    """A dispatcher whose methods do what a test needs."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.changed = asyncio.Condition()
        self.running = 0
        self.most_running = 0

    async def until_running(self, count: int) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.running >= count), 30)

    async def __call__(self, method: str, params: Any) -> Any:
        if method == "echo":
            return params
        if method == "wait":
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            async with self.changed:
                self.changed.notify_all()
            await self.gate.wait()
            self.running -= 1
            return "waited"
        if method == "refuse":
            raise RpcError(-17, "File exists")
        if method == "bug":
            raise RuntimeError("a bug")
        raise RpcError(-32601, "Method not found")


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, text: str | bytes) -> Any:
        self.writer.write(text if isinstance(text, bytes) else text.encode())
        return await self.answer()

    async def answer(self) -> Any:
        """None when the server closed the connection."""
        line = await asyncio.wait_for(self.reader.readline(), 30)
        return json.loads(line) if line else None


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[JsonRpcServer, Echo]]:
    with tempfile.TemporaryDirectory() as folder:
        echo = Echo()
        server = JsonRpcServer(f"{folder}/s", echo)
        await server.start()
        try:
            yield server, echo
        finally:
            await server.close()


@contextlib.asynccontextmanager
async def connected(server: JsonRpcServer) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(server.path)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_text", "reply"),
    [
        ('{"method":"echo","params":{"a":1},"id":1}', {"id": 1, "result": {"a": 1}}),
        ('{"jsonrpc":"2.0","method":"echo","params":[1],"id":"x"}', {"id": "x", "result": [1]}),
        ('{"method":"echo","id":null}', {"id": None, "result": None}),
        ('{"method":"refuse","id":2}', {"id": 2, "error": {"code": -17, "message": "File exists"}}),
        ('{"method":"refuse"}', {"id": None, "error": {"code": -17, "message": "File exists"}}),
        ('{"method":"none","id":2}', {"id": 2, "error": {"code": -32601, "message": "Method not found"}}),
        ('{"jsonrpc":"1.0","method":"echo","id":1}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":"echo","id":true}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":"echo","id":[1]}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":"echo","id":1e999}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":1,"id":1}', {"id": None, "error": INVALID_REQUEST}),
        ('{"id":1}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":"echo","id":1,"more":1}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":"echo","method":"echo","id":1}', {"id": None, "error": INVALID_REQUEST}),
        ('{"method":"echo","params":3,"id":1}', {"id": None, "error": INVALID_REQUEST}),
        ("[]", {"id": None, "error": INVALID_REQUEST}),
        ('"text"', {"id": None, "error": INVALID_REQUEST}),
        ("null", {"id": None, "error": INVALID_REQUEST}),
        ("12 ", {"id": None, "error": INVALID_REQUEST}),
    ],
)
async def test_each_request_gets_the_reply_that_spdk_gives(request_text: str, reply: dict[str, Any]) -> None:
    async with served() as (server, _), connected(server) as peer:
        assert await peer.ask(request_text) == {"jsonrpc": "2.0", **reply}
        assert (await peer.ask('{"method":"echo","params":[2],"id":3}'))["result"] == [2]


async def test_a_notification_gets_no_reply() -> None:
    async with served() as (server, _), connected(server) as peer:
        reply = await peer.ask('{"method":"echo","params":[1]}{"method":"echo","params":[2],"id":9}')
        assert (reply["id"], reply["result"]) == (9, [2])


async def test_a_batch_is_answered_as_one_array() -> None:
    async with served() as (server, _), connected(server) as peer:
        batch = '[{"method":"echo","params":[1],"id":1},{"method":"echo"},5,{"method":"refuse","id":2}]'
        replies = await peer.ask(batch)
        assert {reply["id"]: reply.get("result") for reply in replies if reply["id"]} == {1: [1], 2: None}
        assert [reply["error"] for reply in replies if reply["id"] is None] == [INVALID_REQUEST]
        # Only notifications: nothing comes, the next request is answered first.
        assert (await peer.ask('[{"method":"echo"}]{"method":"echo","id":4}'))["id"] == 4


async def test_replies_come_in_the_order_in_which_requests_finish() -> None:
    async with served() as (server, echo), connected(server) as peer:
        assert (await peer.ask('{"method":"wait","id":1}{"method":"echo","id":2}'))["id"] == 2
        echo.gate.set()
        assert (await peer.answer())["id"] == 1


async def test_what_is_not_json_closes_that_connection_and_no_other() -> None:
    async with served() as (server, _), connected(server) as good, connected(server) as bad:
        assert (await bad.ask('{"method":"echo","id":1}} '))["id"] == 1
        assert (await bad.answer())["error"]["code"] == -32700
        assert await bad.answer() is None
        assert (await good.ask('{"method":"echo","id":1}'))["id"] == 1


async def test_an_endless_value_closes_its_connection() -> None:
    async with served() as (server, _), connected(server) as peer:
        peer.writer.write(b'{"method":"' + b"x" * (JSON_BYTES_MAX + 10))
        assert (await peer.answer())["error"]["code"] == -32700
        assert await peer.answer() is None


async def test_a_bug_in_a_method_is_an_internal_error_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (server, _), connected(server) as peer:
        assert (await peer.ask('{"method":"bug","id":1}'))["error"]["code"] == -32603
        assert (await peer.ask('{"method":"echo","id":2}'))["id"] == 2
    assert "a bug" in caplog.text


async def test_a_client_that_stops_sending_still_gets_its_answers() -> None:
    async with served() as (server, echo), connected(server) as peer:
        peer.writer.write(b'{"method":"wait","id":1}')
        peer.writer.write_eof()
        await echo.until_running(1)
        echo.gate.set()
        assert (await peer.answer())["result"] == "waited"
        assert await peer.answer() is None


async def test_no_connection_has_more_than_its_share_of_requests_running() -> None:
    async with served() as (server, echo), connected(server) as greedy, connected(server) as other:
        requests = OUTSTANDING_REQUESTS_MAX + 50
        greedy.writer.write(b'{"method":"wait","id":1}' * requests)
        assert (await other.ask('{"method":"echo","id":2}'))["id"] == 2
        await echo.until_running(OUTSTANDING_REQUESTS_MAX)
        assert (await other.ask('{"method":"echo","id":3}'))["id"] == 3
        echo.gate.set()
        for _ in range(requests):
            assert (await greedy.answer())["id"] == 1
        assert echo.most_running == OUTSTANDING_REQUESTS_MAX


async def test_connections_beyond_the_limit_wait_for_one_to_end() -> None:
    async with served() as (server, _), contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connected(server)) for _ in range(CONNECTIONS_MAX)]
        for peer in peers:
            assert (await peer.ask('{"method":"echo","id":1}'))["id"] == 1
        late = await stack.enter_async_context(connected(server))
        late.writer.write(b'{"method":"echo","id":2}')
        assert (await peers[1].ask('{"method":"echo","id":3}'))["id"] == 3
        peers[0].writer.close()
        assert (await late.answer())["id"] == 2


async def test_closing_the_server_ends_connections_and_requests_and_removes_its_files() -> None:
    async with served() as (server, echo), connected(server) as peer:
        peer.writer.write(b'{"method":"wait","id":1}')
        await echo.until_running(1)
        await server.close()
        assert await peer.answer() is None
        assert os.listdir(os.path.dirname(server.path)) == []
        await server.close()


async def test_a_path_in_use_is_refused_and_stays_usable() -> None:
    async with served() as (server, echo), connected(server) as peer:
        with pytest.raises(ExistsError, match="running process") as refusal:
            await JsonRpcServer(server.path, echo).start()
        assert server.path in refusal.value.message
        assert (await peer.ask('{"method":"echo","id":1}'))["id"] == 1
        async with connected(server) as another:
            assert (await another.ask('{"method":"echo","id":1}'))["id"] == 1


async def test_a_live_server_that_uses_no_lock_file_is_respected() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{folder}/s")
        other.listen()
        with pytest.raises(ExistsError):
            await JsonRpcServer(f"{folder}/s", Echo()).start()
        assert os.listdir(folder) == ["s"]


async def test_a_dead_servers_path_is_taken_over() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{folder}/s")
        server = JsonRpcServer(f"{folder}/s", Echo())
        await server.start()
        async with connected(server) as peer:
            assert (await peer.ask('{"method":"echo","id":1}'))["id"] == 1
        await server.close()


async def test_an_unusable_path_is_named(tmp_path: Path) -> None:
    for path in (f"{tmp_path}/nosuch/s", "/tmp/" + "x" * 110):
        with pytest.raises(FtlError) as refusal:
            await JsonRpcServer(path, Echo()).start()
        assert path in refusal.value.message


async def test_what_is_no_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A mistyped -r must not cost a file."""
    file, folder = tmp_path / "precious", tmp_path / "folder"
    file.write_text("years of work")
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(file)
    before = sorted(tmp_path.iterdir())

    async def refused(path: str) -> str:
        server = JsonRpcServer(path, Echo())
        with pytest.raises(FtlError) as refusal:
            await server.start()
        await server.close()
        return refusal.value.message

    for path in (file, folder, link):
        message = await refused(str(path))
        assert str(path) in message
        assert "not a socket" in message
    assert "-r" in await refused("")
    assert file.read_text() == "years of work"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("steps", range(6))
def test_a_server_that_closes_as_a_client_comes_in_leaves_no_socket(steps: int) -> None:
    """A connection that is accepted, or whose task has not begun, as everything is cancelled."""

    async def work() -> None:
        async with served() as (server, _):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(server.path)
                for _ in range(steps):
                    await asyncio.sleep(0)
                await server.close()

    asyncio.run(work())
    gc.collect()  # a socket that nobody closed is an unraisable ResourceWarning, which fails this test


def test_a_client_that_leaves_its_replies_where_they_are_keeps_no_socket_open() -> None:
    client = socket.socket(socket.AF_UNIX)

    async def work() -> None:
        async with served() as (server, _):
            client.connect(server.path)
            client.setblocking(False)
            request = json.dumps({"method": "echo", "params": ["x" * 60_000], "id": 1}).encode()
            for _ in range(32):
                await asyncio.get_running_loop().sock_sendall(client, request)
            # What has been read by now was answered, and is more than the socket holds.

    with client:
        asyncio.run(work())
        gc.collect()
