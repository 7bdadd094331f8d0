"""Torture with several reactors: it repeats by its seed, and what it should use is used."""

from __future__ import annotations

from typing import Any

import pytest

from spdk_ftl_py.torture.options import Options
from spdk_ftl_py.torture.run import run_world

CRASHES = 6


@pytest.mark.parametrize(
    "options", [{"chain": False}, {"chain": True, "faults": True}, {"chain": True, "cores": 3}], ids=str
)
def test_hosts_on_other_reactors_break_no_promise(options: dict[str, Any]) -> None:
    result = run_world(Options(seed=20261129, **{"cores": 2, **options}), 0, CRASHES)
    assert result.violations == []
    assert result.crashes == CRASHES
    assert result.stats["crossed_ios"] >= result.io_count > 0
    if "cores" in options:
        assert result.stats["leased_blocks"] > 0


def test_the_same_seed_is_the_same_run_on_two_reactors() -> None:
    first, second = (run_world(Options(seed=20261129, chain=True, cores=2), 1, CRASHES) for _ in range(2))
    assert first == second
    assert first.digest != run_world(Options(seed=20261129, chain=True), 1, CRASHES).digest


def test_the_command_that_replays_a_run_has_its_cores() -> None:
    assert Options(seed=3, cores=2).replay(5, 20) == "spdk-ftl torture --seed 3 --world 5 --crashes 20 --cores 2"
    assert "--cores" not in Options(seed=3).command()
