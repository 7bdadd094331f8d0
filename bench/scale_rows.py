"""What bench/scale.py measures, each in a process of its own. Prints one line of JSON.

    python bench/scale_rows.py load 0.25        a load of 0.25 TB after a crash, after a halt, and a trim of all of it
    python bench/scale_rows.py --list           what there is

A drive has the zones of a real one: 2 GiB apart, 1077 MiB of capacity, 904 of them for each TB, 14 may be open.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import BLOCK_BYTES, FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import Geometry
from spdk_ftl_py.runtime.reactor import ReactorLoop

ZONES_PER_TB: Final = 904
ZONE_SIZE: Final = 1 << 19
ZONE_CAPACITY: Final = 1077 << 8
OPEN_ZONES: Final = 14
MAX_IO_BLOCKS: Final = 32
FREE_BANDS: Final = 4
"""More than the number that relocation keeps free, so that it does not begin before everything is measured."""
CHECKED_LBAS: Final = 2000
TURN_PERCENT: Final = 15
TICK_S: Final = 0.001
SMALL_ZONE_BLOCKS: Final = 2048
MANY_BANDS_BLOCKS: Final = 10 << 20
CRASH_BLOCKS: Final = 300_000
"""1.2 GB."""


# --- memory, stalls --------------------------------------------------------------------------------------------------


def _status(name: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


class Memory:
    """Of this process: the most that is resident from the construction on, beyond what was before."""

    def __init__(self) -> None:
        gc.collect()
        # What the allocator keeps of earlier work would be taken again, and not seen.
        ctypes.CDLL(None).malloc_trim(0)
        # The kernel watches for the peak. A thread of ours would see nothing while another one has the GIL.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _status("VmRSS")

    def peak(self) -> int:
        return _status("VmHWM") - self._before

    def process_peak(self) -> int:
        """What was there before included."""
        return self._before + self.peak()

    def now(self) -> int:
        return _status("VmRSS") - self._before


class Stalls:
    """How long the event loop stands still: of what comes between two ticks, the CPU time that the process takes, or
    the time that passes if that is less. So other programs on the machine do not count."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def _watch(self) -> None:
        last = time.process_time(), time.perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.process_time(), time.perf_counter()
            self.longest_s = max(self.longest_s, min(now[0] - last[0], now[1] - last[1] - TICK_S))
            last = now

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self._watch())
        await asyncio.sleep(TICK_S)
        try:
            yield
            await asyncio.sleep(2 * TICK_S)
        finally:
            task.cancel()


@contextlib.asynccontextmanager
async def reactor_loop() -> AsyncIterator[ReactorLoop]:
    reactor = ReactorLoop("scale")
    await reactor.start()
    try:
        yield reactor
    finally:
        await reactor.stop()


@contextlib.asynccontextmanager
async def port_to(reactor: ReactorLoop, device: _shim.BlockDevice) -> AsyncIterator[BlockPort]:
    port = BlockPort(reactor, device, name="bench", depth=64)
    try:
        yield port
    finally:
        await port.close()


# --- drives ----------------------------------------------------------------------------------------------------------


def drive_of(reactor: ReactorLoop, zones: int) -> _shim.EmulatedMedia:
    """Memory is taken by what is written to it."""
    return _shim.EmulatedMedia.zns(
        reactor.shim,
        zones,
        ZONE_SIZE,
        ZONE_CAPACITY,
        max_open_zones=OPEN_ZONES,
        max_active_zones=OPEN_ZONES,
        max_io_blocks=MAX_IO_BLOCKS,
    )


async def crash(device: FtlDevice) -> None:
    await device.abort("crash")
    with contextlib.suppress(FtlError):
        await device.halt()


def generated(device: FtlDevice, uuid: bytes) -> _shim.GeneratedZones:
    """As if hosts had filled the FTL and overwritten it at random, until it crashed with a zone half written."""
    geometry = device.geometry
    start = device._manager.limits.to_dict()["start"]["free_bands"]
    return _shim.GeneratedZones(
        uuid,
        zone_size=geometry.zone_size,
        zone_capacity=geometry.zone_capacity,
        band_count=geometry.band_count,
        punits=geometry.punits,
        block_count=geometry.block_count,
        full_bands=geometry.band_count - start - FREE_BANDS,
        batches_begun=geometry.data_blocks // geometry.batch_blocks // 2,
        batch_blocks=geometry.batch_blocks,
    )


async def read_some(reactor: ReactorLoop, device: FtlDevice, content: _shim.GeneratedZones) -> None:
    """LBAs at random read as the generator says."""
    rng = random.Random(1)
    lbas = [rng.randrange(device.block_count) for _ in range(CHECKED_LBAS)]
    seqs, _ = content.newest(np.array(lbas, np.uint64))
    async with port_to(reactor, device.core) as port:
        for lba, seq in zip(lbas, seqs.tolist(), strict=True):
            found = await port.read(lba, 1)
            if found.tobytes() != content.data(lba, seq):
                raise AssertionError(f"LBA {lba} does not read as the version with seq {seq}")


def l2p_bytes(geometry: Geometry, conf: FtlConf) -> int:
    """What the core has in memory for all LBAs for good: the L2P, and with verify_reads 2 B of CRC."""
    return geometry.block_count * (geometry.l2p_entry_bytes + (2 if conf.verify_reads else 0))


# --- a load, and what comes after ------------------------------------------------------------------------------------


async def load(terabytes: float, seconds: float) -> dict[str, Any]:
    """After a crash, after a halt; then a write and a read behind a trim of everything."""
    async with reactor_loop() as reactor:
        zones = max(48, round(terabytes * ZONES_PER_TB))
        media = drive_of(reactor, zones)
        device = await creation.create(reactor, media, name="scale", conf=FtlConf(), num_punits=1)
        await crash(device)
        content = generated(device, device.media_uuid.bytes)
        media.hold(content)
        uuid, conf = device.uuid, device.conf
        result: dict[str, Any] = {
            "zones": zones,
            "mapped": device.block_count,
            "on_media": content.slots,
            "l2p_bytes": l2p_bytes(device.geometry, conf),
            "base_blocks": device.geometry.block_end,
        }
        del device
        device, result["dirty"] = await timed_load(reactor, media, uuid, content)
        assert device.restored is not None
        if device.restored["mapped_blocks"] != result["mapped"] or device.restored["damage_count"]:
            raise AssertionError(f"the load found {device.restored}")
        await read_some(reactor, device, content)
        result["turn"] = await turn(device)
        await crash(device)
        del device
        device, result["running"] = await timed_load(reactor, media, uuid, content)
        assert device.restored is not None
        result["running"]["from_running_checkpoint"] = device.restored["from_running_checkpoint"]
        await read_some(reactor, device, content)
        began = time.perf_counter()
        await device.halt()
        result["halt_s"] = time.perf_counter() - began
        del device
        device, result["clean"] = await timed_load(reactor, media, uuid, content)
        assert device.restored is not None
        result["clean"]["from_checkpoint"] = device.restored["from_checkpoint"]
        await read_some(reactor, device, content)
        result["trim"] = await behind_a_trim(reactor, device)
        await crash(device)
        return result


async def turn(device: FtlDevice) -> dict[str, float]:
    """A turn of the running checkpoint, at once and as fast as it can be."""
    checkpointing, stalls = device.checkpointing, Stalls()
    checkpointing.pause_s = 0
    checkpointing._began_at = -(1 << 60)
    checkpointing._asked_at = -1.0
    async with stalls.watched():
        cpu, began = time.process_time(), time.perf_counter()
        device._manager.pump()
        await checkpointing.ended()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    if not checkpointing.turns:
        raise AssertionError(f"no running checkpoint: {checkpointing.status()}")
    return {"wall_s": took, "cpu_s": cpu, "stall_s": stalls.longest_s, "blocks": checkpointing.written_blocks}


async def timed_load(
    reactor: ReactorLoop, media: _shim.EmulatedMedia, uuid: Any, content: _shim.GeneratedZones
) -> tuple[FtlDevice, dict[str, Any]]:
    stalls, memory = Stalls(), Memory()
    async with stalls.watched():
        media_ns, cpu, began = content.cpu_ns, time.process_time(), time.perf_counter()
        device = await loading.load(
            reactor, media, name="scale", uuid=uuid, settings={"running_checkpoint": TURN_PERCENT}
        )
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    media_s = (content.cpu_ns - media_ns) / 1e9
    return device, {
        "wall_s": took,
        # Without what the drive would do.
        "cpu_s": cpu - media_s,
        "media_cpu_s": media_s,
        "peak_bytes": memory.peak(),
        "process_bytes": memory.process_peak(),
        "stall_s": stalls.longest_s,
    }


async def behind_a_trim(reactor: ReactorLoop, device: FtlDevice) -> dict[str, float]:
    """Seconds until a write, and a read, are done that were submitted right behind the trim."""

    async def timed(work: Awaitable[object]) -> float:
        await work
        return time.perf_counter() - began

    stalls = Stalls()
    async with port_to(reactor, device.core) as port, stalls.watched():
        await port.write(0, bytes(BLOCK_BYTES))
        began = time.perf_counter()
        tasks = [
            asyncio.ensure_future(timed(work))
            for work in (
                port.deallocate(0, device.block_count),
                port.write(5, bytes([5]) * BLOCK_BYTES),
                port.read(device.block_count // 2, 1),
            )
        ]
        trim, write, read = await asyncio.gather(*tasks)
        assert (await port.read(5, 1) == 5).all()
        assert not (await port.read(device.block_count - 1, 1)).any()
    return {"trim_s": trim, "write_s": write, "read_s": read, "stall_s": stalls.longest_s}


# --- the L2P ---------------------------------------------------------------------------------------------------------


async def l2p(terabytes: float, seconds: float) -> dict[str, Any]:
    """Bytes for each LBA, from the memory of those of one band, which are contiguous."""
    async with reactor_loop() as reactor:
        media = drive_of(reactor, round(terabytes * ZONES_PER_TB))
        conf = FtlConf(verify_reads=False)
        device = await creation.create(reactor, media, name="scale", conf=conf, num_punits=1, no_data=True)
        geometry = device.geometry
        await crash(device)
        bands = 128
        config = _shim.CoreConfig(
            uuid=bytes(16),
            block_count=geometry.block_count,
            bands=geometry.band_zone_starts(),
            zone_size=geometry.zone_size,
            zone_capacity=geometry.zone_capacity,
            verify_reads=False,
            no_data=True,
        )
        core = _shim.FtlCore(reactor.shim, media, config)
        for band in range(bands):
            core.load_band(band, _shim.BandState.CLOSED, band + 1, [geometry.zone_capacity])
        starts = geometry.band_zone_starts()[:bands, 0].tolist()
        addresses = [np.arange(start, start + geometry.zone_blocks, dtype=np.uint64) for start in starts]
        memory = Memory()
        for band, part in enumerate(addresses):
            core.load_l2p(band * geometry.zone_blocks, part)
        used = memory.now()
        core.close()
        return {"block_count": geometry.block_count, "bytes_per_block": used / (bands * geometry.zone_blocks)}


# --- crashes, one after the other ------------------------------------------------------------------------------------


async def crashes(terabytes: float, seconds: float) -> dict[str, Any]:
    """1.2 GB of writes at random, then one crash after the other, each with some more writes."""
    async with reactor_loop() as reactor:
        media = drive_of(reactor, round(terabytes * ZONES_PER_TB))
        device = await creation.create(reactor, media, name="scale", conf=FtlConf())
        uuid, span = device.uuid, CRASH_BLOCKS * 4
        await write_blocks(reactor, device, span, CRASH_BLOCKS, seed=1)
        await crash(device)
        loads: list[float] = []
        began = time.perf_counter()
        while not loads or (len(loads) < 100 and time.perf_counter() - began + 2 * loads[-1] < seconds):
            start = time.perf_counter()
            device = await loading.load(reactor, media, name="scale", uuid=uuid)
            loads.append(time.perf_counter() - start)
            await write_blocks(reactor, device, span, 2000, seed=1 + len(loads))
            await crash(device)
        return {"zones": len(media.zone_states()), "loads_s": loads}


async def write_blocks(reactor: ReactorLoop, device: FtlDevice, span: int, blocks: int, *, seed: int) -> None:
    generator = _shim.LoadGenerator(reactor.shim, device.core, lba_count=span, seed=seed, verify="none")
    await run(generator, total_blocks=blocks, queue_depth=32)
    generator.close()


async def run(generator: _shim.LoadGenerator, **how: Any) -> None:
    generator.start("write", **how)
    while generator.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert generator.progress().io_errors == 0, generator.progress()


async def run_for(generator: _shim.LoadGenerator, seconds: float) -> None:
    """Random 4 KiB writes."""
    generator.start("write", total_blocks=1 << 40, queue_depth=32)
    await asyncio.sleep(seconds)
    generator.stop()
    while generator.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


# --- emulated zones --------------------------------------------------------------------------------------------------


async def emulated(gibibytes: float, seconds: float) -> dict[str, Any]:
    """A load after a crash, with emulated zones, of which hardly any were written."""
    async with reactor_loop() as reactor:
        blocks = round(gibibytes * (1 << 18))
        media = _shim.EmulatedMedia.conventional(reactor.shim, blocks, max_io_blocks=MAX_IO_BLOCKS)
        base = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=SMALL_ZONE_BLOCKS)
        device = await creation.create(reactor, base, name="scale", conf=FtlConf())
        uuid = device.uuid
        await write_blocks(reactor, device, 32, 32, seed=1)
        await crash(device)
        base = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=SMALL_ZONE_BLOCKS, initial_state="full")
        reads, cpu, began = media.operations, time.process_time(), time.perf_counter()
        device = await loading.load(reactor, base, name="scale", uuid=uuid)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        result = {"wall_s": took, "cpu_s": cpu, "ios": media.operations - reads}
        await crash(device)
        return result


async def emulated_crashes(gibibytes: float, seconds: float) -> dict[str, Any]:
    """Crash after crash with emulated zones as large as those of a drive, each with 8 MB of writes before it."""
    async with reactor_loop() as reactor:
        blocks = round(gibibytes * (1 << 18))
        media = _shim.EmulatedMedia.conventional(reactor.shim, blocks, max_io_blocks=MAX_IO_BLOCKS)
        base = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=ZONE_CAPACITY)
        device = await creation.create(reactor, base, name="scale", conf=FtlConf())
        uuid = device.uuid
        loads: list[float] = []
        began = time.perf_counter()
        while not loads or (len(loads) < 100 and time.perf_counter() - began + 2 * loads[-1] < seconds):
            await write_blocks(reactor, device, 2000, 2000, seed=1 + len(loads))
            await crash(device)
            base = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=ZONE_CAPACITY, initial_state="full")
            start = time.perf_counter()
            device = await loading.load(reactor, base, name="scale", uuid=uuid)
            loads.append(time.perf_counter() - start)
        await crash(device)
        return {"loads_s": loads}


# --- many bands ------------------------------------------------------------------------------------------------------


async def bands(count: float, seconds: float) -> dict[str, Any]:
    """Random 4 KiB writes under GC, with so many bands of one zone. The base keeps no data, and has about the same size
    for any number of bands: 40 GiB."""
    band_count = int(count)
    async with reactor_loop() as reactor:
        # Whole batches, a rest, and a summary.
        capacity = MANY_BANDS_BLOCKS // band_count // 128 * 128 + 8
        zone_size = 1 << (capacity - 1).bit_length()
        null = _shim.EmulatedMedia.null(reactor.shim, (band_count + 2) * zone_size)
        base = _shim.ZonedOverlay(reactor.shim, null, zone_capacity=capacity)
        conf = FtlConf(write_buffer_size=128 * BLOCK_BYTES)
        device = await creation.create(reactor, base, name="scale", conf=conf, num_punits=1, no_data=True)
        generator = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1, verify="none")
        await run(generator, pattern="sequential", total_blocks=device.block_count, io_blocks=32, queue_depth=16)
        while not device.core.stats().reloc_moved_blocks:
            await run(generator, total_blocks=max(1000, device.block_count // 100), queue_depth=32)
        await run_for(generator, seconds)
        before, stalls = device.core.stats(), Stalls()
        async with stalls.watched():
            cpu, loop_cpu, began = time.process_time(), time.thread_time(), time.perf_counter()
            await run_for(generator, seconds)
            cpu, loop_cpu = time.process_time() - cpu, time.thread_time() - loop_cpu
            took = time.perf_counter() - began
        now = device.core.stats()
        writes = now.user_written_blocks - before.user_written_blocks
        pump = time.thread_time()
        for _ in range(20):
            device._manager.pump()
        pump = (time.thread_time() - pump) / 20
        generator.close()
        await device.halt()
        return {
            "band_blocks": device.geometry.band_blocks,
            "iops": writes / took,
            "cpu_us": cpu / writes * 1e6,
            "loop_cpu_us": loop_cpu / writes * 1e6,
            "pump_us": pump * 1e6,
            "stall_s": stalls.longest_s,
            "write_amplification": (now.media_written_blocks - before.media_written_blocks) / writes,
        }


MEASUREMENTS: Final[dict[str, Callable[[float, float], Awaitable[dict[str, Any]]]]] = {
    each.__name__: each for each in (load, l2p, crashes, emulated, emulated_crashes, bands)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=MEASUREMENTS)
    parser.add_argument("size", nargs="?", type=float, help="TB; GiB for emulated zones; a number for bands")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long bands and crashes go on")
    parser.add_argument("--list", action="store_true", help="list the measurements")
    args = parser.parse_args()
    if args.list:
        for name, measure in MEASUREMENTS.items():
            print(f"{name:10} {' '.join((measure.__doc__ or '').split())}")
        return
    if args.what is None or args.size is None or args.size <= 0:
        parser.error("give a measurement and a size above 0")
    logging.disable(logging.CRITICAL)
    # As the daemon does: otherwise the loop stands still for garbage collections of all that was imported.
    gc.freeze()
    result = asyncio.run(MEASUREMENTS[args.what](args.size, args.seconds))
    print(json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
