"""Which band to relocate next. Policies say what is best; ``choose_victim`` says what is allowed.

Invariants, whatever the policy (docs/ftl.md):
- a band is moved only if that frees more than the move itself can waste, so free space never shrinks;
- a move begins only if everything that all moves still have to copy fits into what relocation can certainly write, so
  every move can end.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...conf import FtlConf, least_gain_blocks
from ...errors import ConfError
from ..media.band import Bands


class VictimPolicy(Protocol):
    """The merit of bands: higher ones are moved first. Arguments are arrays: invalid and valid blocks, and the age in
    bands opened since."""

    name: str

    def merit(self, invalid: NDArray[np.int64], valid: NDArray[np.int64], age: NDArray[np.int64]) -> NDArray[Any]: ...


class Greedy:
    """Prefers the band with the most to gain. Best if all blocks are equally likely to be overwritten."""

    name = "greedy"

    def merit(self, invalid: NDArray[np.int64], valid: NDArray[np.int64], age: NDArray[np.int64]) -> NDArray[Any]:
        return invalid


class CostBenefit:
    """The seed's merit, invalid / (valid + 1) x age: data that stayed valid for long will stay valid, while young data
    may still be overwritten."""

    name = "cost_benefit"

    def merit(self, invalid: NDArray[np.int64], valid: NDArray[np.int64], age: NDArray[np.int64]) -> NDArray[Any]:
        merit: NDArray[Any] = invalid / (valid + 1) * age
        return merit


POLICIES: dict[str, type[Greedy] | type[CostBenefit]] = {Greedy.name: Greedy, CostBenefit.name: CostBenefit}


def policy_by_name(name: str) -> VictimPolicy:
    try:
        return POLICIES[name]()
    except KeyError:
        raise ConfError(f"conf reloc_policy = {name!r}: must be one of {', '.join(sorted(POLICIES))}") from None


class Selector:
    """choose() with the thresholds of a conf."""

    def __init__(self, conf: FtlConf, punits: int, policy: VictimPolicy | None = None) -> None:
        self.policy = policy or policy_by_name(conf.reloc_policy)
        self._invalid_thld = conf.invalid_thld
        self.least_gain = least_gain_blocks(punits)

    def choose(
        self, bands: Bands, *, room: int, next_band_seq: int, urgent: bool, endangered_only: bool = False
    ) -> int | None:
        """The number of the next victim, or None. room: blocks that relocation can certainly write, besides what active
        moves still need. Of equal bands the first one is chosen.

        Bands with failed zones (or with a zone whose reset the base recommends) come first, whatever they gain, because
        their data is in danger. But if such a move would take the last room without giving it back, others are moved
        first, to gain room. endangered_only: no other bands.

        Looks at all bands: less than 1 ms for 65,536, which is little compared to the move itself.
        """
        allowed = bands.closed & (bands.valid > 0) & (bands.valid <= room - self.least_gain)
        endangered = allowed & bands.endangered
        if endangered_only:
            allowed = endangered.copy()
        if endangered.any():
            endangered &= bands.valid <= room - self.least_gain - bands.whole_capacity
        if endangered.any():
            return self._best(bands, endangered, next_band_seq)
        gain = bands.capacity_to_come - bands.valid
        allowed &= gain >= self.least_gain
        if not urgent:
            allowed &= gain * 100 >= bands.capacity * self._invalid_thld
        return self._best(bands, allowed, next_band_seq)

    def merit(self, bands: Bands, number: int, next_band_seq: int) -> float:
        """Of one band, as the policy sees it now."""
        one = slice(number, number + 1)
        invalid = np.maximum(0, bands.capacity[one] - bands.valid[one])
        age = np.maximum(1, next_band_seq - bands.seq[one])
        return float(self.policy.merit(invalid, bands.valid[one], age)[0])

    def _best(self, bands: Bands, allowed: NDArray[np.bool_], next_band_seq: int) -> int | None:
        if not allowed.any():
            return None
        # For all bands: selecting the allowed ones first would take longer.
        invalid = np.maximum(0, bands.capacity - bands.valid)
        age = np.maximum(1, next_band_seq - bands.seq)
        return int(np.argmax(np.where(allowed, self.policy.merit(invalid, bands.valid, age), -1)))
