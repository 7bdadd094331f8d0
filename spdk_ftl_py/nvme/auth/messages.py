"""The messages of DH-HMAC-CHAP (Base 2.0 section 8.13.5), little endian, as in the data of Authentication Send and
Authentication Receive.

Their sender is not authenticated yet. unpack() checks every length before it uses it, and rejects data that is longer
or shorter than it says. For each message that unpack() accepts, pack() returns the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from ...errors import ProtocolError

MESSAGE_BYTES_MAX: Final = 4096
"""The maximum length of these messages, and the allocation length with which a host asks for one. The longest, a reply
with SHA-512 and ffdhe8192, has 1168 bytes."""
_DESCRIPTOR_IDS_MAX: Final = 30
_REASON_CODE_FAILURE: Final = 1

_COMMON: Final = struct.Struct("<BBxxH")
_NEGOTIATE: Final = struct.Struct("<BBxxHBB")
_DESCRIPTOR: Final = struct.Struct("<BxBB30s30s")
_CHALLENGE: Final = struct.Struct("<BBxxHBxBBHI")
_REPLY: Final = struct.Struct("<BBxxHBxBxHI")
_SUCCESS1: Final = struct.Struct("<BBxxHBxB7x")
_SUCCESS2: Final = struct.Struct("<BBxxH10x")
_FAILURE: Final = struct.Struct("<BBxxHBB")


class AuthType(IntEnum):
    COMMON = 0
    DHCHAP = 1


class AuthId(IntEnum):
    NEGOTIATE = 0x00
    CHALLENGE = 0x01
    REPLY = 0x02
    SUCCESS1 = 0x03
    SUCCESS2 = 0x04
    FAILURE2 = 0xF0
    FAILURE1 = 0xF1


class HashId(IntEnum):
    SHA256 = 1
    SHA384 = 2
    SHA512 = 3

    @property
    def hash_bytes(self) -> int:
        return {HashId.SHA256: 32, HashId.SHA384: 48, HashId.SHA512: 64}[self]


class DhGroup(IntEnum):
    NULL = 0
    FFDHE2048 = 1
    FFDHE3072 = 2
    FFDHE4096 = 3
    FFDHE6144 = 4
    FFDHE8192 = 5

    @property
    def bits(self) -> int:
        """The size of the group's prime in bits; 0 for NULL."""
        return (0, 2048, 3072, 4096, 6144, 8192)[self]


class FailureReason(IntEnum):
    """The reason code explanation of a failure message."""

    AUTHENTICATION_FAILED = 1
    PROTOCOL_NOT_USABLE = 2
    SECURE_CHANNEL_MISMATCH = 3
    HASH_NOT_USABLE = 4
    DH_GROUP_NOT_USABLE = 5
    INCORRECT_PAYLOAD = 6
    INCORRECT_MESSAGE = 7


def reason_text(explanation: int) -> str:
    """The reason as text, for messages. Accepts any byte."""
    try:
        return FailureReason(explanation).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {explanation}"


class MessageError(ProtocolError):
    """A message that ends the authentication. ``reason`` goes to the peer."""

    def __init__(self, message: str, reason: FailureReason) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Negotiate:
    """The host's abilities, in its order of preference. Unknown ids are kept: a host may offer them."""

    tid: int
    hash_ids: tuple[int, ...]
    dh_groups: tuple[int, ...]
    secure_channel: int = 0

    def pack(self) -> bytes:
        head = _NEGOTIATE.pack(AuthType.COMMON, AuthId.NEGOTIATE, self.tid, self.secure_channel, 1)
        hashes, groups = bytes(self.hash_ids), bytes(self.dh_groups)
        return head + _DESCRIPTOR.pack(AuthType.DHCHAP, len(hashes), len(groups), hashes, groups)

    @classmethod
    def unpack(cls, data: bytes) -> Negotiate:
        """Raises MessageError. The first DH-HMAC-CHAP descriptor counts; others are ignored."""
        _expect(data, _NEGOTIATE, AuthType.COMMON, AuthId.NEGOTIATE)
        _, _, tid, secure_channel, count = _NEGOTIATE.unpack_from(data)
        _exactly(data, _NEGOTIATE.size + count * _DESCRIPTOR.size)
        for index in range(count):
            at = _NEGOTIATE.size + index * _DESCRIPTOR.size
            protocol, hash_count, group_count, hashes, groups = _DESCRIPTOR.unpack_from(data, at)
            if protocol == AuthType.DHCHAP:
                if not (1 <= hash_count <= _DESCRIPTOR_IDS_MAX and 1 <= group_count <= _DESCRIPTOR_IDS_MAX):
                    raise _payload(f"a protocol descriptor with {hash_count} hashes and {group_count} DH groups")
                return cls(tid, tuple(hashes[:hash_count]), tuple(groups[:group_count]), secure_channel)
        raise MessageError("the host does not offer DH-HMAC-CHAP", FailureReason.PROTOCOL_NOT_USABLE)


@dataclass(frozen=True)
class Challenge:
    """The hash and group that the controller has chosen, its challenge, and its public DH value (empty for NULL)."""

    tid: int
    hash_id: HashId
    dh_group: DhGroup
    seqnum: int
    challenge: bytes
    dh_value: bytes = b""

    def pack(self) -> bytes:
        return (
            _CHALLENGE.pack(
                AuthType.DHCHAP, AuthId.CHALLENGE, self.tid, len(self.challenge), self.hash_id, self.dh_group,
                len(self.dh_value), self.seqnum,
            )
            + self.challenge
            + self.dh_value
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes, tid: int) -> Challenge:
        """data may be longer than the message. Raises MessageError, also for an unknown hash or group."""
        _expect(data, _CHALLENGE, AuthType.DHCHAP, AuthId.CHALLENGE, tid)
        _, _, _, hash_bytes, hash_number, group_number, dhv_bytes, seqnum = _CHALLENGE.unpack_from(data)
        hash_id = _known(HashId, hash_number, FailureReason.HASH_NOT_USABLE)
        group = _known(DhGroup, group_number, FailureReason.DH_GROUP_NOT_USABLE)
        if hash_bytes != hash_id.hash_bytes or seqnum == 0:
            raise _payload(f"a challenge of {hash_bytes} bytes for {hash_id.name}, with sequence number {seqnum}")
        challenge, dh_value = _parts(data, _CHALLENGE.size, hash_bytes, _dhv_bytes(dhv_bytes, group))
        return cls(tid, hash_id, group, seqnum, challenge, dh_value)


@dataclass(frozen=True)
class Reply:
    """The host's response, its own challenge and its public DH value. challenge None: the controller does not have to
    prove its identity."""

    tid: int
    response: bytes
    challenge: bytes | None = None
    seqnum: int = 0
    dh_value: bytes = b""

    def pack(self) -> bytes:
        valid = self.challenge is not None
        # The message has room for a challenge even if there is none.
        challenge = bytes(len(self.response)) if self.challenge is None else self.challenge
        head = _REPLY.pack(
            AuthType.DHCHAP, AuthId.REPLY, self.tid, len(self.response), valid, len(self.dh_value), self.seqnum
        )
        return head + self.response + challenge + self.dh_value

    @classmethod
    def unpack(cls, data: bytes, tid: int, hash_id: HashId, group: DhGroup) -> Reply:
        """Raises MessageError if data does not answer a challenge with this hash and group."""
        _expect(data, _REPLY, AuthType.DHCHAP, AuthId.REPLY, tid)
        _, _, _, hash_bytes, valid, dhv_bytes, seqnum = _REPLY.unpack_from(data)
        if hash_bytes != hash_id.hash_bytes or valid > 1 or (valid and seqnum == 0):
            raise _payload(f"a response of {hash_bytes} bytes for {hash_id.name}, CVALID {valid}, S2 {seqnum}")
        parts = (hash_bytes, hash_bytes, _dhv_bytes(dhv_bytes, group))
        _exactly(data, _REPLY.size + sum(parts))
        response, challenge, dh_value = _parts(data, _REPLY.size, *parts)
        return cls(tid, response, challenge if valid else None, seqnum if valid else 0, dh_value)


@dataclass(frozen=True)
class Success1:
    """The host has proved its identity. ``response`` answers the host's challenge; None: there was none."""

    tid: int
    hash_id: HashId
    response: bytes | None = None

    def pack(self) -> bytes:
        # Linux expects the length of the hash here even if no response follows.
        head = _SUCCESS1.pack(
            AuthType.DHCHAP, AuthId.SUCCESS1, self.tid, self.hash_id.hash_bytes, self.response is not None
        )
        return head + (self.response or b"")

    @classmethod
    def unpack(cls, data: bytes, tid: int, hash_id: HashId) -> Success1:
        """data may be longer than the message. Raises MessageError."""
        _expect(data, _SUCCESS1, AuthType.DHCHAP, AuthId.SUCCESS1, tid)
        _, _, _, hash_bytes, valid = _SUCCESS1.unpack_from(data)
        if valid > 1 or (valid and hash_bytes != hash_id.hash_bytes):
            raise _payload(f"a response of {hash_bytes} bytes for {hash_id.name}, RVALID {valid}")
        return cls(tid, hash_id, *(_parts(data, _SUCCESS1.size, hash_bytes) if valid else ()))


@dataclass(frozen=True)
class Success2:
    """The controller has proved its identity, too."""

    tid: int

    def pack(self) -> bytes:
        return _SUCCESS2.pack(AuthType.DHCHAP, AuthId.SUCCESS2, self.tid)

    @classmethod
    def unpack(cls, data: bytes, tid: int) -> Success2:
        """Raises MessageError."""
        _expect(data, _SUCCESS2, AuthType.DHCHAP, AuthId.SUCCESS2, tid)
        _exactly(data, _SUCCESS2.size)
        return cls(tid)


@dataclass(frozen=True)
class Failure:
    """From the controller (auth_id FAILURE1) or the host (FAILURE2)."""

    auth_id: AuthId
    tid: int
    explanation: int
    code: int = _REASON_CODE_FAILURE

    def pack(self) -> bytes:
        return _FAILURE.pack(AuthType.COMMON, self.auth_id, self.tid, self.code, self.explanation)

    @classmethod
    def unpack(cls, data: bytes) -> Failure:
        """data may be longer than the message. Raises MessageError."""
        kind = message_kind(data)
        if kind not in (
            (AuthType.COMMON, AuthId.FAILURE1),
            (AuthType.COMMON, AuthId.FAILURE2),
        ):
            raise _unexpected(kind)
        if len(data) < _FAILURE.size:
            raise _payload(f"a failure message of {len(data)} bytes")
        _, auth_id, tid, code, explanation = _FAILURE.unpack_from(data)
        return cls(AuthId(auth_id), tid, explanation, code)

    @property
    def text(self) -> str:
        return reason_text(self.explanation)


def message_kind(data: bytes) -> tuple[int, int]:
    """(AUTH_TYPE, AUTH_ID) of any message. Raises MessageError if the message is too short for them."""
    if not _COMMON.size <= len(data) <= MESSAGE_BYTES_MAX:
        raise _payload(f"a message of {len(data)} bytes")
    return data[0], data[1]


def message_tid(data: bytes) -> int:
    """The transaction id of any message; 0 if the message is too short for one."""
    return int(_COMMON.unpack_from(data)[2]) if len(data) >= _COMMON.size else 0


_Number = TypeVar("_Number", HashId, DhGroup)


def _known(kind: type[_Number], number: int, reason: FailureReason) -> _Number:
    try:
        return kind(number)
    except ValueError:
        raise MessageError(f"{kind.__name__} {number} is unknown", reason) from None


def _expect(data: bytes, layout: struct.Struct, auth_type: AuthType, auth_id: AuthId, tid: int | None = None) -> None:
    kind = message_kind(data)
    if kind != (auth_type, auth_id):
        raise _unexpected(kind)
    if len(data) < layout.size:
        raise _payload(f"a {auth_id.name} message of {len(data)} bytes")
    if tid is not None and message_tid(data) != tid:
        raise _payload(f"transaction {message_tid(data)} instead of {tid}")


def _exactly(data: bytes, count: int) -> None:
    if len(data) != count:
        raise _payload(f"a message of {len(data)} bytes instead of {count}")


def _dhv_bytes(count: int, group: DhGroup) -> int:
    if count != group.bits // 8:
        raise _payload(f"a DH value of {count} bytes for {group.name}")
    return count


def _parts(data: bytes, at: int, *sizes: int) -> Sequence[bytes]:
    if len(data) < at + sum(sizes):
        raise _payload(f"a message of {len(data)} bytes instead of {at + sum(sizes)}")
    parts = []
    for size in sizes:
        parts.append(bytes(data[at : at + size]))
        at += size
    return parts


def _payload(what: str) -> MessageError:
    return MessageError(what, FailureReason.INCORRECT_PAYLOAD)


def _unexpected(kind: tuple[int, int]) -> MessageError:
    return MessageError(f"unexpected message {kind[0]:02x}/{kind[1]:02x}", FailureReason.INCORRECT_MESSAGE)
