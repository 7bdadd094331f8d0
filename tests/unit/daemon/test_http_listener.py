"""The daemon's HTTP listener on TCP: who is answered, and what strangers can take."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from spdk_ftl_py.daemon import http_listener
from spdk_ftl_py.daemon.http_listener import Address, HttpListener, HttpListeners, Query, Reply
from spdk_ftl_py.errors import FtlError, ParameterError
from spdk_ftl_py.time_limit import time_limit
from support.ports import free_port
from unit.nvme.nvme_loop import until

LOCAL = Address("127.0.0.1", 0)


async def told(query: Query) -> Reply:
    return Reply(f"told {dict(query)}\n".encode())


async def refused(_query: Query) -> Reply:
    raise FtlError("the thing is away: bring it back")


async def broken(_query: Query) -> Reply:
    raise ZeroDivisionError("secret")


async def endless(_query: Query) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def listening(
    address: Address = LOCAL, *, names: tuple[str, ...] = (), timeout_s: float = http_listener.TIMEOUT_S
) -> AsyncIterator[HttpListener]:
    listener = HttpListener(address, "--metrics", names=names, timeout_s=timeout_s)
    for path, route in (("/told", told), ("/refused", refused), ("/broken", broken), ("/endless", endless)):
        listener.add(path, route)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()
        await listener.close()


async def exchange(listener: HttpListener, request: bytes) -> bytes:
    """Everything the listener says until it closes the connection."""
    reader, writer = await asyncio.open_connection(listener.address.host, listener.address.port)
    try:
        writer.write(request)
        async with time_limit(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


def get(path: str, *headers: str, host: str | None = "localhost", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def status_of(reply: bytes) -> int:
    return int(reply.split()[1])


async def test_a_route_is_answered_and_the_connection_closed() -> None:
    async with listening() as listener:
        reply = await exchange(listener, get("/told?a=1&b=two&a=3"))
    assert status_of(reply) == 200
    head, _, body = reply.partition(b"\r\n\r\n")
    assert body == b"told {'a': '1', 'b': 'two'}\n"
    assert b"Access-Control" not in head
    for header in (b"nosniff", b"X-Frame-Options: DENY", b"Connection: close", b"text/plain", b"default-src 'self'"):
        assert header in head


async def test_head_has_the_head_alone() -> None:
    async with listening() as listener:
        reply = await exchange(listener, get("/told", method="HEAD"))
    assert status_of(reply) == 200
    assert b"Content-Length: 8\r\n" in reply
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_nothing_can_be_changed(method: str) -> None:
    async with listening() as listener:
        reply = await exchange(listener, get("/told", "Origin: http://localhost", method=method))
    assert status_of(reply) == 405
    assert b"Access-Control" not in reply


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/"), 404),
        (get("/told/"), 404),
        (get("/../told"), 404),
        (get("/told", "Content-Length: 3") + b"abc", 400),
        (get("/told", "Content-Length: -1"), 400),
        (get("/told", host=None), 421),
        (get("/told", "Host: localhost"), 400),
        (get("/" + "x" * 100_000), 400),
        (get("/told", "X: " + "x" * 100_000), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_bad_requests_are_refused(request_bytes: bytes, status: int) -> None:
    async with listening() as listener:
        reply = await exchange(listener, request_bytes)
        assert status_of(reply) in (status, 400), reply
        assert b"told {" not in reply
        assert status_of(await exchange(listener, get("/told"))) == 200


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9100", True),
        ("192.0.2.7:9100", True),
        ("[::1]:9100", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("localhost.:80", True),
        ("storage.example", True),
        (socket.gethostname(), True),
        ("attacker.example", False),
        ("attacker.example:9100", False),
        ("127.0.0.1.attacker.example", False),
        ("localhost.attacker.example", False),
        ("x@localhost", False),
        ("localhost:x", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("[localhost]", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_only_names_of_this_machine_are_answered(host: str, answered: bool) -> None:
    listener = HttpListener(LOCAL, "--metrics", names=["Storage.Example."])
    assert listener.answers_to([host]) is answered


async def test_a_page_of_a_rebound_name_gets_nothing() -> None:
    async with listening() as listener:
        reply = await exchange(listener, get("/told", host="attacker.example"))
    assert status_of(reply) == 421
    assert b"told" not in reply


async def test_failures_are_told_without_details_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as listener:
        reply = await exchange(listener, get("/refused"))
        assert (status_of(reply), b"bring it back" in reply) == (503, True)
        reply = await exchange(listener, get("/broken"))
    assert (status_of(reply), b"secret" in reply) == (500, False)
    assert "secret" in caplog.text


@pytest.mark.parametrize("request_bytes", [b"", b"GET /told HTTP/1.1\r\nHost: local", get("/endless")])
async def test_no_connection_lasts(request_bytes: bytes) -> None:
    async with listening(timeout_s=0.2) as listener:
        assert await exchange(listener, request_bytes) == b""


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def large(_query: Query) -> Reply:
        return Reply(bytes(64 << 20))

    async with listening(timeout_s=0.5) as listener:
        listener.add("/large", large)
        _, writer = await asyncio.open_connection(listener.address.host, listener.address.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get("/large"))
        await until(lambda: bool(listener._connections))
        await until(lambda: not listener._connections)
        writer.transport.abort()


async def test_connections_of_one_address_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_listener, "CONNECTIONS_PER_PEER_MAX", 3)
    async with listening() as listener:
        idle = [await asyncio.open_connection(listener.address.host, listener.address.port) for _ in range(3)]
        reply = await exchange(listener, get("/told"))
        assert status_of(reply) == 503
        head, _, body = reply.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        for _, writer in idle:
            writer.transport.abort()
        await until(lambda: not listener._connections)
        assert status_of(await exchange(listener, get("/told"))) == 200


async def test_nothing_is_done_for_a_client_that_has_left() -> None:
    """Its connection no longer counts, so otherwise nothing would bound what strangers have us do."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_query: Query) -> Reply:
        begun.set()
        try:
            return await endless({})
        finally:
            ended.set()

    async with listening() as listener:
        listener.add("/slow", slow)
        _, writer = await asyncio.open_connection(listener.address.host, listener.address.port)
        writer.write(get("/slow"))
        await begun.wait()
        writer.transport.abort()
        async with time_limit(10):
            await ended.wait()
        assert status_of(await exchange(listener, get("/told"))) == 200


async def test_answers_leave_the_event_loop_half_of_its_time() -> None:
    clock, busy = asyncio.get_running_loop().time, 0.0

    async def long(_query: Query) -> Reply:
        nonlocal busy
        began = clock()
        while clock() - began < 0.01:
            pass
        busy += clock() - began
        return Reply(b"done\n")

    async with listening() as listener:
        listener.add("/long", long)
        began = clock()
        replies = await asyncio.gather(*(exchange(listener, get("/long")) for _ in range(8)))
        assert clock() - began >= 2 * busy
    assert [status_of(reply) for reply in replies] == [200] * 8


async def test_an_address_in_use_is_refused_with_the_option() -> None:
    async with listening() as listener:
        another = HttpListener(listener.address, "--metrics")
        with pytest.raises(FtlError, match=rf"--metrics {listener.address}: .*Address already in use; choose another"):
            await another.start()
        await another.close()


async def test_an_address_of_another_machine_is_refused() -> None:
    another = HttpListener(Address("192.0.2.1", 9), "--web")
    with pytest.raises(FtlError, match=r"--web 192.0.2.1:9: can't listen"):
        await another.start()


async def test_two_options_with_one_address_share_a_listener() -> None:
    port = free_port()
    listeners = HttpListeners()
    one = listeners.at(Address("127.0.0.1", port), "--metrics")
    assert listeners.at(Address("127.0.0.1", port), "--web") is one
    assert listeners.at(LOCAL, "--metrics") is not listeners.at(LOCAL, "--web")
    one.add("/told", told)
    await listeners.start()
    assert status_of(await exchange(one, get("/told"))) == 200
    await listeners.close()
    with pytest.raises(ConnectionRefusedError):
        await exchange(one, get("/told"))


async def test_if_one_cannot_listen_none_does() -> None:
    async with listening() as taken:
        listeners = HttpListeners()
        first = listeners.at(LOCAL, "--metrics")
        listeners.at(taken.address, "--web")
        with pytest.raises(FtlError, match="--web"):
            await listeners.start()
        with pytest.raises(ConnectionRefusedError):
            await exchange(first, get("/told"))


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("9100", Address("127.0.0.1", 9100)),
        ("0.0.0.0:9100", Address("0.0.0.0", 9100)),
        ("[::1]:9100", Address("::1", 9100)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
    ],
)
def test_addresses(given: str, address: Address) -> None:
    assert Address.parse(given) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "given",
    [
        "",
        ":",
        ":9100",
        "127.0.0.1",
        "127.0.0.1:",
        "localhost:9100",
        "::1:9100",
        "[127.0.0.1]:1",
        "1:65536",
        "127.0.0.1:٣",
    ],
)
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(ParameterError, match="must be PORT"):
        Address.parse(given)
