"""File descriptors: raises the limit, and reserves some descriptors that hosts can't use.

A new descriptor has the lowest free number. So a connection whose number is below the limit for hosts shows that enough
descriptors are left for the control socket, for bases that come back, and for the files of a halt.
"""

from __future__ import annotations

import resource
from typing import Final

WANTED: Final = 1 << 16
KEPT: Final = 256
"""Reserved: not for connections of hosts. If the limit is low, half of it."""


def raise_descriptor_limit() -> int:
    """Sets the soft limit as high as the hard one allows, up to WANTED. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def descriptors_for_strangers() -> int:
    """Connections of hosts may have descriptors below this number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return max(soft - KEPT, soft // 2)
