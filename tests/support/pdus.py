"""NVMe/TCP PDUs made and taken apart by hand, to talk to a qpair as a peer would that need not obey the rules."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from spdk_ftl_py._shim import crc32c

H2C_TERM, C2H_TERM, CMD, RESP, H2C_DATA, C2H_DATA, R2T = 2, 3, 4, 5, 6, 7, 9
HDGSTF, DDGSTF, LAST, SUCCESS = 1, 2, 4, 8

FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DSM = 0x00, 0x01, 0x02, 0x05, 0x08, 0x09
WRITE_UNCORRECTABLE, VERIFY, COPY = 0x04, 0x0C, 0x19
FUSE_FIRST, FUSE_SECOND = 0x41, 0x42
ZONE_SEND, ZONE_RECV, APPEND, FABRICS = 0x79, 0x7A, 0x7D, 0x7F

SGL_TRANSPORT, SGL_IN_CAPSULE = 0x5A, 0x01
DNR = 0x8000


@dataclass(frozen=True)
class Digests:
    header: bool = False
    data: bool = False


NO_DIGESTS = Digests()


@dataclass
class Pdu:
    """A received PDU, its digests verified; psh is what follows the common header."""

    type: int
    flags: int
    psh: bytes
    data: bytes

    def u16(self, offset: int) -> int:
        return int(struct.unpack_from("<H", self.psh, offset - 8)[0])

    def u32(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self.psh, offset - 8)[0])

    def u64(self, offset: int) -> int:
        return int(struct.unpack_from("<Q", self.psh, offset - 8)[0])

    @property
    def status(self) -> int:
        """Of a CapsuleResp: SCT << 8 | SC, without DNR."""
        return (self.u16(22) >> 1) & 0x7FF

    @property
    def dnr(self) -> bool:
        return bool(self.u16(22) & DNR)

    @property
    def cid(self) -> int:
        return self.u16(20) if self.type == RESP else self.u16(8)

    @property
    def sqhd(self) -> int:
        return self.u16(16)


def pdu(kind: int, psh: bytes, data: bytes = b"", *, flags: int = 0, digests: Digests = NO_DIGESTS) -> bytes:
    """A well-formed PDU; spoil it afterwards."""
    hlen = 8 + len(psh)
    pdo = 0
    plen = hlen
    term = kind in (H2C_TERM, C2H_TERM)
    if digests.header and not term:
        flags |= HDGSTF
        plen += 4
    if data and not term:
        pdo = plen
        if digests.data:
            flags |= DDGSTF
            plen += 4
    plen += len(data)
    header = struct.pack("<BBBBI", kind, flags, hlen, pdo, plen) + psh
    out = header
    if digests.header and not term:
        out += struct.pack("<I", crc32c(header))
    out += data
    if flags & DDGSTF and not term:
        out += struct.pack("<I", crc32c(data))
    return out


def sqe(
    opcode: int,
    cid: int,
    *,
    nsid: int = 1,
    slba: int = 0,
    cdw12: int = 0,
    cdw13: int = 0,
    sgl_type: int = SGL_TRANSPORT,
    sgl_length: int = 0,
    sgl_address: int = 0,
    flags: int = 0x40,
) -> bytes:
    return struct.pack(
        "<BBHIQQQI3xBQIIII",
        opcode, flags, cid, nsid, 0, 0, sgl_address, sgl_length, sgl_type, slba, cdw12, cdw13, 0, 0,
    )  # fmt: skip


def command(entry: bytes, data: bytes = b"", *, digests: Digests = NO_DIGESTS) -> bytes:
    return pdu(CMD, entry, data, digests=digests)


def write(cid: int, lba: int, data: bytes, *, block_bytes: int = 4096, digests: Digests = NO_DIGESTS) -> bytes:
    """With in-capsule data."""
    entry = sqe(WRITE, cid, slba=lba, cdw12=len(data) // block_bytes - 1, sgl_type=SGL_IN_CAPSULE, sgl_length=len(data))
    return command(entry, data, digests=digests)


def read(cid: int, lba: int, blocks: int, *, block_bytes: int = 4096, digests: Digests = NO_DIGESTS) -> bytes:
    return command(sqe(READ, cid, slba=lba, cdw12=blocks - 1, sgl_length=blocks * block_bytes), digests=digests)


def h2c_data(
    cid: int, ttag: int, offset: int, data: bytes, *, flags: int = LAST, datal: int | None = None,
    digests: Digests = NO_DIGESTS,
) -> bytes:  # fmt: skip
    psh = struct.pack("<HHIII", cid, ttag, offset, len(data) if datal is None else datal, 0)
    return pdu(H2C_DATA, psh, data, flags=flags, digests=digests)


def c2h_data(
    cid: int, offset: int, data: bytes, *, flags: int = LAST | SUCCESS, datal: int | None = None,
    digests: Digests = NO_DIGESTS,
) -> bytes:  # fmt: skip
    psh = struct.pack("<HHIII", cid, 0, offset, len(data) if datal is None else datal, 0)
    return pdu(C2H_DATA, psh, data, flags=flags, digests=digests)


def r2t(cid: int, ttag: int, offset: int, length: int, *, digests: Digests = NO_DIGESTS) -> bytes:
    return pdu(R2T, struct.pack("<HHIII", cid, ttag, offset, length, 0), digests=digests)


def response(cid: int, *, status: int = 0, result: int = 0, sqhd: int = 0, digests: Digests = NO_DIGESTS) -> bytes:
    return pdu(RESP, struct.pack("<QHHHH", result, sqhd, 0, cid, status << 1), digests=digests)


def term_req(kind: int, fes: int, offender: bytes = b"") -> bytes:
    return pdu(kind, struct.pack("<HI10x", fes, 0), offender)


def spoil(raw: bytes, offset: int, value: int, size: int = 1) -> bytes:
    return raw[:offset] + value.to_bytes(size, "little") + raw[offset + size :]


def split(stream: bytes, digests: Digests = NO_DIGESTS) -> tuple[list[Pdu], bytes]:
    """Whole PDUs, and what is left. AssertionError when a digest or a length is wrong."""
    out = []
    while len(stream) >= 8:
        kind, flags, hlen, pdo, plen = struct.unpack_from("<BBBBI", stream)
        assert plen >= hlen >= 8
        if len(stream) < plen:
            break
        raw, stream = stream[:plen], stream[plen:]
        at = hlen
        if kind not in (H2C_TERM, C2H_TERM):
            assert bool(flags & HDGSTF) == digests.header
            if digests.header:
                assert struct.unpack_from("<I", raw, at)[0] == crc32c(raw[:hlen])
                at += 4
        data = b""
        if plen > at:
            if kind in (H2C_TERM, C2H_TERM):
                data = raw[at:]
            else:
                assert pdo == at
                assert bool(flags & DDGSTF) == digests.data
                data = raw[at : plen - 4] if digests.data else raw[at:]
                if digests.data:
                    assert struct.unpack_from("<I", raw, plen - 4)[0] == crc32c(data)
        out.append(Pdu(kind, flags & ~(HDGSTF | DDGSTF), raw[8:hlen], data))
    return out, stream
