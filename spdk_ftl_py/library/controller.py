"""I/O to an export over NVMe/TCP: of a daemon, an SPDK target, Linux, or another script."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import UUID

from ..errors import NotFoundError
from ..nvme.host.controller import Controller as HostController
from ..nvme.host.io_queues import IoQpair
from ..nvme.host.namespaces import NamespaceInfo
from ..nvme.target.allowed_hosts import usable_keys, usable_psk
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import to_its_end
from .block_device import BlockDevice
from .closing import Closing

if TYPE_CHECKING:
    from ..rpcs.parameters import StrPath


class Namespace(BlockDevice):
    """A namespace of a controller, through an I/O queue of its own. Made by Controller.open_namespace().

    If the connection is lost, every I/O fails with MediaError or PathError: connect again.
    """

    def __init__(self, controller: HostController, reactor: ReactorLoop, info: NamespaceInfo, qpair: IoQpair) -> None:
        """For this package."""
        super().__init__(reactor, qpair, name=f"{controller.subnqn} namespace {info.nsid}")
        self.info = info
        self._controller = controller
        self._qpair = qpair

    async def close(self) -> None:
        """Waits for I/O of this object, and closes its queue. Idempotent, and final."""
        try:
            await super().close()
        finally:
            await to_its_end(self._controller.close_io_qpair(self._qpair))


class Controller(Closing):
    """A connection to an NVMe/TCP controller as a host. Make it with connect(); end it with close() or by leaving
    ``async with``."""

    def __init__(self, controller: HostController) -> None:
        """For this package: use connect()."""
        self._controller = controller

    @classmethod
    async def connect(
        cls,
        traddr: str,
        trsvcid: int | str,
        subnqn: str,
        *,
        hostnqn: str,
        hostid: UUID | None = None,
        header_digest: bool = False,
        data_digest: bool = False,
        timeout_s: float = 10.0,
        dhchap_key: StrPath | None = None,
        dhchap_ctrlr_key: StrPath | None = None,
        psk: StrPath | None = None,
    ) -> Controller:
        """traddr, trsvcid, subnqn: as in ``export`` of Device. hostnqn: the NQN of this host, which the other side must
        allow. hostid: a random one if it is not given. timeout_s: for the connection, then for each admin command.
        dhchap_key, dhchap_ctrlr_key, psk: files with keys, as in bdev_ftl_add_host.

        Raises ParameterError for an invalid NQN, port or key; PathError if nobody answers in time; NvmeStatusError if
        the controller refuses (1/84h: it does not allow that host); AuthenticationError; ProtocolError if the peer does
        not speak NVMe/TCP. Then nothing is left.
        """
        return cls(
            await HostController.connect(
                traddr,
                trsvcid,
                subnqn,
                hostnqn=hostnqn,
                hostid=hostid,
                header_digest=header_digest,
                data_digest=data_digest,
                timeout_s=timeout_s,
                keys=usable_keys(_text(dhchap_key), _text(dhchap_ctrlr_key)),
                psk=usable_psk(_text(psk)),
            )
        )

    @property
    def subnqn(self) -> str:
        return self._controller.subnqn

    @property
    def model(self) -> str:
        return self._controller.model

    @property
    def serial(self) -> str:
        return self._controller.serial

    @property
    def is_lost(self) -> bool:
        """The connection is gone: connect again."""
        return self._controller.lost.is_set()

    async def namespaces(self) -> list[NamespaceInfo]:
        """Every active namespace. Raises NvmeStatusError, PathError, ProtocolError."""
        return await self._controller.namespaces()

    async def open_namespace(self, reactor: ReactorLoop, nsid: int = 1, *, queue_depth: int = 128) -> Namespace:
        """Opens an I/O queue to a namespace. The reactor drives it, and must run until the queue is closed. queue_depth
        is limited to what the controller supports.

        Raises NotFoundError if there is no such namespace, NvmeStatusError if the controller grants no queue,
        UnsupportedError for separate metadata, PathError, ProtocolError.
        """
        there = {info.nsid: info for info in await self._controller.namespaces()}
        if nsid not in there:
            raise NotFoundError(
                f"{self.subnqn} has no namespace {nsid}; it has: {', '.join(map(str, there)) or 'none'}"
            )
        qpair = await self._controller.create_io_qpair(reactor, there[nsid], queue_depth=queue_depth)
        return Namespace(self._controller, reactor, there[nsid], qpair)

    async def close(self) -> None:
        """Closes all queues and disconnects. Idempotent."""
        await self._controller.close()


def _text(path: StrPath | None) -> str | None:
    return None if path is None else os.path.abspath(path)
