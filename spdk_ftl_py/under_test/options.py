"""The options of the marker ``spdk_ftl``, with which a test describes the target and the FTL that it wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from ..errors import ParameterError

BASE: Final = "Nvme0n1"
"""The base bdev, on every target."""
BLOCK_BYTES: Final = 4096


@dataclass(frozen=True)
class FtlOptions:
    """Options of the marker ``spdk_ftl``. With the defaults the FTL has some 66 MiB, and is created in a fraction of a
    second."""

    zones: int = 64
    """Number of zones of the base bdev."""
    zone_mib: float = 1.5
    """Capacity of each zone in MiB, whole blocks."""
    max_open: int = 14
    """How many zones may be open at a time. It has no effect on a real spdk_tgt, whose base bdev has no such limit."""
    hosts: Sequence[str] | None = None
    """NQNs of the hosts that may connect to the FTL. None: any host."""
    create: Mapping[str, Any] = field(default_factory=dict)
    """Further parameters of bdev_ftl_create (docs/rpc.md)."""

    def __post_init__(self) -> None:
        """Raises ParameterError for values of which no base bdev can be made."""
        for name in ("zones", "max_open"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ParameterError(f"spdk_ftl({name}={value!r}): must be a whole number, at least 1")
        if self.zone_blocks < 1 or self.zone_blocks * BLOCK_BYTES != self.zone_mib * (1 << 20):
            raise ParameterError(f"spdk_ftl(zone_mib={self.zone_mib!r}): must be whole blocks of {BLOCK_BYTES} B")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FtlOptions:
        """The options in ``given``, and the defaults of all others. Raises ParameterError for an unknown option or an
        impossible value."""
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ParameterError(f"spdk_ftl({name}=…): no such option; there are {', '.join(known)}")
        return cls(**given)

    @property
    def zone_blocks(self) -> int:
        """Capacity of a zone in blocks of 4096 B."""
        return int(self.zone_mib * (1 << 20)) // BLOCK_BYTES

    @property
    def base_bytes(self) -> int:
        """Size of a base bdev without zones, on which the FTL can emulate these zones."""
        return self.zones * self.zone_blocks * BLOCK_BYTES

    def drive(self, path: Path) -> str:
        """As for ``spdk-ftl target --zns``. path: the file that keeps its data."""
        zone_size = 1 << (self.zone_blocks * BLOCK_BYTES - 1).bit_length()
        return (
            f"name={BASE},zones={self.zones},zone_size={zone_size},capacity={self.zone_blocks * BLOCK_BYTES},"
            f"max_open={min(self.max_open, self.zones)},path={path}"
        )
