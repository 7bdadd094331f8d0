"""The parts of an FTL in the daemon, and its state. The FTL's life is in device.py, reloading.py and waiting.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from ..conf import FtlConf
from ..errors import FlushDoubtError, FtlError, ParameterError
from ..ftl.device import FtlDevice
from ..ignored_settings import drop_ignored
from ..nvme.target.connected_hosts import ConnectedHosts, HostKey
from ..nvme.target.reservation_file import ReservationFile
from ..nvme.target.reservations import Reservations
from ..nvme.target.subsystem import Subsystem
from ..nvme.target.traits import TargetLimits
from ..runtime.reactor import ReactorLoop
from ..spdk.attach import Attachment
from ..text import show_names
from ..vfio_user.target.listener import VfioUserListener
from .admission import Admission
from .attaching import KeptBdev
from .base import BaseLink, DaemonIdentity, DeferredError
from .base_search import BaseSearch
from .base_watch import BaseWatch
from .changes import Changes
from .checks import split_address
from .dependents import Dependents
from .ending import HaltLimit
from .export_nqn import export_nqn
from .failed_flushes import FailedFlushes
from .front import Export, Front
from .ftl_maker import FtlMaker
from .listeners import Listeners
from .load_turns import LoadTurn
from .requests import FtlOptions, HostOptions
from .session_keys import SessionKeys, psk_path
from .states import DeviceState
from .target_bdev import TargetBdev
from .transports import Choice, TransportName
from .vfio_user_export import Listener, end_keeper, endpoint_of

VFIO_USER_LIMITS: Final = TargetLimits(max_io_bytes=131072, in_capsule_bytes=0, max_queue_depth=256, max_io_qpairs=127)
"""Of the controller at an endpoint. 256 is the depth that SPDK's bdev_nvme asks for."""

HOLD_LOOK_S: Final = 1.0
"""How often a load is looked at for whose sake host I/O is held beyond the time limit."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What this daemon knows about an FTL at its start, beside the parameters."""

    uuid: UUID | None = None
    """None: the UUID in the parameters, or a new one."""
    loads: bool = False
    """The FTL already exists on media."""
    export: Export | None = None
    """The export at which hosts look for the FTL."""
    hosts: object = None
    """Hosts that were connected. This field, allowed and dependents are in the form of record()."""
    allowed: object = None
    """Hosts that may connect."""
    dependents: object = None
    """Objects that are built on the FTL in the target."""
    listeners: object = None
    """Those besides the first one, and ANA states."""
    transport: object = None
    """How the target reaches it, if an earlier daemon has chosen that."""
    inherited: bool = False
    """An earlier daemon had this FTL. What that daemon made in the target may still exist."""
    life: int = 0
    """The number of the last incarnation."""


class DeviceParts:
    """An FTL as requested with bdev_ftl_create. The params are validated, with defaults filled in."""

    def __init__(self, params: dict[str, Any], identity: DaemonIdentity, origin: Origin) -> None:
        """Raises ConfError or ParameterError if params break a rule that needs no target."""
        self.params = params
        """The parameters of bdev_ftl_create, as the state file and clients see them. set_params() changes them together
        with options."""
        self.life_seen = origin.life
        asked = HostOptions.taken_from(params)
        self.options = options = FtlOptions.of(params)
        self.name, self.target = options.name, options.target
        for line in drop_ignored(params):
            log.warning("FTL bdev %s: %s", self.name, line)
        # As in 2020's rpc.py, the nil UUID means "a new one".
        self.uuid = origin.uuid or options.loads_uuid or uuid4()
        self.loads = origin.loads or (origin.uuid is None and options.loads_uuid is not None)
        """The FTL is on the base, and is loaded from there. False: the daemon creates it."""
        self.conf = FtlConf.from_dict(options.settings)
        self.conf.check()
        if options.without_cache and options.cache:
            raise ParameterError("without_cache gives the nv cache up: leave out the cache bdev")
        if options.without_cache and not self.loads:
            raise ParameterError("without_cache loads an FTL that has an nv cache: give the uuid of that FTL")
        self.no_data = options.no_data
        """The FTL keeps no data, so it is never loaded."""
        if self.no_data and self.loads:
            raise ParameterError("no_data creates an FTL that can't be loaded again: leave out the uuid")
        if self.no_data and options.cache:
            raise ParameterError("no_data keeps nothing, so the FTL needs no nv cache: leave out the cache bdev")
        self.listen = split_address(options.listen_address or identity.listen)
        self.nqn = export_nqn(options.nqn or identity.nqn_template, self.name, self.uuid)
        if origin.export is not None:
            self.nqn = origin.export.nqn
            if origin.export.trsvcid:
                self.listen = origin.export.traddr, origin.export.trsvcid
        endpoints = identity.endpoint_dir
        folder = None if endpoints is None else endpoint_of(endpoints, self.uuid)
        self.choice = Choice(options, identity.transport, folder, origin.transport)
        """Of the target's transport."""
        self.error: str | None = None
        self.ftl: FtlDevice | None = None
        self.cache_kind: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Saves a change before it takes effect. Raises FtlError."""
        self.on_change_behind: Callable[[], FtlError | None] = lambda: None
        """Saves a change that has already happened, now or later. Returns the error if it cannot be saved now."""
        self.left_behind = False
        """Some objects in the target could not be undone yet."""
        self._state = self.state_before = DeviceState.CREATING
        """state_before: the state before DELETING."""
        self.since = datetime.now(timezone.utc)
        self.identity = identity
        self.export_before = origin.export
        self.inherited = origin.inherited
        """An earlier daemon had this FTL."""
        self.progress = ""
        """CREATING or WAITING: the current step, and how much of it is done."""
        self.waits_for = ""
        """DEFERRED or WAITING: the result of the last attempt."""
        self.load_turn: LoadTurn | None = None
        """While it is loaded, or waits for its turn."""
        self.last_load_failed = False
        self.halt_limit: HaltLimit | None = None
        """Of the daemon's halt."""
        self.halt_moves = 0
        """Counted while its halt moves on."""
        self.failed_flushes = FailedFlushes()
        self.changes = Changes()
        self.settings_turn = asyncio.Lock()
        """Held by whoever changes settings. Each change starts from the result of the previous one."""
        self.saved_params: dict[str, Any] | None = None
        """The parameters in the state file, where they differ from those in effect."""
        self.target_rpc = rpc = identity.rpc(self.target)
        self.link = BaseLink(rpc, lambda: self.options, self.uuid, identity)
        self.maker = FtlMaker(
            self.uuid, lambda: self.options, identity.buffer_dir, identity.l2p_dir,
            progress=self._report, on_lossy=self._alarm,
        )  # fmt: skip
        self.search = BaseSearch(
            rpc, lambda: self.options, self.uuid, identity.prober, self._moved, lambda: self.life_seen
        )
        self.base_watch = BaseWatch(rpc, lambda: self.link.base_name, str(self), self._tell, self._untell)
        target_psk = psk_path(options.target_psk)
        target_keys = SessionKeys(rpc, identity.key_dir, self.uuid, "target", target_psk)
        self.admission = Admission(
            options,
            asked,
            origin.allowed,
            inherited=origin.inherited,
            target_keys=target_keys.keys,
            save=lambda: self.on_change(),
        )
        self.dependents = Dependents(self.name, rpc, origin.dependents, self.changed)
        self.target_bdev = TargetBdev(
            rpc, self.name, self.uuid, self.admission, target_keys, self.dependents, self._is_served
        )
        self.kept_bdev = KeptBdev(str(self), self.target_bdev, lambda: self.changed())
        self.listeners = Listeners.from_record(origin.listeners)
        self.listener_turn = asyncio.Lock()
        """Held by whoever changes the listeners."""
        self.front = self.new_front()
        self.hosts = ConnectedHosts(lambda: self.on_change())
        """Saved before a host gets its first answer: after a crash, the next daemon must know which hosts to notify of
        lost writes."""
        self.hosts.restore(origin.hosts)
        folder = identity.reservation_dir
        self.reservations = Reservations(
            None if folder is None else ReservationFile(folder / f"{self.uuid}.json", self.uuid, make_folder=True),
            # The target has the FTL as a bdev, and bdevs know no reservations.
            has_registrant_rights=lambda host: self.admission.is_target(host.hostnqn),
            of_one_host=lambda: self.options.no_attach,
        )
        self._hold_timer: asyncio.TimerHandle | None = None
        if origin.inherited:
            self.link.inherit()
            self.target_bdev.inherit()

    def __str__(self) -> str:
        """For the log."""
        return f"{self.name} (uuid {self.uuid}, on {self.options.base_bdev} of the target at {self.target})"

    @property
    def how_it_came(self) -> str:
        """ "created" or "loaded"."""
        return "created" if self.ftl is not None and self.ftl.restored is None else "loaded"

    @property
    def state(self) -> DeviceState:
        return self._state

    @state.setter
    def state(self, state: DeviceState) -> None:
        # DELETING is final, whatever else the device was doing.
        if state is not self._state and self._state is not DeviceState.DELETING:
            self._state, self.since = state, datetime.now(timezone.utc)

    @property
    def attachment(self) -> Attachment | None:
        """The attachment in the target. None: the FTL is not attached, as far as the daemon knows."""
        return self.kept_bdev.now

    @property
    def is_attached(self) -> bool:
        """The daemon has attached the FTL, or does not have to, so objects built on it can exist in the target."""
        return self.state is DeviceState.ONLINE and (self.attachment is not None or self.options.no_attach)

    @property
    def block_count(self) -> int | None:
        """The size of the bdev in blocks; None: not known yet."""
        return None if self.front.gate is None else self.front.gate.block_count

    @property
    def export(self) -> Export | None:
        return self.front.export

    @property
    def wants_port(self) -> bool:
        """The FTL is exported over NVMe/TCP: for the target, for hosts, or because somebody asked for it."""
        return (
            not self.choice.by_vfio_user
            or self.options.listen_address is not None
            or self.identity.listens
            or self.identity.catalog is not None
            or self.admission.admits_hosts
            or bool(self.listeners.more)
            or (self.export_before is not None and self.export_before.trsvcid != 0)
        )

    def report_halt(self, progress: str) -> None:
        if progress != self.progress:
            self.progress = progress
            self.halt_moves += 1

    @property
    def waiting_for(self) -> str:
        """What its load, or the result of the last attempt, waits for; empty if it does not wait."""
        if self.load_turn is not None and self.load_turn.waits:
            return self.load_turn.waits_for
        if self.state in (DeviceState.WAITING, DeviceState.DEFERRED):
            return "; ".join(filter(None, (self.waits_for, *self.search.doubt.values())))
        return ""

    def new_front(self) -> Front:
        return Front(
            self.name,
            self.uuid,
            self.nqn,
            self.admission.connections,
            peers=self.identity.peers,
            is_own=self.admission.is_target,
            sockets=self.identity.sockets,
            catalog=self.identity.catalog,
            listeners=self.listeners,
            address=self.listen,
            choice=self.choice,
            make_listener=self._make_listener,
            reactors=self.identity.reactors,
            hold_s=self.identity.peer_timeout_s,
        )

    def _is_served(self) -> bool:
        """Whether the target can detach a controller that it has by vfio-user. If nobody serves that, its keeper ends:
        the target could wait for it for ever."""
        transport = self.front.transport
        if transport.name is TransportName.VFIO_USER and transport.alive:
            return True
        if self.choice.folder is not None:
            end_keeper(self.choice.folder)
        return False

    def _make_listener(self, reactor: ReactorLoop, subsystem: Subsystem, endpoint: Path) -> Listener:
        host = HostKey(self.admission.target_nqn, self.uuid.bytes)
        return VfioUserListener(reactor, subsystem, endpoint, VFIO_USER_LIMITS, keeper=True, host=host)

    def set_params(self, params: dict[str, Any]) -> None:
        """Raises ConfError or ParameterError; nothing has changed then."""
        options = FtlOptions.of(params)
        FtlConf.from_dict(options.settings).check()
        self.params, self.options = params, options

    def took_conf(self) -> None:
        """The FTL has a new conf value."""
        assert self.ftl is not None
        self.conf = self.ftl.conf
        self.front.set_io_channels(self.conf.max_io_channels)

    def gave_cache_up(self) -> None:
        """The FTL has given its cache up. Called once: the superblock now says so, and the user may add another
        cache."""
        if self.options.without_cache:
            self.set_params({**self.params, "without_cache": False})

    # --- reports from the parts

    def _alarm(self) -> None:
        """Acknowledged writes may be lost. The first Flush of each host that was connected fails."""
        try:
            hosts = self.hosts.alarm()
        except FtlError as error:
            raise DeferredError(f"can't save the list of hosts to notify of lost writes: {error.message}") from error
        if hosts:
            log.error(
                "%s: writes that were not flushed are lost; the first Flush of each of these hosts fails: %s",
                self.name,
                show_names(host.hostnqn for host in hosts),
            )

    def _report(self, step: str, part: float) -> None:
        self.progress = f"{step} {part:.0%}"
        if self.load_turn is not None:
            self.load_turn.moved()

    async def try_attach(self) -> None:
        """Attaches an FTL that has served hosts before. Hosts of the export do not wait for this."""
        if self.options.no_attach:
            # A user may have attached the FTL in the target, and the daemon cannot know that.
            await self.dependents.attached_anew()
        else:
            await self.kept_bdev.try_attach(self.front)

    def changed(self) -> None:
        """The state has changed without a request. A failure to save it is logged."""
        if (failure := self.on_change_behind()) is not None:
            log.error("%s: %s", self.name, failure.message)

    def _tell(self, error: str) -> None:
        self.error = error
        self.changed()

    def _untell(self, error: str) -> None:
        if self.error == error:
            self.error = None
        self.changed()

    def _moved(self, key: str, name: str) -> None:
        log.warning("%s: found on bdev %s, which is its %s from now on", self, name, key)
        self.set_params({**self.params, key: name})
        self.changed()

    def remember(self, ftl: FtlDevice) -> None:
        self.life_seen = ftl.incarnation
        self.changed()

    # --- trouble

    def start_hold_timer(self) -> None:
        """Starts the time limit for host I/O that is held from now on. When the limit has passed, the I/O fails as soon
        as no load is in progress that would end the wait."""
        self.stop_hold_timer()
        self._hold_timer = asyncio.get_running_loop().call_later(self.identity.peer_timeout_s, self._stop_holding)

    def stop_hold_timer(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()

    def _stop_holding(self) -> None:
        if self.load_turn is not None and self.load_turn.moves:
            self._hold_timer = asyncio.get_running_loop().call_later(HOLD_LOOK_S, self._stop_holding)
            return
        self.front.fail()
        self.error = f"{self.error}; host I/O was held for {self.identity.peer_timeout_s:g} s, and fails now"
        log.error("%s: %s", self.name, self.error)
        self.changed()

    async def flush_failed(self, failure: BaseException, *, flushed: bool = False) -> bool:
        """failure: the error that ended a life or a load. flushed: other flushes of that life succeeded. True: too many
        flushes have failed, and the device is FAILED."""
        now_s = asyncio.get_running_loop().time()
        if flushed or not isinstance(failure, FlushDoubtError):
            self.failed_flushes.end()
        if isinstance(failure, FlushDoubtError):
            self.failed_flushes.add(now_s)
        reason = self.failed_flushes.too_many(now_s)
        if reason is not None:
            await self.fail(f"base bdev {self.link.base_name} can't flush: {reason}")
        return reason is not None

    async def fail(self, reason: str) -> None:
        log.error("%s: failed: %s", self, reason)
        self.state = DeviceState.FAILED
        self.error = reason
        self.stop_hold_timer()
        self.front.fail()
        if self.ftl is not None:
            with contextlib.suppress(FtlError):
                await self.ftl.abort(reason)
        self.changed()
