"""Secrets of DH-HMAC-CHAP: nvme-cli's text form, and key files."""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from ...errors import ParameterError
from .messages import HashId

KEY_BYTES: Final = (32, 48, 64)
_CRC_BYTES: Final = 4
_FORM: Final = re.compile(r"DHHC-1:([0-9a-fA-F]{2}):([A-Za-z0-9+/]+={0,2}):")
_FILE_BYTES_MAX: Final = 256
_MAKE: Final = "`nvme gen-dhchap-key` makes one"


@dataclass(frozen=True)
class DhchapKey:
    """A secret of 32, 48 or 64 bytes. With ``transform``, the key in use is the HMAC of the secret with its owner's
    NQN, so two hosts that share a secret do not share a key."""

    secret: bytes = field(repr=False)
    transform: HashId | None = None

    def __post_init__(self) -> None:
        if len(self.secret) not in KEY_BYTES:
            raise ParameterError(f"a DH-HMAC-CHAP key has 32, 48 or 64 bytes, not {len(self.secret)}: {_MAKE}")

    @classmethod
    def generate(cls, transform: HashId = HashId.SHA256) -> DhchapKey:
        return cls(secrets.token_bytes(transform.hash_bytes), transform)

    @classmethod
    def parse(cls, text: str, what: str = "DH-HMAC-CHAP key") -> DhchapKey:
        """Parses ``DHHC-1:hh:BASE64:``. Raises ParameterError; its message never contains the key."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ParameterError(f"{what} is not of the form DHHC-1:hh:BASE64: ; {_MAKE}")
        number = int(match[1], 16)
        if number > HashId.SHA512:
            raise ParameterError(f"{what} is for hash {number:02x}, but only 00 to 03 exist: {_MAKE}")
        try:
            raw = base64.b64decode(match[2], validate=True)
        except binascii.Error as error:
            raise ParameterError(f"{what} is not base64 ({error}): {_MAKE}") from None
        secret, crc = raw[:-_CRC_BYTES], raw[-_CRC_BYTES:]
        if len(secret) not in KEY_BYTES:
            raise ParameterError(f"{what} has {len(secret)} bytes, but must have 32, 48 or 64: {_MAKE}")
        if zlib.crc32(secret).to_bytes(_CRC_BYTES, "little") != crc:
            raise ParameterError(f"{what} does not match its checksum: copy the whole key")
        return cls(secret, HashId(number) if number else None)

    def format(self) -> str:
        """The secret as text."""
        raw = self.secret + zlib.crc32(self.secret).to_bytes(_CRC_BYTES, "little")
        return f"DHHC-1:{self.transform or 0:02x}:{base64.b64encode(raw).decode()}:"


class KeySource(Protocol):
    """A source that provides a key when it is needed."""

    def load(self) -> DhchapKey:
        """Raises ParameterError."""


@dataclass(frozen=True)
class HeldKey:
    """A key in memory."""

    key: DhchapKey

    def load(self) -> DhchapKey:
        return self.key


@dataclass(frozen=True)
class KeyFile:
    """A file with one key. It is read for each authentication. To rotate the key, rename a new file over it."""

    path: Path

    def load(self) -> DhchapKey:
        """Raises ParameterError if the file cannot be read, belongs to neither the user nor root, is accessible to
        others, or holds no key."""
        what = f"key file {self.path}"
        return DhchapKey.parse(read_key_text(self.path, what), what)


def read_key_text(path: Path, what: str) -> str:
    """Reads the only line of a file. The file must belong to this user or root and be readable by its owner only.
    Returns an empty text if the content cannot be a key. Raises ParameterError if the file cannot be used."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ParameterError(f"{what}: {os.strerror(error.errno or 0)}: it must be a file, not a link") from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ParameterError(f"{what} is not a file")
        if info.st_uid not in (os.geteuid(), 0):
            raise ParameterError(
                f"{what} belongs to user {info.st_uid}, who can change it: chown it to user {os.geteuid()}"
            )
        if info.st_mode & 0o077:
            raise ParameterError(f"{what} has mode {stat.S_IMODE(info.st_mode):04o}, open to others: chmod 0600 it")
        raw = os.read(fd, _FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ParameterError(f"{what}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)
    try:
        return raw.decode("ascii").strip() if len(raw) <= _FILE_BYTES_MAX else ""
    except UnicodeDecodeError:
        return ""


class _Formattable(Protocol):
    def format(self) -> str: ...


def write_key_file(path: Path, key: _Formattable) -> None:
    """Writes the file with mode 0600, completely or not at all. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            # SPDK does not accept a TLS key that is followed by a newline.
            file.write(key.format())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class HostKeys:
    """The keys that a host and a controller share. ``ctrlr_key`` None: the controller cannot prove its identity."""

    key: KeySource
    ctrlr_key: KeySource | None = None
