"""Which code a process runs: two that answer the same run the same package with the same shim; and, if some work needs
more than that, the same modules and entry points of others with the same files."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ..version import __version__

Identity = dict[str, str]

MODULE: Final = "module "
"""MODULE + a module's name stands for the file that it is imported from."""
ENTRY_POINT: Final = "entry point "
"""ENTRY_POINT + group + a space + name stands for what the entry point names."""
FILE: Final = "file "
"""FILE + a path stands for the content of a regular file."""
MISSING: Final = "missing"
WHOLE_BYTES_MAX: Final = 1 << 30
"""Of a larger file, size and samples count: all of it would take longer than the work it is for."""
_SAMPLES: Final = 256
_SAMPLE_BYTES: Final = 1 << 18
_PIECE_BYTES: Final = 1 << 20

PACKAGE: Final = Path(__file__).resolve().parents[1]
_DIGITS: Final = 16
_SHIM: Final = f"{PACKAGE.name}._shim"


@functools.cache
def _identity() -> tuple[tuple[str, str], ...]:
    return (("version", __version__), ("sources", _sources()), ("shim", _shim()))


def identity(more: Iterable[str] = ()) -> Identity:
    """Version, digest of all of the package's Python files, and digest of the compiled shim, as they were on disk when
    this process first asked. A process asks before it works.

    more: names with MODULE, ENTRY_POINT or FILE, of which the same is told, as they are on disk now; MISSING for what
    is not there. Other names are passed over, so those of another identity can be given.
    """
    kinds: dict[str, Callable[[str], str]] = {MODULE: _module, ENTRY_POINT: _entry_point, FILE: _file}
    told = dict(_identity())
    for name in more:
        for kind, found in kinds.items():
            if name.startswith(kind):
                told[name] = found(name.removeprefix(kind))
    return told


def _sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: path.relative_to(PACKAGE).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


def _shim() -> str:
    spec = importlib.util.find_spec(_SHIM)
    if spec is None or spec.origin is None:
        return "missing"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:_DIGITS]


def _module(name: str) -> str:
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:_DIGITS] if spec and spec.origin else MISSING
    except Exception:  # to find a module in a package runs the package's code
        return MISSING


def _entry_point(name: str) -> str:
    group, _, name = name.partition(" ")
    return next((found.value for found in importlib.metadata.entry_points(group=group, name=name)), MISSING)


def _file(path: str) -> str:
    try:
        now = os.stat(path)
        if not stat.S_ISREG(now.st_mode):
            return "no regular file"
        return _file_digest(path, (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"({error.strerror})"


@functools.lru_cache(maxsize=1024)
def _file_digest(path: str, stamp: tuple[int, ...]) -> str:
    """stamp: changes when the file does. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > WHOLE_BYTES_MAX:
            digest.update(f"{size}\0".encode())
            for number in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
        else:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()[:_DIGITS]


def difference(here: Identity, there: Identity) -> str:
    """What differs, for a message. Empty: nothing."""
    return ", ".join(
        f"{name} {there.get(name, 'none')} instead of {value}"
        for name, value in here.items()
        if there.get(name) != value
    )
