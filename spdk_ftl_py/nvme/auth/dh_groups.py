"""The finite fields of RFC 7919, with `cryptography`.

That library has no names for them, so this module calculates their primes as appendix A of the RFC defines them: 2^b -
2^(b-64) + (floor(2^(b-130) e) + X) 2^64 - 1. The generator is 2.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .messages import DhGroup, FailureReason, MessageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.dh import DHParameterNumbers, DHParameters

_GENERATOR: Final = 2
_X: Final = {
    DhGroup.FFDHE2048: 560316,
    DhGroup.FFDHE3072: 2625351,
    DhGroup.FFDHE4096: 5736041,
    DhGroup.FFDHE6144: 15705020,
    DhGroup.FFDHE8192: 10965728,
}
_GUARD_BITS: Final = 64
"""Extra bits of e, against rounding errors."""


@functools.cache
def prime(group: DhGroup) -> int:
    """The safe prime of a group other than NULL."""
    bits = group.bits
    return (1 << bits) - (1 << (bits - 64)) + ((_e_times_2_to(bits - 130) + _X[group]) << 64) - 1


def _e_times_2_to(bits: int) -> int:
    term = 1 << (bits + _GUARD_BITS)
    total, n = 0, 0
    while term:
        total += term
        n += 1
        term //= n
    return total >> _GUARD_BITS


@functools.cache
def available() -> bool:
    """Whether this `cryptography` has finite-field Diffie-Hellman. The library has announced its removal. Without it
    only the NULL group is left."""
    try:
        from cryptography.hazmat.primitives.asymmetric import dh  # noqa: F401
    except ImportError:
        return False
    return True


class DhKey:
    """A private value for one exchange, and its public value. The group must not be NULL."""

    def __init__(self, group: DhGroup) -> None:
        """Takes some milliseconds of CPU time: 1 for ffdhe2048, 11 for ffdhe8192. shared_secret() takes the same
        again."""
        self._group = group
        self._private = _parameters(group).generate_private_key()
        self.public_value = _to_bytes(self._private.public_key().public_numbers().y, group)

    def shared_secret(self, peer_value: bytes) -> bytes:
        """The secret, as long as the group's prime. Raises MessageError for a peer value whose secret anybody could
        guess."""
        from cryptography.hazmat.primitives.asymmetric import dh

        y = int.from_bytes(peer_value, "big")
        # In a group with a safe prime these three are the only elements of small order.
        if not 1 < y < prime(self._group) - 1:
            raise MessageError("a DH value that is 0, 1, -1 or not in the group", FailureReason.AUTHENTICATION_FAILED)
        with _no_deprecation():
            peer = dh.DHPublicNumbers(y, _numbers(self._group)).public_key()
        try:
            secret = self._private.exchange(peer)
        except ValueError as error:
            raise MessageError(f"an invalid DH value: {error}", FailureReason.AUTHENTICATION_FAILED) from error
        return secret.rjust(self._group.bits // 8, b"\0")


def _to_bytes(number: int, group: DhGroup) -> bytes:
    return number.to_bytes(group.bits // 8, "big")


@functools.cache
def _numbers(group: DhGroup) -> DHParameterNumbers:
    from cryptography.hazmat.primitives.asymmetric import dh

    with _no_deprecation():
        return dh.DHParameterNumbers(prime(group), _GENERATOR)


@functools.cache
def _parameters(group: DhGroup) -> DHParameters:
    return _numbers(group).parameters()


@contextlib.contextmanager
def _no_deprecation() -> Iterator[None]:
    """Hides the deprecation warning: NVMe has no other exchange, so a user cannot act on it. For the event loop only,
    because it is not thread-safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
