"""Keys of hosts, from bdev_ftl_create and bdev_ftl_add_host to the next daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.errors import AuthenticationError, FtlError, ParameterError
from spdk_ftl_py.nvme.auth.key import DhchapKey, HostKeys, KeyFile, write_key_file
from unit.daemon.registry_rig import HOSTNQN, World, connected, create
from unit.nvme.nvme_loop import At


def key_files(folder: Path) -> tuple[dict[str, str], HostKeys]:
    """(parameters, what a host that has them has)."""
    paths = {name: folder / name for name in ("dhchap_key", "dhchap_ctrlr_key")}
    for path in paths.values():
        write_key_file(path, DhchapKey.generate())
    return {name: str(path) for name, path in paths.items()}, HostKeys(*(KeyFile(path) for path in paths.values()))


async def in_and_out(here: World, daemon: Any, keys: HostKeys | None) -> None:
    controller = await connected(here, daemon, keys=keys)
    await controller.close()


@pytest.mark.parametrize("how", ["bdev_ftl_create", "bdev_ftl_add_host"])
async def test_a_host_with_a_key_proves_who_it_is(how: str, here: World, tmp_path: Path) -> None:
    params, keys = key_files(tmp_path)
    daemon = await here.start()
    if how == "bdev_ftl_create":
        await create(here, daemon, **params)
    else:
        await create(here, daemon, hosts=[])
        await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN, **params)
    await in_and_out(here, daemon, keys)
    with pytest.raises(AuthenticationError):
        await in_and_out(here, daemon, None)
    hosts = (await daemon.call("bdev_ftl_get_hosts", name="ftl0"))["hosts"]
    assert hosts == [{"nqn": HOSTNQN, "is_target": False, **params}]
    # Others are not let in because this one has a key, and it does not lose it.
    await daemon.call("bdev_ftl_allow_any_host", name="ftl0", allow_any_host=True)
    with pytest.raises(AuthenticationError):
        await in_and_out(here, daemon, None)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()


async def test_who_has_not_proved_himself_is_not_there(here: World, tmp_path: Path) -> None:
    """So nobody keeps an honest host in the list of those who are owed an alarm, with its name alone."""
    params, keys = key_files(tmp_path)
    daemon = await here.start()
    await create(here, daemon, **params)
    export, front = (await daemon.device())["export"], daemon.managed().front
    stranger = await At(int(export["trsvcid"]), export["traddr"]).raw()
    await stranger.initialize()
    assert (await stranger.connect(hostnqn=HOSTNQN, subnqn=export["subnqn"])).status == 0
    assert front.present == set()
    controller = await connected(here, daemon, keys=keys)
    assert [host.hostid for host in front.present] == [controller.hostid.bytes]
    await controller.close()
    stranger.close()
    await daemon.halt()


async def test_the_next_daemon_asks_for_the_proof_too(here: World, tmp_path: Path) -> None:
    params, keys = key_files(tmp_path)
    daemon = await here.start()
    await create(here, daemon, **params)
    secret = KeyFile(Path(params["dhchap_key"])).load().format()
    state = daemon.die()
    assert secret.encode() not in state
    await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()
    await daemon.wait_for("online")
    with pytest.raises(AuthenticationError):
        await in_and_out(here, daemon, None)
    await in_and_out(here, daemon, keys)
    write_key_file(Path(params["dhchap_key"]), DhchapKey.generate())
    await in_and_out(here, daemon, keys)
    await daemon.halt()


async def test_a_state_file_that_has_lost_a_key_lets_nobody_in(here: World, tmp_path: Path) -> None:
    params, _ = key_files(tmp_path)
    daemon = await here.start()
    await create(here, daemon, **params)
    state = json.loads(daemon.die())
    await daemon.halt()
    state["devices"][0]["allowed"]["hosts"][0]["dhchap_key"] = None
    daemon.put_back(json.dumps(state).encode())
    daemon = await here.start()
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


@pytest.mark.parametrize("how", ["bdev_ftl_create", "bdev_ftl_add_host"])
async def test_a_key_that_can_not_be_used_is_refused_at_once(how: str, here: World, tmp_path: Path) -> None:
    params, _ = key_files(tmp_path)
    (tmp_path / "dhchap_ctrlr_key").chmod(0o644)
    daemon = await here.start()

    async def order(**keys: str) -> None:
        if how == "bdev_ftl_create":
            await create(here, daemon, **keys)
        else:
            await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN + "2", **keys)

    if how == "bdev_ftl_add_host":
        await create(here, daemon)
    for keys, wrong in (
        (params, "mode 0644"),
        ({"dhchap_key": str(tmp_path / "absent")}, "No such file"),
        ({"dhchap_ctrlr_key": params["dhchap_key"]}, "give dhchap_key too"),
        ({"dhchap_key": "relative"}, "absolute path"),
    ):
        with pytest.raises(ParameterError, match=wrong):
            await order(**keys)
    told = await daemon.call("ftl_get_devices")
    assert len(told) == (0 if how == "bdev_ftl_create" else 1)
    await daemon.halt()


async def test_a_key_of_no_host_is_refused(here: World, tmp_path: Path) -> None:
    params, _ = key_files(tmp_path)
    daemon = await here.start()
    with pytest.raises(FtlError, match="given with --host"):
        await create(here, daemon, hosts=[], **params)
    await daemon.halt()
