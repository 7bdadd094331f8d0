"""What is counted of bands as they change is what a count of them all gives, whatever happens to them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl.gc import manager as manager_module
from spdk_ftl_py.ftl.media.band import BAND_ROW, CLOSED, FAULTED, FREE, QUEUED, RESETTING, RETIRED, SHIM_STATES, Band

from ..ftl_rig import FtlRig
from .band_rig import AGE_BLOCKS, bands_of, brute_choice, differences, miscounted, rows_of, selector_of

BANDS = 6
ZONE_BLOCKS = 40


@st.composite
def any_band(draw: st.DrawFn, index: int, punits: int) -> Band:
    state = draw(st.sampled_from([*SHIM_STATES, CLOSED, CLOSED, FAULTED, FAULTED]))
    zones: list[int | None] = [2 + index * punits + punit for punit in range(punits)]
    return Band(
        index,
        zones,
        ZONE_BLOCKS,
        state,
        draw(st.integers(0, 30)),
        draw(st.integers(0, 1)),
        draw(st.one_of(st.just(0), st.integers(0, ZONE_BLOCKS * punits))),
        draw(st.one_of(st.just(0), st.integers(0, ZONE_BLOCKS * punits + 2))),
        draw(st.sets(st.integers(0, punits - 1), max_size=1)),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Band], list[list[Band]]]:
    punits = draw(st.integers(1, 2))
    first = [draw(any_band(index, punits)) for index in range(BANDS)]
    now, later = list(first), []
    for _ in range(draw(st.integers(0, 8))):
        told = []
        for index in draw(st.lists(st.integers(0, BANDS - 1), unique=True)):
            if draw(st.booleans()):
                now[index] = draw(any_band(index, punits))
            else:
                # As by overwrites.
                valid = draw(st.one_of(st.just(0), st.integers(0, ZONE_BLOCKS * punits)))
                now[index] = dataclasses.replace(now[index], valid=valid)
            told.append(now[index])
        later.append(told)
    return first, later


def test_a_band_that_was_written_between_two_accounts_is_emptied_once() -> None:
    bands = bands_of([Band(0, [2], ZONE_BLOCKS), Band(1, [3], ZONE_BLOCKS, CLOSED, seq=1)])
    assert bands.emptied(2) == [1]
    bands.refresh(rows_of([Band(1, [3], ZONE_BLOCKS, CLOSED, seq=2, written=1)]))
    assert bands.emptied(2) == [1]
    assert miscounted(bands) == []


@given(histories(), st.data())
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_all_bands_after_any_history(
    history: tuple[list[Band], list[list[Band]]], data: st.DataObject
) -> None:
    first, later = history
    bands = bands_of(first)
    assert miscounted(bands) == []
    for told in later:
        bands.refresh(rows_of(told))
        for band in told:
            assert bands[band.index].state in (RETIRED, band.state)
        assert miscounted(bands) == []
        for band in bands.to_mend():
            if data.draw(st.booleans()):
                zone = data.draw(st.sampled_from([None, 100 + band.index]))
                bands.zone_map.put(band.index, min(band.bad_punits), zone)
                bands.rezoned(band.index)
                assert miscounted(bands) == []
                bands.mended(band)
                assert miscounted(bands) == []
                assert bands[band.index].state == (FREE if any(bands[band.index].zones) else RETIRED)
        number = bands.first_free()
        if number is not None:
            bands.ordered(number, QUEUED, stream=data.draw(st.integers(0, 1)))
        emptied = bands.emptied(data.draw(st.integers(0, BANDS)))
        refused = {number for number in emptied if data.draw(st.booleans())}
        for number in emptied:
            if number not in refused:
                bands.ordered(number, RESETTING)
        bands.put_off(refused)
        assert miscounted(bands) == []


@given(
    histories(),
    st.integers(0, 5 * ZONE_BLOCKS),
    st.integers(0, 40 * AGE_BLOCKS),
    st.booleans(),
    st.booleans(),
    st.sets(st.integers(0, 7)),
    st.sampled_from(["age_threshold", "cost_benefit", "greedy", "seed", "sepbit"]),
    st.sampled_from([0, 10, 50]),
)
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_one_made_band_by_band(
    history: tuple[list[Band], list[list[Band]]],
    room: int,
    next_seq: int,
    urgent: bool,
    endangered_only: bool,
    wished: set[int],
    policy: str,
    invalid_thld: int,
) -> None:
    first, later = history
    bands = bands_of(first)
    selector = selector_of(FtlConf(reloc_policy=policy, invalid_thld=invalid_thld), len(first[0].zones))
    for told in [[], *later]:
        bands.refresh(rows_of(told))
        for number in wished & set(range(len(bands))):
            bands.want_empty(number)
        assert bands.any_endangered() == any(band.endangered for band in bands)
        chosen = selector.choose(bands, room=room, next_seq=next_seq, urgent=urgent, endangered_only=endangered_only)
        candidates = [band for band in bands if not endangered_only or band.endangered]
        assert chosen == brute_choice(
            selector,
            candidates,
            room=room,
            next_seq=next_seq,
            urgent=urgent,
            invalid_thld=invalid_thld,
        )


def test_of_emptied_bands_those_that_were_refused_come_last_and_unwritten_ones_always() -> None:
    bands = bands_of([Band(i, [2 + i], 10, CLOSED, 1, 0, 0, 0 if i == 4 else 10) for i in range(5)])
    assert bands.emptied(2) == [4, 0, 1]
    bands.put_off([4, 0])
    assert bands.emptied(2) == [4, 1, 2]
    assert bands.emptied(0) == [4]
    assert bands.emptied_count == 5


def test_what_a_band_was_can_not_be_taken_for_what_it_is() -> None:
    band = bands_of([Band(0, [2], 10)])[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        band.state = CLOSED  # type: ignore[misc]


# --- what the shim tells


async def told(rig: FtlRig) -> list[str]:
    """Differences once all that has changed was taken, however little at a time."""
    while rig.device._manager.take_account():
        pass
    return differences(rig.device._bands, rig.device.core.bands()) + miscounted(rig.device._bands)


@pytest.mark.parametrize("most", [1, 3, 1024])
@pytest.mark.rig(zones=40, zone_size=64, zone_capacity=60, open_zones=5, volatile_cache=True)
async def test_the_shim_tells_of_every_change(rig: FtlRig, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(manager_module, "CHANGES_MAX", most)
    assert await told(rig) == []
    for seed in range(4):
        rig.media.set_schedule(seed)
        if seed == 2:
            rig.media.inject_fault(op=_shim.Op.WRITE, status=0x404, skip=40, times=2)
        await rig.start("write", total_blocks=rig.device.block_count, queue_depth=16)
        for _ in range(50):
            for _ in range(20):
                rig.reactor.shim.step(None)
            assert await told(rig) == []
        await rig.finish()
        await rig.good("trim", total_blocks=rig.device.block_count // 4, io_blocks=16)
        assert await told(rig) == []
    assert rig.device.stats()["relocs_started"] > 0


@pytest.mark.rig(zones=40, zone_size=64, zone_capacity=60)
async def test_a_band_that_has_not_changed_is_not_told_of(rig: FtlRig) -> None:
    await rig.overwrite(0.5)
    assert await told(rig) == []
    assert len(rig.device.core.changed_bands(100)) == 0
    rows = rig.device.core.band_rows(0, rig.device.geometry.band_count)
    assert len(rows) == BAND_ROW.itemsize * rig.device.geometry.band_count
    assert len(rig.device.core.changed_bands(100)) == 0
