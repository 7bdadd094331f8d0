"""Who asks for bdevs of one target at the same time shares one call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from spdk_ftl_py.errors import TargetError
from spdk_ftl_py.spdk.rpc import ENODEV_CODE, Repeated
from spdk_ftl_py.spdk.shared_look import ALL_FROM, look_for


class FakeTarget:
    """In the place of a TargetRpc."""

    def __init__(self, address: str = "/t.sock") -> None:
        self.address = address
        self.whose = address, None
        self.bdevs = {f"ftl{number}" for number in range(ALL_FROM)}
        self.calls: list[Any] = []
        self.failure: TargetError | None = None

    async def call_again(self, repeated: Repeated) -> Any:
        return await self.call(repeated.method)

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        assert method == "bdev_get_bdevs"
        self.calls.append(params)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        names = sorted(self.bdevs) if params is None else [params["name"]]
        if not set(names) <= self.bdevs:
            raise TargetError("no such bdev", rpc_code=ENODEV_CODE)
        return [{"name": name, "block_size": 4096, "num_blocks": 8, "aliases": [f"{name}-alias"]} for name in names]


async def names(target: FakeTarget, *asked: str) -> list[str | None]:
    found = await asyncio.gather(*(look_for(target, name) for name in asked))  # type: ignore[arg-type]
    return [None if bdev is None else bdev.name for bdev in found]


async def test_many_share_a_call_and_few_do_not() -> None:
    target = FakeTarget()
    assert await names(target, "ftl0", "ftl1", "ftl2-alias", "gone") == ["ftl0", "ftl1", "ftl2", None]
    assert target.calls == [None]
    target.calls.clear()
    assert await names(target, "ftl0", "gone") == ["ftl0", None]
    assert target.calls == [{"name": "ftl0"}, {"name": "gone"}]


async def test_who_comes_later_gets_no_older_answer() -> None:
    target = FakeTarget()
    first = asyncio.ensure_future(names(target, *target.bdevs))
    while not target.calls:  # noqa: ASYNC110 - one turn of the loop at a time
        await asyncio.sleep(0)
    target.bdevs.discard("ftl0")
    assert await names(target, "ftl0") == [None]
    await first


async def test_each_target_is_asked_for_itself() -> None:
    one, other = FakeTarget("/one"), FakeTarget("/other")
    other.bdevs.clear()
    there, not_there = await asyncio.gather(names(one, *one.bdevs), names(other, *one.bdevs))
    assert None not in there
    assert set(not_there) == {None}


async def test_a_failure_is_everybodys_and_a_cancellation_is_not() -> None:
    target = FakeTarget()
    target.failure = TargetError("silent")
    looks = [asyncio.ensure_future(look_for(target, name)) for name in target.bdevs]  # type: ignore[arg-type]
    assert all(isinstance(each, TargetError) for each in await asyncio.gather(*looks, return_exceptions=True))
    target.failure = None
    looks = [asyncio.ensure_future(look_for(target, name)) for name in sorted(target.bdevs)]  # type: ignore[arg-type]
    while not target.calls[1:]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    looks[0].cancel()
    for look in looks[1:]:
        assert await look is not None
    with pytest.raises(asyncio.CancelledError):
        await looks[0]
