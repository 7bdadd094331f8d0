"""Which hosts a subsystem has, for whoever must know it after a crash: they may have been told more than was kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ... import _shim

log = logging.getLogger(__name__)

HOSTS_MAX: Final = 1024
"""Beyond it the one that connected first is forgotten: no host can make a list grow."""


@dataclass(frozen=True)
class HostKey:
    """Who a host is to NVMe-oF: its NQN and its host identifier (16 bytes)."""

    hostnqn: str
    hostid: bytes

    def to_record(self) -> list[str]:
        return [self.hostnqn, self.hostid.hex()]

    @classmethod
    def from_record(cls, record: object) -> HostKey:
        """Raises ValueError."""
        if isinstance(record, list) and len(record) == 2 and all(isinstance(part, str) for part in record):
            hostnqn, hostid = record
            return cls(hostnqn, bytes.fromhex(hostid))
        raise ValueError(f"{record!r} is no host")


class ConnectedHosts:
    """Hosts from their Connect until they shut down in order; a connection that breaks off ends nothing.

    A host that is owed an alarm gets one for all of its I/O queues: its first Flush fails. ``on_change`` is called,
    before the host has its answer, when what ``to_record()`` says has changed.
    """

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self.require_room: Callable[[], object] = lambda: None
        """Raises FtlError where no more hosts can be remembered."""
        self._hosts: dict[HostKey, None] = {}
        self._alarms: dict[HostKey, _shim.FlushAlarm] = {}

    @property
    def hosts(self) -> list[HostKey]:
        return list(self._hosts)

    @property
    def owed(self) -> list[HostKey]:
        """Those whose alarm has not gone off yet."""
        return [host for host, alarm in self._alarms.items() if alarm.armed]

    @property
    def alarmed(self) -> bool:
        """There are alarms that settle() has not seen go off."""
        return bool(self._alarms)

    def restore(self, record: object) -> None:
        """From what to_record() said in an earlier life; None says nothing. Raises ValueError."""
        if record is None:
            return
        if not isinstance(record, Mapping):
            raise ValueError("hosts are no mapping")
        self._hosts.update(dict.fromkeys(_hosts_of(record, "connected")))
        self._alarms.update({host: _shim.FlushAlarm() for host in _hosts_of(record, "owed")})

    def arrived(self, host: HostKey) -> None:
        """Raises what require_room or on_change raises; the host is not known then."""
        if host in self._hosts:
            return
        self.require_room()
        self._hosts[host] = None
        _forget_first(self._hosts)
        try:
            self._on_change()
        except BaseException:
            del self._hosts[host]
            raise

    def left(self, host: HostKey) -> None:
        """In order, and with no other association left. What it is owed, it stays owed."""
        if self._hosts.pop(host, self) is None:
            self._on_change()

    def alarm(self) -> list[HostKey]:
        """Every host's next Flush is to fail. Returns whose; those among them that are connected now have to be
        disconnected: their queues know nothing of it."""
        for host in self._hosts:
            self._alarms[host] = _shim.FlushAlarm()
        _forget_first(self._alarms)
        self._on_change()
        return self.hosts

    def alarm_of(self, host: HostKey) -> _shim.FlushAlarm | None:
        return self._alarms.get(host)

    def settle(self) -> None:
        """Forgets alarms that have gone off."""
        gone_off = [host for host, alarm in self._alarms.items() if not alarm.armed]
        for host in gone_off:
            del self._alarms[host]
            log.warning("host %s: its Flush has failed, since writes it had made before are lost", host.hostnqn)
        if gone_off:
            self._on_change()

    def flushed(self) -> None:
        """Everything any host wrote is durable, and nobody is connected: a clean halt."""
        self._hosts.clear()

    def to_record(self) -> dict[str, list[list[str]]]:
        return {
            "connected": [host.to_record() for host in self._hosts],
            "owed": [host.to_record() for host in self.owed],
        }


def _forget_first(hosts: dict[HostKey, Any]) -> None:
    while len(hosts) > HOSTS_MAX:
        del hosts[next(iter(hosts))]


def _hosts_of(record: Mapping[str, object], key: str) -> list[HostKey]:
    hosts = record.get(key, [])
    if not isinstance(hosts, list) or len(hosts) > HOSTS_MAX:
        raise ValueError(f"hosts that are {key} are no list, or too many")
    return [HostKey.from_record(host) for host in hosts]
