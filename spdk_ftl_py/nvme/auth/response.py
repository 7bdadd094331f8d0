"""Calculations with keys and challenges (Base 2.0 section 8.13.5.5 to 8.13.5.7)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import constant_time, hashes, hmac

from .key import DhchapKey
from .messages import DhGroup, HashId

_ALGORITHMS: Final[dict[HashId, type[hashes.HashAlgorithm]]] = {
    HashId.SHA256: hashes.SHA256,
    HashId.SHA384: hashes.SHA384,
    HashId.SHA512: hashes.SHA512,
}
_KEY_SUFFIX: Final = b"NVMe-over-Fabrics"
_FROM_HOST: Final = b"HostHost"
_FROM_CONTROLLER: Final = b"Controller"
_SEQNUM_MAX: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Policy:
    """The permitted hashes and groups, in order of preference."""

    hash_ids: tuple[HashId, ...] = (HashId.SHA256, HashId.SHA384, HashId.SHA512)
    dh_groups: tuple[DhGroup, ...] = (
        DhGroup.FFDHE3072,
        DhGroup.FFDHE4096,
        DhGroup.FFDHE2048,
        DhGroup.FFDHE6144,
        DhGroup.FFDHE8192,
        DhGroup.NULL,
    )
    """The largest groups do not come first. They take ten times as long, and anybody who names a permitted host can
    cause that cost."""


class Sequence:
    """Sequence numbers of challenges, from 1 to 2^32 - 1, starting at a random one."""

    def __init__(self) -> None:
        self._last = secrets.randbelow(_SEQNUM_MAX)

    def next(self) -> int:
        self._last = self._last % _SEQNUM_MAX + 1
        return self._last


def host_response(
    key: DhchapKey, hash_id: HashId, *, challenge: bytes, seqnum: int, tid: int, hostnqn: str, subnqn: str,
    dh_secret: bytes | None,
) -> bytes:  # fmt: skip
    """The host's response, which proves its identity. dh_secret None: the NULL group."""
    return _response(key, hash_id, challenge, seqnum, tid, _FROM_HOST, hostnqn, subnqn, dh_secret)


def controller_response(
    key: DhchapKey, hash_id: HashId, *, challenge: bytes, seqnum: int, tid: int, hostnqn: str, subnqn: str,
    dh_secret: bytes | None,
) -> bytes:  # fmt: skip
    """The controller's response to the challenge in the host's reply, which proves its identity."""
    return _response(key, hash_id, challenge, seqnum, tid, _FROM_CONTROLLER, subnqn, hostnqn, dh_secret)


def same(one: bytes, other: bytes) -> bool:
    """Compares in a time that does not reveal where they differ."""
    return constant_time.bytes_eq(one, other)


def transformed_key(key: DhchapKey, nqn: str) -> bytes:
    """The key as its owner, nqn, uses it (see DhchapKey)."""
    if key.transform is None:
        return key.secret
    return _hmac(key.transform, key.secret, nqn.encode() + _KEY_SUFFIX)


def session_key(hash_id: HashId, dh_secret: bytes) -> bytes:
    digest = hashes.Hash(_ALGORITHMS[hash_id]())
    digest.update(dh_secret)
    return digest.finalize()


def augmented_challenge(hash_id: HashId, challenge: bytes, dh_secret: bytes | None) -> bytes:
    """With the NULL group this is the challenge itself."""
    if dh_secret is None:
        return challenge
    return _hmac(hash_id, session_key(hash_id, dh_secret), challenge)


def _response(
    key: DhchapKey, hash_id: HashId, challenge: bytes, seqnum: int, tid: int, role: bytes, own_nqn: str, peer_nqn: str,
    dh_secret: bytes | None,
) -> bytes:  # fmt: skip
    secure_channel = b"\0"
    message = (
        augmented_challenge(hash_id, challenge, dh_secret)
        + seqnum.to_bytes(4, "little")
        + tid.to_bytes(2, "little")
        + secure_channel
        + role
        + own_nqn.encode()
        + b"\0"
        + peer_nqn.encode()
    )
    return _hmac(hash_id, transformed_key(key, own_nqn), message)


def _hmac(hash_id: HashId, key: bytes, message: bytes) -> bytes:
    mac = hmac.HMAC(key, _ALGORITHMS[hash_id]())
    mac.update(message)
    return mac.finalize()
