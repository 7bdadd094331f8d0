"""Cores that processes are pinned to, and the CPU time that they have used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_NS: Final = 1_000_000_000


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pins this thread to the core. Processes that it starts meanwhile stay there. None: leaves everything as it is."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_ns(pid: int) -> int | None:
    """The CPU time of all threads that the process has now, in nanoseconds, as the scheduler counts it (schedstat(5) of
    the kernel's documentation; /proc/PID/stat has only ticks of 10 ms). None: there is no such process, or the kernel
    does not tell."""
    total = 0
    threads = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end while we look.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int((task / "schedstat").read_text().split()[0])
                threads += 1
    except (OSError, ValueError, IndexError):
        return None
    return total if threads else None


def machine() -> dict[str, object]:
    """What results depend on: CPU, cores, memory, kernel, distribution."""
    cpu = _field("/proc/cpuinfo", "model name", ":") or "unknown"
    memory = _field("/proc/meminfo", "MemTotal", ":")
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(int(memory.split()[0]) / (1 << 20), 1) if memory else 0,
        "kernel": os.uname().release,
        "distribution": (_field("/etc/os-release", "PRETTY_NAME", "=") or "unknown").strip('"'),
    }


def _field(path: str, name: str, separator: str) -> str | None:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return None
