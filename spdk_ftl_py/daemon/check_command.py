"""`spdk-ftl check`: runs the checker of ftl/check.py on a bdev of a live target, and claims the bdev meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID, uuid4

from .. import _shim
from ..access.users import uid_of
from ..client import target_address
from ..errors import FtlError, MediaError
from ..ftl.check import CheckReport, check, damage_lines
from ..nvme.host.controller import Controller
from ..runtime.progress import Progress
from ..runtime.reactor import ReactorLoop
from ..runtime.steps import Steps
from ..runtime.tasks import cancelled_by_signals
from ..spdk.bdevs import get_bdev
from ..spdk.claims import require_unclaimed
from ..spdk.exports import bdev_nqn, export_bdev, host_nqn, require_tcp_transport
from ..spdk.rpc import TargetRpc
from ..usage import account, parsed, text, whole
from .checks import check_base

TARGET_DEFAULT: Final = "/var/tmp/spdk.sock"
QUEUE_DEPTH: Final = 64
ZONE_BLOCKS_MAX: Final = (1 << 32) - 1
DAMAGE_SHOWN_MAX: Final = 16
EXIT_CLEAN: Final = 0
EXIT_DAMAGED: Final = 1
EXIT_NOT_CHECKED: Final = 2

_DESCRIPTION: Final = """\
Read and verify everything that an FTL has on its base bdev: superblocks, batch headers, summaries, the L2P checkpoint,
and the CRC of every block. The check writes nothing. It claims the bdev, so no FTL may run on it.
"""
_EPILOG: Final = """\
exit codes: 0 no damage, 1 damage (listed), 2 the check could not run (wrong usage, no such bdev, in use, no FTL on it;
the reason is on stderr), 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "check",
        help="verify everything that an FTL has on its base bdev; only reads",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", metavar="BASE", type=text, help="base bdev of the FTL in the SPDK target")
    parser.add_argument(
        "-s",
        "--target",
        "--server",
        metavar="SOCKET",
        type=parsed(target_address, without="-s: "),
        default=TARGET_DEFAULT,
        help="RPC socket of the SPDK target (default: %(default)s)",
    )
    parser.add_argument(
        "--target-user",
        metavar="USER",
        type=account,
        help="user who may serve that socket, besides yourself and root (default: none)",
    )
    parser.add_argument("-u", "--uuid", type=UUID, help="UUID that the FTL must have (default: any)")
    parser.add_argument(
        "--zone-capacity",
        type=whole(1, ZONE_BLOCKS_MAX),
        metavar="BLOCKS",
        help="capacity of an emulated zone in blocks, as at the creation of the FTL",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        with _progress() as progress:
            report = asyncio.run(_interruptible(_check_bdev(args, args.target, progress)))
    except FtlError as error:
        print(f"spdk-ftl: {error.message}", file=sys.stderr)
        return EXIT_NOT_CHECKED
    except OSError as error:
        print(f"spdk-ftl: the SPDK target at {args.target}: {error}", file=sys.stderr)
        return EXIT_NOT_CHECKED
    try:
        document = {"base": args.base, **report.to_dict()}
        print(json.dumps(document, indent=2) if args.json else _table(args.base, report), flush=True)
    except OSError as error:
        # The exit code must not be the one for damage, because there is none.
        print(f"spdk-ftl: check {args.base}: the result can't be written: {error.strerror}", file=sys.stderr)
        return EXIT_NOT_CHECKED if report.ok else EXIT_DAMAGED
    return EXIT_CLEAN if report.ok else EXIT_DAMAGED


async def _interruptible(work: Any) -> CheckReport:
    """Also undoes the changes in the target on SIGTERM."""
    try:
        with cancelled_by_signals():
            report: CheckReport = await work
            return report
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _check_bdev(args: argparse.Namespace, target: str, progress: Progress) -> CheckReport:
    """Raises FtlError if the bdev can't be checked. The target is afterwards as it was before."""
    rpc = TargetRpc(target, user=None if args.target_user is None else uid_of(args.target_user))
    await require_tcp_transport(rpc)
    base = await get_bdev(rpc, args.base, role="base bdev")
    check_base(base, zone_capacity=args.zone_capacity)
    await require_unclaimed(rpc, base, "base bdev")
    steps = Steps(f"check {args.base}")
    host_id = uuid4()
    try:
        exported = await export_bdev(rpc, steps, base, nqn=bdev_nqn("check", host_id), hostnqn=host_nqn(host_id))
        reactor = ReactorLoop("check")
        await steps.run("start the reactor", reactor.start(), reactor.stop)
        controller = await Controller.connect(
            exported.traddr, exported.trsvcid, exported.nqn, hostnqn=host_nqn(host_id), hostid=host_id
        )
        steps.on_undo("disconnect from the base", controller.close)
        namespaces = [entry for entry in await controller.namespaces() if entry.nsid == exported.nsid]
        if not namespaces:
            raise MediaError(f"bdev {args.base}: the target's export of it has no namespace {exported.nsid}")
        media: _shim.BlockDevice = await controller.create_io_qpair(reactor, namespaces[0], queue_depth=QUEUE_DEPTH)
        if args.zone_capacity is not None:
            media = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=args.zone_capacity, initial_state="full")
        return await check(reactor, media, name=args.base, uuid=args.uuid, progress=progress)
    finally:
        failures = await steps.undo()
        for step, failure in failures:
            print(f"spdk-ftl: could not undo: {step}: {failure}", file=sys.stderr)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr, if somebody sees it."""
    if not sys.stderr.isatty():
        yield lambda step, part: None
        return
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, bars.TaskID] = {}

        def show(step: str, part: float) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=1.0)
            bar.update(tasks[step], completed=part)

        yield show


def _table(base: str, report: CheckReport) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"FTL on {base}")
    for heading in ("what", "value"):
        table.add_column(heading, overflow="fold")
    for key, value in report.to_dict().items():
        if key != "damage":
            table.add_row(Text(key), Text(str(value)))
    console = Console()
    with console.capture() as captured:
        console.print(table)
        for text in damage_lines(report, DAMAGE_SHOWN_MAX):
            console.print(f"damaged: {text}", markup=False, highlight=False, soft_wrap=True)
    return captured.get().rstrip("\n")
