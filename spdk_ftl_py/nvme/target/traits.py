"""What follows from the subsystem of a controller, whatever transport the controller is behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...version import __version__
from .. import wire
from ..identify import ControllerTraits
from .events import AER_LIMIT
from .namespace import Namespace
from .subsystem import Subsystem

FIRMWARE: Final = __version__[:8]
"""What Identify has room for."""


@dataclass(frozen=True)
class TargetLimits:
    """The limits of each controller of a target."""

    max_io_bytes: int
    in_capsule_bytes: int
    max_queue_depth: int
    max_io_qpairs: int


def visible_namespaces(subsystem: Subsystem | None, cc: int) -> Mapping[int, Namespace]:
    """Zoned namespaces only for hosts that enabled all command sets. cc: the property."""
    if subsystem is None:
        return {}
    all_sets = cc >> wire.CC_CSS_SHIFT & 7 == wire.CSS_ALL
    return {
        nsid: namespace for nsid, namespace in subsystem.namespaces.items() if all_sets or namespace.csi == wire.CSI_NVM
    }


def has_volatile_cache(subsystem: Subsystem | None) -> bool:
    return subsystem is not None and any(ns.device.volatile_cache for ns in subsystem.namespaces.values())


def controller_traits(
    subsystem: Subsystem | None,
    limits: TargetLimits,
    *,
    subnqn: str,
    cntlid: int,
    hostnqn: str,
    zoned: bool,
    keep_alive_granularity: int = 0,
    fabrics: bool = True,
) -> ControllerTraits:
    """For Identify. subsystem None: a discovery controller."""
    namespaces = [] if subsystem is None else subsystem.namespaces.values()
    return ControllerTraits(
        subnqn=subnqn,
        cntlid=cntlid,
        serial_number="" if subsystem is None else subsystem.serial_number,
        model_number="" if subsystem is None else subsystem.model_number,
        firmware=FIRMWARE,
        max_io_bytes=limits.max_io_bytes,
        max_outstanding=limits.max_queue_depth,
        max_nsid=0 if subsystem is None else subsystem.max_namespaces,
        in_capsule_bytes=limits.in_capsule_bytes,
        keep_alive_granularity=keep_alive_granularity,
        aer_limit=AER_LIMIT,
        volatile_cache=has_volatile_cache(subsystem),
        discovery=subsystem is None,
        zoned=zoned,
        copy=any(ns.csi == wire.CSI_NVM for ns in namespaces),
        write_uncorrectable=any(ns.device.write_uncorrectable for ns in namespaces),
        compare_write=any(ns.device.compare_write_blocks for ns in namespaces)
        and not (subsystem is not None and subsystem.hides_fused(hostnqn)),
        ana=subsystem is not None and subsystem.ana,
        fabrics=fabrics,
    )
