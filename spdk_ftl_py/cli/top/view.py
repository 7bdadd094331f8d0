"""What `spdk-ftl top` shows: lines of text for a screen of a given size. Nothing here waits, or knows a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from ...rates import Rates
from ...text import show_line, show_name
from .samples import Ftl, Sample

WIDTH_MIN: Final = 80
ORDERS: Final = ("name", "IOPS", "MiB/s", "p99", "WA", "free")
"""By what `s` sorts."""
PICKED_MAX: Final = 9
"""FTLs with a digit."""
HOSTS_SHOWN_MAX: Final = 3
MOVES_SHOWN_MAX: Final = 3
UNLIMITED: Final = 100
_LINES_EACH: Final = 2
_HEAD_LINES: Final = 3
_GIB_BLOCKS: Final = 1 << 18
_GOOD: Final = frozenset({"online"})
_PASSING: Final = frozenset({"deferred", "creating", "waiting", "deleting"})
_DIM: Final = "dim"
_HEAD: Final = "reverse"
# Distinguishable without red against green.
_BAND_STYLES: Final = {
    "closed": "blue", "open": "cyan", "queued": "cyan", "closing": "cyan", "moving": "yellow", "resetting": "magenta",
    "free": "dim", "faulted": "bold red", "mending": "red", "retired": "red",
    "checkpoint": "magenta",
}  # fmt: skip

HELP: Final = """\
  up, down        choose an FTL
  Enter, 1 to 9   show one FTL: bands, relocation and its reasons, cache, hosts
  Esc, 0          show all FTLs
  s               change the sort key: name, IOPS, MiB/s, p99, WA, free bands
  p               pause, or continue
  ?, h            show or hide this help
  q               quit

  R, W       reads and writes of hosts in the last interval
  p50, p99   50 % and 99 % of them took no longer than this
  WA         write amplification in the last interval: blocks written to the
             base for each block that hosts wrote
  FREE       free bands; below it, the number of all bands
  GC         bands that relocation is moving; below it, the limit in force, and
             the share of writes that hosts get"""


@dataclass
class View:
    """What the user has chosen."""

    chosen: int = 0
    """The line of the FTL, from 0 on."""
    opened: str | None = None
    """The UUID of the FTL that is shown alone."""
    order: int = 0
    """Index in ORDERS."""
    paused: bool = False
    help: bool = False


# --- numbers


def count(value: float | None) -> str:
    """At most 5 characters: 0, 850, 12.3k, 1.23M."""
    if value is None:
        return "-"
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor * 0.9995:
            return f"{value / factor:.{1 if value >= 9.995 * factor else 2}f}"[:4].rstrip(".") + unit
    return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"


def mib(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def latency(us: float | None) -> str:
    """At most 6 characters: 82us, 1.2ms, 3.4s."""
    if us is None:
        return "-"
    if us < 999.5:
        return f"{us:.0f}us"
    if us < 999_500:
        return f"{us / 1e3:.{1 if us < 99_950 else 0}f}ms"
    return f"{us / 1e6:.1f}s"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 99.995 else f"{value:.0f}"


def duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


# --- all FTLs


def ordered(ftls: Sequence[Ftl], order: int) -> list[Ftl]:
    """By ORDERS[order]; what is greatest, or has the fewest free bands, comes first."""

    def key(ftl: Ftl) -> float:
        rates, stats = ftl.rates, ftl.stats
        if ORDERS[order] == "free":
            return stats["free_bands"] if stats is not None else float("inf")
        if rates is None:
            return 1.0
        values = {
            "IOPS": rates.read_iops + rates.write_iops,
            "MiB/s": rates.read_mib_s + rates.write_mib_s,
            "p99": max(rates.read_p99_us or 0, rates.write_p99_us or 0),
            "WA": rates.write_amplification or 0,
        }
        return -values[ORDERS[order]]

    by_name = sorted(ftls, key=lambda ftl: (ftl.name, str(ftl.device["target"])))
    return by_name if ORDERS[order] == "name" else sorted(by_name, key=key)


def screen(sample: Sample, view: View, *, width: int, height: int, interval_s: float) -> list[Text]:
    """The whole screen: height lines of at most width columns."""
    opened = next((ftl for ftl in sample.ftls if ftl.key == view.opened), None)
    lines = [_title(sample, view, width, interval_s)]
    if view.help:
        lines += [Text(), *map(Text, HELP.split("\n"))]
    elif opened is not None:
        lines += detail(opened, width)
    else:
        lines += overview(sample, view, width, room=height - len(lines) - 2)
    keys = " q quit   ? help   p pause   s sort   up/down, Enter, 1-9 one FTL "
    if opened is not None:
        keys = " q quit   ? help   p pause   Esc all FTLs "
    foot = [Text(f" {show_line(sample.error)}", style="bold red")] if sample.error else []
    foot.append(Text(keys.ljust(width), style=_HEAD))
    lines = lines[: height - len(foot)]
    lines += [Text()] * (height - len(foot) - len(lines)) + foot
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _title(sample: Sample, view: View, width: int, interval_s: float) -> Text:
    daemon = sample.daemon
    left = " spdk-ftl top"
    if sample.error:
        left += ": the daemon does not answer; trying again"
    elif daemon:
        left += f"   daemon {daemon['pid']}, up {duration(daemon['uptime_s'])}"
    right = f"by {ORDERS[view.order]}   {'PAUSED' if view.paused else f'every {interval_s:g} s'} "
    return Text(left + right.rjust(max(1, width - len(left))), style=_HEAD)


def plain(sample: Sample, order: int, *, width: int) -> list[Text]:
    """For --once: every FTL, without a choice."""
    return overview(sample, View(chosen=-1, order=order), max(width, WIDTH_MIN), room=1 << 30)


def overview(sample: Sample, view: View, width: int, *, room: int) -> list[Text]:
    """At most room lines; those around the chosen FTL."""
    ftls = ordered(sample.ftls, view.order)
    wide = max(0, width - WIDTH_MIN)
    head = Text(_row(wide, " ", "FTL", "STATE", "FREE", "WA", "GC", "", "IOPS", "MiB/s", "p50", "p99"), style="bold")
    if not ftls:
        return [] if sample.error else [head, Text(), Text(" the daemon has no FTLs: see spdk-ftl create --help")]
    fit = max(1, (room - 1) // _LINES_EACH)
    first = min(max(0, view.chosen - fit + 1), max(0, len(ftls) - fit))
    lines = [head]
    for place, ftl in enumerate(ftls[first : first + fit], first):
        digit = str(place + 1) if place < PICKED_MAX and view.chosen >= 0 else " "
        lines += _of_ftl(ftl, digit, wide, chosen=place == view.chosen)
    return lines


def _row(wide: int, digit: str, name: str, state: str, free: str, wa: str, gc: str, way: str, *numbers: str) -> str:
    iops, mibs, p50, p99 = numbers
    return (
        f"{digit:1} {name:<{13 + wide}.{13 + wide}} {state:<9.9} {free:>9.9} {wa:>5} {gc:<8.8} {way:1} "
        f"{iops:>5} {mibs:>6} {p50:>6} {p99:>6}"
    )


def _of_ftl(ftl: Ftl, digit: str, wide: int, *, chosen: bool) -> list[Text]:
    device, stats, rates = ftl.device, ftl.stats, ftl.rates
    state = str(device["state"])
    style = "bold" if chosen else ""
    colour = "green" if state in _GOOD else "yellow" if state in _PASSING else "bold red"
    name = f"{'>' if chosen else ''}{show_name(ftl.name)}"
    if stats is None:
        reason = device.get("error") or device.get("waiting_for") or device.get("progress") or ""
        first = Text(_row(wide, digit, name, state, "-", "-", "", "", "-", "-", "-", "-"), style=style)
        first.stylize(colour, 16 + wide, 25 + wide)
        return [first, Text(f"  {show_line(reason)}", style=_DIM)]
    wa = rates.write_amplification if rates is not None else None
    moving = stats["active_relocs"]
    gc = f"{moving} moving" if moving else "idle"
    columns = _row(wide, digit, name, state, str(stats["free_bands"]), ratio(wa), gc, "R", *_numbers(rates, "read"))
    read = Text(columns, style=style)
    read.stylize(colour, 16 + wide, 25 + wide)
    limit = "" if stats["limit"] == "none" else stats["limit"]
    limit += f" {stats['user_share']}%" if stats["user_share"] < UNLIMITED else ""
    of = f"of {device.get('num_bands', '?')}"
    where = f"on {show_name(str(device['base_bdev']))}"
    write = Text(_row(wide, " ", where, "", of, "", limit, "W", *_numbers(rates, "write")), style=style)
    write.stylize(_DIM, 2, 15 + wide)
    if limit:
        write.stylize("yellow", 42 + wide, 50 + wide)
    return [read, write]


def _numbers(rates: Rates | None, way: str) -> tuple[str, str, str, str]:
    if rates is None:
        return ("-",) * 4
    if way == "read":
        return _four(rates.read_iops, rates.read_mib_s, rates.read_p50_us, rates.read_p99_us)
    return _four(rates.write_iops, rates.write_mib_s, rates.write_p50_us, rates.write_p99_us)


def _four(iops: float, mib_s: float, p50: float | None, p99: float | None) -> tuple[str, str, str, str]:
    return count(iops), mib(mib_s), latency(p50), latency(p99)


# --- one FTL


def detail(ftl: Ftl, width: int) -> list[Text]:
    """Everything of one FTL, in at most 21 lines."""
    device, stats, rates = ftl.device, ftl.stats, ftl.rates
    size = f", {device['num_blocks'] / _GIB_BLOCKS:.1f} GiB" if "num_blocks" in device else ""
    lines = [
        Text.assemble(
            (f" {show_name(ftl.name)}", "bold"),
            f"  {device['state']} on {show_name(str(device['base_bdev']))}{size}, target {show_line(device['target'])}",
        )
    ]
    reason = device.get("error") or device.get("waiting_for") or device.get("progress")
    if reason:
        lines.append(Text(f" {show_line(reason)}", style="yellow"))
    if stats is None:
        return lines
    lines.append(Text(f" {'':9}{'IOPS':>7} {'MiB/s':>8} {'p50':>8} {'p99':>8}", style="bold"))
    for label, way in (("reads", "read"), ("writes", "write")):
        iops, mib_s, p50, p99 = _numbers(rates, way)
        lines.append(Text(f" {label:9}{iops:>7} {mib_s:>8} {p50:>8} {p99:>8}"))
    wa = rates.write_amplification if rates is not None else None
    lines.append(
        Text(
            f" to base  {'':7} {mib(rates.media_mib_s if rates is not None else None):>8}   "
            f"WA {ratio(wa)} now, {ratio(stats['write_amplification'])} since the load"
        )
    )
    lines += [Text(), *_bands(stats, width), *_limits(stats, rates), *_moves(stats), Text()]
    return [*lines, *_cache(ftl), *_hosts(ftl.hosts)]


def _bands(stats: Mapping[str, Any], width: int) -> list[Text]:
    states: dict[str, int] = stats["bands"]
    total = sum(states.values()) or 1
    most = sorted(states.items(), key=lambda each: -each[1])
    told = ", ".join(f"{number} {state}" for state, number in most)
    bar = Text(" ")
    for state, number in most:
        cells = max(1, round(number * (width - 2 - len(states)) / total))
        bar.append(("." if state == "free" else "=") * cells, style=_BAND_STYLES.get(state, ""))
    return [Text.assemble((" bands    ", "bold"), told), bar]


def _limits(stats: Mapping[str, Any], rates: Rates | None) -> list[Text]:
    limits = stats.get("limits") or {}
    steps = ", ".join(f"{name} at {each['free_bands']}: {each['user_share']} %" for name, each in limits.items())
    in_force = "no limit" if stats["limit"] == "none" else f"limit {stats['limit']}"
    throttled = f", writes waited {rates.throttled:.0%} of the time" if rates is not None and rates.throttled else ""
    free, share = stats["limit_free_bands"], stats["user_share"]
    return [
        Text.assemble(
            (" limits   ", "bold"), f"{free} bands free: {in_force}, hosts get {share} % of writes{throttled}"
        ),
        Text(f"          {steps}", style=_DIM),
    ]


def _moves(stats: Mapping[str, Any]) -> list[Text]:
    moves = stats.get("moves") or []
    if not moves:
        return [Text.assemble((" moving   ", "bold"), "nothing: enough bands are free, or no band is worth moving")]
    lines = [Text(" moving    band  why         valid    left invalid    age    merit", style="bold")]
    for move in moves[:MOVES_SHOWN_MAX]:
        lines.append(
            Text(
                f"       {move['band']:>8}  {move['why']:<10} {count(move['valid_blocks']):>6} "
                f"{count(move['left_blocks']):>7} {count(move['invalid_blocks']):>7} {move['age']:>6} "
                f"{move['merit']:>8.1f}"
            )
        )
    more = len(moves) - MOVES_SHOWN_MAX
    return [*lines, Text(f"          and {more} more", style=_DIM)] if more > 0 else lines


def _cache(ftl: Ftl) -> list[Text]:
    cache = (ftl.properties or {}).get("cache")
    if not isinstance(cache, Mapping):
        text = "none" if ftl.device.get("cache") is None else show_name(str(ftl.device["cache"]))
    else:
        text = f"{show_name(str(cache['bdev']))}, {cache['state']}"
        text += f": {show_line(str(cache['failure']))}" if cache.get("failure") else ""
    return [Text.assemble((" nv cache ", "bold"), text)]


def _hosts(hosts: Mapping[str, Any] | None) -> list[Text]:
    if hosts is None:
        return []
    connected = hosts["controllers"]
    lines = [Text.assemble((" hosts    ", "bold"), f"{len(connected)} connected" if connected else "none connected")]
    for each in connected[:HOSTS_SHOWN_MAX]:
        told = f"{count(each['commands'])} commands in {duration(each['age_s'])}"
        lines.append(Text(f"          {show_name(each['hostnqn'], 40):<40} {told}"))
    more = len(connected) - HOSTS_SHOWN_MAX
    return [*lines, Text(f"          and {more} more (spdk-ftl hosts)", style=_DIM)] if more > 0 else lines
