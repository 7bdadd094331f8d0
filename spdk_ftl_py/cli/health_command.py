"""`spdk-ftl health`: one line for each FTL, and an exit code for scripts and monitoring systems."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any, Final

from ..client import DaemonClient
from ..errors import BusyError, NotFoundError
from ..text import show_line
from .commands import add_socket, daemon_client, ftl_name, target_socket
from .health import Health, Problem, of_daemon, of_ftl, worst

ANSWER_TIMEOUT_S: Final = 8.0
"""For each answer. Shorter than what monitoring systems usually give a check: then they know that it is the daemon that
hangs."""
_LINE_MAX: Final = 2000

_DESCRIPTION: Final = """\
Say whether the daemon and its FTLs are healthy. Print one line for the daemon and one for each FTL, with what is wrong
and what to do. With NAME, print only the line of that FTL.
"""
_EPILOG: Final = """\
exit codes (that of the worst line):
  0  healthy
  1  the daemon gave no answer, or has no FTL of that name (the reason is on stderr)
  2  wrong usage
  3  degraded: the FTL serves hosts, or holds their I/O, but something needs attention. For example the FTL waits for
     its base or target, has lost its cache or has no spare zones left, writes wait for relocation, or blocks could not
     be read
  4  failed: I/O of hosts fails, or data is lost

For Nagios and similar systems, map 3 to warning, 4 to critical, and 1 to unknown.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "health",
        help="say whether the daemon and its FTLs are healthy, with an exit code for scripts",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", type=ftl_name, help="only this FTL (default: all)")
    parser.add_argument(
        "-s",
        "--target",
        metavar="SOCKET",
        type=target_socket,
        help="only FTLs on the SPDK target with this RPC socket",
    )
    add_socket(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    client = daemon_client(args)
    client.timeout_s = ANSWER_TIMEOUT_S
    chosen = {key: value for key, value in (("name", args.name), ("target", args.target)) if value is not None}
    daemon = None if args.name is not None else client.call("ftl_get_daemon")
    devices: list[dict[str, Any]] = client.call("ftl_get_devices", chosen)
    ftls = [(device, *_judged(client, device)) for device in devices]
    found = [(_show_ftl(device, stats), problems) for device, stats, problems in ftls]
    if daemon is not None:
        subject = f"daemon {daemon['version']} (pid {daemon['pid']}), {daemon['devices']} FTLs"
        found.insert(0, (subject, of_daemon(daemon)))
    health = max((worst(problems) for _, problems in found), default=Health.HEALTHY)
    if args.json:
        told = {
            "health": str(health),
            "daemon": None if daemon is None else _told(of_daemon(daemon)),
            "ftls": [
                {**{key: device[key] for key in ("name", "uuid", "target", "state")}, **_told(problems)}
                for device, _, problems in ftls
            ],
        }
        print(json.dumps(told, indent=2))
    else:
        for subject, problems in found:
            line = f"{subject}: {'; '.join(map(str, problems))}" if problems else subject
            print(f"{worst(problems)!s:8}  {show_line(line, _LINE_MAX)}")
    return int(health)


def _judged(client: DaemonClient, device: dict[str, Any]) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Its statistics, as far as it has any now, and its problems."""
    which = {"name": device["name"], "target": device["target"], "engine": "daemon"}
    stats = properties = None
    # Without statistics it is not loaded, or was deleted meanwhile.
    with contextlib.suppress(BusyError, NotFoundError):
        stats = client.call("bdev_ftl_get_stats", which)
        if device.get("cache"):
            properties = client.call("bdev_ftl_get_properties", which)
    return stats, of_ftl(device, stats, properties)


def _show_ftl(device: dict[str, Any], stats: dict[str, Any] | None) -> str:
    subject = f"{device['name']} {device['state']}"
    if stats is None or "num_bands" not in device:
        return subject
    return f"{subject}, {device['free_bands']} of {device['num_bands']} bands free, limit {stats['limit']}"


def _told(problems: list[Problem]) -> dict[str, Any]:
    return {
        "health": str(worst(problems)),
        "problems": [{"health": str(each.health), "what": each.what, "remedy": each.remedy} for each in problems],
    }
