"""Every error that this package raises on purpose: a message that names the thing, its fault and the remedy, an errno
for scripts, and a JSON-RPC code for the wire (SPDK's convention: -errno, or the -326xx of JSON-RPC itself)."""

from __future__ import annotations

import errno as _errno

JSONRPC_PARSE_ERROR = -32700
JSONRPC_INVALID_REQUEST = -32600
JSONRPC_METHOD_NOT_FOUND = -32601
JSONRPC_INVALID_PARAMS = -32602
JSONRPC_INTERNAL_ERROR = -32603
JSONRPC_INVALID_STATE = -1


class FtlError(Exception):
    """Base of all. ``errno`` is positive; ``code`` is what goes into a JSON-RPC error object."""

    errno: int = _errno.EIO
    code: int | None = None

    def __init__(self, message: str, *, errno: int | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if errno is not None:
            self.errno = errno
        if code is not None:
            self.code = code
        elif self.code is None or errno is not None:
            self.code = -self.errno

    @property
    def jsonrpc_code(self) -> int:
        """``code``, or -errno without one."""
        return self.code if self.code is not None else -self.errno

    def to_jsonrpc(self) -> dict[str, object]:
        """The error object of a reply."""
        return {"code": self.jsonrpc_code, "message": self.message}


class ParameterError(FtlError):
    """A parameter is missing, malformed or out of its bounds."""

    errno = _errno.EINVAL
    code = JSONRPC_INVALID_PARAMS


class ConfError(ParameterError):
    """An FtlConf breaks a rule, or can't work on this geometry."""


class TraceError(ParameterError):
    """The file of a trace can't be read, or is not what it should be."""


class GeometryError(FtlError):
    """The base bdev's zones can't carry an FTL."""

    errno = _errno.EINVAL


class NotFoundError(FtlError):
    """There is nothing with that name, uuid or number."""

    errno = _errno.ENODEV


class ExistsError(FtlError):
    """Something already has that name, or is already there."""

    errno = _errno.EEXIST


class ClaimedError(FtlError):
    """Somebody else has claimed the bdev."""

    errno = _errno.EPERM


class BusyError(FtlError):
    """It is being created, deleted or halted."""

    errno = _errno.EBUSY


class UnsupportedError(FtlError):
    """This package, or the other side, does not support that."""

    errno = _errno.ENOTSUP


class MediaError(FtlError):
    """The base or cache device answered with an NVMe error status."""

    errno = _errno.EIO

    def __init__(self, message: str, *, status: int = 0, errno: int | None = None) -> None:
        super().__init__(message, errno=errno)
        self.status = status


class MemoryShortError(FtlError):
    """Memory has run out. It may suffice later, when others have given some back."""

    errno = _errno.ENOMEM


class FlushDoubtError(MediaError):
    """A flush failed, and the content of the device's volatile cache may be lost, whatever a later flush returns."""


class RoomError(FtlError):
    """No band is free and none can be freed, although there are enough zones: the base has finished zones of bands that
    were counted on. A load of the FTL finds out which bands can be reset at once."""

    errno = _errno.EAGAIN


class FlushRefusedError(MediaError):
    """A device refuses flushes for good, so nothing on it is certain to be durable."""


class ProtocolError(FtlError):
    """A peer violated the protocol. The connection is closed."""

    errno = _errno.EPROTO


class PathError(FtlError):
    """An NVMe controller can't be reached, or the connection to it is gone."""

    errno = _errno.ENOTCONN


class AuthenticationError(FtlError):
    """This side, or the peer, did not authenticate. The connection is closed."""

    errno = _errno.EACCES


class NvmeStatusError(FtlError):
    """A controller completed a command with an error. ``status`` is SCT << 8 | SC."""

    errno = _errno.EIO

    def __init__(self, message: str, *, status: int, errno: int | None = None) -> None:
        super().__init__(message, errno=errno)
        self.status = status


class TargetError(FtlError):
    """The SPDK target can't be reached, or refused an RPC. ``rpc_code`` is the target's own code, if it gave one."""

    errno = _errno.EIO

    def __init__(self, message: str, *, rpc_code: int | None = None, errno: int | None = None) -> None:
        super().__init__(message, errno=errno)
        self.rpc_code = rpc_code


class DaemonError(FtlError):
    """The spdk-ftl daemon can't be reached, or the connection to it broke off."""

    errno = _errno.ECONNREFUSED


class NoDaemonError(DaemonError):
    """No daemon runs: nobody listens at its control socket."""
