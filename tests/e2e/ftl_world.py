"""A target and a daemon for the end-to-end tests of the plugin: what was there before must be there after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spdk_ftl_py.client import DaemonClient
from support.processes import Daemon, EmbeddedTarget, SpdkRpc, daemon_process, spdk_rpc, target_process

RELEASE = "26.5"
ZNS = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14"
WAIT_S = 60.0
POLL_S = 0.05
_DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"


class FtlWorld:
    """An embedded target with a small ZNS drive, and a daemon, as processes of their own."""

    def __init__(self, folder: Path, target: EmbeddedTarget, daemon: Daemon) -> None:
        self.folder = folder
        self.target = target
        self.daemon = daemon
        self.rpc = self.client(RELEASE)

    def client(self, release: str) -> SpdkRpc:
        """Stock spdk-rpc of a release, with our plugin."""
        return spdk_rpc(release, self.target.socket, plugin="spdk_ftl_py", SPDK_FTL_SOCK=self.daemon.socket)

    def call(self, method: str, **params: Any) -> Any:
        """One RPC of the target."""
        return self.target.call(method, **params)

    def tcp(self) -> None:
        self.call("nvmf_create_transport", trtype="TCP")

    def snapshot(self) -> dict[str, Any]:
        """Everything of the target that creating an FTL touches, as the target itself tells it."""
        subsystems = self.call("nvmf_get_subsystems")
        return {
            "bdevs": sorted(self.call("bdev_get_bdevs"), key=lambda bdev: str(bdev["name"])),
            "subsystems": sorted(
                (entry for entry in subsystems if entry["nqn"] != _DISCOVERY), key=lambda entry: str(entry["nqn"])
            ),
            "controllers": sorted(self.call("bdev_nvme_get_controllers"), key=str),
        }

    def devices(self) -> dict[str, dict[str, Any]]:
        """Asked without a process: tests poll it. test_create.py asks with each spdk-rpc."""
        return {device["name"]: device for device in DaemonClient(self.daemon.socket).call("ftl_get_devices")}

    def wait_for_state(self, name: str, state: str) -> dict[str, Any]:
        """Another process gets there by itself; nothing announces it."""
        deadline = time.monotonic() + WAIT_S
        while True:
            device = self.devices()[name]
            if device["state"] == state:
                return device
            assert device["state"] != "failed", f"{device}\n{self.daemon.log_tail()}"
            assert time.monotonic() < deadline, f"{device}\n{self.daemon.log_tail()}"
            time.sleep(POLL_S)

    def wait_for_end(self, name: str) -> dict[str, Any]:
        """Of a device that fails by itself: what it says then."""
        deadline = time.monotonic() + WAIT_S
        while (device := self.devices()[name])["state"] != "failed":
            assert time.monotonic() < deadline, f"{device}\n{self.daemon.log_tail()}"
            time.sleep(POLL_S)
        return device

    def wait_until_claimed(self, name: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.call("bdev_get_bdevs", name=name)[0]["claimed"]:
            assert time.monotonic() < deadline, self.daemon.log_tail()
            time.sleep(POLL_S)


@contextmanager
def ftl_world(folder: Path, *target_arguments: str, tcp: bool = True) -> Iterator[FtlWorld]:
    with target_process(folder, *target_arguments) as target, daemon_process(folder) as daemon:
        world = FtlWorld(folder, target, daemon)
        if tcp:
            world.tcp()
        yield world
