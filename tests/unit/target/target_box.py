"""An embedded target within the test's process: RPCs by call, hosts over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.target.app import Target
from support.ports import free_port
from unit.nvme.nvme_loop import io

NQN = "nqn.2026-11.io.spdk-ftl.test:a"
HOSTNQN = "nqn.2026-11.io.spdk-ftl.test:host"
HOSTID = UUID(int=7)
INVALID = (-32602, "Invalid parameters")


class Box:
    """A target without an RPC socket."""

    def __init__(self, target: Target) -> None:
        self.target = target

    async def rpc(self, method: str, **params: Any) -> Any:
        return await self.target.dispatch(method, params or None)

    async def refusal(self, method: str, **params: Any) -> tuple[int, str]:
        """The code and message of an RPC that has to fail."""
        try:
            result = await self.rpc(method, **params)
        except FtlError as error:
            return error.jsonrpc_code, error.message
        raise AssertionError(f"{method} {params} succeeded: {result!r}")

    async def malloc(self, name: str, num_blocks: int = 1024, **params: Any) -> str:
        created: str = await self.rpc("bdev_malloc_create", name=name, num_blocks=num_blocks, block_size=4096, **params)
        return created

    async def zns(self, name: str, **params: Any) -> str:
        params = {"num_zones": 8, "zone_size": 64, "zone_capacity": 48, "max_open_zones": 3} | params
        created: str = await self.rpc("ftltgt_zns_create", name=name, **params)
        return created

    async def bdev(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = await self.rpc("bdev_get_bdevs", name=name)
        return found[0]

    async def names(self) -> list[str]:
        return [bdev["name"] for bdev in await self.rpc("bdev_get_bdevs")]

    async def claimed(self) -> set[str]:
        return {bdev["name"] for bdev in await self.rpc("bdev_get_bdevs") if bdev["claimed"]}

    async def subsystem(self, nqn: str = NQN, *bdevs: str, **params: Any) -> dict[str, str]:
        """A subsystem for any host with those namespaces; returns its listener's address."""
        if self.target.nvmf.transport is None:
            await self.rpc("nvmf_create_transport", trtype="TCP")
        await self.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, **params)
        for bdev in bdevs:
            await self.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(free_port())}
        await self.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
        return address

    async def connect(self, address: dict[str, str], nqn: str = NQN, **options: Any) -> Controller:
        return await Controller.connect(
            address["traddr"], address["trsvcid"], nqn, hostnqn=HOSTNQN, hostid=HOSTID, **options
        )

    async def attach(self, name: str, address: dict[str, str], nqn: str = NQN, **params: Any) -> Any:
        return await self.rpc("bdev_nvme_attach_controller", name=name, subnqn=nqn, **address, **params)

    async def io(self, device: _shim.BlockDevice, op: _shim.Op, *arguments: Any, **options: Any) -> tuple[int, int]:
        """(status, result) of one I/O to a device of this target, or to a qpair made on its reactor."""
        return await io(self.target.reactor, device, op, *arguments, **options)


_open_boxes: list[Box] = []


@asynccontextmanager
async def box() -> AsyncIterator[Box]:
    """Checks at the end that nothing is left of the target: bdevs, and, where no other box is open, tasks."""
    before = asyncio.all_tasks()
    target = Target("", reactor=ReactorLoop("box", spin_us=0))
    await target.start(listen=False)
    here = Box(target)
    _open_boxes.append(here)
    try:
        yield here
    finally:
        await target.close()
        _open_boxes.remove(here)
    assert list(target.bdevs) == []
    assert _open_boxes or asyncio.all_tasks() <= before
