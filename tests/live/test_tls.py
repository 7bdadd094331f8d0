"""TLS 1.3 with PSKs and a real spdk_tgt: its initiator at our export, our host at its secure channel, and a daemon and
its target with --target-psk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from spdk.rpc.client import JSONRPCException

from live.spdk_target import SpdkTarget
from spdk_ftl_py import _shim
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import FtlError, ProtocolError
from spdk_ftl_py.nvme.auth.key import DhchapKey, HostKeys, KeyFile, write_key_file
from spdk_ftl_py.nvme.auth.messages import HashId
from spdk_ftl_py.nvme.auth.psk import Psk, PskFile
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.connection_log import ConnectionLog
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.drive import write_and_verify
from support.processes import free_port
from support.system import Daemon
from unit.nvme.nvme_loop import io

HOSTNQN = "nqn.2026-11.io.example:host"
SUBNQN = "nqn.2026-11.io.example:ours"
THEIRS = "nqn.2026-11.io.example:theirs"
CONCAT = "nqn.2026-11.io.example:concat"
MALLOC_BLOCKS = 96 * 256
FORMS = {
    "01": (HashId.SHA256, True),
    "02": (HashId.SHA384, True),
    "00 of 32 bytes": (HashId.SHA256, False),
    "00 of 48 bytes": (HashId.SHA384, False),
}

pytestmark = pytest.mark.skipif(not _shim.build_info()["tls"], reason="the shim was built without OpenSSL")


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def psk(request: pytest.FixtureRequest, spdk_target: SpdkTarget, folder: Path) -> PskFile:
    """In the target's keyring under this name; "wrong" is another."""
    hash_id, bound = request.param
    for name in ("psk", "wrong"):
        made = Psk.generate(hash_id)
        write_key_file(folder / name, made if bound else Psk(made.secret))
        spdk_target.call("keyring_file_add_key", name=name, path=str(folder / name))
    return PskFile(folder / "psk")


def attach(target: SpdkTarget, port: int, **names: str) -> list[str]:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port), "subnqn": SUBNQN}
    names_of_bdevs: list[str] = target.call(
        "bdev_nvme_attach_controller", name="Ours", hostnqn=HOSTNQN, **address, **names
    )
    return names_of_bdevs


def through(target: SpdkTarget, bdev: str) -> None:
    """Data that are written, flushed, read and compared, by way of that bdev."""
    target.call("bdev_raid_create", name="Concat0", raid_level="concat", strip_size_kb=64, base_bdevs=[bdev])
    port = target.export("Concat0", CONCAT)
    asyncio.run(write_and_verify("127.0.0.1", port, CONCAT, random_writes=500, timeout_s=120))
    target.call("nvmf_delete_subsystem", nqn=CONCAT)
    target.call("bdev_raid_delete", name="Concat0")


@pytest.mark.parametrize("chap", [False, True], ids=["psk", "psk and chap"])
@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
async def test_spdks_initiator_comes_to_our_export_by_tls(
    chap: bool, digests: bool, spdk_target: SpdkTarget, psk: PskFile, folder: Path
) -> None:
    write_key_file(folder / "chap", DhchapKey.generate())
    spdk_target.call("keyring_file_add_key", name="chap", path=str(folder / "chap"))
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    proof: dict[str, Any] = {"dhchap_key": "chap"} if chap else {}
    if digests:
        proof |= {"hdgst": True, "ddgst": True}
    log = ConnectionLog()
    async with ReactorLoop("live") as reactor:
        nvmf = NvmfTarget(reactor, connections=log)
        port = await nvmf.listen("127.0.0.1", 0)
        subsystem = Subsystem(SUBNQN)
        subsystem.add_namespace(_shim.EmulatedMedia.conventional(reactor.shim, 4096))
        subsystem.add_host(HOSTNQN, HostKeys(KeyFile(folder / "chap")) if chap else None, psk)
        subsystem.add_listener("127.0.0.1", port)
        nvmf.add_subsystem(subsystem)
        for refused in ({}, {"psk": "wrong"}):
            with pytest.raises(JSONRPCException, match="Input/output error"):
                await asyncio.to_thread(attach, spdk_target, port, **proof, **refused)
        assert len(log.refusals) == 2
        assert await asyncio.to_thread(attach, spdk_target, port, **proof, psk="psk") == ["Oursn1"]
        (controller,) = subsystem.controllers.values()
        sha384 = psk.load().sha384
        assert controller.describe()["tls"] == ("TLS_AES_256_GCM_SHA384" if sha384 else "TLS_AES_128_GCM_SHA256")
        await asyncio.to_thread(through, spdk_target, "Oursn1")
        assert controller.describe()["errors"] == 0
        await asyncio.to_thread(spdk_target.call, "bdev_nvme_detach_controller", name="Ours")
        await nvmf.close()


async def test_our_host_comes_to_spdks_secure_channel(spdk_target: SpdkTarget, psk: PskFile, folder: Path) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=1024, block_size=4096)
    spdk_target.call("nvmf_create_subsystem", nqn=THEIRS)
    spdk_target.call("nvmf_subsystem_add_ns", nqn=THEIRS, namespace={"bdev_name": "Malloc0"})
    port = free_port()
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    spdk_target.call("nvmf_subsystem_add_listener", nqn=THEIRS, listen_address=address, secure_channel=True)
    spdk_target.call("nvmf_subsystem_add_host", nqn=THEIRS, host=HOSTNQN, psk="psk")

    async def connect(given: PskFile | None) -> Controller:
        return await Controller.connect("127.0.0.1", port, THEIRS, hostnqn=HOSTNQN, psk=given, timeout_s=10)

    for refused in (None, PskFile(folder / "wrong")):
        with pytest.raises((ProtocolError, FtlError)):
            await connect(refused)
    async with ReactorLoop("live") as reactor:
        controller = await connect(psk)
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(reactor, namespace)
        for lba, count in ((3, 1), (64, 32)):
            data, back = os.urandom(4096 * count), bytearray(4096 * count)
            assert await io(reactor, qpair, _shim.Op.WRITE, lba, count, data) == (0, 0)
            assert await io(reactor, qpair, _shim.Op.READ, lba, count, back) == (0, 0)
            assert back == data
        await controller.close()


@pytest.mark.parametrize("hash_id", [HashId.SHA256, HashId.SHA384])
def test_a_daemon_and_its_target_speak_tls_both_ways(hash_id: HashId, spdk_target: SpdkTarget, folder: Path) -> None:
    write_key_file(folder / "psk", Psk.generate(hash_id))
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=MALLOC_BLOCKS, block_size=4096)
    cipher = "TLS_AES_128_GCM_SHA256" if hash_id is HashId.SHA256 else "TLS_AES_256_GCM_SHA384"
    with Daemon(folder) as daemon:
        spdk_target.ftl(
            daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Malloc0", "--zone-capacity", "256", "--num-punits", "2",
            "--target-psk", str(folder / "psk"), "--secure-channel",
        )  # fmt: skip
        client = DaemonClient(daemon.socket)
        (told,) = client.call("ftl_get_devices")
        assert (told["base_tls"], told["secure_channel"], told["attached"]) == (cipher, True, True)
        hosts = client.call("bdev_ftl_get_hosts", {"name": "ftl0"})
        assert [each["tls"] for each in hosts["controllers"]] == [cipher]
        through(spdk_target, "ftl0")
        assert spdk_target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0").strip() == "true"
        assert spdk_target.call("keyring_get_keys") == []
