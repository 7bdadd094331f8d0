"""`spdk-ftl stats`: what an FTL has done, the most important numbers first; with --watch, what it does now."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .. import schema
from ..errors import BusyError, UnsupportedError
from ..rates import between
from ..text import show_line
from ..usage import seconds
from .commands import add_socket, add_target, daemon_client, ftl_name, named, show_mapping
from .units import BLOCK_BYTES, show_bytes, show_count, show_us

METHOD: Final = "bdev_ftl_get_stats"
WATCH_S: Final = 1.0
WATCH_MIN_S: Final = 0.1
HEADINGS_EVERY: Final = 20
_COLUMNS: Final = (
    ("MiB/s r", 8), ("IOPS r", 8), ("p99 r", 8), ("MiB/s w", 8), ("IOPS w", 8), ("p99 w", 8), ("WA", 5), ("GC", 7),
    ("free", 6), ("limit", 6),
)  # fmt: skip
"""Of a line of --watch: 72 characters, and the errors."""

_DESCRIPTION: Final = """\
Show what an FTL has done since the daemon created or loaded it: I/O of hosts with latencies and errors, what was
written to media, relocation, damage. With --watch, show what the FTL does now: a line for each interval.
"""
_EPILOG: Final = """\
A line of --watch has, for reads (r) and writes (w) of hosts, MiB and I/Os per second and the 99th percentile of
latency. Then it has write amplification (WA), the MiB per second that relocation moves (GC), free bands, the limit in
force, and the errors that hosts saw in the interval.

exit codes: 0 success (with --watch: interrupted by Ctrl-C), 1 failure, 2 wrong usage
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "stats",
        help="show the statistics of an FTL: I/O of hosts, latencies, errors, relocation",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", type=ftl_name, help="name of the FTL bdev, e.g. ftl0")
    add_target(parser)
    add_socket(parser)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_interval,
        const=WATCH_S,
        help=f"print a line of rates every SECONDS (default: {WATCH_S:g}), until Ctrl-C",
    )
    parser.add_argument("--all", action="store_true", help="also show every counter")
    parser.add_argument(
        "--json", action="store_true", help="print the whole answer as JSON; with --watch, one line each time"
    )
    parser.set_defaults(run=run)


def _interval(given: str) -> float:
    interval = seconds(given)
    if interval < WATCH_MIN_S:
        raise argparse.ArgumentTypeError(f"{given}: must be at least {WATCH_MIN_S:g} s")
    return float(interval)


def run(args: argparse.Namespace) -> int:
    rpc = schema.load(METHOD)
    client, params = daemon_client(args), rpc.check(named(args))
    if args.watch is not None:
        return _watch(lambda: dict(client.call(METHOD, params)), args.watch, as_json=args.json)
    stats = client.call(METHOD, params)
    # The target's own FTL has other statistics.
    summary = "host_written_blocks" in stats
    if summary and not args.json:
        for line in lines_of(stats):
            print(show_line(line, 400))
    if args.json or args.all or not summary:
        show_mapping(stats, args.name, as_json=args.json)
    return 0


# --- once ------------------------------------------------------------------------------------------------------------


def lines_of(stats: Mapping[str, Any]) -> Iterator[str]:
    """What matters first. A daemon that was not restarted after an upgrade tells no latencies."""
    bands = sum(stats["bands"].values())
    limit = f"limit {stats['limit']}"
    if stats["user_share"] < 100:
        limit += f" (hosts may do {stats['user_share']} % of writes)"
    yield f"{stats['name']}: {stats['state']}, {stats['free_bands']} of {bands} bands free, {limit}"
    yield ""
    yield from _hosts(stats)
    yield ""
    core = stats["core"]
    metadata = core["media_header_blocks"] + core["media_summary_blocks"]
    yield _row("media written", show_bytes(stats["media_written_blocks"] * BLOCK_BYTES), (
        f"write amplification {stats['write_amplification']:.2f}: hosts {_blocks(core['media_user_blocks'])}, "
        f"relocation {_blocks(core['media_reloc_blocks'])}, metadata {_blocks(metadata)}"
    ))  # fmt: skip
    yield _row("relocation", _blocks(stats["gc_moved_blocks"]), (
        f"moved in {show_count(stats['relocs_started'])} relocations, {stats['active_relocs']} active; "
        f"{show_count(stats['zone_resets'])} zone resets"
    ))  # fmt: skip
    wear = stats.get("wear")
    if wear:
        used = "" if wear["percent_used"] is None else f"; {wear['percent_used']} % of rated_resets"
        yield _row("wear", f"{wear['resets_mean']:g} resets", (
            f"of a band (mean), {wear['resets_least']} to {wear['resets_most']}; {show_count(wear['moves'])} moved to "
            f"level them{used}"
        ))  # fmt: skip
    yield _row("throttled", show_us(core["throttled_ns"] / 1000), "writes have waited for a limit")
    if core.get("l2p_page_reads", 0) + core.get("l2p_page_writes", 0):
        yield _row("L2P pages", f"{show_count(core['l2p_page_reads'])} read", (
            f"{show_count(core['l2p_page_writes'])} written; {show_count(core['l2p_page_waits'])} of both have made "
            "all I/O wait"
        ))  # fmt: skip
    cache = stats["nv_cache"]["write"]["blocks"]
    if cache:
        yield _row("nv cache", _blocks(cache), "written")
    if "reactor" in stats:
        busy, idle = stats["reactor"]["busy_us"], stats["reactor"]["idle_us"]
        yield _row("I/O thread", f"{busy / (busy + idle):.1%}" if busy + idle else "-", "busy")
    yield ""
    yield _row("damage", f"{show_count(stats['lost_blocks'])} blocks", (
        f"lost; {show_count(stats['unreadable_blocks'])} could not be read for hosts, "
        f"{show_count(stats['reads_rescued'])} rescued, {show_count(stats['reads_repeated'])} read twice"
    ))  # fmt: skip
    yield _row("base errors", show_count(core["read_errors"] + core["crc_errors"] + core["write_errors"]), (
        f"reads {core['read_errors']}, wrong CRC {core['crc_errors']}, writes {core['write_errors']}; zones failed "
        f"{stats['zone_faults']}, spare {stats['spare_zones']}"
    ))  # fmt: skip
    scrub = stats["scrub"]
    progress = f" {scrub['progress']:.0%}" if scrub.get("progress") is not None else ""
    yield _row(
        "scrub", f"{scrub['state']}{progress}", f"{core['scrub_bad_blocks']} bad blocks since the FTL was loaded"
    )


def _hosts(stats: Mapping[str, Any]) -> Iterator[str]:
    sizes = {
        "read": stats["host_read_blocks"], "write": stats["host_written_blocks"], "trim": stats["host_trimmed_blocks"],
    }  # fmt: skip
    yield f"{'hosts':6} {'':>9} {'I/Os':>11} {'mean':>8} {'p50':>8} {'p99':>8} {'p99.9':>8} {'max':>8} {'errors':>6}"
    for kind in ("read", "write", "flush", "trim"):
        size = show_bytes(sizes[kind] * BLOCK_BYTES) if kind in sizes else ""
        latency = stats.get("latency", {}).get(kind)
        if latency is None:
            yield f"{kind:6} {size:>9}"
            continue
        times = [show_us(latency[key]) for key in ("mean_us", "p50_us", "p99_us", "p99_9_us", "max_us")]
        errors = sum(stats["host_errors"][kind].values())
        shown = " ".join(f"{each if latency['count'] else '-':>8}" for each in times)
        yield f"{kind:6} {size:>9} {show_count(latency['count']):>11} {shown} {show_count(errors):>6}"
    by_class = {
        f"{kind} {name}": count
        for kind, errors in stats.get("host_errors", {}).items()
        for name, count in errors.items()
        if count
    }
    if by_class:
        yield "errors: " + ", ".join(f"{what} {show_count(count)}" for what, count in by_class.items())
    if stats.get("host_io", {}).get("held"):
        yield f"{stats['host_io']['held']} I/Os are held until the base is back"


def _row(what: str, value: str, more: str) -> str:
    return f"{what:13} {value:>9}  {more}"


def _blocks(count: int) -> str:
    return show_bytes(count * BLOCK_BYTES)


# --- again and again --------------------------------------------------------------------------------------------------


def _watch(ask: Any, interval_s: float, *, as_json: bool) -> int:
    """Until Ctrl-C, or until there is no such FTL (NotFoundError)."""
    before: tuple[float, dict[str, Any]] | None = None
    lines = 0
    try:
        while True:
            try:
                now = (time.monotonic(), ask())
            except BusyError as error:
                # It waits for its base, and will be back.
                print(show_line(error.message, 400), file=sys.stderr if as_json else sys.stdout, flush=True)
                before = None
            else:
                if not as_json and "latency" not in now[1]:
                    raise UnsupportedError(
                        "--watch: these statistics have no latencies, because they are those of the target's own FTL, "
                        "or of a daemon that is older than this command: use --json"
                    )
                if as_json:
                    print(json.dumps(now[1]), flush=True)
                elif before is not None:
                    if lines % HEADINGS_EVERY == 0:
                        print("".join(f"{heading:>{width}}" for heading, width in _COLUMNS) + "  errors")
                    print(_line(before[1], now[1], now[0] - before[0]), flush=True)
                    lines += 1
                before = now
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return 0


def _line(before: Mapping[str, Any], now: Mapping[str, Any], elapsed_s: float) -> str:
    """What happened between two answers."""
    did = between(before, now, elapsed_s)
    cells = ["-"] * 8 if did is None else [
        f"{did.read_mib_s:.1f}", show_count(did.read_iops), _latency(did.read_p99_us),
        f"{did.write_mib_s:.1f}", show_count(did.write_iops), _latency(did.write_p99_us),
        "-" if did.write_amplification is None else f"{did.write_amplification:.2f}",
        f"{did.gc_mib_s:.1f}",
    ]  # fmt: skip
    cells += [show_count(now["free_bands"]), now["limit"]]
    line = "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    errors = sum(
        max(0, count - before["host_errors"][kind][name])
        for kind, each in now["host_errors"].items()
        for name, count in each.items()
    )
    return f"{line}  {show_count(errors)}"


def _latency(time_us: float | None) -> str:
    return "-" if time_us is None else show_us(time_us)
