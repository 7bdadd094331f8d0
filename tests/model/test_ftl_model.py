"""The FTL against a dict: whatever is written, compared and written, trimmed, declared uncorrectable, flushed and
relocated, a read returns the last version, zeroes or an error.

A hypothesis state machine on a tiny device, so that garbage collection, full bands and full buffers come up all the
time; zones fail, writes fail once, completions come in any order. A failure prints the steps that lead to it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from model.machine import SimulatedMachine, effort
from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop

ZONES, ZONE_SIZE, ZONE_CAPACITY = 34, 32, 24
READ_ONLY_ZONES_MAX = 2
WRITE_FAULT = 0x280
UNREADABLE, DIFFERENT = 0x281, 0x285
UNCORRECTABLE = -1
"""What the model has for a block that was declared uncorrectable."""

LBAS = st.integers(0, 10_000)
LENGTHS = st.integers(1, 8)


class FtlModel(SimulatedMachine):
    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.model: dict[int, int] = {}
        self.read_only_zones = 0

    @initialize(punits=st.sampled_from([1, 2]), shared=st.booleans(), append=st.booleans(), seed=st.integers(0, 99))
    def create(self, punits: int, shared: bool, append: bool, seed: int) -> None:
        async def make() -> None:
            self.reactor = ReactorLoop("model", stepped=True, clock=self.clock)
            await self.reactor.start()
            limit = (2 if shared else 3) * punits + 1
            self.media = _shim.EmulatedMedia.zns(
                self.reactor.shim,
                ZONES * punits,
                ZONE_SIZE,
                ZONE_CAPACITY,
                max_open_zones=limit,
                max_active_zones=limit,
            )
            self.media.set_schedule(seed)
            conf = FtlConf(lba_rsvd=55, use_append=append, max_active_relocs=1 + seed % 3)
            self.device = await creation.create(self.reactor, self.media, name="ftl0", conf=conf, num_punits=punits)
            self.port = BlockPort(self.reactor, self.device.core, name="user")

        self.run(make())
        assert self.device.geometry.shared_stream == shared

    def range_of(self, lba: int, length: int) -> range:
        first = lba % self.device.block_count
        most = min(length, self.device.core.max_io_blocks, self.device.block_count - first)
        return range(first, first + most)

    def next_blocks(self, lbas: range) -> np.ndarray:
        """Blocks that tell LBA and version; the model knows them from now on."""
        data = np.zeros((len(lbas), 512), np.uint64)
        for i, lba in enumerate(lbas):
            self.version += 1
            self.model[lba] = self.version
            data[i, 0], data[i, 1], data[i, -1] = lba, self.version, self.version
        return data.view(np.uint8)

    def check(self, lbas: range, data: np.ndarray) -> None:
        words = data.view(np.uint64).reshape(len(lbas), 512)
        for i, lba in enumerate(lbas):
            version = self.model.get(lba, 0)
            expected = (lba, version, version) if version else (0, 0, 0)
            assert (words[i, 0], words[i, 1], words[i, -1]) == expected, f"LBA {lba}"

    @rule(lba=LBAS, length=LENGTHS, fua=st.booleans())
    def write(self, lba: int, length: int, fua: bool) -> None:
        lbas = self.range_of(lba, length)
        self.run(self.port.write(lbas.start, self.next_blocks(lbas), fua=fua))

    @rule(lba=LBAS, length=LENGTHS)
    def read(self, lba: int, length: int) -> None:
        lbas = self.range_of(lba, length)
        if UNCORRECTABLE in map(self.model.get, lbas):
            with pytest.raises(MediaError) as failed:
                self.run(self.port.read(lbas.start, len(lbas)))
            assert failed.value.status == UNREADABLE
            for each in lbas if len(lbas) > 1 else ():
                self.read(each, 1)
            return
        self.check(lbas, self.run(self.port.read(lbas.start, len(lbas))))

    @rule(lba=LBAS, length=st.integers(1, 64), op=st.sampled_from([_shim.Op.DEALLOCATE, _shim.Op.WRITE_ZEROES]))
    def trim(self, lba: int, length: int, op: _shim.Op) -> None:
        first = lba % self.device.block_count
        lbas = range(first, min(first + length, self.device.block_count))
        self.run(self.port._submit(op, lbas.start, len(lbas)))
        for each in lbas:
            self.model.pop(each, None)

    @rule(lba=LBAS, length=st.integers(1, 32))
    def write_uncorrectable(self, lba: int, length: int) -> None:
        first = lba % self.device.block_count
        lbas = range(first, min(first + length, self.device.block_count))
        self.run(self.port._submit(_shim.Op.WRITE_UNCORRECTABLE, lbas.start, len(lbas)))
        self.model.update(dict.fromkeys(lbas, UNCORRECTABLE))

    @rule(lba=LBAS, right=st.booleans(), fua=st.booleans())
    def compare_write(self, lba: int, right: bool, fua: bool) -> None:
        lbas = self.range_of(lba, 1)
        held = self.model.get(lbas.start, 0)
        expected = np.zeros((1, 512), np.uint64)
        if held > 0:
            expected[0, 0], expected[0, 1], expected[0, -1] = lbas.start, held, held
        expected[0, 300] = 0 if right else 1
        works = right and held != UNCORRECTABLE
        data = self.next_blocks(lbas) if works else np.zeros((1, 4096), np.uint8)
        both = np.concatenate([expected.view(np.uint8), data]).reshape(-1)
        writing = self.port._submit(_shim.Op.COMPARE_WRITE, lbas.start, 1, both, fua=fua)
        if works:
            self.run(writing)
            return
        with pytest.raises(MediaError) as failed:
            self.run(writing)
        assert failed.value.status == (UNREADABLE if held == UNCORRECTABLE else DIFFERENT)

    @rule()
    def flush(self) -> None:
        self.run(self.port.flush())

    @rule(seed=st.integers(0, 1 << 30), times=st.integers(1, 3))
    def overwrite_at_random(self, seed: int, times: int) -> None:
        """Enough to make garbage collection work."""
        order = np.random.default_rng(seed).permutation(self.device.block_count)

        async def all_of_it() -> None:
            for lba in order:
                lbas = range(int(lba), int(lba) + 1)
                await self.port.write(lbas.start, self.next_blocks(lbas))

        for _ in range(times):
            self.run(all_of_it())

    @rule(zone=st.integers(2, 200))
    def zone_goes_read_only(self, zone: int) -> None:
        if self.read_only_zones < READ_ONLY_ZONES_MAX:
            self.read_only_zones += 1
            self.media.set_zone_state(2 + zone % (ZONES - 2), "read_only")

    @rule(skip=st.integers(0, 20))
    def one_write_to_media_fails(self, skip: int) -> None:
        # One at a time: several in a row would be a broken drive, not a bad block.
        self.media.clear_faults()
        self.media.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT, skip=skip, times=1)

    @rule()
    def read_everything(self) -> None:
        step = self.device.core.max_io_blocks
        for first in range(0, self.device.block_count, step):
            self.read(first, step)

    @invariant()
    def is_running(self) -> None:
        if hasattr(self, "device"):
            assert self.device.lost_blocks == 0
            assert self.device.state is FtlState.RUNNING
            assert self.device.core.allocated_blocks() == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "port"):
            self.media.clear_faults()
            self.read_everything()

            async def end() -> None:
                await self.port.close()
                await self.device.halt()
                await self.reactor.stop()

            self.run(end())
        self.loop.close()


TestFtlModel = FtlModel.TestCase
TestFtlModel.settings = effort(max_examples=25, steps=25)
