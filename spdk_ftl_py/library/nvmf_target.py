"""Exports devices of a script over NVMe/TCP, from its own process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ..errors import NotFoundError, ParameterError
from ..nvme.target.listener import NvmfTarget as Listener
from ..nvme.target.subsystem import Subsystem
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import to_its_end
from .block_device import BlockDevice
from .closing import Closing
from .ftl_device import FtlDevice

NSID: Final = 1


@dataclass(frozen=True)
class Export:
    """The address of an exported device: ``nvme connect -t tcp -a TRADDR -s TRSVCID -n SUBNQN``."""

    subnqn: str
    traddr: str
    trsvcid: int
    nsid: int = NSID


class NvmfTarget(Closing):
    """Exports devices over NVMe/TCP until close(), or until ``async with`` is left. Discovery works at each port.

    Nothing is saved: the script defines each time who may connect, and where. Hosts with keys and TLS need `spdk-ftl
    serve`.
    """

    def __init__(self, reactor: ReactorLoop) -> None:
        """reactor: the one of the devices."""
        self._reactor = reactor
        self._target = Listener(reactor)
        self._exports: dict[str, Export] = {}

    async def export(
        self,
        device: BlockDevice,
        *,
        nqn: str,
        traddr: str = "127.0.0.1",
        trsvcid: int = 0,
        hosts: Iterable[str] = (),
        allow_any_host: bool = False,
        uuid: UUID | None = None,
    ) -> Export:
        """Lets hosts connect from now on. traddr: an IP address of this machine; "0.0.0.0" or "::" for all. trsvcid: a
        TCP port; 0: a free one. hosts: NQNs of hosts that may connect; nobody else may, unless allow_any_host. uuid: of
        the namespace; default that of an FTL, otherwise a random one.

        Raises ParameterError for an invalid NQN or address, or a device of another reactor; ExistsError if that NQN is
        already exported; PathError if it can't listen there. Then nothing is exported.
        """
        if device.reactor is not self._reactor:
            raise ParameterError(
                f"{device.name} is on another ReactorLoop than the target: create both with the same one"
            )
        if uuid is None and isinstance(device, FtlDevice):
            uuid = device.uuid
        subsystem = Subsystem(nqn, allow_any_host=allow_any_host)
        for host in hosts:
            subsystem.add_host(host)
        subsystem.add_namespace(device.device, nsid=NSID, uuid=uuid)
        port = await self._target.listen(traddr, trsvcid)
        try:
            subsystem.add_listener(traddr, port)
            self._target.add_subsystem(subsystem)
        except BaseException:
            await self._target.unlisten(traddr, port)
            raise
        export = self._exports[nqn] = Export(nqn, traddr, port)
        return export

    async def unexport(self, nqn: str) -> None:
        """Disconnects its hosts; none of their I/O is outstanding when this returns. Raises NotFoundError."""
        export = self._exports.pop(nqn, None)
        if export is None:
            raise NotFoundError(f"{nqn} is not exported; it has: {', '.join(self._exports) or 'none'}")
        try:
            await to_its_end(self._target.remove_subsystem(nqn))
        finally:
            await to_its_end(self._target.unlisten(export.traddr, export.trsvcid))

    async def close(self) -> None:
        """Disconnects all hosts. Idempotent; the devices stay."""
        self._exports.clear()
        await self._target.close()
