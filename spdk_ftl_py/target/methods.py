"""The table of RPC methods: name, parameters, how a bad parameter is answered, and whether it may run beside others."""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import JSONRPC_INTERNAL_ERROR, JSONRPC_INVALID_PARAMS
from .decode import DecodeError, Fields
from .jsonrpc import RpcError

if TYPE_CHECKING:
    from .app import Target

Params = dict[str, Any]
Handler = Callable[["Target", Params], Awaitable[Any]]

# How SPDK answers parameters it can't decode: it differs from method to method.
DECODE_FAILED = (JSONRPC_INTERNAL_ERROR, "spdk_json_decode_object failed")
INVALID_PARAMETERS = (JSONRPC_INVALID_PARAMS, "Invalid parameters")


@dataclass(frozen=True)
class Method:
    name: str
    handler: Handler
    fields: Fields
    decode_error: tuple[int, str]
    takes_params: bool
    exclusive: bool


OWN_PREFIX = "ftltgt_"
"""Of methods that SPDK does not have: they say which parameter is wrong, and why."""

METHODS: dict[str, Method] = {}


def rpc(
    name: str, fields: Fields | None = None, *, decode_error: tuple[int, str] = DECODE_FAILED, exclusive: bool = True
) -> Callable[[Handler], Handler]:
    """Registers a handler. fields None: the method takes no params at all. exclusive: one at a time with all others
    that change the target; only methods that look or wait run beside them."""

    def register(handler: Handler) -> Handler:
        METHODS[name] = Method(name, handler, fields or Fields(), decode_error, fields is not None, exclusive)
        return handler

    return register


def decode_params(method: Method, params: Any) -> Params:
    """Raises RpcError with what SPDK would answer."""
    if not method.takes_params:
        if params is not None:
            raise RpcError(JSONRPC_INVALID_PARAMS, f"{method.name} requires no parameters")
        return {}
    try:
        return method.fields.decode(params)
    except DecodeError as error:
        if method.name.startswith(OWN_PREFIX):
            raise refused(f"{method.name}: {error}") from error
        code, message = method.decode_error
        raise RpcError(code, message) from error


def failed(number: int) -> RpcError:
    """-errno with its usual text, which is all SPDK says."""
    return RpcError(-number, os.strerror(number))


def refused(message: str, number: int = _errno.EINVAL) -> RpcError:
    """For our own methods, which may say what is wrong."""
    return RpcError(-number, message)


def invalid_parameters() -> RpcError:
    return RpcError(*INVALID_PARAMETERS)


EINVAL = _errno.EINVAL
ENOMEM = _errno.ENOMEM
EAGAIN = _errno.EAGAIN
EBUSY = _errno.EBUSY
ENODEV = _errno.ENODEV
EEXIST = _errno.EEXIST
EIO = _errno.EIO
EALREADY = _errno.EALREADY
ENXIO = _errno.ENXIO
ENOTSUP = _errno.ENOTSUP
