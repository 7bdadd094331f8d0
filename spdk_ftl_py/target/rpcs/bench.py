"""ftltgt_bench_bdev: load on any bdev of the target, from within the target. A client that stands on the bdev by
NVMe-oF would measure its own way there as well."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any, Final, Literal

from ... import _shim
from ...errors import ClaimedError, NotFoundError
from ...runtime.reactor import load_ended
from .. import decode
from ..decode import Fields, Params
from ..methods import rpc
from ..refusals import refused
from ..state import TargetState

Kind = Literal["read", "write", "mixed"]

BLOCK_BYTES: Final = 4096
IO_BYTES_MAX: Final = 1 << 20
QUEUE_DEPTH_MAX: Final = 1024
SECONDS_MAX: Final = 3600
REGION_BLOCKS_MAX: Final = 1 << 26
"""Every block of the region has one bit of memory."""


@rpc(
    "ftltgt_bench_bdev",
    Fields(
        {"name": decode.string},
        {
            "rw": decode.choice("read", "write", "mixed"),
            "pattern": decode.choice("random", "sequential"),
            "io_size": decode.bounded_integer(BLOCK_BYTES, IO_BYTES_MAX),
            "queue_depth": decode.bounded_integer(1, QUEUE_DEPTH_MAX),
            "seconds": decode.bounded_integer(1, SECONDS_MAX),
            "write_percent": decode.bounded_integer(0, 100),
            "num_blocks": decode.bounded_integer(1, REGION_BLOCKS_MAX),
            "sync": decode.boolean,
            "verify": decode.boolean,
        },
    ),
    exclusive=False,
)
async def ftltgt_bench_bdev(target: TargetState, params: Params) -> dict[str, Any]:
    """Reads or writes for some seconds, and returns what that came to. Writes destroy what the bdev holds.

    io_size: in bytes. num_blocks: the region, from the start of the bdev. sync: a flush follows each write. verify:
    reads accept only blocks that an earlier run has written there.
    """
    name: str = params["name"]
    rw: Kind = params.get("rw", "read")
    io_bytes = params.get("io_size", BLOCK_BYTES)
    gone = asyncio.Event()
    bdev = target.bdevs.find(name)
    if bdev is None:
        raise refused(f"there is no bdev {name}", errno.ENODEV)
    if io_bytes % BLOCK_BYTES:
        raise refused(f"io_size {io_bytes} is not a multiple of {BLOCK_BYTES} bytes")
    if bdev.block_size != BLOCK_BYTES:
        raise refused(f"bdev {bdev.name} has blocks of {bdev.block_size} bytes, not {BLOCK_BYTES}")
    if bdev.zoned and rw != "read":
        raise refused(f"bdev {bdev.name} is zoned: only reads are possible")
    count = min(params.get("num_blocks", REGION_BLOCKS_MAX), bdev.num_blocks)
    try:
        descriptor = target.bdevs.open(bdev.name, "ftltgt_bench_bdev", write=rw != "read")
    except ClaimedError:
        owner = "" if bdev.claim is None else f" by {bdev.claim.owner}"
        raise refused(f"bdev {bdev.name} is claimed{owner}: it can only be read", errno.EPERM) from None
    except NotFoundError:
        raise refused(f"there is no bdev {name}", errno.ENODEV) from None
    released = asyncio.Event()

    async def removed() -> None:
        gone.set()
        await released.wait()

    descriptor.on_remove = removed
    load: _shim.LoadGenerator | None = None
    try:
        load = _shim.LoadGenerator(
            target.reactor.shim, bdev.device, lba_count=count, seed=1,
            max_queue_depth=params.get("queue_depth", 1), max_io_blocks=io_bytes // BLOCK_BYTES,
            verify="whole" if params.get("verify") else "none",
        )  # fmt: skip
        return await _run(target, load, params, rw, io_bytes, gone)
    except ValueError as error:
        raise refused(f"bdev {bdev.name}: {error}") from error
    finally:
        if load is not None:
            target.reactor.unsubscribe(load.id)
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, load.close))
        descriptor.close()
        released.set()


async def _run(
    target: TargetState, load: _shim.LoadGenerator, params: Params, rw: Kind, io_bytes: int, gone: asyncio.Event
) -> dict[str, Any]:
    ended = asyncio.Event()
    target.reactor.subscribe(load.id, lambda event: ended.set() if load_ended(event, load) else None)
    cpu, wall = time.process_time(), time.monotonic()
    load.start(
        rw, pattern=params.get("pattern", "random"), io_blocks=io_bytes // BLOCK_BYTES,
        queue_depth=params.get("queue_depth", 1), time_limit_s=float(params.get("seconds", 1)),
        write_percent=params.get("write_percent", 70), sync=params.get("sync", False),
    )  # fmt: skip
    waits = [asyncio.ensure_future(each.wait()) for each in (ended, gone)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    load.stop()
    if gone.is_set():
        raise refused("the bdev was removed", errno.ENODEV)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    progress = load.progress()
    seconds = progress.elapsed_ns / 1e9 or wall
    latency = progress.latency_ns.as_dict()
    return {
        "ios": progress.done_ios,
        "blocks": progress.done_blocks,
        "seconds": round(seconds, 6),
        "iops": round(progress.done_ios / seconds, 1),
        "mib_s": round(progress.done_blocks * BLOCK_BYTES / (1 << 20) / seconds, 2),
        "latency_us": {name: round(value / 1000, 3) for name, value in latency.items()},
        "io_errors": progress.io_errors,
        "last_error_status": progress.last_error_status,
        "verify_errors": progress.verify_errors,
        "cpu_us": round(cpu * 1e6 / progress.done_ios, 3) if progress.done_ios else 0.0,
    }
