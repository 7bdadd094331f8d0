"""Identify pages, log pages and entries: what is built is what is parsed, and any bytes are parsed or refused."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spdk_ftl_py.errors import ProtocolError
from spdk_ftl_py.nvme import identify, logs, wire
from spdk_ftl_py.nvme.host.connect import build_connect
from spdk_ftl_py.nvme.identify import NamespaceTraits
from spdk_ftl_py.nvme.target.capsule import Command, Completion
from spdk_ftl_py.nvme.target.connect import ConnectRequest, parse_connect
from spdk_ftl_py.nvme.wire import Cqe, Sqe

NOISE = st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(4096))
SPARSE_PAGE = st.dictionaries(st.integers(0, 4095), st.integers(0, 255), max_size=40).map(
    lambda bytes_at: bytes(bytes_at.get(offset, 0) for offset in range(4096))
)


def traits(**changes: object) -> NamespaceTraits:
    fields: dict[str, object] = {
        "block_count": 1 << 20, "data_bytes": 4096, "metadata_bytes": 0, "nguid": bytes(range(16)), "eui64": b"",
        "uuid": UUID(int=5), "csi": 0, "deallocated_reads_zeroes": True,
    }  # fmt: skip
    return NamespaceTraits(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("data_bytes", "metadata_bytes"), [(512, 0), (512, 8), (4096, 0), (4096, 64), (65536, 16)])
def test_a_namespace_page_says_its_block_size_both_ways(data_bytes: int, metadata_bytes: int) -> None:
    made = traits(data_bytes=data_bytes, metadata_bytes=metadata_bytes)
    page = identify.parse_namespace(1, identify.build_namespace(made))
    assert page is not None
    assert (page.block_count, page.block_bytes, page.metadata_bytes) == (1 << 20, data_bytes, metadata_bytes)
    assert page.metadata_interleaved == bool(metadata_bytes)
    assert page.dif_type == 0


@pytest.mark.parametrize("thin", [False, True])
def test_the_namespace_of_an_ftl_prefers_no_size(thin: bool) -> None:
    raw = identify.build_namespace(traits(thin=thin), 7)
    assert raw[24] & 0x11 == (0x11 if thin else 0), "thin-provisioned, and NPWG to NOWS are valid"
    assert raw[64:74] == bytes(10), "one block each, as these fields count from 0"
    assert int.from_bytes(raw[16:24], "little") == 7


@pytest.mark.parametrize("limit", [0, 1, 14, 0xFFFFFFFF])
def test_zone_limits_are_zero_based_on_the_wire_and_absent_ones_all_ones(limit: int) -> None:
    made = traits(csi=2, zone_size=100, max_open_zones=limit, max_active_zones=limit)
    raw = identify.build_zns_namespace(made)
    assert int.from_bytes(raw[4:8], "little") == (limit - 1 if limit else 0xFFFFFFFF)
    namespace = identify.parse_namespace(1, identify.build_namespace(made))
    assert namespace is not None
    page = identify.parse_zns_namespace(1, raw, namespace)
    assert (page.zone_size, page.max_open_zones, page.max_active_zones) == (100, limit, limit)


@pytest.mark.parametrize("zone_size", [0, (1 << 20) + 1])
def test_zones_that_do_not_fit_their_namespace_are_refused(zone_size: int) -> None:
    made = traits(csi=2, zone_size=zone_size)
    namespace = identify.parse_namespace(1, identify.build_namespace(made))
    assert namespace is not None
    with pytest.raises(ProtocolError, match="zones of"):
        identify.parse_zns_namespace(1, identify.build_zns_namespace(made), namespace)


def test_descriptors_come_back_and_a_missing_command_set_means_nvm() -> None:
    made = traits(eui64=b"12345678", csi=2)
    found = identify.parse_descriptors(1, identify.build_descriptors(made))
    assert (found.eui64, found.nguid, found.uuid, found.csi) == (b"12345678", made.nguid, made.uuid, 2)
    assert identify.parse_descriptors(1, bytes(4096)) == identify.Descriptors()


@pytest.mark.parametrize("raw", [bytes([3, 15]), bytes([4, 2]), bytes([1, 16])])
def test_a_descriptor_of_a_wrong_length_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="descriptor of type"):
        identify.parse_descriptors(1, raw.ljust(4096, b"\1"))


@pytest.mark.parametrize(
    ("max_append", "max_io", "zasl", "parsed"),
    [(131072, 131072, 0, 131072), (65536, 131072, 4, 65536), (1 << 20, 131072, 0, 131072), (100_000, 131072, 4, 65536)],
)
def test_the_append_limit_is_a_power_of_two_of_pages_or_that_of_all_transfers(
    max_append: int, max_io: int, zasl: int, parsed: int
) -> None:
    raw = identify.build_zns_controller(max_append, max_io)
    assert raw[0] == zasl
    assert identify.parse_zns_controller(raw, max_io) == parsed


@pytest.mark.parametrize(("max_io_bytes", "mdts"), [(8192, 1), (12288, 1), (131072, 5), (135168, 5), (1 << 24, 12)])
def test_mdts_never_promises_more_than_the_target_takes(max_io_bytes: int, mdts: int) -> None:
    assert identify.mdts(max_io_bytes) == mdts


def test_more_changed_namespaces_than_the_log_holds_are_all_of_them() -> None:
    assert logs.parse_changed_namespaces(logs.build_changed_namespaces(range(1, 1025))) == list(range(1, 1025))
    assert logs.parse_changed_namespaces(logs.build_changed_namespaces(range(1, 1026))) == [wire.NSID_ALL]


@pytest.mark.parametrize("count", [0, 1, 511])
def test_changed_zones_are_listed_by_their_first_blocks(count: int) -> None:
    starts = [zone << 40 for zone in range(count)]
    page = logs.build_changed_zones(starts)
    assert (len(page), int.from_bytes(page[:2], "little")) == (4096, count)
    assert logs.parse_changed_zones(page) == starts


def test_more_changed_zones_than_the_log_holds_are_all_of_them() -> None:
    for starts in (range(512), None):
        page = logs.build_changed_zones(starts)
        assert page == b"\xff\xff".ljust(4096, b"\0")
        assert logs.parse_changed_zones(page) is None


@pytest.mark.parametrize(
    "page",
    [b"", bytes(7), b"\x00\x02".ljust(4096, b"\0"), b"\xfe\xff".ljust(4096, b"\0"), b"\x02".ljust(16, b"\0")],
)
def test_a_list_of_changed_zones_that_can_not_be_names_none_and_leaves_any(page: bytes) -> None:
    assert logs.parse_changed_zones(page) is None


def test_what_is_reserved_in_a_list_of_changed_zones_is_not_its_length() -> None:
    assert logs.parse_changed_zones(b"\x01\0\xff\xff\xff\xff\xff\xff" + bytes(4088)) == [0]


@given(NOISE | SPARSE_PAGE)
@example(bytes(4096))
@example(b"\xff" * 4096)
@settings(max_examples=300, deadline=None)
def test_any_page_is_parsed_or_refused(raw: bytes) -> None:
    for parse in (
        lambda: identify.parse_controller(raw),
        lambda: identify.parse_namespace(1, raw),
        lambda: identify.parse_descriptors(1, raw),
        lambda: identify.parse_nsid_list(raw, 0),
        lambda: identify.parse_zns_controller(raw, 131072),
        lambda: logs.parse_changed_namespaces(raw),
        lambda: logs.parse_changed_zones(raw),
        lambda: logs.parse_discovery_header(raw),
        lambda: logs.parse_discovery_entries(raw),
    ):
        try:
            parse()
        except ProtocolError:
            pass


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=1024, max_size=1024) | st.binary(max_size=2048))
@settings(max_examples=300, deadline=None)
def test_any_connect_is_taken_or_refused(raw: bytes, data: bytes) -> None:
    sqe = Sqe.unpack(raw[:0] + b"\x7f\x40" + raw[2:4] + b"\x01" + raw[5:])
    assert isinstance(parse_connect(Command(sqe, bytearray(data))), ConnectRequest | Completion)


@given(st.integers(0, 0xFFFF), st.integers(2, 0x10000), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF))
def test_a_connect_that_is_built_is_understood(qid: int, entries: int, kato_ms: int, cntlid: int) -> None:
    cntlid = cntlid if qid else wire.CNTLID_DYNAMIC
    sqe, data = build_connect(
        qid=qid, queue_size=entries, kato_ms=kato_ms, hostid=bytes(16), cntlid=cntlid, subnqn="nqn.s", hostnqn="nqn.h"
    )
    request = parse_connect(Command(Sqe.unpack(sqe.pack()), bytearray(data)))
    assert request == ConnectRequest(qid, entries, True, 0 if qid else kato_ms, bytes(16), cntlid, "nqn.s", "nqn.h")


@given(st.integers(0, 0xFFFF), st.integers(0, 0x7FF), st.booleans(), st.integers(0, 2**64 - 1), st.integers(0, 0xFFFF))
def test_completions_come_back_as_they_were(cid: int, status: int, dnr: bool, result: int, sqhd: int) -> None:
    cqe = Cqe(cid, status, dnr, result, sqhd)
    assert Cqe.unpack(cqe.pack()) == cqe


def test_a_status_has_a_name_or_at_least_a_number() -> None:
    assert wire.status_text(0x184) == "connect invalid host (1/84h)"
    assert wire.status_text(0x7FF) == "status (7/FFh)"
