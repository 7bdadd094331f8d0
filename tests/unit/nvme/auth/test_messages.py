"""Messages come out as they went in; whatever else comes is refused with a reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.nvme.auth.messages import (
    MESSAGE_BYTES_MAX,
    AuthId,
    Challenge,
    DhGroup,
    Failure,
    FailureReason,
    HashId,
    MessageError,
    Negotiate,
    Reply,
    Success1,
    Success2,
    reason_text,
)

tids = st.integers(0, 0xFFFF)
seqnums = st.integers(1, 0xFFFFFFFF)
ids = st.lists(st.integers(0, 255), min_size=1, max_size=30).map(tuple)
negotiates = st.builds(Negotiate, tids, ids, ids, st.integers(0, 255))


def exactly(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


@st.composite
def challenges(draw: st.DrawFn) -> Challenge:
    hash_id, group = draw(st.sampled_from(HashId)), draw(st.sampled_from(DhGroup))
    return Challenge(
        draw(tids), hash_id, group, draw(seqnums), draw(exactly(hash_id.hash_bytes)), bytes(group.bits // 8)
    )


@st.composite
def replies(draw: st.DrawFn) -> tuple[Reply, HashId, DhGroup]:
    hash_id, group = draw(st.sampled_from(HashId)), draw(st.sampled_from(DhGroup))
    response, value = draw(exactly(hash_id.hash_bytes)), bytes(group.bits // 8)
    if draw(st.booleans()):
        reply = Reply(draw(tids), response, draw(exactly(hash_id.hash_bytes)), draw(seqnums), value)
    else:
        reply = Reply(draw(tids), response, dh_value=value)
    return reply, hash_id, group


@st.composite
def successes(draw: st.DrawFn) -> Success1:
    hash_id = draw(st.sampled_from(HashId))
    return Success1(draw(tids), hash_id, draw(st.none() | exactly(hash_id.hash_bytes)))


@given(negotiates)
def test_negotiate_comes_out_as_it_went_in(message: Negotiate) -> None:
    assert Negotiate.unpack(message.pack()) == message


@given(challenges(), st.binary(max_size=64))
def test_a_challenge_comes_out_of_a_longer_buffer(message: Challenge, rest: bytes) -> None:
    assert Challenge.unpack(message.pack() + rest, message.tid) == message


@given(replies())
def test_a_reply_comes_out_as_it_went_in(case: tuple[Reply, HashId, DhGroup]) -> None:
    reply, hash_id, group = case
    assert Reply.unpack(reply.pack(), reply.tid, hash_id, group) == reply
    assert len(reply.pack()) == 16 + 2 * hash_id.hash_bytes + group.bits // 8


@given(successes(), st.binary(max_size=64))
def test_success1_comes_out_of_a_longer_buffer(message: Success1, rest: bytes) -> None:
    assert Success1.unpack(message.pack() + rest, message.tid, message.hash_id) == message


@given(tids, st.integers(0, 255), st.sampled_from((AuthId.FAILURE1, AuthId.FAILURE2)))
def test_the_rest_comes_out_as_it_went_in(tid: int, reason: int, auth_id: AuthId) -> None:
    assert Success2.unpack(Success2(tid).pack(), tid) == Success2(tid)
    failure = Failure(auth_id, tid, reason)
    assert Failure.unpack(failure.pack()) == failure
    assert failure.text


def test_the_layout_is_that_of_the_specification() -> None:
    """Offsets as Base 2.0 figures 617 to 627 have them."""
    negotiate = Negotiate(0x0201, (1, 2, 3), (0, 1, 5)).pack()
    assert negotiate[:12] == bytes((0, 0, 0, 0, 1, 2, 0, 1, 1, 0, 3, 3))
    assert negotiate[12:42] == bytes((1, 2, 3)) + bytes(27)
    assert negotiate[42:] == bytes((0, 1, 5)) + bytes(27)
    challenge = Challenge(0x0201, HashId.SHA384, DhGroup.FFDHE2048, 0x07060504, b"c" * 48, b"d" * 256).pack()
    assert challenge[:16] == bytes((1, 1, 0, 0, 1, 2, 48, 0, 2, 1, 0, 1, 4, 5, 6, 7))
    assert challenge[16:] == b"c" * 48 + b"d" * 256
    reply = Reply(0x0201, b"r" * 32, b"c" * 32, 0x07060504, b"d" * 384).pack()
    assert reply[:16] == bytes((1, 2, 0, 0, 1, 2, 32, 0, 1, 0, 0x80, 1, 4, 5, 6, 7))
    assert reply[16:] == b"r" * 32 + b"c" * 32 + b"d" * 384
    assert Reply(1, b"r" * 32).pack()[16:] == b"r" * 32 + bytes(32)
    success = Success1(0x0201, HashId.SHA512, b"r" * 64).pack()
    assert success == bytes((1, 3, 0, 0, 1, 2, 64, 0, 1)) + bytes(7) + b"r" * 64
    assert Success1(0x0201, HashId.SHA512).pack() == bytes((1, 3, 0, 0, 1, 2, 64, 0, 0)) + bytes(7)
    assert Success2(0x0201).pack() == bytes((1, 4, 0, 0, 1, 2)) + bytes(10)
    assert Failure(AuthId.FAILURE1, 0x0201, 6).pack() == bytes((0, 0xF1, 0, 0, 1, 2, 1, 6))


NEGOTIATE = Negotiate(1, (1,), (0,)).pack()
CHALLENGE = Challenge(1, HashId.SHA256, DhGroup.NULL, 5, bytes(32)).pack()
REPLY = Reply(1, bytes(32), bytes(32), 5).pack()
SUCCESS1 = Success1(1, HashId.SHA256, bytes(32)).pack()
PAYLOAD, MESSAGE = FailureReason.INCORRECT_PAYLOAD, FailureReason.INCORRECT_MESSAGE
UNPACK: dict[str, Callable[[bytes], object]] = {
    "negotiate": Negotiate.unpack,
    "challenge": lambda data: Challenge.unpack(data, 1),
    "reply": lambda data: Reply.unpack(data, 1, HashId.SHA256, DhGroup.NULL),
    "reply with ffdhe2048": lambda data: Reply.unpack(data, 1, HashId.SHA256, DhGroup.FFDHE2048),
    "success1": lambda data: Success1.unpack(data, 1, HashId.SHA256),
    "success2": lambda data: Success2.unpack(data, 1),
    "failure": Failure.unpack,
}


def changed(message: bytes, at: int, value: int) -> bytes:
    return message[:at] + bytes((value,)) + message[at + 1 :]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("negotiate", b"", PAYLOAD),
        ("negotiate", NEGOTIATE[:5], PAYLOAD),
        ("negotiate", NEGOTIATE[:6], PAYLOAD),
        ("negotiate", NEGOTIATE[:-1], PAYLOAD),
        ("negotiate", NEGOTIATE + b"\0", PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 7, 0), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 7, 2), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 7, 255) + bytes(64 * 254), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 8, 2), FailureReason.PROTOCOL_NOT_USABLE),
        ("negotiate", NEGOTIATE[:7] + b"\0", FailureReason.PROTOCOL_NOT_USABLE),
        ("negotiate", changed(NEGOTIATE, 10, 31), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 10, 0), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 11, 31), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 11, 0), PAYLOAD),
        ("negotiate", changed(NEGOTIATE, 0, 1), MESSAGE),
        ("negotiate", REPLY, MESSAGE),
        ("challenge", CHALLENGE[:15], PAYLOAD),
        ("challenge", CHALLENGE[:-1], PAYLOAD),
        ("challenge", changed(CHALLENGE, 4, 2), PAYLOAD),
        ("challenge", changed(CHALLENGE, 6, 48), PAYLOAD),
        ("challenge", changed(CHALLENGE, 8, 0), FailureReason.HASH_NOT_USABLE),
        ("challenge", changed(CHALLENGE, 8, 4), FailureReason.HASH_NOT_USABLE),
        ("challenge", changed(CHALLENGE, 9, 6), FailureReason.DH_GROUP_NOT_USABLE),
        ("challenge", changed(CHALLENGE, 9, 1), PAYLOAD),
        ("challenge", changed(CHALLENGE, 10, 4), PAYLOAD),
        ("challenge", changed(CHALLENGE, 12, 0), PAYLOAD),
        ("challenge", SUCCESS1, MESSAGE),
        ("reply", REPLY[:15], PAYLOAD),
        ("reply", REPLY[:-1], PAYLOAD),
        ("reply", REPLY + b"\0", PAYLOAD),
        ("reply", changed(REPLY, 4, 2), PAYLOAD),
        ("reply", changed(REPLY, 6, 64), PAYLOAD),
        ("reply", changed(REPLY, 8, 2), PAYLOAD),
        ("reply", changed(REPLY, 11, 1) + bytes(256), PAYLOAD),
        ("reply", changed(REPLY, 12, 0), PAYLOAD),
        ("reply with ffdhe2048", REPLY, PAYLOAD),
        ("reply with ffdhe2048", changed(REPLY, 11, 1) + bytes(255), PAYLOAD),
        ("success1", SUCCESS1[:-1], PAYLOAD),
        ("success1", changed(SUCCESS1, 6, 48), PAYLOAD),
        ("success1", changed(SUCCESS1, 8, 2), PAYLOAD),
        ("success1", changed(SUCCESS1, 5, 9), PAYLOAD),
        ("success1", CHALLENGE, MESSAGE),
        ("success2", Success2(1).pack() + b"\0", PAYLOAD),
        ("success2", Success2(1).pack()[:-1], PAYLOAD),
        ("success2", Success2(2).pack(), PAYLOAD),
        ("failure", Failure(AuthId.FAILURE1, 1, 1).pack()[:-1], PAYLOAD),
        ("failure", SUCCESS1, MESSAGE),
        ("failure", bytes(MESSAGE_BYTES_MAX + 1), PAYLOAD),
    ],
)
def test_a_malformed_message_is_refused_with_the_reason(kind: str, data: bytes, reason: FailureReason) -> None:
    with pytest.raises(MessageError) as caught:
        UNPACK[kind](data)
    assert caught.value.reason is reason


@given(st.sampled_from(sorted(UNPACK)), st.binary(max_size=400), st.booleans(), st.data())
def test_any_bytes_are_a_message_or_a_message_error(kind: str, data: bytes, near: bool, more: st.DataObject) -> None:
    if near:
        message = bytearray(more.draw(st.sampled_from((NEGOTIATE, CHALLENGE, REPLY, SUCCESS1))))
        for _ in range(more.draw(st.integers(0, 4))):
            message[more.draw(st.integers(0, len(message) - 1))] = more.draw(st.integers(0, 255))
        data = bytes(message[: more.draw(st.integers(0, len(message)))]) + data[:8]
    with contextlib.suppress(MessageError):
        UNPACK[kind](data)


def test_reasons_have_names() -> None:
    assert reason_text(5) == "dh group not usable"
    assert reason_text(99) == "reason 99"
