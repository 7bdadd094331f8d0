"""What the log says of all bands when an FTL is halted, and that saying it keeps nobody waiting."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import LIMIT_NAMES
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl import halt_log
from spdk_ftl_py.ftl.halt_log import HaltLog
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.band import BAND_ROW, CLOSED, FREE, SHIM_STATES, Band, Bands
from spdk_ftl_py.ftl.media.zone_map import ZoneMap
from support.turn_meter import turn_meter
from unit.ftl.ftl_rig import FtlRig
from unit.ftl.gc.band_rig import bands_of

MANY = 65_536
LONGEST_S = 0.020
INTERNAL_ERROR = 0x006
LINE = re.compile(
    r"ftl0: band (\d+): (\w+), seq (\d+), (\d+) of (\d+) blocks valid, written to block (\d+), zones (-|[\d -]+)(, .*)?"
)


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == halt_log.__name__ and each.levelno == level]


async def test_a_halt_tells_of_every_band_at_debug_level(rig: FtlRig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=halt_log.__name__)
    await rig.overwrite(1.5)
    await rig.device.halt()
    rows = rig.device.core.band_rows(0, len(rig.device.zone_map.bands())).view(BAND_ROW)
    told = [LINE.fullmatch(line) for line in lines(caplog, logging.DEBUG)]
    assert len(told) == rig.device.geometry.band_count == len(rows)
    for number, (found, row, zones) in enumerate(zip(told, rows, rig.device.zone_map.bands(), strict=True)):
        assert found is not None
        state = SHIM_STATES[row["state"]]
        expected = [number, state, row["seq"], row["valid"], rig.device.geometry.band_blocks, row["written"]]
        assert list(found.groups()[:6]) == [str(each) for each in expected]
        assert found[7].split() == [str(zone) for zone in zones]
        assert found[8] is None
    (summary,) = lines(caplog, logging.INFO)
    states = [SHIM_STATES[state] for state in rows["state"]]
    counts = ", ".join(f"{states.count(state)} bands {state}" for state in sorted(set(states)))
    assert "bands closed" in counts
    stats, applied = rig.device.core.stats(), rig.device.stats()["limits_applied"]
    limits = ", ".join(f"{name} {applied[name]}" for name in LIMIT_NAMES if name in applied)
    assert "start " in limits
    assert summary == (
        f"ftl0: halted cleanly: {counts}; {rows['valid'].sum()} of "
        f"{rig.device.geometry.band_blocks * len(rows)} blocks valid; hosts wrote {stats.user_written_blocks} "
        f"blocks, {stats.media_written_blocks} went to media (write amplification "
        f"{stats.media_written_blocks / stats.user_written_blocks:.2f}); limits applied: {limits}"
    )


async def test_where_nobody_reads_it_no_line_is_made(
    rig: FtlRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger=halt_log.__name__)
    monkeypatch.setattr(halt_log, "_line", lambda band: pytest.fail("a line was made"))
    monkeypatch.setattr(Bands, "__iter__", lambda bands: pytest.fail("all bands were looked at"))
    await rig.device.halt()
    assert len(lines(caplog, logging.INFO)) == 1
    assert lines(caplog, logging.DEBUG) == []


async def test_a_halt_that_fails_tells_of_bands_too(rig: FtlRig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=halt_log.__name__)
    await rig.good("write", total_blocks=10)
    rig.media.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR)
    with pytest.raises(MediaError, match="can't flush"):
        await rig.device.halt()
    assert rig.device.state is FtlState.HALTED
    (summary,) = lines(caplog, logging.INFO)
    assert summary.startswith("ftl0: halted with an error: ")
    assert len(lines(caplog, logging.DEBUG)) == rig.device.geometry.band_count


async def test_what_is_wrong_with_a_band_is_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=halt_log.__name__)
    good = Band(0, [2, 3], 40, CLOSED, seq=7, valid=5, written=66)
    bad = Band(1, [4, None], 40, FREE, bad_punits={0})
    await HaltLog(bands_of([good, bad]), SimpleNamespace(limits_applied={})).write("ftl0", clean=True)  # type: ignore[arg-type]
    assert lines(caplog, logging.DEBUG) == [
        "ftl0: band 0: closed, seq 7, 5 of 80 blocks valid, written to block 66, zones 2 3",
        "ftl0: band 1: mending, seq 0, 0 of 40 blocks valid, written to block 0, zones 4 -, 1 of them bad",
    ]


@pytest.mark.not_sanitized("it measures the event loop, with a shim that is three times slower")
async def test_very_many_bands_are_told_of_and_the_loop_turns() -> None:
    told = 0

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal told
            told += bool(record.getMessage())

    geometry: Any = SimpleNamespace(
        band_count=MANY, punits=1, zone_blocks=31, band_blocks=31, bands=tuple((i,) for i in range(2, MANY + 2)),
        replaced={}, spare_zones=(), bad_zones=(), zone_count=MANY + 2,
    )  # fmt: skip
    manager: Any = SimpleNamespace(limits_applied={})
    log, handler = logging.getLogger(halt_log.__name__), Counting()
    level, propagates = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    longest = []
    try:
        # Three times at most: other processes may keep the loop's thread from a core.
        while (not longest or min(longest) >= LONGEST_S) and len(longest) < 3:
            told = 0
            bands = Bands(geometry, ZoneMap(geometry))
            async with turn_meter() as meter:
                await HaltLog(bands, manager).write("ftl0", clean=True)
                longest.append(meter.longest_s)
                assert meter.turns > 10
                print(f"{meter.longest_s * 1000:.1f} ms")
            assert told == MANY
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates
    assert min(longest) < LONGEST_S, longest
