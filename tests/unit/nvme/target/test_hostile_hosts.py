"""What a target does with hosts that break the protocol: a precise refusal, and nothing else changes."""

from __future__ import annotations

import struct

import pytest

from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.wire import FatalError, PduType, Property, Sqe, Status
from unit.nvme.nvme_loop import (
    HOSTNQN,
    Bench,
    RawHost,
    bench,
    capsule,
    connect_command,
    ic_req,
)

HEADER = FatalError.INVALID_HEADER_FIELD


def header(kind: int, *, flags: int = 0, hlen: int = 72, pdo: int = 0, plen: int = 72) -> bytes:
    return wire.COMMON_HEADER.pack(kind, flags, hlen, pdo, plen)


async def term_req(raw: RawHost) -> tuple[int, int]:
    """(FES, FEI) of the C2HTermReq that must come now, with the connection's end behind it."""
    kind, pdu, _ = await raw.pdu()
    assert kind == PduType.C2H_TERM_REQ
    fes, fei = wire.TERM_REQ_BODY.unpack(pdu[8:])
    assert await raw.at_end()
    raw.close()
    return fes, fei


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (ic_req(pfv=1), (HEADER, 8)),
        (ic_req(hpda=4), (FatalError.UNSUPPORTED_PARAMETER, 10)),
        (ic_req(digests=4), (HEADER, 11)),
        (ic_req(hlen=64), (HEADER, 2)),
        (ic_req(plen=129), (HEADER, 4)),
        (ic_req(plen=127), (HEADER, 4)),
        (ic_req(plen=0xFFFFFFFF), (HEADER, 4)),
        (ic_req(kind=0x08), (HEADER, 0)),
        (ic_req(kind=0xFF), (HEADER, 0)),
        (ic_req(kind=PduType.IC_RESP), (FatalError.PDU_SEQUENCE, 0)),
        (capsule(connect_command()[0], connect_command()[1]), (FatalError.PDU_SEQUENCE, 0)),
        (header(PduType.H2C_DATA, hlen=24, plen=24), (FatalError.PDU_SEQUENCE, 0)),
    ],
)
async def test_a_bad_first_pdu_is_answered_with_what_is_wrong_with_it(
    raw: bytes, expected: tuple[int, int], here: Bench
) -> None:
    good = await here.connect()
    host = await here.raw()
    await host.send(raw)
    assert await term_req(host) == expected
    assert len(await good.namespaces()) == 1
    await good.close()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (ic_req(), (FatalError.PDU_SEQUENCE, 0)),
        (header(PduType.CAPSULE_CMD, hlen=71), (HEADER, 2)),
        (header(PduType.CAPSULE_CMD, plen=71), (HEADER, 4)),
        (header(PduType.CAPSULE_CMD, plen=72 + 8192 + 5), (HEADER, 4)),
        (header(PduType.CAPSULE_CMD, plen=72 + 8192 + 4) + bytes(64), (HEADER, 4)),
        (header(PduType.CAPSULE_CMD, plen=0xFFFFFFFF), (HEADER, 4)),
        (header(PduType.CAPSULE_CMD, pdo=80, plen=80), (HEADER, 3)),
        (header(PduType.CAPSULE_CMD, flags=wire.FLAG_HEADER_DIGEST) + bytes(64), (HEADER, 1)),
        (header(PduType.CAPSULE_CMD, flags=wire.FLAG_DATA_DIGEST, plen=76) + bytes(64), (HEADER, 1)),
        (header(PduType.C2H_DATA, hlen=24, plen=24), (FatalError.PDU_SEQUENCE, 0)),
        (header(PduType.R2T, hlen=24, plen=24), (FatalError.PDU_SEQUENCE, 0)),
        (header(PduType.H2C_DATA, hlen=24, plen=28), (FatalError.PDU_SEQUENCE, 0)),
        # Data that the SGL does not speak of, and less than it speaks of.
        (capsule(Sqe(0x09, sgl_bytes=0), bytes(8)), (HEADER, 4)),
        (capsule(Sqe(0x09, sgl_bytes=512, sgl_type=wire.SGL_IN_CAPSULE), bytes(8)), (HEADER, 4)),
        (capsule(Sqe(0x09, sgl_bytes=8, sgl_address=4, sgl_type=wire.SGL_IN_CAPSULE), bytes(8)), (HEADER, 4)),
    ],
)
async def test_a_malformed_pdu_on_an_admin_queue_ends_that_association_only(
    raw: bytes, expected: tuple[int, int], here: Bench
) -> None:
    good = await here.connect()
    host = await here.raw()
    await host.enable()
    assert len(here.subsystem.controllers) == 2
    await host.send(raw)
    assert await term_req(host) == expected
    assert len(await good.namespaces()) == 1
    await good.close()


@pytest.mark.parametrize(
    ("cid", "ttag", "offset", "length", "expected"),
    [
        (5, None, 512, 512, (FatalError.DATA_OUT_OF_RANGE, 12)),
        (5, None, 0, 516, (FatalError.DATA_OUT_OF_RANGE, 12)),
        (5, None, 0xFFFFFFFC, 512, (FatalError.DATA_OUT_OF_RANGE, 12)),
        (6, None, 0, 512, (HEADER, 8)),
        (5, 0xABCD, 0, 512, (HEADER, 10)),
        (5, None, 0, 0, (HEADER, 16)),
    ],
)
async def test_data_that_nobody_asked_for_ends_the_association(
    cid: int, ttag: int | None, offset: int, length: int, expected: tuple[int, int], here: Bench
) -> None:
    host = await here.raw()
    await host.enable()
    await host.send(capsule(Sqe(0x09, cid=5, cdw10=0x16, sgl_bytes=512)))
    kind, r2t, _ = await host.pdu()
    assert kind == PduType.R2T
    asked_cid, asked_ttag, r2to, r2tl = wire.DATA_BODY.unpack(r2t[8:])
    assert (asked_cid, r2to, r2tl) == (5, 0, 512)
    body = wire.DATA_BODY.pack(cid, asked_ttag if ttag is None else ttag, offset, length)
    pdo = 24 if length else 0
    await host.send(header(PduType.H2C_DATA, flags=4, hlen=24, pdo=pdo, plen=24 + length) + body + bytes(length))
    assert await term_req(host) == expected


async def test_data_fetched_in_two_pieces_is_put_together(here: Bench) -> None:
    host = await here.raw()
    await host.enable()
    await host.send(capsule(Sqe(0x09, cid=5, cdw10=0x16, sgl_bytes=512)))
    _, r2t, _ = await host.pdu()
    ttag = wire.DATA_BODY.unpack(r2t[8:])[1]
    sent = bytes([1, 1]) + bytes(range(256)) + bytes(254)
    for offset in (0, 256):
        body = wire.DATA_BODY.pack(5, ttag, offset, 256)
        await host.send(
            header(PduType.H2C_DATA, flags=4 if offset else 0, hlen=24, pdo=24, plen=280)
            + body
            + sent[offset : offset + 256]
        )
    kind, response, _ = await host.pdu()
    assert kind == PduType.CAPSULE_RESP
    assert wire.Cqe.unpack(response[8:]) == wire.Cqe(5, sqhd=wire.Cqe.unpack(response[8:]).sqhd)
    cqe, data = await host.command(Sqe(0x0A, cdw10=0x16, sgl_bytes=512))
    assert (cqe.status, data) == (0, sent)
    host.close()


async def test_a_header_digest_that_does_not_match_ends_the_association(here: Bench) -> None:
    host = await here.raw()
    await host.send(ic_req(digests=wire.DGST_HEADER))
    await host.pdu()
    sqe, data = connect_command()
    head = header(PduType.CAPSULE_CMD, flags=wire.FLAG_HEADER_DIGEST, pdo=76, plen=76 + len(data)) + sqe.pack()
    await host.send(head + bytes(4) + data)
    assert await term_req(host) == (FatalError.HEADER_DIGEST, 0)


async def test_a_data_digest_that_does_not_match_fails_the_command_only(here: Bench) -> None:
    host = await here.raw()
    await host.send(ic_req(digests=wire.DGST_DATA))
    await host.pdu()
    sqe, data = connect_command()
    head = header(PduType.CAPSULE_CMD, flags=wire.FLAG_DATA_DIGEST, pdo=72, plen=76 + len(data)) + sqe.pack()
    await host.send(head + data + bytes(4))
    _, response, _ = await host.pdu()
    cqe = wire.Cqe.unpack(response[8:])
    assert (cqe.status, cqe.do_not_retry) == (Status.TRANSIENT_TRANSPORT_ERROR, False)
    host.close()


async def test_a_host_that_leaves_in_the_middle_of_a_pdu_leaves_nothing_behind() -> None:
    async with bench() as here:
        for cut in (1, 7, 8, 71, 72, 500):
            host = await here.raw()
            await host.initialize()
            await host.send(capsule(*connect_command())[:cut])
            host.close()
        good = await here.connect()
        await good.close()
    assert not here.subsystem.controllers


def long_nqn(length: int) -> str:
    return "nqn.2026-11.io.example:" + "x" * (length - 23)


@pytest.mark.parametrize(
    ("changes", "status", "result"),
    [
        ({"subnqn": "nqn.2026-11.io.example:nobody"}, 0x182, 1 << 16 | 256),
        ({"subnqn": ""}, 0x182, 1 << 16 | 256),
        ({"subnqn": long_nqn(224)}, 0x182, 1 << 16 | 256),
        ({"subnqn": "x" * 256}, 0x182, 1 << 16 | 256),
        ({"hostnqn": long_nqn(224)}, 0x182, 1 << 16 | 512),
        ({"hostnqn": "x" * 256}, 0x182, 1 << 16 | 512),
        ({"cntlid": 1}, 0x182, 1 << 16 | 16),
        ({"cntlid": 0xFFFE}, 0x182, 1 << 16 | 16),
        ({"queue_size": 1}, 0x182, 44),
        ({"queue_size": 129}, 0x182, 44),
        ({"qid": 1, "cntlid": 77}, 0x182, 1 << 16 | 16),
    ],
)
async def test_a_connect_with_a_bad_field_is_told_which(
    changes: dict[str, object], status: int, result: int, here: Bench
) -> None:
    host = await here.raw()
    await host.initialize()
    cqe = await host.connect(**changes)
    assert (cqe.status, cqe.result) == (status, result)
    assert not here.subsystem.controllers
    # Nothing has changed: the same connection may try again.
    assert (await host.connect()).status == 0
    host.close()


async def test_a_connect_of_an_unknown_record_format_is_refused(here: Bench) -> None:
    host = await here.raw()
    await host.initialize()
    sqe, data = connect_command()
    fields = {name: getattr(sqe, name) for name in sqe.__dataclass_fields__}
    cqe, _ = await host.command(Sqe(**{**fields, "cdw10": 1}), data)
    assert cqe.status == Status.CONNECT_INCOMPATIBLE_FORMAT
    cqe, _ = await host.command(Sqe(**{**fields, "sgl_bytes": 512}), data[:512])
    assert cqe.status == Status.SGL_DATA_LENGTH
    cqe, _ = await host.command(Sqe(**{**fields, "flags": 0}), data)
    assert cqe.status == Status.INVALID_FIELD
    cqe, _ = await host.command(Sqe(0x06, cdw10=1, sgl_bytes=4096))
    assert cqe.status == Status.COMMAND_SEQUENCE_ERROR
    host.close()


async def test_connect_data_may_come_by_r2t(here: Bench) -> None:
    host = await here.raw()
    await host.initialize()
    sqe, data = connect_command()
    fields = {name: getattr(sqe, name) for name in sqe.__dataclass_fields__}
    await host.send(capsule(Sqe(**{**fields, "sgl_type": wire.SGL_TRANSPORT})))
    kind, r2t, _ = await host.pdu()
    assert kind == PduType.R2T
    ttag = wire.DATA_BODY.unpack(r2t[8:])[1]
    await host.send(
        header(PduType.H2C_DATA, flags=4, hlen=24, pdo=24, plen=24 + 1024)
        + wire.DATA_BODY.pack(0, ttag, 0, 1024)
        + data
    )
    _, response, _ = await host.pdu()
    assert wire.Cqe.unpack(response[8:]).status == 0
    host.close()


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"hostid": bytes(16)}, 1 << 16),
        ({"hostnqn": HOSTNQN + "2"}, 1 << 16 | 512),
        ({"cntlid": 0x1234}, 1 << 16 | 16),
        ({"queue_size": 129}, 44),
        ({"qid": 128}, 42),
        ({"qid": 0xFFFF}, 42),
    ],
)
async def test_an_io_connect_must_fit_its_association(changes: dict[str, object], result: int, here: Bench) -> None:
    admin = await here.raw()
    cntlid = await admin.enable()
    host = await here.raw()
    await host.initialize()
    cqe = await host.connect(**({"qid": 1, "cntlid": cntlid} | changes))
    assert (cqe.status, cqe.result) == (Status.CONNECT_INVALID_PARAMETERS, result)
    host.close()
    admin.close()


@pytest.mark.parametrize("cc", [0, 0x00450001, 0x00360001, 0x00460000])
async def test_an_io_connect_before_the_controller_is_enabled_rightly_is_refused(cc: int, here: Bench) -> None:
    admin = await here.raw()
    await admin.initialize()
    cntlid = (await admin.connect()).result & 0xFFFF
    assert (await admin.set_property(Property.CC, cc)).status == 0
    host = await here.raw()
    await host.initialize()
    cqe = await host.connect(qid=1, cntlid=cntlid)
    assert (cqe.status, cqe.result) == (Status.CONNECT_INVALID_PARAMETERS, 42)
    host.close()
    admin.close()


async def test_unknown_commands_are_refused_and_the_association_goes_on(here: Bench) -> None:
    host = await here.raw()
    await host.enable()
    for sqe, status in (
        (Sqe(0x80), Status.INVALID_OPCODE),
        (Sqe(0x7F, nsid=0x05, cdw10=0), Status.INVALID_OPCODE),
        (Sqe(0x7F, nsid=0x01), Status.COMMAND_SEQUENCE_ERROR),
        (Sqe(0x06, cdw10=0x01, sgl_bytes=4092), Status.SGL_DATA_LENGTH),
        (Sqe(0x06, cdw10=0x01, sgl_bytes=8192), Status.SGL_DATA_LENGTH),
        (Sqe(0x06, cdw10=0xEE, sgl_bytes=4096), Status.INVALID_FIELD),
        (Sqe(0x02, cdw10=0x00030002, sgl_type=0x40, sgl_bytes=16), Status.SGL_TYPE),
        (Sqe(0x09, cdw10=0x16, sgl_bytes=16384), Status.SGL_DATA_LENGTH),
    ):
        cqe, _ = await host.command(sqe)
        assert (cqe.status, cqe.do_not_retry) == (status, True), sqe
    host.close()


async def test_the_header_that_a_term_req_quotes_is_the_offending_one(here: Bench) -> None:
    host = await here.raw()
    await host.send(ic_req(pfv=7))
    kind, _, quoted = await host.pdu()
    assert kind == PduType.C2H_TERM_REQ
    assert len(quoted) == 128
    assert struct.unpack_from("<H", quoted, 8) == (7,)
    host.close()
