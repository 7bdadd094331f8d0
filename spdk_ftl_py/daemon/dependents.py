"""Objects that are built on an FTL in its target, and that do not come back by themselves. The daemon stores the calls
that make them, and repeats these after it has attached the FTL to a target that was restarted."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..errors import BusyError, FtlError, ParameterError, TargetError
from ..runtime.waiting import Backoff
from ..spdk.bdevs import Bdev, get_bdevs
from ..spdk.rpc import TargetRpc
from ..spdk.saved_config import Call, calls_of, check_call, missing, read_subsystems
from ..text import show_line
from .failed_flushes import RETRY_GROWTH, RETRY_MAX_S, RETRY_MIN_S

DEPENDENTS_BYTES_MAX: Final = 256 << 10
"""The limit for each FTL, as JSON in the state file."""
FAILED_TOLD_MAX: Final = 16
EXAMINE_TIMEOUT_S: Final = 30.0
_SHOWN_MAX: Final = 300
_EARLY: Final = re.compile(r"bdev_\w+_create")

log = logging.getLogger(__name__)


class Dependents:
    """The calls are known from the moment they are saved or loaded. ``pending``: the target may lack some of them, and
    keep() makes these. Otherwise the daemon does nothing, whatever the target lacks: its user may have removed it."""

    def __init__(self, name: str, rpc: TargetRpc, record: object, save: Callable[[], object]) -> None:
        """record: what to_record() returned in an earlier daemon; None: nothing was ever saved. save: called after a
        change; must not raise. Raises ParameterError if the record is invalid."""
        self.calls: list[Call] = []
        self.known = False
        """The calls have been saved or loaded at some time."""
        self.pending = False
        self.failed: list[tuple[Call, str]] = []
        """Calls that the target refused at the last attempt, and why."""
        self._name = name
        self._rpc = rpc
        self._save = save
        self._made: set[int] = set()
        """Indices of calls that were made since the FTL was attached, because a configuration does not show all of
        them."""
        self._wanted = asyncio.Event()
        if record is not None:
            if not isinstance(record, Mapping) or not isinstance(record.get("calls"), list):
                raise ParameterError("dependents are not a list")
            for call in record["calls"]:
                check_call(call, "dependents")
            self.replace(record["calls"], pending=record.get("pending") is True)

    def renamed(self, name: str) -> None:
        """The FTL has a new name, and nothing is built on it: the calls that are known use the old name."""
        self._name = name
        if self.calls:
            self.replace([], pending=False)

    def replace(self, calls: Sequence[Call], *, pending: bool) -> None:
        """Replaces the calls."""
        self.calls = list(calls)
        self.known = True
        self._begin(pending)

    def check_found(self, calls: Sequence[Call]) -> None:
        """Call it before found(). Raises BusyError if there are too many calls."""
        check_size(self._name, [*calls, *self.calls] if self.pending else calls)

    def found(self, calls: Sequence[Call], bdevs: Sequence[Bdev], *, whole: bool) -> None:
        """Takes the calls that are in the target now, with its bdevs. whole: the FTL is attached. Pending calls that
        the target still lacks stay known."""
        if whole and not self.pending:
            self.replace(calls, pending=False)
        else:
            self.replace([*calls, *missing(self.calls, calls, bdevs)], pending=self.pending)

    async def attached_anew(self) -> None:
        """Call it before the FTL is attached to a target that has nothing of it.

        A bdev that can be made now, and appears when its base does, has its base from the start. If it were made later,
        somebody else might take the base first. With a raid without superblock, for example, whose data begin where
        those of ftl0 do, the target would find an lvol store both on ftl0 and on the raid.
        """
        if not self.calls:
            return
        self._begin(True)
        # If this daemon dies in between, the next one finds the FTL attached.
        self._save()
        try:
            for place, call in await self._lacking():
                if not _EARLY.fullmatch(call["method"]):
                    continue
                try:
                    await self._rpc.call(call["method"], call.get("params"))
                except TargetError as error:
                    if error.errno != errno.EEXIST:
                        log.debug("%s: can't be called before %s exists: %s", call["method"], self._name, error.message)
                        continue
                self._made.add(place)
        except (FtlError, OSError) as error:
            log.debug("%s: %s", self._name, _message(error))

    def _begin(self, pending: bool) -> None:
        self.pending = pending and bool(self.calls)
        self.failed, self._made = [], set()
        if self.pending:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def keep(self, ready: Callable[[], bool]) -> None:
        """Makes missing calls whenever some are pending and the FTL is attached. Runs until it is cancelled."""
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, RETRY_GROWTH)
        while True:
            await self._wanted.wait()
            if not ready():
                backoff.reset()
            elif await self._make():
                backoff.reset()
                continue
            await backoff.pause()

    async def _make(self) -> bool:
        """Whether everything missing could be made."""
        made = self._made
        try:
            progress = True
            failed: list[tuple[Call, str]] = []
            while progress:
                # One call may need what another one makes, in whatever order the target listed them.
                progress, failed = await self._make_once(made)
                if made is not self._made:
                    return False
                progress = progress and bool(failed)
        except (FtlError, OSError) as error:
            failed = [({"method": "framework_get_config"}, _message(error))]
            if made is not self._made:
                return False
        self._tell(failed)
        if failed:
            return False
        self.pending = False
        self._wanted.clear()
        self._save()
        return True

    async def _make_once(self, made: set[int]) -> tuple[bool, list[tuple[Call, str]]]:
        """Whether a call was made, and which calls were refused. Raises TargetError if the target does not answer."""
        before, failed = len(made), []
        for place, call in await self._lacking():
            if place in made:
                continue
            await self._wait_for_examine()
            try:
                await self._rpc.call(call["method"], call.get("params"))
            except TargetError as error:
                if error.rpc_code is None:
                    raise
                failed.append((call, _message(error)))
            else:
                made.add(place)
                log.info("%s: called %s to recreate what is built on it: %s", self._name, call["method"], _shown(call))
        return len(made) > before, failed

    async def _lacking(self) -> list[tuple[int, Call]]:
        """Calls whose result the target lacks, with their indices."""
        there = calls_of(await read_subsystems(self._rpc))
        lacking = {id(call) for call in missing(self.calls, there, await get_bdevs(self._rpc))}
        return [(place, call) for place, call in enumerate(self.calls) if id(call) in lacking]

    async def _wait_for_examine(self) -> None:
        """An lvol, or a raid with a superblock, appears some time after the bdev it is on."""
        try:
            await self._rpc.call("bdev_wait_for_examine", timeout_s=EXAMINE_TIMEOUT_S)
        except TargetError as error:
            log.debug("%s: %s", self._name, error.message)

    def _tell(self, failed: list[tuple[Call, str]]) -> None:
        for call, why in failed:
            if (call, why) not in self.failed:
                log.error(
                    "%s: not everything that was built on it is back: %s %s: %s",
                    self._name,
                    call["method"],
                    _shown(call),
                    why,
                )
        self.failed = failed

    @property
    def error(self) -> str | None:
        """Why not everything is back."""
        if not self.failed:
            return None
        call, why = self.failed[0]
        more = f" (and {len(self.failed) - 1} more calls)" if len(self.failed) > 1 else ""
        return f"not everything that was built on {self._name} is back: {call['method']}{more}: {why}"

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices; empty if no calls were ever saved."""
        if not self.known:
            return {}
        failed = [{**call, "error": why} for call, why in self.failed[:FAILED_TOLD_MAX]]
        return {"dependents": {"calls": len(self.calls), "pending": self.pending, "failed": failed}}

    def to_record(self) -> dict[str, Any] | None:
        return {"calls": self.calls, "pending": self.pending} if self.known else None


def check_size(name: str, calls: Sequence[Call]) -> None:
    """Raises BusyError if the calls do not fit into the state file."""
    size = len(json.dumps(calls))
    if size > DEPENDENTS_BYTES_MAX:
        raise BusyError(
            f"FTL bdev {name}: the {len(calls)} calls that recreate what is built on it have {size} bytes, but the "
            f"daemon keeps {DEPENDENTS_BYTES_MAX} at most: spread the bdevs over several FTLs, or create some of them "
            "from a script"
        )


def _shown(call: Call) -> str:
    return show_line(json.dumps(call.get("params") or {})[:_SHOWN_MAX])


def _message(error: Exception) -> str:
    return error.message if isinstance(error, FtlError) else str(error)
