"""Which band to relocate next. Policies say what is best; ``choose_victim`` says what is allowed.

Invariants, whatever the policy (docs/ftl.md):
- a band is moved only if that frees more than the move itself can waste, so free space never shrinks by garbage
  collection;
- a move is begun only if everything all moves still have to copy fits into what reloc can surely write, so a move that
  has
  begun can always end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ...conf import FtlConf, least_gain_blocks
from ...errors import ConfError
from ..media.band import CLOSED, FAULTED, Band


class VictimPolicy(Protocol):
    """Higher merit is moved first."""

    name: str

    def merit(self, band: Band, next_band_seq: int) -> float: ...


class Greedy:
    """The band with the most to gain: best when all blocks are equally likely to be overwritten."""

    name = "greedy"

    def merit(self, band: Band, next_band_seq: int) -> float:
        return float(band.invalid)


class CostBenefit:
    """The seed's merit, invalid / (valid + 1) x age: what stayed valid for long will stay so, what is young may yet
    go."""

    name = "cost_benefit"

    def merit(self, band: Band, next_band_seq: int) -> float:
        return band.invalid / (band.valid + 1) * max(1, next_band_seq - band.seq)


POLICIES: dict[str, type[Greedy] | type[CostBenefit]] = {Greedy.name: Greedy, CostBenefit.name: CostBenefit}


def policy_by_name(name: str) -> VictimPolicy:
    try:
        return POLICIES[name]()
    except KeyError:
        raise ConfError(f"conf reloc_policy = {name!r}: must be one of {', '.join(sorted(POLICIES))}") from None


class Selector:
    """choose() with a conf's thresholds."""

    def __init__(self, conf: FtlConf, punits: int, policy: VictimPolicy | None = None) -> None:
        self.policy = policy or policy_by_name(conf.reloc_policy)
        self._invalid_thld = conf.invalid_thld
        self.least_gain = least_gain_blocks(punits)

    def worth_it(self, band: Band, *, urgent: bool) -> bool:
        """Whether moving the band gains enough: the conf's percentage, or anything at all where it is urgent."""
        least = self.least_gain
        if not urgent:
            least = max(least, -(-band.capacity * self._invalid_thld // 100))
        return band.capacity_to_come - band.valid >= least

    def choose(self, bands: Iterable[Band], *, room: int, next_band_seq: int, urgent: bool) -> Band | None:
        """The next victim, or None. room: blocks reloc can surely write besides what active moves still need.

        Bands with faulted zones (or one that the base wants to be reset) come first, whatever they gain: their data is
        in danger. But not if what they take and
        don't give back is the last there is: then others are moved first, to gain room for them.
        """
        best: Band | None = None
        best_merit: tuple[bool, float] = (False, -1.0)
        for band in bands:
            if band.valid == 0 or band.valid + self.least_gain > room:
                continue
            endangered = band.endangered
            if endangered:
                another = band.zone_blocks * len(band.zones)
                endangered = band.valid + self.least_gain + another <= room
            if not endangered and not (band.state in (CLOSED, FAULTED) and self.worth_it(band, urgent=urgent)):
                continue
            merit = (endangered, self.policy.merit(band, next_band_seq))
            if merit > best_merit:
                best, best_merit = band, merit
        return best
