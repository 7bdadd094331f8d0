"""NVMe/TCP hosts that stay connected while the programs behind their namespace are killed. They verify everything they
read."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import numpy as np

from ..errors import FtlError, MediaError
from ..ftl.media.blockdev import BlockPort
from ..nvme.host.reconnecting import ReconnectingHost
from ..runtime.reactor import ReactorLoop
from .content import Content
from .mix import Mix
from .model import READ_ERROR, Model, Violation

HOST_NQN: Final = "nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-0000000d0{:03x}"
IO_BLOCKS_MAX: Final = 32
HOT_BLOCKS: Final = 64
VERIFY_DEPTH: Final = 8

MIXES: Final = (
    Mix(reads=0.2, trims=0.03, flushes=0.02, fua=0.03, hot=0.2, large=0.5, queue_depth=16),
    Mix(reads=0.1, trims=0.01, flushes=0.0, fua=0.0, hot=0.1, large=0.8, queue_depth=32),
    Mix(reads=0.3, trims=0.15, flushes=0.05, fua=0.2, hot=0.5, large=0.2, queue_depth=4),
    Mix(reads=0.05, trims=0.02, flushes=0.2, fua=0.1, hot=0.9, large=0.0, queue_depth=2),
)


class Hosts:
    """Several hosts on one namespace. They never have overlapping I/Os outstanding unless both read: after a connection
    loss hosts repeat I/Os, and no order of the repetitions is promised."""

    def __init__(self, reactor: ReactorLoop, hosts: list[ReconnectingHost], seed: int, blocks: int = 0) -> None:
        """Use connect()."""
        self.violations: list[Violation] = []
        self.ios = 0
        self.flushes = 0
        self.blocks_verified = 0
        self.longest_pause_s = 0.0
        """The longest time without any completion while I/O was outstanding. Set it to 0 to measure again."""
        self._reactor = reactor
        self._hosts = hosts
        self._ports = [
            BlockPort(reactor, host.device, name=f"host {i}", depth=64, patience_s=0) for i, host in enumerate(hosts)
        ]
        there = hosts[0].namespace.block_count
        self._block_count = min(there, blocks) if blocks else there
        self._io_blocks_max = min(IO_BLOCKS_MAX, hosts[0].device.max_io_blocks)
        self._model = Model(self._block_count)
        self._content = Content(seed)
        self._busy = np.zeros(self._block_count, np.int16)
        """Per block: -1 while it is being written or trimmed, otherwise the number of reads in progress."""
        self._outstanding = 0
        self._answered_at = 0.0
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = False

    @classmethod
    async def connect(
        cls,
        reactor: ReactorLoop,
        traddr: str,
        trsvcid: str,
        subnqn: str,
        *,
        count: int,
        seed: int,
        timeout_s: float,
        blocks: int = 0,
    ) -> Hosts:
        """timeout_s: how long a host tries to reconnect. blocks: only the first so many are used (0: all). Raises
        FtlError; nothing is left behind then."""
        hosts: list[ReconnectingHost] = []
        try:
            for number in range(count):
                hosts.append(
                    await ReconnectingHost.connect(
                        reactor, traddr, trsvcid, subnqn, hostnqn=HOST_NQN.format(number), loss_timeout_s=timeout_s,
                        reconnect_delay_s=0.05,
                    )
                )  # fmt: skip
        except BaseException:
            for host in hosts:
                await host.close()
            raise
        return cls(reactor, hosts, seed, blocks)

    async def close(self) -> None:
        """Closes all hosts. Outstanding I/O fails and is not verified."""
        self._stopping = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await asyncio.gather(*(host.close() for host in self._hosts))
        await asyncio.gather(*(port.close() for port in self._ports))

    @property
    def losses(self) -> int:
        return sum(host.losses for host in self._hosts)

    @property
    def block_count(self) -> int:
        return self._block_count

    # --- load

    def start(self, mix: Mix, rng: random.Random) -> None:
        """Runs until stop(). The first violation ends it, too."""
        self._stopping = False
        self._workers = [
            asyncio.create_task(self._work(port, mix, random.Random(rng.getrandbits(64))))
            for port in self._ports
            for _ in range(mix.queue_depth)
        ]

    @property
    def running(self) -> bool:
        return bool(self._workers)

    async def stop(self) -> None:
        """Waits until every I/O has been answered, however long that takes."""
        self._stopping = True
        await asyncio.gather(*self._workers)
        self._workers = []

    async def _work(self, port: BlockPort, mix: Mix, rng: random.Random) -> None:
        while not self._stopping and not self.violations:
            dice = rng.random()
            if dice < mix.flushes:
                await self.flush(port)
                continue
            lba, block_count = self._place(mix, rng)
            if dice < mix.flushes + mix.reads:
                await self._read(port, lba, block_count)
            elif dice < mix.flushes + mix.reads + mix.trims:
                await self._change(port, lba, block_count, trim=True)
            else:
                await self._change(port, lba, block_count, fua=rng.random() < mix.fua)

    def _place(self, mix: Mix, rng: random.Random) -> tuple[int, int]:
        block_count = rng.randint(2, self._io_blocks_max) if rng.random() < mix.large else 1
        limit = HOT_BLOCKS if rng.random() < mix.hot else self._block_count
        block_count = min(block_count, limit)
        return rng.randrange(limit - block_count + 1), block_count

    # --- I/Os

    async def _change(
        self, port: BlockPort, lba: int, block_count: int, *, trim: bool = False, fua: bool = False
    ) -> None:
        busy = self._busy[lba : lba + block_count]
        if busy.any():
            await asyncio.sleep(0)
            return
        busy[:] = -1
        change = self._model.submit(lba, block_count, trim=trim)
        what = f"{'trim' if trim else 'write'} of {block_count} blocks"
        self._began()
        try:
            if trim:
                await port.deallocate(lba, block_count)
            else:
                await port.write(lba, self._content.make(lba, block_count, change).reshape(-1), fua=fua)
        except MediaError as error:
            self._failed(what, lba, error)
        else:
            self._answered()
            self._model.acknowledge(lba, block_count, change, durable=fua)
        finally:
            busy[:] = 0

    async def _read(self, port: BlockPort, lba: int, block_count: int) -> None:
        busy = self._busy[lba : lba + block_count]
        if (busy < 0).any():
            await asyncio.sleep(0)
            return
        busy += 1
        floors = self._model.floors(lba, block_count)
        self._began()
        try:
            data = await port.read(lba, block_count)
        except MediaError as error:
            self._failed(f"read of {block_count} blocks", lba, error, kind="read_error")
        else:
            self._answered()
            self._check(lba, floors, data)
        finally:
            busy -= 1

    def _check(self, lba: int, floors: list[int], data: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        versions = self._content.versions(lba, data)
        wrong = self._model.check_read(lba, floors, versions)
        for violation in wrong:
            detail = violation.detail
            if violation.kind == "garbage":
                detail += f": {self._content.describe(violation.lba, data[violation.lba - lba])}"
            self.violations.append(Violation(violation.kind, violation.lba, detail))
        self.blocks_verified += len(versions)

    async def flush(self, port: BlockPort) -> None:
        acknowledged = self._model.acknowledged()
        self._began()
        try:
            await port.flush()
        except MediaError as error:
            self._failed("flush", -1, error)
        else:
            self._answered()
            self.flushes += 1
            self._model.flushed(acknowledged)

    async def flush_all(self) -> None:
        """Flushes from every host. Everything acknowledged before is durable then, and every connection has worked."""
        await asyncio.gather(*(self.flush(port) for port in self._ports))

    async def verify(self, rng: random.Random) -> None:
        """Reads every block, each from some host, with nothing else outstanding."""
        lbas = iter(range(0, self._block_count, self._io_blocks_max))
        found: dict[int, list[int]] = {}

        async def reader() -> None:
            for lba in lbas:
                count = min(self._io_blocks_max, self._block_count - lba)
                floors = self._model.floors(lba, count)
                self._began()
                try:
                    data = await rng.choice(self._ports).read(lba, count)
                except MediaError as error:
                    self._failed(f"read of {count} blocks", lba, error, kind="read_error")
                    found[lba] = [READ_ERROR] * count
                    continue
                self._answered()
                self._check(lba, floors, data)
                found[lba] = self._content.versions(lba, data)

        await asyncio.gather(*(reader() for _ in range(VERIFY_DEPTH)))
        if not self.violations:
            # No read may return anything older from now on, so the model can forget it.
            self._model.restart([version for lba in sorted(found) for version in found[lba]], durable=False)

    # --- time

    def _began(self) -> None:
        self.ios += 1
        if self._outstanding == 0:
            self._answered_at = time.monotonic()
        self._outstanding += 1

    def _answered(self) -> None:
        self._outstanding -= 1
        self.longest_pause_s = max(self.longest_pause_s, self.pause_s)
        self._answered_at = time.monotonic()

    @property
    def waiting(self) -> int:
        """I/Os that are outstanding."""
        return self._outstanding

    @property
    def pause_s(self) -> float:
        """The time since the last answer."""
        return time.monotonic() - self._answered_at

    def _failed(self, what: str, lba: int, error: FtlError, kind: str = "io_error") -> None:
        self._answered()
        given_up = next((f" ({host.failure.message})" for host in self._hosts if host.failure is not None), "")
        self.violations.append(Violation(kind, lba, f"{what}: {error.message}{given_up}"))
