"""The discovery controllers of a target: which subsystems each host may connect to, and when that has changed."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from .. import wire
from ..logs import (
    ADRFAM_IPV4,
    ADRFAM_IPV6,
    SECTYPE_NONE,
    SECTYPE_TLS13,
    TREQ_NOT_SPECIFIED,
    TREQ_REQUIRED,
    DiscoveryEntry,
)
from .controller import TargetController
from .subsystem import Subsystem

WILDCARDS = ("", "0.0.0.0", "::")


class Catalog:
    """Subsystems of any number of targets, for one discovery service."""

    def __init__(self) -> None:
        self.on_change: Callable[[], object] = lambda: None
        self._subsystems: list[Subsystem] = []

    def __iter__(self) -> Iterator[Subsystem]:
        return iter(self._subsystems)

    def add(self, subsystem: Subsystem, *, instead_of: Subsystem | None = None) -> None:
        """It is told of the subsystem's changes until remove(). instead_of: one that is in the catalog; hosts hear only
        of what differs."""
        if instead_of is None:
            self._subsystems.append(subsystem)
        else:
            self._subsystems[self._subsystems.index(instead_of)] = subsystem
            instead_of.discovery_watchers.remove(self._changed)
        subsystem.discovery_watchers.append(self._changed)
        self._changed()

    def remove(self, subsystem: Subsystem) -> None:
        """Idempotent."""
        if subsystem in self._subsystems:
            self._subsystems.remove(subsystem)
            subsystem.discovery_watchers.remove(self._changed)
            self._changed()

    def _changed(self) -> None:
        self.on_change()


class Discovery:
    def __init__(self, subsystems: Callable[[], Iterable[Subsystem]], *, elsewhere: bool = False) -> None:
        """subsystems: the current ones at any time. elsewhere: they have addresses of their own, so what the discovery
        controller's address says about a host does not hold for them: a host learns only of addresses that it can
        reach, and without TLS only of those that do not require it."""
        self.controllers: dict[int, TargetController] = {}
        self._subsystems = subsystems
        self._elsewhere = elsewhere
        self._generation = 1
        self._pages: dict[int, tuple[int, list[DiscoveryEntry]]] = {}
        """By controller: its log page, and the generation of that page."""
        self._next_cntlid = 0

    def changed(self) -> None:
        """A host is notified only if its own log page has changed: it must not learn about other subsystems."""
        self._generation += 1
        for controller in list(self.controllers.values()):
            before = self._pages.get(controller.cntlid)
            if self.log(controller) != before:
                controller.events.discovery_changed()

    def log(self, controller: TargetController) -> tuple[int, list[DiscoveryEntry]]:
        """The subsystems that the host may connect to. Listeners on all addresses are listed with the address that the
        host used."""
        entries = [
            DiscoveryEntry(
                traddr=controller.local_address if traddr in WILDCARDS else traddr,
                trsvcid=str(trsvcid),
                subnqn=subsystem.nqn,
                adrfam=ADRFAM_IPV6 if ":" in (traddr or controller.local_address) else ADRFAM_IPV4,
                # nvme-cli 2.3 takes "not required" for a request to use TLS.
                treq=TREQ_REQUIRED if secure else TREQ_NOT_SPECIFIED,
                sectype=SECTYPE_TLS13 if secure else SECTYPE_NONE,
            )
            for subsystem in self._subsystems()
            for host in (subsystem.admit(controller.hostnqn),)
            if host is not None
            for traddr, trsvcid in sorted(subsystem.listeners)
            if not self._elsewhere or _may_learn(controller, subsystem, (traddr, trsvcid))
            for secure in (host.psk is not None or (traddr, trsvcid) in subsystem.secure_listeners,)
        ]
        page = self._pages.get(controller.cntlid)
        if page is None or page[1] != entries:
            page = self._pages[controller.cntlid] = (self._generation, entries)
        return page

    def forget(self, cntlid: int) -> None:
        self._pages.pop(cntlid, None)

    def allocate_cntlid(self) -> int:
        while True:
            self._next_cntlid = self._next_cntlid % wire.CNTLID_MAX + 1
            if self._next_cntlid not in self.controllers:
                return self._next_cntlid


def _may_learn(controller: TargetController, subsystem: Subsystem, address: tuple[str, int]) -> bool:
    if address in subsystem.secure_listeners and controller.tls_cipher is None:
        return False
    # At a loopback address a host on another machine would find itself.
    return not _is_loopback(address[0]) or _is_loopback(controller.local_address)


def _is_loopback(traddr: str) -> bool:
    try:
        return ipaddress.ip_address(traddr).is_loopback
    except ValueError:
        return False
