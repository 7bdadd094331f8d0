"""Identify pages: layouts (Base 2.0 section 5.17, NVM and ZNS Command Sets), builders and checked parsers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np

from ..errors import ProtocolError
from . import wire

NSID_LIST_MAX = 1024
LBADS_MIN, LBADS_MAX = 9, 16
"""512 B to 64 KiB. A peer's block size must be in this range."""
METADATA_BYTES_MAX = 64
CAPACITY_BYTES_MAX = 1 << 62
UNLIMITED_ZONES = 0xFFFFFFFF
ATOMIC_BYTES = 4096
"""No device of ours ever tears a write of this size, not even at power loss."""


def _layout(itemsize: int, *fields: tuple[int, str, Any]) -> np.dtype[np.void]:
    """Fields as (offset, name, format)."""
    offsets, names, formats = zip(*fields, strict=True)
    spec: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
    layout: np.dtype[np.void] = np.dtype(spec)
    return layout


CONTROLLER = _layout(
    wire.PAGE_BYTES,
    (0, "vid", "<u2"), (2, "ssvid", "<u2"), (4, "sn", "S20"), (24, "mn", "S40"), (64, "fr", "S8"), (72, "rab", "u1"),
    (76, "cmic", "u1"), (77, "mdts", "u1"), (78, "cntlid", "<u2"), (80, "ver", "<u4"), (92, "oaes", "<u4"),
    (96, "ctratt", "<u4"), (111, "cntrltype", "u1"), (256, "oacs", "<u2"), (258, "acl", "u1"), (259, "aerl", "u1"),
    (260, "frmw", "u1"), (261, "lpa", "u1"), (262, "elpe", "u1"), (263, "npss", "u1"), (266, "wctemp", "<u2"),
    (268, "cctemp", "<u2"), (320, "kas", "<u2"), (342, "anatt", "u1"), (343, "anacap", "u1"), (344, "anagrpmax", "<u4"),
    (348, "nanagrpid", "<u4"), (512, "sqes", "u1"), (513, "cqes", "u1"), (514, "maxcmd", "<u2"),
    (516, "nn", "<u4"), (520, "oncs", "<u2"), (522, "fuses", "<u2"), (524, "fna", "u1"), (525, "vwc", "u1"),
    (526, "awun", "<u2"), (528, "awupf", "<u2"), (532, "acwu", "<u2"), (534, "ocfs", "<u2"),
    (536, "sgls", "<u4"), (540, "mnan", "<u4"),
    (768, "subnqn", "S256"), (1792, "ioccsz", "<u4"), (1796, "iorcsz", "<u4"), (1800, "icdoff", "<u2"),
    (1802, "fcatt", "u1"), (1803, "msdbd", "u1"),
)  # fmt: skip

LBA_FORMAT = np.dtype([("ms", "<u2"), ("lbads", "u1"), ("rp", "u1")])

NAMESPACE = _layout(
    wire.PAGE_BYTES,
    (0, "nsze", "<u8"), (8, "ncap", "<u8"), (16, "nuse", "<u8"), (24, "nsfeat", "u1"), (25, "nlbaf", "u1"),
    (26, "flbas", "u1"), (27, "mc", "u1"), (28, "dpc", "u1"), (29, "dps", "u1"), (30, "nmic", "u1"),
    (31, "rescap", "u1"), (33, "dlfeat", "u1"),
    (34, "nawun", "<u2"), (36, "nawupf", "<u2"), (38, "nacwu", "<u2"), (40, "nabsn", "<u2"), (42, "nabo", "<u2"),
    (44, "nabspf", "<u2"), (64, "npwg", "<u2"), (66, "npwa", "<u2"), (68, "npdg", "<u2"), (70, "npda", "<u2"),
    (72, "nows", "<u2"), (74, "mssrl", "<u2"), (76, "mcl", "<u4"), (80, "msrc", "u1"),
    (92, "anagrpid", "<u4"), (104, "nguid", "V16"), (120, "eui64", "V8"), (128, "lbaf", (LBA_FORMAT, 64)),
)  # fmt: skip

ZNS_LBA_FORMAT = np.dtype([("zsze", "<u8"), ("zdes", "u1"), ("reserved", "V7")])

ZNS_NAMESPACE = _layout(
    wire.PAGE_BYTES,
    (0, "zoc", "<u2"), (2, "ozcs", "<u2"), (4, "mar", "<u4"), (8, "mor", "<u4"), (2816, "lbafe", (ZNS_LBA_FORMAT, 64)),
)  # fmt: skip

NVM_CONTROLLER = _layout(
    wire.PAGE_BYTES,
    (0, "vsl", "u1"), (1, "wzsl", "u1"), (2, "wusl", "u1"), (3, "dmrl", "u1"), (4, "dmrsl", "<u4"), (8, "dmsl", "<u8"),
)  # fmt: skip

INDEPENDENT_NAMESPACE = _layout(
    wire.PAGE_BYTES,
    (0, "nsfeat", "u1"),
    (1, "nmic", "u1"),
    (2, "rescap", "u1"),
    (4, "anagrpid", "<u4"),
    (14, "nstat", "u1"),
)

_DESCRIPTOR = struct.Struct("<BBxx")
NIDT_EUI64, NIDT_NGUID, NIDT_UUID, NIDT_CSI = 1, 2, 3, 4
NIDT_BYTES = {NIDT_EUI64: 8, NIDT_NGUID: 16, NIDT_UUID: 16, NIDT_CSI: 1}

CMIC_MULTIPLE_PORTS, CMIC_MULTIPLE_CONTROLLERS, CMIC_ANA = 1, 2, 8
ANACAP_STATES = 1 | 1 << 1 | 1 << 2
"""Optimized, non-optimized, inaccessible."""
ANACAP_FIXED_GROUPS = 1 << 6
"""The ANAGRPID of a namespace does not change while it is attached."""
ANATT_S = 10
OAES_NAMESPACE, OAES_DISCOVERY = wire.EVENT_CONFIG_NAMESPACE, wire.EVENT_CONFIG_DISCOVERY
OAES_ZONES = wire.EVENT_CONFIG_ZONES
CTRATT_HOSTID_128 = 1
CNTRLTYPE_IO, CNTRLTYPE_DISCOVERY = 1, 2
LPA_COMMAND_EFFECTS, LPA_EXTENDED_DATA = 1 << 1, 1 << 2
ONCS_COMPARE, ONCS_WRITE_UNCORRECTABLE, ONCS_DSM, ONCS_WRITE_ZEROES = 1, 1 << 1, 1 << 2, 1 << 3
ONCS_VERIFY, ONCS_COPY = 1 << 7, 1 << 8
FUSES_COMPARE_WRITE = 1
OCFS_FORMAT_0 = 1
ONCS_RESERVATIONS = 1 << 5
RESCAP_PERSISTENT = 1
RESCAP_ALL_TYPES, RESCAP_IGNORE_KEY_1_3 = 0x3F << 1, 1 << 7
SGLS_SUPPORTED, SGLS_OFFSET = 1, 1 << 20
VWC_PRESENT = 1
VWC_FLUSH_ONE_NAMESPACE = 2 << 1
"""Flush with NSID FFFFFFFFh is not supported."""
NSFEAT_THIN, NSFEAT_ATOMICITY, NSFEAT_OPTIMAL_SIZES = 1, 1 << 1, 1 << 4
FLBAS_EXTENDED = 1 << 4
MC_EXTENDED = 1
DLFEAT_READS_ZEROES, DLFEAT_WRITE_ZEROES_DEALLOCATES = 1, 1 << 3
OZCS_READ_ACROSS_ZONES = 1
NSTAT_READY = 1

# --- builders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControllerTraits:
    """The properties of a target's controller."""

    subnqn: str
    cntlid: int
    serial_number: str
    model_number: str
    firmware: str
    max_io_bytes: int
    max_outstanding: int
    max_nsid: int
    in_capsule_bytes: int
    keep_alive_granularity: int
    aer_limit: int
    volatile_cache: bool
    discovery: bool = False
    zoned: bool = False
    copy: bool = False
    """A namespace is conventional. This and the next two: commands that no namespace takes are not reported."""
    write_uncorrectable: bool = False
    compare_write: bool = False
    ana: bool = False
    fabrics: bool = True
    """False: its queues are in the host's memory. Such controllers have no keep-alive, and take no reservations,
    Compare, Verify, Copy and fused commands here."""


def build_controller(traits: ControllerTraits) -> bytes:
    """CNS 01."""
    page = np.zeros((), CONTROLLER)
    page["sn"] = traits.serial_number.encode("ascii", "replace")[:20].ljust(20)
    page["mn"] = traits.model_number.encode("ascii", "replace")[:40].ljust(40)
    page["fr"] = traits.firmware.encode("ascii", "replace")[:8].ljust(8)
    page["mdts"] = mdts(traits.max_io_bytes)
    page["cntlid"] = traits.cntlid
    page["ver"] = wire.VERSION_2_0
    page["acl"] = 3
    page["aerl"] = traits.aer_limit - 1
    page["frmw"] = 1 | 1 << 1  # one slot, read-only
    page["lpa"] = LPA_COMMAND_EFFECTS | LPA_EXTENDED_DATA
    page["subnqn"] = traits.subnqn.encode()
    if traits.discovery:
        page["cntrltype"] = CNTRLTYPE_DISCOVERY
        page["oaes"] = OAES_DISCOVERY
    else:
        page["cntrltype"] = CNTRLTYPE_IO
        page["oaes"] = OAES_NAMESPACE | (OAES_ZONES if traits.zoned else 0)
        page["cmic"] = CMIC_MULTIPLE_PORTS | CMIC_MULTIPLE_CONTROLLERS
        if traits.ana:
            page["cmic"] |= CMIC_ANA
            page["oaes"] |= wire.EVENT_CONFIG_ANA
            page["anatt"], page["anacap"] = ANATT_S, ANACAP_STATES | ANACAP_FIXED_GROUPS
            page["anagrpmax"] = page["nanagrpid"] = traits.max_nsid
        page["ctratt"] = CTRATT_HOSTID_128
        page["wctemp"], page["cctemp"] = 343, 373
        page["sqes"], page["cqes"] = 0x66, 0x44
        page["nn"] = page["mnan"] = traits.max_nsid
        page["oncs"] = ONCS_DSM | ONCS_WRITE_ZEROES
        page["oncs"] |= ONCS_WRITE_UNCORRECTABLE if traits.write_uncorrectable else 0
        if traits.fabrics:
            page["oncs"] |= ONCS_RESERVATIONS | ONCS_COMPARE | ONCS_VERIFY | (ONCS_COPY if traits.copy else 0)
            page["ocfs"] = OCFS_FORMAT_0 if traits.copy else 0
            page["fuses"] = FUSES_COMPARE_WRITE if traits.compare_write else 0
        page["vwc"] = VWC_FLUSH_ONE_NAMESPACE | (VWC_PRESENT if traits.volatile_cache else 0)
    page["sgls"] = SGLS_SUPPORTED
    if traits.fabrics:
        page["sgls"] |= SGLS_OFFSET
        page["kas"] = traits.keep_alive_granularity
        page["maxcmd"] = traits.max_outstanding
        page["ioccsz"] = (wire.SQE_BYTES + traits.in_capsule_bytes) // 16
        page["iorcsz"] = wire.CQE_BYTES // 16
        page["msdbd"] = 1
    return page.tobytes()


def mdts(max_io_bytes: int) -> int:
    """The largest power of two of pages that fits. MDTS 0 would mean no limit."""
    return max(1, (max_io_bytes // wire.PAGE_BYTES).bit_length() - 1)


@dataclass(frozen=True)
class NamespaceTraits:
    """The properties of a target's namespace. data_bytes and metadata_bytes are per block, zone lengths in blocks."""

    block_count: int
    data_bytes: int
    metadata_bytes: int
    nguid: bytes
    eui64: bytes
    uuid: UUID | None
    csi: int
    deallocated_reads_zeroes: bool
    zone_size: int = 0
    max_open_zones: int = 0
    max_active_zones: int = 0
    max_append_bytes: int = 0
    thin: bool = False
    """The number of allocated blocks is known."""
    compare_write_blocks: int = 0
    reservations_persist: bool = False
    ana_group: int = 0
    """0: the subsystem does not report ANA."""

    @property
    def rescap(self) -> int:
        return RESCAP_ALL_TYPES | RESCAP_IGNORE_KEY_1_3 | (RESCAP_PERSISTENT if self.reservations_persist else 0)


def build_namespace(traits: NamespaceTraits, allocated_blocks: int | None = None, *, fabrics: bool = True) -> bytes:
    """CNS 00. allocated_blocks: NUSE; None: all. fabrics: as the controller's."""
    page = np.zeros((), NAMESPACE)
    page["nsze"] = page["ncap"] = traits.block_count
    page["nuse"] = traits.block_count if allocated_blocks is None else min(allocated_blocks, traits.block_count)
    page["nmic"] = 1
    page["rescap"] = traits.rescap if fabrics else 0
    if traits.metadata_bytes:
        page["flbas"] = FLBAS_EXTENDED
        page["mc"] = MC_EXTENDED
    page["lbaf"]["lbads"][0] = traits.data_bytes.bit_length() - 1
    page["lbaf"]["ms"][0] = traits.metadata_bytes
    if traits.deallocated_reads_zeroes:
        page["dlfeat"] = DLFEAT_READS_ZEROES | DLFEAT_WRITE_ZEROES_DEALLOCATES
    atomic_blocks = max(1, ATOMIC_BYTES // traits.data_bytes)
    page["nsfeat"] = NSFEAT_ATOMICITY | (NSFEAT_THIN | NSFEAT_OPTIMAL_SIZES if traits.thin else 0)
    # NPWG, NPWA, NPDG, NPDA and NOWS stay 0, which means one block: an FTL writes its base in batches whatever sizes
    # hosts write, and frees each block that they deallocate.
    page["nawun"] = page["nawupf"] = atomic_blocks - 1
    if fabrics:
        page["nacwu"] = max(traits.compare_write_blocks - 1, 0)
    if fabrics and traits.csi == wire.CSI_NVM:
        page["mssrl"] = page["mcl"] = COPY_BLOCKS_MAX
        page["msrc"] = COPY_RANGES_MAX - 1
    page["nabsn"] = page["nabspf"] = atomic_blocks - 1
    page["anagrpid"] = traits.ana_group
    page["nguid"] = np.void(traits.nguid)
    page["eui64"] = np.void(traits.eui64.ljust(8, b"\0"))
    return page.tobytes()


def build_descriptors(traits: NamespaceTraits) -> bytes:
    """CNS 03. The CSI is always present: with CC.CSS 6, Linux drops every namespace without one."""
    page = bytearray()
    if traits.eui64:
        page += _DESCRIPTOR.pack(NIDT_EUI64, 8) + traits.eui64
    if any(traits.nguid):
        page += _DESCRIPTOR.pack(NIDT_NGUID, 16) + traits.nguid
    if traits.uuid is not None:
        page += _DESCRIPTOR.pack(NIDT_UUID, 16) + traits.uuid.bytes
    page += _DESCRIPTOR.pack(NIDT_CSI, 1) + bytes([traits.csi])
    return bytes(page).ljust(wire.PAGE_BYTES, b"\0")


def build_zns_namespace(traits: NamespaceTraits) -> bytes:
    """CNS 05, CSI 2."""
    page = np.zeros((), ZNS_NAMESPACE)
    page["ozcs"] = OZCS_READ_ACROSS_ZONES
    page["mar"] = (traits.max_active_zones or UNLIMITED_ZONES + 1) - 1
    page["mor"] = (traits.max_open_zones or UNLIMITED_ZONES + 1) - 1
    page["lbafe"]["zsze"][0] = traits.zone_size
    return page.tobytes()


DSM_RANGES_MAX = 255
"""DMRL. The field cannot express the 256 ranges that a command can carry. A host that knows no limit may send 256."""


COPY_RANGES_MAX, COPY_BLOCKS_MAX = 128, 4096
"""Limits of a Copy command, as in shim/nvme/wire.hpp. The blocks are those of one range, and of all."""


def build_nvm_controller(block_counts: Iterable[int], max_io_bytes: int) -> bytes:
    """CNS 06, CSI 0. A dataset management command may name each block of a namespace once. A Verify reads at most as
    much as a Read."""
    page = np.zeros((), NVM_CONTROLLER)
    page["vsl"] = mdts(max_io_bytes)
    most = max(block_counts, default=0)
    if most:
        page["dmrl"] = DSM_RANGES_MAX
        page["dmrsl"] = min(most, 0xFFFFFFFF)
        page["dmsl"] = most
    return page.tobytes()


def build_zns_controller(max_append_bytes: int, max_io_bytes: int) -> bytes:
    """CNS 06, CSI 2: ZASL; 0 if appends may be as large as MDTS allows."""
    page = bytearray(wire.PAGE_BYTES)
    limit = min(max_append_bytes, max_io_bytes) // wire.PAGE_BYTES
    zasl = limit.bit_length() - 1
    page[0] = zasl if 0 < zasl < mdts(max_io_bytes) else 0
    return bytes(page)


def build_independent_namespace(traits: NamespaceTraits, *, fabrics: bool = True) -> bytes:
    """CNS 08."""
    page = np.zeros((), INDEPENDENT_NAMESPACE)
    page["nmic"], page["rescap"], page["nstat"] = 1, traits.rescap if fabrics else 0, NSTAT_READY
    page["anagrpid"] = traits.ana_group
    return page.tobytes()


def build_nsid_list(nsids: Iterable[int]) -> bytes:
    """CNS 02 and 07: in ascending order, terminated by zero unless full."""
    page = np.zeros(NSID_LIST_MAX, "<u4")
    chosen = sorted(nsids)[:NSID_LIST_MAX]
    page[: len(chosen)] = chosen
    return page.tobytes()


def build_command_sets(*, zoned: bool) -> bytes:
    """CNS 1C: one combination."""
    vector = 1 << wire.CSI_NVM | (1 << wire.CSI_ZNS if zoned else 0)
    return vector.to_bytes(8, "little").ljust(wire.PAGE_BYTES, b"\0")


# --- parsers --------------------------------------------------------------------------------------------------------


def _page(data: bytes | bytearray, layout: np.dtype[np.void]) -> Any:
    if len(data) != wire.PAGE_BYTES:
        raise ProtocolError(f"identify page has {len(data)} bytes instead of {wire.PAGE_BYTES}")
    return np.frombuffer(data, layout)[0]


def _identifier(raw: bytes) -> bytes:
    return raw if any(raw) else b""


def _text(field: bytes) -> str:
    return bytes(field).rstrip(b"\0 ").decode("ascii", "replace")


@dataclass(frozen=True)
class ControllerPage:
    """The fields of CNS 01 that a host needs. max_io_bytes 0: no limit. keep_alive_granularity_ms 0: no keep-alive."""

    cntlid: int
    serial: str
    model: str
    firmware: str
    version: int
    subnqn: str
    is_discovery: bool
    max_io_bytes: int
    oaes: int
    aer_limit: int
    keep_alive_granularity_ms: int
    max_outstanding: int
    max_nsid: int
    volatile_cache: bool
    in_capsule_bytes: int


def parse_controller(data: bytes | bytearray, *, fabrics: bool = True) -> ControllerPage:
    """fabrics: commands come in capsules. Raises ProtocolError if a field that we depend on violates the
    specification."""
    page = _page(data, CONTROLLER)
    discovery = int(page["cntrltype"]) == CNTRLTYPE_DISCOVERY
    ioccsz, shift = int(page["ioccsz"]), int(page["mdts"])
    if not discovery:
        if not int(page["sqes"]) & 0xF <= wire.IOSQES <= int(page["sqes"]) >> 4:
            raise ProtocolError(
                f"controller does not support 64-byte submission queue entries (SQES {int(page['sqes']):#x})"
            )
        if not int(page["cqes"]) & 0xF <= wire.IOCQES <= int(page["cqes"]) >> 4:
            raise ProtocolError(
                f"controller does not support 16-byte completion queue entries (CQES {int(page['cqes']):#x})"
            )
        if fabrics and ioccsz < wire.SQE_BYTES // 16:
            raise ProtocolError(f"controller's command capsules can't hold a command (IOCCSZ {ioccsz})")
        if int(page["icdoff"]):
            raise ProtocolError(f"controller has ICDOFF {int(page['icdoff'])}, NVMe/TCP has none")
    return ControllerPage(
        cntlid=int(page["cntlid"]),
        serial=_text(page["sn"]),
        model=_text(page["mn"]),
        firmware=_text(page["fr"]),
        version=int(page["ver"]),
        subnqn=_text(page["subnqn"]),
        is_discovery=discovery,
        max_io_bytes=wire.PAGE_BYTES << shift if 0 < shift < 20 else 0,
        oaes=int(page["oaes"]),
        aer_limit=int(page["aerl"]) + 1,
        keep_alive_granularity_ms=int(page["kas"]) * 100,
        max_outstanding=int(page["maxcmd"]),
        max_nsid=int(page["nn"]),
        volatile_cache=bool(int(page["vwc"]) & VWC_PRESENT),
        in_capsule_bytes=min(max(ioccsz * 16 - wire.SQE_BYTES, 0), 1 << 20),
    )


def parse_nsid_list(data: bytes | bytearray, after: int) -> list[int]:
    """The NSIDs up to the first zero. Raises ProtocolError unless they are ascending and above ``after``."""
    if len(data) != wire.PAGE_BYTES:
        raise ProtocolError(f"namespace list has {len(data)} bytes instead of {wire.PAGE_BYTES}")
    nsids: list[int] = []
    for nsid in np.frombuffer(data, "<u4").tolist():
        if nsid == 0:
            break
        if nsid <= after or nsid > wire.NSID_MAX:
            raise ProtocolError(f"namespace list is not ascending: {nsid} after {after}")
        nsids.append(nsid)
        after = nsid
    return nsids


@dataclass(frozen=True)
class NamespacePage:
    """The fields of CNS 00 that a host needs. block_bytes is the data part of a block; identifiers may be empty."""

    block_count: int
    block_bytes: int
    metadata_bytes: int
    metadata_interleaved: bool
    dif_type: int
    nguid: bytes
    eui64: bytes
    format_index: int


def parse_namespace(nsid: int, data: bytes | bytearray) -> NamespacePage | None:
    """Returns None for an inactive namespace (NCAP 0). Raises ProtocolError for an impossible format."""
    page = _page(data, NAMESPACE)
    block_count = int(page["nsze"])
    if int(page["ncap"]) == 0:
        return None
    flbas, nlbaf = int(page["flbas"]), int(page["nlbaf"])
    index = flbas & 0xF | (flbas >> 5 & 3) << 4 if nlbaf > 15 else flbas & 0xF
    if index > min(nlbaf, 63):
        raise ProtocolError(f"namespace {nsid} uses LBA format {index} of {nlbaf + 1}")
    shift, metadata = int(page["lbaf"][index]["lbads"]), int(page["lbaf"][index]["ms"])
    if not LBADS_MIN <= shift <= LBADS_MAX:
        raise ProtocolError(
            f"namespace {nsid} has blocks of 2^{shift} bytes; 2^{LBADS_MIN} to 2^{LBADS_MAX} are supported"
        )
    if metadata > METADATA_BYTES_MAX:
        raise ProtocolError(
            f"namespace {nsid} has {metadata} bytes of metadata per block; at most {METADATA_BYTES_MAX} are supported"
        )
    if block_count == 0 or int(page["ncap"]) > block_count or block_count > CAPACITY_BYTES_MAX >> shift:
        raise ProtocolError(f"namespace {nsid} has {block_count} blocks with a capacity of {int(page['ncap'])}")
    return NamespacePage(
        block_count=block_count,
        block_bytes=1 << shift,
        metadata_bytes=metadata,
        metadata_interleaved=bool(metadata and flbas & FLBAS_EXTENDED),
        dif_type=int(page["dps"]) & 7 if metadata else 0,
        nguid=_identifier(page["nguid"].tobytes()),
        eui64=_identifier(page["eui64"].tobytes()),
        format_index=index,
    )


@dataclass(frozen=True)
class Descriptors:
    """CNS 03. csi 0 if the controller does not report it (SPDK, for the NVM command set)."""

    eui64: bytes = b""
    nguid: bytes = b""
    uuid: UUID | None = None
    csi: int = wire.CSI_NVM


def parse_descriptors(nsid: int, data: bytes | bytearray) -> Descriptors:
    """Raises ProtocolError if a descriptor has a wrong length or exceeds the page. Unknown types are skipped."""
    if len(data) != wire.PAGE_BYTES:
        raise ProtocolError(f"descriptors of namespace {nsid} have {len(data)} bytes instead of {wire.PAGE_BYTES}")
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _DESCRIPTOR.size <= len(data):
        kind, length = _DESCRIPTOR.unpack_from(data, offset)
        if length == 0:
            break
        value = bytes(data[offset + _DESCRIPTOR.size : offset + _DESCRIPTOR.size + length])
        if len(value) != length or NIDT_BYTES.get(kind, length) != length:
            raise ProtocolError(f"descriptor of type {kind} of namespace {nsid} has a length of {length}")
        found.setdefault(kind, value)
        offset += _DESCRIPTOR.size + length
    raw_uuid = found.get(NIDT_UUID)
    return Descriptors(
        eui64=_identifier(found.get(NIDT_EUI64, b"")),
        nguid=_identifier(found.get(NIDT_NGUID, b"")),
        uuid=UUID(bytes=raw_uuid) if raw_uuid and any(raw_uuid) else None,
        csi=found.get(NIDT_CSI, b"\0")[0],
    )


@dataclass(frozen=True)
class ZnsNamespacePage:
    """The fields of CNS 05, CSI 2 that a host needs. Limits 0: none. zone_size is in blocks."""

    zone_size: int
    max_open_zones: int
    max_active_zones: int


def parse_zns_namespace(nsid: int, data: bytes | bytearray, namespace: NamespacePage) -> ZnsNamespacePage:
    """Raises ProtocolError for impossible zones."""
    page = _page(data, ZNS_NAMESPACE)
    zone_size = int(page["lbafe"][namespace.format_index]["zsze"])
    if not 0 < zone_size <= namespace.block_count:
        raise ProtocolError(f"namespace {nsid} has zones of {zone_size} blocks in {namespace.block_count}")
    return ZnsNamespacePage(
        zone_size=zone_size,
        max_open_zones=(int(page["mor"]) + 1) & 0xFFFFFFFF,
        max_active_zones=(int(page["mar"]) + 1) & 0xFFFFFFFF,
    )


def parse_zns_controller(data: bytes | bytearray, max_io_bytes: int) -> int:
    """The largest append in bytes: ZASL, or max_io_bytes (0: no limit) if ZASL is 0."""
    if len(data) != wire.PAGE_BYTES:
        raise ProtocolError(f"identify page has {len(data)} bytes instead of {wire.PAGE_BYTES}")
    zasl = data[0]
    if not 0 < zasl < 20:
        return max_io_bytes
    append = wire.PAGE_BYTES << zasl
    return min(append, max_io_bytes) if max_io_bytes else append
