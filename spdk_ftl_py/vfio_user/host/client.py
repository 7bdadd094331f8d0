"""The connection of a client to a vfio-user server: the messages that it sends, one at a time, and their answers.

The server is not trusted: whatever it answers is checked.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import FtlError, PathError, ProtocolError
from .. import wire
from ..fd_socket import Message, MessageReader, MessageWriter, close_all
from ..wire import Command, RegionInfo

SOCKET_NAME: Final = "cntrl"
_PATH_BYTES_MAX: Final = 107
_REGIONS_MAX: Final = 64


@dataclass
class MappableArea:
    """A part of a region that this process can map from fd. Its holder closes the fd."""

    offset: int
    size: int
    fd: int
    file_offset: int


class VfioUserClient:
    """Any failure of the connection, and any answer that breaks the protocol, ends it: ``lost`` is set then."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        """Use connect()."""
        self.peer = peer
        self.region_count = 0
        self.lost = asyncio.Event()
        self.error: FtlError | None = None
        self._socket = sock
        self._reader = MessageReader(sock)
        self._writer = MessageWriter(sock)
        self._turn = asyncio.Lock()
        self._message_id = 0
        self._readable: asyncio.Future[None] | None = None
        self._closed = False
        asyncio.get_running_loop().add_reader(sock, self._on_readable)

    @classmethod
    async def connect(cls, directory: Path) -> VfioUserClient:
        """Connects, and agrees on a version. Raises PathError, ProtocolError."""
        path = str(directory / SOCKET_NAME)
        peer = f"vfio-user server at {directory}"
        if len(os.fsencode(path)) > _PATH_BYTES_MAX:
            raise PathError(f"{peer}: the path of its socket is longer than {_PATH_BYTES_MAX} bytes")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, path)
        except OSError as error:
            sock.close()
            text = os.strerror(error.errno) if error.errno else str(error)
            raise PathError(f"{peer}: {text}: check that it listens there", errno=error.errno) from error
        except BaseException:
            sock.close()
            raise
        client = cls(sock, peer)
        try:
            await client._agree()
        except BaseException:
            client.close()
            raise
        return client

    async def _agree(self) -> None:
        major, _, _ = wire.unpack_version(await self._plain(Command.VERSION, wire.pack_version(wire.MINOR, {})))
        if major != wire.MAJOR:
            raise self._fail(ProtocolError(f"{self.peer}: it speaks version {major} of the protocol, not {wire.MAJOR}"))
        payload = await self._plain(Command.DEVICE_GET_INFO, wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, 0, 0, 0))
        _, flags, regions, _ = wire.unpack_start(wire.DEVICE_INFO, payload, Command.DEVICE_GET_INFO)
        if not flags & wire.DEVICE_FLAG_PCI or not wire.BAR0_REGION < regions <= _REGIONS_MAX:
            raise self._fail(ProtocolError(f"{self.peer}: it is no PCI device"))
        self.region_count = regions

    # --- requests ---------------------------------------------------------------------------------------------------

    async def region(self, index: int) -> tuple[RegionInfo, list[MappableArea]]:
        """What is known about a region, and the parts of it that can be mapped. The caller closes their fds."""
        request = wire.REGION_INFO.pack(wire.PAYLOAD_BYTES_MAX, 0, index, 0, 0, 0)
        message = await self._ask(Command.DEVICE_GET_REGION_INFO, request)
        try:
            info = RegionInfo.unpack(message.payload)
            file_offset = wire.REGION_INFO.unpack_from(message.payload)[5]
            if info.index != index or info.size >= 1 << 63 or file_offset >= 1 << 62:
                raise ProtocolError(f"{self.peer}: an impossible answer about region {index}")
            if not info.flags & wire.REGION_FLAG_MMAP or not message.descriptors:
                return info, []
            areas = info.areas or ((0, info.size),)
            if any(offset + size > info.size for offset, size in areas):
                raise ProtocolError(f"{self.peer}: an area of region {index} lies outside of it")
            if len(message.descriptors) not in (1, len(areas)):
                raise ProtocolError(f"{self.peer}: {len(message.descriptors)} files for {len(areas)} areas")
            fds = message.take_descriptors()
            fds += [os.dup(fds[0]) for _ in range(len(areas) - len(fds))]
            return info, [
                MappableArea(offset, size, fd, file_offset + offset)
                for (offset, size), fd in zip(areas, fds, strict=True)
            ]
        except ProtocolError as error:
            raise self._fail(error) from None
        finally:
            message.close()

    async def read_region(self, index: int, offset: int, length: int) -> bytes:
        payload = await self._plain(Command.REGION_READ, wire.REGION_ACCESS.pack(offset, index, length))
        self._check_access(payload, offset, index, length)
        data = payload[wire.REGION_ACCESS.size :]
        if len(data) != length:
            raise self._fail(ProtocolError(f"{self.peer}: {len(data)} bytes of a register of {length}"))
        return data

    async def write_region(self, index: int, offset: int, data: bytes) -> None:
        payload = await self._plain(Command.REGION_WRITE, wire.REGION_ACCESS.pack(offset, index, len(data)) + data)
        self._check_access(payload, offset, index, len(data))

    async def map_memory(self, iova: int, size: int, fd: int, offset: int) -> None:
        """The server may read and write the file from now on. SPDK's server accepts no memory that it may only read.
        The fd stays the caller's."""
        flags = wire.DMA_READABLE | wire.DMA_WRITABLE
        request = wire.DMA_MAP.pack(wire.DMA_MAP.size, flags, offset, iova, size)
        await self._plain(Command.DMA_MAP, request, (fd,))

    async def unmap_memory(self, iova: int, size: int) -> None:
        await self._plain(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, iova, size))

    async def reset(self) -> None:
        await self._plain(Command.DEVICE_RESET)

    def _check_access(self, payload: bytes, offset: int, index: int, length: int) -> None:
        try:
            answer = wire.unpack_start(wire.REGION_ACCESS, payload, Command.REGION_READ)
        except ProtocolError as error:
            raise self._fail(error) from None
        if answer != (offset, index, length):
            raise self._fail(ProtocolError(f"{self.peer}: the answer to another access of a region"))

    # --- one message and its answer ---------------------------------------------------------------------------------

    async def _plain(self, command: Command, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> bytes:
        message = await self._ask(command, payload, descriptors)
        message.close()
        return message.payload

    async def _ask(self, command: Command, payload: bytes, descriptors: tuple[int, ...] = ()) -> Message:
        """The answer. An error of the server is a PathError with its errno, and does not end the connection.

        Whoever cancels this ends the connection: its answer may still come.
        """
        async with self._turn:
            if self.error is not None:
                raise self.error
            self._message_id = (self._message_id + 1) & 0xFFFF
            try:
                await self._send(wire.pack_command(self._message_id, command, payload), descriptors)
                message = await self._answer()
            except FtlError as error:
                raise self._fail(error) from None
            except BaseException:
                self._fail(PathError(f"{self.peer}: a request was given up"))
                raise
        header = message.header
        wrong = not header.is_reply or header.message_id != self._message_id or header.command != command
        if wrong or (message.descriptors and command != Command.DEVICE_GET_REGION_INFO):
            message.close()
            raise self._fail(ProtocolError(f"{self.peer}: an answer to something else than {command.name}"))
        if header.flags & wire.ERROR:
            message.close()
            text = os.strerror(header.error) if header.error < 1 << 16 else f"error {header.error}"
            raise PathError(f"{self.peer}: {command.name} failed: {text}", errno=header.error or errno.EIO)
        return message

    async def _send(self, data: bytes, descriptors: tuple[int, ...]) -> None:
        loop = asyncio.get_running_loop()
        done = self._writer.write(data, descriptors)
        while not done:
            # A request is small, so this happens only with a server that does not read.
            writable = loop.create_future()
            loop.add_writer(self._socket, _settle, writable)
            try:
                await writable
            finally:
                if not self._closed:
                    loop.remove_writer(self._socket)
            if self.error is not None:
                raise self.error
            done = self._writer.flush()

    async def _answer(self) -> Message:
        while True:
            message = self._reader.read()
            if message is not None:
                return message
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
            if self.error is not None:
                raise self.error

    def _on_readable(self) -> None:
        if self._readable is not None:
            _settle(self._readable)
            return
        # Nobody waits for an answer, so this is the end of the connection, or a message that nobody has asked for.
        try:
            message = self._reader.read()
        except FtlError as error:
            self._fail(PathError(f"{self.peer}: {error.message}"))
            return
        if message is not None:
            message.close()
            self._fail(ProtocolError(f"{self.peer}: it sends a message that is no answer"))

    # --- ending -----------------------------------------------------------------------------------------------------

    def _fail(self, error: FtlError) -> FtlError:
        """Ends the connection. Returns the error, for raise."""
        if self.error is None:
            self.error = error
            self.lost.set()
        self.close()
        return error

    def close(self) -> None:
        """Idempotent. The server ends the controller when it notices."""
        if self._closed:
            return
        self._closed = True
        if self.error is None:
            self.error = PathError(f"{self.peer}: the connection is closed")
            self.lost.set()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        if self._readable is not None:
            _settle(self._readable)
        self._reader.close()
        self._socket.close()


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def close_areas(areas: list[MappableArea]) -> None:
    close_all(area.fd for area in areas)
