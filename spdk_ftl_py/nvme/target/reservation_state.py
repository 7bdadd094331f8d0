"""The reservation of a namespace, and what each reservation command makes of it. Base 2.0 section 8.19; where it leaves
a choice, as SPDK's nvmf does it.

Pure: a command takes a state and returns another one. reservations.py keeps the current one, and applies it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Final

from ..wire import NvmOp, Status
from .connected_hosts import HostKey

REGISTRANTS_MAX: Final = 256
"""Registrants of one namespace. Beyond that, Register fails."""
IDENTIFIERS_MAX: Final = 16
"""Registrants of one host NQN: a host that makes up host identifiers leaves room for others."""
REPORT_HEADER_BYTES: Final = 64
_KEYS = struct.Struct("<QQ")
_REPORT_HEADER = struct.Struct("<IBHxxB")
_REGISTRANT = struct.Struct("<HB5xQ16s32x")
CNTLID_DYNAMIC: Final = 0xFFFF

CPTPL_SHIFT: Final = 30
CPTPL_KEEP, CPTPL_CLEAR, CPTPL_SET = 0, 2, 3
IEKEY: Final = 1 << 3
EXTENDED_DATA: Final = 1


class ReservationType(IntEnum):
    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 2
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 4
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 5
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 6

    @property
    def of_one_host(self) -> bool:
        """Registrants have no more rights than strangers."""
        return self <= ReservationType.EXCLUSIVE_ACCESS

    @property
    def of_all(self) -> bool:
        """Every registrant holds it."""
        return self >= ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS

    @property
    def bars_reads(self) -> bool:
        return self % 2 == 0


class Notice(IntEnum):
    """The type of a reservation notification."""

    REGISTRATION_PREEMPTED = 1
    RESERVATION_RELEASED = 2
    RESERVATION_PREEMPTED = 3


@dataclass(frozen=True)
class Rules:
    """What differs between namespaces."""

    can_persist: bool = False
    """There is a place where the state outlives the process."""
    of_one_host: bool = True
    """Reservations that keep registrants out are possible."""


@dataclass(frozen=True)
class ReservationState:
    registrants: Mapping[HostKey, int] = field(default_factory=dict)
    """Their keys."""
    type: ReservationType | None = None
    """None: the namespace is not reserved."""
    holder: HostKey | None = None
    """None for a type that all registrants hold."""
    generation: int = 0
    persistent: bool = False
    """Persist Through Power Loss."""

    def holds(self, host: HostKey) -> bool:
        if self.type is None:
            return False
        return host in self.registrants if self.type.of_all else host == self.holder

    def bars(self, host: HostKey, *, as_registrant: bool = False) -> tuple[int, int]:
        """The status of commands of that host that only read, and of all others; 0: they are executed. as_registrant:
        the host has the rights of a registrant, whether or not it is one."""
        if self.type is None or self.holds(host):
            return 0, 0
        if not self.type.of_one_host and (as_registrant or host in self.registrants):
            return 0, 0
        return (Status.RESERVATION_CONFLICT if self.type.bars_reads else 0), Status.RESERVATION_CONFLICT

    def report(self) -> bytes:
        """The data of Reservation Report with 128-bit host identifiers. Controller ids are dynamic."""
        header = _REPORT_HEADER.pack(
            self.generation, self.type or 0, len(self.registrants), int(self.persistent)
        ).ljust(REPORT_HEADER_BYTES, b"\0")
        return header + b"".join(
            _REGISTRANT.pack(CNTLID_DYNAMIC, int(self.holds(host)), key, host.hostid)
            for host, key in self.registrants.items()
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "type": self.type,
            "holder": None if self.holder is None else self.holder.to_record(),
            "registrants": [[*host.to_record(), f"{key:#x}"] for host, key in self.registrants.items()],
        }

    @classmethod
    def from_record(cls, record: object) -> ReservationState:
        """Of a persistent state. Raises ValueError."""
        if not isinstance(record, Mapping) or not isinstance(record.get("registrants"), list):
            raise ValueError("there is no list of registrants")
        registrants: dict[HostKey, int] = {}
        for entry in record["registrants"]:
            if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], str):
                raise ValueError(f"{str(entry)[:80]} is not a registrant")
            registrants[HostKey.from_record(entry[:2])] = _key(entry[2])
        kind, generation = record.get("type"), record.get("generation")
        if not isinstance(generation, int) or not 0 <= generation < 1 << 32:
            raise ValueError(f"generation {generation!r} is not a 32-bit number")
        of_type = None if kind is None else ReservationType(kind)
        holder = None if record.get("holder") is None else HostKey.from_record(record["holder"])
        held_by_one = of_type is not None and not of_type.of_all
        if held_by_one != (holder is not None) or (holder is not None and holder not in registrants):
            raise ValueError("type and holder do not fit together")
        if len(registrants) > REGISTRANTS_MAX or (of_type is not None and not registrants):
            raise ValueError(f"{len(registrants)} registrants")
        return cls(registrants, of_type, holder, generation, persistent=True)


def _key(text: str) -> int:
    key = int(text, 16)
    if not 0 < key < 1 << 64:
        raise ValueError(f"{text} is not a reservation key")
    return key


@dataclass(frozen=True)
class Outcome:
    """What a command does. If its status is not 0, the state is the old one."""

    state: ReservationState
    status: int = Status.SUCCESS
    notices: Mapping[HostKey, Notice] = field(default_factory=dict)
    """For every controller of these hosts."""
    aborts: frozenset[HostKey] = frozenset()
    """Hosts whose I/O has to be aborted before the command is answered."""
    data: bytes = b""


class _RefusedError(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


def execute(
    state: ReservationState, host: HostKey, opcode: int, cdw10: int, cdw11: int, data: bytes, rules: Rules
) -> Outcome:
    """data: 16 bytes, the beginning of what the host sent."""
    if not any(host.hostid):
        # A host without an identifier can't be told from others.
        return Outcome(state, Status.COMMAND_SEQUENCE_ERROR)
    if opcode == NvmOp.RESERVATION_REPORT:
        # Every host of NVMe over Fabrics has a 128-bit identifier.
        if not cdw11 & EXTENDED_DATA:
            return Outcome(state, Status.HOST_IDENTIFIER_FORMAT)
        return Outcome(state, data=state.report())
    commands: dict[int, Callable[..., Outcome]] = {
        NvmOp.RESERVATION_REGISTER: _register,
        NvmOp.RESERVATION_ACQUIRE: _acquire,
        NvmOp.RESERVATION_RELEASE: _release,
    }
    try:
        return commands[opcode](state, host, cdw10, *_KEYS.unpack(data), rules)
    except _RefusedError as error:
        return Outcome(state, error.status)


def _require(condition: bool, status: Status = Status.INVALID_FIELD) -> None:
    if not condition:
        raise _RefusedError(status)


def _next(generation: int) -> int:
    return (generation + 1) & 0xFFFFFFFF


def _without(state: ReservationState, leaving: frozenset[HostKey]) -> ReservationState:
    """Without these registrants, and without the reservation if its holder, or the last one, is among them."""
    registrants = {host: key for host, key in state.registrants.items() if host not in leaving}
    released = not registrants if state.type is not None and state.type.of_all else state.holder in leaving
    if released:
        return replace(state, registrants=registrants, type=None, holder=None)
    return replace(state, registrants=registrants)


def _others(state: ReservationState, host: HostKey) -> frozenset[HostKey]:
    return frozenset(state.registrants) - {host}


# --- Register -------------------------------------------------------------------------------------------------------


def _register(state: ReservationState, host: HostKey, cdw10: int, crkey: int, nrkey: int, rules: Rules) -> Outcome:
    action, ignore_key, cptpl = cdw10 & 7, bool(cdw10 & IEKEY), cdw10 >> CPTPL_SHIFT & 3
    _require(action <= 2 and cptpl in (CPTPL_KEEP, CPTPL_CLEAR, CPTPL_SET))
    _require(cptpl != CPTPL_SET or rules.can_persist)
    current = state.registrants.get(host)
    notices: dict[HostKey, Notice] = {}
    if action == 1:
        _require(current is not None and (ignore_key or crkey == current), Status.RESERVATION_CONFLICT)
        new = _without(state, frozenset({host}))
        if state.type is not None and new.type is None and not state.type.of_one_host:
            notices = dict.fromkeys(new.registrants, Notice.RESERVATION_RELEASED)
        new = replace(new, generation=_next(state.generation))
    else:
        _require(nrkey != 0)
        if action == 0:
            _require(current in (None, nrkey), Status.RESERVATION_CONFLICT)
        else:
            _require(ignore_key or (current is not None and crkey == current), Status.RESERVATION_CONFLICT)
        new = state
        if current != nrkey:
            _require_place(state, host)
            new = replace(state, registrants={**state.registrants, host: nrkey}, generation=_next(state.generation))
    if cptpl != CPTPL_KEEP and new.persistent != (cptpl == CPTPL_SET):
        new = replace(new, persistent=cptpl == CPTPL_SET)
    return Outcome(new, notices=notices)


def _require_place(state: ReservationState, host: HostKey) -> None:
    if host not in state.registrants:
        of_host = sum(each.hostnqn == host.hostnqn for each in state.registrants)
        _require(len(state.registrants) < REGISTRANTS_MAX and of_host < IDENTIFIERS_MAX, Status.INTERNAL_ERROR)


# --- Acquire --------------------------------------------------------------------------------------------------------


def _acquire(state: ReservationState, host: HostKey, cdw10: int, crkey: int, prkey: int, rules: Rules) -> Outcome:
    action = cdw10 & 7
    _require(action <= 2 and not cdw10 & IEKEY)
    _require(state.registrants.get(host) == crkey, Status.RESERVATION_CONFLICT)
    if action == 0:
        kind = _type(cdw10, rules)
        if state.holds(host) and state.type is kind:
            return Outcome(state)
        _require(state.type is None, Status.RESERVATION_CONFLICT)
        return Outcome(_reserved(state, host, kind))
    return _preempt(state, host, cdw10, prkey, rules, abort=action == 2)


def _type(cdw10: int, rules: Rules) -> ReservationType:
    number = cdw10 >> 8 & 0xFF
    _require(number in list(ReservationType))
    kind = ReservationType(number)
    _require(rules.of_one_host or not kind.of_one_host, Status.RESERVATION_CONFLICT)
    return kind


def _reserved(state: ReservationState, host: HostKey, kind: ReservationType) -> ReservationState:
    return replace(state, type=kind, holder=None if kind.of_all else host)


def _preempt(state: ReservationState, host: HostKey, cdw10: int, prkey: int, rules: Rules, *, abort: bool) -> Outcome:
    by_all = state.type is not None and state.type.of_all
    _require(prkey != 0 or by_all)
    matching = frozenset(each for each, key in state.registrants.items() if key == prkey)
    if by_all and prkey == 0:
        # The reservation changes hands.
        kind = _type(cdw10, rules)
        leaving = _others(state, host)
        new = _reserved(_without(state, leaving), host, kind)
    elif state.holder is not None and state.registrants[state.holder] == prkey:
        kind = _type(cdw10, rules)
        leaving = matching - {host}
        new = _reserved(_without(state, leaving), host, kind)
    else:
        _require(bool(matching), Status.RESERVATION_CONFLICT)
        leaving = matching
        new = _without(state, leaving)
    new = replace(new, generation=_next(state.generation))
    notices = dict.fromkeys(leaving - {host}, Notice.REGISTRATION_PREEMPTED)
    if state.type is not None and new.type is not state.type:
        notices |= dict.fromkeys(_others(new, host), Notice.RESERVATION_RELEASED)
    return Outcome(new, notices=notices, aborts=leaving - {host} if abort else frozenset())


# --- Release --------------------------------------------------------------------------------------------------------


def _release(state: ReservationState, host: HostKey, cdw10: int, crkey: int, _: int, rules: Rules) -> Outcome:
    action = cdw10 & 7
    _require(action <= 1 and not cdw10 & IEKEY)
    _require(state.registrants.get(host) == crkey, Status.RESERVATION_CONFLICT)
    others = _others(state, host)
    if action == 1:
        cleared = ReservationState(generation=_next(state.generation), persistent=state.persistent)
        return Outcome(cleared, notices=dict.fromkeys(others, Notice.RESERVATION_PREEMPTED))
    if not state.holds(host):
        return Outcome(state)
    assert state.type is not None
    _require(cdw10 >> 8 & 0xFF == state.type)
    told = {} if state.type.of_one_host else dict.fromkeys(others, Notice.RESERVATION_RELEASED)
    return Outcome(replace(state, type=None, holder=None), notices=told)
