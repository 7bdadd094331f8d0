"""Keys between the daemon and a target: neither is taken for what it is by its name alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from spdk_ftl_py.daemon.session_keys import SessionKeys, remove_stray_files
from spdk_ftl_py.errors import AuthenticationError, TargetError
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys, KeyFile
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.spdk.rpc import TargetRpc
from unit.daemon.registry_rig import Daemon, World, create
from unit.nvme.nvme_loop import until


def key_files(here: World) -> dict[str, str]:
    """What is in them, by what comes behind the device's uuid."""
    folder = here.folder / "state" / "keys"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    return {path.name.partition(".")[2]: path.read_text() for path in files}


async def keyring(here: World) -> list[str]:
    return sorted(entry["name"].removeprefix("spdk-ftl-") for entry in await here.rpc("keyring_get_keys"))


async def base_export(here: World) -> dict[str, Any]:
    (export,) = [entry for entry in await here.rpc("nvmf_get_subsystems") if ":base:" in entry["nqn"]]
    return dict(export)


async def test_raw_media_is_not_had_with_the_name_of_the_daemon(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    export = await base_export(here)
    address = export["listen_addresses"][0]
    for keys in (None, HostKeys(KeyFile(here.folder / "state" / "keys" / "absent"))):
        with pytest.raises(Exception, match=r"requires authentication|No such file"):
            await Controller.connect(
                address["traddr"], address["trsvcid"], export["nqn"], hostnqn=export["hosts"][0]["nqn"], keys=keys
            )
    assert set(key_files(here)) == {"base", "base-ctrlr"}
    assert here.folder.joinpath("state", "keys").stat().st_mode & 0o777 == 0o700
    assert len(await keyring(here)) == 2
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert key_files(here) == {}
    assert await keyring(here) == []
    await daemon.halt()


async def test_a_target_proves_who_it_is_to_the_export(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False, hosts=[])
    assert set(key_files(here)) == {"base", "base-ctrlr", "target", "target-ctrlr"}
    told = await daemon.call("bdev_ftl_get_hosts", name="ftl0")
    assert told["controllers"][0]["authentication"].endswith("both ways")
    export, (target,) = (await daemon.device())["export"], told["hosts"]
    with pytest.raises(AuthenticationError):
        await Controller.connect(export["traddr"], export["trsvcid"], export["subnqn"], hostnqn=target["nqn"])
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert key_files(here) == {}
    assert await keyring(here) == []
    await daemon.halt()


async def test_an_export_that_is_not_the_daemons_is_not_believed(here: World) -> None:
    """Whoever takes the port of a daemon that is gone lacks the key with which it would prove that it is the FTL."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False, hosts=[])
    (attached,) = here.target.nvme.controllers.values()
    device = daemon.managed()
    target = device.admission.allowed.target
    assert target is not None
    # As such a process would have it: it lets everybody in, and asks for nothing.
    device.admission.allowed.set_keys(target.nqn, None)
    with pytest.raises(AuthenticationError, match="does not support authentication"):
        await attached.connect()
    device.admission.allowed.set_keys(target.nqn, target.keys)
    again = await attached.connect()
    await again.close()
    await daemon.halt()


async def restarted(here: World, daemon: Daemon) -> Daemon:
    """Killed, in effect: what it left in the target still stands."""
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)
    return await here.start()


async def test_keys_are_fresh_each_time_the_base_is_claimed(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    first = key_files(here)
    assert first["base"] != first["base-ctrlr"]
    daemon = await restarted(here, daemon)
    await daemon.wait_for("online")
    second = key_files(here)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await here.make_drive()
    await daemon.wait_for("online")
    third = key_files(here)
    assert first.keys() == second.keys() == third.keys()
    assert len({*first.values(), *second.values(), *third.values()}) == 6
    await daemon.halt(undo=True)
    assert key_files(here) == {}


async def test_a_base_that_can_not_prove_that_it_is_the_target_is_waited_for(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    stranger = HostKeys(HeldKey(DhchapKey.generate()), HeldKey(DhchapKey.generate()))
    with monkeypatch.context() as patch:
        patch.setattr(SessionKeys, "keys", stranger)
        await here.make_drive()
        device = daemon.managed()
        await until(lambda: "same keys" in device.describe().get("waiting_for", ""))
    await daemon.wait_for("online")
    await daemon.halt()


async def test_a_target_that_can_not_have_keys_is_gone_by_its_name(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    here.line.refused.add("keyring_file_add_key")
    daemon = await here.start()
    with caplog.at_level(logging.WARNING):
        await create(here, daemon, no_attach=False, hosts=[])
    assert "identify each other by NQN alone" in caplog.text
    (target,) = (await daemon.call("bdev_ftl_get_hosts", name="ftl0"))["hosts"]
    assert "dhchap_key" not in target
    assert key_files(here) == {}
    await daemon.halt()


async def test_files_of_ftls_that_nobody_knows_are_removed_at_the_start(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await daemon.halt()
    folder = here.folder / "state" / "keys"
    for name in (f"{uuid4()}.base", f".{uuid4()}.target-ctrlr.new", "README"):
        (folder / name).write_text("x")
    daemon = await here.start()
    assert [path.name for path in folder.iterdir() if path.name == "README" or path.read_text() == "x"] == ["README"]
    await daemon.halt()


def test_there_may_be_no_folder(tmp_path: Path) -> None:
    remove_stray_files(None, ())
    remove_stray_files(tmp_path / "absent", ())


async def test_a_target_that_is_gone_leaves_no_file(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await here.line.close()
    Path(here.line.path).unlink(missing_ok=True)
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    await until(lambda: key_files(here) == {})
    await daemon.halt()


@pytest.mark.parametrize("kind", ["link", "open"])
async def test_keys_are_put_nowhere_where_another_could_read_or_replace_them(here: World, kind: str) -> None:
    elsewhere, folder = here.folder / "elsewhere", here.folder / "keys"
    elsewhere.mkdir(mode=0o700)
    left = elsewhere / f"{uuid4()}.base"
    left.write_text("somebody's")
    if kind == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    keys = SessionKeys(TargetRpc("/nowhere"), folder, uuid4(), "base")
    with pytest.raises(TargetError, match=r"symbolic link|chmod go-w") as refused:
        await keys.share()
    assert "--no-target-keys" in refused.value.message
    remove_stray_files(folder, set())
    assert list(elsewhere.iterdir()) == [left]
