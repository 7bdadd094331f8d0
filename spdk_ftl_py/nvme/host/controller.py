"""The host side of an NVMe/TCP association: connect, authentication, keep-alive, I/O queues for the shim."""

from __future__ import annotations

import asyncio
import functools
from typing import Protocol
from uuid import UUID, uuid4

from ... import _shim
from ...errors import PathError, ProtocolError
from ...runtime.pulse import beat
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import to_its_end
from ...time_limit import time_limit
from .. import wire
from ..auth.key import HostKeys
from ..auth.psk import PskSource, TlsPsk
from ..auth.response import Policy
from ..nqn import check_nqn
from ..tcp import Connection, IcParameters, parse_port
from ..wire import AdminOp, Cqe, FabricsType, PduError, Sqe
from .authentication import authenticate, wants_authentication
from .base_controller import BaseController
from .command_queue import CommandQueue, open_connection
from .connect import build_connect
from .io_queues import first_zone_capacity, one_command
from .namespaces import NamespaceInfo

ADMIN_QUEUE_ENTRIES = 32


class _Submit(Protocol):
    """CommandQueue.submit(), or a function that behaves like it."""

    async def __call__(
        self, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0, *, may_bring_less: bool = False
    ) -> tuple[Cqe, bytearray]: ...


class Controller(BaseController):
    """An association with a remote controller. connect() makes it, and its user must close it."""

    def __init__(
        self, traddr: str, trsvcid: int | str, subnqn: str, hostnqn: str, hostid: UUID, timeout_s: float,
        keys: HostKeys | None, policy: Policy | None, psk: PskSource | None,
    ) -> None:  # fmt: skip
        """Use connect()."""
        super().__init__(subnqn, timeout_s)
        self.traddr = traddr
        self.trsvcid = parse_port(trsvcid)
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.in_capsule_bytes = 0
        self._keys = keys
        self._policy = policy
        self._psk = psk
        self._digests = (False, False)
        self._queue: CommandQueue | None = None

    @property
    def _admin(self) -> CommandQueue | None:
        return self._queue

    # --- connecting -------------------------------------------------------------------------------------------------

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
        kato_ms: int = 10_000,
        timeout_s: float = 10.0,
        keys: HostKeys | None = None,
        policy: Policy | None = None,
        psk: PskSource | None = None,
    ) -> Controller:
        """Connects and enables the controller. kato_ms 0: no keep-alive. timeout_s: first for the whole connect, then
        for each command. keys: the host authenticates with them if the controller requires it. With a ctrlr_key the
        controller has to prove its identity on every queue, whether it requires authentication or not. policy: the
        hashes and DH groups to offer. psk: every queue uses TLS with it; None: nothing is encrypted.

        Raises ParameterError for invalid NQNs and for keys that cannot be read; PathError if nobody answers in time;
        CommandError if the target refuses; AuthenticationError if the host or the controller does not prove its
        identity; ProtocolError if the peer does not speak NVMe/TCP (TlsError if it does not have the PSK);
        UnsupportedError for a PSK if this build has no TLS. Nothing is left behind then.
        """
        if subnqn != wire.DISCOVERY_NQN:
            check_nqn(subnqn, "subsystem NQN")
        check_nqn(hostnqn, "host NQN")
        self = cls(traddr, trsvcid, subnqn, hostnqn, hostid or uuid4(), timeout_s, keys, policy, psk)
        try:
            async with time_limit(timeout_s):
                await self._connect(header_digest, data_digest, kato_ms)
        except asyncio.TimeoutError:
            await to_its_end(self._tear_down("timed out"))
            raise PathError(f"{subnqn} at {traddr}:{trsvcid} did not answer within {timeout_s} s") from None
        except BaseException:
            await to_its_end(self._tear_down("not connected"))
            raise
        return self

    async def _connect(self, header_digest: bool, data_digest: bool, kato_ms: int) -> None:
        connection, _ = await open_connection(
            self.traddr, self.trsvcid, header_digest=header_digest, data_digest=data_digest, psk=self._tls_psk()
        )
        if connection.tls is not None:
            self.tls_cipher = connection.tls.cipher
        self._digests = (header_digest, data_digest)
        self._queue = CommandQueue(connection, ADMIN_QUEUE_ENTRIES)
        self._start(self._receive(), "receive")
        sqe, data = build_connect(
            qid=0, queue_size=ADMIN_QUEUE_ENTRIES, kato_ms=kato_ms, hostid=self.hostid.bytes,
            cntlid=wire.CNTLID_DYNAMIC, subnqn=self.subnqn, hostnqn=self.hostnqn,
        )  # fmt: skip
        cqe, _ = await self._queue.submit(sqe, data)
        self._check(cqe, "Connect")
        self.cntlid = cqe.result & 0xFFFF
        await self._authenticate(self._queue.submit, cqe.result)
        await self._enable()
        page = await self._identify()
        if page.cntlid != self.cntlid:
            raise ProtocolError(f"{self.subnqn}: Identify says controller {page.cntlid}, Connect said {self.cntlid}")
        self.in_capsule_bytes = page.in_capsule_bytes
        await self._receive_events(page)
        if kato_ms and (page.keep_alive_granularity_ms or page.is_discovery):
            self._start(self._keep_alive(kato_ms / 1000), "keep alive")

    def _tls_psk(self) -> TlsPsk | None:
        """Read for each queue, so a new key is used from the next queue on."""
        return None if self._psk is None else self._psk.load().for_tls(self.hostnqn, self.subnqn)

    async def _authenticate(self, command: _Submit, connect_result: int) -> None:
        """Authenticates a queue after its Connect. command: sends a command on that queue."""
        if not wants_authentication(connect_result, self._keys):
            return

        async def submit(sqe: Sqe, data: bytes, receive_bytes: int) -> bytes:
            cqe, received = await command(sqe, data, receive_bytes, may_bring_less=True)
            self._check(cqe, "authentication")
            return bytes(received)

        await authenticate(
            submit, self._keys, connect_result=connect_result, hostnqn=self.hostnqn, subnqn=self.subnqn,
            policy=self._policy,
        )  # fmt: skip

    async def _open_io_qpair(
        self, reactor: ReactorLoop, namespace: NamespaceInfo, qid: int, depth: int, io_timeout_s: float
    ) -> _shim.HostQpair:
        header_digest, data_digest = self._digests
        connection, ic = await open_connection(
            self.traddr, self.trsvcid, header_digest=header_digest, data_digest=data_digest, psk=self._tls_psk()
        )
        try:
            queue = CommandQueue(connection, depth + 1)
            sqe, data = build_connect(
                qid=qid, queue_size=depth + 1, kato_ms=0, hostid=self.hostid.bytes, cntlid=self.cntlid,
                subnqn=self.subnqn, hostnqn=self.hostnqn,
            )  # fmt: skip
            cqe, _ = await one_command(queue, sqe, data)
            self._check(cqe, f"Connect of I/O queue {qid}")
            command = functools.partial(one_command, queue)
            await self._authenticate(command, cqe.result)
            zoned = namespace.csi == wire.CSI_ZNS
            capacity = await first_zone_capacity(command, namespace, self.subnqn) if zoned else 0
            if self.lost.is_set():
                raise PathError(f"{self.subnqn}: {self.lost_reason}")
            qpair = self._hand_over(reactor, connection, ic, namespace, depth, capacity, io_timeout_s)
        except PduError as error:
            await connection.terminate(error)
            raise
        finally:
            # The shim has its own descriptor of the socket.
            connection.close()
        return qpair

    def _hand_over(
        self, reactor: ReactorLoop, connection: Connection, ic: IcParameters, namespace: NamespaceInfo, depth: int,
        zone_capacity: int, io_timeout_s: float,
    ) -> _shim.HostQpair:  # fmt: skip
        return _shim.HostQpair(
            reactor.shim,
            connection.socket.fileno(),
            queue_depth=depth,
            nsid=namespace.nsid,
            header_digest=ic.header_digest,
            data_digest=ic.data_digest,
            max_h2c_data=ic.max_h2c_data,
            in_capsule_bytes=self.in_capsule_bytes,
            block_count=namespace.block_count,
            block_bytes=namespace.block_bytes,
            metadata_bytes=namespace.metadata_bytes,
            max_io_bytes=self.max_io_bytes,
            max_append_bytes=self.max_append_bytes if namespace.csi == wire.CSI_ZNS else 0,
            volatile_cache=self.volatile_cache,
            zoned=namespace.csi == wire.CSI_ZNS,
            zone_size=namespace.zone_size,
            zone_capacity=zone_capacity,
            max_open_zones=namespace.max_open_zones,
            max_active_zones=namespace.max_active_zones,
            io_timeout_ms=int(io_timeout_s * 1000),
            tls=None if connection.tls is None else connection.tls.session,
        )

    # --- properties -------------------------------------------------------------------------------------------------

    async def get_property(self, offset: int) -> int:
        attribute = 1 if offset in wire.PROPERTY_8_BYTES else 0
        sqe = Sqe(AdminOp.FABRICS, nsid=FabricsType.PROPERTY_GET, cdw10=attribute, cdw11=offset)
        cqe, _ = await self.command(sqe, what=f"Property Get {offset:#x}")
        return cqe.result if attribute else cqe.result & 0xFFFFFFFF

    async def _set_property(self, offset: int, value: int) -> None:
        sqe = Sqe(AdminOp.FABRICS, nsid=FabricsType.PROPERTY_SET, cdw11=offset, cdw12=value)
        await self.command(sqe, what=f"Property Set {offset:#x}")

    # --- background -------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        assert self._queue is not None
        try:
            while True:
                await self._queue.pump()
        except PduError as error:
            self._lose(error)
            await self._queue.connection.terminate(error)

    async def _keep_alive(self, kato_s: float) -> None:
        while True:
            await beat(kato_s / 2)
            await self.command(Sqe(AdminOp.KEEP_ALIVE), what="Keep Alive")

    async def _disconnect(self) -> None:
        if self._queue is not None:
            self._queue.connection.close()
