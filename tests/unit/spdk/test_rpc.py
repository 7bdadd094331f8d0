"""TargetRpc against targets that answer wrongly, partly, late, too much or not at all."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.access.peers import Peer
from spdk_ftl_py.errors import ProtocolError, TargetError
from spdk_ftl_py.spdk import bdevs
from spdk_ftl_py.spdk import rpc as rpc_module
from spdk_ftl_py.spdk.rpc import UNCHANGED, Repeated, TargetRpc

Answer = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


async def ask(
    tmp_path: Path, answer: Answer, question: Callable[[TargetRpc], Awaitable[Any]] | None = None, *, tcp: bool = False
) -> Any:
    """What TargetRpc makes of a target that answers every request by answer()."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        request = json.loads(await reader.readuntil(b"}"))
        try:
            await answer(request, writer)
        finally:
            writer.close()

    serving: list[Any] = []
    path = str(tmp_path / "t")
    server = await (asyncio.start_server(serve, "127.0.0.1", 0) if tcp else asyncio.start_unix_server(serve, path))
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}" if tcp else path
    try:
        rpc = TargetRpc(address)
        return await (question(rpc) if question is not None else rpc.call("m", timeout_s=5))
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def reply(text: Callable[[int], bytes]) -> Answer:
    async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(text(request["id"]))
        await writer.drain()

    return answer


def result(value: Any) -> Answer:
    return reply(lambda number: json.dumps({"jsonrpc": "2.0", "id": number, "result": value}).encode() + b"\n")


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_result_is_returned_over_unix_and_tcp_sockets(tmp_path: Path, tcp: bool) -> None:
    assert await ask(tmp_path, result({"a": [1]}), tcp=tcp) == {"a": [1]}


async def test_an_answer_in_many_pieces_is_put_together(tmp_path: Path) -> None:
    async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        for byte in json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": [{"a": {}}, {"b": "}"}]}).encode():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    assert await ask(tmp_path, answer) == [{"a": {}}, {"b": "}"}]


async def test_a_large_answer_is_fine(tmp_path: Path) -> None:
    value = [{"name": f"bdev{number}", "text": "}" * 100} for number in range(10_000)]
    assert await ask(tmp_path, result(value)) == value


async def test_a_refusal_carries_the_targets_code_and_message(tmp_path: Path) -> None:
    error = {"code": -19, "message": "No such device"}
    answer = reply(lambda number: json.dumps({"id": number, "error": error}).encode())
    with pytest.raises(TargetError, match=r"refused m: No such device \(code -19\)") as caught:
        await ask(tmp_path, answer)
    assert (caught.value.rpc_code, caught.value.errno) == (-19, errno.ENODEV)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lambda number: b"[]}\n", "closed the connection"),
        (lambda number: b"", "closed the connection"),
        (lambda number: b'{"id": 1, "res', "closed the connection"),
        (lambda number: b"\xff\xfe}", "closed the connection"),
        (lambda number: b'{"a":' * 200_000 + b"}", "nested too deeply"),
        (lambda number: b"{}\n", "malformed JSON-RPC reply"),
        (lambda number: b'{"id": -1, "result": 1}\n', "malformed JSON-RPC reply"),
        (lambda number: b'{"id": null, "error": 5}\n', "refused m: 5"),
        (lambda number: b'{"id": null, "error": {"code": "x"}}\n', "refused m: None"),
    ],
)
async def test_a_malformed_answer_is_an_error_and_no_more(
    tmp_path: Path, text: Callable[[int], bytes], expected: str
) -> None:
    with pytest.raises(TargetError, match=expected):
        await ask(tmp_path, reply(text))


async def test_the_control_socket_of_a_daemon_is_told_from_a_target(tmp_path: Path) -> None:
    with pytest.raises(
        TargetError, match="control socket of a spdk-ftl daemon, not an SPDK target: give the RPC socket"
    ) as told:
        await ask(tmp_path, reply(lambda _: b"HTTP/1.0 400 Bad Request\r\nServer: x\r\n\r\nInvalid {}"))
    assert told.value.errno == errno.EPROTO


async def test_a_socket_that_may_not_be_used_is_told_with_whose_right_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(asyncio, "open_unix_connection", refused)
    with pytest.raises(TargetError, match=r"may not use its RPC socket.*run this as the target's user or root") as told:
        await TargetRpc(str(tmp_path / "t")).call("m")
    assert told.value.errno == errno.EACCES


async def test_an_endless_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "REPLY_BYTES_MAX", 1 << 20)
    with pytest.raises(TargetError, match="larger than 1048576 bytes"):
        await ask(tmp_path, reply(lambda number: b'{"result": "' + b"a" * (2 << 20)))


async def test_no_answer_in_time_is_an_error(tmp_path: Path) -> None:
    async def answer(_request: dict[str, Any], _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def question(rpc: TargetRpc) -> Any:
        return await rpc.call("m", timeout_s=0.1)

    with pytest.raises(TargetError, match=r"no reply to m within 0\.1 s") as caught:
        await ask(tmp_path, answer, question)
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.rpc_code is None


async def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    for address in (str(tmp_path / "no"), "127.0.0.1:1", "256.256.256.256:5", "127.0.0.1:99999"):
        with pytest.raises(TargetError, match=r"can't be reached \(.*\): check that it is running") as caught:
            await TargetRpc(address).call("m")
        assert address in caught.value.message


@pytest.mark.parametrize("value", [None, 5, "x", {}, [1], [{}], [{"name": "a"}], [{"name": "a", "block_size": "x"}]])
async def test_bdevs_that_are_none_are_a_protocol_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ProtocolError, match="bdev_get_bdevs"):
        await ask(tmp_path, result(value), bdevs.get_bdevs)


async def test_interleaved_metadata_is_not_counted_into_the_block(tmp_path: Path) -> None:
    entry = {"name": "M", "block_size": 4104, "num_blocks": 8, "md_size": 8, "md_interleave": True}
    (bdev,) = await ask(tmp_path, result([entry]), bdevs.get_bdevs)
    assert (bdev.block_bytes, bdev.metadata_bytes, bdev.metadata_interleaved) == (4096, 8, True)
    entry = {"name": "M", "block_size": 4096, "num_blocks": 8, "md_size": 8, "md_interleave": False}
    (bdev,) = await ask(tmp_path, result([entry]), bdevs.get_bdevs)
    assert (bdev.block_bytes, bdev.metadata_interleaved) == (4096, False)


@pytest.mark.parametrize(
    ("address", "gone"), [("{}/nothing", True), ("{}/" + "x" * 120, False), ("127.0.0.1:{}", True)]
)
async def test_only_a_target_that_nobody_listens_for_is_gone(tmp_path: Path, address: str, gone: bool) -> None:
    """What was made in it is gone then, too; where it only could not be reached it may still stand."""
    with socket.socket() as probe:
        # Bound, and listened on by nobody.
        probe.bind(("127.0.0.1", 0))
        where = address.format(probe.getsockname()[1] if ":" in address else tmp_path)
        with pytest.raises(TargetError) as caught:
            await TargetRpc(where).call("m", timeout_s=5)
    assert rpc_module.is_gone(caught.value) is gone


async def test_a_target_that_breaks_off_or_refuses_is_not_gone(tmp_path: Path) -> None:
    async def hang_up(_request: dict[str, Any], _writer: asyncio.StreamWriter) -> None:
        pass

    async def refuse(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        error = {"code": -errno.ECONNREFUSED, "message": "no"}
        writer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode())

    for answer in (hang_up, refuse):
        with pytest.raises(TargetError) as caught:
            await ask(tmp_path, answer)
        assert not rpc_module.is_gone(caught.value)


async def test_a_target_of_somebody_else_is_told_nothing_unless_it_may_be_his(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    his = 4_000_000
    monkeypatch.setattr(rpc_module, "peer_of", lambda _socket: Peer(7, his, 7))
    told: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.read(1 << 16))
        writer.write(b'{"jsonrpc": "2.0", "id": 0}')
        writer.close()

    server = await asyncio.start_unix_server(listen, str(tmp_path / "t"))
    try:
        with pytest.raises(TargetError, match=rf"served by user {his}, pid 7, but only .*--target-user") as refused:
            await TargetRpc(str(tmp_path / "t")).call("bdev_get_bdevs")
        # It is not gone: what was made in it is not to be forgotten.
        assert not rpc_module.is_gone(refused.value)
        with pytest.raises(TargetError, match="malformed"):
            await TargetRpc(str(tmp_path / "t"), user=his).call("bdev_get_bdevs")
    finally:
        server.close()
        await server.wait_closed()
    assert [b"bdev_get_bdevs" in each for each in told if each] == [True]


async def test_of_a_target_elsewhere_there_is_no_user_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "peer_of", lambda _socket: None)
    assert await ask(tmp_path, result(7), tcp=True) == 7


async def test_the_same_answer_is_not_parsed_again_and_another_one_is(tmp_path: Path) -> None:
    answers: list[Any] = [[1], [1], [1, 2], None, None, {"error": 5}, None]
    sent = iter(answers)

    async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        value = next(sent)
        what = value if isinstance(value, dict) else {"result": value}
        writer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **what}).encode())
        await writer.drain()

    async def question(rpc: TargetRpc) -> list[Any]:
        repeated = Repeated("m")
        told: list[Any] = []
        for _ in answers:
            try:
                told.append(await rpc.call_again(repeated))
            except TargetError as error:
                told.append(error.message)
        return told

    told = await ask(tmp_path, answer, question)
    assert told[:5] == [[1], UNCHANGED, [1, 2], None, UNCHANGED]
    assert "refused m: 5" in told[5]
    assert told[6] is UNCHANGED
