"""The result of a torture run, as a JSON document and as a table."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from rich.table import Table

from .. import _shim
from ..outputs import write_json

Progress = Callable[[int, str], None]
"""Takes the number of crashes so far, and a note."""
LABELS = {
    "crashes": "crashes",
    "loads": "loads",
    "loads_interrupted": "  crashed themselves",
    "clean_halts": "clean halts",
    "growths": "FTLs grown with their drives",
    "copies": "FTLs with a new uuid",
    "checks": "drives checked (spdk-ftl check)",
    "blocks_verified": "blocks verified",
    "violations": "violations",
    "ios": "I/Os of the host",
    "crossed_ios": "  from another reactor",
    "leased_blocks": "  blocks received into leases",
    "media_operations": "I/Os of the media",
    "reloc_moved_blocks": "blocks moved by garbage collection",
    "zone_resets": "zone resets",
    "busy_answers": "I/Os repeated because of a busy drive",
    "lost_host": "connections of hosts lost",
    "lost_base": "connections to the base lost",
    "lost_power": "  with its power",
    "lost_drive": "drives that lost power",
    "lost_bit": "bits flipped on the wire",
    "lost_cache": "connections to the nv cache lost",
    "returns": "loads by a daemon that kept running",
    "rotten_blocks": "blocks that rotted",
    "unreadable_blocks": "  read as errors",
    "scrub_read_blocks": "blocks read by scrubs",
    "scrub_bad_blocks": "  found bad",
    "l2p_page_reads": "L2P pages read",
    "l2p_page_waits": "  or written, while the reactor waited",
    "turns": "turns of running checkpoints",
    "loads_from_turn": "  used by a load",
    "flushes": "  flushes of them",
    "connections_lost": "connections lost",
    "worlds": "worlds",
    "crashes_per_s": "crashes a second",
    "elapsed_s": "elapsed (s)",
}


class Report:
    """Filled during the run. It can be written at any time."""

    def __init__(self, **options: Any) -> None:
        self.values: dict[str, Any] = {
            **options,
            "violations": 0,
            "crashes": 0,
            "blocks_verified": 0,
            "found": [],
            "machine": {"platform": platform.platform(), "python": platform.python_version(), **_shim.build_info()},
        }

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.values[name] = self.values.get(name, 0) + count

    def count(self, name: str, counts: dict[str, int]) -> None:
        """Adds counts by name, for example of crashes by kind."""
        group = self.values.setdefault(name, {})
        for key, count in counts.items():
            group[key] = group.get(key, 0) + count

    def violated(self, what: list[dict[str, Any]], replay: str) -> None:
        """what: {"kind", "lba", "detail", …} for each violation; replay: the command that repeats them."""
        self.values["violations"] += len(what)
        self.values["found"] += what
        self.values["replay"] = replay

    def table(self) -> Table:
        table = Table("what", "result", title="spdk-ftl torture")
        table.columns[1].justify = "right"
        for key, label in LABELS.items():
            if key in self.values:
                value = self.values[key]
                table.add_row(label, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
            if key == "crashes":
                for kind, count in sorted(self.values.get("kinds", {}).items()):
                    table.add_row(f"  of: {kind}", f"{count:,}")
        for kind, pause_s in self.values.get("pauses_s", {}).items():
            table.add_row(f"longest pause, {kind} (s)", f"{pause_s:.2f}")
        return table

    def write(self, path: str) -> None:
        """Raises FtlError if the file cannot be written."""
        write_json(path, self.values)
