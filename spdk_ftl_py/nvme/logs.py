"""Log pages (NVM Express Base 2.0 section 5.16; discovery: section 5.16.1.23): builders and checked parsers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ProtocolError
from . import wire
from .wire import AdminOp, LogPage, NvmOp

ERROR_ENTRIES = 1
ERROR_ENTRY_BYTES = 64
CHANGED_NAMESPACES_MAX = 1024
CHANGED_ZONES_MAX = 511
CHANGED_ZONES_TOO_MANY = 0xFFFF
DISCOVERY_HEADER_BYTES = 1024
DISCOVERY_ENTRY_BYTES = 1024
DISCOVERY_ENTRIES_MAX = 4096
"""More than any target serves. It limits how much of a target's answer a host keeps."""

CSUPP = 1
CHANGES_CONTENT = 1 << 1

_ADMIN_EFFECTS: dict[AdminOp, int] = {
    AdminOp.GET_LOG_PAGE: CSUPP,
    AdminOp.IDENTIFY: CSUPP,
    AdminOp.ABORT: CSUPP,
    AdminOp.SET_FEATURES: CSUPP,
    AdminOp.GET_FEATURES: CSUPP,
    AdminOp.ASYNC_EVENT_REQUEST: CSUPP,
}
_OF_FABRICS: dict[AdminOp, int] = {AdminOp.KEEP_ALIVE: CSUPP}
_OF_MEMORY: dict[AdminOp, int] = {
    AdminOp.DELETE_IO_SQ: CSUPP,
    AdminOp.CREATE_IO_SQ: CSUPP,
    AdminOp.DELETE_IO_CQ: CSUPP,
    AdminOp.CREATE_IO_CQ: CSUPP,
}
_NVM_EFFECTS = {
    NvmOp.FLUSH: CSUPP,
    NvmOp.WRITE: CSUPP | CHANGES_CONTENT,
    NvmOp.READ: CSUPP,
    NvmOp.WRITE_ZEROES: CSUPP | CHANGES_CONTENT,
    NvmOp.DATASET_MANAGEMENT: CSUPP | CHANGES_CONTENT,
}
_NVM_EFFECTS_OF_FABRICS = {
    NvmOp.RESERVATION_REGISTER: CSUPP,
    NvmOp.RESERVATION_REPORT: CSUPP,
    NvmOp.RESERVATION_ACQUIRE: CSUPP,
    NvmOp.RESERVATION_RELEASE: CSUPP,
    NvmOp.COMPARE: CSUPP,
    NvmOp.VERIFY: CSUPP,
}
_ZNS_EFFECTS = {
    NvmOp.ZONE_MANAGEMENT_SEND: CSUPP | CHANGES_CONTENT,
    NvmOp.ZONE_MANAGEMENT_RECEIVE: CSUPP,
    NvmOp.ZONE_APPEND: CSUPP | CHANGES_CONTENT,
}


def build_supported(pages: Iterable[int]) -> bytes:
    """LID 00."""
    page = np.zeros(256, "<u4")
    page[list(pages)] = 1
    return page.tobytes()


def build_error() -> bytes:
    """LID 01: nothing to report."""
    return bytes(ERROR_ENTRIES * ERROR_ENTRY_BYTES)


WARNING_SPARE, WARNING_RELIABILITY, WARNING_READ_ONLY = 1, 1 << 2, 1 << 3
SPARE_THRESHOLD = 10
"""Percent."""
PERCENT_USED_MAX = 255
DATA_UNIT_BYTES = 512 * 1000
_SMART_TEMPERATURE = 300
"""Kelvin. There are no sensors."""
_SMART_COUNTERS_AT = 32


@dataclass(frozen=True)
class Smart:
    """The health of a device. bytes_*: user data, for hosts; *_commands: of hosts. The defaults are those of a device
    that counts nothing."""

    bytes_read: int = 0
    bytes_written: int = 0
    read_commands: int = 0
    write_commands: int = 0
    media_errors: int = 0
    """How often data could not be recovered."""
    spare_percent: int = 100
    """What is left of the spare zones."""
    degraded: bool = False
    """Data was lost, or could not be read."""
    read_only: bool = False
    percent_used: int = 0
    """Of the drive's life; may exceed 100. 0 if unknown."""

    @property
    def warnings(self) -> int:
        """The critical warning."""
        return (
            (WARNING_SPARE if self.spare_percent < SPARE_THRESHOLD else 0)
            | (WARNING_RELIABILITY if self.degraded else 0)
            | (WARNING_READ_ONLY if self.read_only else 0)
        )


def build_smart(smart: Smart) -> bytes:
    """LID 02. What is not known is 0: busy time, power cycles and hours, unsafe shutdowns. The error
    log (LID 01) has no entries."""
    page = bytearray(512)
    struct.pack_into(
        "<BHBBB",
        page,
        0,
        smart.warnings,
        _SMART_TEMPERATURE,
        smart.spare_percent,
        SPARE_THRESHOLD,
        min(smart.percent_used, PERCENT_USED_MAX),
    )
    counters = (
        -(-smart.bytes_read // DATA_UNIT_BYTES), -(-smart.bytes_written // DATA_UNIT_BYTES), smart.read_commands,
        smart.write_commands, 0, 0, 0, 0, smart.media_errors, 0,
    )  # fmt: skip
    for number, value in enumerate(counters):
        at = _SMART_COUNTERS_AT + 16 * number
        page[at : at + 16] = value.to_bytes(16, "little")
    return bytes(page)


def build_firmware_slot(firmware: str) -> bytes:
    """LID 03: the only slot, 1, is active."""
    page = bytearray(512)
    page[0] = 1
    page[8:16] = firmware.encode("ascii", "replace")[:8].ljust(8)
    return bytes(page)


def build_changed_namespaces(nsids: Iterable[int]) -> bytes:
    """LID 04: FFFFFFFFh alone if there are more than the page can hold."""
    chosen = sorted(nsids)
    if len(chosen) > CHANGED_NAMESPACES_MAX:
        chosen = [wire.NSID_ALL]
    page = np.zeros(CHANGED_NAMESPACES_MAX, "<u4")
    page[: len(chosen)] = chosen
    return page.tobytes()


def parse_changed_namespaces(data: bytes | bytearray) -> list[int]:
    """The NSIDs of LID 04; [NSID_ALL] if there were too many to list."""
    nsids: list[int] = np.frombuffer(data[: len(data) // 4 * 4], "<u4").tolist()
    return nsids[: nsids.index(0)] if 0 in nsids else nsids


def build_changed_zones(starts: Sequence[int] | None) -> bytes:
    """LID BF of a namespace: the zones' ZSLBAs. FFFFh and no list if the page cannot hold them, or for None: any
    zone."""
    page = np.zeros(1 + CHANGED_ZONES_MAX, "<u8")
    if starts is None or len(starts) > CHANGED_ZONES_MAX:
        page[0] = CHANGED_ZONES_TOO_MANY
    else:
        page[0] = len(starts)
        page[1 : 1 + len(starts)] = starts
    return page.tobytes()


def parse_changed_zones(data: bytes | bytearray) -> list[int] | None:
    """The ZSLBAs of LID BF, unchecked. None if any zone may have changed: there were too many to list, or the list is
    invalid."""
    entries = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    count = int(entries[0]) & 0xFFFF if len(entries) else CHANGED_ZONES_TOO_MANY
    if count > CHANGED_ZONES_MAX or count >= len(entries):
        return None
    starts: list[int] = entries[1 : 1 + count].tolist()
    return starts


def build_command_effects(csi: int, *, copy: bool, write_uncorrectable: bool, fabrics: bool = True) -> bytes | None:
    """LID 05 of a command set; None if there is no such command set. copy, write_uncorrectable: a conventional
    namespace takes these commands. fabrics: as in ControllerTraits."""
    effects = dict(_NVM_EFFECTS) | (_NVM_EFFECTS_OF_FABRICS if fabrics else {})
    if csi == wire.CSI_NVM:
        if copy and fabrics:
            effects[NvmOp.COPY] = CSUPP | CHANGES_CONTENT
        if write_uncorrectable:
            effects[NvmOp.WRITE_UNCORRECTABLE] = CSUPP | CHANGES_CONTENT
    elif csi == wire.CSI_ZNS:
        effects |= _ZNS_EFFECTS
    else:
        return None
    page = np.zeros(1024, "<u4")
    for admin_opcode, value in (_ADMIN_EFFECTS | (_OF_FABRICS if fabrics else _OF_MEMORY)).items():
        page[admin_opcode] = value
    for opcode, value in effects.items():
        page[256 + opcode] = value
    return page.tobytes()


RESERVATION_BYTES = 64
_RESERVATION = struct.Struct("<QBB2xI")


def build_reservation(count: int, kind: int, available: int, nsid: int) -> bytes:
    """LID 80: a notification, or type 0 if there is none. count: of all notifications so far. available: further ones
    that wait to be read."""
    return _RESERVATION.pack(count, kind, min(available, 255), nsid).ljust(RESERVATION_BYTES, b"\0")


def parse_reservation(data: bytes | bytearray) -> tuple[int, int, int, int]:
    """(count, type, available, NSID) of LID 80. Raises ProtocolError."""
    if len(data) < _RESERVATION.size:
        raise ProtocolError(f"reservation notification has {len(data)} bytes")
    count, kind, available, nsid = _RESERVATION.unpack_from(data)
    return count, kind, available, nsid


_ANA_HEADER, _ANA_GROUP = struct.Struct("<QHxxxxxx"), struct.Struct("<IIQB15x")


def build_ana(changes: int, groups: Mapping[int, tuple[int, Sequence[int]]], *, groups_only: bool) -> bytes:
    """LID 0C. changes: how many there have been. groups: state and NSIDs of each, by ANAGRPID. groups_only: without
    the NSIDs (RGO)."""
    page = bytearray(_ANA_HEADER.pack(changes, len(groups)))
    for group, (state, nsids) in sorted(groups.items()):
        listed = () if groups_only else sorted(nsids)
        page += _ANA_GROUP.pack(group, len(listed), changes, state) + struct.pack(f"<{len(listed)}I", *listed)
    return bytes(page)


SUPPORTED_IO = (
    LogPage.SUPPORTED, LogPage.ERROR, LogPage.SMART, LogPage.FIRMWARE_SLOT, LogPage.CHANGED_NAMESPACES,
    LogPage.COMMAND_EFFECTS, LogPage.RESERVATION,
)  # fmt: skip
SUPPORTED_ZONED = (*SUPPORTED_IO, LogPage.CHANGED_ZONES)
SUPPORTED_DISCOVERY = (LogPage.SUPPORTED, LogPage.ERROR, LogPage.DISCOVERY)

# --- discovery ------------------------------------------------------------------------------------------------------

_DISCOVERY_HEADER = struct.Struct("<QQH")
_DISCOVERY_ENTRY = struct.Struct("<BBBBHHHH20x32s192x256s256s256s")
TRTYPE_TCP = 3
ADRFAM_IPV4, ADRFAM_IPV6 = 1, 2
SUBTYPE_REFERRAL, SUBTYPE_NVM, SUBTYPE_CURRENT_DISCOVERY = 1, 2, 3
TREQ_NOT_SPECIFIED, TREQ_REQUIRED, TREQ_NOT_REQUIRED = 0, 1, 2
"""Whether a secure channel is required."""
SECTYPE_NONE, SECTYPE_TLS13 = 0, 2
"""The security types of TCP, in TSAS."""


@dataclass(frozen=True)
class DiscoveryEntry:
    """One path to one subsystem. trtype 3 is TCP; subtype 1 is a referral, 2 an NVM subsystem, 3 this discovery
    subsystem."""

    traddr: str
    trsvcid: str
    subnqn: str
    trtype: int = TRTYPE_TCP
    adrfam: int = ADRFAM_IPV4
    subtype: int = SUBTYPE_NVM
    treq: int = TREQ_NOT_REQUIRED
    portid: int = 0
    cntlid: int = wire.CNTLID_DYNAMIC
    asqsz: int = 32
    sectype: int = SECTYPE_NONE

    def pack(self) -> bytes:
        return _DISCOVERY_ENTRY.pack(
            self.trtype, self.adrfam, self.subtype, self.treq, self.portid, self.cntlid, self.asqsz, 0,
            self.trsvcid.encode()[:32].ljust(32), self.subnqn.encode()[:255], self.traddr.encode()[:256].ljust(256),
            bytes([self.sectype]),
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> DiscoveryEntry:
        trtype, adrfam, subtype, treq, portid, cntlid, asqsz, _, trsvcid, subnqn, traddr, tsas = (
            _DISCOVERY_ENTRY.unpack(data)
        )
        return cls(
            traddr=_field(traddr), trsvcid=_field(trsvcid), subnqn=_field(subnqn), trtype=trtype, adrfam=adrfam,
            subtype=subtype, treq=treq, portid=portid, cntlid=cntlid, asqsz=asqsz, sectype=tsas[0],
        )  # fmt: skip


def _field(raw: bytes) -> str:
    return raw.partition(b"\0")[0].rstrip(b" ").decode("utf-8", "replace")


def build_discovery(generation: int, entries: Sequence[DiscoveryEntry]) -> bytes:
    """The whole LID 70."""
    chosen = entries[:DISCOVERY_ENTRIES_MAX]
    header = _DISCOVERY_HEADER.pack(generation, len(chosen), 0).ljust(DISCOVERY_HEADER_BYTES, b"\0")
    return header + b"".join(entry.pack() for entry in chosen)


def parse_discovery_header(data: bytes | bytearray) -> tuple[int, int]:
    """(generation, number of records). Raises ProtocolError for a format or number that we do not support."""
    if len(data) < _DISCOVERY_HEADER.size:
        raise ProtocolError(f"discovery log header has {len(data)} bytes")
    generation, records, record_format = _DISCOVERY_HEADER.unpack_from(data)
    if record_format != 0 or records > DISCOVERY_ENTRIES_MAX:
        raise ProtocolError(f"discovery log has {records} records of format {record_format}")
    return generation, records


def parse_discovery_entries(data: bytes | bytearray) -> list[DiscoveryEntry]:
    """data must hold whole records; otherwise raises ProtocolError."""
    if len(data) % DISCOVERY_ENTRY_BYTES:
        raise ProtocolError(f"discovery log records end in the middle: {len(data)} bytes")
    view = memoryview(data)
    return [
        DiscoveryEntry.unpack(view[offset : offset + DISCOVERY_ENTRY_BYTES])
        for offset in range(0, len(data), DISCOVERY_ENTRY_BYTES)
    ]
