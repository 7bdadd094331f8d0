"""The reservation commands against a simple model of the specification, in random order."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spdk_ftl_py.nvme.target.connected_hosts import HostKey
from spdk_ftl_py.nvme.target.reservation_state import Notice, ReservationState, Rules, execute
from spdk_ftl_py.nvme.wire import NvmOp, Status

HOSTS = [HostKey(f"nqn.2026-11.io.example:{number}", bytes([number]) * 16) for number in range(1, 5)]
KEYS = st.integers(0, 4)
TYPES = st.integers(0, 7)
OK, FIELD, CONFLICT = 0, Status.INVALID_FIELD, Status.RESERVATION_CONFLICT
ALL = (5, 6)


class Model:
    """Keys and holders in plain sets, as Base 2.0 section 8.19 tells it. A type of all registrants has all as
    holders."""

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}
        self.kind = 0
        self.owner: int | None = None
        self.ptpl = False
        self.gen = 0

    @property
    def holders(self) -> set[int]:
        if self.kind in ALL:
            return set(self.keys)
        return set() if self.owner is None else {self.owner}

    def drop(self, hosts: set[int]) -> None:
        lost_all = bool(self.kind) and self.holders <= hosts
        for host in hosts:
            self.keys.pop(host)
        if lost_all:
            self.kind, self.owner = 0, None

    def take(self, host: int, kind: int) -> None:
        self.kind, self.owner = kind, (None if kind in ALL else host)

    def register(self, host: int, action: int, ignore: bool, current: int, new: int, cptpl: int) -> int:
        if action > 2 or cptpl == 1 or (action != 1 and new == 0):
            return FIELD
        mine = self.keys.get(host)
        matches = mine is not None and mine == current
        if action == 0 and mine not in (None, new):
            return CONFLICT
        if action == 1 and (mine is None or not (ignore or matches)):
            return CONFLICT
        if action == 2 and not ignore and not matches:
            return CONFLICT
        if action == 1:
            self.drop({host})
            self.gen += 1
        elif mine != new:
            self.keys[host] = new
            self.gen += 1
        if cptpl:
            self.ptpl = cptpl == 3
        return OK

    def acquire(self, host: int, action: int, kind: int, key: int, victim: int) -> int:
        if action > 2:
            return FIELD
        if self.keys.get(host) != key:
            return CONFLICT
        known = 1 <= kind <= 6
        if action == 0:
            if not known:
                return FIELD
            if host in self.holders and self.kind == kind:
                return OK
            if self.kind:
                return CONFLICT
            self.take(host, kind)
            return OK
        if self.kind in ALL and victim == 0:
            if not known:
                return FIELD
            self.drop(set(self.keys) - {host})
            self.take(host, kind)
        elif victim == 0:
            return FIELD
        elif self.owner is not None and self.keys[self.owner] == victim:
            if not known:
                return FIELD
            self.drop({each for each, other in self.keys.items() if other == victim and each != host})
            self.take(host, kind)
        else:
            matching = {each for each, other in self.keys.items() if other == victim}
            if not matching:
                return CONFLICT
            self.drop(matching)
        self.gen += 1
        return OK

    def release(self, host: int, action: int, kind: int, key: int) -> int:
        if action > 1:
            return FIELD
        if self.keys.get(host) != key:
            return CONFLICT
        if action == 1:
            self.keys, self.kind, self.owner = {}, 0, None
            self.gen += 1
        elif host in self.holders:
            if kind != self.kind:
                return FIELD
            self.kind, self.owner = 0, None
        return OK

    def may(self, host: int) -> tuple[bool, bool]:
        if not self.kind or host in self.holders:
            return True, True
        if self.kind >= 3 and host in self.keys:
            return True, True
        return self.kind % 2 == 1, False


class ReservationMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = ReservationState()
        self.model = Model()

    def _run(self, host: int, opcode: int, cdw10: int, first: int, second: int, expected: Any) -> None:
        before = self.state
        outcome = execute(before, HOSTS[host], opcode, cdw10, 0, struct.pack("<QQ", first, second), Rules(True, True))
        assert outcome.status == expected
        if expected:
            assert outcome.state is before
            assert not outcome.notices
        # Whoever is told has lost something, and did not order it; whoever is aborted has lost its registration.
        assert HOSTS[host] not in outcome.notices
        gone = set(before.registrants) - set(outcome.state.registrants) - {HOSTS[host]}
        preempted = {Notice.REGISTRATION_PREEMPTED, Notice.RESERVATION_PREEMPTED}
        assert gone == {each for each, notice in outcome.notices.items() if notice in preempted}
        assert outcome.aborts <= gone
        if opcode == NvmOp.RESERVATION_ACQUIRE and cdw10 & 7 == 2:
            assert outcome.aborts == gone
        self.state = outcome.state

    @rule(
        host=st.integers(0, 3), action=st.integers(0, 3), ignore=st.booleans(), current=KEYS, new=KEYS,
        cptpl=st.integers(0, 3),
    )  # fmt: skip
    def register(self, host: int, action: int, ignore: bool, current: int, new: int, cptpl: int) -> None:
        expected = self.model.register(host, action, ignore, current, new, cptpl)
        self._run(host, NvmOp.RESERVATION_REGISTER, action | ignore << 3 | cptpl << 30, current, new, expected)

    @rule(host=st.integers(0, 3), key=st.integers(1, 2))
    def join(self, host: int, key: int) -> None:
        self.register(host, 0, False, 0, key, 0)

    @rule(host=st.integers(0, 3), action=st.integers(0, 3), kind=TYPES, key=KEYS, victim=KEYS)
    def acquire(self, host: int, action: int, kind: int, key: int, victim: int) -> None:
        expected = self.model.acquire(host, action, kind, key, victim)
        self._run(host, NvmOp.RESERVATION_ACQUIRE, action | kind << 8, key, victim, expected)

    @rule(host=st.integers(0, 3), action=st.integers(0, 2), kind=TYPES, victim=KEYS)
    def acquire_with_its_key(self, host: int, action: int, kind: int, victim: int) -> None:
        self.acquire(host, action, kind, self.model.keys.get(host, 0), victim)

    @rule(host=st.integers(0, 3), action=st.integers(0, 2), kind=TYPES, key=KEYS)
    def release(self, host: int, action: int, kind: int, key: int) -> None:
        expected = self.model.release(host, action, kind, key)
        self._run(host, NvmOp.RESERVATION_RELEASE, action | kind << 8, key, 0, expected)

    @rule(host=st.integers(0, 3))
    def release_what_it_has(self, host: int) -> None:
        self.release(host, 0, self.model.kind, self.model.keys.get(host, 0))

    @rule()
    def restart(self) -> None:
        """A state that persists comes back as it was."""
        if self.state.persistent:
            assert ReservationState.from_record(self.state.to_record()) == self.state

    @invariant()
    def agrees(self) -> None:
        state, model = self.state, self.model
        assert {HOSTS.index(host): key for host, key in state.registrants.items()} == model.keys
        assert (state.type or 0, state.generation, state.persistent) == (model.kind, model.gen, model.ptpl)
        for number, host in enumerate(HOSTS):
            assert state.holds(host) == (number in model.holders)
            bars = state.bars(host)
            assert (bars[0] == 0, bars[1] == 0) == model.may(number)


TestReservations = ReservationMachine.TestCase
TestReservations.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("kind", [1, 2])
def test_a_namespace_with_a_user_that_can_not_register_is_not_reserved_for_one_host(kind: int) -> None:
    one, two = HOSTS[:2]
    rules = Rules(of_one_host=False)
    state = ReservationState({one: 1, two: 2})
    acquire = NvmOp.RESERVATION_ACQUIRE
    assert execute(state, one, acquire, kind << 8, 0, struct.pack("<QQ", 1, 0), rules).status == CONFLICT
    state = execute(state, one, acquire, 4 << 8, 0, struct.pack("<QQ", 1, 0), rules).state
    assert execute(state, two, acquire, kind << 8 | 1, 0, struct.pack("<QQ", 2, 1), rules).status == CONFLICT
    user = HOSTS[3]
    assert state.bars(user) == (CONFLICT, CONFLICT)
    assert state.bars(user, as_registrant=True) == (0, 0)
