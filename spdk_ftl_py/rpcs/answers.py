"""Converts answers of the daemon that have several forms to one form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..results import CreatedFtl


def created(name: str, base_bdev: str, answer: Any) -> CreatedFtl:
    """The answer to a creation. As in SPDK, a deferred creation may answer with a line of text, because its base bdev
    does not exist."""
    if isinstance(answer, str):
        return {"name": name, "state": "deferred", "waiting_for": f"base bdev {base_bdev}"}
    return cast("CreatedFtl", answer)
