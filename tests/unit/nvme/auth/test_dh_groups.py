"""The groups of RFC 7919, and values that a peer may not choose."""

from __future__ import annotations

import hashlib
import warnings

import pytest

from spdk_ftl_py.nvme.auth.dh_groups import DhKey, prime
from spdk_ftl_py.nvme.auth.messages import DhGroup, MessageError

# Of the primes as OpenSSL has them (DH_new_by_nid), big endian.
SHA256_OF_PRIME = {
    DhGroup.FFDHE2048: "9cd3b7f336872f46c09428d1bbc19877a4d440512cda8d1c1cf0cd6e33698966",
    DhGroup.FFDHE3072: "0eaf67db3a839156d5013494a5318a772b5697d270d721f37f092efc69ea5a17",
    DhGroup.FFDHE4096: "4648414224ac881b3d0dc59b466f96d06a558278776807797ecf1f66ff397b3e",
    DhGroup.FFDHE6144: "227ac9066b3ddd9e193670cda2388fa884f65ba0cf98b742d1fe77a6687c79c7",
    DhGroup.FFDHE8192: "770b14efaf6f049929c523113b3fa99a8d11dab1b18af3609590122075d19833",
}
# As RFC 7919 prints it, appendix A.1: first and last words.
FFDHE2048_HEAD = "FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1"
FFDHE2048_TAIL = "886B423861285C97FFFFFFFFFFFFFFFF"

groups = pytest.mark.parametrize("group", [group for group in DhGroup if group is not DhGroup.NULL])


@groups
def test_the_primes_are_those_of_the_rfc(group: DhGroup) -> None:
    raw = prime(group).to_bytes(group.bits // 8, "big")
    assert hashlib.sha256(raw).hexdigest() == SHA256_OF_PRIME[group]
    if group is DhGroup.FFDHE2048:
        assert raw.hex().upper().startswith(FFDHE2048_HEAD)
        assert raw.hex().upper().endswith(FFDHE2048_TAIL)


@groups
def test_both_sides_get_the_same_secret(group: DhGroup) -> None:
    one, other = DhKey(group), DhKey(group)
    secret = one.shared_secret(other.public_value)
    assert secret == other.shared_secret(one.public_value)
    assert len(secret) == len(one.public_value) == group.bits // 8
    assert one.public_value != other.public_value


@groups
def test_a_value_that_gives_the_secret_away_is_refused(group: DhGroup) -> None:
    key, count = DhKey(group), group.bits // 8
    for value in (0, 1, prime(group) - 1, prime(group), prime(group) + 1, (1 << group.bits) - 1):
        with pytest.raises(MessageError, match="0, 1, -1 or not in the group"):
            key.shared_secret(value.to_bytes(count, "big"))


def test_a_user_is_not_told_of_what_he_cannot_change() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        key = DhKey(DhGroup.FFDHE2048)
        key.shared_secret(DhKey(DhGroup.FFDHE2048).public_value)
    assert not told
