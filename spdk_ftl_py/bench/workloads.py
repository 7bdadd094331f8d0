"""The workloads, and what each of them does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["write", "read", "mixed", "trim"]
HOST_NQN: Final = "nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-0000000be4c4"
"""Of the host that does the I/O."""
LARGE_BLOCKS: Final = 32
"""128 KiB."""
LARGE_DEPTH: Final = 16
MIX_WRITE_PERCENT: Final = 30
DEPTHS: Final = (1, 32, 128)


@dataclass(frozen=True)
class Workload:
    """queue_depth: for each of the qpairs."""

    name: str
    kind: Kind
    queue_depth: int
    io_blocks: int = 1
    sequential: bool = False
    write_percent: int = 100
    sync: bool = False
    """A flush follows each write."""
    qpairs: int = 1
    beside_writes: bool = False
    """A second qpair writes meanwhile. Results are those of the reads alone."""

    @property
    def writes(self) -> bool:
        return self.kind != "read" or self.beside_writes

    @property
    def all_qpairs(self) -> int:
        """Also that of the writes beside reads."""
        return self.qpairs + self.beside_writes

    @property
    def metric(self) -> str:
        """The unit in which the workload is compared."""
        return "mib_s" if self.io_blocks > 1 else "iops"

    def run(self) -> dict[str, Any]:
        """As LoadGenerator.start() takes it."""
        return {
            "kind": self.kind,
            "pattern": "sequential" if self.sequential else "random",
            "io_blocks": self.io_blocks,
            "queue_depth": self.queue_depth,
            "write_percent": self.write_percent,
            "sync": self.sync,
        }


def _all() -> list[Workload]:
    found = []
    for qpairs in (1, 4):
        end = "" if qpairs == 1 else f"-{qpairs}q"
        for depth in DEPTHS:
            found.append(Workload(f"write-qd{depth}{end}", "write", depth, qpairs=qpairs))
        for depth in DEPTHS:
            found.append(Workload(f"read-qd{depth}{end}", "read", depth, qpairs=qpairs))
        found += [
            Workload(f"mix-qd{depth}{end}", "mixed", depth, write_percent=MIX_WRITE_PERCENT, qpairs=qpairs)
            for depth in DEPTHS
        ]
        large: dict[str, Any] = {"io_blocks": LARGE_BLOCKS, "sequential": True, "qpairs": qpairs}
        found.append(Workload(f"seq-write{end}", "write", LARGE_DEPTH, **large))
        found.append(Workload(f"seq-read{end}", "read", LARGE_DEPTH, **large))
        found.append(Workload(f"fsync-qd1{end}", "write", 1, sync=True, qpairs=qpairs))
        found.append(Workload(f"fsync-qd32{end}", "write", 32, sync=True, qpairs=qpairs))
    found.append(Workload("read-beside-writes", "read", 32, beside_writes=True))
    return found


WORKLOADS: Final = {workload.name: workload for workload in _all()}
