"""NvmfTarget and Controller: a device of one script, used by another."""

from __future__ import annotations

import asyncio
import os
from uuid import UUID

import pytest

from spdk_ftl_py import (
    Controller,
    EmulatedMedia,
    ExistsError,
    Export,
    FtlConf,
    FtlDevice,
    FtlError,
    MediaError,
    NotFoundError,
    NvmeStatusError,
    NvmfTarget,
    ParameterError,
    PathError,
    ReactorLoop,
)
from support.processes import free_port

NQN = "nqn.2026-11.com.example:ftl0"
HOST = "nqn.2026-11.com.example:host"
STRANGER = "nqn.2026-11.com.example:stranger"
CONNECT_INVALID_HOST = 0x184


def drive(reactor: ReactorLoop) -> EmulatedMedia:
    return EmulatedMedia.zns(reactor, zone_count=48, zone_blocks=256)


async def connect(export: Export, host: str = HOST) -> Controller:
    return await Controller.connect(export.traddr, export.trsvcid, export.subnqn, hostnqn=host, timeout_s=5)


async def test_a_host_reads_what_the_script_wrote(reactor: ReactorLoop) -> None:
    data = os.urandom(100 * 4096)
    async with (
        await FtlDevice.create(drive(reactor), name="ftl0", conf=FtlConf(lba_rsvd=30)) as ftl,
        NvmfTarget(reactor) as target,
    ):
        await ftl.write(50, data)
        export = await target.export(ftl, nqn=NQN, hosts=[HOST])
        assert (export.subnqn, export.traddr, export.nsid) == (NQN, "127.0.0.1", 1)
        async with await connect(export) as controller, ReactorLoop("host") as host_reactor:
            (info,) = await controller.namespaces()
            assert (info.nsid, info.block_count, info.uuid) == (1, ftl.block_count, ftl.uuid)
            assert (controller.subnqn, controller.is_lost, controller.serial != "") == (NQN, False, True)
            async with await controller.open_namespace(host_reactor) as namespace:
                assert await namespace.read(50, 100) == data
                await namespace.trim(50, 100)
                await namespace.write(60, data, fua=True)
                await namespace.flush()
            with pytest.raises(MediaError, match="is closed"):
                await namespace.read(0)
            with pytest.raises(NotFoundError, match=f"{NQN} has no namespace 2; it has: 1"):
                await controller.open_namespace(host_reactor, 2)
        assert await ftl.read(60, 100) == data
        assert await ftl.read(50, 10) == bytes(10 * 4096)


async def test_an_ftl_can_stand_on_a_namespace(reactor: ReactorLoop) -> None:
    """As that of the daemon does."""
    async with NvmfTarget(reactor) as target:
        export = await target.export(drive(reactor), nqn=NQN, hosts=[HOST])
        async with await connect(export) as controller, await controller.open_namespace(reactor) as base:
            assert base.zoned
            async with await FtlDevice.create(base, name="ftl0", conf=FtlConf(lba_rsvd=30)) as ftl:
                await ftl.write(77, bytes(range(256)) * 16)
                assert await ftl.read(77) == bytes(range(256)) * 16


async def test_nobody_may_connect_who_is_not_named(reactor: ReactorLoop) -> None:
    async with NvmfTarget(reactor) as target:
        export = await target.export(drive(reactor), nqn=NQN)
        for host in (HOST, STRANGER):
            with pytest.raises(NvmeStatusError) as refused:
                await connect(export, host)
            assert refused.value.status == CONNECT_INVALID_HOST
        open_to_all = await target.export(drive(reactor), nqn=f"{NQN}-open", allow_any_host=True)
        await (await connect(open_to_all, STRANGER)).close()


async def test_unexport_ends_the_connections_and_frees_the_port(reactor: ReactorLoop) -> None:
    media = drive(reactor)
    async with NvmfTarget(reactor) as target:
        export = await target.export(media, nqn=NQN, hosts=[HOST])
        async with await connect(export) as controller:
            await target.unexport(NQN)
            with pytest.raises(FtlError):
                await asyncio.wait_for(controller.namespaces(), 20)
            assert controller.is_lost
        with pytest.raises(PathError):
            await connect(export)
        with pytest.raises(NotFoundError, match=f"{NQN} is not exported; it has: none"):
            await target.unexport(NQN)
        again = await target.export(media, nqn=NQN, trsvcid=export.trsvcid, hosts=[HOST])
        assert again == export
        await (await connect(again)).close()


async def test_several_exports_share_an_address(reactor: ReactorLoop) -> None:
    async with NvmfTarget(reactor) as target:
        first = await target.export(drive(reactor), nqn=f"{NQN}-1", hosts=[HOST])
        second = await target.export(drive(reactor), nqn=f"{NQN}-2", trsvcid=first.trsvcid, hosts=[HOST])
        await target.unexport(first.subnqn)
        await (await connect(second)).close()


async def test_what_can_not_be_exported_leaves_nothing(reactor: ReactorLoop) -> None:
    media = drive(reactor)
    uuid = UUID(int=5)
    async with NvmfTarget(reactor) as target, ReactorLoop("other") as other, NvmfTarget(reactor) as rival:
        with pytest.raises(ParameterError, match="on another ReactorLoop than the target"):
            await target.export(drive(other), nqn=NQN)
        for options in ({"nqn": "x"}, {"hosts": ["x"]}, {"traddr": "localhost"}, {"trsvcid": 70000}):
            with pytest.raises(ParameterError):
                await target.export(media, **{"nqn": NQN, **options})  # type: ignore[arg-type]
        export = await target.export(media, nqn=NQN, hosts=[HOST], uuid=uuid)
        port = free_port()
        with pytest.raises(ExistsError, match=f"subsystem {NQN} exists already"):
            await target.export(media, nqn=NQN, trsvcid=port)
        # It does not listen there.
        await rival.export(media, nqn=f"{NQN}-rival", trsvcid=port)
        with pytest.raises(PathError, match=f"can't listen on 127.0.0.1:{export.trsvcid}"):
            await rival.export(media, nqn=NQN, trsvcid=export.trsvcid)
        async with await connect(export) as controller:
            (info,) = await controller.namespaces()
            assert info.uuid == uuid


async def test_keys_that_are_none_are_named() -> None:
    for options in ({"psk": "nowhere"}, {"dhchap_key": "nowhere"}, {"dhchap_ctrlr_key": "nowhere"}):
        with pytest.raises(ParameterError, match=r"nowhere|dhchap_ctrlr_key"):
            await Controller.connect("127.0.0.1", 1, NQN, hostnqn=HOST, **options)  # type: ignore[arg-type]
