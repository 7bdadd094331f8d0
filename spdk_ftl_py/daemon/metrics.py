"""Metrics for Prometheus: those of docs/monitoring.md, with the numbers of bdev_ftl_get_stats.

METRICS defines each of them. A scrape visits one FTL after another and lets the event loop run between them. It calls
no target and visits no bands, because the counts are kept anyway. A thread formats long texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ..conf import LIMIT_NAMES
from ..ftl.cache.nv_cache_keeper import CacheState
from ..ftl.life import FtlState
from ..ftl.media.geometry import BLOCK_BYTES
from ..ftl.policy.limits import NO_LIMIT
from ..runtime.tasks import to_its_end
from ..runtime.turns import Turns, aside
from ..version import __version__
from .description import state_of
from .device import ManagedDevice
from .http_listener import Query, Reply
from .states import DeviceState

PATH: Final = "/metrics"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FTL_LABELS: Final = ("ftl", "target", "uuid")
STATES: Final = (*(state.value for state in DeviceState), FtlState.READ_ONLY.value)
LIMITS: Final = (NO_LIMIT, *LIMIT_NAMES)
GATES: Final = ("open", "holding", "failing")
_TEXT_US: Final = 4000
"""About as long as the text of one FTL takes, some 300 lines."""
_US: Final = 1e-6


@dataclass(frozen=True)
class Seen:
    """One FTL at one time. ``stats`` is the answer of bdev_ftl_get_stats. While no FTL runs, it has only the entries
    about I/O of hosts, or nothing."""

    name: str
    target: str
    uuid: str
    state: str
    base_bdev: str
    cache_bdev: str
    attached: bool
    block_count: int | None
    band_count: int | None
    hosts: int
    cache: dict[str, Any] | None
    stats: dict[str, Any]

    @classmethod
    def of(cls, device: ManagedDevice) -> Seen:
        ftl = device.ftl
        return cls(
            name=device.name,
            target=device.target,
            uuid=str(device.uuid),
            state=state_of(device),
            base_bdev=device.options.base_bdev,
            cache_bdev=device.options.cache or "",
            attached=device.attachment is not None,
            block_count=device.block_count,
            band_count=None if ftl is None else ftl.geometry.band_count,
            hosts=len(device.front.present),
            cache=None if ftl is None else ftl.cache.describe(),
            stats=device.front.host_io() if ftl is None else device.stats(),
        )


Values = Iterable[tuple[Sequence[str], Any]]
"""The values of a metric's own labels, and its value. The value of a histogram is a `latency` of bdev_ftl_get_stats."""


@dataclass(frozen=True)
class Kind:
    """One metric. ``name`` is what a sample is called, without the suffixes of a histogram."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    text: str
    of: Callable[[Seen], Values]
    labels: tuple[str, ...] = ()


def _one(value: Any) -> Values:
    return () if value is None else [((), value)]


def _states(now: str | None, states: Iterable[str]) -> Values:
    return () if now is None else [((state,), int(state == now)) for state in states]


def _number(key: str, scale: float = 1) -> Callable[[Seen], Values]:
    """Of a member of the statistics, which is counted in units of ``scale`` base units."""
    return lambda seen: _one(seen.stats[key] * scale if key in seen.stats else None)


def _core(key: str, scale: float = 1) -> Callable[[Seen], Values]:
    return lambda seen: _one(seen.stats["core"][key] * scale if "core" in seen.stats else None)


def _core_by_kind(scale: float, **kinds: Sequence[str]) -> Callable[[Seen], Values]:
    """The sum of counters of the core for each kind."""

    def of(seen: Seen) -> Values:
        core = seen.stats.get("core")
        return (
            []
            if core is None
            else [((kind,), sum(core[counter] for counter in counters) * scale) for kind, counters in kinds.items()]
        )

    return of


def _reactor(key: str) -> Callable[[Seen], Values]:
    return lambda seen: _one(seen.stats["reactor"][key] * _US if "reactor" in seen.stats else None)


def _cache(key: str, scale: float = 1) -> Callable[[Seen], Values]:
    return lambda seen: _one(None if seen.cache is None else seen.cache[key] * scale)


def _errors(seen: Seen) -> Values:
    told = seen.stats.get("host_errors", {})
    return [((op, error), count) for op, errors in told.items() for error, count in errors.items()]


def _scrub(key: str) -> Callable[[Seen], Values]:
    return lambda seen: _one(seen.stats["scrub"].get(key) if "scrub" in seen.stats else None)


METRICS: Final = (
    # --- what it is, and whether it serves
    Kind(
        "spdk_ftl_info",
        "gauge",
        "Always 1. Labels: the base bdev of the FTL, and the bdev of its nv cache (empty without one)",
        lambda seen: [((seen.base_bdev, seen.cache_bdev), 1)],
        ("base_bdev", "cache_bdev"),
    ),
    Kind(
        "spdk_ftl_state",
        "gauge",
        f"1 for the state that the FTL is in, 0 for the others: {', '.join(STATES)}",
        lambda seen: _states(seen.state, STATES),
        ("state",),
    ),
    Kind(
        "spdk_ftl_attached",
        "gauge",
        "1 if the FTL is attached as a bdev of its target, else 0",
        lambda seen: _one(int(seen.attached)),
    ),
    Kind(
        "spdk_ftl_capacity_bytes",
        "gauge",
        "Size of the FTL bdev",
        lambda seen: _one(None if seen.block_count is None else seen.block_count * BLOCK_BYTES),
    ),
    Kind("spdk_ftl_hosts", "gauge", "Connected hosts, including the target", lambda seen: _one(seen.hosts)),
    # --- hosts' I/O
    Kind(
        "spdk_ftl_host_latency_seconds",
        "histogram",
        "Time from the arrival of a host's I/O in the FTL to its completion; op: read, write, flush, trim",
        lambda seen: [((op,), latency) for op, latency in seen.stats.get("latency", {}).items()],
        ("op",),
    ),
    Kind(
        "spdk_ftl_host_errors_total",
        "counter",
        "I/Os of hosts that failed, by class of error (docs/durability.md, 'Errors of the base')",
        _errors,
        ("op", "class"),
    ),
    Kind(
        "spdk_ftl_host_read_bytes_total",
        "counter",
        "Bytes that hosts have read",
        _number("host_read_blocks", BLOCK_BYTES),
    ),
    Kind(
        "spdk_ftl_host_written_bytes_total",
        "counter",
        "Bytes that hosts have written",
        _number("host_written_blocks", BLOCK_BYTES),
    ),
    Kind(
        "spdk_ftl_host_trimmed_bytes_total",
        "counter",
        "Bytes that hosts have trimmed",
        _number("host_trimmed_blocks", BLOCK_BYTES),
    ),
    Kind(
        "spdk_ftl_host_gate",
        "gauge",
        "1 for the state of the gate, 0 for the others: open (serves I/O of hosts), holding (holds it until the base "
        "is back), failing (fails it)",
        lambda seen: _states(seen.stats.get("host_io", {}).get("gate"), GATES),
        ("state",),
    ),
    Kind(
        "spdk_ftl_host_io_held",
        "gauge",
        "I/Os of hosts that wait until the base is back",
        lambda seen: _one(seen.stats.get("host_io", {}).get("held")),
    ),
    Kind(
        "spdk_ftl_throttled_seconds_total",
        "counter",
        "Time that writes of hosts have waited because of a limit",
        _core("throttled_ns", 1e-9),
    ),
    Kind(
        "spdk_ftl_mapping_pages_read_total",
        "counter",
        "Pages of the L2P that were read from the L2P directory (l2p_dram_limit)",
        _core("l2p_page_reads"),
    ),
    Kind(
        "spdk_ftl_mapping_pages_written_total",
        "counter",
        "Pages of the L2P that were written there",
        _core("l2p_page_writes"),
    ),
    Kind(
        "spdk_ftl_mapping_page_waits_total",
        "counter",
        "Of both, those for which all I/O of the FTL has waited",
        _core("l2p_page_waits"),
    ),
    # --- bands, limits, relocation
    Kind(
        "spdk_ftl_bands",
        "gauge",
        "Number of bands in each state; states without bands are absent",
        lambda seen: [((state,), count) for state, count in seen.stats.get("bands", {}).items()],
        ("state",),
    ),
    Kind("spdk_ftl_all_bands", "gauge", "Number of all bands", lambda seen: _one(seen.band_count)),
    Kind("spdk_ftl_free_bands", "gauge", "Free bands", _number("free_bands")),
    Kind(
        "spdk_ftl_limit_free_bands",
        "gauge",
        "Free bands, as counted for the thresholds of the limits",
        _number("limit_free_bands"),
    ),
    Kind(
        "spdk_ftl_limit",
        "gauge",
        f"1 for the limit in force, 0 for the others: {', '.join(LIMITS)}",
        lambda seen: _states(seen.stats.get("limit"), LIMITS),
        ("limit",),
    ),
    Kind(
        "spdk_ftl_user_share_ratio",
        "gauge",
        "Share of writes that hosts get under the limit in force",
        _number("user_share", 0.01),
    ),
    Kind(
        "spdk_ftl_limits_applied_total",
        "counter",
        "How often each limit came into force",
        lambda seen: [((limit,), count) for limit, count in seen.stats.get("limits_applied", {}).items()],
        ("limit",),
    ),
    Kind("spdk_ftl_relocs_active", "gauge", "Bands that relocation is moving now", _number("active_relocs")),
    Kind(
        "spdk_ftl_policy_replaced",
        "gauge",
        "1: the policy of conf reloc_policy has failed or can't be had, and the default decides (docs/policies.md)",
        lambda seen: [((), int(seen.stats["policy_replaced"] is not None))] if "policy_replaced" in seen.stats else [],
    ),
    Kind("spdk_ftl_relocs_started_total", "counter", "Relocations of bands that have begun", _number("relocs_started")),
    Kind(
        "spdk_ftl_gc_moved_bytes_total",
        "counter",
        "Valid data that relocation has moved",
        _number("gc_moved_blocks", BLOCK_BYTES),
    ),
    Kind("spdk_ftl_zone_resets_total", "counter", "Resets of zones", _number("zone_resets")),
    Kind(
        "spdk_ftl_band_resets",
        "gauge",
        "How often bands were reset since the FTL was created: the least worn one, the mean, the most worn one",
        lambda seen: (
            [((which,), seen.stats["wear"][f"resets_{which}"]) for which in ("least", "mean", "most")]
            if "wear" in seen.stats
            else []
        ),
        ("which",),
    ),
    Kind(
        "spdk_ftl_wear_moves_total",
        "counter",
        "Bands that were moved only to level wear",
        lambda seen: [((), seen.stats["wear"]["moves"])] if "wear" in seen.stats else [],
    ),
    # --- the base
    Kind(
        "spdk_ftl_media_written_bytes_total",
        "counter",
        "Bytes written to the base, by kind: user, gc (relocation), metadata (headers with trim records, summaries)",
        _core_by_kind(
            BLOCK_BYTES,
            user=["media_user_blocks"],
            gc=["media_reloc_blocks"],
            metadata=["media_header_blocks", "media_summary_blocks"],
        ),
        ("kind",),
    ),
    Kind(
        "spdk_ftl_write_amplification_ratio",
        "gauge",
        "Bytes written to the base for each byte that hosts wrote, since the FTL was created or loaded; 0 before the "
        "first write",
        _number("write_amplification"),
    ),
    Kind("spdk_ftl_base_flushes_total", "counter", "Flushes of the base", _core("base_flushes")),
    Kind(
        "spdk_ftl_base_busy_answers_total",
        "counter",
        "I/Os that were repeated because the base was busy",
        _core("busy_answers"),
    ),
    Kind(
        "spdk_ftl_media_errors_total",
        "counter",
        "Errors of the base, by kind: read (failed), crc (the data read has a wrong CRC), write (failed)",
        _core_by_kind(1, read=["read_errors"], crc=["crc_errors"], write=["write_errors"]),
        ("kind",),
    ),
    Kind(
        "spdk_ftl_zone_faults_total",
        "counter",
        "Zones that failed, or that the base reports as read-only or offline",
        _number("zone_faults"),
    ),
    Kind("spdk_ftl_spare_zones", "gauge", "Spare zones left to replace failed zones", _number("spare_zones")),
    # --- damage
    Kind(
        "spdk_ftl_lost_blocks",
        "gauge",
        "Blocks of 4 KiB that media have lost, as found by the last load and by relocation since then; reads of them "
        "fail until they are written or trimmed",
        _number("lost_blocks"),
    ),
    Kind(
        "spdk_ftl_unreadable_blocks_total",
        "counter",
        "Blocks of 4 KiB for which a host's read failed",
        _number("unreadable_blocks"),
    ),
    Kind(
        "spdk_ftl_unreadable_bands_total",
        "counter",
        "Bands with a block that could not be read",
        _number("unreadable_bands"),
    ),
    Kind(
        "spdk_ftl_reads_repeated_total", "counter", "Blocks that the FTL read a second time", _number("reads_repeated")
    ),
    Kind(
        "spdk_ftl_reads_rescued_total",
        "counter",
        "Blocks that could be read only from the write buffer or the nv cache",
        _number("reads_rescued"),
    ),
    Kind(
        "spdk_ftl_scrub_read_bytes_total",
        "counter",
        "Bytes that the scrub has read and verified",
        _core("scrub_read_blocks", BLOCK_BYTES),
    ),
    Kind(
        "spdk_ftl_scrub_bad_blocks_total",
        "counter",
        "Blocks of 4 KiB that the scrub found damaged",
        _core("scrub_bad_blocks"),
    ),
    Kind(
        "spdk_ftl_scrub_progress_ratio",
        "gauge",
        "Part of the current round of the scrub that is done",
        _scrub("progress"),
    ),
    # --- memory, nv cache, time
    Kind("spdk_ftl_write_buffer_bytes", "gauge", "Size of the write buffer", _core("write_buffer_blocks", BLOCK_BYTES)),
    Kind(
        "spdk_ftl_write_buffer_used_bytes",
        "gauge",
        "Data that the FTL has accepted and not yet written to the base",
        _core("write_buffer_used", BLOCK_BYTES),
    ),
    Kind(
        "spdk_ftl_nv_cache_state",
        "gauge",
        f"1 for the state of the nv cache, 0 for the others: {', '.join(state.value for state in CacheState)}; only "
        "with a cache",
        lambda seen: _states(None if seen.cache is None else seen.cache["state"], [each.value for each in CacheState]),
        ("state",),
    ),
    Kind(
        "spdk_ftl_nv_cache_fill_ratio",
        "gauge",
        "Part of the nv cache's ring that holds blocks that are not on the base yet",
        _cache("fill"),
    ),
    Kind(
        "spdk_ftl_nv_cache_written_bytes_total",
        "counter",
        "User data that the FTL has written to the nv cache",
        lambda seen: _one(
            None
            if seen.cache is None or "core" not in seen.stats
            else seen.stats["nv_cache"]["write"]["blocks"] * BLOCK_BYTES
        ),
    ),
    Kind(
        "spdk_ftl_reactor_busy_seconds_total",
        "counter",
        "Time that the FTL's I/O thread has worked",
        _reactor("busy_us"),
    ),
    Kind(
        "spdk_ftl_reactor_idle_seconds_total",
        "counter",
        "Time that the FTL's I/O thread has slept, or polled and found nothing",
        _reactor("idle_us"),
    ),
)

DAEMON_METRICS: Final = (
    ("spdk_ftl_build_info", "Always 1. Label: the version of the daemon", ("version",)),
    ("spdk_ftl_devices", "Number of the daemon's FTLs", ()),
)
"""Name, text and labels."""


class Metrics:
    """Answers GET /metrics."""

    def __init__(self, devices: Callable[[], Iterable[ManagedDevice]]) -> None:
        self._devices = devices
        self._turn = asyncio.Lock()
        self._registry = CollectorRegistry()
        self._collector = _Collector()
        self._registry.register(self._collector)
        # Of the daemon's process: CPU time, memory, descriptors.
        ProcessCollector(registry=self._registry)

    async def page(self, _query: Query) -> Reply:
        async with self._turn:
            self._collector.seen = await self._look()
            work = (len(self._collector.seen) + 1) * _TEXT_US
            # A scraper may leave meanwhile. Threads must not pile up, nor see the next scrape's numbers.
            body = await to_its_end(aside(work, lambda: generate_latest(self._registry)))
        return Reply(body, CONTENT_TYPE)

    async def _look(self) -> list[Seen]:
        turns = Turns()
        seen = []
        for device in list(self._devices()):
            seen.append(Seen.of(device))
            await turns()
        return seen


class _Collector(Collector):
    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def describe(self) -> Iterator[Metric]:
        """What the registry asks at the registration, instead of collect()."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        (build, build_text, labels), (devices, devices_text, _) = DAEMON_METRICS
        info = GaugeMetricFamily(build, build_text, labels=labels)
        info.add_metric((__version__,), 1)
        yield info
        yield GaugeMetricFamily(devices, devices_text, value=len(self.seen))
        for kind in METRICS:
            yield self._family(kind)

    def _family(self, kind: Kind) -> Metric:
        labels = (*FTL_LABELS, *kind.labels)
        if kind.type == "histogram":
            histogram = HistogramMetricFamily(kind.name, kind.text, labels=labels)
            for values, latency in self._values(kind):
                buckets = [(str(bound / 1e6), float(count)) for bound, count in latency["buckets"]]
                histogram.add_metric(values, [*buckets, ("+Inf", float(latency["count"]))], latency["sum_us"] * _US)
            return histogram
        plain = (CounterMetricFamily if kind.type == "counter" else GaugeMetricFamily)(
            kind.name, kind.text, labels=labels
        )
        for values, value in self._values(kind):
            plain.add_metric(values, value)
        return plain

    def _values(self, kind: Kind) -> Iterator[tuple[tuple[str, ...], Any]]:
        for seen in self.seen:
            for values, value in kind.of(seen):
                yield (seen.name, seen.target, seen.uuid, *values), value
