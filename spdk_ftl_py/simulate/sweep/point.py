"""One point of a sweep, as a worker simulates it: what goes in and what comes out is JSON."""

from __future__ import annotations

import importlib
from typing import Any, Final

FUNCTION: Final = f"{__name__}:simulated"


def simulated(point: dict[str, Any]) -> dict[str, Any]:
    """Raises what the simulation raises: ParameterError for a point that is none, FtlError for one that can't be."""
    room = __package__.rpartition(".")[0]
    spec = importlib.import_module(f"{room}.spec").Spec.from_dict(point)
    result: dict[str, Any] = importlib.import_module(f"{room}.engine").simulate(spec)
    return result
