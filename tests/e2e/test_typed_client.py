"""What a daemon really answers has the types that results.py says, whichever client asks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from spdk_ftl_py import AsyncDaemonClient, Controller, DaemonClient, NvmeStatusError, results, schema
from support.generators import generator
from support.typed_values import mismatches

HOST: Final = "nqn.2026-11.com.example:host"
CACHE: Final = "name=C0,size=64M"
TYPES: Final = {
    method: eval(rpc.type, {**vars(results), "bool": bool, "str": str})
    for method, rpc in generator("generate_client").RPCS.items()
}


class Checked:
    """A client whose results are compared with what they are said to be."""

    def __init__(self, kind: type[DaemonClient | AsyncDaemonClient], socket: Path | str) -> None:
        self._client: Any = kind(socket)
        self.called: set[str] = set()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def run(**params: Any) -> Any:
            result = getattr(self._client, method)(**params)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            assert mismatches(result, TYPES[method], method) == []
            self.called.add(method)
            return result

        return run


async def come_and_go(export: results.Export) -> None:
    """A host that is let in, stays for a moment and leaves, and one that is not."""
    where = export["traddr"], export["trsvcid"], export["subnqn"]
    async with await Controller.connect(*where, hostnqn=HOST):
        pass
    with pytest.raises(NvmeStatusError):
        await Controller.connect(*where, hostnqn=f"{HOST}-2")


def live(world: FtlWorld, daemon: Checked) -> None:
    target = Path(world.target.socket)
    assert daemon.ftl_get_devices() == []
    assert daemon.bdev_ftl_scan(target=target)["bdevs"]
    ftl = daemon.bdev_ftl_create(name="ftl0", base_bdev="Nvme0n1", target=target, overprovisioning=30, hosts=[HOST])
    uuid = UUID(ftl["uuid"])
    later = daemon.bdev_ftl_create(name="ftl1", base_bdev="Nowhere0", target=target)
    assert later == {"name": "ftl1", "state": "deferred", "waiting_for": "base bdev Nowhere0"}
    again = {"base_bdev": "Nvme0n1", "target": target, "if_absent": True}
    assert daemon.bdev_ftl_create(name="ftl0", wait=0, **again)["changed"] is False
    daemon.bdev_ftl_scan(target=target)

    devices = {device["name"]: device for device in daemon.ftl_get_devices(target=target)}
    assert (devices["ftl0"]["state"], devices["ftl1"]["state"]) == ("online", "deferred")
    asyncio.run(come_and_go(devices["ftl0"]["export"]))
    hosts = daemon.bdev_ftl_get_hosts(name="ftl0")
    assert hosts["controllers"]
    assert hosts["refused"]
    assert hosts["disconnected"]

    for name in devices:
        daemon.bdev_ftl_get_properties(name=name)
    daemon.bdev_ftl_get_stats(name="ftl0")
    daemon.bdev_ftl_scrub(name="ftl0")
    daemon.bdev_ftl_unmap(name="ftl0", lba=0, num_blocks=10)
    daemon.bdev_ftl_nbd_start(name="ftl0", socket_path=world.folder / "nbd")
    assert daemon.bdev_ftl_nbd_get(name="ftl0")
    daemon.bdev_ftl_nbd_stop(name="ftl0")
    daemon.bdev_ftl_set_property(name="ftl0", ftl_property="scrub_days", value="0")
    daemon.bdev_ftl_set_cache(name="ftl0", cache="C0")
    assert daemon.bdev_ftl_get_properties(name="ftl0")["cache"]["state"] == "in_use"
    daemon.bdev_ftl_remove_cache(name="ftl0")
    daemon.bdev_ftl_rename(name="ftl0", new_name="ftl2")
    assert daemon.bdev_ftl_grow(name="ftl2")["changed"] is False
    daemon.bdev_ftl_add_host(name="ftl2", host=f"{HOST}-2")
    daemon.bdev_ftl_remove_host(name="ftl2", host=f"{HOST}-2")
    daemon.bdev_ftl_allow_any_host(name="ftl2", allow_any_host=True)
    second = daemon.bdev_ftl_add_listener(name="ftl2", listen_address="127.0.0.1", ana_state="non_optimized")
    daemon.bdev_ftl_set_ana_state(name="ftl2", listen_address=second, ana_state="optimized")
    daemon.bdev_ftl_remove_listener(name="ftl2", listen_address=second)

    daemon.bdev_ftl_delete(name="ftl1")
    saved = daemon.ftl_save_config(target=target)
    (section,) = [each for each in saved["subsystems"] if each["subsystem"] == "ftl"]
    assert daemon.ftl_load_config(config=section["config"], target=target)["unchanged"]
    daemon.bdev_ftl_unload(name="ftl2")
    assert daemon.ftl_load_config(config=section["config"], target=target)["loaded"]
    daemon.bdev_ftl_delete(name="ftl2", force=True)
    copy = {"base_bdev": "Nvme0n1", "target": target}
    new = UUID(daemon.bdev_ftl_set_uuid(uuid=uuid, **copy)["uuid"])
    assert daemon.bdev_ftl_set_uuid(uuid=new, new_uuid=uuid, **copy)["uuid"] == str(uuid)
    daemon.bdev_ftl_load(name="ftl0", base_bdev="Nvme0n1", uuid=uuid, target=target)
    daemon.ftl_get_daemon()
    daemon.ftl_remove_buffers()
    assert daemon.ftl_set_log_level(level="debug", subject="ftl.gc")["log_subjects"] == {"ftl.gc": "debug"}
    assert daemon.ftl_halt()["halted"] == ["ftl0"]


@pytest.mark.parametrize("kind", [DaemonClient, AsyncDaemonClient])
def test_every_rpc_answers_what_its_type_says(kind: type[DaemonClient | AsyncDaemonClient], folder: Path) -> None:
    with ftl_world(folder, "--zns", ZNS, "--malloc", CACHE) as world:
        daemon = Checked(kind, world.daemon.socket)
        live(world, daemon)
        assert daemon.called == set(schema.methods())
