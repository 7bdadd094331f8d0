"""Pre-shared keys of TLS: their interchange format, key files, and the keys that TLS uses.

NVMe/TCP Transport 1.1, section 3.6.1. The configured key becomes a retained key, which is bound to the host. The host
names its key by an identity. The retained key and the identity give the key that TLS uses.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...errors import ParameterError
from ...text import show_name
from .key import read_key_text
from .messages import HashId

PSK_BYTES: Final = (32, 48)
_CRC_BYTES: Final = 4
_FORM: Final = re.compile(r"NVMeTLSkey-1:([0-9a-fA-F]{2}):([A-Za-z0-9+/]+={0,2}):")
_IDENTITY: Final = re.compile(
    r"NVMe([01])R0([12]) ([^ \x00-\x1f\x7f]+) ([^ \x00-\x1f\x7f]+)(?: ([A-Za-z0-9+/]+={0,2}))?"
)
_CONTEXT_BYTES_MAX: Final = 255
_MAKE: Final = "`nvme gen-tls-key` makes one"


@dataclass(frozen=True)
class TlsPsk:
    """The parameters of a TLS session. sha384: the hash of the key, which selects the cipher suite
    (TLS_AES_256_GCM_SHA384, otherwise TLS_AES_128_GCM_SHA256)."""

    identity: str
    key: bytes = field(repr=False)
    sha384: bool


@dataclass(frozen=True)
class Psk:
    """A configured key of 32 or 48 bytes. With ``transform``, the retained key is bound to each host; without it, the
    key is used as it is."""

    secret: bytes = field(repr=False)
    transform: HashId | None = None

    def __post_init__(self) -> None:
        bound = None if self.transform is None else self.transform.hash_bytes
        if len(self.secret) not in PSK_BYTES or bound not in (None, len(self.secret)):
            raise ParameterError(
                f"a TLS key for hash {self.transform or 0:02x} does not have {len(self.secret)} bytes "
                f"(00: 32 or 48, 01: 32, 02: 48): {_MAKE}"
            )

    @classmethod
    def generate(cls, transform: HashId = HashId.SHA256) -> Psk:
        return cls(secrets.token_bytes(transform.hash_bytes), transform)

    @classmethod
    def parse(cls, text: str, what: str = "TLS key") -> Psk:
        """Parses ``NVMeTLSkey-1:hh:BASE64:``. Raises ParameterError; its message never contains the key."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ParameterError(f"{what} is not of the form NVMeTLSkey-1:hh:BASE64: ; {_MAKE}")
        number = int(match[1], 16)
        if number > HashId.SHA384:
            raise ParameterError(f"{what} is for hash {number:02x}, but only 00 to 02 exist: {_MAKE}")
        try:
            raw = base64.b64decode(match[2], validate=True)
        except binascii.Error as error:
            raise ParameterError(f"{what} is not base64 ({error}): {_MAKE}") from None
        secret, crc = raw[:-_CRC_BYTES], raw[-_CRC_BYTES:]
        if len(secret) not in PSK_BYTES:
            raise ParameterError(f"{what} has {len(secret)} bytes, but must have 32 or 48: {_MAKE}")
        if zlib.crc32(secret).to_bytes(_CRC_BYTES, "little") != crc:
            raise ParameterError(f"{what} does not match its checksum: copy the whole key")
        return cls(secret, HashId(number) if number else None)

    def format(self) -> str:
        """The secret as text."""
        raw = self.secret + zlib.crc32(self.secret).to_bytes(_CRC_BYTES, "little")
        return f"NVMeTLSkey-1:{self.transform or 0:02x}:{base64.b64encode(raw).decode()}:"

    @property
    def sha384(self) -> bool:
        return len(self.secret) == HashId.SHA384.hash_bytes

    @property
    def _hash(self) -> hashes.HashAlgorithm:
        return hashes.SHA384() if self.sha384 else hashes.SHA256()

    def retained(self, hostnqn: str) -> bytes:
        """The retained key for that host."""
        if self.transform is None:
            return self.secret
        return self._expand_label(self.secret, b"HostNQN", hostnqn.encode())

    def for_tls(self, hostnqn: str, subnqn: str, version: int = 0) -> TlsPsk:
        """The key and identity for TLS. Raises ParameterError if the names are too long for that version of an
        identity, or contain a space, which would make the identity ambiguous."""
        for nqn in (hostnqn, subnqn):
            if " " in nqn:
                raise ParameterError(
                    f"NQN {show_name(nqn)} contains a space, so it can't be part of a PSK identity of TLS"
                )
        retained = self.retained(hostnqn)
        number = "02" if self.sha384 else "01"
        identity = f"NVMe{version}R{number} {hostnqn} {subnqn}"
        context = identity
        if version == 1:
            mac = hmac.HMAC(retained, self._hash)
            mac.update(f"{hostnqn} {subnqn} NVMe-over-Fabrics".encode())
            digest = base64.b64encode(mac.finalize()).decode()
            identity = f"{identity} {digest}"
            context = f"{number} {digest}"
        if len(context.encode()) > _CONTEXT_BYTES_MAX:
            raise ParameterError(
                f"host NQN and subsystem NQN are too long for TLS: a PSK identity has at most {_CONTEXT_BYTES_MAX} "
                f"bytes, but {show_name(identity)} has {len(identity.encode())}: give the host a shorter NQN"
            )
        return TlsPsk(identity, self._expand_label(retained, b"nvme-tls-psk", context.encode()), self.sha384)

    def _expand_label(self, secret: bytes, label: bytes, context: bytes) -> bytes:
        """HKDF-Extract without salt, then HKDF-Expand-Label of RFC 8446."""
        label = b"tls13 " + label
        info = len(secret).to_bytes(2, "big") + bytes([len(label)]) + label + bytes([len(context)]) + context
        return HKDF(self._hash, len(secret), None, info).derive(secret)


@dataclass(frozen=True)
class PskIdentity:
    """The identity that a host sends in the clear, before any proof."""

    version: int
    sha384: bool
    hostnqn: str
    subnqn: str

    @classmethod
    def parse(cls, identity: bytes) -> PskIdentity | None:
        """Returns None if it is not an NVMe identity of a configured key."""
        try:
            match = _IDENTITY.fullmatch(identity.decode())
        except UnicodeDecodeError:
            return None
        if match is None or (match[5] is None) != (match[1] == "0"):
            return None
        return cls(int(match[1]), match[2] == "2", match[3], match[4])


class PskSource(Protocol):
    """A source that provides a key when it is needed."""

    def load(self) -> Psk:
        """Raises ParameterError."""


@dataclass(frozen=True)
class PskFile:
    """A file with one key. It is read for each handshake. To rotate the key, rename a new file over it."""

    path: Path

    def load(self) -> Psk:
        """Raises ParameterError if the file cannot be read, belongs to neither the user nor root, is accessible to
        others, or holds no key."""
        what = f"key file {self.path}"
        return Psk.parse(read_key_text(self.path, what), what)


@dataclass(frozen=True)
class HeldPsk:
    """A key in memory."""

    psk: Psk

    def load(self) -> Psk:
        return self.psk
