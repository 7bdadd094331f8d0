#!/usr/bin/env python3
"""Fills the parameter tables of docs/rpc.md from schemas/*.json; run it after a schema has changed.

A table stands between ``<!-- parameters: METHOD -->`` (or METHOD.PARAMETER, for the parts of an object) and
``<!-- end -->``. Everything else in the document is written by hand. tests/unit/test_docs.py compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
SCHEMAS = DOCS.parent / "schemas"
DOCUMENT = DOCS / "rpc.md"

_TABLE = re.compile(r"<!-- parameters: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
_HEADER = "| parameter | command line | type | allowed | default | |\n|---|---|---|---|---|---|"


def generate(document: str) -> str:
    """The document with its tables as the schemas say. Raises KeyError or OSError for one without a schema."""
    return _TABLE.sub(lambda found: f"<!-- parameters: {found[1]} -->\n{table(found[1])}\n<!-- end -->", document)


def table(what: str) -> str:
    """what: METHOD or METHOD.PARAMETER."""
    method, _, parameter = what.partition(".")
    schema = json.loads((SCHEMAS / f"{method}.json").read_text(encoding="utf-8"))
    if parameter:
        schema = schema["properties"][parameter]
    required = set(schema.get("required", ()))
    if not schema["properties"]:
        return "No parameters."
    rows = [_row(name, entry, name in required, parameter) for name, entry in schema["properties"].items()]
    return "\n".join([_HEADER, *rows])


def _row(name: str, entry: Mapping[str, Any], required: bool, inside: str) -> str:
    flags = ", ".join(f"`{flag}`" for flag in entry.get("x-cli", ()) if "_" not in flag)
    if not flags and inside:
        flags = f"`--{inside} {name}=…`"
    default = "required" if required else f"`{json.dumps(entry['default'])}`" if "default" in entry else ""
    cells = (f"`{name}`", flags, entry["type"], _allowed(entry), default, entry["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _allowed(entry: Mapping[str, Any]) -> str:
    if "minimum" in entry:
        return f"{entry['minimum']} … {entry['maximum']}"
    if "enum" in entry:
        return ", ".join(f"`{choice}`" for choice in entry["enum"])
    return str(entry.get("x-allowed", ""))


def main() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(generate(document), encoding="utf-8")


if __name__ == "__main__":
    main()
