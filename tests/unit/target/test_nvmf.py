"""The embedded target's exports and attached controllers: claims, hot removal, loss and return, SPDK's refusals."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.events import AsyncEvent
from spdk_ftl_py.nvme.target.connected_hosts import HostKey
from spdk_ftl_py.nvme.target.reservation_state import ReservationState
from spdk_ftl_py.nvme.wire import LogPage
from spdk_ftl_py.target.nvme_bdev import State
from support.ports import free_port
from unit.nvme.nvme_loop import until
from unit.target.target_box import HOSTNQN, INVALID, NQN, Box, box

OTHER = NQN + "2"
EXISTS = (-17, "File exists")
GONE = (-19, "No such device")
INTERNAL = (-32603, "Internal error")
IO_ERROR = (-5, "Input/output error")
BAD_ARGUMENT = (-22, "Invalid argument")
NGUID = "31111111222233334444555555555555"


async def export(here: Box, bdev: str, nqn: str = NQN, **namespace: Any) -> dict[str, str]:
    """A bdev as namespace 1 under an identity of its own, so that it may come back into the same target."""
    address = await here.subsystem(nqn)
    params = {"nqn": nqn, "namespace": {"bdev_name": bdev, "nguid": NGUID, **namespace}}
    assert await here.rpc("nvmf_subsystem_add_ns", **params) == 1
    return address


async def test_an_export_claims_its_bdev_until_it_is_removed(here: Box) -> None:
    await here.malloc("M0")
    await here.subsystem(NQN, "M0")
    assert (await here.bdev("M0"))["claim_type"] == "exclusive_write"
    assert await here.refusal("bdev_passthru_create", name="P", base_bdev_name="M0") == (
        -1,
        "Operation not permitted",
    )
    await here.rpc("nvmf_create_subsystem", nqn=OTHER)
    add = {"nqn": OTHER, "namespace": {"bdev_name": "M0"}}
    assert await here.refusal("nvmf_subsystem_add_ns", **add) == INVALID
    await here.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
    assert await here.claimed() == set()
    assert await here.rpc("nvmf_subsystem_add_ns", **add) == 1
    await here.rpc("nvmf_delete_subsystem", nqn=OTHER)
    assert await here.claimed() == set()


async def test_data_reaches_the_bdev_over_the_wire(here: Box) -> None:
    await here.malloc("M0")
    controller = await here.connect(await here.subsystem(NQN, "M0"))
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.target.reactor, namespace)
    assert await here.io(qpair, _shim.Op.WRITE, 7, 2, b"\x42" * 8192) == (0, 0)
    data = bytearray(8192)
    assert await here.io(here.target.bdevs.get("M0").device, _shim.Op.READ, 7, 2, data) == (0, 0)
    assert data == b"\x42" * 8192
    await controller.close()


async def test_a_file_is_free_once_its_bdev_is_deleted_also_if_hosts_had_begun_something(
    here: Box, tmp_path: Path
) -> None:
    (tmp_path / "drive.img").write_bytes(bytes(1 << 20))
    file = {"name": "A0", "filename": str(tmp_path / "drive.img"), "block_size": 4096}
    await here.rpc("bdev_aio_create", **file)
    controller = await here.connect(await here.subsystem(NQN, "A0"))
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.target.reactor, namespace)
    media = here.target.bdevs.get("A0").lower
    assert isinstance(media, _shim.EmulatedMedia)
    media.inject_fault(latency_us=300_000)
    del media
    reading = asyncio.ensure_future(here.io(qpair, _shim.Op.READ, 0, 1, bytearray(4096)))
    exported = here.target.nvmf.find(NQN).subsystem
    await until(lambda: sum(each.io_queues.describe()["commands"] for each in exported.controllers.values()) == 1)
    assert not reading.done()
    await here.rpc("bdev_aio_delete", name="A0")
    await here.rpc("bdev_aio_create", **file)
    assert (await reading)[0] == 0, "what it had begun completes"
    await controller.close()


async def test_interleaved_metadata_becomes_an_extended_lba_and_separate_metadata_is_refused(here: Box) -> None:
    await here.malloc("inter", md_size=64, md_interleave=True)
    await here.malloc("large", md_size=128, md_interleave=True)
    await here.malloc("separate", md_size=8)
    address = await here.subsystem(NQN, "inter")
    for bdev in ("separate", "large"):
        add = {"nqn": NQN, "namespace": {"bdev_name": bdev}}
        assert await here.refusal("nvmf_subsystem_add_ns", **add) == INVALID
    assert await here.claimed() == {"inter"}
    controller = await here.connect(address)
    (namespace,) = await controller.namespaces()
    assert (namespace.block_bytes, namespace.metadata_bytes, namespace.metadata_interleaved) == (4096, 64, True)
    qpair = await controller.create_io_qpair(here.target.reactor, namespace)
    block = bytes(range(64)) * 65
    assert await here.io(qpair, _shim.Op.WRITE, 3, 1, block) == (0, 0)
    data = bytearray(4160)
    assert await here.io(qpair, _shim.Op.READ, 3, 1, data) == (0, 0)
    assert data == block
    await controller.close()


async def test_a_zns_drive_passes_zone_commands_and_a_zone_block_bdev_does_not(here: Box) -> None:
    await here.zns("Zns0")
    await here.malloc("M0")
    await here.rpc("bdev_zone_block_create", name="Z0", base_bdev="M0", zone_capacity=100, optimal_open_zones=4)
    controller = await here.connect(await here.subsystem(NQN, "Zns0", "Z0"))
    zns, emulated = await controller.namespaces()
    assert (zns.csi, zns.zone_size, zns.max_open_zones) == (2, 64, 3)
    assert (emulated.csi, emulated.zone_size) == (2, 128)
    qpair = await controller.create_io_qpair(here.target.reactor, zns)
    assert await here.io(qpair, _shim.Op.APPEND, 64, 1, bytes(4096)) == (0, 64)
    assert await here.io(qpair, _shim.Op.ZONE_SEND, 64, zone_action=4) == (0, 0)
    # Over SPDK's exports of a zone_block bdev, zone reports are no valid opcode either.
    with pytest.raises(Exception, match="invalid opcode"):
        await controller.create_io_qpair(here.target.reactor, emulated)
    await controller.close()


async def test_deleting_a_bdev_takes_its_namespace_away_under_io(here: Box) -> None:
    await here.malloc("M0")
    await here.malloc("M1")
    address = await here.subsystem(NQN, "M0", "M1")
    controller = await here.connect(address)
    changed = asyncio.Event()
    controller.on_event = lambda *_: changed.set()
    first, second = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.target.reactor, first)
    other = await controller.create_io_qpair(here.target.reactor, second)
    generator = _shim.LoadGenerator(here.target.reactor.shim, qpair, lba_count=1024, seed=1)
    generator.start("write", queue_depth=64, time_limit_s=30.0)
    await until(lambda: int(str(generator.progress().done_ios)) > 500)
    assert await here.rpc("bdev_malloc_delete", name="M0") is True
    shown = (await here.rpc("nvmf_get_subsystems", nqn=NQN))[0]
    assert [each["bdev_name"] for each in shown["namespaces"]] == ["M1"]
    await asyncio.wait_for(changed.wait(), 20)
    await until(lambda: int(str(generator.progress().io_errors)) > 0)
    generator.stop()
    await until(lambda: not generator.progress().running)
    generator.close()
    assert (await here.io(qpair, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == 0x00B  # no such namespace
    assert await here.io(other, _shim.Op.READ, 0, 1, bytearray(4096)) == (0, 0)
    assert [namespace.nsid for namespace in await controller.namespaces()] == [2]
    await controller.close()


async def test_an_export_of_ours_comes_back_as_a_bdev(here: Box) -> None:
    await here.malloc("M0")
    address = await export(here, "M0")
    assert await here.attach("X", address) == ["Xn1"]
    shown = await here.bdev("Xn1")
    assert shown["uuid"] == "31111111-2222-3333-4444-555555555555"
    assert (shown["product_name"], shown["num_blocks"], shown["block_size"]) == ("NVMe disk", 1024, 4096)
    assert shown["driver_specific"]["nvme"][0]["trid"] == {**address, "subnqn": NQN}
    (described,) = await here.rpc("bdev_nvme_get_controllers")
    assert described["name"] == "X"
    assert described["ctrlrs"][0]["state"] == "enabled"
    await here.rpc("bdev_passthru_create", name="ftl0", base_bdev_name="Xn1")
    (connected,) = await here.rpc("nvmf_subsystem_get_controllers", nqn=NQN)
    assert connected["hostnqn"] == described["ctrlrs"][0]["host"]["nqn"]
    assert await here.rpc("bdev_nvme_detach_controller", name="X") is True
    assert await here.names() == ["M0"]
    await until(lambda: not here.target.nvmf.exports[NQN].subsystem.controllers)


async def test_the_same_uuid_twice_attaches_nothing_and_is_no_error(here: Box) -> None:
    await here.malloc("M0")
    address = await here.subsystem(NQN, "M0")
    assert await here.attach("X", address) == []
    assert await here.names() == ["M0"]
    await here.rpc("bdev_nvme_detach_controller", name="X")


async def test_attach_is_refused_as_spdk_refuses(here: Box) -> None:
    await here.malloc("M0")
    address = await export(here, "M0")
    nowhere = {**address, "trsvcid": str(free_port())}

    async def refused(name: str, where: dict[str, str] = address, nqn: str = NQN, **params: Any) -> Any:
        return await here.refusal("bdev_nvme_attach_controller", **{"name": name, "subnqn": nqn, **where, **params})

    for loss, delay, fast_fail in (
        (5, 0, 0), (5, 6, 0), (5, 2, 1), (5, 2, 6), (0, 2, 0), (0, 0, 1), (-1, 0, 0), (-1, 2, 1), (-2, 1, 0),
    ):  # fmt: skip
        options = {
            "ctrlr_loss_timeout_sec": loss,
            "reconnect_delay_sec": delay,
            "fast_io_fail_timeout_sec": fast_fail,
        }
        assert await refused("Y", **options) == BAD_ARGUMENT
    assert await refused("Y", nowhere) == IO_ERROR
    assert await refused("Y", nqn=OTHER) == IO_ERROR
    assert await refused("Y", colour="red") == (-32603, "spdk_json_decode_object failed")
    assert await refused("Y", adrfam="xx") == (-22, "Failed to parse adrfam: xx")
    assert await refused("Y", trtype="RDMA") == GONE
    assert await refused("Y", max_bdevs=0) == (-22, "max_bdevs cannot be zero")
    assert await refused("Y", hostnqn="n" * 300) == (-22, "hostnqn too long: " + "n" * 300)
    assert await here.attach("X", address) == ["Xn1"]
    message = "A controller named X already exists"
    assert await refused("X") == (-114, message + " with the specified network path")
    assert await refused("X", multipath="disable") == (-114, message + " and multipath is disabled")
    assert (await refused("X", nowhere, nqn=OTHER))[0] == -22
    assert await refused("Y") == EXISTS
    permitted = "RPC not permitted with nvme controllers already attached"
    assert await here.refusal("bdev_nvme_set_options", bdev_retry_count=3) == (-1, permitted)
    assert await here.refusal("bdev_nvme_get_controllers", name="Z") == (-22, "Controller Z does not exist")
    assert await here.refusal("bdev_nvme_detach_controller", name="Z") == GONE
    other_path = {"name": "X", "trtype": "TCP", "traddr": "127.0.0.2"}
    assert await here.refusal("bdev_nvme_detach_controller", **other_path) == (-6, "No such device or address")
    assert await here.names() == ["M0", "Xn1"]


async def test_a_lost_controller_comes_back_under_the_same_bdevs_and_io_waits_for_it() -> None:
    async with box() as base, box() as here:
        await base.malloc("M0")
        address = await base.subsystem(NQN, "M0")
        await here.attach("X", address, ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="Xn1")
        front = await here.connect(await here.subsystem(OTHER, "P0"), OTHER)
        qpair = await front.create_io_qpair(here.target.reactor, (await front.namespaces())[0])
        assert await here.io(qpair, _shim.Op.WRITE, 3, 1, b"\x33" * 4096) == (0, 0)
        await base.target.nvmf.exports[NQN].subsystem.disconnect()
        data = bytearray(4096)
        assert await here.io(qpair, _shim.Op.READ, 3, 1, data) == (0, 0)
        assert data == b"\x33" * 4096
        assert await here.names() == ["Xn1", "P0"]
        assert await here.claimed() == {"Xn1", "P0"}
        await front.close()


async def test_a_controller_that_gets_no_io_queue_again_tries_once_more_and_io_waits() -> None:
    """Its place may have been taken by another host; nobody would ever have ended the waiting of its I/O."""
    async with box() as base, box() as here:
        await base.malloc("M0")
        address = await base.subsystem(NQN, "M0")
        await here.attach("X", address, ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        subsystem = base.target.nvmf.exports[NQN].subsystem
        subsystem.max_io_qpairs = 0
        await subsystem.disconnect()
        await until(lambda: here.target.nvme.controllers["X"].state is State.RECONNECT_IS_DELAYED)
        subsystem.max_io_qpairs = None
        device = here.target.bdevs.get("Xn1").device
        assert await here.io(device, _shim.Op.READ, 3, 1, bytearray(4096)) == (0, 0)


async def test_a_controller_that_is_detached_as_it_comes_back_leaves_no_connection() -> None:
    async with box() as base, box() as here:
        await base.malloc("M0")
        await here.attach("X", await base.subsystem(NQN, "M0"), ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        attached = here.target.nvme.controllers["X"]
        subsystem = base.target.nvmf.exports[NQN].subsystem
        (before,) = subsystem.controllers.values()
        async with here.target.lock:
            await subsystem.disconnect()
            await until(lambda: any(each is not before for each in subsystem.controllers.values()))
            await asyncio.sleep(0.2)  # it has connected, and waits for the lock
            await attached.detach()
        await until(lambda: subsystem.controllers == {})


async def test_io_waits_no_longer_than_the_fast_fail_time_out(here: Box) -> None:
    async with box() as base:
        await base.malloc("M0")
        address = await base.subsystem(NQN, "M0")
        await here.attach("X", address, ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1, fast_io_fail_timeout_sec=1)
    device = here.target.bdevs.get("Xn1").device
    assert (await here.io(device, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == 0x370
    assert await here.names() == ["Xn1"]


async def test_a_controller_that_stays_away_is_removed_after_its_loss_time_out(here: Box) -> None:
    async with box() as base:
        await base.malloc("M0")
        address = await base.subsystem(NQN, "M0")
        await here.attach("X", address, ctrlr_loss_timeout_sec=1, reconnect_delay_sec=1)
        await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="Xn1")
    await until(lambda: here.target.nvme.controllers == {})
    assert await here.names() == []
    assert await here.rpc("bdev_nvme_get_controllers") == []


async def test_without_a_loss_time_out_the_bdev_stays_and_fails(here: Box) -> None:
    async with box() as base:
        await base.malloc("M0")
        await here.attach("X", await base.subsystem(NQN, "M0"))
    await until(lambda: here.target.nvme.controllers["X"].state.value == "failed")
    assert await here.names() == ["Xn1"]
    device = here.target.bdevs.get("Xn1").device
    assert (await here.io(device, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == 0x370
    await here.rpc("bdev_nvme_detach_controller", name="X")
    assert await here.names() == []


async def test_namespaces_that_come_and_go_are_followed() -> None:
    async with box() as base, box() as here:
        await base.malloc("M0")
        await base.malloc("M1")
        address = await base.subsystem(NQN, "M0")
        assert await here.attach("X", address) == ["Xn1"]
        await base.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "M1"})
        assert (await here.rpc("bdev_get_bdevs", name="Xn2", timeout=20_000))[0]["num_blocks"] == 1024
        await base.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
        await until(lambda: here.target.bdevs.find("Xn1") is None)
        assert await here.names() == ["Xn2"]


async def test_removing_a_host_disconnects_it_and_only_it(here: Box) -> None:
    await here.malloc("M0")
    address = await here.subsystem(NQN, "M0")
    assert await here.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False) is True
    with pytest.raises(Exception, match=NQN):
        await here.connect(address)
    assert await here.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOSTNQN) is True
    controller = await here.connect(address)
    assert await here.rpc("nvmf_subsystem_remove_host", nqn=NQN, host=HOSTNQN) is True
    await asyncio.wait_for(controller.lost.wait(), 20)
    await controller.close()
    for method in ("nvmf_subsystem_remove_host", "nvmf_subsystem_add_host"):
        host = HOSTNQN if "remove" in method else "no NQN"
        assert await here.refusal(method, nqn=NQN, host=host) == INTERNAL
        assert await here.refusal(method, nqn=OTHER, host=HOSTNQN) == INVALID


async def test_subsystems_are_refused_as_spdk_refuses(here: Box) -> None:
    address = await here.subsystem(NQN)
    failed = -32603
    for nqn in (NQN, "bad", "nqn.2014-08.org.nvmexpress.discovery"):
        assert await here.refusal("nvmf_create_subsystem", nqn=nqn) == (
            failed,
            f"Unable to create subsystem {nqn}",
        )
    assert await here.refusal("nvmf_create_subsystem", nqn=OTHER, min_cntlid=5, max_cntlid=2) == (
        -32602,
        "Invalid cntlid range [5-2]",
    )
    for params in ({"serial_number": "s" * 21}, {"model_number": "m" * 41}, {"colour": 1}, {"tgt_name": 1}):
        assert await here.refusal("nvmf_create_subsystem", nqn=OTHER, **params) == INVALID
    assert await here.refusal("nvmf_create_subsystem", nqn=OTHER, tgt_name="x") == (
        failed,
        "Unable to find a target.",
    )
    assert await here.refusal("nvmf_create_transport", trtype="TCP") == (
        failed,
        "Transport type 'TCP' already exists",
    )
    assert await here.refusal("nvmf_create_transport", trtype="RDMA") == (
        -32602,
        "Invalid transport type 'RDMA'",
    )
    assert await here.refusal("nvmf_get_subsystems", nqn=OTHER) == GONE
    assert await here.refusal("nvmf_delete_subsystem", nqn=OTHER) == INVALID
    add = "nvmf_subsystem_add_listener"
    for changed in (
        {}, {"trsvcid": "0"}, {"trsvcid": "99999"}, {"trsvcid": "x"}, {"traddr": "192.0.2.1"}, {"traddr": "x"},
        {"adrfam": "IPv6"}, {"trtype": "RDMA"}, {"colour": "red"},
    ):  # fmt: skip
        assert await here.refusal(add, nqn=NQN, listen_address={**address, **changed}) == INVALID
    assert await here.refusal(add, nqn=OTHER, listen_address=address) == INVALID
    assert await here.refusal(add, nqn=NQN, listen_address=address, ana_state="inaccessible") == INVALID
    elsewhere = {**address, "trsvcid": str(free_port())}
    assert await here.refusal("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=elsewhere) == INVALID


async def test_namespaces_are_refused_as_spdk_refuses(here: Box) -> None:
    await here.malloc("M0")
    await here.malloc("M1")
    await here.subsystem(NQN, "M0", max_namespaces=2)
    for namespace in (
        {"bdev_name": "nosuch"}, {"bdev_name": "M0"}, {"bdev_name": "M1", "nsid": 1},
        {"bdev_name": "M1", "nsid": 3}, {"bdev_name": "M1", "nsid": 2**32 - 1},
        {"bdev_name": "M1", "nguid": "ABC"}, {"nsid": 2},
        {"bdev_name": "M1", "colour": "red"}, {"bdev_name": "M1", "uuid": "x"}, "M1",
    ):  # fmt: skip
        assert await here.refusal("nvmf_subsystem_add_ns", nqn=NQN, namespace=namespace) == INVALID
    assert await here.refusal("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2) == INVALID
    assert await here.refusal("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1, colour="red") == INVALID
    assert await here.claimed() == {"M0"}
    chosen = {
        "bdev_name": "M1", "nsid": 2, "uuid": "99111111-2222-3333-4444-555555555555", "nguid": NGUID,
        "eui64": "0011223344556677", "anagrpid": 1,
    }  # fmt: skip
    assert await here.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace=chosen) == 2
    shown = (await here.rpc("nvmf_get_subsystems", nqn=NQN))[0]["namespaces"][1]
    assert shown == {
        "nsid": 2, "bdev_name": "M1", "name": "M1", "nguid": NGUID, "eui64": "0011223344556677",
        "uuid": chosen["uuid"],
    }  # fmt: skip


async def test_listeners_have_ana_states_where_the_subsystem_reports_them(here: Box) -> None:
    await here.malloc("M0")
    set_state = "nvmf_subsystem_listener_set_ana_state"
    plain = await here.subsystem(OTHER)
    assert await here.refusal(set_state, nqn=OTHER, listen_address=plain, ana_state="inaccessible") == INVALID
    address = await here.subsystem(NQN, "M0", ana_reporting=True, max_namespaces=2)
    where = {"nqn": NQN, "listen_address": address}
    controller = await here.connect(address)
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.target.reactor, namespace)
    assert (await here.rpc(set_state, **where, ana_state="inaccessible", anagrpid=1)) is True
    assert await here.io(qpair, _shim.Op.WRITE, 7, 2, b"\x42" * 8192) == (0x302, 0)
    (listener,) = await here.rpc("nvmf_subsystem_get_listeners", nqn=NQN)
    assert [state["ana_state"] for state in listener["ana_states"]] == ["inaccessible", "optimized"]
    saved = await here.rpc("framework_get_config", name="nvmf")
    (call,) = [each["params"] for each in saved if each["method"] == set_state]
    assert call == {**where, "ana_state": "inaccessible", "anagrpid": 1}
    assert (await here.rpc(set_state, **where, ana_state="non_optimized")) is True
    assert await here.io(qpair, _shim.Op.WRITE, 7, 2, b"\x42" * 8192) == (0, 0)
    for params in (
        {"ana_state": "change"}, {"ana_state": "optimized", "anagrpid": 3},
        {"ana_state": "optimized", "listen_address": plain},
    ):  # fmt: skip
        assert await here.refusal(set_state, **{**where, **params}) == INVALID
    await controller.close()


async def test_a_namespace_keeps_its_reservation_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "reservation.json"
    namespace = {"bdev_name": "M0", "uuid": "99111111-2222-3333-4444-555555555555", "ptpl_file": str(file)}
    for life in range(2):
        async with box() as here:
            await here.malloc("M0")
            await here.malloc("M1")
            await here.subsystem(NQN, "M1")
            assert await here.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace=namespace) == 2
            saved = await here.rpc("framework_get_config", name="nvmf")
            assert str(file) in json.dumps(saved)
            reservations = here.target.nvmf.exports[NQN].subsystem.namespaces[2].reservations
            if life == 0:
                host = HostKey(HOSTNQN, bytes(range(16)))
                assert not reservations.state.registrants
                new = ReservationState({host: 5}, persistent=True)
                await reservations.save(new)
            else:
                assert list(reservations.state.registrants.values()) == [5]
    file.write_bytes(b"{}")
    async with box() as here:
        await here.malloc("M0")
        await here.subsystem(NQN)
        assert await here.refusal("nvmf_subsystem_add_ns", nqn=NQN, namespace=namespace) == INVALID
        assert await here.claimed() == set()


async def test_a_listener_serves_several_subsystems_and_closes_with_the_last(here: Box) -> None:
    address = await here.subsystem(NQN)
    await here.rpc("nvmf_create_subsystem", nqn=OTHER, allow_any_host=True)
    await here.rpc("nvmf_subsystem_add_listener", nqn=OTHER, listen_address=address)
    controller = await here.connect(address, OTHER)
    await here.rpc("nvmf_delete_subsystem", nqn=NQN)
    assert not controller.lost.is_set()
    await here.rpc("nvmf_subsystem_remove_listener", nqn=OTHER, listen_address=address)
    await asyncio.wait_for(controller.lost.wait(), 20)
    await controller.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address["traddr"], int(address["trsvcid"]))


async def test_the_configuration_names_what_was_created() -> None:
    async with box() as here:
        await here.malloc("M0")
        await here.zns("Zns0")
        await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="M0")
        await here.subsystem(NQN, "P0")
        saved = await here.rpc("framework_get_config", name="bdev")
        assert [call["method"] for call in saved] == [
            "bdev_malloc_create", "ftltgt_zns_create", "bdev_passthru_create", "bdev_wait_for_examine",
        ]  # fmt: skip
        bdevs = await here.rpc("bdev_get_bdevs")
        saved += await here.rpc("framework_get_config", name="nvmf")
        subsystems = await here.rpc("nvmf_get_subsystems")
        assert await here.refusal("framework_get_config", name="x") == (-32602, "Subsystem 'x' not found")
    async with box() as again:
        for call in saved:
            await again.target.dispatch(call["method"], call.get("params"))
        assert await again.rpc("bdev_get_bdevs") == bdevs
        assert await again.rpc("nvmf_get_subsystems") == subsystems


# --- zones that the drive has changed -------------------------------------------------------------------------------


async def heard(controller: Controller) -> asyncio.Queue[AsyncEvent]:
    events: asyncio.Queue[AsyncEvent] = asyncio.Queue()
    controller.on_event = events.put_nowait
    return events


async def zones_of(events: asyncio.Queue[AsyncEvent]) -> list[int] | None:
    event = await asyncio.wait_for(events.get(), 20)
    assert event.of_zones
    return None if event.changed_zones is None else [start // 64 for start in event.changed_zones]


async def test_a_drive_tells_the_hosts_of_its_exports_what_it_does_to_its_zones_and_not_what_they_order(
    here: Box,
) -> None:
    await here.zns("Zns0")
    controller = await here.connect(await here.subsystem(NQN, "Zns0"))
    events = await heard(controller)
    qpair = await controller.create_io_qpair(here.target.reactor, (await controller.namespaces())[0])
    for action in (3, 1, 2, 4):
        assert await here.io(qpair, _shim.Op.ZONE_SEND, 64, zone_action=action) == (0, 0)
    assert await here.io(qpair, _shim.Op.WRITE, 128, 1, bytes(4096)) == (0, 0)
    log = await controller.get_log_page(LogPage.CHANGED_ZONES, 4096, nsid=1)
    assert log == bytes(4096)
    for method, params in (
        ("ftltgt_set_zone_state", {"zone": 2, "state": "full"}),
        ("ftltgt_set_zone_state", {"zone": 3, "state": "read_only"}),
        ("ftltgt_set_zone_state", {"zone": 4, "state": "offline"}),
        ("ftltgt_recommend_zone", {"zone": 5, "action": "reset"}),
    ):
        assert await here.rpc(method, name="Zns0", **params)
        assert await zones_of(events) == [params["zone"]]
    assert (await here.refusal("ftltgt_set_zone_state", name="Zns0", zone=6, state="full"))[0]
    assert await controller.get_log_page(LogPage.CHANGED_ZONES, 4096, nsid=1) == bytes(4096)
    await controller.close()


async def test_what_a_drive_does_to_its_zones_is_heard_through_passthru_and_an_attached_controller() -> None:
    async with box() as base, box() as here:
        await base.zns("Zns0")
        await here.attach("X", await base.subsystem(NQN, "Zns0"), ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        await here.rpc("bdev_passthru_create", name="P0", base_bdev_name="Xn1")
        controller = await here.connect(await here.subsystem(OTHER, "P0"), OTHER)
        events = await heard(controller)
        await base.rpc("ftltgt_set_zone_state", name="Zns0", zone=3, state="offline")
        assert await zones_of(events) == [3]
        await base.target.nvmf.exports[NQN].subsystem.disconnect()
        # Nobody is told of that one.
        await base.rpc("ftltgt_set_zone_state", name="Zns0", zone=4, state="offline")
        assert await zones_of(events) is None
        await until(lambda: here.target.nvme.controllers["X"].state is State.ENABLED)
        await base.rpc("ftltgt_recommend_zone", name="Zns0", zone=5, action="reset")
        assert await zones_of(events) == [5]
        await controller.close()
