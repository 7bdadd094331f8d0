"""Who may connect to an FTL of a real target: the target itself, under the name the daemon gives it, or its own one."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from e2e.test_hosts import attach_as_older_daemons_did, forget_the_list
from live.spdk_target import SpdkTarget
from spdk_ftl_py.nvme.wire import CommandError, Status
from spdk_ftl_py.spdk.attach import controller_name
from support.drive import HOST_NQN, write_and_verify
from support.system import Daemon

WAIT_S = 60.0
POLL_S = 0.2


def test_the_target_alone_gets_in_and_keeps_its_own_name_through_an_upgrade(
    spdk_target: SpdkTarget, folder: Path
) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=64 * 256, block_size=4096)
    before = spdk_target.state()
    daemon = Daemon(folder)

    def ftl(command: str, *arguments: str) -> Any:
        return json.loads(spdk_target.ftl(daemon, command, "-b", "ftl0", *arguments))

    def drive() -> None:
        export = ftl("ftl_get_devices")[0]["export"]
        asyncio.run(write_and_verify(export["traddr"], export["trsvcid"], export["subnqn"], blocks=64))

    def wait_for_target(nqn: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while nqn not in [each["hostnqn"] for each in ftl("bdev_ftl_get_hosts")["controllers"]]:
            assert time.monotonic() < deadline, daemon.log_tail()
            time.sleep(POLL_S)

    try:
        ftl("bdev_ftl_create", "-d", "Malloc0", "--zone-capacity", "192", "--optimal-open-zones", "2")
        (device,) = ftl("ftl_get_devices")
        (target,) = device["hosts"]
        controller = controller_name("ftl0", UUID(device["uuid"]))
        (found,) = spdk_target.call("bdev_nvme_get_controllers", name=controller)
        assert (found["ctrlrs"][0]["host"]["nqn"], target["is_target"]) == (target["nqn"], True)
        wait_for_target(target["nqn"])
        with pytest.raises(CommandError) as caught:
            drive()
        assert caught.value.status == Status.CONNECT_INVALID_HOST
        assert ftl("bdev_ftl_allow_any_host", "--allow-any-host") is True
        drive()
        chosen = attach_as_older_daemons_did(spdk_target, device)
        daemon.kill()
        forget_the_list(folder)
        daemon = Daemon(folder)
        wait_for_target(chosen)
        (device,) = ftl("ftl_get_devices")
        assert (device["state"], device["hosts"]) == ("online", [{"nqn": chosen, "is_target": True}])
        assert spdk_target.bdev("ftl0") is not None
        with pytest.raises(CommandError):
            drive()
        assert ftl("bdev_ftl_add_host", "--host", HOST_NQN) is True
        drive()
        assert ftl("bdev_ftl_delete") is True
        assert spdk_target.state() == before
    finally:
        daemon.close()
