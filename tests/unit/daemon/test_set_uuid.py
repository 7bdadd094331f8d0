"""bdev_ftl_set_uuid: a copy of a base and its original side by side, and what is refused and leaves nothing."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py.errors import BusyError, ClaimedError, ExistsError, FtlError, NotFoundError, ParameterError
from unit.daemon.registry_rig import Daemon, World, create, read, write

BASE_BYTES = 256 << 20
CAPACITY = 1000
NEW = "7c04fd34-4c5c-4f7c-9a4f-4d5a8b6a8f10"


async def aio(here: World, name: str, path: Path) -> None:
    await here.rpc("bdev_aio_create", name=name, filename=str(path), block_size=4096)


async def base(here: World, daemon: Daemon, folder: Path, **params: Any) -> str:
    """ftl0 on bdev Base0 with eight blocks; its uuid."""
    with (folder / "base.img").open("wb") as file:
        file.truncate(BASE_BYTES)
    await aio(here, "Base0", folder / "base.img")
    uuid: str = (await create(here, daemon, base_bdev="Base0", zone_capacity=CAPACITY, **params))["uuid"]
    await write(here, daemon, 8)
    return uuid


async def copy(here: World, folder: Path, name: str = "Copy0") -> None:
    await asyncio.to_thread(shutil.copy, folder / "base.img", folder / f"{name}.img")
    await aio(here, name, folder / f"{name}.img")


async def set_uuid(here: World, daemon: Daemon, uuid: str, **params: Any) -> Any:
    params = {"base_bdev": "Copy0", "uuid": uuid, "target": here.line.path} | params
    return await daemon.call("bdev_ftl_set_uuid", **params)


async def state_of(here: World) -> Any:
    return await here.rpc("bdev_get_bdevs"), await here.rpc("nvmf_get_subsystems"), await here.rpc("keyring_get_keys")


async def test_a_copy_and_its_original_are_loaded_side_by_side(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    uuid = await base(here, daemon, tmp_path)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await copy(here, tmp_path)
    await create(here, daemon, base_bdev="Base0", zone_capacity=CAPACITY, uuid=uuid)
    before = await state_of(here)
    told = {"bdev": "Copy0", "name": "ftl0", "uuid": NEW, "was": uuid}
    for _ in range(2):
        assert await set_uuid(here, daemon, uuid, new_uuid=NEW) == told
    assert await state_of(here) == before
    (found,) = (await daemon.call("bdev_ftl_scan", target=here.line.path, base_bdev="Copy0"))["bdevs"]
    assert (found["uuid"], found["clean"], found["format_version"]) == (NEW, True, 3)
    await write(here, daemon, 2)
    await create(here, daemon, name="ftl1", base_bdev="Copy0", zone_capacity=CAPACITY, uuid=NEW)
    assert [(await daemon.device(name))["uuid"] for name in ("ftl0", "ftl1")] == [uuid, NEW]
    # Each by its own uuid again, behind a daemon that died.
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()
    for name, its in (("ftl0", uuid), ("ftl1", NEW)):
        assert (await daemon.wait_for("online", name))["uuid"] == its
    await daemon.call("bdev_ftl_delete", name="ftl1")
    assert await read(here, daemon, 9) == [*range(1, 9), 0]
    await daemon.halt()


async def test_a_random_one_is_chosen(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    uuid = await base(here, daemon, tmp_path)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await copy(here, tmp_path)
    told = await set_uuid(here, daemon, uuid, zone_capacity=CAPACITY)
    assert UUID(told["uuid"]).version == 4
    await create(here, daemon, base_bdev="Copy0", zone_capacity=CAPACITY, uuid=told["uuid"])
    assert await read(here, daemon, 8) == [*range(1, 9)]
    await daemon.halt()


async def test_a_copy_that_was_made_in_use_takes_force(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    uuid = await base(here, daemon, tmp_path)
    await copy(here, tmp_path)
    with pytest.raises(FtlError, match=r"bdev Copy0 holds FTL 'ftl0' .* which was in use when it was copied"):
        await set_uuid(here, daemon, uuid)
    assert (await set_uuid(here, daemon, uuid, new_uuid=NEW, force=True))["uuid"] == NEW
    await create(here, daemon, name="ftl1", base_bdev="Copy0", zone_capacity=CAPACITY, uuid=NEW)
    await daemon.halt()


async def test_what_may_be_the_base_of_an_ftl_is_left_alone(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    uuid = await base(here, daemon, tmp_path)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await copy(here, tmp_path)
    await create(here, daemon, base_bdev="Base0", zone_capacity=CAPACITY, uuid=uuid)
    with pytest.raises(ClaimedError, match=r"bdev Base0 .* already claimed"):
        await set_uuid(here, daemon, uuid, base_bdev="Base0")
    await here.rpc("bdev_aio_delete", name="Base0")
    await daemon.wait_for("waiting")
    before = await state_of(here)
    with pytest.raises(BusyError, match=r"bdev Copy0: FTL bdev ftl0 \(waiting\) has uuid .* may be its base"):
        await set_uuid(here, daemon, uuid)
    assert await state_of(here) == before
    await aio(here, "Base0", tmp_path / "base.img")
    await daemon.wait_for("online")
    await set_uuid(here, daemon, uuid)
    await daemon.halt()


async def test_what_can_not_be_is_refused_and_leaves_nothing(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    uuid = await base(here, daemon, tmp_path)
    await here.rpc("bdev_malloc_create", name="Empty", num_blocks=65536, block_size=4096)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await copy(here, tmp_path)
    await create(here, daemon, name="other", new_uuid=NEW)
    image, before = (tmp_path / "Copy0.img").read_bytes(), await state_of(here)
    nil = str(UUID(int=0))
    for params, error, told in (
        ({"uuid": NEW}, NotFoundError, f"holds FTL 'ftl0' with uuid {uuid}, not {NEW}"),
        ({"new_uuid": NEW}, ExistsError, r"FTL bdev other \(online"),
        ({"new_uuid": nil}, ParameterError, "the nil UUID"),
        ({"new_uuid": uuid}, ParameterError, "which the FTL already has"),
        ({"base_bdev": "Empty"}, NotFoundError, "bdev Empty holds no FTL"),
        ({"base_bdev": "Empty", "zone_capacity": CAPACITY}, NotFoundError, "bdev Empty holds no FTL"),
        (
            {"zone_capacity": BASE_BYTES // 4096},
            NotFoundError,
            "holds no FTL in zones of .* leave out the zone capacity",
        ),
        ({"zone_capacity": 4294967295}, NotFoundError, "bdev Copy0 holds no FTL in zones of 4294967295 blocks"),
        ({"base_bdev": "Nope"}, NotFoundError, "bdev Nope: no such bdev"),
    ):
        with pytest.raises(error, match=told):
            await set_uuid(here, daemon, **{"uuid": uuid} | params)
    assert await state_of(here) == before
    assert (tmp_path / "Copy0.img").read_bytes() == image
    await daemon.halt()
