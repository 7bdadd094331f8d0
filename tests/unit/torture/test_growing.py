"""Drives that get larger between two lives: an FTL is as it was, or grown, wherever its load was cut off."""

from __future__ import annotations

from typing import Any

import pytest

from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.torture import growing
from unit.torture.worlds import WORLDS, run, worlds


@pytest.fixture(autouse=True)
def every_drive_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "GROWING_WORLDS", 1.0)


@pytest.mark.parametrize("options", [{}, {"use_append": True}, {"cache": "vss"}, {"faults": True}], ids=str)
def test_no_promise_is_broken_by_a_growth(options: dict[str, Any]) -> None:
    results = worlds(**options)
    assert [result.violations for result in results] == [[]] * WORLDS
    assert sum(result.growths for result in results) >= WORLDS - 2
    assert sum(result.loads_interrupted for result in results) > 0
    assert results[0] == run(0, **options)


def test_zones_that_are_taken_as_they_are_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take_zones(*_: Any) -> None:
        """As if they were empty."""

    monkeypatch.setattr(loading, "take_zones", take_zones)
    # About one world in four has something in these zones that a later load takes for its own.
    assert any(run(number).violations for number in range(6, 13))


def test_a_growth_of_which_the_superblock_comes_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hosts write behind the old end is lost with its life."""
    told = FtlDevice._superblock_content

    def old(self: FtlDevice) -> dict[str, Any]:
        content = told(self)
        before = getattr(self, "superblock_before", None)
        return content if before is None else {**content, "geometry": before}

    plan_growth, load = loading.plan_growth, loading._loaded

    async def planned(port: Any, found: Any, *rest: Any) -> Any:
        grown = await plan_growth(port, found, *rest)
        if grown is not found:
            grown.superblock.content["before"] = found.superblock.content["geometry"]
        return grown

    async def loaded(reactor: Any, base: Any, port: Any, name: str, found: Any, *rest: Any, **options: Any) -> Any:
        monkeypatch.setattr(FtlDevice, "superblock_before", found.superblock.content.get("before"), raising=False)
        return await load(reactor, base, port, name, found, *rest, **options)

    monkeypatch.setattr(FtlDevice, "_superblock_content", old)
    monkeypatch.setattr(loading, "plan_growth", planned)
    monkeypatch.setattr(loading, "_loaded", loaded)
    assert worlds()[-1].violations
