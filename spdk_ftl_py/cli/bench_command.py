"""`spdk-ftl bench`: measures an FTL that exists."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from .. import schema
from ..bench.client import Client
from ..bench.existing import address_of, allowed, chosen, measure_existing
from ..bench.measured import Timing
from ..bench.results import compared
from ..bench.rows import Row
from ..bench.table import lines_of
from ..bench.workloads import HOST_NQN
from ..usage import parsed, refusing, some_seconds, whole
from .checked_arguments import parameter
from .commands import add_socket, add_target, daemon_client, ftl_name, named

SECONDS: Final = 2.0
REPEATS: Final = 3
SECONDS_MAX: Final = 3600.0

_DESCRIPTION: Final = """\
Measure an FTL: IOPS, MiB/s, latencies and CPU time for each I/O, with the I/O of a host that connects to the FTL's
export over NVMe/TCP. By default the command only reads, and accepts any content. Other hosts stay connected. Their
I/O affects the results, and the command's I/O slows them down.

With --write the command also writes, all over the FTL: THIS DESTROYS ALL DATA ON THE FTL.
"""
_EPILOG: Final = """\
workloads: write, read, mix (70 % reads) and fsync (a flush follows each write), at queue depth 1, 32 and 128, of 4 KiB
at random; seq-write and seq-read of 128 KiB in sequence. Names end in -4q for four I/O queues. An example is
read-qd32-4q: the queue depth is that of each queue. In the table, CPU time is that of the command's own client and of
the daemon for each I/O. WA is write amplification. Reads of blocks that were never written do not reach the base, and
are fast.

The export must admit the command's host. Unless the FTL admits any host:
  spdk-ftl add-host -b ftl0 --host {nqn}

examples:
  spdk-ftl bench ftl0                              random and sequential reads
  spdk-ftl bench ftl0 --only read-qd1,read-qd32-4q --seconds 5 --repeats 5
  spdk-ftl bench ftl0 --write --only 'write-*'     destroys the data on ftl0

exit codes: 0 success, 1 failure (the reason is on stderr), 2 wrong usage, 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure an FTL: IOPS, latencies, CPU time (reads only, unless --write is given)",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(nqn=HOST_NQN),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", type=ftl_name, help="name of the FTL bdev, e.g. ftl0")
    add_target(parser)
    add_socket(parser)
    parser.add_argument(
        "--only",
        metavar="WORKLOADS",
        type=parsed(chosen),
        help="the workloads to measure, with commas between them; * and ? as in file names (default: the reads with "
        "one queue, and with --write all with one queue)",
    )
    parser.add_argument("--write", action="store_true", help="also write: this destroys all data on the FTL")
    parser.add_argument(
        "--seconds", metavar="SECONDS", type=_seconds, default=SECONDS,
        help="length of each measurement (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", metavar="K", type=whole(1, 1000), default=REPEATS,
        help="measurements of each workload; the median counts (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--hostnqn", metavar="NQN", type=parameter(schema.load("bdev_ftl_add_host"), "host"), default=HOST_NQN,
        help="NQN with which to connect (default: that of the bench, see below)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run, parser=parser)


def _seconds(given: str) -> float:
    value = some_seconds(given)
    if value > SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{given}: must be at most {SECONDS_MAX:g}")
    return float(value)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from ..bench.progress import progress

    with refusing(args.parser, "--only"):
        workloads = allowed(args.only, write=args.write)
    client = daemon_client(args)
    which = named(args)
    (device,) = client.call("ftl_get_devices", which)
    address = address_of(device, args.hostnqn)
    if args.write:
        print(f"spdk-ftl: --write: this destroys all data on {args.name}", file=sys.stderr)
    timing = Timing(args.seconds, args.repeats)
    rows: list[Row] = []
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="spdk-ftl-bench-") as folder,
        Client(Path(folder), core=None) as host,
        progress(console, len(workloads) * timing.repeats) as tell,
    ):
        for measured in measure_existing(
            host, args.name, address, workloads, timing,
            stats=lambda: client.call("bdev_ftl_get_stats", which),
            pids=_pids(client.call("ftl_get_daemon")),
            tell=lambda what: tell(f"{args.name} {what}", 1),
        ):  # fmt: skip
            rows += compared(f"{args.name}/{measured.workload.name}", measured)
    if args.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        print("\n".join(lines_of(rows)))
    return 0


def _pids(daemon: Any) -> dict[str, int]:
    """Of the daemon, if it is a process that we see under that number: not if it runs in a container."""
    pid = int(daemon["pid"])
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return {}
    return {"daemon": pid} if b"serve" in command else {}
