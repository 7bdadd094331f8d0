"""Messages and keys of DH-HMAC-CHAP: whatever bytes come, only the declared errors come out, nothing of a key stands in
them, and what is taken means the same when it is packed and read again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import atheris
from changed import BYTES_MAX, changed, require

with atheris.instrument_imports(include=["spdk_ftl_py.nvme.auth"]):
    from spdk_ftl_py.errors import ParameterError
    from spdk_ftl_py.nvme.auth.key import DhchapKey
    from spdk_ftl_py.nvme.auth.messages import (
        AuthId,
        Challenge,
        DhGroup,
        Failure,
        HashId,
        MessageError,
        Negotiate,
        Reply,
        Success1,
        Success2,
        message_kind,
        message_tid,
        reason_text,
    )

ERROR_CHARACTERS_MAX = 300
GROUPS, HASHES = list(DhGroup), list(HashId)
Message = Negotiate | Challenge | Reply | Success1 | Success2 | Failure


def taken(unpack: Callable[[bytes], Message], data: bytes) -> Message | None:
    try:
        return unpack(data)
    except MessageError as error:
        require(0 < len(error.message) < ERROR_CHARACTERS_MAX)
        reason_text(error.reason)
        return None


def good_message(input: atheris.FuzzedDataProvider, sort: int, tid: int, hash_id: HashId, group: DhGroup) -> Message:
    # Good in itself, that is: it may be one for another hash and group.
    size = input.PickValueInList([hash_id, hash_id, *HASHES]).hash_bytes
    challenge = input.ConsumeBytes(size).ljust(size, b"c")
    dh_value = bytes(input.PickValueInList([group, group, *GROUPS]).bits // 8)
    proof = input.ConsumeBool()
    match sort:
        case 0:
            ids = input.ConsumeIntListInRange(input.ConsumeIntInRange(1, 30), 0, 255)
            return Negotiate(tid, tuple(ids), tuple(reversed(ids)), input.ConsumeIntInRange(0, 255))
        case 1:
            return Challenge(tid, hash_id, group, input.ConsumeIntInRange(1, 0xFFFFFFFF), challenge, dh_value)
        case 2 if proof:
            return Reply(tid, challenge, challenge, input.ConsumeIntInRange(1, 0xFFFFFFFF), dh_value)
        case 2:
            return Reply(tid, challenge, dh_value=dh_value)
        case 3:
            return Success1(tid, hash_id, challenge if proof else None)
        case 4:
            return Success2(tid)
    return Failure(AuthId.FAILURE1 if proof else AuthId.FAILURE2, tid, input.ConsumeIntInRange(0, 255))


def one_message(input: atheris.FuzzedDataProvider) -> None:
    hash_id, group = input.PickValueInList(HASHES), input.PickValueInList(GROUPS)
    tid, sort = input.ConsumeIntInRange(0, 0xFFFF), input.ConsumeIntInRange(0, 5)
    if input.ConsumeBool():
        data = input.ConsumeBytes(BYTES_MAX)
    else:
        data = changed(input, good_message(input, sort, tid, hash_id, group).pack())
    unpacks: list[Callable[[bytes], Message]] = [
        Negotiate.unpack,
        lambda raw: Challenge.unpack(raw, tid),
        lambda raw: Reply.unpack(raw, tid, hash_id, group),
        lambda raw: Success1.unpack(raw, tid, hash_id),
        lambda raw: Success2.unpack(raw, tid),
        Failure.unpack,
    ]
    message = taken(unpacks[sort], data)
    tid_of_it = message_tid(data)
    if message is None:
        return
    assert message_kind(data) == (data[0], data[1])
    assert message.tid == tid_of_it
    packed = message.pack()
    assert packed[:2] == data[:2]
    assert len(packed) <= len(data), "it is made of more than came"
    if isinstance(message, (Reply, Success2)):
        assert len(packed) == len(data), "more came than it says"
    if isinstance(message, Reply):
        assert len(message.response) == hash_id.hash_bytes
        assert len(message.dh_value) == group.bits // 8
    if isinstance(message, Challenge):
        assert len(message.challenge) == message.hash_id.hash_bytes
        assert len(message.dh_value) == message.dh_group.bits // 8
    assert unpacks[sort](packed) == message


def one_key(input: atheris.FuzzedDataProvider) -> None:
    if input.ConsumeBool():
        size, transform = input.PickValueInList([32, 48, 64]), input.PickValueInList([None, *HASHES])
        key = DhchapKey(input.ConsumeBytes(size).ljust(size, b"k"), transform)
        text = key.format()
        assert DhchapKey.parse(text) == key
        assert key.secret.hex() not in repr(key)
        at = input.ConsumeIntInRange(0, len(text) - 1)
        text = text[:at] + input.ConsumeUnicodeNoSurrogates(4) + text[at + input.ConsumeIntInRange(0, 4) :]
    else:
        text = input.ConsumeUnicode(200)
    try:
        key = DhchapKey.parse(text)
    except ParameterError as error:
        secret = text.split(":")[2] if text.count(":") >= 2 else ""
        require(len(error.message) < ERROR_CHARACTERS_MAX)
        require(len(secret) < 8 or secret not in error.message)
        return
    assert DhchapKey.parse(key.format()) == key


def test_one_input(data: bytes) -> None:
    input = atheris.FuzzedDataProvider(data)
    if input.ConsumeIntInRange(0, 7):
        one_message(input)
    else:
        one_key(input)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
