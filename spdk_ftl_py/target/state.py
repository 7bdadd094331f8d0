"""The state that RPCs change: bdevs, their users and media, and how all of it is saved."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ..runtime.reactor import ReactorLoop
from .bdevs import BdevLayer
from .decode import Params
from .keyring import Keyring
from .nbd import NbdExports
from .nvme_bdev import NvmeControllers
from .nvmf import Nvmf
from .parts import ErrorBdevs, SplitBdevs
from .raid import Raids
from .virtual import VirtualBdevs


class TargetState:
    """The target without its RPCs. Handlers depend on this class."""

    def __init__(self, reactor: ReactorLoop) -> None:
        self.reactor = reactor
        self.bdevs = BdevLayer(reactor)
        self.malloc_count = 0
        self.keyring = Keyring()
        self.started = asyncio.Event()
        self.stopping = asyncio.Event()
        self.lock = asyncio.Lock()
        """Whoever changes the target holds this lock: one RPC at a time, and events from drives in between."""
        self.virtual = VirtualBdevs(reactor, self.bdevs)
        self.splits = SplitBdevs(reactor, self.bdevs)
        self.errors = ErrorBdevs(reactor, self.bdevs)
        self.raids = Raids(reactor, self.bdevs, self.lock)
        self.nvme = NvmeControllers(reactor, self.bdevs, self.lock)
        self.nvmf = Nvmf(reactor, self.bdevs)
        self.nbd = NbdExports(reactor, self.bdevs)
        self.log_flags: frozenset[str] = frozenset()
        self.log_level = "NOTICE"
        self.log_print_level: str | None = None
        self._saved: dict[str, tuple[str, Params]] = {}

    def kill(self, signal_number: int) -> None:
        """For spdk_kill_instance: the signal comes after the reply had time to be sent."""
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal_number)

    def remember(self, bdev_name: str, method: str, params: Params) -> None:
        """Stores the JSON entry of a bdev for framework_get_config."""
        self._saved[bdev_name] = (
            method,
            {name: value if isinstance(value, (bool, int, str)) else str(value) for name, value in params.items()},
        )

    def remember_size(self, bdev_name: str, num_blocks: int) -> None:
        """The bdev was resized after remember()."""
        self._saved[bdev_name][1]["num_blocks"] = num_blocks

    def forget(self, bdev_name: str) -> None:
        self._saved.pop(bdev_name, None)

    def saved_bdevs(self) -> list[dict[str, Any]]:
        return [{"method": method, "params": dict(params)} for method, params in self._saved.values()]
