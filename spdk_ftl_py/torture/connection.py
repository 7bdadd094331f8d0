"""One NVMe/TCP I/O queue with both ends in one process: the end that serves a device, and the device as its host sees
it."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from typing import Final

from .. import _shim
from ..runtime.reactor import ReactorLoop

NSID: Final = 1
PAGE_BYTES: Final = 4096
TAKEN_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True)
class Terms:
    """The parameters on which both ends agree, and the size of the kernel's buffers between them."""

    queue_depth: int
    header_digest: bool
    data_digest: bool
    in_capsule_bytes: int
    max_h2c_data: int
    success_flag: bool
    send_buffer_bytes: int
    """0: the kernel's default. With a small buffer, PDUs are sent and received in parts."""
    host_first: bool
    """The host is polled first. Then responses instead of commands are in flight between two steps of the reactor."""

    @classmethod
    def choose(cls, rng: random.Random) -> Terms:
        digests = rng.choice(((False, False), (False, False), (True, True), (True, False), (False, True)))
        return cls(
            queue_depth=rng.choice((4, 16, 128, 128)),
            header_digest=digests[0],
            data_digest=digests[1],
            in_capsule_bytes=rng.choice((0, 4096, 8192)),
            max_h2c_data=rng.choice((4096, 12288, 131072)),
            success_flag=rng.random() < 0.7,
            send_buffer_bytes=rng.choice((0, 0, 8192, 32768)),
            host_first=rng.random() < 0.5,
        )


class Connection:
    """A connection after Connect. ``device`` is the host's end.

    If either end loses the connection (``drop()``, ``hang_up()``), the target still completes the commands that it has
    begun. Then the connection is ``landed``, and must be closed.
    """

    def __init__(
        self,
        reactor: ReactorLoop,
        device: _shim.BlockDevice,
        terms: Terms,
        *,
        max_io_bytes: int,
        client: ReactorLoop | None = None,
    ) -> None:
        """client: the reactor of the host's end, if that is another one."""
        client = client or reactor
        self.is_covered = terms.header_digest and terms.data_digest
        """Digests cover every bit."""
        self.harmed = False
        """The connection was dropped, or a bit was flipped, so it may be lost."""
        self._ours, self._theirs = socket.socketpair()
        if terms.send_buffer_bytes:
            for each in (self._ours, self._theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, terms.send_buffer_bytes)
        max_io_bytes = (max_io_bytes + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
        self._terms, self._max_io_bytes = terms, max_io_bytes
        if terms.host_first:
            self.device = self._host_end(client, device)
            self._target = self._target_end(reactor, device)
        else:
            self._target = self._target_end(reactor, device)
            self.device = self._host_end(client, device)

    def _target_end(self, reactor: ReactorLoop, device: _shim.BlockDevice) -> _shim.TargetQpair:
        terms = self._terms
        return _shim.TargetQpair(
            reactor.shim,
            self._theirs.fileno(),
            queue_size=terms.queue_depth + 1,
            header_digest=terms.header_digest,
            data_digest=terms.data_digest,
            namespaces={NSID: device},
            max_io_bytes=self._max_io_bytes,
            in_capsule_bytes=terms.in_capsule_bytes,
            max_h2c_data=terms.max_h2c_data,
            success_flag=terms.success_flag,
        )

    def _host_end(self, reactor: ReactorLoop, device: _shim.BlockDevice) -> _shim.HostQpair:
        terms = self._terms
        return _shim.HostQpair(
            reactor.shim,
            self._ours.fileno(),
            queue_depth=terms.queue_depth,
            nsid=NSID,
            header_digest=terms.header_digest,
            data_digest=terms.data_digest,
            max_h2c_data=terms.max_h2c_data,
            in_capsule_bytes=terms.in_capsule_bytes,
            block_count=device.block_count,
            block_bytes=device.block_bytes - device.metadata_bytes,
            metadata_bytes=device.metadata_bytes,
            max_io_bytes=self._max_io_bytes,
            max_append_bytes=device.max_append_blocks * device.block_bytes,
            volatile_cache=device.volatile_cache,
            zoned=device.zoned,
            zone_size=device.zone_size,
            zone_capacity=device.zone_capacity,
            max_open_zones=device.max_open_zones,
            max_active_zones=device.max_active_zones,
        )

    @property
    def lost(self) -> bool:
        """The host has noticed the loss."""
        return not self.device.connected

    @property
    def landed(self) -> bool:
        """Both ends have lost the connection, and none of its commands is in progress."""
        return self.lost and self._target.drained

    def drop(self, *, hard: bool) -> None:
        """Closes the connection at both ends. hard: everything in flight in either direction is lost as well."""
        self.harmed = True
        if hard:
            for each in (self._ours, self._theirs):
                _take(each)
        self._ours.shutdown(socket.SHUT_RDWR)

    def flip(self, rng: random.Random) -> bool:
        """Flips a bit in flight. Returns False if nothing is in flight."""
        ends = [(self._ours, self._theirs), (self._theirs, self._ours)]
        rng.shuffle(ends)
        for sender, receiver in ends:
            taken = _take(receiver)
            if taken:
                self.harmed = True
                taken[rng.randrange(len(taken))] ^= 1 << rng.randrange(8)
                # Nothing else runs meanwhile, so this has the same effect as if they had stayed in the socket.
                if sender.send(taken, socket.MSG_DONTWAIT) < len(taken):
                    self.drop(hard=True)
                return True
        return False

    def hang_up(self) -> None:
        """The host's process has ended. Data that it has sent still arrives."""
        self.device.close()

    def close(self) -> None:
        """The connection must be landed."""
        self._target.close()
        self.device.close()
        self._ours.close()
        self._theirs.close()


def _take(sock: socket.socket) -> bytearray:
    """Takes everything that has arrived and was not read yet."""
    taken = bytearray()
    try:
        while part := sock.recv(TAKEN_AT_ONCE, socket.MSG_DONTWAIT):
            taken += part
    except OSError:
        pass
    return taken
