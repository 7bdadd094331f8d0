"""What takes longer the more there is does not run in the event loop: hosts of other FTLs wait for that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py.ftl.load import checkpoint, held, merge, zone_walk
from spdk_ftl_py.ftl.media.layout import ENTRY
from spdk_ftl_py.runtime import turns
from unit.ftl.load.restore_rig import RestoreRig
from unit.ftl.load.test_merge import Reader, merge_of

LONG: dict[str, list[tuple[Any, str]]] = {
    "crash": [
        *[(zone_walk, "_take_headers"), (merge.Merge, "_collect"), (merge, "_records"), (merge.Merge, "_apply")],
        *[(merge.Merge, "_rows_of_copies"), (held.HeldIndex, "seqs")],
    ],
    "halt": [(checkpoint._Reader, "_take"), (checkpoint._Reader, "_counts"), (checkpoint._Reader, "_check_whole")],
}


@pytest.mark.parametrize("end", LONG)
async def test_a_load_leaves_the_loop_to_others(end: str, rig: RestoreRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.create()
    await rig.traffic(1200)
    await rig.flush()
    await (rig.halt() if end == "halt" else rig.crash())
    loop = threading.get_ident()
    called: set[str] = set()

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            called.add(name)
            assert threading.get_ident() != loop, name
            return work(*args, **options)

        return call

    for owner, name in LONG[end]:
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    # However little there is.
    monkeypatch.setattr(turns, "ASIDE_MIN", 0)
    await rig.load()
    assert called == {name for _, name in LONG[end]}
    assert rig.device.restored is not None
    assert rig.device.restored["from_checkpoint"] == (end == "halt")
    await rig.check("after the load")


async def test_a_band_of_many_zones_counts_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    async def aside(items: int, work: Callable[[], Any]) -> Any:
        given.append(items)
        return work()

    monkeypatch.setattr(merge, "aside", aside)
    rows = 20_000
    entries = np.zeros(rows, ENTRY)
    entries["lba"] = 1 << 40
    zones: list[Any] = [
        SimpleNamespace(
            band=1, band_seq=5, start=0, walked=False, summary=None,
            entries=entries, addresses=np.zeros(rows, np.uint64),
        )
        for _ in range(8)
    ]  # fmt: skip
    await merge_of(Reader()).take(1, zones)
    assert len(given) == 8
    assert min(given) >= turns.ASIDE_MIN
