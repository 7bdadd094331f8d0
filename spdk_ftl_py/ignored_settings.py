"""Settings of conf that are accepted for compatibility, and have no effect.

Saved configurations, plans, scripts of SPDK and superblocks of earlier releases contain them. Each is logged once when
it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Ignored:
    default: object
    """The default in the releases in which it was a setting: those wrote it to every superblock."""
    why: str


IGNORED: Final[Mapping[str, Ignored]] = {
    "user_io_pool_size": Ignored(2048, "an I/O queue has one I/O for each entry, so there is no pool to size"),
}


def drop_ignored(params: dict[str, Any]) -> list[str]:
    """Removes them from the parameters of bdev_ftl_create. Returns a line for the log for each."""
    conf = params.get("conf") or {}
    messages = [f"conf {name} is ignored: {IGNORED[name].why}" for name in conf if name in IGNORED]
    if messages:
        params["conf"] = {name: value for name, value in conf.items() if name not in IGNORED}
    return messages


def ignored_in_superblock(conf: Mapping[str, Any]) -> list[str]:
    """A line for the log for each setting that somebody had given. The next superblock lacks it."""
    return [
        f"conf {name} of its superblock is ignored: {ignored.why}"
        for name, ignored in IGNORED.items()
        if conf.get(name, ignored.default) != ignored.default
    ]
