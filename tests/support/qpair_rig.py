"""Qpairs over socketpairs on one reactor, driven step by step or by its thread."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from spdk_ftl_py import _shim

from .pdus import NO_DIGESTS, Digests, Pdu, split

PATIENCE_S = 20.0
IDLE_ROUNDS = 8


@dataclass
class Done:
    status: int
    result: int


@dataclass
class Driver:
    """Makes things happen and collects events."""

    threaded: bool = False
    reactor: _shim.Reactor = field(default_factory=lambda: _shim.Reactor("rig"))
    done: dict[int, Done] = field(default_factory=dict)
    events: list[_shim.Event] = field(default_factory=list)

    def collect(self) -> None:
        for event in self.reactor.events():
            if event.kind == _shim.EventKind.IO_DONE:
                self.done[event.ticket] = Done(event.status, event.result)
            else:
                self.events.append(event)

    def until(self, condition: Callable[[], bool]) -> None:
        """Goes on until the condition holds; AssertionError when it never does."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            self.collect()
            if condition():
                return
            assert time.monotonic() < give_up, "what was waited for never came"
            if self.threaded:
                select.select([self.reactor.event_fd], [], [], 0.02)
            else:
                self.reactor.step()

    def settle(self) -> None:
        """Step mode: until nothing moves any more."""
        idle = 0
        while idle < IDLE_ROUNDS:
            idle = 0 if self.reactor.step() else idle + 1
        self.collect()


@dataclass
class Rig(Driver):
    """HostQpair and TargetQpair joined, an IoPort on top."""

    host: _shim.HostQpair = field(init=False)
    target: _shim.TargetQpair = field(init=False)
    port: _shim.IoPort = field(init=False)

    def submit(self, op: _shim.Op, *args: Any, **kwargs: Any) -> int:
        return self.port.submit(op, *args, **kwargs)

    def wait(self, *tickets: int) -> list[Done]:
        self.until(lambda: all(ticket in self.done for ticket in tickets))
        return [self.done.pop(ticket) for ticket in tickets]

    def run(self, op: _shim.Op, *args: Any, **kwargs: Any) -> Done:
        return self.wait(self.submit(op, *args, **kwargs))[0]

    def ok(self, op: _shim.Op, *args: Any, **kwargs: Any) -> int:
        done = self.run(op, *args, **kwargs)
        assert done.status == 0, f"status {done.status:#x}"
        return done.result

    def read(self, lba: int, blocks: int = 1) -> bytes:
        buffer = bytearray(blocks * self.host.block_bytes)
        self.ok(_shim.Op.READ, lba, blocks, buffer)
        return bytes(buffer)

    def write(self, lba: int, data: bytes, **kwargs: Any) -> None:
        self.ok(_shim.Op.WRITE, lba, len(data) // self.host.block_bytes, data, **kwargs)


def host_options(device: _shim.BlockDevice, digests: Digests = NO_DIGESTS, **changes: Any) -> dict[str, Any]:
    return {
        "queue_depth": 31,
        "nsid": 1,
        "header_digest": digests.header,
        "data_digest": digests.data,
        "max_h2c_data": 131072,
        "in_capsule_bytes": 4096,
        "block_count": device.block_count,
        "block_bytes": device.block_bytes - device.metadata_bytes,
        "metadata_bytes": device.metadata_bytes,
        "max_io_bytes": 131072,
        "max_append_bytes": device.max_append_blocks * device.block_bytes,
        "volatile_cache": device.volatile_cache,
        "zoned": device.zoned,
        "zone_size": device.zone_size,
        "zone_capacity": device.zone_capacity,
        **changes,
    }


@contextmanager
def joined(
    make_device: Callable[[_shim.Reactor], _shim.BlockDevice],
    *,
    digests: Digests = NO_DIGESTS,
    threaded: bool = False,
    host: dict[str, Any] | None = None,
    target: dict[str, Any] | None = None,
) -> Iterator[tuple[Rig, Any]]:
    rig = Rig(threaded=threaded)
    device = make_device(rig.reactor)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options: dict[str, Any] = {"queue_size": 32, "namespaces": {1: device}, **(target or {})}
        rig.target = _shim.TargetQpair(
            rig.reactor, ours.fileno(), header_digest=digests.header, data_digest=digests.data, **options
        )
        rig.host = _shim.HostQpair(rig.reactor, theirs.fileno(), **host_options(device, digests, **(host or {})))
    rig.port = _shim.IoPort(rig.reactor, rig.host, 256)
    if threaded:
        rig.reactor.start()
    try:
        yield rig, device
    finally:
        rig.port.close()
        rig.host.close()
        rig.target.close()
        rig.reactor.stop()


@dataclass
class Peer(Driver):
    """One qpair under test, this process at the other end of its socket."""

    digests: Digests = NO_DIGESTS
    socket: socket.socket = field(init=False)
    rest: bytes = b""
    ended: bool = False

    def exchange(self, *raw: bytes) -> list[Pdu]:
        """Sends, lets the qpair work, returns the whole PDUs that came back."""
        for piece in raw:
            view = memoryview(piece)
            while view:
                try:
                    view = view[self.socket.send(view) :]
                except BlockingIOError:
                    self._pull()
                    self.reactor.step()
        return self.pdus()

    def pdus(self) -> list[Pdu]:
        """Empty when nothing, or nothing whole, has come."""
        while True:
            self.settle()
            if not self._pull():
                break
        out, self.rest = split(self.rest, self.digests)
        return out

    def _pull(self) -> bool:
        pulled = False
        while not self.ended:
            try:
                piece = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.ended = True
                break
            self.ended = not piece
            self.rest += piece
            pulled = True
        return pulled

    def hang_up(self) -> None:
        self.socket.close()
        self.settle()


@contextmanager
def target_peer(
    make_device: Callable[[_shim.Reactor], _shim.BlockDevice], *, digests: Digests = NO_DIGESTS, **options: Any
) -> Iterator[tuple[Peer, _shim.TargetQpair, Any]]:
    peer = Peer(digests=digests)
    device = make_device(peer.reactor)
    ours, peer.socket = socket.socketpair()
    peer.socket.setblocking(False)
    with ours:
        settings: dict[str, Any] = {"queue_size": 8, "namespaces": {1: device}, "in_capsule_bytes": 8192, **options}
        qpair = _shim.TargetQpair(
            peer.reactor, ours.fileno(), header_digest=digests.header, data_digest=digests.data, **settings
        )
    try:
        yield peer, qpair, device
    finally:
        peer.socket.close()
        qpair.close()


@contextmanager
def host_peer(*, digests: Digests = NO_DIGESTS, **options: Any) -> Iterator[tuple[Peer, _shim.HostQpair, _shim.IoPort]]:
    peer = Peer(digests=digests)
    ours, peer.socket = socket.socketpair()
    peer.socket.setblocking(False)
    settings: dict[str, Any] = {
        "queue_depth": 8, "nsid": 1, "max_h2c_data": 131072, "in_capsule_bytes": 4096, "block_count": 1 << 40,
        "max_io_bytes": 131072, "volatile_cache": True, **options,
    }  # fmt: skip
    with ours:
        qpair = _shim.HostQpair(
            peer.reactor, ours.fileno(), header_digest=digests.header, data_digest=digests.data, **settings
        )
    port = _shim.IoPort(peer.reactor, qpair, 64)
    try:
        yield peer, qpair, port
    finally:
        qpair.close()
        port.close()
        peer.socket.close()
