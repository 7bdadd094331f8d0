#!/usr/bin/env python3
"""Writes spdk_ftl_py/rpcs/*.py, the typed methods of DaemonClient and AsyncDaemonClient, from schemas/*.json; run it
after a schema has changed.

Names, types, defaults and descriptions of parameters are the schemas'. What an RPC answers, and how it fails, stands in
RPCS below, for schemas have no results: an RPC that is not there is refused. tests/unit/test_rpcs.py compares.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

DOCS = Path(__file__).resolve().parent
SCHEMAS = DOCS.parent / "schemas"
PACKAGE = DOCS.parent / "spdk_ftl_py" / "rpcs"
WIDTH: Final = 120


class Rpc(NamedTuple):
    """type: of the result, as results.py names it. returns, raises: in words; raises begins with the codes."""

    type: str
    returns: str
    raises: str = ""
    adapted: str = ""
    """The function of answers.py, with further arguments, that makes the result of what the daemon answers."""


NOT_THERE: Final = "-19 no FTL of that name"
TRUE: Final = "True"

RPCS: Final[Mapping[str, Rpc]] = {
    "bdev_ftl_create": Rpc(
        "CreatedFtl",
        "name and uuid of the new FTL; more with if_absent, load_or_create or wait. If the creation is deferred and "
        "wait is not given, there is no uuid yet, and state says so",
        "-32602 a parameter, or a base or cache bdev of the wrong kind; -22 its geometry; -17 name, uuid or NQN is "
        "taken, or the bdev holds data, or (if_absent) the existing FTL differs; -1 the bdev is claimed; -19 no "
        "such cache bdev; -95 a bdev that can't be used; -93 the target has no NVMe/TCP transport; -98, -99 "
        "listen_address is taken, or not of this machine; -111 the target is not running; -104, -110 it broke off, "
        "or did not answer; -5 base or target failed; -108 the daemon is halting. Everything is undone then, but "
        "the base may have been erased",
        adapted="created(name, base_bdev, {})",
    ),
    "bdev_ftl_load": Rpc(
        "CreatedFtl", "as bdev_ftl_create()", "as bdev_ftl_create()", adapted="created(name, base_bdev, {})"
    ),
    "bdev_ftl_delete": Rpc(
        "bool | str",
        "True; with force, if only the write buffer file holds some writes, a line that says how many",
        f"{NOT_THERE}; -16 it is being created or deleted, or only its write buffer file holds some writes; -28 the "
        "daemon's state directory is full: nothing was done; -5 it is deleted, but not everything could be undone",
    ),
    "bdev_ftl_unload": Rpc("bool | str", "as bdev_ftl_delete()", "as bdev_ftl_delete()"),
    "bdev_ftl_get_stats": Rpc(
        "Stats",
        "counters since its creation, in blocks of 4096 bytes",
        "-19 no such FTL; -16 it is deferred, being created, waiting, or failed before it had any",
    ),
    "bdev_ftl_get_properties": Rpc(
        "DeviceProperties", "the same as ftl_get_devices(), and its properties", "-19 no such FTL"
    ),
    "bdev_ftl_scrub": Rpc(
        "OrderedScrub",
        "the state of the scrub, without waiting for its end",
        f"{NOT_THERE}; -16 it is not online; -32602 it was made with no_data; -108 the daemon is halting",
    ),
    "bdev_ftl_unmap": Rpc(
        "bool",
        "True, once the blocks read as zeroes, also after a loss of power",
        f"{NOT_THERE}; -16 it is not online, or was deleted meanwhile; -32602 the range ends beyond the FTL; -5 the "
        "FTL could not do it, and may have done part of it",
    ),
    "bdev_ftl_set_property": Rpc(
        "bool",
        TRUE,
        f"{NOT_THERE}; -16 it is not online, or another change is in progress; -22, -32602 no such property, a value "
        "out of bounds, or one that does not fit this FTL; -28 the state directory is full. Nothing has changed then",
    ),
    "bdev_ftl_set_cache": Rpc(
        "bool",
        TRUE,
        "-19 no FTL, or no bdev, of that name; -16 the FTL is not online, another change is in progress, it is "
        "giving its cache up, or the bdev is claimed; -17 the bdev holds data; -22, -32602 the FTL can't use it as "
        "cache; -5 it fails",
    ),
    "bdev_ftl_remove_cache": Rpc(
        "bool",
        "True, once everything that the cache held is on the base",
        f"{NOT_THERE}; -16 it is not online, or another change is in progress",
    ),
    "bdev_ftl_rename": Rpc(
        "bool",
        TRUE,
        f"{NOT_THERE}; -16 it is not online, not attached, or its bdev is claimed; -17 the name is taken, here or in "
        "the target; -5 the target refuses: the message says which name it has now",
    ),
    "bdev_ftl_set_uuid": Rpc(
        "RenumberedFtl",
        "the new and the old uuid of the FTL",
        "-19 no such bdev, or no FTL of that uuid on it; -1 the bdev is claimed; -16 an FTL of that uuid is not "
        "online, and this may be its base; -17 the daemon has an FTL with the new uuid; -32602 new_uuid is the nil "
        "UUID, or the one that it has; -117 the FTL was in use when it was copied, and force is not given; -22 the "
        "device is not the one that the FTL was created on; -5 its newest superblock does not verify, or the bdev does "
        "not take a new one; -95 another format version; -111, -110, -104 the target, or the bdev does not answer",
    ),
    "bdev_ftl_grow": Rpc(
        "GrownFtl",
        "its size, once it serves again",
        "-19 no FTL of that name, or no base bdev; -17 the added part of the base holds data; -16 it is not "
        "online, is being changed, or its base does not answer; -22 the base has shrunk, or none of its new zones is "
        "usable; -32602 it was made with no_data, or its cache is too small; -108 the daemon is halting",
    ),
    "bdev_ftl_nbd_start": Rpc(
        "NbdExport",
        "the export, which serves clients from now on",
        f"{NOT_THERE}; -16 the FTL is not loaded yet, has failed or is being deleted, or a process listens at the "
        "path; -17 the FTL is already served, or the path is a file; -36 the path is too long; -3 the daemon can't "
        "see the calling process; -1, -2, -13, -20 the path can't be used; -108 the daemon is halting. Nothing is left "
        "then",
    ),
    "bdev_ftl_nbd_stop": Rpc(
        "bool",
        TRUE,
        "-19 no FTL of that name, or it is not served by NBD; -16 the clients' I/O did not end in time. The export has "
        "ended even so",
    ),
    "bdev_ftl_nbd_get": Rpc("list[NbdExport]", "the exports of all FTLs, or of the one that is named", NOT_THERE),
    "bdev_ftl_add_host": Rpc(
        "bool",
        "True, once the state file has it",
        f"{NOT_THERE}; -17 it is allowed already; -32602 not an NQN; -16 the FTL is being deleted, or 256 hosts "
        "are allowed; -28 the state directory is full; -108 the daemon is halting. Nothing has changed then",
    ),
    "bdev_ftl_remove_host": Rpc(
        "bool",
        "True, once no I/O of that host is outstanding",
        "-19 no FTL of that name, or that host is not in its list; -16 it is the target itself, or the FTL is being "
        "deleted; -28 the state directory is full; -108 the daemon is halting",
    ),
    "bdev_ftl_allow_any_host": Rpc(
        "bool",
        TRUE,
        f"{NOT_THERE}; -16 the FTL is being deleted; -28 the state directory is full; -108 the daemon is halting",
    ),
    "bdev_ftl_add_listener": Rpc(
        "str",
        "the ADDRESS:PORT of the listener",
        f"{NOT_THERE}; -17 the listener exists already; -98 the address is in use; -99 it is not an address of this "
        "machine; -16 the FTL has no export yet, has 16 listeners, or is being deleted; -28 the state directory is "
        "full; -108 the daemon is halting. Nothing has changed then",
    ),
    "bdev_ftl_remove_listener": Rpc(
        "bool",
        "True, once no I/O of hosts that came through it is outstanding",
        "-19 no FTL of that name, or no such listener; -32602 the FTL was created with this listener; -16 the FTL is "
        "being deleted; -28 the state directory is full; -108 the daemon is halting",
    ),
    "bdev_ftl_set_ana_state": Rpc(
        "bool",
        "True, once no new I/O through an inaccessible listener is accepted",
        "-19 no FTL of that name, or no such listener; -16 the target has the FTL attached there, or the FTL is being "
        "deleted; -28 the state directory is full; -108 the daemon is halting",
    ),
    "bdev_ftl_get_hosts": Rpc(
        "Hosts", ("the hosts that may connect, are connected, were refused, or have left"), NOT_THERE
    ),
    "bdev_ftl_scan": Rpc(
        "ScanResult",
        "what is on that bdev, or on every unclaimed bdev and on those of the daemon's own FTLs",
        "for one bdev: -19 no such bdev; -16 it is claimed; -95 it can't hold an FTL, or holds one of another format "
        "version; -111, -110, -104 the target, or the bdev, does not answer; -108 the daemon is halting",
    ),
    "ftl_get_devices": Rpc("list[Device]", "one for each FTL", "-19 there is none with the given name"),
    "ftl_get_daemon": Rpc("DaemonInfo", "version, process and paths of the daemon"),
    "ftl_remove_buffers": Rpc(
        "RemovedBuffers",
        "which files were removed",
        "-19 there is no such file; -16 an FTL needs it, or it holds acknowledged writes: nothing was removed",
    ),
    "ftl_set_log_level": Rpc(
        "LogSettings",
        "the levels that now apply",
        "-32602 there is no such subject; or the subject is audit, and the orders go to a file",
    ),
    "ftl_halt": Rpc(
        "HaltedDaemon",
        "the FTLs that were halted; the daemon ends after the answer",
        "-16 the daemon is still starting, -108 it is halting already: nothing was done. Any other error says what "
        "could not be halted cleanly or undone; the daemon ends anyway",
    ),
    "ftl_save_config": Rpc(
        "SavedConfig",
        "as SPDK's save_config: the target's own configuration, and a section ftl",
        "-32602 no target is given, and the daemon's FTLs are on several targets, or there is none; -16 the calls "
        "for what is built on an FTL have more than 256 KiB; -111, -110, -104 the target; -28 the state directory "
        "is full",
    ),
    "ftl_load_config": Rpc(
        "LoadedConfig",
        "the FTLs that were loaded, and those that the daemon had already",
        "-32602 an entry is wrong; -17 a name or uuid is another FTL's; -28 the state directory is full; -108 the "
        "daemon is halting. Nothing is loaded then",
    ),
}
"""In the order in which the methods stand. Those of schemas/ and no other."""

_PATTERNS: Final = (
    ("^[0-9A-Fa-f]{8}-", "UUID | str"),
    ("^/", "StrPath"),
    ("^(/", "StrPath"),
)
_TYPES: Final = {"integer": "int", "boolean": "bool", "string": "str"}
_SETTINGS: Final = "FtlSettings"

_ABOUT: Final = (
    "Every method raises what call() does; the codes are those of the FtlError if the daemon refuses. Any RPC: "
    "-32602 a parameter is malformed or out of bounds, or target is not given and FTLs of several targets have "
    "that name; -32601 the daemon does not know it."
)
_HEAD: Final = '''"""{what} Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

'''


def generate() -> dict[str, str]:
    """Text by name of file. Raises ValueError where RPCS are not those of schemas/."""
    methods = {path.stem for path in SCHEMAS.glob("*.json")}
    if methods != set(RPCS):
        raise ValueError(f"RPCS in {__file__} and schemas/ differ: {', '.join(sorted(methods ^ set(RPCS)))}")
    schemas = {method: json.loads((SCHEMAS / f"{method}.json").read_text(encoding="utf-8")) for method in RPCS}
    return {
        "blocking.py": _client(schemas, "DaemonRpcs", "blocking_exports", is_async=False),
        "blocking_exports.py": _exports(schemas, "ExportRpcs", is_async=False),
        "asynchronous.py": _client(schemas, "AsyncDaemonRpcs", "asynchronous_exports", is_async=True),
        "asynchronous_exports.py": _exports(schemas, "AsyncExportRpcs", is_async=True),
        "settings.py": _settings(schemas["bdev_ftl_create"]["properties"]["conf"]),
    }


def _is_of_exports(method: str) -> bool:
    return re.search("_nbd_|_host|_listener|_ana_", method) is not None


def _client(schemas: Mapping[str, Any], name: str, exports: str, *, is_async: bool) -> str:
    base = name.replace("Daemon", "Export")
    return _module(
        f"A method for each RPC of the daemon{', to be awaited' if is_async else ''}.",
        [
            f"class {name}({base}):\n",
            '    """A method for each RPC. What is None is not sent: the daemon has its default, or keeps what is.\n\n',
            *(f"    {line}\n" for line in textwrap.wrap(_ABOUT, WIDTH - 4, break_on_hyphens=False)),
            '    """\n',
            *_methods(schemas, of_exports=False, is_async=is_async),
        ],
        "from .answers import created\n",
        f"from .{exports} import {base}\n",
    )


def _exports(schemas: Mapping[str, Any], name: str, *, is_async: bool) -> str:
    begin = "async def" if is_async else "def"
    return _module(
        f"The RPCs about exports: hosts, listeners, NBD{'; to be awaited' if is_async else ''}.",
        [
            f"class {name}(ABC):\n",
            f'    """The methods of {name.replace("Export", "Daemon")} for exports."""\n\n',
            "    @abstractmethod\n",
            f"    {begin} call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:\n",
            '        """The result of any RPC, by its name and parameters as JSON has them."""\n',
            *_methods(schemas, of_exports=True, is_async=is_async),
        ],
        standard="from abc import ABC, abstractmethod\n",
    )


def _methods(schemas: Mapping[str, Any], *, of_exports: bool, is_async: bool) -> Iterator[str]:
    for method, rpc in RPCS.items():
        if _is_of_exports(method) == of_exports:
            yield "\n"
            yield from _method(method, rpc, schemas[method], is_async=is_async)


def _module(what: str, body: list[str], *imports: str, standard: str = "") -> str:
    """With the imports that the body needs."""
    text = "".join(body)
    words = set(re.findall(r"\w+", text))
    types = sorted({word for rpc in RPCS.values() for word in re.findall(r"[A-Z]\w+", rpc.type)} & words - {"True"})
    abstract = [name for name in ("Mapping", "Sequence") if name in words]
    typing = [name for name in ("Any", "Literal", "cast") if name in words]
    parts = [
        _HEAD.format(what=what),
        standard,
        f"from collections.abc import {', '.join(abstract)}\n" if abstract else "",
        f"from typing import {', '.join(['TYPE_CHECKING', *typing])}\n\n",
        *imports,
        "from .parameters import given\n\n",
        "if TYPE_CHECKING:\n",
        "    from uuid import UUID\n\n" if "UUID" in words else "",
        _results(types),
        "    from .parameters import StrPath\n" if "StrPath" in words else "",
        f"    from .settings import {_SETTINGS}\n" if _SETTINGS in words else "",
        "\n\n",
        text,
    ]
    return "".join(parts)


def _results(types: list[str]) -> str:
    """As ruff formats it."""
    line = f"    from ..results import {', '.join(types)}\n"
    if len(line) <= WIDTH:
        return line
    return "".join(("    from ..results import (\n", *(f"        {each},\n" for each in types), "    )\n"))


def _method(method: str, rpc: Rpc, schema: Mapping[str, Any], *, is_async: bool) -> Iterator[str]:
    required = set(schema.get("required", ()))
    parameters = [(name, entry, name in required) for name, entry in schema["properties"].items()]
    begin = f"    {'async ' if is_async else ''}def {method}("
    if parameters:
        yield f"{begin}\n        self,\n        *,\n"
        for name, entry, needed in parameters:
            yield f"        {_declared(name, entry, needed)},\n"
        yield f"    ) -> {rpc.type}:\n"
    else:
        yield f"{begin}self) -> {rpc.type}:\n"
    yield from _docstring(rpc, schema, parameters)
    params = ""
    if parameters:
        yield from _call_of_given([f"{name}={_passed(name, entry)}" for name, entry, _ in parameters])
        params = ", params"
    call = f'{"await " if is_async else ""}self.call("{method}"{params})'
    result = rpc.adapted.format(call) if rpc.adapted else f'cast("{rpc.type}", {call})'
    yield f"        return {result}\n"


def _call_of_given(arguments: list[str]) -> Iterator[str]:
    """As ruff formats it."""
    line = f"        params = given({', '.join(arguments)})"
    if len(line) <= WIDTH:
        yield f"{line}\n"
        return
    yield "        params = given(\n"
    line = f"            {', '.join(arguments)}"
    yield f"{line}\n" if len(line) <= WIDTH else "".join(f"            {each},\n" for each in arguments)
    yield "        )\n"


def _declared(name: str, entry: Mapping[str, Any], required: bool) -> str:
    if required:
        return f"{name}: {_type_of(entry)}"
    if entry.get("default") is False:
        return f"{name}: bool = False"
    if "default" in entry:
        raise ValueError(f"{name}: a default of {entry['default']!r} is not provided for")
    return f"{name}: {_type_of(entry)} | None = None"


def _passed(name: str, entry: Mapping[str, Any]) -> str:
    """A default is not sent: a daemon of another version may not know the parameter."""
    return f"{name} or None" if entry.get("default") is False else name


def _type_of(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return f"Literal[{', '.join(json.dumps(choice) for choice in entry['enum'])}]"
    if entry["type"] == "object":
        return _SETTINGS if "properties" in entry else "Mapping[str, Any]"
    if entry["type"] == "array":
        return f"Sequence[{_type_of(entry['items'])}]"
    pattern = entry.get("pattern", "")
    return next((name for begin, name in _PATTERNS if pattern.startswith(begin)), _TYPES[entry["type"]])


def _docstring(rpc: Rpc, schema: Mapping[str, Any], parameters: list[tuple[str, Any, bool]]) -> Iterator[str]:
    flags = {flag: name for name, entry, _ in parameters for flag in entry.get("x-cli", ())}
    flags |= {f"--{name.replace('_', '-')}": name for name, _, _ in parameters}
    yield from _wrapped(f'"""{schema["description"]}.')
    if parameters:
        yield "\n"
    for name, entry, _ in parameters:
        text = re.sub(r"--[a-z][a-z-]*", lambda found: flags.get(found[0], found[0]), entry["description"])
        bounds = f" ({entry['minimum']} to {entry['maximum']})" if "minimum" in entry else ""
        yield from _wrapped(f"{name}: {text}{bounds}", indent="    ")
    yield "\n"
    yield from _wrapped(f"Returns {rpc.returns}.")
    if rpc.raises:
        yield from _wrapped(f"Raises FtlError: {rpc.raises}.")
    yield '        """\n'


def _wrapped(text: str, *, indent: str = "") -> Iterator[str]:
    escaped = text.replace("\\", "\\\\")
    lines = textwrap.wrap(
        escaped, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8 + indent, break_on_hyphens=False
    )
    return (f"{line}\n" for line in lines)


def _settings(conf: Mapping[str, Any]) -> str:
    # A class can have no names with a dot in them.
    dotted = {name: entry for name, entry in conf["properties"].items() if not name.isidentifier()}
    lines = [
        _HEAD.format(what=f"{conf['description']}."),
        "_Dotted = TypedDict(\n",
        '    "_Dotted",\n',
        "    {\n",
    ]
    for name, entry in dotted.items():
        lines += [f"        # {line}\n" for line in textwrap.wrap(_told(entry), WIDTH - 10)]
        lines.append(f"        {json.dumps(name)}: {_type_of(entry)},\n")
    lines += [
        "    },\n",
        "    total=False,\n",
        ")\n\n\n",
        f"class {_SETTINGS}(_Dotted, total=False):\n",
        '    """conf of bdev_ftl_create(): what is not given has its default."""\n\n',
    ]
    for name, entry in conf["properties"].items():
        if name not in dotted:
            lines.append(f"    {name}: {_type_of(entry)}\n")
            lines += [f"    {line}\n" for line in textwrap.wrap(f'"""{_told(entry)}"""', WIDTH - 4)]
    literal = "Literal, " if any("Literal[" in line for line in lines) else ""
    return "".join([lines[0], f"from typing import {literal}TypedDict\n\n", *lines[1:]])


def _told(entry: Mapping[str, Any]) -> str:
    default = f"default {json.dumps(entry['default'])}" if "default" in entry else ""
    bounds = f"{entry['minimum']} to {entry['maximum']}" if "minimum" in entry else ""
    return f"{entry['description']} ({'; '.join(filter(None, (bounds, default)))})."


def main() -> None:
    for name, text in generate().items():
        (PACKAGE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
