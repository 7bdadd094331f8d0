"""The product's path of an I/O, as PDUs: host → its gate → HostQpair → TargetQpair → the daemon's gate → core →
HostQpair → TargetQpair → drive. Connections are lost now and then. The host reconnects by itself."""

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
from .fronts import Fronts

HOST_IO_BYTES: Final = (65536, 131072, 262144)
HOST_AWAY_S: Final = (0.001, 0.005, 0.05)
"""The simulated time from the loss of the host's connection to the next connection."""
LOSSES: Final = (0, 0, 1, 1, 2, 4)
"""The number of losses in one life."""
LOSS_OPERATIONS_MAX: Final = 600
HARD_LOSSES: Final = 0.5


class Loss(enum.Enum):
    """What is lost. A loss costs a host only time, and no write that was acknowledged."""

    HOST = "host"
    """The host's connection, with I/O in flight. The host reconnects, and repeats the commands that had no answer."""
    BASE = "base"
    """The connections to base and cache."""
    POWER = "power"
    """The connections to base and cache, and the volatile caches of the drives: a target that died while the daemon
    lives on."""
    DRIVE = "drive"
    """The drives lose power, and the target reports that."""
    CACHE = "cache"
    """The connection to the nv cache only. The FTL continues without the cache."""
    BIT = "bit"
    """One bit in flight on a connection with digests. A command is repeated, or the connection ends."""

    @classmethod
    def choose(cls, rng: random.Random, *, cache: bool) -> Loss:
        return rng.choices(list(cls), (5, 3, 2, 1, 1 if cache else 0, 5))[0]


class Chain:
    """The connections of one daemon. Call connect() and serve(); each time the base is lost, hang_up(), connect() and
    reopen(); and at the daemon's end kill(). After that another daemon may follow. pump() must be called once for each
    step of the reactor."""

    def __init__(self, reactor: ReactorLoop, rng: random.Random, fronts: Fronts) -> None:
        self._reactor = reactor
        self._fronts = fronts
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._host_io_bytes = rng.choice(HOST_IO_BYTES)
        self._base: Connection | None = None
        self._cache: Connection | None = None
        self._host: Connection | None = None
        self._gate: _shim.Gate | None = None
        """The daemon's gate."""
        self._places: list[tuple[ReactorLoop, _shim.BlockDevice]] = []
        """The daemon's gate on each reactor that serves hosts."""
        self._host_gate: _shim.Gate | None = None
        self._host_returns_at_s: float | None = None
        self._dying: list[Connection] = []
        self._quiet = asyncio.Event()
        """Set while no lost connection has commands in progress."""
        self._quiet.set()
        self._due: list[tuple[int, Loss]] = []
        self._host_bits = 0

    # --- the daemon and its drives

    def connect(
        self, media: _shim.BlockDevice, cache: _shim.BlockDevice | None
    ) -> tuple[_shim.BlockDevice, _shim.BlockDevice | None]:
        """Connects the daemon. Returns base and nv cache as the daemon sees them. Earlier connections are closed
        first."""
        self.hang_up()
        self._base = self._connected(media, media.max_io_blocks * media.block_bytes)
        if cache is not None:
            self._cache = self._connected(cache, cache.max_io_blocks * cache.block_bytes)
        return self._base.device, None if self._cache is None else self._cache.device

    def _connected(self, device: _shim.BlockDevice, max_io_bytes: int) -> Connection:
        return Connection(self._reactor, device, Terms.choose(self._rng), max_io_bytes=max_io_bytes)

    def _host_connected(self) -> Connection:
        reactor, device = self._fronts.choose(self._places)
        return Connection(
            reactor, device, Terms.choose(self._rng), max_io_bytes=self._host_io_bytes, client=self.client
        )

    @property
    def base_lost(self) -> bool:
        return self._base is None or self._base.lost

    def hang_up(self) -> None:
        """Closes the connections to base and cache. Idempotent."""
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
        """No command of a lost connection is in progress any more."""
        return self._quiet.is_set()

    async def land(self) -> None:
        """Waits until landed is true."""
        await self._quiet.wait()

    # --- the host

    @property
    def client(self) -> ReactorLoop:
        """The host's reactor."""
        return self._fronts.client(self._reactor)

    def serve(self, core: _shim.BlockDevice, buffer_blocks: int) -> _shim.BlockDevice:
        """Returns the device that a host sees, when a daemon has just loaded that core. It is on the client's reactor.
        buffer_blocks: of the core's write buffer."""
        assert self._host is None
        self._host_bits = 0
        self._gate = _shim.Gate(self._reactor.shim, core)
        self._places = self._fronts.cross(self._reactor, self._gate, buffer_blocks)
        self._host = self._host_connected()
        self._host_gate = _shim.Gate(self.client.shim, self._host.device)
        return self._host_gate

    def hold(self) -> None:
        """The core is lost: holds I/O from now on."""
        if self._gate is not None:
            self._gate.hold()

    def reopen(self, core: _shim.BlockDevice) -> None:
        """Continues I/O, on the next core."""
        assert self._gate is not None
        self._gate.set_device(core)

    @property
    def host_bits(self) -> int:
        """Bits that were flipped on the host's connections since serve(). At most that many commands may have a wrong
        digest."""
        return self._host_bits

    def leave(self) -> None:
        """The host does not reconnect. Its commands without an answer fail. Idempotent."""
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
        """The host has lost its connection, and reconnects some time later."""
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
        self._host = self._host_connected()
        self._host_gate.set_device(self._host.device)

    # --- losses

    def plan(self, operations: int, *, cache: bool) -> None:
        """Plans the losses of a life. operations: the drive's I/O count at its beginning. cache: the cache's connection
        alone may be lost, too."""
        cache = cache and self._cache is not None
        self._due = sorted(
            (
                (operations + random_operations(self._rng, LOSS_OPERATIONS_MAX), Loss.choose(self._rng, cache=cache))
                for _ in range(self._rng.choice(LOSSES))
            ),
            key=lambda due: due[0],
        )

    def calm_down(self) -> None:
        """Cancels the remaining losses of this life."""
        self._due = []

    def lose(self, operations: int) -> Loss | None:
        """Causes the next planned loss if it is due. Returns the loss. For a loss of power, the caller must cut the
        power."""
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
                # Nothing is in flight at the moment: try again later.
                self._due.insert(0, (at, loss))
                return None
        return loss

    def pump(self) -> list[str]:
        """Returns the names of connections that were lost although nothing disturbed them. Each is reported once."""
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
        # A front may stand still with commands of the lost connection that it has not read yet. If they were executed
        # after those of the next connection, they would undo these.
        may_return = self.landed or not self._fronts
        if self._host_returns_at_s is not None and self._loop.time() >= self._host_returns_at_s and may_return:
            self._return_host()
        return lost

    # --- the end

    @property
    def is_alive(self) -> bool:
        """There is a daemon to serve hosts."""
        return self._gate is not None

    def kill(self, *, target_too: bool) -> None:
        """The daemon and its host are gone. target_too: everything in flight to the target is lost as well.
        Idempotent."""
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
        self._places = []
