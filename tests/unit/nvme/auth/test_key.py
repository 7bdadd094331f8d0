"""Keys in nvme-cli's form, and in files that nobody else may read."""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.nvme.auth.key import DhchapKey, KeyFile, write_key_file
from spdk_ftl_py.nvme.auth.messages import HashId

# The example of Base 2.0 section 8.13.5.8.
PUBLISHED_SECRET = bytes.fromhex("89aeb31a874eaf84841b46736b0dfdf2ba58d30aa2a545a3e235a3521e07594c")
PUBLISHED = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"

keys = st.builds(
    DhchapKey,
    st.sampled_from((32, 48, 64)).flatmap(lambda count: st.binary(min_size=count, max_size=count)),
    st.none() | st.sampled_from(HashId),
)


def test_the_published_example_is_read_and_written() -> None:
    key = DhchapKey.parse(PUBLISHED)
    assert (key.secret, key.transform) == (PUBLISHED_SECRET, None)
    assert key.format() == PUBLISHED


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_length_goes_with_any_transform(number: int) -> None:
    assert DhchapKey.parse(PUBLISHED.replace(":00:", f":{number:02x}:")).transform is HashId(number)


@given(keys)
def test_a_key_survives_its_text(key: DhchapKey) -> None:
    assert DhchapKey.parse(key.format()) == key


def with_crc(secret: bytes) -> str:
    return base64.b64encode(secret + zlib.crc32(secret).to_bytes(4, "little")).decode()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "form"),
        (PUBLISHED[:-1], "form"),
        (PUBLISHED + "x", "form"),
        (PUBLISHED.replace("DHHC-1", "DHHC-2"), "form"),
        (PUBLISHED.replace("DHHC-1", "NVMeTLSkey-1"), "form"),
        (PUBLISHED.replace(":00:", ":0:"), "form"),
        (PUBLISHED.replace(":00:", ":04:"), "hash 04"),
        (PUBLISHED.replace(":00:", ":ff:"), "hash ff"),
        (PUBLISHED.replace("Q2n:", "Q2m:"), "checksum"),
        (PUBLISHED.replace("ia6z", "ia6y"), "checksum"),
        (PUBLISHED.replace("Q2n:", "Q2:"), "base64"),
        (f"DHHC-1:00:{with_crc(bytes(31))}:", "31 bytes"),
        (f"DHHC-1:00:{with_crc(bytes(65))}:", "65 bytes"),
        (f"DHHC-1:00:{with_crc(b'')}:", "0 bytes"),
        ("DHHC-1:00:AAA=:", "0 bytes"),
    ],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str, wrong: str) -> None:
    with pytest.raises(ParameterError, match=wrong) as caught:
        DhchapKey.parse(text)
    assert text == "" or text[10:] not in caught.value.message


@given(st.text(max_size=200) | st.text("DHC-1:0abZ+/=", max_size=120))
def test_any_text_is_a_key_or_a_parameter_error(text: str) -> None:
    try:
        DhchapKey.parse(text)
    except ParameterError:
        pass


def test_the_secret_is_not_in_a_repr() -> None:
    key = DhchapKey.generate(HashId.SHA512)
    assert len(key.secret) == 64
    assert repr(key.secret) not in repr(key)
    assert DhchapKey.generate() != DhchapKey.generate()


def test_a_file_that_is_written_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    path, first, second = tmp_path / "key", DhchapKey.generate(), DhchapKey.generate(HashId.SHA384)
    before = os.umask(0)
    try:
        write_key_file(path, first)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    source = KeyFile(path)
    assert source.load() == first
    write_key_file(path, second)
    assert source.load() == second
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o777])
def test_a_file_that_others_can_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_text(PUBLISHED)
    path.chmod(mode)
    with pytest.raises(ParameterError, match=f"mode {mode:04o}.*chmod 0600"):
        KeyFile(path).load()
    path.chmod(0o400)
    assert KeyFile(path).load().secret == PUBLISHED_SECRET


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_key_file(path, DhchapKey.generate())
    owner = path.stat().st_uid
    real = os.fstat

    def foreign(fd: int) -> os.stat_result:
        info = list(real(fd))
        info[4] = 4242
        return os.stat_result(info)

    monkeypatch.setattr(os, "fstat", foreign)
    with pytest.raises(ParameterError, match=f"belongs to user 4242.*chown it to user {owner}"):
        KeyFile(path).load()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "key", tmp_path / "link", tmp_path / "pipe"
    write_key_file(path, DhchapKey.generate())
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    for wrong in (link, pipe, tmp_path, tmp_path / "absent"):
        with pytest.raises(ParameterError, match="key file"):
            KeyFile(wrong).load()


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"DHHC-1:00:", PUBLISHED.encode() + b" " * 300, bytes(1 << 20)])
def test_a_file_without_a_key_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ParameterError, match=r"key file .*/key is not of the form"):
        KeyFile(path).load()
