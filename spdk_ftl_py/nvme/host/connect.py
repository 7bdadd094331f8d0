"""The host side of the Connect command (Fabrics, Base 2.0 section 6.3)."""

from __future__ import annotations

from .. import wire
from ..wire import AdminOp, ConnectData, FabricsType, Sqe


def build_connect(
    *, qid: int, queue_size: int, kato_ms: int, hostid: bytes, cntlid: int, subnqn: str, hostnqn: str
) -> tuple[Sqe, bytes]:
    """Returns the command and its data, which goes in the capsule."""
    sqe = Sqe(
        AdminOp.FABRICS,
        nsid=FabricsType.CONNECT,
        cdw10=qid << 16,
        cdw11=queue_size - 1,
        cdw12=kato_ms if qid == 0 else 0,
        sgl_bytes=wire.CONNECT_DATA_BYTES,
        sgl_type=wire.SGL_IN_CAPSULE,
    )
    return sqe, ConnectData(hostid, cntlid, subnqn.encode(), hostnqn.encode()).pack()
