"""A plan: the desired FTLs, checked as far as that is possible without a daemon."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .. import schema
from ..client import target_address
from ..errors import FtlError
from .document import Document, Path, PlanError, read

TARGET_DEFAULT: Final = "/var/tmp/spdk.sock"
BLOCK_BYTES: Final = 4096
"""As in conf."""
LEVELS: Final = ("crit", "high", "low", "start")
_UNITS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,20}) ?([KMGT]iB|B|)")
_NAMES: Final = {"base": "base_bdev", "listen": "listen_address"}
"""Parameters of bdev_ftl_create that have another name in a plan; the others have the same name."""
_OURS: Final = ("attach", "hosts", "allow_any_host", "limits", "limit_thresholds", "conf", "zone_capacity")
_NOT_IN_A_PLAN: Final = {
    "force": "a plan never erases anything: create that FTL once with `spdk-ftl create --force`",
    "no_data": "an FTL with no_data is gone when the daemon ends, so a plan can't have it: leave it out",
    "without_cache": "a plan never gives up a cache: do that once with `spdk-ftl create -u UUID --without-cache`",
    "engine": (
        "a plan has only FTLs of the daemon: create the target's own FTL once with `spdk-ftl create --engine "
        "native`, and save the target's configuration"
    ),
    **dict.fromkeys(
        ("core_mask", "fast_shutdown"),
        "is an option of SPDK's own FTL, and has no effect on the daemon's: leave it out",
    ),
    "l2p_dram_limit": "is a setting in a plan: give conf: {l2p_dram_limit: MIB}",
}
_TYPES: Final = {
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
}


@dataclass(frozen=True)
class HostPlan:
    nqn: str
    keys: Mapping[str, str]
    """dhchap_key, dhchap_ctrlr_key, psk, if given."""


@dataclass(frozen=True)
class FtlPlan:
    """params: those of bdev_ftl_create that the plan contains, without hosts and target. hosts and allow_any_host:
    None: unchanged."""

    name: str
    params: Mapping[str, Any]
    hosts: tuple[HostPlan, ...] | None
    allow_any_host: bool | None
    where: str
    """The place in the document, for messages."""


@dataclass(frozen=True)
class TargetPlan:
    address: str
    ftls: tuple[FtlPlan, ...]


@dataclass(frozen=True)
class Plan:
    targets: tuple[TargetPlan, ...]


def parse(text: bytes, name: str) -> Plan:
    """name: of the file, for messages. Raises PlanError."""
    document = read(text, name)
    _check_shape(document)
    targets: list[TargetPlan] = []
    for index, each in enumerate(document.value["targets"]):
        path: Path = ("targets", index)
        try:
            address = target_address(each.get("address", TARGET_DEFAULT))
        except FtlError as error:
            raise document.error((*path, "address"), error.message) from None
        if any(_real(address) == _real(other.address) for other in targets):
            raise document.error(path, f"target {address} is twice in the plan: list all its FTLs in one place")
        ftls = tuple(_ftl(document, (*path, "ftls", i), ftl, address) for i, ftl in enumerate(each["ftls"]))
        _check_unique(document, path, ftls)
        targets.append(TargetPlan(address, ftls))
    _check_uuids(document, targets)
    return Plan(tuple(targets))


def _real(address: str) -> str:
    return os.path.realpath(address) if address.startswith("/") else address


def _ftl(document: Document, path: Path, entry: Mapping[str, Any], target: str) -> FtlPlan:
    params = {_NAMES.get(key, key): value for key, value in entry.items() if key not in _OURS}
    for level in LEVELS:
        for group, suffix in (("limits", ""), ("limit_thresholds", "_threshold")):
            if level in entry.get(group, {}):
                params[f"limit_{level}{suffix}"] = entry[group][level]
    if entry.get("conf"):
        params["conf"] = conf = dict(entry["conf"])
        if isinstance(conf.get("write_buffer_size"), str):
            at = (*path, "conf", "write_buffer_size")
            conf["write_buffer_size"] = _size(document, at, conf["write_buffer_size"])
    if "zone_capacity" in entry:
        params["zone_capacity"] = _blocks(document, (*path, "zone_capacity"), entry["zone_capacity"])
    if entry.get("attach") is False:
        params["no_attach"] = True
    if "uuid" in entry and "new_uuid" in entry:
        raise document.error(path, "uuid loads an FTL, new_uuid may create one: give only one of them")
    for key in ("uuid", "new_uuid"):
        if key in entry and not str(entry[key]).strip("0-"):
            raise document.error((*path, key), "is the nil UUID, which no FTL has: leave it out")
    try:
        params = schema.load("bdev_ftl_create").check({**params, "target": target}, without=())
    except FtlError as error:
        raise document.error(path, _in_words_of_a_plan(error.message)) from None
    del params["target"]
    hosts = None
    if "hosts" in entry:
        hosts = tuple(_host(document, (*path, "hosts", i), host) for i, host in enumerate(entry["hosts"]))
        for i, host in enumerate(hosts):
            if any(host.nqn == other.nqn for other in hosts[:i]):
                raise document.error((*path, "hosts", i), f"host {host.nqn} is given twice")
    return FtlPlan(entry["name"], params, hosts, entry.get("allow_any_host"), document.where(path))


def _in_words_of_a_plan(message: str) -> str:
    """The message without the RPC and the flags of its command."""
    message = re.sub(r"^bdev_ftl_(create|add_host): ", "", message)
    message = re.sub(r" \(-[^)]*\)", "", message)
    for ours, theirs in _NAMES.items():
        message = re.sub(rf"\b{theirs}\b", ours, message)
    return message


def _host(document: Document, path: Path, entry: Any) -> HostPlan:
    given = {"nqn": entry} if isinstance(entry, str) else dict(entry)
    nqn = given.pop("nqn")
    try:
        schema.load("bdev_ftl_add_host").check({"name": "ftl", "host": nqn, **given})
    except FtlError as error:
        raise document.error(path, re.sub(r"\bhost\b", "nqn", _in_words_of_a_plan(error.message), count=1)) from None
    if "dhchap_ctrlr_key" in given and "dhchap_key" not in given:
        raise document.error(
            path, "dhchap_ctrlr_key applies only to a host that authenticates itself: give dhchap_key too"
        )
    return HostPlan(nqn, given)


def _size(document: Document, path: Path, text: str) -> int:
    """Returns the size in bytes."""
    matched = _SIZE.fullmatch(text.strip())
    if matched is None:
        raise document.error(path, f"is {text[:40]!r}: must be a size such as 6MiB (B, KiB, MiB, GiB, TiB)")
    return int(matched[1]) * _UNITS[matched[2]]


def _blocks(document: Document, path: Path, value: int | str) -> int:
    if isinstance(value, int):
        return value
    if value.strip().isdecimal():
        raise document.error(
            path, f"is {value[:40]!r}: write a number of blocks without quotation marks, or a size with its unit"
        )
    size = _size(document, path, value)
    if size % BLOCK_BYTES:
        raise document.error(path, f"is {value}: must be a multiple of {BLOCK_BYTES} bytes")
    return size // BLOCK_BYTES


def _check_unique(document: Document, path: Path, ftls: tuple[FtlPlan, ...]) -> None:
    used: dict[str, str] = {}
    names: set[str] = set()
    for index, ftl in enumerate(ftls):
        at = (*path, "ftls", index)
        if ftl.name in names:
            raise document.error((*at, "name"), f"FTL {ftl.name} is on this target twice: choose another name")
        names.add(ftl.name)
        for key, bdev in (("base", ftl.params["base_bdev"]), ("cache", ftl.params.get("cache"))):
            if bdev is None:
                continue
            if bdev in used:
                raise document.error((*at, key), f"bdev {bdev} is already {used[bdev]}: use each bdev once")
            used[bdev] = f"the {key} of {ftl.name}"


def _check_uuids(document: Document, targets: list[TargetPlan]) -> None:
    owners: dict[str, str] = {}
    for index, target in enumerate(targets):
        for i, ftl in enumerate(target.ftls):
            uuid = str(ftl.params.get("uuid") or ftl.params.get("new_uuid") or "").lower()
            if uuid and uuid in owners:
                raise document.error(("targets", index, "ftls", i), f"{owners[uuid]} has uuid {uuid} too")
            owners[uuid] = f"{ftl.name} on {target.address}"


# --- the shape, by schemas/plan/plan.json ---


@functools.cache
def plan_schema() -> dict[str, Any]:
    path = schema.schema_folder() / "plan" / "plan.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _check_shape(document: Document) -> None:
    from jsonschema import Draft202012Validator

    errors = list(Draft202012Validator(plan_schema()).iter_errors(document.value))
    if errors:
        # If there are an unknown name and a bad value, the unknown name is the likelier cause of both.
        first = min(errors, key=lambda error: (len(error.absolute_path), str(error.absolute_path), error.message))
        raise _shape_error(document, first)


def _shape_error(document: Document, error: Any) -> PlanError:
    path: Path = tuple(error.absolute_path)
    rule, limit, value, entry = error.validator, error.validator_value, error.instance, error.schema
    if rule == "additionalProperties":
        unknown = next((key for key in value if key not in entry.get("properties", {})), None)
        if unknown in _NOT_IN_A_PLAN:
            return document.error((*path, str(unknown)), _NOT_IN_A_PLAN[unknown])
        known = ", ".join(entry.get("properties", {}))
        return document.error((*path, str(unknown)), f"unknown key: use one of {known}")
    if rule == "required":
        missing = next(key for key in limit if key not in value)
        return document.error(path, f"lacks {missing}")
    if rule == "type":
        kinds = [limit] if isinstance(limit, str) else limit
        must = " or ".join(_TYPES[kind] for kind in kinds)
        return document.error(path, f"is {_shown(value)}: must be {must}")
    if rule == "const":
        return document.error(path, f"is {_shown(value)}, but this release supports {limit}")
    if rule in ("minItems", "maxItems"):
        return document.error(
            path, f"has {len(value)} entries: {'at least' if rule == 'minItems' else 'at most'} {limit}"
        )
    return document.error(path, str(error.message)[:200])


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
