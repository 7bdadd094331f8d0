"""Ends a device, or its writes: logs why, and makes the core answer with an error from then on."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

from .. import _shim
from ..errors import FlushDoubtError, FlushRefusedError, FtlError, MediaError, RoomError
from ..nvme.wire import Status, status_text
from .life import Life

log = logging.getLogger(__name__)

FAILED_FLUSHES_MAX: Final = 8
"""Failed flushes in a row, before resets or for the write buffer, after which the base counts as failed."""


class Failing:
    """The failures of one device."""

    def __init__(self, name: Callable[[], str], core: _shim.FtlCore, life: Life, stop: Callable[[], None]) -> None:
        """name: returns the current name. stop: ends the device's background work; idempotent."""
        self._name = name
        self._core = core
        self._life = life
        self._stop = stop

    def fail(self, error: FtlError) -> None:
        """For a core that has failed by itself."""
        self._stop()
        if self._life.fail(error):
            log.error("%s: failed: %s", self._name(), error.message)

    def fail_with_core(self, error: FtlError) -> None:
        if error is not self._life.failure:
            self.fail(error)
            self._core.fail(getattr(error, "status", 0) or Status.INTERNAL_ERROR)

    def core_failed(self, status: int, *, by_flush: bool = False) -> None:
        if self._core.pages_lost:
            message = (
                "pages of the L2P are lost, because the drive of the L2P directory has failed (l2p_dram_limit): give "
                "another with --l2p-dir; nothing durable is lost"
            )
            self.fail(MediaError(f"{self._name()}: {message}", status=status))
        elif by_flush:
            message = f"the base device can't flush ({status_text(status)}): data in its volatile cache may be lost"
            self.fail(FlushDoubtError(f"{self._name()}: {message}", status=status))
        else:
            self.fail(MediaError(f"{self._name()}: the base device failed: {status_text(status)}", status=status))

    def flush_failed(self, status: int, in_a_row: int) -> bool:
        """Counts failed flushes. True: this one has failed the device. As long as the base cannot flush, the FTL resets
        no band, and the write buffer stays full."""
        if in_a_row < FAILED_FLUSHES_MAX:
            return False
        message = f"{self._name()}: the base device can't flush: {status_text(status)}"
        self.fail(FlushRefusedError(message, status=status))
        self._core.fail(status)
        return True

    def out_of_space(self, reason: str, *, remedy: str = "replace the device") -> None:
        """Makes all further writes fail with the reason. Data on media stays readable. remedy: what the user can do
        after copying that data."""
        log.error("%s: read-only: %s", self._name(), reason)
        message = f"{self._name()}: {reason}: copy its data elsewhere and {remedy}"
        self._life.run_out_of_space(FtlError(message, errno=errno.ENOSPC))
        self._core.fail_writes(Status.CAPACITY_EXCEEDED)

    def no_room(self, reason: str, *, enough_zones: bool, load_helps: bool) -> None:
        """Ends writes because no band is left. enough_zones: empty, the remaining zones would be enough for garbage
        collection. load_helps: a load can free bands, so the device fails as a whole, and its owner can load it
        again."""
        if load_helps:
            self.fail_with_core(RoomError(f"{self._name()}: {reason}; a load can free bands"))
        elif enough_zones:
            self.out_of_space(
                f"{reason}: crashes, or zones that the base finished by itself, have used up all bands",
                remedy="create the FTL again",
            )
        else:
            self.out_of_space(f"{reason}: too many zones have failed for the logical capacity")

    def raise_what_failed(self) -> None:
        """Raises if a flush is in doubt after the drain. Blocks that relocation has just written may then be lost, so
        the superblock must not call the L2P clean."""
        if self._life.failed.is_set() and self._life.failure is not None:
            raise self._life.failure
        status = self._core.failure
        if status not in (Status.SUCCESS, Status.NAMESPACE_NOT_READY):
            raise FlushDoubtError(
                f"{self._name()}: the base device failed during the halt ({status_text(status)}), and data in "
                "its volatile cache may be lost: load the FTL again by its uuid",
                status=status,
            )
