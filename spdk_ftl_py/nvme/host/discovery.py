"""Reads the discovery log of a discovery controller (NVMe over Fabrics, Base 2.0 section 5.16.1.23)."""

from __future__ import annotations

from ...errors import ProtocolError
from .. import logs, wire
from ..logs import DiscoveryEntry
from ..wire import LogPage
from .controller import Controller

__all__ = ["DiscoveryEntry", "discover"]

READ_ATTEMPTS = 5
"""The number of attempts if the log changes during the read."""


async def discover(traddr: str, trsvcid: int | str, hostnqn: str, *, timeout_s: float = 10.0) -> list[DiscoveryEntry]:
    """The entries that this host may see. Raises PathError, CommandError, ProtocolError as Controller.connect()
    does."""
    controller = await Controller.connect(
        traddr, trsvcid, wire.DISCOVERY_NQN, hostnqn=hostnqn, kato_ms=0, timeout_s=timeout_s
    )
    try:
        return await read_log(controller)
    finally:
        await controller.close()


async def read_log(controller: Controller) -> list[DiscoveryEntry]:
    """The whole discovery log of a connected discovery controller, in one generation."""
    for _ in range(READ_ATTEMPTS):
        header = await controller.get_log_page(LogPage.DISCOVERY, logs.DISCOVERY_HEADER_BYTES, nsid=0)
        generation, records = logs.parse_discovery_header(header)
        if records == 0:
            return []
        raw = await controller.get_log_page(
            LogPage.DISCOVERY, records * logs.DISCOVERY_ENTRY_BYTES, offset=logs.DISCOVERY_HEADER_BYTES, nsid=0
        )
        header = await controller.get_log_page(LogPage.DISCOVERY, logs.DISCOVERY_HEADER_BYTES, nsid=0)
        if logs.parse_discovery_header(header)[0] == generation:
            return logs.parse_discovery_entries(raw)
    raise ProtocolError(
        f"the discovery log at {controller.traddr}:{controller.trsvcid} changed {READ_ATTEMPTS} times in a row"
    )
