"""The guard between an FTL and its policy: a policy that raises, returns nonsense or is slow is replaced by the default
policy. Nothing else calls a policy.

What a policy returns is only a preference, so nothing that passes here can harm data. What would stop an FTL does not
pass: a pace that holds back both sides.
"""

from __future__ import annotations

import itertools
import logging
import operator
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import CLASSES_MAX, DEFAULT_RELOC_POLICY
from ...errors import ConfError
from .interface import AgeClasses, BandTable, Placement, Policy, Reclaimed, Surroundings
from .limits import Limits
from .pacing import PACE_MAX, MoveSize, Pace, decide
from .registry import make_policy, told

log = logging.getLogger(__name__)

SLOW_NS: Final = 50_000_000
"""Time of the CPU that one call may take: what a host's keep-alive or another FTL waits for."""
SLOW_CALLS: Final = 3
"""So many slow calls replace a policy: now and then Python's garbage collector takes as long."""
FORGIVEN_CALLS: Final = 1000
"""After so many calls in time, earlier slow ones don't count."""
REGIONS_MAX: Final = 1 << 20
"""The reactor waits while the core looks at all of them."""
_NO_CLASS: Final = 255
_FLOAT64: Final = np.dtype(np.float64)
_INT64: Final = np.dtype(np.int64)
_U64: Final = 1 << 64

T = TypeVar("T")


class NonsenseError(Exception):
    """What a policy returned can't be used."""


class Guard:
    """A policy that can be relied on. ``name`` is the conf's; ``replaced`` says why the default is in its place."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        surroundings: Surroundings,
        *,
        replaced: str | None = None,
        memory: MutableMapping[str, str] | None = None,
        cpu_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        """memory: why policies were replaced, by name. Given to the next guard of the same FTL, it keeps a policy that
        has failed from being tried again."""
        self.name = name
        self.policy = policy
        self._surroundings = surroundings
        self.replaced = replaced
        self.on_replaced: Callable[[], None] = lambda: None
        """Called when the policy has just been replaced, before a decision of the default is used: placement() has
        changed."""
        self.memory = {} if memory is None else memory
        self._cpu_ns = cpu_ns
        self._slow = 0
        self._in_time = 0

    @classmethod
    def new(cls, name: str, surroundings: Surroundings, memory: MutableMapping[str, str] | None = None) -> Guard:
        """With a policy that somebody has just ordered. Raises ConfError."""
        return cls(name, make_policy(name, surroundings), surroundings, memory=memory)

    @classmethod
    def loaded(
        cls,
        name: str,
        surroundings: Surroundings,
        memory: MutableMapping[str, str] | None = None,
        *,
        may_import: bool = True,
        ftl: str = "",
    ) -> Guard:
        """With the policy that a saved FTL names, or the default if it can't be had: it is no reason not to load data.
        may_import: as in find_class()."""
        why = (memory or {}).get(name)
        if why is None:
            try:
                policy = make_policy(name, surroundings, may_import=may_import)
                return cls(name, policy, surroundings, memory=memory)
            except ConfError as error:
                why = error.message
        log.error("%s: policy %s is replaced by %s: %s", ftl, name, DEFAULT_RELOC_POLICY, why)
        default = make_policy(DEFAULT_RELOC_POLICY, surroundings)
        return cls(name, default, surroundings, replaced=why, memory=memory)

    @property
    def in_use(self) -> str:
        return self.name if self.replaced is None else DEFAULT_RELOC_POLICY

    # --- what a policy decides

    def best(self, bands: BandTable, allowed: NDArray[np.bool_]) -> tuple[int, float]:
        """The allowed band with the greatest merit, of equal ones the first, and that merit. At least one must be
        allowed."""

        def look(policy: Policy) -> tuple[int, float]:
            number, best = _shim.best_band(_numbers(policy.merit(bands), len(allowed)), allowed)
            if best != best:
                raise NonsenseError(f"the merit of band {number} is not a number")
            return number, best

        return self._call("merit", look)

    def placement(self) -> Placement:
        def look(policy: Policy) -> Placement:
            return checked_placement(policy.placement(), self._surroundings)

        return self._call("placement", look)

    @property
    def wants_reclaimed(self) -> bool:
        """False: reclaimed() does nothing."""
        return _overrides(self.policy, "reclaimed")

    def reclaimed(self, band: Reclaimed) -> bool:
        return self._call("reclaimed", lambda policy: bool(policy.reclaimed(band)))

    def pace(self, limits: Limits, level: float, moves: Sequence[MoveSize]) -> Pace:
        if not _overrides(self.policy, "pace"):
            # Asked for several times for each band.
            return _going_on(decide(limits, level, moves))
        return self._call("pace", lambda policy: checked_pace(policy.pace(limits, level, moves)))

    def worn(self, bands: BandTable) -> int | None:
        def look(policy: Policy) -> int | None:
            number = policy.worn(bands)
            if number is None:
                return None
            number = _whole("the band", number, 0, len(bands.closed) - 1)
            if not bands.closed[number]:
                raise NonsenseError(f"band {number} is not closed")
            return number

        return self._call("worn", look)

    # ---

    def _call(self, method: str, look: Callable[[Policy], T]) -> T:
        if self.replaced is not None:
            return look(self.policy)
        began = self._cpu_ns()
        try:
            with np.errstate(all="ignore"):
                result = look(self.policy)
        except NonsenseError as error:
            return self._replace(f"{method}() returned nonsense: {error}", look)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # CancelledError and the like too: nothing is awaited here, so it is the policy's own.
            log.debug("policy %s", self.name, exc_info=True)
            return self._replace(f"{method}() raised {told(error)}", look)
        self._time(method, self._cpu_ns() - began)
        return result

    def _time(self, method: str, took_ns: int) -> None:
        if took_ns <= SLOW_NS:
            self._in_time += 1
            if self._in_time >= FORGIVEN_CALLS:
                self._slow = 0
            return
        self._in_time = 0
        self._slow += 1
        if self._slow >= SLOW_CALLS:
            self._become(f"{method}() took {took_ns // 1_000_000} ms, and more than {SLOW_NS // 1_000_000} ms before")

    def _replace(self, why: str, look: Callable[[Policy], T]) -> T:
        self._become(why)
        return look(self.policy)

    def refused(self, why: str) -> None:
        """The core does not take what has passed here. The default takes the place of the policy."""
        self._become(f"placement() returned nonsense: {why}")

    def out_of_space(self, why: str) -> None:
        """The FTL would become read-only. The default needs fewer bands."""
        self._become(f"its classes took too many bands: {why}")

    def _become(self, why: str) -> None:
        self.policy = make_policy(DEFAULT_RELOC_POLICY, self._surroundings)
        self.replaced = self.memory[self.name] = why
        self.on_replaced()


def checked_pace(pace: object) -> Pace:
    """A pace at which something goes on. Relocation may not wait for hosts that have to wait for relocation: that is so
    if the hosts' share of all blocks is less than what relocation gives them. Raises NonsenseError."""
    if not isinstance(pace, Pace):
        raise NonsenseError(f"{_shown(pace)} is not a Pace")
    share = _whole("user_share", pace.user_share, 0, 100)
    beside = pace.reloc_per_thousand
    return _going_on(Pace(share, None if beside is None else _whole("reloc_per_thousand", beside, 1, PACE_MAX)))


def _going_on(pace: Pace) -> Pace:
    share, beside = pace
    return pace if beside is None or share * (1000 + beside) >= 100 * 1000 else Pace(share)


def _overrides(policy: Policy, method: str) -> bool:
    """Whether a policy has its own instead of the default. None of its code runs."""
    own = object.__getattribute__(policy, "__dict__")
    return method in own or getattr(type(policy), method) is not getattr(Policy, method)


def checked_placement(placement: object, surroundings: Surroundings) -> Placement:
    """With plain numbers, as the shim takes them. Raises NonsenseError."""
    if not isinstance(placement, Placement):
        raise NonsenseError(f"{_shown(placement)} is not a Placement")
    classes = _whole("classes", placement.classes, 2, min(CLASSES_MAX, max(2, surroundings.classes_max)))
    users = _whole("user_classes", placement.user_classes, 1, classes - 1)
    if not isinstance(placement.relocated, Sequence) or len(placement.relocated) != classes:
        raise NonsenseError(f"relocated must have an entry for each of the {classes} classes")
    regions = placement.regions
    if regions is not None:
        if not isinstance(regions, np.ndarray) or regions.dtype != np.uint8 or regions.ndim != 1:
            raise NonsenseError("regions must be a numpy array of uint8, one for each region")
        if len(regions) > REGIONS_MAX:
            raise NonsenseError(f"{len(regions)} regions: at most {REGIONS_MAX} are possible; use larger ones")
        # The policy may change its own at any time.
        regions = regions.copy()
        if ((regions >= users) & (regions != _NO_CLASS)).any():
            raise NonsenseError(f"regions must be classes of hosts (0 to {users - 1}, or {_NO_CLASS}: none)")
    return replace(
        placement,
        classes=classes,
        user_classes=users,
        user=_ages("user", placement.user, 0, users - 1),
        unwritten=_whole("unwritten", placement.unwritten, 0, users - 1),
        relocated=tuple(
            _ages(f"relocated[{i}]", each, users, classes - 1) for i, each in enumerate(placement.relocated)
        ),
        regions=regions,
        region_blocks=_whole("region_blocks", placement.region_blocks, 1, _U64 - 1),
    )


def _ages(what: str, ages: object, least: int, most: int) -> AgeClasses:
    if not isinstance(ages, AgeClasses):
        raise NonsenseError(f"{what} is {_shown(ages)}, not AgeClasses")
    classes = tuple(_whole(f"a class in {what}", each, least, most) for each in ages.classes)
    limits = tuple(_whole(f"a limit in {what}", each, 0, _U64 - 1) for each in ages.limits)
    if not 1 <= len(classes) <= CLASSES_MAX or len(limits) != len(classes) - 1:
        raise NonsenseError(
            f"{what} has {len(classes)} classes and {len(limits)} limits: one limit between two classes, and at most "
            f"{CLASSES_MAX} classes, are possible"
        )
    if any(upper <= lower for lower, upper in itertools.pairwise(limits)):
        raise NonsenseError(f"the limits in {what} don't ascend")
    return AgeClasses(classes, limits)


def _numbers(merit: Any, count: int) -> NDArray[Any]:
    numbers = np.asarray(merit)
    if numbers.shape != (count,):
        raise NonsenseError(f"its shape is {numbers.shape}, not {(count,)}")
    if numbers.dtype.kind not in "iufb":
        raise NonsenseError(f"it has {numbers.dtype} instead of numbers")
    # The shim takes these as they are.
    known = (numbers.dtype is _FLOAT64 or numbers.dtype is _INT64) and numbers.flags.c_contiguous
    return numbers if known else np.ascontiguousarray(numbers, _FLOAT64)


def _whole(what: str, value: Any, least: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise NonsenseError(f"{what} is {_shown(value)}, not a whole number") from None
    if not least <= number <= most:
        raise NonsenseError(f"{what} is {number}: must be {least} to {most}")
    return number


def _shown(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"
