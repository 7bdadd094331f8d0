"""The listeners of an FTL's export, and their ANA states: the first one, with which the FTL was created, and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import BusyError, ExistsError, NotFoundError
from ..nvme.wire import AnaState
from .checks import PORT_MAX, split_address

MORE_MAX: Final = 15
"""Listeners besides the first one."""
Address = tuple[str, int]


class Listeners:
    """The listeners that the FTL should have. Front listens accordingly."""

    def __init__(self) -> None:
        self.first = AnaState.OPTIMIZED
        """The state of the first listener."""
        self.more: dict[Address, AnaState] = {}
        """The others, in the order in which they were added."""

    def require_new(self, address: Address, first: Address | None) -> None:
        """Raises ExistsError, and BusyError if there are too many."""
        if address == first or address in self.more:
            raise ExistsError(f"listener {show(address)} exists already")
        if len(self.more) >= MORE_MAX:
            raise BusyError(f"listener {show(address)} can't be added: {MORE_MAX + 1} listeners are the limit")

    def require(self, address: Address) -> None:
        """Raises NotFoundError."""
        if address not in self.more:
            known = ", ".join(show(each) for each in self.more) or "none"
            raise NotFoundError(f"no listener {show(address)}; the listeners besides the first one are: {known}")

    def to_record(self) -> dict[str, Any]:
        return {
            "first": self.first.name.lower(),
            "more": [[traddr, port, state.name.lower()] for (traddr, port), state in self.more.items()],
        }

    @classmethod
    def from_record(cls, record: object) -> Listeners:
        """record: as to_record() makes it; None if an older daemon has saved the FTL. Raises ValueError."""
        listeners = cls()
        if record is None:
            return listeners
        if not isinstance(record, Mapping) or not isinstance(record.get("more"), list):
            raise ValueError("listeners are not a list")
        listeners.first = _state(record.get("first"))
        for traddr, port, state in record["more"]:
            if not isinstance(port, int) or not 0 < port <= PORT_MAX or len(listeners.more) >= MORE_MAX:
                raise ValueError(f"{port!r} is not a port, or there are too many listeners")
            listeners.more[split_address(show((str(traddr), port)))] = _state(state)
        return listeners


def _state(name: object) -> AnaState:
    if not isinstance(name, str) or name.upper() not in AnaState.__members__:
        raise ValueError(f"{name!r} is not an ANA state")
    return AnaState[name.upper()]


def show(address: Address) -> str:
    """ADDRESS:PORT."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
