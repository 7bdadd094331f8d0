"""The FTLs of the daemon, by target and name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from ..errors import ExistsError, NotFoundError, ParameterError
from ..spdk.saved_config import OwnFtl
from .config_rpcs import normal_target
from .device import DeviceState, ManagedDevice
from .requests import DevicesRequest, FtlRequest

Key = tuple[str, str]
"""Target and name."""


class Devices(Mapping[Key, ManagedDevice]):
    """The FTLs by target and name. Names are unique for each target."""

    def __init__(self) -> None:
        self._devices: dict[Key, ManagedDevice] = {}

    def __getitem__(self, key: Key) -> ManagedDevice:
        return self._devices[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)

    def put(self, device: ManagedDevice) -> None:
        """Adds the device. It replaces any device with the same name."""
        self._devices[key_of(device)] = device

    def drop(self, device: ManagedDevice) -> None:
        """Removes the device with this name."""
        del self._devices[key_of(device)]

    def clear(self) -> None:
        self._devices = {}

    def renamed(self, device: ManagedDevice, before: str) -> None:
        """The FTL has just been renamed."""
        if self._devices.get((device.target, before)) is device:
            del self._devices[(device.target, before)]
        self._devices[key_of(device)] = device

    def find(self, request: FtlRequest) -> ManagedDevice:
        """Returns the FTL with that name, on that target if one is given. Raises NotFoundError, or ParameterError if
        the name exists on several targets and none is given."""
        name = request.name
        named = self._named(name)
        if not named:
            there = ", ".join(sorted({device.name for device in self._devices.values()})) or "none"
            raise NotFoundError(f"FTL bdev {name}: no such FTL; the daemon has: {there}")
        targets = ", ".join(device.target for device in named)
        if request.target is not None:
            device = self._devices.get((normal_target(request.target), name))
            if device is None:
                raise NotFoundError(f"FTL bdev {name}: is on the SPDK target at {targets}, not at {request.target}")
            return device
        if len(named) > 1:
            raise ParameterError(
                f"FTL bdev {name}: each of the SPDK targets at {targets} has one: name the target with -s TARGET (the "
                "RPC's parameter target)"
            )
        return named[0]

    def _named(self, name: str) -> list[ManagedDevice]:
        return [device for device in self._devices.values() if device.name == name]

    def chosen(self, request: DevicesRequest) -> list[ManagedDevice]:
        """Returns the FTLs with that target and that name, as far as these are given. Raises what find() raises."""
        target = normal_target(request.target) if request.target is not None else None
        if request.name is not None:
            named = [device for device in self._named(request.name) if target in (None, device.target)]
            return named or [self.find(FtlRequest(name=request.name, target=request.target))]
        return [device for device in self._devices.values() if target in (None, device.target)]

    def own_ftls(self, target: str) -> list[OwnFtl]:
        mine = [device for device in self._devices.values() if device.target == target]
        return [OwnFtl(device.name, device.uuid, device.nqn) for device in mine]

    # --- what must be unique

    def require_free(self, device: ManagedDevice, name: str) -> None:
        """Raises ExistsError if another FTL has that name."""
        other = self._devices.get((device.target, name))
        if other is not None and other is not device:
            raise ExistsError(
                f"name {name}: there is an FTL bdev of that name ({other.state.value}, on the SPDK target at "
                f"{other.target}): choose another"
            )

    def check_no_twin(self, uuid: UUID, but: ManagedDevice | None = None) -> None:
        """Raises ExistsError if another device than but has that uuid."""
        twin = next((each for each in self._devices.values() if each.uuid == uuid and each is not but), None)
        if twin is not None:
            raise ExistsError(
                f"uuid {uuid}: FTL bdev {twin.name} ({twin.state.value}, on the SPDK target at {twin.target}) already "
                "has it: choose another, or delete that FTL first"
            )

    def check_nqn_free(self, device: ManagedDevice, but: ManagedDevice | None = None) -> None:
        """Raises ExistsError if another device than but is exported under the same NQN."""
        for other in self._devices.values():
            if other.nqn == device.nqn and other is not but:
                raise ExistsError(
                    f"nqn {device.nqn}: FTL bdev {other.name} (on the SPDK target at {other.target}) already has it: "
                    "choose another with --nqn, which may contain {uuid}"
                )


def key_of(device: ManagedDevice) -> Key:
    return device.target, device.name


def worth_keeping(device: ManagedDevice) -> bool:
    """Whether the device belongs in the state file."""
    # A deferred creation that failed later has been undone.
    return device.state is not DeviceState.FAILED or device.ftl is not None or device.loads
