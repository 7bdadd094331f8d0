"""`spdk-ftl top`: what the FTLs do, live in the terminal."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from ..errors import FtlError
from ..usage import some_seconds
from .commands import add_socket, daemon_client, ftl_name

if TYPE_CHECKING:
    from .top.samples import Sample, Sampler, SampleThread
    from .top.terminal import Terminal
    from .top.view import View

INTERVAL_S: Final = 2.0
INTERVAL_S_MIN: Final = 0.1
INTERVAL_S_MAX: Final = 3600.0

_DESCRIPTION: Final = """\
Show live what the FTLs of the daemon do: IOPS, throughput and latency of hosts, write amplification, free bands, and
what relocation (garbage collection) does. The numbers cover the last interval. With NAME, show this FTL alone: its
bands, which bands relocation moves and why, its nv cache and its hosts.

Without --once and --json, top needs a terminal of at least 80 columns and 24 lines. It only reads, so --socket may be
the monitor socket. If the daemon ends, top says so, and continues when a daemon answers again.
"""
_EPILOG: Final = """\
keys: q quit; up, down and Enter, or 1 to 9: show one FTL; Esc: show all FTLs; s sort; p pause; ? help

exit codes: 0 success, 1 failure (the reason is on stderr), 2 wrong usage, 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "top",
        help="show live what the FTLs do",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", type=ftl_name, help="name of an FTL bdev (default: all FTLs)")
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_interval,
        default=INTERVAL_S,
        help=f"how long to measure for each display (default: %(default)g; {INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:g})",
    )
    parser.add_argument("--once", action="store_true", help="measure one interval, print it as text, and exit")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a line of JSON for each interval, until interrupted (with --once: one line)",
    )
    add_socket(parser)
    parser.set_defaults(run=run)


def _interval(given: str) -> float:
    value = some_seconds(given)
    if not INTERVAL_S_MIN <= value <= INTERVAL_S_MAX:
        raise argparse.ArgumentTypeError(f"{given}: must be {INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:g}")
    return value


def run(args: argparse.Namespace) -> int:
    """Raises FtlError."""
    from .top.samples import ANSWER_TIMEOUT_S, Sampler

    client = daemon_client(args)
    client.timeout_s = ANSWER_TIMEOUT_S
    sampler = Sampler(client, args.name)
    if args.once or args.json:
        return _print(sampler, args)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise FtlError("top: standard input and output are not a terminal: give --once, or --json")
    return _live(sampler, args)


# --- lines


def _first(sampler: Sampler, name: str | None) -> Sample:
    """Raises FtlError if the daemon does not answer, or has no such FTL."""
    from .top.samples import Sample

    sample = sampler.take(Sample())
    if sample.error:
        raise FtlError(sample.error)
    if name is not None and not sample.ftls:
        raise FtlError(f"top: the daemon has no FTL bdev {name}: see spdk-ftl devices")
    return sample


def _print(sampler: Sampler, args: argparse.Namespace) -> int:
    from rich.console import Console

    from .top import view

    before = _first(sampler, args.name)
    console = Console()
    while True:
        time.sleep(args.interval)
        sample = sampler.take(before)
        if sample.error:
            raise FtlError(sample.error)
        if args.json:
            print(json.dumps(_as_json(sample, before)), flush=True)
        else:
            # Lines longer than a narrow terminal wrap there; in a file or pipe they stay whole.
            for line in view.plain(sample, 0, width=console.width):
                console.print(line, soft_wrap=True)
        if args.once:
            return 0
        before = sample


def _as_json(sample: Sample, before: Sample) -> dict[str, Any]:
    ftls = []
    for ftl in sample.ftls:
        rates = None if ftl.rates is None else {
            key: value if value is None else round(value, 4) for key, value in dataclasses.asdict(ftl.rates).items()
        }  # fmt: skip
        ftls.append({"device": ftl.device, "rates": rates, "stats": ftl.stats})
    return {"time": time.time(), "seconds": round(sample.taken - before.taken, 4), "ftls": ftls}


# --- a live screen


def _live(sampler: Sampler, args: argparse.Namespace) -> int:
    from rich.console import Console

    from .top.samples import SampleThread
    from .top.terminal import EndedError, Terminal
    from .top.view import View

    first = _first(sampler, args.name)
    view = View()
    if args.name is not None:
        view.opened = sampler.wanted = first.ftls[0].key
    try:
        with Terminal(Console(highlight=False)) as terminal:
            thread = SampleThread(sampler, args.interval, terminal.wake)
            thread.start()
            try:
                _until_quit(terminal, thread, view, args.interval)
            finally:
                thread.end()
    except EndedError as error:
        return 128 + error.signum
    except EOFError:
        return 1
    return 0


def _until_quit(terminal: Terminal, thread: SampleThread, view: View, interval_s: float) -> None:
    from .top import view as views

    while True:
        width, height = terminal.size
        terminal.show(views.screen(thread.latest, view, width=width, height=height, interval_s=interval_s))
        for key in terminal.pressed():
            if key == "q":
                return
            _on_key(key, thread, view)


def _on_key(key: str, thread: SampleThread, view: View) -> None:
    from .top.view import ORDERS, ordered

    ftls = ordered(thread.latest.ftls, view.order)
    opened = view.opened
    if key in ("?", "h"):
        view.help = not view.help
    elif key == "p":
        view.paused = thread.paused = not view.paused
    elif key == "s":
        view.order = (view.order + 1) % len(ORDERS)
    elif key in ("escape", "0"):
        if view.help:
            view.help = False
        else:
            view.opened = None
    elif key in ("up", "down"):
        view.chosen = max(0, min(len(ftls) - 1, view.chosen + (1 if key == "down" else -1)))
        if view.opened is not None and ftls:
            view.opened = ftls[view.chosen].key
    elif key == "enter" and view.chosen < len(ftls):
        view.opened = ftls[view.chosen].key
    elif key.isdigit() and 1 <= int(key) <= len(ftls):
        view.chosen = int(key) - 1
        view.opened = ftls[view.chosen].key
    if view.opened != opened:
        thread.ask_for(view.opened)
