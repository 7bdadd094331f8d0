"""Who imports and who includes whom, read from the sources, and what is wrong with it.

Every import counts, also within a function, under TYPE_CHECKING, and by name (importlib.import_module). That a module's
package is imported with it does not: the __init__ of every folder is empty but for its docstring.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

Rooms = Mapping[str, Set[str]]
"""What each room may use beside itself; only rooms above it in the table. A room is a folder, or a file without its
suffix; what is in several is in the innermost."""

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Arrow:
    source: str
    """Path of the file, from the root of its tree on, without suffix if it is a module."""
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} -> {self.target}"


@dataclass(frozen=True)
class Tree:
    name: str
    files: frozenset[str]
    arrows: tuple[Arrow, ...]
    lost: tuple[str, ...] = ()
    """Includes of files that are not there."""

    def __str__(self) -> str:
        return f"{self.name}: {len(self.files)} files, {len({(a.source, a.target) for a in self.arrows})} arrows"


# --- reading ---------------------------------------------------------------------------------------------------------


def python_tree(package: Path) -> Tree:
    """The modules of a package (stubs of compiled ones included) by their paths: ``ftl/media/band``, ``__init__``."""
    paths = [path for suffix in ("*.py", "*.pyi") for path in sorted(package.rglob(suffix))]
    modules = {_dotted(path, package): path.relative_to(package).with_suffix("").as_posix() for path in paths}
    arrows = [
        Arrow(modules[_dotted(path, package)], modules[target], line)
        for path in paths
        for line, name in _imported(path, package, modules)
        if (target := _module_of(name, modules)) is not None and target != _dotted(path, package)
    ]
    return Tree(package.name, frozenset(modules.values()), tuple(arrows))


def _dotted(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_of(name: str, modules: Mapping[str, str]) -> str | None:
    """The module that an import of this name loads: the name may be one of something in it."""
    while name not in modules:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return None
    return name


def _imported(path: Path, package: Path, modules: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    inside = (package.name, *path.relative_to(package).parts[:-1])
    by_name = "import_module" in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((node.lineno, ".".join((*base, name.name))) for name in node.names)
        elif by_name and isinstance(node, ast.Constant) and node.value in modules:
            yield node.lineno, str(node.value)


def include_tree(root: Path, *beside: Path) -> Tree:
    """C++ files under root, and in folders beside it, that include each other by paths from root on, or from their own
    folder."""
    places = {
        path.resolve(): path.relative_to(root if folder == root else folder.parent).as_posix()
        for folder in (root, *beside)
        for path in sorted(folder.rglob("*.?pp"))
    }
    arrows, lost = [], []
    for path, name in places.items():
        text = path.read_text(encoding="utf-8")
        for match in _INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            candidates = (path.parent / match[1], root / match[1])
            found = next((places[each.resolve()] for each in candidates if each.resolve() in places), None)
            if found is None:
                lost.append(f"{name}:{line} includes {match[1]}, which is not there")
            else:
                arrows.append(Arrow(name, found, line))
    return Tree(root.name, frozenset(places.values()), tuple(arrows), tuple(lost))


# --- judging ---------------------------------------------------------------------------------------------------------


def cycles(tree: Tree) -> list[str]:
    """Each group of files that reach each other, as one way round it."""
    targets: dict[str, list[str]] = {file: [] for file in sorted(tree.files)}
    for arrow in tree.arrows:
        targets[arrow.source].append(arrow.target)
    found: list[str] = []
    told: set[str] = set()
    for start in targets:
        way = None if start in told else _way_back(start, targets)
        if way is not None:
            told.update(way)
            found.append(" -> ".join((*way, start)))
    return found


def _way_back(start: str, targets: Mapping[str, list[str]]) -> list[str] | None:
    """The shortest way from a file to itself, without its end."""
    came_from: dict[str, str] = {}
    reached = [start]
    for each in reached:
        for target in targets[each]:
            if target == start:
                way = [each]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if target not in came_from:
                came_from[target] = each
                reached.append(target)
    return None


def room_of(file: str, rooms: Rooms) -> str | None:
    parts = file.partition(".")[0].split("/")
    names = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in rooms), None)


def upward(tree: Tree, rooms: Rooms) -> list[str]:
    """Files in no room, arrows that the table does not allow, and rooms that the table does not put in order."""
    wrong = [f"{file} is in no room" for file in sorted(tree.files) if room_of(file, rooms) is None]
    order = list(rooms)
    for room, below in rooms.items():
        wrong += [
            f"{room} stands above {other} in the table" for other in below if other not in order[: order.index(room)]
        ]
    for arrow in tree.arrows:
        source, target = room_of(arrow.source, rooms), room_of(arrow.target, rooms)
        if source is None or target is None or source == target or target in rooms[source]:
            continue
        wrong.append(f"{arrow}: {source} may not use {target}")
    return wrong
