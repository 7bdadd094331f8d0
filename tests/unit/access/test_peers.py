"""Who is at the other end of a unix socket, and who is believed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from spdk_ftl_py.access import peers, users
from spdk_ftl_py.access.peers import Peer, Trust, groups_of, peer_of
from spdk_ftl_py.errors import ParameterError

OURS = os.geteuid()
OTHER = 4_000_000


def peer(uid: int) -> Peer:
    return Peer(1, uid, 1)


def test_the_kernel_tells_who_is_at_the_other_end() -> None:
    one, other = socket.socketpair()
    with one, other:
        told = peer_of(one)
        assert told == Peer(os.getpid(), OURS, os.getegid())
        assert groups_of(one, told) >= {os.getegid(), *os.getgroups()}
    assert peer_of(one) is None


def test_own_user_root_and_who_was_named_are_believed() -> None:
    assert Trust().includes(peer(OURS))
    assert Trust().includes(peer(0))
    assert not Trust().includes(peer(OTHER))
    assert Trust(user=OTHER).includes(peer(OTHER))
    assert not Trust(user=OTHER).includes(peer(OTHER + 1))


@pytest.mark.parametrize(
    ("groups", "believed"),
    [(frozenset({7}), True), (frozenset({1, 7}), True), (frozenset({1}), False), (frozenset(), False), (None, True)],
)
def test_members_of_the_group_are_believed_where_there_is_one(groups: frozenset[int] | None, believed: bool) -> None:
    assert Trust(group=7).includes(peer(OTHER), lambda: groups) is believed
    assert not Trust().includes(peer(OTHER), lambda: groups)


@pytest.fixture
def in_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_has_all_users", lambda: False)


@pytest.mark.usefixtures("in_a_namespace")
def test_a_user_without_a_number_here_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace all those look like one, and like a process that has no number there either."""
    overflow = users._overflow_uid()
    monkeypatch.setattr(peers, "own_uid", lambda: overflow)
    assert not Trust().includes(peer(overflow))
    assert Trust(user=overflow).includes(peer(overflow))
    assert "without a number in this user namespace" in str(peer(overflow))


def test_nobody_is_a_user_where_all_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    overflow = users._overflow_uid()
    monkeypatch.setattr(users, "_has_all_users", lambda: True)
    monkeypatch.setattr(peers, "own_uid", lambda: overflow)
    assert Trust().includes(peer(overflow))
    assert "without a number" not in str(peer(overflow))


def test_whether_all_users_have_a_number_is_read_from_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = {"         0          0 4294967295\n": True, "0 1000 1\n1 100000 65536\n": False, "": False}
    for text, all_of_them in maps.items():
        monkeypatch.setattr(Path, "read_text", lambda _path, text=text: text)
        assert users._has_all_users() is all_of_them


def test_users_and_groups_have_names_and_numbers() -> None:
    assert users.uid_of("root") == users.uid_of("0") == 0
    assert users.gid_of("root") == users.gid_of("0") == 0
    assert users.uid_of(str(OTHER)) == OTHER
    assert users.show_user(0) == "user root (uid 0)"
    assert users.show_user(OTHER) == f"user {OTHER}"
    for wrong in ("no-such-user", "", "-1", "4294967295", "99999999999", "0x0"):
        with pytest.raises(ParameterError, match="there is no user"):
            users.uid_of(wrong)
        with pytest.raises(ParameterError, match="there is no group"):
            users.gid_of(wrong)
