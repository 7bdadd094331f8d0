"""Responses, against the formulas of Base 2.0 section 8.13.5 written out with the standard library."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from spdk_ftl_py.nvme.auth.key import DhchapKey
from spdk_ftl_py.nvme.auth.messages import HashId
from spdk_ftl_py.nvme.auth.response import (
    Sequence,
    augmented_challenge,
    controller_response,
    host_response,
    same,
    session_key,
    transformed_key,
)

HOST, SUBSYSTEM = "nqn.2014-08.org.nvmexpress:uuid:d09c2dee-4b1e-4b4c-a8f3-4c4a8a3ac9a1", "nqn.2026-11.io.example:ftl0"
KEY, CTRLR_KEY = DhchapKey(bytes(range(32)), HashId.SHA256), DhchapKey(bytes(range(48)), None)
NAMES = {HashId.SHA256: "sha256", HashId.SHA384: "sha384", HashId.SHA512: "sha512"}

# RFC 4231, test case 2: key "Jefe", data "what do ya want for nothing?".
RFC_4231 = {
    HashId.SHA256: "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    HashId.SHA384: "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
    HashId.SHA512: "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
    "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
}


@pytest.mark.parametrize("hash_id", HashId)
def test_the_hmac_is_that_of_rfc_4231(hash_id: HashId, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spdk_ftl_py.nvme.auth.response.session_key", lambda hash_id, secret: secret)
    assert augmented_challenge(hash_id, b"what do ya want for nothing?", b"Jefe").hex() == RFC_4231[hash_id]


@pytest.mark.parametrize("hash_id", HashId)
@pytest.mark.parametrize("secret", [None, bytes(255) + b"\x01"], ids=["null", "dh"])
def test_responses_follow_the_formula(hash_id: HashId, secret: bytes | None) -> None:
    name, challenge = NAMES[hash_id], bytes(reversed(range(hash_id.hash_bytes)))
    augmented = challenge
    if secret is not None:
        augmented = hmac.digest(hashlib.new(name, secret).digest(), challenge, name)
        assert session_key(hash_id, secret) == hashlib.new(name, secret).digest()
    tail = augmented + (0x12345678).to_bytes(4, "little") + (0xABCD).to_bytes(2, "little") + b"\0"
    own = hmac.digest(KEY.secret, HOST.encode() + b"NVMe-over-Fabrics", "sha256")
    assert transformed_key(KEY, HOST) == own
    fields = {
        "challenge": challenge, "seqnum": 0x12345678, "tid": 0xABCD, "hostnqn": HOST, "subnqn": SUBSYSTEM,
    }  # fmt: skip
    from_host = host_response(KEY, hash_id, dh_secret=secret, **fields)  # type: ignore[arg-type]
    assert from_host == hmac.digest(own, tail + b"HostHost" + HOST.encode() + b"\0" + SUBSYSTEM.encode(), name)
    from_controller = controller_response(CTRLR_KEY, hash_id, dh_secret=secret, **fields)  # type: ignore[arg-type]
    assert from_controller == hmac.digest(
        CTRLR_KEY.secret, tail + b"Controller" + SUBSYSTEM.encode() + b"\0" + HOST.encode(), name
    )


def test_numbers_of_challenges_are_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda limit: limit - 1)
    sequence = Sequence()
    assert [sequence.next() for _ in range(3)] == [0xFFFFFFFF, 1, 2]


def test_same() -> None:
    assert same(b"abc", b"abc")
    assert not same(b"abc", b"abd")
    assert not same(b"abc", b"ab")
