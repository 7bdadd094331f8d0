"""What SPDK's own FTL takes and answers, ours does: parameters, statistics, properties."""

from __future__ import annotations

from typing import Any

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.errors import ParameterError
from support.spdk_ftl_rpcs import GROUP, OLD, PROPERTIES, PROPERTY, RPCS, STATS
from unit.daemon.registry_rig import World, create


@pytest.mark.parametrize("method", [*RPCS, *OLD])
def test_every_parameter_is_taken_and_the_same_are_required(method: str) -> None:
    params, required = {**RPCS, **OLD}[method]
    rpc = schema.load(method)
    target = {"target": "/t.sock"} if "target" in rpc.document["required"] else {}
    assert rpc.check({**params, **target}) == {**params, **target}
    assert {parameter.name for parameter in rpc.parameters if parameter.required} - {"target"} == required
    for name in required:
        with pytest.raises(ParameterError, match=name):
            rpc.check({**{key: value for key, value in params.items() if key != name}, **target})


async def test_the_daemon_has_every_method(here: World) -> None:
    daemon = await here.start()
    assert {*RPCS, *OLD} <= daemon.registry.methods.keys()
    await daemon.halt()


def shape(value: Any) -> Any:
    return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else type(value)


async def test_statistics_and_properties_have_its_form(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    stats = await daemon.call("bdev_ftl_get_stats", name="ftl0")
    assert stats["name"] == "ftl0"
    for group in STATS:
        assert shape(stats[group]) == shape(GROUP), group
    assert [key for key in stats if key in STATS] == list(STATS)
    told = await daemon.call("bdev_ftl_get_properties", name="ftl0")
    assert told["name"] == "ftl0"
    for entry in told["properties"]:
        assert {"name", "value"} <= entry.keys() <= PROPERTY
        assert type(entry["read-only"]) is bool
    names = [entry["name"] for entry in told["properties"]]
    assert set(names) >= PROPERTIES
    assert len(names) == len(set(names))
    await daemon.halt()
