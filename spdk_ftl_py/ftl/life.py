"""The life of an FtlDevice: its state, and why it no longer serves."""

from __future__ import annotations

import asyncio
import enum

from ..errors import BusyError, FtlError


class FtlState(enum.Enum):
    CREATING = "creating"
    """Its load or creation is in progress."""
    RUNNING = "running"
    READ_ONLY = "read_only"
    """Out of space for good: writes fail, reads continue."""
    HALTING = "halting"
    HALTED = "halted"
    FAILED = "failed"
    """Its base, or data on it, can't be trusted: all I/O fails."""


class Life:
    """CREATING → RUNNING → READ_ONLY; FAILED from any of them; finally HALTING → HALTED. Only this class changes the
    state."""

    def __init__(self) -> None:
        self.state = FtlState.CREATING
        self.failure: FtlError | None = None
        """Why it failed (also during a halt), or is read-only; the first reason stays."""
        self.failed = asyncio.Event()
        """Set when it has failed."""
        self.writes_ended = asyncio.Event()
        """Set when no write will be done any more, so nobody has to wait for one: the device has failed, or is
        read-only."""
        self.halted_cleanly = False
        """Everything accepted is on media, and the superblock says so."""

    @property
    def serving(self) -> bool:
        return self.state in (FtlState.RUNNING, FtlState.READ_ONLY)

    @property
    def ending(self) -> bool:
        return self.state in (FtlState.HALTING, FtlState.HALTED)

    def require_serving(self, name: str, what: str) -> None:
        """name: of the device; what: that can't be done otherwise. Raises BusyError."""
        if not self.serving:
            raise BusyError(f"{name} is {self.state.value}: {what}")

    def start(self) -> None:
        self.state = FtlState.RUNNING

    def begin_halt(self, name: str) -> bool:
        """name: of the device. False: it has failed, and nothing can be written any more. Raises BusyError on every
        call but the first."""
        if self.ending:
            raise BusyError(f"{name} is already being halted")
        before, self.state = self.state, FtlState.HALTING
        return before is not FtlState.FAILED

    def wrote_all(self) -> None:
        """Called during the halt, when the clean superblock is written."""
        self.halted_cleanly = True

    def end_halt(self) -> None:
        self.state = FtlState.HALTED

    def fail(self, error: FtlError) -> bool:
        """Returns False if there was an earlier reason."""
        first = self.failure is None
        if first:
            self.failure = error
        if not self.ending:
            self.state = FtlState.FAILED
        self.writes_ended.set()
        self.failed.set()
        return first

    def run_out_of_space(self, error: FtlError) -> None:
        if self.failure is None:
            self.failure = error
        if self.state is FtlState.RUNNING:
            self.state = FtlState.READ_ONLY
        self.writes_ended.set()
