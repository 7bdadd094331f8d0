"""Executes the requests of an endpoint, one after the other: creates and closes the clients' controllers."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from ...errors import FtlError
from ...nvme.target.connected_hosts import HostKey
from ...nvme.target.subsystem import Subsystem
from ...nvme.target.traits import TargetLimits
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks, to_its_end
from .client_state import ClientState, Region
from .controller import Port, SharedController
from .queues import QueueMaker
from .registers import Registers, Step

log = logging.getLogger(__name__)


class EndpointPort(Port, Protocol):
    """The endpoint, in this process or in a keeper."""

    def done(self, ticket: int, error: int = 0) -> None: ...


class Serving:
    """The controllers of one endpoint, one at a time. Methods return at once; the work is done in their order."""

    def __init__(
        self,
        reactor: ReactorLoop,
        subsystem: Subsystem,
        limits: TargetLimits,
        *,
        host: HostKey,
        directory: Path,
        port: EndpointPort,
        maker: QueueMaker,
        on_change: Callable[[], object],
    ) -> None:
        """host: what clients count as. on_change: called when `connected` may have changed."""
        self.controller: SharedController | None = None
        self._reactor = reactor
        self._subsystem = subsystem
        self._limits = limits
        self._host = host
        self._directory = directory
        self._port = port
        self._maker = maker
        self._on_change = on_change
        self._closing = False
        self._work: asyncio.Queue[tuple[Coroutine[Any, Any, None], Callable[[], object]]] = asyncio.Queue()
        """With what is to be called if the work is given up before it begins."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"vfio-user endpoint {directory}")

    @property
    def connected(self) -> bool:
        return self.controller is not None and self.controller.enabled

    async def settled(self) -> None:
        """Returns when all requests until now are done."""
        done = asyncio.get_running_loop().create_future()

        async def tell() -> None:
            done.set_result(None)

        self._request(tell())
        await done

    async def close(self) -> None:
        """Finishes the request that has begun, and stops serving the client's queues. Its commands in flight stay
        recorded. Idempotent."""
        self._closing = True
        await end_tasks([self._task])
        while not self._work.empty():
            work, release = self._work.get_nowait()
            work.close()
            release()  # work that has not begun does not do that
        await self._end_controller()

    def _request(self, work: Coroutine[Any, Any, None], release: Callable[[], object] = lambda: None) -> None:
        self._work.put_nowait((work, release))

    async def _run(self) -> None:
        while True:
            work, _release = await self._work.get()
            await to_its_end(work)

    # --- the endpoint -----------------------------------------------------------------------------------------------

    def came(self, client: ClientState, *, release: Callable[[], object] = lambda: None) -> None:
        """A client has connected, or was taken over. release: called when `client` is not used any more."""
        self._request(self._begin(client, release), release)

    def map(self, ticket: int, region: Region, *, release: Callable[[], object] = lambda: None) -> None:
        self._request(self._map(ticket, region, release), release)

    def unmap(self, ticket: int, region: Region) -> None:
        self._request(self._unmap(ticket, region))

    def step(self, ticket: int, step: Step, registers: Registers) -> None:
        self._request(self._step(ticket, step, registers))

    def gone(self, ticket: int) -> None:
        self._request(self._gone(ticket))

    # --- the work ---------------------------------------------------------------------------------------------------

    async def _begin(self, client: ClientState, release: Callable[[], object]) -> None:
        try:
            controllers = self._subsystem.controllers
            known = client.note.get("cntlid")
            cntlid = known if isinstance(known, int) and known not in controllers else self._subsystem.allocate_cntlid()
            if cntlid is None:
                self._port.drop("the client was disconnected: the subsystem has no controller id left")
                return
            controller = SharedController(
                self._reactor, self._subsystem, self._limits, client=client, cntlid=cntlid, host=self._host,
                directory=self._directory, port=self._port, maker=self._maker, on_change=self._on_change,
                patient=lambda: not self._closing,
            )  # fmt: skip
            self.controller = controllers[cntlid] = controller
            try:
                await controller.go_on(client)
            except (FtlError, ValueError, OSError, KeyError, TypeError) as error:
                log.error("vfio-user client at %s can't go on: %s", self._directory, error)
                self._port.drop(f"the client was disconnected: it can't go on: {error}")
        finally:
            release()

    async def _map(self, ticket: int, region: Region, release: Callable[[], object]) -> None:
        failed = 0
        try:
            if self.controller is not None:
                await self.controller.map(region)
        except OSError as error:
            failed = error.errno or errno.EIO
        except ValueError:
            failed = errno.EINVAL
        finally:
            release()
        self._port.done(ticket, failed)

    async def _unmap(self, ticket: int, region: Region) -> None:
        if self.controller is not None:
            await self.controller.unmap(region)
        self._port.done(ticket)

    async def _step(self, ticket: int, step: Step, registers: Registers) -> None:
        controller, failed = self.controller, 0
        if controller is not None:
            try:
                if step is Step.ENABLE:
                    await controller.enable(registers)
                elif step is Step.DISABLE:
                    await controller.disable()
                else:
                    await controller.shut_down_in_order(registers)
            except (FtlError, ValueError, OSError) as error:
                log.warning("vfio-user client at %s: its controller failed: %s", self._directory, error)
                failed = errno.EIO
        self._port.done(ticket, failed)

    async def _gone(self, ticket: int) -> None:
        await self._end_controller()
        self._port.done(ticket)

    async def _end_controller(self) -> None:
        controller, self.controller = self.controller, None
        if controller is not None:
            await controller.end()
            self._subsystem.controllers.pop(controller.cntlid, None)
            if not self._subsystem.controllers:
                await self._subsystem.reservation_commands.close()
