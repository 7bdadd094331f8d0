"""The log of an FTL's halt: a summary at info level, and a line for each band at debug level."""

from __future__ import annotations

import logging

from .. import _shim
from ..conf import LIMIT_NAMES
from ..runtime.turns import Turns
from . import stats
from .gc.manager import BandManager
from .media.band import Band, Bands

log = logging.getLogger(__name__)


class HaltLog:
    """Call ``take()`` while the core can be asked, ``write()`` when everything is released."""

    def __init__(self, bands: Bands, manager: BandManager) -> None:
        self._bands = bands
        self._manager = manager
        self._core: _shim.CoreStats | None = None

    async def take(self, core: _shim.FtlCore) -> None:
        """The last account of all bands. The event loop runs meanwhile."""
        await self._manager.take_last_account()
        self._core = core.stats()

    async def write(self, name: str, *, clean: bool) -> None:
        """clean: everything accepted is on media. No line is made unless its level is enabled. The event loop runs
        meanwhile."""
        if self._core is not None and log.isEnabledFor(logging.INFO):
            applied = self._manager.limits_applied
            log.info(
                "%s: halted %s: %s; %d of %d blocks valid; hosts wrote %d blocks, %d went to media (write "
                "amplification %.2f); limits applied: %s",
                name,
                "cleanly" if clean else "with an error",
                ", ".join(f"{count} bands {state}" for state, count in self._bands.counts().items()),
                int(self._bands.valid.sum()),
                int(self._bands.capacity.sum()),
                self._core.user_written_blocks,
                self._core.media_written_blocks,
                stats.write_amplification(self._core),
                ", ".join(f"{limit} {applied[limit]}" for limit in LIMIT_NAMES if limit in applied) or "none",
            )
        if not log.isEnabledFor(logging.DEBUG):
            return
        turns = Turns()
        for band in self._bands:
            log.debug("%s: %s", name, _line(band))
            await turns()


def _line(band: Band) -> str:
    zones = " ".join("-" if zone is None else str(zone) for zone in band.zones)
    bad = f", {len(band.bad_punits)} of them bad" if band.bad_punits else ""
    return (
        f"band {band.index}: {band.reported_state}, seq {band.seq}, {band.valid} of {band.capacity} blocks valid, "
        f"written to block {band.written}, zones {zones}{bad}"
    )
