"""What the daemon says of its FTLs, again and again, in a thread: the terminal answers keys meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ...client import DaemonClient
from ...errors import DaemonError, FtlError
from ...rates import Rates, between

ANSWER_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Ftl:
    """One FTL at one time. stats, properties, hosts: what the RPCs answered; None: they had no answer."""

    device: dict[str, Any]
    stats: dict[str, Any] | None = None
    rates: Rates | None = None
    properties: dict[str, Any] | None = None
    hosts: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        return str(self.device["uuid"])

    @property
    def name(self) -> str:
        return str(self.device["name"])


@dataclass(frozen=True)
class Sample:
    """All FTLs at one time, in the order of the daemon."""

    taken: float = 0.0
    """By the monotonic clock."""
    daemon: dict[str, Any] = field(default_factory=dict)
    ftls: tuple[Ftl, ...] = ()
    error: str = ""
    """Why the daemon did not answer; the rest is the last that it said."""


class Sampler:
    """Takes samples. wanted: the UUID of the FTL of which everything is asked."""

    def __init__(self, client: DaemonClient, name: str | None = None) -> None:
        """name: the only FTL to ask for; None: all."""
        self._client = client
        self._params = {} if name is None else {"name": name}
        self.wanted: str | None = None

    def take(self, before: Sample) -> Sample:
        """before: the sample to which rates refer. If the daemon does not answer, what was known stays."""
        try:
            daemon = self._client.call("ftl_get_daemon")
            devices = self._client.call("ftl_get_devices", self._params)
            taken = time.monotonic()
            earlier = {ftl.key: ftl for ftl in before.ftls}
            ftls = tuple(self._one(device, earlier.get(device["uuid"]), taken - before.taken) for device in devices)
        except (FtlError, OSError) as error:
            message = error.message if isinstance(error, FtlError) else str(error)
            return Sample(before.taken, before.daemon, before.ftls, message)
        return Sample(taken, daemon, ftls)

    def _one(self, device: dict[str, Any], before: Ftl | None, seconds: float) -> Ftl:
        which = {"name": device["name"], "target": device["target"]}
        stats = self._ask("bdev_ftl_get_stats", which)
        rates = None
        if stats is not None and before is not None and before.stats is not None:
            rates = between(before.stats, stats, seconds)
        if device["uuid"] != self.wanted:
            return Ftl(device, stats, rates)
        properties, hosts = (self._ask(rpc, which) for rpc in ("bdev_ftl_get_properties", "bdev_ftl_get_hosts"))
        return Ftl(device, stats, rates, properties, hosts)

    def _ask(self, method: str, which: dict[str, Any]) -> dict[str, Any] | None:
        """None if the FTL has no such answer now: it waits for its base, or was deleted."""
        try:
            answer: dict[str, Any] = self._client.call(method, which)
        except FtlError as error:
            if isinstance(error, DaemonError):
                raise
            return None
        return answer


class SampleThread:
    """Takes a sample at once, and one each interval. tell() is called after each, in the thread."""

    def __init__(self, sampler: Sampler, interval_s: float, tell: Callable[[], None]) -> None:
        self.latest = Sample()
        self.paused = False
        self._sampler = sampler
        self._interval_s = interval_s
        self._tell = tell
        self._hurry = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Does not wait for a daemon that is silent; the thread does not keep the program."""
        self._ended = True
        self._hurry.set()

    def ask_for(self, key: str | None) -> None:
        """Everything of that FTL, soon."""
        self._sampler.wanted = key
        self._hurry.set()

    def _run(self) -> None:
        base = self.latest
        while not self._ended:
            if not self.paused:
                sample = self._sampler.take(base)
                # A sample taken soon after another shows what is new, but the rates of the whole interval before.
                base = sample if sample.taken - base.taken >= self._interval_s / 2 else base
                self.latest = sample
                self._tell()
            self._hurry.wait(self._interval_s)
            self._hurry.clear()
