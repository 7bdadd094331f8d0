"""The subcommands that this package adds to SPDK's rpc.py: ``spdk-rpc --plugin spdk_ftl_py bdev_ftl_create ...``.

They replace rpc.py's own bdev_ftl_* subcommands. They are made from schemas/*.json, and call the daemon instead of the
target. A command raises nothing but rpc.py's JSONRPCException, so exit codes and --server work as for rpc.py's own
commands. save_config and load_config handle SPDK's part, and leave the FTLs to the daemon.

rpc.py may also load this package from a checkout (rpc_plugins/), with a Python that lacks our dependencies. Then --help
works, and every command is refused while it is parsed: rpc.py accepts a SystemExit there in every mode, and has not
connected to the target yet. A ModuleNotFoundError would not do: rpc.py takes it for a missing plugin, and runs its own
bdev_ftl_create.
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
    "bdev_ftl_add_listener",
    "bdev_ftl_remove_listener",
    "bdev_ftl_set_ana_state",
    "bdev_ftl_get_hosts",
    "bdev_ftl_nbd_start",
    "bdev_ftl_nbd_stop",
    "bdev_ftl_nbd_get",
    "ftl_get_devices",
)
_BUILT_IN_PREFIX: Final = "bdev_ftl_"
_CONFIG_SECTION: Final = "ftl"
# The modules that a command imports, and the requirement that installs each. jsonschema before version 4 has no
# protocols.
_LIBRARIES: Final = {
    "jsonschema.protocols": "jsonschema>=4",
    "requests": "requests",
    "requests_unixsocket": "requests-unixsocket",
}
# Longer numbers are out of all bounds, and Python refuses to parse very long ones.
_NUMBER: Final = re.compile(r"-?[0-9]{1,30}")

_SWITCHES: Final = {"on": True, "off": False, "true": True, "false": False}

_LIMITS_HELP = (
    "When few bands are free, the FTL limits the share of user writes so that defrag keeps up. Levels: "
    f"{', '.join(LIMITS)}. Each may be set on its own too, e.g. --limit-high 10 --limit-high-threshold 8"
)


def spdk_rpc_plugin_initialize(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """rpc.py calls this with its subparsers, after it has added its own subcommands."""
    _remove_built_ins(subparsers)
    for method in _METHODS:
        rpc = schema.load(method)
        parser = subparsers.add_parser(method, help=rpc.description, description=f"{rpc.description}.")
        add_arguments(parser, rpc)
        parser.set_defaults(func=_command(rpc))
        _refuse_without_libraries(parser)
        for alias, name in schema.ALIASES.items():
            if name == method:
                # The alias works, but --help does not list it, as it would with add_parser().
                subparsers._name_parser_map[alias] = parser
    for name, command in (
        ("save_config", _save_config),
        ("save_subsystem_config", _save_config),
        ("load_config", _load_config),
        ("load_subsystem_config", _load_config),
    ):
        theirs: argparse.ArgumentParser | None = subparsers._name_parser_map.get(name)
        if theirs is not None and (func := theirs.get_default("func")) is not None:
            # The options and output of SPDK's own command stay as they are in that release.
            theirs.set_defaults(func=command(func))
            _refuse_without_libraries(theirs)


def add_arguments(parser: argparse.ArgumentParser, rpc: schema.RpcSchema) -> None:
    """Adds an argument for each parameter of rpc that has flags. Arguments that are not given stay None."""
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
    """Returns the RPC's params from parsed arguments: only those that were given. Raises ParameterError for one that is
    given twice."""
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
    # argparse has no public way to remove a subcommand, and from 3.11 on it refuses a second one of the same name.
    ours = {*_METHODS, *schema.ALIASES}
    known: dict[str, Any] = subparsers._name_parser_map
    gone = {name for name in known if name in ours or name.startswith(_BUILT_IN_PREFIX)}
    for name in gone:
        known.pop(name)
    subparsers._choices_actions[:] = [action for action in subparsers._choices_actions if action.dest not in gone]


def _refuse_without_libraries(parser: argparse.ArgumentParser) -> None:
    """Makes parser exit with 1 and one line on stderr if a library is missing. --help and usage errors come first."""
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
    """Imports what a command will import anyway. This also finds a library that lacks a dependency of its own."""
    missing: dict[str, None] = {}
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing[error.name or name] = None
    return list(missing)


def _command(rpc: schema.RpcSchema) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        # Imported here: rpc.py has imported it already, and other users of this package do not need SPDK's package.
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
    """Returns the line for a bdev_ftl_create whose wait has ended without the FTL: what the FTL still waits for. None:
    the FTL exists, or the request was not to wait."""
    if "wait" not in params or not isinstance(result, dict) or result.get("waiting_for") is None:
        return None
    return (
        f"FTL bdev {result['name']}: {result['state']} after {params['wait']} s: {result['waiting_for']}; the daemon "
        "completes the creation as soon as that exists"
    )


def _as_of_a_target(error: FtlError) -> str:
    """The error in the form in which rpc.py prints those of a target, for programs that parse it."""
    shown = json.dumps(error.to_jsonrpc(), indent=2, ensure_ascii=False)
    return f"Got JSON-RPC error response\nresponse:\n{shown}"


def _save_config(theirs: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Wraps SPDK's command, which then saves the configuration that the daemon has prepared in place of the
    target's."""

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
    """rpc.py's client, but with a saved configuration in place of the target's."""

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
    """Wraps SPDK's command, which refuses methods that it does not know. SPDK's command loads everything but the FTLs;
    the daemon loads those."""

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
    """Reads JSON as SPDK's command does: from standard input, from a file, or from the argument itself."""
    if not isinstance(source, str):
        return json.load(source)
    if os.path.exists(source):
        with open(source, encoding="utf-8") as file:
            return json.load(file)
    return json.loads(source)


def _without_section(document: Any) -> tuple[Any, list[Any]]:
    """Returns the document without our section, and the config of that section. The document is None if nothing is left
    for SPDK's command."""
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
    """A client that logs requests and responses to rpc.py's logger, so that `-v` shows them as it shows the
    target's."""
    log = getattr(args.client, "_logger", None)
    return DaemonClient(timeout_s=getattr(args, "timeout", None), log=log if isinstance(log, logging.Logger) else None)


def _target_address(args: argparse.Namespace) -> str:
    """The address to which rpc.py is connected. The arguments may not have it, because rpc.py parses each line of a
    script on its own."""
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
    # rpc.py parses each line of a script on its own, so args.dry_run is only set for a command on its command line.
    return bool(getattr(args, "dry_run", False)) or "dry" in type(args.client).__name__.lower()


def _send_collected(client: Any) -> None:
    """Sends the commands that rpc.py has collected in batch mode, and prints the answers as rpc.py does. Otherwise
    rpc.py would send them at the end. Our command goes to the daemon, and may need what earlier commands create."""
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
        # As in SPDK's nvmf_subsystem_allow_any_host: either --NAME or --no-NAME is required.
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
    """Parses NAME:N,... as 2020's rpc.py does; NAME=N is accepted too."""
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
    name, value = (part.strip() for part in (*re.split("[:=]", text, maxsplit=1), "")[:2])
    if name not in known:
        raise argparse.ArgumentTypeError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return name, int(value) if _NUMBER.fullmatch(value) else value
