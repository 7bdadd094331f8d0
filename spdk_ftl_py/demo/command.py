"""`spdk-ftl demo` as a command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import sys
from typing import Final

from ..errors import ParameterError
from ..target.sizes import parse_bytes

DESCRIPTION: Final = """\
Shows the whole system at work on this machine, without SPDK, hardware or root, and checks what it shows:
  1. starts `spdk-ftl target` with an emulated ZNS drive, and `spdk-ftl serve`, as processes of their own
  2. makes ftl0 of the drive with stock `spdk-rpc --plugin spdk_ftl_py bdev_ftl_create`
  3. connects as an NVMe/TCP host and writes several times ftl0's capacity, in sequence and at random, so that garbage
     collection has to work; trims; reads every block back and checks its content and version
  4. deletes ftl0, checks that the target is as it was, and stops everything
"""
EPILOG: Final = """\
examples:
  spdk-ftl demo --json report.json        about a minute, 2 GiB of memory at most
  spdk-ftl demo --size 512M --time 15     a quick look

exit codes: 0 everything worked and every block was right, 1 something failed (it says what), 2 wrong usage,
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
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument(
        "--size", default="2G", help="size of the emulated drive, e.g. 1G; kept in memory (default: %(default)s)"
    )
    parser.add_argument(
        "--writes",
        type=int,
        default=3,
        metavar="N",
        help="how many times the logical capacity is written, in sequence and at random (default: %(default)s)",
    )
    parser.add_argument(
        "--time",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="what all of it should take: measurements are cut short accordingly (default: %(default)g)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random pattern (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with logs and state")
    parser.add_argument("--plain", action="store_true", help="no progress bars (as when not on a terminal)")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Raises FtlError with what failed; the command line prints it and exits with 1."""
    from rich.console import Console

    from .report import Report
    from .run import Interrupted, Options, run_demo
    from .screen import Screen

    try:
        size = parse_bytes(args.size, "--size")
    except ParameterError as error:
        args.parser.error(error.message)
    if size < SIZE_MIN or size % ZONE_BYTES:
        args.parser.error(f"--size {args.size}: must be a multiple of {ZONE_BYTES >> 20}M, at least {SIZE_MIN >> 20}M")
    if args.writes < 1:
        args.parser.error(f"--writes {args.writes}: must be at least 1")
    if not 0 < args.time < math.inf:
        args.parser.error(f"--time {args.time:g}: must be more than 0, and finite")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    screen = Screen(Console(force_terminal=False if args.plain else None))
    report = Report()
    if args.json:
        report.write(args.json)  # a path that can't be written is told now, not after a minute
    options = Options(media_bytes=size, write_multiple=args.writes, time_s=args.time, seed=args.seed, keep=args.keep)
    try:
        asyncio.run(run_demo(options, screen, report))
    except Interrupted:
        screen.say("interrupted; everything is stopped")
        raise KeyboardInterrupt from None  # the command line knows its exit code
    finally:
        if args.json:
            report.write(args.json)
        if "capacity_blocks" in report.values:
            screen.console.print(report.table())
    return 0
