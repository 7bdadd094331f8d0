"""Free bands -> what share of the writes the user gets. The seed's table, looked up from the most urgent limit on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...conf import LIMIT_NAMES, LIMIT_START, RESERVED_BANDS, FtlConf
from ...errors import ConfError

UNLIMITED: Final = 100
NO_LIMIT: Final = "none"


@dataclass(frozen=True)
class Applied:
    """The limit in force: its name ("none" above all thresholds) and the user's share in percent."""

    name: str
    user_share: int


class Limits:
    """Built from a conf that check_geometry() has filled in. Has no memory: the same free bands give the same
    answer."""

    def __init__(self, conf: FtlConf) -> None:
        self._table: list[tuple[str, int, int]] = []
        for name in LIMIT_NAMES:
            limit = conf.limits[name]
            if limit.thld is None:
                raise ConfError(f"conf limit-threshold {name} is not set: check_geometry() has to fill in the defaults")
            self._table.append((name, limit.thld, limit.limit))
        self.start_bands = self._table[-1][1]
        """Relocation runs at so many free bands or fewer."""
        self.urgent_bands = self._table[LIMIT_NAMES.index(LIMIT_START) - 1][1]
        """At so many or fewer, any gain is worth a relocation."""

    def apply(self, free_bands: int) -> Applied:
        for name, thld, share in self._table:
            if free_bands <= thld:
                return Applied(name, share)
        return Applied(NO_LIMIT, UNLIMITED)

    def urgent(self, free_bands: int) -> bool:
        return free_bands <= max(self.urgent_bands, RESERVED_BANDS)
