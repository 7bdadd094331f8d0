"""The table of RPC methods: name, parameters, the answer to a bad parameter, and whether the method may run beside
others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..errors import JSONRPC_INVALID_PARAMS
from .decode import DecodeError, Fields, Params
from .jsonrpc import RpcError
from .refusals import DECODE_FAILED, refused
from .state import TargetState

Handler = Callable[[TargetState, Params], Awaitable[Any]]


@dataclass(frozen=True)
class Method:
    name: str
    handler: Handler
    fields: Fields
    decode_error: tuple[int, str]
    takes_params: bool
    exclusive: bool


OWN_PREFIX = "ftltgt_"
"""The prefix of methods that SPDK does not have. Their errors say which parameter is wrong, and why."""

METHODS: dict[str, Method] = {}


def rpc(
    name: str, fields: Fields | None = None, *, decode_error: tuple[int, str] = DECODE_FAILED, exclusive: bool = True
) -> Callable[[Handler], Handler]:
    """Registers a handler. fields None: the method takes no params at all. exclusive: the method changes the target, so
    only one such method runs at a time. Methods that only read or wait run beside it."""

    def register(handler: Handler) -> Handler:
        METHODS[name] = Method(name, handler, fields or Fields(), decode_error, fields is not None, exclusive)
        return handler

    return register


def decode_params(method: Method, params: Any) -> Params:
    """Decodes params. Raises RpcError with SPDK's answer."""
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
