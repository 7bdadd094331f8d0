"""FTLs in a saved configuration. They have a section "ftl" beside those of SPDK's subsystems. A target skips it,
because it has no subsystem of that name and none of its methods.

{"subsystem": "ftl", "config": [
  {"method": "ftl_create_bdev", "params": {of bdev_ftl_create, with uuid, target and all that was given; "new": true
   if it is not on media yet}},
  {"method": "ftl_add_host", "params": {of bdev_ftl_add_host}}, …
  {"method": "ftl_add_listener", "params": {of bdev_ftl_add_listener}}, …
  {"method": "ftl_set_ana_state", "params": {of bdev_ftl_set_ana_state, for the first listener}},
  {"method": "ftl_call_target", "params": {"name": of the FTL, "method": …, "params": {…}}}, …]}
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from .. import schema, strict_json
from ..access.paths import check_directory, check_parents
from ..conf import FtlConf
from ..errors import ExistsError, FtlError, ParameterError
from ..nvme.target.allowed_hosts import AllowedHosts
from ..nvme.wire import AnaState
from ..spdk.saved_config import Call, check_call, check_subsystems
from .checks import split_address
from .dependents import check_size
from .export_nqn import export_nqn
from .listeners import Listeners, show
from .requests import FtlOptions, HostOptions, NewHostRequest

SECTION: Final = "ftl"
CONFIG_BYTES_MAX: Final = 16 << 20
_CREATE: Final = "ftl_create_bdev"
_ADD_HOST: Final = "ftl_add_host"
_ADD_LISTENER: Final = "ftl_add_listener"
_SET_ANA_STATE: Final = "ftl_set_ana_state"
_CALL_TARGET: Final = "ftl_call_target"
_NOT_SAVED: Final = frozenset(("force", "no_data", "if_absent", "load_or_create", "new_uuid", "wait", "engine"))
_KEYS: Final = ("dhchap_key", "dhchap_ctrlr_key", "psk")


@dataclass
class SavedFtl:
    """One FTL of a section, as a record of the state file (ManagedDevice.record())."""

    name: str
    uuid: UUID
    target: str
    record: dict[str, Any]
    dependents: list[Call]

    @property
    def is_new(self) -> bool:
        """The FTL was not on media yet. It is created when its base exists, or loaded if it is on the base by then."""
        return self.record["loads"] is not True


# --- to a section ---


def section_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """records: results of ManagedDevice.record(). An FTL with no_data is left out, because it keeps nothing to load."""
    kept = [record for record in records if not record["params"].get("no_data")]
    return {"subsystem": SECTION, "config": [entry for record in kept for entry in _entries_of(record)]}


def _entries_of(record: Mapping[str, Any]) -> list[Call]:
    defaults = {each.name: each.default for each in schema.load("bdev_ftl_create").parameters}
    given = {
        name: value
        for name, value in record["params"].items()
        if name not in _NOT_SAVED and value is not None and (defaults.get(name) is None or value != defaults[name])
    }
    params = {"name": record["name"], "uuid": record["uuid"], "target": record["target"]}
    params = {**params, **{name: value for name, value in given.items() if name not in params}}
    if record["loads"] is not True:
        params["new"] = True
    if record["export"] is not None:
        nqn, traddr, trsvcid = record["export"]
        # Hosts know the FTL by this NQN, whatever template made it. The default is not recorded.
        params.pop("nqn", None)
        if nqn != export_nqn(None, record["name"], UUID(record["uuid"])):
            params["nqn"] = nqn
        if trsvcid:
            params["listen_address"] = f"[{traddr}]:{trsvcid}" if ":" in traddr else f"{traddr}:{trsvcid}"
    allowed = record["allowed"]
    if allowed["allow_any_host"]:
        params["allow_any_host"] = True
    entries = [{"method": _CREATE, "params": params}]
    for host in allowed["hosts"]:
        # The target's host NQN is determined when the target connects.
        if host.get("is_target"):
            continue
        keys = {key: host[key] for key in _KEYS if host.get(key) is not None}
        entries.append({"method": _ADD_HOST, "params": {"name": record["name"], "host": host["nqn"], **keys}})
    entries += _listener_entries(record)
    for call in (record.get("dependents") or {}).get("calls", ()):
        entries.append({"method": _CALL_TARGET, "params": {"name": record["name"], **call}})
    return entries


def _listener_entries(record: Mapping[str, Any]) -> list[Call]:
    listeners = Listeners.from_record(record.get("listeners"))
    entries: list[Call] = []
    _, traddr, trsvcid = record["export"] or ("", "", 0)
    if trsvcid and listeners.first is not AnaState.OPTIMIZED:
        params = {"listen_address": show((traddr, trsvcid)), "ana_state": listeners.first.name.lower()}
        entries.append({"method": _SET_ANA_STATE, "params": {"name": record["name"], **params}})
    for address, state in listeners.more.items():
        params = {"listen_address": show(address), "ana_state": state.name.lower()}
        entries.append({"method": _ADD_LISTENER, "params": {"name": record["name"], **params}})
    return entries


# --- from a section ---


def read_file(path: Path, *, safe: bool = False, tell: Callable[[str], object] = lambda text: None) -> list[Any]:
    """The section of a saved configuration; empty if the file has none, which is reported to tell. safe: only the user
    who runs this, and root, may be able to write the file; for callers that act on it without a user watching.

    Raises ParameterError, which says where the file is wrong or why it can't be read, and FtlError if it is not safe.
    """
    try:
        with path.open("rb") as file:
            if safe:
                check_parents(path.absolute(), "configuration", "give another")
                check_directory(os.fstat(file.fileno()), path, "configuration", "give another")
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ParameterError(f"configuration {path}: {error.strerror}", errno=error.errno) from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise ParameterError(f"configuration {path} is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        document = strict_json.loads(raw)
    except ValueError as error:
        raise ParameterError(f"configuration {path} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("subsystems"), list):
        raise ParameterError(f'configuration {path} has no "subsystems" array: write one with spdk-ftl save-config')
    try:
        check_subsystems(document["subsystems"])
    except ParameterError as error:
        raise ParameterError(f"configuration {path}: {error.message}") from error
    sections = [each for each in document["subsystems"] if each["subsystem"] == SECTION]
    if not sections:
        tell(
            f'configuration {path} has no section "{SECTION}", so there is nothing to load: save one with spdk-ftl '
            "save-config"
        )
    return [entry for each in sections for entry in each.get("config") or ()]


def read_section(
    entries: Iterable[Any], where: str, *, target: str | None = None, normal: Callable[[str], str] = os.path.realpath
) -> list[SavedFtl]:
    """target: replaces the targets in the file. normal: returns one spelling for each target.

    Raises ParameterError or ExistsError, which names the entry (counted from 1) and what is wrong with it.
    """
    found: dict[str, SavedFtl] = {}
    hosts: dict[str, list[Any]] = {}
    for number, entry in enumerate(entries, 1):
        at = f"{where}, entry {number} of section {SECTION}"
        check_call(entry, at)
        method, params = entry["method"], dict(entry.get("params") or {})
        try:
            if method == _CREATE:
                ftl, hosts_of_it = _read_create(params, target, normal)
                _require_unlike(ftl, found.values())
                found[ftl.name], hosts[ftl.name] = ftl, hosts_of_it
                AllowedHosts.from_record(_allowed(ftl, hosts_of_it))
                continue
            known = (_ADD_HOST, _ADD_LISTENER, _SET_ANA_STATE, _CALL_TARGET)
            if method not in known:
                raise ParameterError(f"unknown; known: {', '.join((_CREATE, *known))}")
            named = found.get(str(params.get("name")))
            if named is None:
                raise ParameterError(f"no earlier {_CREATE} has the name {str(params.get('name'))[:80]!r}")
            if method == _ADD_HOST:
                hosts[named.name].append(_read_host(params))
                AllowedHosts.from_record(_allowed(named, hosts[named.name]))
            elif method in (_ADD_LISTENER, _SET_ANA_STATE):
                _read_listener(named, method, params)
            else:
                named.dependents.append(_read_dependent(params))
        except (FtlError, ValueError) as error:
            why = error.message if isinstance(error, FtlError) else str(error)
            raise ParameterError(f"{at}: {method[:80]}: {why}") from error
    for ftl in found.values():
        check_size(ftl.name, ftl.dependents)
        ftl.record["allowed"] = _allowed(ftl, hosts[ftl.name])
        ftl.record["dependents"] = {"calls": ftl.dependents, "pending": True}
    return list(found.values())


def _read_listener(ftl: SavedFtl, method: str, given: dict[str, Any]) -> None:
    params = schema.load(f"bdev_{method}").validate(given)
    listeners = Listeners.from_record(ftl.record.get("listeners"))
    address, state = split_address(params["listen_address"]), AnaState[params.get("ana_state", "optimized").upper()]
    export = ftl.record.get("export")
    first = None if export is None else (str(export[1]), int(export[2]))
    if not address[1]:
        raise ParameterError(f"listen_address {params['listen_address']} has no port")
    if method == _SET_ANA_STATE:
        if address != first:
            raise ParameterError(f"{show(address)} is not the listen_address of the FTL")
        if state is AnaState.INACCESSIBLE and not ftl.record["params"].get("no_attach"):
            raise ParameterError(
                f"{show(address)} is where the target attaches the FTL, so it can't be inaccessible without no_attach"
            )
        listeners.first = state
    else:
        listeners.require_new(address, first)
        listeners.more[address] = state
    ftl.record["listeners"] = listeners.to_record()


def _read_create(
    given: dict[str, Any], target: str | None, normal: Callable[[str], str]
) -> tuple[SavedFtl, list[dict[str, Any]]]:
    new = given.pop("new", False)
    if not isinstance(new, bool):
        raise ParameterError('"new" is not true or false')
    for name in _NOT_SAVED:
        if given.get(name) is not None and given[name] is not False:
            raise ParameterError(f"{name} belongs to bdev_ftl_create, not into a saved configuration")
    if target is not None:
        given["target"] = target
    params = schema.load("bdev_ftl_create").validate(given)
    asked = HostOptions.taken_from(params)
    for name in _NOT_SAVED:
        params.pop(name, None)
    params["target"] = normal(params["target"])
    options = FtlOptions.of(params)
    uuid = options.loads_uuid
    if uuid is None:
        raise ParameterError("uuid of the FTL to load is missing")
    FtlConf.from_dict(options.settings).check()
    if new and options.without_cache:
        raise ParameterError("without_cache applies only to an existing FTL")
    export = None
    if options.listen_address:
        traddr, port = split_address(options.listen_address)
        nqn = export_nqn(options.nqn, options.name, uuid)
        export = [nqn, traddr, port] if port and not new else None
    hosts = [_host(nqn, asked) for nqn in asked.hosts]
    record = {
        "name": options.name,
        "uuid": str(uuid),
        "target": options.target,
        "state": "deferred" if new else "waiting",
        "loads": not new,
        "params": params,
        "params_are_as_given": True,
        "export": export,
        # Chosen anew: the configuration may be loaded on another machine.
        "transport": None,
        "allowed": {"allow_any_host": asked.allow_any_host},
        "hosts": None,
    }
    if new:
        # The FTL may have been created since the file was written, and nothing needs to exist yet.
        params |= {"load_or_create": True, "wait": 0}
    return SavedFtl(options.name, uuid, options.target, record, []), hosts


def _read_host(params: dict[str, Any]) -> dict[str, Any]:
    host = NewHostRequest.of(schema.load("bdev_ftl_add_host").validate(params))
    return _host(host.host, host)


def _host(nqn: str, keys: HostOptions | NewHostRequest) -> dict[str, Any]:
    given = {"dhchap_key": keys.dhchap_key, "dhchap_ctrlr_key": keys.dhchap_ctrlr_key, "psk": keys.psk}
    return {"nqn": nqn, "is_target": False, **{key: path for key, path in given.items() if path is not None}}


def _read_dependent(params: dict[str, Any]) -> Call:
    del params["name"]
    check_call(params, _CALL_TARGET)
    if unknown := set(params) - {"method", "params"}:
        raise ParameterError(f"unknown parameter {sorted(unknown)[0][:80]!r}; known: name, method, params")
    return params


def _allowed(ftl: SavedFtl, hosts: list[dict[str, Any]]) -> dict[str, Any]:
    return {**ftl.record["allowed"], "hosts": hosts}


def _require_unlike(ftl: SavedFtl, others: Iterable[SavedFtl]) -> None:
    for other in others:
        if other.name == ftl.name or other.uuid == ftl.uuid:
            raise ExistsError(
                f"FTL bdev {ftl.name} (uuid {ftl.uuid}) has the name or uuid of FTL bdev {other.name} (uuid "
                f"{other.uuid}), which comes earlier in the file"
            )
