"""The files of a command's results: JSON, plots."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .errors import FtlError
from .text import shown

STANDARD_OUTPUT: Final = "-"


def check(path: Path | str | None, *, option: str = "--json") -> None:
    """Before long work: can the file be written? Leaves no trace. Raises FtlError."""
    if path is None or str(path) == STANDARD_OUTPUT:
        return
    try:
        _try(Path(path))
    except OSError as error:
        raise _not_writable(option, path, error) from error


def check_distinct(files: Mapping[str, Path | str | None]) -> None:
    """Before any of them is opened: nothing that is written may overwrite something else. By what they are, as
    "--json"; None: not given. Raises FtlError."""
    known: dict[str, str] = {}
    for what, path in files.items():
        if path is None or str(path) == STANDARD_OUTPUT:
            continue
        other = known.setdefault(os.path.realpath(path), what)
        if other != what:
            raise FtlError(f"{what} {shown(str(path))}: {other} is the same file: give another one")


def _try(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # What a symbolic link points to need not exist either.
        place = os.path.realpath(path)
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.unlink(place)
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    elif not os.access(path, os.W_OK):
        # Whoever reads from a pipe would take its closing for the end.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_json(path: Path | str, values: Any, *, option: str = "--json") -> None:
    """-: to standard output. Raises FtlError."""
    text = json.dumps(values, indent=2) + "\n"
    if str(path) == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise _not_writable(option, path, error) from error


def _not_writable(option: str, path: Path | str, error: OSError) -> FtlError:
    return FtlError(f"{option} {shown(str(path))}: {error.strerror or error}: give a file that can be written")
