"""TLS 1.3 with a PSK between our host and our target, and a target before hosts that can't, or won't, speak it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import UnsupportedError
from spdk_ftl_py.nvme import tls, wire
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys
from spdk_ftl_py.nvme.auth.messages import HashId
from spdk_ftl_py.nvme.auth.psk import HeldPsk, Psk, TlsPsk
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.discovery import discover
from spdk_ftl_py.nvme.logs import SECTYPE_TLS13, TREQ_REQUIRED
from spdk_ftl_py.nvme.target.allowed_hosts import AllowedHost, usable_psk
from spdk_ftl_py.nvme.target.connection_log import ConnectionLog
from spdk_ftl_py.nvme.target.peers import PeerLimits
from spdk_ftl_py.nvme.tcp import Connection
from spdk_ftl_py.nvme.tls import TlsError
from spdk_ftl_py.nvme.wire import CommandError, PduType, Status
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, WAIT_S, Bench, bench, capsule, connect_command, ic_req, io, until

PSK, PSK_384, OTHER = Psk.generate(), Psk.generate(HashId.SHA384), Psk.generate()
CIPHERS = {PSK: "TLS_AES_128_GCM_SHA256", PSK_384: "TLS_AES_256_GCM_SHA384"}
STRANGER = HOSTNQN + "2"
SHORT_S = 1

pytestmark = pytest.mark.skipif(not _shim.build_info()["tls"], reason="the shim was built without OpenSSL")


@asynccontextmanager
async def secured(psk: Psk = PSK, *, secure_channel: bool = False, **limits: Any) -> AsyncIterator[Bench]:
    """With a host that has a PSK; any other may come in the clear, unless secure_channel."""
    limits.setdefault("connections", ConnectionLog())
    async with bench(**limits) as here:
        here.subsystem.add_host(HOSTNQN, psk=HeldPsk(psk))
        if secure_channel:
            here.subsystem.secure_listeners |= here.subsystem.listeners
        yield here


def refusals(here: Bench) -> list[str]:
    log = here.target._connections
    assert log is not None
    return [each["reason"] for each in log.refusals]


async def nobody_is_left(here: Bench) -> None:
    (listener,) = here.target._listeners.values()
    await until(lambda: not listener.connections and not len(here.target._half_open) and not here.subsystem.controllers)


async def open_raw(here: Bench, psk: TlsPsk) -> Connection:
    """By TLS, before ICReq."""
    connection = Connection((await here.raw()).sock, is_controller=False, peer="target")
    await connection.start_tls_as_host(identity=psk.identity, key=psk.key, sha384=psk.sha384)
    return connection


# --- our host ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "psk", [PSK, PSK_384, Psk(PSK.secret), Psk(PSK_384.secret)], ids=["01", "02", "00-32", "00-48"]
)
@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
async def test_a_host_with_the_psk_does_its_io_by_tls(psk: Psk, digests: bool) -> None:
    async with secured(psk) as here:
        controller = await here.connect(psk=HeldPsk(psk), header_digest=digests, data_digest=digests)
        cipher = CIPHERS[PSK_384 if psk.sha384 else PSK]
        assert controller.tls_cipher == cipher
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.reactor, namespace)
        data = os.urandom(4096 * 32)
        for lba, count in ((3, 1), (64, 32), (200, 7)):
            part, back = data[: 4096 * count], bytearray(4096 * count)
            assert await io(here.reactor, qpair, _shim.Op.WRITE, lba, count, part) == (0, 0)
            assert await io(here.reactor, qpair, _shim.Op.READ, lba, count, back) == (0, 0)
            assert back == part
        (told,) = [each.describe() for each in here.subsystem.controllers.values()]
        assert told["tls"] == cipher
        await controller.close()
        await nobody_is_left(here)


async def test_many_queues_and_commands_at_once_arrive_whole() -> None:
    """More than a record, and more than sockets hold: what waits is taken up again, both ways."""
    async with secured() as here:
        controller = await here.connect(psk=HeldPsk(PSK))
        (namespace,) = await controller.namespaces()
        qpairs = [await controller.create_io_qpair(here.reactor, namespace) for _ in range(3)]
        data = [os.urandom(4096 * 32) for _ in range(24)]
        back = [bytearray(4096 * 32) for _ in data]
        for op, buffers in ((_shim.Op.WRITE, data), (_shim.Op.READ, back)):
            results = await asyncio.gather(
                *(
                    io(here.reactor, qpairs[number % 3], op, number * 32, 32, buffer)
                    for number, buffer in enumerate(buffers)
                )
            )
            assert set(results) == {(0, 0)}
        assert [bytes(each) for each in back] == data
        await controller.close()


async def test_what_passes_the_network_is_not_the_data() -> None:
    """Else all of this would be for nothing."""
    async with secured() as here:
        seen = bytearray()

        async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while chunk := await source.read(65536):
                seen.extend(chunk)
                to.write(chunk)
                await to.drain()
            to.close()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", here.port)
            await asyncio.gather(pass_on(reader, to_writer), pass_on(to_reader, writer), return_exceptions=True)
            writer.close()
            to_writer.close()

        server = await asyncio.start_server(between, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        data = b"a secret of 16 B" * 256
        for psk in (HeldPsk(PSK), None):
            seen.clear()
            hostnqn = HOSTNQN if psk else STRANGER
            controller = await Controller.connect("127.0.0.1", port, SUBNQN, hostnqn=hostnqn, psk=psk)
            (namespace,) = await controller.namespaces()
            qpair = await controller.create_io_qpair(here.reactor, namespace)
            assert await io(here.reactor, qpair, _shim.Op.WRITE, 3, 1, data) == (0, 0)
            await controller.close()
            # The model is of an admin command's.
            assert (data[:16] in seen, b"spdk-ftl-py controller" in seen) == ((False, False) if psk else (True, True))
        server.close()
        await server.wait_closed()


async def test_psk_and_chap_go_together() -> None:
    keys = HostKeys(HeldKey(DhchapKey.generate()), HeldKey(DhchapKey.generate()))
    async with bench(connections=ConnectionLog()) as here:
        here.subsystem.add_host(HOSTNQN, keys, HeldPsk(PSK))
        controller = await here.connect(psk=HeldPsk(PSK), keys=keys)
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.reactor, namespace)
        assert await io(here.reactor, qpair, _shim.Op.WRITE, 3, 1, bytes(4096)) == (0, 0)
        await controller.close()


@pytest.mark.parametrize(
    ("psk", "hostnqn", "why"),
    [
        (OTHER, HOSTNQN, "TLS handshake"),
        (PSK_384, HOSTNQN, "it has another PSK"),
        (PSK, STRANGER, "it has no PSK here"),
    ],
    ids=["wrong key", "wrong hash", "no such host"],
)
async def test_a_host_without_the_psk_does_not_get_in_by_tls(psk: Psk, hostnqn: str, why: str) -> None:
    async with secured() as here:
        with pytest.raises(TlsError, match="TLS handshake"):
            await here.connect(psk=HeldPsk(psk), hostnqn=hostnqn)
        await nobody_is_left(here)
        (reason,) = refusals(here)
        assert why in reason
        good = await here.connect(psk=HeldPsk(PSK))
        await good.close()


async def test_a_host_with_a_psk_does_not_get_in_in_the_clear() -> None:
    async with secured() as here:
        with pytest.raises(CommandError, match="Connect failed") as error:
            await here.connect()
        assert error.value.status == Status.CONNECT_INVALID_HOST
        await nobody_is_left(here)
        assert refusals(here) == ["it has a PSK, but connected without TLS: hosts with a PSK must use TLS"]


async def test_an_io_queue_in_the_clear_is_refused_to_a_host_that_came_by_tls() -> None:
    async with secured() as here:
        controller = await here.connect(psk=HeldPsk(PSK))
        host = await here.raw()
        await host.initialize()
        cqe = await host.connect(qid=1, cntlid=controller.cntlid, hostid=controller.hostid.bytes)
        assert cqe.status == Status.CONNECT_INVALID_HOST
        host.close()
        await controller.close()


@pytest.mark.parametrize("names", [{"hostnqn": STRANGER}, {"subnqn": SUBNQN + "2"}], ids=["host", "subsystem"])
async def test_the_identity_binds_the_connect(names: dict[str, str]) -> None:
    """Whoever has a key is whom that key is for, and nobody else, and where it is for."""
    async with secured() as here:
        other = type(here.subsystem)(SUBNQN + "2", allow_any_host=True)
        other.add_listener("127.0.0.1", here.port)
        here.target.add_subsystem(other)
        connection = await open_raw(here, PSK.for_tls(HOSTNQN, SUBNQN))
        await connection.initialize_as_host(header_digest=False, data_digest=False)
        sqe, data = connect_command(**names)
        await connection.send(PduType.CAPSULE_CMD, sqe.pack(), data)
        response = await connection.receive({PduType.CAPSULE_RESP: 0})
        assert wire.Cqe.unpack(response.body).status == Status.CONNECT_INVALID_HOST
        assert "it used TLS with" in refusals(here)[0]
        connection.close()
        await nobody_is_left(here)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("psk", [PSK, PSK_384], ids=["sha256", "sha384"])
async def test_either_identity_of_a_key_is_taken(psk: Psk, version: int) -> None:
    """SPDK's is version 0, nvme-cli makes version 1."""
    async with secured(psk) as here:
        connection = await open_raw(here, psk.for_tls(HOSTNQN, SUBNQN, version))
        await connection.initialize_as_host(header_digest=False, data_digest=False)
        connection.close()


async def test_a_host_finds_out_where_a_stranger_took_the_place_of_the_target() -> None:
    """A target that does not have the key, and one that does not speak TLS at all."""
    async with bench() as here:
        here.subsystem.add_host(HOSTNQN, psk=HeldPsk(OTHER))
        with pytest.raises(TlsError, match="TLS handshake"):
            await here.connect(psk=HeldPsk(PSK))
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        connecting = loop.create_task(
            Controller.connect("127.0.0.1", server.getsockname()[1], SUBNQN, hostnqn=HOSTNQN, psk=HeldPsk(PSK))
        )
        sock, _ = await loop.sock_accept(server)
        sock.setblocking(False)
        await loop.sock_recv(sock, 4096)
        await loop.sock_sendall(sock, ic_req(kind=PduType.IC_RESP))
        with pytest.raises(TlsError, match="TLS handshake"):
            await connecting
        sock.close()


# --- who may come in the clear ----------------------------------------------------------------------------------------


async def test_a_secure_channel_takes_nobody_in_the_clear_but_the_target_itself() -> None:
    async with secured(secure_channel=True) as here:
        own = HOSTNQN + ":target"
        here.subsystem.allowed.add(AllowedHost(own, is_target=True))
        with pytest.raises(CommandError) as error:
            await here.connect(hostnqn=STRANGER)
        assert error.value.status == Status.CONNECT_INVALID_HOST
        assert "which is required here" in refusals(here)[0]
        for hostnqn, psk in ((own, None), (HOSTNQN, HeldPsk(PSK))):
            controller = await here.connect(hostnqn=hostnqn, psk=psk)
            assert len(await controller.namespaces()) == 1
            await controller.close()


async def test_without_it_hosts_that_have_no_psk_come_in_the_clear() -> None:
    async with secured() as here:
        controller = await here.connect(hostnqn=STRANGER)
        assert controller.tls_cipher is None
        (told,) = [each.describe() for each in here.subsystem.controllers.values()]
        assert told["tls"] is None
        await controller.close()


async def test_discovery_says_who_has_to_come_by_tls() -> None:
    async with secured() as here:
        for hostnqn, expected in ((HOSTNQN, (TREQ_REQUIRED, SECTYPE_TLS13)), (STRANGER, (0, 0))):
            (entry,) = await discover("127.0.0.1", here.port, hostnqn=hostnqn)
            assert (entry.treq, entry.sectype) == expected
            assert type(entry).unpack(entry.pack()) == entry


async def test_a_secure_channel_tells_by_tls_alone_what_there_is() -> None:
    async with secured(secure_channel=True) as here:
        for hostnqn in (HOSTNQN, STRANGER):
            with pytest.raises(CommandError):
                await discover("127.0.0.1", here.port, hostnqn=hostnqn)
        controller = await here.connect(subnqn=wire.DISCOVERY_NQN, psk=HeldPsk(PSK))
        await controller.close()
        assert all("discovery without TLS" in reason for reason in refusals(here))


# --- peers that mean no good ------------------------------------------------------------------------------------------


RECORDS = {
    "no hello": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "record of 64 KiB": b"\x16\x03\x01\xff\xff" + bytes(65535),
    "empty records": b"\x16\x03\x01\x00\x00" * 2000,
    "rubbish": b"\x16" + bytes(range(256)) * 64,
    "alert": b"\x16\x03\x01\x00\x01\x00\x15\x03\x03\x00\x02\x02\x28",
    "tls 1.2": bytes.fromhex("16030100 2d0100 00290303") + bytes(32) + bytes.fromhex("00 0002 c02f 0100"),
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
async def test_records_that_are_none_end_the_connection(records: bytes) -> None:
    async with secured() as here:
        host = await here.raw()
        try:
            await host.send(records)
        except ConnectionError:
            pass
        assert await host.at_end()
        host.close()
        await nobody_is_left(here)
        assert len(refusals(here)) == 1


@pytest.mark.rig(peers=PeerLimits(handshake_s=SHORT_S), connections=ConnectionLog())
@pytest.mark.parametrize("sent", [b"\x16", b"\x16\x03\x01\x01\x00" + bytes(64), b""], ids=["a byte", "half", "nothing"])
async def test_a_handshake_that_stalls_has_its_time(here: Bench, sent: bytes) -> None:
    host = await here.raw()
    await host.send(sent)
    assert await host.at_end()
    host.close()
    await nobody_is_left(here)


@pytest.mark.rig(peers=PeerLimits(handshake_bytes=4096), connections=ConnectionLog())
async def test_the_bytes_of_a_handshake_count(here: Bench) -> None:
    """Records come as fast as one likes before there is any PDU: here, of a ClientHello of 64 KiB that never ends."""
    here.subsystem.add_host(HOSTNQN, psk=HeldPsk(PSK))
    host = await here.raw()
    for start in (b"\x01\x00\xff\xff", *[b""] * 100):
        part = start + bytes(100)
        try:
            await host.send(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part)
        except ConnectionError:
            break
    assert await host.at_end()
    host.close()
    await nobody_is_left(here)
    assert "sent too much before it was admitted" in refusals(here)[0]


@pytest.mark.rig(peers=PeerLimits(handshake_s=SHORT_S), connections=ConnectionLog())
async def test_a_host_that_stalls_behind_its_handshake_has_no_more_time(here: Bench) -> None:
    here.subsystem.add_host(HOSTNQN, psk=HeldPsk(PSK))
    connection = await open_raw(here, PSK.for_tls(HOSTNQN, SUBNQN))
    assert await connection.tls.receive_into(memoryview(bytearray(1))) == 0  # type: ignore[union-attr]
    connection.close()
    await nobody_is_left(here)


async def test_a_record_that_is_changed_on_its_way_ends_an_io_queue() -> None:
    """Nothing of it reaches the namespace."""
    async with secured() as here:
        controller = await here.connect(psk=HeldPsk(PSK))
        connection = await open_raw(here, PSK.for_tls(HOSTNQN, SUBNQN))
        await connection.initialize_as_host(header_digest=False, data_digest=False)
        sqe, data = connect_command(qid=1, cntlid=controller.cntlid, hostid=controller.hostid.bytes)
        await connection.send(PduType.CAPSULE_CMD, sqe.pack(), data)
        response = await connection.receive({PduType.CAPSULE_RESP: 0})
        assert wire.Cqe.unpack(response.body).status == 0
        (there,) = here.subsystem.controllers.values()
        await until(lambda: there.io_queues.qpairs.get(1) is not None)
        await asyncio.get_running_loop().sock_sendall(connection.socket, b"\x17\x03\x03\x00\x20" + os.urandom(32))
        await until(lambda: 1 not in there.io_queues.qpairs)
        assert there.describe()["commands"] == 0
        connection.close()
        await controller.close()
        await nobody_is_left(here)


async def test_commands_that_come_with_connect_are_not_forgotten_at_the_hand_over() -> None:
    """They are in the session already when the shim takes it over, and the socket will not say so."""
    async with secured() as here:
        controller = await here.connect(psk=HeldPsk(PSK))
        connection = await open_raw(here, PSK.for_tls(HOSTNQN, SUBNQN))
        await connection.initialize_as_host(header_digest=False, data_digest=False)
        sqe, data = connect_command(qid=1, cntlid=controller.cntlid, hostid=controller.hostid.bytes)
        read = wire.Sqe(wire.NvmOp.READ, cid=7, nsid=1, sgl_bytes=4096, sgl_type=wire.SGL_TRANSPORT)
        assert connection.tls is not None
        await connection.tls.send_all(capsule(sqe, data) + capsule(read))
        response = await connection.receive({PduType.CAPSULE_RESP: 0})
        assert wire.Cqe.unpack(response.body).status == 0
        answer = await asyncio.wait_for(connection.receive({PduType.C2H_DATA: 4096}), WAIT_S)
        assert len(answer.data) == 4096
        connection.close()
        await controller.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
@pytest.mark.parametrize(("updates", "stays"), [(3, True), (40, False)])
async def test_key_updates_without_data_are_bounded(updates: int, stays: bool) -> None:
    """They cost us a derivation each, and stand in no PDU that could be counted. (The host is OpenSSL's own.)"""
    async with secured(peers=PeerLimits(handshake_s=600, handshake_bytes=1 << 20)) as here:
        psk = PSK.for_tls(HOSTNQN, SUBNQN)
        client = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{here.port}", "-tls1_3", "-ciphersuites",
            "TLS_AES_128_GCM_SHA256", "-psk", psk.key.hex(), "-psk_identity", psk.identity,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        said = 0
        try:
            await asyncio.wait_for(client.stdout.readuntil(b"Reused, TLSv1.3"), WAIT_S)
            await asyncio.wait_for(client.stdout.readuntil(b"---"), WAIT_S)
            for _ in range(updates):
                client.stdin.write(b"K\n")
                line = await asyncio.wait_for(client.stdout.readline(), WAIT_S)
                while line and b"KEYUPDATE" not in line:
                    line = await asyncio.wait_for(client.stdout.readline(), WAIT_S)
                if not line:
                    break
                said += 1
            if stays:
                assert said == updates
                assert len(here.target._half_open) == 1
            else:
                await asyncio.wait_for(client.stdout.read(), WAIT_S)
        except ConnectionError:
            assert not stays
        finally:
            if client.returncode is None:
                client.kill()
            await client.wait()
        await nobody_is_left(here)


async def test_a_connection_that_ends_without_a_word_ends_the_queues() -> None:
    async with secured() as here:
        controller = await here.connect(psk=HeldPsk(PSK))
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.reactor, namespace)
        (there,) = here.subsystem.controllers.values()
        await there.close()
        await until(lambda: not qpair.connected)
        assert (await io(here.reactor, qpair, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == Status.PATH_ERROR
        await controller.close()
        await nobody_is_left(here)


# --- builds without OpenSSL -------------------------------------------------------------------------------------------


async def test_without_openssl_whoever_asks_for_tls_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    async with secured() as here:
        build = _shim.build_info() | {"tls": ""}
        monkeypatch.setattr(tls._shim, "build_info", lambda: build)
        for attempt in (
            lambda: usable_psk(str(tmp_path / "psk")),
            lambda: here.subsystem.add_listener("127.0.0.2", 4420, secure_channel=True),
        ):
            with pytest.raises(UnsupportedError, match="apt-get install libssl-dev"):
                attempt()
        with pytest.raises(UnsupportedError, match="apt-get install libssl-dev"):
            await here.connect(psk=HeldPsk(PSK))
        host = await here.raw()
        await host.send(b"\x16\x03\x01")
        assert await host.at_end()
        host.close()
        plain = await here.connect(hostnqn=STRANGER)
        await plain.close()
