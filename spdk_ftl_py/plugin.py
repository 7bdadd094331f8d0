"""The subcommands this package adds to SPDK's rpc.py: ``spdk-rpc --plugin spdk_ftl_py bdev_ftl_create ...``.

They take the place of rpc.py's own bdev_ftl_* subcommands, are made from schemas/*.json, and go to the daemon instead
of the target. Only rpc.py's JSONRPCException leaves a command, so that exit codes and --server work as for its own.
Its save_config and load_config leave to the daemon what is the daemon's.

rpc.py may also load this package from a checkout (rpc_plugins/), by a python that has none of our dependencies. Then
--help works, and every command is refused when it is parsed: rpc.py takes a SystemExit there in every mode, and has not
connected to the target yet. It takes a ModuleNotFoundError for a missing plugin, and runs its own bdev_ftl_create.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import schema
from .client import DaemonClient
from .errors import FtlError, NoDaemonError, ParameterError

LIMITS: Final = ("crit", "high", "low", "start")
_METHODS: Final = (
    "bdev_ftl_create",
    "bdev_ftl_delete",
    "bdev_ftl_get_stats",
    "bdev_ftl_get_properties",
    "bdev_ftl_scrub",
    "bdev_ftl_grow",
    "bdev_ftl_unmap",
    "bdev_ftl_set_property",
    "bdev_ftl_load",
    "bdev_ftl_unload",
    "bdev_ftl_set_cache",
    "bdev_ftl_remove_cache",
    "bdev_ftl_rename",
    "bdev_ftl_set_uuid",
    "bdev_ftl_add_host",
    "bdev_ftl_remove_host",
    "bdev_ftl_allow_any_host",
    "bdev_ftl_get_hosts",
    "ftl_get_devices",
)
_BUILT_IN_PREFIX: Final = "bdev_ftl_"
_CONFIG_SECTION: Final = "ftl"
# What a command imports, and the requirement that brings it. A jsonschema before 4 has no protocols.
_LIBRARIES: Final = {
    "jsonschema.protocols": "jsonschema>=4",
    "requests": "requests",
    "requests_unixsocket": "requests-unixsocket",
}
# Longer ones are out of all bounds, and Python refuses to read them at some length.
_NUMBER: Final = re.compile(r"-?[0-9]{1,30}")

_SWITCHES: Final = {"on": True, "off": False, "true": True, "false": False}

_LIMITS_HELP = (
    "When few bands are free, the FTL limits the share of user writes so that defrag keeps up. Levels: "
    f"{', '.join(LIMITS)}. Each may be set on its own too, e.g. --limit-high 10 --limit-high-threshold 8"
)


def spdk_rpc_plugin_initialize(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Called by rpc.py with its subparsers, after its own subcommands are there."""
    _remove_built_ins(subparsers)
    for method in _METHODS:
        rpc = schema.load(method)
        parser = subparsers.add_parser(method, help=rpc.description, description=f"{rpc.description}.")
        add_arguments(parser, rpc)
        parser.set_defaults(func=_command(rpc))
        _refuse_without_libraries(parser)
        for alias, name in schema.ALIASES.items():
            if name == method:
                # Taken, but not in --help: add_parser() would have it there.
                subparsers._name_parser_map[alias] = parser
    for name, command in (
        ("save_config", _save_config),
        ("save_subsystem_config", _save_config),
        ("load_config", _load_config),
        ("load_subsystem_config", _load_config),
    ):
        theirs: argparse.ArgumentParser | None = subparsers._name_parser_map.get(name)
        if theirs is not None and (func := theirs.get_default("func")) is not None:
            # Their own options and output stay as they are in that release.
            theirs.set_defaults(func=command(func))
            _refuse_without_libraries(theirs)


def add_arguments(parser: argparse.ArgumentParser, rpc: schema.RpcSchema) -> None:
    """Adds an argument for each parameter of rpc that has flags; values that are not given stay None."""
    limits: argparse._ArgumentGroup | None = None
    for parameter in rpc.parameters:
        container: argparse.ArgumentParser | argparse._ArgumentGroup = parser
        if parameter.name.startswith("limit_"):
            limits = limits or _add_limits(parser)
            container = limits
        if parameter.name == "conf":
            _add_conf(parser, parameter)
        elif parameter.flags:
            _add_argument(container, parameter)


def parameters_of(args: argparse.Namespace, rpc: schema.RpcSchema) -> dict[str, Any]:
    """The RPC's params of parsed arguments: only what was given. Raises ParameterError for what is given twice."""
    given = {p.name: getattr(args, p.name, None) for p in rpc.parameters if p.flags}
    params = {name: value for name, value in given.items() if value is not None}
    for pairs, suffix in ((getattr(args, "limits", None), ""), (getattr(args, "limit_thresholds", None), "_threshold")):
        for limit, value in pairs or ():
            name = f"limit_{limit}{suffix}"
            if name in params:
                raise ParameterError(f"{rpc.method}: {name} is given twice: {params[name]} and {value}")
            params[name] = value
    conf: dict[str, Any] = {}
    for name, value in getattr(args, "conf", None) or ():
        if name in conf:
            raise ParameterError(f"{rpc.method}: conf {name} is given twice: {conf[name]} and {value}")
        conf[name] = value
    return {**params, "conf": conf} if conf else params


def _remove_built_ins(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    # argparse has no public way to take a subcommand back, and refuses a second one of that name from 3.11 on.
    ours = {*_METHODS, *schema.ALIASES}
    known: dict[str, Any] = subparsers._name_parser_map
    gone = {name for name in known if name in ours or name.startswith(_BUILT_IN_PREFIX)}
    for name in gone:
        known.pop(name)
    subparsers._choices_actions[:] = [action for action in subparsers._choices_actions if action.dest not in gone]


def _refuse_without_libraries(parser: argparse.ArgumentParser) -> None:
    """Makes parser exit with 1 and one line on stderr, after --help and wrong usage, where a library is missing."""
    parse = parser.parse_known_args

    def parse_and_check(*args: Any, **options: Any) -> Any:
        parsed = parse(*args, **options)
        if missing := _missing_libraries():
            pip = " ".join(f"'{wanted}'" if ">" in wanted else wanted for wanted in _LIBRARIES.values())
            apt = " ".join("python3-" + wanted.partition(">")[0] for wanted in _LIBRARIES.values())
            parser.exit(
                1,
                f"spdk_ftl_py: {sys.executable} has no module {', '.join(missing)}: "
                f"install with `{sys.executable} -m pip install {pip}` or, for Debian's own python3, "
                f"`apt install {apt}`\n",
            )
        return parsed

    parser.parse_known_args = parse_and_check  # type: ignore[method-assign]


def _missing_libraries() -> list[str]:
    """Imports what a command is going to import anyway, so that a library which lacks one of its own is found too."""
    missing: dict[str, None] = {}
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing[error.name or name] = None
    return list(missing)


def _command(rpc: schema.RpcSchema) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        # rpc.py has imported it long since; whoever imports this package without SPDK's does not need it.
        from spdk.rpc.client import JSONRPCException

        try:
            params = rpc.check(parameters_of(args, rpc), without=("target",))
            params["target"] = _target_address(args)
            if _is_dry_run(args):
                args.client.call(rpc.method, params)
                return
            _send_collected(args.client)
            result = _daemon(args).call(rpc.method, params)
        except FtlError as error:
            raise JSONRPCException(_as_of_a_target(error)) from error
        print(result if isinstance(result, str) else json.dumps(result, indent=2), flush=True)
        waits = still_deferred(params, result)
        if waits is not None:
            raise JSONRPCException(waits)

    return run


def still_deferred(params: Mapping[str, Any], result: Any) -> str | None:
    """The line for a bdev_ftl_create that was to wait, in vain: what for. None: the FTL is there, or nobody waited."""
    if "wait" not in params or not isinstance(result, dict) or result.get("waiting_for") is None:
        return None
    return (
        f"FTL bdev {result['name']}: {result['state']} after {params['wait']} s: {result['waiting_for']}; the daemon "
        "completes the creation as soon as that exists"
    )


def _as_of_a_target(error: FtlError) -> str:
    """The form in which rpc.py shows the errors of a target, for whoever reads them with a program."""
    shown = json.dumps(error.to_jsonrpc(), indent=2, ensure_ascii=False)
    return f"Got JSON-RPC error response\nresponse:\n{shown}"


def _save_config(theirs: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """SPDK's own, which is told what the daemon leaves of the target's configuration."""

    def run(args: argparse.Namespace) -> None:
        from spdk.rpc.client import JSONRPCException

        if _is_dry_run(args):
            theirs(args)
            return
        _send_collected(args.client)
        params = {"target": _target_address(args), "with_batches": bool(getattr(args, "with_batches", False))}
        client = args.client
        try:
            document = _daemon(args).call("ftl_save_config", params)
            args.client = _SavedClient(client, document["subsystems"])
        except NoDaemonError as error:
            print(
                f"spdk_ftl_py: this is the target's whole configuration, without a section for FTLs: {error.message}",
                file=sys.stderr,
            )
        except FtlError as error:
            raise JSONRPCException(_as_of_a_target(error)) from error
        theirs(args)

    return run


class _SavedClient:
    """rpc.py's client, with a saved configuration in the place of the target's."""

    def __init__(self, client: Any, subsystems: list[dict[str, Any]]) -> None:
        self._client = client
        self._configs = {each["subsystem"]: each["config"] for each in subsystems}

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        if method == "framework_get_config" and params is not None and params.get("name") in self._configs:
            return self._configs[params["name"]]
        answer = self._client.call(method, params) if params else self._client.call(method)
        if method == "framework_get_subsystems":
            theirs = [each["subsystem"] for each in answer]
            depends_on = [name for name in ("bdev", "nvmf") if name in theirs]
            return [*answer, {"subsystem": _CONFIG_SECTION, "depends_on": depends_on}]
        return answer

    def __getattr__(self, name: str) -> Any:
        if name in ("framework_get_config", "framework_get_subsystems"):
            return lambda **params: self.call(name, params)
        return getattr(self._client, name)


def _load_config(theirs: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """SPDK's own, for all but the FTLs, and the daemon for those: SPDK's refuses methods that it does not know."""

    def run(args: argparse.Namespace) -> None:
        from spdk.rpc.client import JSONRPCException

        if _is_dry_run(args):
            theirs(args)
            return
        try:
            document = _read_json(args.json_conf)
        except (OSError, ValueError) as error:
            raise JSONRPCException(f"the configuration can't be read: {error}") from error
        rest, section = _without_section(document)
        if rest is not None:
            args.json_conf = json.dumps(rest)
            theirs(args)
        if not section:
            return
        _send_collected(args.client)
        try:
            params = {"config": section, "target": _target_address(args)}
            result = _daemon(args).call("ftl_load_config", params)
        except FtlError as error:
            rest_is_loaded = (
                "SPDK's part of the configuration is loaded, the FTLs are not: load them with `spdk-ftl load-config`"
            )
            print(f"spdk_ftl_py: {rest_is_loaded}", file=sys.stderr)
            raise JSONRPCException(_as_of_a_target(error)) from error
        print(json.dumps(result, indent=2), flush=True)

    return run


def _read_json(source: Any) -> Any:
    """As SPDK's own: standard input, a file, or JSON itself."""
    if not isinstance(source, str):
        return json.load(source)
    if os.path.exists(source):
        with open(source, encoding="utf-8") as file:
            return json.load(file)
    return json.loads(source)


def _without_section(document: Any) -> tuple[Any, list[Any]]:
    """The document, None where nothing is left for SPDK's command, and the config of our section."""
    if not isinstance(document, dict):
        return document, []
    if document.get("subsystem") == _CONFIG_SECTION:
        return None, document.get("config") or []
    subsystems = document.get("subsystems")
    if not isinstance(subsystems, list):
        return document, []
    ours = [each for each in subsystems if isinstance(each, dict) and each.get("subsystem") == _CONFIG_SECTION]
    rest = [each for each in subsystems if each not in ours]
    return {**document, "subsystems": rest}, [entry for each in ours for entry in each.get("config") or ()]


def _daemon(args: argparse.Namespace) -> DaemonClient:
    """Tells rpc.py's logger what it is asked and answers, as `-v` shows the target's."""
    log = getattr(args.client, "_logger", None)
    return DaemonClient(timeout_s=getattr(args, "timeout", None), log=log if isinstance(log, logging.Logger) else None)


def _target_address(args: argparse.Namespace) -> str:
    """Where rpc.py is connected to: a script's lines are parsed on their own, so its arguments may not say."""
    connection = getattr(args.client, "sock", None)
    if isinstance(connection, socket.socket):
        if connection.family == socket.AF_UNIX:
            return os.path.abspath(os.fsdecode(connection.getpeername()))
        host, port = connection.getpeername()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    address = str(getattr(args, "server_addr", ""))
    if "/" in address or os.path.exists(address):
        return os.path.abspath(address)
    return f"[{address}]:{args.port}" if ":" in address else f"{address}:{args.port}"


def _is_dry_run(args: argparse.Namespace) -> bool:
    # The lines of a script are parsed on their own: args.dry_run is rpc.py's only for a command of its command line.
    return bool(getattr(args, "dry_run", False)) or "dry" in type(args.client).__name__.lower()


def _send_collected(client: Any) -> None:
    """In batch mode rpc.py collects commands and sends them at the end. Ours goes elsewhere, and may need what those
    before it create: so they are sent first, and answered as rpc.py does it."""
    if not vars(client).get("_batch_mode") or not client.send_batch():
        return
    from spdk.rpc.client import JSONRPCException

    replies = client.recv()
    if not isinstance(replies, list):
        raise JSONRPCException(f"Expected batch response array, got: {type(replies)}")
    errors = [reply["error"] for reply in replies if "error" in reply]
    for reply in replies:
        if reply.get("result") is not None:
            print(json.dumps(reply["result"], indent=2))
    if errors:
        for error in errors:
            print(json.dumps(error, indent=2), file=sys.stderr)
        raise JSONRPCException("a command before this one failed")


def _add_argument(container: argparse.ArgumentParser | argparse._ArgumentGroup, parameter: schema.Parameter) -> None:
    options: dict[str, Any] = {"dest": parameter.name, "help": parameter.help.replace("%", "%%"), "default": None}
    if parameter.type == "boolean" and parameter.required:
        # As SPDK's own nvmf_subsystem_allow_any_host takes it: --NAME or --no-NAME, but one of them.
        options |= {"action": argparse.BooleanOptionalAction, "required": True}
    elif parameter.type == "boolean":
        options["action"] = "store_true"
    elif parameter.type == "array":
        options |= {"action": "append", "type": str, "metavar": parameter.metavar, "required": parameter.required}
    else:
        options["type"] = int if parameter.type == "integer" else str
        options["metavar"] = "N" if parameter.type == "integer" else parameter.name.upper()
        options["required"] = parameter.required
    container.add_argument(*parameter.flags, **options)


def _add_limits(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    limits = parser.add_argument_group("defrag limits", _LIMITS_HELP)
    limits.add_argument(
        "--limit",
        dest="limits",
        action=_Pairs,
        type=_limit_pairs,
        metavar="NAME:PERCENT,...",
        help="Percentage of writes that may be user writes at the given levels, e.g. crit:0,high:20,low:80",
    )
    limits.add_argument(
        "--limit-threshold",
        "--limit_threshold",
        dest="limit_thresholds",
        action=_Pairs,
        type=_limit_pairs,
        metavar="NAME:BANDS,...",
        help="Number of free bands at which the given levels begin, e.g. crit:1,high:2,low:3,start:4",
    )
    return limits


def _add_conf(parser: argparse.ArgumentParser, conf: schema.Parameter) -> None:
    known = "; ".join(f"{entry.name}: {entry.help}" for entry in conf.properties)
    parser.add_argument(
        "--conf",
        action=_Pairs,
        type=_conf_pairs,
        metavar="NAME=VALUE,...",
        help=f"{conf.description}. {known}".replace("%", "%%"),
    )


class _Pairs(argparse.Action):
    """Collects the pairs of an option that may be given several times."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest, None) or []), *values])


def _limit_pairs(text: str) -> list[tuple[str, int]]:
    """NAME:N,... as in 2020's rpc.py; NAME=N too."""
    pairs = [_pair(part, LIMITS, "limit") for part in text.split(",")]
    for name, value in pairs:
        if not isinstance(value, int):
            raise argparse.ArgumentTypeError(f"{name}: {value!r} is not a whole number; write {name}:NUMBER")
    return [(name, int(value)) for name, value in pairs]


def _conf_pairs(text: str) -> list[tuple[str, int | str]]:
    conf = schema.load("bdev_ftl_create").parameter("conf")
    switches = {entry.name for entry in conf.properties if entry.type == "boolean"}
    pairs = [_pair(part, tuple(entry.name for entry in conf.properties), "conf name") for part in text.split(",")]
    return [(name, _switch(name, value) if name in switches else value) for name, value in pairs]


def _switch(name: str, value: int | str) -> bool:
    if value not in _SWITCHES:
        raise argparse.ArgumentTypeError(f"{name}: {value!r} is neither on nor off")
    return _SWITCHES[str(value)]


def _pair(text: str, known: tuple[str, ...], what: str) -> tuple[str, int | str]:
    name, _, value = (part.strip() for part in text.replace("=", ":", 1).partition(":"))
    if name not in known:
        raise argparse.ArgumentTypeError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return name, int(value) if _NUMBER.fullmatch(value) else value
