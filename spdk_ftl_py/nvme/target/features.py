"""The features of a target controller (NVM Express Base 2.0 section 5.27): values, defaults, and which may be
changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from .. import wire
from ..wire import Feature, Sqe, Status
from .capsule import Completion
from .reservation_state import Notice

SELECT_CURRENT, SELECT_DEFAULT, SELECT_SAVED, SELECT_CAPABILITIES = range(4)
CAPABILITY_CHANGEABLE = 1 << 2
CAPABILITY_OF_NAMESPACE = 1 << 1
HOST_BEHAVIOR_BYTES = 512
TEMPERATURE_OVER_DEFAULT, TEMPERATURE_UNDER_DEFAULT = 343, 0
DULBE = 1 << 16
WCE = 1
NOTICE_MASK = 0b1110

_DISCOVERY_FEATURES = frozenset({Feature.ASYNC_EVENT_CONFIGURATION, Feature.KEEP_ALIVE_TIMER})
_FIXED = frozenset({Feature.VOLATILE_WRITE_CACHE, Feature.HOST_IDENTIFIER})
_FABRICS_FEATURES = frozenset({Feature.KEEP_ALIVE_TIMER, Feature.HOST_IDENTIFIER, Feature.RESERVATION_NOTICE_MASK})
"""Not of controllers whose queues are in the host's memory, which take no reservations here."""


class Features:
    """Get and Set Features of one controller. Nothing is saveable; only the mask of reservation notifications is per
    namespace. (The controller answers for Reservation Persistence, which all controllers share.)"""

    def __init__(
        self,
        *,
        hostid: bytes,
        io_queues: int,
        kato_ms: int,
        kato_granularity_ms: int,
        volatile_cache: Callable[[], bool],
        discovery: bool,
        nsids: Callable[[], Collection[int]] = tuple,
        ana: bool = False,
        fabrics: bool = True,
    ) -> None:
        """nsids: of the namespaces that the host sees. fabrics: as in ControllerTraits."""
        self.io_queues = io_queues
        self.io_queues_created = False
        """Set by the controller with its first I/O queue: from then on their number is fixed."""
        self._hostid = hostid
        self._volatile_cache = volatile_cache
        self._granularity_ms = kato_granularity_ms
        self._discovery = discovery
        self._fabrics = fabrics
        self._nsids = nsids
        self._notice_masks: dict[int, int] = {}
        self._host_behavior = bytes(HOST_BEHAVIOR_BYTES)
        self._temperature = {0: TEMPERATURE_OVER_DEFAULT, 1: TEMPERATURE_UNDER_DEFAULT}
        queues = (io_queues - 1) & 0xFFFF
        events = wire.EVENT_CONFIG_DISCOVERY if discovery else wire.EVENT_CONFIG_NAMESPACE
        if ana:
            events |= wire.EVENT_CONFIG_ANA
        self._values: dict[int, int] = {
            Feature.ARBITRATION: 0,
            Feature.POWER_MANAGEMENT: 0,
            Feature.ERROR_RECOVERY: 0,
            Feature.VOLATILE_WRITE_CACHE: WCE,
            Feature.NUMBER_OF_QUEUES: queues << 16 | queues,
            Feature.WRITE_ATOMICITY: 0,
            Feature.ASYNC_EVENT_CONFIGURATION: events,
            Feature.KEEP_ALIVE_TIMER: self.round_up(kato_ms),
            Feature.COMMAND_SET_PROFILE: 0,
        }
        if discovery:
            self._values = {key: value for key, value in self._values.items() if key in _DISCOVERY_FEATURES}
        self._defaults = dict(self._values)

    def round_up(self, kato_ms: int) -> int:
        return -(-kato_ms // self._granularity_ms) * self._granularity_ms

    @property
    def kato_ms(self) -> int:
        return self._values[Feature.KEEP_ALIVE_TIMER]

    def event_enabled(self, bit: int) -> bool:
        return bool(self._values[Feature.ASYNC_EVENT_CONFIGURATION] & bit)

    def reservation_notice_masked(self, nsid: int, notice: Notice) -> bool:
        return bool(self._notice_masks.get(nsid, 0) & 1 << notice)

    def to_record(self) -> dict[str, Any]:
        """What the host has set, as JSON has it: for restore()."""
        return {
            # int(): an IntEnum is not its number for str() before Python 3.11.
            "values": {str(int(feature)): value for feature, value in self._values.items()},
            "temperature": list(self._temperature.values()),
            "host_behavior": self._host_behavior.hex(),
            "io_queues_created": self.io_queues_created,
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """By an earlier process of this controller. Raises KeyError, TypeError or ValueError."""
        values = {int(feature): int(value) for feature, value in record["values"].items()}
        # The number of queues is what this controller has now.
        values.pop(Feature.NUMBER_OF_QUEUES, None)
        self._values.update({feature: value for feature, value in values.items() if feature in self._values})
        over, under = record["temperature"]
        self._temperature = {0: int(over), 1: int(under)}
        self._host_behavior = bytes.fromhex(record["host_behavior"])[:HOST_BEHAVIOR_BYTES].ljust(
            HOST_BEHAVIOR_BYTES, b"\0"
        )
        self.io_queues_created = bool(record["io_queues_created"])

    def get(self, sqe: Sqe) -> Completion:
        feature, select = sqe.cdw10 & 0xFF, sqe.cdw10 >> 8 & 7
        if not self._known(feature) or select > SELECT_CAPABILITIES:
            return Completion(Status.INVALID_FIELD)
        if feature == Feature.RESERVATION_NOTICE_MASK:
            return self._get_notice_mask(sqe.nsid, select)
        if select == SELECT_CAPABILITIES:
            return Completion(result=0 if feature in _FIXED else CAPABILITY_CHANGEABLE)
        if feature == Feature.HOST_BEHAVIOR:
            return Completion(data=self._host_behavior if select == SELECT_CURRENT else bytes(HOST_BEHAVIOR_BYTES))
        if feature == Feature.HOST_IDENTIFIER:
            if not sqe.cdw11 & 1:  # NVMe over Fabrics only has 128-bit identifiers
                return Completion(Status.INVALID_FIELD)
            return Completion(data=self._hostid)
        if feature == Feature.TEMPERATURE_THRESHOLD:
            threshold = self._temperature.get(sqe.cdw11 >> 20 & 3)
            if threshold is None or sqe.cdw11 >> 16 & 0xF:
                return Completion(Status.INVALID_FIELD)
            return Completion(result=threshold)
        return Completion(result=(self._values if select == SELECT_CURRENT else self._defaults)[feature])

    def set(self, sqe: Sqe, data: bytes | bytearray) -> Completion:
        feature, value = sqe.cdw10 & 0xFF, sqe.cdw11
        if not self._known(feature):
            return Completion(Status.INVALID_FIELD)
        if sqe.cdw10 >> 31:
            return Completion(Status.FEATURE_NOT_SAVEABLE)
        if feature == Feature.NUMBER_OF_QUEUES:
            return self._set_queues(value)
        if feature == Feature.RESERVATION_NOTICE_MASK:
            return self._set_notice_mask(sqe.nsid, value)
        if feature == Feature.VOLATILE_WRITE_CACHE:
            # The cache can't be turned off, and reporting otherwise would be wrong about what is durable.
            return Completion() if value & WCE else Completion(Status.FEATURE_NOT_CHANGEABLE)
        if feature == Feature.HOST_IDENTIFIER:
            return Completion(Status.COMMAND_SEQUENCE_ERROR)
        if feature == Feature.HOST_BEHAVIOR:
            if len(data) != HOST_BEHAVIOR_BYTES:
                return Completion(Status.SGL_DATA_LENGTH)
            self._host_behavior = bytes(data)
            return Completion()
        if feature == Feature.TEMPERATURE_THRESHOLD:
            kind = value >> 20 & 3
            if kind not in self._temperature or value >> 16 & 0xF not in (0, 0xF):
                return Completion(Status.INVALID_FIELD)
            self._temperature[kind] = value & 0xFFFF
            return Completion()
        if (
            (feature == Feature.POWER_MANAGEMENT and value & 0x1F)
            or (feature == Feature.ERROR_RECOVERY and value & DULBE)
            or (feature == Feature.COMMAND_SET_PROFILE and value & 0x1FF)
        ):
            return Completion(Status.INVALID_FIELD)
        self._values[feature] = self.round_up(value) if feature == Feature.KEEP_ALIVE_TIMER else value
        return Completion()

    def _get_notice_mask(self, nsid: int, select: int) -> Completion:
        if select == SELECT_CAPABILITIES:
            return Completion(result=CAPABILITY_CHANGEABLE | CAPABILITY_OF_NAMESPACE)
        if nsid not in self._nsids():
            return Completion(Status.INVALID_NAMESPACE)
        return Completion(result=self._notice_masks.get(nsid, 0) if select == SELECT_CURRENT else 0)

    def _set_notice_mask(self, nsid: int, mask: int) -> Completion:
        nsids = self._nsids()
        if nsid != wire.NSID_ALL and nsid not in nsids:
            return Completion(Status.INVALID_NAMESPACE)
        self._notice_masks.update(dict.fromkeys(nsids if nsid == wire.NSID_ALL else (nsid,), mask & NOTICE_MASK))
        return Completion()

    def _set_queues(self, value: int) -> Completion:
        if self.io_queues_created:
            return Completion(Status.COMMAND_SEQUENCE_ERROR)
        if 0xFFFF in (value & 0xFFFF, value >> 16):
            return Completion(Status.INVALID_FIELD)
        return Completion(result=self._values[Feature.NUMBER_OF_QUEUES])

    def _known(self, feature: int) -> bool:
        if feature in _FABRICS_FEATURES and not self._fabrics:
            return False
        if feature in self._values:
            return feature != Feature.VOLATILE_WRITE_CACHE or self._volatile_cache()
        return not self._discovery and feature in (
            Feature.HOST_BEHAVIOR, Feature.HOST_IDENTIFIER, Feature.TEMPERATURE_THRESHOLD,
            Feature.RESERVATION_NOTICE_MASK,
        )  # fmt: skip
