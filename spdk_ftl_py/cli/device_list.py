"""`spdk-ftl devices`: a table for people, lines for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..text import show_line
from .units import BLOCK_BYTES, show_bytes

NOTHING: Final = "-"


def show_devices(devices: list[dict[str, Any]]) -> None:
    """devices: of ftl_get_devices. On a terminal a table for each target, at most as wide as that; else one line of
    whole values for each device."""
    if not sys.stdout.isatty():
        for device in devices:
            print("\t".join(line_of(device)))
        return
    from rich.console import Console

    console = Console()
    for target in dict.fromkeys(device["target"] for device in devices):
        there = [device for device in devices if device["target"] == target]
        console.print(f"FTLs of the SPDK target at {show_line(target)}", markup=False, highlight=False)
        console.print(_table(there))
        for device in there:
            reason = reason_of(device)
            if reason:
                console.print(f"{device['name']}: {show_line(reason, 2000)}", markup=False, highlight=False)
    if not devices:
        console.print("the daemon has no FTLs")


def line_of(device: Mapping[str, Any]) -> list[str]:
    """name, state, base, cache, bytes, free bands, bands, export, target, reason."""
    size = device.get("num_blocks")
    fields = (
        device["name"],
        device["state"],
        device["base_bdev"],
        device.get("cache"),
        None if size is None else size * BLOCK_BYTES,
        device.get("free_bands"),
        device.get("num_bands"),
        address_of(device),
        device["target"],
        reason_of(device),
    )
    return [show_line(str(NOTHING if field in (None, "") else field), 4000) for field in fields]


def reason_of(device: Mapping[str, Any]) -> str:
    return str(device.get("error") or device.get("waiting_for") or "")


def address_of(device: Mapping[str, Any]) -> str:
    export = device.get("export") or {}
    if not export:
        return ""
    if not export["trsvcid"]:
        # No TCP port is open: only the target can reach it.
        return str(device.get("transport", ""))
    address = f"[{export['traddr']}]" if ":" in export["traddr"] else export["traddr"]
    return f"{address}:{export['trsvcid']}"


def _notes(device: Mapping[str, Any]) -> Iterator[str]:
    if device.get("no_data"):
        yield "no data"
    if device.get("allow_any_host"):
        yield "any host"
    if device.get("secure_channel"):
        yield "TLS only"
    if device.get("transport") == "vfio-user" and (device.get("export") or {}).get("trsvcid"):
        yield "target by vfio-user"


def _table(devices: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="")
    columns = ["name", "state", "base", "cache", "size", "free bands", "export", ""]
    rows = []
    for device in devices:
        name, state, base, cache, _, free, bands, export, *_ = line_of(device)
        size = device.get("num_blocks")
        rows.append(
            [
                name,
                state,
                base,
                cache,
                NOTHING if size is None else show_bytes(size * BLOCK_BYTES),
                NOTHING if bands == NOTHING else f"{free}/{bands}",
                export,
                ", ".join(_notes(device)),
            ]
        )
    # Columns that say nothing take no room.
    used = [index for index, column in enumerate(columns) if column not in ("cache", "") or _says(rows, index)]
    for index in used:
        heading = columns[index]
        # If there is too little room, names are folded; the others stay as they are.
        folds = heading in ("name", "base", "cache", "")
        widest = max((len(row[index]) for row in rows), default=0)
        table.add_column(
            heading,
            overflow="fold",
            justify="right" if heading in ("size", "free bands") else "left",
            min_width=None if folds else max(widest, len(heading)),
        )
    for row in rows:
        table.add_row(*(Text(row[index]) for index in used))
    return table


def _says(rows: list[list[str]], index: int) -> bool:
    return any(row[index] not in (NOTHING, "") for row in rows)
