"""Which bdevs of a target are FTLs of this daemon, or are built on one. No FTL may use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import ParameterError
from ..spdk.bdevs import Bdev, get_bdevs
from ..spdk.rpc import TargetRpc
from ..spdk.saved_config import OwnFtl, names_on


class OwnBdevs:
    """One for all FTLs of a daemon."""

    def __init__(self) -> None:
        self.known: Callable[[str], Iterable[OwnFtl]] = lambda _target: ()
        """All FTLs of the daemon on that target."""

    async def require_other(self, rpc: TargetRpc, bdev: Bdev, role: str) -> None:
        """Raises ParameterError, which names the FTL, and TargetError. role: "base" or "cache"."""
        ftls = list(self.known(rpc.address))
        if not ftls:
            return
        bdevs = await get_bdevs(rpc)
        names = bdev.names | {bdev.uuid} - {""}
        for ftl in ftls:
            if names & names_on(bdevs, ftl):
                how = "is" if bdev.name == ftl.name else "is built on"
                raise ParameterError(
                    f"{role} bdev {bdev.name} of the SPDK target at {rpc.address} {how} FTL bdev {ftl.name} of this "
                    "daemon: an FTL on itself, or on another FTL of the same daemon, would overwrite its own blocks "
                    "or wait for itself; nothing was done: use another bdev"
                )
