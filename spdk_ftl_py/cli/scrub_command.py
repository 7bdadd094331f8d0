"""`spdk-ftl scrub`: orders a scrub of an FTL, and waits for its end."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from .. import schema
from ..client import DaemonClient
from ..errors import FtlError
from .commands import add_socket, add_target, daemon_client, ftl_name, named

POLL_S: Final = 0.5
EXIT_CLEAN: Final = 0
EXIT_BAD: Final = 1
EXIT_NOT_SCRUBBED: Final = 2

_DESCRIPTION: Final = """\
Read and verify all valid data and metadata of an FTL on its base, while the FTL serves hosts. The FTL moves blocks that
are damaged or slow to read. Without this command the FTL does this in the background, at least once in conf
scrub_days.
"""
_EPILOG: Final = """\
If a scrub is already ordered, the command waits for that one. Ctrl-C ends the wait, not the scrub.

exit codes: 0 all blocks are good (with --no-wait or --stop: the scrub is ordered, or stopped), 1 the scrub found
damaged or unreadable blocks, 2 the scrub did not finish (wrong usage, no such FTL, stopped by somebody, failed; the
reason is on stderr), 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "scrub",
        help="read and verify everything that an FTL has on its base, while it runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", type=ftl_name, help="name of the FTL bdev, e.g. ftl0")
    add_target(parser)
    add_socket(parser)
    parser.add_argument("--no-wait", action="store_true", help="order the scrub, and do not wait for its end")
    parser.add_argument(
        "--stop",
        action="store_true",
        help="cancel the order: the scrub continues at the pace of scrub_days (0: it ends)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        client = daemon_client(args)
        rpc = schema.load("bdev_ftl_scrub")
        which = named(args)
        params = {**which, **({"stop": True} if args.stop else {})}
        status = client.call(rpc.method, rpc.check(params))
        if args.no_wait or args.stop:
            return _report(status, args, EXIT_CLEAN)
        with _progress(args.name) as progress:
            last = _wait(client, which, int(status["round"]), progress)
    except FtlError as error:
        print(f"spdk-ftl: scrub {args.name}: {error.message}", file=sys.stderr)
        return EXIT_NOT_SCRUBBED
    bad = last["bad_blocks"] + last["bad_metadata"] + last["unread_bands"] > 0
    return _report({"name": args.name, **last}, args, EXIT_BAD if bad else EXIT_CLEAN)


def _report(status: Mapping[str, Any], args: argparse.Namespace, code: int) -> int:
    """Shows the result, and returns the exit code."""
    try:
        _show(status, args.name, as_json=args.json)
    except OSError as error:
        print(f"spdk-ftl: scrub {args.name}: the result can't be written: {error.strerror}", file=sys.stderr)
        # Not the exit code for bad blocks, because there are none.
        return EXIT_NOT_SCRUBBED if code == EXIT_CLEAN else code
    return code


def _wait(
    client: DaemonClient, which: Mapping[str, Any], number: int, progress: Callable[[float], None]
) -> Mapping[str, Any]:
    """The result of that round, or of a later one. While the FTL has lost its base and can't be asked, the daemon is
    asked again. Raises FtlError if the round does not end."""
    while True:
        try:
            stats: Mapping[str, Any] = client.call("bdev_ftl_get_stats", which)
        except FtlError as error:
            if error.errno != errno.EBUSY:
                raise
            stats = {"state": "failed"}
        if stats["state"] == "failed":
            # Usually it has lost its base, which will come back.
            _check_returns(client, which)
        else:
            status = stats["scrub"]
            last: Mapping[str, Any] | None = status["last"]
            if last is not None and last["round"] >= number:
                return last
            if not status.get("ordered"):
                raise FtlError(
                    "the scrub is no longer ordered (somebody stopped it, or the FTL was loaded again): order it again"
                )
            progress(float(status["progress"] or 0.0))
        time.sleep(POLL_S)


def _check_returns(client: DaemonClient, which: Mapping[str, Any]) -> None:
    """Raises FtlError if the FTL has failed for good."""
    for device in client.call("ftl_get_devices", which):
        if device["state"] == "failed":
            raise FtlError(f"the FTL has failed: {device['error'] or 'the log of the daemon says why'}")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, if somebody sees it."""
    if not sys.stderr.isatty():
        yield lambda part: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"scrub {name}", total=1.0)
        yield lambda part: bar.update(task, completed=part)


def _show(status: Mapping[str, Any], name: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status, indent=2), flush=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"scrub of {name}")
    for heading in ("what", "value"):
        table.add_column(heading, overflow="fold")
    for key, value in status.items():
        if key not in ("name", "last"):
            table.add_row(Text(key), Text(str(value)))
    console = Console()
    with console.capture() as captured:
        console.print(table)
    print(captured.get().rstrip("\n"), flush=True)
