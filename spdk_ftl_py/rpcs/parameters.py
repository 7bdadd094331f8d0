"""Converts Python values to the parameters of an RPC."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    StrPath = str | os.PathLike[str]


def given(**params: object) -> dict[str, Any]:
    """The parameters that are not None, as JSON values. A UUID becomes text. A path becomes absolute, because the
    daemon has another working directory. Text stays as it is, whatever it means."""
    return {name: _as_json(value) for name, value in params.items() if value is not None}


def _as_json(value: object) -> object:
    # rpc.py imports this for each command and does not need uuid. A caller that passes a UUID has imported it.
    uuid = sys.modules.get("uuid")
    if uuid is not None and isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.path.abspath(value)
    # Text is a sequence, too. The daemon refuses text in place of a list.
    return list(value) if isinstance(value, tuple | set | frozenset) else value
