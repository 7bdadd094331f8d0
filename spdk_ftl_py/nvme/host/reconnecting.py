"""A host that reconnects. After a connection loss it connects again, and repeats the commands that had no answer, as
Linux and SPDK's bdev_nvme do."""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from uuid import UUID, uuid4

from ... import _shim
from ...errors import FtlError, NotFoundError, PathError
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks
from ..auth.key import HostKeys
from ..wire import CommandError, Status
from .controller import Controller
from .io_queues import IoQpair
from .namespaces import NamespaceInfo

KATO_MS: Final = 5_000
CONNECT_TIMEOUT_S: Final = 10.0
RECONNECT_DELAY_S: Final = 0.2
LOSS_TIMEOUT_S: Final = 600.0
"""As ctrl_loss_tmo in Linux."""

log = logging.getLogger(__name__)


class ReconnectingHost:
    """One namespace of one subsystem. ``device`` takes I/O (BlockPort, LoadGenerator, IoPort). Its users see lost
    connections only as pauses; errors are those that the controller itself returns.

    >>> host = await ReconnectingHost.connect(reactor, "127.0.0.1", 4420, nqn, hostnqn=hostnqn)
    >>> port = BlockPort(reactor, host.device, name="user")
    """

    def __init__(
        self, reactor: ReactorLoop, controller: Controller, namespace: NamespaceInfo, qpair: IoQpair,
        *, queue_depth: int, kato_ms: int, loss_timeout_s: float, reconnect_delay_s: float, keys: HostKeys | None,
    ) -> None:  # fmt: skip
        """Use connect()."""
        self.namespace = namespace
        self.device = _shim.Gate(reactor.shim, qpair)
        self.losses = 0
        """The number of connections lost so far."""
        self.connected = True
        self.failed = asyncio.Event()
        """The host has given up. I/O fails with a path error from now on, and ``failure`` has the reason."""
        self.failure: FtlError | None = None
        self._reactor = reactor
        self._controller = controller
        self._queue_depth = queue_depth
        self._kato_ms = kato_ms
        self._keys = keys
        self._loss_timeout_s = loss_timeout_s
        self._reconnect_delay_s = reconnect_delay_s
        self._closed = False
        self._task = asyncio.get_running_loop().create_task(self._stay(), name=f"host of {controller.subnqn}")

    @classmethod
    async def connect(
        cls,
        reactor: ReactorLoop,
        traddr: str,
        trsvcid: int | str,
        subnqn: str,
        *,
        hostnqn: str,
        hostid: UUID | None = None,
        nsid: int = 1,
        queue_depth: int = 128,
        kato_ms: int = KATO_MS,
        loss_timeout_s: float = LOSS_TIMEOUT_S,
        reconnect_delay_s: float = RECONNECT_DELAY_S,
        keys: HostKeys | None = None,
    ) -> ReconnectingHost:
        """Makes the first connection. Raises what Controller.connect() raises, and NotFoundError if the namespace does
        not exist; nothing is left behind then.

        loss_timeout_s: how long the host tries to reconnect. After that I/O fails, and the host does not try again.
        """
        controller = await Controller.connect(
            traddr, trsvcid, subnqn, hostnqn=hostnqn, hostid=hostid or uuid4(), kato_ms=kato_ms,
            timeout_s=CONNECT_TIMEOUT_S, keys=keys,
        )  # fmt: skip
        try:
            namespace = await _find(controller, nsid)
            qpair = await controller.create_io_qpair(reactor, namespace, queue_depth=queue_depth)
        except BaseException:
            await controller.close()
            raise
        return cls(
            reactor, controller, namespace, qpair, queue_depth=queue_depth, kato_ms=kato_ms,
            loss_timeout_s=loss_timeout_s, reconnect_delay_s=reconnect_delay_s, keys=keys,
        )  # fmt: skip

    async def close(self) -> None:
        """Closes the host. Outstanding I/O fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await end_tasks([self._task])
        self.device.fail(Status.HOST_ABORTED)
        await self._controller.close()
        self.connected = False

    async def _stay(self) -> None:
        while True:
            await self._controller.lost.wait()
            self.connected = False
            self.losses += 1
            self.device.hold()
            log.info("%s: connection lost: %s", self._controller.subnqn, self._controller.lost_reason)
            try:
                await self._return()
            except FtlError as error:
                log.error("%s: gave up: %s", self._controller.subnqn, error.message)
                self.failure = error
                self.device.fail(Status.PATH_ERROR)
                self.failed.set()
                return
            self.connected = True

    async def _return(self) -> None:
        """Connects until it succeeds. Raises the error of the last attempt after the time-out, and a permanent error at
        once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._loss_timeout_s
        while True:
            try:
                await self._connect_again()
                return
            except (FtlError, OSError) as error:
                final = (isinstance(error, CommandError) and error.do_not_retry) or isinstance(error, _OtherError)
                if final or loop.time() + self._reconnect_delay_s > deadline:
                    raise error if isinstance(error, FtlError) else PathError(str(error)) from error
            await asyncio.sleep(self._reconnect_delay_s)

    async def _connect_again(self) -> None:
        lost = self._controller
        await lost.close()
        controller = await Controller.connect(
            lost.traddr, lost.trsvcid, lost.subnqn, hostnqn=lost.hostnqn, hostid=lost.hostid, kato_ms=self._kato_ms,
            timeout_s=CONNECT_TIMEOUT_S, keys=self._keys,
        )  # fmt: skip
        try:
            namespace = await _find(controller, self.namespace.nsid)
            if _identity(namespace) != _identity(self.namespace):
                raise _OtherError(f"{lost.subnqn}: namespace {namespace.nsid} differs from the previous one")
            qpair = await controller.create_io_qpair(self._reactor, namespace, queue_depth=self._queue_depth)
            try:
                self.device.set_device(qpair)
            except ValueError as error:
                raise _OtherError(f"{lost.subnqn}: namespace {namespace.nsid}: {error}") from error
        except BaseException:
            await controller.close()
            raise
        self._controller = controller


class _OtherError(FtlError):
    """The namespace that came back is not the one that was lost."""


async def _find(controller: Controller, nsid: int) -> NamespaceInfo:
    for namespace in await controller.namespaces():
        if namespace.nsid == nsid:
            return namespace
    raise NotFoundError(f"{controller.subnqn} has no namespace {nsid}")


def _identity(namespace: NamespaceInfo) -> tuple[object, ...]:
    return namespace.nguid, namespace.eui64, namespace.uuid, namespace.block_count, namespace.block_bytes
