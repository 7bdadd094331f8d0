"""The export that an NBD server serves, and its description for clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import _shim
from .wire import TransmissionFlag


@dataclass(frozen=True)
class NbdExport:
    """A device and its name. Clients may also ask for the default export, whose name is empty."""

    name: Callable[[], str]
    """The current name: an FTL may be renamed."""
    device: _shim.BlockDevice
    description: str = ""
    read_only: bool = False
    trim: bool = True
    """The device can deallocate blocks."""
    write_zeroes: bool = True
    """The device can write zeroes without their data."""
    fast_zero: bool = True
    """The device writes zeroes faster than data."""

    @property
    def byte_count(self) -> int:
        """The current size. A connection keeps the size that the device had at its handshake."""
        return self.device.block_count * self.device.block_bytes

    def flags(self, *, structured_replies: bool) -> TransmissionFlag:
        """CAN_MULTI_CONN: the flush of a device covers every write that it has completed, whatever connection the write
        came by."""
        flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH | TransmissionFlag.CAN_MULTI_CONN
        if structured_replies:
            flags |= TransmissionFlag.SEND_DF
        if self.read_only:
            return flags | TransmissionFlag.READ_ONLY
        flags |= TransmissionFlag.SEND_FUA
        if self.trim:
            flags |= TransmissionFlag.SEND_TRIM
        if self.write_zeroes:
            flags |= TransmissionFlag.SEND_WRITE_ZEROES
            if self.fast_zero:
                flags |= TransmissionFlag.SEND_FAST_ZERO
        return flags

    def answers_to(self, name: str) -> bool:
        return name in ("", self.name())
