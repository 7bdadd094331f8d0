"""An endpoint: answers the messages of one client after the other, and gives its backend the work.

It knows no NVMe besides the registers, and needs no shim. A keeper has an endpoint, and so has a target without
keepers. The endpoint trusts nothing that a client sends: a fault ends the connection, and the next client is accepted.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from ...errors import FtlError, ProtocolError
from .. import wire
from ..fd_socket import Message, MessageReader, MessageWriter, close_all
from ..wire import Command, Header
from .client_state import ClientState, Region, RegionError, check_region, make_bar0
from .pci_config import CONFIG_BYTES, PciConfig
from .registers import BAR0_BYTES, REGISTER_BYTES, Registers, Step

MESSAGE_TIMEOUT_S: Final = 10.0
"""From the first byte of a message to its last, and from the connection to the first message."""
REPLY_TIMEOUT_S: Final = 10.0
"""Until a client has taken a reply."""
ACCEPT_AGAIN_S: Final = 0.5
"""Until a process that had no room for another connection tries again."""
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_DATA_MAX: Final = wire.PAYLOAD_BYTES_MAX - wire.REGION_ACCESS.size
_CAPABILITIES: Final = {"max_msg_fds": wire.FDS_MAX, "max_data_xfer_size": _DATA_MAX}


class Timer(Protocol):
    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of an event loop that an endpoint uses: of asyncio's, or of the keeper's."""

    def add_reader(self, fd: Any, callback: Callable[..., Any], /, *args: Any) -> None: ...
    def remove_reader(self, fd: Any, /) -> Any: ...
    def add_writer(self, fd: Any, callback: Callable[..., Any], /, *args: Any) -> None: ...
    def remove_writer(self, fd: Any, /) -> Any: ...
    def call_later(self, delay: float, callback: Callable[..., Any], /, *args: Any) -> Timer: ...


def accepted(loop: Loop, listening: socket.socket, again: Callable[[], object]) -> socket.socket | None:
    """The next connection. None: there is none, or no room for it. A connection without room stays in the backlog, and
    the socket readable, so nobody watches it for a while; then again() is called, which has to."""
    try:
        return listening.accept()[0]
    except OSError as error:
        if error.errno in _NO_ROOM:
            loop.remove_reader(listening)
            loop.call_later(ACCEPT_AGAIN_S, again)
        return None


class Backend(Protocol):
    """The controller, in this process or another. It calls Endpoint.done() when work with a ticket has ended."""

    def came(self, client: ClientState) -> None:
        """A client has connected."""

    def map(self, ticket: int, region: Region) -> None: ...
    def unmap(self, ticket: int, region: Region) -> None: ...
    def step(self, ticket: int, step: Step, client: ClientState) -> None: ...
    def gone(self, ticket: int, client: ClientState) -> None:
        """The client has left: nothing of it may be used when this is done."""


class Nobody:
    """The backend while there is no controller: whatever can be done without one is done at once. No queue is served,
    so no memory is in use, and the next controller finds the registers as they are. (Registers.hold() sees to it that
    no step is to enable it.)"""

    def __init__(self, done: Callable[[int], object]) -> None:
        self._done = done

    def came(self, client: ClientState) -> None: ...

    def map(self, ticket: int, region: Region) -> None:
        self._done(ticket)

    def unmap(self, ticket: int, region: Region) -> None:
        self._done(ticket)

    def step(self, ticket: int, step: Step, client: ClientState) -> None:
        self._done(ticket)

    def gone(self, ticket: int, client: ClientState) -> None:
        self._done(ticket)


class Endpoint:
    """Accepts clients on a listening socket until close()."""

    def __init__(
        self, loop: Loop, listening: socket.socket, cap: Callable[[], int], log: Callable[[str], object]
    ) -> None:
        """listening: stays the caller's. cap: the register CAP for the next client. log: gets a line for what should be
        known."""
        self._loop = loop
        self._listening = listening
        self._cap = cap
        self._log = log
        self.backend: Backend = Nobody(self.done)
        """Change it with set_backend()."""
        self.client: ClientState | None = None
        self.on_idle: Callable[[], object] = lambda: None
        """Called when a client has gone."""
        self._clients = 0
        self._connection: _Connection | None = None
        self._tickets = 0
        self._step_ticket = 0
        """Of the step that runs."""
        self._waiting: dict[int, Callable[[int], None]] = {}
        """What the backend has not done yet."""
        self._closed = False
        self._accepting = True
        loop.add_reader(listening, self._accept)

    # --- backend ----------------------------------------------------------------------------------------------------

    def set_backend(self, backend: Backend | None) -> None:
        """None: there is no backend. Work that the last backend has not ended counts as done, because that backend uses
        nothing any more. Only an Enable waits for the next backend."""
        self.backend = Nobody(self.done) if backend is None else backend
        if self.client is not None:
            if backend is None and self.client.registers.running is Step.ENABLE:
                del self._waiting[self._step_ticket]
            self.client.registers.hold(backend is None)
        if backend is None:
            for ticket in list(self._waiting):
                self.done(ticket)

    def done(self, ticket: int, error: int = 0) -> None:
        """error: an errno; 0: it was done. Tickets that are not known are ignored."""
        then = self._waiting.pop(ticket, None)
        if then is not None:
            then(error)

    def _ticket(self, then: Callable[[int], None]) -> int:
        self._tickets += 1
        self._waiting[self._tickets] = then
        return self._tickets

    # --- clients ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        current = self._connection
        if current is not None and current.has_hung_up():
            current.end("the client has closed the connection")
        if self.client is not None and self._connection is None:
            # It is leaving. The next one waits in the backlog.
            self._loop.remove_reader(self._listening)
            self._accepting = False
            return
        sock = accepted(self._loop, self._listening, self._listen)
        if sock is None:
            return
        if self._connection is not None:
            self._log("a second client was refused: one is connected")
            sock.close()
            return
        try:
            bar0 = make_bar0()
        except OSError as error:
            self._log(f"a client was refused: {error.strerror}")
            sock.close()
            return
        sock.setblocking(False)
        self._clients += 1
        self.client = ClientState(self._clients, bar0, Registers(self._cap(), self._begin))
        self.client.registers.hold(isinstance(self.backend, Nobody))
        self._connection = _Connection(self._loop, sock, self.client, self)
        self.backend.came(self.client)

    def _begin(self, step: Step) -> None:
        client = self.client
        assert client is not None

        def finished(error: int) -> None:
            if self.client is client:
                if step is Step.DISABLE:
                    client.forget_queues()
                client.registers.finished(ok=not error)

        self._step_ticket = self._ticket(finished)
        self.backend.step(self._step_ticket, step, client)

    def connection_ended(self, client: ClientState, reason: str) -> None:
        """By the connection, once."""
        self._connection = None
        self._log(reason)
        # Whatever it waits for is without interest now.
        self._waiting.clear()

        def gone(_error: int) -> None:
            self.client = None
            client.close()
            if self._closed:
                return
            if not self._accepting:
                self._accepting = True
                self._loop.add_reader(self._listening, self._accept)
            self.on_idle()

        self.backend.gone(self._ticket(gone), client)

    def drop(self, reason: str) -> None:
        """Ends the client's connection."""
        if self._connection is not None:
            self._connection.end(reason)

    def close(self) -> None:
        """Ends the client's connection, whatever the backend does, and accepts no more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listening)
        self.drop("the endpoint was closed")

    def map(self, region: Region, done: Callable[[int], None]) -> None:
        """By the connection."""
        self.backend.map(self._ticket(done), region)

    def unmap(self, region: Region, done: Callable[[int], None]) -> None:
        self.backend.unmap(self._ticket(done), region)


class _Connection:
    """Of one client. Its messages are answered in their order."""

    def __init__(self, loop: Loop, sock: socket.socket, client: ClientState, endpoint: Endpoint) -> None:
        self._loop = loop
        self._socket = sock
        self._client = client
        self._endpoint = endpoint
        self._reader = MessageReader(sock)
        self._writer = MessageWriter(sock)
        self._config = PciConfig(BAR0_BYTES)
        self._agreed = False
        """The first message, VERSION, was answered."""
        self._busy = False
        """A message waits for its answer: no other is read."""
        self._ended = False
        self._timer: Timer | None = None
        self._arm(MESSAGE_TIMEOUT_S, "it sent no VERSION")
        loop.add_reader(sock, self._readable)

    # --- life -------------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._disarm()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._reader.close()
        self._socket.close()
        self._endpoint.connection_ended(self._client, reason)

    def has_hung_up(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def _arm(self, delay_s: float, why: str) -> None:
        self._disarm()
        self._timer = self._loop.call_later(delay_s, self.end, f"the client was disconnected: {why} in {delay_s:.0f} s")

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- messages ---------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            message = self._reader.read()
            if message is None:
                if self._agreed and self._reader.in_message and self._timer is None:
                    self._arm(MESSAGE_TIMEOUT_S, "it did not complete its message")
                return
            try:
                self._disarm()
                self._busy = True
                self._loop.remove_reader(self._socket)
                self._answer(message)
            finally:
                message.close()
        except FtlError as error:
            self.end(f"the client was disconnected: {error.message}")
        except OSError as error:
            # Such as: no descriptor is left.
            self.end(f"the client was disconnected: {error.strerror}")

    def _answer(self, message: Message) -> None:
        header, payload = message.header, message.payload
        if header.flags & wire.TYPE_MASK != wire.TYPE_COMMAND or header.flags & wire.ERROR:
            raise ProtocolError(f"a message with flags {header.flags:#x} is no command")
        if self._agreed == (header.command == Command.VERSION):
            raise ProtocolError(f"command {header.command}: VERSION must come first, and once")
        match header.command:
            case Command.VERSION:
                self._version(header, payload)
            case Command.DMA_MAP:
                self._dma_map(header, payload, message)
            case Command.DMA_UNMAP:
                self._dma_unmap(header, payload)
            case Command.DEVICE_GET_INFO:
                self._device_info(header, payload)
            case Command.DEVICE_GET_REGION_INFO:
                self._region_info(header, payload)
            case Command.DEVICE_GET_IRQ_INFO:
                self._irq_info(header, payload)
            case Command.REGION_READ:
                self._region_read(header, payload)
            case Command.REGION_WRITE:
                self._region_write(header, payload)
            case Command.DEVICE_RESET:
                self._client.registers.reset(lambda: self._reply(header))
            case Command.DEVICE_SET_IRQS:
                wire.unpack_start(wire.IRQ_SET, payload, header.command)
                self._reply(header, error=errno.EINVAL)  # there are no interrupts
            case _:
                self._reply(header, error=errno.ENOTSUP)

    def _reply(self, request: Header, payload: bytes = b"", descriptors: Sequence[int] = (), *, error: int = 0) -> None:
        if self._ended:
            return
        try:
            if request.wants_reply and not self._writer.write(
                wire.pack_reply(request, payload, error=error), descriptors
            ):
                self._arm(REPLY_TIMEOUT_S, "it did not take its reply")
                self._loop.add_writer(self._socket, self._writable)
                return
            self._next()
        except FtlError as fault:
            self.end(f"the client was disconnected: {fault.message}")

    def _writable(self) -> None:
        try:
            if self._writer.flush():
                self._disarm()
                self._loop.remove_writer(self._socket)
                self._next()
        except FtlError as fault:
            self.end(f"the client was disconnected: {fault.message}")

    def _next(self) -> None:
        self._busy = False
        self._loop.add_reader(self._socket, self._readable)

    def _version(self, header: Header, payload: bytes) -> None:
        major, minor, _ = wire.unpack_version(payload)
        if major != wire.MAJOR:
            raise ProtocolError(f"it speaks vfio-user {major}.{minor}, not {wire.MAJOR}.{wire.MINOR}")
        self._agreed = True
        self._reply(header, wire.pack_version(min(minor, wire.MINOR), _CAPABILITIES))

    # --- memory -----------------------------------------------------------------------------------------------------

    def _dma_map(self, header: Header, payload: bytes, message: Message) -> None:
        argsz, flags, offset, iova, size = wire.unpack_start(wire.DMA_MAP, payload, header.command)
        if len(message.descriptors) > 1:
            raise ProtocolError(f"DMA_MAP with {len(message.descriptors)} file descriptors")
        if argsz < wire.DMA_MAP.size or not flags & wire.DMA_READABLE or flags > wire.DMA_READABLE | wire.DMA_WRITABLE:
            self._reply(header, error=errno.EINVAL)
            return
        if not message.descriptors:
            # Only by messages to the client; nobody needs that.
            self._reply(header, error=errno.ENOTSUP)
            return
        client = self._client
        (descriptor,) = message.take_descriptors()
        region = Region(iova, size, descriptor, offset, bool(flags & wire.DMA_WRITABLE))
        try:
            check_region(iova, size, offset, descriptor, errno_invalid=errno.EINVAL)
            client.add_region(region, errno.EEXIST, errno.ENOSPC)
        except RegionError as error:
            os.close(descriptor)
            self._reply(header, error=error.errno)
            return

        def mapped(error: int) -> None:
            if error:
                del client.regions[iova]
                os.close(descriptor)
            self._reply(header, error=error)

        self._endpoint.map(region, mapped)

    def _dma_unmap(self, header: Header, payload: bytes) -> None:
        argsz, flags, iova, size = wire.unpack_start(wire.DMA_UNMAP, payload, header.command)
        client = self._client
        region = client.regions.get(iova)
        if argsz < wire.DMA_UNMAP.size or flags or region is None or region.size != size:
            self._reply(header, error=errno.EINVAL)
            return

        def unmapped(error: int) -> None:
            if not error:
                del client.regions[iova]
                close_all([region.descriptor])
            self._reply(header, wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, iova, size), error=error)

        self._endpoint.unmap(region, unmapped)

    # --- the device -------------------------------------------------------------------------------------------------

    def _device_info(self, header: Header, payload: bytes) -> None:
        argsz, *_ = wire.unpack_start(wire.DEVICE_INFO, payload, header.command)
        if argsz < wire.DEVICE_INFO.size:
            self._reply(header, error=errno.EINVAL)
            return
        flags = wire.DEVICE_FLAG_RESET | wire.DEVICE_FLAG_PCI
        self._reply(header, wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, flags, wire.REGION_COUNT, wire.IRQ_TYPE_COUNT))

    def _region_info(self, header: Header, payload: bytes) -> None:
        argsz, _, index, *_ = wire.unpack_start(wire.REGION_INFO, payload, header.command)
        if argsz < wire.REGION_INFO.size or index >= wire.REGION_COUNT:
            self._reply(header, error=errno.EINVAL)
            return
        access = wire.REGION_FLAG_READ | wire.REGION_FLAG_WRITE
        if index == wire.BAR0_REGION:
            areas = ((REGISTER_BYTES, BAR0_BYTES - REGISTER_BYTES),)
            info = wire.RegionInfo(index, BAR0_BYTES, access, areas).pack(argsz)
            # Without the room to say where, the descriptor says nothing.
            self._reply(header, info, [self._client.bar0] if len(info) > wire.REGION_INFO.size else [])
        elif index == wire.CONFIG_REGION:
            self._reply(header, wire.RegionInfo(index, CONFIG_BYTES, access).pack(argsz))
        else:
            self._reply(header, wire.RegionInfo(index).pack(argsz))

    def _irq_info(self, header: Header, payload: bytes) -> None:
        argsz, _, index, _ = wire.unpack_start(wire.IRQ_INFO, payload, header.command)
        if argsz < wire.IRQ_INFO.size or index >= wire.IRQ_TYPE_COUNT:
            self._reply(header, error=errno.EINVAL)
            return
        self._reply(header, wire.IRQ_INFO.pack(wire.IRQ_INFO.size, 0, index, 0))

    def _region_read(self, header: Header, payload: bytes) -> None:
        offset, region, count = wire.unpack_start(wire.REGION_ACCESS, payload, header.command)
        if not _within(region, offset, count):
            self._reply(header, error=errno.EINVAL)
            return
        if region == wire.CONFIG_REGION:
            data = self._config.read(offset, count)
        elif offset < REGISTER_BYTES:
            data = self._client.registers.read(offset, count)
        else:
            data = os.pread(self._client.bar0, count, offset)
        self._reply(header, wire.REGION_ACCESS.pack(offset, region, count) + data)

    def _region_write(self, header: Header, payload: bytes) -> None:
        offset, region, count = wire.unpack_start(wire.REGION_ACCESS, payload, header.command)
        data = payload[wire.REGION_ACCESS.size :]
        if len(data) != count:
            raise ProtocolError(f"a write of {count} bytes with {len(data)} bytes of data")
        if not _within(region, offset, count):
            self._reply(header, error=errno.EINVAL)
            return
        if region == wire.CONFIG_REGION:
            self._config.write(offset, data)
        elif offset < REGISTER_BYTES:
            self._client.registers.write(offset, data)
        else:
            os.pwrite(self._client.bar0, data, offset)
        self._reply(header, wire.REGION_ACCESS.pack(offset, region, count))


def _within(region: int, offset: int, count: int) -> bool:
    size = {wire.BAR0_REGION: BAR0_BYTES, wire.CONFIG_REGION: CONFIG_BYTES}.get(region, 0)
    crosses = region == wire.BAR0_REGION and offset < REGISTER_BYTES < offset + count
    return 0 < count <= _DATA_MAX and offset + count <= size and not crosses
