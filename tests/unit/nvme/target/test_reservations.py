"""Reservations between hosts that are connected to a target."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.nvme import identify, wire
from spdk_ftl_py.nvme.target.connected_hosts import HostKey
from spdk_ftl_py.nvme.target.reservation_file import ReservationFile
from spdk_ftl_py.nvme.target.reservations import Reservations
from spdk_ftl_py.nvme.wire import AdminOp, NvmOp, PduType, Sqe, Status
from unit.nvme.nvme_loop import Bench, bench, capsule, until
from unit.nvme.target.reserving_host import Host, exchange, in_capsule, register

CONFLICT = Status.RESERVATION_CONFLICT
CPTPL_CLEAR, CPTPL_SET = 2 << 30, 3 << 30
NAMESPACE = UUID(int=7)


@pytest.mark.parametrize(
    ("kind", "registrant", "stranger"),
    [
        (1, (True, False), (True, False)),
        (2, (False, False), (False, False)),
        (3, (True, True), (True, False)),
        (4, (True, True), (False, False)),
        (5, (True, True), (True, False)),
        (6, (True, True), (False, False)),
    ],
)
async def test_each_type_lets_others_do_what_the_specification_says(
    here: Bench, kind: int, registrant: tuple[bool, bool], stranger: tuple[bool, bool]
) -> None:
    async with Host(here, 1) as holder, Host(here, 2) as other, Host(here, 3) as outsider:
        assert await outsider.may() == (True, True)
        assert await holder.register() == await other.register() == 0
        assert await holder.acquire(kind) == 0
        assert await holder.may() == (True, True)
        assert await other.may() == registrant
        assert await outsider.may() == stranger
        assert await holder.release(kind) == 0
        assert await other.may() == await outsider.may() == (True, True)


@pytest.mark.parametrize(
    ("sqe", "data", "reads"),
    [
        (Sqe(NvmOp.FLUSH, nsid=1), b"", False),
        (Sqe(NvmOp.WRITE_ZEROES, nsid=1), b"", False),
        (Sqe(NvmOp.DATASET_MANAGEMENT, nsid=1, cdw11=4), struct.pack("<IIQ", 0, 1, 0), False),
        (Sqe(NvmOp.READ, nsid=1, sgl_bytes=4096), b"", True),
    ],
)
async def test_every_command_of_a_host_that_is_locked_out_conflicts(
    here: Bench, sqe: Sqe, data: bytes, reads: bool
) -> None:
    command = in_capsule(sqe, data) if data else sqe
    async with Host(here, 1) as holder, Host(here, 2) as other:
        await holder.register()
        await holder.acquire(1)
        assert await other.send(command, data) == (0 if reads else CONFLICT)
        await holder.acquire(2, victim=holder.key, action=1)
        assert await other.send(command, data) == CONFLICT
        assert await holder.send(command, data) == 0


async def test_all_queues_and_controllers_of_a_host_are_one_registrant(here: Bench) -> None:
    async with Host(here, 1) as host, Host(here, 1) as again, Host(here, 2) as other:
        second = await host.queue(2)
        await host.register()
        await again.acquire(2)
        assert await host.may() == await again.may() == (True, True)
        assert (await exchange(second, Sqe(NvmOp.FLUSH, nsid=1)))[0] == 0
        assert await other.may() == (False, False)
        _, page = await other.report()
        assert struct.unpack_from("<IBH", page) == (1, 2, 1)
        late = await other.queue(2)
        assert (await exchange(late, Sqe(NvmOp.FLUSH, nsid=1)))[0] == CONFLICT
        second.close()
        late.close()


async def test_a_host_identifier_of_another_host_gives_no_rights(here: Bench) -> None:
    async with Host(here, 1) as holder, Host(here, 2, hostid=bytes([1]) * 16) as pretender:
        await holder.register()
        await holder.acquire(2)
        assert await pretender.may() == (False, False)
        assert await pretender.acquire(2, key=holder.key) == CONFLICT


async def test_the_report_lists_registrants_and_the_holder(here: Bench) -> None:
    async with Host(here, 1) as one, Host(here, 2) as two:
        await one.register()
        await two.register()
        await two.acquire(3)
        status, page = await one.report()
        assert status == 0
        assert struct.unpack_from("<IBHxxB", page) == (2, 3, 2, 0)
        entries = [struct.unpack_from("<HB5xQ16s", page, 64 + 64 * number) for number in range(2)]
        assert entries == [(0xFFFF, 0, one.key, one.hostid), (0xFFFF, 1, two.key, two.hostid)]
        assert not any(page[64 + 128 :])
        # Cut to what the host asked for; 128-bit identifiers need the extended data structure.
        assert (await one.report(length=16))[1] == page[:16]
        assert (await one.report(length=65536))[1] == page.ljust(65536, b"\0")
        assert (await one.report(extended=0))[0] == Status.HOST_IDENTIFIER_FORMAT


async def test_what_the_controller_says_about_reservations(here: Bench, tmp_path: Path) -> None:
    file = ReservationFile(tmp_path / "file", NAMESPACE)
    here.subsystem.add_namespace(here.media(), nsid=2, reservations=Reservations(file))
    async with Host(here, 1) as host:
        _, page = await exchange(host.admin, Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096))
        assert np.frombuffer(page, identify.CONTROLLER)[0]["oncs"] & 1 << 5
        for nsid, rescap in ((1, 0xFE), (2, 0xFF)):
            _, page = await exchange(host.admin, Sqe(AdminOp.IDENTIFY, nsid=nsid, sgl_bytes=4096))
            assert page[31] == rescap
            _, page = await exchange(host.admin, Sqe(AdminOp.IDENTIFY, nsid=nsid, cdw10=8, sgl_bytes=4096))
            assert page[2] == rescap


async def test_preempted_and_released_hosts_are_told(here: Bench) -> None:
    async with Host(here, 1) as one, Host(here, 2) as two, Host(here, 3) as three:
        for host in (one, two, three):
            await host.register()
            await host.admin.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=77)))
        await two.acquire(3)
        assert await one.acquire(4, victim=two.key, action=1) == 0
        for host, notice in ((two, 1), (three, 2)):
            kind, header, _ = await host.admin.pdu()
            cqe = wire.Cqe.unpack(header[8:])
            assert (kind, cqe.cid, cqe.result) == (PduType.CAPSULE_RESP, 77, wire.EVENT_RESERVATION)
            assert await host.log(retain=True) == (1, notice, 0, 1)
            assert await host.log() == (1, notice, 0, 1)
            assert await host.log() == (1, 0, 0, 0)
        assert await one.log() == (0, 0, 0, 0)


async def test_notifications_that_nobody_reads_do_not_pile_up(here: Bench) -> None:
    async with Host(here, 1) as one, Host(here, 2) as two:
        await one.register()
        for _ in range(70):
            await two.register()
            assert await one.acquire(1, victim=two.key, action=1) == 0
        first, notice, more, nsid = await two.log()
        assert (first, notice, more, nsid) == (7, 1, 63, 1)
        assert (await two.log())[:3] == (8, 1, 62)


async def test_masked_notifications_are_not_sent(here: Bench) -> None:
    async with Host(here, 1) as one, Host(here, 2) as two:
        await one.register()
        for nsid, mask in ((1, 1 << 1), (wire.NSID_ALL, 1 << 1 | 1 << 3)):
            sqe = Sqe(AdminOp.SET_FEATURES, nsid=nsid, cdw10=0x82, cdw11=mask)
            assert (await exchange(two.admin, sqe))[0] == 0
            cqe, _ = await two.admin.command(Sqe(AdminOp.GET_FEATURES, nsid=1, cdw10=0x82))
            assert cqe.result == mask
            await two.register()
            await one.acquire(1, victim=two.key, action=1)
            assert await two.log() == (0, 0, 0, 0)
        for nsid in (0, 5, wire.NSID_ALL):
            assert (await exchange(two.admin, Sqe(AdminOp.GET_FEATURES, nsid=nsid, cdw10=0x82)))[0] == 0x00B
        assert (await exchange(two.admin, Sqe(AdminOp.SET_FEATURES, nsid=9, cdw10=0x82)))[0] == 0x00B


async def test_preempt_and_abort_returns_when_no_io_of_the_victim_is_left(here: Bench) -> None:
    media = here.media()
    gate = _shim.Gate(here.reactor.shim, media)
    here.subsystem.remove_namespace(1)
    here.subsystem.add_namespace(gate, nsid=1)
    async with Host(here, 1) as one, Host(here, 2) as two:
        await one.register()
        await two.register()
        await two.acquire(1)
        gate.hold()
        data = b"\x55" * 4096
        await two.io.send(capsule(in_capsule(Sqe(NvmOp.WRITE, nsid=1, cid=9), data), data))
        await until(lambda: gate.held == 1)
        assert await one.acquire(1, victim=two.key, action=2) == 0
        assert gate.held == 0
        _, header, _ = await two.io.pdu()
        cqe = wire.Cqe.unpack(header[8:])
        assert (cqe.cid, cqe.status) == (9, Status.ABORTED_PREEMPTED)
        gate.set_device(media)
        status, block = await exchange(one.io, Sqe(NvmOp.READ, nsid=1, sgl_bytes=4096))
        assert (status, any(block)) == (0, False)


async def test_data_that_arrives_after_the_reservation_is_not_written(here: Bench) -> None:
    async with Host(here, 1) as one, Host(here, 2) as two:
        await one.register()
        await two.io.send(capsule(Sqe(NvmOp.WRITE, nsid=1, cid=9, sgl_bytes=4096)))
        kind, r2t, _ = await two.io.pdu()
        assert kind == PduType.R2T
        assert await one.acquire(1) == 0
        _, ttag, _, _ = wire.DATA_BODY.unpack(r2t[8:])
        body = wire.DATA_BODY.pack(9, ttag, 0, 4096)
        await two.io.send(wire.COMMON_HEADER.pack(PduType.H2C_DATA, wire.FLAG_LAST, 24, 24, 24 + 4096) + body)
        await two.io.send(b"\x55" * 4096)
        _, header, _ = await two.io.pdu()
        assert wire.Cqe.unpack(header[8:]).status == CONFLICT
        _, block = await exchange(one.io, Sqe(NvmOp.READ, nsid=1, sgl_bytes=4096))
        assert not any(block)


async def test_no_write_of_a_busy_host_lands_behind_the_answer(here: Bench) -> None:
    """The host writes ever higher numbers as fast as it can. What the holder reads behind its answer stays."""
    async with Host(here, 1) as one, Host(here, 2) as two:
        await one.register()
        done = asyncio.Event()
        written = 0

        async def hammer() -> None:
            nonlocal written
            for number in count(1):
                if await two.write(fill=number % 256):
                    break
                written += 1
            done.set()

        task = asyncio.create_task(hammer())
        await until(lambda: written > 20)
        assert await one.acquire(1) == 0
        before = (await exchange(one.io, Sqe(NvmOp.READ, nsid=1, sgl_bytes=4096)))[1]
        await asyncio.wait_for(done.wait(), 10)
        await task
        after = (await exchange(one.io, Sqe(NvmOp.READ, nsid=1, sgl_bytes=4096)))[1]
        assert before == after == bytes([written % 256]) * 4096


# --- hostile and mistaken hosts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdw10", "data", "status"),
    [
        (3, bytes(16), Status.INVALID_FIELD),
        (7, bytes(16), Status.INVALID_FIELD),
        (0, bytes(16), Status.INVALID_FIELD),  # a key of 0
        (1 << 30, b"\x01" * 16, Status.INVALID_FIELD),
        (CPTPL_SET, b"\x01" * 16, Status.INVALID_FIELD),  # there is no file
        (0, bytes(12), Status.SGL_DATA_LENGTH),
        (0, bytes(8), Status.SGL_DATA_LENGTH),
        (1, b"\x01" * 16, CONFLICT),
    ],
)
async def test_malformed_commands_are_refused_and_change_nothing(
    here: Bench, cdw10: int, data: bytes, status: int
) -> None:
    async with Host(here, 1) as host:
        assert await host.send(register(cdw10, data), data) == status
        assert await host.send(register(0, bytes(16), nsid=5), bytes(16)) == Status.INVALID_NAMESPACE
        big = Sqe(NvmOp.RESERVATION_REGISTER, nsid=1, sgl_bytes=8192)
        assert await host.send(big) == Status.SGL_DATA_LENGTH
        assert (await host.report())[1][:64] == bytes(64)


async def test_a_host_without_an_identifier_has_no_reservations(here: Bench) -> None:
    async with Host(here, 1) as nameless:
        await nameless.register()
    async with Host(here, 0, hostid=bytes(16)) as nameless:
        assert await nameless.register() == Status.COMMAND_SEQUENCE_ERROR
        assert (await nameless.report())[0] == Status.COMMAND_SEQUENCE_ERROR


async def test_a_flood_is_answered_in_order_and_others_get_their_turn(here: Bench) -> None:
    async with AsyncExitStack() as stack:
        flooder = await stack.enter_async_context(Host(here, 1))
        honest = await stack.enter_async_context(Host(here, 2))
        queues = [await flooder.queue(qid, 32) for qid in range(2, 10)]
        data = struct.pack("<QQ", 0, flooder.key)
        for queue in queues:
            for cid in range(31):
                await queue.send(capsule(replace(in_capsule(register(0, data), data), cid=cid), data))
        assert await honest.register() == 0
        answered_before = 0
        for queue in queues:
            cids = [wire.Cqe.unpack((await queue.pdu())[1][8:]).cid for _ in range(31)]
            assert cids == list(range(31))
            answered_before += len(cids)
        assert answered_before == 8 * 31
        _, page = await honest.report()
        assert struct.unpack_from("<IBH", page) == (2, 0, 2)
        for queue in queues:
            queue.close()


async def test_a_host_with_many_identifiers_leaves_room_for_others(here: Bench) -> None:
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(Host(here, number, nqn="nqn.2026-11.io.example:greedy"))
            for number in range(1, 18)
        ]
        assert [await host.register() for host in hosts] == [0] * 16 + [Status.INTERNAL_ERROR]
        assert await (await stack.enter_async_context(Host(here, 100))).register() == 0


async def test_a_host_that_leaves_with_commands_outstanding_leaves_no_trace(here: Bench) -> None:
    for _ in range(5):
        async with Host(here, 1) as host:
            data = struct.pack("<QQ", 0, host.key)
            for _ in range(20):
                await host.io.send(capsule(register(0, data), data))
    async with Host(here, 2) as other:
        assert await other.register() == 0


# --- kept over restarts -----------------------------------------------------------------------------------------


def _with_file(path: Path) -> Reservations:
    reservations = Reservations(ReservationFile(path, NAMESPACE))
    reservations.restore()
    return reservations


async def test_a_reservation_that_persists_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "reservation.json"
    async with bench(namespace=False) as here:
        here.subsystem.add_namespace(here.media(), reservations=_with_file(path))
        async with Host(here, 1) as one, Host(here, 2) as two:
            assert await two.register() == 0
            assert not path.exists()
            assert await one.register(flags=CPTPL_SET) == 0
            assert path.exists()
            await one.acquire(4)
    async with bench(namespace=False) as here:
        here.subsystem.add_namespace(here.media(), reservations=_with_file(path))
        async with Host(here, 1) as one, Host(here, 2) as two, Host(here, 3) as three:
            assert await three.may() == (False, False)
            assert await two.may() == await one.may() == (True, True)
            _, page = await three.report()
            assert struct.unpack_from("<IBHxxB", page) == (2, 4, 2, 1)
            cqe, _ = await one.admin.command(Sqe(AdminOp.GET_FEATURES, nsid=1, cdw10=0x83))
            assert cqe.result == 1
            # Without CPTPL nothing changes; with 10b it ends with the process.
            assert await one.register(one.key) == 0
            assert path.exists()
            assert await one.register(one.key, flags=CPTPL_CLEAR) == 0
            assert not path.exists()
            for wanted in (1, 0):
                cqe, _ = await one.admin.command(Sqe(AdminOp.SET_FEATURES, nsid=1, cdw10=0x83, cdw11=wanted))
                assert (cqe.status, path.exists()) == (0, bool(wanted))
    async with bench(namespace=False) as here:
        here.subsystem.add_namespace(here.media(), reservations=_with_file(path))
        async with Host(here, 3) as three:
            assert await three.may() == (True, True)


async def test_a_command_that_can_not_be_saved_fails_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with bench(namespace=False) as here:
        here.subsystem.add_namespace(here.media(), reservations=_with_file(folder / "reservation.json"))
        async with Host(here, 1) as one, Host(here, 2) as two:
            await one.register(flags=CPTPL_SET)
            folder.rename(tmp_path / "elsewhere")
            assert await one.acquire(2) == Status.INTERNAL_ERROR
            assert await two.may() == (True, True)
            (tmp_path / "elsewhere").rename(folder)
            assert await one.acquire(2) == 0
            assert await two.may() == (False, False)


async def test_features_of_reservations_name_a_namespace(here: Bench) -> None:
    async with Host(here, 1) as host:
        for sqe, status in (
            (Sqe(AdminOp.SET_FEATURES, nsid=1, cdw10=0x83, cdw11=1), Status.INVALID_FIELD),  # there is no file
            (Sqe(AdminOp.SET_FEATURES, nsid=1, cdw10=0x83, cdw11=0), 0),
            (Sqe(AdminOp.SET_FEATURES, nsid=3, cdw10=0x83, cdw11=0), Status.INVALID_NAMESPACE),
            (Sqe(AdminOp.SET_FEATURES, nsid=1, cdw10=0x83 | 1 << 31), Status.FEATURE_NOT_SAVEABLE),
            (Sqe(AdminOp.GET_FEATURES, nsid=wire.NSID_ALL, cdw10=0x83), Status.INVALID_NAMESPACE),
        ):
            assert (await exchange(host.admin, sqe))[0] == status, sqe


def test_a_crash_between_write_and_rename_leaves_the_old_state(tmp_path: Path) -> None:
    file = ReservationFile(tmp_path / "reservation.json", NAMESPACE)
    before = Reservations(file).state
    host = HostKey("nqn.2026-11.io.example:host", bytes(range(16)))
    old = type(before)({host: 5}, persistent=True)
    file.save(old)
    (tmp_path / "reservation.json.new").write_bytes(b'{"format": 1, "names')
    assert file.load() == old
    new = type(before)({host: 6}, persistent=True, generation=1)
    file.save(new)
    assert file.load() == new
    assert [each.name for each in tmp_path.iterdir()] == ["reservation.json"]
    assert (tmp_path / "reservation.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"\xff", b'{"format": 2}', b"[" * 100_000,
        b'{"format": 1, "namespace": "00000000-0000-0000-0000-000000000008"}',
        b'{"format": 1, "namespace": "00000000-0000-0000-0000-000000000007"}',
        b'{"format": 1, "namespace": "00000000-0000-0000-0000-000000000007", "reservation": {"generation": 0, '
        b'"type": 1, "holder": null, "registrants": []}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reservation.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(FtlError, match=str(path)):
        ReservationFile(path, NAMESPACE).load()
