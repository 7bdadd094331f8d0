"""The PCI configuration space of the controller: an NVMe device without interrupts. PCI Local Bus 3.0 section 6."""

from __future__ import annotations

import struct
from typing import Final

CONFIG_BYTES: Final = 4096
VENDOR_ID: Final = 0x1B36
DEVICE_ID: Final = 0x0010
"""Those of QEMU's NVMe controller: a vendor that gives ids to virtual devices, and a device that drivers know."""
CLASS_NVME: Final = 0x010802
"""Mass storage, non-volatile memory, NVM Express."""

_COMMAND_AT, _STATUS_AT, _BAR0_AT, _CAPABILITIES_AT = 0x04, 0x06, 0x10, 0x34
_STATUS_CAPABILITIES: Final = 1 << 4
_BAR_64_BIT: Final = 1 << 2
_EXPRESS_AT: Final = 0x40
_EXPRESS_ENDPOINT: Final = 2
"""Capability version 2, device type 0 (endpoint)."""


class PciConfig:
    def __init__(self, bar0_bytes: int) -> None:
        """bar0_bytes: a power of two."""
        self._data = bytearray(CONFIG_BYTES)
        self._writable = bytearray(CONFIG_BYTES)
        """A mask for each byte."""
        struct.pack_into("<HH", self._data, 0, VENDOR_ID, DEVICE_ID)
        struct.pack_into("<H", self._data, _STATUS_AT, _STATUS_CAPABILITIES)
        self._data[0x09:0x0C] = CLASS_NVME.to_bytes(3, "little")
        struct.pack_into("<I", self._data, _BAR0_AT, _BAR_64_BIT)
        struct.pack_into("<HH", self._data, 0x2C, VENDOR_ID, DEVICE_ID)
        self._data[_CAPABILITIES_AT] = _EXPRESS_AT
        struct.pack_into("<BBH", self._data, _EXPRESS_AT, 0x10, 0, _EXPRESS_ENDPOINT)
        struct.pack_into("<H", self._writable, _COMMAND_AT, 0x0547)
        struct.pack_into("<Q", self._writable, _BAR0_AT, ~(bar0_bytes - 1) & 0xFFFFFFFFFFFFFFFF)
        self._writable[0x3C] = 0xFF  # interrupt line

    def read(self, offset: int, count: int) -> bytes:
        """Within CONFIG_BYTES."""
        return bytes(self._data[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Within CONFIG_BYTES. Bits that can't be changed stay as they are."""
        for at, new in enumerate(data, offset):
            mask = self._writable[at]
            self._data[at] = self._data[at] & ~mask | new & mask
