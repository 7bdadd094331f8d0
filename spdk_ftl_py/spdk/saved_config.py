"""A target's saved configuration in three parts: what the daemon made, what is built on FTLs, and the rest.

The daemon makes its part again by itself. A target that starts with that part can't make it: the daemon would wait for
the target, and the target for the daemon. What is built on an FTL (its "dependents") would fail in a target that
starts, because the FTL comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from ..errors import ParameterError, ProtocolError
from .attach import controller_name, export_nguid, nvme_bdev_name
from .bdevs import Bdev
from .claims import NESTING_MAX, mentions
from .exports import NQN_PREFIX, bdev_nqn
from .keyring import SESSION_ROLES, session_key_names
from .rpc import TargetRpc

Call = dict[str, Any]
"""{"method": …, "params": {…}}; without params if the method takes none."""

_KEYS_SUBSYSTEM: Final = "keyring"
_NO_BDEV: Final = frozenset(("serial_number", "model_number", "alias_name", "ctrlr", "nqn"))
"""Parameters that never hold the name of a bdev, whatever they look like."""
_ANY_CASE: Final = frozenset(("uuid", "nguid", "eui64"))


@dataclass(frozen=True)
class OwnFtl:
    """An FTL of the daemon on that target, attached or not."""

    name: str
    device: UUID
    nqn: str | None = None
    """The NQN of its export; None: the default."""

    @property
    def controller(self) -> str:
        return controller_name(self.name, self.device)

    @property
    def nvme_bdev(self) -> str:
        return nvme_bdev_name(self.name, self.device)

    @property
    def subnqn(self) -> str:
        """The NQN of its export."""
        return self.nqn or f"{NQN_PREFIX}{self.device}"


@dataclass
class Divided:
    """subsystems: as in SPDK's save_config, with only the rest. dependents: by FTL, in the order of the target; a call
    that needs several FTLs is listed for each."""

    subsystems: list[dict[str, Any]]
    dependents: dict[UUID, list[Call]]


async def read_subsystems(rpc: TargetRpc, *, with_batches: bool = False) -> list[dict[str, Any]]:
    """The "subsystems" of SPDK's save_config. with_batches: keep batches of calls; targets before v26.01 have none, and
    refuse that parameter. Raises TargetError or ProtocolError."""
    names = await rpc.call("framework_get_subsystems")
    if not isinstance(names, list):
        raise ProtocolError(f"SPDK target at {rpc.address}: framework_get_subsystems did not return a list")
    found: list[dict[str, Any]] = []
    for each in names:
        name = each.get("subsystem") if isinstance(each, dict) else None
        params = {"name": name, **({"with_batches": True} if with_batches else {})}
        found.append({"subsystem": name, "config": await rpc.call("framework_get_config", params)})
    try:
        check_subsystems(found)
    except ParameterError as error:
        raise ProtocolError(f"SPDK target at {rpc.address}: its configuration is invalid: {error}") from error
    return found


def divide(subsystems: Sequence[Mapping[str, Any]], bdevs: Sequence[Bdev], ftls: Iterable[OwnFtl]) -> Divided:
    """subsystems: of a document of SPDK's save_config. bdevs: all bdevs of the target, at the same time.

    Raises ParameterError if the document is malformed.
    """
    known = list(ftls)
    check_subsystems(subsystems)
    rest = [call for name, call in _named_calls(subsystems) if name != _KEYS_SUBSYSTEM and not _is_ours(call, known)]
    dependents = {ftl.device: _dependents(rest, bdevs, ftl) for ftl in known}
    gone = {id(call) for calls in dependents.values() for call in calls}
    kept = [
        {**each, "config": _without(each.get("config"), lambda call: id(call) in gone or _is_ours(call, known))}
        for each in subsystems
    ]
    return Divided(kept, dependents)


def names_on(bdevs: Sequence[Bdev], ftl: OwnFtl) -> set[str]:
    """All names of the FTL in its target, and of what is built on it. bdevs: all bdevs of the target."""
    names = _own_names(bdevs, ftl)
    while True:
        before = len(names)
        _add_standing(names, bdevs)
        if len(names) == before:
            return names


def calls_of(subsystems: Sequence[Mapping[str, Any]]) -> list[Call]:
    """All calls of a document, including those in batches."""
    return [call for _, call in _named_calls(subsystems)]


def missing(calls: Sequence[Call], present: Sequence[Call], bdevs: Sequence[Bdev]) -> list[Call]:
    """The calls whose result the target lacks. present: the whole configuration of the target. A call that lists fewer
    parameters than the target does is present, too, and bdevs may go by any of their names."""
    canonical = {name: bdev.name for bdev in bdevs for name in bdev.names}
    by_method: dict[str, list[Any]] = {}
    for call in present:
        by_method.setdefault(call["method"], []).append(call.get("params"))

    def there(call: Call) -> bool:
        # Not everything is in the configuration, e.g. a raid that has a superblock.
        made = _made(call)
        if made is not None and call["method"].startswith("bdev_") and made in canonical:
            return True
        wanted = call.get("params") or {}
        return any(_contains(has or {}, wanted, canonical) for has in by_method.get(call["method"], ()))

    return [call for call in calls if not there(call)]


def check_subsystems(subsystems: object) -> None:
    """Raises ParameterError, which says what is not part of a saved configuration."""
    if not isinstance(subsystems, Sequence) or isinstance(subsystems, str):
        raise ParameterError("the subsystems of the configuration are not an array")
    for each in subsystems:
        if not isinstance(each, Mapping) or not isinstance(each.get("subsystem"), str):
            raise ParameterError('a subsystem of the configuration is not an object with a "subsystem"')
        config = each.get("config")
        if config is not None and not isinstance(config, list):
            raise ParameterError(f"the config of subsystem {each['subsystem']} is not an array")
        for entry in config or ():
            for call in entry if isinstance(entry, list) else (entry,):
                check_call(call, f"subsystem {each['subsystem']}")


def check_call(call: object, where: str) -> None:
    """Raises ParameterError."""
    if not isinstance(call, Mapping) or not isinstance(call.get("method"), str):
        raise ParameterError(f'{where}: an entry is not an object with a "method": {str(call)[:80]}')
    if not isinstance(call.get("params") or {}, Mapping):
        raise ParameterError(f"{where}: the params of {call['method']} are not an object")


def _named_calls(subsystems: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Call]]:
    for each in subsystems:
        for entry in each.get("config") or ():
            for call in entry if isinstance(entry, list) else (entry,):
                yield each["subsystem"], call


def _without(config: Any, gone: Any) -> Any:
    """A config without some of its calls; a batch that becomes empty is removed, too."""
    if config is None:
        return None
    kept: list[Any] = []
    for entry in config:
        if not isinstance(entry, list):
            if not gone(entry):
                kept.append(entry)
        elif not entry or (batch := [call for call in entry if not gone(call)]):
            kept.append(batch if entry else entry)
    return kept


# --- calls of the daemon ---


def _is_ours(call: Call, ftls: Iterable[OwnFtl]) -> bool:
    params = call.get("params") or {}
    return any(_made_by_us(call["method"], params, ftl) for ftl in ftls)


def _made_by_us(method: str, params: Mapping[str, Any], ftl: OwnFtl) -> bool:
    if method.startswith("nvmf_"):
        return params.get("nqn") in [bdev_nqn(role, ftl.device) for role in ("base", "cache")]
    if method == "bdev_nvme_attach_controller":
        return (params.get("name"), params.get("subnqn")) == (ftl.controller, ftl.subnqn)
    if method == "bdev_passthru_create":
        return (params.get("name"), params.get("base_bdev_name")) == (ftl.name, ftl.nvme_bdev)
    if method.startswith("keyring_"):
        return params.get("name") in [name for role in SESSION_ROLES for name in session_key_names(role, ftl.device)]
    return False


# --- objects that are built on an FTL ---


@dataclass
class _Standing:
    """What has been found so far, by the names and numbers with which calls refer to it."""

    names: set[str]
    controllers: set[str] = field(default_factory=set)
    """Controllers of vhost."""
    namespaces: set[tuple[str, int]] = field(default_factory=set)
    """NQN and NSID."""

    def needed_by(self, call: Call) -> bool:
        params = call.get("params") or {}
        if params.get("ctrlr") in self.controllers or (params.get("nqn"), params.get("nsid")) in self.namespaces:
            return True
        # The name of what a call makes is no reason: somebody else may have a bdev with that name.
        made = _made_key(call)
        details = {key: value for key, value in params.items() if key != made}
        return _names_one(details, self.names, NESTING_MAX)

    def add_made(self, call: Call, bdevs: Sequence[Bdev]) -> None:
        params = call.get("params") or {}
        made = _made(call)
        if made is not None:
            self.names |= {made} | _names_of(made, bdevs)
        if "create" in call["method"] and isinstance(params.get("ctrlr"), str):
            self.controllers.add(params["ctrlr"])
        namespace = params.get("namespace")
        if isinstance(namespace, Mapping) and isinstance(namespace.get("nsid"), int):
            self.namespaces.add((str(params.get("nqn")), namespace["nsid"]))


def _dependents(calls: Sequence[Call], bdevs: Sequence[Bdev], ftl: OwnFtl) -> list[Call]:
    """Everything: also what is built on dependents."""
    standing = _Standing(_own_names(bdevs, ftl))
    found: set[int] = set()
    while True:
        before = len(standing.names), len(found)
        _add_standing(standing.names, bdevs)
        for call in calls:
            if id(call) not in found and standing.needed_by(call):
                found.add(id(call))
                standing.add_made(call, bdevs)
        if before == (len(standing.names), len(found)):
            return [call for call in calls if id(call) in found]


def _add_standing(names: set[str], bdevs: Sequence[Bdev]) -> None:
    """Bdevs that are built on one of those."""
    for bdev in bdevs:
        if not bdev.names <= names and mentions(bdev.driver_specific, names, NESTING_MAX):
            names |= bdev.names


def _own_names(bdevs: Sequence[Bdev], ftl: OwnFtl) -> set[str]:
    names = {ftl.nvme_bdev, ftl.controller, ftl.subnqn, str(ftl.device), str(export_nguid(ftl.device))}
    there = next((bdev for bdev in bdevs if bdev.name == ftl.name), None)
    # While the FTL is not attached, a bdev with its name may belong to somebody else.
    if there is None or mentions(there.driver_specific, names, NESTING_MAX):
        names.add(ftl.name)
    for name in tuple(names):
        names |= _names_of(name, bdevs)
    return names


def _names_of(name: str, bdevs: Sequence[Bdev]) -> frozenset[str]:
    return next((bdev.names for bdev in bdevs if name in bdev.names), frozenset())


def _made_key(call: Call) -> str | None:
    """The parameter that names what a call makes."""
    method = call["method"]
    return "name" if "_create" in method or method == "bdev_nvme_attach_controller" else None


def _made(call: Call) -> str | None:
    key = _made_key(call)
    made = (call.get("params") or {}).get(key) if key is not None else None
    return made if isinstance(made, str) else None


def _names_one(details: Any, names: set[str], depth: int) -> bool:
    """As mentions(), for parameters that may name a bdev."""
    if isinstance(details, Mapping) and depth > 0:
        return any(_names_one(value, names, depth - 1) for key, value in details.items() if key not in _NO_BDEV)
    if isinstance(details, list) and depth > 0:
        return any(_names_one(value, names, depth - 1) for value in details)
    return isinstance(details, str) and details in names


def _contains(has: Any, wanted: Any, canonical: Mapping[str, str], key: str = "") -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(has, Mapping) and all(
            name in has and _contains(has[name], value, canonical, name) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(has, list)
            and len(has) == len(wanted)
            and all(_contains(one, other, canonical, key) for one, other in zip(has, wanted, strict=True))
        )
    if isinstance(wanted, str) and isinstance(has, str):
        if key in _ANY_CASE:
            return has.lower() == wanted.lower()
        return has == wanted or (wanted in canonical and canonical[wanted] == canonical.get(has))
    return bool(has == wanted)
