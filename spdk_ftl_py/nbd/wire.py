"""The handshake of the NBD protocol: numbers and layouts, in network byte order.

Source: doc/proto.md of the NBD project (https://github.com/NetworkBlockDevice/nbd), sections "Fixed newstyle
negotiation" and "Values".
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
REPLY_MAGIC: Final = 0x3E889045565A9

HELLO: Final = struct.Struct(">8s8sH")
"""MAGIC, OPTION_MAGIC, HandshakeFlag."""
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">8sII")
"""OPTION_MAGIC, Option, bytes of data."""
REPLY: Final = struct.Struct(">QIII")
"""REPLY_MAGIC, Option, Reply, bytes of data."""
EXPORT_NAME_REPLY: Final = struct.Struct(">QH")
"""Bytes of the export, TransmissionFlag. EXPORT_NAME_PADDING zeroes follow, unless NO_ZEROES was agreed."""
EXPORT_NAME_PADDING: Final = 124
INFO_EXPORT: Final = struct.Struct(">HQH")
INFO_BLOCK_SIZE: Final = struct.Struct(">HIII")
"""Info, then the smallest, the preferred and the largest request in bytes."""
U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")

STRING_MAX: Final = 4096
"""The longest string that the protocol allows."""


class HandshakeFlag(IntFlag):
    """The client's have the same values."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 1 << 31 | 1
    ERR_POLICY = 1 << 31 | 2
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_FAST_ZERO = 1 << 11
