"""Authentication of the host of a queue: Authentication Send and Receive (Base 2.0 sections 6.1, 6.2). Until it has
succeeded, the host may do nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from ...errors import ProtocolError
from .. import wire
from ..auth.controller_side import ControllerAuthentication
from ..auth.key import HostKeys
from ..auth.messages import MESSAGE_BYTES_MAX, AuthId, AuthType
from ..auth.response import Policy, Sequence
from ..wire import AdminOp, FabricsType, Sqe, Status
from .capsule import TRANSFERS_MAX, CapsuleQueue, Command, Completion
from .peers import address_of

REFUSED_COMMANDS_MAX: Final = 16
"""Other commands that a host may send before it is authenticated; then its connection ends."""
DH_SHARE: Final = 0.25
"""The largest part of the event loop's time for calculations in DH groups, because anybody who names a host can cause
them."""
_NEGOTIATE: Final = bytes((AuthType.COMMON, AuthId.NEGOTIATE))
_Result = TypeVar("_Result")


class UnprovenHostError(ProtocolError):
    """The host did not authenticate. It has been told, and its connection ends."""

    def __init__(self, hostnqn: str, reason: str) -> None:
        super().__init__(f"it did not authenticate: {reason}")
        self.hostnqn = hostnqn


class DhTurns:
    """Calculations in DH groups, one after the other, with pauses in which everything else continues."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._peers: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._free_at = 0.0

    async def run(self, peer: Hashable, work: Callable[[], _Result]) -> _Result:
        """peer: a peer that has begun many authentications waits for itself; others wait for one of them only."""
        peer_turn = self._peers.setdefault(peer, asyncio.Lock())
        async with peer_turn, self._lock:
            await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))
            begun = time.monotonic()
            try:
                return work()
            finally:
                took = time.monotonic() - begun
                self._free_at = begun + took / DH_SHARE


class AuthenticationContext:
    """Shared by all queues of a target."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.sequence = Sequence()
        self.turns = DhTurns()


def is_authentication(sqe: Sqe) -> bool:
    return sqe.opcode == AdminOp.FABRICS and sqe.fctype in (
        FabricsType.AUTHENTICATION_SEND,
        FabricsType.AUTHENTICATION_RECEIVE,
    )


class QueueAuthentication:
    """The authentication of one queue. The host may authenticate again later; the latest result counts."""

    def __init__(
        self, queue: CapsuleQueue, context: AuthenticationContext, keys: Callable[[], HostKeys | None], *,
        hostnqn: str, subnqn: str, required: bool,
    ) -> None:  # fmt: skip
        """keys: of this host now; None: it has none (any more). required: as in the answer to Connect."""
        self.done = not required
        self.how = ""
        """How the host has authenticated, for RPCs."""
        self._queue = queue
        self._context = context
        self._keys = keys
        self._hostnqn = hostnqn
        self._subnqn = subnqn
        self._current: ControllerAuthentication | None = None
        self._refused = 0
        # A host that is not authenticated gets memory for one message.
        queue.transfers_max = 1 if required else TRANSFERS_MAX

    async def run(self) -> None:
        """Serves the queue until the host is authenticated. Raises UnprovenHostError, PduError, PathError."""
        while not self.done:
            await self.answer(await self._queue.receive())

    async def answer(self, command: Command) -> None:
        """Completes a command: Authentication Send or Receive, or any other that arrives too early. Raises
        UnprovenHostError after the answer if the authentication has failed."""
        if not is_authentication(command.sqe):
            self._refused += 1
            await self._queue.complete(command.sqe, Completion(Status.AUTHENTICATION_REQUIRED))
            if self._refused > REFUSED_COMMANDS_MAX:
                raise UnprovenHostError(self._hostnqn, "it sent other commands instead")
            return
        completion = command.early if command.early is not None else await self._exchange(command)
        current = self._current
        if current is not None and current.failed:
            await self._queue.complete(command.sqe, completion)
            raise UnprovenHostError(self._hostnqn, current.failure)
        if current is not None and current.done and not self.done:
            # Before the answer: the next command may arrive as soon as the host has read it.
            self.done = True
            both = "both ways" if current.mutual else "one way"
            self.how = f"{current.hash_id.name.lower()}, {current.dh_group.name.lower()}, {both}"
            self._queue.transfers_max = TRANSFERS_MAX
        await self._queue.complete(command.sqe, completion)

    async def _exchange(self, command: Command) -> Completion:
        if self.done and self._keys() is None:
            return Completion(Status.INVALID_OPCODE)
        sqe, sending = command.sqe, command.sqe.fctype == FabricsType.AUTHENTICATION_SEND
        length = len(command.data) if sending else sqe.sgl_bytes
        if (
            sqe.cdw10 & wire.AUTH_FIELDS_MASK != wire.AUTH_FIELDS
            or sqe.cdw11 != length
            or not 0 < length <= (MESSAGE_BYTES_MAX if sending else wire.ADMIN_DATA_MAX)
        ):
            return Completion(Status.INVALID_FIELD)
        message = bytes(command.data)
        current = self._find(again=sending and self.done and message[:2] == _NEGOTIATE)
        if sending:
            await self._calculate(current, message, lambda: current.send(message))
            return Completion()
        answer = await self._calculate(current, None, current.receive)
        if len(answer) > length:
            raise UnprovenHostError(
                self._hostnqn, f"its buffer of {length} bytes is too small for a message of {len(answer)}"
            )
        return Completion(data=answer.ljust(length, b"\0"))

    def _find(self, *, again: bool) -> ControllerAuthentication:
        if self._current is None or again:
            keys = self._keys()
            if keys is None:
                raise UnprovenHostError(self._hostnqn, "its key has been removed")
            self._current = ControllerAuthentication(
                keys, hostnqn=self._hostnqn, subnqn=self._subnqn, sequence=self._context.sequence,
                policy=self._context.policy,
            )  # fmt: skip
        return self._current

    async def _calculate(
        self, current: ControllerAuthentication, message: bytes | None, work: Callable[[], _Result]
    ) -> _Result:
        if not current.expensive(message):
            return work()
        peer = address_of(self._queue.connection.peer_address[0]), self._hostnqn
        return await self._context.turns.run(peer, work)
