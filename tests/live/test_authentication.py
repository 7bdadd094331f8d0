"""DH-HMAC-CHAP with a real spdk_tgt: its initiator at our export, our host at its export of the base, both ways."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from spdk.rpc.client import JSONRPCException

from live.spdk_target import SpdkTarget
from spdk_ftl_py import _shim
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import AuthenticationError, FtlError
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys, KeyFile, write_key_file
from spdk_ftl_py.nvme.auth.messages import DhGroup, HashId
from spdk_ftl_py.nvme.auth.response import Policy
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.drive import write_and_verify
from support.system import Daemon

HOSTNQN = "nqn.2026-11.io.example:host"
SUBNQN = "nqn.2026-11.io.example:ours"
THEIRS = "nqn.2026-11.io.example:theirs"
CONCAT = "nqn.2026-11.io.example:concat"
MALLOC_BLOCKS = 96 * 256
BACK_TIMEOUT_MS = 60_000


@pytest.fixture
def keys(spdk_target: SpdkTarget, folder: Path) -> HostKeys:
    """Of the host and of the controller, and in the target's keyring under these names; "wrong" is another."""
    for name in ("host", "ctrlr", "wrong"):
        write_key_file(folder / name, DhchapKey.generate())
        spdk_target.call("keyring_file_add_key", name=name, path=str(folder / name))
    return HostKeys(KeyFile(folder / "host"), KeyFile(folder / "ctrlr"))


def attach(target: SpdkTarget, port: int, **names: str) -> list[str]:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port), "subnqn": SUBNQN}
    names_of_bdevs: list[str] = target.call(
        "bdev_nvme_attach_controller", name="Ours", hostnqn=HOSTNQN, **address, **names
    )
    return names_of_bdevs


@pytest.mark.parametrize("hash_id", HashId)
async def test_spdks_initiator_proves_itself_to_our_export_and_wants_our_proof(
    hash_id: HashId, spdk_target: SpdkTarget, keys: HostKeys
) -> None:
    async with ReactorLoop("live") as reactor:
        for group in DhGroup:
            await initiate(reactor, Policy((hash_id,), (group,)), spdk_target, keys)


async def initiate(reactor: ReactorLoop, policy: Policy, target: SpdkTarget, keys: HostKeys) -> None:
    (hash_id,), (group,) = policy.hash_ids, policy.dh_groups
    nvmf = NvmfTarget(reactor, authentication=policy)
    port = await nvmf.listen("127.0.0.1", 0)
    subsystem = Subsystem(SUBNQN)
    subsystem.add_namespace(_shim.EmulatedMedia.conventional(reactor.shim, 1024))
    subsystem.add_host(HOSTNQN, keys)
    subsystem.add_listener("127.0.0.1", port)
    nvmf.add_subsystem(subsystem)
    for refused in ({}, {"dhchap_key": "wrong"}, {"dhchap_key": "host", "dhchap_ctrlr_key": "wrong"}):
        with pytest.raises(JSONRPCException, match="Input/output error"):
            await asyncio.to_thread(attach, target, port, **refused)
    for names in ({"dhchap_key": "host"}, {"dhchap_key": "host", "dhchap_ctrlr_key": "ctrlr"}):
        assert await asyncio.to_thread(attach, target, port, **names) == ["Oursn1"]
        (controller,) = subsystem.controllers.values()
        assert controller.authenticated
        proof: str = controller.describe()["authentication"]
        assert proof == f"{hash_id.name.lower()}, {group.name.lower()}, {('one way', 'both ways')[len(names) - 1]}"
        # It may prove itself again, as it does when its user gives it another key.
        assert await asyncio.to_thread(target.call, "bdev_nvme_set_keys", name="Ours", **names)
        await asyncio.to_thread(target.call, "bdev_nvme_detach_controller", name="Ours")
    await nvmf.close()


async def test_our_host_proves_itself_to_spdks_target_and_wants_its_proof(
    spdk_target: SpdkTarget, keys: HostKeys
) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_null_create", name="Null0", num_blocks=1024, block_size=4096)
    spdk_target.call("nvmf_create_subsystem", nqn=THEIRS)
    spdk_target.call("nvmf_subsystem_add_ns", nqn=THEIRS, namespace={"bdev_name": "Null0"})
    spdk_target.call("nvmf_subsystem_add_host", nqn=THEIRS, host=HOSTNQN, dhchap_key="host", dhchap_ctrlr_key="ctrlr")
    port = spdk_target.listen(THEIRS)
    wrong = HeldKey(DhchapKey.generate())

    async def connect(given: HostKeys | None, policy: Policy | None = None) -> None:
        controller = await Controller.connect("127.0.0.1", port, THEIRS, hostnqn=HOSTNQN, keys=given, policy=policy)
        try:
            (namespace,) = await controller.namespaces()
            await controller.create_io_qpair(reactor, namespace)
        finally:
            await controller.close()

    async with ReactorLoop("live") as reactor:
        for refused in (None, HostKeys(wrong), HostKeys(keys.key, wrong)):
            with pytest.raises(AuthenticationError):
                await connect(refused)
        for hash_id in HashId:
            for group in DhGroup:
                await connect(HostKeys(keys.key), Policy((hash_id,), (group,)))
                await connect(keys, Policy((hash_id,), (group,)))
        spdk_target.call("nvmf_subsystem_remove_host", nqn=THEIRS, host=HOSTNQN)
        spdk_target.call("nvmf_subsystem_add_host", nqn=THEIRS, host=HOSTNQN)
        # It asks for nothing, and so nothing is proved by it.
        await connect(HostKeys(keys.key))
        with pytest.raises(AuthenticationError):
            await connect(keys)


# --- the daemon ------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(spdk_target: SpdkTarget) -> SpdkTarget:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=MALLOC_BLOCKS, block_size=4096)
    return spdk_target


def create(target: SpdkTarget, daemon: Daemon) -> dict[str, Any]:
    target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Malloc0", "--zone-capacity", "256", "--num-punits", "2")
    return device(daemon)


def device(daemon: Daemon) -> dict[str, Any]:
    (told,) = DaemonClient(daemon.socket).call("ftl_get_devices")
    return dict(told)


def proofs(daemon: Daemon) -> list[str]:
    told = DaemonClient(daemon.socket).call("bdev_ftl_get_hosts", {"name": "ftl0"})
    return [each["authentication"] for each in told["controllers"]]


def key_files(folder: Path) -> dict[str, str]:
    return {path.name.partition(".")[2]: path.read_text() for path in (folder / "state" / "keys").iterdir()}


async def refusal(traddr: str, trsvcid: str, subnqn: str, hostnqn: str) -> str:
    try:
        controller = await Controller.connect(traddr, trsvcid, subnqn, hostnqn=hostnqn)
    except FtlError as error:
        return error.message
    await controller.close()
    return ""


def through_ftl0(target: SpdkTarget) -> None:
    target.call("bdev_raid_create", name="Concat0", raid_level="concat", strip_size_kb=64, base_bdevs=["ftl0"])
    port = target.export("Concat0", CONCAT)
    asyncio.run(write_and_verify("127.0.0.1", port, CONCAT, random_writes=500, timeout_s=120))
    target.call("nvmf_delete_subsystem", nqn=CONCAT)
    target.call("bdev_raid_delete", name="Concat0")


def test_daemon_and_target_know_each_other_by_keys(base: SpdkTarget, folder: Path) -> None:
    with Daemon(folder) as daemon:
        told = create(base, daemon)
        assert told["attached"]
        assert proofs(daemon) == ["sha256, ffdhe3072, both ways"]
        through_ftl0(base)
        first = key_files(folder)
        assert set(first) == {"base", "base-ctrlr", "target", "target-ctrlr"}
        (raw,) = [each for each in base.call("nvmf_get_subsystems") if ":base:" in each["nqn"]]
        (qpair, *_) = base.call("nvmf_subsystem_get_qpairs", nqn=raw["nqn"])
        assert qpair["auth"]["state"] == "completed"
        address = raw["listen_addresses"][0]
        name = raw["hosts"][0]["nqn"]
        assert "authentication" in asyncio.run(refusal(address["traddr"], address["trsvcid"], raw["nqn"], name))
        (target_host,) = DaemonClient(daemon.socket).call("bdev_ftl_get_hosts", {"name": "ftl0"})["hosts"]
        export = told["export"]
        stranger = refusal(export["traddr"], export["trsvcid"], export["subnqn"], target_host["nqn"])
        assert "authentication" in asyncio.run(stranger)
        daemon.kill()
    with Daemon(folder) as daemon:
        base.call("bdev_wait_for_examine")
        DaemonClient(daemon.socket).call("ftl_get_devices")
        wait_until_attached(daemon)
        second = key_files(folder)
        # The base has new ones; what is attached still stands, with those it has.
        assert second["base"] != first["base"]
        assert second["target"] == first["target"]
        assert proofs(daemon) == ["sha256, ffdhe3072, both ways"]
        through_ftl0(base)
        assert base.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0").strip() == "true"
        assert key_files(folder) == {}
        assert base.call("keyring_get_keys") == []


def wait_until_attached(daemon: Daemon) -> None:
    async def wait() -> None:
        while True:
            told = await asyncio.to_thread(device, daemon)
            there = await asyncio.to_thread(proofs, daemon)
            # The target tries again once a second.
            if told["state"] == "online" and told["attached"] and there not in ([], ["not yet"]):
                return
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(wait(), BACK_TIMEOUT_MS / 1000))


def test_without_target_keys_the_two_go_by_names(base: SpdkTarget, folder: Path) -> None:
    with Daemon(folder, "--no-target-keys") as daemon:
        assert create(base, daemon)["attached"]
        assert proofs(daemon) == [None]
        assert base.call("keyring_get_keys") == []
        base.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
