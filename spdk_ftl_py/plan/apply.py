"""Applies a plan, step by step, with RPCs of the daemon."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ..errors import FtlError
from ..text import shown
from .difference import CREATE, Changes, Step, compare
from .model import Plan

POLL_S: Final = 0.2
_COMING: Final = ("deferred", "creating", "waiting")


class Caller(Protocol):
    """DaemonClient."""

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any: ...


@dataclass
class Outcome:
    """What was done, or would be done. If problems and error are empty: everything."""

    changes: Changes
    dry_run: bool
    done: list[Step] = field(default_factory=list)
    error: str | None = None
    """Why the step after those that are done failed."""
    ftls: list[dict[str, Any]] = field(default_factory=list)
    """The FTLs of the plan at the end, as in ftl_get_devices."""

    @property
    def changed(self) -> bool:
        """Whether something was changed, or would be."""
        return bool(self.changes.steps if self.dry_run else self.done)

    @property
    def failed(self) -> bool:
        return bool(self.changes.problems) or self.error is not None

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """FTLs of the plan that exist, but are not online yet."""
        return [each for each in self.ftls if each["state"] in _COMING]

    def to_dict(self) -> dict[str, Any]:
        steps = [
            {
                "target": step.target,
                "name": step.name,
                "action": step.action,
                "text": step.text,
                "method": step.method,
                "params": dict(step.params),
                "done": step in self.done,
            }
            for step in self.changes.steps
        ]
        return {
            "changed": self.changed,
            "dry_run": self.dry_run,
            "failed": self.failed,
            "steps": steps,
            "problems": self.changes.problems,
            "error": self.error,
            "extra": [{"target": target, "name": name} for target, name in self.changes.extra],
            "ftls": self.ftls,
        }


def look(client: Caller, plan: Plan) -> dict[str, dict[str, dict[str, Any]]]:
    """The input of compare(). Raises FtlError."""
    there: dict[str, dict[str, dict[str, Any]]] = {}
    for target in plan.targets:
        mine = there[target.address] = {}
        wanted = {ftl.name for ftl in target.ftls}
        for device in client.call("ftl_get_devices", {"target": target.address}):
            mine[device["name"]] = device
            if device["name"] in wanted:
                try:
                    details = client.call("bdev_ftl_get_properties", {"name": device["name"], "target": target.address})
                except FtlError as error:
                    if error.errno != errno.ENODEV:
                        raise
                    # It was deleted in this moment.
                    del mine[device["name"]]
                else:
                    mine[device["name"]] = details
    return there


def apply(
    client: Caller,
    plan: Plan,
    *,
    dry_run: bool = False,
    prune: bool = False,
    wait_s: int = 0,
    progress: Callable[[Step], None] = lambda step: None,
) -> Outcome:
    """wait_s: how long to wait for FTLs that are not online, for all of them together. progress: called with each step
    before it is done. A step that fails ends the plan; the outcome has the error. Raises FtlError if the daemon can't
    be asked; then nothing was done."""
    outcome = Outcome(compare(plan, look(client, plan), prune=prune), dry_run)
    if outcome.changes.problems or dry_run:
        outcome.ftls = _ftls(client, plan)
        return outcome
    for step in outcome.changes.steps:
        progress(step)
        try:
            # wait 0: the daemon waits for what does not exist yet, while the other steps are done.
            client.call(step.method, {**step.params, "wait": 0} if step.action == CREATE else step.params)
        except FtlError as error:
            outcome.error = f"{step.name} on {step.target}: {step.text}: {shown(error.message)}"
            break
        outcome.done.append(step)
    try:
        _wait(client, plan, outcome, wait_s)
    except FtlError as error:
        outcome.error = outcome.error or shown(error.message)
    return outcome


def _wait(client: Caller, plan: Plan, outcome: Outcome, wait_s: int) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        outcome.ftls = _ftls(client, plan)
        failed = [each for each in outcome.ftls if each["state"] == "failed"]
        if failed and outcome.error is None:
            outcome.error = f"{failed[0]['name']} on {failed[0]['target']} has failed: {shown(str(failed[0]['error']))}"
        if outcome.error is not None or not outcome.waiting or time.monotonic() >= deadline:
            return
        time.sleep(POLL_S)


def _ftls(client: Caller, plan: Plan) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for target in plan.targets:
        wanted = {ftl.name for ftl in target.ftls}
        devices = client.call("ftl_get_devices", {"target": target.address})
        entries += [{**device, "target": target.address} for device in devices if device["name"] in wanted]
    return entries
