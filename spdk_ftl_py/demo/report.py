"""The result of the demo, as a JSON document and as a table."""

from __future__ import annotations

import platform
from typing import Any

from rich.table import Table

from .. import _shim
from ..outputs import write_json
from .workload import Result

LABELS = {
    "capacity_blocks": "logical capacity (4 KiB blocks)",
    "host_written_blocks": "written by the host (blocks)",
    "media_written_blocks": "written to media (blocks)",
    "write_amplification": "write amplification",
    "gc_moved_blocks": "moved by garbage collection (blocks)",
    "zone_resets": "zone resets",
    "verified_blocks": "verified (blocks)",
    "verify_errors": "verify errors",
    "sequential_write_mib_s": "sequential write, 128 KiB (MiB/s)",
    "sequential_read_mib_s": "sequential read, 128 KiB, verified (MiB/s)",
    "random_write_iops": "random write, 4 KiB (IOPS)",
    "random_write_p99_us": "  its 99th percentile (µs)",
    "random_read_iops": "random read, 4 KiB, verified (IOPS)",
    "random_read_p99_us": "  its 99th percentile (µs)",
    "target_as_before": "target is as it was",
    "elapsed_s": "elapsed (s)",
}


class Report:
    """Filled during the demo. It can be written at any time."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "verified_blocks": 0,
            "verify_errors": 0,
            "machine": {"platform": platform.platform(), "python": platform.python_version(), **_shim.build_info()},
        }

    def verified(self, result: Result) -> None:
        self.values["verified_blocks"] += result.blocks
        self.values["verify_errors"] += result.verify_errors

    def table(self) -> Table:
        table = Table("what", "result", title="spdk-ftl demo")
        table.columns[1].justify = "right"
        for key, label in LABELS.items():
            if key in self.values:
                table.add_row(label, _shown(self.values[key]))
        return table

    def write(self, path: str) -> None:
        """Raises FtlError if the file cannot be written."""
        write_json(path, self.values)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}"
