"""FtlConf: the seed's defaults, each rule with an error that says setting, value and remedy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.conf import (
    LIMIT_NAMES,
    FtlConf,
    Limit,
    NvCacheConf,
    default_thresholds,
    former_default_thresholds,
    garbage_per_band,
    given_settings,
    least_gain_blocks,
    spare_bands_needed,
    write_buffer_blocks,
)
from spdk_ftl_py.errors import JSONRPC_INVALID_PARAMS, ConfError
from spdk_ftl_py.ignored_settings import drop_ignored, ignored_in_superblock


@dataclass(frozen=True)
class Numbers:
    band_count: int = 63
    punits: int = 2
    open_bands: int = 2
    band_blocks: int = 6058
    lba_rsvd: int = 20

    @property
    def block_count(self) -> int:
        return self.band_count * self.band_blocks * (100 - self.lba_rsvd) // 100

    @property
    def spare_bands(self) -> int:
        return self.band_count - -(-self.block_count // self.band_blocks)


def test_defaults_are_the_seeds() -> None:
    conf = FtlConf()
    conf.check()
    assert {name: limit.limit for name, limit in conf.limits.items()} == {"crit": 0, "high": 5, "low": 40, "start": 100}
    assert (conf.invalid_thld, conf.lba_rsvd, conf.write_buffer_size, conf.band_thld) == (10, 20, 6 << 20, 90)
    assert (conf.max_reloc_qdepth, conf.max_active_relocs) == (32, 3)
    assert (conf.allow_open_bands, conf.max_io_channels, conf.use_append) == (False, 128, False)
    assert conf.nv_cache == NvCacheConf(max_request_cnt=2048, max_request_size=16)


@pytest.mark.parametrize("size", [32768, 36864, (1 << 30) - 4096, 1 << 30])
def test_a_write_buffer_within_its_bounds_is_taken_and_cut_to_half_a_band(size: int) -> None:
    conf = FtlConf(write_buffer_size=size).check_geometry(Numbers())
    assert conf.write_buffer_size == size
    assert write_buffer_blocks(conf, Numbers()) == min(size // 4096, 6058 // 2)


def test_bands_that_are_too_small_for_a_write_buffer_are_refused() -> None:
    """The data path needs 8 blocks, and half a band is the most it gets."""
    conf = FtlConf(lba_rsvd=60)
    assert write_buffer_blocks(conf.check_geometry(Numbers(band_blocks=16, lba_rsvd=60)), Numbers(band_blocks=16)) == 8
    with pytest.raises(ConfError, match=r"a band holds 15 blocks.*needs 8 blocks.*larger zones, or more parallel"):
        conf.check_geometry(Numbers(band_blocks=15, lba_rsvd=60))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"invalid_thld": 100}, ["invalid_thld = 100", "0..99"]),
        ({"lba_rsvd": 0}, ["lba_rsvd = 0", "1..99"]),
        ({"lba_rsvd": 100}, ["lba_rsvd = 100", "1..99"]),
        ({"write_buffer_size": 0}, ["write_buffer_size = 0", "32768..1073741824", "multiple of 4096"]),
        ({"write_buffer_size": 28672}, ["write_buffer_size = 28672", "32768..1073741824"]),
        ({"write_buffer_size": 32769}, ["write_buffer_size = 32769", "32768 is the nearest"]),
        ({"write_buffer_size": (1 << 30) - 1}, ["multiple of 4096", "1073741824 is the nearest"]),
        ({"write_buffer_size": (1 << 30) + 4096}, ["write_buffer_size = 1073745920", "32768..1073741824"]),
        ({"write_buffer_size": -4096}, ["write_buffer_size = -4096"]),
        ({"band_thld": 0}, ["band_thld = 0", "1..100"]),
        ({"band_thld": 101}, ["band_thld = 101"]),
        ({"max_reloc_qdepth": 0}, ["max_reloc_qdepth = 0"]),
        ({"scrub_days": -1}, ["scrub_days = -1", "0..365"]),
        ({"scrub_days": 366}, ["scrub_days = 366"]),
        ({"max_active_relocs": 0}, ["max_active_relocs = 0"]),
        ({"max_io_channels": 0}, ["max_io_channels = 0"]),
        ({"nv_cache": NvCacheConf(max_request_cnt=0)}, ["nv_cache.max_request_cnt = 0", "1..65536"]),
        ({"nv_cache": NvCacheConf(max_request_cnt=65537)}, ["nv_cache.max_request_cnt = 65537"]),
        ({"nv_cache": NvCacheConf(max_request_size=0)}, ["nv_cache.max_request_size = 0", "1..256"]),
        ({"nv_cache": NvCacheConf(max_request_size=257)}, ["nv_cache.max_request_size = 257"]),
        ({"reloc_policy": "a b"}, ["reloc_policy = 'a b'", "greedy", "MODULE:CLASS"]),
        ({"reloc_policy": "a" * 201}, ["is not the name of a policy"]),
        ({"limits": {**FtlConf().limits, "crit": Limit(101)}}, ["limit crit = 101", "0..100"]),
        ({"limits": {**FtlConf().limits, "low": Limit(40, -1)}}, ["limit-threshold low = -1", "negative"]),
        ({"limits": {**FtlConf().limits, "mild": Limit(40)}}, ["'mild'", "crit, high, low, start"]),
        ({"limits": {"crit": Limit(0)}}, ["lack high, low, start"]),
        (
            {"limits": {**FtlConf().limits, "low": Limit(40, 9), "start": Limit(100, 9)}},
            ["start = 9", "low = 9", "descend"],
        ),
    ],
)
def test_a_broken_rule_names_setting_value_and_rule(change: dict[str, object], parts: list[str]) -> None:
    conf = dataclasses.replace(FtlConf(), **change)  # type: ignore[arg-type]
    with pytest.raises(ConfError) as caught:
        conf.check()
    for part in parts:
        assert part in caught.value.message
    assert caught.value.jsonrpc_code == JSONRPC_INVALID_PARAMS


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"overprovisionning": 20}, "'overprovisionning'"),
        ({"lba_rsvd": "20"}, "lba_rsvd = '20'"),
        ({"lba_rsvd": True}, "lba_rsvd = True"),
        ({"use_append": 1}, "use_append = 1"),
        ({"verify_reads": "off"}, "verify_reads = 'off'"),
        ({"limits": 5}, "limits = 5"),
        ({"limits": {"urgent": {}}}, "'urgent'"),
        ({"limits": {"crit": 5}}, "limit crit = 5"),
        ({"limits": {"crit": {"percent": 5}}}, "limit crit"),
        ({"limits": {"crit": {"limit": 0.5}}}, "limit crit = 0.5"),
        ({"nv_cache": {"size": 5}}, "nv_cache"),
        ({"reloc_policy": 7}, "reloc_policy = 7"),
    ],
)
def test_from_dict_refuses_unknown_names_and_wrong_types(values: dict[str, object], part: str) -> None:
    with pytest.raises(ConfError) as caught:
        FtlConf.from_dict(values)
    assert part in caught.value.message


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lba_rsvd": st.integers(1, 99),
            "use_append": st.booleans(),
            "verify_reads": st.booleans(),
            "scrub_days": st.integers(0, 365),
            "nv_cache": st.fixed_dictionaries({}, optional={"max_request_cnt": st.integers(1, 9)}),
            "limits": st.dictionaries(
                st.sampled_from(LIMIT_NAMES),
                st.fixed_dictionaries({}, optional={"limit": st.integers(0, 100), "thld": st.integers(0, 50)}),
            ),
        },
    )
)
def test_to_dict_and_back_is_the_same_conf(values: dict[str, object]) -> None:
    conf = FtlConf.from_dict(values)
    assert FtlConf.from_dict(conf.to_dict()) == conf


def test_rpc_parameters_become_settings() -> None:
    conf = FtlConf.from_params(
        {"name": "ftl0", "overprovisioning": 30, "limit_low": 50, "limit_low_threshold": 7, "conf": {"band_thld": 80}}
    )
    assert (conf.lba_rsvd, conf.band_thld, conf.limits["low"]) == (30, 80, Limit(50, 7))
    assert conf.limits["start"] == FtlConf().limits["start"]


def test_what_is_given_stays_as_the_caller_has_it() -> None:
    conf = {"nv_cache": {"max_request_cnt": 8}, "nv_cache.max_request_size": 9}
    told = given_settings({"conf": conf})
    assert told == {"nv_cache": {"max_request_cnt": 8, "max_request_size": 9}}
    assert conf == {"nv_cache": {"max_request_cnt": 8}, "nv_cache.max_request_size": 9}


def test_parts_of_nv_cache_are_given_by_names_of_their_own() -> None:
    conf = FtlConf.from_params({"conf": {"nv_cache.max_request_cnt": 3, "nv_cache.max_request_size": 5}})
    assert conf.nv_cache == NvCacheConf(3, 5)
    assert [conf.setting(f"nv_cache.{part}") for part in ("max_request_cnt", "max_request_size")] == [3, 5]
    one = given_settings({"conf": {"nv_cache.max_request_size": 9}})
    assert conf.changed(one).nv_cache == NvCacheConf(3, 9)
    with pytest.raises(ConfError, match=r"nv_cache = {'size': 5}: must be an object with max_request_cnt and max_"):
        FtlConf.from_params({"conf": {"nv_cache.size": 5}})


@pytest.mark.parametrize("value", [0, 64, 2048, 1 << 40])
def test_a_pool_size_is_taken_and_has_no_effect(value: int) -> None:
    """Saved configurations and the superblocks of earlier releases have one."""
    assert given_settings({"conf": {"user_io_pool_size": value, "band_thld": 80}}) == {"band_thld": 80}
    assert FtlConf.from_dict({"user_io_pool_size": value}) == FtlConf()
    assert "user_io_pool_size" not in FtlConf().to_dict()


def test_what_is_ignored_is_told_once() -> None:
    params = {"name": "ftl0", "conf": {"user_io_pool_size": 64, "band_thld": 80}}
    assert drop_ignored(params) == [
        "conf user_io_pool_size is ignored: an I/O queue has one I/O for each entry, so there is no pool to size"
    ]
    assert params["conf"] == {"band_thld": 80}
    assert drop_ignored(params) == drop_ignored({"name": "ftl0"}) == drop_ignored({"conf": None}) == []


@pytest.mark.parametrize(("conf", "lines"), [({}, 0), ({"user_io_pool_size": 2048}, 0), ({"user_io_pool_size": 64}, 1)])
def test_only_what_somebody_had_given_is_told_of_a_superblock(conf: dict[str, object], lines: int) -> None:
    assert len(ignored_in_superblock(conf)) == lines


def test_what_is_given_counts_also_where_it_is_the_default_and_nothing_else_changes() -> None:
    conf = FtlConf(invalid_thld=20, lba_rsvd=30, nv_cache=NvCacheConf(7, 8)).with_limits(
        crit=Limit(1, 3), high=Limit(6, 6), low=Limit(41, 9), start=Limit(100, 12)
    )
    changed = conf.changed(
        {"invalid_thld": 10, "nv_cache": {"max_request_size": 16}, "limits": {"high": {"limit": 5}, "low": {"thld": 8}}}
    )
    assert changed == dataclasses.replace(
        conf,
        invalid_thld=10,
        nv_cache=NvCacheConf(7, 16),
        limits={**conf.limits, "high": Limit(5, 6), "low": Limit(41, 8)},
    )
    assert conf.changed({}) == conf


def test_thresholds_that_are_not_given_make_way_for_one_that_is() -> None:
    conf = FtlConf().with_limits(crit=Limit(0, 3), high=Limit(5, 6), low=Limit(40, 9), start=Limit(100, 12))
    limits = conf.changed({"limits": {"start": {"thld": 7}}}).limits
    assert {name: limit.thld for name, limit in limits.items()} == {"crit": None, "high": None, "low": None, "start": 7}


def test_a_change_that_makes_no_sense_is_refused() -> None:
    for settings in ({"invalid": 1}, {"lba_rsvd": "9"}, {"limits": {"hi": {"thld": 1}}}, {"limits": 3}):
        with pytest.raises(ConfError):
            FtlConf().changed(settings)


def test_default_thresholds_keep_as_few_bands_free_as_possible_and_some_more_of_very_small_ones() -> None:
    def thresholds(room: int, band_blocks: int) -> list[int]:
        return [default_thresholds(room, band_blocks)[name] for name in LIMIT_NAMES]

    assert thresholds(3, 6058) == [0, 1, 2, 3]
    assert [thresholds(room, 6058) for room in (5, 8)] == [[1, 2, 3, 4]] * 2, "space is short"
    assert [thresholds(room, 6058) for room in (9, 43, 10_000)] == [[0, 1, 2, 3]] * 3
    assert thresholds(202, 1009) == [0, 1, 3, 4]
    assert thresholds(3000, 60) == [0, 1, 19, 20]
    assert thresholds(20, 60) == [0, 1, 4, 5]


@given(room=st.integers(3, 10_000))
def test_thresholds_that_an_earlier_version_stored_because_nobody_gave_any_are_known(room: int) -> None:
    former = former_default_thresholds(room)
    assert list(former.values()) == sorted(set(former.values()))
    stored = FtlConf(limits={name: Limit(7, thld) for name, thld in former.items()})
    assert {limit.thld for limit in stored.without_thresholds(former).limits.values()} == {None}
    assert {limit.limit for limit in stored.without_thresholds(former).limits.values()} == {7}
    asked = stored.with_limits(start=Limit(100, former["start"] + 1))
    assert asked.without_thresholds(former) == asked
    assert FtlConf().without_thresholds(former) == FtlConf()


def test_former_default_thresholds_are_the_seeds_scaled_down() -> None:
    assert former_default_thresholds(1000) == {"crit": 5, "high": 10, "low": 20, "start": 40}
    assert former_default_thresholds(43) == {"crit": 1, "high": 2, "low": 5, "start": 10}
    assert former_default_thresholds(10) == {"crit": 1, "high": 2, "low": 3, "start": 4}


def test_default_thresholds_are_in_order() -> None:
    thresholds = FtlConf().check_geometry(Numbers()).limits
    values = [thresholds[name].thld for name in LIMIT_NAMES]
    assert values == sorted(set(values))  # type: ignore[type-var]
    assert values[-1] is not None
    assert values[-1] <= Numbers().spare_bands - 2


@given(st.integers(3, 10_000), st.integers(1, 10_000))
def test_default_thresholds_descend_and_fit_for_any_room(room: int, band_blocks: int) -> None:
    values = [default_thresholds(room, band_blocks)[name] for name in LIMIT_NAMES]
    assert values == sorted(set(values))
    assert values[0] >= 0
    assert values[-1] <= room


def test_explicit_thresholds_are_kept_and_defaults_give_way() -> None:
    conf = FtlConf().with_limits(high=Limit(5, 6)).check_geometry(Numbers())
    assert {name: limit.thld for name, limit in conf.limits.items()} == {"crit": 0, "high": 6, "low": 7, "start": 8}


def test_an_explicit_threshold_no_full_device_can_exceed_is_refused() -> None:
    with pytest.raises(ConfError, match=r"limit-threshold start = 40.*63 bands.*at most \d+ free.*lba_rsvd"):
        FtlConf().with_limits(start=Limit(100, 40)).check_geometry(Numbers())


def test_too_few_spare_bands_are_refused_with_what_would_do() -> None:
    numbers = Numbers(band_count=20)
    with pytest.raises(ConfError, match=r"20 bands with 4 spare bands.*needs 5; raise lba_rsvd.* to (\d+)") as caught:
        FtlConf().check_geometry(numbers)
    advised = int(caught.value.message.split(" to ")[1].split(",")[0])
    better = dataclasses.replace(numbers, lba_rsvd=advised)
    dataclasses.replace(FtlConf(), lba_rsvd=advised).check_geometry(better)


@given(st.integers(6, 400), st.integers(1, 8), st.integers(1, 2), st.integers(10, 3000), st.integers(1, 99))
def test_an_accepted_geometry_can_always_free_a_band(
    band_count: int, punits: int, open_bands: int, zone_blocks: int, lba_rsvd: int
) -> None:
    numbers = Numbers(band_count, punits, open_bands, zone_blocks * punits, lba_rsvd)
    conf = dataclasses.replace(FtlConf(), lba_rsvd=lba_rsvd)
    try:
        full = conf.check_geometry(numbers)
    except ConfError:
        return
    assert numbers.spare_bands >= spare_bands_needed(open_bands)
    assert garbage_per_band(numbers) >= least_gain_blocks(punits)
    full.check()
    assert all(limit.thld is not None for limit in full.limits.values())
