"""The discovery controllers of a target: which subsystems each host may connect to, and when that has changed."""

from __future__ import annotations

from collections.abc import Mapping

from .. import wire
from ..logs import (
    ADRFAM_IPV4,
    ADRFAM_IPV6,
    SECTYPE_NONE,
    SECTYPE_TLS13,
    TREQ_NOT_REQUIRED,
    TREQ_REQUIRED,
    DiscoveryEntry,
)
from .controller import TargetController
from .subsystem import Subsystem

WILDCARDS = ("", "0.0.0.0", "::")


class Discovery:
    def __init__(self, subsystems: Mapping[str, Subsystem]) -> None:
        """subsystems: the current ones at any time, by NQN."""
        self.controllers: dict[int, TargetController] = {}
        self._subsystems = subsystems
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
                controller.discovery_changed()

    def log(self, controller: TargetController) -> tuple[int, list[DiscoveryEntry]]:
        """The subsystems that the host may connect to. Listeners on all addresses are listed with the address that the
        host used."""
        entries = [
            DiscoveryEntry(
                traddr=controller.local_address if traddr in WILDCARDS else traddr,
                trsvcid=str(trsvcid),
                subnqn=subsystem.nqn,
                adrfam=ADRFAM_IPV6 if ":" in (traddr or controller.local_address) else ADRFAM_IPV4,
                treq=TREQ_REQUIRED if secure else TREQ_NOT_REQUIRED,
                sectype=SECTYPE_TLS13 if secure else SECTYPE_NONE,
            )
            for subsystem in self._subsystems.values()
            for host in (subsystem.admit(controller.hostnqn),)
            if host is not None
            for traddr, trsvcid in sorted(subsystem.listeners)
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
