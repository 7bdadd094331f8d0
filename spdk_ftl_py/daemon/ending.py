"""How an FTL of the daemon ends: the daemon halts it, and undoes what it made in the target."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from ..errors import TargetError
from ..ftl.device import FtlDevice
from ..spdk.rpc import TargetRpc, is_gone
from .base import BaseLink
from .target_bdev import TargetBdev

HALT_STALL_S: Final = 15.0
PROBE_TIMEOUT_S: Final = 3.0
Failures = list[tuple[str, Exception]]
"""What could not be done, and why."""


async def halt_ftl(ftl: FtlDevice, link: BaseLink) -> None:
    """Halts the FTL. If the base stops answering, the connection to it is closed, which ends the halt with an error. A
    target may hold the I/O of a drive that went away for as long as it tries to reconnect it."""
    halt = asyncio.ensure_future(ftl.halt())
    before = _progress(ftl)
    while not (await asyncio.wait({halt}, timeout=HALT_STALL_S))[0]:
        now = _progress(ftl)
        if now == before:
            # Without a connection no I/O is outstanding, so the core can end what it has accepted.
            await link.disconnect()
            await ftl.abort(f"the base bdev did not answer for {HALT_STALL_S:g} s during the halt")
            break
        before = now
    await halt


def _progress(ftl: FtlDevice) -> list[float]:
    """Counters. As long as the base answers, at least one of them changes until the checkpoint is written."""
    stats = ftl.core.stats()
    return [
        stats.media_written_blocks,
        stats.reloc_read_blocks,
        stats.base_flushes,
        stats.zone_resets,
        ftl.checkpoint_part,
    ]


async def take_apart(
    rpc: TargetRpc,
    target_bdev: TargetBdev,
    link: BaseLink,
    let_go_here: Callable[[], Awaitable[Failures]],
    *,
    drop_keys: Callable[[], Awaitable[object]],
) -> tuple[Failures, Failures]:
    """Returns what could not be undone in the target and in the daemon. drop_keys: removes the keys of a target that is
    gone."""
    silent = await rpc.why_silent(PROBE_TIMEOUT_S) if target_bdev.pending or link.claimed else None
    failures: Failures = []
    if silent is None:
        failures += await target_bdev.undo()
    else:
        failures.append(("undo what the daemon made in the target", silent))
    failures_here = await let_go_here()
    if silent is None:
        failures += await link.unclaim()
    if failures:
        silent = silent or await rpc.why_silent(PROBE_TIMEOUT_S)
        if silent is not None and is_gone(silent):
            failures = []
            with contextlib.suppress(TargetError):
                await drop_keys()
    return failures, failures_here
