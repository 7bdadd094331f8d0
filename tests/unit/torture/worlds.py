"""Some worlds of one seed, one after the other."""

from __future__ import annotations

from typing import Any, Final

from spdk_ftl_py.torture.options import Options
from spdk_ftl_py.torture.result import WorldResult
from spdk_ftl_py.torture.run import run_world

WORLDS: Final = 4
CRASHES: Final = 12
SEED: Final = 9


def run(number: int, **options: Any) -> WorldResult:
    return run_world(Options(seed=SEED, **options), number, CRASHES)


def worlds(**options: Any) -> list[WorldResult]:
    """To the first that breaks a promise."""
    results: list[WorldResult] = []
    while len(results) < WORLDS and not (results and results[-1].violations):
        results.append(run(len(results), **options))
    return results
