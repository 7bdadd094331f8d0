"""What is simulated: geometry, settings, workload, length."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..conf import FtlConf
from ..errors import ParameterError

BANDS_MAX: Final = 1 << 20
"""As ftl/media/geometry.py, which needs the shim."""
ZONES_MAX: Final = 64
"""Its PUNITS_MAX."""
BAND_BLOCKS_MAX: Final = 1 << 30
BLOCKS_MAX: Final = (1 << 32) - 2
"""Addresses of the model have 32 bits: 16 TiB."""
WRITES_MAX: Final = 1 << 50
FILL: Final = "fill"
NONE: Final = "none"
PRECONDITIONS: Final = (FILL, NONE)
_MULTIPLE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)x")


@dataclass(frozen=True)
class Spec:
    """A simulation. JSON-able by to_dict()."""

    bands: int = 1024
    band_blocks: int = 1024
    """Data blocks of 4 KiB that a band holds."""
    zones: int = 1
    """Zones in a band. Relocation must gain a little for each (conf.least_gain_blocks)."""
    open_zones: int = 0
    """Zones that may be open at a time; 0: any number. It limits the classes that placement can use."""
    reserved: int = 20
    """Percent of the blocks that hosts do not see (conf lba_rsvd)."""
    shared: bool = False
    """Hosts' writes and relocation share one stream."""
    workload: str = "uniform"
    policy: str = "greedy"
    """As conf reloc_policy."""
    writes: str = "10x"
    """Blocks that hosts write, or a multiple of the logical capacity with an x."""
    seed: int = 1
    precondition: str = FILL
    """fill: each LBA was written once, in order, before. none: nothing was."""
    media_mib_per_s: int = 1000
    """What the media write, for the estimate of latencies."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """Inverse of to_dict(); what is missing has its default. Raises ParameterError."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ParameterError(f"a simulation has no {name!r}: use {', '.join(known)}")
            want = type(known[name].default)
            if type(value) is not want:
                raise ParameterError(f"{name} = {value!r}: must be of type {want.__name__}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    # --- derived

    @property
    def block_count(self) -> int:
        """Logical blocks, as ftl/media/geometry.plan() counts them."""
        return self.bands * self.band_blocks * (100 - self.reserved) // 100

    @property
    def write_blocks(self) -> int:
        """What hosts write after the precondition."""
        return blocks_of(self.writes, self.block_count)

    def conf(self) -> FtlConf:
        """Before check_geometry()."""
        return FtlConf(lba_rsvd=self.reserved, reloc_policy=self.policy)

    def check(self) -> None:
        """Raises ParameterError, which names the value, the rule and the remedy. Whether bands are enough for
        relocation drive.geometry_of() checks."""
        _range("bands", self.bands, 2, BANDS_MAX)
        _range("band_blocks", self.band_blocks, 2, BAND_BLOCKS_MAX)
        _range("zones", self.zones, 1, ZONES_MAX)
        _range("reserved", self.reserved, 1, 99)
        _range("seed", self.seed, 0, (1 << 64) - 1)
        _range("media_mib_per_s", self.media_mib_per_s, 1, 1 << 20)
        if self.band_blocks % self.zones:
            raise ParameterError(
                f"band_blocks = {self.band_blocks} is no multiple of {self.zones} zones: change either of the two"
            )
        if self.bands * self.band_blocks > BLOCKS_MAX:
            raise ParameterError(
                f"{self.bands} bands of {self.band_blocks} blocks are {self.bands * self.band_blocks} blocks, and the "
                f"model has addresses for {BLOCKS_MAX}: use fewer or smaller bands; WA does not depend on their size"
            )
        if self.precondition not in PRECONDITIONS:
            raise ParameterError(f"precondition = {self.precondition!r}: must be one of {', '.join(PRECONDITIONS)}")
        blocks_of(self.writes, self.block_count)
        self.conf().check()


def blocks_of(writes: str, block_count: int) -> int:
    """ "10x" of block_count blocks, or a number of blocks. Raises ParameterError."""
    found = _MULTIPLE.fullmatch(writes)
    if found:
        blocks = math.ceil(float(found[1]) * block_count)
    elif writes.isascii() and writes.isdecimal() and len(writes) <= 16:
        blocks = int(writes)
    else:
        raise ParameterError(
            f"writes = {writes[:40]!r}: must be a multiple of the capacity such as 10x, or a number of blocks"
        )
    if not 1 <= blocks <= WRITES_MAX:
        raise ParameterError(f"writes = {writes[:40]!r}: must be 1 to {WRITES_MAX} blocks, which is 10x or less often")
    return blocks


def _range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ParameterError(f"{name} = {value}: must be {least} to {most}")
