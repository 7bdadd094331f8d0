"""Limits: free bands -> the share of writes that may be user writes. The seed's table, searched from the most urgent
limit on."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

from ...conf import LIMIT_LOW, LIMIT_NAMES, LIMIT_START, RESERVED_BANDS, FtlConf
from ...errors import ConfError

UNLIMITED: Final = 100
NO_LIMIT: Final = "none"


@dataclass(frozen=True)
class Applied:
    """The limit in effect: its name ("none" above all thresholds) and the share of user writes in percent."""

    name: str
    user_share: int


_NONE_APPLIED: Final = Applied(NO_LIMIT, UNLIMITED)


class Limits:
    """Built from a conf that check_geometry() has filled in. It keeps no state: the same number of free bands gives the
    same answer."""

    def __init__(self, conf: FtlConf, *, aim: float = 0) -> None:
        """aim: of a band; so far below `start` relocation keeps the level of free space."""
        self._table: list[tuple[str, int, int]] = []
        for name in LIMIT_NAMES:
            limit = conf.limits[name]
            if limit.thld is None:
                raise ConfError(f"conf limit-threshold {name} is not set: check_geometry() has to fill in the defaults")
            self._table.append((name, limit.thld, limit.limit))
        self._applied = [(thld, Applied(name, share)) for name, thld, share in self._table]
        self._lowest = self._table[0][1:]
        self._between = [(*one[1:], *two[1:]) for one, two in itertools.pairwise(self._table)]
        self.start_bands = self._table[-1][1]
        """Relocation runs if at most this many bands are free."""
        self.aim_bands = self.start_bands - aim
        self.urgent_bands = self._table[LIMIT_NAMES.index(LIMIT_START) - 1][1]
        """If at most this many bands are free, any gain justifies a relocation."""
        self.low_bands = self._table[LIMIT_NAMES.index(LIMIT_LOW)][1]

    def to_dict(self) -> dict[str, dict[str, int]]:
        """By name, the most urgent one first: up to how many free bands it applies, and the user's share in percent."""
        return {name: {"free_bands": thld, "user_share": share} for name, thld, share in self._table}

    def apply(self, free_bands: int) -> Applied:
        for thld, applied in self._applied:
            if free_bands <= thld:
                return applied
        return _NONE_APPLIED

    def share_at(self, level: float) -> int:
        """The user's share in percent. A limit is reached at its threshold; between two thresholds the share changes
        in proportion, so that nothing happens at once."""
        if level <= self._lowest[0]:
            return self._lowest[1]
        for thld, share, next_thld, next_share in self._between:
            if level <= next_thld:
                return math.ceil(share + (next_share - share) * (level - thld) / (next_thld - thld))
        return UNLIMITED

    def urgent(self, free_bands: int) -> bool:
        return free_bands <= max(self.urgent_bands, RESERVED_BANDS)
