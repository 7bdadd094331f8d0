"""The bench's side of the process that does the I/O (generator.py)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ..errors import FtlError, PathError
from .cpu import pinned
from .workloads import HOST_NQN, Workload

STOP_S: Final = 10.0
REQUEST_S: Final = 60.0
"""Added to the time of a request, as the time limit for its answer."""
_BLOCKS_MIB: Final = 256


@dataclass(frozen=True)
class Window:
    """What was measured in one window. cpu_us: of each process, for each I/O."""

    ios: int
    blocks: int
    written_blocks: int
    warm_blocks: int
    beside_blocks: int
    seconds: float
    latency_us: dict[str, float]
    cpu_us: dict[str, float]

    @property
    def iops(self) -> float:
        return self.ios / self.seconds if self.seconds else 0.0

    @property
    def mib_s(self) -> float:
        return self.blocks / _BLOCKS_MIB / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Address:
    """Where a namespace is found."""

    traddr: str
    trsvcid: str
    subnqn: str
    hostnqn: str = HOST_NQN


class Client:
    """The process. Runs from construction to close()."""

    def __init__(self, folder: Path, core: int | None) -> None:
        self._log = folder / "client.log"
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        with self._log.open("ab") as log, pinned(core):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spdk_ftl_py.bench.generator"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                # Ctrl-C goes to the bench only, which then ends its processes in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(
        self, device: str, address: Address, *, qpairs: int = 1, digests: bool = False, verify: str = "whole"
    ) -> int:
        """Returns the number of blocks. Raises FtlError."""
        answer = self._ask(
            {
                "do": "connect", "device": device, "traddr": address.traddr, "trsvcid": address.trsvcid,
                "subnqn": address.subnqn, "hostnqn": address.hostnqn, "qpairs": qpairs, "verify": verify,
                "header_digest": digests, "data_digest": digests,
            },
            REQUEST_S,
        )  # fmt: skip
        return int(answer["block_count"])

    def disconnect(self, device: str) -> None:
        """Idempotent."""
        self._ask({"do": "disconnect", "device": device}, REQUEST_S)

    def run(
        self, device: str, workload: Workload, *, seconds: float = 0.0, warm_s: float = 0.0, blocks: int = 0,
        total_blocks: int = 0, pids: dict[str, int] | None = None,
    ) -> Window:  # fmt: skip
        """One window of at most these seconds (0: no limit), and at most total_blocks (0: no limit). blocks: the range,
        from the first block on; 0: all. pids: of processes whose CPU time is counted. Raises FtlError."""
        beside = {"kind": "write", "queue_depth": 8} if workload.beside_writes else None
        answer = self._ask(
            {
                "do": "run", "device": device, "run": workload.run(), "qpairs": workload.qpairs, "blocks": blocks,
                "seconds": seconds, "total_blocks": total_blocks, "warm_s": warm_s,
                "pids": {"client": self.pid, **(pids or {})}, "beside": beside,
            },
            warm_s + seconds + REQUEST_S + (0 if seconds else 600),
        )  # fmt: skip
        ios = max(1, int(answer["ios"]))
        return Window(
            ios=answer["ios"],
            blocks=answer["blocks"],
            written_blocks=answer["written_blocks"],
            warm_blocks=answer["warm_blocks"],
            beside_blocks=answer["beside_blocks"],
            seconds=answer["seconds"],
            latency_us=answer["latency_us"],
            cpu_us={name: used / 1e3 / ios for name, used in answer["cpu_ns"].items()},
        )

    def _ask(self, request: dict[str, Any], patience_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + patience_s
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise PathError(f"{request['do']}: the bench's client did not answer within {patience_s:g} s")
            received = os.read(descriptor, 1 << 16)
            if not received:
                raise self._ended()
            line += received
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FtlError(f"{request['device']}: {answer['error']}")
        return answer

    def _ended(self) -> FtlError:
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        return FtlError(f"the bench's client ended with exit code {self._process.wait(STOP_S)}: {tail}")

    def close(self) -> None:
        """Idempotent."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
