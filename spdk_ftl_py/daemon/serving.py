"""The whole life of a daemon: what it checks, opens and starts, and how all of that ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from ..nvme.target.discovery import Catalog
from ..nvme.target.peers import PeerLimits
from ..runtime.logs import LogLevels
from ..runtime.reactors import Reactors
from ..runtime.service_manager import ServiceManager
from ..runtime.signals import ignored, on_signals
from ..runtime.turns import many_aside
from ..runtime.watchdog import Watchdog
from ..spdk.exports import host_nqn
from .audit import audit_to_file, audit_to_log
from .base import DaemonIdentity
from .control_sockets import ControlSockets, SocketOptions
from .discovery_service import DiscoveryService, give_up_socket
from .export_sockets import ExportSockets
from .http_listener import Address, HttpListeners
from .load_turns import LoadTurns
from .log_rpcs import LogRpcs
from .metrics import PATH as METRICS_PATH
from .native_engine import NativeEngine
from .preflight import (
    NewDirectories,
    check_apart,
    check_buffer_directory,
    check_descriptors,
    check_l2p_directory,
    check_listen,
)
from .registry import Registry
from .requester import asked_for_by
from .saved import SavedFtl
from .state import StateDirectory, make_buffer_directory
from .transports import TransportName
from .vfio_user_export import FOLDER
from .web.page import WebPage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpOptions:
    """Where the daemon listens for HTTP on TCP."""

    metrics: str | None = None
    names: Sequence[str] = ()
    web: str | None = None


async def serve(
    socket_options: SocketOptions,
    state_directory: Path,
    listen: str,
    *,
    listens: bool = False,
    transport: str = TransportName.TCP.value,
    peer_timeout_s: float,
    buffer_directory: Path,
    l2p_directory: Path | None = None,
    limits: Sequence[str] = (),
    target_keys: bool = True,
    target_user: int | None = None,
    undo_on_exit: bool = False,
    manager: ServiceManager | None = None,
    saved: Sequence[SavedFtl] = (),
    nqn_template: str | None = None,
    levels: LogLevels | None = None,
    audit_log: Path | None = None,
    http: HttpOptions | None = None,
    discovery: str | None = None,
    reactors: Reactors | None = None,
    loads: LoadTurns | None = None,
    halt_timeout_s: float = 600.0,
) -> None:
    """Serves until a signal or a halt. listens, transport, loads, halt_timeout_s: as in DaemonIdentity. saved: FTLs to
    load. reactors: for all FTLs. Raises FtlError if the daemon can't start; then nothing that it has made is left."""
    # Imported objects stay. Without this, each garbage collection would take some 10 ms to scan them.
    gc.freeze()
    many_aside()
    http = http or HttpOptions()
    manager = manager or ServiceManager({})
    peers = PeerLimits.parse(limits)
    sockets = ControlSockets(socket_options, manager)
    exports = ExportSockets(manager)
    catalog = Catalog()
    service = None if discovery is None else DiscoveryService(discovery, catalog, manager, peers=peers)
    check_descriptors()
    check_apart(listen, _other_addresses(http, service))
    check_listen(listen, exports)
    sockets.check()
    logs = LogRpcs(levels or LogLevels(), audit_log=None if audit_log is None else str(audit_log))
    halt = asyncio.Event()
    registry: Registry | None = None
    ended_by = "the daemon itself"

    def end(number: signal.Signals) -> None:
        nonlocal ended_by
        if not halt.is_set():
            ended_by = number.name
        halt.set()

    def tell(number: signal.Signals) -> None:
        if number is not signal.SIGUSR1 or registry is None:
            ignored(number)
        else:
            registry.tell()

    async with AsyncExitStack() as opened:
        files = [] if audit_log is None else [audit_log]
        made = opened.enter_context(NewDirectories(buffer_directory, state_directory, files=files))
        opened.callback(audit_to_log, None if audit_log is None else audit_to_file(audit_log))
        opened.enter_context(on_signals(end, tell))
        buffer_directory = make_buffer_directory(buffer_directory)
        check_buffer_directory(buffer_directory)
        if l2p_directory is not None:
            check_l2p_directory(l2p_directory)
        state = StateDirectory(state_directory)
        state.open()
        opened.callback(exports.close)
        opened.callback(state.close)
        identity = DaemonIdentity(
            host_nqn(state.host_id),
            state.host_id,
            listen,
            peer_timeout_s,
            buffer_directory,
            state.path / "keys" if target_keys else None,
            peers,
            target_user,
            exports,
            nqn_template,
            state.path / "reservations",
            None if service is None else catalog,
            None if service is None else service.address,
            TransportName(transport),
            state.path / FOLDER,
            listens,
            reactors or Reactors(),
            halt_timeout_s,
            loads or LoadTurns(),
            l2p_directory or state.path,
        )
        registry = Registry(state, identity, socket_path=str(sockets.path), logs=logs)
        registry.on_halted = halt.set
        try:
            # All of it before anything in a target is touched: an address may be in use.
            if service is None:
                give_up_socket(manager)
            else:
                opened.push_async_callback(service.close)
                await service.start()
            await _listen_for_http(opened, http, registry)
            await sockets.start(NativeEngine(registry, identity).route(registry.methods), registry.pages)
        except BaseException:
            state.undo_creation()
            raise
        opened.push_async_callback(sockets.close)
        made.keep()
        watchdog = await opened.enter_async_context(Watchdog(manager))
        registry.on_halting, registry.on_halt_status = watchdog.stopping, watchdog.tell_status
        with watchdog.starting():
            await registry.start(saved)
        try:
            manager.close()
            manager.notify("READY=1")
            print(f"spdk-ftl: ready, control socket {sockets.path} (pid {os.getpid()})", flush=True)
            await halt.wait()
        finally:
            # Also if the ready line could not be written: FTLs of an earlier daemon may already be loading.
            if not registry.is_halting:
                log.info("halting, asked for by %s", ended_by)
            if service is not None and not undo_on_exit and not registry.is_halting:
                # A halt is a pause for hosts. The service must not tell them that the FTLs are gone: nvme-stas would
                # disconnect them.
                await service.close()
            with asked_for_by(ended_by):
                await registry.halt(undo=undo_on_exit)


def _other_addresses(http: HttpOptions, service: DiscoveryService | None) -> dict[str, tuple[str, int]]:
    """Where the daemon listens besides the exports, by option and its value."""
    found = {}
    for option, given in (("--metrics", http.metrics), ("--web", http.web)):
        if given is not None:
            address = Address.parse(given)
            found[f"{option} {address}"] = address.host, address.port
    if service is not None:
        found[f"--discovery {service.address}"] = service.host, service.port
    return found


async def _listen_for_http(opened: AsyncExitStack, http: HttpOptions, registry: Registry) -> None:
    """Raises FtlError if an address can't be listened on."""
    listeners = HttpListeners(http.names)
    metrics = None
    if http.metrics is not None:
        metrics = listeners.at(Address.parse(http.metrics), "--metrics")
        metrics.add(METRICS_PATH, registry.pages[METRICS_PATH])
    web = None
    if http.web is not None:
        web = listeners.at(Address.parse(http.web), "--web")
        page = WebPage(registry)
        page.add_to(web)
        opened.push_async_callback(page.close)
    await listeners.start()
    opened.push_async_callback(listeners.close)
    if metrics is not None:
        registry.urls["metrics"] = metrics.url(METRICS_PATH)
        log.info("metrics at %s", metrics.url(METRICS_PATH))
    if web is not None:
        page.start()
        registry.urls["web"] = web.url()
        log.info("web page at %s", web.url())
