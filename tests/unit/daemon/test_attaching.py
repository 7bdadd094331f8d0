"""An FTL as a bdev of its target: why it is not there, and that it comes back."""

from __future__ import annotations

import logging

import pytest

from spdk_ftl_py.daemon import attaching
from spdk_ftl_py.spdk.attach import controller_name
from unit.daemon.registry_rig import World, create
from unit.nvme.nvme_loop import until


async def names(here: World) -> list[str]:
    return [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs")]


async def test_a_name_that_somebody_has_is_told_and_waited_for(here: World, caplog: pytest.LogCaptureFixture) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await daemon.halt(undo=True)
    await here.remove_drive()
    daemon = await here.start()
    await daemon.wait_for("deferred")
    await here.rpc("bdev_malloc_create", name="taken", num_blocks=64, block_size=4096)
    # Between the look at all names and the attempt.
    here.line.refused.add("bdev_passthru_create")
    await here.make_drive()
    told = await daemon.wait_for("online")
    assert told["attached"] is False
    assert told["error"].startswith("not attached to the target: ")
    assert "refused bdev_passthru_create" in told["error"]
    lines = [record.getMessage() for record in caplog.records if "not attached to the target" in record.getMessage()]
    assert len(lines) == 1
    await here.rpc("bdev_null_create", name="ftl0", num_blocks=64, block_size=4096)
    here.line.refused.clear()
    device = daemon.managed()
    await until(lambda: "has the name ftl0: delete it" in str(device.describe()["error"]))
    await here.rpc("bdev_null_delete", name="ftl0")
    await until(lambda: device.attachment is not None)
    told = await daemon.device()
    assert (told["attached"], told["error"]) == (True, None)
    await daemon.halt()


@pytest.mark.parametrize("what", ["passthru", "controller"])
async def test_what_was_taken_away_by_hand_comes_back(
    here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    monkeypatch.setattr(attaching, "LOOK_S", 0.1)
    caplog.set_level(logging.WARNING)
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    device = daemon.managed()
    before = device.attachment
    assert before is not None
    if what == "passthru":
        await here.rpc("bdev_passthru_delete", name="ftl0")
    else:
        await here.rpc("bdev_nvme_detach_controller", name=controller_name("ftl0", device.uuid))
    assert "ftl0" not in await names(here)
    await until(lambda: "somebody removed its bdev from the target: attaching it again" in caplog.text)
    await until(lambda: device.attachment is not None)
    assert "ftl0" in await names(here)
    assert (await daemon.device())["error"] is None
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await names(here) == ["Nvme0n1"]
    await daemon.halt()


async def test_a_target_that_is_silent_is_no_reason(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "LOOK_S", 0.05)
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    here.line.called.clear()
    here.line.refused.add("bdev_get_bdevs")
    await until(lambda: here.line.called.count("bdev_get_bdevs") > 3)
    assert (await daemon.device())["attached"] is True
    here.line.refused.clear()
    await daemon.halt()


async def test_one_that_is_not_to_be_attached_is_not(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "LOOK_S", 0.05)
    daemon = await here.start()
    await create(here, daemon)
    told = await daemon.device()
    assert (told["attached"], told["error"]) == (False, None)
    assert await names(here) == ["Nvme0n1"]
    await daemon.halt()
