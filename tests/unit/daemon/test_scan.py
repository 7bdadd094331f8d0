"""Which FTLs are on a bdev that nobody has: bdev_ftl_scan, and what it leaves behind."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from spdk_ftl_py.daemon import probing
from spdk_ftl_py.errors import ClaimedError, FtlError, NotFoundError, PathError, UnsupportedError
from unit.daemon.registry_rig import Daemon, World, create, write
from unit.nvme.nvme_loop import until


async def scan(here: World, daemon: Daemon, **params: Any) -> Any:
    return (await daemon.call("bdev_ftl_scan", target=here.line.path, **params))["bdevs"]


async def make_malloc(here: World, name: str, blocks: int = 16384, **params: Any) -> None:
    await here.rpc("bdev_malloc_create", name=name, num_blocks=blocks, block_size=4096, **params)


async def state_of(here: World) -> Any:
    return await here.rpc("bdev_get_bdevs"), await here.rpc("nvmf_get_subsystems"), await here.rpc("keyring_get_keys")


async def test_an_ftl_on_a_zoned_bdev_is_told_and_nothing_stays(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    size = (await daemon.device())["num_blocks"]
    await daemon.call("bdev_ftl_delete", name="ftl0")
    before = await state_of(here)
    (told,) = await scan(here, daemon, base_bdev="Nvme0n1")
    assert told == {
        "bdev": "Nvme0n1", "name": "ftl0", "uuid": uuid, "num_blocks": size, "clean": True, "format_version": 3,
        "zone_capacity": None, "has_cache": False, "damage": None,
    }  # fmt: skip
    assert await state_of(here) == before
    assert here.line.target is not None
    await daemon.halt()


@pytest.mark.parametrize("capacity", [192, 256, 1000])
async def test_the_zones_of_a_conventional_bdev_are_found_out(here: World, capacity: int) -> None:
    await make_malloc(here, "M0", 65536)
    daemon = await here.start()
    await create(here, daemon, base_bdev="M0", zone_capacity=capacity)
    await write(here, daemon, 3)
    for _ in range(2):
        await daemon.call("bdev_ftl_delete", name="ftl0")
        for given in ({}, {"zone_capacity": capacity}):
            (told,) = await scan(here, daemon, base_bdev="M0", **given)
            assert (told["name"], told["clean"], told["zone_capacity"]) == ("ftl0", True, capacity)
        await create(here, daemon, base_bdev="M0", zone_capacity=capacity, uuid=told["uuid"])
    await daemon.halt()


async def test_one_that_the_daemon_has_is_told_with_its_state_and_without_a_look(here: World) -> None:
    await make_malloc(here, "C0")
    await make_malloc(here, "M1")
    daemon = await here.start()
    uuid = (await create(here, daemon, cache="C0", no_attach=False))["uuid"]
    here.line.called.clear()
    told = {each["bdev"]: each for each in await scan(here, daemon)}
    # Not ftl0 itself, whose reads might wait for what is looked for.
    assert set(told) == {"Nvme0n1", "C0", "M1"}
    assert (told["Nvme0n1"]["name"], told["Nvme0n1"]["uuid"], told["Nvme0n1"]["state"]) == ("ftl0", uuid, "online")
    assert told["C0"] == {"bdev": "C0", "state": "online", "cache_of": uuid}
    assert told["M1"] == {"bdev": "M1", "cache_of": None}
    assert here.line.called.count("nvmf_create_subsystem") == 1
    await daemon.call("bdev_ftl_delete", name="ftl0")
    told = {each["bdev"]: each for each in await scan(here, daemon)}
    assert (told["Nvme0n1"]["uuid"], told["Nvme0n1"]["has_cache"]) == (uuid, True)
    assert told["C0"] == {"bdev": "C0", "cache_of": uuid}
    await daemon.halt()


async def test_one_that_is_somebody_elses_is_refused_with_its_owner(here: World) -> None:
    await make_malloc(here, "M0")
    await here.rpc("bdev_passthru_create", base_bdev_name="M0", name="P0")
    await here.rpc("bdev_malloc_create", name="M512", num_blocks=16384, block_size=512)
    daemon = await here.start()
    with pytest.raises(ClaimedError, match="passthru bdev P0"):
        await scan(here, daemon, base_bdev="M0")
    with pytest.raises(UnsupportedError, match="blocks of 512 B"):
        await scan(here, daemon, base_bdev="M512")
    with pytest.raises(NotFoundError, match=r"no such bdev.*Nvme0n1"):
        await scan(here, daemon, base_bdev="Nope")
    assert [each["bdev"] for each in await scan(here, daemon)] == ["Nvme0n1", "P0"]
    await daemon.halt()


async def test_what_can_not_be_read_is_told_and_leaves_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROBE_S", 0.5)
    daemon = await here.start()
    await create(here, daemon)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    before = await state_of(here)
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="read", latency_us=3_000_000)
    with pytest.raises(PathError, match=r"Nvme0n1 does not answer within 0.5 s"):
        await scan(here, daemon, base_bdev="Nvme0n1")
    (told,) = await scan(here, daemon)
    assert "does not answer" in told["error"]
    await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
    assert await state_of(here) == before
    await daemon.halt()


async def test_what_a_killed_daemon_has_left_of_a_scan_is_in_nobodys_way(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await daemon.halt(undo=True)
    # As it would have been killed in the middle of it.
    nqn = daemon.registry._identity.prober.nqn
    await here.rpc("nvmf_create_subsystem", nqn=nqn, serial_number="S")
    await here.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "Nvme0n1"})
    daemon = await here.start()
    assert (await daemon.wait_for("online"))["uuid"] == uuid
    assert nqn not in await here.exports()
    await daemon.halt()


async def test_a_scan_whose_caller_is_gone_is_undone(here: World) -> None:
    daemon = await here.start()
    before = await state_of(here)
    here.line.hold("nvmf_subsystem_add_listener")
    asked = asyncio.ensure_future(scan(here, daemon, base_bdev="Nvme0n1"))
    await until(lambda: "nvmf_subsystem_add_listener" in here.line.called)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    here.line.release()
    await daemon.halt()
    assert await state_of(here) == before
    with pytest.raises(FtlError) as caught:
        await scan(here, daemon)
    assert caught.value.errno == errno.ESHUTDOWN
