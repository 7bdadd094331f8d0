"""Imports point down only (docs/architecture.md, "Rooms"): read from the sources, so that lazy ones count too."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spdk_ftl_py

PACKAGE = Path(__file__).resolve().parents[2] / "spdk_ftl_py"
ROOT_NAME = spdk_ftl_py.__name__

FOUNDATION = {"version", "errors", "conf", "schema", "runtime", "_shim"}
BELOW: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "conf": {"errors"},
    "schema": {"errors"},
    "runtime": {"errors", "_shim"},
    "_shim": set(),
    "nvme": FOUNDATION,
    "ftl": {"nvme", *FOUNDATION},
    "spdk": {"nvme", *FOUNDATION},
    "client": {"errors"},
    "daemon": {"ftl", "spdk", "nvme", "client", *FOUNDATION},
    "target": {"nvme", *FOUNDATION},
    "demo": {"daemon", "target", "ftl", "spdk", "nvme", "client", *FOUNDATION},
    "torture": {"demo", "daemon", "target", "ftl", "spdk", "nvme", "client", *FOUNDATION},
    "plugin": {"client", "schema", "errors"},
    "cli": {"plugin", "torture", "demo", "daemon", "target", "client", "schema", "errors", "version"},
    "__init__": {"plugin", "errors", "version"},
}
"""What each room may import of the package, itself aside."""


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].split(".")[0]


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of the package's own modules."""
    inside = (ROOT_NAME, *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            modules = [tuple(name.name.split(".")) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            modules = [(*base, name.name) for name in node.names]
        for module in modules:
            # A name that is no module (__version__) comes from __init__, which is everybody's.
            if module[0] == ROOT_NAME and len(module) > 1 and module[1] in BELOW:
                yield node.lineno, module[1]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in BELOW, f"{path.name} is in no room: add it here and in docs/architecture.md"
    wrong = [(line, other) for line, other in imported_rooms(path) if other != room and other not in BELOW[room]]
    assert not wrong, f"{path}: {room} may not import these (line, room)"


def test_no_room_is_above_itself() -> None:
    def below(room: str, seen: frozenset[str]) -> None:
        assert room not in seen, f"{room} imports itself by way of {sorted(seen)}"
        for other in BELOW[room]:
            below(other, seen | {room})

    for room in BELOW:
        below(room, frozenset())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (ROOT_NAME, ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim")),
        (
            f"{ROOT_NAME}.target.rpc_plugin",
            ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim"),
        ),
        (f"{ROOT_NAME}.cli.main", ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim")),
        (f"{ROOT_NAME}.ftl.device", (f"{ROOT_NAME}.daemon", f"{ROOT_NAME}.spdk", "aiohttp", "requests")),
    ],
)
def test_what_is_loaded_often_is_light(module: str, absent: tuple[str, ...]) -> None:
    show = f"print(*(name for name in {absent!r} if name in sys.modules))"
    program = f"import sys; sys.path[:] = {sys.path!r}; import {module}; {show}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_the_rooms_of_the_architecture_are_those_of_the_tree() -> None:
    """Every file is named in the list."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = text.split("## Rooms")[1].split("## ")[0]
    shim = [path for path in sorted((PACKAGE.parent / "shim").rglob("*.?pp")) if path.parent.name != "bind"]
    missing = [
        path.name
        for path in [*sources(), *shim]
        if path.stem not in ("__init__", "__main__") and not re.search(rf"\b{path.stem}\b", rooms)
    ]
    assert not missing
