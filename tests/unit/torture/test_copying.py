"""FTLs that get another uuid between two lives: each is the one or the other, wherever power fails, with all it had."""

from __future__ import annotations

from typing import Any

import pytest

from spdk_ftl_py.ftl.media.superblock import SuperblockWriter
from spdk_ftl_py.torture import copying
from unit.torture.worlds import WORLDS, run, worlds


@pytest.fixture(autouse=True)
def every_ftl_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "COPYING_WORLDS", 1.0)


@pytest.mark.parametrize("options", [{}, {"use_append": True}, {"cache": "vss"}, {"faults": True}], ids=str)
def test_no_promise_is_broken_by_a_new_uuid(options: dict[str, Any]) -> None:
    results = worlds(**options)
    assert [result.violations for result in results] == [[]] * WORLDS
    assert sum(result.copies for result in results) >= WORLDS - 2
    assert results[0] == run(0, **options)


def test_a_new_uuid_that_is_answered_before_it_is_durable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(self: SuperblockWriter, content: Any, *, clean: bool) -> None:
        """Nothing."""

    monkeypatch.setattr("spdk_ftl_py.ftl.load.new_uuid.SuperblockWriter.write", write)
    assert [each.kind for each in worlds()[-1].violations] != []
