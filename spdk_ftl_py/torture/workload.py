"""Traffic: one host with several outstanding I/Os. Every answer is compared with the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .. import _shim
from ..nvme.wire import Status, status_text
from ..runtime.reactor import ReactorLoop
from .content import Blocks, Content
from .fault import FLUSH_REFUSED, UNRECOVERED_READ
from .mix import Mix
from .model import Model, Violation

TRIMS: Final = (_shim.Op.DEALLOCATE, _shim.Op.WRITE_ZEROES, _shim.Op.WRITE_UNCORRECTABLE)
"""And what the FTL does in the same way."""
RARE_COMMANDS: Final = 0.12
WRONG_COMPARES: Final = 0.3
NEVER_A_VERSION: Final = 1 << 40
QUEUE_DEPTH_MAX: Final = 32
READ_BLOCKS_MAX: Final = 64
WEDGED_STEPS: Final = 400_000
"""If the reactor takes that many steps without an answer while I/O is outstanding, the device is stuck."""
HOT_LBAS: Final = 24


MIXES: Final = (
    Mix(reads=0.1, trims=0.06, flushes=0.03, fua=0.03, hot=0.6, large=0.3, queue_depth=8),
    Mix(reads=0.3, trims=0.2, flushes=0.05, fua=0.1, hot=0.3, large=0.5, queue_depth=4),
    Mix(reads=0.0, trims=0.01, flushes=0.004, fua=0.0, hot=0.2, large=0.6, queue_depth=32),
    Mix(reads=0.05, trims=0.02, flushes=0.3, fua=0.3, hot=0.8, large=0.05, queue_depth=2),
    Mix(reads=0.02, trims=0.03, flushes=0.01, fua=0.01, hot=0.0, large=0.9, queue_depth=16, sequential=True),
    Mix(reads=0.1, trims=0.02, flushes=0.02, fua=0.05, hot=0.95, large=0.0, queue_depth=16),
    Mix(reads=0.0, trims=0.0, flushes=0.0, fua=0.0, hot=0.0, large=0.0, queue_depth=2),
)


@dataclass
class _Outstanding:
    op: _shim.Op
    lba: int = 0
    block_count: int = 0
    change: int = 0
    fua: bool = False
    data: Blocks | None = None
    floors: list[int] = field(default_factory=list)
    fails: bool = False
    """It compares with what the block does not hold."""


class Workload:
    """The traffic in one life of a device, from its load to its end. After stop() no answer counts."""

    def __init__(
        self,
        reactor: ReactorLoop,
        device: _shim.BlockDevice,
        model: Model,
        content: Content,
        rng: random.Random,
        *,
        apart: bool = False,
        wrong_digests: Callable[[], int] = lambda: 0,
        rare_commands: bool = False,
    ) -> None:
        """apart: changes of a block never overlap, because nothing between the host and the FTL promises an order of
        outstanding I/Os. wrong_digests: returns the number of I/Os that may have failed so far because of a wrong
        digest. rare_commands: also those that few hosts use, if the device takes them."""
        self.violations: list[Violation] = []
        self.blocks_verified = 0
        self.io_count = 0
        self.durable_when_acknowledged = False
        """An nv cache is in use."""
        self.flushes_may_fail = False
        """Flushes, FUA writes, and with an nv cache trims may fail, because the drive fails one flush. Their data does
        not count as durable then."""
        self.halting = False
        """A status of Namespace Not Ready is no failure: it ends the traffic."""
        self.failed = False
        """An I/O has failed. Whether that is a violation depends on the injected faults."""
        self.failure = ""
        self._reactor = reactor
        self._port = _shim.IoPort(reactor.shim, device, QUEUE_DEPTH_MAX)
        self._model = model
        self._content = content
        self._rng = rng
        self._io_blocks_max = device.max_io_blocks
        self._apart = apart
        self._rare_commands = rare_commands and device.write_uncorrectable and device.compare_write_blocks > 0
        self._compares = 0
        """Outstanding."""
        self._wrong_digests = wrong_digests
        self._repeated = 0
        self._outstanding: dict[int, _Outstanding] = {}
        self._stopped = False
        self._refused = False
        self._quiet_steps = 0
        self._cursor = 0
        self._mix = MIXES[0]
        self._hot_first = 0
        self._port_id = self._port.id
        reactor.subscribe(self._port_id, self._on_event)
        self.change_mix()

    def change_mix(self) -> None:
        self._mix = self._rng.choice(MIXES)
        self._hot_first = self._rng.randrange(self._model.block_count)

    @property
    def outstanding(self) -> int:
        return len(self._outstanding)

    def pump(self) -> None:
        """Called once for each step of the reactor. Submits I/Os by the mix, and checks that answers arrive."""
        self._quiet_steps += 1
        if self._stopped or self.failed or self._refused:
            return
        if self._quiet_steps > WEDGED_STEPS:
            self._wedged()
            return
        while len(self._outstanding) < self._mix.queue_depth:
            self._submit()
            if self._rng.random() < 0.3:
                return

    def wait(self) -> bool:
        """Called instead of pump() to submit nothing. Returns True when everything was answered."""
        self._quiet_steps += 1
        if self._quiet_steps > WEDGED_STEPS and self._outstanding and not self.failed:
            self._wedged()
        return not self._outstanding or self.failed

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        """Waits until the device has returned all outstanding I/O. The device must end first."""
        self._stopped = True
        self._port.close()
        self._reactor.unsubscribe(self._port_id)

    # --- submission

    def _range(self, most: int) -> tuple[int, int]:
        rng, total = self._rng, self._model.block_count
        large = rng.random() < self._mix.large
        block_count = min(rng.randint(2, most) if large else rng.choice((1, 1, 2)), total)
        if self._mix.sequential:
            lba = self._cursor if self._cursor + block_count <= total else 0
            self._cursor = lba + block_count
        elif rng.random() < self._mix.hot:
            lba = (self._hot_first + rng.randrange(HOT_LBAS)) % total
        else:
            lba = rng.randrange(total)
        return min(lba, total - block_count), block_count

    def _submit(self) -> None:
        rng, mix = self._rng, self._mix
        if self._rare_commands and rng.random() < RARE_COMMANDS:
            self._submit_rare()
            return
        kind = rng.random()
        if kind < mix.reads:
            self.read(*self._range(16))
        elif kind < mix.reads + mix.trims:
            at = self._range(64)
            if self._is_free(*at):
                self.trim(*at, zeroes=rng.random() < 0.3, fua=rng.random() < mix.fua)
        elif kind < mix.reads + mix.trims + mix.flushes:
            self.flush()
        else:
            at = self._range(16)
            if self._is_free(*at):
                self.write(*at, fua=rng.random() < mix.fua)

    def _is_free(self, lba: int, block_count: int) -> bool:
        """Whether a change of these blocks may be submitted now."""
        if not self._apart and not self._compares:
            return True
        return not any(
            each.change
            and (self._apart or each.op == _shim.Op.COMPARE_WRITE)
            and each.lba < lba + block_count
            and lba < each.lba + each.block_count
            for each in self._outstanding.values()
        )

    def write(self, lba: int, block_count: int, *, fua: bool = False) -> None:
        block_count = min(block_count, self._io_blocks_max)
        change = self._model.submit(lba, block_count, trim=False)
        data = self._content.make(lba, block_count, change)
        io = _Outstanding(_shim.Op.WRITE, lba, block_count, change, fua)
        self._outstanding[self._port.submit(_shim.Op.WRITE, lba, block_count, data, fua=fua)] = io

    def trim(self, lba: int, block_count: int, *, zeroes: bool = False, fua: bool = False) -> None:
        op = _shim.Op.WRITE_ZEROES if zeroes else _shim.Op.DEALLOCATE
        # A deallocate has no FUA.
        io = _Outstanding(op, lba, block_count, self._model.submit(lba, block_count, trim=True), fua and zeroes)
        self._outstanding[self._port.submit(op, lba, block_count, fua=io.fua)] = io

    def _submit_rare(self) -> None:
        rng = self._rng
        if rng.random() < 0.4:
            at = self._range(16)
            if self._is_free(*at):
                self.write_uncorrectable(*at)
            return
        lba, _ = self._range(16)
        version = self._model.current(lba)
        if version is not None:
            # Nothing else changes the block meanwhile, so the result is known beforehand.
            wrong = rng.random() < WRONG_COMPARES
            self.compare_write(lba, NEVER_A_VERSION if wrong else version, fua=rng.random() < self._mix.fua)

    def write_uncorrectable(self, lba: int, block_count: int) -> None:
        change = self._model.submit(lba, block_count, trim=False, uncorrectable=True)
        io = _Outstanding(_shim.Op.WRITE_UNCORRECTABLE, lba, block_count, change)
        self._outstanding[self._port.submit(io.op, lba, block_count)] = io

    def compare_write(self, lba: int, version: int, *, fua: bool = False) -> None:
        """Writes a block if it holds that version."""
        wrong = version == NEVER_A_VERSION
        expected = self._content.make(lba, 1, version) if version else np.zeros((1, 4096), np.uint8)
        change = NEVER_A_VERSION if wrong else self._model.submit(lba, 1, trim=False)
        data = np.concatenate([expected, self._content.make(lba, 1, change)]).reshape(-1)
        floors = self._model.floors(lba, 1)
        io = _Outstanding(_shim.Op.COMPARE_WRITE, lba, 1, change, fua, floors=floors, fails=wrong)
        self._outstanding[self._port.submit(io.op, lba, 1, data, fua=fua)] = io
        self._compares += 1

    def flush(self) -> None:
        io = _Outstanding(_shim.Op.FLUSH, floors=self._model.acknowledged())
        self._outstanding[self._port.submit(_shim.Op.FLUSH)] = io

    def read(self, lba: int, block_count: int) -> None:
        block_count = min(block_count, self._io_blocks_max)
        data = np.empty((block_count, 4096), np.uint8)
        io = _Outstanding(_shim.Op.READ, lba, block_count, data=data, floors=self._model.floors(lba, block_count))
        self._outstanding[self._port.submit(_shim.Op.READ, lba, block_count, data.reshape(-1))] = io

    def _repeat(self, io: _Outstanding) -> None:
        data = None if io.data is None else io.data.reshape(-1)
        if io.op == _shim.Op.WRITE:
            data = self._content.make(io.lba, io.block_count, io.change).reshape(-1)
        self._outstanding[self._port.submit(io.op, io.lba, io.block_count, data, fua=io.fua)] = io

    # --- answers

    def _on_event(self, event: _shim.Event) -> None:
        if event.kind == _shim.EventKind.IO_DONE:
            self._answered(event.ticket, event.status)
        elif event.kind == _shim.EventKind.OVERFLOW:
            for completion in self._port.take_untold():
                self._answered(completion.ticket, completion.status)

    def _answered(self, ticket: int, status: int) -> None:
        io = self._outstanding.pop(ticket, None)
        if io is None or self._stopped:
            return
        self._compares -= io.op == _shim.Op.COMPARE_WRITE
        self._quiet_steps = 0
        self.io_count += 1
        if status:
            if status == Status.TRANSIENT_TRANSPORT_ERROR and self._repeated < self._wrong_digests():
                # Hosts repeat commands that may succeed.
                self._repeated += 1
                self._repeat(io)
                return
            if self.halting and status == Status.NAMESPACE_NOT_READY:
                self._refused = True
                return
            if self.flushes_may_fail and status == FLUSH_REFUSED and self._flushes(io):
                return
            if io.fails and status == Status.COMPARE_FAILURE:
                return
            reads = io.op in (_shim.Op.READ, _shim.Op.COMPARE_WRITE)
            if reads and status == UNRECOVERED_READ and self._model.may_fail(io.lba, io.floors):
                return
            self.failed = True
            self.failure = self.failure or f"I/O {io.op} at LBA {io.lba} failed: {status_text(status)}"
        elif io.fails:
            text = "a block was written, although it did not hold what the host expected"
            self.violations.append(Violation("compared", io.lba, text))
        elif io.op == _shim.Op.FLUSH:
            self._model.flushed(io.floors)
        elif io.data is not None:
            self._verify(io, io.data)
        else:
            durable = io.fua or self.durable_when_acknowledged
            self._model.acknowledge(io.lba, io.block_count, io.change, durable=durable, on_base=self._flushes(io))

    def _flushes(self, io: _Outstanding) -> bool:
        """Whether a flush of the drive is part of this I/O."""
        return io.fua or io.op == _shim.Op.FLUSH or (self.durable_when_acknowledged and io.op in TRIMS)

    def _verify(self, io: _Outstanding, data: Blocks) -> None:
        self.blocks_verified += io.block_count
        wrong = self._model.check_read(io.lba, io.floors, self._content.versions(io.lba, data))
        self.violations += wrong

    def _wedged(self) -> None:
        self.failed = True
        self.failure = f"{len(self._outstanding)} I/Os do not complete"
        self.violations.append(Violation("wedged", -1, f"{self.failure}, although the media have no fault"))
