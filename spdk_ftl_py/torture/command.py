"""The command `spdk-ftl torture`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any, Final

from .. import outputs
from ..conf import CLASSES_MAX, CORES_MAX
from ..errors import FtlError
from ..usage import path, text, whole
from ..workers.options import add_worker_options
from .options import CACHES, NO_CACHE, Options

CRASHES: Final = 500
CRASHES_OF_PROCESSES: Final = 20

DESCRIPTION: Final = """\
Crash an FTL again and again, and check that it keeps its promises. All of this happens in one process, on emulated
drives, with simulated time. A host writes, overwrites, trims, flushes and reads. At some I/O of the drive the power
fails or the daemon dies, sometimes during a halt or a load. Then the FTL is loaded again, and every block is read and
compared with what a model allows:
  - a block that was flushed or written with FUA is there, or a newer version of it
  - no block is older than it was before, and trimmed blocks stay trimmed
  - each block is whole: it contains its LBA, its version and a pattern derived from both
  - no I/O hangs, and no load is refused

In a third of the worlds (see below; with --chain in all) I/O takes the same path as in the product, as NVMe/TCP PDUs
from the host to the drive, and the connections of host, base and nv cache are lost now and then.

With --processes the command uses real processes: `spdk-ftl target` with a drive in a file, and `spdk-ftl serve`, in a
temporary directory, and NVMe/TCP hosts that stay connected. It kills daemon, target or both with SIGKILL under load,
sometimes again during the recovery, and starts them again. Hosts repeat outstanding I/O. No I/O may fail, and no
acknowledged write may be missing, flushed or not. With --transport vfio-user the target attaches the FTL by vfio-user
and exports it to the hosts, and the daemon reaches the drive by vfio-user, too.

--seed determines everything: geometry, traffic, order of completions, crashes. After 20 crashes the command takes a new
drive of another geometry (a "world"). With --processes the seed determines only traffic and moments of crashes.
"""
EPILOG: Final = """\
examples:
  spdk-ftl torture --json t.json                       500 crashes, about a minute
  spdk-ftl torture --seed 7 --crashes 5000             another run, and longer
  spdk-ftl torture --every 1 --crashes 200             a crash at each of the first I/Os after a load
  spdk-ftl torture --processes --crashes 20            real processes and kill -9, about two minutes
  spdk-ftl torture --seed 7 --world 12 --crashes 20    replays a failure, as the command prints it
  spdk-ftl torture --crashes 1000000 --campaign c --scheduler tcp://storage1:8786
                                                       a million crashes, on all machines of a Dask cluster

exit codes: 0 every promise was kept, 1 a promise was broken (the command prints which, and how to replay it) or the
campaign failed, 2 wrong usage, 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "torture",
        help="crash an FTL again and again on emulated drives, and check that no durable data is lost",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=whole(0), default=1, metavar="N", help="seed of all random choices (default: 1)")
    parser.add_argument(
        "--crashes",
        type=whole(1),
        metavar="N",
        help=f"number of crashes (default: {CRASHES}; with --processes {CRASHES_OF_PROCESSES})",
    )
    parser.add_argument(
        "--processes",
        action="store_true",
        help="use real processes and connected hosts, and kill -9 daemon, target or both",
    )
    parser.add_argument(
        "--transport",
        choices=("tcp", "vfio-user"),
        default="tcp",
        help="with --processes: how target and daemon reach each other (default: %(default)s)",
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
        help="give the FTL an nv cache: with metadata in each block (vss), or without (non-vss); default: %(default)s",
    )
    parser.add_argument("--use-append", action="store_true", help="write with zone append")
    parser.add_argument(
        "--faults",
        action="store_true",
        help=(
            "inject faults: a write or flush of the drive fails, a zone goes read-only, the drive finishes a zone or "
            "is busy for a while, blocks rot"
        ),
    )
    parser.add_argument(
        "--chain",
        action=argparse.BooleanOptionalAction,
        help=(
            "send I/O as NVMe/TCP PDUs from the host to the drive, over connections that are lost now and then "
            "(default: in a third of the worlds)"
        ),
    )
    parser.add_argument(
        "--cores",
        type=whole(1, CORES_MAX),
        default=1,
        metavar="N",
        help=(
            "have N reactors of the daemon serve the hosts (default: %(default)s); without --processes, one thread "
            "steps all of them in an order that the seed determines"
        ),
    )
    parser.add_argument(
        "--classes",
        type=whole(2, CLASSES_MAX),
        metavar="N",
        help=(
            "write bands in up to N classes, which change at random (default: 2, and up to 8 in a third of the worlds)"
        ),
    )
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="write running checkpoints (docs/checkpoint.md) all the time, in worlds that can have them",
    )
    parser.add_argument("--world", type=whole(0), metavar="N", help="run only this world of the seed")
    parser.add_argument(
        "--keep", action="store_true", help="with --processes: keep the temporary directory with drive, state and logs"
    )
    campaign = parser.add_argument_group(
        "campaigns",
        "With any of these options worlds run side by side, and the command does not end with the first broken "
        "promise: it counts on, and prints how to replay each.",
    )
    add_worker_options(campaign, "worlds")
    campaign.add_argument(
        "--campaign",
        type=path,
        metavar="FILE",
        help="write to this file what was run; start the same command again to go on, also with more crashes",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=text, help="also write the results to this file; - for standard output"
    )
    parser.add_argument("--plain", action="store_true", help="no progress bars (as when not on a terminal)")
    parser.set_defaults(run=run, parser=parser)


def _so_far(values: Mapping[str, Any], replay: str) -> str:
    """Describes the results of a run that the user has ended."""
    what = f"{values['crashes']:,} crashes, {values['blocks_verified']:,} blocks verified"
    return f"interrupted after {what}: {values['violations']} violations\nthe same from the beginning: {replay}"


def run(args: argparse.Namespace) -> int:
    """Raises FtlError for the first broken promise. The command line prints it and exits with 1."""
    from rich.console import Console

    from ..demo.screen import Screen
    from .campaign_command import run_campaign
    from .processes import Interrupted, run_processes
    from .processes import Options as ProcessesOptions
    from .processes import replay as replay_of_processes
    from .report import Report
    from .run import run_torture

    crashes = args.crashes or (CRASHES_OF_PROCESSES if args.processes else CRASHES)
    for name in ("every", "world", "faults", "chain", "classes", "checkpoint"):
        if args.processes and getattr(args, name):
            args.parser.error(f"--{name} can't be used with --processes, where the moments of crashes are random")
    if args.processes and args.cache == "vss":
        args.parser.error("--cache vss can't be used with --processes: no bdev with metadata outlives its target there")
    if args.keep and not args.processes:
        args.parser.error("--keep can only be used with --processes")
    if args.transport != "tcp" and not args.processes:
        args.parser.error("--transport can only be used with --processes")
    if args.jobs is not None and args.scheduler is not None:
        args.parser.error("--jobs can't be used with --scheduler, whose workers decide how many processes they run")
    in_campaign = [name for name in ("jobs", "scheduler", "campaign") if getattr(args, name) is not None]
    for name, given in (("processes", args.processes), ("world", args.world is not None)):
        if in_campaign and given:
            args.parser.error(f"--{name} can't be used with --{in_campaign[0]}")
    settings = {
        "transport": args.transport,
        "cache": args.cache,
        "faults": args.faults,
        "processes": args.processes,
        "crashes": crashes,
        "every": args.every,
        "use_append": args.use_append,
        "chain": args.chain,
        "cores": args.cores,
        "classes": args.classes,
        "checkpoint": args.checkpoint,
    }
    on_output = args.json == outputs.STANDARD_OUTPUT
    screen = Screen(Console(stderr=on_output, force_terminal=False if args.plain else None))
    report = Report(seed=args.seed, options=settings)
    outputs.check_distinct({"--campaign": args.campaign, "--json": args.json})
    outputs.check(args.json)
    options = Options(
        seed=args.seed,
        crashes=crashes,
        every=args.every,
        use_append=args.use_append,
        cache=args.cache,
        faults=args.faults,
        chain=args.chain,
        cores=args.cores,
        classes=args.classes,
        checkpoint=args.checkpoint,
        world=args.world,
    )
    if in_campaign:
        return run_campaign(args, options, report, screen)
    processes = ProcessesOptions(
        args.seed, crashes, args.use_append, args.cache != NO_CACHE, args.keep, args.transport == "vfio-user",
        args.cores,
    )  # fmt: skip
    replay = replay_of_processes(processes) if args.processes else options.command()
    try:
        with screen.phase("torture", crashes) as phase:
            if args.processes:
                asyncio.run(run_processes(processes, report, phase.update))
            else:
                run_torture(options, report, phase.update)
            phase.note = f"{report.values['crashes']} crashes, {report.values['blocks_verified']:,} blocks verified"
    except (Interrupted, KeyboardInterrupt):
        # Everything is cleaned up. The command line handles the exit code of KeyboardInterrupt.
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
            f"torture: {report.values['violations']} violations; the first, after crash {first['crash']} "
            f"({first['after']}): {first['kind']}{where}: {first['detail']}\nto replay it: {report.values['replay']}"
        )
    return 0
