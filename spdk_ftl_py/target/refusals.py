"""Errors of RPCs, with SPDK's codes and texts."""

from __future__ import annotations

import errno as _errno
import os

from ..errors import JSONRPC_INTERNAL_ERROR, JSONRPC_INVALID_PARAMS, JSONRPC_PARSE_ERROR
from .jsonrpc import RpcError

EINVAL = _errno.EINVAL
ENOMEM = _errno.ENOMEM
EAGAIN = _errno.EAGAIN
EBUSY = _errno.EBUSY
ENODEV = _errno.ENODEV
ENOENT = _errno.ENOENT
EEXIST = _errno.EEXIST
EIO = _errno.EIO
EALREADY = _errno.EALREADY
ENXIO = _errno.ENXIO
ENOTSUP = _errno.ENOTSUP

# SPDK's answer to parameters that it cannot decode. It differs from method to method.
DECODE_FAILED = (JSONRPC_INTERNAL_ERROR, "spdk_json_decode_object failed")
NOT_PARSED = (JSONRPC_PARSE_ERROR, DECODE_FAILED[1])
INVALID_PARAMETERS = (JSONRPC_INVALID_PARAMS, "Invalid parameters")


def failed(number: int) -> RpcError:
    """An error with code -errno and its usual text, which is all that SPDK reports."""
    return RpcError(-number, os.strerror(number))


def refused(message: str, number: int = _errno.EINVAL) -> RpcError:
    """An error of our own methods, which may say what is wrong."""
    return RpcError(-number, message)


def invalid_parameters() -> RpcError:
    return RpcError(*INVALID_PARAMETERS)
