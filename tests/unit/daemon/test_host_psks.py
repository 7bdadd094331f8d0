"""TLS keys: of hosts, from bdev_ftl_create and bdev_ftl_add_host to the next daemon; and of a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError, ParameterError, TargetError, UnsupportedError
from spdk_ftl_py.nvme import tls
from spdk_ftl_py.nvme.auth.key import DhchapKey, write_key_file
from spdk_ftl_py.nvme.auth.psk import Psk, PskFile
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.tls import TlsError
from spdk_ftl_py.nvme.wire import CommandError
from unit.daemon.registry_rig import HOSTNQN, World, connected, create
from unit.nvme.nvme_loop import until

CIPHER = "TLS_AES_128_GCM_SHA256"

needs_tls = pytest.mark.skipif(not _shim.build_info()["tls"], reason="the shim was built without OpenSSL")


def psk_file(folder: Path, name: str = "psk") -> PskFile:
    write_key_file(folder / name, Psk.generate())
    return PskFile(folder / name)


async def in_and_out(here: World, daemon: Any, psk: PskFile | None) -> None:
    controller = await connected(here, daemon, psk=psk)
    await controller.close()


@needs_tls
@pytest.mark.parametrize("how", ["bdev_ftl_create", "bdev_ftl_add_host"])
async def test_a_host_with_a_psk_comes_by_tls_also_to_the_next_daemon(how: str, here: World, tmp_path: Path) -> None:
    psk = psk_file(tmp_path)
    daemon = await here.start()
    if how == "bdev_ftl_create":
        await create(here, daemon, psk=str(psk.path))
    else:
        await create(here, daemon, hosts=[])
        await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN, psk=str(psk.path))
    for again in (False, True):
        controller = await connected(here, daemon, psk=psk)
        told = await daemon.call("bdev_ftl_get_hosts", name="ftl0")
        assert told["hosts"] == [{"nqn": HOSTNQN, "is_target": False, "psk": str(psk.path)}]
        assert [each["tls"] for each in told["controllers"]] == [CIPHER]
        await controller.close()
        with pytest.raises(CommandError):
            await in_and_out(here, daemon, None)
        refused = (await daemon.call("bdev_ftl_get_hosts", name="ftl0"))["refused"]
        assert "hosts with a PSK must use TLS" in refused[-1]["reason"]
        if not again:
            state = daemon.die()
            assert psk.load().format().encode() not in state
            await daemon.halt()
            daemon.put_back(state)
            daemon = await here.start()
            await daemon.wait_for("online")
    # Another key counts at once.
    old = Psk.parse(psk.path.read_text().strip())
    write_key_file(psk.path, Psk.generate())
    await in_and_out(here, daemon, psk)
    write_key_file(tmp_path / "old", old)
    with pytest.raises(TlsError):
        await in_and_out(here, daemon, PskFile(tmp_path / "old"))
    await daemon.halt()


@needs_tls
async def test_a_state_file_that_has_lost_a_psk_lets_nobody_in(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    await create(here, daemon, psk=str(psk_file(tmp_path).path))
    state = json.loads(daemon.die())
    await daemon.halt()
    state["devices"][0]["allowed"]["hosts"][0]["psk"] = None
    daemon.put_back(json.dumps(state).encode())
    daemon = await here.start()
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


@needs_tls
@pytest.mark.parametrize("param", ["psk", "target_psk"])
async def test_a_psk_that_can_not_be_used_is_refused_at_once(param: str, here: World, tmp_path: Path) -> None:
    psk_file(tmp_path, "open").path.chmod(0o644)
    write_key_file(tmp_path / "chap", DhchapKey.generate())
    daemon = await here.start()
    for name, wrong in (("open", "mode 0644"), ("absent", "No such file"), ("chap", "not of the form NVMeTLSkey-1")):
        with pytest.raises(ParameterError, match=wrong):
            await create(here, daemon, **{param: str(tmp_path / name)})
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


@needs_tls
async def test_a_psk_of_no_host_is_refused(here: World, tmp_path: Path) -> None:
    daemon = await here.start()
    with pytest.raises(FtlError, match="given with --host"):
        await create(here, daemon, hosts=[], psk=str(psk_file(tmp_path).path))
    await daemon.halt()


@needs_tls
async def test_a_secure_channel_is_for_all_but_the_target(here: World, tmp_path: Path) -> None:
    psk = psk_file(tmp_path)
    daemon = await here.start()
    await create(here, daemon, no_attach=False, secure_channel=True, allow_any_host=True, hosts=[])
    assert (await daemon.device())["secure_channel"] is True
    with pytest.raises(CommandError):
        await in_and_out(here, daemon, None)
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN, psk=str(psk.path))
    await in_and_out(here, daemon, psk)
    told = await daemon.call("bdev_ftl_get_hosts", name="ftl0")
    assert told["controllers"][0]["tls"] is None
    assert "which is required here" in told["refused"][0]["reason"]
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()


# --- the target -------------------------------------------------------------------------------------------------------


async def keyring(here: World) -> list[str]:
    return sorted(entry["name"] for entry in await here.rpc("keyring_get_keys"))


@needs_tls
async def test_a_target_and_the_daemon_speak_tls_both_ways(here: World, tmp_path: Path) -> None:
    """Base and bdev; and again behind a daemon that died, when its subsystem still stands."""
    psk = psk_file(tmp_path)
    daemon = await here.start()
    await create(here, daemon, no_attach=False, hosts=[], target_psk=str(psk.path))
    for again in (False, True):
        assert (await daemon.device())["base_tls"] == CIPHER
        device = daemon.managed()
        await until(lambda: [each["tls"] for each in device.tell_hosts()["controllers"]] == [CIPHER])  # noqa: B023
        (base,) = [each for each in await here.rpc("nvmf_get_subsystems") if ":base:" in each["nqn"]]
        (address,) = base["listen_addresses"]
        with pytest.raises(FtlError):
            await Controller.connect(
                address["traddr"], address["trsvcid"], base["nqn"], hostnqn=base["hosts"][0]["nqn"]
            )
        if not again:
            state = daemon.die()
            await daemon.halt()
            daemon.put_back(state)
            daemon = await here.start()
            await daemon.wait_for("online")
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await keyring(here) == []
    assert psk.path.exists()
    await daemon.halt()


@needs_tls
async def test_a_target_that_has_not_the_psk_is_not_used_without(here: World, tmp_path: Path) -> None:
    psk = psk_file(tmp_path)
    daemon = await here.start()
    here.line.refused.add("keyring_file_add_key")
    with pytest.raises(TargetError, match=r"can't use the TLS key .*on the target's machine"):
        await create(here, daemon, target_psk=str(psk.path))
    here.line.refused.clear()
    assert [each for each in await here.rpc("nvmf_get_subsystems") if ":base:" in each["nqn"]] == []
    await daemon.halt()


async def test_without_openssl_a_creation_that_asks_for_tls_is_refused(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = _shim.build_info() | {"tls": ""}
    monkeypatch.setattr(tls._shim, "build_info", lambda: build)
    path = str(psk_file(tmp_path).path)
    daemon = await here.start()
    for params in ({"secure_channel": True}, {"psk": path}, {"target_psk": path}):
        with pytest.raises(UnsupportedError, match="apt-get install libssl-dev"):
            await create(here, daemon, **params)
    await create(here, daemon)
    with pytest.raises(UnsupportedError, match="apt-get install libssl-dev"):
        await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN + "2", psk=path)
    await daemon.halt()
