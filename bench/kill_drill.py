"""kill -9 of the daemon under I/O, again and again, on a drive with zones as large as a real drive's.

    python bench/kill_drill.py [--zones 904] [--kills 20] [--blocks 100000] [--seed 1]

`spdk-ftl target` with a drive in a sparse file, of zones of 1077 MiB and 14 active ones, and `spdk-ftl serve`. Two
hosts stay connected by NVMe/TCP, keep writing to --blocks blocks while the daemon is killed, and read all of them
after each kill. Each crash leaves zones behind that the next load finishes early. Prints how long each load took,
from the start of the daemon to the end of the load, by the daemon's log. Exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from spdk_ftl_py.torture.processes import DAEMON_KILLED, Options, run_processes
from spdk_ftl_py.torture.report import Report

DRIVE = "zones={},zone_size=2G,capacity=1077M,max_open=14,max_active=14"
SHAPE = (1, 20)
LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) (.*)")


def loads(log: str) -> Iterator[float]:
    """Seconds from the first line of each daemon that took over to the end of its load."""
    began: float | None = None
    for line in log.splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        at = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").timestamp() + int(found[2]) / 1000
        if "which a dead daemon left" in found[3]:
            began = at
        elif "loaded after a dirty shutdown" in found[3] and began is not None:
            yield at - began
            began = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zones", type=int, default=904)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    options = Options(
        seed=args.seed,
        crashes=args.kills,
        keep=True,
        drive=DRIVE.format(args.zones),
        shapes=(SHAPE,),
        kinds=(DAEMON_KILLED,),
        blocks=args.blocks,
    )
    report = Report()
    folder: Path | None = None
    try:
        asyncio.run(run_processes(options, report, lambda crashes, note: print(f"{crashes} kills", flush=True)))
    finally:
        if "folder" in report.values:
            folder = Path(report.values["folder"])
    assert folder is not None
    seconds = list(loads((folder / "serve.log").read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    print("loads (s):", " ".join(f"{each:.2f}" for each in seconds))
    print(
        f"longest: {max(seconds, default=0.0):.2f} s; longest pause of I/O: {max(report.values['pauses_s'].values())} s"
    )
    print(f"{report.values['blocks_verified']} blocks verified, {report.values['violations']} promises broken")
    for violation in report.values["found"]:
        print(violation)
    return 1 if report.values["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
