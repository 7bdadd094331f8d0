"""`spdk-ftl scan`: which FTLs are on the bdevs of a target."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final

from .. import schema
from ..client import target_address
from ..plugin import add_arguments, parameters_of
from .checked_arguments import check_arguments, parameter
from .commands import TARGET_DEFAULT, add_socket, daemon_client, target_socket

_GIB_BLOCKS: Final = 1 << 18
_DESCRIPTION: Final = """\
List the FTLs and nv caches of FTLs on the bdevs of a target: name, uuid, size, and whether the FTL was halted cleanly.
The scan only reads, and leaves nothing in the target. It can't read a bdev that somebody else has claimed (another
bdev, an export). For the daemon's own FTLs it shows the state.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "scan",
        help="list the FTLs on the bdevs of a target",
        description=_DESCRIPTION,
        epilog="exit codes: 0 success, even if nothing was found; 1 failure, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rpc = schema.load("bdev_ftl_scan")
    parser.add_argument(
        "base",
        nargs="?",
        metavar="BASE_BDEV",
        type=parameter(rpc, "base_bdev"),
        help="name of the bdev (default: all unclaimed bdevs)",
    )
    parser.add_argument(
        "-s",
        "--target",
        metavar="SOCKET",
        type=target_socket,
        default=TARGET_DEFAULT,
        help="RPC socket of the SPDK target (default: %(default)s)",
    )
    add_arguments(parser, rpc)
    check_arguments(parser, rpc)
    add_socket(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    rpc = schema.load("bdev_ftl_scan")
    params = {**parameters_of(args, rpc), "target": target_address(args.target)}
    if args.base is not None:
        params["base_bdev"] = args.base
    answer = daemon_client(args).call(rpc.method, rpc.check(params))
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"FTLs of the SPDK target at {params['target']}")
    for heading in ("bdev", "FTL", "uuid", "GiB", "zones of", "halted", ""):
        table.add_column(heading, overflow="fold")
    for each in answer["bdevs"]:
        table.add_row(*map(Text, _row(each)))
    Console().print(table)
    return 0


def _row(each: Mapping[str, Any]) -> list[str]:
    if each.get("uuid") is None:
        remark = "no FTL"
        if each.get("error"):
            remark = each["error"]
        elif each.get("cache_of"):
            remark = f"the nv cache of {each['cache_of']}"
        return [each["bdev"], "-", "-", "-", "-", "-", remark]
    size, clean, capacity = each.get("num_blocks"), each.get("clean"), each.get("zone_capacity")
    remarks = [
        *([each["state"]] if each.get("state") else []),
        *(["with an nv cache"] if each.get("has_cache") else []),
        *([f"damaged: {each['damage']}"] if each.get("damage") else []),
    ]
    return [
        each["bdev"],
        each.get("name") or "?",
        each["uuid"],
        "?" if size is None else f"{size / _GIB_BLOCKS:.2f}",
        "-" if capacity is None else f"{capacity} blocks",
        "-" if clean is None else "cleanly" if clean else "no",
        ", ".join(remarks),
    ]
