"""The messages of vfio-user, protocol 0.x: a header of 16 bytes, and a payload. All little endian.

Source: the specification in libvfio-user (docs/vfio-user.rst); flags and capabilities are those of <linux/vfio.h>.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from ..errors import ProtocolError

MAJOR: Final = 0
MINOR: Final = 1
HEADER: Final = struct.Struct("<HHIII")
"""Message id, command, size of the whole message, flags, error number."""
PAYLOAD_BYTES_MAX: Final = 4096
"""Of any message. SPDK's initiator has no room for more."""
FDS_MAX: Final = 8
"""With one message. A Linux kernel passes 253 at most."""

TYPE_MASK: Final = 0xF
TYPE_COMMAND: Final = 0
TYPE_REPLY: Final = 1
NO_REPLY: Final = 1 << 4
ERROR: Final = 1 << 5


class Command(IntEnum):
    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13


VERSION: Final = struct.Struct("<HH")
"""Major, minor. JSON follows, terminated by a zero byte; it may be missing."""
DEVICE_INFO: Final = struct.Struct("<IIII")
"""argsz, flags, number of regions, number of interrupt types."""
REGION_INFO: Final = struct.Struct("<IIIIQQ")
"""argsz, flags, index, offset of the first capability, size, offset of the region in its fd."""
SPARSE_MMAP: Final = struct.Struct("<HHIII")
"""Capability id, version, next, number of areas, reserved."""
SPARSE_AREA: Final = struct.Struct("<QQ")
IRQ_INFO: Final = struct.Struct("<IIII")
"""argsz, flags, index, count."""
IRQ_SET: Final = struct.Struct("<IIIII")
"""argsz, flags, index, start, count."""
DMA_MAP: Final = struct.Struct("<IIQQQ")
"""argsz, flags, offset in the fd, address, size."""
DMA_UNMAP: Final = struct.Struct("<IIQQ")
"""argsz, flags, address, size."""
REGION_ACCESS: Final = struct.Struct("<QII")
"""Offset, region, count. Data follows in a write, and in the reply to a read."""

DEVICE_FLAG_RESET: Final = 1
DEVICE_FLAG_PCI: Final = 1 << 1
REGION_FLAG_READ: Final = 1
REGION_FLAG_WRITE: Final = 1 << 1
REGION_FLAG_MMAP: Final = 1 << 2
REGION_FLAG_CAPS: Final = 1 << 3
CAP_SPARSE_MMAP: Final = 1
DMA_READABLE: Final = 1
DMA_WRITABLE: Final = 1 << 1

BAR0_REGION: Final = 0
CONFIG_REGION: Final = 7
REGION_COUNT: Final = 9
IRQ_TYPE_COUNT: Final = 5
"""INTx, MSI, MSI-X, error, request."""


@dataclass(frozen=True)
class Header:
    message_id: int
    command: int
    size: int
    flags: int = TYPE_COMMAND
    error: int = 0

    def pack(self) -> bytes:
        return HEADER.pack(self.message_id, self.command, self.size, self.flags, self.error)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Header:
        """Raises ProtocolError if the size is impossible."""
        header = cls(*HEADER.unpack(data))
        if not HEADER.size <= header.size <= HEADER.size + PAYLOAD_BYTES_MAX:
            raise ProtocolError(
                f"a message of {header.size} bytes (command {header.command}): it must have {HEADER.size} to "
                f"{HEADER.size + PAYLOAD_BYTES_MAX}"
            )
        return header

    @property
    def is_reply(self) -> bool:
        return self.flags & TYPE_MASK == TYPE_REPLY

    @property
    def wants_reply(self) -> bool:
        return not self.flags & NO_REPLY


def pack_command(message_id: int, command: int, payload: bytes = b"", flags: int = TYPE_COMMAND) -> bytes:
    return Header(message_id, command, HEADER.size + len(payload), flags).pack() + payload


def pack_reply(request: Header, payload: bytes = b"", *, error: int = 0) -> bytes:
    """error: an errno; then there is no payload."""
    if error:
        return Header(request.message_id, request.command, HEADER.size, TYPE_REPLY | ERROR, error).pack()
    return Header(request.message_id, request.command, HEADER.size + len(payload), TYPE_REPLY).pack() + payload


def unpack_start(layout: struct.Struct, payload: bytes, command: int) -> tuple[Any, ...]:
    """The fields at the start of a payload. Raises ProtocolError if it is shorter than they are."""
    if len(payload) < layout.size:
        raise ProtocolError(f"command {command} has {len(payload)} bytes of payload, but needs {layout.size}")
    return layout.unpack_from(payload)


# --- version ---------------------------------------------------------------------------------------------------------


def pack_version(minor: int, capabilities: dict[str, Any] | None = None) -> bytes:
    """capabilities None: no JSON."""
    text = b"" if capabilities is None else json.dumps({"capabilities": capabilities}).encode() + b"\0"
    return VERSION.pack(MAJOR, minor) + text


def unpack_version(payload: bytes) -> tuple[int, int, dict[str, Any]]:
    """Major, minor and capabilities. Raises ProtocolError."""
    major, minor = unpack_start(VERSION, payload, Command.VERSION)
    text = payload[VERSION.size :]
    if not text:
        return major, minor, {}
    if text[-1:] != b"\0":
        raise ProtocolError("the JSON of VERSION does not end with a zero byte")
    try:
        content = json.loads(text[:-1].decode() or "{}")
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the text of VERSION is not JSON") from error
    capabilities = content.get("capabilities", {}) if isinstance(content, dict) else None
    if not isinstance(capabilities, dict):
        raise ProtocolError("the JSON of VERSION has no object with capabilities")
    return major, minor, capabilities


# --- regions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegionInfo:
    """areas: (offset, size) of the parts that can be mapped, by the fd that comes with the reply."""

    index: int
    size: int = 0
    flags: int = 0
    areas: tuple[tuple[int, int], ...] = ()

    def pack(self, room: int) -> bytes:
        """room: argsz of the request. Capabilities are left out if they don't fit; the reply says what would."""
        capabilities = b""
        if self.areas:
            capabilities = SPARSE_MMAP.pack(CAP_SPARSE_MMAP, 1, 0, len(self.areas), 0)
            capabilities += b"".join(SPARSE_AREA.pack(*area) for area in self.areas)
        needed = REGION_INFO.size + len(capabilities)
        flags = self.flags | (REGION_FLAG_MMAP | REGION_FLAG_CAPS if self.areas else 0)
        fits = room >= needed
        at = REGION_INFO.size if capabilities and fits else 0
        fixed = REGION_INFO.pack(needed, flags, self.index, at, self.size, 0)
        return fixed + (capabilities if fits else b"")

    @classmethod
    def unpack(cls, payload: bytes) -> RegionInfo:
        """Raises ProtocolError."""
        _, flags, index, at, size, _ = unpack_start(REGION_INFO, payload, Command.DEVICE_GET_REGION_INFO)
        areas: list[tuple[int, int]] = []
        seen = 0
        while flags & REGION_FLAG_CAPS and at:
            # A list that points backwards could have no end.
            if at < REGION_INFO.size or at <= seen or at + 8 > len(payload):
                raise ProtocolError(f"region {index}: a capability at {at} of {len(payload)} bytes")
            seen = at
            capability, _, following = struct.unpack_from("<HHI", payload, at)
            if capability == CAP_SPARSE_MMAP:
                head = unpack_start(SPARSE_MMAP, payload[at:], Command.DEVICE_GET_REGION_INFO)
                first, count = at + SPARSE_MMAP.size, head[3]
                if count > FDS_MAX or first + count * SPARSE_AREA.size > len(payload):
                    raise ProtocolError(f"region {index}: {count} areas to map are too many")
                areas += [SPARSE_AREA.unpack_from(payload, first + n * SPARSE_AREA.size) for n in range(count)]
            at = following
        return cls(index, size, flags & ~REGION_FLAG_CAPS, tuple(areas))
