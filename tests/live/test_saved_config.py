"""A real spdk_tgt that is started with the configuration it has saved, which has what the daemon made in it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from live.spdk_target import SpdkTarget
from support.drive import digest, write_and_verify
from support.system import Daemon

FILE_BYTES = 160 << 20
CLUSTER_BYTES = 1 << 20
VOLUME_MIB = 16
VOLUME = "lvs0/v"
USER_NQN = "nqn.2016-06.io.spdk:user"
BACK_TIMEOUT_MS = 60_000


def volume_digest(target: SpdkTarget) -> str:
    """As a host of the target's own export of it."""
    address = "127.0.0.1", target.export(VOLUME, USER_NQN), USER_NQN
    found = asyncio.run(digest(*address))
    target.call("nvmf_delete_subsystem", nqn=USER_NQN)
    return found


@pytest.mark.parametrize("daemon_restarts", [False, True], ids=["daemon stays", "daemon killed"])
def test_ftl0_is_back_with_the_lvol_store_on_it(spdk_program: str, folder: Path, daemon_restarts: bool) -> None:
    base, config = folder / "base", folder / "saved.json"
    with base.open("wb") as file:
        file.truncate(FILE_BYTES)
    daemon = Daemon(folder)
    try:
        with SpdkTarget(spdk_program, folder) as target:
            target.call("nvmf_create_transport", trtype="TCP")
            target.call("bdev_aio_create", name="Aio0", filename=str(base), block_size=4096)
            target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", "--zone-capacity", "256")
            target.call("bdev_lvol_create_lvstore", bdev_name="ftl0", lvs_name="lvs0", cluster_sz=CLUSTER_BYTES)
            target.call("bdev_lvol_create", lvol_name="v", lvs_name="lvs0", size_in_mib=VOLUME_MIB)
            address = "127.0.0.1", target.export(VOLUME, USER_NQN), USER_NQN
            asyncio.run(write_and_verify(*address, random_writes=2000, flush=True, timeout_s=240))
            target.call("nvmf_delete_subsystem", nqn=USER_NQN)
            before = volume_digest(target)
            if daemon_restarts:
                # The target keeps ftl0, and what stands on it, while there is no daemon.
                daemon.kill()
                daemon = Daemon(folder)
                assert volume_digest(target) == before
            # SPDK's own, without our plugin.
            config.write_text(target.rpc("save_config").stdout)
        with SpdkTarget(spdk_program, folder, "-c", str(config)) as target:
            for name in ("ftl0", VOLUME):
                target.call("bdev_get_bdevs", name=name, timeout=BACK_TIMEOUT_MS)
            assert volume_digest(target) == before
            (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
            assert (device["state"], device["attached"], device["error"]) == ("online", True, None)
            target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
            assert target.bdev("ftl0") is None
    finally:
        daemon.close()
