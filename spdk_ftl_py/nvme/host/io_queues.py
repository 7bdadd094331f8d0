"""I/O queues of a host, before the shim takes them over, and the reasons for their end."""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from ... import _shim
from ...errors import ProtocolError
from ...runtime.reactor import ReactorLoop
from .. import wire
from ..wire import CommandError, Cqe, Sqe
from .command_queue import CommandQueue
from .namespaces import NamespaceInfo

IoQpair = _shim.HostQpair | _shim.SharedHostQpair

ZONE_REPORT_BYTES = 128
"""The header and one descriptor."""


async def one_command(
    queue: CommandQueue, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0, *, may_bring_less: bool = False
) -> tuple[Cqe, bytearray]:
    """Sends one command on a queue from which nobody else receives, so that nothing after the completion is read."""
    command = asyncio.ensure_future(queue.submit(sqe, data, receive_bytes, may_bring_less=may_bring_less))
    try:
        while not command.done():
            await queue.pump()
            await asyncio.sleep(0)
        return await command
    finally:
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)


class OneCommand(Protocol):
    """Sends a command on an I/O queue that has no other."""

    async def __call__(self, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0) -> tuple[Cqe, bytearray]: ...


async def first_zone_capacity(command: OneCommand, namespace: NamespaceInfo, subnqn: str) -> int:
    """The capacity of the first zone. Only zone reports have zone capacities, and a zone report needs an I/O queue."""
    sqe = Sqe(wire.NvmOp.ZONE_MANAGEMENT_RECEIVE, nsid=namespace.nsid, cdw12=ZONE_REPORT_BYTES // 4 - 1, cdw13=1 << 16)
    cqe, report = await command(sqe, b"", ZONE_REPORT_BYTES)
    if cqe.status:
        raise CommandError(f"{subnqn}: zone report of namespace {namespace.nsid} failed", cqe)
    if int.from_bytes(report[0:8], "little") == 0:
        raise ProtocolError(f"{subnqn}: namespace {namespace.nsid} is zoned and reports no zone")
    capacity = int.from_bytes(report[72:80], "little")
    if not 0 < capacity <= namespace.zone_size:
        raise ProtocolError(
            f"{subnqn}: the first zone of namespace {namespace.nsid} has a capacity of {capacity} blocks of "
            f"{namespace.zone_size}"
        )
    return capacity


async def close_host_qpair(reactor: ReactorLoop, qpair: IoQpair) -> None:
    reactor.unsubscribe(qpair.id)
    if reactor.shim.running:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, qpair.close))
    else:
        qpair.close()


def lost_reason(reason: _shim.QpairClose, detail: int) -> str:
    """The reason of HOST_QPAIR_LOST in words. detail is an errno or the FES of a TermReq."""
    words = {
        _shim.QpairClose.PEER_CLOSED: "the controller closed the connection",
        _shim.QpairClose.TIMED_OUT: "a command had no answer in time",
        _shim.QpairClose.SOCKET_ERROR: os.strerror(detail),
        _shim.QpairClose.PROTOCOL_ERROR: f"the controller violated the protocol (FES {detail})",
        _shim.QpairClose.PEER_TERMINATED: (
            f"the controller ended the connection because of a protocol error (FES {detail})"
        ),
    }
    return words.get(reason, f"it was closed (reason {reason.value})")
