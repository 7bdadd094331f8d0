"""bdev_ftl_unmap, bdev_ftl_set_property, bdev_ftl_load and _unload, bdev_ftl_rename, and the names of 2020."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.errors import BusyError, ClaimedError, ConfError, ExistsError, FtlError, NotFoundError, ParameterError
from unit.daemon.registry_rig import Daemon, World, Writer, create, gate_of
from unit.nvme.nvme_loop import until


async def properties(daemon: Daemon, name: str = "ftl0") -> dict[str, Any]:
    told = await daemon.call("bdev_ftl_get_properties", name=name)
    return {entry["name"]: entry for entry in told["properties"]}


async def value_of(daemon: Daemon, name: str) -> Any:
    return (await properties(daemon))[name]["value"]


async def set_property(daemon: Daemon, name: str, value: str) -> None:
    assert await daemon.call("bdev_ftl_set_property", name="ftl0", ftl_property=name, value=value) is True


# --- unmap


async def test_any_range_is_trimmed_and_stays_so(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    port = gate_of(daemon)
    for lba in range(8):
        await port.write(lba, bytes([lba + 1]) * 4096)
    assert await daemon.call("bdev_ftl_unmap", name="ftl0", lba=3, num_blocks=2) is True
    expected = [1, 2, 3, 0, 0, 6, 7, 8]
    assert [int(block[0]) for block in await port.read(0, 8)] == expected
    await port.close()
    # As after the loss of everything but the drive: no host has flushed.
    device = daemon.managed()
    assert device.ftl is not None
    await device.ftl.abort("lost")
    await daemon.wait_for("waiting")
    for path in (here.folder / "buffers").iterdir():
        path.unlink()
    await daemon.wait_for("online")
    port = gate_of(daemon)
    assert [int(block[0]) for block in await port.read(0, 8)] == expected
    await port.close()
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, uuid=uuid)
    await daemon.halt()


async def test_a_trim_of_everything_lets_others_go_on(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spdk_ftl_py.daemon.front.TRIM_BLOCKS", 16)
    daemon = await here.start()
    await create(here, daemon)
    port = gate_of(daemon)
    writer = Writer(port)
    await writer.goes_on()
    size = (await daemon.device())["num_blocks"]
    trimmed = asyncio.ensure_future(daemon.call("bdev_ftl_unmap", name="ftl0", lba=16, num_blocks=size - 16))
    await writer.goes_on()
    assert await trimmed is True
    await writer.end()
    await port.close()
    await daemon.halt()


async def test_what_is_beyond_the_end_is_refused(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    size = (await daemon.device())["num_blocks"]
    for lba, num_blocks in ((size, 1), (0, size + 1), ((1 << 64) - 1, (1 << 64) - 1)):
        with pytest.raises(ParameterError, match=rf"exceed FTL bdev ftl0, which has {size} blocks"):
            await daemon.call("bdev_ftl_unmap", name="ftl0", lba=lba, num_blocks=num_blocks)
    with pytest.raises(ParameterError, match="num_blocks"):
        await daemon.call("bdev_ftl_unmap", name="ftl0", lba=0, num_blocks=0)
    with pytest.raises(NotFoundError):
        await daemon.call("bdev_ftl_unmap", name="ftl1", lba=0, num_blocks=1)
    assert await daemon.call("bdev_ftl_unmap", name="ftl0", lba=size - 1, num_blocks=1) is True
    await daemon.halt()


async def test_a_trim_that_waits_for_the_base_does_not_outlive_the_ftl(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    device.front.hold()
    trimming = asyncio.ensure_future(daemon.call("bdev_ftl_unmap", name="ftl0", lba=0, num_blocks=1))
    await until(lambda: device.front.gate is not None and device.front.gate.held == 1)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with pytest.raises(FtlError):
        await trimming
    await daemon.halt()


# --- settings


AT_ONCE = {
    "limit_crit": ("1", 1), "limit_high": ("21", 21), "limit_low": ("50", 50), "limit_start": ("99", 99),
    "limit_crit_threshold": ("0", 0), "limit_high_threshold": ("1", 1), "limit_low_threshold": ("2", 2),
    "limit_start_threshold": ("9", 9), "invalid_thld": ("0", 0), "max_active_relocs": ("2", 2),
    "max_io_channels": ("3", 3), "reloc_policy": ("greedy", "greedy"), "scrub_days": ("30", 30),
    "rated_resets": ("100000", 100000), "running_checkpoint": ("15", 15),
    "nv_cache.max_request_cnt": ("7", 7), "nv_cache.max_request_size": ("4", 4),
}  # fmt: skip
BY_A_PAUSE = {
    "write_buffer_size": ("131072", 131072), "band_thld": ("80", 80), "max_reloc_qdepth": ("7", 7),
    "verify_reads": ("false", False), "l2p_dram_limit": ("64", 64),
}  # fmt: skip


async def test_every_setting_can_be_changed_and_is_kept(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon, conf={"invalid_thld": 20}, limit_low=60))["uuid"]
    device = daemon.managed()
    settable = {name for name, entry in (await properties(daemon)).items() if not entry["read-only"]}
    assert settable == AT_ONCE.keys() | BY_A_PAUSE.keys()
    # Two bands: thresholds have to stay in order on the way.
    await set_property(daemon, "limit_start_threshold", "9")
    port = gate_of(daemon)
    writer = Writer(port)
    for name, (value, expected) in {**AT_ONCE, **BY_A_PAUSE}.items():
        before = device.ftl
        await set_property(daemon, name, value)
        assert await value_of(daemon, name) == expected
        assert (device.ftl is before) == (name in AT_ONCE)
        params = daemon.record()["devices"][0]["params"]
        assert {**params, **params["conf"]}[name] == expected
        await writer.goes_on()
    await writer.end()
    await port.close()
    assert device.ftl is not None
    assert device.ftl._manager.limits._table[0] == ("crit", 0, 1)
    assert device.ftl._manager.policy.policy.name == "greedy"
    assert device.ftl.scrub.status()["scrub_days"] == 30
    assert device.front._subsystem is not None
    assert device.front._subsystem.max_io_qpairs == 3
    told = await properties(daemon)
    # Elsewhere: the superblock alone.
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, uuid=uuid)
    again = await properties(daemon)
    for name in settable:
        assert again[name]["value"] == told[name]["value"], name
    await daemon.halt()


async def test_a_setting_counts_at_once(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    assert device.ftl is not None
    manager = device.ftl._manager
    await set_property(daemon, "limit_start_threshold", "8")
    assert manager.limits.start_bands == 8
    await set_property(daemon, "limit_start", "77")
    assert manager.limits.apply(8).user_share == 77
    await daemon.halt()


async def test_what_is_written_at_once_is_in_the_superblock(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await set_property(daemon, "invalid_thld", "33")
    device = daemon.managed()
    assert device.ftl is not None
    await device.ftl.abort("lost")
    await daemon.wait_for("waiting")
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    await create(here, daemon, uuid=uuid)
    assert await value_of(daemon, "invalid_thld") == 33
    await daemon.halt()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("band_thld", "101", "band_thld is '101': must be a number, 1 to 100"),
        ("band_thld", "many", "must be a number, 1 to 100"),
        ("band_thld", "1" * 200, "must be a number, 1 to 100"),
        ("verify_reads", "maybe", "must be true or false"),
        ("reloc_policy", "best", "no such policy: use age_threshold, cost_benefit, d_choices, greedy"),
        ("reloc_policy", "two words", "is not the name of a policy"),
        ("reloc_policy", "d_choices:d=0", "DChoices can't be made: ValueError: d = 0"),
        ("reloc_policy", "greedy:d=1", "Greedy takes no parameters"),
        ("reloc_policy", "no_such_module:Mine", "there is no module no_such_module: install"),
        ("nv_cache.max_request_cnt", "0", "must be a number, 1 to 65536"),
        ("nv_cache.max_request_size", "257", "must be a number, 1 to 256"),
        ("nv_cache", "1", "no property 'nv_cache' can be changed"),
        ("write_buffer_size", "40001", "multiple of 4096"),
        ("limit_high_threshold", "40", "must descend|would be throttled"),
        ("overprovisioning", "30", "create a new FTL"),
        ("use_append", "true", "create a new FTL"),
        ("allow_open_bands", "true", "one load"),
        ("num_blocks", "1", "no property 'num_blocks' can be changed: use one of limit_crit, "),
        ("verbose_mode", "false", "always true"),
    ],
)
async def test_what_is_refused_changes_nothing(here: World, name: str, value: str, expected: str) -> None:
    daemon = await here.start()
    await create(here, daemon)
    before, record = await properties(daemon), daemon.record()
    with pytest.raises((ParameterError, ConfError), match=expected):
        await set_property(daemon, name, value)
    assert {n: e["value"] for n, e in (await properties(daemon)).items() if n.startswith(("limit", "conf"))} == {
        n: e["value"] for n, e in before.items() if n.startswith(("limit", "conf"))
    }
    assert daemon.record() == record
    await daemon.halt()


async def test_a_policy_that_can_not_be_had_leaves_no_ftl_behind(here: World) -> None:
    daemon = await here.start()
    for name, message in (
        ("lazy", "no such policy"),
        ("no_such_module:Mine", "there is no module"),
        ("d_choices:d=0", "d = 0"),
    ):
        with pytest.raises(ConfError, match=message):
            await create(here, daemon, conf={"reloc_policy": name})
        assert await daemon.call("ftl_get_devices") == []
        assert daemon.record()["devices"] == []
    await create(here, daemon, conf={"reloc_policy": "d_choices:d=3"})
    assert await value_of(daemon, "policy_in_use") == "d_choices:d=3"
    await daemon.halt()


async def test_an_ftl_whose_policy_was_uninstalled_comes_back_with_the_default(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uninstalled.py").write_text("from spdk_ftl_py import Policy\n\n\nclass Mine(Policy):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    daemon = await here.start()
    await create(here, daemon)
    port = gate_of(daemon)
    writer = Writer(port)
    await writer.goes_on()
    await set_property(daemon, "reloc_policy", "uninstalled:Mine")
    await writer.goes_on()
    assert await value_of(daemon, "policy_in_use") == "uninstalled:Mine"
    # With a pause: the FTL is loaded again.
    await set_property(daemon, "band_thld", "80")
    await writer.goes_on()
    assert await value_of(daemon, "policy_in_use") == "uninstalled:Mine"
    await writer.end()
    await port.close()
    await daemon.halt()
    (tmp_path / "uninstalled.py").unlink()
    monkeypatch.delitem(sys.modules, "uninstalled")
    daemon = await here.start()
    await daemon.wait_for("online")
    assert await value_of(daemon, "reloc_policy") == "uninstalled:Mine"
    assert await value_of(daemon, "policy_in_use") == "seed"
    assert "there is no module uninstalled" in await value_of(daemon, "policy_replaced")
    await set_property(daemon, "reloc_policy", "greedy")
    assert await value_of(daemon, "policy_replaced") is None
    await daemon.halt()


async def test_a_pool_size_is_taken_and_told_of_in_the_log_once(here: World, caplog: pytest.LogCaptureFixture) -> None:
    """As scripts of SPDK's and saved configurations have it. Here nothing is sized by it."""
    daemon = await here.start()
    uuid = (await create(here, daemon, conf={"user_io_pool_size": 64, "band_thld": 80}))["uuid"]
    line = "FTL bdev ftl0: conf user_io_pool_size is ignored: an I/O queue has one I/O for each entry"
    assert caplog.text.count(line) == 1
    assert daemon.record()["devices"][0]["params"]["conf"] == {"band_thld": 80}
    asked = {"uuid": uuid, "conf": {"user_io_pool_size": 65}, "if_absent": True}
    assert (await create(here, daemon, **asked))["changed"] is False
    assert "user_io_pool_size" not in await properties(daemon)
    record = daemon.record()
    await set_property(daemon, "user_io_pool_size", "66")
    assert daemon.record() == record
    assert caplog.text.count("bdev_ftl_set_property: user_io_pool_size is ignored") == 1
    await daemon.halt()
    caplog.clear()
    record["devices"][0]["params"]["conf"]["user_io_pool_size"] = 64
    daemon.put_back(json.dumps(record).encode())
    for told in (1, 0):
        daemon = await here.start()
        await daemon.wait_for("online")
        assert caplog.text.count(line) == told, "of a daemon before this one, and of this one"
        assert daemon.record()["devices"][0]["params"]["conf"] == {"band_thld": 80}
        await daemon.halt()
        caplog.clear()


async def test_what_spdk_has_and_is_so_here_anyway_is_taken(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    for name in ("verbose_mode", "prep_upgrade_on_shutdown"):
        await set_property(daemon, name, "true")
        assert await value_of(daemon, name) is True
    await daemon.halt()


async def test_one_that_can_not_be_saved_changes_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    assert device.ftl is not None
    params = dict(device.params)

    def full(*_: object, **__: object) -> None:
        raise FtlError("the state directory is full")

    with monkeypatch.context() as patch:
        patch.setattr(daemon.state, "save", full)
        with pytest.raises(FtlError, match="full"):
            await set_property(daemon, "invalid_thld", "33")
    assert (await value_of(daemon, "invalid_thld"), device.params) == (10, params)
    with monkeypatch.context() as patch:
        patch.setattr(device.ftl._superblock, "write", full)
        with pytest.raises(FtlError, match="full"):
            await set_property(daemon, "invalid_thld", "33")
    assert (await value_of(daemon, "invalid_thld"), device.params) == (10, params)
    assert daemon.record()["devices"][0]["params"] == params
    await daemon.halt()


async def test_settings_of_one_that_does_not_run_are_not_changed(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    with pytest.raises(BusyError, match="waiting"):
        await set_property(daemon, "invalid_thld", "33")
    await daemon.halt()


async def test_two_at_once_are_both_kept(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    names = {"band_thld": "80", "invalid_thld": "33", "max_reloc_qdepth": "5", "scrub_days": "3"}
    await asyncio.gather(*(set_property(daemon, name, value) for name, value in names.items()))
    assert daemon.record()["devices"][0]["params"]["conf"] == {name: int(value) for name, value in names.items()}
    for name, value in names.items():
        assert await value_of(daemon, name) == int(value)
    await daemon.halt()


# --- names of SPDK's releases


async def test_load_unload_and_the_names_of_2020(here: World) -> None:
    daemon = await here.start()
    params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": here.line.path}
    spdks = {"l2p_dram_limit": 512, "core_mask": "[0,2]", "fast_shutdown": True}
    created = await daemon.call("construct_ftl_bdev", **params, **spdks)
    assert await daemon.call("bdev_ftl_unload", name="ftl0", fast_shutdown=True) is True
    with pytest.raises(ParameterError, match="uuid"):
        await daemon.call("bdev_ftl_load", **params)
    with pytest.raises(ParameterError, match="nil UUID"):
        await daemon.call("bdev_ftl_load", **params, uuid="0" * 8 + "-0000-0000-0000-" + "0" * 12)
    assert await daemon.call("bdev_ftl_load", **params, **spdks, uuid=created["uuid"]) == created
    assert await daemon.call("delete_ftl_bdev", name="ftl0", fast_shutdown=False) is True
    await daemon.halt()


# --- rename


async def test_it_is_renamed_in_the_target_too_and_io_goes_on(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon, no_attach=False))["uuid"]
    port = gate_of(daemon)
    writer = Writer(port)
    assert await daemon.call("bdev_ftl_rename", name="ftl0", new_name="other") is True
    await writer.goes_on()
    await writer.end()
    await port.close()
    bdevs = {bdev["name"]: bdev for bdev in await here.rpc("bdev_get_bdevs")}
    assert "ftl0" not in bdevs
    assert bdevs["other"]["uuid"] == uuid
    assert f"other-{uuid[:8]}n1" in bdevs
    assert (await daemon.device("other"))["attached"] is True
    assert (await daemon.call("bdev_ftl_get_hosts", name="other"))["name"] == "other"
    with pytest.raises(NotFoundError, match="the daemon has: other"):
        await daemon.device("ftl0")
    (record,) = daemon.record()["devices"]
    assert (record["name"], record["params"]["name"]) == ("other", "other")
    await create(here, daemon, base_bdev="Nvme9n1")
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()
    await daemon.wait_for("online", "other")
    await daemon.call("bdev_ftl_delete", name="other")
    with pytest.raises(ExistsError, match="'other'"):
        await create(here, daemon, name="third")
    await daemon.halt()


async def test_a_name_that_is_taken_and_a_bdev_that_is_used_are_refused(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await create(here, daemon, name="later", base_bdev="Nvme9n1")
    await here.rpc("bdev_malloc_create", name="M0", num_blocks=64, block_size=4096)
    for name, error, expected in (("later", ExistsError, "FTL bdev of that name"), ("M0", ExistsError, "has a bdev")):
        with pytest.raises(error, match=expected):
            await daemon.call("bdev_ftl_rename", name="ftl0", new_name=name)
    await here.rpc("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:mine", allow_any_host=True)
    await here.rpc("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:mine", namespace={"bdev_name": "ftl0"})
    with pytest.raises(ClaimedError, match=r"nqn\.2016-06\.io\.spdk:mine"):
        await daemon.call("bdev_ftl_rename", name="ftl0", new_name="other")
    assert (await daemon.device())["attached"] is True
    assert await daemon.call("bdev_ftl_rename", name="ftl0", new_name="ftl0") is True
    await here.rpc("nvmf_delete_subsystem", nqn="nqn.2016-06.io.spdk:mine")
    await daemon.halt()


async def test_a_target_that_refuses_keeps_the_old_name_or_gets_the_new_one_later(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    here.line.refused = {"bdev_nvme_detach_controller"}
    with pytest.raises(FtlError, match="not renamed"):
        await daemon.call("bdev_ftl_rename", name="ftl0", new_name="other")
    here.line.refused = set()
    assert (await daemon.device())["attached"] is True
    here.line.refused = {"bdev_nvme_attach_controller"}
    with pytest.raises(FtlError, match="ftl0 has the name other now, but is not attached to its target yet"):
        await daemon.call("bdev_ftl_rename", name="ftl0", new_name="other")
    here.line.refused = set()
    device = daemon.managed("other")
    await until(lambda: device.attachment is not None)
    assert [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs", name="other")] == ["other"]
    await daemon.halt()


@pytest.mark.parametrize("step", ["bdev_nvme_detach_controller", "bdev_nvme_attach_controller"])
async def test_a_deletion_in_the_middle_of_it_leaves_nothing(here: World, step: str) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    here.line.called.clear()
    here.line.hold(step)
    renaming = asyncio.ensure_future(daemon.call("bdev_ftl_rename", name="ftl0", new_name="other"))
    await until(lambda: step in here.line.called)
    ((_, name),) = daemon.registry._devices
    deleting = asyncio.ensure_future(daemon.call("bdev_ftl_delete", name=name))
    await asyncio.sleep(0.05)
    here.line.release()
    assert await deleting is True
    await asyncio.gather(renaming, return_exceptions=True)
    assert [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs")] == ["Nvme0n1"]
    assert daemon.record()["devices"] == []
    await daemon.halt()
