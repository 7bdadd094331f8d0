"""The states of an FTL of the daemon, and how a life of it ends."""

from __future__ import annotations

import enum


class Ended(enum.Enum):
    """How a life of the FTL ends."""

    LOST = enum.auto()
    """Its base is."""
    FAILED = enum.auto()
    CHANGING = enum.auto()
    """It is to be loaded again, changed."""


class DeviceState(enum.Enum):
    """DEFERRED ⇄ CREATING → ONLINE ⇄ WAITING; FAILED from any of them; DELETING from any but CREATING (a
    creation that nobody waits for is ended first, and is DEFERRED then)."""

    DEFERRED = "deferred"
    """Its base bdev does not exist yet."""
    CREATING = "creating"
    ONLINE = "online"
    WAITING = "waiting"
    """Its base was lost: I/O waits, up to the time-out, and the device loads again when the base is back."""
    FAILED = "failed"
    """I/O fails; what it claimed it still has, until it is deleted."""
    DELETING = "deleting"
