"""Commands and PDUs each of which a target has to refuse, for what a connection is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

from hostile.malformed_messages import send_message
from hostile.malformed_peer import MalformedPeer, Place
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.wire import AdminOp, Cns, FabricsType, Feature, LogPage, NvmOp, PduType, Property, Sqe
from unit.nvme.nvme_loop import connect_command, ic_req

BLOCK_BYTES = 4096
SAFE_LBA = 8192
"""Honest hosts work below it: what is written by chance is written above."""
IN_CAPSULE_MAX = 4096
"""Of an I/O queue, here."""
ENABLED_CC = 0x00460001


def rw(opcode: int, lba: int, blocks: int, cid: int = 0) -> Sqe:
    length = 0 if opcode == NvmOp.FLUSH else blocks * BLOCK_BYTES
    return Sqe(opcode, cid=cid, nsid=1, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32, cdw12=blocks - 1, sgl_bytes=length)


_Named = tuple[str, Sqe, bytes]


def io_commands(block_count: int, rng: random.Random) -> Iterator[_Named]:
    """Each of which has to be refused with a status; data that come along travel in the capsule."""
    read, write = rw(NvmOp.READ, SAFE_LBA, 1), rw(NvmOp.WRITE, SAFE_LBA, 1)
    either = rng.choice((read, write))
    known = {*NvmOp, AdminOp.FABRICS}
    unknown = rng.choice([opcode for opcode in range(256) if opcode not in known])
    yield "opcode", Sqe(unknown, nsid=1), b""
    yield "opcode of zones", Sqe(rng.choice((0x79, 0x7A, 0x7D)), nsid=1, sgl_bytes=4096), b""
    fctype = rng.choice([kind for kind in range(256) if kind != FabricsType.DISCONNECT])
    yield "fabrics", Sqe(AdminOp.FABRICS, nsid=fctype), b""
    yield "nsid", replace(either, nsid=rng.choice((0, 2, rng.getrandbits(31) + 3, 0xFFFFFFFE, 0xFFFFFFFF))), b""
    yield "nsid of a flush", Sqe(NvmOp.FLUSH, nsid=rng.choice((0, 2, 0xFFFFFFFE))), b""
    yield "PSDT", replace(either, flags=rng.choice((0x00, 0xC0))), b""
    yield "fused", replace(either, flags=0x40 | rng.choice((1, 2, 3))), b""
    lba = rng.choice((block_count, block_count + rng.getrandbits(20), rng.getrandbits(63) | 1 << 62, (1 << 64) - 1))
    out = rw(either.opcode, lba, 1)
    yield "LBA", out, b""
    yield "end", rw(either.opcode, block_count - 1, 2), b""
    yield "LBA of zeroes", replace(rw(NvmOp.WRITE_ZEROES, lba, rng.randrange(1, 65537)), sgl_bytes=0), b""
    yield "zeroes over the end", replace(rw(NvmOp.WRITE_ZEROES, block_count - 1, 2), sgl_bytes=0), b""
    yield "NLB", rw(either.opcode, SAFE_LBA, rng.choice((4097, 65536, rng.randrange(257, 65536)))), b""
    for opcode in (NvmOp.COMPARE, NvmOp.VERIFY, NvmOp.WRITE_UNCORRECTABLE):
        none = {} if opcode == NvmOp.COMPARE else {"sgl_bytes": 0}
        yield f"LBA of {opcode.name}", replace(rw(opcode, lba, rng.randrange(1, 32)), **none), b""
        yield f"end of {opcode.name}", replace(rw(opcode, block_count - 1, 2), **none), b""
    yield "NLB of VERIFY", replace(rw(NvmOp.VERIFY, SAFE_LBA, rng.randrange(257, 65537)), sgl_bytes=0), b""
    yield "NLB of COMPARE", rw(NvmOp.COMPARE, SAFE_LBA, rng.randrange(257, 65537)), b""
    yield from copies(block_count, rng)
    yield "half a pair", replace(rw(NvmOp.WRITE, SAFE_LBA, 1), flags=0x42), b""
    yield "a pair of two blocks", replace(rw(NvmOp.COMPARE, SAFE_LBA, 2), flags=0x41), b""
    yield "SGL type", replace(either, sgl_type=rng.choice([t for t in range(256) if t not in (0x01, 0x5A)])), b""
    length = rng.choice((0, 4, 4092, 4100, 8192, 0xFFFFFFFC, rng.getrandbits(32) | 1))
    yield "SGL length", replace(either, sgl_bytes=length), b""
    inline = rng.randrange(1, 1024) * 4
    yield "SGL length in the capsule", replace(write, sgl_type=wire.SGL_IN_CAPSULE, sgl_bytes=inline), bytes(inline)
    yield "read in the capsule", replace(read, sgl_type=wire.SGL_IN_CAPSULE), rng.randbytes(BLOCK_BYTES)
    ranges = rng.choice((1, 3, 256))
    dsm = Sqe(
        NvmOp.DATASET_MANAGEMENT, nsid=1, cdw10=ranges - 1, cdw11=4, sgl_bytes=ranges * 16,
        sgl_type=wire.SGL_IN_CAPSULE,
    )  # fmt: skip
    good = (bytes(4) + (1).to_bytes(4, "little") + SAFE_LBA.to_bytes(8, "little")) * (ranges - 1)
    blocks = rng.choice((1, 0xFFFFFFFF, block_count + 1))
    bad = bytes(4) + blocks.to_bytes(4, "little") + lba.to_bytes(8, "little")
    yield "range", dsm, good + bad
    yield "too long a range", dsm, good + bytes(4) + (0xFFFFFFFF).to_bytes(4, "little") + SAFE_LBA.to_bytes(8, "little")
    yield "too few ranges", replace(dsm, cdw10=255, sgl_bytes=16), bytes(16)
    yield "half a range", replace(dsm, cdw10=0, sgl_bytes=12), bytes(12)
    yield "too many ranges", replace(dsm, sgl_type=wire.SGL_TRANSPORT, sgl_bytes=rng.choice((4100, 1 << 30))), b""


def copies(block_count: int, rng: random.Random) -> Iterator[_Named]:
    def command(lba: int, ranges: list[tuple[int, int]], *, cdw12: int = 0) -> tuple[Sqe, bytes]:
        data = b"".join(bytes(8) + source.to_bytes(8, "little") + (count - 1).to_bytes(2, "little") + bytes(14)
                        for source, count in ranges)  # fmt: skip
        return Sqe(
            NvmOp.COPY, nsid=1, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32, cdw12=cdw12 | len(ranges) - 1,
            sgl_bytes=len(data), sgl_type=wire.SGL_IN_CAPSULE,
        ), data  # fmt: skip

    far = rng.choice((block_count, (1 << 64) - 1, rng.getrandbits(63) | 1 << 62))
    yield "destination of a copy", *command(far, [(SAFE_LBA, 1)])
    yield "source of a copy", *command(SAFE_LBA, [(SAFE_LBA + 8, 1), (far, rng.randrange(1, 4096))])
    yield "copy onto itself", *command(SAFE_LBA, [(SAFE_LBA + rng.randrange(8), 8)])
    yield "too large a copy", *command(SAFE_LBA, [(0, rng.randrange(4097, 65537))])
    yield "format of a copy", *command(SAFE_LBA, [(0, 1)], cdw12=rng.randrange(1, 16) << 8)
    sqe, data = command(SAFE_LBA, [(0, 1)])
    yield "half a range of a copy", replace(sqe, sgl_bytes=16), data[:16]
    yield "too few ranges of a copy", replace(sqe, cdw12=rng.randrange(1, 256)), data
    yield "data of a copy", replace(sqe, sgl_type=wire.SGL_TRANSPORT, sgl_bytes=rng.choice((0, 1 << 30))), b""


def admin_commands(place: Place, rng: random.Random) -> Iterator[_Named]:
    identify = Sqe(AdminOp.IDENTIFY, cdw10=Cns.CONTROLLER, sgl_bytes=4096)
    known = {*AdminOp}
    yield "opcode", Sqe(rng.choice([opcode for opcode in range(256) if opcode not in known])), b""
    fctypes = [kind for kind in range(256) if kind not in (0, 4)]
    if place is Place.UNPROVEN:
        # Those are messages, and have their own.
        fctypes = [kind for kind in fctypes if kind not in (5, 6)]
    yield "fabrics", Sqe(AdminOp.FABRICS, nsid=rng.choice(fctypes)), b""
    yield "Connect", *connect_command(cntlid=rng.choice((1, 0xFFFF)))
    yield "flags", replace(identify, flags=rng.choice([flags for flags in range(256) if flags != 0x40])), b""
    yield "SGL type", replace(identify, sgl_type=rng.choice([t for t in range(256) if t not in (0x01, 0x5A)])), b""
    yield "data of an Identify in the capsule", replace(identify, sgl_type=1, sgl_bytes=64), bytes(64)
    length = rng.choice((0, 4, 4092, 8192, rng.getrandbits(32) | 1))
    yield "SGL length", replace(identify, sgl_bytes=length), b""
    yield "CNS", replace(identify, cdw10=rng.choice((0x0A, 0x1D, 0x7F, 0xEE, 0xFF))), b""
    nsid = rng.choice((0, 0xFFFFFFFE, 1 << 31))
    yield "nsid", replace(identify, cdw10=Cns.NAMESPACE, nsid=nsid), b""
    log = Sqe(AdminOp.GET_LOG_PAGE, nsid=wire.NSID_ALL, sgl_bytes=512)
    yield "log page", replace(log, cdw10=127 << 16 | rng.choice((0x00FF, 0x00C0, 0x0071))), b""
    yield "length of a log page", replace(log, cdw10=0xFFFF << 16 | LogPage.SUPPORTED, cdw11=0xFFFF), b""
    yield "offset of a log page", replace(log, cdw10=127 << 16, cdw12=rng.choice((1, 2, 0xFFFFFFFC)), cdw13=1), b""
    yield (
        "feature",
        Sqe(rng.choice((AdminOp.SET_FEATURES, AdminOp.GET_FEATURES)), cdw10=rng.choice((0, 0x7F, 0xFF))),
        b"",
    )
    yield "keep-alive", Sqe(AdminOp.SET_FEATURES, cdw10=Feature.KEEP_ALIVE_TIMER, cdw11=0xFFFFFFFF), b""
    yield (
        "much data",
        Sqe(AdminOp.SET_FEATURES, cdw10=Feature.HOST_BEHAVIOR, sgl_bytes=rng.choice((8196, 1 << 31))),
        b"",
    )
    yield "property", Sqe(AdminOp.FABRICS, nsid=rng.choice((0, 4)), cdw11=rng.choice((4, 0x18, 0x1001, 1 << 31))), b""
    cc = rng.choice((0x00460011, 0x00460081, 0x00463801, 0x0046C001))
    yield "CC", Sqe(AdminOp.FABRICS, nsid=0, cdw11=Property.CC, cdw12=cc), b""
    if place is not Place.DISABLED:
        return
    # Which would do no harm, if the controller were enabled.
    yield "Identify before CC.EN", identify, b""
    yield "AER before CC.EN", Sqe(AdminOp.ASYNC_EVENT_REQUEST), b""
    yield "log page before CC.EN", replace(log, cdw10=127 << 16 | LogPage.SMART), b""


def carrier(place: Place, subnqn: str, hostnqn: str) -> tuple[Sqe, bytes]:
    """A good command with data in its capsule."""
    if place is Place.OPEN:
        return connect_command(subnqn=subnqn, hostnqn=hostnqn)
    if place is Place.IO:
        return replace(rw(NvmOp.WRITE, SAFE_LBA, 1), sgl_type=wire.SGL_IN_CAPSULE), bytes(BLOCK_BYTES)
    sqe = Sqe(AdminOp.SET_FEATURES, cdw10=Feature.HOST_BEHAVIOR, sgl_bytes=512, sgl_type=wire.SGL_IN_CAPSULE)
    return sqe, bytes(512)


def connects(subnqn: str, hostnqn: str, rng: random.Random) -> Iterator[_Named]:
    good = {"subnqn": subnqn, "hostnqn": hostnqn}

    def changed(**changes: object) -> tuple[Sqe, bytes]:
        return connect_command(**(good | changes))

    sqe, data = changed()
    yield "Identify", Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096), b""
    yield "any command", Sqe(rng.choice([opcode for opcode in range(256) if opcode & 3 != 1])), b""
    yield "Property Set", Sqe(AdminOp.FABRICS, nsid=0, cdw11=Property.CC, cdw12=ENABLED_CC), b""
    yield "Disconnect", Sqe(AdminOp.FABRICS, nsid=FabricsType.DISCONNECT), b""
    message = rng.randbytes(72)
    yield "proof", send_message(message), message
    yield "subnqn", *changed(subnqn=rng.choice(("", subnqn + "x", "x" * 256, "nqn.\x01\x7f", "\N{BLACK STAR}" * 80)))
    yield "hostnqn", *changed(hostnqn="x" * rng.choice((224, 255, 256)))
    yield "cntlid", *changed(cntlid=rng.choice((0, 1, 0xFFF0, 0xFFFE)))
    yield "SQSIZE", *changed(queue_size=rng.choice((1, 129, 65536)))
    yield "SQSIZE of an I/O queue", *changed(qid=1, cntlid=1, queue_size=1)
    yield "qid", *changed(qid=rng.choice((1, 128, 0xFFFF)), cntlid=rng.choice((0xFFEF, 0xFFFF)))
    yield "KATO", *changed(kato_ms=rng.choice((0, 600_001, 0xFFFFFFFF)))
    yield "record format", replace(sqe, cdw10=rng.randrange(1, 0x10000)), data
    short = rng.randrange(0, 256) * 4
    yield "short data", replace(sqe, sgl_bytes=short), data[:short]
    yield "long data", replace(sqe, sgl_bytes=2048), data * 2
    yield "PSDT", replace(sqe, flags=rng.choice((0, 0x41, 0x80, 0xC0))), data


def ic_requests(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    yield "PFV", ic_req(pfv=rng.randrange(1, 0x10000))
    yield "HPDA", ic_req(hpda=rng.randrange(1, 256))
    yield "DGST", ic_req(digests=rng.randrange(4, 256))
    yield "HLEN", ic_req(hlen=rng.choice([length for length in range(256) if length != 128]))
    yield "PLEN", ic_req(plen=rng.choice((0, 8, 127, 129, 132, 1 << 20, 0xFFFFFFFF)))
    yield "type", ic_req(kind=rng.randrange(1, 256))
    yield "capsule first", MalformedPeer.frame_plain(PduType.CAPSULE_CMD, Sqe(AdminOp.IDENTIFY).pack())
    yield "data first", MalformedPeer.frame_plain(PduType.H2C_DATA, bytes(16), bytes(64))


def bad_frames(peer: MalformedPeer, rng: random.Random, *, io: bool) -> Iterator[tuple[str, bytes]]:
    sqe = Sqe(NvmOp.FLUSH, nsid=1) if io else Sqe(AdminOp.KEEP_ALIVE)
    body = sqe.pack()
    capsule, in_capsule = PduType.CAPSULE_CMD, replace(sqe, sgl_type=1, sgl_bytes=64).pack()
    yield "HLEN", peer.frame(capsule, body, hlen=rng.choice([length for length in range(256) if length != 72]))
    yield "short PLEN", peer.frame(capsule, body, plen=rng.randrange(0, 72))
    yield "long PLEN", peer.frame(capsule, body, plen=rng.choice((1 << 20, 1 << 31, 0xFFFFFFFF)))
    yield "PDO inside", peer.frame(capsule, in_capsule, bytes(64), pdo=rng.randrange(1, peer.head_bytes(capsule)))
    yield (
        "PDO behind",
        peer.frame(capsule, in_capsule, bytes(64), pdo=rng.randrange(peer.head_bytes(capsule) + 68, 256)),
    )
    yield "HDGSTF", peer.frame(capsule, body, toggle=wire.FLAG_HEADER_DIGEST)
    yield "DDGSTF", peer.frame(capsule, in_capsule, bytes(64), toggle=wire.FLAG_DATA_DIGEST)
    if peer.header_digest:
        yield "wrong header digest", peer.frame(capsule, body, break_header_digest=True)
    kinds = (PduType.IC_REQ, PduType.IC_RESP, PduType.CAPSULE_RESP, PduType.C2H_DATA, PduType.R2T, PduType.C2H_TERM_REQ)
    kind = rng.choice(kinds)
    yield f"{kind.name}", peer.frame(kind, bytes(wire.HEADER_BYTES[kind] - 8))
    yield "unknown type", peer.frame_plain(rng.choice((0x08, *range(0x0A, 0x100))), body)
    yield "TermReq", peer.frame_plain(PduType.H2C_TERM_REQ, rng.randbytes(16), rng.randbytes(rng.randrange(128)))
    long_term_req = rng.choice((153, 4096, 0xFFFFFFFF))
    yield "long TermReq", peer.frame_plain(PduType.H2C_TERM_REQ, bytes(16), plen=long_term_req)
    yield "data in a capsule that its SGL does not speak of", peer.frame(capsule, body, bytes(64))
    yield "less data than its SGL says", peer.frame(capsule, in_capsule, bytes(60))
    offset = replace(sqe, sgl_type=1, sgl_bytes=64, sgl_address=rng.choice((4, 64, 1 << 63)))
    yield "an offset in the capsule", peer.frame(capsule, offset.pack(), bytes(64))
    most = IN_CAPSULE_MAX if io else wire.ADMIN_DATA_MAX
    large = most + 4 * rng.randrange(2, 1024)
    yield "oversized", peer.frame(capsule, replace(sqe, sgl_type=1, sgl_bytes=large).pack(), bytes(large))
    data = wire.DATA_BODY.pack(rng.getrandbits(16), rng.randrange(0x100, 0x10000), 0, 64)
    yield "data nobody asked for", peer.frame(PduType.H2C_DATA, data, bytes(64))
    if io:
        many = b"".join(peer.capsule(rw(NvmOp.WRITE, SAFE_LBA, 1, cid=cid & 0xFFFF)) for cid in range(200, 1400))
        yield "more commands than entries", many


def bad_data(
    peer: MalformedPeer, transfers: Mapping[int, tuple[int, int]], rng: random.Random, *, io: bool
) -> Iterator[tuple[str, bytes]]:
    ttag, (cid, length) = rng.choice(list(transfers.items()))

    def data(
        cid: int = cid, ttag: int = ttag, offset: int = 0, said: int | None = None, count: int = 512, flags: int = 0
    ) -> bytes:
        body = wire.DATA_BODY.pack(cid, ttag, offset, count if said is None else said)
        return peer.frame(PduType.H2C_DATA, body, bytes(count), flags=flags)

    yield "tag", data(ttag=rng.choice([tag for tag in range(256) if tag not in transfers]))
    yield "far tag", data(ttag=rng.randrange(0x100, 0x10000))
    yield "cid", data(cid=cid ^ rng.randrange(1, 0x10000))
    yield "offset", data(offset=rng.choice((4, 512, length, 0xFFFFFE00, 1 << 31)), count=256)
    yield "too much", data(count=length + 4)
    yield "DATAL 0", data(count=0)
    yield "DATAL", data(said=rng.choice((4, 508, 516, 0xFFFFFFFF)))
    if io:
        yield "no multiple of 4", data(count=rng.choice((1, 2, 3, 509)))
        yield "last too early", data(count=512, flags=wire.FLAG_LAST)
        for each, (its, _) in transfers.items():
            if each != ttag:
                yield "cid of another", data(cid=its)
