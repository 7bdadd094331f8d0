"""The states of an FTL of the daemon, and how a life of it ends."""

from __future__ import annotations

import enum


class Ended(enum.Enum):
    """How a life of the FTL ends."""

    LOST = enum.auto()
    """The base is lost."""
    FAILED = enum.auto()
    CHANGING = enum.auto()
    """The FTL has to be loaded again, with a change."""


class DeviceState(enum.Enum):
    """DEFERRED ⇄ CREATING → ONLINE ⇄ WAITING; FAILED from any of them; DELETING from any but CREATING (a creation
    without a waiting caller is ended first, and is then DEFERRED)."""

    DEFERRED = "deferred"
    """Its base bdev does not exist yet."""
    CREATING = "creating"
    ONLINE = "online"
    WAITING = "waiting"
    """The base was lost. Host I/O is held, up to the time-out, and the daemon loads the FTL again when the base is
    back."""
    FAILED = "failed"
    """I/O fails. The FTL keeps its claims until it is deleted."""
    DELETING = "deleting"
