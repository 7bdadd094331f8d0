"""The part of an FTL that hosts see: its reactor, its exports by NVMe/TCP and NBD, and the gate that holds their I/O
while the base is away. It lives as long as the device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from .. import _shim
from ..errors import BusyError, FtlError
from ..ftl.media.blockdev import BlockPort
from ..nvme.logs import Smart
from ..nvme.target.allowed_hosts import AllowedHosts
from ..nvme.target.connected_hosts import ConnectedHosts, HostKey
from ..nvme.target.connection_log import ConnectionLog
from ..nvme.target.discovery import Catalog
from ..nvme.target.peers import PeerLimits
from ..nvme.target.reservations import Reservations
from ..nvme.target.subsystem import Subsystem
from ..nvme.wire import Status
from ..runtime.pulse import beat
from ..runtime.reactor import ReactorLoop
from ..runtime.reactors import Reactors
from ..runtime.tasks import end_tasks
from ..runtime.waiting import until
from ..spdk.attach import export_nguid
from ..spdk.exports import EXPORT_MODEL
from . import host_io
from .export_sockets import ExportSockets
from .listeners import Listeners
from .nbd_export import FtlNbd
from .tcp_export import TcpExport
from .transports import Choice
from .vfio_user_export import Listener, VfioUserExport

EXPORT_NSID: Final = 1
EMPTY_POLL_S: Final = 0.005
HEALTH_LOOK_S: Final = 5.0
TRIM_BLOCKS: Final = 1 << 18
"""Blocks in one trim of the daemon itself. Larger trims would make hosts wait."""
_SERIAL_NUMBER_MAX: Final = 20
LEASES_MAX: Final = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """Where NVMe/TCP hosts find the FTL."""

    nqn: str
    traddr: str
    trsvcid: int
    """0: no TCP port is open."""
    nsid: int = EXPORT_NSID


class Front:
    """Call start(), tcp.listen() and prepare_endpoint() for those that are wanted, and open(); then close_export() and
    stop() for whatever was done.

    A target that starts from a saved configuration attaches the FTL before it exports the base, and answers nothing
    until those who examine the new bdev have read from it. If the gate held these reads, they would wait for the base,
    and the base for them. So I/O of a target that connects while the base is away fails at once.
    """

    def __init__(
        self,
        name: str,
        device: UUID,
        nqn: str,
        connections: ConnectionLog,
        *,
        peers: PeerLimits | None = None,
        is_own: Callable[[str], bool] = lambda hostnqn: False,
        sockets: ExportSockets | None = None,
        catalog: Catalog | None = None,
        listeners: Listeners,
        address: tuple[str, int],
        choice: Choice,
        make_listener: Callable[[ReactorLoop, Subsystem, Path], Listener],
        reactors: Reactors,
        hold_s: float,
    ) -> None:
        """nqn: of the export. peers: limits on what one host may use. is_own: whether a host NQN is the one of the SPDK
        target itself; no limit keeps the target out. sockets: those that are kept between daemons. catalog: of the
        discovery service. listeners: besides the first one, and the states of all. address: where a TCP port is
        opened later. choice: of the target's transport. make_listener: for vfio-user. reactors: those of the daemon.
        hold_s: as by_tcp() takes it."""
        self.name = name
        self.gate: _shim.Gate | None = None
        self.came_early = False
        """The target connected while the base was away, so its reads failed. For whoever attaches the FTL to handle."""
        self.nbd = FtlNbd(lambda: self.reactor)
        self.tcp = TcpExport(
            name, lambda: self.reactor, device, nqn, connections, peers=peers, is_own=is_own, sockets=sockets,
            catalog=catalog, listeners=listeners, hold_s=hold_s,
        )  # fmt: skip
        self._shared: VfioUserExport | None = None
        self._address = address
        self._choice = choice
        self._make_listener = make_listener
        self._device = device
        self._nqn = nqn
        self._is_own = is_own
        self._is_open = self._closed = False
        self._subsystem: Subsystem | None = None
        self._health_depends_on: Callable[[], object] = lambda: None
        self._refusing: dict[ReactorLoop, _shim.Gate] = {}
        self._targets: set[bytes] = set()
        """Host identifiers of the target that were connected while the base was there. Each process of a target has its
        own."""
        self._reactors = reactors
        self._reactor: ReactorLoop | None = None
        """Shared with other FTLs."""
        self._more: list[ReactorLoop] = []
        """Further ones, for hosts' queues."""
        self._crossings: dict[ReactorLoop, _shim.Crossing] = {}
        """The gate on these."""
        self._started = False
        self._own: set[asyncio.Task[None]] = set()
        """I/O of the daemon itself on the reactor."""

    @property
    def reactor(self) -> ReactorLoop:
        """After start()."""
        assert self._reactor is not None
        return self._reactor

    async def start(self) -> None:
        """Idempotent."""
        if not self._started:
            self._started = True
            self._reactor = await self._reactors.take()

    @property
    def transport(self) -> TcpExport | VfioUserExport:
        """How the target reaches the FTL."""
        return self.tcp if self._shared is None else self._shared

    async def spread(self, cores: int) -> None:
        """Has hosts' queues served on so many reactors, if the daemon has them. After start(), before open();
        idempotent."""
        if self._more or self.gate is not None:
            return
        if cores > self._reactors.most:
            log.warning(
                "%s: conf cores is %d, but the daemon has %d reactors (serve --reactors): it uses those",
                self.name, cores, self._reactors.most,
            )  # fmt: skip
        self._more = await self._reactors.take_more(self.reactor, min(cores, self._reactors.most) - 1)

    @property
    def cores(self) -> int:
        """Reactors in use."""
        return 1 + len(self._more)

    def places(self) -> list[tuple[ReactorLoop, _shim.BlockDevice]]:
        """The device for hosts on each of the reactors. After open()."""
        assert self.gate is not None
        return [(self.reactor, self.gate), *self._crossings.items()]

    def prepare_endpoint(self) -> None:
        """If the target is to use vfio-user: makes the endpoint's directory, before the FTL is made. Idempotent. Raises
        FtlError."""
        if self._choice.by_vfio_user and self._shared is None:
            assert self._choice.folder is not None
            shared = VfioUserExport(
                lambda: self.reactor, self._choice.folder, self._nqn, self._make_listener, self._client_changed
            )
            shared.prepare()
            self._shared = shared

    async def open(
        self, core: _shim.BlockDevice, *, max_io_qpairs: int, allowed: AllowedHosts, hosts: ConnectedHosts,
        secure_channel: bool, reservations: Reservations, buffer_blocks: int = 0,
    ) -> None:  # fmt: skip
        """Admits hosts that are allowed, and records them in `hosts`. secure_channel: only with TLS. buffer_blocks: of
        the core's write buffer, of which cores besides the first get a quarter ahead. Raises FtlError."""
        self.gate = _shim.Gate(self.reactor.shim, core, accounts=True)
        for reactor in (self.reactor, *self._more):
            self._refusing[reactor] = refusing = _shim.Gate(reactor.shim, core)
            # Hosts retry after a path error.
            refusing.fail(Status.INVALID_NAMESPACE)
        leases = min(LEASES_MAX, buffer_blocks // (4 * max(1, len(self._more))))
        for reactor in self._more:
            self._crossings[reactor] = _shim.Crossing(reactor.shim, self.reactor.shim, self.gate, leases=leases)
        subsystem = Subsystem(
            self._nqn,
            serial_number=self._device.hex[:_SERIAL_NUMBER_MAX],
            model_number=EXPORT_MODEL,
            allowed=allowed,
            max_io_qpairs=max_io_qpairs,
            ana=True,
        )
        subsystem.add_namespace(
            self.gate, nsid=EXPORT_NSID, uuid=self._device, nguid=export_nguid(self._device).bytes,
            reservations=reservations, elsewhere=self._crossings,
        )  # fmt: skip
        subsystem.connected_hosts = hosts
        self._targets = {host.hostid for host in hosts.known if self._is_own(host.hostnqn)}
        subsystem.stand_in = self._stand_in
        # bdev_passthru claims to take what its base takes, but fails fused commands. If there are none, SPDK compares
        # and writes under a lock of its own.
        subsystem.hides_fused = self._is_own
        self.tcp.secure_channel = secure_channel
        self._subsystem = subsystem
        await self.tcp.open(subsystem, self._more)
        if self._shared is not None:
            try:
                await self._shared.open(subsystem)
            except FtlError as error:
                if not self.may_fall_back:
                    raise
                log.warning("%s: vfio-user is impossible, so the target uses NVMe/TCP: %s", self.name, error)
                await self.fall_back()
        self._is_open = True

    @property
    def may_fall_back(self) -> bool:
        """The target may use NVMe/TCP if it can't use vfio-user."""
        return self._choice.may_fall_back

    async def fall_back(self) -> None:
        """The target can't use vfio-user: from now on it has to use NVMe/TCP. Raises PathError."""
        await self.listen_for_hosts()
        shared, self._shared = self._shared, None
        self._choice.fall_back()
        if shared is not None:
            await shared.close(keep=False)

    async def listen_for_hosts(self, address: tuple[str, int] | None = None) -> None:
        """An FTL without a TCP port gets one. Idempotent. Raises PathError, or BusyError if the export has ended
        meanwhile."""
        await self.tcp.listen(address or self._address, 0)
        if self._closed:
            await self.tcp.close(keep=False)
            raise BusyError(f"{self.name}: its export has ended: nothing was changed")
        if self._subsystem is not None:
            await self.tcp.open(self._subsystem, self._more)

    @property
    def export(self) -> Export | None:
        """None before open()."""
        if not self._is_open:
            return None
        return Export(self._nqn, *(self.tcp.address or ("", 0)))

    def set_health(self, smart: Callable[[], Smart], depends_on: Callable[[], object]) -> None:
        """What hosts read in the SMART log; its warnings change only with the other value. After open()."""
        assert self._subsystem is not None
        self._subsystem.smart = smart
        self._health_depends_on = depends_on

    async def watch_health(self) -> None:
        """Notifies hosts when the health gets worse, until it is cancelled."""
        while True:
            seen = self._health_depends_on()
            if self._subsystem is not None:
                self._subsystem.check_health()
            await beat(HEALTH_LOOK_S, idle=partial(self._is_healthy_as, seen))

    def _is_healthy_as(self, seen: object) -> bool:
        return self._health_depends_on() == seen

    def set_core(self, core: _shim.BlockDevice) -> None:
        """Continues host I/O with a new life of the same FTL. If it has grown, hosts are notified. Raises FtlError if
        it differs from what hosts know, or is smaller."""
        assert self.gate is not None
        try:
            self.gate.set_device(core)
        except ValueError as error:
            raise FtlError(f"the FTL that came back is not the one that hosts know: {error}") from error
        if self._subsystem is not None:
            self._subsystem.namespace_resized(EXPORT_NSID)
        if self.came_early and self._subsystem is not None:
            self._subsystem.stand_in_changed()

    def _stand_in(self, host: HostKey, reactor: ReactorLoop) -> _shim.BlockDevice | None:
        if self.gate is None or not self._is_own(host.hostnqn):
            return None
        if self.gate.state == "open":
            self._targets.add(host.hostid)
        elif host.hostid not in self._targets:
            self.came_early = True
            return self._refusing[reactor]
        return None

    def _client_changed(self) -> None:
        """Every client of the endpoint has the same name. The next one may be another process of the target, which
        can't wait for a base that it has yet to export."""
        if self._shared is not None and not self._shared.alive:
            self._targets.discard(self._device.bytes)

    def hold(self) -> None:
        """Holds I/O from now on."""
        if self.gate is not None:
            self.gate.hold()

    async def emptied(self, timeout_s: float) -> bool:
        """Whether, after hold(), all I/O that had passed the gate completed within that time."""
        gate = self.gate
        assert gate is not None
        # Data of writes that are held since then may be in the core's memory, which stays until they are written.
        return await until(gate.emptied, timeout_s=timeout_s, poll_s=EMPTY_POLL_S)

    def fail(self) -> None:
        """Fails I/O from now on, until there is another core."""
        if self.gate is not None:
            self.gate.fail(Status.PATH_ERROR)

    @property
    def serving(self) -> bool:
        """I/O goes to a core."""
        return self.gate is not None and self.gate.state == "open"

    def host_io(self) -> dict[str, Any]:
        """For bdev_ftl_get_stats. Empty before open()."""
        if self.gate is None:
            return {}
        shim = self.reactor.shim
        return {
            **host_io.describe(self.gate.account()),
            "reactor": {"busy_us": shim.busy_ns // 1000, "idle_us": shim.idle_ns // 1000},
        }

    async def disconnect_hosts(self) -> None:
        """Disconnects these hosts, of which unflushed writes may be lost. They may reconnect at once. A client of NBD
        has no identity by which it could be told when it reconnects, so the NBD export ends."""
        await self.nbd.end("the FTL was loaded again, and writes that were not flushed may be lost")
        if self._subsystem is not None:
            await self._subsystem.renew_queues()

    async def disconnect_disallowed(self) -> None:
        """Disconnects hosts that are no longer allowed. When this returns, none of their I/O is outstanding."""
        if self._subsystem is not None:
            await self._subsystem.disconnect_disallowed()

    @property
    def present(self) -> set[HostKey]:
        """Hosts that have an association, and are authenticated if they have to be."""
        controllers = [] if self._subsystem is None else self._subsystem.controllers.values()
        return {each.host for each in controllers if each.authenticated}

    def controllers(self) -> list[dict[str, Any]]:
        """Each association, as TargetController.describe() tells it."""
        return [] if self._subsystem is None else [each.describe() for each in self._subsystem.controllers.values()]

    async def close_export(self, *, keep: bool = False) -> None:
        """Hosts are disconnected. Idempotent. keep: what is in the target stays for the next daemon, and so does the
        endpoint of vfio-user."""
        self._closed = True
        try:
            await self.nbd.end("the FTL is being halted")
        finally:
            try:
                # First, so that no client of the next daemon is disconnected.
                if self._shared is not None:
                    await self._shared.close(keep=keep)
            finally:
                await self.tcp.close(keep=keep)

    async def stop(self) -> None:
        """Call it after close_export(), when no I/O is left on the reactor. Idempotent."""
        # I/O held at the gate would otherwise be held for ever.
        self.fail()
        await end_tasks(self._own)
        if self._started:
            self._started = False
            self._crossings.clear()
            self._refusing.clear()
            for reactor in (*self._more, self.reactor):
                await self._reactors.give_back(reactor)
            self._more = []

    # --- I/O of the daemon's own

    async def run_own(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs to its end even if the waiting caller is cancelled; ended before the reactor stops."""
        task = asyncio.ensure_future(work)
        self._own.add(task)
        task.add_done_callback(self._own_ended)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise BusyError(f"{self.name} is being taken apart: the I/O was not done") from None
            raise

    def _own_ended(self, task: asyncio.Task[None]) -> None:
        self._own.discard(task)
        # The requester may have disconnected.
        if not task.cancelled():
            task.exception()

    async def trim(self, lba: int, block_count: int) -> None:
        """Trims like a host's Dataset Management with a Flush after it. Held while the base is away; durable when it
        returns. Raises MediaError; then part of it may be trimmed."""
        gate = self.gate
        assert gate is not None
        port = BlockPort(self.reactor, gate, name=self.name, patience_s=0)
        try:
            for first in range(lba, lba + block_count, TRIM_BLOCKS):
                await port.deallocate(first, min(TRIM_BLOCKS, lba + block_count - first))
            await port.flush()
        finally:
            await port.close()

    def set_io_channels(self, most: int) -> None:
        """The sum of the hosts' queues; applies to hosts that connect from now on."""
        if self._subsystem is not None:
            self._subsystem.max_io_qpairs = most
