"""Which hosts a subsystem has, for whoever must know it after a crash: they may have been told more than was kept."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from ... import _shim
from ...errors import BusyError
from ...text import show_name

log = logging.getLogger(__name__)

HOSTS_MAX: Final = 1024
"""Hosts that may be owed an alarm, now or after the next crash. Beyond it newcomers are refused: to forget another one
would be to keep from it that its writes are lost."""
HOSTS_CROWDED: Final = 512
"""From here on those that are gone, and have nothing to lose, should be forgotten: see crowded."""
IDENTIFIERS_MAX: Final = 64
"""Of one host NQN: host identifiers. So a host that makes up new ones finds no room, and others do."""


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
        raise ValueError(f"{record!r} is not a host")


class ConnectedHosts:
    """Hosts from their Connect until they shut down in order; a connection that breaks off ends nothing.

    A host that is owed an alarm gets one for all of its I/O queues: its first Flush fails. ``on_change`` is called,
    before the host has its answer, when what ``to_record()`` says has changed.
    """

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self.require_state_room: Callable[[], object] = lambda: None
        """Raises FtlError where what to_record() says may not become longer, whoever comes."""
        self._hosts: dict[HostKey, int] = {}
        """With the number of their last arrival."""
        self._arrivals = 0
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
            raise ValueError("hosts are not a mapping")
        self._hosts.update(dict.fromkeys(_hosts_of(record, "connected"), 0))
        self._alarms.update({host: _shim.FlushAlarm() for host in _hosts_of(record, "owed")})

    @property
    def known(self) -> Collection[HostKey]:
        """Those that are connected, or broke off."""
        return self._hosts.keys()

    def arrived(self, host: HostKey) -> None:
        """Raises BusyError where there is no place for one more, and what require_state_room or on_change raises; the
        host is not known then."""
        self._arrivals += 1
        if host in self._hosts:
            self._hosts[host] = self._arrivals
            return
        self.require_state_room()
        self._require_place(host)
        self._hosts[host] = self._arrivals
        try:
            self._on_change()
        except BaseException:
            del self._hosts[host]
            raise

    def _require_place(self, host: HostKey) -> None:
        """Among HOSTS_MAX, and IDENTIFIERS_MAX of its NQN."""
        known = self._hosts.keys() | self._alarms.keys()
        if host in known:
            return
        if len(known) >= HOSTS_MAX:
            raise BusyError(
                f"the list of hosts to notify of lost writes is full ({len(known)} hosts). A host that has left is "
                "removed once its writes are durable, unless writes of it are lost already: to clear the list, "
                "delete the FTL and create it again with -u"
            )
        same = sum(each.hostnqn == host.hostnqn for each in self._hosts)
        if same >= IDENTIFIERS_MAX:
            raise BusyError(
                f"it has used {same} host identifiers, each of which is in the list of hosts to notify of lost "
                "writes, and the list has no room for more of one NQN: give the host a fixed identifier"
            )

    @property
    def crowded(self) -> bool:
        """Whoever has the device should make everything durable, and say so with forget()."""
        if len(self._hosts) >= HOSTS_CROWDED:
            return True
        by_nqn = Counter(host.hostnqn for host in self._hosts)
        return any(count >= IDENTIFIERS_MAX // 2 for count in by_nqn.values())

    def gone(self, present: Collection[HostKey]) -> dict[HostKey, int]:
        """Those that have no association, where present have: for forget()."""
        return {host: arrival for host, arrival in self._hosts.items() if host not in present}

    def forget(self, gone: Mapping[HostKey, int]) -> None:
        """Everything is durable that was written before gone() said so: those among them that have not come back since
        are owed nothing for it. What they are owed from before, they stay owed. Raises what on_change raises."""
        durable = [host for host, arrival in gone.items() if self._hosts.get(host) == arrival]
        for host in durable:
            del self._hosts[host]
        if durable:
            self._on_change()

    def left(self, host: HostKey) -> None:
        """In order, and with no other association left. What it is owed, it stays owed."""
        if self._hosts.pop(host, None) is not None:
            self._on_change()

    def alarm(self) -> list[HostKey]:
        """Every host's next Flush is to fail. Returns whose; those among them that are connected now have to be
        disconnected: their queues know nothing of it."""
        for host in self._hosts:
            self._alarms[host] = _shim.FlushAlarm()
        self._on_change()
        return self.hosts

    def alarm_of(self, host: HostKey) -> _shim.FlushAlarm | None:
        return self._alarms.get(host)

    def settle(self) -> None:
        """Forgets alarms that have gone off."""
        gone_off = [host for host, alarm in self._alarms.items() if not alarm.armed]
        for host in gone_off:
            del self._alarms[host]
            log.warning("host %s: its Flush fails, because earlier writes of it are lost", show_name(host.hostnqn))
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


def _hosts_of(record: Mapping[str, object], key: str) -> list[HostKey]:
    hosts = record.get(key, [])
    # Of an older daemon there may be as many of both.
    if not isinstance(hosts, list) or len(hosts) > 2 * HOSTS_MAX:
        raise ValueError(f"hosts that are {key} are not a list, or too many")
    return [HostKey.from_record(host) for host in hosts]
