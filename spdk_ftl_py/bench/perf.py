"""spdk_nvme_perf in place of our own client. It polls: its core is never idle."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path
from typing import Final

from ..errors import FtlError
from .client import Address, Window
from .cpu import pinned
from .workloads import Workload

BLOCK_BYTES: Final = 4096
MEMORY_MIB: Final = 512
PATIENCE_S: Final = 60.0
_TOTAL: Final = re.compile(r"^Total\s*:\s*([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s*$", re.MULTILINE)
_PERCENTILE: Final = re.compile(r"^\s*([\d.]+)%\s*:\s*([\d.]+)us\s*$", re.MULTILINE)
_PERCENTILES: Final = {"50.00000": "p50", "90.00000": "p90", "99.00000": "p99", "99.90000": "p999", "99.99000": "p9999"}


def possible(state: str, workload: Workload) -> bool:
    """It has no flushes, no second load beside the first, and always uses the whole namespace: a mix needs room that a
    full FTL does not have without relocation."""
    if workload.sync or workload.beside_writes:
        return False
    return workload.kind != "mixed" or state != "fresh"


class Perf:
    def __init__(self, program: str, folder: Path, core: int | None) -> None:
        self._program = program
        self._folder = folder
        self._core = core
        self._devices: dict[str, tuple[Address, bool]] = {}

    def connect(self, device: str, address: Address, *, digests: bool) -> None:
        """The program connects anew for each window."""
        self._devices[device] = address, digests

    def run(self, device: str, workload: Workload, *, seconds: float, total_blocks: int = 0) -> Window:
        """The program knows whole seconds only, and no time together with a number of blocks: with total_blocks, the
        window ends after so many. Raises FtlError."""
        address, digests = self._devices[device]
        command = [
            self._program, "--no-huge", "-s", str(MEMORY_MIB), "-L", "-c", f"[{self._core or 0}]",
            "-q", str(workload.queue_depth), "-P", str(workload.qpairs), "-o", str(workload.io_blocks * BLOCK_BYTES),
            *_pattern(workload), "-t", str(max(1, math.ceil(seconds))),
            "-r", f"trtype:TCP adrfam:IPv4 traddr:{address.traddr} trsvcid:{address.trsvcid} "
            f"subnqn:{address.subnqn} hostnqn:{address.hostnqn}",
        ]  # fmt: skip
        if total_blocks:
            command += ["-d", str(max(1, total_blocks // workload.io_blocks))]
        if digests:
            command += ["-H", "-I"]
        try:
            with pinned(self._core):
                done = subprocess.run(
                    command, cwd=self._folder, capture_output=True, text=True, timeout=seconds + PATIENCE_S, check=False
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FtlError(f"{self._program}: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout)[-800:]
            raise FtlError(f"{self._program} ended with exit code {done.returncode}: {said}")
        return window_of(done.stdout, workload)


def _pattern(workload: Workload) -> list[str]:
    if workload.kind == "mixed":
        return ["-w", "rw" if workload.sequential else "randrw", "-M", str(100 - workload.write_percent)]
    return ["-w", ("" if workload.sequential else "rand") + workload.kind]


def window_of(output: str, workload: Workload) -> Window:
    """From what the program prints. It does not say how long it took, so the window is one second of its rates. Raises
    FtlError."""
    total = _TOTAL.search(output)
    if total is None:
        raise FtlError(f"the output of spdk_nvme_perf has no line Total: {output[-400:]!r}")
    iops, _, mean, least, most = (float(value) for value in total.groups())
    latency = {"mean": mean, "min": least, "max": most}
    for percent, value in _PERCENTILE.findall(output):
        if percent in _PERCENTILES:
            latency[_PERCENTILES[percent]] = float(value)
    missing = [name for name in _PERCENTILES.values() if name not in latency]
    if missing:
        raise FtlError(f"the output of spdk_nvme_perf has no {', '.join(missing)}: {output[-400:]!r}")
    blocks = int(iops * workload.io_blocks)
    return Window(
        ios=int(iops),
        blocks=blocks,
        written_blocks=blocks * (workload.write_percent if workload.kind != "read" else 0) // 100,
        warm_blocks=0,
        beside_blocks=0,
        seconds=1.0,
        latency_us=latency,
        cpu_us={},
    )
