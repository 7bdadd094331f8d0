"""Results of the daemon's RPCs, for annotations in scripts: ``from spdk_ftl_py.results import Device``.

docs/rpc.md describes each. A block is 4096 bytes; ``num_blocks`` and everything named ``blocks`` count such blocks.
Times are UTC, in ISO 8601. UUIDs are strings. Members under ``total=False`` may be missing. A later minor version of
the daemon may add members.
"""

from __future__ import annotations

from typing import Any, TypedDict


class _Named(TypedDict):
    name: str
    uuid: str


# --- creation --------------------------------------------------------------------------------------------------------


class _CreatedFtl(TypedDict):
    name: str


class CreatedFtl(_CreatedFtl, total=False):
    """bdev_ftl_create(), bdev_ftl_load(). For a deferred creation, without wait: name, state and waiting_for."""

    uuid: str
    changed: bool
    """With if_absent. False: the FTL already existed."""
    loaded: bool | None
    """With load_or_create. True: the FTL was on the base bdev; False: it was created; None: not decided yet."""
    state: str
    """With wait, if the FTL existed, or is deferred."""
    waiting_for: str | None
    """None: the FTL does not wait, it is online."""


# --- devices ---------------------------------------------------------------------------------------------------------


class _AllowedHost(TypedDict):
    nqn: str
    is_target: bool
    """The host is the SPDK target that has the FTL as a bdev."""


class AllowedHost(_AllowedHost, total=False):
    """Keys are shown as the absolute paths of their files."""

    dhchap_key: str | None
    dhchap_ctrlr_key: str | None
    psk: str | None


class Export(TypedDict):
    """The address of an FTL for NVMe/TCP hosts; or, if it has no TCP port, the endpoint of its target."""

    trtype: str
    """TCP; VFIOUSER without a TCP port."""
    traddr: str
    trsvcid: str
    """Empty without a TCP port."""
    subnqn: str
    nsid: int


class Listener(TypedDict):
    """An address of an export. listening is False while the daemon can't listen at the address; it keeps trying."""

    traddr: str
    trsvcid: str
    ana_state: str
    listening: bool


class Dependents(TypedDict):
    """What is built on an FTL in its target, and recreated by the daemon."""

    calls: int
    pending: bool
    failed: list[dict[str, Any]]


class _Device(_Named):
    state: str
    """deferred, creating, online, read_only, waiting, failed, deleting."""
    since: str
    target: str
    base_bdev: str
    no_data: bool
    attached: bool
    allow_any_host: bool
    secure_channel: bool
    hosts: list[AllowedHost]
    base_tls: str | None
    error: str | None


class _DeviceInSomeStates(_Device, total=False):
    dependents: Dependents
    progress: str
    waiting_for: str
    transport: str
    """How the target reaches the FTL: tcp or vfio-user."""
    endpoint: str
    """The directory by which the target reaches it, with vfio-user."""
    export: Export
    listeners: list[Listener]
    block_size: int
    num_blocks: int
    host_io: str
    """open: the FTL serves I/O of hosts; holding: I/O waits for the base; failing: I/O fails."""
    num_bands: int
    free_bands: int


class Device(_DeviceInSomeStates):
    """One of ftl_get_devices()."""

    cache: str | None


class Cache(TypedDict):
    """The nv cache of an FTL. state: in_use, failing, given_up, absent."""

    bdev: str
    names: list[str]
    kind: str | None
    state: str
    failure: str | None


Property = TypedDict("Property", {"name": str, "value": Any, "unit": str, "desc": str, "read-only": bool}, total=False)
"""``name``, ``value`` and ``read-only`` are always there."""


class _DeviceProperties(_DeviceInSomeStates):
    base_names: list[str]
    zone_events: bool | None
    params: dict[str, Any]
    """The parameters of its creation."""
    cache: Cache | None


class DeviceProperties(_DeviceProperties, total=False):
    """bdev_ftl_get_properties()."""

    properties: list[Property]
    conf: dict[str, Any]
    """Instead of stats, if the FTL is deferred, waiting or failed."""


class RenumberedFtl(TypedDict):
    """bdev_ftl_set_uuid()."""

    bdev: str
    name: str
    """The name in its superblock."""
    uuid: str
    was: str


class _GrownFtl(TypedDict):
    name: str
    num_blocks: int
    changed: bool


class GrownFtl(_GrownFtl, total=False):
    """bdev_ftl_grow()."""

    target_num_blocks: int | None
    """For an FTL that is attached."""


class NbdExport(_Named):
    """The result of bdev_ftl_nbd_start(), and an entry of bdev_ftl_nbd_get()."""

    target: str
    socket_path: str
    uri: str
    """For clients: nbd+unix:///?socket=PATH."""
    read_only: bool
    block_size: int
    num_blocks: int
    connections: int
    requests: int
    """Since the start of the export, like the next three."""
    read_blocks: int
    write_blocks: int
    errors: int
    state: str
    """serving or ended."""
    reason: str | None
    """Why the export has ended; None while it serves."""


# --- statistics ------------------------------------------------------------------------------------------------------


class ReadErrors(TypedDict):
    media: int
    crc: int
    other: int


class WriteErrors(TypedDict):
    media: int
    other: int


class ReadCounts(TypedDict):
    ios: int
    blocks: int
    errors: ReadErrors


class WriteCounts(TypedDict):
    ios: int
    blocks: int
    errors: WriteErrors


class IoCounts(TypedDict):
    read: ReadCounts
    write: WriteCounts


class Wear(TypedDict):
    resets_least: int
    resets_mean: float
    resets_most: int
    moves: int
    percent_used: int | None


class ZoneWatch(TypedDict):
    rounds: int
    zones_seen: int
    events: int
    logs_read: int
    zones_seen_changed: int
    zones_finished: int
    bands_relocated: dict[str, int]


class RunningCheckpoint(TypedDict):
    """Of statistics. Turns and blocks since the load."""

    turns: int
    turns_given_up: int
    written_blocks: int
    whole: bool
    """A load after a crash would use a turn."""
    bands: int
    """That hold it."""
    refused: str | None
    """Why there is none although conf running_checkpoint is set; null if there may be one."""


class _ScrubCounts(TypedDict):
    round: int
    ordered: bool
    began: str
    read_blocks: int
    bad_blocks: int
    bad_metadata: int
    slow_bands: int
    relocated_bands: int
    unread_bands: int


class ScrubRound(_ScrubCounts):
    """A round that has ended."""

    ended: str


class _ScrubStatus(TypedDict):
    state: str
    """running, waiting, off."""
    scrub_days: int
    progress: float | None
    rate_blocks_per_s: int
    last: ScrubRound | None


class ScrubStatus(_ScrubStatus, total=False):
    """The round in progress in statistics, if there is one."""

    next: str
    left_blocks: int
    round: int
    ordered: bool
    began: str
    read_blocks: int
    bad_blocks: int
    bad_metadata: int
    slow_bands: int
    relocated_bands: int
    unread_bands: int


class OrderedScrub(ScrubStatus):
    """bdev_ftl_scrub()."""

    name: str


class Limit(TypedDict):
    """free_bands: the limit applies while at most so many bands are free; user_share: the share of writes that hosts
    then get, in percent."""

    free_bands: int
    user_share: int


class Move(TypedDict):
    """A band that relocation is moving. valid_blocks, invalid_blocks, age and merit are those at the time of the
    choice; left_blocks are still to be moved."""

    band: int
    why: str
    valid_blocks: int
    invalid_blocks: int
    left_blocks: int
    age: int
    merit: float


class Latency(TypedDict):
    """Latencies of completed I/O, in microseconds. Percentiles are at most 3 % too high."""

    count: int
    sum_us: float
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p99_9_us: float
    max_us: float
    buckets: list[list[int]]
    """[upper bound in us, number of I/Os that took no longer]. The bounds are powers of two, 1 us to 16.8 s."""


class Latencies(TypedDict):
    """trim includes Write Zeroes."""

    read: Latency
    write: Latency
    flush: Latency
    trim: Latency


class ErrorCounts(TypedDict):
    """Errors by class: docs/durability.md, "Errors of the base"."""

    gone: int
    busy: int
    doubt: int
    command: int
    block: int
    zone: int
    mistake: int


class HostErrors(TypedDict):
    """I/Os of hosts that failed."""

    read: ErrorCounts
    write: ErrorCounts
    flush: ErrorCounts
    trim: ErrorCounts


class HostIo(TypedDict):
    """gate: open (serves I/O), holding (holds I/O until the base is back) or failing (fails I/O until then). held: the
    number of I/Os that wait."""

    gate: str
    held: int


class ReactorTime(TypedDict):
    """How the FTL's I/O thread has spent its time since it was started: busy; or asleep, or with nothing to do."""

    busy_us: int
    idle_us: int


class FtlStats(_Named):
    """The result of FtlDevice.stats(), for an FTL without a daemon; part of bdev_ftl_get_stats()."""

    state: str
    user: IoCounts
    cmp: IoCounts
    gc: IoCounts
    md_base: IoCounts
    md_nv_cache: IoCounts
    nv_cache: IoCounts
    l2p: IoCounts
    host_read_blocks: int
    host_written_blocks: int
    host_trimmed_blocks: int
    media_written_blocks: int
    write_amplification: float
    gc_moved_blocks: int
    zone_resets: int
    flushes: int
    unreadable_blocks: int
    reads_repeated: int
    reads_rescued: int
    throttled_ms: int
    free_bands: int
    limit_free_bands: int
    bands: dict[str, int]
    active_relocs: int
    relocs_started: int
    limit: str
    user_share: int
    limits_applied: dict[str, int]
    limits: dict[str, Limit]
    moves: list[Move]
    policy_in_use: str
    policy_replaced: str | None
    wear: Wear
    lost_blocks: int
    zone_faults: int
    zones_finished_by_base: int
    zone_watch: ZoneWatch
    unreadable_bands: int
    spare_zones: int
    scrub: ScrubStatus
    checkpoint: RunningCheckpoint
    core: dict[str, int]


class Stats(FtlStats):
    """The result of bdev_ftl_get_stats()."""

    latency: Latencies
    """Of I/O of hosts, since the daemon created or loaded the FTL."""
    host_errors: HostErrors
    host_io: HostIo
    reactor: ReactorTime


# --- hosts -----------------------------------------------------------------------------------------------------------


class _HostIo(TypedDict):
    commands: int
    read_blocks: int
    write_blocks: int
    errors: int
    bytes_in: int
    bytes_out: int


class HostController(_HostIo):
    """One connection of a host."""

    cntlid: int
    hostnqn: str
    hostid: str
    traddr: str
    trsvcid: str
    connected: str
    age_s: float
    authentication: str | None
    tls: str | None
    num_io_qpairs: int
    qpairs: list[dict[str, Any]]


class EndedController(HostController):
    ended: str
    reason: str


class Refusal(TypedDict):
    traddr: str
    hostnqn: str
    reason: str
    count: int
    first: str
    last: str


class Registrant(TypedDict):
    """A host that has registered for reservations."""

    hostnqn: str
    hostid: str
    key: str
    holder: bool


class Reservation(TypedDict):
    """type is None if no host has reserved the FTL. persistent: registrations and reservation outlive the daemon."""

    type: str | None
    generation: int
    persistent: bool
    registrants: list[Registrant]


class Hosts(TypedDict):
    """bdev_ftl_get_hosts()."""

    name: str
    allow_any_host: bool
    secure_channel: bool
    hosts: list[AllowedHost]
    controllers: list[HostController]
    refused: list[Refusal]
    disconnected: list[EndedController]
    reservation: Reservation


# --- content of bdevs -----------------------------------------------------------------------------------------------


class _ScannedBdev(TypedDict):
    bdev: str


class ScannedBdev(_ScannedBdev, total=False):
    name: str | None
    uuid: str
    num_blocks: int | None
    clean: bool | None
    format_version: int | None
    zone_capacity: int | None
    has_cache: bool
    damage: str | None
    state: str
    cache_of: str | None
    error: str


class ScanResult(TypedDict):
    """bdev_ftl_scan()."""

    bdevs: list[ScannedBdev]


# --- the daemon ------------------------------------------------------------------------------------------------------


class _BufferFile(TypedDict):
    path: str
    uuid: str
    bytes: int
    held_blocks: int | None
    held_records: int | None


class BufferFile(_BufferFile, total=False):
    """A write buffer file that no FTL needs."""

    problem: str


class RemovedBuffers(TypedDict):
    """ftl_remove_buffers()."""

    removed: list[BufferFile]


class DaemonInfo(TypedDict):
    """ftl_get_daemon()."""

    version: str
    pid: int
    socket: str
    state_directory: str
    hostnqn: str
    listen: str
    discovery: str | None
    buffer_directory: str
    peer_timeout_s: float
    devices: int
    urls: dict[str, str]
    """The URLs at which the daemon serves HTTP over TCP: metrics, web; only those that were asked for."""
    unneeded_buffers: list[BufferFile]
    log_level: str
    log_subjects: dict[str, str]
    audit_log: str | None
    uptime_s: float


class LogSettings(TypedDict):
    """The result of ftl_set_log_level(): what the daemon logs now. log_subjects: levels by subject."""

    log_level: str
    log_subjects: dict[str, str]
    audit_log: str | None


class HaltedDaemon(TypedDict):
    """ftl_halt(). halted: names of FTLs."""

    pid: int
    halted: list[str]


class SavedSubsystem(TypedDict):
    subsystem: str
    config: list[dict[str, Any]] | None


class SavedConfig(TypedDict):
    """ftl_save_config()."""

    subsystems: list[SavedSubsystem]


class LoadedFtl(_Named):
    state: str
    waiting_for: str | None


class LoadedConfig(TypedDict):
    """ftl_load_config()."""

    loaded: list[LoadedFtl]
    unchanged: list[LoadedFtl]
