"""How an FTL of the daemon ends: the daemon halts it, and undoes what it made in the target."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ..errors import MediaError, TargetError
from ..ftl.device import FtlDevice
from ..spdk.rpc import TargetRpc, is_gone
from .base import BaseLink
from .target_bdev import TargetBdev

HALT_STALL_S: Final = 15.0
HALT_LOOK_S: Final = 0.25
CHECKPOINT_SHARE: Final = 0.8
"""Of the time for a halt. The rest is for the superblock, and for a base that stops answering."""
PROBE_TIMEOUT_S: Final = 3.0
Failures = list[tuple[str, Exception]]
"""What could not be done, and why."""


@dataclass(frozen=True)
class HaltLimit:
    """How long a halt may take. Times are those of the event loop."""

    most_s: float
    checkpoint_until: float
    until: float

    @classmethod
    def from_now(cls, most_s: float) -> HaltLimit:
        now = asyncio.get_running_loop().time()
        return cls(most_s, now + most_s * CHECKPOINT_SHARE, now + most_s)


async def halt_ftl(
    ftl: FtlDevice,
    link: BaseLink,
    *,
    limit_now: Callable[[], HaltLimit | None] = lambda: None,
    report: Callable[[str], object] = lambda progress: None,
) -> None:
    """Halts the FTL. If the base stops answering, the connection to it is closed, which ends the halt with an error. A
    target may hold the I/O of a drive that went away for as long as it tries to reconnect it.

    limit_now: a halt of the daemon, which has a limit, may begin meanwhile. This halt leaves the L2P checkpoint out
    when the time for that is over, and ends like that of a base that stops answering when all time is over. What was
    accepted is then in the write buffer's file. report: of the progress, again and again.
    """
    clock = asyncio.get_running_loop().time
    halt = asyncio.ensure_future(ftl.halt())
    before, moved_at, why = _progress(ftl), clock(), ""
    while not (await asyncio.wait({halt}, timeout=min(HALT_LOOK_S, HALT_STALL_S)))[0]:
        now = _progress(ftl)
        if now != before:
            before, moved_at = now, clock()
        report(_progress_text(ftl))
        limit = limit_now()
        if clock() - moved_at >= HALT_STALL_S:
            why = f"the base bdev did not answer for {HALT_STALL_S:g} s during the halt"
        elif limit is not None and clock() >= limit.until:
            why = f"the halt was not done after {limit.most_s:g} s (serve --halt-timeout)"
        if why:
            await ftl.abort(why)
            # Without a connection no I/O is outstanding, so the core can end what it has accepted.
            await link.disconnect()
            break
        if limit is not None and clock() >= limit.checkpoint_until:
            ftl.leave_out_checkpoint()
    try:
        await halt
    except MediaError as error:
        if not why or why in error.message:
            raise
        raise MediaError(f"{ftl.name}: {why}: {error.message}", status=error.status) from error


def _progress(ftl: FtlDevice) -> list[float]:
    """Counters. As long as the base answers, at least one of them changes until the checkpoint is written."""
    stats = ftl.core.stats()
    return [
        stats.media_written_blocks,
        stats.reloc_read_blocks,
        stats.base_flushes,
        stats.zone_resets,
        ftl.checkpoint_steps,
    ]


def _progress_text(ftl: FtlDevice) -> str:
    if ftl.checkpoint_steps:
        return f"halt: L2P checkpoint {ftl.checkpoint_part:.0%}"
    stats = ftl.core.stats()
    return f"halt: {stats.write_buffer_used} blocks to write, {stats.write_buffer_landed} to flush"


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
