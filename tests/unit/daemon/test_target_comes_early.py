"""A target that is started with its own saved configuration attaches the FTL before it exports the base."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import pytest

from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.daemon.registry_rig import Daemon, World, create, write
from unit.nvme.nvme_loop import until

USER_NQN = "nqn.2016-06.io.spdk:user"
BLOCKS = 3
PROMPTLY_S = 5.0
"""What is held at the gate would take until the base is back."""


async def read_bdev(here: World, name: str) -> list[int]:
    """As whatever in the target looks for something on a new bdev."""
    bdev = here.target.bdevs.find(name)
    assert bdev is not None
    port = BlockPort(here.target.reactor, bdev.device, name="examine", patience_s=0)
    try:
        return [int(block[0]) for block in await port.read(0, BLOCKS)]
    finally:
        await port.close()


async def controller(here: World) -> dict[str, Any]:
    saved = here.target.nvme.saved()
    (params,) = (each["params"] for each in saved if each["params"].get("name", "").startswith("ftl0-"))
    return dict(params)


async def attached_from_saved_configuration(here: World, params: dict[str, Any], *, same_process: bool = False) -> None:
    """What stands in the saved configuration, before the base is there."""
    await here.rpc("bdev_nvme_detach_controller", name=params["name"])
    if not same_process:
        here.target.nvme.hostid = uuid4()
    assert await here.rpc("bdev_nvme_attach_controller", **params) == [f"{params['name']}n1"]


async def with_data(here: World) -> Daemon:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await write(here, daemon, BLOCKS)
    return daemon


async def test_it_gets_an_answer_although_its_base_is_not_there_yet(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = await with_data(here)
    params = await controller(here)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await asyncio.wait_for(attached_from_saved_configuration(here, params), PROMPTLY_S)
    with pytest.raises(FtlError, match=r"(?i)invalid namespace"):
        await asyncio.wait_for(read_bdev(here, f"{params['name']}n1"), PROMPTLY_S)
    before = here.line.called.count("bdev_nvme_attach_controller")
    with caplog.at_level(logging.WARNING):
        await here.make_drive()
        await daemon.wait_for("online")
    await until(lambda: daemon.managed().attachment is not None)
    assert here.line.called.count("bdev_nvme_attach_controller") == before + 1, "nobody looked at the new bdev again"
    assert "before its base existed" in caplog.text
    assert await read_bdev(here, "ftl0") == [1, 2, 3]
    await daemon.halt()


async def test_what_uses_the_bdev_by_then_keeps_it(here: World) -> None:
    daemon = await with_data(here)
    params = await controller(here)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await attached_from_saved_configuration(here, params)
    await here.rpc("nvmf_create_subsystem", nqn=USER_NQN, allow_any_host=True)
    await here.rpc("nvmf_subsystem_add_ns", nqn=USER_NQN, namespace={"bdev_name": "ftl0"})
    await here.make_drive()
    await daemon.wait_for("online")
    await until(lambda: daemon.managed().attachment is not None)
    (user,) = [each for each in await here.rpc("nvmf_get_subsystems") if each["nqn"] == USER_NQN]
    assert [each["bdev_name"] for each in user["namespaces"]] == ["ftl0"]
    assert await read_bdev(here, "ftl0") == [1, 2, 3]
    await daemon.halt()


async def test_the_same_target_notices_a_pause_and_no_error(here: World) -> None:
    """It may connect anew while its base is away for some other reason."""
    daemon = await with_data(here)
    params = await controller(here)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await attached_from_saved_configuration(here, params, same_process=True)
    reading = asyncio.ensure_future(read_bdev(here, f"{params['name']}n1"))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await here.make_drive()
    assert await reading == [1, 2, 3]
    await daemon.wait_for("online")
    await daemon.halt()


async def test_the_bdev_claims_its_base_as_that_comes(here: World) -> None:
    """Whatever looks for an lvol store or a raid on new bdevs would claim it first."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    called = here.line.called
    assert called.index("bdev_passthru_create") < called.index("bdev_nvme_attach_controller")
    assert called.count("bdev_passthru_create") == 1
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert "bdev_null_create" not in called
    assert not here.target.virtual.configs
    await daemon.halt()


async def test_a_name_that_is_reserved_is_free_again_where_the_target_can_not_attach(here: World) -> None:
    daemon = await here.start()
    here.line.refused.add("bdev_nvme_attach_controller")
    with pytest.raises(FtlError, match="bdev_nvme_attach_controller"):
        await create(here, daemon, no_attach=False)
    assert not here.target.virtual.configs
    here.line.refused.clear()
    await create(here, daemon, no_attach=False, force=True)
    await daemon.halt()
