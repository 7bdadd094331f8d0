"""Detects trouble of a base that its errors do not show: it is out of space, or busy without a pause."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from .. import _shim
from ..errors import FtlError
from ..runtime.pulse import beat
from ..spdk.rpc import TargetRpc
from ..spdk.space import why_out_of_space

BASE_POLL_S: Final = 1.0
"""Longer than the core waits for a busy base (BUSY_DELAY_MAX_S), so that the base answers at least once in between if
I/O waits for it."""
BUSY_TOLD_S: Final = 5.0
"""How long a base must be busy without a pause before the daemon reports it."""

log = logging.getLogger(__name__)


def _has_troubles(core: _shim.FtlCore, count: int) -> bool:
    """That many, and no more."""
    return core.troubles == count


class BaseWatch:
    """Call run() for each life of an FTL. It calls tell() once with what is wrong, and untell() with the same text when
    that is over."""

    def __init__(
        self,
        rpc: TargetRpc,
        base_name: Callable[[], str],
        whose: str,
        tell: Callable[[str], None],
        untell: Callable[[str], None],
    ) -> None:
        """base_name: returns the current name. whose: the FTL, for the log."""
        self.no_space: str | None = None
        """Why the base has no free space, as the target says."""
        self._rpc = rpc
        self._base_name = base_name
        self._whose = whose
        self._tell = tell
        self._untell = untell
        self._busy = False
        """The daemon has reported that the base is busy."""

    async def run(self, core: _shim.FtlCore) -> None:
        """Watches the base until it is cancelled. The errors of a base that is out of space do not say so, and a busy
        base only shows by slow I/O."""
        self.no_space, self._busy = None, False
        clock = asyncio.get_running_loop().time
        errors_before = busy_before = 0
        busy_since: float | None = None
        quiet = 0
        while True:
            # Asking for all counts wakes the reactor's thread, so an FTL without trouble is not asked.
            calm = self.no_space is None and busy_since is None and not self._busy
            if calm and core.troubles == quiet:
                await beat(BASE_POLL_S, idle=partial(_has_troubles, core, quiet))
                continue
            quiet = core.troubles
            stats = core.stats()
            refused = stats.write_errors != errors_before or stats.busy_answers != busy_before
            if self.no_space is not None or refused:
                with contextlib.suppress(FtlError, OSError):
                    self._tell_space(await why_out_of_space(self._rpc, self._base_name()))
            if stats.busy_answers == busy_before:
                busy_since = None
                self._tell_busy(False)
            elif busy_since is None:
                busy_since = clock()
            elif self.no_space is None and clock() - busy_since >= BUSY_TOLD_S:
                self._tell_busy(True)
            errors_before, busy_before = stats.write_errors, stats.busy_answers
            await beat(BASE_POLL_S)

    def _tell_busy(self, busy: bool) -> None:
        if busy == self._busy:
            return
        self._busy = busy
        base = f"base bdev {self._base_name()}"
        message = (
            f"{base} has been busy for more than {BUSY_TOLD_S:g} s without a pause, and I/O waits for it: check "
            "whether the device has free space, and whether its drive works"
        )
        if busy:
            log.warning("%s: %s", self._whose, message)
            self._tell(message)
        else:
            log.warning("%s: %s is no longer busy", self._whose, base)
            self._untell(message)

    def _tell_space(self, reason: str | None) -> None:
        if reason == self.no_space:
            return
        previous, self.no_space = self.no_space, reason
        base = f"base bdev {self._base_name()}"
        if reason is not None:
            log.error("%s: %s is out of space: %s", self._whose, base, reason)
            self._tell(f"{base} is out of space: {reason}")
        else:
            log.warning("%s: %s has free space again", self._whose, base)
            self._untell(f"{base} is out of space: {previous}")
