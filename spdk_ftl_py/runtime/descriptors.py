"""File descriptors: as many as there may be, and some of them kept from strangers.

A new descriptor is the lowest free number. So a connection whose number is below the limit of strangers says that
there are still enough for the control socket, for bases that come back, and for the files of a halt.
"""

from __future__ import annotations

import resource
from typing import Final

WANTED: Final = 1 << 16
KEPT: Final = 256
"""Not for connections of hosts. Where there are few at all: half of them."""


def raise_descriptor_limit() -> int:
    """Sets the soft limit as high as the hard one allows, up to WANTED. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def descriptors_for_strangers() -> int:
    """Connections of hosts may have descriptors below this."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return max(soft - KEPT, soft // 2)
