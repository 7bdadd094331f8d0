"""The namespaces of a remote controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from ...errors import ProtocolError
from .. import identify, wire
from ..wire import Cns, CommandError

NAMESPACES_MAX = 4096


class IdentifyPage(Protocol):
    """Controller.identify()."""

    async def __call__(self, cns: int, *, nsid: int = 0, csi: int = 0) -> bytearray: ...


@dataclass(frozen=True)
class NamespaceInfo:
    """One active namespace. block_bytes is the data part of a block; zone_size is in blocks; limits 0: none.

    nguid, eui64 and uuid are empty or None if the namespace has none.
    """

    nsid: int
    block_count: int
    block_bytes: int
    metadata_bytes: int
    metadata_interleaved: bool
    dif_type: int
    csi: int
    nguid: bytes
    eui64: bytes
    uuid: UUID | None
    zone_size: int = 0
    max_open_zones: int = 0
    max_active_zones: int = 0

    def zones_at(self, starts: Sequence[int] | None) -> list[int] | None:
        """The numbers of the zones that start at these blocks. None: any zone may be meant, because there is no list
        (None), or it has a block that starts no zone and so cannot be trusted."""
        if starts is None or not self.zone_size:
            return None
        if any(start % self.zone_size or start + self.zone_size > self.block_count for start in starts):
            return None
        return sorted({start // self.zone_size for start in starts})


async def read_namespaces(identify_page: IdentifyPage, subnqn: str) -> list[NamespaceInfo]:
    """Every active namespace. Raises ProtocolError for an impossible answer, and what identify_page() raises."""
    nsids: list[int] = []
    while True:
        after = nsids[-1] if nsids else 0
        page = identify.parse_nsid_list(await identify_page(Cns.ACTIVE_NAMESPACES, nsid=after), after)
        nsids += page
        if len(nsids) > NAMESPACES_MAX:
            raise ProtocolError(f"{subnqn} has more than {NAMESPACES_MAX} namespaces")
        if len(page) < identify.NSID_LIST_MAX or nsids[-1] >= wire.NSID_MAX:
            break
    found = [await _namespace(identify_page, nsid) for nsid in nsids]
    return [namespace for namespace in found if namespace is not None]


async def _namespace(identify_page: IdentifyPage, nsid: int) -> NamespaceInfo | None:
    page = identify.parse_namespace(nsid, await identify_page(Cns.NAMESPACE, nsid=nsid))
    if page is None:
        return None
    try:
        raw = await identify_page(Cns.NAMESPACE_DESCRIPTORS, nsid=nsid)
        descriptors = identify.parse_descriptors(nsid, raw)
    except CommandError:
        descriptors = identify.Descriptors()
    zones = identify.ZnsNamespacePage(0, 0, 0)
    if descriptors.csi == wire.CSI_ZNS:
        raw = await identify_page(Cns.CSI_NAMESPACE, nsid=nsid, csi=wire.CSI_ZNS)
        zones = identify.parse_zns_namespace(nsid, raw, page)
    return NamespaceInfo(
        nsid=nsid,
        block_count=page.block_count,
        block_bytes=page.block_bytes,
        metadata_bytes=page.metadata_bytes,
        metadata_interleaved=page.metadata_interleaved,
        dif_type=page.dif_type,
        csi=descriptors.csi,
        nguid=descriptors.nguid or page.nguid,
        eui64=descriptors.eui64 or page.eui64,
        uuid=descriptors.uuid,
        zone_size=zones.zone_size,
        max_open_zones=zones.max_open_zones,
        max_active_zones=zones.max_active_zones,
    )
