"""The files of a command's results: JSON, plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from .errors import FtlError
from .text import shown

STANDARD_OUTPUT: Final = "-"


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
