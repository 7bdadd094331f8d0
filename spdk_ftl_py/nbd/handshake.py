"""The server's side of NBD's fixed newstyle handshake, on a non-blocking socket.

It reads exact lengths: when the handshake ends, every byte that the client has sent since is still in the socket, for
the shim. The caller limits the time. Data of options is bounded, and so is their number.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Final

from .. import _shim
from ..errors import ProtocolError
from . import wire
from .export import NbdExport
from .wire import HandshakeFlag, Info, Option, Reply

OPTIONS_MAX: Final = 64
DATA_MAX: Final = 3 * wire.STRING_MAX
"""Bytes of an option that are looked at; the data of a longer option is dropped, and the option refused."""
DROP_MAX: Final = 1 << 16
"""A client that announces more is disconnected."""


@dataclass(frozen=True)
class Agreed:
    """What a handshake that leads to transmission has agreed on."""

    block_count: int
    structured_replies: bool


class _Refused(Exception):
    def __init__(self, reply: Reply, reason: str) -> None:
        super().__init__(reason)
        self.reply = reply
        self.reason = reason


class Handshake:
    """run() once."""

    def __init__(self, sock: socket.socket, export: NbdExport) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._export = export
        self._structured = False
        self._no_zeroes = False

    async def run(self) -> Agreed | None:
        """None: the client ended it in order. Raises ProtocolError if the client violates the protocol, or leaves, and
        OSError."""
        await self._send(
            wire.HELLO.pack(wire.MAGIC, wire.OPTION_MAGIC, HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        )
        (flags,) = wire.CLIENT_FLAGS.unpack(await self._receive(wire.CLIENT_FLAGS.size))
        if flags & ~int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES):
            raise ProtocolError(f"client flags {flags:#x} are unknown")
        self._no_zeroes = bool(flags & HandshakeFlag.NO_ZEROES)
        fixed = bool(flags & HandshakeFlag.FIXED_NEWSTYLE)
        for _ in range(OPTIONS_MAX):
            magic, option, length = wire.OPTION.unpack(await self._receive(wire.OPTION.size))
            if magic != wire.OPTION_MAGIC:
                raise ProtocolError("an option does not begin with IHAVEOPT")
            if length > DROP_MAX:
                raise ProtocolError(f"an option has {length} bytes of data")
            data = await self._receive(length)
            if option == Option.EXPORT_NAME:
                return await self._export_name(data)
            if not fixed:
                raise ProtocolError("the client does not speak the fixed newstyle, and sends other options")
            if option == Option.ABORT:
                await self._reply(option, Reply.ACK)
                return None
            try:
                if length > DATA_MAX:
                    raise _Refused(Reply.ERR_TOO_BIG, "the option has too much data")
                agreed = await self._answer(option, data)
            except _Refused as refused:
                await self._reply(option, refused.reply, refused.reason.encode())
                continue
            if agreed is not None:
                return agreed
        raise ProtocolError(f"more than {OPTIONS_MAX} options")

    async def _answer(self, option: int, data: bytes) -> Agreed | None:
        if option in (Option.GO, Option.INFO):
            return await self._go(option, data)
        if option == Option.LIST:
            _require_empty(data)
            name = self._export.name().encode()
            await self._reply(option, Reply.SERVER, wire.U32.pack(len(name)) + name)
        elif option == Option.STRUCTURED_REPLY:
            _require_empty(data)
            if self._structured:
                raise _Refused(Reply.ERR_INVALID, "structured replies are negotiated already")
            self._structured = True
        elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            # No context is supported: nothing is offered, and nothing selected.
            self._check_queries(data)
        elif option == Option.STARTTLS:
            raise _Refused(Reply.ERR_UNSUP, "the socket's permissions protect it, and there is no TLS")
        else:
            raise _Refused(Reply.ERR_UNSUP, "the option is not supported")
        await self._reply(option, Reply.ACK)
        return None

    async def _export_name(self, data: bytes) -> Agreed:
        if not self._export.answers_to(_text(data)):
            # This option has no error reply.
            raise ProtocolError("the client asks for an export that does not exist")
        agreed = self._agree()
        padding = b"" if self._no_zeroes else bytes(wire.EXPORT_NAME_PADDING)
        await self._send(wire.EXPORT_NAME_REPLY.pack(self._bytes_of(agreed), self._flags()) + padding)
        return agreed

    async def _go(self, option: int, data: bytes) -> Agreed | None:
        fields = _Fields(data)
        name = fields.string()
        wanted = [fields.u16() for _ in range(fields.u16())]
        fields.end()
        self._require_export(name)
        agreed = self._agree()
        parts = [wire.INFO_EXPORT.pack(Info.EXPORT, self._bytes_of(agreed), self._flags())]
        block = self._export.device.block_bytes
        # Also unasked: a client that does not align its requests gets EINVAL for them.
        parts.append(wire.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, block, max(block, 4096), _shim.NBD_REQUEST_BYTES_MAX))
        if Info.NAME in wanted:
            parts.append(wire.U16.pack(Info.NAME) + self._export.name().encode())
        if Info.DESCRIPTION in wanted and self._export.description:
            parts.append(wire.U16.pack(Info.DESCRIPTION) + self._export.description.encode()[: wire.STRING_MAX])
        for part in parts:
            await self._reply(option, Reply.INFO, part)
        await self._reply(option, Reply.ACK)
        return agreed if option == Option.GO else None

    def _check_queries(self, data: bytes) -> None:
        if not self._structured:
            raise _Refused(Reply.ERR_INVALID, "metadata contexts need structured replies")
        fields = _Fields(data)
        name = fields.string()
        for _ in range(fields.u32()):
            fields.string()
        fields.end()
        self._require_export(name)

    def _require_export(self, name: str) -> None:
        if not self._export.answers_to(name):
            raise _Refused(Reply.ERR_UNKNOWN, "there is no export of that name")

    def _agree(self) -> Agreed:
        return Agreed(self._export.device.block_count, self._structured)

    def _bytes_of(self, agreed: Agreed) -> int:
        return agreed.block_count * self._export.device.block_bytes

    def _flags(self) -> int:
        return self._export.flags(structured_replies=self._structured)

    async def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = await self._loop.sock_recv(self._sock, length - len(data))
            if not part:
                raise ProtocolError("the client left during the handshake")
            data += part
        return bytes(data)

    async def _reply(self, option: int, reply: Reply, data: bytes = b"") -> None:
        await self._send(wire.REPLY.pack(wire.REPLY_MAGIC, option, reply, len(data)) + data)

    async def _send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)


class _Fields:
    """The data of an option, read from its beginning. Raises _Refused."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def u16(self) -> int:
        return int(wire.U16.unpack(self._take(wire.U16.size))[0])

    def u32(self) -> int:
        return int(wire.U32.unpack(self._take(wire.U32.size))[0])

    def string(self) -> str:
        length = self.u32()
        if length > wire.STRING_MAX:
            raise _Refused(Reply.ERR_INVALID, "a string is too long")
        return _text(bytes(self._take(length)))

    def end(self) -> None:
        if self._data:
            raise _Refused(Reply.ERR_INVALID, "the option has data behind its end")

    def _take(self, length: int) -> memoryview:
        if len(self._data) < length:
            raise _Refused(Reply.ERR_INVALID, "the option has too little data")
        taken, self._data = self._data[:length], self._data[length:]
        return taken


def _text(data: bytes) -> str:
    # A name that is not UTF-8 is no export's.
    return data.decode("utf-8", errors="replace")


def _require_empty(data: bytes) -> None:
    if data:
        raise _Refused(Reply.ERR_INVALID, "the option must have no data")
