"""What has to be done to match a plan: a pure function of the plan and of the actual state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..agreement import Difference, differences
from ..text import show_name
from .model import FtlPlan, HostPlan, Plan, TargetPlan

CREATE: Final = "create"
DELETE: Final = "delete"
CHANGE: Final = "change"
_KEYS: Final = ("dhchap_key", "dhchap_ctrlr_key", "psk")

_RUNNING: Final = ("online", "read_only")

There = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By the target's address in the plan, and by name: the result of bdev_ftl_get_properties for each FTL."""


@dataclass(frozen=True)
class Step:
    """One RPC."""

    target: str
    name: str
    """The name of the FTL."""
    action: str
    """CREATE, DELETE or CHANGE."""
    text: str
    """A description for users."""
    method: str
    params: Mapping[str, Any]


@dataclass
class Changes:
    steps: list[Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What can't be made to match the plan. If there is any problem, nothing is done."""
    extra: list[tuple[str, str]] = field(default_factory=list)
    """Target and name of each FTL that the plan lacks, and that is left unchanged."""


def compare(plan: Plan, there: There, *, prune: bool = False) -> Changes:
    """prune: delete FTLs that the plan lacks, on targets that it names."""
    changes = Changes()
    for target in plan.targets:
        _compare_target(target, there.get(target.address, {}), changes, prune)
    # Deletions first: those FTLs may have what others need.
    changes.steps.sort(key=lambda step: step.action != DELETE)
    return changes


def _compare_target(target: TargetPlan, there: Mapping[str, Mapping[str, Any]], changes: Changes, prune: bool) -> None:
    wanted = {ftl.name for ftl in target.ftls}
    others = {name: device for name, device in there.items() if name not in wanted}
    for name in others:
        if prune:
            params = {"name": name, "target": target.address}
            step = Step(
                target.address, name, DELETE, "delete it (its data stays on the base)", "bdev_ftl_delete", params
            )
            changes.steps.append(step)
        else:
            changes.extra.append((target.address, name))
    for ftl in target.ftls:
        device = there.get(ftl.name)
        if device is None:
            problems = [] if prune else list(_taken(ftl, others))
            changes.problems += [_problem(target, ftl, each) for each in problems]
            changes.steps += _create(target, ftl)
            continue
        problems, steps = _change(target, ftl, device)
        changes.problems += [_problem(target, ftl, each) for each in problems]
        changes.steps += steps


def _problem(target: TargetPlan, ftl: FtlPlan, text: str) -> str:
    return f"{ftl.where}: FTL {ftl.name} on {target.address}: {text}"


def _taken(ftl: FtlPlan, others: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, device in others.items():
        cache = device.get("cache")
        has = {device["base_bdev"], *device.get("base_names", ())}
        has |= {cache.get("bdev"), *cache.get("names", ())} if isinstance(cache, Mapping) else {cache}
        for bdev in (ftl.params["base_bdev"], ftl.params.get("cache")):
            if bdev is not None and bdev in has:
                yield f"FTL {name}, which the plan lacks, uses bdev {bdev}: add that FTL to the plan, or give --prune"


def _create(target: TargetPlan, ftl: FtlPlan) -> list[Step]:
    how = {} if "uuid" in ftl.params else {"load_or_create": True}
    what = f"load {ftl.params['uuid']} from" if "uuid" in ftl.params else "load it from, or create it on"
    params = {**ftl.params, **how, "if_absent": True, "target": target.address}
    if ftl.allow_any_host:
        params["allow_any_host"] = True
    text = f"{what} {ftl.params['base_bdev']}"
    step = Step(target.address, ftl.name, CREATE, text, "bdev_ftl_create", params)
    return [step, *_hosts(target, ftl, ())]


def _change(target: TargetPlan, ftl: FtlPlan, device: Mapping[str, Any]) -> tuple[list[str], list[Step]]:
    if device["state"] in ("failed", "deleting"):
        why = f": {device['error']}" if device.get("error") else ""
        return [f"is {device['state']}{why}; delete it first"], []
    problems: list[str] = []
    steps: list[Step] = []
    settable = {each["name"] for each in device.get("properties") or () if each.get("read-only") is False}
    # A load by a uuid that is on the base can't choose another uuid.
    for each in differences(ftl.params, device):
        name = each.name.removeprefix("conf.")
        if name in settable:
            steps.append(_set_property(target, ftl, name, each))
        else:
            problems.append(f"{each}; that can't be changed{_remedy(each, device)}")
    # A threshold may have to pass another one: increase the highest first, decrease the lowest first.
    steps.sort(key=_order_of_thresholds)
    if ftl.allow_any_host is not None and ftl.allow_any_host != device["allow_any_host"]:
        text = "let any host connect" if ftl.allow_any_host else "let only hosts in its list connect"
        params = {"name": ftl.name, "target": target.address, "allow_any_host": ftl.allow_any_host}
        steps.append(Step(target.address, ftl.name, CHANGE, text, "bdev_ftl_allow_any_host", params))
    return problems, steps + _hosts(target, ftl, device["hosts"])


def _remedy(difference: Difference, device: Mapping[str, Any]) -> str:
    if device["state"] not in _RUNNING:
        return f" while it is {device['state']}: wait until it is online, or delete the FTL"
    if difference.name.startswith(("conf.", "limit_")):
        return " by this daemon while it runs: change the plan, or delete the FTL and apply the plan again"
    if difference.name == "cache":
        return " by a plan: use spdk-ftl set-cache or remove-cache and apply the plan again, or change the plan"
    return ": change the plan, or delete the FTL first"


def _set_property(target: TargetPlan, ftl: FtlPlan, name: str, difference: Difference) -> Step:
    wanted = difference.wanted
    value = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    params = {"name": ftl.name, "target": target.address, "ftl_property": name, "value": value}
    text = f"{difference.name}: {difference.has} -> {wanted}"
    return Step(target.address, ftl.name, CHANGE, text, "bdev_ftl_set_property", params)


_LEVELS: Final = {f"limit_{level}_threshold": place for place, level in enumerate(("crit", "high", "low", "start"))}


def _order_of_thresholds(step: Step) -> tuple[int, int]:
    """Thresholds must be in order after each step: increases start at the top, decreases at the bottom."""
    place = _LEVELS.get(step.params.get("ftl_property", ""))
    if place is None:
        return (0, 0)
    before, _, after = step.text.rpartition(": ")[2].partition(" -> ")
    rises = before.isdecimal() and int(after) > int(before)
    return (1, -place) if rises else (2, place)


def _hosts(target: TargetPlan, ftl: FtlPlan, has: Iterable[Mapping[str, Any]]) -> list[Step]:
    if ftl.hosts is None:
        return []
    there = {host["nqn"]: host for host in has if not host.get("is_target")}
    steps: list[Step] = []
    for nqn in there:
        if all(nqn != host.nqn for host in ftl.hosts):
            steps.append(_remove_host(target, ftl, nqn, f"host {show_name(nqn)} may no longer connect"))
    for host in ftl.hosts:
        before = there.get(host.nqn)
        if before is None:
            steps.append(_add_host(target, ftl, host, f"host {show_name(host.nqn)} may connect"))
        elif any(before.get(key) != host.keys.get(key) for key in _KEYS):
            text = f"host {show_name(host.nqn)}: different key files"
            steps.append(_remove_host(target, ftl, host.nqn, f"{text} (1 of 2: its connections end)"))
            steps.append(_add_host(target, ftl, host, f"{text} (2 of 2: it may connect again)"))
    return steps


def _add_host(target: TargetPlan, ftl: FtlPlan, host: HostPlan, text: str) -> Step:
    params = {"name": ftl.name, "target": target.address, "host": host.nqn, **host.keys}
    return Step(target.address, ftl.name, CHANGE, text, "bdev_ftl_add_host", params)


def _remove_host(target: TargetPlan, ftl: FtlPlan, nqn: str, text: str) -> Step:
    params = {"name": ftl.name, "target": target.address, "host": nqn}
    return Step(target.address, ftl.name, CHANGE, text, "bdev_ftl_remove_host", params)
