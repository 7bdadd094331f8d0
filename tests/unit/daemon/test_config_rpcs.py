"""ftl_save_config and ftl_load_config: what a target's configuration is without the daemon, and FTLs from it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py.daemon.admission import Admission
from spdk_ftl_py.daemon.dependents import DEPENDENTS_BYTES_MAX
from spdk_ftl_py.daemon.requests import FtlOptions, HostOptions
from spdk_ftl_py.daemon.saved import SavedFtl, read_file, read_section
from spdk_ftl_py.errors import BusyError, ExistsError, FtlError, ParameterError
from spdk_ftl_py.nvme.auth.key import DhchapKey, write_key_file
from spdk_ftl_py.nvme.auth.psk import PskFile
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.spdk.saved_config import calls_of
from spdk_ftl_py.target.app import Target
from spdk_ftl_py.target.config import apply_config
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, create, read, write
from unit.nvme.nvme_loop import until

USER = "nqn.2016-06.io.spdk:user"
UUID0 = "209910f4-c9a2-45e6-8d45-201775a170b5"
UUID1 = "b286d19a-0059-4709-abcd-9f7732b1567d"


async def stand_on_ftl0(here: World) -> None:
    """A passthru bdev on ftl0, exported by the target's user."""
    await here.rpc("bdev_passthru_create", name="p0", base_bdev_name="ftl0")
    await here.rpc("nvmf_create_subsystem", nqn=USER, serial_number="S", allow_any_host=True)
    await here.rpc("nvmf_subsystem_add_ns", nqn=USER, namespace={"bdev_name": "p0"})


async def namespaces(here: World) -> list[str]:
    subsystems = await here.rpc("nvmf_get_subsystems")
    return [ns["bdev_name"] for each in subsystems if each["nqn"] == USER for ns in each["namespaces"]]


async def made_again(daemon: Daemon) -> None:
    await until(lambda: not daemon.managed().dependents.pending)


async def restart_target(here: World, document: dict[str, Any]) -> None:
    """Another process, which is started with that document."""
    await here.target.close()
    here.target = Target("", reactor=ReactorLoop("target", spin_us=0))
    await here.target.start(listen=False)
    saved = here.folder / "saved.json"
    saved.write_text(json.dumps(document))
    await apply_config(here.target.dispatch, str(saved))
    here.line.target = here.target


async def end(here: World, daemon: Daemon) -> None:
    await daemon.halt()
    await here.target.close()


def forget(here: World) -> None:
    """The state directory of a daemon that has ended."""
    (here.folder / "state" / "state.json").unlink()


def section(document: dict[str, Any]) -> list[Any]:
    (found,) = (each["config"] for each in document["subsystems"] if each["subsystem"] == "ftl")
    return copy.deepcopy(found)  # type: ignore[no-any-return]


def made(**params: Any) -> dict[str, Any]:
    """ftl_create_bdev of a section."""
    given = {"name": "ftl0", "uuid": UUID0, "base_bdev": "Nvme0n1", "target": "/t.sock"} | params
    return {"method": "ftl_create_bdev", "params": {name: value for name, value in given.items() if value is not None}}


# --- save ---


async def test_the_document_has_the_target_without_the_daemon_and_the_ftl(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False, conf={"band_thld": 80}, overprovisioning=30)
    await stand_on_ftl0(here)
    document = await daemon.call("ftl_save_config", target=here.line.path)
    rest = [each for each in document["subsystems"] if each["subsystem"] != "ftl"]
    for ours in ("spdk-ftl", "ftl0", "p0"):
        assert ours not in json.dumps(rest)
    kept = [call["method"] for call in calls_of(rest)]
    assert kept == ["ftltgt_zns_create", "bdev_wait_for_examine", "nvmf_create_transport", "nvmf_create_subsystem"]
    device = await daemon.device()
    create_ftl, add_host, *calls = section(document)
    assert create_ftl == {
        "method": "ftl_create_bdev",
        "params": {
            "name": "ftl0",
            "uuid": device["uuid"],
            "target": here.line.path,
            "base_bdev": "Nvme0n1",
            "conf": {"band_thld": 80},
            "overprovisioning": 30,
            "listen_address": f"127.0.0.1:{device['export']['trsvcid']}",
        },
    }
    assert add_host == {"method": "ftl_add_host", "params": {"name": "ftl0", "host": HOSTNQN}}
    assert [call["params"]["method"] for call in calls] == ["bdev_passthru_create", "nvmf_subsystem_add_ns"]
    assert device["dependents"] == {"calls": 2, "pending": False, "failed": []}
    assert daemon.record()["devices"][0]["dependents"]["pending"] is False
    # Without a target the one is meant that all FTLs are on.
    assert await daemon.call("ftl_save_config") == document
    await end(here, daemon)


async def test_which_target_is_meant_has_to_be_said_where_it_is_not_plain(here: World) -> None:
    daemon = await here.start()
    with pytest.raises(ParameterError, match="the daemon has no FTL: name a target with -s"):
        await daemon.call("ftl_save_config")
    document = await daemon.call("ftl_save_config", target=here.line.path)
    assert section(document) == []
    await end(here, daemon)


async def test_an_ftl_that_keeps_nothing_is_taken_out_and_not_saved(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False, no_data=True)
    document = await daemon.call("ftl_save_config")
    assert section(document) == []
    assert "spdk-ftl" not in json.dumps(document)
    await end(here, daemon)


async def test_what_is_known_is_not_forgotten_while_the_ftl_is_away(here: World) -> None:
    """Its base is lost: what stood on it is gone from the target, too."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    before = section(await daemon.call("ftl_save_config"))
    document = await daemon.call("ftl_save_config")
    without_drive = copy.deepcopy(document)
    without_drive["subsystems"][1]["config"] = []
    await restart_target(here, without_drive)
    await daemon.wait_for("waiting")
    assert section(await daemon.call("ftl_save_config")) == before
    await end(here, daemon)


async def test_more_than_can_be_kept_is_refused(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    names = [f"p{number:05}" for number in range(DEPENDENTS_BYTES_MAX // 50)]
    calls = [{"method": "bdev_passthru_create", "params": {"name": name, "base_bdev_name": "ftl0"}} for name in names]
    here.line.answers["framework_get_subsystems"] = [{"subsystem": "bdev", "depends_on": []}]
    here.line.answers["framework_get_config"] = calls
    with pytest.raises(
        BusyError, match=r"FTL bdev ftl0: the \d+ calls that recreate what is built on it have .* at most"
    ):
        await daemon.call("ftl_save_config")
    assert "dependents" not in await daemon.device()
    await end(here, daemon)


@pytest.mark.parametrize("answer", [None, [5], [{"subsystem": 5}]])
async def test_a_target_that_says_nonsense_of_itself_is_told_of(answer: Any, here: World) -> None:
    daemon = await here.start()
    here.line.answers["framework_get_subsystems"] = answer
    with pytest.raises(FtlError, match=r"framework_get|its configuration is invalid"):
        await daemon.call("ftl_save_config", target=here.line.path)
    await end(here, daemon)


# --- and back ---


async def test_a_daemon_that_knows_nothing_brings_it_back_from_the_document(here: World) -> None:
    """Both were killed; the daemon comes with an empty state directory, the target with the document."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    await write(here, daemon, 3)
    document = await daemon.call("ftl_save_config")
    before = await daemon.device()
    await daemon.halt()
    forget(here)
    await restart_target(here, document)
    assert await namespaces(here) == []
    daemon = await here.start()
    answer = await daemon.call("ftl_load_config", config=section(document))
    told = {"name": "ftl0", "uuid": before["uuid"], "state": "online", "waiting_for": None}
    assert answer == {"loaded": [told], "unchanged": []}
    await made_again(daemon)
    assert await namespaces(here) == ["p0"]
    after = await daemon.device()
    for key in ("uuid", "export", "attached", "error", "allow_any_host"):
        assert after[key] == before[key]
    assert [each["nqn"] for each in after["hosts"] if not each["is_target"]] == [HOSTNQN]
    assert after["dependents"] == {"calls": 2, "pending": False, "failed": []}
    assert await read(here, daemon, 4) == [1, 2, 3, 0]
    # Twice changes nothing.
    called = len(here.line.called)
    assert await daemon.call("ftl_load_config", config=section(document)) == {"loaded": [], "unchanged": [told]}
    await made_again(daemon)
    assert not {"nvmf_subsystem_add_ns", "bdev_passthru_create"} & set(here.line.called[called:])
    assert await daemon.call("ftl_save_config") == document
    await end(here, daemon)


async def test_the_file_given_at_the_start_does_the_same_before_the_target_is_there(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    document = await daemon.call("ftl_save_config")
    await daemon.halt()
    forget(here)
    await here.target.close()
    await here.line.close()
    daemon = here.daemon()
    await daemon.registry.start(read_section(section(document), "FILE"))
    assert (await daemon.wait_for("deferred"))["dependents"]["pending"] is True
    await here.line.start()
    await restart_target(here, document)
    await daemon.wait_for("online")
    await made_again(daemon)
    assert await namespaces(here) == ["p0"]
    await end(here, daemon)


async def test_a_target_that_is_restarted_gets_back_what_stood_on_the_ftl(here: World) -> None:
    """The daemon stays; it has remembered what it saved."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    document = await daemon.call("ftl_save_config")
    for _ in range(2):
        here.line.called.clear()
        await restart_target(here, document)
        await daemon.wait_for("waiting")
        await daemon.wait_for("online")
        await until(lambda: daemon.managed().is_attached)
        await made_again(daemon)
        assert await namespaces(here) == ["p0"]
        # p0 has ftl0 from the start: it waits for it, as ftl0 waits for the controller.
        before = here.line.called[: here.line.called.index("bdev_nvme_attach_controller")]
        assert before.count("bdev_passthru_create") == 2
    await end(here, daemon)


async def test_what_its_user_took_away_in_a_target_that_goes_on_is_not_made_again(here: World) -> None:
    """The base goes and comes; ftl0 stays, and so does what its user has made of it since."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    await daemon.call("ftl_save_config")
    await here.rpc("nvmf_subsystem_remove_ns", nqn=USER, nsid=1)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await here.make_drive()
    await daemon.wait_for("online")
    device = daemon.managed()
    await until(lambda: device.is_attached)
    assert not device.dependents.pending
    # Whatever there was to do has been done by then.
    await daemon.call("ftl_save_config")
    assert await namespaces(here) == []
    await end(here, daemon)


async def test_a_call_that_is_refused_is_told_and_tried_again(here: World, caplog: pytest.LogCaptureFixture) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    document = await daemon.call("ftl_save_config")
    (nvmf,) = (each["config"] for each in document["subsystems"] if each["subsystem"] == "nvmf")
    nvmf[:] = [call for call in nvmf if call["method"] != "nvmf_create_subsystem"]
    await restart_target(here, document)
    dependents = daemon.managed().dependents
    await until(lambda: bool(dependents.failed))
    device = await daemon.device()
    (failed,) = device["dependents"]["failed"]
    assert (failed["method"], failed["params"]["nqn"]) == ("nvmf_subsystem_add_ns", USER)
    assert "refused nvmf_subsystem_add_ns" in failed["error"]
    assert device["error"].startswith("not everything that was built on ftl0 is back: nvmf_subsystem_add_ns: ")
    # The other one was made.
    assert [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs", name="p0")] == ["p0"]
    await here.rpc("nvmf_create_subsystem", nqn=USER, serial_number="S", allow_any_host=True)
    await made_again(daemon)
    assert await namespaces(here) == ["p0"]
    assert (await daemon.device())["error"] is None
    # Told once, however often it was tried.
    assert len([each for each in caplog.records if "not everything that was built on" in each.message]) == 1
    await end(here, daemon)


async def test_a_daemon_that_dies_before_all_is_made_leaves_it_to_the_next(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    document = await daemon.call("ftl_save_config")
    here.line.refused = {"bdev_passthru_create"}
    await restart_target(here, document)
    await daemon.wait_for("waiting")
    # Before the FTL is attached, which is made to fail here.
    await until(lambda: daemon.record()["devices"][0]["dependents"]["pending"])
    await end(here, daemon)


# --- contradictions ---


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"uuid": UUID1}, "beside FTL bdev ftl0"),
        ({"name": "ftl1", "uuid": None}, "beside FTL bdev ftl0"),
        ({"target": "/elsewhere.sock", "uuid": None}, "on the SPDK target at /elsewhere.sock"),
    ],
)
async def test_a_name_or_uuid_that_is_taken_loads_nothing(
    change: dict[str, Any], expected: str, here: World, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    taken = {"uuid": uuid, "target": here.line.path} | {key: value for key, value in change.items() if value}
    config = [made(name="other", base_bdev="Nvme1n1", target=here.line.path, uuid=UUID0), made(**taken)]
    with pytest.raises(ExistsError, match=expected) as caught:
        await daemon.call("ftl_load_config", config=config)
    assert "nothing was loaded" in caught.value.message
    assert [each["name"] for each in await daemon.call("ftl_get_devices")] == ["ftl0"]
    record = daemon.record()
    await daemon.halt()
    # At a start the state file counts for more, and what does not contradict it is loaded.
    daemon = here.daemon()
    await daemon.registry.start(read_section(config, "FILE"))
    assert {each["name"]: each["uuid"] for each in await daemon.call("ftl_get_devices")} == {
        "ftl0": record["devices"][0]["uuid"],
        "other": UUID0,
    }
    assert [each for each in caplog.records if expected in each.message and "not loaded" in each.message]
    await end(here, daemon)


async def test_two_exports_of_one_nqn_are_not_loaded(here: World, caplog: pytest.LogCaptureFixture) -> None:
    daemon = await here.start()
    nqn = {"nqn": "nqn.2026-11.com.example:one", "target": here.line.path}
    config = [made(base_bdev="A", **nqn), made(name="ftl1", uuid=UUID1, base_bdev="B", **nqn)]
    with pytest.raises(
        FtlError, match=r"FTL bdev ftl1 .* has the NQN .*:one, which FTL bdev ftl0 already has .*nothing"
    ):
        await daemon.call("ftl_load_config", config=config)
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()
    daemon = here.daemon()
    await daemon.registry.start(read_section(config, "FILE"))
    assert [each["name"] for each in await daemon.call("ftl_get_devices")] == ["ftl0"]
    assert [each for each in caplog.records if "which FTL bdev ftl0 already has" in each.message]
    await end(here, daemon)


async def test_the_state_file_counts_for_more_than_the_file(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    await stand_on_ftl0(here)
    config = section(await daemon.call("ftl_save_config"))
    await here.rpc("nvmf_delete_subsystem", nqn=USER)
    await daemon.call("ftl_save_config")
    await daemon.halt()
    daemon = here.daemon()
    await daemon.registry.start(read_section(config, "FILE"))
    await daemon.wait_for("online")
    assert [call["method"] for call in daemon.managed().dependents.calls] == ["bdev_passthru_create"]
    await end(here, daemon)


async def test_a_state_that_can_not_be_saved_loads_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await here.start()

    def full(_devices: Any) -> None:
        raise FtlError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(daemon.state, "save", full)
        with pytest.raises(FtlError, match="no space"):
            await daemon.call("ftl_load_config", config=[made(target=here.line.path)])
    assert await daemon.call("ftl_get_devices") == []
    await end(here, daemon)


# --- one that waits ---


async def test_one_that_was_never_made_waits_on_and_is_created(here: World) -> None:
    daemon = await here.start()
    await here.remove_drive()
    await create(here, daemon, no_attach=False)
    document = await daemon.call("ftl_save_config")
    config = section(document)
    uuid = (await daemon.device())["uuid"]
    assert (config[0]["params"]["new"], config[0]["params"]["uuid"]) == (True, uuid)
    assert "listen_address" not in config[0]["params"]
    await daemon.halt()
    forget(here)
    daemon = await here.start()
    (loaded,) = (await daemon.call("ftl_load_config", config=config))["loaded"]
    assert (loaded["state"], loaded["waiting_for"]) == ("deferred", "base bdev Nvme0n1")
    await here.make_drive()
    device = await daemon.wait_for("online")
    assert (device["uuid"], device["attached"]) == (uuid, True)
    await end(here, daemon)


async def test_one_that_has_been_made_since_is_loaded(here: World) -> None:
    """The file is older than the FTL: it says that it is to be created."""
    daemon = await here.start()
    await here.remove_drive()
    await create(here, daemon, no_attach=False)
    config = section(await daemon.call("ftl_save_config"))
    await here.make_drive()
    await daemon.wait_for("online")
    await write(here, daemon, 2)
    await daemon.halt(undo=True)
    forget(here)
    daemon = await here.start()
    dependent = {"name": "ftl0", "method": "bdev_passthru_create", "params": {"name": "p0", "base_bdev_name": "ftl0"}}
    await daemon.call("ftl_load_config", config=[*config, {"method": "ftl_call_target", "params": dependent}])
    device = await daemon.wait_for("online")
    assert (device["uuid"], device["attached"]) == (config[0]["params"]["uuid"], True)
    assert await read(here, daemon, 2) == [1, 2]
    await made_again(daemon)
    assert (await here.rpc("bdev_get_bdevs", name="p0"))[0]["product_name"] == "passthru"
    await end(here, daemon)


async def test_what_waits_says_for_what(here: World) -> None:
    daemon = await here.start()
    config = [made(base_bdev="Nvme7n1", target=here.line.path), made(name="ftl1", uuid=UUID1, target="/nowhere.sock")]
    one, other = (await daemon.call("ftl_load_config", config=config))["loaded"]
    assert (one["state"], one["waiting_for"]) == ("deferred", "base bdev Nvme7n1 does not exist yet")
    assert other["state"] == "deferred"
    assert "SPDK target at /nowhere.sock can't be reached" in other["waiting_for"]
    await end(here, daemon)


async def test_the_target_that_is_given_counts(here: World) -> None:
    daemon = await here.start()
    await daemon.call("ftl_load_config", config=[made(base_bdev="Late")], target=here.line.path)
    assert (await daemon.device())["target"] == here.line.path
    await end(here, daemon)


# --- the section ---


def read_all(*entries: Any) -> list[SavedFtl]:
    return read_section(entries, "FILE")


def host(**params: Any) -> dict[str, Any]:
    return {"method": "ftl_add_host", "params": {"name": "ftl0", "host": HOSTNQN} | params}


def on_target(**params: Any) -> dict[str, Any]:
    return {"method": "ftl_call_target", "params": {"name": "ftl0"} | params}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([5], "entry 1 of section ftl: an entry is not an object"),
        ([made(), {"params": {}}], 'entry 2 of section ftl: an entry is not an object with a "method"'),
        (
            [{"method": "bdev_ftl_create", "params": {}}],
            "entry 1 of section ftl: bdev_ftl_create: unknown; known: ftl_",
        ),
        ([made(base_bdev=None)], "entry 1 of section ftl: ftl_create_bdev: .*base_bdev .*is missing"),
        ([made(uuid=None)], "ftl_create_bdev: uuid of the FTL to load is missing"),
        ([made(uuid=str(UUID(int=0)))], "ftl_create_bdev: uuid of the FTL to load is missing"),
        ([made(target=None)], "target is missing"),
        ([made(new=1)], '"new" is not'),
        ([made(new=True, without_cache=True)], "without_cache"),
        ([made(force=True)], "force belongs to bdev_ftl_create"),
        ([made(no_data=True)], "no_data belongs to bdev_ftl_create"),
        ([made(load_or_create=True)], "load_or_create belongs to bdev_ftl_create"),
        ([made(wait=0)], "wait belongs to bdev_ftl_create"),
        ([made(conf={"band_thld": 0})], "conf.band_thld"),
        ([made(limit_low_threshold=1, limit_high_threshold=9)], "descend"),
        ([made(listen_address="localhost:1")], "listen address"),
        ([made(listen_address="127.0.0.1:70000")], "listen address"),
        ([made(colour=1)], 'unknown parameter "colour"'),
        ([made(), made(uuid=UUID1)], "entry 2 of section ftl: .*ftl0 .*has the name or uuid of FTL bdev ftl0"),
        ([made(), made(name="ftl1")], "FTL bdev ftl1 .*has the name or uuid of FTL bdev ftl0"),
        ([host()], "entry 1 of section ftl: ftl_add_host: no earlier ftl_create_bdev has the name 'ftl0'"),
        ([made(), host(name=["ftl0"])], "no earlier ftl_create_bdev"),
        ([made(), host(host="x")], "host .*an NQN such as"),
        ([made(), host(), host()], "entry 3 of section ftl: .*already allowed"),
        ([made(hosts=[HOSTNQN]), host()], "already allowed"),
        ([made(), host(dhchap_ctrlr_key="/k")], "give dhchap_key too"),
        ([made(), on_target()], 'not an object with a "method"'),
        ([made(), on_target(method="m", params=[1])], "params of m are not an object"),
        ([made(), on_target(method="m", id=1)], "unknown parameter 'id'"),
    ],
)
def test_what_is_wrong_in_a_section_is_named(entries: list[Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=expected) as caught:
        read_all(*entries)
    assert caught.value.message.startswith("FILE, entry ")


def test_keys_are_named_by_their_files_and_need_not_be_there(tmp_path: Path) -> None:
    keys = {"dhchap_key": "/k1", "dhchap_ctrlr_key": "/k2"}
    (ftl,) = read_all(made(), host(**keys))
    assert ftl.record["allowed"]["hosts"] == [{"nqn": HOSTNQN, "is_target": False, **keys}]


async def test_hosts_come_back_with_their_keys(here: World) -> None:
    key = here.folder / "key"
    write_key_file(key, DhchapKey.generate())
    daemon = await here.start()
    await create(here, daemon, no_attach=False, allow_any_host=True, dhchap_key=str(key))
    config = section(await daemon.call("ftl_save_config"))
    assert config[0]["params"]["allow_any_host"] is True
    assert config[1]["params"] == {"name": "ftl0", "host": HOSTNQN, "dhchap_key": str(key)}
    assert key.read_text().strip() not in json.dumps(config)
    before = await daemon.device()
    await daemon.halt(undo=True)
    forget(here)
    daemon = await here.start()
    await daemon.call("ftl_load_config", config=config)
    after = await daemon.device()
    assert after["allow_any_host"] is True
    assert [each for each in after["hosts"] if not each["is_target"]] == [
        each for each in before["hosts"] if not each["is_target"]
    ]
    # The target comes under a new name, and proves it.
    (new,), (old,) = ([each for each in told["hosts"] if each["is_target"]] for told in (after, before))
    assert new["nqn"] != old["nqn"]
    assert "dhchap_key" in new
    await end(here, daemon)


async def test_a_target_that_has_to_come_by_tls_has_to_behind_a_file_too() -> None:
    """Its name is not in the file, so it is let in anew."""
    (ftl,) = read_all(made(target_psk="/psk", secure_channel=True))
    allowed = ftl.record["allowed"]
    options = FtlOptions.of(ftl.record["params"])
    admission = Admission(options, HostOptions(), allowed, inherited=True, target_keys=None, save=lambda: None)

    class NothingAttached:
        async def call(self, _method: str) -> list[Any]:
            return []

    await admission.settle_target(NothingAttached(), UUID(UUID0))  # type: ignore[arg-type]
    assert admission.allowed.target is not None
    assert admission.allowed.target.psk == PskFile(Path("/psk"))


# --- the file ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", 'has no "subsystems" array'),
        ('{"subsystems": {}}', 'has no "subsystems" array'),
        ('{"subsystems": [5]}', 'not an object with a "subsystem"'),
        ('{"subsystems": [{"subsystem": "ftl", "config": {}}]}', "the config of subsystem ftl is not an array"),
        ('{"subsystems": [{"subsystem": "bdev", "config": [5]}]}', "subsystem bdev: an entry is not an object"),
        ("[" * 100, "nested deeper"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    path.write_text(text)
    with pytest.raises(ParameterError, match=expected) as caught:
        read_file(path)
    assert str(path) in caught.value.message


def test_a_file_that_others_could_have_written_is_refused_where_nobody_looks(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    path.write_text('{"subsystems": [{"subsystem": "ftl", "config": null}]}')
    assert read_file(path, safe=True) == []
    path.chmod(0o622)
    assert read_file(path) == []
    with pytest.raises(FtlError, match=r"can be written by others.*chmod go-w"):
        read_file(path, safe=True)
