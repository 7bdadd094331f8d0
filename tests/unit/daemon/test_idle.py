"""What a daemon does that has nothing to do. (bench/cost.py measures what that costs.)"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from unit.daemon.registry_rig import World, create

FTLS = 4
SETTLE_S = 3.0
WATCHED_S = 5.0
"""The period of Keep Alives, and of the look at the bdevs in the target."""
CALLBACKS_MAX = 40
"""Of each FTL in WATCHED_S, including those of the embedded target, which is in the same process."""
ROUNDS_MAX = 40
"""Of each reactor in WATCHED_S."""


async def test_few_callbacks_run_and_reactors_sleep(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await here.start()
    for number in range(FTLS):
        await here.rpc(
            "ftltgt_zns_create", name=f"Z{number}", path=str(here.folder / f"drive{number}"),
            num_zones=64, zone_size=256, zone_capacity=192, max_open_zones=14,
        )  # fmt: skip
        await create(here, daemon, f"ftl{number}", base_bdev=f"Z{number}", no_attach=False)
    await asyncio.sleep(SETTLE_S)
    ran: Counter[str] = Counter()
    run = asyncio.Handle._run

    def counted(handle: asyncio.Handle) -> None:
        ran[repr(handle)[:160]] += 1
        run(handle)

    reactors = {daemon.managed(f"ftl{number}").front.reactor.shim for number in range(FTLS)}
    rounds = {shim: shim.rounds for shim in reactors}
    monkeypatch.setattr(asyncio.Handle, "_run", counted)
    await asyncio.sleep(WATCHED_S)
    monkeypatch.undo()
    assert ran.total() < FTLS * CALLBACKS_MAX, ran.most_common(30)
    assert all(shim.rounds - before < ROUNDS_MAX for shim, before in rounds.items()), [
        shim.rounds - before for shim, before in rounds.items()
    ]
    await daemon.halt(undo=True)
