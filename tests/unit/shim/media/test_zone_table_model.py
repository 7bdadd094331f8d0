"""Any sequence of zone commands on the shim's zoned devices does what the plain model of ZNS does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from spdk_ftl_py import _shim
from unit.shim.media import zns_model
from unit.shim.media.zns_model import ZnsModel
from unit.shim.stepped import ZSA_CLOSE, ZSA_FINISH, ZSA_OFFLINE, ZSA_OPEN, ZSA_RESET, Stepped, block

ZONE_COUNT, ZONE_SIZE, ZONE_CAPACITY = 6, 8, 6
MAX_OPEN, MAX_ACTIVE = 2, 4
BLOCK_COUNT = ZONE_COUNT * ZONE_SIZE

ACTIONS = st.sampled_from([ZSA_CLOSE, ZSA_FINISH, ZSA_OPEN, ZSA_RESET, ZSA_OFFLINE])
ZONES = st.integers(0, ZONE_COUNT - 1)
LENGTHS = st.integers(1, ZONE_CAPACITY + 1)


def emulated_media(reactor: _shim.Reactor) -> _shim.BlockDevice:
    return _shim.EmulatedMedia.zns(
        reactor, ZONE_COUNT, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=MAX_OPEN, max_active_zones=MAX_ACTIVE
    )


def overlay(reactor: _shim.Reactor) -> _shim.BlockDevice:
    base = _shim.EmulatedMedia.conventional(reactor, BLOCK_COUNT + 3)
    return _shim.ZonedOverlay(reactor, base, zone_capacity=ZONE_CAPACITY, max_open_zones=MAX_OPEN)


class ZonedDevice(RuleBasedStateMachine):
    make: Callable[[_shim.Reactor], _shim.BlockDevice]
    max_active: int

    def __init__(self) -> None:
        super().__init__()
        reactor = _shim.Reactor("zns")
        self.device = type(self).make(reactor)
        self.io = Stepped(reactor, self.device)
        self.model = ZnsModel(ZONE_COUNT, ZONE_SIZE, ZONE_CAPACITY, MAX_OPEN, self.max_active)
        self.tag = 0

    def teardown(self) -> None:
        self.io.port.close()

    def content(self, block_count: int) -> list[bytes]:
        self.tag += block_count
        return [block(self.tag - i) for i in range(block_count)]

    @rule(zone=ZONES, block_count=LENGTHS, off=st.sampled_from([0, 0, 0, 0, 1, -1]))
    def write_at_or_beside_the_write_pointer(self, zone: int, block_count: int, off: int) -> None:
        target = self.model.zones[zone]
        lba = max(0, target.start + len(target.content) + off)
        content = self.content(block_count)
        if lba + block_count <= BLOCK_COUNT:
            assert self.io.write(lba, b"".join(content)) == self.model.write(lba, content)

    @rule(zone=ZONES, block_count=LENGTHS, off=st.sampled_from([0, 0, 0, 1]))
    def append(self, zone: int, block_count: int, off: int) -> None:
        lba = self.model.zones[zone].start + off
        content = self.content(block_count)
        done = self.io.append(lba, b"".join(content))
        status, result = self.model.append(lba, content)
        # Of an error the result is DNR: too many zones may be fewer soon.
        dnr = int(status != 0 and _shim.error_class(status) != _shim.ErrorClass.BUSY)
        assert (done.status, done.result) == (status, dnr if status else result)

    @rule(zone=ZONES, block_count=LENGTHS)
    def write_zeroes(self, zone: int, block_count: int) -> None:
        target = self.model.zones[zone]
        lba = target.start + len(target.content)
        if lba + block_count <= BLOCK_COUNT:
            status = self.io.run(_shim.Op.WRITE_ZEROES, lba, block_count)
            assert status == self.model.write(lba, [bytes(4096)] * block_count)

    @rule(zone=ZONES, action=ACTIONS, off=st.sampled_from([0, 0, 0, 0, 3, BLOCK_COUNT]))
    def zone_action(self, zone: int, action: int, off: int) -> None:
        lba = self.model.zones[zone].start + off
        assert self.io.zone_send(lba, action) == self.model.send(lba, action)

    @rule(action=ACTIONS)
    def zone_action_on_all(self, action: int) -> None:
        assert self.io.zone_send(0, action, select_all=True) == self.model.send_all(action)

    @rule(lba=st.integers(0, BLOCK_COUNT - 1), block_count=st.integers(1, 2 * ZONE_SIZE))
    def read(self, lba: int, block_count: int) -> None:
        status, content = self.model.read(lba, block_count)
        if status != zns_model.OK:
            assert self.io.read_status(lba, block_count) == status
            return
        found = self.io.read(lba, block_count)
        for i, expected in enumerate(content):
            # Behind the write pointer a drive reads zeroes; an overlay returns what its base has there.
            if expected or isinstance(self.device, _shim.EmulatedMedia):
                assert found[i * 4096 : (i + 1) * 4096] == (expected or bytes(4096))

    @invariant()
    def report_agrees(self) -> None:
        zone_count, zones = self.io.report()
        assert zone_count == ZONE_COUNT
        for reported, expected in zip(zones, self.model.zones, strict=True):
            assert (reported.kind, reported.capacity, reported.start) == (2, ZONE_CAPACITY, expected.start)
            assert reported.state == expected.state
            if expected.state in ("empty", *zns_model.ACTIVE_STATES):
                assert reported.write_pointer == expected.start + len(expected.content)

    @invariant()
    def limits_hold(self) -> None:
        assert self.model.count(zns_model.OPEN_STATES) <= MAX_OPEN
        if self.max_active:
            assert self.model.count(zns_model.ACTIVE_STATES) <= self.max_active


class EmulatedDrive(ZonedDevice):
    make = staticmethod(emulated_media)
    max_active = MAX_ACTIVE

    @rule(zone=ZONES, state=st.sampled_from(["read_only", "read_only", "offline"]))
    def zone_fails(self, zone: int, state: str) -> None:
        assert isinstance(self.device, _shim.EmulatedMedia)
        self.device.set_zone_state(zone, state)
        self.model.zones[zone].state = state


class Overlay(ZonedDevice):
    make = staticmethod(overlay)
    max_active = 0


@pytest.mark.parametrize("machine", [EmulatedDrive, Overlay])
def test_zoned_devices_follow_the_zns_state_machine(machine: type[ZonedDevice]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
