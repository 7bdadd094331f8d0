"""A controller of ours in a real spdk_tgt, over vfio-user: its serving process is killed and replaced under load, and
what stands on it sees a pause."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from live.spdk_target import SpdkTarget
from spdk_ftl_py.library.controller import Controller, Namespace
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.runtime.waiting import until
from support.vfio_user_server import BLOCKS, NQN, Server

USER_NQN = "nqn.2016-06.io.spdk:user"
HOST_NQN = "nqn.2016-06.io.spdk:load"
BLOCK_BYTES = 4096
QUEUE_DEPTH = 32
KILLS = 3


class Load:
    """Writes blocks, each with its number and a version, and reads them again. Blocks are in turn in the hands of one
    worker each."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._versions: dict[int, int] = {}
        self.commands = 0
        self.stop = False

    def content(self, lba: int) -> bytes:
        word = (self._versions[lba] << 32 | lba).to_bytes(8, "little")
        return word * (BLOCK_BYTES // len(word))

    async def run(self) -> None:
        await asyncio.gather(*(self._work(range(first, BLOCKS, QUEUE_DEPTH)) for first in range(QUEUE_DEPTH)))

    async def _work(self, lbas: range) -> None:
        while not self.stop:
            for lba in lbas:
                self._versions[lba] = self._versions.get(lba, 0) + 1
                await self._namespace.write(lba, self.content(lba))
                assert await self._namespace.read(lba) == self.content(lba)
                self.commands += 2
                if self.stop:
                    break

    async def go_on(self) -> None:
        """Returns after a thousand more commands."""
        enough = self.commands + 1000
        assert await until(lambda: self.commands >= enough, poll_s=0.01, timeout_s=30)

    async def verify(self) -> None:
        for lba in self._versions:
            assert await self._namespace.read(lba) == self.content(lba), lba


async def test_a_killed_server_is_a_pause_for_the_target(spdk_target: SpdkTarget, folder: Path) -> None:
    endpoint, file = folder / "e", folder / "drive"
    server = await asyncio.to_thread(Server, endpoint, file)
    assert server.ready
    names = spdk_target.call(
        "bdev_nvme_attach_controller", name="Shared0", trtype="VFIOUSER", traddr=str(endpoint), subnqn=NQN
    )
    assert names == ["Shared0n1"]
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    port = spdk_target.export("Shared0n1", USER_NQN)
    async with (
        ReactorLoop("load") as reactor,
        await Controller.connect("127.0.0.1", port, USER_NQN, hostnqn=HOST_NQN) as controller,
    ):
        load = Load(await controller.open_namespace(reactor))
        running = asyncio.ensure_future(load.run())
        for _ in range(KILLS):
            await load.go_on()
            await asyncio.to_thread(server.kill)
            server = await asyncio.to_thread(Server, endpoint, file)
            assert server.ready
        await load.go_on()
        load.stop = True
        await running
        await load.verify()
    spdk_target.call("nvmf_delete_subsystem", nqn=USER_NQN)
    spdk_target.call("bdev_nvme_detach_controller", name="Shared0")
    # It attaches again, and a reset by the target works too.
    spdk_target.call("bdev_nvme_attach_controller", name="Shared0", trtype="VFIOUSER", traddr=str(endpoint), subnqn=NQN)
    spdk_target.call("bdev_nvme_reset_controller", name="Shared0")
    spdk_target.call("bdev_nvme_detach_controller", name="Shared0")
    assert await asyncio.to_thread(server.stop) == 0
    assert not os.listdir(endpoint)
    complaints = [line for line in spdk_target.log().splitlines() if "*ERROR*" in line]
    assert not complaints, complaints
