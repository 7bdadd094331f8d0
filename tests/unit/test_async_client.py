"""AsyncDaemonClient against daemons that are none, are somebody else's, or are of bad will."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spdk_ftl_py import async_client, client
from spdk_ftl_py.access.peers import Trust
from spdk_ftl_py.async_client import AsyncDaemonClient
from spdk_ftl_py.errors import DaemonError, NoDaemonError, NotFoundError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def path() -> Iterator[Path]:
    """Short, and others can get to it."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "d"


@asynccontextmanager
async def served(path: Path, serve: Serve) -> AsyncIterator[AsyncDaemonClient]:
    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve_and_close, path)
    try:
        yield AsyncDaemonClient(path)
    finally:
        server.close()


async def request_of(reader: asyncio.StreamReader) -> dict[str, object]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.decode().lower().split("\r\n") if line.startswith("content-length: "))
    request = json.loads(await reader.readexactly(int(length.partition(": ")[2])))
    assert isinstance(request, dict)
    return request


def http(reply: object, *, chunked: bool = False) -> bytes:
    body = json.dumps(reply).encode()
    if chunked:
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_call_has_its_result_or_its_error(path: Path, chunked: bool) -> None:
    asked: list[dict[str, object]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await request_of(reader))
        error = {"code": -19, "message": "no FTL bdev of the name ftl9"}
        reply = {"error": error} if "delete" in str(asked[-1]["method"]) else {"result": [{"name": "ftl0"}]}
        writer.write(http(reply, chunked=chunked))

    async with served(path, serve) as daemon:
        assert await daemon.ftl_get_devices(target="/t") == [{"name": "ftl0"}]
        with pytest.raises(NotFoundError, match="no FTL bdev of the name ftl9"):
            await daemon.bdev_ftl_delete(name="ftl9")
    assert asked[0] == {"jsonrpc": "2.0", "id": 1, "method": "ftl_get_devices", "params": {"target": "/t"}}


async def test_calls_run_side_by_side(path: Path) -> None:
    together = asyncio.Event()
    waiting = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        await request_of(reader)
        waiting += 1
        if waiting == 8:
            together.set()
        await together.wait()
        writer.write(http({"result": waiting}))

    async with served(path, serve) as daemon:
        calls = [daemon.call("ftl_get_daemon") for _ in range(8)]
        assert await asyncio.wait_for(asyncio.gather(*calls), 20) == [8] * 8


async def test_a_call_that_is_cancelled_closes_its_connection(path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        begun.set()
        assert await reader.read() == b""
        ended.set()

    async with served(path, serve) as daemon:
        call = asyncio.ensure_future(daemon.ftl_get_daemon())
        await asyncio.wait_for(begun.wait(), 20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 20)


async def test_without_a_daemon_the_error_says_so(path: Path) -> None:
    with pytest.raises(NoDaemonError, match=r"is not running \(no such socket\): start it with `spdk-ftl serve`"):
        await AsyncDaemonClient(path).ftl_get_daemon()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    with pytest.raises(NoDaemonError, match="nobody listens on its socket"):
        await AsyncDaemonClient(path).ftl_get_daemon()


async def test_silence_ends_with_an_error(path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(path, serve) as daemon:
        daemon.timeout_s = 0.1
        with pytest.raises(DaemonError, match=r"no reply within 0.1 s; the call may still take effect"):
            await daemon.ftl_get_daemon()


async def test_somebody_who_does_not_read_ends_with_an_error_too(path: Path) -> None:
    """More than the socket takes is on its way."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async with served(path, serve) as daemon:
        daemon.timeout_s = 0.1
        call = daemon.call("ftl_get_daemon", {"text": "x" * (8 << 20)})
        with pytest.raises(DaemonError, match=r"no reply within 0.1 s; the call may still take effect"):
            await asyncio.wait_for(call, 5)


async def test_a_full_backlog_is_waited_for(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        daemon = AsyncDaemonClient(path)
        daemon.timeout_s = 5
        calls = [asyncio.ensure_future(daemon.ftl_get_devices()) for _ in range(4)]
        await asyncio.sleep(0.1)
        for _ in calls:
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                await asyncio.to_thread(connection.recv, 1 << 16)
                reply = b'{"jsonrpc": "2.0", "id": 1, "result": []}'
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(reply), reply))
        assert await asyncio.gather(*calls) == [[]] * 4


@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"]
)
async def test_half_a_reply_is_a_connection_that_broke_off(path: Path, reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The second one asks whether there is a target.
        if (await reader.read(1 << 16)).startswith(b"POST / "):
            writer.write(reply)

    async with served(path, serve) as daemon:
        with pytest.raises(DaemonError, match=r" broke off: | is not JSON: "):
            await daemon.ftl_get_daemon()


async def test_a_reply_without_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REPLY_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(async_client, "REPLY_BYTES_MAX", 1 << 20)

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    async with served(path, serve) as daemon:
        with pytest.raises(DaemonError, match="its reply is larger than 1048576 bytes"):
            await asyncio.wait_for(daemon.ftl_get_daemon(), 20)


async def test_the_socket_of_a_target_is_not_taken_for_the_daemons(path: Path) -> None:
    """Also where it does not hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read(1 << 16)
        version = b'{"jsonrpc":"2.0","id":1,"result":{"version":"SPDK v26.05"}}\n'
        writer.write(version if received.startswith(b"{") else b'{"error":{"code":-32700,"message":"Parse error"}}\n')
        await reader.read()

    async with served(path, serve) as daemon:
        with pytest.raises(
            DaemonError, match="the RPC socket of an SPDK target, not the control socket of a spdk-ftl daemon"
        ):
            await asyncio.wait_for(daemon.ftl_get_daemon(), 20)


async def test_nothing_is_sent_to_a_stranger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trust, "includes", lambda *_: False)
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())

    async with served(path, serve) as daemon:
        with pytest.raises(DaemonError, match="is trusted; nothing was sent"):
            await asyncio.wait_for(daemon.ftl_get_daemon(), 20)
        assert await asyncio.wait_for(received, 20) == b""


def test_the_log_has_what_was_sent_and_answered_without_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(http({"result": True}))

    async def call() -> None:
        async with served(path, serve) as daemon:
            daemon._log = logging.getLogger("test")
            await daemon.bdev_ftl_add_host(name="ftl0", host="nqn.x", psk="NVMeTLSkey-1:01:c2VjcmV0:")

    with caplog.at_level(logging.DEBUG, "test"):
        asyncio.run(call())
    assert "bdev_ftl_add_host" in caplog.text
    assert "NVMeTLSkey-1:..." in caplog.text
    assert "c2VjcmV0" not in caplog.text
