"""Which code a process runs: two that answer the same run the same package with the same shim."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Final

from ..version import __version__

Identity = dict[str, str]

PACKAGE: Final = Path(__file__).resolve().parents[1]
_DIGITS: Final = 16
_SHIM: Final = f"{PACKAGE.name}._shim"


@functools.cache
def _identity() -> tuple[tuple[str, str], ...]:
    return (("version", __version__), ("sources", _sources()), ("shim", _shim()))


def identity() -> Identity:
    """Version, digest of all of the package's Python files, and digest of the compiled shim, as they were on disk when
    this process first asked. A process asks before it works."""
    return dict(_identity())


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


def difference(here: Identity, there: Identity) -> str:
    """What differs, for a message. Empty: nothing."""
    return ", ".join(
        f"{name} {there.get(name, 'none')} instead of {value}"
        for name, value in here.items()
        if there.get(name) != value
    )
