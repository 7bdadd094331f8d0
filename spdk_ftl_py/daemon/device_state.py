"""The states of an FTL of the daemon."""

from __future__ import annotations

import enum


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
