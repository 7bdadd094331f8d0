"""bdev_nvme_attach_controller -t VFIOUSER, and ftltgt_bench_bdev on what it attaches."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from typing import Any
from uuid import UUID

from unit.target.target_box import NQN, Box

OTHER = UUID("2b1f0c4e-6f0b-4a52-8a3e-0c1f9d6f8a11")


async def serve(here: Box, directory: str, bdev: str) -> None:
    await here.rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    # In the same target: a bdev with the UUID of another is not registered.
    other = {"uuid": str(OTHER), "nguid": OTHER.hex.upper()}
    await here.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev, **other})
    await here.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(directory))


def address(directory: str) -> dict[str, str]:
    return {"trtype": "VFIOUSER", "traddr": directory, "trsvcid": "0"}


def path(directory: str) -> dict[str, str]:
    return {"trtype": "VFIOUSER", "traddr": directory, "subnqn": NQN}


async def bench(here: Box, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = await here.rpc("ftltgt_bench_bdev", **params)
    assert (result["io_errors"], result["verify_errors"]) == (0, 0)
    assert result["ios"] > 0 < result["latency_us"]["p9999"]
    return result


async def test_a_controller_is_attached_by_shared_memory_and_takes_load(here: Box) -> None:
    with tempfile.TemporaryDirectory(prefix="vfu-", dir="/dev/shm") as folder:
        directory = folder
        await here.malloc("M0", 256)
        await here.rpc("nvmf_create_transport", trtype="VFIOUSER")
        await serve(here, directory, "M0")
        assert await here.rpc("bdev_nvme_attach_controller", name="N", **path(directory)) == ["Nn1"]
        (controller,) = await here.rpc("bdev_nvme_get_controllers")
        assert controller["ctrlrs"][0]["trid"] == path(directory)
        assert controller["ctrlrs"][0]["state"] == "enabled"
        written = await bench(here, name="Nn1", rw="write", pattern="sequential", io_size=131072, queue_depth=4)
        assert written["blocks"] == 32 * written["ios"]
        await bench(here, name="Nn1", rw="read", queue_depth=8, verify=True)
        saved = await here.rpc("framework_get_config", name="bdev")
        attach = next(each["params"] for each in saved if each["method"] == "bdev_nvme_attach_controller")
        assert {name: attach[name] for name in path(directory)} == path(directory)
        assert await here.rpc("bdev_nvme_detach_controller", name="N") is True
        assert "Nn1" not in await here.names()


async def test_a_controller_that_is_served_again_comes_back(here: Box) -> None:
    with tempfile.TemporaryDirectory(prefix="vfu-", dir="/dev/shm") as folder:
        directory = folder
        await here.malloc("M0", 256)
        await here.rpc("nvmf_create_transport", trtype="VFIOUSER")
        await serve(here, directory, "M0")
        await here.rpc(
            "bdev_nvme_attach_controller", name="N", ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1, **path(directory)
        )
        listener = {"nqn": NQN, "listen_address": address(directory)}
        await here.rpc("nvmf_subsystem_remove_listener", **listener)
        load = asyncio.ensure_future(bench(here, name="Nn1", seconds=2))
        await asyncio.sleep(0)
        await here.rpc("nvmf_subsystem_add_listener", **listener)
        await load
        await here.rpc("bdev_nvme_detach_controller", name="N")


async def test_what_load_is_refused(here: Box) -> None:
    await here.malloc("M0", 256)
    await here.zns("Z0")
    code, message = await here.refusal("ftltgt_bench_bdev", name="nothing")
    assert (code, message) == (-errno.ENODEV, "there is no bdev nothing")
    assert "zoned" in (await here.refusal("ftltgt_bench_bdev", name="Z0", rw="write"))[1]
    assert "multiple of 4096" in (await here.refusal("ftltgt_bench_bdev", name="M0", io_size=5000))[1]
    assert "between 1 and" in (await here.refusal("ftltgt_bench_bdev", name="M0", queue_depth=0))[1]
    await here.rpc("bdev_passthru_create", base_bdev_name="M0", name="P0")
    assert "claimed" in (await here.refusal("ftltgt_bench_bdev", name="M0", rw="write"))[1]
    await bench(here, name="M0")


async def test_nothing_is_attached_where_nobody_serves(here: Box) -> None:
    with tempfile.TemporaryDirectory(prefix="vfu-") as folder:
        refused = await here.refusal("bdev_nvme_attach_controller", name="N", **path(folder))
        assert refused[0] == -errno.EIO
        assert await here.rpc("bdev_nvme_get_controllers") == []
