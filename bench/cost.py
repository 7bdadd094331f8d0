"""What a daemon costs that has nothing to do: CPU time and memory for N idle FTLs, each attached to its target.

    python bench/cost.py [--devices 1,32] [--seconds 20] [--size 1G] [--json cost.json] [--serve "OPTION ..."]

Each FTL has an emulated ZNS drive in one embedded target, and is attached there (`ftl0` and so on), so all its
connections stand. CPU time is that of all threads of the daemon, of the target, and of the keepers that `--serve
"--transport vfio-user"` has, in `--seconds` after a pause: the median of windows of five seconds, the longest period of
what an idle daemon does often.
`wakeups/s` are the voluntary context switches of the daemon's threads: how often one of them went to sleep again.
Memory is the daemon's proportional set (PSS), which counts write buffers; `MiB/device` is its growth from no FTL to N,
divided by N. Sizes of the drives matter: the L2P takes 4 B, and verify_reads 2 B, for each 4 KiB that were written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from spdk_ftl_py import DaemonClient, outputs
from spdk_ftl_py.under_test.programs import Daemon, EmbeddedTarget

TICKS: Final = os.sysconf("SC_CLK_TCK")
SETTLE_S: Final = 6.0
"""After the last creation: the first health checks and the trims of a new FTL are done by then."""
WINDOW_S: Final = 5.0
KEEPER: Final = "spdk_ftl_py.vfio_user.target.keeper"


@dataclass(frozen=True)
class Row:
    """Of one daemon."""

    devices: int
    cpu_percent: float
    """Of one core."""
    target_cpu_percent: float
    wakeups_per_s: float
    threads: int
    pss_mib: float
    mib_per_device: float
    create_s: float
    wakeups_by_thread: dict[str, float]
    keepers: int
    keepers_cpu_percent: float
    keepers_pss_mib: float


@dataclass(frozen=True)
class Sample:
    """Of a process."""

    cpu_s: float
    switches: dict[tuple[int, str], int]
    """Voluntary context switches, by thread."""


def _cpu_s(process: int) -> float:
    """CPU time of all threads, to the nanosecond where the kernel says so."""
    total = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
    return total / 1e9


def sample(process: int) -> Sample:
    switches = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        name = (task / "comm").read_text().strip()
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                switches[int(task.name), name] = int(line.split()[1])
    return Sample(_cpu_s(process), switches)


def pss_mib(process: int) -> float:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("smaps_rollup has no Pss")


def keepers_below(folder: Path) -> list[int]:
    """The processes that keep endpoints in that directory."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            arguments = os.fsdecode((process / "cmdline").read_bytes()).split("\0") if process.name.isdigit() else []
        except OSError:
            continue
        if KEEPER in arguments and any(each.startswith(f"{folder}/") for each in arguments):
            found.append(int(process.name))
    return found


def measure(devices: int, size: str, seconds: float, options: list[str]) -> Row:
    with tempfile.TemporaryDirectory(prefix="cost-") as path:
        folder = Path(path)
        drives = [
            argument
            for number in range(devices)
            for argument in ("--zns", f"name=Z{number},size={size},zone_size=16M,capacity=12M,max_open=14")
        ]
        with EmbeddedTarget(folder, *drives) as target, Daemon(folder, *options) as daemon:
            target.call("nvmf_create_transport", trtype="TCP")
            client = DaemonClient(daemon.socket)
            empty = pss_mib(daemon.process.pid)
            began = time.monotonic()
            for number in range(devices):
                client.bdev_ftl_create(
                    name=f"ftl{number}", base_bdev=f"Z{number}", target=Path(target.socket), overprovisioning=30
                )
            create_s = time.monotonic() - began
            time.sleep(SETTLE_S)
            keepers = keepers_below(folder)
            of_each: dict[str, list[float]] = {"daemon": [], "target": [], "keepers": []}

            def spent() -> dict[str, float]:
                processes = {"daemon": [daemon.process.pid], "target": [target.process.pid], "keepers": keepers}
                return {name: sum(map(_cpu_s, each)) for name, each in processes.items()}

            before, began = sample(daemon.process.pid), time.monotonic()
            for _ in range(max(1, round(seconds / WINDOW_S))):
                spent_before, window_began = spent(), time.monotonic()
                time.sleep(min(seconds, WINDOW_S))
                window_s = time.monotonic() - window_began
                for name, now in spent().items():
                    of_each[name].append(100 * (now - spent_before[name]) / window_s)
            after, took = sample(daemon.process.pid), time.monotonic() - began
            cpu = {name: statistics.median(each) for name, each in of_each.items()}
            by_thread: Counter[str] = Counter()
            for thread, count in after.switches.items():
                by_thread[thread[1]] += count - before.switches.get(thread, 0)
            pss = pss_mib(daemon.process.pid)
            return Row(
                devices,
                cpu["daemon"],
                cpu["target"],
                sum(by_thread.values()) / took,
                len(after.switches),
                pss,
                (pss - empty) / devices if devices else 0.0,
                create_s,
                {name: count / took for name, count in by_thread.most_common(8)},
                len(keepers),
                cpu["keepers"],
                sum(map(pss_mib, keepers)),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,32", help="how many FTLs, one run for each number")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each daemon is watched")
    parser.add_argument("--size", default="1G", help="of each drive")
    parser.add_argument("--serve", default="", help="further options of `spdk-ftl serve`")
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    outputs.check(args.json)
    rows = []
    print(
        "| FTLs | CPU % of a core | wakeups/s | threads | MiB | MiB/device | s to create all | target's CPU % | "
        "keepers: CPU % | MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for devices in map(int, args.devices.split(",")):
        row = measure(devices, args.size, args.seconds, args.serve.split())
        rows.append(row)
        print(
            f"| {row.devices} | {row.cpu_percent:.2f} | {row.wakeups_per_s:.1f} | {row.threads} | {row.pss_mib:.0f} | "
            f"{row.mib_per_device:.1f} | {row.create_s:.1f} | {row.target_cpu_percent:.2f} | "
            f"{row.keepers}: {row.keepers_cpu_percent:.2f} | {row.keepers_pss_mib:.0f} |",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
