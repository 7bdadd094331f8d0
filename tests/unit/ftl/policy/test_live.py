"""Policies in a running FTL: swapped under I/O, replaced under I/O, and gone when it is loaded again."""

from __future__ import annotations

import dataclasses
import logging
import sys
from types import ModuleType
from typing import Any, cast

import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import DEFAULT_RELOC_POLICY, RELOC_POLICIES, FtlConf
from spdk_ftl_py.errors import ConfError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.policy.interface import BandTable, Placement, Policy, Reclaimed, Surroundings
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig, MakeFtlRig, rig_on

MODULE = "policies_of_a_test"


class Watched(Policy):
    """Greedy, and notes what it is asked."""

    made: list[Watched]

    def __init__(self, surroundings: Surroundings, raises_at: int = 0) -> None:
        super().__init__(surroundings)
        self.raises_at = raises_at
        self.asked = 0
        self.tables: list[BandTable] = []
        self.reclaims: list[Reclaimed] = []
        self.placements = 0
        type(self).made.append(self)

    def merit(self, bands: BandTable) -> NDArray[Any]:
        self.asked += 1
        if self.asked == self.raises_at:
            raise ArithmeticError("out of numbers")
        self.tables.append(dataclasses.replace(bands, valid=bands.valid.copy(), closed=bands.closed.copy()))
        return bands.capacity - bands.valid

    def placement(self) -> Placement:
        self.placements += 1
        return Placement()

    def reclaimed(self, band: Reclaimed) -> bool:
        self.reclaims.append(band)
        return len(self.reclaims) % 4 == 0


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType(MODULE)
    made.Watched = Watched  # type: ignore[attr-defined]
    Watched.made = []
    monkeypatch.setitem(sys.modules, MODULE, made)
    return made


def property_of(rig: FtlRig, name: str) -> Any:
    (found,) = [each for each in rig.device.properties()["properties"] if each["name"] == name]
    return found["value"]


async def set_policy(rig: FtlRig, name: str) -> None:
    await rig.device.set_conf(dataclasses.replace(rig.device.conf, reloc_policy=name), new_policy=True)


@pytest.mark.rig(zones=40)
async def test_policies_are_swapped_while_hosts_write_and_bands_move(rig: FtlRig, module: ModuleType) -> None:
    await rig.start("mixed", write_percent=80, total_blocks=6 * rig.device.block_count)
    device = rig.device
    await rig.until(lambda: device.stats()["relocs_started"] > 5)
    for name in (*RELOC_POLICIES, f"{MODULE}:Watched"):
        started = device.stats()["relocs_started"]
        await set_policy(rig, name)
        assert (device.conf.reloc_policy, device.stats()["policy_in_use"]) == (name, name)
        await rig.until(lambda since=started: device.stats()["relocs_started"] > since + 1)  # type: ignore[misc]
    progress = await rig.finish()
    assert (progress["io_errors"], progress["verify_errors"]) == (0, 0)
    assert device.stats()["policy_replaced"] is None
    (watched,) = Watched.made
    assert watched.asked > 3
    # Each reset of a band is told once, when its move began, or when it is reset without one.
    assert len(watched.reclaims) >= watched.asked
    assert watched.placements == 1 + len(watched.reclaims) // 4
    assert {band.capacity for band in watched.reclaims} == {device.geometry.band_blocks}
    for table in watched.tables:
        assert table.valid.shape == table.age.shape == table.band_class.shape == (device.geometry.band_count,)
        assert table.age.min() >= 1
        assert table.data_age.min() >= 1
        assert (table.valid <= table.capacity).all()
    await rig.verify()


@pytest.mark.rig(zones=40)
async def test_a_policy_that_fails_under_io_is_replaced_until_it_is_set_again(
    rig: FtlRig, module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{MODULE}:Watched:raises_at=4"
    await set_policy(rig, name)
    with caplog.at_level(logging.ERROR):
        await rig.good("mixed", write_percent=80, total_blocks=4 * rig.device.block_count)
    (line,) = [each.getMessage() for each in caplog.records if "policy" in each.getMessage()]
    why = "merit() raised ArithmeticError: out of numbers"
    assert line.startswith(f"ftl0: policy {name} is replaced by {DEFAULT_RELOC_POLICY}: {why}. ")
    assert Watched.made[0].asked == 4
    for told in (rig.device.stats(), {n: property_of(rig, n) for n in ("policy_in_use", "policy_replaced")}):
        assert (told["policy_in_use"], told["policy_replaced"]) == (DEFAULT_RELOC_POLICY, why)
    # Other settings do not bring it back.
    await rig.device.set_conf(dataclasses.replace(rig.device.conf, invalid_thld=11))
    assert rig.device.stats()["policy_replaced"] == why
    assert len(Watched.made) == 1
    await set_policy(rig, name)
    assert (rig.device.stats()["policy_in_use"], rig.device.stats()["policy_replaced"]) == (name, None)
    assert len(Watched.made) == 2
    await rig.verify()


@pytest.mark.rig(zones=40)
async def test_a_policy_that_can_not_be_made_changes_nothing(rig: FtlRig, module: ModuleType) -> None:
    before, superblocks = rig.device.conf, rig.device._superblock.generation
    for name in ("nobodys", f"{MODULE}:Nobody", f"{MODULE}:Watched:tea=1", "d_choices:d=0"):
        with pytest.raises(ConfError):
            await set_policy(rig, name)
    assert rig.device.conf is before
    assert rig.device._superblock.generation == superblocks
    assert rig.device.stats()["policy_in_use"] == before.reloc_policy


async def test_a_creation_with_a_policy_that_can_not_be_made_leaves_no_trace(
    reactor: ReactorLoop, media: _shim.EmulatedMedia
) -> None:
    with pytest.raises(ConfError, match="there is no module nobodys"):
        await creation.create(reactor, media, name="ftl0", conf=FtlConf(reloc_policy="nobodys:Mine"))
    port = BlockPort(reactor, media, name="drive")
    assert {zone.state for zone in await port.zones()} == {"empty"}
    await port.close()


async def test_an_ftl_whose_policy_is_gone_is_loaded_with_the_default(
    make_rig: MakeFtlRig, reactor: ReactorLoop, module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{MODULE}:Watched"
    rig = await make_rig(conf=FtlConf(reloc_policy=name), zones=40)
    await rig.overwrite(1)
    await rig.device.halt()
    uuid = rig.device.uuid
    del sys.modules[MODULE]
    settings: list[dict[str, Any]] = [{}, {"reloc_policy": name}]
    for given, why in zip(settings, ("set reloc_policy again", f"there is no module {MODULE}"), strict=True):
        caplog.clear()
        device = await loading.load(reactor, rig.media, name="ftl0", uuid=uuid, settings=given)
        async with rig_on(reactor, rig.media, device) as again:
            # It keeps its name: once the module is there again, it counts.
            assert device.conf.reloc_policy == name
            assert device.stats()["policy_in_use"] == DEFAULT_RELOC_POLICY
            assert why in property_of(again, "policy_replaced")
            assert f"ftl0: policy {name} is replaced by {DEFAULT_RELOC_POLICY}: " in caplog.text
            await again.overwrite(1)
    sys.modules[MODULE] = module
    device = await loading.load(reactor, rig.media, name="ftl0", uuid=uuid)
    async with rig_on(reactor, rig.media, device):
        assert device.stats()["policy_in_use"] == name


async def test_a_policy_that_failed_is_not_tried_in_the_next_life(
    make_rig: MakeFtlRig, reactor: ReactorLoop, module: ModuleType
) -> None:
    name = f"{MODULE}:Watched:raises_at=1"
    rig = await make_rig(conf=FtlConf(reloc_policy=name), zones=40)
    memory = cast("dict[str, str]", rig.device._manager.policy.memory)
    await rig.overwrite(2)
    await rig.device.halt()
    assert list(memory) == [name]
    device = await loading.load(reactor, rig.media, name="ftl0", uuid=rig.device.uuid, replaced_policies=memory)
    async with rig_on(reactor, rig.media, device) as again:
        assert device.stats()["policy_replaced"] == memory[name]
        assert len(Watched.made) == 1
        await set_policy(again, name)
        assert memory == {}
        assert device.stats()["policy_replaced"] is None
