"""One look at a target's bdevs for all who want to know at the same time. Each call of an RPC is a connection of its
own, and a daemon with many FTLs asks for each of them again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from weakref import WeakKeyDictionary

from .bdevs import Bdev, RepeatedLook, find_bdev
from .rpc import TargetRpc

ALL_FROM: Final = 4
"""From this many names on, all bdevs of the target are fetched in one call."""

_looks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, int | None], _Look]] = WeakKeyDictionary()
_answers: WeakKeyDictionary[TargetRpc, RepeatedLook] = WeakKeyDictionary()
"""Of those who looked first. They end with the FTL that asked."""


class _Look:
    """Of one target: collects names during one turn of the event loop."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.answer: asyncio.Task[Mapping[str, Bdev] | None] | None = None

    async def all_of_them(self, rpc: TargetRpc) -> Mapping[str, Bdev] | None:
        """None: there are so few names that each is asked for alone."""
        await asyncio.sleep(0)
        # Who comes from now on begins another look: this one may be older than what he did.
        _looks[asyncio.get_running_loop()].pop(rpc.whose)
        if len(self.names) < ALL_FROM:
            return None
        return await _answers.setdefault(rpc, RepeatedLook()).by_name(rpc)


async def look_for(rpc: TargetRpc, name: str) -> Bdev | None:
    """As find_bdev(), for who does not mind whether the answer is for him alone."""
    open_looks = _looks.setdefault(asyncio.get_running_loop(), {})
    look = open_looks.setdefault(rpc.whose, _Look())
    look.names.add(name)
    if look.answer is None:
        look.answer = asyncio.ensure_future(look.all_of_them(rpc))
        # All callers may be cancelled, and leave its error to nobody.
        look.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
    # A caller that is cancelled must not take the answer from the others.
    found = await asyncio.shield(look.answer)
    return await find_bdev(rpc, name) if found is None else found.get(name)
