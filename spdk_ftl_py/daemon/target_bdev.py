"""An FTL as a bdev of its target: the objects in the target, and the keys with which the target connects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final
from uuid import UUID

from ..errors import FtlError, TargetError
from ..runtime.steps import Steps
from ..spdk.attach import Attachment, attach, attached_as, detach, detach_unclaimed
from ..spdk.bdevs import find_bdev
from ..spdk.claims import require_unclaimed
from ..spdk.keyring import KeyPair
from ..spdk.rpc import TargetRpc
from .admission import Admission
from .dependents import Dependents
from .front import Front
from .session_keys import SessionKeys
from .transports import Transport, TransportName

_KEYS: Final = "keys for the target"

log = logging.getLogger(__name__)


class TargetBdev:
    """Call attach() any number of times, then undo()."""

    def __init__(
        self,
        rpc: TargetRpc,
        name: str,
        device: UUID,
        admission: Admission,
        keys: SessionKeys,
        dependents: Dependents,
        is_served: Callable[[], bool],
    ) -> None:
        """is_served: whether a client of vfio-user is served now; if not, no keeper holds it either. dependents: of
        what is built on the bdev; called before the FTL is attached to a target that has nothing of it."""
        self.name = name
        """May be changed while nothing is attached."""
        self._rpc = rpc
        self._device = device
        self._admission = admission
        self._keys = keys
        self._dependents = dependents
        self._is_served = is_served
        self._steps = Steps(name)

    def inherit(self) -> None:
        """An earlier daemon may have left it attached: undo() removes that in any case."""
        self._steps.on_undo(_KEYS, self._keys.drop)
        self._steps.on_undo(
            "what an earlier daemon attached",
            lambda: detach(self._rpc, name=self.name, device=self._device, served=self._is_served()),
        )

    @property
    def pending(self) -> bool:
        """Whether undo() has something to do."""
        return self._steps.pending

    async def undo(self) -> list[tuple[str, Exception]]:
        """Returns what could not be undone. Idempotent."""
        return await self._steps.undo()

    async def stands(self) -> bool:
        """Whether the target still has what attach() made. Raises TargetError."""
        return await attached_as(self._rpc, name=self.name, device=self._device)

    async def taken_away(self) -> None:
        """Somebody removed the bdev, and with it what was built on it."""
        await self._dependents.attached_anew()

    async def require_unused(self) -> None:
        """Raises ClaimedError if somebody in the target uses the bdev."""
        bdev = await find_bdev(self._rpc, self.name)
        if bdev is not None and bdev.claimed and await attached_as(self._rpc, name=self.name, device=self._device):
            await require_unclaimed(self._rpc, bdev, "FTL bdev")

    async def attach(self, front: Front) -> Attachment:
        """Attaches an export that is open, and takes over what the target still has of it. A bdev that the target
        attached too early is attached again, so that the target examines it again; unless somebody has claimed it
        meanwhile, who would lose it. Raises RefusedPathError and other TargetErrors."""
        transport = front.transport
        if front.came_early and await detach_unclaimed(
            self._rpc, name=self.name, device=self._device, served=self._is_served()
        ):
            log.warning(
                "%s: the target at %s had attached it by itself, before its base existed: the daemon attaches it again",
                self.name,
                self._rpc.address,
            )
        front.came_early = False
        return await attach(
            self._rpc,
            self._steps,
            name=self.name,
            device=self._device,
            path=transport.path,
            alive=transport.alive,
            hostnqn=self._admission.target_nqn,
            share_keys=lambda: self._share_keys() if transport.name is TransportName.TCP else self._renew(transport),
            served=self._is_served,
        )

    async def _renew(self, transport: Transport) -> None:
        """There are no keys: whoever can open the endpoint's socket is the target, because only this user and root
        can."""
        await self._dependents.attached_anew()
        try:
            await transport.renew()
        except FtlError as error:
            raise TargetError(f"{self.name} is not attached: {error.message}", errno=error.errno) from error

    async def _share_keys(self) -> KeyPair | None:
        """Call it before the target is attached. Raises TargetError."""
        await self._dependents.attached_anew()
        pair = await self._steps.run(_KEYS, self._keys.share(), self._keys.drop)
        try:
            self._admission.set_target_keys(self._keys.shared)
        except FtlError as error:
            # Otherwise the next daemon would refuse the target, or not authenticate it.
            raise TargetError(f"{self.name} is not attached: {error.message}", errno=error.errno) from error
        return pair
