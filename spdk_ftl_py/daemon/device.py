"""One FTL of the daemon: its creation or load, its life with a base that may go and come back, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final
from uuid import UUID, uuid4

from ..conf import FtlConf, given_settings
from ..errors import BusyError, FlushDoubtError, FtlError, MediaError, ParameterError, TargetError
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.load.write_buffer_file import BufferFile, buffer_files
from ..ftl.media.blockdev import may_pass
from ..ignored_settings import drop_ignored
from ..nvme.target.connected_hosts import ConnectedHosts
from ..runtime.steps import Steps
from ..runtime.tasks import end_tasks, to_its_end
from ..spdk.attach import Attachment
from ..text import show_names
from .admission import Admission
from .attaching import KeptBdev
from .base import PASSING, BaseLink, CacheUnfitError, DaemonIdentity, DeferredError, UnfitError
from .base_search import BaseSearch, as_unfit
from .base_watch import BaseWatch
from .changes import Change, Changes
from .checks import Media, check_media, check_name, optimal_open_zones, split_address
from .dependents import Dependents
from .ending import halt_ftl, take_apart
from .export_nqn import export_nqn
from .failed_flushes import RETRY_GROWTH, RETRY_MAX_S, RETRY_MIN_S, FailedFlushes
from .front import Export, Front
from .ftl_maker import FtlMaker
from .ordered_device import OrderedDevice
from .owed import make_room, settle_alarms
from .session_keys import SessionKeys, drop_all, psk_path
from .states import DeviceState as DeviceState
from .states import Ended
from .target_bdev import TargetBdev

EMPTY_TIMEOUT_S: Final = 10.0
"""How long outstanding host I/O may take before a change. A base that works needs much less."""
SWEEP_S: Final = 1.0

log = logging.getLogger(__name__)


class ManagedDevice(OrderedDevice):
    """An FTL as requested with bdev_ftl_create. The params are validated, with defaults filled in."""

    def __init__(
        self,
        params: dict[str, Any],
        identity: DaemonIdentity,
        device: UUID | None = None,
        *,
        loads: bool = False,
        export: Export | None = None,
        hosts: object = None,
        allowed: object = None,
        inherited: bool = False,
        dependents: object = None,
        life: int = 0,
    ) -> None:
        """device, loads, export, hosts, allowed, dependents, life: of an FTL that an earlier daemon had, as record()
        returned them: its uuid, whether it is on media already, the address of its export, its hosts, those that may
        connect, what is built on it, and its last incarnation. inherited: the target may still have what that daemon
        made.

        Raises ConfError or ParameterError if params break a rule that can be checked without the target.
        """
        self.params, self._life_seen = params, life
        self.name: str = params["name"]
        for line in drop_ignored(params):
            log.warning("FTL bdev %s: %s", self.name, line)
        self.target: str = params["target"]
        given = UUID(params["uuid"]) if params.get("uuid") else None
        # As in 2020's rpc.py, the nil UUID means "a new one".
        self.uuid = device or (given if given is not None and given.int else uuid4())
        self.loads = loads or (device is None and given is not None and given.int != 0)
        """The FTL is on the base, and is loaded from there; False: it is created."""
        self.settings = given_settings(params)
        self.conf = FtlConf.from_dict(self.settings)
        self.conf.check()
        if params.get("without_cache") and params.get("cache"):
            raise ParameterError("without_cache gives the nv cache up: leave out the cache bdev")
        if params.get("without_cache") and not self.loads:
            raise ParameterError("without_cache loads an FTL that has an nv cache: give the uuid of that FTL")
        self.no_data: bool = bool(params.get("no_data"))
        """The FTL keeps nothing, so it is never loaded."""
        if self.no_data and self.loads:
            raise ParameterError("no_data creates an FTL that can't be loaded again: leave out the uuid")
        if self.no_data and params.get("cache"):
            raise ParameterError("no_data keeps nothing, so the FTL needs no nv cache: leave out the cache bdev")
        self.listen = split_address(params.get("listen_address") or identity.listen)
        self.nqn = export_nqn(params.get("nqn") or identity.nqn_template, self.name, self.uuid)
        if export is not None:
            self.listen, self.nqn = (export.traddr, export.trsvcid), export.nqn
        self.error: str | None = None
        self.ftl: FtlDevice | None = None
        self.cache_kind: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Saves a change before it takes effect. Raises FtlError."""
        self.on_change_behind: Callable[[], FtlError | None] = lambda: None
        """Saves what has already happened, now or later. Returns the error if it can't be saved now."""
        self.left_behind = False
        """Not everything in the target could be undone yet."""
        self._state = self._state_before = DeviceState.CREATING
        self._since = datetime.now(timezone.utc)
        self._identity = identity
        self._export_before = export
        self._inherited = inherited
        self._step_told = ""
        self.waits_for = ""
        """DEFERRED or WAITING: the result of the last attempt."""
        self._failed_flushes = FailedFlushes()
        self._changes = Changes()
        self.settings_turn = asyncio.Lock()
        """Held by whoever changes settings: each change starts from the result of the previous one."""
        self._saved_params: dict[str, Any] | None = None
        """The parameters in the state file, if they differ from those in effect."""
        self._rpc = identity.rpc(self.target)
        self._link = BaseLink(self._rpc, params, self.uuid, identity)
        self._maker = FtlMaker(
            self.uuid, params, self.settings, identity.buffer_dir, progress=self._report, on_lossy=self._alarm
        )
        self._search = BaseSearch(self._rpc, params, self.uuid, identity.prober, self._moved, lambda: self._life_seen)
        self._base_watch = BaseWatch(self._rpc, lambda: self._link.base_name, str(self), self._tell, self._untell)
        target_psk = psk_path(params.get("target_psk"))
        target_keys = SessionKeys(self._rpc, identity.key_dir, self.uuid, "target", target_psk)
        self.admission = Admission(
            params, allowed, inherited=inherited, target_keys=target_keys.keys, save=lambda: self.on_change()
        )
        self.dependents = Dependents(self.name, self._rpc, dependents, self.changed)
        self._target_bdev = TargetBdev(self._rpc, self.name, self.uuid, self.admission, target_keys, self.dependents)
        self._bdev = KeptBdev(str(self), self._target_bdev, lambda: self.changed())
        self._front = self._new_front()
        self.hosts = ConnectedHosts(lambda: self.on_change())
        """Saved before a host gets its first answer: the next daemon must know which hosts to notify of lost writes."""
        self.hosts.restore(hosts)
        self._life: asyncio.Task[None] | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        if inherited:
            self._link.inherit()
            self._target_bdev.inherit()

    def __str__(self) -> str:
        """For the log."""
        return f"{self.name} (uuid {self.uuid}, on {self.params['base_bdev']} of the target at {self.target})"

    @property
    def how_it_came(self) -> str:
        """ "created" or "loaded"."""
        return "created" if self.ftl is not None and self.ftl.restored is None else "loaded"

    @property
    def state(self) -> DeviceState:
        return self._state

    @state.setter
    def state(self, state: DeviceState) -> None:
        # DELETING is final, whatever the life was doing.
        if state is not self._state and self._state is not DeviceState.DELETING:
            self._state, self._since = state, datetime.now(timezone.utc)

    @property
    def inherited(self) -> bool:
        """An earlier daemon had this FTL."""
        return self._inherited

    @property
    def attachment(self) -> Attachment | None:
        """The attachment in the target; None: not attached, as far as is known."""
        return self._bdev.now

    @property
    def is_attached(self) -> bool:
        """The daemon has attached the FTL, if it should, so what is built on it can exist in the target."""
        return self.state is DeviceState.ONLINE and (self.attachment is not None or self.params["no_attach"])

    @property
    def block_count(self) -> int | None:
        """The size of the bdev in blocks; None: not known yet."""
        return None if self._front.gate is None else self._front.gate.block_count

    @property
    def export(self) -> Export | None:
        return self._front.export

    def _new_front(self) -> Front:
        return Front(
            self.name,
            self.uuid,
            self.nqn,
            self.admission.connections,
            peers=self._identity.peers,
            is_own=self.admission.is_target,
            sockets=self._identity.sockets,
        )

    # --- creation ---

    async def bring_up(self) -> None:
        """Creates or loads the FTL, which is ONLINE afterwards.

        Raises DeferredError if the base bdev does not exist, or another FtlError. Then everything is undone, the target
        is as it was, and the caller sets the state. For an inherited FTL, what is in the target stays as long as the
        error may pass by itself, and every such error is a DeferredError.
        """
        self.state = DeviceState.CREATING
        try:
            await self._create()
        except BaseException as error:
            if self._inherited and isinstance(error, FtlError):
                error = as_unfit(error) or error
            if self._inherited and isinstance(error, (DeferredError, asyncio.CancelledError, *PASSING)):
                await to_its_end(self._let_go_here(keep_address=isinstance(error, Exception)))
                if isinstance(error, DeferredError | asyncio.CancelledError):
                    raise error
                raise DeferredError(error.message if isinstance(error, FtlError) else str(error)) from error
            failures = await self._take_apart()
            if isinstance(error, OSError):
                error = TargetError(
                    f"FTL bdev {self.name}: lost the connection to the SPDK target at {self.target}: {error}",
                    errno=error.errno,
                )
            if failures and isinstance(error, FtlError):
                left = "; ".join(f"{name} ({failure})" for name, failure in failures)
                raise FtlError(
                    f"{error.message}. The daemon could not undo: {left}", errno=error.errno, code=error.code
                ) from error
            raise error
        self.error = None
        self.state = DeviceState.ONLINE
        self._life = asyncio.create_task(self._live(), name=f"life of {self.name}")

    async def _create(self) -> None:
        port_before = self._export_before.trsvcid if self._export_before is not None else 0
        if port_before:
            # At once, however long the FTL waits for its base: nobody else may get it meanwhile.
            await self._front.start()
            await self._front.listen(self.listen, port_before)
        await check_name(self._rpc, self.name, self.uuid)
        await self._link.claim(again=self._inherited)
        await self._front.start()
        media = await self._connect()
        base = self._link.bdev
        assert base is not None
        self.cache_kind = await check_media(
            self._front.reactor,
            media,
            base=base,
            cache=self._link.cache,
            params=self.params,
            conf=self.conf,
            loads=self.uuid if self.loads else None,
        )
        await self._front.listen(self.listen, port_before)
        self.ftl = ftl = await (self._load(media) if self.loads else self._make(media))
        self.loads = not self.no_data
        self._remember(ftl)
        self._gave_cache_up()
        if self.no_data:
            log.warning("%s: no_data is for benchmarks only: the FTL neither keeps nor verifies what is written", self)
        self.conf = ftl.conf
        await self.admission.settle_target(self._rpc, self.uuid)
        self._front.open(
            ftl.core, max_io_qpairs=self.conf.max_io_channels, allowed=self.admission.allowed, hosts=self.hosts,
            secure_channel=self.admission.secure_channel,
        )  # fmt: skip
        self._export_before = self.export
        if self._inherited:
            await self._try_attach()
        elif not self.params["no_attach"]:
            await self._bdev.attach(self._front)

    async def _connect(self) -> Media:
        base = await self._link.connect(self._front.reactor)
        assert self._link.raw is not None
        return Media(base, self._link.raw, await self._link.connect_cache(self._front.reactor))

    async def _load(self, media: Media, once: Mapping[str, Any] | None = None) -> FtlDevice:
        try:
            return await self._maker.load(self._front.reactor, media, **(once or {}), life=self._life_seen)
        except FtlError as error:
            # A change that does not fit says nothing about the base.
            unfit = as_unfit(error) if self._front.gate is not None and not once else None
            if unfit is None:
                raise
            raise unfit from error

    async def _make(self, media: Media) -> FtlDevice:
        assert self._link.bdev is not None
        open_zones = optimal_open_zones(self._link.bdev, self.params)
        return await self._maker.make(self._front.reactor, media, self.conf, optimal_open_zones=open_zones)

    def _alarm(self) -> None:
        """Acknowledged writes may be lost: the first Flush of each host that was connected fails."""
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
        self._step_told = f"{step} {part:.0%}"

    async def _try_attach(self) -> None:
        """Attaches an FTL that has served hosts before. Hosts of the export do not wait for that."""
        if self.params["no_attach"]:
            # The daemon can't know whether a user has attached the FTL in the target.
            await self.dependents.attached_anew()
        else:
            await self._bdev.try_attach(self._front)

    # --- life ---

    def changed(self) -> None:
        """The state has changed by itself. A failure to save it is logged."""
        if (failure := self.on_change_behind()) is not None:
            log.error("%s: %s", self.name, failure.message)

    def _tell(self, error: str) -> None:
        self.error = error
        self.changed()

    def _untell(self, error: str) -> None:
        if self.error == error:
            self.error = None
        self.changed()

    async def _live(self) -> None:
        try:
            while (ended := await self._until_ended()) is not Ended.FAILED:
                if ended is Ended.CHANGING and await self._load_changed():
                    continue
                if self.no_data:
                    lost = "no_data keeps nothing, so the FTL can't come back: delete it, and create it again"
                    await self._fail(f"{self.error}; {lost}")
                    return
                self._changes.refuse(
                    BusyError(
                        f"FTL bdev {self.name} has lost its base: {self.error}; nothing was changed: try again when "
                        "the FTL is online"
                    )
                )
                if not await self._wait_for_base():
                    return
        except Exception as error:
            log.exception("%s: internal error", self.name)
            await self._fail(f"internal error ({type(error).__name__}): see the daemon's log")
        finally:
            self._changes.close(BusyError(f"FTL bdev {self.name} has failed, or is being deleted: nothing was changed"))

    async def _until_ended(self) -> Ended:
        """Serves until the base is lost (`error` has the reason), until the FTL fails for another reason (the device is
        then FAILED), or until a change is requested."""
        assert self.ftl is not None
        ftl = self.ftl
        lost = asyncio.ensure_future(self._link.wait_lost())
        failed = asyncio.ensure_future(ftl.failed.wait())
        changing = asyncio.ensure_future(self._changes.wanted.wait())
        attaching = asyncio.ensure_future(self._stay_attached())
        standing = asyncio.ensure_future(self.dependents.keep(lambda: self.is_attached))
        alarming = asyncio.ensure_future(settle_alarms(self.hosts))
        making_room = asyncio.ensure_future(make_room(self.hosts, lambda: self._front.present, ftl.make_durable))
        watching = asyncio.ensure_future(self._base_watch.run(ftl.core))
        self._link.watch_zones(ftl.zones_changed)
        try:
            await asyncio.wait({lost, failed, changing}, return_when=asyncio.FIRST_COMPLETED)
            if not lost.done() and not failed.done():
                return Ended.CHANGING
            if lost.done():
                reason = lost.result()
            else:
                failure = ftl.failure
                if failure is None or not may_pass(failure):
                    await self._fail(failure.message if failure is not None else "the FTL failed")
                    return Ended.FAILED
                if await self._flush_failed(failure, flushed=ftl.core.stats()["base_flushes"] > 1):
                    return Ended.FAILED
                reason = self._link.lost_reason or failure.message
        finally:
            self._link.watch_zones(None)
            await end_tasks((lost, failed, changing, attaching, standing, alarming, making_room, watching))
        self.error = f"base bdev {self._link.base_name}: {'; '.join(filter(None, (reason, self._base_watch.no_space)))}"
        return Ended.LOST

    async def _flush_failed(self, failure: BaseException, *, flushed: bool = False) -> bool:
        """failure: the error that ended a life or a load. flushed: other flushes of that life succeeded. True: too many
        flushes have failed, and the device is FAILED."""
        now_s = asyncio.get_running_loop().time()
        if flushed or not isinstance(failure, FlushDoubtError):
            self._failed_flushes.end()
        if isinstance(failure, FlushDoubtError):
            self._failed_flushes.add(now_s)
        reason = self._failed_flushes.too_many(now_s)
        if reason is not None:
            await self._fail(f"base bdev {self._link.base_name} can't flush: {reason}")
        return reason is not None

    async def _stay_attached(self) -> None:
        if not self.params["no_attach"]:
            await self._bdev.keep(self._front)

    async def _load_changed(self) -> bool:
        """False: the FTL must be loaded unchanged. The requester has got the error."""
        change = self._changes.take()
        try:
            halted = await to_its_end(self._halt_to_change(change))
            if not halted:
                return False
            before = dict(self.params)
            self._saved_params = before if change.late else None
            try:
                self.set_params(change.applied(before))
                if not change.late:
                    # Saved before it takes effect: after a crash the next daemon loads the FTL with or without it.
                    self.on_change()
                await self._return_to_base(change.once)
            except BaseException:
                # Once the changed FTL serves hosts, the change is made.
                self._saved_params = None
                if not self._front.serving:
                    self.set_params({**before, **change.back})
                self.on_change_behind()
                raise
            self._saved_params = None
        except (FtlError, OSError) as error:
            told = f"{change.what} failed: {error.message if isinstance(error, FtlError) else error}"
            log.error("%s: %s", self, told)
            self._changes.refuse(error)
            if self.state is DeviceState.ONLINE:
                return True
            self.error = told
            return False
        self.error = None
        self.state = DeviceState.ONLINE
        self.changed()
        log.info("%s: %s: done", self, change.what)
        self._changes.done()
        return True

    async def _halt_to_change(self, change: Change) -> bool:
        """Holds I/O, and brings everything accepted to media. Raises BusyError if that takes too long; then nothing has
        changed, and I/O continues."""
        assert self.ftl is not None
        ftl = self.ftl
        self._front.hold()
        if not await self._front.emptied(EMPTY_TIMEOUT_S):
            self._front.set_core(ftl.core)
            raise BusyError(
                f"FTL bdev {self.name}: the base did not complete outstanding host I/O within {EMPTY_TIMEOUT_S:g} s, "
                f"so {change.what} was not started: try again when it does"
            )
        self.state = DeviceState.WAITING
        self._step_told, self.waits_for = "", change.what
        self.changed()
        self._hold_timer = asyncio.get_running_loop().call_later(self._identity.peer_timeout_s, self._stop_holding)
        self.ftl = None
        try:
            await halt_ftl(ftl, self._link)
        finally:
            await self._link.disconnect()
        if not ftl.halted_cleanly:
            # The FTL failed meanwhile. A load, without the change, recovers what was accepted.
            raise ftl.failure or MediaError(f"FTL bdev {self.name} has failed")
        # Hosts stay connected. Writes that they make from now on may be lost again.
        return True

    async def _wait_for_base(self) -> bool:
        """True: the base is back, and the FTL is loaded from it. False: what came back can't be the base."""
        log.warning("%s: waiting for its base: %s", self, self.error)
        self._front.hold()
        self.state = DeviceState.WAITING
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        # At once: a request that comes before the base is released must not see a bdev in a target that is gone.
        self._bdev.lost()
        self._step_told = self.waits_for = ""
        self.changed()
        self._hold_timer = asyncio.get_running_loop().call_later(self._identity.peer_timeout_s, self._stop_holding)
        delay_s = RETRY_MIN_S
        try:
            await asyncio.sleep(self._failed_flushes.delay_s())
            while True:
                # If this were interrupted, nobody would own the lost core and its write buffer.
                await to_its_end(self._let_go_of_base())
                try:
                    await self._return_to_base()
                    break
                except (DeferredError, *PASSING) as error:
                    self.waits_for = str(error)
                    log.debug("%s: waiting: %s", self.name, error)
                    if await self._flush_failed(error):
                        return False
                    if isinstance(error, UnfitError):
                        await self.seek_base(error)
                        continue
                    await self.look_elsewhere(error)
                except FtlError as error:
                    await self._fail(f"base bdev {self._link.base_name} came back, but can't be used: {error.message}")
                    return False
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * RETRY_GROWTH, RETRY_MAX_S)
        finally:
            self._hold_timer.cancel()
        log.warning("%s: the base is back; the daemon loaded the FTL, and I/O continues", self)
        self.error = None
        self.state = DeviceState.ONLINE
        self.changed()
        return True

    def _remember(self, ftl: FtlDevice) -> None:
        self._life_seen = ftl.incarnation
        self.changed()

    async def look_elsewhere(self, error: Exception) -> None:
        """Searches for the bdev that the attempt did not find under its name."""
        if isinstance(error, CacheUnfitError):
            # The bdev may be another FTL's, whose daemon could not get it meanwhile.
            await to_its_end(self._link.give_back())
        await self._search.look_elsewhere(error)

    def _moved(self, key: str, name: str) -> None:
        log.warning("%s: found on bdev %s, which is its %s from now on", self, name, key)
        self.set_params({**self.params, key: name})
        self.changed()

    async def seek_base(self, error: UnfitError) -> None:
        """Returns when another attempt is worthwhile. If that takes long, the device is FAILED meanwhile. The bdev
        under the base's name may be another FTL's, so it is released."""
        came_back = " came back, but" if self._front.gate is not None else ""
        told = self.error = f"base bdev {self._link.base_name}{came_back} can't be used: {error.message}"
        refused = self._link.bdev
        await to_its_end(self._link.give_back())
        await self._search.seek(refused, lambda: self._fail(told))

    async def _return_to_base(self, once: Mapping[str, Any] | None = None) -> None:
        await self._link.claim(again=True)
        self.ftl = await self._load(await self._connect(), once)
        self._remember(self.ftl)
        self.took_conf()
        if (self.ftl.restored or {}).get("lossy"):
            # Queues that exist already do not know the new size.
            await self._front.disconnect_hosts()
        self._front.set_core(self.ftl.core)
        self._gave_cache_up()
        assert self._hold_timer is not None
        self._hold_timer.cancel()
        self._sweep()
        await self._try_attach()

    def _gave_cache_up(self) -> None:
        """Once only: the superblock now says so, and another cache may be added."""
        if self.params.get("without_cache"):
            self.params["without_cache"] = False

    def _sweep(self) -> None:
        """The previous core is released when the last write into its memory has ended."""
        if (gate := self._front.gate) is not None and not gate.sweep():
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _stop_holding(self) -> None:
        self._front.fail()
        self.error = f"{self.error}; host I/O was held for {self._identity.peer_timeout_s:g} s, and fails now"
        log.error("%s: %s", self.name, self.error)
        self.changed()

    async def _let_go_of_base(self) -> None:
        """What is in the target stays for claim() and attach(), which take it over."""
        self._front.hold()
        ftl, self.ftl = self.ftl, None
        self._bdev.lost()
        if ftl is not None:
            await ftl.abort(self.error or "the base bdev is lost")
        # Without the connection no I/O is outstanding, and the core can end.
        await self._link.disconnect()
        if ftl is not None:
            with contextlib.suppress(FtlError):
                await ftl.halt()
            # Its L2P takes as much memory as that of the next core.
            del ftl
            if self._front.gate is not None:
                self._front.gate.sweep()

    async def _fail(self, reason: str) -> None:
        log.error("%s: failed: %s", self, reason)
        self.state = DeviceState.FAILED
        self.error = reason
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        self._front.fail()
        if self.ftl is not None:
            with contextlib.suppress(FtlError):
                await self.ftl.abort(reason)
        self.changed()

    # --- end ---

    async def take_down(self) -> list[tuple[str, Exception]]:
        """Halts the FTL and releases everything. Returns what could not be undone. Raises BusyError for a second
        caller, and while the FTL is being created."""
        if self.state is DeviceState.DELETING:
            raise BusyError(f"FTL bdev {self.name} is already being deleted")
        if self.state is DeviceState.CREATING:
            raise BusyError(f"FTL bdev {self.name} is still being created: delete it when that is done")
        before = self._state_before = self.state
        self.state = DeviceState.DELETING
        await self._end_life()
        if before is not DeviceState.ONLINE:
            self._front.fail()
        return await self._take_apart()

    async def _take_apart(self) -> list[tuple[str, Exception]]:
        """Runs to its end even if the caller is cancelled."""
        return await to_its_end(self._take_all_apart())

    async def _take_all_apart(self) -> list[tuple[str, Exception]]:
        failures, failures_here = await take_apart(
            self._rpc, self._target_bdev, self._link, self._let_go_here,
            drop_keys=lambda: drop_all(self._rpc, self._identity.key_dir, self.uuid, self.params.get("target_psk")),
        )  # fmt: skip
        self.left_behind = bool(failures)
        return [*failures, *failures_here]

    async def pause(self) -> list[tuple[str, Exception]]:
        """Halts the FTL cleanly for the next daemon, which takes over what stays in the target. The target and other
        hosts see their connections end, and no error. Returns what could not be done. FTLs with no_data, and unfinished
        creations, need take_down() instead."""
        await self._end_life()
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        return await to_its_end(self._pause())

    async def _end_life(self) -> None:
        """Ends first what keeps the FTL attached, which a silent target may delay. A rename may still be in progress:
        only afterwards it is known what the target has."""
        if self._life is not None:
            await end_tasks([self._life])
        async with self._bdev.turn:
            pass

    async def _pause(self) -> list[tuple[str, Exception]]:
        self._front.hold()
        if self.state is DeviceState.ONLINE:
            self.state = DeviceState.WAITING
            self._step_told, self.waits_for = "", "the next daemon"
            # The halt reports a base that does not answer. Connections end before that, and with them held I/O.
            await self._front.emptied(EMPTY_TIMEOUT_S)
        return await self._let_go_here()

    async def _let_go_here(self, *, keep_address: bool = False) -> list[tuple[str, Exception]]:
        """Undoes everything except what is in the target. keep_address: keeps the address where hosts look for the FTL,
        unless hosts have been admitted."""
        keep = keep_address and self._front.gate is None
        parts = Steps(self.name)
        if not keep:
            parts.on_undo("stop the reactor", self._front.stop)
        parts.on_undo("disconnect from the base", self._link.disconnect)
        parts.on_undo("halt the FTL", self._halt_ftl)
        if not keep:
            parts.on_undo("close the export", self._front.close_export)
        failures = await parts.undo()
        if not keep:
            self._front = self._new_front()
        self.ftl = None
        self._bdev.lost()
        return failures

    async def _halt_ftl(self) -> None:
        if self.ftl is not None:
            await halt_ftl(self.ftl, self._link)
            if self.ftl.halted_cleanly:
                self.hosts.flushed()

    # --- what it tells ---

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""
        told: dict[str, Any] = {
            "name": self.name,
            "uuid": str(self.uuid),
            "state": self.state.value,
            "since": self._since.isoformat(timespec="seconds"),
            "target": self.target,
            "base_bdev": self.params["base_bdev"],
            "cache": self.params.get("cache"),
            "no_data": self.no_data,
            "attached": self.attachment is not None,
            **self.admission.describe(),
            "base_tls": self._link.tls_cipher,
            "error": self.error or self._bdev.error or self.dependents.error,
            **self.dependents.describe(),
        }
        if self.state in (DeviceState.CREATING, DeviceState.WAITING) and self._step_told:
            told["progress"] = self._step_told
        if self.state in (DeviceState.WAITING, DeviceState.DEFERRED):
            told["waiting_for"] = "; ".join(filter(None, (self.waits_for, *self._search.doubt.values())))
        if self.export is not None:
            told["export"] = {
                "trtype": "TCP",
                "traddr": self.export.traddr,
                "trsvcid": str(self.export.trsvcid),
                "subnqn": self.export.nqn,
                "nsid": self.export.nsid,
            }
        if self._front.gate is not None:
            told["block_size"] = 4096
            told["num_blocks"] = self._front.gate.block_count
        if self.ftl is not None:
            told["num_bands"] = self.ftl.geometry.band_count
            told["free_bands"] = self.ftl.stats()["free_bands"]
            if self.state is DeviceState.ONLINE and self.ftl.state is FtlState.READ_ONLY:
                told["state"] = self.ftl.state.value
                told["error"] = self.ftl.failure.message if self.ftl.failure is not None else None
        return told

    def properties(self) -> dict[str, Any]:
        """For bdev_ftl_get_properties."""
        told = self.describe()
        told["base_names"] = self._link.names_of("base")
        if self.params.get("cache") is not None:
            its = self.ftl.cache if self.ftl is not None else None
            told["cache"] = {
                "bdev": self.params["cache"],
                "names": self._link.names_of("cache"),
                "kind": self.cache_kind,
                "state": its.state.value if its is not None else "absent",
                "failure": its.failure if its is not None else None,
            }
        told["zone_events"] = self._link.zone_events
        if self.ftl is not None:
            told["properties"] = self.ftl.properties()["properties"]
        else:
            told["conf"] = self.conf.to_dict()
        return told

    # --- hosts ---

    async def disallow_host(self, nqn: str) -> None:
        """Returns when no I/O of that host is outstanding. Raises what Admission.remove() raises."""
        self.admission.remove(nqn)
        await self._front.disconnect_disallowed()

    async def allow_any_host(self, allow: bool) -> None:
        """If allow is False, returns when no I/O of hosts outside the list is outstanding. Raises what
        Admission.allow_any_host() raises."""
        self.admission.allow_any_host(allow)
        await self._front.disconnect_disallowed()

    def tell_hosts(self) -> dict[str, Any]:
        """For bdev_ftl_get_hosts."""
        return self.admission.tell(self._front.controllers())

    @property
    def can_be_halted(self) -> bool:
        """Whether accepted writes can be made durable, as far as is known. Also valid after its end has begun."""
        if self.state is DeviceState.ONLINE:
            return self.ftl is not None and self.ftl.state is FtlState.RUNNING
        return self.state is DeviceState.DELETING

    def held_in_file(self) -> BufferFile | None:
        """The write buffer file, if it holds writes that may be stored nowhere else."""
        if self._identity.buffer_dir is None:
            return None
        # If there are several files, loads that were killed left the others, which hold the same as this one.
        files = [each for each in buffer_files(self._identity.buffer_dir, self.uuid) if not each.holds_nothing]
        return max(files, key=lambda each: (each.held_blocks is None, each.held_blocks or 0), default=None)

    def record(self) -> dict[str, Any]:
        """For the state file: enough to undo the FTL, to load it again, or to keep waiting for its base bdev."""
        export = self.export or self._export_before
        # Until it has ended, a new daemon loads it again: accepted writes may not be durable yet.
        state = self._state_before if self.state is DeviceState.DELETING else self.state
        return {
            "name": self.name,
            "uuid": str(self.uuid),
            "target": self.target,
            "state": state.value,
            "loads": self.loads,
            "life": self._life_seen,
            "params": self._saved_params or self.params,
            "params_are_as_given": True,
            "export": None if export is None else [export.nqn, export.traddr, export.trsvcid],
            "allowed": self.admission.to_record(),
            "hosts": self.hosts.to_record(),
            "dependents": self.dependents.to_record(),
        }
