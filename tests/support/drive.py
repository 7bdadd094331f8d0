"""Verified I/O on any NVMe/TCP namespace, from outside: connect as a host, write, read back, compare."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended

HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:0b6ad5a8-5cf2-4a2c-9f2e-7e3b6bb6c0de"
PROGRESS_PERIOD_S = 0.05


async def run_load(
    reactor: ReactorLoop, generator: _shim.LoadGenerator, kind: str, *, timeout_s: float = 120.0, **how: Any
) -> dict[str, Any]:
    """One run of a LoadGenerator to its end; its progress() then. Fails on any I/O or verify error, and on time-out."""
    done = asyncio.Event()
    generator.start(kind, **how)
    reactor.subscribe(generator.id, lambda event: done.set() if load_ended(event, generator) else None)
    try:
        await asyncio.wait_for(done.wait(), timeout_s)
    except asyncio.TimeoutError:
        raise AssertionError(f"{kind} {how} did not end within {timeout_s} s: {generator.progress()}") from None
    finally:
        reactor.unsubscribe(generator.id)
    progress = generator.progress().as_dict()
    assert progress["io_errors"] == 0, progress
    assert progress["verify_errors"] == 0, progress
    return progress


@asynccontextmanager
async def namespace_of(
    traddr: str, port: int | str, nqn: str, **digests: bool
) -> AsyncIterator[tuple[ReactorLoop, int, _shim.BlockDevice]]:
    """Namespace 1: its blocks, and a queue to it on a reactor of its own."""
    reactor = ReactorLoop("drive")
    await reactor.start()
    try:
        controller = await Controller.connect(traddr, port, nqn, hostnqn=HOST_NQN, **digests)
        try:
            namespace = (await controller.namespaces())[0]
            yield reactor, namespace.block_count, await controller.create_io_qpair(reactor, namespace)
        finally:
            await controller.close()
    finally:
        await reactor.stop()


async def write_and_verify(
    traddr: str,
    port: int | str,
    nqn: str,
    *,
    blocks: int | None = None,
    random_writes: int = 0,
    flush: bool = False,
    seed: int = 1,
    header_digest: bool = False,
    data_digest: bool = False,
    timeout_s: float = 120.0,
) -> dict[str, int]:
    """Writes the first blocks (None: all) of namespace 1 in sequence, then random_writes single blocks at random, and
    reads everything back; flush: and makes it durable. Returns block_count of the namespace, written and verified
    blocks."""
    digests = {"header_digest": header_digest, "data_digest": data_digest}
    async with namespace_of(traddr, port, nqn, **digests) as (reactor, block_count, qpair):
        count = min(blocks or block_count, block_count)
        generator = _shim.LoadGenerator(reactor.shim, qpair, lba_count=count, seed=seed)
        try:
            written = verified = 0
            whole = {"pattern": "sequential", "io_blocks": 16, "total_blocks": count, "queue_depth": 16}
            progress = await run_load(reactor, generator, "write", timeout_s=timeout_s, **whole)
            written += progress["done_blocks"]
            if random_writes:
                how = {"pattern": "random", "io_blocks": 1, "total_blocks": random_writes, "queue_depth": 32}
                progress = await run_load(reactor, generator, "write", timeout_s=timeout_s, **how)
                written += progress["done_blocks"]
            progress = await run_load(reactor, generator, "read", timeout_s=timeout_s, **whole)
            verified += progress["done_blocks"]
            if flush:
                await flushed(reactor, qpair)
            return {"block_count": block_count, "written": written, "verified": verified}
        finally:
            generator.close()


async def write_at_random(traddr: str, port: int | str, nqn: str, *, times: int, seed: int = 1) -> None:
    """Writes namespace 1 in sequence, then single blocks at random, so many times its blocks; nothing is read back."""
    async with namespace_of(traddr, port, nqn) as (reactor, count, qpair):
        generator = _shim.LoadGenerator(reactor.shim, qpair, lba_count=count, seed=seed)
        try:
            await run_load(reactor, generator, "write", pattern="sequential", io_blocks=16, total_blocks=count)
            await run_load(reactor, generator, "write", pattern="random", io_blocks=1, total_blocks=times * count)
        finally:
            generator.close()


async def flushed(reactor: ReactorLoop, device: _shim.BlockDevice) -> None:
    """Returns when what was written to the device is durable."""
    port = BlockPort(reactor, device, name="drive")
    try:
        await port.flush()
    finally:
        await port.close()


async def digest(traddr: str, port: int | str, nqn: str) -> str:
    """SHA-256 of the whole namespace 1."""
    async with namespace_of(traddr, port, nqn) as (reactor, count, qpair):
        reader = BlockPort(reactor, qpair, name="drive")
        try:
            return hashlib.sha256((await reader.read(0, count)).tobytes()).hexdigest()
        finally:
            await reader.close()
