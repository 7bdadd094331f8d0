"""Registers without a controller: which steps follow from which writes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.wire import Property
from spdk_ftl_py.vfio_user.target.registers import ACQ, AQA, ASQ, Registers, Step, capabilities

EN = wire.CC_EN | wire.IOSQES << wire.CC_IOSQES_SHIFT | wire.IOCQES << wire.CC_IOCQES_SHIFT
CAP = capabilities(64, zoned=False)


class Bench:
    """Registers whose steps are finished by the test, or at once."""

    def __init__(self, *, at_once: bool = False, cap: int = CAP) -> None:
        self.steps: list[Step] = []
        self.at_once = at_once
        self.registers = Registers(cap, self._begin)

    def _begin(self, step: Step) -> None:
        self.steps.append(step)
        if self.at_once:
            self.registers.finished(ok=True)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.registers.write(offset, value.to_bytes(size, "little"))

    def read(self, offset: int, size: int = 4) -> int:
        return int.from_bytes(self.registers.read(offset, size), "little")

    def enable(self) -> None:
        self.write(AQA, 31 << 16 | 31)
        self.write(ASQ, 0x10000, 8)
        self.write(ACQ, 0x20000, 8)
        self.write(Property.CC, EN)

    @property
    def csts(self) -> int:
        return self.read(Property.CSTS)


def test_a_controller_is_ready_when_the_step_is_done() -> None:
    bench = Bench()
    bench.enable()
    assert (bench.steps, bench.csts) == ([Step.ENABLE], 0)
    bench.registers.finished(ok=True)
    assert bench.csts == wire.CSTS_RDY
    queues = bench.registers.admin_queues
    assert (queues.sq_iova, queues.cq_iova, queues.sq_entries, queues.cq_entries) == (0x10000, 0x20000, 32, 32)


def test_an_enable_that_fails_is_fatal_until_the_reset() -> None:
    bench = Bench()
    bench.enable()
    bench.registers.finished(ok=False)
    assert bench.csts == wire.CSTS_CFS
    bench.write(Property.CC, 0)
    bench.registers.finished(ok=True)
    assert (bench.steps, bench.csts) == ([Step.ENABLE, Step.DISABLE], 0)


@pytest.mark.parametrize(
    "cc",
    [EN | wire.CSS_ALL << wire.CC_CSS_SHIFT, EN | 1 << wire.CC_MPS_SHIFT, EN | 1 << wire.CC_AMS_SHIFT],
    ids=["command-sets", "page-size", "arbitration"],
)
def test_what_cap_does_not_offer_is_fatal(cc: int) -> None:
    bench = Bench(at_once=True)
    bench.enable()
    bench.write(Property.CC, 0)
    bench.write(Property.CC, cc)
    assert bench.csts == wire.CSTS_CFS
    bench.write(Property.CC, 0)
    bench.write(Property.CC, EN)
    assert bench.csts == wire.CSTS_RDY


def test_a_reset_that_is_undone_at_once_is_a_reset() -> None:
    bench = Bench()
    bench.enable()
    bench.registers.finished(ok=True)
    bench.write(Property.CC, 0)
    bench.write(Property.CC, EN)
    assert bench.steps == [Step.ENABLE, Step.DISABLE]
    bench.registers.finished(ok=True)
    assert bench.steps == [Step.ENABLE, Step.DISABLE, Step.ENABLE]
    assert not bench.csts


def test_a_shutdown_is_told_and_ends_with_the_reset() -> None:
    bench = Bench()
    bench.enable()
    bench.registers.finished(ok=True)
    bench.write(Property.CC, EN | wire.SHN_NORMAL << wire.CC_SHN_SHIFT)
    assert bench.csts == wire.CSTS_RDY | wire.CSTS_SHST_OCCURRING
    bench.registers.finished(ok=True)
    assert bench.csts == wire.CSTS_RDY | wire.CSTS_SHST_COMPLETE
    bench.at_once = True
    bench.write(Property.CC, 0)
    assert bench.csts == 0
    bench.write(Property.CC, EN)
    assert bench.csts == wire.CSTS_RDY


def test_admin_queues_can_be_set_in_halves_but_not_while_enabled() -> None:
    bench = Bench(at_once=True)
    bench.write(ASQ, 0x12345678)
    bench.write(ASQ + 4, 0x9)
    assert bench.read(ASQ, 8) == 0x912345000
    bench.enable()
    bench.write(ASQ, 0, 8)
    assert bench.registers.asq == 0x10000


def test_a_device_reset_clears_all() -> None:
    bench = Bench(at_once=True)
    bench.enable()
    done: list[int] = []
    bench.registers.reset(lambda: done.append(bench.csts))
    assert done == [0]
    assert [bench.read(AQA), bench.read(ASQ, 8), bench.read(ACQ, 8), bench.read(Property.CC)] == [0, 0, 0, 0]
    assert bench.read(Property.CAP, 8) == CAP


def test_what_is_read_only_stays() -> None:
    bench = Bench()
    for offset in (Property.CAP, Property.VS, Property.CSTS, Property.NSSR, 0x100, 0xFF8):
        before = bench.read(offset, 8)
        bench.write(offset, 0xFFFFFFFF)
        bench.write(offset, 0xFFFFFFFFFFFFFFFF, 8)
        assert bench.read(offset, 8) == before


@given(st.lists(st.tuples(st.integers(0, 0x40), st.binary(min_size=1, max_size=9), st.booleans()), max_size=40))
def test_whatever_is_written_one_step_runs_at_a_time(writes: list[tuple[int, bytes, bool]]) -> None:
    bench = Bench()
    for offset, data, ok in writes:
        bench.registers.write(offset, data)
        running = bench.registers.running
        if running is not None:
            assert bench.steps[-1] is running
            bench.registers.finished(ok=ok)
    while bench.registers.running is not None:
        bench.registers.finished(ok=True)
    record = bench.registers.to_record()
    again = Registers.from_record(record)
    assert again.read(0, 4096) == bench.registers.read(0, 4096)
    assert bool(again.ready) <= bool(struct.unpack("<I", again.read(Property.CC, 4))[0] & wire.CC_EN)
