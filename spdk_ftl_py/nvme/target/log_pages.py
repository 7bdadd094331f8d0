"""The answers of a controller to Get Log Page. Base 2.0 section 5.16."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import logs, wire
from ..identify import ControllerTraits
from ..logs import DiscoveryEntry
from ..wire import LogPage, Sqe, Status
from .capsule import Completion
from .events import AsyncEvents
from .namespace import Namespace
from .subsystem import Subsystem


class LogPages:
    """Of one controller."""

    def __init__(
        self,
        subsystem: Subsystem | None,
        events: AsyncEvents,
        *,
        listener: tuple[str, int],
        max_io_bytes: int,
        zoned: bool,
        traits: Callable[[], ControllerTraits],
        namespaces: Callable[[], Mapping[int, Namespace]],
        discovery_log: Callable[[], tuple[int, list[DiscoveryEntry]]],
    ) -> None:
        """subsystem None: a discovery controller, which answers from discovery_log. zoned: it has the zoned command
        set. namespaces: those that the host sees."""
        self.ana_changes = 0
        """Of ANA states at the controller's listener, as the controller has counted them."""
        self._subsystem = subsystem
        self._events = events
        self._listener = listener
        self._max_io_bytes = max_io_bytes
        self._zoned = zoned
        self._traits = traits
        self._namespaces = namespaces
        self._discovery_log = discovery_log

    def get(self, sqe: Sqe) -> Completion:
        page, retain = sqe.cdw10 & 0xFF, bool(sqe.cdw10 & 1 << 15)
        length = ((sqe.cdw11 & 0xFFFF) << 16 | sqe.cdw10 >> 16) * 4 + 4
        offset = sqe.cdw13 << 32 | sqe.cdw12
        if length > self._max_io_bytes or offset & 3 or sqe.cdw14 & 1 << 23:
            return Completion(Status.INVALID_FIELD)
        if page not in self._supported:
            return Completion(Status.INVALID_LOG_PAGE)
        if page == LogPage.CHANGED_ZONES:
            return self._zones(sqe.nsid, offset, length, retain)
        if page == LogPage.ANA:
            content: bytes | None = self._ana(groups_only=bool(sqe.cdw10 & 1 << 8))
        else:
            content = self._content(LogPage(page), sqe.cdw14 >> 24)
        if content is None or offset > len(content):
            return Completion(Status.INVALID_FIELD)
        if page == LogPage.RESERVATION:
            # Read in pieces, it must be the same notification until the end.
            if not retain and offset + length >= len(content):
                self._events.reservation_log_read()
            return _part(content, offset, length)
        if not retain and offset == 0:
            self._events.log_page_read(page)
            if page == LogPage.CHANGED_NAMESPACES:
                self._events.changed_namespaces.clear()
        return _part(content, offset, length)

    def _zones(self, nsid: int, offset: int, length: int, retain: bool) -> Completion:
        """A host that reads it in pieces retains it up to the last one, so its offset says nothing."""
        assert self._subsystem is not None
        if not 1 <= nsid <= self._subsystem.max_namespaces:
            return Completion(Status.INVALID_NAMESPACE)
        namespace = self._namespaces().get(nsid)
        content = self._events.zone_log(nsid)
        if namespace is None or namespace.csi != wire.CSI_ZNS or offset > len(content):
            return Completion(Status.INVALID_FIELD)
        if not retain:
            self._events.zone_log_read(nsid)
        return _part(content, offset, length)

    def _ana(self, *, groups_only: bool) -> bytes:
        assert self._subsystem is not None
        groups: dict[int, tuple[int, list[int]]] = {}
        for nsid, namespace in self._namespaces().items():
            group = namespace.ana_group
            groups.setdefault(group, (self._subsystem.ana_state(*self._listener, group), []))[1].append(nsid)
        return logs.build_ana(self.ana_changes, groups, groups_only=groups_only)

    @property
    def _supported(self) -> tuple[LogPage, ...]:
        if self._subsystem is None:
            return logs.SUPPORTED_DISCOVERY
        pages: tuple[LogPage, ...] = logs.SUPPORTED_ZONED if self._zoned else logs.SUPPORTED_IO
        if not self._traits().fabrics:
            pages = tuple(page for page in pages if page != LogPage.RESERVATION)
        return (*pages, LogPage.ANA) if self._subsystem.ana else pages

    def _content(self, page: LogPage, csi: int) -> bytes | None:
        match page:
            case LogPage.SUPPORTED:
                return logs.build_supported(self._supported)
            case LogPage.ERROR:
                return logs.build_error()
            case LogPage.SMART:
                return logs.build_smart(logs.Smart() if self._subsystem is None else self._subsystem.smart())
            case LogPage.FIRMWARE_SLOT:
                return logs.build_firmware_slot(self._traits().firmware)
            case LogPage.CHANGED_NAMESPACES:
                return logs.build_changed_namespaces(self._events.changed_namespaces)
            case LogPage.RESERVATION:
                return self._events.reservation_log()
            case LogPage.CHANGED_ZONES | LogPage.ANA:
                # get() serves these: one belongs to a namespace, the other has a parameter.
                return None
            case LogPage.COMMAND_EFFECTS:
                if csi == wire.CSI_ZNS and not self._zoned:
                    return None
                traits = self._traits()
                return logs.build_command_effects(
                    csi, copy=traits.copy, write_uncorrectable=traits.write_uncorrectable, fabrics=traits.fabrics
                )
            case LogPage.DISCOVERY:
                return logs.build_discovery(*self._discovery_log())


def _part(content: bytes, offset: int, length: int) -> Completion:
    return Completion(data=content[offset : offset + length].ljust(length, b"\0"))
