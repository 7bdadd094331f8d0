"""Which hosts may connect to a subsystem, and the keys with which they must authenticate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ...errors import BusyError, ExistsError, NotFoundError, ParameterError
from ...text import show_name
from ..auth.key import HostKeys, KeyFile, KeySource
from ..auth.psk import PskFile, PskSource
from ..nqn import check_nqn
from ..tls import require_tls

ALLOWED_HOSTS_MAX: Final = 256
"""The limit for each subsystem."""


@dataclass(frozen=True)
class AllowedHost:
    """One host that may connect."""

    nqn: str
    is_target: bool = False
    """The host is the SPDK target that has the FTL as a bdev. Only detaching the bdev removes it from the list."""

    keys: HostKeys | None = None
    """The keys with which the host must authenticate, on every queue; None: its NQN is enough."""

    psk: PskSource | None = None
    """The PSK with which the host must use TLS, on every queue; None: no TLS."""

    def to_dict(self) -> dict[str, Any]:
        """The host as RPCs show it."""
        entry: dict[str, Any] = {"nqn": self.nqn, "is_target": self.is_target}
        if self.keys is not None:
            entry["dhchap_key"] = _path_of(self.keys.key)
            entry["dhchap_ctrlr_key"] = _path_of(self.keys.ctrlr_key)
        if self.psk is not None:
            entry["psk"] = _path_of(self.psk)
        return entry

    def to_record(self) -> dict[str, Any]:
        """For the state file: the paths of its keys, not the keys."""
        return self.to_dict()

    @classmethod
    def from_record(cls, record: object) -> AllowedHost:
        """Raises ValueError."""
        if isinstance(record, Mapping) and isinstance(record.get("nqn"), str):
            paths = record.get("dhchap_key"), record.get("dhchap_ctrlr_key")
            psk = record.get("psk")
            # A host whose key was lost must not be admitted without it.
            if (
                all(path is None or isinstance(path, str) for path in (*paths, psk))
                and (paths[0] or "dhchap_key" not in record)
                and (psk or "psk" not in record)
            ):
                is_target = record.get("is_target") is True
                return cls(record["nqn"], is_target, keys_from_files(*paths), psk_from_file(psk))
        raise ValueError(f"{str(record)[:80]!r} is not an allowed host")


def keys_from_files(key: str | None, ctrlr_key: str | None) -> HostKeys | None:
    """Raises ParameterError for a controller's key without a key of the host."""
    if key is None:
        if ctrlr_key is not None:
            raise ParameterError(
                "dhchap_ctrlr_key authenticates the controller only to a host that authenticates itself: give "
                "dhchap_key too"
            )
        return None
    return HostKeys(KeyFile(Path(key)), None if ctrlr_key is None else KeyFile(Path(ctrlr_key)))


def usable_keys(key: str | None, ctrlr_key: str | None) -> HostKeys | None:
    """As keys_from_files(). Raises ParameterError also if a file does not hold a key now, or can't be used."""
    keys = keys_from_files(key, ctrlr_key)
    for source in () if keys is None else (keys.key, keys.ctrlr_key):
        if source is not None:
            source.load()
    return keys


def psk_from_file(path: str | None) -> PskSource | None:
    return None if path is None else PskFile(Path(path))


def usable_psk(path: str | None) -> PskSource | None:
    """As psk_from_file(). Raises ParameterError if the file does not hold a key now, or can't be used; UnsupportedError
    without TLS support."""
    psk = psk_from_file(path)
    if psk is not None:
        require_tls()
        psk.load()
    return psk


def _path_of(source: KeySource | PskSource | None) -> str | None:
    return str(source.path) if isinstance(source, KeyFile | PskFile) else None


class AllowedHosts:
    """By NQN, in the order in which they were added. If the list is empty, and ``allow_any_host`` is off, nobody may
    connect.

    ``on_change`` is called after each change. The caller disconnects hosts that may no longer be connected.
    """

    def __init__(self, hosts: Iterable[AllowedHost] = (), *, allow_any_host: bool = False) -> None:
        """Raises what add() raises."""
        self.on_change: Callable[[], object] = lambda: None
        self._hosts: dict[str, AllowedHost] = {}
        self._allow_any_host = allow_any_host
        for host in hosts:
            self.add(host)

    def admit(self, hostnqn: str) -> AllowedHost | None:
        """The host if it may connect, otherwise None. Admin queues, I/O queues and discovery all ask here, before there
        is a controller. For a host in the list, its entry applies even if any host may connect."""
        host = self._hosts.get(hostnqn)
        return AllowedHost(hostnqn) if host is None and self._allow_any_host else host

    @property
    def allow_any_host(self) -> bool:
        return self._allow_any_host

    @allow_any_host.setter
    def allow_any_host(self, allow: bool) -> None:
        if allow != self._allow_any_host:
            self._allow_any_host = allow
            self.on_change()

    @property
    def hosts(self) -> list[AllowedHost]:
        return list(self._hosts.values())

    def listed(self, nqn: str) -> bool:
        return nqn in self._hosts

    def is_target(self, nqn: str) -> bool:
        """Whether nqn is that of the SPDK target that has the FTL as a bdev."""
        host = self._hosts.get(nqn)
        return host is not None and host.is_target

    @property
    def target(self) -> AllowedHost | None:
        """The SPDK target that has the FTL as a bdev."""
        return next((host for host in self._hosts.values() if host.is_target), None)

    def add(self, host: AllowedHost) -> None:
        """Raises ParameterError for an invalid NQN, ExistsError, and BusyError if the list is full."""
        check_nqn(host.nqn, "host NQN")
        if host.nqn in self._hosts:
            raise ExistsError(f"host {show_name(host.nqn)} is already allowed")
        if len(self._hosts) >= ALLOWED_HOSTS_MAX:
            raise BusyError(
                f"host {show_name(host.nqn)} can't be added: {ALLOWED_HOSTS_MAX} hosts are already allowed, which is "
                "the limit: remove one that is not needed"
            )
        self._hosts[host.nqn] = host
        self.on_change()

    def set_keys(self, nqn: str, keys: HostKeys | None) -> None:
        """Changes the keys for future connections, and for hosts that authenticate again. Raises NotFoundError."""
        host = self._hosts.get(nqn)
        if host is None:
            raise NotFoundError(f"host {show_name(nqn)} is not in the list of allowed hosts")
        self._hosts[nqn] = replace(host, keys=keys)
        self.on_change()

    def remove(self, nqn: str) -> AllowedHost:
        """Raises NotFoundError."""
        host = self._hosts.pop(nqn, None)
        if host is None:
            raise NotFoundError(f"host {show_name(nqn)} is not in the list of allowed hosts")
        self.on_change()
        return host

    def to_record(self) -> dict[str, Any]:
        return {"allow_any_host": self._allow_any_host, "hosts": [host.to_record() for host in self._hosts.values()]}

    @classmethod
    def from_record(cls, record: object) -> AllowedHosts:
        """The inverse of to_record(). Raises ValueError, and what add() raises."""
        if not isinstance(record, Mapping) or not isinstance(record.get("hosts"), list):
            raise ValueError("allowed hosts are not a list")
        hosts = [AllowedHost.from_record(host) for host in record["hosts"]]
        return cls(hosts, allow_any_host=record.get("allow_any_host") is True)
