#!/usr/bin/env python3
"""Fills the table of docs/monitoring.md from spdk_ftl_py/daemon/metrics.py; run it after a metric has changed.

The table stands between ``<!-- metrics -->`` and ``<!-- end -->``. Everything else in the document is written by hand.
tests/unit/daemon/test_metrics.py compares.
"""

from __future__ import annotations

import re
from pathlib import Path

from spdk_ftl_py.daemon.metrics import DAEMON_METRICS, METRICS

DOCUMENT = Path(__file__).resolve().parent / "monitoring.md"

_TABLE = re.compile(r"<!-- metrics -->\n.*?<!-- end -->", re.DOTALL)


def generate(document: str) -> str:
    """The document with its table as the collector has it."""
    return _TABLE.sub(lambda _: f"<!-- metrics -->\n{table()}\n<!-- end -->", document)


def table() -> str:
    rows = ["| metric | type | labels | |", "|---|---|---|---|"]
    rows += [_row(name, "gauge", labels, text) for name, text, labels in DAEMON_METRICS]
    rows += [_row(kind.name, kind.type, kind.labels, kind.text) for kind in METRICS]
    return "\n".join(rows)


def _row(name: str, kind: str, labels: tuple[str, ...], text: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"


if __name__ == "__main__":
    DOCUMENT.write_text(generate(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
