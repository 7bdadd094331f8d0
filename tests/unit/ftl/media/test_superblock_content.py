"""What a superblock says is checked before anything is done with it, although it verifies."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from spdk_ftl_py.conf import FtlConf, Limit
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.media import superblock as superblocks
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import plan
from spdk_ftl_py.ftl.media.superblock import Superblock
from spdk_ftl_py.ftl.media.superblock_content import stored_conf
from unit.ftl.load.restore_rig import RestoreRig, restore_rig_of_the_test, restore_rigs  # noqa: F401
from unit.ftl.media.test_geometry import zones

Path = tuple[Any, ...]
MISSING = object()
VALUES = (
    MISSING,
    "x",
    None,
    -1,
    0,
    1,
    1 << 70,
    1.5,
    float("inf"),
    float("nan"),
    [],
    {},
    [[1, 2]],
    [5],
    [[2, 3], [2, 4]],
)


def paths_in(node: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from paths_in(value, (*path, key))


def changed(content: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    node: Any = content
    for key in path[:-1]:
        node = node[key]
    if value is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


@pytest.mark.parametrize("clean", [True, False])
async def test_whatever_stands_in_its_place_is_taken_or_refused(
    clean: bool, monkeypatch: pytest.MonkeyPatch, rig: RestoreRig
) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(100)
    await (rig.halt() if clean else rig.crash())
    port = BlockPort(rig.reactor, drive, name="base")
    found = await superblocks.find(port, await port.zones())
    assert found is not None
    told = dict(found.superblock.content)
    whole = found.superblock
    taken, refused = 0, list[str]()
    for path in paths_in(told):
        for value in VALUES:
            block = Superblock(whole.uuid, whole.generation, clean, changed(told, path, value), whole.hidden).build()
            parsed = Superblock.parse(block)
            assert parsed is not None
            there = found._replace(superblock=parsed)

            async def find(*args: Any, its: superblocks.Found = there) -> superblocks.Found:
                return its

            with monkeypatch.context() as patch:
                patch.setattr(superblocks, "find", find)
                try:
                    restored = await restore(port, whole.uuid)
                except FtlError as error:
                    refused.append(error.message)
                else:
                    assert 1 <= restored.next_seq <= 1 << 62, path
                    assert 1 <= restored.next_band_seq <= 1 << 62, path
                    assert len(restored.l2p) <= 44 * 48, path
                    taken += 1
    assert taken > 50
    assert len(refused) > 50
    assert [text for text in refused if not re.search(rf"{whole.uuid}|^conf |^the base bdev", text)] == []
    await port.close()


def test_thresholds_that_nobody_gave_are_the_defaults_of_the_version_that_loads() -> None:
    geometry = plan(zones(300), zone_size=4096, num_punits=1)
    fresh = FtlConf(running_checkpoint=0).check_geometry(geometry)

    def loaded(limits: dict[str, int], **content: Any) -> FtlConf:
        conf = FtlConf(limits={name: Limit(fresh.limits[name].limit, thld) for name, thld in limits.items()})
        superblock = Superblock(b"u" * 16, 1, True, {"conf": conf.to_dict(), **content})
        return stored_conf(superblock, geometry).check_geometry(geometry)

    earlier = {"crit": 1, "high": 3, "low": 7, "start": 14}
    assert loaded(earlier) == fresh
    assert loaded(earlier, default_thresholds=earlier) == fresh
    # Somebody gave them.
    for given, content in ((earlier, {"default_thresholds": {**earlier, "start": 9}}), ({**earlier, "start": 9}, {})):
        conf = loaded(given, **content)
        assert {name: limit.thld for name, limit in conf.limits.items()} == given


@pytest.mark.parametrize(("named", "used"), [("cost_benefit", "seed"), ("greedy", "greedy")])
def test_a_policy_of_an_earlier_version_keeps_its_formula_under_its_name_of_now(named: str, used: str) -> None:
    geometry = plan(zones(300), zone_size=4096, num_punits=1)
    conf = FtlConf(reloc_policy=named).check_geometry(geometry)

    def loaded(**content: Any) -> str:
        superblock = Superblock(b"u" * 16, 1, True, {"conf": conf.to_dict(), **content})
        return stored_conf(superblock, geometry).reloc_policy

    assert loaded() == used
    # This version has written it, so it means what it says.
    assert loaded(default_thresholds={}) == named
