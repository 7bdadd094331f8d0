"""Which hosts use TLS, and with which key: the target's side of a secure channel (TCP Transport 1.1, section 3.6).

A host with a PSK must use TLS. The identity of its PSK binds it: its Connect must name the same host and the same
subsystem, or it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...errors import ParameterError
from ...text import show_name
from .. import wire
from ..auth.psk import PskIdentity, TlsPsk
from ..tcp import Connection
from ..tls import TlsError
from .allowed_hosts import AllowedHost
from .subsystem import Subsystem


@dataclass(frozen=True)
class SecureChannel:
    """One connection with TLS, whose host has shown that it has the key."""

    hostnqn: str
    subnqn: str
    cipher: str


class SecureChannelError(TlsError):
    """The handshake of a host has failed. ``hostnqn``: whose key it named; empty: nobody's."""

    def __init__(self, message: str, hostnqn: str) -> None:
        super().__init__(message)
        self.hostnqn = hostnqn


async def open_secure_channel(
    connection: Connection, subsystems: Callable[[], list[Subsystem]]
) -> SecureChannel | None:
    """The channel of a new connection to a listener of these subsystems, or of their discovery; None: no TLS.

    Raises SecureChannelError, PathError, ProtocolError; UnsupportedError if this build has no TLS.
    """
    if not await connection.begins_with_tls():
        return None
    search = _Search(subsystems())
    try:
        identity = PskIdentity.parse((await connection.start_tls_as_controller(search.find)).encode())
    except TlsError as error:
        raise SecureChannelError(search.why or error.message, search.hostnqn) from error
    assert identity is not None
    assert connection.tls is not None
    return SecureChannel(identity.hostnqn, identity.subnqn, connection.tls.cipher)


class _Search:
    """Finds the key of an identity, or the reason why there is none."""

    def __init__(self, subsystems: list[Subsystem]) -> None:
        self.hostnqn = ""
        self.why = ""
        self._subsystems = subsystems

    def find(self, raw: bytes) -> tuple[bytes, bool] | None:
        identity = PskIdentity.parse(raw)
        if identity is None:
            self.why = f"TLS: its PSK identity is not an NVMe one: {show_name(raw.decode(errors='replace'))}"
            return None
        self.hostnqn = identity.hostnqn
        self.why = "TLS: it has no PSK here"
        for subsystem in self._subsystems:
            # Discovery accepts any key that the host has here.
            if identity.subnqn not in (subsystem.nqn, wire.DISCOVERY_NQN):
                continue
            host = subsystem.admit(identity.hostnqn)
            found = None if host is None or host.psk is None else self._derive(host, identity, raw)
            if found is not None:
                self.why = ""
                return found.key, found.sha384
        return None

    def _derive(self, host: AllowedHost, identity: PskIdentity, raw: bytes) -> TlsPsk | None:
        assert host.psk is not None
        try:
            psk = host.psk.load().for_tls(identity.hostnqn, identity.subnqn, identity.version)
        except ParameterError as error:
            self.why = f"TLS: {error.message}"
            return None
        if psk.identity.encode() != raw:
            self.why = "TLS: it has another PSK"
            return None
        return psk


def refusal_of(
    channel: SecureChannel | None, subsystem: Subsystem, host: AllowedHost, address: tuple[str, int]
) -> str | None:
    """Why that host may not connect to that subsystem through this connection; None: it may."""
    if channel is not None:
        if channel.hostnqn != host.nqn:
            return f"it used TLS with the PSK of host {show_name(channel.hostnqn)}"
        if channel.subnqn != subsystem.nqn:
            return f"it used TLS with a PSK for {show_name(channel.subnqn)}"
        return None
    if host.psk is not None:
        return "it has a PSK, but connected without TLS: hosts with a PSK must use TLS"
    if address in subsystem.secure_listeners and not host.is_target:
        return "it connected without TLS, which is required here (secure channel): give it a PSK"
    return None


def may_discover(
    channel: SecureChannel | None, subsystems: Iterable[Subsystem], hostnqn: str, address: tuple[str, int]
) -> bool:
    """Whether that host may use discovery through this connection."""
    if channel is not None:
        return (channel.hostnqn, channel.subnqn) == (hostnqn, wire.DISCOVERY_NQN)
    return not any(address in subsystem.secure_listeners for subsystem in subsystems)
