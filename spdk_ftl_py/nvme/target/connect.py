"""The target's side of the Connect command: parses it, and reports exactly what is wrong with it.

Fabrics Connect, Base 2.0 section 6.3: errors are command specific, 80h to 84h; for 82h the result holds the offset of
the field (15:0) and whether it is in the data (bit 16) or in the command.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import wire
from ..wire import AdminOp, ConnectData, FabricsType, Status
from .capsule import Command, Completion


@dataclass(frozen=True)
class ConnectRequest:
    """A well-formed Connect."""

    qid: int
    queue_size: int
    flow_control: bool
    kato_ms: int
    hostid: bytes
    cntlid: int
    subnqn: str
    hostnqn: str


def invalid_in_data(offset: int, *, do_not_retry: bool = True) -> Completion:
    return Completion(Status.CONNECT_INVALID_PARAMETERS, do_not_retry=do_not_retry, result=1 << 16 | offset)


def invalid_in_command(offset: int) -> Completion:
    return Completion(Status.CONNECT_INVALID_PARAMETERS, result=offset)


def parse_connect(command: Command) -> ConnectRequest | Completion:
    """The request, or how to refuse it."""
    sqe = command.sqe
    if command.early is not None:
        return command.early
    if sqe.opcode != AdminOp.FABRICS or sqe.fctype != FabricsType.CONNECT:
        return Completion(Status.COMMAND_SEQUENCE_ERROR)
    if len(command.data) != wire.CONNECT_DATA_BYTES:
        return Completion(Status.SGL_DATA_LENGTH)
    record_format, qid = sqe.cdw10 & 0xFFFF, sqe.cdw10 >> 16
    sqsize, cattr = sqe.cdw11 & 0xFFFF, sqe.cdw11 >> 16 & 0xFF
    if record_format != 0:
        return Completion(Status.CONNECT_INCOMPATIBLE_FORMAT, result=wire.CONNECT_SQE_RECFMT)
    if sqsize == 0:
        return invalid_in_command(wire.CONNECT_SQE_SQSIZE)
    data = ConnectData.unpack(command.data)
    subnqn, hostnqn = wire.decode_nqn(data.subnqn), wire.decode_nqn(data.hostnqn)
    if not subnqn:
        return invalid_in_data(wire.CONNECT_DATA_SUBNQN)
    # spdk_nvme_perf sends none. This is accepted if any host may connect.
    if hostnqn is None:
        return invalid_in_data(wire.CONNECT_DATA_HOSTNQN)
    if qid == 0 and data.cntlid != wire.CNTLID_DYNAMIC:
        return invalid_in_data(wire.CONNECT_DATA_CNTLID)
    return ConnectRequest(
        qid=qid,
        queue_size=sqsize + 1,
        flow_control=not cattr & wire.CATTR_NO_FLOW_CONTROL,
        kato_ms=sqe.cdw12,
        hostid=data.hostid,
        cntlid=data.cntlid,
        subnqn=subnqn,
        hostnqn=hostnqn,
    )
