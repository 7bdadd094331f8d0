"""A larger geometry from a smaller one: what is there stays, and each zone is used once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.conf import LIMIT_NAMES, FtlConf, Limit
from spdk_ftl_py.errors import GeometryError
from spdk_ftl_py.ftl.media import zone as zone_states
from spdk_ftl_py.ftl.media.geometry import SUPERBLOCK_ZONES, Geometry, plan
from spdk_ftl_py.ftl.media.growth import conf_of, grown
from unit.ftl.media.test_geometry import zones

BAD = st.dictionaries(st.integers(2, 160), st.sampled_from([zone_states.OFFLINE, zone_states.READ_ONLY]), max_size=20)


def lost(geometry: Geometry, band: int, punit: int) -> Geometry:
    """A zone of it was given up, and there was no spare."""
    bands = [list(each) for each in geometry.bands]
    zone = bands[band][punit]
    bands[band][punit] = None
    assert zone is not None
    bad = tuple(sorted({*geometry.bad_zones, zone}))
    return replace(geometry, bands=tuple(map(tuple, bands)), bad_zones=bad)


@given(st.integers(6, 80), st.integers(1, 80), st.integers(1, 6), st.integers(1, 60), BAD, st.booleans())
def test_whatever_grows_keeps_its_bands_and_uses_no_zone_twice(
    count: int, more: int, punits: int, rsvd: int, bad: dict[int, str], loses: bool
) -> None:
    try:
        old = plan(zones(count, bad=bad), zone_size=4096, lba_rsvd=rsvd, num_punits=punits)
    except GeometryError:
        return
    if loses:
        old = lost(old, 0, 0)
    try:
        growth = grown(old, zones(count + more, bad=bad), lba_rsvd=rsvd)
    except GeometryError:
        assert all(zone in bad for zone in range(count, count + more))
        return
    assert growth is not None
    new = growth.geometry
    assert new.bands[: old.band_count] == old.bands
    assert (new.punits, new.zone_capacity, new.batch_blocks) == (old.punits, old.zone_capacity, old.batch_blocks)
    assert new.zone_count == count + more
    assert new.block_count >= old.block_count
    used = [zone for band in new.bands for zone in band if zone is not None] + list(new.spare_zones)
    assert len(set(used)) == len(used)
    assert not {*bad, *new.bad_zones, *SUPERBLOCK_ZONES}.intersection(used)
    assert len(new.spare_zones) < punits
    # As a superblock has it, and a load reads it.
    first = len(SUPERBLOCK_ZONES)
    assert first + new.band_count * punits <= new.zone_count
    for number, band in enumerate(new.bands[old.band_count :], old.band_count):
        nominal = range(first + number * punits, first + (number + 1) * punits)
        assert band == tuple(new.replaced.get(zone, zone) for zone in nominal)
    # Whatever it did not have, or not in a band, and has now, is emptied before.
    in_bands = {zone for band in old.bands for zone in band}
    in_new_bands = {zone for band in new.bands[old.band_count :] for zone in band}
    assert set(growth.taken) == (set(used) - in_bands - set(old.spare_zones)) | in_new_bands
    if not bad and not loses:
        fresh = plan(zones(count + more), zone_size=4096, lba_rsvd=rsvd, num_punits=punits)
        assert (new.bands, new.spare_zones, new.block_count) == (fresh.bands, fresh.spare_zones, fresh.block_count)


def test_a_zone_that_replaces_another_is_not_given_a_second_band() -> None:
    bad = {3: zone_states.OFFLINE}
    old = plan(zones(13, bad=bad), zone_size=4096, num_punits=2)
    assert (old.replaced, old.spare_zones) == ({3: 12}, ())
    growth = grown(old, zones(20, bad=bad), lba_rsvd=20)
    assert growth is not None
    new = growth.geometry
    assert new.bands[5:] == ((18, 13), (14, 15), (16, 17))
    assert (new.replaced, new.spare_zones) == ({3: 12, 12: 18}, (19,))


def test_zones_of_less_capacity_are_left_out_and_larger_ones_are_finished() -> None:
    old = plan(zones(20), zone_size=4096, num_punits=1)
    small = [each._replace(capacity=1000) if each.index == 22 else each for each in zones(24)]
    growth = grown(old, small, lba_rsvd=20)
    assert growth is not None
    assert growth.geometry.bands[18:] == ((20,), (21,), (23,))
    assert not growth.geometry.finish_zones
    large = [each._replace(capacity=4096) if each.index == 22 else each for each in zones(24)]
    growth = grown(old, large, lba_rsvd=20)
    assert growth is not None
    assert growth.geometry.finish_zones
    none = [each._replace(capacity=1000) if each.index >= 20 else each for each in zones(24)]
    with pytest.raises(GeometryError, match=r"none of the 4 added zones .* smaller than the 3072 blocks"):
        grown(old, none, lba_rsvd=20)


def test_a_base_that_has_not_grown_grows_nothing() -> None:
    old = plan(zones(20), zone_size=4096, num_punits=1)
    assert grown(old, zones(20), lba_rsvd=20) is None


def test_what_was_lost_is_made_up_for_before_anybody_gets_more() -> None:
    old = lost(lost(plan(zones(20), zone_size=4096, num_punits=1), 3, 0), 4, 0)
    growth = grown(old, zones(22), lba_rsvd=20)
    assert growth is not None
    assert growth.geometry.block_count == old.block_count
    growth = grown(old, zones(23), lba_rsvd=20)
    assert growth is not None
    assert growth.geometry.block_count > old.block_count


def test_thresholds_that_nobody_asked_for_grow_with_it() -> None:
    old = plan(zones(60, capacity=512), zone_size=4096, num_punits=1, lba_rsvd=20)
    growth = grown(old, zones(400, capacity=512), lba_rsvd=20)
    assert growth is not None
    fresh = FtlConf().check_geometry(growth.geometry)
    default = FtlConf().check_geometry(old)
    assert default != fresh
    assert conf_of(default, {}, old, growth.geometry) == fresh
    asked = FtlConf().with_limits(start=Limit(100, 7)).check_geometry(old)
    assert conf_of(asked, {}, old, growth.geometry).limits["start"].thld == 7
    settings = {"limits": {name: {"thld": default.limits[name].thld} for name in LIMIT_NAMES}}
    assert conf_of(default, settings, old, growth.geometry) == default
