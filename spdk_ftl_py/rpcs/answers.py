"""What the daemon answers, where that takes more forms than a caller wants to tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..results import CreatedFtl


def created(name: str, base_bdev: str, answer: Any) -> CreatedFtl:
    """The answer to a creation. SPDK's form of one that is deferred is a line of text: its base bdev is not there."""
    if isinstance(answer, str):
        return {"name": name, "state": "deferred", "waiting_for": f"base bdev {base_bdev}"}
    return cast("CreatedFtl", answer)
