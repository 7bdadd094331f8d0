"""The list of hosts to notify of lost writes: hosts of a subsystem that may have unflushed writes when it crashes."""

from __future__ import annotations

import asyncio
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
"""The most hosts in the list. Beyond that, new hosts are refused: if another host were removed, it would not learn that
its writes are lost."""
HOSTS_CROWDED: Final = 512
"""From this size on, hosts that have left, and have nothing to lose, should be removed: see crowded."""
IDENTIFIERS_MAX: Final = 64
"""The most host identifiers of one host NQN. A host that makes up new identifiers finds no room, while others do."""


@dataclass(frozen=True)
class HostKey:
    """The identity of a host in NVMe-oF: its NQN and its host identifier (16 bytes)."""

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
    """Hosts are in the list from their Connect until they shut down in order; a connection that breaks off changes
    nothing.

    A host whose writes are lost gets one alarm for all of its I/O queues: its first Flush fails. ``on_change`` is
    called, before the host gets its answer, when the result of ``to_record()`` has changed.
    """

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self.came = asyncio.Event()
        """A host has joined the list. For whoever makes room, who clears it."""
        self.require_state_room: Callable[[], object] = lambda: None
        """Raises FtlError if the result of to_record() must not become longer."""
        self._hosts: dict[HostKey, int] = {}
        """With the number of their last arrival."""
        self._arrivals = 0
        self._alarms: dict[HostKey, _shim.FlushAlarm] = {}

    @property
    def hosts(self) -> list[HostKey]:
        return list(self._hosts)

    @property
    def owed(self) -> list[HostKey]:
        """Hosts whose alarm was not delivered yet."""
        return [host for host, alarm in self._alarms.items() if alarm.armed]

    @property
    def alarmed(self) -> bool:
        """There are alarms whose delivery settle() has not seen."""
        return bool(self._alarms)

    def restore(self, record: object) -> None:
        """From the record of an earlier life; None: there is none. Raises ValueError."""
        if record is None:
            return
        if not isinstance(record, Mapping):
            raise ValueError("hosts are not a mapping")
        self._hosts.update(dict.fromkeys(_hosts_of(record, "connected"), 0))
        self._alarms.update({host: _shim.FlushAlarm() for host in _hosts_of(record, "owed")})

    @property
    def known(self) -> Collection[HostKey]:
        """Hosts that are connected, or whose connection broke off."""
        return self._hosts.keys()

    def arrived(self, host: HostKey) -> None:
        """Adds a host. Raises BusyError if there is no room, and what require_state_room or on_change raises; then the
        host is not in the list."""
        self._arrivals += 1
        if host in self._hosts:
            self._hosts[host] = self._arrivals
            return
        self.require_state_room()
        self._require_place(host)
        self._hosts[host] = self._arrivals
        self.came.set()
        try:
            self._on_change()
        except BaseException:
            del self._hosts[host]
            raise

    def _require_place(self, host: HostKey) -> None:
        """Whether there is room within HOSTS_MAX, and within IDENTIFIERS_MAX of its NQN."""
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
        """The owner of the device should make everything durable, and then call forget()."""
        if len(self._hosts) < IDENTIFIERS_MAX // 2:
            return False
        if len(self._hosts) >= HOSTS_CROWDED:
            return True
        by_nqn = Counter(host.hostnqn for host in self._hosts)
        return any(count >= IDENTIFIERS_MAX // 2 for count in by_nqn.values())

    def gone(self, present: Collection[HostKey]) -> dict[HostKey, int]:
        """Hosts in the list without an association in `present`: for forget()."""
        return {host: arrival for host, arrival in self._hosts.items() if host not in present}

    def forget(self, gone: Mapping[HostKey, int]) -> None:
        """Everything written before gone() is durable. Removes those of the hosts that have not come back since. Alarms
        from before stay. Raises what on_change raises."""
        durable = [host for host, arrival in gone.items() if self._hosts.get(host) == arrival]
        for host in durable:
            del self._hosts[host]
        if durable:
            self._on_change()

    def left(self, host: HostKey) -> None:
        """The host has shut down in order, and has no other association. Its alarm stays."""
        if self._hosts.pop(host, None) is not None:
            self._on_change()

    def alarm(self) -> list[HostKey]:
        """Makes the next Flush of every host fail. Returns these hosts. The caller disconnects those that are connected
        now, because their queues do not know of the alarm."""
        for host in self._hosts:
            self._alarms[host] = _shim.FlushAlarm()
        self._on_change()
        return self.hosts

    def alarm_of(self, host: HostKey) -> _shim.FlushAlarm | None:
        return self._alarms.get(host)

    def settle(self) -> None:
        """Removes alarms that were delivered."""
        gone_off = [host for host, alarm in self._alarms.items() if not alarm.armed]
        for host in gone_off:
            del self._alarms[host]
            log.warning("host %s: its Flush fails, because earlier writes of it are lost", show_name(host.hostnqn))
        if gone_off:
            self._on_change()

    def flushed(self) -> None:
        """After a clean halt: every write is durable, and no host is connected."""
        self._hosts.clear()

    def to_record(self) -> dict[str, list[list[str]]]:
        return {
            "connected": [host.to_record() for host in self._hosts],
            "owed": [host.to_record() for host in self.owed],
        }


def _hosts_of(record: Mapping[str, object], key: str) -> list[HostKey]:
    hosts = record.get(key, [])
    # An older daemon may have as many hosts in both lists.
    if not isinstance(hosts, list) or len(hosts) > 2 * HOSTS_MAX:
        raise ValueError(f"hosts that are {key} are not a list, or too many")
    return [HostKey.from_record(host) for host in hosts]
