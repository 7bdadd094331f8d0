"""Judges the health of a daemon and its FTLs by what its RPCs answer. `spdk-ftl health` shows the result."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final


class Health(enum.IntEnum):
    """The values are the exit codes. argparse has 2."""

    HEALTHY = 0
    DEGRADED = 3
    """The FTL serves hosts, or holds their I/O, but something needs attention."""
    FAILED = 4
    """I/O of hosts fails, or data is lost."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    health: Health
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


FLUSH_CLASSES: Final = ("doubt", "command", "block", "zone")
"""Errors of flushes that say something about the base, not only that it was away for a while."""


def worst(problems: list[Problem]) -> Health:
    return max((problem.health for problem in problems), default=Health.HEALTHY)


def of_daemon(daemon: Mapping[str, Any]) -> list[Problem]:
    """daemon: of ftl_get_daemon."""
    held = [each for each in daemon.get("unneeded_buffers", []) if each.get("held_blocks") or each.get("held_records")]
    if not held:
        return []
    uuids = ", ".join(each["uuid"] for each in held)
    return [
        Problem(
            Health.DEGRADED,
            f"{len(held)} write buffer files hold acknowledged writes of FTLs that are not loaded (uuid {uuids})",
            "load these FTLs before this machine goes down (spdk-ftl load -u UUID), or give the writes up "
            "(spdk-ftl remove-buffers --force)",
        )
    ]


def of_ftl(
    device: Mapping[str, Any], stats: Mapping[str, Any] | None, properties: Mapping[str, Any] | None = None
) -> list[Problem]:
    """device: of ftl_get_devices; stats: bdev_ftl_get_stats; properties: bdev_ftl_get_properties. None: there are none
    now."""
    return [*_of_state(device, stats), *_of_statistics(stats or {}), *_of_cache(device, properties or {})]


def _of_state(device: Mapping[str, Any], stats: Mapping[str, Any] | None) -> Iterator[Problem]:
    state = device["state"]
    error = device.get("error")
    base, target = device["base_bdev"], device["target"]
    if state == "failed":
        yield Problem(
            Health.FAILED,
            f"has failed, and I/O of hosts fails: {error or 'the reason is in the log of the daemon'}",
            f"repair the base, delete the FTL (its data stays on {base}), and load it with its uuid "
            f"(spdk-ftl load -b {device['name']} -d {base} -u {device['uuid']})",
        )
    elif state == "read_only":
        yield Problem(
            Health.FAILED, f"is read-only, and writes of hosts fail: {error}", "copy its data to another drive"
        )
    elif state in ("waiting", "deferred"):
        why = device.get("waiting_for") or error or "its base"
        fails = device.get("host_io") == "failing"
        yield Problem(
            Health.FAILED if fails else Health.DEGRADED,
            f"waits for {why}"
            + (f" ({error})" if error and error not in why else "")
            + (", and I/O of hosts fails" if fails else ""),
            f"bring base bdev {base} and the target at {target} back; the daemon continues by itself",
        )
    elif state == "creating":
        how_far = device.get("progress")
        if device.get("waiting_for"):
            how_far = f"waits for {device['waiting_for']}"
        yield Problem(
            Health.DEGRADED,
            "is being created or loaded" + (f" ({how_far})" if how_far else ""),
            "wait until it is done",
        )
    elif state == "deleting":
        yield Problem(Health.DEGRADED, "is being deleted", "wait until it is done")
    elif error:
        yield Problem(Health.DEGRADED, str(error), "see docs/troubleshooting.md")
    held = ((stats or {}).get("host_io") or {}).get("held", 0)
    if held:
        yield Problem(Health.DEGRADED, f"{held} I/Os of hosts wait for the base", f"bring base bdev {base} back")
    for each in (device.get("dependents") or {}).get("failed", []):
        yield Problem(
            Health.DEGRADED,
            f"{each.get('method', 'a call')} for a bdev on it in the target failed: {each.get('error', '')}",
            "make that call by hand",
        )


def _of_statistics(stats: Mapping[str, Any]) -> Iterator[Problem]:
    if stats.get("lost_blocks"):
        yield Problem(
            Health.FAILED,
            f"media have lost {stats['lost_blocks']} blocks, which read as errors",
            "restore them from a backup: they can be read again after they were written or trimmed",
        )
    if stats.get("unreadable_blocks"):
        yield Problem(
            Health.DEGRADED,
            f"{stats['unreadable_blocks']} blocks could not be read for hosts since the FTL was loaded",
            "run spdk-ftl scrub, and restore from a backup what can't be read",
        )
    flushes = (stats.get("host_errors") or {}).get("flush", {})
    failed = sum(flushes.get(each, 0) for each in FLUSH_CLASSES)
    if failed:
        yield Problem(
            Health.DEGRADED,
            f"{failed} flushes of hosts have failed since the FTL was loaded",
            "check the drive; hosts must repeat what they wrote before these flushes",
        )
    if stats.get("zone_faults") and not stats.get("spare_zones"):
        yield Problem(
            Health.DEGRADED,
            f"{stats['zone_faults']} zones have failed since the FTL was loaded, and no spare zone is left",
            "plan to replace the drive",
        )
    used = (stats.get("wear") or {}).get("percent_used")
    if used is not None and used >= 100:
        yield Problem(
            Health.DEGRADED,
            f"zones were reset {used} % as often as the drive is rated for (rated_resets)",
            "plan to replace the drive",
        )
    if stats.get("limit") == "crit":
        yield Problem(
            Health.DEGRADED,
            f"only {stats.get('limit_free_bands')} bands are free, so writes wait for relocation (limit crit)",
            "trim blocks that hosts do not need, or write less",
        )


def _of_cache(device: Mapping[str, Any], properties: Mapping[str, Any]) -> Iterator[Problem]:
    cache = properties.get("cache") or {}
    if cache.get("state") in ("failing", "given_up"):
        yield Problem(
            Health.DEGRADED,
            f"nv cache {cache['bdev']} has failed ({cache.get('failure') or cache['state']}): writes are durable only "
            "when they are flushed",
            f"replace it (spdk-ftl set-cache -b {device['name']} -c BDEV), or remove it (spdk-ftl remove-cache -b "
            f"{device['name']})",
        )
