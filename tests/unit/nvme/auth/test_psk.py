"""TLS keys: the interchange format, files, and what becomes of a key. Expected values are SPDK v26.05's (its
include/spdk_internal/nvme_tcp.h, compiled and run on these keys) and, of identities with a digest, libnvme's published
ones (test/psk.c)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.nvme.auth.key import write_key_file
from spdk_ftl_py.nvme.auth.messages import HashId
from spdk_ftl_py.nvme.auth.psk import Psk, PskFile, PskIdentity

HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
SUBNQN = "nqn.2014-08.org.nvmexpress:uuid:36ebf5a9-1df9-47b3-a6d0-e9ba32e428a2"
KEY_32 = "VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:"
KEY_48 = "VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwP/w0S89ELi3W2LxIcLXVsDn8kXZQ==:"

SPDK = [
    (
        f"NVMeTLSkey-1:01:{KEY_32}",
        "f0af1bc718d4f23bdd7c1683a3d79bd953ea789d106a0f5207bb574bbe5446ce",
        "8e981666c96a88ef69f6e6a0460ff77ba9039e3d38cbdeee264c4de09d75d246",
    ),
    (
        f"NVMeTLSkey-1:00:{KEY_32}",
        "5512dbb6737d0106f65975b773dfb011ffc344bcf442e2dd6d8bc4870b5d5b03",
        "464d9438c6d8b3c9f0a426b780872e3fc456bf43410e9d3f2de4c95684e0e48b",
    ),
    (
        f"NVMeTLSkey-1:02:{KEY_48}",
        "e42f24faf45337718cfd5068c928d40d4d22b7a915a47bc50280933f9530c5d64980ecfefb890b0b59016a3781c6b93e",
        "051e9924174204ffcd2c29216827b8714da37a8734e483aff6ba9d821371a91f4c1536cf74514848c7a19d478a627af1",
    ),
    (
        f"NVMeTLSkey-1:00:{KEY_48}",
        "5512dbb6737d0106f65975b773dfb011ffc344bcf442e2dd6d8bc4870b5d5b03ffc344bcf442e2dd6d8bc4870b5d5b03",
        "a733bf4dcd1546fb5b9ae22ac74d265f4cb763764cc53f4902f3a95b7c731a4b968ba9afbbef494b96ffa2bb9d3ac7fc",
    ),
]
LIBNVME = [
    (f"NVMeTLSkey-1:01:{KEY_32}", "NVMe1R01", "iSbjiStwJ/1TrTvDlt2fjFmzvsytOJelidNnA+X5lEU="),
    (
        f"NVMeTLSkey-1:02:{KEY_48}",
        "NVMe1R02",
        "QhW2+Rp6RzHlNtCslyRxMnwJ11tKKhz8JCAQpQ+XUD8f9td1VeH5h53yz2wKJG1a",
    ),
]


@pytest.mark.parametrize(("text", "retained", "key"), SPDK)
def test_what_becomes_of_a_key_is_what_spdk_makes_of_it(text: str, retained: str, key: str) -> None:
    psk = Psk.parse(text)
    assert psk.retained(HOSTNQN).hex() == retained
    used = psk.for_tls(HOSTNQN, SUBNQN)
    number = "02" if len(key) == 96 else "01"
    assert used.identity == f"NVMe0R{number} {HOSTNQN} {SUBNQN}"
    assert (used.key.hex(), used.sha384) == (key, number == "02")
    assert psk.format() == text


@pytest.mark.parametrize(("text", "start", "digest"), LIBNVME)
def test_an_identity_with_a_digest_is_libnvmes(text: str, start: str, digest: str) -> None:
    used = Psk.parse(text).for_tls("nqn.psk-test-host", "nqn.psk-test-subsys", 1)
    assert used.identity == f"{start} nqn.psk-test-host nqn.psk-test-subsys {digest}"
    assert used.key != Psk.parse(text).for_tls("nqn.psk-test-host", "nqn.psk-test-subsys", 0).key


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("hash_id", [HashId.SHA256, HashId.SHA384])
def test_an_identity_says_whose_key_it_is(version: int, hash_id: HashId) -> None:
    used = Psk.generate(hash_id).for_tls(HOSTNQN, SUBNQN, version)
    assert PskIdentity.parse(used.identity.encode()) == PskIdentity(version, used.sha384, HOSTNQN, SUBNQN)


@pytest.mark.parametrize(
    "identity",
    [
        b"", b"NVMe0R01", f"NVMe0R03 {HOSTNQN} {SUBNQN}".encode(), f"NVMe2R01 {HOSTNQN} {SUBNQN}".encode(),
        f"NVMe0G01 {HOSTNQN} {SUBNQN}".encode(), f"NVMe0R01 {HOSTNQN}  {SUBNQN}".encode(),
        f"NVMe0R01 {HOSTNQN} {SUBNQN} AAAA".encode(), f"NVMe1R01 {HOSTNQN} {SUBNQN}".encode(), b"\xff" * 40,
        f"NVMe0R01 {HOSTNQN} {SUBNQN}\n".encode(),
    ],
)  # fmt: skip
def test_what_is_no_identity_of_a_configured_key_is_none(identity: bytes) -> None:
    assert PskIdentity.parse(identity) is None


def test_names_too_long_for_an_identity_are_refused_and_not_cut() -> None:
    psk, long = Psk.generate(), "nqn.2026-11.io.example:" + "h" * 200
    with pytest.raises(ParameterError, match="too long for TLS"):
        psk.for_tls(long, SUBNQN)
    with pytest.raises(ParameterError, match="contains a space"):
        psk.for_tls(f"{HOSTNQN} {SUBNQN}", SUBNQN, 1)
    assert psk.for_tls(long, SUBNQN, 1).identity.startswith(f"NVMe1R01 {long} {SUBNQN} ")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not of the form"),
        ("DHHC-1:00:" + KEY_32, "not of the form"),
        (f"NVMeTLSkey-1:01:{KEY_32}"[:-1], "not of the form"),
        (f"NVMeTLSkey-1:03:{KEY_32}", "for hash 03"),
        (f"NVMeTLSkey-1:02:{KEY_32}", "does not have 32 bytes"),
        (f"NVMeTLSkey-1:01:{KEY_48}", "does not have 48 bytes"),
        ("NVMeTLSkey-1:01:WRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:", "checksum"),
        ("NVMeTLSkey-1:00:AAAAAAAA:", "has 2 bytes"),
        ("NVMeTLSkey-1:00:AAAAA:", "base64"),
    ],
)
def test_a_key_that_is_none_is_refused_without_telling_it(text: str, match: str) -> None:
    with pytest.raises(ParameterError, match=match) as error:
        Psk.parse(text)
    assert KEY_32[:12] not in error.value.message


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_a_parameter_error(text: str) -> None:
    for form in (text, f"NVMeTLSkey-1:00:{text}:"):
        try:
            Psk.parse(form)
        except ParameterError:
            pass


def test_a_key_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "psk"
    for psk in (Psk.generate(), Psk.generate(HashId.SHA384)):
        write_key_file(path, psk)
        assert PskFile(path).load() == psk
    path.chmod(0o640)
    with pytest.raises(ParameterError, match="open to others"):
        PskFile(path).load()
    assert psk.secret.hex() not in repr(psk)
