"""The command `spdk-ftl demo`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from typing import Final

from .. import outputs
from ..errors import ParameterError
from ..target.sizes import MEDIA_BYTES_MAX, parse_size
from ..usage import parsed, some_seconds, text, whole

DESCRIPTION: Final = """\
Show and verify the whole system on this machine, without SPDK, hardware or root. The demo
  1. starts `spdk-ftl target` with an emulated ZNS drive, and `spdk-ftl serve`, as separate processes
  2. creates ftl0 on the drive with stock `spdk-rpc --plugin spdk_ftl_py bdev_ftl_create`
  3. connects as an NVMe/TCP host; writes several times ftl0's capacity, in sequence and at random, so that garbage
     collection has to work; trims; reads every block back, and verifies its content and version
  4. deletes ftl0, checks that the target is as it was, and stops everything
"""
EPILOG: Final = """\
examples:
  spdk-ftl demo --json report.json        about a minute, 2 GiB of memory at most
  spdk-ftl demo --size 512M --time 15     a quick look

exit codes: 0 everything worked and every block was right, 1 something failed (the demo says what), 2 wrong usage,
130 interrupted
"""
SIZE_MIN: Final = 512 << 20
ZONE_BYTES: Final = 16 << 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="show and verify everything together on this machine, in about a minute",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", metavar="FILE", type=text, help="also write the results to this file; - for standard output"
    )
    parser.add_argument(
        "--size",
        type=parsed(_drive_bytes),
        default="2G",
        help="size of the emulated drive, e.g. 1G; kept in memory (default: %(default)s)",
    )
    parser.add_argument(
        "--writes",
        type=whole(1),
        default=3,
        metavar="N",
        help="how many times to write the logical capacity, in sequence and at random (default: %(default)s)",
    )
    parser.add_argument(
        "--time",
        type=some_seconds,
        default=60.0,
        metavar="SECONDS",
        help="target duration; the demo shortens its measurements to meet it (default: %(default)g)",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=1, metavar="N", help="seed of the random pattern (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with logs and state")
    parser.add_argument("--plain", action="store_true", help="no progress bars (as when not on a terminal)")
    parser.set_defaults(run=run)


def _drive_bytes(typed: str) -> int:
    """The size of the emulated drive. Raises ParameterError."""
    try:
        size = parse_size(typed)
    except ValueError as error:
        raise ParameterError(str(error)) from None
    if size % ZONE_BYTES or not SIZE_MIN <= size <= MEDIA_BYTES_MAX:
        allowed = f"{SIZE_MIN >> 20}M to {MEDIA_BYTES_MAX >> 40}T"
        raise ParameterError(f"{typed}: must be a multiple of {ZONE_BYTES >> 20}M, {allowed}")
    return size


def run(args: argparse.Namespace) -> int:
    """Raises FtlError if the demo fails. The command line prints it and exits with 1."""
    from rich.console import Console

    from .report import Report
    from .run import Interrupted, Options, run_demo
    from .screen import Screen

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    on_output = args.json == outputs.STANDARD_OUTPUT
    screen = Screen(Console(stderr=on_output, force_terminal=False if args.plain else None))
    report = Report()
    outputs.check(args.json)
    options = Options(
        media_bytes=args.size, write_multiple=args.writes, time_s=args.time, seed=args.seed, keep=args.keep
    )
    try:
        asyncio.run(run_demo(options, screen, report))
    except Interrupted:
        screen.say("interrupted; all processes have ended")
        raise KeyboardInterrupt from None  # the command line handles its exit code
    finally:
        if args.json:
            report.write(args.json)
        if "capacity_blocks" in report.values:
            screen.console.print(report.table())
    return 0
