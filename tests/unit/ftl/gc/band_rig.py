"""Bands without a core, and what is counted of them without counting as they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl.gc.reloc import Selector
from spdk_ftl_py.ftl.media.band import BAND_ROW, CLOSED, FAULTED, FREE, OPEN, QUEUED, RETIRED, SHIM_STATES, Band, Bands
from spdk_ftl_py.ftl.media.zone_map import ZoneMap
from spdk_ftl_py.ftl.policy.guard import Guard
from spdk_ftl_py.ftl.policy.interface import Surroundings

AGE_BLOCKS = 1000
"""Blocks that hosts have written between two bands that were opened."""

SURROUNDINGS = Surroundings(band_count=8, band_blocks=1000, block_count=6000, classes_max=2)


def selector_of(conf: FtlConf, punits: int) -> Selector:
    return Selector(conf, punits, Guard.new(conf.reloc_policy, SURROUNDINGS))


def rows_of(bands: Iterable[Band]) -> NDArray[np.uint8]:
    """As the shim tells of them."""
    rows = [
        (
            band.seq,
            sum(1 << punit for punit in band.bad_punits),
            band.seq * AGE_BLOCKS,
            band.seq * AGE_BLOCKS,
            band.index,
            band.valid,
            band.written,
            SHIM_STATES.index(band.state),
            band.stream,
            0,
            band.written == 0,
            0,
        )
        for band in bands
    ]
    return np.array(rows, BAND_ROW).view(np.uint8)


def bands_of(given: Sequence[Band]) -> Bands:
    """Bands 0.. of as many zones each."""
    (punits,) = {len(band.zones) for band in given}
    (zone_blocks,) = {band.zone_blocks for band in given}
    assert [band.index for band in given] == list(range(len(given)))
    geometry: Any = SimpleNamespace(
        band_count=len(given),
        zone_count=max(200, 2 + len(given) * punits),
        punits=punits,
        zone_blocks=zone_blocks,
        band_blocks=punits * zone_blocks,
        bands=tuple(tuple(band.zones) for band in given),
        replaced={},
        spare_zones=(),
        bad_zones=(),
    )
    bands = Bands(geometry, ZoneMap(geometry))
    bands.refresh(rows_of(given))
    return bands


def brute_choice(
    selector: Selector, bands: Iterable[Band], *, room: int, next_seq: int, urgent: bool, invalid_thld: int
) -> int | None:
    """What Selector.choose() has to choose, band by band."""
    best: int | None = None
    best_merit: tuple[bool, float] = (False, -1.0)
    for band in bands:
        if band.valid == 0 or band.valid + selector.least_gain > room:
            continue
        endangered = band.state == FAULTED or (band.state == CLOSED and (bool(band.bad_punits) or band.relocate))
        if endangered:
            another = band.zone_blocks * len(band.zones)
            endangered = band.valid + selector.least_gain + another <= room
        least = selector.least_gain
        if not urgent:
            least = max(least, -(-band.capacity * invalid_thld // 100))
        worth_it = band.capacity_to_come - band.valid >= least
        if not endangered and not (band.state in (CLOSED, FAULTED) and worth_it):
            continue
        age = max(1, next_seq - band.seq * AGE_BLOCKS)
        merit = {
            "greedy": float(band.invalid),
            "age_threshold": float(band.invalid + (1001 if age >= 600 else 0)),
            "cost_benefit": band.invalid / (band.capacity + band.valid + 1) * age,
        }.get(selector.guard.name, band.invalid / (band.valid + 1) * age)
        if (endangered, merit) > best_merit:
            best, best_merit = band.index, (endangered, merit)
    return best


def miscounted(bands: Bands) -> list[str]:
    """What is counted as bands change, and is not what counting them now gives."""
    every = list(bands)
    ready = [band for band in every if band.state == FREE and not band.bad_punits]
    order = [band.index for band in sorted(ready, key=lambda band: (bands.resets[band.index], band.seq, band.index))]
    states = {band.state for band in every}
    told = [band.reported_state for band in every]
    counted: dict[str, tuple[object, object]] = {
        "counts": (bands.counts(), {state: told.count(state) for state in sorted(set(told))}),
        "free_count": (bands.free_count, len(ready)),
        "free": ([band.index for band in bands.free()], order),
        "first_free": (bands.first_free(), order[0] if order else None),
        "resets": (
            bands.resets.tolist(),
            [max((int(bands.wear.counts[z]) for z in band.zones if z is not None), default=0) for band in every],
        ),
        "free_capacity": (bands.free_capacity, sum(band.capacity for band in ready)),
        "emptied": (
            sorted(bands.emptied(len(bands))),
            [band.index for band in every if band.state in (CLOSED, FAULTED) and band.valid == 0],
        ),
        "to_mend": (
            sorted(band.index for band in bands.to_mend()),
            [band.index for band in every if band.state == FREE and band.bad_punits],
        ),
        "capacity": (bands.capacity.tolist(), [band.capacity for band in every]),
        "capacity_to_come": (bands.capacity_to_come.tolist(), [band.capacity_to_come for band in every]),
        "missing_zones": (bands.zone_map.missing_count, sum(zone is None for band in every for zone in band.zones)),
        "zones": ([list(zones) for zones in bands.zone_map.bands()], [band.zones for band in every]),
    }
    for stream in (_shim.STREAM_USER, _shim.STREAM_RELOC):
        own = [band for band in every if band.state in (OPEN, QUEUED) and band.stream == stream]
        counted[f"room {stream}"] = (bands.room(stream), sum(band.room for band in own))
        queued = sum(band.state == QUEUED for band in own)
        counted[f"queued {stream}"] = (bands.queued_count(stream), queued)
    for state in states:
        its = [band.index for band in every if band.state == state]
        counted[f"in state {state}"] = ([band.index for band in bands.in_state(state)], its)
    return [f"{name}: {has!r}, not {should!r}" for name, (has, should) in counted.items() if has != should]


def differences(bands: Bands, account: Sequence[_shim.BandInfo]) -> list[str]:
    """Where they are not what FtlCore.bands() says."""
    found = []
    for band, now in zip(bands, account, strict=True):
        state = SHIM_STATES[now.state]
        if band.state not in (RETIRED, state):
            found.append(f"band {band.index} is {state}, not {band.state}")
        found += [
            f"{name} of band {band.index} is {getattr(now, name)}, not {getattr(band, name)}"
            for name in ("seq", "stream", "valid", "written")
            if getattr(band, name) != getattr(now, name)
        ]
        if not set(now.faulted_punits) <= band.bad_punits:
            found.append(f"of band {band.index} {now.faulted_punits} have failed, known are {band.bad_punits}")
    return found
