"""The NVMe and NVMe/TCP wire: layouts, opcodes, identifiers and status codes, all little endian.

Sources: NVM Express Base 2.0 (commands, status), NVM Express TCP Transport 1.0 (PDUs), ZNS Command Set 1.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from ..errors import NvmeStatusError, ProtocolError

# --- names ----------------------------------------------------------------------------------------------------------

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
NQN_BYTES_MAX = 223
CNTLID_DYNAMIC = 0xFFFF
CNTLID_MAX = 0xFFEF
NSID_ALL = 0xFFFFFFFF
NSID_MAX = 0xFFFFFFFD
PAGE_BYTES = 4096
"""The unit of MDTS and ZASL. CAP.MPSMIN is 0 everywhere here."""

# --- PDUs -----------------------------------------------------------------------------------------------------------


class PduType(IntEnum):
    IC_REQ = 0x00
    IC_RESP = 0x01
    H2C_TERM_REQ = 0x02
    C2H_TERM_REQ = 0x03
    CAPSULE_CMD = 0x04
    CAPSULE_RESP = 0x05
    H2C_DATA = 0x06
    C2H_DATA = 0x07
    R2T = 0x09


HEADER_BYTES: dict[int, int] = {
    PduType.IC_REQ: 128,
    PduType.IC_RESP: 128,
    PduType.H2C_TERM_REQ: 24,
    PduType.C2H_TERM_REQ: 24,
    PduType.CAPSULE_CMD: 72,
    PduType.CAPSULE_RESP: 24,
    PduType.H2C_DATA: 24,
    PduType.C2H_DATA: 24,
    PduType.R2T: 24,
}
"""HLEN of each PDU type."""

WITHOUT_DIGESTS = frozenset({PduType.IC_REQ, PduType.IC_RESP, PduType.H2C_TERM_REQ, PduType.C2H_TERM_REQ})
WITH_DATA = frozenset({PduType.CAPSULE_CMD, PduType.H2C_DATA, PduType.C2H_DATA})

COMMON_HEADER = struct.Struct("<BBBBI")
"""type, flags, HLEN, PDO, PLEN."""

FLAG_HEADER_DIGEST = 0x01
FLAG_DATA_DIGEST = 0x02
FLAG_LAST = 0x04
FLAG_SUCCESS = 0x08

DIGEST_BYTES = 4
DGST_HEADER = 0x01
DGST_DATA = 0x02
IC_PFV = 0
IC_BODY = struct.Struct("<HBBI112x")
"""PFV, HPDA or CPDA, DGST, MAXR2T or MAXH2CDATA: the body of ICReq and ICResp, after the common header."""

TERM_REQ_PLEN_MAX = 152
TERM_REQ_BODY = struct.Struct("<HI10x")
"""FES, FEI. The offending header follows as data."""

DATA_BODY = struct.Struct("<HHII4x")
"""CCCID, TTAG, DATAO (R2TO), DATAL (R2TL): the body of H2CData, C2HData and R2T."""

ADMIN_DATA_MAX = 8192
"""The in-capsule bytes that every controller accepts on its admin queue and with Connect, whatever IOCCSZ says."""


class FatalError(IntEnum):
    """FES of a TermReq PDU."""

    INVALID_HEADER_FIELD = 1
    PDU_SEQUENCE = 2
    HEADER_DIGEST = 3
    DATA_OUT_OF_RANGE = 4
    DATA_LIMIT_EXCEEDED = 5
    UNSUPPORTED_PARAMETER = 6


FEI_TYPE, FEI_FLAGS, FEI_HLEN, FEI_PDO, FEI_PLEN, FEI_PFV, FEI_CCCID, FEI_TTAG, FEI_DATAO, FEI_DATAL = (
    0, 1, 2, 3, 4, 8, 8, 10, 12, 16,
)  # fmt: skip
"""Offsets of the header fields that a TermReq can point at."""

# --- commands and completions ---------------------------------------------------------------------------------------

SQE_BYTES = 64
CQE_BYTES = 16
_SQE = struct.Struct("<BBHI8xQQI3xB6I")
_CQE = struct.Struct("<QHHHH")

PSDT_SGL = 0x40
SGL_TRANSPORT = 0x5A
"""Transport SGL data block: the data comes in PDUs of its own."""
SGL_IN_CAPSULE = 0x01
"""SGL data block with offset: the data follows the SQE in its capsule."""


@dataclass(frozen=True)
class Sqe:
    """A submission queue entry. In Fabrics commands nsid holds the four bytes from offset 4 on, and cdw10 and the
    following those from offset 40 on."""

    opcode: int
    cid: int = 0
    nsid: int = 0
    cdw10: int = 0
    cdw11: int = 0
    cdw12: int = 0
    cdw13: int = 0
    cdw14: int = 0
    cdw15: int = 0
    sgl_address: int = 0
    sgl_bytes: int = 0
    sgl_type: int = SGL_TRANSPORT
    flags: int = PSDT_SGL

    @property
    def fctype(self) -> int:
        """The command type of a Fabrics command, at offset 4."""
        return self.nsid & 0xFF

    @property
    def host_to_controller(self) -> bool:
        """The data direction, from the two low bits of the opcode (or fctype). Both bits set count as neither."""
        return (self.fctype if self.opcode == AdminOp.FABRICS else self.opcode) & 3 == 1

    def pack(self) -> bytes:
        return _SQE.pack(
            self.opcode, self.flags, self.cid, self.nsid, 0, self.sgl_address, self.sgl_bytes, self.sgl_type,
            self.cdw10, self.cdw11, self.cdw12, self.cdw13, self.cdw14, self.cdw15,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Sqe:
        opcode, flags, cid, nsid, _, address, length, sgl_type, d10, d11, d12, d13, d14, d15 = _SQE.unpack(data)
        return cls(opcode, cid, nsid, d10, d11, d12, d13, d14, d15, address, length, sgl_type, flags)


@dataclass(frozen=True)
class Cqe:
    """A completion queue entry. status is SCT << 8 | SC."""

    cid: int
    status: int = 0
    do_not_retry: bool = False
    result: int = 0
    sqhd: int = 0

    def pack(self) -> bytes:
        field = (self.status & 0x7FF) << 1 | (0x8000 if self.do_not_retry else 0)
        return _CQE.pack(self.result, self.sqhd, 0, self.cid, field)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Cqe:
        result, sqhd, _, cid, field = _CQE.unpack(data)
        return cls(cid, field >> 1 & 0x7FF, bool(field & 0x8000), result, sqhd)


class AdminOp(IntEnum):
    DELETE_IO_SQ = 0x00
    CREATE_IO_SQ = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_IO_CQ = 0x04
    CREATE_IO_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT_REQUEST = 0x0C
    KEEP_ALIVE = 0x18
    FABRICS = 0x7F


class FabricsType(IntEnum):
    PROPERTY_SET = 0x00
    CONNECT = 0x01
    PROPERTY_GET = 0x04
    AUTHENTICATION_SEND = 0x05
    AUTHENTICATION_RECEIVE = 0x06
    DISCONNECT = 0x08


class NvmOp(IntEnum):
    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_UNCORRECTABLE = 0x04
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09
    RESERVATION_REGISTER = 0x0D
    RESERVATION_REPORT = 0x0E
    RESERVATION_ACQUIRE = 0x11
    RESERVATION_RELEASE = 0x15
    VERIFY = 0x0C
    COPY = 0x19
    ZONE_MANAGEMENT_SEND = 0x79
    ZONE_MANAGEMENT_RECEIVE = 0x7A
    ZONE_APPEND = 0x7D


class AnaState(IntEnum):
    """Of a namespace through a controller: Base 2.0 section 8.1."""

    OPTIMIZED = 0x1
    NON_OPTIMIZED = 0x2
    INACCESSIBLE = 0x3


CSI_NVM = 0
CSI_ZNS = 2


class Cns(IntEnum):
    NAMESPACE = 0x00
    CONTROLLER = 0x01
    ACTIVE_NAMESPACES = 0x02
    NAMESPACE_DESCRIPTORS = 0x03
    CSI_NAMESPACE = 0x05
    CSI_CONTROLLER = 0x06
    CSI_ACTIVE_NAMESPACES = 0x07
    INDEPENDENT_NAMESPACE = 0x08
    COMMAND_SETS = 0x1C


class LogPage(IntEnum):
    SUPPORTED = 0x00
    ERROR = 0x01
    SMART = 0x02
    FIRMWARE_SLOT = 0x03
    CHANGED_NAMESPACES = 0x04
    COMMAND_EFFECTS = 0x05
    ANA = 0x0C
    DISCOVERY = 0x70
    RESERVATION = 0x80
    CHANGED_ZONES = 0xBF


class Feature(IntEnum):
    ARBITRATION = 0x01
    POWER_MANAGEMENT = 0x02
    TEMPERATURE_THRESHOLD = 0x04
    ERROR_RECOVERY = 0x05
    VOLATILE_WRITE_CACHE = 0x06
    NUMBER_OF_QUEUES = 0x07
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENT_CONFIGURATION = 0x0B
    KEEP_ALIVE_TIMER = 0x0F
    HOST_BEHAVIOR = 0x16
    COMMAND_SET_PROFILE = 0x19
    HOST_IDENTIFIER = 0x81
    RESERVATION_NOTICE_MASK = 0x82
    RESERVATION_PERSISTENCE = 0x83


# --- asynchronous events --------------------------------------------------------------------------------------------

EVENT_NAMESPACE_CHANGED = 0x00040002
"""Notice (type 2), namespace attribute changed (info 0), log page 04."""
EVENT_DISCOVERY_CHANGED = 0x0070F002
EVENT_ZONES_CHANGED = 0x00BFEF02
"""DW1 holds the NSID."""
EVENT_RESERVATION = 0x00800006
"""I/O command specific (type 6), reservation log page available (info 0), log page 80."""
EVENT_RELIABILITY = 0x00020001
EVENT_SPARE = 0x00020201
EVENT_ANA_CHANGED = 0x000C0302
EVENT_CONFIG_NAMESPACE = 1 << 8
EVENT_CONFIG_ANA = 1 << 11
EVENT_CONFIG_ZONES = 1 << 27
EVENT_CONFIG_DISCOVERY = 1 << 31

# --- properties -----------------------------------------------------------------------------------------------------


class Property(IntEnum):
    CAP = 0x00
    VS = 0x08
    CC = 0x14
    CSTS = 0x1C
    NSSR = 0x20
    CRTO = 0x68


VERSION_2_0 = 0x00020000
PROPERTY_8_BYTES = frozenset({Property.CAP})

CC_EN = 1
CC_CSS_SHIFT = 4
CC_MPS_SHIFT = 7
CC_AMS_SHIFT = 11
CC_SHN_SHIFT = 14
CC_IOSQES_SHIFT = 16
CC_IOCQES_SHIFT = 20
CSS_NVM = 0
CSS_ALL = 6
"""CC.CSS: all I/O command sets that the controller supports. Only valid if CAP has CAP_CSS_IOCS."""
IOSQES = 6
IOCQES = 4
SHN_NORMAL = 1
SHN_ABRUPT = 2

CSTS_RDY = 1
CSTS_CFS = 2
CSTS_SHST_MASK = 0xC
CSTS_SHST_OCCURRING = 0x4
CSTS_SHST_COMPLETE = 0x8


class Cap(IntFlag):
    """The single bits of CAP. MQES (15:0), TO (31:24, 500 ms) and MPSMIN/MPSMAX are added to them."""

    CQR = 1 << 16
    CSS_NVM = 1 << 37
    CSS_IOCS = 1 << 43
    CRWMS = 1 << 59


CAP_TO_SHIFT = 24
CAP_TO_UNIT_S = 0.5

# --- Connect --------------------------------------------------------------------------------------------------------

CONNECT_DATA_BYTES = 1024
_CONNECT_DATA = struct.Struct("<16sH238x256s256s256x")
CONNECT_DATA_CNTLID, CONNECT_DATA_SUBNQN, CONNECT_DATA_HOSTNQN = 16, 256, 512
CONNECT_SQE_RECFMT, CONNECT_SQE_QID, CONNECT_SQE_SQSIZE = 40, 42, 44
CATTR_NO_FLOW_CONTROL = 0x04
SQHD_NO_FLOW_CONTROL = 0xFFFF
CONNECT_ATR = 1 << 17
"""In the result of Connect: the controller requires authentication."""
CONNECT_ASCR = 1 << 18
"""In the result of Connect: the controller requires authentication and a secure channel derived from it."""

# --- Authentication Send and Receive ----------------------------------------------------------------------------------

AUTH_FIELDS = 0xE9010100
"""CDW10: SECP E9h (NVMe), SPSP1 and SPSP0 1. The length is in CDW11."""
AUTH_FIELDS_MASK = 0xFFFFFF00


@dataclass(frozen=True)
class ConnectData:
    """The 1024 bytes of data of a Connect. The NQNs are whole fields: see decode_nqn()."""

    hostid: bytes
    cntlid: int
    subnqn: bytes
    hostnqn: bytes

    def pack(self) -> bytes:
        return _CONNECT_DATA.pack(self.hostid, self.cntlid, self.subnqn, self.hostnqn)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> ConnectData:
        return cls(*_CONNECT_DATA.unpack(data))


def decode_nqn(field: bytes) -> str | None:
    """Returns the NQN in a 256-byte field, which may be empty. None if it is too long, not terminated or not UTF-8."""
    raw, terminator, _ = field.partition(b"\0")
    if not terminator or len(raw) > NQN_BYTES_MAX:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


# --- status ---------------------------------------------------------------------------------------------------------


class Status(IntEnum):
    """SCT << 8 | SC."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    ABORTED_BY_REQUEST = 0x007
    ABORTED_SQ_DELETED = 0x008
    FAILED_FUSED_COMMAND = 0x009
    MISSING_FUSED_COMMAND = 0x00A
    INVALID_NAMESPACE = 0x00B
    COMMAND_SEQUENCE_ERROR = 0x00C
    SGL_DATA_LENGTH = 0x00F
    SGL_TYPE = 0x011
    PRP_OFFSET = 0x013
    HOST_IDENTIFIER_FORMAT = 0x018
    KEEP_ALIVE_INVALID = 0x019
    ABORTED_PREEMPTED = 0x01B
    TRANSIENT_TRANSPORT_ERROR = 0x022
    COMMAND_SET_NOT_SUPPORTED = 0x029
    LBA_OUT_OF_RANGE = 0x080
    CAPACITY_EXCEEDED = 0x081
    NAMESPACE_NOT_READY = 0x082
    RESERVATION_CONFLICT = 0x083
    COMPLETION_QUEUE_INVALID = 0x100
    INVALID_QUEUE_ID = 0x101
    INVALID_QUEUE_SIZE = 0x102
    ASYNC_EVENT_LIMIT = 0x105
    INVALID_INTERRUPT_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_QUEUE_DELETION = 0x10C
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x10F
    CONNECT_INCOMPATIBLE_FORMAT = 0x180
    CONNECT_CONTROLLER_BUSY = 0x181
    CONNECT_INVALID_PARAMETERS = 0x182
    CONNECT_RESTART_DISCOVERY = 0x183
    COMMAND_SIZE_LIMIT = 0x183
    """A status of I/O commands."""
    CONNECT_INVALID_HOST = 0x184
    DISCOVER_RESTART = 0x190
    AUTHENTICATION_REQUIRED = 0x191
    ZONE_BOUNDARY = 0x1B8
    ZONE_FULL = 0x1B9
    ZONE_READ_ONLY = 0x1BA
    ZONE_OFFLINE = 0x1BB
    ZONE_INVALID_WRITE = 0x1BC
    TOO_MANY_ACTIVE_ZONES = 0x1BD
    TOO_MANY_OPEN_ZONES = 0x1BE
    INVALID_ZONE_TRANSITION = 0x1BF
    WRITE_FAULT = 0x280
    ANA_INACCESSIBLE = 0x302
    UNRECOVERED_READ = 0x281
    GUARD_CHECK = 0x282
    COMPARE_FAILURE = 0x285
    PATH_ERROR = 0x370
    HOST_ABORTED = 0x371


def status_text(status: int) -> str:
    """The status as text, for messages: ``connect invalid host (1/84h)``."""
    try:
        name = Status(status).name.lower().replace("_", " ")
    except ValueError:
        name = "status"
    return f"{name} ({status >> 8:x}/{status & 0xFF:02X}h)"


class CommandError(NvmeStatusError):
    """A command that we sent was completed with an error. The connection is intact."""

    def __init__(self, message: str, cqe: Cqe) -> None:
        super().__init__(f"{message}: {status_text(cqe.status)}", status=cqe.status)
        self.do_not_retry = cqe.do_not_retry
        self.result = cqe.result


class PduError(ProtocolError):
    """A PDU that ends the connection, with the content of the TermReq: FES, FEI, and the offending header."""

    def __init__(self, message: str, fes: FatalError, fei: int = 0, header: bytes = b"") -> None:
        super().__init__(message)
        self.fes = fes
        self.fei = fei
        self.header = header
