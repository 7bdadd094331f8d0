"""`spdk-ftl torture` as a command."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any, Final

from ..errors import FtlError
from ..usage import text, whole
from .options import CACHES, NO_CACHE, Options

CRASHES: Final = 500
CRASHES_OF_PROCESSES: Final = 20

DESCRIPTION: Final = """\
Crashes an FTL over and over and checks that it keeps its promises. In one process, on emulated drives, with simulated
time: a host writes, overwrites, trims, flushes and reads; at some I/O of the drive the power fails or the daemon dies,
now and then in the middle of a halt or a load; the FTL is loaded again, and every block is read and compared with what
a model says it may hold:
  - what was flushed, or written with FUA, is there, or something newer
  - nothing is ever older than what was there before, and what was trimmed stays trimmed
  - each block is whole: it carries its LBA, its version and a pattern made of both
  - nothing stands still, and no load is refused

In a third of the worlds (see below; with --chain in all) an I/O goes the way it goes in the product, as NVMe/TCP PDUs
from the host to the drive, and the connections of host, base and nv cache are lost now and then.

With --processes all of it is real: `spdk-ftl target` with a drive in a file and `spdk-ftl serve`, as processes of their
own in a temporary directory, and NVMe/TCP hosts that stay connected. Daemon, target, or both, are killed with SIGKILL
under load, now and then once more while they recover, and started again. Hosts repeat what had no answer; no I/O may
fail, and nothing that was acknowledged may be missing, flushed or not.

Everything follows from --seed: geometry, traffic, order of completions, crashes. After 20 crashes a new drive of
another geometry is used (a "world"). With --processes only traffic and moments: what the machine makes of them differs.
"""
EPILOG: Final = """\
examples:
  spdk-ftl torture --json t.json                       500 crashes, about a minute
  spdk-ftl torture --seed 7 --crashes 5000             another run, and longer
  spdk-ftl torture --every 1 --crashes 200             a crash at each of the first I/Os after a load
  spdk-ftl torture --processes --crashes 20            real processes and kill -9, about two minutes
  spdk-ftl torture --seed 7 --world 12 --crashes 20    what a failure prints: the same again, nothing else

exit codes: 0 every promise was kept, 1 one was broken (it says which, and how to see it again), 2 wrong usage,
130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "torture",
        help="crash an FTL over and over on emulated drives, and check that nothing durable is lost",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=whole(0), default=1, metavar="N", help="what all else follows from (default: 1)")
    parser.add_argument(
        "--crashes",
        type=whole(1),
        metavar="N",
        help=f"how many (default: {CRASHES}; with --processes {CRASHES_OF_PROCESSES})",
    )
    parser.add_argument(
        "--processes", action="store_true", help="real processes, connected hosts and kill -9 of daemon, target or both"
    )
    parser.add_argument(
        "--every",
        type=whole(0),
        default=0,
        metavar="K",
        help="crash at the K-th I/O of the drive after each load (default: at random)",
    )
    parser.add_argument(
        "--cache",
        choices=CACHES,
        default=NO_CACHE,
        help="nv cache: with metadata in each block (vss), or without (non-vss); default: %(default)s",
    )
    parser.add_argument("--use-append", action="store_true", help="FTLs that write with zone append")
    parser.add_argument(
        "--faults",
        action="store_true",
        help="now and then a write or flush of the drive fails, a zone goes read-only or is finished by the drive, a "
        "drive is busy for a while, or blocks rot",
    )
    parser.add_argument(
        "--chain",
        action=argparse.BooleanOptionalAction,
        help="I/O as NVMe/TCP PDUs from the host to the drive, over connections that are lost now and then (default: "
        "in a third of the worlds)",
    )
    parser.add_argument("--world", type=whole(0), metavar="N", help="only this one of the seed's worlds")
    parser.add_argument(
        "--keep", action="store_true", help="with --processes: keep the temporary directory with drive, state and logs"
    )
    parser.add_argument("--json", metavar="FILE", type=text, help="write the results there too")
    parser.add_argument("--plain", action="store_true", help="no progress bars (as when not on a terminal)")
    parser.set_defaults(run=run, parser=parser)


def _so_far(values: Mapping[str, Any], replay: str) -> str:
    """In words, of a report: what a run has done that the user has ended."""
    what = f"{values['crashes']:,} crashes, {values['blocks_verified']:,} blocks verified"
    return f"interrupted after {what}: {values['violations']} violations\nthe same from the beginning: {replay}"


def run(args: argparse.Namespace) -> int:
    """Raises FtlError with the first promise that was broken; the command line prints it and exits with 1."""
    from rich.console import Console

    from ..demo.screen import Screen
    from .processes import Interrupted, run_processes
    from .processes import Options as ProcessesOptions
    from .processes import replay as replay_of_processes
    from .report import Report
    from .run import run_torture

    crashes = args.crashes or (CRASHES_OF_PROCESSES if args.processes else CRASHES)
    for name in ("every", "world", "faults", "chain"):
        if args.processes and getattr(args, name):
            args.parser.error(f"--{name} does not go with --processes: moments are random there")
    if args.processes and args.cache == "vss":
        args.parser.error("--cache vss does not go with --processes: no bdev with metadata outlives its target there")
    if args.keep and not args.processes:
        args.parser.error("--keep goes with --processes only")
    told = {
        "cache": args.cache,
        "faults": args.faults,
        "processes": args.processes,
        "crashes": crashes,
        "every": args.every,
        "use_append": args.use_append,
        "chain": args.chain,
    }
    screen = Screen(Console(force_terminal=False if args.plain else None))
    report = Report(seed=args.seed, options=told)
    if args.json:
        report.write(args.json)  # a path that can't be written is told now, not after a minute
    options = Options(
        seed=args.seed,
        crashes=crashes,
        every=args.every,
        use_append=args.use_append,
        cache=args.cache,
        faults=args.faults,
        chain=args.chain,
        world=args.world,
    )
    processes = ProcessesOptions(args.seed, crashes, args.use_append, args.cache != NO_CACHE, args.keep)
    replay = replay_of_processes(processes) if args.processes else options.command()
    try:
        with screen.phase("torture", crashes) as phase:
            if args.processes:
                asyncio.run(run_processes(processes, report, phase.update))
            else:
                run_torture(options, report, phase.update)
            phase.note = f"{report.values['crashes']} crashes, {report.values['blocks_verified']:,} blocks verified"
    except (Interrupted, KeyboardInterrupt):
        # Cleaned up by now; the command line knows the exit code of KeyboardInterrupt.
        screen.say(_so_far(report.values, replay))
        raise KeyboardInterrupt from None
    finally:
        if args.json:
            report.write(args.json)
        if args.keep:
            screen.say(f"drive, state and logs are kept in {report.values.get('folder')}")
    screen.console.print(report.table())
    if report.values["violations"]:
        first = report.values["found"][0]
        where = f" at LBA {first['lba']}" if first["lba"] >= 0 else ""
        raise FtlError(
            f"torture: {report.values['violations']} violations; the first, behind crash {first['crash']} "
            f"({first['after']}): {first['kind']}{where}: {first['detail']}\nto see it again: {report.values['replay']}"
        )
    return 0
