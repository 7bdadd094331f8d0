"""A host's side and a controller's side, with nothing between them but their messages."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.nvme.auth import dh_groups
from spdk_ftl_py.nvme.auth.controller_side import ControllerAuthentication, ControllerState
from spdk_ftl_py.nvme.auth.host_side import HostAuthentication, RefusedError
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys, KeyFile, write_key_file
from spdk_ftl_py.nvme.auth.messages import (
    AuthId,
    DhGroup,
    Failure,
    FailureReason,
    HashId,
    MessageError,
    Negotiate,
    Success2,
)
from spdk_ftl_py.nvme.auth.response import Policy, Sequence

HOST, SUBSYSTEM = "nqn.2026-11.io.example:host", "nqn.2026-11.io.example:subsystem"
KEY, CTRLR_KEY, OTHER = DhchapKey.generate(), DhchapKey.generate(HashId.SHA512), DhchapKey(bytes(32))
NULL_ONLY = Policy(dh_groups=(DhGroup.NULL,))


def controller(
    key: DhchapKey = KEY, ctrlr_key: DhchapKey | None = CTRLR_KEY, policy: Policy | None = None, **names: str
) -> ControllerAuthentication:
    keys = HostKeys(HeldKey(key), None if ctrlr_key is None else HeldKey(ctrlr_key))
    return ControllerAuthentication(
        keys, hostnqn=names.get("hostnqn", HOST), subnqn=names.get("subnqn", SUBSYSTEM), sequence=Sequence(),
        policy=policy,
    )  # fmt: skip


def host(
    key: DhchapKey = KEY, ctrlr_key: DhchapKey | None = None, policy: Policy | None = None, tid: int = 7
) -> HostAuthentication:
    return HostAuthentication(
        key, ctrlr_key, tid=tid, hostnqn=HOST, subnqn=SUBSYSTEM, sequence=Sequence(), policy=policy
    )


def authenticate(one: HostAuthentication, other: ControllerAuthentication) -> None:
    """Raises what the host does."""
    other.send(one.negotiate())
    other.send(one.reply(other.receive()))
    last = one.finish(other.receive())
    if last is not None:
        other.send(last)


@pytest.mark.parametrize("hash_id", HashId)
@pytest.mark.parametrize("group", DhGroup)
@pytest.mark.parametrize("mutual", [False, True], ids=["one way", "both ways"])
def test_a_host_with_the_key_gets_in(hash_id: HashId, group: DhGroup, mutual: bool) -> None:
    one = host(ctrlr_key=CTRLR_KEY if mutual else None, policy=Policy((hash_id,), (group,)))
    other = controller()
    authenticate(one, other)
    assert other.done
    assert (other.hash_id, other.dh_group, other.mutual) == (hash_id, group, mutual)


def test_a_host_with_another_key_does_not() -> None:
    other = controller()
    with pytest.raises(RefusedError, match="authentication failed"):
        authenticate(host(OTHER), other)
    assert other.failed
    assert "another key" in other.failure


@pytest.mark.parametrize("names", [{"hostnqn": HOST + "2"}, {"subnqn": SUBSYSTEM + "2"}])
def test_a_response_counts_for_that_host_and_subsystem_only(names: dict[str, str]) -> None:
    key = DhchapKey(bytes(range(32)))
    with pytest.raises(RefusedError):
        authenticate(host(key), controller(key, **names))


def test_a_controller_with_another_key_is_found_out() -> None:
    other = controller(ctrlr_key=OTHER)
    one = host(ctrlr_key=CTRLR_KEY)
    with pytest.raises(MessageError, match="another key") as caught:
        authenticate(one, other)
    assert not isinstance(caught.value, RefusedError)
    assert not other.done
    other.send(one.failure2(caught.value))
    assert "refuses the controller's response" in other.failure
    assert Failure.unpack(other.receive()).auth_id is AuthId.FAILURE1
    assert other.failed


def test_a_controller_that_proves_nothing_is_found_out() -> None:
    one, other = host(ctrlr_key=CTRLR_KEY), controller()
    other.send(one.negotiate())
    other.send(one.reply(other.receive()))
    other._response = None
    with pytest.raises(MessageError, match="did not authenticate"):
        one.finish(other.receive())


def test_a_controller_without_a_key_of_its_own_refuses_to_prove_itself() -> None:
    other = controller(ctrlr_key=None)
    with pytest.raises(RefusedError):
        authenticate(host(ctrlr_key=CTRLR_KEY), other)
    assert "asks the controller to authenticate" in other.failure


def test_a_controllers_challenge_is_never_the_same() -> None:
    seen = set()
    for _ in range(3):
        other = controller(policy=NULL_ONLY)
        other.send(host().negotiate())
        seen.add(other.receive()[12:])
    assert len(seen) == 3


def test_a_reply_to_an_earlier_challenge_is_refused() -> None:
    first, second = controller(policy=NULL_ONLY), controller(policy=NULL_ONLY)
    one = host()
    first.send(one.negotiate())
    second.send(one.negotiate())
    reply = one.reply(first.receive())
    second.receive()
    second.send(reply)
    assert second.state is ControllerState.FAILURE1


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        (Negotiate(1, (9, 0), (0,)), FailureReason.HASH_NOT_USABLE),
        (Negotiate(1, (1,), (7, 99)), FailureReason.DH_GROUP_NOT_USABLE),
        (Negotiate(1, (1,), (0,), 1), FailureReason.SECURE_CHANNEL_MISMATCH),
    ],
)
def test_what_can_not_be_agreed_on_is_refused(offer: Negotiate, reason: FailureReason) -> None:
    other = controller()
    other.send(offer.pack())
    failure = Failure.unpack(other.receive())
    assert (failure.auth_id, failure.tid, failure.code, failure.explanation) == (AuthId.FAILURE1, 1, 1, reason)
    assert other.failed


def test_a_group_that_the_policy_excludes_is_not_used() -> None:
    other = controller(policy=Policy((HashId.SHA512,), (DhGroup.FFDHE4096, DhGroup.FFDHE2048)))
    other.send(Negotiate(1, (1, 2, 3), (0, 1, 2)).pack())
    assert (other.hash_id, other.dh_group) == (HashId.SHA512, DhGroup.FFDHE2048)
    with pytest.raises(RefusedError, match="dh group"):
        authenticate(host(policy=NULL_ONLY), controller(policy=Policy(dh_groups=(DhGroup.FFDHE2048,))))


def test_a_host_takes_nothing_it_did_not_offer() -> None:
    other, one = controller(), host(policy=Policy((HashId.SHA512,), (DhGroup.FFDHE2048,)))
    other.send(Negotiate(7, (1,), (1,)).pack())
    with pytest.raises(MessageError, match="SHA256 was not offered"):
        one.reply(other.receive())
    other = controller()
    other.send(Negotiate(7, (3,), (0,)).pack())
    with pytest.raises(MessageError, match="NULL was not offered"):
        one.reply(other.receive())


def test_without_finite_fields_there_is_the_null_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dh_groups, "available", lambda: False)
    other = controller()
    authenticate(host(), other)
    assert other.dh_group is DhGroup.NULL


@pytest.mark.parametrize("when", ["first", "after the challenge", "at the end"])
def test_asking_when_it_is_the_hosts_turn_ends_it(when: str) -> None:
    one, other = host(ctrlr_key=CTRLR_KEY), controller(policy=NULL_ONLY)
    if when != "first":
        other.send(one.negotiate())
        challenge = other.receive()
        if when == "at the end":
            other.send(one.reply(challenge))
            one.finish(other.receive())
    assert Failure.unpack(other.receive()).explanation == FailureReason.INCORRECT_MESSAGE
    assert other.failed


@pytest.mark.parametrize("message", [Success2(7).pack(), Failure(AuthId.FAILURE2, 7, 1).pack(), b"", bytes(4097)])
def test_a_message_out_of_turn_ends_it(message: bytes) -> None:
    for steps in range(3):
        one, other = host(), controller(policy=NULL_ONLY)
        if steps > 0:
            other.send(one.negotiate())
        if steps > 1:
            other.receive()
        other.send(message)
        assert Failure.unpack(other.receive()).auth_id is AuthId.FAILURE1
        assert other.failed


def test_nothing_gets_a_failed_one_out_of_it() -> None:
    one, other = host(), controller(policy=NULL_ONLY)
    other.receive()
    other.send(one.negotiate())
    assert not other.done
    assert Failure.unpack(other.receive()).auth_id is AuthId.FAILURE1
    assert other.failed


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.sampled_from(("host", "controller")))
def test_no_change_of_messages_on_their_way_makes_up_for_a_key(seed: int, stranger: str) -> None:
    """Somebody in between flips bits, cuts, adds, replaces and adds messages. One of the two has the wrong key."""
    rng = random.Random(seed)

    def damage(message: bytes) -> bytes:
        if rng.random() < 0.5:
            return message
        raw = bytearray(message)
        what = rng.randrange(4)
        if what == 0 and raw:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        elif what == 1:
            del raw[rng.randrange(len(raw) + 1) :]
        elif what == 2:
            raw += rng.randbytes(rng.randrange(1, 64))
        else:
            raw = bytearray(rng.randbytes(rng.randrange(200)))
        return bytes(raw)

    one = host(OTHER if stranger == "host" else KEY, CTRLR_KEY, NULL_ONLY)
    other = controller(ctrlr_key=OTHER if stranger == "controller" else CTRLR_KEY)
    other.send(damage(one.negotiate()))
    for _ in range(rng.randrange(2)):
        other.send(rng.randbytes(rng.randrange(100)))
    try:
        other.send(damage(one.reply(damage(other.receive()))))
        one.finish(damage(other.receive()))
    except MessageError as error:
        other.send(one.failure2(error))
    else:
        pytest.fail("the host believes the controller")
    assert not other.done


@settings(deadline=None, max_examples=200)
@given(st.lists(st.none() | st.binary(max_size=120), max_size=12))
def test_no_sequence_of_bytes_gets_a_stranger_in(script: list[bytes | None]) -> None:
    other = controller(policy=NULL_ONLY)
    for step in script:
        if step is None:
            assert len(other.receive()) <= 1168
        else:
            other.send(step)
        assert not other.done


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=32, max_size=32).filter(any), st.booleans())
def test_no_response_but_the_right_one_gets_a_host_in(change: bytes, mutual: bool) -> None:
    one, other = host(ctrlr_key=CTRLR_KEY if mutual else None, policy=NULL_ONLY), controller()
    other.send(one.negotiate())
    reply = one.reply(other.receive())
    forged = reply[:16] + bytes(each ^ bits for each, bits in zip(reply[16:48], change, strict=True))
    other.send(forged + reply[48:])
    assert other.state is ControllerState.FAILURE1


def test_a_key_file_is_read_again_each_time(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key_file(path, KEY)
    keys = HostKeys(KeyFile(path))

    def fresh() -> ControllerAuthentication:
        return ControllerAuthentication(keys, hostnqn=HOST, subnqn=SUBSYSTEM, sequence=Sequence(), policy=NULL_ONLY)

    other = fresh()
    authenticate(host(KEY), other)
    assert other.done
    write_key_file(path, OTHER)
    with pytest.raises(RefusedError):
        authenticate(host(KEY), fresh())
    other = fresh()
    authenticate(host(OTHER), other)
    assert other.done
    path.chmod(0o644)
    other = fresh()
    with pytest.raises(RefusedError):
        authenticate(host(OTHER), other)
    assert "0644" in other.failure
    with pytest.raises(ParameterError):
        keys.key.load()
