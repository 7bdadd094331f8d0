"""The host side of DH-HMAC-CHAP on one queue. The host proves its identity, and if required the controller does,
too."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Final

from ...errors import AuthenticationError
from .. import wire
from ..auth.host_side import HostAuthentication, RefusedError
from ..auth.key import HostKeys
from ..auth.messages import MESSAGE_BYTES_MAX, MessageError
from ..auth.response import Policy, Sequence
from ..wire import AdminOp, CommandError, FabricsType, Sqe

_SEQUENCE: Final = Sequence()
_TIDS: Final = itertools.count(1)

Submit = Callable[[Sqe, bytes, int], Awaitable[bytes]]
"""Takes a command, the data to send, and the room for received data. Returns the received data. Raises CommandError,
PathError, ProtocolError."""


def wants_authentication(connect_result: int, keys: HostKeys | None) -> bool:
    """Whether to authenticate: the controller requires it, or has to prove its identity to us."""
    required = connect_result & (wire.CONNECT_ATR | wire.CONNECT_ASCR)
    return bool(required) or (keys is not None and keys.ctrlr_key is not None)


async def authenticate(
    submit: Submit, keys: HostKeys | None, *, connect_result: int, hostnqn: str, subnqn: str, policy: Policy | None
) -> None:
    """Authenticates after Connect. Raises AuthenticationError if one side does not prove its identity, ParameterError
    if a key cannot be read, and what submit() raises. The queue cannot be used after an error."""
    if connect_result & wire.CONNECT_ASCR:
        raise AuthenticationError(
            f"{subnqn} requires a secure channel derived from the authentication, which is not supported"
        )
    if keys is None:
        raise AuthenticationError(
            f"{subnqn} requires authentication of host {hostnqn}: give the key that it has for this host"
        )
    side = HostAuthentication(
        keys.key.load(), None if keys.ctrlr_key is None else keys.ctrlr_key.load(), tid=next(_TIDS) & 0xFFFF,
        hostnqn=hostnqn, subnqn=subnqn, sequence=_SEQUENCE, policy=policy,
    )  # fmt: skip
    try:
        await _send(submit, side.negotiate())
        await _send(submit, side.reply(await _receive(submit)))
        last = side.finish(await _receive(submit))
    except RefusedError as error:
        raise AuthenticationError(
            f"{subnqn}: {error.message}: check that both have the same keys for host {hostnqn}"
        ) from error
    except MessageError as error:
        await _send(submit, side.failure2(error))
        raise AuthenticationError(f"{subnqn} did not authenticate: {error.message}") from error
    except CommandError as error:
        if connect_result & wire.CONNECT_ATR:
            raise
        raise AuthenticationError(
            f"{subnqn} did not authenticate, because it does not support authentication: {error}"
        ) from error
    if last is not None:
        await _send(submit, last)


async def _send(submit: Submit, message: bytes) -> None:
    await submit(_command(FabricsType.AUTHENTICATION_SEND, len(message)), message, 0)


async def _receive(submit: Submit) -> bytes:
    return await submit(_command(FabricsType.AUTHENTICATION_RECEIVE, MESSAGE_BYTES_MAX), b"", MESSAGE_BYTES_MAX)


def _command(kind: FabricsType, length: int) -> Sqe:
    return Sqe(AdminOp.FABRICS, nsid=kind, cdw10=wire.AUTH_FIELDS, cdw11=length)
