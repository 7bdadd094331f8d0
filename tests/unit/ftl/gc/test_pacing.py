"""The pace of relocation, as it is decided. tests/unit/shim/ftl/test_core_pace.py has what a core makes of it."""

from __future__ import annotations

import pytest

from spdk_ftl_py.conf import FtlConf, Limit
from spdk_ftl_py.ftl.policy.limits import Limits
from spdk_ftl_py.ftl.policy.pacing import MoveSize, Pace, decide, level

LIMITS = Limits(
    FtlConf(limits={"crit": Limit(0, 5), "high": Limit(5, 10), "low": Limit(40, 20), "start": Limit(100, 40)})
)
MOVE = MoveSize(valid=750, left=700, capacity=1000)
"""Its natural pace is three blocks for each of the user."""


@pytest.mark.parametrize(
    ("at", "share"), [(-1, 0), (5, 0), (7.5, 3), (10, 5), (15, 23), (20, 40), (30, 70), (40, 100), (40.1, 100)]
)
def test_the_share_changes_in_proportion_and_is_that_of_a_limit_at_its_threshold(at: float, share: int) -> None:
    assert LIMITS.share_at(at) == share


def test_a_share_never_exceeds_that_of_the_limit_in_force() -> None:
    for hundredth in range(4200):
        at = hundredth / 100
        assert LIMITS.share_at(at) <= LIMITS.apply(-int(-at // 1)).user_share


def test_at_the_start_threshold_relocation_keeps_its_natural_pace_and_the_user_is_not_limited() -> None:
    assert decide(LIMITS, 40, [MOVE]) == Pace(100, 3000)


def test_the_pace_rises_while_the_level_falls_and_ends_where_the_share_is_what_keeps_the_level() -> None:
    paces = [decide(LIMITS, 60 - at / 10, [MOVE]) for at in range(600)]
    shares = [pace.user_share for pace in paces]
    assert shares == sorted(shares, reverse=True)
    rates = [pace.reloc_per_thousand for pace in paces]
    free = rates.index(None)
    assert rates[:free] == sorted(rate for rate in rates if rate is not None)
    assert set(rates[free:]) == {None}
    assert shares[free] == 25


def test_both_limits_together_never_wait_for_each_other() -> None:
    """What relocation may do for a block of the user is at least what that block has to wait for."""
    for valid in (1, 10, 500, 900, 999):
        for at in range(400):
            pace = decide(LIMITS, at / 10, [MoveSize(valid, valid, 1000)])
            if pace.user_share < 100 and pace.reloc_per_thousand is not None:
                assert pace.reloc_per_thousand / 1000 >= (100 - pace.user_share) / pace.user_share


def test_without_a_move_or_a_gain_relocation_is_not_paced() -> None:
    assert decide(LIMITS, 40, []).reloc_per_thousand is None
    assert decide(LIMITS, 40, [MoveSize(1000, 1000, 1000)]).reloc_per_thousand is None


def test_a_pace_always_fits_the_core_however_little_a_move_gains() -> None:
    pace = decide(LIMITS, 30, [MoveSize(1 << 30, 1 << 30, (1 << 30) + 1)])
    assert pace.reloc_per_thousand is not None
    assert pace.reloc_per_thousand < 1 << 32


def test_the_level_does_not_jump_when_a_band_is_opened_moved_or_freed() -> None:
    def at(free: int, room: int, *moves: MoveSize) -> float:
        return level(free=free, room=room, moves=moves, band_blocks=1000, open_bands=2)

    assert at(4000, 1000) == 3.5
    assert at(3000, 2000) == at(4000, 1000)
    assert at(4000, 1000, MoveSize(700, 700, 1000)) == at(4000, 1000)
    assert at(4000, 300, MoveSize(700, 0, 1000)) == at(5000, 300)
