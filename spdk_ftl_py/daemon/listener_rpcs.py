"""RPCs for the listeners of an FTL's export."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..errors import BusyError, ParameterError
from ..nvme.wire import AnaState
from .checks import split_address
from .device import ManagedDevice
from .listeners import show
from .requester import requester
from .requests import AnaStateRequest, FtlRequest, ListenerRequest, NewListenerRequest, takes
from .server import Method
from .transports import TransportName

Find = Callable[[FtlRequest], ManagedDevice]

log = logging.getLogger(__name__)


class ListenerRpcs:
    """``methods``, by RPC name, for the registry."""

    def __init__(self, find_to_change: Find) -> None:
        self._find_to_change = find_to_change

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "bdev_ftl_add_listener": takes(NewListenerRequest, self.add),
            "bdev_ftl_remove_listener": takes(ListenerRequest, self.remove),
            "bdev_ftl_set_ana_state": takes(AnaStateRequest, self.set_ana_state),
        }

    async def add(self, request: NewListenerRequest) -> str:
        """ADDRESS:PORT."""
        device = self._find_to_change(request)
        state = AnaState[request.ana_state.upper()]
        added = await asyncio.shield(_add(device, split_address(request.listen_address), state))
        log.info("%s: new listener %s (%s), asked for by %s", device, added, request.ana_state, requester())
        return added

    async def remove(self, request: ListenerRequest) -> bool:
        device, address = self._find_to_change(request), split_address(request.listen_address)
        await asyncio.shield(_remove(device, address))
        log.info("%s: listener %s removed, asked for by %s", device, show(address), requester())
        return True

    async def set_ana_state(self, request: AnaStateRequest) -> bool:
        device, address = self._find_to_change(request), split_address(request.listen_address)
        async with device.listener_turn:
            _set_ana_state(device, address, AnaState[request.ana_state.upper()])
        log.info("%s: listener %s is %s, asked for by %s", device, show(address), request.ana_state, requester())
        return True


async def _add(device: ManagedDevice, address: tuple[str, int], state: AnaState) -> str:
    listeners, front = device.listeners, device.front
    async with device.listener_turn:
        if front.export is None:
            raise BusyError(f"FTL bdev {device.name} has no export yet: add the listener when it is online")
        if front.tcp.address is None:
            return await _add_first(device, address, state)
        listeners.require_new(address, front.tcp.address)
        address = await front.tcp.listen_also(address)
        listeners.more[address] = state
        try:
            # Hosts must find it again after a crash.
            device.on_change()
        except BaseException:
            del listeners.more[address]
            await front.tcp.unlisten(address)
            raise
        front.tcp.show_listener(address)
        return show(address)


async def _add_first(device: ManagedDevice, address: tuple[str, int], state: AnaState) -> str:
    """The target uses vfio-user, and until now nobody could connect by NVMe/TCP."""
    front = device.front
    before, device.listeners.first = device.listeners.first, state
    try:
        await front.listen_for_hosts(address)
    except BaseException:
        device.listeners.first = before
        raise
    device.changed()
    assert front.tcp.address is not None
    return show(front.tcp.address)


async def _remove(device: ManagedDevice, address: tuple[str, int]) -> None:
    listeners, front = device.listeners, device.front
    async with device.listener_turn:
        if address == front.tcp.address:
            raise ParameterError(
                f"listener {show(address)} can't be removed: FTL bdev {device.name} was created with it"
            )
        listeners.require(address)
        state = listeners.more.pop(address)
        try:
            device.on_change()
        except BaseException:
            listeners.more[address] = state
            raise
        await front.tcp.unlisten(address)


def _set_ana_state(device: ManagedDevice, address: tuple[str, int], state: AnaState) -> None:
    listeners, front = device.listeners, device.front
    if address == front.tcp.address:
        by_tcp = front.transport.name is TransportName.TCP
        if state is AnaState.INACCESSIBLE and by_tcp and not device.options.no_attach:
            raise BusyError(
                f"listener {show(address)} can't become inaccessible: the target has FTL bdev {device.name} attached "
                "there"
            )
        before, listeners.first = listeners.first, state
        try:
            device.on_change()
        except BaseException:
            listeners.first = before
            raise
    else:
        listeners.require(address)
        before, listeners.more[address] = listeners.more[address], state
        try:
            device.on_change()
        except BaseException:
            listeners.more[address] = before
            raise
    front.tcp.apply_ana_states()
