"""Subcommands of `spdk-ftl` that ask the daemon: status, devices, properties, hosts, create, delete, add-host,
remove-host, allow-any-host, remove-buffers, grow, load, unload, unmap, set-property, set-cache, remove-cache,
rename, set-uuid, set-log-level."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .. import schema
from ..client import SOCKET_DEFAULT, SOCKET_ENVIRONMENT, USER_ENVIRONMENT, DaemonClient, target_address
from ..plugin import add_arguments, parameters_of, still_deferred
from ..text import show_line, show_name
from ..usage import account, parsed, refusing, socket_name
from .checked_arguments import check_arguments, check_together, parameter
from .device_list import show_devices

TARGET_DEFAULT: Final = "/var/tmp/spdk.sock"
_MIB: Final = 1 << 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = _add(subparsers, "status", "show whether the daemon runs, where, and how many FTLs it has")
    status.set_defaults(run=_status)
    devices = _add(subparsers, "devices", "list the FTLs of the daemon", aliases=("list",))
    devices.set_defaults(run=_devices)
    properties = _add(
        subparsers, "properties", "show the state, geometry, configuration and bands of an FTL", name=True
    )
    properties.set_defaults(run=_named("bdev_ftl_get_properties"))
    hosts = _add(subparsers, "hosts", "list the hosts of an FTL: allowed, connected, refused", name=True)
    hosts.set_defaults(run=_hosts)
    _add_rpc(subparsers, "create", "create an FTL (the same as `spdk-rpc --plugin spdk_ftl_py bdev_ftl_create`)")
    _add_rpc(subparsers, "delete", "delete an FTL (the same as `spdk-rpc --plugin spdk_ftl_py bdev_ftl_delete`)")
    _add_rpc(subparsers, "add-host", "let a host connect to an FTL")
    _add_rpc(subparsers, "remove-host", "remove a host from the list of an FTL, and end its connections")
    _add_rpc(subparsers, "allow-any-host", "let any host connect to an FTL, or only the hosts in its list")
    _add_rpc(subparsers, "grow", "grow an FTL onto all of its base, after the base has been enlarged")
    _add_rpc(subparsers, "load", "load an existing FTL from its base bdev (the same as `create` with its uuid)")
    _add_rpc(subparsers, "unload", "halt an FTL and release its bdevs (the same as `delete`)")
    _add_rpc(subparsers, "unmap", "trim blocks of an FTL, durably")
    _add_rpc(subparsers, "set-property", "change a setting of an FTL while it runs, and save it")
    _add_rpc(subparsers, "set-cache", "add an nv cache to an FTL, or replace its nv cache, while it runs")
    _add_rpc(subparsers, "remove-cache", "remove the nv cache of an FTL while it runs")
    _add_rpc(subparsers, "rename", "rename an FTL, in the target too")
    _add_rpc(subparsers, "set-uuid", "give a copy of an FTL, on an unclaimed bdev, a uuid of its own")
    _add_rpc(subparsers, "set-log-level", "set what the daemon logs, until it ends", prefix="ftl")
    buffers = _add(subparsers, "remove-buffers", "remove write buffer files that no FTL needs (see status)")
    rpc = schema.load("ftl_remove_buffers")
    uuid = parameter(rpc, "uuid")
    buffers.add_argument(
        "uuid",
        nargs="?",
        metavar="UUID",
        type=uuid,
        help=("UUID of the FTL that the file belongs to (default: all of them)"),
    )
    add_arguments(buffers, rpc)
    buffers.set_defaults(run=_remove_buffers)


def ftl_name(given: str) -> str:
    """A type for argparse."""
    return str(parameter(schema.load("bdev_ftl_create"), "name")(given))


target_socket: Final = parsed(target_address, without="-s: ")
"""A type for argparse: the RPC address of an SPDK target."""


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the daemon's socket and its user."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=socket_name,
        help=f"control socket of the daemon (default: ${SOCKET_ENVIRONMENT}, else {SOCKET_DEFAULT})",
    )
    parser.add_argument(
        "--daemon-user",
        metavar="USER",
        type=account,
        help=f"user whose daemon to trust, besides your own and root's (default: ${USER_ENVIRONMENT}, else none)",
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """For a command that takes the name of an FTL."""
    parser.add_argument(
        "-s",
        "--target",
        metavar="SOCKET",
        type=target_socket,
        help=(
            "RPC socket of the SPDK target that the FTL is on (needed only if several targets have an FTL of that name)"
        ),
    )


def named(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters that identify an FTL: the argument "name" and those of add_target(). Raises ParameterError."""
    target = {} if args.target is None else {"target": target_address(args.target)}
    return {"name": args.name, **target}


def daemon_client(args: argparse.Namespace) -> DaemonClient:
    """The client for the arguments of add_socket(). Raises ParameterError."""
    return DaemonClient(args.socket, user=args.daemon_user)


def _add(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    command: str,
    summary: str,
    *,
    aliases: Iterable[str] = (),
    name: bool = False,
    table: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        command,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage",
        aliases=list(aliases),
    )
    if name:
        parser.add_argument("name", type=ftl_name, help="name of the FTL bdev, e.g. ftl0")
        add_target(parser)
    add_socket(parser)
    if table:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _add_rpc(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    command: str,
    summary: str,
    *,
    prefix: str = "bdev_ftl",
) -> None:
    rpc = schema.load(f"{prefix}_{command.replace('-', '_')}")
    has_target = any(each.name == "target" for each in rpc.parameters)
    on_a_bdev = any(each.name == "base_bdev" for each in rpc.parameters)
    parser = _add(subparsers, command, summary, table=False)
    if has_target:
        _add_rpc_target(parser, on_a_bdev=on_a_bdev)
    add_arguments(parser, rpc)
    check_arguments(parser, rpc)

    def run(args: argparse.Namespace) -> int:
        with refusing(parser):
            params = parameters_of(args, rpc)
            if has_target and args.target is not None:
                params["target"] = args.target
            check_together(rpc, params)
        result = daemon_client(args).call(rpc.method, params)
        print(result if isinstance(result, str) else json.dumps(result, indent=2))
        waits = still_deferred(params, result)
        if waits is not None:
            print(f"spdk-ftl: {waits}", file=sys.stderr)
        return 0 if waits is None else 1

    parser.set_defaults(run=run)


def _add_rpc_target(parser: argparse.ArgumentParser, *, on_a_bdev: bool) -> None:
    parser.add_argument(
        "-s",
        "--target",
        type=target_socket,
        default=TARGET_DEFAULT if on_a_bdev else None,
        help=f"RPC socket of the SPDK target (default: {TARGET_DEFAULT})"
        if on_a_bdev
        else (
            "RPC socket of the SPDK target that the FTL is on (needed only if several targets have an FTL of that name)"
        ),
    )


def _status(args: argparse.Namespace) -> int:
    daemon = daemon_client(args).call("ftl_get_daemon")
    if args.json:
        show_mapping(daemon, "spdk-ftl daemon", as_json=True)
        return 0
    # A daemon that was not restarted after an upgrade does not report this.
    buffers = daemon.pop("unneeded_buffers", [])
    show_mapping(daemon, "spdk-ftl daemon", as_json=False)
    if buffers:
        _show_buffers(buffers, "write buffers that no FTL needs (spdk-ftl remove-buffers)")
    return 0


def _remove_buffers(args: argparse.Namespace) -> int:
    rpc = schema.load("ftl_remove_buffers")
    params = parameters_of(args, rpc)
    if args.uuid is not None:
        params["uuid"] = args.uuid
    result = daemon_client(args).call(rpc.method, rpc.check(params))
    if args.json:
        print(json.dumps(result, indent=2))
    elif result["removed"]:
        _show_buffers(result["removed"], "removed")
    else:
        print("nothing to remove")
    return 0


def _show_buffers(buffers: Iterable[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("file", "MiB", "blocks held", "trims held"):
        table.add_column(heading, overflow="fold")
    for each in buffers:
        held = ("?" if each[key] is None else str(each[key]) for key in ("held_blocks", "held_records"))
        table.add_row(each["path"], f"{each['bytes'] / _MIB:.1f}", *held)
    Console().print(table)


def _devices(args: argparse.Namespace) -> int:
    devices: list[dict[str, Any]] = daemon_client(args).call("ftl_get_devices")
    if args.json:
        print(json.dumps(devices, indent=2))
        return 0
    show_devices(devices)
    return 0


def _hosts(args: argparse.Namespace) -> int:
    rpc = schema.load("bdev_ftl_get_hosts")
    answer = daemon_client(args).call(rpc.method, rpc.check(named(args)))
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    from rich.console import Console

    console = Console()
    for title, rows in (
        ("who may connect", [_allowed_row(host) for host in answer["hosts"]]),
        ("connected", [_controller_row(each, f"{each['age_s']:.0f}") for each in answer["controllers"]]),
        ("refused", [_refusal_row(each) for each in reversed(answer["refused"])]),
        ("gone", [_controller_row(each, each["ended"], each["reason"]) for each in reversed(answer["disconnected"])]),
    ):
        if rows:
            console.print(_host_table(f"{args.name}: {title}", rows))
    if answer["allow_any_host"]:
        console.print("any host may connect")
    elif not answer["hosts"]:
        console.print(f"no host may connect: spdk-ftl add-host -b {args.name} --host NQN", markup=False)
    return 0


def _allowed_row(host: Mapping[str, Any]) -> dict[str, str]:
    proof = "none" if "dhchap_key" not in host else "both ways" if host["dhchap_ctrlr_key"] else "its own"
    tls = "with its PSK" if "psk" in host else "no"
    return {
        "host": show_name(host["nqn"]),
        "proof": proof,
        "TLS": tls,
        "": "the SPDK target itself" if host["is_target"] else "",
    }


def _controller_row(each: Mapping[str, Any], when: str, reason: str | None = None) -> dict[str, str]:
    mib = {which: f"{each[f'{which}_blocks'] * 4096 / _MIB:.1f}" for which in ("read", "write")}
    row = {
        "host": show_name(each["hostnqn"]),
        "address": _address(each["traddr"], each["trsvcid"]),
        "TLS": each.get("tls") or "plain",
    }
    io = {"MiB read": mib["read"], "MiB written": mib["write"], "errors": str(each["errors"])}
    if reason is not None:
        return {**row, **io, "ended": when, "why": show_line(reason)}
    return {**row, "queues": str(each["num_io_qpairs"]), "commands": str(each["commands"]), **io, "seconds": when}


def _refusal_row(each: Mapping[str, Any]) -> dict[str, str]:
    row = {"host": show_name(each["hostnqn"]), "address": each["traddr"], "times": str(each["count"])}
    return {**row, "last": each["last"], "why": show_line(each["reason"])}


def _host_table(title: str, rows: list[dict[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


def _address(traddr: str, trsvcid: str) -> str:
    return f"[{traddr}]:{trsvcid}" if ":" in traddr else f"{traddr}:{trsvcid}"


def _named(method: str) -> Any:
    def run(args: argparse.Namespace) -> int:
        result = daemon_client(args).call(method, schema.load(method).check(named(args)))
        show_mapping(result, args.name, as_json=args.json)
        return 0

    return run


def show_mapping(mapping: Mapping[str, Any], title: str, *, as_json: bool) -> None:
    """As JSON, or as a table with a row for each value."""
    if as_json:
        print(json.dumps(mapping, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for heading in ("what", "value"):
        table.add_column(heading, overflow="fold")
    for key, value in _flat(mapping):
        table.add_row(Text(key), Text(str(value)))
    Console().print(table)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings and SPDK's lists of properties as dotted names; other lists of mappings as their length (--json
    shows them)."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "properties" and isinstance(value, list):
            yield from _flat({entry["name"]: entry["value"] for entry in value}, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{prefix}{key}", f"{len(value)} entries (--json shows them)"
        else:
            yield f"{prefix}{key}", value
