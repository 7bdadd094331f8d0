"""The embedded target's bdevs: what is shown, claimed, deferred, refused and taken down, as SPDK does it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from unit.target.target_box import INVALID, NQN, Box, box

EXISTS = (-17, "File exists")
GONE = (-19, "No such device")
CLAIMED = (-1, "Operation not permitted")
BAD_ARGUMENT = (-22, "Invalid argument")
UNDECODABLE = (-32603, "spdk_json_decode_object failed")
UUID = "11111111-2222-3333-4444-555555555555"


async def test_a_malloc_bdev_shows_what_spdk_shows(here: Box) -> None:
    await here.malloc("M0", uuid=UUID)
    assert await here.bdev("M0") == {
        "name": "M0",
        "aliases": [UUID],
        "product_name": "Malloc disk",
        "block_size": 4096,
        "num_blocks": 1024,
        "preferred_write_alignment": 0,
        "preferred_write_granularity": 0,
        "optimal_write_size": 0,
        "preferred_unmap_alignment": 0,
        "preferred_unmap_granularity": 0,
        "uuid": UUID,
        "numa_id": -1,
        "assigned_rate_limits": {
            "rw_ios_per_sec": 0,
            "rw_mbytes_per_sec": 0,
            "r_mbytes_per_sec": 0,
            "w_mbytes_per_sec": 0,
        },
        "claimed": False,
        "zoned": False,
        "supported_io_types": {
            "read": True,
            "write": True,
            "unmap": True,
            "flush": True,
            "reset": True,
            "nvme_admin": False,
            "nvme_io": False,
            "nvme_io_md": False,
            "write_zeroes": True,
            "zcopy": True,
            "get_zone_info": False,
            "zone_management": False,
            "zone_append": False,
            "compare": True,
            "compare_and_write": False,
            "abort": True,
            "seek_hole": False,
            "seek_data": False,
            "copy": True,
            "nvme_iov_md": False,
            "nvme_nssr": False,
            "write_uncorrectable": False,
        },
        "driver_specific": {},
    }


async def test_metadata_and_dif_are_shown(here: Box) -> None:
    await here.malloc("inter", md_size=64, md_interleave=True)
    await here.malloc("separate", md_size=8)
    await here.malloc("dif", md_size=8, md_interleave=True, dif_type=1)
    shown = await here.bdev("inter")
    assert (shown["block_size"], shown["md_size"], shown["md_interleave"], shown["dif_type"]) == (
        4160,
        64,
        True,
        0,
    )
    shown = await here.bdev("separate")
    assert (shown["block_size"], shown["md_size"], shown["md_interleave"]) == (4096, 8, False)
    shown = await here.bdev("dif")
    assert shown["enabled_dif_check_types"] == {"reftag": True, "apptag": False, "guard": True}


async def test_a_zns_drive_shows_as_an_nvme_zns_disk(here: Box) -> None:
    await here.zns("Zns0", max_active_zones=5)
    shown = await here.bdev("Zns0")
    assert shown["product_name"] == "NVMe ZNS disk"
    zoned = ("zoned", "num_blocks", "zone_size", "max_open_zones", "optimal_open_zones")
    assert [shown[name] for name in zoned] == [True, 512, 64, 3, 0]
    types = shown["supported_io_types"]
    assert types["zone_append"]
    assert types["zone_management"]
    assert types["get_zone_info"]
    assert shown["driver_specific"]["ftltgt_zns"]["zone_capacity"] == 48


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"num_blocks": 0, "block_size": 4096}, BAD_ARGUMENT),
        ({"num_blocks": 8, "block_size": 1000}, BAD_ARGUMENT),
        ({"num_blocks": 8, "block_size": 0}, (-12, "Cannot allocate memory")),
        ({"num_blocks": 2**60, "block_size": 4096}, (-12, "Cannot allocate memory")),
        ({"num_blocks": 8, "block_size": 512, "md_size": 7}, BAD_ARGUMENT),
        ({"num_blocks": 8, "block_size": 512, "dif_type": 1}, BAD_ARGUMENT),
        ({"num_blocks": 8, "block_size": 512, "physical_block_size": 100}, BAD_ARGUMENT),
        ({"num_blocks": "8", "block_size": 512}, UNDECODABLE),
        ({"num_blocks": 8.5, "block_size": 512}, UNDECODABLE),
        ({"num_blocks": -1, "block_size": 512}, UNDECODABLE),
        ({"num_blocks": True, "block_size": 512}, UNDECODABLE),
        ({"num_blocks": 2**64, "block_size": 512}, UNDECODABLE),
        ({"num_blocks": 8, "block_size": 512, "uuid": "zz"}, UNDECODABLE),
        ({"num_blocks": 8, "block_size": 512, "name": "a\0b"}, UNDECODABLE),
        ({"num_blocks": 8, "block_size": 512, "colour": "red"}, UNDECODABLE),
        ({"block_size": 512}, UNDECODABLE),
    ],
)
async def test_wrong_parameters_of_malloc_are_refused_as_spdk_does(
    params: dict[str, object], expected: tuple[int, str], here: Box
) -> None:
    assert await here.refusal("bdev_malloc_create", **params) == expected
    assert await here.names() == []


async def test_names_and_uuids_are_unique_together(here: Box) -> None:
    assert await here.rpc("bdev_malloc_create", num_blocks=8, block_size=4096) == "Malloc0"
    await here.malloc("M0", uuid=UUID)
    assert await here.refusal("bdev_malloc_create", name="M0", num_blocks=8, block_size=4096) == EXISTS
    assert await here.refusal("bdev_null_create", name="N", num_blocks=8, block_size=512, uuid=UUID) == EXISTS
    assert await here.refusal("bdev_null_create", name=UUID, num_blocks=8, block_size=512) == EXISTS
    assert (await here.bdev(UUID))["name"] == "M0"
    await here.rpc("bdev_malloc_delete", name=UUID)
    assert await here.names() == ["Malloc0"]


async def test_only_the_module_that_made_a_bdev_deletes_it(here: Box) -> None:
    await here.malloc("M0")
    for method in ("bdev_null_delete", "bdev_aio_delete", "bdev_passthru_delete", "ftltgt_zns_delete"):
        assert await here.refusal(method, name="M0") == GONE
    assert await here.refusal("bdev_malloc_delete", name="nosuch") == GONE
    assert await here.names() == ["M0"]


async def test_a_passthru_claims_its_base_and_lets_go(here: Box) -> None:
    await here.malloc("M0", uuid=UUID)
    await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="M0")
    shown = await here.bdev("P0")
    # The UUID that SPDK v26.05 derives for a passthru on a base with this UUID.
    assert shown["uuid"] == "93bb5d92-ae84-5565-b6db-dc77eeb5bd60"
    assert shown["driver_specific"] == {"passthru": {"name": "P0", "base_bdev_name": "M0"}}
    assert (await here.bdev("M0"))["claim_type"] == "exclusive_write"
    assert await here.refusal("bdev_passthru_create", name="P1", base_bdev_name="M0") == CLAIMED
    assert await here.refusal("bdev_passthru_create", name="P0", base_bdev_name="M0") == EXISTS
    await here.rpc("bdev_passthru_delete", name="P0")
    assert await here.claimed() == set()
    await here.rpc("bdev_passthru_create", name="P2", base_bdev_name="M0")


async def test_a_passthru_waits_for_its_base_goes_with_it_and_comes_again(here: Box) -> None:
    assert await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="M0") == "P0"
    assert await here.refusal("bdev_get_bdevs", name="P0") == GONE
    await here.malloc("M0")
    assert await here.names() == ["M0", "P0"]
    await here.rpc("bdev_malloc_delete", name="M0")
    assert await here.names() == []
    await here.malloc("M0")
    assert await here.names() == ["M0", "P0"]
    await here.rpc("bdev_passthru_delete", name="P0")
    await here.rpc("bdev_malloc_delete", name="M0")
    await here.malloc("M0")
    assert await here.names() == ["M0"]


async def test_a_passthru_that_can_not_be_registered_claims_nothing(here: Box) -> None:
    await here.malloc("M0")
    await here.malloc("M1", uuid=UUID)
    assert await here.refusal("bdev_passthru_create", name="M1", base_bdev_name="M0") == EXISTS
    assert await here.refusal("bdev_passthru_create", name="P", base_bdev_name="M0", uuid=UUID) == EXISTS
    assert await here.claimed() == set()


async def test_a_tower_of_passthrus_falls_from_the_top(here: Box) -> None:
    await here.malloc("M0")
    for level in range(3):
        await here.rpc("bdev_passthru_create", name=f"P{level}", base_bdev_name=f"P{level - 1}" if level else "M0")
    await here.rpc("bdev_malloc_delete", name="M0")
    sent = await here.rpc("notify_get_notifications", id=4)
    assert [(each["type"], each["ctx"]) for each in sent] == [
        ("bdev_unregister", name) for name in ("P2", "P1", "P0", "M0")
    ]


async def test_zone_block_emulates_zones_that_are_full(here: Box) -> None:
    await here.malloc("M0")
    create = {"base_bdev": "M0", "optimal_open_zones": 4}
    await here.rpc("bdev_zone_block_create", name="Z0", zone_capacity=100, **create)
    shown = await here.bdev("Z0")
    assert (shown["zone_size"], shown["num_blocks"], shown["optimal_open_zones"]) == (128, 1024, 4)
    assert await here.claimed() == {"M0"}
    failed = "Failed to create block zoned vbdev: "
    for name, base, capacity, why in (
        ("Z0", "M1", 100, "File exists"),
        ("Z1", "M0", 100, "File exists"),
        ("Z1", "M1", 0, "Invalid argument"),
        ("Z1", "Z0", 10, "File exists"),
    ):
        refusal = await here.refusal(
            "bdev_zone_block_create", name=name, base_bdev=base, zone_capacity=capacity, optimal_open_zones=1
        )
        assert refusal == (-32603, failed + why)
    assert await here.refusal("bdev_zone_block_create", name="Z1") == INVALID
    device = here.target.bdevs.get("Z0").device
    buffer = bytearray(4096)
    assert await here.io(device, _shim.Op.READ, 0, 1, buffer) == (0, 0)
    status, _ = await here.io(device, _shim.Op.WRITE, 0, 1, buffer)
    assert status == 0x1B9  # zone is full
    status, _ = await here.io(device, _shim.Op.ZONE_SEND, 0, zone_action=4)
    assert status == 0x001  # invalid opcode: no zone commands
    await here.rpc("bdev_zone_block_delete", name="Z0")
    assert await here.claimed() == set()


async def test_an_aio_bdev_keeps_its_data_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\x5a" * 8192)
    async with box() as here:
        create = {"filename": str(path), "block_size": 4096}
        await here.rpc("bdev_aio_create", name="A0", **create)
        device = here.target.bdevs.get("A0").device
        data = bytearray(4096)
        assert await here.io(device, _shim.Op.READ, 1, 1, data) == (0, 0)
        assert data == b"\x5a" * 4096
        assert await here.io(device, _shim.Op.WRITE, 0, 1, b"\xa5" * 4096) == (0, 0)
        assert await here.io(device, _shim.Op.FLUSH) == (0, 0)
        assert path.read_bytes() == b"\xa5" * 4096 + b"\x5a" * 4096
        del device
        await here.rpc("bdev_aio_delete", name="A0")
        await here.rpc("bdev_aio_create", name="A1", readonly=True, **create)
        device = here.target.bdevs.get("A1").device
        status, _ = await here.io(device, _shim.Op.WRITE, 0, 1, data)
        assert status == 0x006
        assert await here.refusal("bdev_aio_create", name="A2", filename=str(tmp_path / "no"), block_size=512) == (
            -2,
            "No such file or directory",
        )
        assert await here.refusal("bdev_aio_create", name="A2", filename=str(path)) == BAD_ARGUMENT
        assert await here.refusal("bdev_aio_create", name="A2", filename=str(path), block_size=1000) == BAD_ARGUMENT


async def test_a_zns_drive_in_a_file_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "zns")
    async with box() as here:
        await here.zns("Zns0", path=path)
        uuid = (await here.bdev("Zns0"))["uuid"]
        device = here.target.bdevs.get("Zns0").device
        assert await here.io(device, _shim.Op.WRITE, 0, 2, b"\x11" * 8192) == (0, 0)
        assert await here.io(device, _shim.Op.FLUSH) == (0, 0)
    del device
    async with box() as here:
        await here.zns("Zns0", path=path)
        assert (await here.bdev("Zns0"))["uuid"] == uuid
        stats = await here.rpc("ftltgt_get_media_stats", name="Zns0", zones=True)
        assert stats["zones"][0]["write_pointer"] == 2
        data = bytearray(8192)
        device = here.target.bdevs.get("Zns0").device
        assert await here.io(device, _shim.Op.READ, 0, 2, data) == (0, 0)
        assert data == b"\x11" * 8192


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"zone_size": 48}, "power of two"),
        ({"zone_capacity": 65}, "zone_capacity 65"),
        ({"block_size": 1024}, "block_size 1024"),
        ({"num_zones": 2**31, "zone_size": 2**20, "zone_capacity": 1}, "TiB"),
        ({"max_open_zones": 4, "max_active_zones": 3}, "max_active_zones 3"),
        ({"max_append_blocks": 1}, "a ZASL of 0 means no limit: give at least 2 blocks"),
        ({"max_append_blocks": 0}, "give at least 2 blocks"),
        ({"max_append_blocks": 15, "block_size": 512}, "give at least 16 blocks"),
    ],
)
async def test_a_zns_drive_that_can_not_be_is_refused_with_the_reason(
    params: dict[str, int], said: str, here: Box
) -> None:
    code, message = await here.refusal("ftltgt_zns_create", **{"name": "Z", "num_zones": 4, "zone_size": 64, **params})
    assert code == -22
    assert said in message


async def test_the_smallest_append_that_hosts_can_be_told_of_is_taken(here: Box) -> None:
    await here.rpc("ftltgt_zns_create", name="Z", num_zones=4, zone_size=64, max_append_blocks=2)
    assert here.target.bdevs.get("Z").device.max_append_blocks == 2


async def test_faults_strike_and_are_taken_back(here: Box) -> None:
    await here.malloc("M0")
    await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="M0")
    device, data = here.target.bdevs.get("M0").device, bytearray(4096)
    fault = await here.rpc("ftltgt_inject_fault", name="M0", op="read", lba=5, num_blocks=1, status="unrecovered_read")
    assert await here.io(device, _shim.Op.READ, 4, 1, data) == (0, 0)
    assert (await here.io(device, _shim.Op.READ, 5, 1, data))[0] == 0x281
    await here.rpc("ftltgt_clear_faults", name="M0", id=fault)
    assert await here.io(device, _shim.Op.READ, 5, 1, data) == (0, 0)
    assert (await here.rpc("ftltgt_get_media_stats", name="M0"))["operations"] >= 3
    code, message = await here.refusal("ftltgt_inject_fault", name="M0", op="read")
    assert "status" in message
    code, message = await here.refusal("ftltgt_inject_fault", name="P0", status=1)
    assert code == -22
    assert "P0" in message
    code, message = await here.refusal("ftltgt_inject_fault", name="M0", op="sing")
    assert code == -22
    assert message.startswith("ftltgt_inject_fault: parameter op: must be one of read, write")
    assert await here.refusal("ftltgt_inject_fault", status=1) == (
        -22,
        "ftltgt_inject_fault: parameter name is missing",
    )
    assert await here.refusal("ftltgt_inject_fault", name="nosuch", status=1) == (
        -19,
        "there is no bdev nosuch",
    )


async def test_power_cuts_reach_every_drive_once(here: Box) -> None:
    await here.malloc("M0")
    await here.zns("Zns0")
    await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="M0")
    assert await here.rpc("ftltgt_power_cut", seed=3) == ["M0", "Zns0"]
    device = here.target.bdevs.get("Zns0").device
    assert (await here.io(device, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == 0x005
    assert await here.rpc("ftltgt_power_on") == ["M0", "Zns0"]
    assert await here.io(device, _shim.Op.READ, 0, 1, bytearray(4096)) == (0, 0)
    await here.rpc("ftltgt_set_zone_state", name="Zns0", zone=2, state="read_only")
    stats = await here.rpc("ftltgt_get_media_stats", name="Zns0")
    assert stats["zone_states"] == {"empty": 7, "read_only": 1}
    refusal = await here.refusal("ftltgt_set_zone_state", name="Zns0", zone=3, state="full")
    assert "zone 3 is not active" in refusal[1]
    start = 3 * here.target.bdevs.get("Zns0").zone_size
    assert await here.io(device, _shim.Op.WRITE, start, 1, bytearray(4096)) == (0, 0)
    assert await here.rpc("ftltgt_set_zone_state", name="Zns0", zone=3, state="full") is True
    assert await here.rpc("ftltgt_recommend_zone", name="Zns0", zone=3, action="reset") is True
    assert (await here.rpc("ftltgt_get_media_stats", name="Zns0"))["zone_states"]["full"] == 1
    assert "not zoned" in (await here.refusal("ftltgt_recommend_zone", name="M0", zone=0, action="reset"))[1]
    assert "8 zones" in (await here.refusal("ftltgt_set_zone_state", name="Zns0", zone=8, state="offline"))[1]
    assert "not zoned" in (await here.refusal("ftltgt_set_zone_state", name="M0", zone=0, state="offline"))[1]


async def test_notifications_are_a_ring_of_1024(here: Box) -> None:
    for _ in range(513):
        await here.malloc("M0", 8)
        await here.rpc("bdev_malloc_delete", name="M0")
    everything = await here.rpc("notify_get_notifications")
    assert [each["id"] for each in everything] == list(range(2, 1026))
    assert [each["id"] for each in await here.rpc("notify_get_notifications", id=0, max=2)] == [2, 3]
    last = await here.rpc("notify_get_notifications", id=1025)
    assert last == [{"type": "bdev_unregister", "ctx": "M0", "id": 1025}]
    assert await here.rpc("notify_get_notifications", id=2000) == []
    assert await here.refusal("notify_get_notifications", id="x") == (-32602, "Invalid argument")


async def test_waiting_for_a_bdev_ends_with_it_or_with_the_time_out(here: Box) -> None:
    waiting = asyncio.ensure_future(here.rpc("bdev_get_bdevs", name="M0", timeout=60_000))
    await here.malloc("other")
    assert not waiting.done()
    await here.malloc("M0")
    assert (await waiting)[0]["name"] == "M0"
    assert await here.refusal("bdev_get_bdevs", name="no", timeout=1) == (-110, "Connection timed out")
    assert await here.refusal("bdev_get_bdevs", name="no") == GONE
    assert await here.refusal("bdev_get_bdevs", nme="no") == UNDECODABLE


async def test_methods_without_parameters_take_none(here: Box) -> None:
    with pytest.raises(Exception, match="bdev_wait_for_examine requires no parameters"):
        await here.target.dispatch("bdev_wait_for_examine", {})
    assert await here.rpc("bdev_wait_for_examine") is True
    assert (await here.refusal("nosuch"))[0] == -32601
    assert (await here.refusal("framework_start_init"))[0] == -1


async def test_a_bdev_in_use_is_not_deleted_by_closing_the_target_in_the_wrong_order(here: Box) -> None:
    """Virtual bdevs, exports and attached controllers all at once: box() checks that nothing is left."""
    await here.malloc("M0")
    await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="M0")
    address = await here.subsystem(NQN, "P0")
    # Another UUID, else it would collide with the bdev it is an export of.
    await here.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
    await here.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "P0", "nguid": "1" * 32})
    assert await here.attach("X", address) == ["Xn1"]
    await here.rpc("bdev_passthru_create", name="P1", base_bdev_name="Xn1")
    assert await here.claimed() == {"M0", "P0", "Xn1"}
