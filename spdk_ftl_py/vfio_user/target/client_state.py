"""What an endpoint keeps of its client: memory, registers, queues. Everything that the next daemon needs to go on."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from ...nvme.wire import PAGE_BYTES
from ..fd_socket import close_all
from .registers import BAR0_BYTES, QUEUES_MAX, Registers

REGIONS_MAX: Final = 256
"""Each needs a descriptor. SPDK's initiator has at most 128."""
ADDRESSES: Final = 1 << 64
FILE_BYTES_MAX: Final = (1 << 63) - 1
NOTE_BYTES_MAX: Final = 32 << 10


class RegionError(Exception):
    """A request about memory that can't be done. errno: for the client."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True)
class Region:
    """Memory of the client. descriptor: of the file that has it, from offset on."""

    iova: int
    size: int
    descriptor: int
    offset: int
    writable: bool

    @property
    def end(self) -> int:
        return self.iova + self.size

    def to_record(self) -> dict[str, Any]:
        return {"iova": self.iova, "size": self.size, "offset": self.offset, "writable": self.writable}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], descriptor: int) -> Region:
        """Raises KeyError or ValueError."""
        return cls(
            int(record["iova"]), int(record["size"]), descriptor, int(record["offset"]), bool(record["writable"])
        )


@dataclass(frozen=True)
class Queue:
    """A pair of queues, or a completion queue alone (sq_entries 0). descriptor: of the record of commands in flight; -1
    without a submission queue."""

    qid: int
    sq_iova: int
    cq_iova: int
    sq_entries: int
    cq_entries: int
    descriptor: int = -1

    def to_record(self) -> dict[str, Any]:
        record = asdict(self)
        del record["descriptor"]
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Queue:
        """Without its descriptor. Raises KeyError or ValueError."""
        qid, sq_iova, cq_iova, sq_entries, cq_entries = (
            int(record[name]) for name in ("qid", "sq_iova", "cq_iova", "sq_entries", "cq_entries")
        )
        return cls(qid, sq_iova, cq_iova, sq_entries, cq_entries)

    def with_record(self, descriptor: int) -> Queue:
        return replace(self, descriptor=descriptor)


@dataclass
class ClientState:
    """number: each client of an endpoint has its own. bar0: a memfd with the doorbells. note: what the controller wants
    its successor to know, as JSON has it."""

    number: int
    bar0: int
    registers: Registers
    regions: dict[int, Region] = field(default_factory=dict)
    """By address."""
    queues: dict[int, Queue] = field(default_factory=dict)
    """By queue id; 0 has the admin queues."""
    note: dict[str, Any] = field(default_factory=dict)

    def add_region(self, region: Region, errno_exists: int, errno_limit: int) -> None:
        """Raises RegionError; the descriptor is the caller's then."""
        if any(region.iova < each.end and each.iova < region.end for each in self.regions.values()):
            raise RegionError(errno_exists, f"region {region.iova:#x} overlaps another")
        if len(self.regions) >= REGIONS_MAX:
            raise RegionError(errno_limit, f"more than {REGIONS_MAX} regions")
        self.regions[region.iova] = region

    def put_queue(self, queue: Queue) -> None:
        """Its descriptor is this object's from now on."""
        assert 0 <= queue.qid < QUEUES_MAX
        self.drop_queue(queue.qid)
        self.queues[queue.qid] = queue

    def drop_queue(self, qid: int) -> None:
        """Idempotent."""
        queue = self.queues.pop(qid, None)
        if queue is not None and queue.descriptor >= 0:
            os.close(queue.descriptor)

    def forget_queues(self) -> None:
        """The controller has been reset."""
        for qid in list(self.queues):
            self.drop_queue(qid)
        self.note = {}

    def close(self) -> None:
        """Closes all descriptors. Once."""
        self.forget_queues()
        close_all(region.descriptor for region in self.regions.values())
        self.regions.clear()
        os.close(self.bar0)


def make_bar0() -> int:
    """A memfd of BAR0_BYTES, which a client that has its descriptor can't change in size."""
    descriptor = os.memfd_create("vfio-user BAR0", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, BAR0_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_region(iova: int, size: int, offset: int, descriptor: int, *, errno_invalid: int) -> None:
    """Whether a client may offer that. Raises RegionError."""
    if (iova | size | offset) % PAGE_BYTES or not size:
        raise RegionError(errno_invalid, f"region {iova:#x} of {size:#x} bytes is not made of whole pages")
    if iova + size > ADDRESSES or offset + size > FILE_BYTES_MAX:
        raise RegionError(errno_invalid, f"region {iova:#x} of {size:#x} bytes at {offset:#x} goes round")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise RegionError(errno_invalid, f"region {iova:#x} is not in a file")
    if offset + size > found.st_size:
        raise RegionError(errno_invalid, f"region {iova:#x} ends behind its file, at {offset + size:#x}")
