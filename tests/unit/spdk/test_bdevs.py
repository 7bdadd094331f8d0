"""A target that lies about its bdevs is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spdk_ftl_py.errors import FtlError, ProtocolError
from spdk_ftl_py.spdk.bdevs import RepeatedLook, get_bdevs
from spdk_ftl_py.spdk.rpc import UNCHANGED, Repeated

GOOD = {"name": "Nvme0n1", "block_size": 4096, "num_blocks": 1024}


class Liar:
    """In the place of a TargetRpc."""

    address = "/run/target.sock"

    def __init__(self, result: str) -> None:
        self._result = result

    async def call(self, _method: str, _params: Any = None) -> Any:
        return json.loads(self._result)


async def test_a_bdev_is_taken() -> None:
    [bdev] = await get_bdevs(Liar(json.dumps([GOOD])))  # type: ignore[arg-type]
    assert (bdev.name, bdev.block_count) == ("Nvme0n1", 1024)


@pytest.mark.parametrize(
    "change",
    [
        '"num_blocks": NaN', '"num_blocks": Infinity', '"num_blocks": 1e999', '"num_blocks": -1',
        '"num_blocks": 1e30', '"num_blocks": [1]', '"block_size": "x"', '"block_size": {}', '"md_size": -8',
        '"zoned": true, "zone_size": -1', '"aliases": 7', '"supported_io_types": 7',
        '"name": ' + "[" * 500 + "]" * 500, '"name": "' + "x" * 5000 + '"', '"aliases": ["' + "x" * 5000 + '"]',
    ],
)  # fmt: skip
async def test_a_bdev_that_can_not_be_is_refused(change: str) -> None:
    entry = json.dumps(GOOD)[:-1] + f", {change}}}"
    with pytest.raises(ProtocolError, match="malformed bdev") as refused:
        await get_bdevs(Liar(f"[{entry}]"))  # type: ignore[arg-type]
    assert len(str(refused.value)) < 2000
    assert isinstance(refused.value, FtlError)


async def test_a_repeated_look_sees_what_has_changed_and_keeps_no_malformed_answer() -> None:
    entry = {**GOOD, "aliases": ["also"]}

    class Target:
        address = "/t.sock"

        def __init__(self) -> None:
            self.answers: list[Any] = [[entry], UNCHANGED, [], [{**entry, "md_size": -8}], [entry]]
            self.asked: Repeated | None = None

        async def call_again(self, repeated: Repeated) -> Any:
            self.asked = repeated
            repeated.answer = b"anything"
            return self.answers.pop(0)

    target: Any = Target()
    look = RepeatedLook()
    first = await look.by_name(target)
    assert set(first) == {"Nvme0n1", "also"}
    assert await look.by_name(target) is first
    assert await look.by_name(target) == {}
    with pytest.raises(ProtocolError, match="malformed"):
        await look.by_name(target)
    assert target.asked.answer == b""
    assert set(await look.by_name(target)) == {"Nvme0n1", "also"}
