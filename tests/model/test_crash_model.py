"""The FTL through crashes against a dict: what was durable comes back, what is found stays.

A hypothesis state machine: nothing is outstanding when a crash comes, other than what the FTL does by itself, so the
model is simple; concurrency and crashes in the middle of everything are `spdk-ftl torture`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from model.machine import SimulatedMachine, effort
from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop

ZONES, ZONE_SIZE, ZONE_CAPACITY = 34, 32, 24
LANDING_STEPS = 64
UUID_OF_MODEL = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
SEEDS = st.integers(0, 1 << 30)


class CrashModel(SimulatedMachine):
    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.model: dict[int, list[int]] = {}
        """Per LBA: what it may hold after a loss of power, the durable version first, the current one last. 0:
        zeroes."""
        self.folder = tempfile.TemporaryDirectory(prefix="spdk-ftl-model-")
        self.buffer_dir = Path(self.folder.name)

    @initialize(punits=st.sampled_from([1, 2]), append=st.booleans(), emulated=st.booleans(), seed=SEEDS)
    def create(self, punits: int, append: bool, emulated: bool, seed: int) -> None:
        async def make() -> None:
            self.reactor = ReactorLoop("model", stepped=True, clock=self.clock)
            await self.reactor.start()
            limit = 3 * punits + 1
            if emulated:
                self.media = _shim.EmulatedMedia.conventional(
                    self.reactor.shim, ZONES * punits * ZONE_SIZE, volatile_cache=True
                )
            else:
                self.media = _shim.EmulatedMedia.zns(
                    self.reactor.shim,
                    ZONES * punits,
                    ZONE_SIZE,
                    ZONE_CAPACITY,
                    max_open_zones=limit,
                    max_active_zones=limit,
                )
            self.emulated = emulated
            self.media.set_schedule(seed)
            conf = FtlConf(lba_rsvd=55, use_append=append and not emulated, write_buffer_size=16 * 4096)
            self.device = await creation.create(
                self.reactor,
                self.base("empty"),
                name="ftl0",
                uuid=UUID_OF_MODEL,
                conf=conf,
                num_punits=punits,
                buffer_dir=self.buffer_dir,
            )
            self.open()

        self.run(make())

    def base(self, initial_state: str) -> _shim.BlockDevice:
        if not self.emulated:
            return self.media
        return _shim.ZonedOverlay(
            self.reactor.shim, self.media, zone_capacity=ZONE_CAPACITY, initial_state=initial_state
        )

    def open(self) -> None:
        self.port = BlockPort(self.reactor, self.device.core, name="user")

    # --- I/O

    def range_of(self, lba: int, length: int) -> range:
        first = lba % self.device.block_count
        return range(first, min(first + length, self.device.block_count))

    async def write_blocks(self, lbas: range, *, fua: bool = False) -> None:
        data = np.zeros((len(lbas), 512), np.uint64)
        for i, lba in enumerate(lbas):
            self.version += 1
            data[i, 0], data[i, 1], data[i, -1] = lba, self.version, self.version
            self.changed(lba, self.version)
        await self.port.write(lbas.start, data.view(np.uint8).reshape(-1), fua=fua)
        if fua:
            self.durable(lbas)

    def changed(self, lba: int, version: int) -> None:
        self.model.setdefault(lba, [0]).append(version)

    def durable(self, lbas: range) -> None:
        for lba in lbas:
            if lba in self.model:
                self.model[lba] = self.model[lba][-1:]

    @rule(lba=st.integers(0, 10_000), length=st.integers(1, 8), fua=st.booleans())
    def write(self, lba: int, length: int, fua: bool) -> None:
        self.run(self.write_blocks(self.range_of(lba, length), fua=fua))

    @rule(lba=st.integers(0, 10_000), length=st.integers(1, 64))
    def trim(self, lba: int, length: int) -> None:
        lbas = self.range_of(lba, length)
        self.run(self.port._submit(_shim.Op.DEALLOCATE, lbas.start, len(lbas)))
        for each in lbas:
            self.changed(each, 0)

    @rule()
    def flush(self) -> None:
        self.run(self.port.flush())
        self.durable(range(self.device.block_count))

    @rule(seed=SEEDS, share=st.sampled_from([0.3, 1.0]))
    def overwrite_at_random(self, seed: int, share: float) -> None:
        """Enough to make garbage collection work."""
        order = np.random.default_rng(seed).permutation(self.device.block_count)

        async def all_of_it() -> None:
            for lba in map(int, order[: int(share * len(order))]):
                await self.write_blocks(range(lba, lba + 1))

        self.run(all_of_it())

    @rule()
    def read_everything(self) -> None:
        for lba, version in enumerate(self.versions()):
            assert version == self.model.get(lba, [0])[-1], f"LBA {lba}"

    def versions(self) -> list[int]:
        found: list[int] = []
        step = min(64, self.device.core.max_io_blocks)
        for first in range(0, self.device.block_count, step):
            lbas = self.range_of(first, step)
            words = self.run(self.port.read(lbas.start, len(lbas))).view(np.uint64).reshape(len(lbas), 512)
            for lba, block in zip(lbas, words, strict=True):
                version = int(block[1])
                assert (block[0], block[-1]) == ((lba if version else 0), version), f"LBA {lba} is garbage"
                found.append(version)
        return found

    # --- crashes

    @rule(seed=SEEDS)
    def power_is_lost(self, seed: int) -> None:
        self.media.power_cut(seed)
        self.crash(keep_buffer=False)

    @rule(seed=SEEDS)
    def the_target_loses_power(self, seed: int) -> None:
        self.media.power_cut(seed)
        self.crash(keep_buffer=True)

    @rule()
    def the_daemon_is_killed(self) -> None:
        self.crash(keep_buffer=True)

    @rule(seed=SEEDS)
    def halt_and_load(self, seed: int) -> None:
        async def halt() -> None:
            await self.port.close()
            await self.device.halt()

        self.run(halt())
        self.media.power_cut(seed)
        self.media.power_on()
        self.durable(range(self.device.block_count))
        self.load_and_compare(keep_buffer=True)

    @rule(seed=SEEDS, operations=st.integers(1, 100))
    def power_is_lost_in_a_load(self, seed: int, operations: int) -> None:
        self.media.power_cut(seed)
        self.bury(keep_buffer=False)
        self.media.cut_power_at(self.media.operations + operations, seed)
        try:
            self.device = self.run(self.load())
        except FtlError:
            self.media.power_on()
            for path in self.buffer_dir.iterdir():
                path.unlink()
        else:
            # It got through, or nearly: with the last of what it set off in the background power may have gone.
            self.media.cut_power_at(0, 0)
            self.open()
            self.media.power_cut(seed)
            self.bury(keep_buffer=False)
        self.load_and_compare(keep_buffer=False)

    def crash(self, *, keep_buffer: bool) -> None:
        self.bury(keep_buffer=keep_buffer)
        self.load_and_compare(keep_buffer=keep_buffer)

    def bury(self, *, keep_buffer: bool) -> None:
        files = {path: path.read_bytes() for path in self.buffer_dir.iterdir()} if keep_buffer else {}

        async def end() -> None:
            await self.device.abort("crash")
            await self.port.close()
            for _ in range(LANDING_STEPS):
                await asyncio.sleep(0)
            await self.device.halt()

        self.run(end())
        self.media.power_on()
        for path in self.buffer_dir.iterdir():
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)

    def load(self) -> Coroutine[Any, Any, FtlDevice]:
        return loading.load(
            self.reactor, self.base("full"), name="ftl0", uuid=UUID_OF_MODEL, buffer_dir=self.buffer_dir
        )

    def load_and_compare(self, *, keep_buffer: bool) -> None:
        self.device = self.run(self.load())
        self.open()
        self.compare(keep_buffer=keep_buffer)

    def compare(self, *, keep_buffer: bool) -> None:
        for lba, version in enumerate(self.versions()):
            possible = self.model.get(lba, [0])
            if keep_buffer:
                assert version == possible[-1], f"LBA {lba}: acknowledged was {possible[-1]}"
            else:
                assert version in possible, f"LBA {lba}: {version} is none of {possible}"
                self.model[lba] = [version]

    def teardown(self) -> None:
        async def end() -> None:
            await self.port.close()
            with contextlib.suppress(FtlError):
                await self.device.halt()
            await self.reactor.stop()

        try:
            if hasattr(self, "port"):
                self.read_everything()
                assert self.device.state is FtlState.RUNNING
        finally:
            if hasattr(self, "port"):
                self.run(end())
            self.loop.close()
            self.folder.cleanup()


TestCrashModel = CrashModel.TestCase
TestCrashModel.settings = effort(max_examples=15, steps=20)
