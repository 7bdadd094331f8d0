"""Limits, victim policies, the cache's rules, zone reports."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.conf import FtlConf, Limit
from spdk_ftl_py.errors import ConfError, FtlError, ParameterError, ProtocolError, UnsupportedError
from spdk_ftl_py.ftl.cache.nv_cache import blocks_needed, check_cache, check_cache_size
from spdk_ftl_py.ftl.media.band import CLOSED, FAULTED, OPEN, Band
from spdk_ftl_py.ftl.media.geometry import plan
from spdk_ftl_py.ftl.media.zone import Zone, parse_report
from spdk_ftl_py.ftl.policy.limits import Limits

from .band_rig import AGE_BLOCKS, bands_of, selector_of

CONF = FtlConf(
    limits={"crit": Limit(0, 5), "high": Limit(5, 10), "low": Limit(40, 20), "start": Limit(100, 40)},
)


@pytest.mark.parametrize(
    ("free", "name", "share"),
    [
        (0, "crit", 0),
        (5, "crit", 0),
        (6, "high", 5),
        (10, "high", 5),
        (11, "low", 40),
        (20, "low", 40),
        (21, "start", 100),
        (40, "start", 100),
        (41, "none", 100),
    ],
)
def test_limits_map_free_bands_as_the_seed_does(free: int, name: str, share: int) -> None:
    applied = Limits(CONF).apply(free)
    assert (applied.name, applied.user_share) == (name, share)


@given(st.integers(0, 100))
def test_relocation_runs_whenever_a_limit_throttles(free: int) -> None:
    limits = Limits(CONF)
    runs = free <= limits.start_bands
    assert limits.apply(free).user_share == 100 or runs
    assert not limits.urgent(free) or runs


def test_limits_need_thresholds() -> None:
    with pytest.raises(ConfError, match="check_geometry"):
        Limits(FtlConf())


def band(index: int, *, valid: int, seq: int = 1, state: str = CLOSED, bad: bool = False) -> Band:
    return Band(index, [index], 1000, state, seq, 0, valid, 1000, {0} if bad else set())


def test_greedy_takes_the_band_with_most_to_gain() -> None:
    selector = selector_of(dataclasses.replace(CONF, reloc_policy="greedy"), 1)
    bands = bands_of([band(0, valid=500, seq=1), band(1, valid=300, seq=9), band(2, valid=100, state=OPEN)])
    assert selector.choose(bands, room=2000, next_seq=10 * AGE_BLOCKS, urgent=False) == 1


@pytest.mark.parametrize("policy", ["seed", "cost_benefit", "sepbit"])
def test_cost_benefit_weighs_age(policy: str) -> None:
    selector = selector_of(dataclasses.replace(CONF, reloc_policy=policy), 1)
    bands = bands_of([band(0, valid=500, seq=1), band(1, valid=400, seq=9)])
    assert selector.choose(bands, room=2000, next_seq=10 * AGE_BLOCKS, urgent=False) == 0


def test_bands_under_the_invalid_threshold_are_moved_only_when_urgent() -> None:
    selector = selector_of(CONF, 1)
    bands = bands_of([band(0, valid=901)])
    assert selector.choose(bands, room=2000, next_seq=10 * AGE_BLOCKS, urgent=False) is None
    assert selector.choose(bands, room=2000, next_seq=10 * AGE_BLOCKS, urgent=True) == 0


@given(st.integers(0, 1000), st.integers(0, 3000), st.booleans(), st.integers(1, 8))
def test_no_move_is_begun_that_gains_nothing_or_may_not_end(valid: int, room: int, urgent: bool, punits: int) -> None:
    selector = selector_of(CONF, punits)
    bands = bands_of([band(0, valid=valid)])
    number = selector.choose(bands, room=room, next_seq=10 * AGE_BLOCKS, urgent=urgent)
    if number is not None:
        chosen = bands[number]
        assert chosen.capacity - chosen.valid >= selector.least_gain
        assert chosen.valid + selector.least_gain <= room
        assert chosen.valid > 0


def test_a_band_with_a_bad_zone_is_moved_first_even_when_all_valid() -> None:
    selector = selector_of(CONF, 1)
    bands = bands_of([band(0, valid=10), band(1, valid=1000, state=FAULTED, bad=True)])
    assert selector.choose(bands, room=2004, next_seq=10 * AGE_BLOCKS, urgent=False) == 1


def test_a_band_with_a_bad_zone_waits_where_moving_it_would_leave_no_room_for_another() -> None:
    """It gives back less than it takes: behind it nothing could be moved, and nothing be freed any more."""
    selector = selector_of(CONF, 1)
    bad = band(0, valid=600, state=FAULTED, bad=True)
    both = bands_of([bad, band(1, valid=300)])
    assert selector.choose(both, room=1603, next_seq=10 * AGE_BLOCKS, urgent=True) == 1
    assert selector.choose(bands_of([bad]), room=1603, next_seq=10 * AGE_BLOCKS, urgent=True) is None
    half_bad = bands_of([Band(0, [2, 3], 1000, FAULTED, 1, 0, 600, 2000, {0})])
    assert selector.choose(half_bad, room=1603, next_seq=10 * AGE_BLOCKS, urgent=True) == 0


GEOMETRY = plan([Zone(i, i * 4096, 3072, "empty", 0) for i in range(128)], zone_size=4096, num_punits=2)


def kind_of(*, block_count: int = 1 << 20, metadata_bytes: int = 0, **what: Any) -> str:
    """Both rules, as whoever uses a cache has them checked."""
    check_cache("Cache0", **{"block_bytes": 4096, "metadata_bytes": metadata_bytes, **what})
    return check_cache_size("Cache0", block_count=block_count, metadata_bytes=metadata_bytes, geometry=GEOMETRY)


def test_a_cache_with_interleaved_metadata_is_vss_and_without_non_vss() -> None:
    assert kind_of(metadata_bytes=16, metadata_interleaved=True) == "vss"
    assert kind_of() == "non_vss"
    assert blocks_needed(GEOMETRY) == 2 * 2 * 3072 + 1
    assert kind_of(block_count=blocks_needed(GEOMETRY)) == "non_vss"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"block_bytes": 512}, ParameterError, "512 bytes"),
        ({"metadata_bytes": 8}, UnsupportedError, "separate metadata"),
        ({"metadata_bytes": 4, "metadata_interleaved": True}, ParameterError, "4 B of metadata"),
        ({"metadata_bytes": 8, "metadata_interleaved": True, "dif_type": 1}, ParameterError, "DIF type 1"),
        ({"zoned": True}, UnsupportedError, "zoned"),
        ({"block_count": 12288}, ParameterError, "has 12288 blocks, but needs 12289"),
    ],
)
def test_unfit_caches_are_refused(change: dict[str, Any], kind: type[FtlError], message: str) -> None:
    with pytest.raises(kind, match=message):
        kind_of(**change)


def report(*descriptors: tuple[int, int, int, int, int], count: int | None = None) -> bytes:
    body = b"".join(
        struct.pack("<BBBB4xQQQ32x", kind, state << 4, 0, 0, cap, start, wp)
        for kind, state, cap, start, wp in descriptors
    )
    return struct.pack("<Q56x", len(descriptors) if count is None else count) + body


def test_a_zone_report_is_read() -> None:
    raw = report((2, 1, 48, 0, 0), (2, 2, 48, 64, 70), (2, 0xE, 48, 128, 0), (2, 0xF, 0, 192, 0))
    zones = parse_report(raw, first_zone=0, zone_size=64, zones_max=64)
    assert [(z.index, z.state, z.written) for z in zones] == [
        (0, "empty", 0),
        (1, "implicitly_open", 6),
        (2, "full", 48),
        (3, "offline", 0),
    ]
    assert [z.usable for z in zones] == [True, True, True, False]


def test_a_report_that_claims_more_than_it_holds_is_not_believed() -> None:
    raw = report((2, 1, 48, 0, 0), count=1 << 60)
    assert len(parse_report(raw, first_zone=0, zone_size=64, zones_max=64)) == 1


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        ((1, 1, 48, 0, 0), "type 1"),
        ((2, 7, 48, 0, 0), "unknown state 0x7"),
        ((2, 1, 48, 64, 64), "starts at block 64"),
        ((2, 1, 65, 0, 0), "capacity 65"),
        ((2, 1, 0, 0, 0), "capacity 0"),
        ((2, 2, 48, 0, 49), "write pointer at 49"),
    ],
)
def test_impossible_zones_are_refused(descriptor: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        parse_report(report(descriptor), first_zone=0, zone_size=64, zones_max=64)


def test_a_truncated_report_is_refused() -> None:
    with pytest.raises(ProtocolError, match="10 bytes"):
        parse_report(bytes(10), first_zone=0, zone_size=64, zones_max=64)


def test_reloc_policies_are_named_in_the_conf() -> None:
    assert selector_of(dataclasses.replace(CONF, reloc_policy="greedy"), 1).guard.policy.name == "greedy"
    with pytest.raises(ConfError, match="reloc_policy = 'none'"):
        selector_of(dataclasses.replace(CONF, reloc_policy="none"), 1)
