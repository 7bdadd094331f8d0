"""TCP ports for listeners that don't take port 0."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
_ATTEMPTS: Final = 100


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free. The kernel gives it to no connection: tests beside this one make many, and
    one of them could have the port before the listener."""
    first_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    for _ in range(_ATTEMPTS):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(_LOWEST, max(first_ephemeral, _LOWEST + 1))))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError(f"no port from {_LOWEST} to {first_ephemeral - 1} is free")
