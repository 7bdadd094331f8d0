"""Limits on what one peer may use of a target: connections, controllers and I/O queues by address and by host NQN, and
the time until its Connect, and until it is authenticated if it has to be.

An address is an IPv4 address, or the /64 of an IPv6 address: who has one address of a /64 has them all.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Final, Protocol

from ...errors import ParameterError
from ..tcp import Budget

IO_QUEUES_ALWAYS: Final = 8
"""The I/O queues that a host may always have, however few there are for all."""


@dataclass(frozen=True)
class PeerLimits:
    """Each is a whole number, 1 at least. Beyond a limit, Connect answers "busy, try again"."""

    half_open: int = 256
    """Connections without a Connect, or without the required authentication. One more closes the oldest connection of
    the address that has most."""
    half_open_per_address: int = 64
    """One more closes the oldest of that address."""
    handshake_s: int = 10
    """From accept to a successful Connect, and to the authentication of a host that needs it."""
    handshake_pdus: int = 64
    handshake_bytes: int = 64 << 10
    controllers_per_address: int = 64
    """For each FTL, like all that follow."""
    controllers_per_host: int = 32
    """By host NQN."""
    discovery_controllers: int = 256
    discovery_per_address: int = 32
    io_queues: int = 1024
    """If a subsystem has no limit of its own (an FTL has: max_io_channels)."""
    io_queues_per_address_percent: int = 75
    """Percentage of those of the FTL, but at least IO_QUEUES_ALWAYS."""
    io_queues_per_host_percent: int = 50
    kato_ms_min: int = 1000
    """A shorter keep-alive timeout is raised to this."""
    kato_ms_max: int = 600_000
    """A longer one is refused."""
    no_keep_alive: int = 0
    """1: a host may disable the keep-alive (a timeout of 0). A controller whose host has vanished then stays for
    ever."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "no_keep_alive" else 1
            most = 100 if field.name.endswith("_percent") else 1 if field.name == "no_keep_alive" else 1 << 31
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ParameterError(f"limit {field.name} is {value!r}, must be a whole number within {least}..{most}")
        if self.kato_ms_min > self.kato_ms_max:
            raise ParameterError(f"limit kato_ms_min {self.kato_ms_min} is above kato_ms_max {self.kato_ms_max}")

    @classmethod
    def parse(cls, settings: Iterable[str]) -> PeerLimits:
        """From strings NAME=VALUE, in which - may replace _. Raises ParameterError."""
        names = [field.name for field in fields(cls)]
        given: dict[str, int] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            name = name.strip().replace("-", "_")
            if name not in names:
                raise ParameterError(f"limit {name[:40]!r}: no such limit: use one of {', '.join(names)}")
            if not value.isascii() or not value.isdecimal() or len(value) > 10:
                raise ParameterError(f"limit {name}: {value[:40]!r} is not a whole number")
            given[name] = int(value)
        return cls(**given)

    def budget(self) -> Budget:
        """For one connection while it is half open."""
        return Budget(pdus=self.handshake_pdus, octets=self.handshake_bytes)

    def io_queues_of_host(self, total: int) -> int:
        return _part(total, self.io_queues_per_host_percent)

    def io_queues_of_address(self, total: int) -> int:
        return _part(total, self.io_queues_per_address_percent)

    def kato_allowed(self, kato_ms: int) -> bool:
        return kato_ms <= self.kato_ms_max and (kato_ms > 0 or bool(self.no_keep_alive))

    def kato_ms(self, asked_ms: int) -> int:
        return max(asked_ms, self.kato_ms_min) if asked_ms else 0


class Association(Protocol):
    """What counts for a controller."""

    @property
    def hostnqn(self) -> str: ...
    @property
    def address(self) -> str: ...


def address_of(peer: str) -> str:
    """What counts as one address."""
    try:
        parsed = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        if not parsed.is_loopback:
            return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class HalfOpen:
    """Connections between accept and Connect, or authentication. New ones always get in, at the cost of the oldest."""

    def __init__(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._tasks: dict[asyncio.Task[None], str] = {}
        """Oldest first, with their addresses."""
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tasks)

    def has(self, task: asyncio.Task[None]) -> bool:
        return task in self._tasks

    def add(self, task: asyncio.Task[None], address: str) -> None:
        """The task serves the connection; it is cancelled to make room."""
        if self._addresses[address] >= self._limits.half_open_per_address:
            self._evict(address)
        elif len(self._tasks) >= self._limits.half_open:
            self._evict(self._addresses.most_common(1)[0][0])
        self._tasks[task] = address
        self._addresses[address] += 1

    def done(self, task: asyncio.Task[None]) -> None:
        """Idempotent."""
        address = self._tasks.pop(task, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def _evict(self, address: str) -> None:
        oldest = next((task for task, other in self._tasks.items() if other == address), None)
        if oldest is not None:
            self.done(oldest)
            oldest.cancel()


def room_for_controller(
    limits: PeerLimits, there: Iterable[Association], *, address: str, hostnqn: str, is_own: Callable[[str], bool]
) -> bool:
    """is_own: the host NQN of the SPDK target itself, which no limit keeps out."""
    if is_own(hostnqn):
        return True
    others = [each for each in there if not is_own(each.hostnqn)]
    return (
        sum(each.address == address for each in others) < limits.controllers_per_address
        and sum(each.hostnqn == hostnqn for each in others) < limits.controllers_per_host
    )


def room_for_discovery(limits: PeerLimits, there: Iterable[Association], *, address: str) -> bool:
    addresses = [each.address for each in there]
    return len(addresses) < limits.discovery_controllers and addresses.count(address) < limits.discovery_per_address


def room_for_io_queue(
    limits: PeerLimits, queues: Iterable[tuple[Association, int]], total: int, *, newcomer: Association,
    is_own: Callable[[str], bool],
) -> bool:  # fmt: skip
    """queues: how many each controller has."""
    if is_own(newcomer.hostnqn):
        return True
    others = [(each, count) for each, count in queues if not is_own(each.hostnqn)]
    of_host = sum(count for each, count in others if each.hostnqn == newcomer.hostnqn)
    of_address = sum(count for each, count in others if each.address == newcomer.address)
    return of_host < limits.io_queues_of_host(total) and of_address < limits.io_queues_of_address(total)


def _part(total: int, percent: int) -> int:
    return min(total, max(IO_QUEUES_ALWAYS, total * percent // 100))
