"""Messages of DH-HMAC-CHAP that prove nothing, for each step of a host's proof."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from enum import Enum
from typing import Any

from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.auth import dh_groups
from spdk_ftl_py.nvme.auth.messages import (
    MESSAGE_BYTES_MAX,
    AuthId,
    AuthType,
    Challenge,
    DhGroup,
    Failure,
    HashId,
    Negotiate,
    Reply,
    Success1,
    Success2,
)
from spdk_ftl_py.nvme.wire import AdminOp, FabricsType, Sqe

_COUNTS_AT, _DESCRIPTOR_AT = 10, 8
_REPLY_HASH_BYTES_AT, _REPLY_VALID_AT, _REPLY_DHV_AT = 6, 8, 10


class Step(Enum):
    """What comes next."""

    NEGOTIATE = "negotiate"
    CHALLENGE = "challenge"
    REPLY = "reply"
    SUCCESS1 = "success1"
    SUCCESS2 = "success2"

    @property
    def knows_key(self) -> bool:
        """Whoever got so far has shown that."""
        return self in (Step.SUCCESS1, Step.SUCCESS2)


def send_message(message: bytes, **changes: Any) -> Sqe:
    fields: dict[str, Any] = {
        "nsid": FabricsType.AUTHENTICATION_SEND,
        "cdw10": wire.AUTH_FIELDS,
        "cdw11": len(message),
        "sgl_bytes": len(message),
        "sgl_type": wire.SGL_IN_CAPSULE,
    }
    return Sqe(AdminOp.FABRICS, **(fields | changes))


def auth_receive(length: int = MESSAGE_BYTES_MAX) -> Sqe:
    return Sqe(
        AdminOp.FABRICS, nsid=FabricsType.AUTHENTICATION_RECEIVE, cdw10=wire.AUTH_FIELDS, cdw11=length,
        sgl_bytes=length,
    )  # fmt: skip


_Message = tuple[str, bytes, dict[str, Any]]


def messages(step: Step, tid: int, rng: random.Random) -> Iterator[_Message]:
    """(what it is, message, what else is wrong with its command). None of them is what a host that knows the key would
    send in this step; tid: of its transaction."""
    yield "noise", rng.randbytes(rng.randrange(1, 300)), {}
    yield "short", rng.randbytes(rng.randrange(1, 6)), {}
    yield "too long", rng.randbytes(MESSAGE_BYTES_MAX + 4 * rng.randrange(1, 100)), {}
    for what, message in _of_other_steps(step, tid, rng):
        yield what, message, {}
    message = Negotiate(tid, (1,), (0,)).pack()
    yield "SPSP", message, {"cdw10": wire.AUTH_FIELDS ^ 1 << rng.randrange(8, 32)}
    yield "TL", message, {"cdw11": rng.choice((0, len(message) - 1, len(message) + 1, 0xFFFFFFFF))}
    if step is Step.NEGOTIATE:
        for what, message in _negotiations(tid, rng):
            yield what, message, {}
    elif step is Step.REPLY:
        for what, message in _replies(tid, rng):
            yield what, message, {}


def _of_other_steps(step: Step, tid: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    if step is not Step.NEGOTIATE:
        yield "negotiation", Negotiate(tid, (1,), (0,)).pack()
    if step is not Step.REPLY:
        yield "reply", Reply(tid, rng.randbytes(32), rng.randbytes(32), 1).pack()
    if step is not Step.SUCCESS2:
        yield "success2", Success2(tid).pack()
    else:
        yield "success2 of another transaction", Success2(tid ^ 1).pack()
        yield "long success2", Success2(tid).pack() + b"\0"
    yield "challenge", Challenge(tid, HashId.SHA256, DhGroup.NULL, 1, rng.randbytes(32)).pack()
    yield "success1", Success1(tid, HashId.SHA256, rng.randbytes(32)).pack()
    yield "failure", Failure(rng.choice((AuthId.FAILURE1, AuthId.FAILURE2)), tid, rng.randrange(256)).pack()
    yield "unknown", bytes((rng.randrange(256), rng.randrange(5, 0xF0))) + bytes(30)


def _negotiations(tid: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    good = Negotiate(tid, (1, 2, 3), (0, 1)).pack()
    yield "no hash", Negotiate(tid, (0, 4, 255), (0,)).pack()
    yield "no group", Negotiate(tid, (1,), (6, 255)).pack()
    yield "secure channel", Negotiate(tid, (1,), (0,), secure_channel=rng.randrange(1, 256)).pack()
    yield "cut", good[: rng.randrange(6, len(good))]
    yield "long", good + bytes(rng.randrange(1, 65))
    for at, what in ((7, "descriptors"), (_DESCRIPTOR_AT, "protocol")):
        changed = bytearray(good)
        changed[at] = rng.choice((0, 2, 255))
        yield what, bytes(changed)
    changed = bytearray(good)
    changed[_COUNTS_AT + rng.randrange(2)] = rng.choice((0, 31, 255))
    yield "counts", bytes(changed)


def _replies(tid: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    good = Reply(tid, rng.randbytes(32), rng.randbytes(32), 1).pack()
    yield "response", good
    yield "response of nobody", Reply(tid, bytes(32)).pack()
    yield "long response", Reply(tid, rng.randbytes(rng.choice((48, 64)))).pack()
    yield "transaction", Reply(tid ^ rng.randrange(1, 0x10000), rng.randbytes(32)).pack()
    yield "sequence number 0", Reply(tid, rng.randbytes(32), rng.randbytes(32), 0).pack()
    yield "cut", good[: rng.randrange(6, len(good))]
    for at, what in ((_REPLY_HASH_BYTES_AT, "length of the hash"), (_REPLY_VALID_AT, "CVALID")):
        changed = bytearray(good)
        changed[at] = rng.choice((2, 33, 255))
        yield what, bytes(changed)
    changed = bytearray(good)
    struct.pack_into("<H", changed, _REPLY_DHV_AT, rng.choice((1, 256, 0xFFFF)))
    yield "length of the DH value", bytes(changed)
    prime = dh_groups.prime(DhGroup.FFDHE2048)
    value = rng.choice((0, 1, prime - 1, prime, (1 << 2048) - 1, 2))
    yield "DH value", Reply(tid, rng.randbytes(32), dh_value=value.to_bytes(256, "big")).pack()
    yield "kind", bytes((AuthType.COMMON,)) + good[1:]
