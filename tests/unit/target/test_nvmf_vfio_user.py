"""Exports over vfio-user, answered as spdk_tgt v26.05 does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.vfio_user_client import PAGE, VfioUserClient
from unit.target.target_box import INVALID, NQN, Box

TRANSPORT = {
    "trtype": "VFIOUSER", "max_queue_depth": 256, "max_io_qpairs_per_ctrlr": 127, "in_capsule_data_size": 0,
    "max_io_size": 131072, "max_aq_depth": 32, "iobuf_small_cache_size": 0, "iobuf_large_cache_size": 0,
    "dif_insert_or_strip": False, "zcopy": False, "abort_timeout_sec": 0, "ack_timeout": 0, "data_wr_pool_size": 0,
    "disable_command_passthru": False, "kas": 100, "min_kato": 10000,
}  # fmt: skip


def address(folder: Path) -> dict[str, str]:
    return {"trtype": "VFIOUSER", "traddr": str(folder), "trsvcid": "0"}


def shown(folder: Path) -> dict[str, str]:
    return {"trtype": "VFIOUSER", "adrfam": "unknown", "traddr": str(folder), "trsvcid": "0"}


async def listen(here: Box, folder: Path, nqn: str = NQN) -> Any:
    return await here.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address(folder))


async def test_the_transport(here: Box) -> None:
    assert await here.refusal("nvmf_get_transports", trtype="VFIOUSER") == (-19, "No such device")
    await here.rpc("nvmf_create_transport", trtype="vfiouser", disable_mappable_bar0=False)
    assert await here.rpc("nvmf_get_transports") == [TRANSPORT]
    assert await here.rpc("nvmf_get_transports", trtype="VFIOUSER") == [TRANSPORT]
    assert await here.refusal("nvmf_create_transport", trtype="VFIOUSER") == (
        -32603,
        "Transport type 'VFIOUSER' already exists",
    )
    await here.rpc("nvmf_create_transport", trtype="TCP")
    assert [each["trtype"] for each in await here.rpc("nvmf_get_transports")] == ["VFIOUSER", "TCP"]


async def test_a_client_attaches_to_a_bdev(here: Box, tmp_path: Path) -> None:
    await here.malloc("M")
    await here.rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    await here.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "M"})
    assert await here.refusal("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(tmp_path)) == INVALID
    await here.rpc("nvmf_create_transport", trtype="VFIOUSER")
    missing = address(tmp_path / "missing")
    assert await here.refusal("nvmf_subsystem_add_listener", nqn=NQN, listen_address=missing) == INVALID
    await listen(here, tmp_path)
    assert await here.refusal("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(tmp_path)) == INVALID
    (subsystem,) = await here.rpc("nvmf_get_subsystems", nqn=NQN)
    assert subsystem["listen_addresses"] == [shown(tmp_path)]
    assert await here.rpc("nvmf_subsystem_get_listeners", nqn=NQN) == [{"address": shown(tmp_path)}]

    def attach() -> VfioUserClient:
        client = VfioUserClient(tmp_path)
        client.enable()
        pair = client.create_queue(1)
        assert client.write(pair, 9, b"9" * PAGE).status == 0
        assert client.read(pair, 9) == b"9" * PAGE
        return client

    client = await asyncio.to_thread(attach)
    (controller,) = await here.rpc("nvmf_subsystem_get_controllers", nqn=NQN)
    assert (controller["cntlid"], controller["num_io_qpairs"]) == (1, 1)
    qpairs = await here.rpc("nvmf_subsystem_get_qpairs", nqn=NQN)
    assert [(each["qid"], each["listen_address"]) for each in qpairs] == [(0, shown(tmp_path)), (1, shown(tmp_path))]
    await here.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address(tmp_path))
    assert await here.rpc("nvmf_subsystem_get_controllers", nqn=NQN) == []
    assert not list(tmp_path.iterdir())
    client.close()
    await listen(here, tmp_path)
    await here.rpc("nvmf_delete_subsystem", nqn=NQN)
    assert not list(tmp_path.iterdir())


async def test_what_is_saved_can_be_loaded(here: Box, tmp_path: Path) -> None:
    await here.rpc("nvmf_create_transport", trtype="VFIOUSER")
    await here.rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    await listen(here, tmp_path)
    saved = here.target.nvmf.saved()
    await here.rpc("nvmf_delete_subsystem", nqn=NQN)
    for call in saved[1:]:
        assert await here.rpc(call["method"], **call["params"]) is True
    assert here.target.nvmf.saved() == saved
