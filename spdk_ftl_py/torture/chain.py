"""The product's way of an I/O, as PDUs: host → its gate → HostQpair → TargetQpair → the daemon's gate → core →
HostQpair → TargetQpair → drive. Connections are lost now and then; those of the host come back by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from typing import Final

from .. import _shim
from ..nvme.wire import Status
from ..runtime.reactor import ReactorLoop
from .connection import Connection, Terms
from .crash import random_operations

HOST_IO_BYTES: Final = (65536, 131072, 262144)
HOST_AWAY_S: Final = (0.001, 0.005, 0.05)
"""Simulated, from the loss of its connection to the next one."""
LOSSES: Final = (0, 0, 1, 1, 2, 4)
"""In one life."""
LOSS_OPERATIONS_MAX: Final = 600
HARD_LOSSES: Final = 0.5


class Loss(enum.Enum):
    """None of them costs a host anything but time, nor what it had an answer for."""

    HOST = "host"
    """Its connection, with I/O in flight: it comes back, and repeats what had no answer."""
    BASE = "base"
    """The connections to base and cache."""
    POWER = "power"
    """The same, and with them what the drives' volatile caches hold: a target that died, while the daemon lives on."""
    DRIVE = "drive"
    """The drives lose power, and the target tells."""
    CACHE = "cache"
    """The connection to the nv cache alone: the FTL goes on without it."""
    BIT = "bit"
    """One, of what is on its way by a connection with digests: a command is repeated, or the connection ends."""

    @classmethod
    def choose(cls, rng: random.Random, *, cache: bool) -> Loss:
        return rng.choices(list(cls), (5, 3, 2, 1, 1 if cache else 0, 5))[0]


class Chain:
    """Of one daemon: connect(), serve(); then, as often as the base is lost, hang_up(), connect() and reopen(); at its
    end kill(). Another daemon may follow. pump() is called once for each step of the reactor."""

    def __init__(self, reactor: ReactorLoop, rng: random.Random) -> None:
        self._reactor = reactor
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._host_io_bytes = rng.choice(HOST_IO_BYTES)
        self._base: Connection | None = None
        self._cache: Connection | None = None
        self._host: Connection | None = None
        self._gate: _shim.Gate | None = None
        """The daemon's."""
        self._host_gate: _shim.Gate | None = None
        self._host_returns_at_s: float | None = None
        self._dying: list[Connection] = []
        self._quiet = asyncio.Event()
        """None are dying."""
        self._quiet.set()
        self._due: list[tuple[int, Loss]] = []
        self._host_bits = 0

    # --- the daemon and its drives

    def connect(
        self, media: _shim.BlockDevice, cache: _shim.BlockDevice | None
    ) -> tuple[_shim.BlockDevice, _shim.BlockDevice | None]:
        """Base and nv cache, as the daemon has them. What it had before is hung up."""
        self.hang_up()
        self._base = self._connected(media, media.max_io_blocks * media.block_bytes)
        if cache is not None:
            self._cache = self._connected(cache, cache.max_io_blocks * cache.block_bytes)
        return self._base.device, None if self._cache is None else self._cache.device

    def _connected(self, device: _shim.BlockDevice, max_io_bytes: int) -> Connection:
        return Connection(self._reactor, device, Terms.choose(self._rng), max_io_bytes=max_io_bytes)

    @property
    def base_lost(self) -> bool:
        return self._base is None or self._base.lost

    def hang_up(self) -> None:
        """Base and cache. Idempotent."""
        for each in (self._base, self._cache):
            if each is not None:
                each.hang_up()
                self._bury(each)
        self._base = self._cache = None

    def _bury(self, connection: Connection) -> None:
        self._dying.append(connection)
        self._quiet.clear()

    @property
    def landed(self) -> bool:
        """Nothing is under way any more that came by a connection that is lost."""
        return self._quiet.is_set()

    async def land(self) -> None:
        """Returns when it has landed()."""
        await self._quiet.wait()

    # --- the host

    def serve(self, core: _shim.BlockDevice) -> _shim.BlockDevice:
        """What a host has of a daemon that has just loaded that core."""
        assert self._host is None
        self._host_bits = 0
        self._gate = _shim.Gate(self._reactor.shim, core)
        self._host = self._connected(self._gate, self._host_io_bytes)
        self._host_gate = _shim.Gate(self._reactor.shim, self._host.device)
        return self._host_gate

    def hold(self) -> None:
        """I/O waits from now on: the core is lost."""
        if self._gate is not None:
            self._gate.hold()

    def reopen(self, core: _shim.BlockDevice) -> None:
        """I/O goes on, at the next core."""
        assert self._gate is not None
        self._gate.set_device(core)

    @property
    def host_bits(self) -> int:
        """Flipped on the way to the host or from it, since serve(): of so many commands a digest may be wrong."""
        return self._host_bits

    def leave(self) -> None:
        """The host does not come back; what it has no answer for fails. Idempotent."""
        if self._host_gate is not None:
            self._host_gate.fail(Status.HOST_ABORTED)
        if self._host is not None:
            self._lose_host()
        self._host_returns_at_s = None

    def _lose_host(self) -> None:
        assert self._host is not None
        self._host.drop(hard=self._rng.random() < HARD_LOSSES)
        self._give_host_up()

    def _give_host_up(self) -> None:
        """It has lost its connection, and makes another one a while later."""
        assert self._host is not None
        assert self._host_gate is not None
        self._host_gate.hold()
        self._bury(self._host)
        self._host = None
        self._host_returns_at_s = self._loop.time() + self._rng.choice(HOST_AWAY_S)

    def _return_host(self) -> None:
        assert self._gate is not None
        assert self._host_gate is not None
        self._host_returns_at_s = None
        self._host = self._connected(self._gate, self._host_io_bytes)
        self._host_gate.set_device(self._host.device)

    # --- what happens

    def plan(self, operations: int, *, cache: bool) -> None:
        """Losses of a life that begins at that count of the drive's I/Os. cache: its connection may be lost alone."""
        cache = cache and self._cache is not None
        self._due = sorted(
            (
                (operations + random_operations(self._rng, LOSS_OPERATIONS_MAX), Loss.choose(self._rng, cache=cache))
                for _ in range(self._rng.choice(LOSSES))
            ),
            key=lambda due: due[0],
        )

    def calm_down(self) -> None:
        """Nothing more is lost in this life."""
        self._due = []

    def lose(self, operations: int) -> Loss | None:
        """What is lost now, of what was planned. Power is for the caller to cut."""
        if not self._due or operations < self._due[0][0]:
            return None
        at, loss = self._due.pop(0)
        hard = self._rng.random() < HARD_LOSSES
        if loss is Loss.HOST:
            if self._host is None:
                return None
            self._lose_host()
        elif loss in (Loss.BASE, Loss.POWER):
            if self._base is None or self._base.lost:
                return None
            for each in (self._base, self._cache):
                if each is not None:
                    each.drop(hard=hard or loss is Loss.POWER)
        elif loss is Loss.CACHE:
            if self._cache is None or self._cache.lost:
                return None
            self._cache.drop(hard=hard)
        elif loss is Loss.BIT:
            covered = [
                each for each in (self._host, self._base) if each is not None and each.is_covered and not each.lost
            ]
            if not covered:
                return None
            chosen = self._rng.choice(covered)
            if chosen.flip(self._rng):
                self._host_bits += chosen is self._host
            else:
                # There is nothing on its way at the moment.
                self._due.insert(0, (at, loss))
                return None
        return loss

    def pump(self) -> list[str]:
        """Whose connections are lost, though nothing was done to them; each is told once."""
        lost = []
        for name, each in (("host", self._host), ("base", self._base), ("nv cache", self._cache)):
            if each is not None and each.lost and not each.harmed:
                each.harmed = True
                lost.append(name)
        if self._host is not None and self._host.lost:
            self._give_host_up()
        if self._dying:
            for each in [each for each in self._dying if each.landed]:
                self._dying.remove(each)
                each.close()
            if not self._dying:
                self._quiet.set()
            if self._gate is not None:
                self._gate.sweep()
        if self._host_returns_at_s is not None and self._loop.time() >= self._host_returns_at_s:
            self._return_host()
        return lost

    # --- the end

    @property
    def is_alive(self) -> bool:
        """There is a host to serve."""
        return self._gate is not None

    def kill(self, *, target_too: bool) -> None:
        """The daemon and its host are gone; target_too: and with it what was on its way there. Idempotent."""
        self.calm_down()
        self.leave()
        if self._gate is not None:
            self._gate.fail(Status.PATH_ERROR)
        if target_too:
            for each in (self._base, self._cache):
                if each is not None:
                    with contextlib.suppress(OSError):
                        each.drop(hard=True)
        self.hang_up()
        self._gate = self._host_gate = None
