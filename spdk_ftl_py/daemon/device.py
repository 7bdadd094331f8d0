"""One FTL of the daemon: its creation, its life while its base is there, and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..errors import BusyError, FtlError, TargetError
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.load.write_buffer_file import BufferFile, buffer_files
from ..ftl.media.blockdev import may_pass
from ..ftl.media.zone import Zone
from ..nvme.logs import Smart
from ..nvme.target.reservations import describe as describe_reservation
from ..runtime.steps import Steps
from ..runtime.tasks import end_tasks, to_its_end
from . import description
from .base import PASSING, DaemonIdentity, DeferredError
from .base_search import as_unfit
from .checks import Media, check_media, check_name
from .device_parts import Origin
from .ending import halt_ftl, take_apart
from .ordered_device import OrderedDevice
from .owed import make_room, settle_alarms
from .reloading import EMPTY_TIMEOUT_S, Reloading, until_cancelled
from .session_keys import drop_all
from .smart import smart_of, warnings_depend_on
from .states import DeviceState as DeviceState
from .states import Ended
from .waiting import Waiting

log = logging.getLogger(__name__)


class ManagedDevice(OrderedDevice):
    """bring_up() begins its life. take_down() or pause() ends it."""

    def __init__(self, params: dict[str, Any], identity: DaemonIdentity, origin: Origin) -> None:
        """Raises as DeviceParts does."""
        super().__init__(params, identity, origin)
        self._reloading = Reloading(self)
        self.waiting = Waiting(self, self._reloading)
        self._life: asyncio.Task[None] | None = None

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
            if self.inherited and isinstance(error, FtlError):
                error = as_unfit(error) or error
            if self.inherited and isinstance(error, (DeferredError, asyncio.CancelledError, *PASSING)):
                await to_its_end(self._let_go_here(keep=True, keep_address=isinstance(error, Exception)))
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
        port_before = self.export_before.trsvcid if self.export_before is not None else 0
        if port_before:
            # At once, however long the FTL waits for its base: nobody else may get it meanwhile.
            await self.front.start()
            await self.front.tcp.listen(self.listen, port_before)
            self.front.tcp.announce(self.admission.allowed, secure_channel=self.admission.secure_channel)
        self._restore_reservation()
        await check_name(self.target_rpc, self.name, self.uuid)
        await self.link.claim(again=self.inherited)
        await self.front.start()
        media = await self._reloading.connect()
        base = self.link.bdev
        assert base is not None
        checking = check_media(
            self.front.reactor,
            media,
            base=base,
            cache=self.link.cache,
            options=self.options,
            conf=self.conf,
            loads=self.uuid if self.loads else None,
            progress=self._report,
        )
        seen = await until_cancelled(checking, self.link)
        self.cache_kind = seen.cache_kind
        if self.wants_port:
            await self.front.tcp.listen(self.listen, port_before)
        self.front.prepare_endpoint()
        first = not self.inherited
        making = self._reloading.load(media, first=first) if self.loads else self._make(media, seen.zones)
        self.ftl = ftl = await making
        self.loads = not self.no_data
        self.remember(ftl)
        self.gave_cache_up()
        if self.no_data:
            log.warning("%s: no_data is for benchmarks only: the FTL neither keeps nor verifies what is written", self)
        self.conf = ftl.conf
        await self.admission.settle_target(self.target_rpc, self.uuid)
        await self.front.spread(self.conf.cores)
        await self.front.open(
            ftl.core, max_io_qpairs=self.conf.max_io_channels, allowed=self.admission.allowed, hosts=self.hosts,
            secure_channel=self.admission.secure_channel, reservations=self.reservations,
            buffer_blocks=ftl.core.stats().write_buffer_blocks,
        )  # fmt: skip
        self.front.set_health(
            lambda: Smart() if self.ftl is None else smart_of(self.ftl),
            lambda: None if self.ftl is None else warnings_depend_on(self.ftl),
        )
        self.export_before = self.export
        if self.inherited:
            await self.try_attach()
        elif not self.options.no_attach:
            await self.kept_bdev.attach(self.front)

    def _restore_reservation(self) -> None:
        """Raises DeferredError: without its reservation the FTL would serve hosts that are locked out."""
        if not self.inherited:
            self.reservations.forget()
            return
        try:
            self.reservations.restore()
        except FtlError as error:
            raise DeferredError(error.message) from error

    async def _make(self, media: Media, zones: list[Zone] | None) -> FtlDevice:
        assert self.link.bdev is not None
        return await self.maker.make(self.front.reactor, media, self.link.bdev, self.conf, zones)

    # --- life ---

    async def _live(self) -> None:
        try:
            while (ended := await self._until_ended()) is not Ended.FAILED:
                if ended is Ended.CHANGING and await self._reloading.load_changed():
                    continue
                if self.no_data:
                    lost = "no_data keeps nothing, so the FTL can't come back: delete it, and create it again"
                    await self.fail(f"{self.error}; {lost}")
                    return
                self.changes.refuse(
                    BusyError(
                        f"FTL bdev {self.name} has lost its base: {self.error}; nothing was changed: try again when "
                        "the FTL is online"
                    )
                )
                if not await self.waiting.wait_for_base():
                    return
        except Exception as error:
            log.exception("%s: internal error", self.name)
            await self.fail(f"internal error ({type(error).__name__}): see the daemon's log")
        finally:
            self.changes.close(BusyError(f"FTL bdev {self.name} has failed, or is being deleted: nothing was changed"))

    async def _until_ended(self) -> Ended:
        """Serves until the base is lost (`error` has the reason), until the FTL fails for another reason (the device is
        then FAILED), or until a change is requested."""
        assert self.ftl is not None
        ftl = self.ftl
        lost = asyncio.ensure_future(self.link.wait_lost())
        failed = asyncio.ensure_future(ftl.failed.wait())
        changing = asyncio.ensure_future(self.changes.wanted.wait())
        attaching = asyncio.ensure_future(self._stay_attached())
        standing = asyncio.ensure_future(self.dependents.keep(lambda: self.is_attached))
        alarming = asyncio.ensure_future(settle_alarms(self.hosts))
        making_room = asyncio.ensure_future(make_room(self.hosts, lambda: self.front.present, ftl.make_durable))
        watching = asyncio.ensure_future(self.base_watch.run(ftl.core))
        ageing = asyncio.ensure_future(self.front.watch_health())
        self.link.watch_zones(ftl.zones_changed)
        try:
            await asyncio.wait({lost, failed, changing}, return_when=asyncio.FIRST_COMPLETED)
            if not lost.done() and not failed.done():
                return Ended.CHANGING
            if lost.done():
                reason = lost.result()
            else:
                failure = ftl.failure
                if failure is None or not may_pass(failure):
                    await self.fail(failure.message if failure is not None else "the FTL failed")
                    return Ended.FAILED
                if await self.flush_failed(failure, flushed=ftl.core.stats().base_flushes > 1):
                    return Ended.FAILED
                reason = self.link.lost_reason or failure.message
        finally:
            self.link.watch_zones(None)
            await end_tasks((lost, failed, changing, attaching, standing, alarming, making_room, watching, ageing))
        self.error = f"base bdev {self.link.base_name}: {'; '.join(filter(None, (reason, self.base_watch.no_space)))}"
        return Ended.LOST

    async def _stay_attached(self) -> None:
        if not self.options.no_attach:
            await self.kept_bdev.keep(self.front)

    # --- end ---

    async def take_down(self) -> list[tuple[str, Exception]]:
        """Halts the FTL and releases everything. Returns what could not be undone. Raises BusyError for a second
        caller, and while the FTL is being created."""
        if self.state is DeviceState.DELETING:
            raise BusyError(f"FTL bdev {self.name} is already being deleted")
        if self.state is DeviceState.CREATING:
            raise BusyError(f"FTL bdev {self.name} is still being created: delete it when that is done")
        before = self.state_before = self.state
        self.state = DeviceState.DELETING
        await self._end_life()
        if before is not DeviceState.ONLINE:
            self.front.fail()
        return await self._take_apart()

    async def _take_apart(self) -> list[tuple[str, Exception]]:
        """Runs to its end even if the caller is cancelled."""
        return await to_its_end(self._take_all_apart())

    async def _take_all_apart(self) -> list[tuple[str, Exception]]:
        rpc = self.target_rpc
        failures, failures_here = await take_apart(
            rpc, self.target_bdev, self.link, self._let_go_here,
            drop_keys=lambda: drop_all(rpc, self.identity.key_dir, self.uuid, self.options.target_psk),
        )  # fmt: skip
        self.left_behind = bool(failures)
        return [*failures, *failures_here]

    async def pause(self) -> list[tuple[str, Exception]]:
        """Halts the FTL cleanly for the next daemon, which takes over what stays in the target. The target and other
        hosts see their connections end, and no error. Returns what could not be done. FTLs with no_data, and unfinished
        creations, need take_down() instead."""
        await self._end_life()
        self.stop_hold_timer()
        return await to_its_end(self._pause())

    async def _end_life(self) -> None:
        """Ends first what keeps the FTL attached, which a silent target may delay. A rename may still be in progress:
        only afterwards it is known what the target has."""
        if self._life is not None:
            await end_tasks([self._life])
        async with self.kept_bdev.turn:
            pass

    async def _pause(self) -> list[tuple[str, Exception]]:
        self.front.hold()
        if self.state is DeviceState.ONLINE:
            self.state = DeviceState.WAITING
            self.progress, self.waits_for = "", "the next daemon"
            # The halt reports a base that does not answer. Connections end before that, and with them held I/O.
            await self.front.emptied(EMPTY_TIMEOUT_S)
        return await self._let_go_here(keep=True)

    async def _let_go_here(self, *, keep: bool = False, keep_address: bool = False) -> list[tuple[str, Exception]]:
        """Undoes everything except what is in the target. keep: what is there stays for the next daemon. keep_address:
        keeps the address where hosts look for the FTL, unless hosts have been admitted."""
        keep_address = keep_address and self.front.gate is None
        exported = self.export
        parts = Steps(self.name)
        if not keep_address:
            parts.on_undo("stop the reactor", self.front.stop)
        parts.on_undo("disconnect from the base", self.link.disconnect)
        parts.on_undo("halt the FTL", self._halt_ftl)
        if not keep_address:
            parts.on_undo("close the export", lambda: self.front.close_export(keep=keep))
        failures = await parts.undo()
        if not keep_address:
            # It may have got a TCP port since it was opened.
            self.export_before = exported or self.export_before
            self.front = self.new_front()
        self.ftl = None
        self.kept_bdev.lost()
        return failures

    async def _halt_ftl(self) -> None:
        if self.ftl is not None:
            await halt_ftl(self.ftl, self.link, limit_now=lambda: self.halt_limit, report=self.report_halt)
            if self.ftl.halted_cleanly:
                self.hosts.flushed()

    # --- descriptions ---

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""
        return description.describe(self)

    def properties(self) -> dict[str, Any]:
        """The result of bdev_ftl_get_properties."""
        return description.properties(self)

    def record(self) -> dict[str, Any]:
        """For the state file."""
        return description.record(self)

    # --- hosts ---

    async def disallow_host(self, nqn: str) -> None:
        """Returns when no I/O of that host is outstanding. Raises what Admission.remove() raises."""
        self.admission.remove(nqn)
        await self.front.disconnect_disallowed()

    async def allow_host(self, nqn: str, dhchap_key: str | None, dhchap_ctrlr_key: str | None, psk: str | None) -> None:
        """Raises what Admission.add() raises, and PathError if the FTL needs a TCP port for hosts, which it can't
        have; then the host is not allowed."""
        self.admission.add(nqn, dhchap_key, dhchap_ctrlr_key, psk)
        try:
            await self._open_port()
        except BaseException:
            self.admission.remove(nqn)
            raise

    async def _open_port(self) -> None:
        """An FTL that only the target could reach, by vfio-user, gets a TCP port for other hosts."""
        if self.export is not None and not self.export.trsvcid:
            async with self.listener_turn:
                await self.front.listen_for_hosts()
            self.on_change_behind()

    async def allow_any_host(self, allow: bool) -> None:
        """If allow is False, returns when no I/O of hosts outside the list is outstanding. Raises what
        Admission.allow_any_host() raises, and PathError as allow_host()."""
        before = self.admission.allowed.allow_any_host
        self.admission.allow_any_host(allow)
        if allow:
            try:
                await self._open_port()
            except BaseException:
                self.admission.allow_any_host(before)
                raise
        await self.front.disconnect_disallowed()

    def tell_hosts(self) -> dict[str, Any]:
        """For bdev_ftl_get_hosts."""
        told = self.admission.tell(self.front.controllers())
        return told | {"reservation": describe_reservation(self.reservations)}

    @property
    def can_be_halted(self) -> bool:
        """Whether accepted writes can be made durable, as far as is known. Also valid after its end has begun."""
        if self.state is DeviceState.ONLINE:
            return self.ftl is not None and self.ftl.state is FtlState.RUNNING
        return self.state is DeviceState.DELETING

    def held_in_file(self) -> BufferFile | None:
        """The write buffer file, if it holds writes that may be stored nowhere else."""
        if self.identity.buffer_dir is None:
            return None
        # If there are several files, loads that were killed left the others, which hold the same as this one.
        files = [each for each in buffer_files(self.identity.buffer_dir, self.uuid) if not each.holds_nothing]
        return max(files, key=lambda each: (each.held_blocks is None, each.held_blocks or 0), default=None)
