"""The ZNS zone state machine once more, in the plainest Python: what the shim's is held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from unit.shim.stepped import ZSA_CLOSE, ZSA_FINISH, ZSA_OFFLINE, ZSA_OPEN, ZSA_RESET

OK = 0
INVALID_FIELD = 0x002
OUT_OF_RANGE = 0x080
BOUNDARY = 0x1B8
FULL = 0x1B9
READ_ONLY = 0x1BA
OFFLINE = 0x1BB
INVALID_WRITE = 0x1BC
TOO_MANY_ACTIVE = 0x1BD
TOO_MANY_OPEN = 0x1BE
INVALID_TRANSITION = 0x1BF

OPEN_STATES = ("implicitly_open", "explicitly_open")
ACTIVE_STATES = (*OPEN_STATES, "closed")
UNWRITABLE = {"full": FULL, "read_only": READ_ONLY, "offline": OFFLINE}


@dataclass
class Zone:
    start: int
    state: str = "empty"
    content: list[bytes] = field(default_factory=list)
    used_at: int = 0  # when it was last written or opened implicitly


class ZnsModel:
    def __init__(
        self, zone_count: int, zone_size: int, zone_capacity: int, max_open: int = 0, max_active: int = 0
    ) -> None:
        self.zones = [Zone(i * zone_size) for i in range(zone_count)]
        self.zone_size = zone_size
        self.zone_capacity = zone_capacity
        self.max_open = max_open
        self.max_active = max_active
        self.clock = 0

    def count(self, states: tuple[str, ...]) -> int:
        return sum(zone.state in states for zone in self.zones)

    def open(self, zone: Zone, how: str) -> int:
        if zone.state in OPEN_STATES:
            if how == "explicitly_open":
                zone.state = how
            return OK
        if zone.state == "empty" and self.max_active and self.count(ACTIVE_STATES) >= self.max_active:
            return TOO_MANY_ACTIVE
        if self.max_open and self.count(OPEN_STATES) >= self.max_open:
            implicit = [other for other in self.zones if other.state == "implicitly_open"]
            if not implicit:
                return TOO_MANY_OPEN
            min(implicit, key=lambda other: other.used_at).state = "closed"
        zone.state = how
        self.touch(zone)
        return OK

    def touch(self, zone: Zone) -> None:
        self.clock += 1
        zone.used_at = self.clock

    def write(self, lba: int, content: list[bytes]) -> int:
        if lba + len(content) > len(self.zones) * self.zone_size:
            return OUT_OF_RANGE
        zone = self.zones[lba // self.zone_size]
        if zone.state in UNWRITABLE:
            return UNWRITABLE[zone.state]
        if lba != zone.start + len(zone.content):
            return INVALID_WRITE
        if len(zone.content) + len(content) > self.zone_capacity:
            return BOUNDARY
        status = self.open(zone, "implicitly_open")
        if status == OK:
            zone.content += content
            self.touch(zone)
            if len(zone.content) == self.zone_capacity:
                zone.state = "full"
        return status

    def append(self, zone_start: int, content: list[bytes]) -> tuple[int, int]:
        if zone_start + len(content) > len(self.zones) * self.zone_size:
            return OUT_OF_RANGE, 0
        zone = self.zones[zone_start // self.zone_size]
        if zone_start != zone.start:
            return INVALID_FIELD, 0
        alba = zone.start + len(zone.content)
        if zone.state not in UNWRITABLE and len(zone.content) + len(content) > self.zone_capacity:
            return BOUNDARY, 0
        status = UNWRITABLE.get(zone.state, OK) or self.write(alba, content)
        return status, alba if status == OK else 0

    def send(self, lba: int, action: int) -> int:
        if lba >= len(self.zones) * self.zone_size:
            return OUT_OF_RANGE
        zone = self.zones[lba // self.zone_size]
        return INVALID_FIELD if lba != zone.start else self.act(zone, action)

    def act(self, zone: Zone, action: int) -> int:
        allowed = {
            ZSA_CLOSE: ACTIVE_STATES,
            ZSA_FINISH: ("empty", *ACTIVE_STATES, "full"),
            ZSA_OPEN: ("empty", *ACTIVE_STATES),
            ZSA_RESET: ("empty", *ACTIVE_STATES, "full"),
            ZSA_OFFLINE: ("read_only", "offline"),
        }
        if zone.state not in allowed[action]:
            return INVALID_TRANSITION
        if action == ZSA_OPEN:
            return self.open(zone, "explicitly_open")
        if action == ZSA_RESET:
            zone.content = []
        zone.state = {ZSA_CLOSE: "closed", ZSA_FINISH: "full", ZSA_RESET: "empty", ZSA_OFFLINE: "offline"}[action]
        return OK

    def send_all(self, action: int) -> int:
        eligible = {
            ZSA_CLOSE: OPEN_STATES,
            ZSA_FINISH: ACTIVE_STATES,
            ZSA_OPEN: ("closed",),
            ZSA_RESET: (*ACTIVE_STATES, "full"),
            ZSA_OFFLINE: ("read_only",),
        }
        if action == ZSA_OPEN and self.max_open and self.count(ACTIVE_STATES) > self.max_open:
            return TOO_MANY_OPEN
        for zone in self.zones:
            if zone.state in eligible[action]:
                assert self.act(zone, action) == OK
        return OK

    def read(self, lba: int, block_count: int) -> tuple[int, list[bytes]]:
        if lba + block_count > len(self.zones) * self.zone_size:
            return OUT_OF_RANGE, []
        touched = range(lba // self.zone_size, (lba + block_count - 1) // self.zone_size + 1)
        if any(self.zones[i].state == "offline" for i in touched):
            return OFFLINE, []
        content = []
        for address in range(lba, lba + block_count):
            zone = self.zones[address // self.zone_size]
            offset = address - zone.start
            content.append(zone.content[offset] if offset < len(zone.content) else b"")
        return OK, content
