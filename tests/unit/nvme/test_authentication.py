"""DH-HMAC-CHAP between our host and our target, and a target before hosts that can't, or won't, prove themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import AuthenticationError, NotFoundError, ParameterError
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.auth.controller_side import ControllerAuthentication
from spdk_ftl_py.nvme.auth.host_side import HostAuthentication
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys, KeyFile, write_key_file
from spdk_ftl_py.nvme.auth.messages import AuthId, DhGroup, Failure, FailureReason, HashId
from spdk_ftl_py.nvme.auth.response import Policy, Sequence
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.reconnecting import ReconnectingHost
from spdk_ftl_py.nvme.target import authentication
from spdk_ftl_py.nvme.target.allowed_hosts import AllowedHost, AllowedHosts, keys_from_files
from spdk_ftl_py.nvme.target.authentication import REFUSED_COMMANDS_MAX, DhTurns
from spdk_ftl_py.nvme.target.connected_hosts import ConnectedHosts
from spdk_ftl_py.nvme.target.connection_log import ConnectionLog
from spdk_ftl_py.nvme.target.controller import TargetController
from spdk_ftl_py.nvme.target.peers import PeerLimits
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.tcp import LAST_ANSWER_S
from spdk_ftl_py.nvme.wire import AdminOp, CommandError, FabricsType, PduType, Property, Sqe, Status
from unit.nvme.nvme_loop import HOSTID, HOSTNQN, SUBNQN, Bench, RawHost, bench, capsule, io, until

KEY, CTRLR_KEY = DhchapKey.generate(), DhchapKey.generate(HashId.SHA384)
ONE_WAY, BOTH_WAYS = HostKeys(HeldKey(KEY)), HostKeys(HeldKey(KEY), HeldKey(CTRLR_KEY))
WRONG = HeldKey(DhchapKey.generate())
NULL_ONLY = Policy(dh_groups=(DhGroup.NULL,))
ENABLED = 0x00460001


@asynccontextmanager
async def guarded(keys: HostKeys = BOTH_WAYS, **limits: Any) -> AsyncIterator[Bench]:
    async with bench(**limits) as here:
        here.subsystem.add_host(HOSTNQN, keys)
        yield here


# --- our host ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [ONE_WAY, BOTH_WAYS], ids=["one way", "both ways"])
@pytest.mark.parametrize(
    "policy",
    [
        Policy((HashId.SHA256,), (DhGroup.NULL,)),
        Policy((HashId.SHA384,), (DhGroup.FFDHE2048,)),
        Policy((HashId.SHA512,), (DhGroup.FFDHE8192,)),
        None,
    ],
    ids=["sha256-null", "sha384-ffdhe2048", "sha512-ffdhe8192", "default"],
)
@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
async def test_a_host_with_the_key_does_its_io(keys: HostKeys, policy: Policy | None, digests: bool) -> None:
    async with guarded() as here:
        controller = await here.connect(keys=keys, policy=policy, header_digest=digests, data_digest=digests)
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.reactor, namespace)
        data, back = bytes(range(256)) * 16, bytearray(4096)
        assert await io(here.reactor, qpair, _shim.Op.WRITE, 3, 1, data) == (0, 0)
        assert await io(here.reactor, qpair, _shim.Op.READ, 3, 1, back) == (0, 0)
        assert back == data
        await controller.close()


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        (None, "requires authentication of host"),
        (HostKeys(WRONG), "refuses: authentication failed"),
        (HostKeys(HeldKey(KEY), WRONG), "did not authenticate.*another key"),
    ],
    ids=["no key", "wrong key", "wrong controller key"],
)
async def test_a_host_without_the_keys_does_not_get_in(keys: HostKeys | None, match: str) -> None:
    async with guarded() as here:
        with pytest.raises(AuthenticationError, match=match):
            await here.connect(keys=keys)
        await until(lambda: not here.subsystem.controllers)
        good = await here.connect(keys=BOTH_WAYS)
        await good.close()


async def test_a_target_that_cannot_prove_itself_is_left_though_it_asks_for_nothing(here: Bench) -> None:
    """So it is where a stranger took the place of the controller that is meant."""
    with pytest.raises(AuthenticationError, match="does not support authentication"):
        await here.connect(keys=BOTH_WAYS)
    here.subsystem.add_host(HOSTNQN, HostKeys(HeldKey(KEY), WRONG))
    with pytest.raises(AuthenticationError, match="another key"):
        await here.connect(keys=BOTH_WAYS)


async def test_a_host_that_need_not_prove_itself_may_have_a_key(here: Bench) -> None:
    controller = await here.connect(keys=ONE_WAY)
    assert len(await controller.namespaces()) == 1
    await controller.close()


async def test_other_hosts_of_the_subsystem_need_no_key() -> None:
    async with guarded() as here:
        controller = await here.connect(hostnqn=HOSTNQN + "2")
        await controller.close()


async def test_keys_change_while_hosts_are_connected(tmp_path: Path) -> None:
    path, ctrlr_path = tmp_path / "key", tmp_path / "ctrlr-key"
    write_key_file(path, KEY)
    write_key_file(ctrlr_path, CTRLR_KEY)
    async with guarded(HostKeys(KeyFile(path), KeyFile(ctrlr_path))) as here:
        staying = await here.connect(keys=BOTH_WAYS)
        new, new_ctrlr = DhchapKey.generate(HashId.SHA512), DhchapKey.generate()
        write_key_file(path, new)
        write_key_file(ctrlr_path, new_ctrlr)
        with pytest.raises(AuthenticationError):
            await here.connect(keys=BOTH_WAYS)
        controller = await here.connect(keys=HostKeys(HeldKey(new), HeldKey(new_ctrlr)))
        assert len(await staying.namespaces()) == 1
        await controller.close()
        path.chmod(0o640)
        with pytest.raises(AuthenticationError):
            await here.connect(keys=HostKeys(HeldKey(new)))
        with pytest.raises(ParameterError, match="mode 0640"):
            await here.connect(keys=HostKeys(KeyFile(path)))
        await staying.close()


async def test_a_host_that_reconnects_proves_itself_again() -> None:
    async with guarded() as here:
        host = await ReconnectingHost.connect(
            here.reactor, "127.0.0.1", here.port, SUBNQN, hostnqn=HOSTNQN, keys=BOTH_WAYS, reconnect_delay_s=0.01
        )
        await here.subsystem.disconnect()
        await until(lambda: host.losses == 1 and host.connected)
        assert (await io(here.reactor, host.device, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == 0
        await host.close()


async def test_an_io_queue_is_not_had_with_what_the_admin_queue_has_proved() -> None:
    async with guarded() as here:
        controller = await here.connect(keys=ONE_WAY)
        (namespace,) = await controller.namespaces()
        controller._keys = HostKeys(WRONG)
        with pytest.raises(AuthenticationError):
            await controller.create_io_qpair(here.reactor, namespace)
        assert here.subsystem.io_qpair_count == 0
        controller._keys = ONE_WAY
        await controller.create_io_qpair(here.reactor, namespace)
        await controller.close()


# --- hosts that are none ----------------------------------------------------------------------------------------------


def send_sqe(message: bytes, **changes: int) -> Sqe:
    fields = {"cdw10": wire.AUTH_FIELDS, "cdw11": len(message), **changes}
    return Sqe(
        AdminOp.FABRICS, cid=9, nsid=FabricsType.AUTHENTICATION_SEND, sgl_bytes=len(message),
        sgl_type=wire.SGL_IN_CAPSULE, **fields,
    )  # fmt: skip


def receive_sqe(length: int = 4096, **changes: int) -> Sqe:
    fields = {"cdw10": wire.AUTH_FIELDS, "cdw11": length, **changes}
    return Sqe(AdminOp.FABRICS, cid=9, nsid=FabricsType.AUTHENTICATION_RECEIVE, sgl_bytes=length, **fields)


class ProvingHost:
    """What a host has to say, on a raw connection."""

    def __init__(self, raw: RawHost, key: DhchapKey = KEY, ctrlr_key: DhchapKey | None = None) -> None:
        self.raw = raw
        self.side = HostAuthentication(
            key, ctrlr_key, tid=5, hostnqn=HOSTNQN, subnqn=SUBNQN, sequence=Sequence(), policy=NULL_ONLY
        )

    async def send(self, message: bytes) -> int:
        return (await self.raw.command(send_sqe(message), message))[0].status

    async def receive(self) -> bytes:
        cqe, data = await self.raw.command(receive_sqe())
        assert cqe.status == 0
        assert len(data) == 4096
        return data

    async def prove(self) -> None:
        assert await self.send(self.side.negotiate()) == 0
        assert await self.send(self.side.reply(await self.receive())) == 0
        last = self.side.finish(await self.receive())
        if last is not None:
            assert await self.send(last) == 0


async def arrive(here: Bench, **changes: Any) -> RawHost:
    """Connected, and asked for its proof."""
    raw = await here.raw()
    await raw.initialize()
    cqe = await raw.connect(**changes)
    assert (cqe.status, cqe.result & ~0xFFFF) == (0, wire.CONNECT_ATR)
    return raw


async def test_nothing_is_answered_before_the_proof_but_authentication_commands() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        for sqe in (
            Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096),
            Sqe(AdminOp.KEEP_ALIVE),
            Sqe(AdminOp.FABRICS, nsid=FabricsType.PROPERTY_GET, cdw10=1),
            Sqe(AdminOp.FABRICS, nsid=FabricsType.PROPERTY_SET, cdw11=Property.CC, cdw12=ENABLED),
            Sqe(AdminOp.FABRICS, nsid=FabricsType.CONNECT),
            Sqe(0xFF),
        ):
            cqe, data = await raw.command(sqe)
            assert (cqe.status, cqe.do_not_retry, data) == (Status.AUTHENTICATION_REQUIRED, True, b"")
        (controller,) = here.subsystem.controllers.values()
        assert not controller.authenticated
        await ProvingHost(raw).prove()
        assert controller.authenticated
        assert (await raw.set_property(Property.CC, ENABLED)).status == 0
        raw.close()


async def test_a_host_that_sends_everything_but_its_proof_is_disconnected() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        for _ in range(REFUSED_COMMANDS_MAX + 1):
            assert (await raw.get_property(Property.CSTS)).status == Status.AUTHENTICATION_REQUIRED
        # Not because its time is up.
        await asyncio.wait_for(raw.at_end(), PeerLimits().handshake_s / 2)
        raw.close()
        await until(lambda: not here.subsystem.controllers)


async def test_a_host_that_says_nothing_is_disconnected() -> None:
    connections = ConnectionLog()
    async with guarded(connections=connections, peers=PeerLimits(handshake_s=1)) as here:
        proven = await arrive(here)
        await ProvingHost(proven).prove()
        # From its connection on: its Connect gives it no more time.
        raw = await here.raw()
        begin = asyncio.get_running_loop().time()
        await asyncio.sleep(0.6)
        await raw.initialize()
        assert (await raw.connect()).status == 0
        assert await raw.at_end()
        assert asyncio.get_running_loop().time() - begin < 1.5
        raw.close()
        await until(lambda: len(here.subsystem.controllers) == 1)
        assert [each["reason"] for each in connections.refusals] == ["it did not authenticate within 1 s"]
        assert (await proven.set_property(Property.CC, ENABLED)).status == 0
        proven.close()


async def test_an_io_queue_that_says_nothing_is_disconnected() -> None:
    async with guarded(peers=PeerLimits(handshake_s=1)) as here:
        controller = await here.connect(keys=ONE_WAY, hostid=None)
        raw = await arrive(here, qid=1, cntlid=controller.cntlid, hostid=controller.hostid.bytes)
        assert await raw.at_end()
        raw.close()
        await controller.close()


@pytest.mark.parametrize("qid", [0, 1], ids=["admin", "I/O"])
@pytest.mark.parametrize("limits", [{"handshake_pdus": 10}, {"handshake_bytes": 4096}], ids=["PDUs", "bytes"])
async def test_what_may_come_before_the_proof_is_bounded(qid: int, limits: dict[str, int]) -> None:
    """Also where each of it is such a message as a proof consists of."""
    async with guarded(peers=PeerLimits(**limits)) as here:
        controller = await here.connect(keys=ONE_WAY, hostid=None)
        target = {"qid": 1, "cntlid": controller.cntlid, "hostid": controller.hostid.bytes} if qid else {}
        raw = await arrive(here, **target)
        refused = capsule(send_sqe(bytes(400), cdw11=399), bytes(400))
        for _ in range(5):
            await raw.send(refused)
            kind, header, _ = await raw.pdu()
            assert (kind, wire.Cqe.unpack(header[8:]).status) == (PduType.CAPSULE_RESP, Status.INVALID_FIELD)
        # With ICReq and Connect it is up now, or all but.
        await raw.send(refused * 6)
        assert await asyncio.wait_for(raw.at_end(), PeerLimits().handshake_s / 2)
        raw.close()
        # And who has proved himself is not counted any more.
        for _ in range(20):
            assert len(await controller.namespaces()) == 1
        await controller.close()


@pytest.mark.parametrize("qid", [0, 1], ids=["admin", "I/O"])
async def test_who_has_not_proved_himself_makes_room_for_newcomers(qid: int) -> None:
    connections = ConnectionLog()
    async with guarded(connections=connections, peers=PeerLimits(half_open_per_address=3)) as here:
        controller = await here.connect(keys=ONE_WAY, hostid=None)
        target = {"qid": 1, "cntlid": controller.cntlid, "hostid": controller.hostid.bytes} if qid else {}
        strangers = [await arrive(here, **target) for _ in range(3)]
        newcomer = await here.connect(keys=ONE_WAY)
        assert await asyncio.wait_for(strangers[0].at_end(), PeerLimits().handshake_s / 2)
        # Who has is none of them.
        strangers += [await arrive(here, **target) for _ in range(3)]
        assert len(await controller.namespaces()) == len(await newcomer.namespaces()) == 1
        if not qid:
            assert [each["reason"] for each in connections.refusals] == [
                "it did not authenticate: newer connections took its place"
            ]
        for stranger in strangers:
            stranger.close()
        await newcomer.close()
        await controller.close()


async def test_who_has_not_proved_himself_takes_no_place_of_the_host_that_he_says_he_is() -> None:
    async with guarded(peers=PeerLimits(controllers_per_host=2)) as here:
        strangers = [await arrive(here) for _ in range(4)]
        controllers = [await here.connect(keys=ONE_WAY, hostid=None) for _ in range(2)]
        with pytest.raises(CommandError) as busy:
            await here.connect(keys=ONE_WAY)
        assert busy.value.status == Status.CONNECT_CONTROLLER_BUSY
        # Nor its I/O queues.
        (namespace,) = await controllers[0].namespaces()
        target = {"cntlid": controllers[0].cntlid, "hostid": controllers[0].hostid.bytes}
        strangers += [await arrive(here, qid=qid, **target) for qid in (1, 2)]
        assert here.subsystem.io_qpair_count == 0
        qpair = await controllers[0].create_io_qpair(here.reactor, namespace)
        assert (await io(here.reactor, qpair, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == 0
        for stranger in strangers:
            stranger.close()
        for controller in controllers:
            await controller.close()


async def test_a_place_is_not_had_twice_by_proofs_at_the_same_time() -> None:
    connections = ConnectionLog()
    async with guarded(ONE_WAY, connections=connections, peers=PeerLimits(controllers_per_host=1)) as here:
        first, second = await arrive(here), await arrive(here)
        await ProvingHost(first).prove()
        await ProvingHost(second).prove()
        assert await asyncio.wait_for(second.at_end(), PeerLimits().handshake_s / 2)
        assert (await first.set_property(Property.CC, ENABLED)).status == 0
        await until(lambda: len(here.subsystem.controllers) == 1)
        assert "too many controllers" in connections.refusals[0]["reason"]
        first.close()
        second.close()


async def test_a_queue_that_is_proved_twice_is_the_first_ones() -> None:
    async with guarded(ONE_WAY) as here:
        controller = await here.connect(keys=ONE_WAY, hostid=None)
        target = {"qid": 1, "cntlid": controller.cntlid, "hostid": controller.hostid.bytes}
        first, second = await arrive(here, **target), await arrive(here, **target)
        await ProvingHost(second).prove()
        await ProvingHost(first).prove()
        assert await asyncio.wait_for(first.at_end(), PeerLimits().handshake_s / 2)
        assert here.subsystem.io_qpair_count == 1
        first.close()
        second.close()
        await controller.close()


async def test_a_wrong_key_is_told_and_ends_the_connection() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        host = ProvingHost(raw, DhchapKey.generate())
        assert await host.send(host.side.negotiate()) == 0
        assert await host.send(host.side.reply(await host.receive())) == 0
        failure = Failure.unpack(await host.receive())
        assert (failure.auth_id, failure.tid) == (AuthId.FAILURE1, 5)
        assert failure.explanation == FailureReason.AUTHENTICATION_FAILED
        assert await raw.at_end()
        raw.close()
        await until(lambda: not here.subsystem.controllers)


async def test_a_host_has_read_that_it_failed_before_the_connection_ends() -> None:
    """Linux 6.12 hangs where the end overtakes the answer."""
    async with guarded() as here:
        raw = await arrive(here)
        host = ProvingHost(raw, DhchapKey.generate())
        assert await host.send(host.side.negotiate()) == 0
        assert await host.send(host.side.reply(await host.receive())) == 0
        assert Failure.unpack(await host.receive()).explanation == FailureReason.AUTHENTICATION_FAILED
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(raw.at_end(), LAST_ANSWER_S / 2)
        assert await raw.at_end()
        raw.close()


async def test_after_a_failure_nothing_helps() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        host = ProvingHost(raw)
        assert await host.send(b"nonsense") == 0
        assert await host.send(host.side.negotiate()) == 0
        assert (await raw.get_property(Property.CSTS)).status == Status.AUTHENTICATION_REQUIRED
        assert Failure.unpack(await host.receive()).explanation == FailureReason.INCORRECT_MESSAGE
        assert await raw.at_end()
        raw.close()


@pytest.mark.parametrize(
    ("sqe", "data"),
    [
        (send_sqe(bytes(72), cdw10=wire.AUTH_FIELDS ^ 1 << 8), bytes(72)),
        (send_sqe(bytes(72), cdw10=wire.AUTH_FIELDS ^ 1 << 16), bytes(72)),
        (send_sqe(bytes(72), cdw10=wire.AUTH_FIELDS ^ 1 << 24), bytes(72)),
        (send_sqe(bytes(72), cdw11=71), bytes(72)),
        (send_sqe(bytes(4097)), bytes(4097)),
        (receive_sqe(4096, cdw11=4095), b""),
        (receive_sqe(4096, cdw10=0), b""),
        (receive_sqe(0), b""),
        (receive_sqe(8193), b""),
        (receive_sqe(0xFFFFFFFF), b""),
    ],
)
async def test_a_malformed_authentication_command_is_refused(sqe: Sqe, data: bytes) -> None:
    async with guarded() as here:
        raw = await arrive(here)
        assert (await raw.command(sqe, data))[0].status == Status.INVALID_FIELD
        await ProvingHost(raw).prove()
        raw.close()


async def test_no_room_for_the_answer_ends_the_connection() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        host = ProvingHost(raw)
        assert await host.send(host.side.negotiate()) == 0
        await raw.send(capsule(receive_sqe(16)))
        assert await raw.at_end()
        raw.close()


async def test_a_message_may_come_by_r2t_but_not_many_at_a_time() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        host = ProvingHost(raw)
        message = host.side.negotiate()
        sqe = Sqe(
            AdminOp.FABRICS, cid=9, nsid=FabricsType.AUTHENTICATION_SEND, sgl_bytes=len(message),
            cdw10=wire.AUTH_FIELDS, cdw11=len(message),
        )  # fmt: skip
        await raw.send(capsule(sqe))
        kind, r2t, _ = await raw.pdu()
        assert kind == PduType.R2T
        assert (await raw.command(Sqe(AdminOp.FABRICS, cid=10, nsid=5, sgl_bytes=72)))[0].status == (
            Status.SGL_DATA_LENGTH
        )
        head = wire.COMMON_HEADER.pack(PduType.H2C_DATA, wire.FLAG_LAST, 24, 24, 24 + len(message))
        await raw.send(head + r2t[8:12] + bytes(4) + len(message).to_bytes(4, "little") + bytes(4) + message)
        kind, header, _ = await raw.pdu()
        assert (kind, wire.Cqe.unpack(header[8:]).status) == (PduType.CAPSULE_RESP, 0)
        side = host.side
        assert await host.send(side.reply(await host.receive())) == 0
        assert side.finish(await host.receive()) is None
        assert (await raw.set_property(Property.CC, ENABLED)).status == 0
        raw.close()


async def test_who_has_not_proved_himself_is_owed_nothing_and_keeps_nobody() -> None:
    async with guarded() as here:
        hosts = here.subsystem.connected_hosts = ConnectedHosts()
        stranger = await arrive(here)
        assert hosts.hosts == []
        raw = await arrive(here)
        await ProvingHost(raw).prove()
        assert (await raw.set_property(Property.CC, ENABLED)).status == 0
        assert [host.hostid for host in hosts.hosts] == [HOSTID]
        await raw.set_property(Property.CC, ENABLED | wire.SHN_NORMAL << wire.CC_SHN_SHIFT)
        await until(lambda: hosts.hosts == [])
        raw.close()
        stranger.close()


async def test_who_proves_himself_and_who_does_not_is_logged_as_what_he_is() -> None:
    connections = ConnectionLog()
    async with guarded(connections=connections) as here:
        with pytest.raises(AuthenticationError):
            await here.connect(keys=HostKeys(WRONG))
        await until(lambda: len(connections.refusals) == 1)
        controller = await here.connect(keys=BOTH_WAYS, policy=Policy((HashId.SHA512,), (DhGroup.FFDHE2048,)))
        (its,) = here.subsystem.controllers.values()
        assert isinstance(its, TargetController)
        assert its.describe()["authentication"] == "sha512, ffdhe2048, both ways"
        (namespace,) = await controller.namespaces()
        controller._keys = HostKeys(WRONG)
        with pytest.raises(AuthenticationError):
            await controller.create_io_qpair(here.reactor, namespace)
        await until(lambda: connections.refusals[0]["count"] == 2)
        (stranger,) = connections.refusals
        assert stranger["hostnqn"] == HOSTNQN
        assert "did not authenticate: the host has another key" in stranger["reason"]
        assert connections.disconnected == []
        await controller.close()
        await until(lambda: len(connections.disconnected) == 1)
        raw = await arrive(here)
        raw.close()
        await until(lambda: len(connections.refusals) == 2)
        assert len(connections.disconnected) == 1


# --- again, later -----------------------------------------------------------------------------------------------------


async def test_a_host_may_prove_itself_again_while_it_goes_on() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        await ProvingHost(raw).prove()
        assert (await raw.set_property(Property.CC, ENABLED)).status == 0
        await ProvingHost(raw, ctrlr_key=CTRLR_KEY).prove()
        half = ProvingHost(raw)
        assert await half.send(half.side.negotiate()) == 0
        await half.receive()
        assert (await raw.get_property(Property.CSTS)).result == wire.CSTS_RDY
        await ProvingHost(raw).prove()
        new = DhchapKey.generate()
        here.subsystem.allowed.set_keys(HOSTNQN, HostKeys(HeldKey(new)))
        await ProvingHost(raw, new).prove()
        assert (await raw.get_property(Property.CSTS)).result == wire.CSTS_RDY
        old = ProvingHost(raw)
        assert await old.send(old.side.negotiate()) == 0
        assert await old.send(old.side.reply(await old.receive())) == 0
        Failure.unpack(await old.receive())
        assert await raw.at_end()
        raw.close()
        await until(lambda: not here.subsystem.controllers)


async def test_without_a_key_there_is_nothing_to_prove(here: Bench) -> None:
    raw = await here.raw()
    await raw.enable()
    host = ProvingHost(raw)
    assert await host.send(host.side.negotiate()) == Status.INVALID_OPCODE
    assert (await raw.command(receive_sqe()))[0].status == Status.INVALID_OPCODE
    assert (await raw.get_property(Property.CSTS)).result == wire.CSTS_RDY
    raw.close()


async def test_a_host_whose_key_is_taken_away_meanwhile_does_not_get_in() -> None:
    async with guarded() as here:
        raw = await arrive(here)
        here.subsystem.allowed.set_keys(HOSTNQN, None)
        await raw.send(capsule(send_sqe(bytes(72)), bytes(72)))
        assert await raw.at_end()
        raw.close()


async def test_an_io_queue_of_an_earlier_life_of_its_controller_is_not_taken_over() -> None:
    async with guarded() as here:
        admin = await arrive(here)
        await ProvingHost(admin).prove()
        assert (await admin.set_property(Property.CC, ENABLED)).status == 0
        (controller,) = here.subsystem.controllers.values()
        raw = await arrive(here, qid=1, cntlid=controller.cntlid)
        host = ProvingHost(raw)
        assert await host.send(host.side.negotiate()) == 0
        assert (await admin.set_property(Property.CC, 0)).status == 0
        while (await admin.get_property(Property.CSTS)).result & wire.CSTS_RDY:
            pass
        assert (await admin.set_property(Property.CC, ENABLED)).status == 0
        assert await host.send(host.side.reply(await host.receive())) == 0
        assert host.side.finish(await host.receive()) is None
        assert await raw.at_end()
        assert here.subsystem.io_qpair_count == 0
        raw.close()
        admin.close()


def test_a_record_has_where_keys_are_and_not_what_they_are(tmp_path: Path) -> None:
    write_key_file(tmp_path / "key", KEY)
    hosts = AllowedHosts([AllowedHost(HOSTNQN, keys=keys_from_files(str(tmp_path / "key"), None))])
    hosts.add(AllowedHost(HOSTNQN + "2"))
    record = json.loads(json.dumps(hosts.to_record()))
    assert KEY.format() not in json.dumps(record)
    again = AllowedHosts.from_record(record)
    assert again.hosts == hosts.hosts
    admitted = again.admit(HOSTNQN)
    assert admitted is not None
    assert admitted.keys is not None
    assert admitted.keys.key.load() == KEY
    again.set_keys(HOSTNQN, None)
    assert again.hosts[0].keys is None
    with pytest.raises(NotFoundError):
        again.set_keys(HOSTNQN + "3", None)


@pytest.mark.parametrize("lost", [None, 3, ""])
def test_a_host_whose_key_a_record_has_lost_is_not_let_in_without(lost: object) -> None:
    with pytest.raises(ValueError, match="is not an allowed host"):
        AllowedHost.from_record({"nqn": HOSTNQN, "dhchap_key": lost})
    with pytest.raises(ParameterError, match="give dhchap_key too"):
        AllowedHost.from_record({"nqn": HOSTNQN, "dhchap_ctrlr_key": "/key"})


async def test_hosts_and_keys_of_a_subsystem_go_together() -> None:
    subsystem = Subsystem(SUBNQN)
    subsystem.add_host(HOSTNQN, ONE_WAY)
    assert subsystem.keys_of(HOSTNQN) == ONE_WAY
    await subsystem.remove_host(HOSTNQN)
    assert subsystem.keys_of(HOSTNQN) is None


async def test_calculations_in_dh_groups_leave_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: each takes 10 ms, and only a quarter of the time may go to them."""
    now = 0.0
    pauses: list[float] = []

    async def sleep(delay_s: float) -> None:
        nonlocal now
        pauses.append(delay_s)
        now += delay_s

    def work() -> None:
        nonlocal now
        now += 0.01

    turns = DhTurns()
    monkeypatch.setattr(authentication.time, "monotonic", lambda: now)
    monkeypatch.setattr(authentication.asyncio, "sleep", sleep)
    for _ in range(10):
        await turns.run("peer", work)
    assert pauses == pytest.approx([0.0] + [0.03] * 9)


async def test_who_begins_many_proofs_is_not_waited_for_by_others() -> None:
    turns = DhTurns()
    done: list[str] = []

    async def calculate(peer: str) -> None:
        await turns.run(peer, lambda: done.append(peer))

    await asyncio.gather(*(calculate(peer) for peer in "aaaaab"))
    assert done == list("abaaaa")
    # And nobody is remembered for it.
    assert not turns._peers


async def test_only_calculations_in_dh_groups_wait_for_a_turn() -> None:
    sides = [
        ControllerAuthentication(ONE_WAY, hostnqn=HOSTNQN, subnqn=SUBNQN, sequence=Sequence(), policy=policy)
        for policy in (NULL_ONLY, Policy(dh_groups=(DhGroup.FFDHE2048,)))
    ]
    for side, costs in zip(sides, (False, True), strict=True):
        host = HostAuthentication(KEY, None, tid=1, hostnqn=HOSTNQN, subnqn=SUBNQN, sequence=Sequence())
        assert not side.expensive(b"")
        side.send(host.negotiate())
        assert side.expensive(None) == costs
        reply = host.reply(side.receive())
        assert side.expensive(reply) == costs
        side.send(reply)
        assert not side.expensive(None)
        host.finish(side.receive())


async def test_many_strangers_at_once_do_not_keep_a_host_out() -> None:
    async with guarded() as here:
        strangers = await asyncio.gather(
            *(here.connect(keys=HostKeys(WRONG)) for _ in range(20)),
            here.connect(keys=BOTH_WAYS),
            return_exceptions=True,
        )
        good = strangers.pop()
        assert isinstance(good, Controller)
        assert all(isinstance(error, AuthenticationError) for error in strangers)
        await good.close()
