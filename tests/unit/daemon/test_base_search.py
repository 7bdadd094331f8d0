"""A base, or an nv cache, that is not what the target has under its name: it is found by what is on it, and a device
that has failed for want of it goes on when it is back."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from spdk_ftl_py.daemon import base_search
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.target.jsonrpc import RpcError
from unit.daemon.registry_rig import Daemon, World, create, read, write
from unit.nvme.nvme_loop import until

FREE_S = 10.0
GEOMETRY = {"num_zones": 64, "zone_size": 256, "zone_capacity": 192, "max_open_zones": 14}


async def attach_drive(here: World, name: str, file: str) -> None:
    until_s = asyncio.get_running_loop().time() + FREE_S
    while True:
        try:
            await here.rpc("ftltgt_zns_create", name=name, path=str(here.folder / file), **GEOMETRY)
        except RpcError as error:
            # The drive before it lets go of its file when the last connection to it is gone.
            if "in use by another" not in str(error) or asyncio.get_running_loop().time() > until_s:
                raise
            await asyncio.sleep(0.01)
        else:
            return


async def attach_file(here: World, name: str, file: str, *, block_size: int = 4096, size: int = 64 << 20) -> None:
    path = here.folder / file
    if not path.exists():
        with path.open("wb") as made:
            made.truncate(size)
    await here.rpc("bdev_aio_create", name=name, filename=str(path), block_size=block_size)


def copy_drive(here: World) -> None:
    for end in ("", ".zones"):
        shutil.copy(here.folder / f"drive{end}", here.folder / f"copy{end}")


async def two_ftls(here: World, daemon: Daemon) -> dict[str, str]:
    """Of Nvme0n1 and Nvme1n1, with 1 and 2 blocks written; their uuids."""
    await attach_drive(here, "Nvme1n1", "drive1")
    uuids = {}
    for number, name in enumerate(("ftl0", "ftl1")):
        uuids[name] = (await create(here, daemon, name, base_bdev=f"Nvme{number}n1"))["uuid"]
    return uuids


async def exchange(here: World) -> None:
    await here.rpc("ftltgt_zns_delete", name="Nvme0n1")
    await here.rpc("ftltgt_zns_delete", name="Nvme1n1")
    await attach_drive(here, "Nvme0n1", "drive1")
    await attach_drive(here, "Nvme1n1", "drive")


async def are_exchanged(daemon: Daemon, uuids: dict[str, str]) -> None:
    for name, base in (("ftl0", "Nvme1n1"), ("ftl1", "Nvme0n1")):
        told = await daemon.wait_for("online", name)
        assert (told["uuid"], told["base_bdev"]) == (uuids[name], base)
    assert {each["name"]: each["params"]["base_bdev"] for each in daemon.record()["devices"]} == {
        "ftl0": "Nvme1n1", "ftl1": "Nvme0n1",
    }  # fmt: skip


async def test_two_whose_bases_were_exchanged_between_daemons_both_come_up(here: World) -> None:
    daemon = await here.start()
    uuids = await two_ftls(here, daemon)
    await write(here, daemon, 3)
    await daemon.halt()
    await exchange(here)
    daemon = await here.start()
    await are_exchanged(daemon, uuids)
    assert await read(here, daemon, 3) == [1, 2, 3]
    # And so the next daemon has it from the beginning.
    await daemon.halt()
    here.line.called.clear()
    daemon = await here.start()
    await are_exchanged(daemon, uuids)
    assert "nvmf_create_subsystem" not in here.line.called
    await daemon.halt(undo=True)
    assert await here.exports() == []


async def test_two_whose_bases_are_exchanged_while_they_wait_both_go_on(here: World) -> None:
    daemon = await here.start()
    uuids = await two_ftls(here, daemon)
    await write(here, daemon, 3)
    await exchange(here)
    await until(lambda: all(daemon.managed(name).state.value != "online" for name in uuids))
    await are_exchanged(daemon, uuids)
    assert await read(here, daemon, 3) == [1, 2, 3]
    await daemon.halt()


async def test_one_whose_base_has_another_name_now_is_found_though_nobody_has_the_old_one(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await daemon.halt()
    await here.remove_drive()
    await attach_drive(here, "Nvme7n1", "drive")
    daemon = await here.start()
    told = await daemon.wait_for("online")
    assert (told["uuid"], told["base_bdev"]) == (uuid, "Nvme7n1")
    await daemon.halt()


async def test_caches_that_were_exchanged_are_found(here: World) -> None:
    for number in range(2):
        await attach_file(here, f"M{number}", f"base{number}")
        await attach_file(here, f"C{number}", f"cache{number}", size=32 << 20)
    daemon = await here.start()
    for number in range(2):
        await create(here, daemon, f"ftl{number}", base_bdev=f"M{number}", cache=f"C{number}", zone_capacity=192)
    await write(here, daemon, 3)
    await daemon.halt()
    for number in range(2):
        await here.rpc("bdev_aio_delete", name=f"C{number}")
    for number in range(2):
        await attach_file(here, f"C{number}", f"cache{1 - number}")
    daemon = await here.start()
    for number in range(2):
        told = await daemon.wait_for("online", f"ftl{number}")
        assert (told["base_bdev"], told["cache"]) == (f"M{number}", f"C{1 - number}")
    assert await read(here, daemon, 3) == [1, 2, 3]
    await daemon.halt()


@pytest.mark.parametrize("wrong", ["512 B", "another size", "empty"])
@pytest.mark.parametrize("restarts", [False, True])
async def test_failed_for_want_of_its_base_it_goes_on_when_that_is_back(
    here: World, wrong: str, restarts: bool
) -> None:
    await attach_file(here, "M0", "base")
    daemon = await here.start()
    await create(here, daemon, base_bdev="M0", zone_capacity=192, no_attach=True)
    await write(here, daemon, 3)
    if restarts:
        await daemon.halt()
    await here.rpc("bdev_aio_delete", name="M0")
    await attach_file(
        here, "M0", "other", block_size=512 if wrong == "512 B" else 4096,
        size=(32 if wrong == "another size" else 64) << 20,
    )  # fmt: skip
    if restarts:
        daemon = await here.start()
    told = await daemon.wait_for("failed")
    assert "can't be used" in told["error"]
    # It is nobody's, so nobody is kept from it.
    await until(lambda: not daemon.managed().link.claimed)
    assert [nqn for nqn in await here.exports() if ":base:" in nqn] == []
    await here.rpc("bdev_aio_delete", name="M0")
    await attach_file(here, "M0", "base")
    told = await daemon.wait_for("online")
    assert told["error"] is None
    assert await read(here, daemon, 3) == [1, 2, 3]
    await daemon.halt()


async def test_one_that_has_failed_by_itself_stays_failed(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    maker, tried = device.maker, []

    async def load(*_: object, **__: object) -> object:
        tried.append(1)
        raise FtlError("its records are damaged")

    monkeypatch.setattr(maker, "load", load)
    await here.remove_drive()
    await here.make_drive()
    assert "its records are damaged" in (await daemon.wait_for("failed"))["error"]
    assert len(tried) == 1
    assert device._life is not None
    await asyncio.wait_for(device._life, 5)
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    await daemon.halt()


async def test_what_somebody_has_is_not_looked_at_and_what_is_nobodys_only_now_and_then(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_search, "LOOK_MAX_S", 0.2)
    daemon = await here.start()
    await create(here, daemon)
    for number in range(4):
        await attach_drive(here, f"Other{number}", f"other{number}")
    await here.rpc("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:user", serial_number="S")
    await here.rpc("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:user", namespace={"bdev_name": "Other0"})
    here.line.called.clear()
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await until(lambda: here.line.called.count("nvmf_create_subsystem") == 3)
    before = here.line.called.count("bdev_get_bdevs")
    await until(lambda: here.line.called.count("bdev_get_bdevs") > before + 12)
    assert here.line.called.count("nvmf_create_subsystem") == 3
    await here.make_drive()
    await daemon.wait_for("online")
    await daemon.halt()


async def test_a_uuid_or_an_alias_of_the_base_is_its_name_too(here: World) -> None:
    daemon = await here.start()
    (bdev,) = await here.rpc("bdev_get_bdevs", name="Nvme0n1")
    await create(here, daemon, base_bdev=bdev["uuid"])
    await daemon.halt()
    daemon = await here.start()
    assert (await daemon.wait_for("online"))["base_bdev"] == bdev["uuid"]
    await daemon.halt()


@pytest.mark.parametrize("name", ["Nvme0n1", "Copy"])
async def test_an_older_copy_is_not_taken_for_the_base(here: World, name: str) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await daemon.halt()
    copy_drive(here)
    daemon = await here.start()
    await daemon.wait_for("online")
    await write(here, daemon, 3)
    await daemon.halt()
    await here.remove_drive()
    await attach_drive(here, name, "copy")
    daemon = await here.start()
    await asyncio.sleep(4)
    assert daemon.managed().state.value != "online"
    await here.rpc("ftltgt_zns_delete", name=name)
    await here.make_drive()
    await daemon.wait_for("online")
    assert await read(here, daemon, 3) == [1, 2, 3]
    await daemon.halt()


async def test_of_two_that_look_like_the_base_none_is_taken(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await daemon.halt()
    await here.remove_drive()
    copy_drive(here)
    await attach_drive(here, "A", "drive")
    await attach_drive(here, "B", "copy")
    daemon = await here.start()
    await until(lambda: "A, B" in str(daemon.managed().describe().get("waiting_for")))
    assert daemon.managed().state.value != "online"
    await here.rpc("ftltgt_zns_delete", name="B")
    assert (await daemon.wait_for("online"))["base_bdev"] == "A"
    await daemon.halt()
