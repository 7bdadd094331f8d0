"""Keys of the embedded target: its exports ask for them, and what it attaches gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import AuthenticationError
from spdk_ftl_py.nvme.auth.key import DhchapKey, HostKeys, KeyFile, write_key_file
from spdk_ftl_py.nvme.auth.psk import Psk
from support.ports import free_port
from unit.target.target_box import HOSTNQN, INVALID, NQN, Box, box

INTERNAL = (-32603, "Internal error")
NO_KEY = (-126, "Required key not available")
IO_ERROR = (-5, "Input/output error")
NAMES = {"dhchap_key": "host", "dhchap_ctrlr_key": "ctrlr"}


@pytest.fixture
def keys(tmp_path: Path) -> HostKeys:
    for name in ("host", "ctrlr", "wrong"):
        write_key_file(tmp_path / name, DhchapKey.generate())
    return HostKeys(KeyFile(tmp_path / "host"), KeyFile(tmp_path / "ctrlr"))


async def add_keys(here: Box, folder: Path) -> None:
    for name in ("host", "ctrlr", "wrong"):
        assert await here.rpc("keyring_file_add_key", name=name, path=str(folder / name)) is True


async def test_a_key_has_a_name_until_it_is_removed(here: Box, tmp_path: Path, keys: HostKeys) -> None:
    await add_keys(here, tmp_path)
    listed = await here.rpc("keyring_get_keys")
    assert [(each["name"], each["path"]) for each in listed] == [
        (name, str(tmp_path / name)) for name in ("host", "ctrlr", "wrong")
    ]
    again = {"name": "host", "path": str(tmp_path / "host")}
    assert await here.refusal("keyring_file_add_key", **again) == (-17, "File exists")
    assert await here.rpc("keyring_file_remove_key", name="host") is True
    assert await here.refusal("keyring_file_remove_key", name="host") == NO_KEY
    assert await here.rpc("keyring_file_add_key", **again) is True
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    for path, refusal in (
        ("host", (-1, "Operation not permitted")),
        (str(tmp_path / "absent"), (-2, "No such file or directory")),
        (str(tmp_path / "open"), (-1, "Operation not permitted")),
    ):
        assert await here.refusal("keyring_file_add_key", name="x", path=path) == refusal


async def test_an_export_asks_for_the_proof_and_gives_its_own(here: Box, tmp_path: Path, keys: HostKeys) -> None:
    await add_keys(here, tmp_path)
    await here.malloc("M0")
    address = await here.subsystem(NQN, "M0")
    await here.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
    host = {"nqn": NQN, "host": HOSTNQN}
    for names, refusal in (
        ({"dhchap_key": "x"}, INVALID),
        ({"dhchap_key": "host", "dhchap_ctrlr_key": "x"}, INVALID),
        ({"dhchap_ctrlr_key": "ctrlr"}, INTERNAL),
        ({"psk": "x"}, INVALID),
        ({"psk": "host"}, INTERNAL),
    ):
        assert await here.refusal("nvmf_subsystem_add_host", **host, **names) == refusal
    assert await here.rpc("nvmf_subsystem_add_host", **host, **NAMES) is True
    (told,) = await here.rpc("nvmf_get_subsystems", nqn=NQN)
    assert told["hosts"] == [{"nqn": HOSTNQN, **NAMES}]
    with pytest.raises(AuthenticationError):
        await here.connect(address)
    await (await here.connect(address, keys=keys)).close()
    # Its name alone is no use to whoever has it still.
    await here.rpc("keyring_file_remove_key", name="host")
    await here.rpc("keyring_file_add_key", name="host", path=str(tmp_path / "host"))
    with pytest.raises(AuthenticationError):
        await here.connect(address, keys=keys)


async def test_what_is_attached_proves_itself(tmp_path: Path, keys: HostKeys) -> None:
    async with box() as base, box() as here:
        await add_keys(base, tmp_path)
        await add_keys(here, tmp_path)
        await base.malloc("M0")
        address = await base.subsystem(NQN, "M0")
        await base.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
        await base.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOSTNQN, **NAMES)
        attach = {"name": "X", "subnqn": NQN, "hostnqn": HOSTNQN, **address}
        for names, refusal in (
            ({}, IO_ERROR),
            ({"dhchap_key": "wrong"}, IO_ERROR),
            ({"dhchap_key": "host", "dhchap_ctrlr_key": "wrong"}, IO_ERROR),
            ({"dhchap_key": "x"}, NO_KEY),
            ({"psk": "x"}, NO_KEY),
            ({"psk": "host"}, (-22, "Invalid argument")),
        ):
            assert await here.refusal("bdev_nvme_attach_controller", **attach, **names) == refusal
        assert await here.rpc("bdev_nvme_attach_controller", **attach, **NAMES) == ["Xn1"]


@pytest.mark.skipif(not _shim.build_info()["tls"], reason="the shim was built without OpenSSL")
async def test_a_secure_channel_goes_by_tls(tmp_path: Path) -> None:
    async with box() as base, box() as here:
        for name in ("psk", "wrong"):
            write_key_file(tmp_path / name, Psk.generate())
            for each in (base, here):
                await each.rpc("keyring_file_add_key", name=name, path=str(tmp_path / name))
        await base.malloc("M0")
        address = await base.subsystem(NQN, "M0")
        listener = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(free_port())}
        secure = {"nqn": NQN, "listen_address": listener, "secure_channel": True}
        refused = await base.refusal("nvmf_subsystem_add_listener", **secure)
        assert refused == (-32603, "Cannot establish secure channel, when 'allow_any_host' is set")
        await base.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
        await base.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address)
        await base.rpc("nvmf_subsystem_add_listener", **secure)
        await base.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOSTNQN, psk="psk")
        attach = {"name": "X", "subnqn": NQN, "hostnqn": HOSTNQN, **listener}
        for names in ({}, {"psk": "wrong"}):
            assert await here.refusal("bdev_nvme_attach_controller", **attach, **names) == IO_ERROR
        assert await here.rpc("bdev_nvme_attach_controller", **attach, psk="psk") == ["Xn1"]
        saved = await base.rpc("framework_get_config", name="nvmf")
        assert [call["params"] for call in saved if call["method"] == "nvmf_subsystem_add_listener"] == [secure]


async def test_a_configuration_has_keys_before_what_needs_them(tmp_path: Path, keys: HostKeys) -> None:
    async with box() as here:
        await add_keys(here, tmp_path)
        await here.subsystem(NQN)
        await here.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOSTNQN, **NAMES)
        saved = []
        for subsystem in await here.rpc("framework_get_subsystems"):
            saved += await here.rpc("framework_get_config", name=subsystem["subsystem"])
    async with box() as again:
        for call in saved:
            await again.rpc(call["method"], **call.get("params", {}))
        (told,) = await again.rpc("nvmf_get_subsystems", nqn=NQN)
        assert told["hosts"] == [{"nqn": HOSTNQN, **NAMES}]
        assert len(await again.rpc("keyring_get_keys")) == 3
