"""Zones to bands: device limits are kept, bad zones are left out, errors name the remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.errors import GeometryError
from spdk_ftl_py.ftl.media import zone as zone_states
from spdk_ftl_py.ftl.media.geometry import Geometry, plan, summary_blocks, usable_blocks
from spdk_ftl_py.ftl.media.zone import Zone


def zones(count: int, *, size: int = 4096, capacity: int = 3072, bad: dict[int, str] | None = None) -> list[Zone]:
    bad = bad or {}
    return [Zone(i, i * size, capacity, bad.get(i, zone_states.EMPTY), 0) for i in range(count)]


def test_demo_geometry_has_many_bands_and_fits_14_open_zones() -> None:
    geometry = plan(zones(128), zone_size=4096, max_open_zones=14, max_active_zones=14)
    assert (geometry.punits, geometry.band_count, geometry.shared_stream) == (2, 63, False)
    assert geometry.open_zones <= 14
    assert geometry.bands[0] == (2, 3)
    assert geometry.block_count == 63 * 2 * geometry.zone_blocks * 80 // 100


def test_large_drives_get_as_many_parallel_units_as_their_open_zones_allow() -> None:
    geometry = plan(zones(900), zone_size=4096, max_open_zones=14, max_active_zones=14)
    assert geometry.punits == 4
    assert geometry.open_zones == 13


@given(
    st.integers(3, 300),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 99),
    st.one_of(st.none(), st.integers(1, 70)),
    st.integers(0, 40),
    st.dictionaries(st.integers(0, 299), st.sampled_from([zone_states.OFFLINE, zone_states.READ_ONLY]), max_size=20),
)
def test_any_plan_keeps_the_devices_limits_and_uses_each_zone_once(
    count: int, max_open: int, max_active: int, rsvd: int, wish: int | None, optimal: int, bad: dict[int, str]
) -> None:
    try:
        geometry = plan(
            zones(count, bad=bad),
            zone_size=4096,
            max_open_zones=max_open,
            max_active_zones=max_active,
            lba_rsvd=rsvd,
            num_punits=wish,
            optimal_open_zones=optimal,
        )
    except GeometryError:
        return
    for limit in (max_open, max_active):
        assert limit == 0 or geometry.open_zones <= limit
    used = [zone for band in geometry.bands for zone in band] + list(geometry.spare_zones)
    assert len(used) == len(set(used))
    assert not set(used) & (set(bad) | {0, 1})
    assert all(len(band) == geometry.punits for band in geometry.bands)
    assert len(used) == sum(1 for i in range(2, count) if i not in bad)
    assert wish is None or geometry.punits == wish
    for index, band in enumerate(geometry.bands):
        for punit, zone in enumerate(band):
            nominal = 2 + index * geometry.punits + punit
            assert geometry.replaced.get(nominal, nominal) == zone
    assert 0 < geometry.block_count < geometry.band_count * geometry.band_blocks


@given(st.integers(4, 100_000))
def test_a_summary_is_the_smallest_that_describes_the_data_area(capacity: int) -> None:
    blocks = summary_blocks(capacity)
    assert blocks * 168 >= capacity - blocks
    assert (blocks - 1) * 168 < capacity - (blocks - 1)
    assert 0 < usable_blocks(capacity) < capacity - blocks


def test_the_smallest_zones_capacity_counts_for_all() -> None:
    mixed = zones(50)
    mixed[17] = Zone(17, 17 * 4096, 2048, zone_states.EMPTY, 0)
    geometry = plan(mixed, zone_size=4096, num_punits=1)
    assert (geometry.zone_capacity, geometry.finish_zones) == (2048, True)


def test_a_small_bad_zone_does_not_shrink_the_others() -> None:
    mixed = zones(50)
    mixed[17] = Zone(17, 17 * 4096, 0, zone_states.OFFLINE, 0)
    geometry = plan(mixed, zone_size=4096, num_punits=1)
    assert (geometry.zone_capacity, geometry.finish_zones) == (3072, False)
    assert geometry.bad_zones == (17,)


@pytest.mark.parametrize(("limit", "punits", "shared"), [(3, 1, True), (4, 1, False), (6, 1, False), (7, 1, False)])
def test_streams_share_a_band_where_open_zones_are_scarce(limit: int, punits: int, shared: bool) -> None:
    geometry = plan(zones(100), zone_size=4096, max_open_zones=limit)
    assert (geometry.punits, geometry.shared_stream) == (punits, shared)


def test_optimal_open_zones_are_honoured_within_the_limits() -> None:
    assert plan(zones(100), zone_size=4096, optimal_open_zones=3).punits == 3
    assert plan(zones(100), zone_size=4096, optimal_open_zones=9, max_open_zones=14).punits == 4


def test_l2p_entries_are_wide_only_where_addresses_are() -> None:
    small = plan(zones(50), zone_size=4096, num_punits=1)
    assert (small.l2p_entry_bytes, small.checkpoint_entry_bytes) == (4, 4)
    large = plan(zones(1025, size=1 << 20, capacity=1 << 20), zone_size=1 << 20)
    assert (large.l2p_entry_bytes, large.checkpoint_entry_bytes, large.address_bits) == (4, 8, 31)
    larger = plan(zones(4100, size=1 << 20, capacity=1 << 20), zone_size=1 << 20)
    assert (larger.l2p_entry_bytes, larger.checkpoint_entry_bytes) == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"zones": zones(50), "zone_size": 0}, "--zone-capacity"),
        ({"zones": zones(2), "zone_size": 4096}, "has 2 zones"),
        ({"zones": zones(50, bad={1: zone_states.OFFLINE}), "zone_size": 4096}, "zone 1 .* is offline"),
        ({"zones": zones(4, bad={2: "offline", 3: "read_only"}), "zone_size": 4096}, "replace the device"),
        ({"zones": zones(50), "zone_size": 4096, "max_open_zones": 2}, "allows 2 open zones: an FTL needs 3"),
        ({"zones": zones(50), "zone_size": 4096, "max_active_zones": 14, "num_punits": 7}, "use at most 6"),
        ({"zones": zones(50), "zone_size": 4096, "num_punits": 0}, r"num_punits = 0: must be 1\.\.64"),
        ({"zones": zones(50), "zone_size": 4096, "num_punits": 49}, "only 48 zones"),
        ({"zones": zones(50, capacity=2), "zone_size": 4096}, "capacity of 2 blocks"),
    ],
)
def test_impossible_devices_are_refused_with_a_remedy(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        plan(**arguments)  # type: ignore[arg-type]


def test_what_the_superblock_keeps_is_json() -> None:
    geometry: Geometry = plan(zones(50, bad={5: "offline"}), zone_size=4096, num_punits=3)
    kept = geometry.to_dict()
    assert kept["replaced"] == [[5, 47]]
    assert kept["band_count"] == geometry.band_count == 15


@pytest.mark.parametrize(("limit", "classes"), [(0, 8), (7, 2), (8, 2), (9, 3), (13, 5), (19, 8), (40, 8)])
def test_open_zones_limit_the_classes_of_bands(limit: int, classes: int) -> None:
    """One band more may be closing, and the superblock has a zone."""
    geometry = plan(zones(130), zone_size=4096, max_open_zones=limit, max_active_zones=limit, num_punits=2)
    assert geometry.classes_max == classes
    assert limit == 0 or (classes + 1) * 2 + 1 <= limit
    assert plan(zones(130), zone_size=4096, max_open_zones=3).classes_max == 1, "the streams share a band"
