"""The RPCs about exports: hosts, listeners, NBD; to be awaited. Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from .parameters import given

if TYPE_CHECKING:
    from ..results import Hosts, NbdExport
    from .parameters import StrPath


class AsyncExportRpcs(ABC):
    """The methods of AsyncDaemonRpcs for exports."""

    @abstractmethod
    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of any RPC, by its name and parameters as JSON has them."""

    async def bdev_ftl_nbd_start(
        self,
        *,
        name: str,
        socket_path: StrPath,
        read_only: bool = False,
        follow: bool = False,
        target: StrPath | None = None,
    ) -> NbdExport:
        """Serve an FTL bdev over NBD, at a unix socket, until bdev_ftl_nbd_stop, or until the FTL or the daemon ends.

        name: Name of the FTL bdev
        socket_path: Unix socket to create, with mode 0600. It replaces a socket at that path on which no process
            listens
        read_only: Refuse writes, trims and write zeroes
        follow: End the export when the process that calls this RPC ends
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns the export, which serves clients from now on.
        Raises FtlError: -19 no FTL of that name; -16 the FTL is not loaded yet, has failed or is being deleted, or a
        process listens at the path; -17 the FTL is already served, or the path is a file; -36 the path is too long; -3
        the daemon can't see the calling process; -1, -2, -13, -20 the path can't be used; -108 the daemon is halting.
        Nothing is left then.
        """
        params = given(
            name=name, socket_path=socket_path, read_only=read_only or None, follow=follow or None, target=target
        )
        return cast("NbdExport", await self.call("bdev_ftl_nbd_start", params))

    async def bdev_ftl_nbd_stop(
        self,
        *,
        name: str,
        target: StrPath | None = None,
    ) -> bool:
        """End the NBD export of an FTL bdev: disconnect its clients, and remove its socket.

        name: Name of the FTL bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name, or it is not served by NBD; -16 the clients' I/O did not end in time.
        The export has ended even so.
        """
        params = given(name=name, target=target)
        return cast("bool", await self.call("bdev_ftl_nbd_stop", params))

    async def bdev_ftl_nbd_get(
        self,
        *,
        name: str | None = None,
        target: StrPath | None = None,
    ) -> list[NbdExport]:
        """List the NBD exports of FTL bdevs. An export that has ended by itself is listed with the reason.

        name: Name of one FTL bdev (default: all)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, only the FTLs
            of that target

        Returns the exports of all FTLs, or of the one that is named.
        Raises FtlError: -19 no FTL of that name.
        """
        params = given(name=name, target=target)
        return cast("list[NbdExport]", await self.call("bdev_ftl_nbd_get", params))

    async def bdev_ftl_add_host(
        self,
        *,
        name: str,
        host: str,
        dhchap_key: StrPath | None = None,
        dhchap_ctrlr_key: StrPath | None = None,
        psk: StrPath | None = None,
        target: StrPath | None = None,
    ) -> bool:
        """Let a host connect to the export of an FTL bdev.

        name: Name of the FTL bdev
        host: NQN of the host, as in its /etc/nvme/hostnqn
        dhchap_key: File with the host's DH-HMAC-CHAP key in the form DHHC-1:hh:BASE64:, with mode 0600, owned by the
            daemon's user. The daemon reads it at each connection, so a new key is used from the next connection on
            (default: no authentication)
        dhchap_ctrlr_key: File with the DH-HMAC-CHAP key that authenticates the export to hosts that ask for it. Same
            form as dhchap_key, and only together with that
        psk: File with the host's TLS key in the form NVMeTLSkey-1:hh:BASE64:, with mode 0600, owned by the daemon's
            user. The daemon reads it at each connection. The host must use TLS 1.3 with this key (default: no TLS)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True, once the state file has it.
        Raises FtlError: -19 no FTL of that name; -17 it is allowed already; -32602 not an NQN; -16 the FTL is being
        deleted, or 256 hosts are allowed; -28 the state directory is full; -108 the daemon is halting. Nothing has
        changed then.
        """
        params = given(
            name=name, host=host, dhchap_key=dhchap_key, dhchap_ctrlr_key=dhchap_ctrlr_key, psk=psk, target=target
        )
        return cast("bool", await self.call("bdev_ftl_add_host", params))

    async def bdev_ftl_remove_host(
        self,
        *,
        name: str,
        host: str,
        target: StrPath | None = None,
    ) -> bool:
        """Remove a host from the list of hosts that may connect to the export of an FTL bdev, and end its connections.

        name: Name of the FTL bdev
        host: NQN of the host
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True, once no I/O of that host is outstanding.
        Raises FtlError: -19 no FTL of that name, or that host is not in its list; -16 it is the target itself, or the
        FTL is being deleted; -28 the state directory is full; -108 the daemon is halting.
        """
        params = given(name=name, host=host, target=target)
        return cast("bool", await self.call("bdev_ftl_remove_host", params))

    async def bdev_ftl_allow_any_host(
        self,
        *,
        name: str,
        allow_any_host: bool,
        target: StrPath | None = None,
    ) -> bool:
        """Let any host connect to the export of an FTL bdev, or only the hosts in its list.

        name: Name of the FTL bdev
        allow_any_host: Whether any host may connect. If false, connections of hosts that are not in the list end
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name; -16 the FTL is being deleted; -28 the state directory is full; -108
        the daemon is halting.
        """
        params = given(name=name, allow_any_host=allow_any_host, target=target)
        return cast("bool", await self.call("bdev_ftl_allow_any_host", params))

    async def bdev_ftl_add_listener(
        self,
        *,
        name: str,
        listen_address: str,
        ana_state: Literal["optimized", "non_optimized", "inaccessible"] | None = None,
        target: StrPath | None = None,
    ) -> str:
        """Export an FTL bdev at an additional address, for multipath hosts.

        name: Name of the FTL bdev
        listen_address: ADDRESS[:PORT] of the new listener (default port: a free one)
        ana_state: ANA state of the listener (default: optimized)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns the ADDRESS:PORT of the listener.
        Raises FtlError: -19 no FTL of that name; -17 the listener exists already; -98 the address is in use; -99 it is
        not an address of this machine; -16 the FTL has no export yet, has 16 listeners, or is being deleted; -28 the
        state directory is full; -108 the daemon is halting. Nothing has changed then.
        """
        params = given(name=name, listen_address=listen_address, ana_state=ana_state, target=target)
        return cast("str", await self.call("bdev_ftl_add_listener", params))

    async def bdev_ftl_remove_listener(
        self,
        *,
        name: str,
        listen_address: str,
        target: StrPath | None = None,
    ) -> bool:
        """Remove a listener of the export of an FTL bdev, and end the connections at its address.

        name: Name of the FTL bdev
        listen_address: ADDRESS:PORT of the listener
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True, once no I/O of hosts that came through it is outstanding.
        Raises FtlError: -19 no FTL of that name, or no such listener; -32602 the FTL was created with this listener;
        -16 the FTL is being deleted; -28 the state directory is full; -108 the daemon is halting.
        """
        params = given(name=name, listen_address=listen_address, target=target)
        return cast("bool", await self.call("bdev_ftl_remove_listener", params))

    async def bdev_ftl_set_ana_state(
        self,
        *,
        name: str,
        listen_address: str,
        ana_state: Literal["optimized", "non_optimized", "inaccessible"],
        target: StrPath | None = None,
    ) -> bool:
        """Set the ANA state of a listener of the export of an FTL bdev.

        name: Name of the FTL bdev
        listen_address: ADDRESS:PORT of the listener
        ana_state: New ANA state. Hosts prefer optimized listeners; I/O through an inaccessible one fails with 03/02h
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True, once no new I/O through an inaccessible listener is accepted.
        Raises FtlError: -19 no FTL of that name, or no such listener; -16 the target has the FTL attached there, or the
        FTL is being deleted; -28 the state directory is full; -108 the daemon is halting.
        """
        params = given(name=name, listen_address=listen_address, ana_state=ana_state, target=target)
        return cast("bool", await self.call("bdev_ftl_set_ana_state", params))

    async def bdev_ftl_get_hosts(
        self,
        *,
        name: str,
        target: StrPath | None = None,
    ) -> Hosts:
        """List the hosts of an FTL bdev: those that may connect, are connected, were refused, or have left.

        name: Name of the FTL bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns the hosts that may connect, are connected, were refused, or have left.
        Raises FtlError: -19 no FTL of that name.
        """
        params = given(name=name, target=target)
        return cast("Hosts", await self.call("bdev_ftl_get_hosts", params))
