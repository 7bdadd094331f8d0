"""Checks NVMe qualified names (Base 2.0 section 4.5)."""

from __future__ import annotations

import re
from uuid import UUID

from ..errors import ParameterError
from ..text import show_name
from . import wire

_NQN = re.compile(
    r"nqn\.\d{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9](-*[A-Za-z0-9])*(\.[A-Za-z0-9](-*[A-Za-z0-9])*)*:.+", re.DOTALL
)
_NQN_UUID = "nqn.2014-08.org.nvmexpress:uuid:"


def check_nqn(nqn: str, what: str = "NQN") -> str:
    """Returns nqn. Raises ParameterError unless nqn has one of the two forms of Base 2.0 section 4.5."""
    if len(nqn.encode()) > wire.NQN_BYTES_MAX:
        raise ParameterError(f"{what} {show_name(nqn[:40])}... is longer than {wire.NQN_BYTES_MAX} bytes")
    if nqn.startswith(_NQN_UUID):
        try:
            UUID(nqn[len(_NQN_UUID) :])
        except ValueError:
            raise ParameterError(f"{what} {show_name(nqn)} has no valid UUID at its end") from None
    elif not _NQN.fullmatch(nqn) or any(ord(char) < 32 for char in nqn):
        raise ParameterError(f"{what} {nqn!r} is not of the form nqn.yyyy-mm.reverse.domain:name")
    return nqn
