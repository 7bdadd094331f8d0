"""Listening sockets of exports that the service manager keeps, so that nobody else can take their ports while no daemon
runs. Hosts that connect meanwhile are queued for the next daemon."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection
from typing import Final
from uuid import UUID

from ..runtime.service_manager import ServiceManager

PREFIX: Final = "export-"


class ExportSockets:
    """The limit of FTLs with a kept socket. The daemon holds the sockets too, because a kept address can't be bound
    again."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._held: dict[UUID, socket.socket] = {}
        for name, sock in manager.take_all(PREFIX).items():
            device = _uuid(name[len(PREFIX) :])
            if device is None:
                sock.close()
                manager.forget(name)
            else:
                self._held[device] = sock

    def at(self, device: UUID, traddr: str, port: int) -> socket.socket | None:
        """The kept socket for that address, if there is one; the caller closes it. A socket that was kept for another
        address is given up."""
        held = self._held.get(device)
        if held is None:
            return None
        if is_at(held, traddr, port):
            return _dup(held)
        self.forget(device)
        return None

    def has(self, traddr: str, port: int) -> bool:
        """Whether the socket of any FTL is kept for that address."""
        return any(is_at(held, traddr, port) for held in self._held.values())

    def keep(self, device: UUID, listening: socket.socket) -> None:
        """Keeps the socket until it is forgotten."""
        if self._manager.is_there and device not in self._held:
            self._held[device] = _dup(listening)
            self._manager.keep(f"{PREFIX}{device}", listening)

    def forget(self, device: UUID) -> None:
        """Idempotent."""
        held = self._held.pop(device, None)
        if held is not None:
            held.close()
        self._manager.forget(f"{PREFIX}{device}")

    def keep_only(self, devices: Collection[UUID]) -> None:
        """The other FTLs no longer exist."""
        for device in self._held.keys() - devices:
            self.forget(device)
        self._manager.forget_others(PREFIX, {f"{PREFIX}{device}" for device in devices})

    def close(self) -> None:
        """Closes the daemon's sockets; the service manager keeps them. Idempotent."""
        while self._held:
            self._held.popitem()[1].close()


def _dup(sock: socket.socket) -> socket.socket:
    copy = sock.dup()
    copy.setblocking(False)
    return copy


def _uuid(text: str) -> UUID | None:
    with contextlib.suppress(ValueError):
        return UUID(text)
    return None


def is_at(sock: socket.socket, traddr: str, port: int) -> bool:
    """Whether it listens there."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    host, bound = sock.getsockname()[:2]
    try:
        return bool(bound == port) and ipaddress.ip_address(host) == ipaddress.ip_address(traddr)
    except ValueError:
        return False
