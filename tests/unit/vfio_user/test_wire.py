"""Messages: what is packed is read again, and nothing else does harm."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.errors import FtlError, PathError, ProtocolError
from spdk_ftl_py.vfio_user import wire
from spdk_ftl_py.vfio_user.fd_socket import MessageReader, MessageWriter
from spdk_ftl_py.vfio_user.wire import Command, Header, RegionInfo
from support.descriptors import open_descriptors, opened_since


@pytest.mark.parametrize("size", [0, 15, wire.HEADER.size + wire.PAYLOAD_BYTES_MAX + 1, 1 << 31])
def test_a_message_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        Header.unpack(Header(1, Command.REGION_READ, size).pack())


def test_an_error_reply_has_no_payload() -> None:
    request = Header(7, Command.DMA_MAP, 48)
    reply = wire.pack_reply(request, b"lost", error=22)
    header = Header.unpack(reply)
    assert (len(reply), header.message_id, header.error) == (16, 7, 22)
    assert header.flags & wire.ERROR


@given(st.binary(max_size=200))
def test_any_version_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        major, minor, capabilities = wire.unpack_version(payload)
        assert (major, minor) == wire.VERSION.unpack_from(payload)
        assert isinstance(capabilities, dict)


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"capabilities": 1}', b"\xff", b"[" * 3000, b'{"capabilities": {}}x'])
def test_json_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.unpack_version(wire.VERSION.pack(0, 1) + text + b"\0")


def test_version_has_capabilities() -> None:
    assert wire.unpack_version(wire.pack_version(1, {"max_msg_fds": 8})) == (0, 1, {"max_msg_fds": 8})
    assert wire.unpack_version(wire.pack_version(1)) == (0, 1, {})


def test_areas_to_map_need_room() -> None:
    info = RegionInfo(0, 8192, wire.REGION_FLAG_READ, ((4096, 4096),))
    whole = info.pack(4096)
    assert RegionInfo.unpack(whole).areas == ((4096, 4096),)
    short = info.pack(wire.REGION_INFO.size)
    assert len(short) == wire.REGION_INFO.size
    assert wire.REGION_INFO.unpack(short)[0] == len(whole)
    assert RegionInfo.unpack(short).areas == ()


@given(st.binary(max_size=120), st.integers(0, 2**32 - 1))
def test_any_region_info_is_read_or_refused(tail: bytes, at: int) -> None:
    payload = wire.REGION_INFO.pack(0, wire.REGION_FLAG_CAPS, 0, at % 160, 1, 0) + tail
    with contextlib.suppress(ProtocolError):
        assert len(RegionInfo.unpack(payload).areas) <= len(payload)


def test_capabilities_that_go_round_end() -> None:
    capability = wire.SPARSE_MMAP.pack(7, 1, wire.REGION_INFO.size, 0, 0)
    with pytest.raises(ProtocolError):
        RegionInfo.unpack(wire.REGION_INFO.pack(0, wire.REGION_FLAG_CAPS, 0, 32, 1, 0) + capability)


# --- the socket ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), max_size=12), st.integers(0, 3))
def test_messages_come_in_any_pieces(cuts: list[int], fds: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        before = open_descriptors()
        messages = [wire.pack_command(n, Command.REGION_READ, bytes(range(n * 7))) for n in range(4)]
        data = b"".join(messages)
        reader, got = MessageReader(ours), []
        sent = 0
        for cut in [*cuts, len(data)]:
            piece = data[sent : sent + cut]
            if piece:
                socket.send_fds(theirs, [piece], [0] * fds if sent == 0 else [])
            sent += len(piece)
            while (message := reader.read()) is not None:
                got.append(message)
        assert [message.header.pack() + message.payload for message in got] == messages
        assert [len(message.descriptors) for message in got] == [fds, 0, 0, 0]
        for message in got:
            message.close()
        assert not opened_since(before)


@given(st.binary(max_size=300), st.integers(0, 12))
def test_any_bytes_are_messages_or_a_fault(data: bytes, fds: int) -> None:
    ours, theirs = socket.socketpair()
    before = open_descriptors()
    with ours, theirs:
        ours.setblocking(False)
        reader = MessageReader(ours)
        with contextlib.suppress(FtlError):
            if data:
                socket.send_fds(theirs, [data], [0] * fds)
            theirs.close()
            while True:
                message = reader.read()
                assert message is not None
                assert len(message.payload) <= wire.PAYLOAD_BYTES_MAX
                message.close()
        reader.close()
    assert not opened_since(before)


def test_the_end_in_a_message_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = MessageReader(ours)
        theirs.send(b"\0" * 5)
        assert reader.read() is None
        assert reader.in_message
        theirs.close()
        with pytest.raises(PathError, match="in the middle"):
            reader.read()


def test_a_full_socket_takes_a_message_later() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        writer = MessageWriter(ours)
        count = 0
        while writer.write(bytes(4096)):
            count += 1
        assert writer.pending
        assert not writer.flush()
        left = count * 4096 + 4096
        while left:
            left -= len(theirs.recv(left))
            writer.flush()
        assert not writer.pending
