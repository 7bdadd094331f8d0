"""Pre-shared keys of TLS: their interchange format, the files they stand in, and what TLS is given of them.

NVMe/TCP Transport 1.1, section 3.6.1. The key that is configured becomes a retained one, which knows the host; that and
the identity, by which the host says which key it means, become the one that TLS uses.
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
    """What a TLS session is given. sha384: the key's hash, and so the cipher suite (TLS_AES_256_GCM_SHA384, else
    TLS_AES_128_GCM_SHA256)."""

    identity: str
    key: bytes = field(repr=False)
    sha384: bool


@dataclass(frozen=True)
class Psk:
    """A key of 32 or 48 bytes as it is configured. With ``transform`` it is bound to each host that uses it; without,
    it is used as it is."""

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
        """From ``NVMeTLSkey-1:hh:BASE64:``. Raises ParameterError, which never has the key in it."""
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
        """The secret itself, as text."""
        raw = self.secret + zlib.crc32(self.secret).to_bytes(_CRC_BYTES, "little")
        return f"NVMeTLSkey-1:{self.transform or 0:02x}:{base64.b64encode(raw).decode()}:"

    @property
    def sha384(self) -> bool:
        return len(self.secret) == HashId.SHA384.hash_bytes

    @property
    def _hash(self) -> hashes.HashAlgorithm:
        return hashes.SHA384() if self.sha384 else hashes.SHA256()

    def retained(self, hostnqn: str) -> bytes:
        """What is left of the configured key for that host."""
        if self.transform is None:
            return self.secret
        return self._expand_label(self.secret, b"HostNQN", hostnqn.encode())

    def for_tls(self, hostnqn: str, subnqn: str, version: int = 0) -> TlsPsk:
        """Raises ParameterError where the names are too long for that version of an identity, or have a space in them:
        then it would not be clear whose it is."""
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
        """HKDF-Extract without a salt, then HKDF-Expand-Label of RFC 8446."""
        label = b"tls13 " + label
        info = len(secret).to_bytes(2, "big") + bytes([len(label)]) + label + bytes([len(context)]) + context
        return HKDF(self._hash, len(secret), None, info).derive(secret)


@dataclass(frozen=True)
class PskIdentity:
    """What a host says in the clear, before anything is proved."""

    version: int
    sha384: bool
    hostnqn: str
    subnqn: str

    @classmethod
    def parse(cls, identity: bytes) -> PskIdentity | None:
        """None: it is none of NVMe's for a configured key."""
        try:
            match = _IDENTITY.fullmatch(identity.decode())
        except UnicodeDecodeError:
            return None
        if match is None or (match[5] is None) != (match[1] == "0"):
            return None
        return cls(int(match[1]), match[2] == "2", match[3], match[4])


class PskSource(Protocol):
    """Where a key comes from when it is needed."""

    def load(self) -> Psk:
        """Raises ParameterError."""


@dataclass(frozen=True)
class PskFile:
    """A file with one key. It is read for each handshake: to rotate the key, rename a new file over it."""

    path: Path

    def load(self) -> Psk:
        """Raises ParameterError where it can't be read, is not the user's own (or root's), is open to others, or has no
        key in it."""
        what = f"key file {self.path}"
        return Psk.parse(read_key_text(self.path, what), what)


@dataclass(frozen=True)
class HeldPsk:
    """A key in memory."""

    psk: Psk

    def load(self) -> Psk:
        return self.psk
