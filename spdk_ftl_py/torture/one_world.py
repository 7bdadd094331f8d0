"""One world of a campaign, as a worker runs it: what goes in and what comes out is JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from .model import Violation
from .options import Options
from .result import WorldResult

FUNCTION = f"{__name__}:run"


def argument(options: Options, number: int, crashes: int) -> dict[str, Any]:
    return {"options": dataclasses.asdict(options), "world": number, "crashes": crashes}


def run(given: dict[str, Any]) -> dict[str, Any]:
    from .run import devices_quiet, run_world

    with devices_quiet():
        return to_dict(run_world(Options(**given["options"]), given["world"], given["crashes"]))


def to_dict(result: WorldResult) -> dict[str, Any]:
    """Without zeroes, for a file that has millions of them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if field.name == "violations":
            value = [dataclasses.asdict(each) for each in value]
        elif isinstance(value, Counter):
            value = {name: count for name, count in value.items() if count}
        if value:
            values[field.name] = value
    return values


def from_dict(values: dict[str, Any]) -> WorldResult:
    counters: dict[str, Any] = {name: Counter(values[name]) for name in ("kinds", "places", "stats") if name in values}
    violations = [Violation(**each) for each in values.get("violations", ())]
    return WorldResult(**{**values, **counters, "violations": violations})


def failed(error: str) -> dict[str, Any]:
    """The result of a world that has raised an error, or of which workers die."""
    return to_dict(WorldResult(violations=[Violation("failed", -1, error)]))
