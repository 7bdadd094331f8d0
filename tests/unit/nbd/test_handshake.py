"""The handshake, byte for byte, and with clients that do not keep to it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import BusyError, FtlError, UnsupportedError
from spdk_ftl_py.nbd import server as nbd_server
from spdk_ftl_py.nbd.export import NbdExport
from spdk_ftl_py.nbd.server import CONNECTIONS_MAX, HALF_OPEN_MAX, NbdServer
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.nbd_client import ACK, BLOCK, DISC, INFO, READ, SERVER, WRITE, NbdClient, go, option, request, text
from unit.nvme.nvme_loop import until

BLOCKS: Final = 256
UNSUP, INVALID, UNKNOWN, TOO_BIG = (1 << 31 | number for number in (1, 3, 6, 9))
# HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN FAST_ZERO
FLAGS: Final = 1 | 4 | 8 | 32 | 64 | 256 | 2048
DF: Final = 128


@asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[NbdServer]:
    async with ReactorLoop("nbd") as reactor:
        device = options.pop("device", _shim.EmulatedMedia.conventional)(reactor.shim, BLOCKS)
        export = NbdExport(lambda: "disk", device, "a disk", **options)
        server = NbdServer(reactor, export, folder / "s.nbd", remedy="give another")
        await server.start()
        try:
            yield server
        finally:
            await server.close()
            await server.close()
        assert list(folder.iterdir()) == []


async def talk(server: NbdServer, what: Callable[[NbdClient], Any], *, flags: int = 3) -> Any:
    """what() with a client that is connected, in a thread of its own."""

    def run() -> Any:
        client = NbdClient(server.path, flags=flags)
        try:
            return what(client)
        finally:
            client.close()

    return await asyncio.to_thread(run)


def ends(client: NbdClient) -> bool:
    try:
        return client.socket.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


async def test_go_tells_size_flags_and_block_sizes(tmp_path: Path) -> None:
    async with served(tmp_path) as server:

        def ask(client: NbdClient) -> Any:
            assert client.hello == b"NBDMAGICIHAVEOPT\0\3"
            plain = client.ask(go("disk", 3, number=6))
            return plain, client.ask(option(8)), client.ask(go("", 1, 2, 3, 77)), client.ok(READ, 0, BLOCK)

        plain, structured, everything, data = await talk(server, ask)
        sizes = (INFO, struct.pack(">HIII", 3, 4096, 4096, 1 << 20))
        assert plain == [(INFO, struct.pack(">HQH", 0, BLOCKS * BLOCK, FLAGS)), sizes, (ACK, b"")]
        assert structured == [(ACK, b"")]
        size = (INFO, struct.pack(">HQH", 0, BLOCKS * BLOCK, FLAGS | DF))
        assert everything == [size, sizes, (INFO, b"\0\1disk"), (INFO, b"\0\2a disk"), (ACK, b"")]
        assert data == bytes(BLOCK)


@pytest.mark.parametrize("flags", [3, 1, 0])
async def test_export_name_is_answered_with_zeroes_or_without(tmp_path: Path, flags: int) -> None:
    async with served(tmp_path, read_only=True) as server:

        def ask(client: NbdClient) -> Any:
            client.socket.sendall(option(1, b"disk") + request(READ, 1, 0, BLOCK))
            head = client.receive(10 if flags & 2 else 134)
            return head, client.answer(BLOCK).data

        head, data = await talk(server, ask, flags=flags)
        # HAS_FLAGS READ_ONLY FLUSH MULTI_CONN
        assert head == struct.pack(">QH", BLOCKS * BLOCK, 1 | 2 | 4 | 256) + bytes(0 if flags & 2 else 124)
        assert data == bytes(BLOCK)


async def test_other_options_are_answered(tmp_path: Path) -> None:
    async with served(tmp_path) as server:

        def ask(client: NbdClient) -> None:
            def reply(raw: bytes) -> int:
                return client.ask(raw)[-1][0]

            assert client.ask(option(3)) == [(SERVER, text("disk")), (ACK, b"")]
            assert reply(option(3, b"x")) == INVALID
            assert reply(option(5)) == UNSUP
            assert reply(option(11)) == UNSUP
            assert reply(option(0xFFFFFFFF, b"what")) == UNSUP
            contexts = text("disk") + struct.pack(">I", 1) + text("base:allocation")
            for number in (9, 10):
                assert reply(option(number, contexts)) == INVALID  # no structured replies yet
            assert reply(option(8, b"x")) == INVALID
            assert reply(option(8)) == ACK
            assert reply(option(8)) == INVALID
            for number in (9, 10):
                assert client.ask(option(number, contexts)) == [(ACK, b"")]
                assert reply(option(number, text("other") + struct.pack(">I", 0))) == UNKNOWN
                assert reply(option(number, contexts + b"x")) == INVALID
                assert reply(option(number, text("disk") + struct.pack(">I", 5))) == INVALID
            assert reply(go("other")) == UNKNOWN
            assert reply(go("", number=6)) == ACK
            assert reply(option(7, b"")) == INVALID
            assert reply(option(7, struct.pack(">I", 4097) + bytes(4099))) == INVALID
            assert reply(option(7, text("") + struct.pack(">HH", 2, 3))) == INVALID
            assert reply(option(7, text("") + struct.pack(">HH", 0, 3))) == INVALID
            assert reply(option(7, bytes(20_000))) == TOO_BIG
            assert reply(option(7, text("\udcff".encode("utf-8", "replace").decode()) + b"\0\0")) == UNKNOWN
            assert reply(option(2)) == ACK
            assert ends(client)

        await talk(server, ask)
        assert server.connection_count == 0


@pytest.mark.parametrize(
    ("flags", "raw"),
    [
        (7, b""),
        (0, option(3)),
        (3, b"x" * 16),
        (3, option(1, b"other")),
        (3, struct.pack(">8sII", b"IHAVEOPT", 7, 1 << 17)),
        (3, option(99) * 65),
    ],
)
async def test_nonsense_ends_the_connection_and_nothing_else(tmp_path: Path, flags: int, raw: bytes) -> None:
    async with served(tmp_path) as server:

        def ask(client: NbdClient) -> None:
            # The flags alone may end it, before this is sent.
            with contextlib.suppress(BrokenPipeError):
                client.socket.sendall(raw)
            while not ends(client):
                pass

        await talk(server, ask, flags=flags)
        assert await talk(server, lambda client: (client.ask(go())[-1], client.ok(READ, 0, BLOCK))) == (
            (ACK, b""),
            bytes(BLOCK),
        )


async def test_requests_behind_the_handshake_are_not_swallowed(tmp_path: Path) -> None:
    async with served(tmp_path) as server:

        def ask(client: NbdClient) -> Any:
            client.socket.sendall(go() + request(WRITE, 1, 0, data=b"5" * BLOCK) + request(DISC, 2))
            client.receive(3 * 20 + 12 + 14)
            return client.answer(), ends(client)

        answer, ended = await talk(server, ask)
        assert (answer.cookie, answer.error, ended) == (1, 0, True)
        await until(lambda: server.connection_count == 0)
        assert server.counts().write_blocks == 1


async def test_what_a_connection_did_counts_at_every_moment_of_its_end(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        client = await asyncio.to_thread(NbdClient.connect, server.path)
        await asyncio.to_thread(client.ok, WRITE, 0, BLOCK, data=b"5" * BLOCK)
        before = server.counts()
        assert before.write_blocks == 1
        (number,) = server._connections
        server._end(number)
        assert server.counts() == before
        await until(lambda: not server._closing)
        assert server.counts() == before
        client.close()


async def test_who_does_not_finish_the_handshake_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_server, "HANDSHAKE_S", 0.05)
    async with served(tmp_path) as server:
        assert await talk(server, ends)


async def test_half_open_connections_give_way_and_all_of_them_are_bounded(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        idle = [await asyncio.to_thread(NbdClient, server.path) for _ in range(HALF_OPEN_MAX)]
        one = await asyncio.to_thread(NbdClient.connect, server.path)
        assert await asyncio.to_thread(ends, idle[0])
        for each in idle:
            each.close()
        many = [await asyncio.to_thread(NbdClient.connect, server.path) for _ in range(CONNECTIONS_MAX - 1)]
        with pytest.raises((EOFError, OSError)):
            await asyncio.to_thread(NbdClient.connect, server.path)
        await asyncio.to_thread(one.ok, READ, 0, BLOCK)
        many.pop().close()
        await until(lambda: server.connection_count == CONNECTIONS_MAX - 1)
        (await asyncio.to_thread(NbdClient.connect, server.path)).close()
        for each in (one, *many):
            each.close()


async def test_what_can_not_be_served_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    def zoned(reactor: _shim.Reactor, _blocks: int) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.zns(reactor, 4, 64, 64)

    def metadata(reactor: _shim.Reactor, blocks: int) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.conventional(reactor, blocks, metadata_bytes=8)

    for device, why in ((zoned, "ask for read_only"), (metadata, "without metadata")):
        with pytest.raises(UnsupportedError, match=why):
            async with served(tmp_path, device=device):
                pass
        assert list(tmp_path.iterdir()) == []
    async with served(tmp_path, device=zoned, read_only=True) as server:
        await talk(server, lambda client: client.ask(go()) and client.ok(READ, 0, BLOCK))


async def test_a_path_has_one_server_and_a_dead_ones_socket_is_replaced(tmp_path: Path) -> None:
    async with ReactorLoop("nbd") as reactor:
        device = _shim.EmulatedMedia.conventional(reactor.shim, BLOCKS)

        def server() -> NbdServer:
            return NbdServer(reactor, NbdExport(lambda: "disk", device), tmp_path / "s", remedy="give another")

        one, two = server(), server()
        await one.start()
        with pytest.raises(BusyError, match=r"is listening there already: end that, or give another"):
            await two.start()
        await one.close()
        import socket

        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "s"))
        await two.start()
        await talk(two, lambda client: client.ask(go()))
        # Somebody else's by now.
        (tmp_path / "s").unlink()
        (tmp_path / "s").write_text("mine")
        await two.close()
        assert [path.name for path in tmp_path.iterdir()] == ["s"]
        with pytest.raises(FtlError, match="not a socket"):
            await server().start()
        assert [path.name for path in tmp_path.iterdir()] == ["s"]
