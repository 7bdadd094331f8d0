"""The registers of an NVMe controller on PCIe (NVM Express over PCIe 1.0 section 3, Base 2.0 section 3.1): what a
client reads and writes there, and which steps of the controller follow from it.

A write takes effect at once; the step that follows from it takes its time. The client learns of its end from CSTS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ...nvme import wire
from ...nvme.wire import Cap, Property

REGISTER_BYTES: Final = 4096
"""The first page of BAR0. The second one has the doorbells."""
DOORBELL_BYTES: Final = 4096
BAR0_BYTES: Final = REGISTER_BYTES + DOORBELL_BYTES
QUEUES_MAX: Final = DOORBELL_BYTES // 8
"""Pairs of queues that have doorbells, with the admin queues."""
READY_TIMEOUT_S: Final = 60.0
"""CAP.TO. A controller can't be enabled before the next daemon is there."""

AQA, ASQ, ACQ = 0x24, 0x28, 0x30
ADMIN_ENTRIES_MIN: Final = 2
_QUEUE_ADDRESS: Final = 0xFFFFFFFFFFFFF000


class Step(Enum):
    """What the controller has to do."""

    ENABLE = "enable"
    DISABLE = "disable"
    SHUT_DOWN = "shut down"


@dataclass(frozen=True)
class AdminQueues:
    """By AQA, ASQ and ACQ."""

    sq_iova: int
    cq_iova: int
    sq_entries: int
    cq_entries: int


def capabilities(queue_entries_max: int, *, zoned: bool) -> int:
    """CAP, with MPSMIN, MPSMAX and DSTRD 0."""
    css = Cap.CSS_NVM | Cap.CSS_IOCS if zoned else Cap.CSS_NVM
    timeout = int(READY_TIMEOUT_S / wire.CAP_TO_UNIT_S)
    return queue_entries_max - 1 | timeout << wire.CAP_TO_SHIFT | Cap.CQR | css | Cap.CRWMS


class Registers:
    def __init__(self, cap: int, begin: Callable[[Step], None]) -> None:
        """begin: starts a step; finished() tells its end. One at a time."""
        self.cap = cap
        self.cc = 0
        self.csts = 0
        self.aqa = 0
        self.asq = 0
        self.acq = 0
        self._begin = begin
        self._running: Step | None = None
        self._held = False
        self._reset_due = False
        self._when_idle: list[Callable[[], None]] = []

    # --- the client -------------------------------------------------------------------------------------------------

    def read(self, offset: int, count: int) -> bytes:
        """Within REGISTER_BYTES. What is not a register reads as zeroes."""
        page = bytearray(REGISTER_BYTES)
        struct.pack_into("<QI", page, Property.CAP, self.cap, wire.VERSION_2_0)
        struct.pack_into("<I", page, Property.CC, self.cc)
        struct.pack_into("<I", page, Property.CSTS, self.csts)
        struct.pack_into("<IQQ", page, AQA, self.aqa, self.asq, self.acq)
        struct.pack_into("<I", page, Property.CRTO, int(READY_TIMEOUT_S / wire.CAP_TO_UNIT_S))
        return bytes(page[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Whole registers, or halves of those with 8 bytes. Other writes, and writes to what is read-only, have no
        effect, as with a drive."""
        value = int.from_bytes(data, "little")
        if offset == Property.CC and len(data) == 4:
            self._write_cc(value)
        elif not self.cc & wire.CC_EN:
            self._write_admin_queue(offset, len(data), value)

    def _write_admin_queue(self, offset: int, count: int, value: int) -> None:
        if offset == AQA and count == 4:
            self.aqa = value & 0x0FFF0FFF
        for register, name in ((ASQ, "asq"), (ACQ, "acq")):
            if offset in (register, register + 4) and offset + count <= register + 8 and count in (4, 8):
                shift = 8 * (offset - register)
                kept = getattr(self, name) & ~(((1 << 8 * count) - 1) << shift)
                setattr(self, name, (kept | value << shift) & _QUEUE_ADDRESS)

    def _write_cc(self, new: int) -> None:
        old, self.cc = self.cc, new & 0x00FFFFF1
        if old & wire.CC_EN and not new & wire.CC_EN:
            self._reset_due = self._running is not Step.DISABLE
        if new & wire.CC_EN and not old & wire.CC_EN:
            self.csts &= ~wire.CSTS_SHST_MASK
        self._pump()

    def reset(self, done: Callable[[], None]) -> None:
        """As after power-on. done: called when it is."""
        self.cc = self.aqa = self.asq = self.acq = 0
        self._reset_due = self._running is not Step.DISABLE
        self._when_idle.append(done)
        self._pump()

    # --- the controller ---------------------------------------------------------------------------------------------

    @property
    def running(self) -> Step | None:
        return self._running

    @property
    def ready(self) -> bool:
        return bool(self.csts & wire.CSTS_RDY)

    @property
    def admin_queues(self) -> AdminQueues:
        return AdminQueues(self.asq, self.acq, (self.aqa & 0xFFF) + 1, (self.aqa >> 16 & 0xFFF) + 1)

    def finished(self, *, ok: bool) -> None:
        """The step that was begun has ended. ok: False: it failed, which is fatal for the controller until a reset."""
        step, self._running = self._running, None
        if step is Step.ENABLE:
            self.csts |= wire.CSTS_RDY if ok else wire.CSTS_CFS
        elif step is Step.DISABLE:
            self.csts = 0
        elif step is Step.SHUT_DOWN:
            self.csts = self.csts & ~wire.CSTS_SHST_MASK | wire.CSTS_SHST_COMPLETE
        self._pump()

    def hold(self, held: bool) -> None:
        """held: there is no controller, so it can't be enabled now. An enable that has begun was in vain, and waits."""
        self._held = held
        if held and self._running is Step.ENABLE:
            self._running = None
        self._pump()

    def fail(self) -> None:
        """A fault of the client's queues: CSTS.CFS until a reset."""
        self.csts |= wire.CSTS_CFS

    def _pump(self) -> None:
        while self._running is None:
            step = self._next()
            if step is None or (step is Step.ENABLE and self._held):
                waiting, self._when_idle = self._when_idle, []
                for each in waiting:
                    each()
                return
            if step is Step.ENABLE and not self._may_be_enabled():
                self.csts |= wire.CSTS_CFS
                continue
            if step is Step.DISABLE:
                self._reset_due = False
            elif step is Step.SHUT_DOWN:
                self.csts |= wire.CSTS_SHST_OCCURRING
            self._running = step
            self._begin(step)

    def _next(self) -> Step | None:
        enabled = bool(self.cc & wire.CC_EN)
        up = bool(self.csts & (wire.CSTS_RDY | wire.CSTS_CFS))
        if self._reset_due or (up and not enabled):
            return Step.DISABLE
        if self.cc >> wire.CC_SHN_SHIFT & 3 and not self.csts & wire.CSTS_SHST_MASK:
            return Step.SHUT_DOWN
        return Step.ENABLE if enabled and not up and not self.csts & wire.CSTS_SHST_MASK else None

    def _may_be_enabled(self) -> bool:
        css = self.cc >> wire.CC_CSS_SHIFT & 7
        allowed = (wire.CSS_NVM, wire.CSS_ALL) if self.cap & Cap.CSS_IOCS else (wire.CSS_NVM,)
        queues = self.admin_queues
        return (
            css in allowed
            and not self.cc >> wire.CC_MPS_SHIFT & 0xF
            and not self.cc >> wire.CC_AMS_SHIFT & 7
            and min(queues.sq_entries, queues.cq_entries) >= ADMIN_ENTRIES_MIN
        )

    # --- hand-over --------------------------------------------------------------------------------------------------

    def to_record(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("cap", "cc", "csts", "aqa", "asq", "acq")}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], begin: Callable[[Step], None] = lambda step: None) -> Registers:
        """As another process has them. Raises KeyError or ValueError."""
        registers = cls(int(record["cap"]), begin)
        for name in ("cc", "csts", "aqa", "asq", "acq"):
            setattr(registers, name, int(record[name]))
        return registers
