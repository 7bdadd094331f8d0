"""The client side against the product's own server, and against servers that lie."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError, PathError, ProtocolError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.events import AsyncEvent
from spdk_ftl_py.time_limit import time_limit
from spdk_ftl_py.vfio_user import wire
from spdk_ftl_py.vfio_user.host.client import VfioUserClient
from spdk_ftl_py.vfio_user.host.controller import VfioUserController
from spdk_ftl_py.vfio_user.wire import Command, RegionInfo
from support.descriptors import open_descriptors, opened_since
from unit.vfio_user.rig import NQN, Rig

BLOCK = 4096
WAIT_S = 20.0


async def test_io_of_every_kind_reaches_a_zoned_namespace(here: Rig) -> None:
    await here.listener.stop()
    here.subsystem.add_namespace(_shim.EmulatedMedia.zns(here.reactor.shim, 16, 64, 48))
    here.listener = here.make_listener()
    await here.listener.start()
    controller = await VfioUserController.connect(here.directory, subnqn=NQN)
    try:
        plain, zoned = await controller.namespaces()
        assert (plain.zone_size, zoned.zone_size) == (0, 64)
        qpairs = [await controller.create_io_qpair(here.reactor, each) for each in (plain, zoned, zoned)]
        assert [qpair.zone_capacity for qpair in qpairs[1:]] == [48, 48]
        data = os.urandom(32 * BLOCK)
        port = BlockPort(here.reactor, qpairs[0], name="plain")
        await port.write(7, data)
        await port.flush()
        assert (await port.read(7, 32)).tobytes() == data
        await port.deallocate(8, 1)
        assert not (await port.read(8, 1)).any()
        await port.close()
        port = BlockPort(here.reactor, qpairs[1], name="zoned")
        await port.write(0, data)
        assert await port.append(64, data[:BLOCK]) == 64
        assert await port.append(64, data[: 2 * BLOCK]) == 65
        zones = await port.zones()
        assert [zone.written for zone in zones[:2]] == [32, 3]
        await port.zone_action(_shim.ZoneAction.RESET, 0)
        assert (await port.zone_report(0, 1))[0].written == 0
        await port.close()
        for qpair in qpairs:
            await controller.close_io_qpair(qpair)
        assert not controller.io_qpairs
        again = await controller.create_io_qpair(here.reactor, plain)
        assert again.connected
    finally:
        await controller.close()


async def test_shared_memory_is_mapped_when_it_is_used(here: Rig) -> None:
    controller = await VfioUserController.connect(here.directory)
    try:
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.reactor, namespace)
        assert isinstance(qpair, _shim.SharedHostQpair)
        pages = _shim.SharedPages(16 * BLOCK, True)
        port = BlockPort(here.reactor, qpair, name="shared")
        async with time_limit(WAIT_S):
            while not qpair.stats.direct_bytes:
                await port.write(0, pages.array[:BLOCK])
        before = qpair.stats.bounced_bytes
        pages.array[:BLOCK] = 5
        await port.write(1, pages.array[:BLOCK])
        assert (await port.read(1, 1)).tobytes() == b"\5" * BLOCK
        assert qpair.stats.bounced_bytes == before + BLOCK, "only the read into memory of Python's own"
        await port.close()
    finally:
        await controller.close()


async def test_events_arrive(here: Rig) -> None:
    controller = await VfioUserController.connect(here.directory)
    arrived: asyncio.Queue[AsyncEvent] = asyncio.Queue()
    controller.on_event = arrived.put_nowait
    try:
        here.subsystem.add_namespace(_shim.EmulatedMedia.conventional(here.reactor.shim, 64))
        async with time_limit(WAIT_S):
            event = await arrived.get()
        assert event.changed_namespaces == (2,)
        assert [namespace.nsid for namespace in await controller.namespaces()] == [1, 2]
    finally:
        await controller.close()


async def test_the_end_of_the_server_fails_io_and_a_new_connection_works(here: Rig) -> None:
    controller = await VfioUserController.connect(here.directory)
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    await here.listener.stop()
    async with time_limit(WAIT_S):
        await controller.lost.wait()
    assert "closed" in controller.lost_reason
    with pytest.raises(PathError):
        await controller.namespaces()
    await controller.close()
    assert not qpair.connected
    here.listener = here.make_listener()
    await here.listener.start()
    controller = await VfioUserController.connect(here.directory)
    assert [each.nsid for each in await controller.namespaces()] == [1]
    await controller.close()


async def test_nobody_and_another_subsystem_are_refused(here: Rig, folder: Path) -> None:
    with pytest.raises(PathError, match="check that it listens"):
        await VfioUserController.connect(folder / "nothing")
    with pytest.raises(PathError, match="longer than 107 bytes"):
        await VfioUserController.connect(folder / ("x" * 100))
    with pytest.raises(ProtocolError, match=r"not to nqn\.other"):
        await VfioUserController.connect(here.directory, subnqn="nqn.other")
    controller = await VfioUserController.connect(here.directory)
    await controller.close()
    await controller.close()


# --- servers that lie ------------------------------------------------------------------------------------------------


Answer = Callable[[int, bytes], "tuple[bytes, list[int]] | None"]
"""(command, payload) -> the whole reply with its fds; None: the truth."""


def reply(message: bytes, payload: bytes, **changes: int) -> bytes:
    message_id, command, *_ = wire.HEADER.unpack(message[: wire.HEADER.size])
    fields = {"id": message_id, "command": command, "size": wire.HEADER.size + len(payload), "flags": 1, "error": 0}
    fields |= changes
    return wire.HEADER.pack(*fields.values()) + payload


class Liar:
    def __init__(self, lie: Callable[[Liar, int, bytes, bytes], tuple[bytes, list[int]] | None]) -> None:
        self.lie = lie
        self.bar0 = os.memfd_create("bar0")
        os.ftruncate(self.bar0, 8192)

    def truth(self, command: int, message: bytes, payload: bytes) -> tuple[bytes, list[int]]:
        if command == Command.VERSION:
            return reply(message, wire.pack_version(1)), []
        if command == Command.DEVICE_GET_INFO:
            return reply(message, wire.DEVICE_INFO.pack(16, wire.DEVICE_FLAG_PCI, 9, 5)), []
        if command == Command.DEVICE_GET_REGION_INFO:
            flags = wire.REGION_FLAG_READ | wire.REGION_FLAG_WRITE
            return reply(message, RegionInfo(0, 8192, flags, ((4096, 4096),)).pack(4096)), [self.bar0]
        if command in (Command.REGION_READ, Command.REGION_WRITE):
            offset, _, count = wire.REGION_ACCESS.unpack(payload[:16])
            data = struct.pack("<Q", 1 << 37 | 0x1F_00FF)[:count] if offset == 0 else bytes(count)
            return reply(message, payload[:16] + (data if command == Command.REGION_READ else b"")), []
        return reply(message, b""), []

    def serve(self, sock: socket.socket) -> None:
        while header := sock.recv(wire.HEADER.size):
            _, command, size, _, _ = wire.HEADER.unpack(header)
            payload = sock.recv(size - wire.HEADER.size) if size > wire.HEADER.size else b""
            data, fds = self.lie(self, command, header, payload) or self.truth(command, header, payload)
            socket.send_fds(sock, [data], fds)


@asynccontextmanager
async def lying(
    folder: Path, lie: Callable[[Liar, int, bytes, bytes], tuple[bytes, list[int]] | None]
) -> AsyncIterator[Path]:
    liar = Liar(lie)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "cntrl"))
        listening.listen()

        def run() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.settimeout(WAIT_S)
                try:
                    liar.serve(sock)
                except OSError:
                    return

        task = asyncio.ensure_future(asyncio.to_thread(run))
        try:
            yield folder
        finally:
            await task
            os.close(liar.bar0)


LIES: dict[str, tuple[int, Callable[[Liar, bytes, bytes], tuple[bytes, list[int]]]]] = {
    "another message's answer": (Command.VERSION, lambda _, m, __: (reply(m, wire.pack_version(1), id=77), [])),
    "another command's answer": (Command.VERSION, lambda _, m, __: (reply(m, wire.pack_version(1), command=4), [])),
    "no reply": (Command.VERSION, lambda _, m, __: (reply(m, wire.pack_version(1), flags=0), [])),
    "too long": (Command.VERSION, lambda _, m, __: (reply(m, b"", size=1 << 30), [])),
    "too short": (Command.VERSION, lambda _, m, __: (reply(m, b"", size=3), [])),
    "another version": (Command.VERSION, lambda _, m, __: (reply(m, struct.pack("<HH", 9, 0)), [])),
    "a fd too many": (Command.VERSION, lambda liar, m, __: (reply(m, wire.pack_version(1)), [liar.bar0])),
    "no PCI": (Command.DEVICE_GET_INFO, lambda _, m, __: (reply(m, wire.DEVICE_INFO.pack(16, 0, 9, 5)), [])),
    "regions without end": (
        Command.DEVICE_GET_INFO,
        lambda _, m, __: (reply(m, wire.DEVICE_INFO.pack(16, wire.DEVICE_FLAG_PCI, 1 << 31, 5)), []),
    ),
    "no doorbells": (
        Command.DEVICE_GET_REGION_INFO,
        lambda liar, m, __: (reply(m, RegionInfo(0, 8192, 3, ((0, 4096),)).pack(4096)), [liar.bar0]),
    ),
    "doorbells beyond the region": (
        Command.DEVICE_GET_REGION_INFO,
        lambda liar, m, __: (reply(m, RegionInfo(0, 4096, 3, ((4096, 4096),)).pack(4096)), [liar.bar0]),
    ),
    "doorbells beyond the file": (
        Command.DEVICE_GET_REGION_INFO,
        lambda liar, m, __: (reply(m, RegionInfo(0, 1 << 20, 3, ((4096, 1 << 16),)).pack(4096)), [liar.bar0]),
    ),
    "no fd": (
        Command.DEVICE_GET_REGION_INFO,
        lambda _, m, __: (reply(m, RegionInfo(0, 8192, 3, ((4096, 4096),)).pack(4096)), []),
    ),
    "a short register": (Command.REGION_READ, lambda _, m, p: (reply(m, p[:16]), [])),
    "another register": (Command.REGION_READ, lambda _, m, p: (reply(m, p[1:16] + bytes(9)), [])),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_ends_the_connection(folder: Path, name: str) -> None:
    wanted, lie = LIES[name]
    open_before = open_descriptors()

    def answer(liar: Liar, command: int, message: bytes, payload: bytes) -> tuple[bytes, list[int]] | None:
        return lie(liar, message, payload) if command == wanted else None

    async with lying(folder, answer) as directory:
        with pytest.raises(ProtocolError):
            await VfioUserController.connect(directory, timeout_s=WAIT_S)
    assert not opened_since(open_before)


async def test_a_server_that_is_silent_is_given_up(folder: Path) -> None:
    ended = asyncio.Event()

    def answer(liar: Liar, command: int, *_: bytes) -> tuple[bytes, list[int]] | None:
        return (b"", []) if command == Command.REGION_READ else None

    async with lying(folder, answer) as directory:
        with pytest.raises(PathError, match=r"did not answer within 0\.3 s"):
            await VfioUserController.connect(directory, timeout_s=0.3)
    assert not ended.is_set()


async def test_an_error_of_the_server_is_told_and_the_connection_goes_on(folder: Path) -> None:
    def answer(liar: Liar, command: int, message: bytes, _: bytes) -> tuple[bytes, list[int]] | None:
        refused = command in (Command.DMA_MAP, Command.DEVICE_RESET)
        return (reply(message, b"", flags=0x21, error=12), []) if refused else None

    async with lying(folder, answer) as directory:
        client = await VfioUserClient.connect(directory)
        try:
            with pytest.raises(PathError, match="DEVICE_RESET failed: Cannot allocate memory"):
                await client.reset()
            assert len(await client.read_region(0, 0, 8)) == 8
            assert not client.lost.is_set()
        finally:
            client.close()
        with pytest.raises(FtlError, match="closed"):
            await client.reset()


async def test_a_message_that_nobody_asked_for_ends_the_connection(folder: Path) -> None:
    def answer(liar: Liar, command: int, message: bytes, payload: bytes) -> tuple[bytes, list[int]] | None:
        if command != Command.DEVICE_GET_INFO:
            return None
        data, _ = liar.truth(command, message, payload)
        return data + reply(message, b""), []

    async with lying(folder, answer) as directory:
        client = await VfioUserClient.connect(directory)
        async with time_limit(WAIT_S):
            await client.lost.wait()
        assert isinstance(client.error, ProtocolError)
