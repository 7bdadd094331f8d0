"""Who may connect to an FTL's export: the SPDK target that has it as a bdev, hosts that its user names, or any host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from ..errors import BusyError, FtlError, ParameterError
from ..nvme.auth.key import HostKeys
from ..nvme.auth.psk import PskSource
from ..nvme.target.allowed_hosts import AllowedHost, AllowedHosts, psk_from_file, usable_keys, usable_psk
from ..nvme.target.connection_log import ConnectionLog
from ..nvme.tls import require_tls
from ..spdk.attach import new_target_nqn, standing_hostnqn
from ..spdk.rpc import TargetRpc
from ..text import show_name
from .requests import FtlOptions, HostOptions

log = logging.getLogger(__name__)


class Admission:
    """The admission of one FTL, for as long as the daemon has it. Every change is saved before it takes effect. The
    caller disconnects hosts that may no longer be connected."""

    def __init__(
        self,
        options: FtlOptions,
        hosts: HostOptions,
        record: object,
        *,
        inherited: bool,
        target_keys: HostKeys | None,
        save: Callable[[], object],
    ) -> None:
        """hosts: for a new FTL. record: the result of to_record() in an earlier daemon; None: the FTL is new, or that
        daemon had no list. inherited: the target may already have attached the FTL. target_keys: the keys of a target
        that is attached again, until set_target_keys() sets others. save: raises FtlError.

        Raises ParameterError, ExistsError, BusyError or ValueError for invalid hosts, for too many hosts, and for key
        files that cannot be used.
        """
        self._name = options.name
        self._target = options.target
        self._attaches = not options.no_attach
        self._target_keys = target_keys
        self._target_psk: PskSource | None = None
        self._save = save
        self.connections = ConnectionLog(self._name, remedy=self._remedy)
        self.secure_channel = options.secure_channel
        """Only the target itself may connect without TLS."""
        if record is not None:
            # An FTL from a saved configuration admits the target later: settle_target().
            self._target_psk = psk_from_file(options.target_psk)
            self.allowed = AllowedHosts.from_record(record)
            return
        if self.secure_channel:
            require_tls()
        keys, psk = usable_keys(hosts.dhchap_key, hosts.dhchap_ctrlr_key), usable_psk(hosts.psk)
        for what, given in (("dhchap_key", keys), ("psk", psk)):
            if given is not None and not hosts.hosts:
                raise ParameterError(
                    f"{what} applies to the hosts given with --host, and none is given: add --host, or leave {what} out"
                )
        self._target_psk = usable_psk(options.target_psk)
        self.allowed = AllowedHosts(allow_any_host=hosts.allow_any_host)
        # A target that is already connected keeps its host NQN: settle_target().
        if self._attaches and not inherited:
            self.allowed.add(
                AllowedHost(new_target_nqn(), is_target=True, keys=self._target_keys, psk=self._target_psk)
            )
        for nqn in hosts.hosts:
            self.allowed.add(AllowedHost(nqn, keys=keys, psk=psk))

    def _remedy(self, host: str) -> str:
        return f"; `spdk-ftl add-host -b {self._name} --host '{host}'` allows it"

    @property
    def admits_hosts(self) -> bool:
        """Others than the target itself may connect."""
        return self.allowed.allow_any_host or any(not host.is_target for host in self.allowed.hosts)

    @property
    def target_nqn(self) -> str:
        """The host NQN under which the target attaches the FTL. Valid after settle_target()."""
        assert self.allowed.target is not None
        return self.allowed.target.nqn

    def renamed(self, name: str) -> None:
        """The FTL has a new name: log lines about its hosts use it from now on."""
        self._name = self.connections.name = name

    def is_target(self, hostnqn: str) -> bool:
        """Whether hostnqn is the host NQN under which the target attaches the FTL."""
        return self.allowed.is_target(hostnqn)

    async def settle_target(self, rpc: TargetRpc, device: UUID) -> None:
        """Determines the target's host NQN; call it before hosts are admitted. Older daemons let the target choose the
        host NQN with which it attaches the FTL. A target that is attached keeps that NQN, so that users of the bdev are
        not disturbed. Raises TargetError."""
        if not self._attaches or self.allowed.target is not None:
            return
        nqn = await standing_hostnqn(rpc, name=self._name, device=device)
        if nqn is not None:
            if self.allowed.listed(nqn):
                self.allowed.remove(nqn)
            try:
                self.allowed.add(AllowedHost(nqn, is_target=True))
                return
            except ParameterError as error:
                log.warning("%s: the target's controller gets a new host NQN: %s", self._name, error.message)
        self.allowed.add(AllowedHost(new_target_nqn(), is_target=True, keys=self._target_keys, psk=self._target_psk))

    def set_target_keys(self, keys: HostKeys | None) -> None:
        """Sets the target's keys before it attaches the FTL. None: its NQN is enough. Raises what save raises; then
        nothing has changed."""
        target = self.allowed.target
        assert target is not None
        if keys != target.keys:
            self.allowed.set_keys(target.nqn, keys)
            self._save_or(lambda: self.allowed.set_keys(target.nqn, target.keys))

    # --- changes

    def add(
        self, nqn: str, dhchap_key: str | None = None, dhchap_ctrlr_key: str | None = None, psk: str | None = None
    ) -> None:
        """Allows a host. The keys are paths of key files. Raises ParameterError (also if a file holds no key),
        UnsupportedError for a PSK without TLS support, ExistsError, BusyError, or what save raises; then nothing has
        changed."""
        keys = usable_keys(dhchap_key, dhchap_ctrlr_key)
        self.allowed.add(AllowedHost(nqn, keys=keys, psk=usable_psk(psk)))
        self._save_or(lambda: self.allowed.remove(nqn))

    def remove(self, nqn: str) -> None:
        """Raises NotFoundError, BusyError, or what save raises; then nothing has changed."""
        target = self.allowed.target
        if target is not None and target.nqn == nqn:
            raise BusyError(
                f"host {show_name(nqn)} is the SPDK target at {self._target} itself, which has {self._name} as a "
                "bdev: to detach it, delete the FTL, and create it again with -u and --no-attach"
            )
        host = self.allowed.remove(nqn)
        self._save_or(lambda: self.allowed.add(host))

    def allow_any_host(self, allow: bool) -> None:
        """Raises what save raises; then nothing has changed."""
        before = self.allowed.allow_any_host
        self.allowed.allow_any_host = allow

        def back() -> None:
            self.allowed.allow_any_host = before

        self._save_or(back)

    def _save_or(self, undo: Callable[[], object]) -> None:
        try:
            self._save()
        except FtlError:
            undo()
            raise

    # --- descriptions

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""
        return {
            "allow_any_host": self.allowed.allow_any_host,
            "secure_channel": self.secure_channel,
            "hosts": [host.to_dict() for host in self.allowed.hosts],
        }

    def tell(self, controllers: list[dict[str, Any]]) -> dict[str, Any]:
        """For bdev_ftl_get_hosts."""
        return {
            "name": self._name,
            **self.describe(),
            "controllers": controllers,
            "refused": self.connections.refusals,
            "disconnected": self.connections.disconnected,
        }

    def to_record(self) -> dict[str, Any]:
        return self.allowed.to_record()
