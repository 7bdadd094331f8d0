"""The daemon's discovery service: its FTLs come and go there, and its port is its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.daemon.discovery_service import PORT, SOCKET, DiscoveryService, give_up_socket
from spdk_ftl_py.daemon.registry import Registry
from spdk_ftl_py.errors import ParameterError, PathError
from spdk_ftl_py.nvme.host.discovery import discover
from spdk_ftl_py.nvme.target.discovery import Catalog
from spdk_ftl_py.runtime.service_manager import ServiceManager
from spdk_ftl_py.runtime.sockets import listening_socket
from support.ports import free_port
from unit.daemon.registry_rig import HOSTNQN, World, create
from unit.nvme.nvme_loop import until


def test_the_port_is_the_well_known_one_unless_another_is_given() -> None:
    assert PORT == 8009
    for address, shown in (("127.0.0.1", "127.0.0.1:8009"), ("[::1]:9", "[::1]:9"), ("0.0.0.0:1", "0.0.0.0:1")):
        assert DiscoveryService(address, Catalog(), ServiceManager({})).address == shown
    with pytest.raises(ParameterError):
        DiscoveryService("host", Catalog(), ServiceManager({}))


async def test_a_port_that_is_in_use_is_told_and_left_alone() -> None:
    address = f"127.0.0.1:{free_port()}"
    first, second = (DiscoveryService(address, Catalog(), ServiceManager({})) for _ in range(2))
    await first.start()
    with pytest.raises(PathError, match=rf"--discovery {address}: can't listen"):
        await second.start()
    await second.close()
    await first.close()
    third = DiscoveryService(address, Catalog(), ServiceManager({}))
    await third.start()
    await third.close()
    await third.close()


async def test_a_kept_socket_is_used_or_given_up() -> None:
    manager = ServiceManager({})
    ports = [free_port(), free_port()]
    for at, used in ((0, True), (1, False)):
        kept = await listening_socket("127.0.0.1", ports[at], 1)
        manager._given = [(SOCKET, kept)]
        service = DiscoveryService(f"127.0.0.1:{ports[0]}", Catalog(), manager)
        await service.start()
        assert (kept.fileno() == -1) is not used
        assert manager._given == []
        assert await discover("127.0.0.1", ports[0], HOSTNQN) == []
        await service.close()
    kept = await listening_socket("127.0.0.1", ports[1], 1)
    manager._given = [(SOCKET, kept)]
    give_up_socket(manager)
    assert kept.fileno() == -1


async def test_an_ftl_of_an_earlier_daemon_is_listed_before_it_is_loaded(here: World) -> None:
    """nvme-stas disconnects a host from what is missing."""
    catalog, port = Catalog(), free_port()
    service = DiscoveryService(f"127.0.0.1:{port}", catalog, ServiceManager({}))
    await service.start()
    daemon = await here.start(catalog=catalog)
    await create(here, daemon)
    found = await discover("127.0.0.1", port, HOSTNQN)
    await daemon.halt()
    await here.remove_drive()
    daemon = await here.start(catalog=catalog)
    await until(lambda: bool(list(catalog)))
    assert (await daemon.device())["state"] != "online"
    assert await discover("127.0.0.1", port, HOSTNQN) == found
    assert await discover("127.0.0.1", port, HOSTNQN + "-other") == []
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN + "-other")
    assert await discover("127.0.0.1", port, HOSTNQN + "-other") == found
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await discover("127.0.0.1", port, HOSTNQN) == []
    await daemon.halt()
    await service.close()


def test_a_restart_tells_no_host_that_the_ftls_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service ends before the FTLs leave its catalog; unless they are taken from the targets for good."""
    done: list[str] = []

    def noting(kind: type, name: str) -> None:
        real = getattr(kind, name)

        async def noted(self: Any, **params: Any) -> None:
            done.append(f"{kind.__name__}.{name}")
            await real(self, **params)

        monkeypatch.setattr(kind, name, noted)

    def end_when_ready(_self: object, *lines: str, **_: Any) -> bool:
        if "READY=1" in lines:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    noting(DiscoveryService, "close")
    noting(Registry, "halt")
    monkeypatch.setattr(ServiceManager, "notify", end_when_ready)
    options = [f"--{option}={tmp_path / option}" for option in ("socket", "state-dir", "buffer-dir")]
    options += ["--discovery", f"127.0.0.1:{free_port()}"]
    assert cli.main(["serve", *options]) == 0
    assert done == ["DiscoveryService.close", "Registry.halt", "DiscoveryService.close"]
    done.clear()
    assert cli.main(["serve", "--undo-on-exit", *options]) == 0
    assert done == ["Registry.halt", "DiscoveryService.close"]


async def test_ftls_are_there_while_hosts_may_connect_to_them(here: World) -> None:
    catalog, port = Catalog(), free_port()
    service = DiscoveryService(f"127.0.0.1:{port}", catalog, ServiceManager({}))
    await service.start()

    async def told(hostnqn: str = HOSTNQN) -> list[tuple[str, str, str]]:
        return [(each.traddr, each.trsvcid, each.subnqn) for each in await discover("127.0.0.1", port, hostnqn)]

    daemon = await here.start(catalog=catalog)
    assert await told() == []
    await create(here, daemon)
    export = (await daemon.device())["export"]
    assert await told() == [(export["traddr"], export["trsvcid"], export["subnqn"])]
    assert await told(HOSTNQN + "-other") == []
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN + "-other")
    assert len(await told(HOSTNQN + "-other")) == 1
    await daemon.call("bdev_ftl_remove_host", name="ftl0", host=HOSTNQN)
    assert await told() == []
    await daemon.halt()
    assert await told(HOSTNQN + "-other") == []
    daemon = await here.start(catalog=catalog)
    await daemon.wait_for("online")
    assert len(await told(HOSTNQN + "-other")) == 1
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await told(HOSTNQN + "-other") == []
    await daemon.halt()
    await service.close()
