"""ftl0 by vfio-user in an embedded target: through restarts of the daemon, and the end of a keeper."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.daemon.transports import TransportName
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, connected, create
from unit.nvme.nvme_loop import until


def keepers_in(folder: Path) -> list[int]:
    """Processes that hold endpoints there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(folder)) for word in words):
            found.append(int(path.parent.name))
    return found


async def make(here: World, daemon: Daemon, **params: Any) -> dict[str, Any]:
    await create(here, daemon, no_attach=False, hosts=[], **params)
    device = await daemon.device()
    assert (device["attached"], device["transport"], device["export"]["trtype"]) == (True, "vfio-user", "VFIOUSER")
    return device


def ftl0(here: World) -> BlockPort:
    """As somebody in the target has it."""
    bdev = here.target.bdevs.find("ftl0")
    assert bdev is not None
    return BlockPort(here.target.reactor, bdev.device, name="ftl0", patience_s=0)


async def test_restarts_are_a_pause_and_the_end_leaves_nothing(here: World) -> None:
    daemon = await here.start(transport=TransportName.AUTO)
    device = await make(here, daemon)
    endpoint = Path(device["endpoint"])
    (controller,) = await here.rpc("bdev_nvme_get_controllers")
    assert controller["ctrlrs"][0]["trid"]["traddr"] == device["endpoint"]
    port = ftl0(here)
    await port.write(7, b"\7" * 4096)
    (keeper,) = keepers_in(here.folder)
    await daemon.halt()
    assert keepers_in(here.folder) == [keeper]
    daemon = await here.start()
    # The same controller, although the daemon's own default is another now.
    assert (await daemon.wait_for("online"))["transport"] == "vfio-user"
    assert (await here.rpc("bdev_nvme_get_controllers")) == [controller]
    assert bytes((await port.read(7, 1))[0]) == b"\7" * 4096
    (host,) = daemon.managed().hosts.hosts
    assert host.hostnqn == daemon.managed().admission.target_nqn
    await port.close()
    assert daemon.managed().front.tcp.address is None
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs")] == ["Nvme0n1"]
    assert not endpoint.exists()
    await until(lambda: not keepers_in(here.folder))
    await daemon.halt()


async def test_a_host_that_is_allowed_gets_a_port(here: World) -> None:
    daemon = await here.start()
    await make(here, daemon, transport="vfio-user")
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN)
    device = await daemon.device()
    assert (device["transport"], device["export"]["trtype"]) == ("vfio-user", "TCP")
    controller = await connected(here, daemon)
    await controller.close()
    await daemon.halt()
    daemon = await here.start()
    assert (await daemon.wait_for("online"))["export"] == device["export"]
    await daemon.halt(undo=True)
    await until(lambda: not keepers_in(here.folder))


async def test_a_keeper_that_was_killed_is_replaced(here: World, caplog: pytest.LogCaptureFixture) -> None:
    daemon = await here.start()
    await make(here, daemon, transport="vfio-user")
    (keeper,) = keepers_in(here.folder)
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: "its keeper has ended: starting another one" in caplog.text)
    await until(lambda: daemon.managed().attachment is not None and daemon.managed().front.transport.alive)
    port = ftl0(here)
    await port.write(7, b"\7" * 4096)
    await port.close()
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await until(lambda: not keepers_in(here.folder))
    await daemon.halt()


async def test_an_ftl_that_waits_for_its_base_can_be_deleted(here: World) -> None:
    """Nobody serves its endpoint then, and the target must not wait for it."""
    daemon = await here.start()
    await make(here, daemon, transport="vfio-user")
    await daemon.halt()
    here.line.hold("bdev_get_bdevs")
    daemon = await here.start()
    here.line.release()
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await here.rpc("bdev_nvme_get_controllers") == []
    await until(lambda: not keepers_in(here.folder))
    await daemon.halt()
