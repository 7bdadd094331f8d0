"""raid0, raid1 and concat of the embedded target: members that are missing, fail, grow or leave. What spdk_tgt answers
is in tests/live/test_target_parity.py."""

from __future__ import annotations

from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py._shim import Op
from unit.nvme.nvme_loop import until
from unit.target.target_box import NQN, Box, box

BLOCK = b"\x5a" * 4096


async def raid(here: Box, name: str = "R") -> dict[str, Any]:
    found: list[dict[str, Any]] = await here.rpc("bdev_raid_get_bdevs", category="all")
    return next(each for each in found if each["name"] == name)


async def create(here: Box, level: str, *members: str, name: str = "R", **params: Any) -> None:
    strip = {} if level == "raid1" else {"strip_size_kb": 16}
    await here.rpc("bdev_raid_create", name=name, raid_level=level, base_bdevs=list(members), **strip, **params)


def device(here: Box, name: str) -> _shim.BlockDevice:
    return here.target.bdevs.get(name).device


async def write(here: Box, name: str, lba: int = 0, data: bytes = BLOCK) -> int:
    return (await here.io(device(here, name), Op.WRITE, lba, len(data) // 4096, data))[0]


async def read(here: Box, name: str, lba: int = 0) -> bytes:
    data = bytearray(4096)
    assert await here.io(device(here, name), Op.READ, lba, 1, data) == (0, 0)
    return bytes(data)


async def test_data_lies_where_spdk_puts_it(here: Box) -> None:
    for name in ("M0", "M1", "M2", "M3"):
        await here.malloc(name, 101)
    await create(here, "0", "M0", "M1", name="R0")
    await create(here, "concat", "M2", "M3", name="Rc")
    assert (await here.bdev("R0"))["num_blocks"] == (await here.bdev("Rc"))["num_blocks"] == 200
    data = b"".join(bytes([n]) * 4096 for n in range(1, 13))
    for name, lba in (("R0", 0), ("Rc", 94)):
        assert await write(here, name, lba, data) == 0
    assert [(await read(here, "M0", lba))[0] for lba in range(9)] == [1, 2, 3, 4, 9, 10, 11, 12, 0]
    assert [(await read(here, "M1", lba))[0] for lba in range(5)] == [5, 6, 7, 8, 0]
    assert [(await read(here, "M2", lba))[0] for lba in (93, 94, 99, 100)] == [0, 1, 6, 0]
    assert [(await read(here, "M3", lba))[0] for lba in (0, 5, 6)] == [7, 12, 0]


async def test_a_mirror_goes_on_without_a_member_that_fails(here: Box) -> None:
    """Its namespace serves hosts all the time, and the member is free for other uses."""
    for name in ("M0", "M1"):
        await here.malloc(name)
    await here.rpc("bdev_error_create", base_name="M0")
    await create(here, "raid1", "EE_M0", "M1")
    address = await here.subsystem(NQN, "R")
    controller = await here.connect(address)
    try:
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.target.reactor, namespace)
        await here.rpc("bdev_error_inject_error", name="EE_M0", io_type="write", error_type="failure", num=1)
        assert (await here.io(qpair, Op.WRITE, 0, 1, BLOCK))[0] == 0
        await until(lambda: here.target.bdevs.get("EE_M0").claim is None)
        shown = await raid(here)
        assert (shown["state"], shown["num_base_bdevs_operational"]) == ("online", 1)
        assert [each["name"] for each in shown["base_bdevs_list"]] == [None, "M1"]
        data = bytearray(4096)
        assert (await here.io(qpair, Op.READ, 0, 1, data))[0] == 0
        assert data == BLOCK
    finally:
        await controller.close()
    assert await read(here, "M0") == bytes(4096)
    saved = await here.rpc("framework_get_config", name="bdev")
    assert saved[-2]["params"]["base_bdevs"] == ["removed_base_bdev_0", "M1"]


async def test_a_mirror_ends_with_its_last_member(here: Box) -> None:
    for name in ("M0", "M1"):
        await here.malloc(name)
        await here.rpc("bdev_error_create", base_name=name)
    await create(here, "raid1", "EE_M0", "EE_M1")
    for name in ("EE_M0", "EE_M1"):
        await here.rpc("bdev_error_inject_error", name=name, io_type="write", error_type="failure")
    assert await write(here, "R") == 0x006
    await until(lambda: here.target.bdevs.find("R") is None)
    assert await here.rpc("bdev_raid_get_bdevs", category="all") == []
    assert await here.claimed() == {"M0", "M1"}


async def test_a_member_with_a_file_lets_go_of_it_when_it_is_removed(here: Box, tmp_path: Any) -> None:
    for name in ("A0", "A1"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
        await here.rpc("bdev_aio_create", name=name, filename=str(tmp_path / name), block_size=4096)
    await create(here, "raid1", "A0", "A1")
    await here.rpc("bdev_aio_delete", name="A0")
    await here.rpc("bdev_aio_create", name="again", filename=str(tmp_path / "A0"), block_size=4096)
    assert await write(here, "R") == 0
    assert await read(here, "again") == bytes(4096)


async def test_members_may_come_late_and_by_their_uuid(here: Box) -> None:
    await create(here, "raid0", "M0", "M1")
    assert (await raid(here))["state"] == "configuring"
    await here.malloc("M0")
    uuid = (await here.bdev("M0"))["uuid"]
    await here.rpc("bdev_malloc_delete", name="M0")
    await here.malloc("M1")
    assert await here.names() == ["M1"]
    await here.malloc("renamed", uuid=uuid)
    assert await here.names() == ["M1", "renamed", "R"]
    assert [each["name"] for each in (await raid(here))["base_bdevs_list"]] == ["renamed", "M1"]


async def test_a_member_that_does_not_fit_is_left_alone(here: Box) -> None:
    await here.malloc("M0")
    await create(here, "raid0", "M0", "N0")
    await here.rpc("bdev_null_create", name="N0", num_blocks=1024, block_size=512)
    assert (await raid(here))["num_base_bdevs_discovered"] == 1
    assert await here.claimed() == {"M0"}
    await here.rpc("bdev_raid_delete", name="R")
    assert await here.claimed() == set()


async def test_an_offline_raid_keeps_its_members_until_it_is_deleted(here: Box) -> None:
    for name in ("M0", "M1"):
        await here.malloc(name)
    await create(here, "raid0", "M0", "M1")
    await here.rpc("bdev_malloc_delete", name="M0")
    assert await here.names() == ["M1"]
    assert (await raid(here))["state"] == "offline"
    assert await here.claimed() == {"M1"}
    await here.rpc("bdev_malloc_delete", name="M1")
    assert await here.rpc("bdev_raid_get_bdevs", category="all") == []


async def test_a_refused_raid_leaves_nothing(here: Box) -> None:
    await here.malloc("M0")
    create_raid = {"name": "R", "raid_level": "raid0", "strip_size_kb": 4}
    failed = "Failed to create RAID bdev R: "
    refused = await here.refusal("bdev_raid_create", **create_raid, base_bdevs=["M0", "M0"])
    assert refused == (-1, failed + "Operation not permitted")
    refused = await here.refusal("bdev_raid_create", **create_raid, base_bdevs=["M0"], superblock=True)
    assert refused == (-95, failed + "Operation not supported")
    refused = await here.refusal("bdev_raid_create", **{**create_raid, "strip_size_kb": 2**13}, base_bdevs=["M0"])
    assert refused == (-22, failed + "Invalid argument")  # a strip is larger than the member
    assert await here.rpc("bdev_raid_get_bdevs", category="all") == []
    assert await here.claimed() == set()


async def test_raids_are_made_again_from_a_saved_configuration() -> None:
    async with box() as here:
        for name in ("M0", "M1", "M2"):
            await here.malloc(name)
        await here.rpc("bdev_split_create", base_bdev="M0", split_count=2)
        await here.rpc("bdev_error_create", base_name="M0p0")
        latencies = dict.fromkeys((f"{each}_latency" for each in ("avg_read", "p99_read", "avg_write", "p99_write")), 5)
        await here.rpc("bdev_delay_create", base_bdev_name="M1", name="D1", **latencies)
        await create(here, "concat", "EE_M0p0", "M0p1", "D1", "M2")
        saved = await here.rpc("framework_get_config", name="bdev")
        before = sorted(await here.rpc("bdev_get_bdevs"), key=lambda each: str(each["name"]))
    async with box() as here:
        for call in saved:
            await here.target.dispatch(call["method"], call.get("params"))
        after = sorted(await here.rpc("bdev_get_bdevs"), key=lambda each: str(each["name"]))
        assert after == before


async def test_mirrors_and_stripes_grow_with_their_members(here: Box) -> None:
    for name in ("N0", "N1", "N2", "N3"):
        await here.rpc("bdev_null_create", name=name, num_blocks=1024, block_size=4096)
    await create(here, "raid0", "N0", "N1", name="R0")
    await create(here, "raid1", "N2", "N3", name="R1")
    for name in ("N0", "N1", "N2", "N3"):
        await here.rpc("bdev_null_resize", name=name, new_size=8)
    assert [(await here.bdev(name))["num_blocks"] for name in ("R0", "R1")] == [4096, 2048]
    assert (await here.io(device(here, "R0"), Op.READ, 4095, 1, bytearray(4096)))[0] == 0
    assert (await here.io(device(here, "R1"), Op.READ, 2047, 1, bytearray(4096)))[0] == 0
