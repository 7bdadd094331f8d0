"""A peer whose PDUs may have digests, and anything wrong with them, and that believes nothing that a target sends."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from hostile.malformed_messages import Step, auth_receive, send_message
from hostile.peers import Peer
from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.auth.host_side import HostAuthentication
from spdk_ftl_py.nvme.auth.key import HostKeys
from spdk_ftl_py.nvme.auth.messages import AuthId, AuthType, DhGroup
from spdk_ftl_py.nvme.auth.response import Policy, Sequence
from spdk_ftl_py.nvme.wire import AdminOp, Cns, PduType, Sqe, Status
from unit.nvme.nvme_loop import ic_req

KATO_MS = 600_000
DATA_MAX = 128 << 10
QID_TRIES = 32
QIDS = 60
_FROM_TARGET = {
    PduType.IC_RESP: 0,
    PduType.C2H_TERM_REQ: wire.TERM_REQ_PLEN_MAX - 24,
    PduType.CAPSULE_RESP: 0,
    PduType.C2H_DATA: DATA_MAX,
    PduType.R2T: 0,
}
"""With the most data that each may carry."""
_SUCCESS1 = bytes((AuthType.DHCHAP, AuthId.SUCCESS1))


class PduFault(Exception):
    """What a target must not do."""


class Place(Enum):
    """Where a connection is."""

    FRESH = auto()
    OPEN = auto()
    """Initialized, not connected."""
    DISCOVERY = auto()
    UNPROVEN = auto()
    DISABLED = auto()
    ADMIN = auto()
    SHUT = auto()
    IO = auto()


class Refusal(Enum):
    """What has to become of something."""

    COMMAND = auto()
    """It completes with an error, and the connection goes on."""
    CONNECTION = auto()
    """The target ends the connection."""
    PROOF = auto()
    """It may complete with any status, and may end the connection; the host has proved nothing."""
    ANY = auto()
    """Whatever the target makes of it; it ends when the host has."""


@dataclass(frozen=True)
class Sent:
    what: str
    raw: bytes
    refusal: Refusal
    cid: int = -1


class MalformedPeer(Peer):
    def __init__(self, port: int, *, digests: int = 0, timeout_s: float = 10.0) -> None:
        super().__init__(port, timeout_s=timeout_s)
        self.header_digest = self.data_digest = False
        self.must_end = self.may_end = False
        """By what was put."""
        self.owes_proof = False
        """It has not shown that it knows the key."""
        self._digests = digests
        self._cid = random.Random(digests).randrange(0x100)
        self._pending: Counter[int] = Counter()
        """Commands that are to fail."""
        self._proofs: Counter[int] = Counter()
        self._broken = False
        self._side: HostAuthentication | None = None
        self.tid = 0
        """Of the host's proof."""

    # --- PDUs

    @staticmethod
    def frame_plain(kind: int, body: bytes, data: bytes = b"", *, plen: int | None = None) -> bytes:
        hlen = 8 + len(body)
        length = hlen + len(data) if plen is None else plen
        return wire.COMMON_HEADER.pack(kind, 0, hlen, hlen if data else 0, length) + body + data

    def head_bytes(self, kind: int) -> int:
        return wire.HEADER_BYTES[kind] + (4 if self.header_digest else 0)

    def frame(
        self, kind: int, body: bytes, data: bytes = b"", *, hlen: int | None = None, pdo: int | None = None,
        plen: int | None = None, flags: int = 0, toggle: int = 0, break_header_digest: bool = False,
        break_data_digest: bool = False,
    ) -> bytes:  # fmt: skip
        """A PDU with the digests that were agreed on, and what is named here instead of what is right. toggle: flags
        that say the opposite of what is so."""
        header_digest = self.header_digest and kind not in wire.WITHOUT_DIGESTS
        data_digest = self.data_digest and bool(data)
        head = 8 + len(body) + (4 if header_digest else 0)
        whole = head + len(data) + (4 if data_digest else 0)
        flags |= (wire.FLAG_HEADER_DIGEST if header_digest else 0) | (wire.FLAG_DATA_DIGEST if data_digest else 0)
        header = (
            wire.COMMON_HEADER.pack(
                kind,
                flags ^ toggle,
                8 + len(body) if hlen is None else hlen,
                (head if data else 0) if pdo is None else pdo,
                whole if plen is None else plen,
            )
            + body
        )
        raw = header
        if header_digest:
            raw += (_shim.crc32c(header) ^ (1 if break_header_digest else 0)).to_bytes(4, "little")
        raw += data
        if data_digest:
            raw += (_shim.crc32c(data) ^ (1 if break_data_digest else 0)).to_bytes(4, "little")
        return raw

    def capsule(self, sqe: Sqe, data: bytes = b"", *, break_data_digest: bool = False) -> bytes:
        return self.frame(PduType.CAPSULE_CMD, sqe.pack(), data, break_data_digest=break_data_digest)

    def pdu(self) -> tuple[int, bytes, bytes]:
        """Raises PduFault for one that no target may send, EOFError at the end of the connection."""
        start = self.exactly(8)
        kind, flags, hlen, pdo, plen = wire.COMMON_HEADER.unpack(start)
        if kind not in _FROM_TARGET or hlen != wire.HEADER_BYTES[kind]:
            raise PduFault(f"PDU type {kind:#x} with HLEN {hlen}")
        digests = kind not in wire.WITHOUT_DIGESTS
        header_digest = self.header_digest and digests
        head = hlen + (4 if header_digest else 0)
        data_bytes = plen - head
        data_digest = self.data_digest and digests and data_bytes > 0
        data_bytes -= 4 if data_digest else 0
        expected = (wire.FLAG_HEADER_DIGEST if header_digest else 0) | (wire.FLAG_DATA_DIGEST if data_digest else 0)
        if not 0 <= data_bytes <= _FROM_TARGET[PduType(kind)] or flags & 3 != expected:
            raise PduFault(f"PDU type {kind:#x} with PLEN {plen}, flags {flags:#x}")
        if data_bytes and kind == PduType.C2H_DATA and pdo != head:
            raise PduFault(f"C2HData with PDO {pdo}")
        header = self._whole(hlen - 8, start)
        if header_digest and int.from_bytes(self._whole(4), "little") != _shim.crc32c(header):
            raise PduFault("header digest")
        data = self._whole(data_bytes)
        if data_digest and int.from_bytes(self._whole(4), "little") != _shim.crc32c(data):
            raise PduFault("data digest")
        return kind, header, data

    def _whole(self, count: int, start: bytes = b"") -> bytes:
        try:
            return start + self.exactly(count)
        except EOFError:
            raise PduFault("the connection ends in the middle of a PDU") from None

    # --- what is good

    def initialize(self) -> MalformedPeer:
        self.sock.sendall(ic_req(digests=self._digests))
        kind, header, _ = self.pdu()
        assert kind == PduType.IC_RESP
        pfv, cpda, digests, _ = wire.IC_BODY.unpack(header[8:])
        assert (pfv, cpda, digests) == (0, 0, self._digests)
        self.header_digest = bool(digests & wire.DGST_HEADER)
        self.data_digest = bool(digests & wire.DGST_DATA)
        return self

    def next_cid(self) -> int:
        self._cid = (self._cid + 1) & 0xFFFF
        return self._cid

    @property
    def last_cid(self) -> int:
        """Of a command that was to fail, or another one where there was none."""
        return next(iter(+self._pending), None) or self.next_cid()

    def send(self, sqe: Sqe, data: bytes = b"") -> None:
        self.sock.sendall(self.capsule(sqe, data))

    def command(self, sqe: Sqe, data: bytes = b"") -> wire.Cqe:
        return self.ask(sqe, data)[0]

    def ask(self, sqe: Sqe, data: bytes = b"") -> tuple[wire.Cqe, bytes]:
        """One command at a time: its completion, and what it brought."""
        self.send(sqe, data)
        brought = b""
        while True:
            kind, header, chunk = self.pdu()
            if kind == PduType.CAPSULE_RESP:
                return wire.Cqe.unpack(header[8:]), brought
            if kind != PduType.C2H_DATA:
                raise PduFault(f"PDU type {kind:#x} as what is good was sent")
            brought += chunk

    def set_property(self, offset: int, value: int) -> wire.Cqe:
        return self.command(Sqe(AdminOp.FABRICS, nsid=0, cdw11=offset, cdw12=value))

    # --- the host's proof

    def begin_proof(self, step: Step, keys: HostKeys, hostnqn: str, subnqn: str, rng: random.Random) -> None:
        """Up to a step, by somebody who knows the keys."""
        groups = rng.choice(((DhGroup.NULL,),) * 5 + ((DhGroup.FFDHE2048,),))
        ctrlr_key = None if keys.ctrlr_key is None else keys.ctrlr_key.load()
        self.tid = rng.getrandbits(16)
        side = self._side = HostAuthentication(
            keys.key.load(), ctrlr_key, tid=self.tid, hostnqn=hostnqn, subnqn=subnqn, sequence=Sequence(),
            policy=Policy(dh_groups=groups),
        )  # fmt: skip
        if step is Step.NEGOTIATE:
            return
        self._say(side.negotiate())
        if step is Step.CHALLENGE:
            return
        reply = side.reply(self._hear())
        if step is Step.REPLY:
            return
        self._say(reply)
        if step is Step.SUCCESS2:
            side.finish(self._hear())

    def finish_proof(self) -> None:
        """All of it, where it has not begun."""
        assert self._side is not None
        self._say(self._side.negotiate())
        self._say(self._side.reply(self._hear()))
        last = self._side.finish(self._hear())
        if last is not None:
            self._say(last)

    def _say(self, message: bytes) -> None:
        assert self.command(send_message(message), message).status == 0

    def _hear(self) -> bytes:
        cqe, message = self.ask(auth_receive())
        assert cqe.status == 0
        return message

    # --- what is not

    def put(self, sent: Sent) -> Sent:
        """Sends it, and keeps in mind what has to become of it."""
        match sent.refusal:
            case Refusal.COMMAND:
                self._pending[sent.cid] += 1
            case Refusal.PROOF:
                self._proofs[sent.cid] += 1
            case Refusal.CONNECTION:
                self.must_end = True
            case Refusal.ANY:
                self.may_end = True
        try:
            self.sock.sendall(sent.raw)
        except ConnectionError:
            self._broken = True
        return sent

    def settle(self, *, others: Collection[int], given_up: bool, transfers: Mapping[int, tuple[int, int]]) -> None:
        """Reads to the end of the connection. others: commands that were good. given_up: the host has disconnected.
        transfers: of good writes whose data were asked for. Raises PduFault."""
        good = Counter(others)
        all_answered = not (self.must_end or self.may_end or given_up or +self._proofs)
        if all_answered:
            for ttag, (cid, length) in transfers.items():
                good[cid] += 1
                self._send_data(cid, ttag, 0, length)
        shut = False
        while True:
            waits = (all_answered and (+self._pending or +good)) or (+self._proofs and not self.may_end)
            if not shut and not self.must_end and not given_up and not waits:
                self._shut_write()
                shut = True
            try:
                kind, header, data = self.pdu()
            except (EOFError, ConnectionError):
                break
            except PduFault as fault:
                if shut and "middle" in str(fault):
                    break
                raise
            except TimeoutError:
                raise PduFault("it neither ends the connection nor answers") from None
            if self.owes_proof and data[:2] == _SUCCESS1:
                raise PduFault("it believes a host that has shown nothing")
            if kind == PduType.C2H_TERM_REQ:
                self._broken = True
            elif kind == PduType.R2T:
                self._answer_r2t(header)
            elif kind == PduType.CAPSULE_RESP:
                cqe = wire.Cqe.unpack(header[8:])
                self._completed(cqe.cid, cqe.status, good)
            elif kind == PduType.C2H_DATA and header[1] & wire.FLAG_SUCCESS:
                self._completed(wire.DATA_BODY.unpack(header[8:])[0], 0, good)
        if all_answered and (+self._pending or +good):
            raise PduFault(f"the connection ended, where only commands {dict(+self._pending)} were to fail")

    def _completed(self, cid: int, status: int, good: Counter[int]) -> None:
        if self._pending[cid] > 0:
            if status == 0:
                raise PduFault(f"command {cid}, which is to fail, did not")
            self._pending[cid] -= 1
        elif self._proofs[cid] > 0:
            self._proofs[cid] -= 1
        elif good[cid] > 0:
            if status and not (self.must_end or self.may_end):
                raise PduFault(f"command {cid}, which is good, failed with {status:#x}")
            good[cid] -= 1
        elif not (self.must_end or self.may_end):
            raise PduFault(f"a completion with CID {cid}, which no command had")

    def _answer_r2t(self, header: bytes) -> None:
        cid, ttag, offset, length = wire.DATA_BODY.unpack(header[8:])
        if length > DATA_MAX:
            raise PduFault(f"R2T for {length} bytes")
        if self._pending[cid] > 0 and not self._broken:
            self._send_data(cid, ttag, offset, length)

    def _send_data(self, cid: int, ttag: int, offset: int, length: int) -> None:
        body = wire.DATA_BODY.pack(cid, ttag, offset, length)
        try:
            self.sock.sendall(self.frame(PduType.H2C_DATA, body, bytes(length), flags=wire.FLAG_LAST))
        except ConnectionError:
            self._broken = True

    def _shut_write(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._broken = True


class Association:
    """An admin queue that stays, and I/O queues that belong to it."""

    def __init__(self, port: int, subnqn: str, hostnqn: str, keys: HostKeys | None, *, patience_s: float) -> None:
        self._subnqn, self._hostnqn, self._keys = subnqn, hostnqn, keys
        self._admin = MalformedPeer(port, timeout_s=patience_s).initialize()
        cqe = self._admin.connect(subnqn, hostnqn, kato_ms=KATO_MS)
        assert cqe.status == 0, hex(cqe.status)
        if keys is not None:
            self._admin.begin_proof(Step.NEGOTIATE, keys, hostnqn, subnqn, random.Random(0))
            self._admin.finish_proof()
        self._cntlid = cqe.result & 0xFFFF
        assert self._admin.enable().status == 0
        identify = Sqe(AdminOp.IDENTIFY, nsid=1, cdw10=Cns.NAMESPACE, sgl_bytes=4096)
        cqe, data = self._admin.ask(identify)
        assert cqe.status == 0
        (self.block_count,) = struct.unpack_from("<Q", data)

    def connect_io(self, peer: MalformedPeer, qids: Iterator[int], queue_size: int, *, prove: bool = True) -> None:
        """prove: where a proof is asked for, it is given."""
        for _ in range(QID_TRIES):
            cqe = peer.connect(self._subnqn, self._hostnqn, qid=next(qids), cntlid=self._cntlid, queue_size=queue_size)
            if cqe.status == 0:
                break
            # The queue that had it may not be gone yet.
            taken = (cqe.status, cqe.result) == (Status.CONNECT_INVALID_PARAMETERS, wire.CONNECT_SQE_QID)
            assert taken or cqe.status == Status.CONNECT_CONTROLLER_BUSY, f"{cqe.status:#x}, {cqe.result:#x}"
        else:
            raise PduFault("no I/O queue comes free")
        if prove and cqe.result & wire.CONNECT_ATR:
            assert self._keys is not None
            peer.begin_proof(Step.NEGOTIATE, self._keys, self._hostnqn, self._subnqn, random.Random(0))
            peer.finish_proof()

    def alive(self) -> bool:
        return self._admin.alive()

    def close(self) -> None:
        self._admin.sock.close()


def free_qids() -> Iterator[int]:
    """One after the other, round and round."""
    while True:
        yield from range(1, QIDS + 1)
