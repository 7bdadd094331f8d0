"""FtlConf: the settings of an FTL, with the seed's defaults (ftl_init.c, g_default_conf) and its rules.

There are two checks, because two things are known at different times: ``check()`` needs only the conf itself;
``check_geometry()`` needs the bands, and returns the conf with every default filled in.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .errors import ConfError
from .ignored_settings import IGNORED

BLOCK_BYTES: Final = 4096
"""The shim's BLOCK_BYTES, for programs that run without the shim (tests/unit/shim/test_stub.py compares)."""

LIMIT_CRIT: Final = "crit"
LIMIT_HIGH: Final = "high"
LIMIT_LOW: Final = "low"
LIMIT_START: Final = "start"
LIMIT_NAMES: Final = (LIMIT_CRIT, LIMIT_HIGH, LIMIT_LOW, LIMIT_START)
"""In the order in which they take effect, the most urgent first."""

DEFAULT_SHARES: Final[Mapping[str, int]] = {LIMIT_CRIT: 0, LIMIT_HIGH: 5, LIMIT_LOW: 40, LIMIT_START: 100}

RESERVED_BANDS: Final = 2
"""Free bands that user writes never take: one for relocation, one for what a zone reset has to wait for."""

START_BANDS: Final = 3
"""Default threshold of start, the least that descending thresholds allow: every band kept free beyond need is spare
space that does not lower write amplification. docs/ftl.md, "Conf", says why this is enough."""
FEW_BANDS: Final = 8
"""If no more bands than this can be free on a full device, start is one more: a crash, or a base that finishes zones,
costs the rests of open bands, which are much of so little space."""
START_BLOCKS: Final = 1024
"""If bands are smaller than this, so many blocks more: the event loop needs time to give the next band."""
START_FRACTION: Final = 4
"""But not more than this part of the bands that can be free on a full device."""
_FORMER_THRESHOLDS: Final[Mapping[str, int]] = {LIMIT_CRIT: 5, LIMIT_HIGH: 10, LIMIT_LOW: 20, LIMIT_START: 40}
"""The seed's: defaults of FTLs created by a version before."""

RELOC_POLICIES: Final = ("age_threshold", "cost_benefit", "d_choices", "greedy", "seed", "sepbit")
"""Those that ship (ftl/policy/registry.py)."""
DEFAULT_RELOC_POLICY: Final = "seed"
RELOC_POLICY_MAX: Final = 200
RELOC_POLICY_FORM: Final = re.compile(
    r"[A-Za-z_][A-Za-z0-9_.-]*(:[A-Za-z_][A-Za-z0-9_]*)?(:[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_.+-]+)*"
)
"""NAME or MODULE:CLASS, each with parameters. docs/policies.md has the meaning."""

WRITE_BUFFER_BLOCKS_MIN: Final = 8
"""The data path does not work with fewer slots (shim/ftl/core_state.cpp)."""
WRITE_BUFFER_BYTES_MIN: Final = WRITE_BUFFER_BLOCKS_MIN * BLOCK_BYTES
WRITE_BUFFER_BYTES_MAX: Final = 1 << 30
"""At most half a band is used (write_buffer_blocks())."""
RELOC_QDEPTH_MAX: Final = 1024
ACTIVE_RELOCS_MAX: Final = 64
IO_CHANNELS_MAX: Final = 1024
CORES_MAX: Final = 64
CLASSES_MAX: Final = 8
"""Classes of bands that the shim can write side by side (kClassesMax in shim/ftl/placement.hpp)."""
NV_CACHE_REQUESTS_MAX: Final = 1 << 16
NV_CACHE_REQUEST_BLOCKS_MAX: Final = 256
SCRUB_DAYS_MAX: Final = 365
RATED_RESETS_MAX: Final = 10_000_000
L2P_DRAM_LIMIT_MAX: Final = 1 << 20
RUNNING_CHECKPOINT_MAX: Final = 100


_PARTS: Final = ("nv_cache",)
"""Settings that consist of parts, each with a name of its own: nv_cache.max_request_cnt."""


class BandNumbers(Protocol):
    """What check_geometry() needs to know of a geometry (the whole one: ftl/media/geometry.py)."""

    @property
    def band_count(self) -> int: ...
    @property
    def punits(self) -> int: ...
    @property
    def open_bands(self) -> int:
        """Bands that are being filled: 2, or 1 if both streams share one."""

    @property
    def band_blocks(self) -> int:
        """Data blocks that a whole band holds."""

    @property
    def block_count(self) -> int:
        """Logical blocks."""

    @property
    def spare_bands(self) -> int:
        """Bands in addition to those that hold every logical block once."""


@dataclass(frozen=True)
class Limit:
    """If at most ``thld`` bands are free, at most ``limit`` percent of the writes are user writes.

    thld None: the seed's default, scaled to the number of bands.
    """

    limit: int
    thld: int | None = None


@dataclass(frozen=True)
class NvCacheConf:
    """Bounds of the nv cache's requests."""

    max_request_cnt: int = 2048
    """Outstanding writes, limited to what the write buffer can fill."""
    max_request_size: int = 16
    """Blocks of data in one write, limited to what the device takes."""


def _default_limits() -> dict[str, Limit]:
    return {name: Limit(DEFAULT_SHARES[name]) for name in LIMIT_NAMES}


def given_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """The conf in the parameters of bdev_ftl_create, as FtlConf.from_dict() takes it: overprovisioning,
    allow_open_bands, use_append, l2p_dram_limit, limit_NAME, limit_NAME_threshold, and the members of conf, except for
    ignored ones. Other parameters are not read."""
    values: dict[str, Any] = {}
    for name, value in dict(params.get("conf") or {}).items():
        whole, _, part = name.partition(".")
        if part and whole in _PARTS:
            values.setdefault(whole, {})[part] = value
        elif name not in IGNORED:
            values[name] = dict(value) if isinstance(value, Mapping) else value
    for name, setting in (
        ("overprovisioning", "lba_rsvd"),
        ("allow_open_bands", "allow_open_bands"),
        ("use_append", "use_append"),
    ):
        if params.get(name) is not None:
            values[setting] = params[name]
    if params.get("l2p_dram_limit") is not None:
        # SPDK's scripts may give any number.
        values["l2p_dram_limit"] = min(params["l2p_dram_limit"], L2P_DRAM_LIMIT_MAX)
    limits = {name: dict(parts) for name, parts in dict(values.get("limits") or {}).items()}
    for name in LIMIT_NAMES:
        for suffix, part in (("", "limit"), ("_threshold", "thld")):
            value = params.get(f"limit_{name}{suffix}")
            if value is not None:
                limits.setdefault(name, {})[part] = value
    if limits:
        values["limits"] = limits
    return values


@dataclass(frozen=True)
class FtlConf:
    """All of an FTL's settings. Immutable; ``dataclasses.replace`` makes variants."""

    limits: Mapping[str, Limit] = field(default_factory=_default_limits)
    invalid_thld: int = 10
    """Percentage of invalid blocks from which on a band may be relocated, unless free bands are urgently needed."""
    lba_rsvd: int = 20
    """Percentage of the blocks that are not offered to the user (overprovisioning)."""
    write_buffer_size: int = 6 * 1024 * 1024
    """Size of the write buffer in bytes. An FTL has one for all its hosts; at most half a band is used
    (write_buffer_blocks())."""
    band_thld: int = 90
    """Fill level of a band, in percent, at which the next one is opened."""
    max_reloc_qdepth: int = 32
    max_active_relocs: int = 3
    allow_open_bands: bool = False
    max_io_channels: int = 128
    """I/O channels: I/O queues of hosts."""
    cores: int = 1
    """Reactors over which these queues are spread; at most those of the daemon are used."""
    nv_cache: NvCacheConf = NvCacheConf()
    use_append: bool = False
    reloc_policy: str = DEFAULT_RELOC_POLICY
    """How bands are chosen for relocation, and what data shares a band (ftl/policy)."""
    verify_reads: bool = True
    """Verify the CRC of blocks that hosts read; takes 2 bytes of memory for each block."""
    scrub_days: int = 14
    """Days in which all valid data is read and verified at least once; 0: only on order."""
    rated_resets: int = 0
    """Resets that each zone of the base stands, by its data sheet; 0: unknown."""
    l2p_dram_limit: int = 0
    """MiB of memory that the L2P, and the CRCs of verify_reads, may take; what is used less is in a file
    (docs/l2p-paging.md). 0: all that they need."""
    running_checkpoint: int | None = None
    """A copy of the L2P is written each time hosts have written this percentage of the capacity, so that a load after a
    crash reads little; 0: never (docs/checkpoint.md). None: creation decides by the size of the FTL."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FtlConf:
        """Builds a conf from JSON-like values. Missing settings keep their defaults, and IGNORED ones are not read.
        Inverse of to_dict().

        ``limits`` is {name: {"limit": percent, "thld": free bands}}, each part optional. Raises ConfError for unknown
        names and wrong types; check() checks the ranges.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}
        given: dict[str, Any] = {}
        for name, value in values.items():
            if name in IGNORED:
                continue
            if name not in known:
                raise ConfError(f"conf has no setting {name!r}: use one of {', '.join(sorted(known))}")
            if name == "limits":
                given[name] = _limits_from_dict(value)
            elif name == "nv_cache":
                given[name] = _nv_cache_from_dict(value)
            elif name in ("allow_open_bands", "use_append", "verify_reads"):
                if not isinstance(value, bool):
                    raise ConfError(f"conf {name} = {value!r}: must be true or false")
                given[name] = value
            elif name == "running_checkpoint" and value is None:
                given[name] = None
            elif name == "reloc_policy":
                if not isinstance(value, str):
                    raise ConfError(f"conf {name} = {value!r}: must be a string: {_RELOC_POLICY_HELP}")
                given[name] = value
            else:
                given[name] = _integer(name, value)
        return cls(**given)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> FtlConf:
        """The conf for parameters of bdev_ftl_create; what they do not contain has its default."""
        return cls.from_dict(given_settings(params))

    def changed(self, settings: Mapping[str, Any]) -> FtlConf:
        """A copy with the given settings, including default values; of limits and nv_cache only the given parts.
        Thresholds that are not given stay as they are if that keeps them in order; otherwise they get their defaults.

        Raises ConfError as from_dict().
        """
        FtlConf.from_dict(settings)
        mine = self.to_dict()
        values = {**mine, **settings}
        if "nv_cache" in settings:
            values["nv_cache"] = {**mine["nv_cache"], **settings["nv_cache"]}
        if "limits" in settings:
            given = settings["limits"]
            limits = {name: {**mine["limits"][name], **given.get(name, {})} for name in LIMIT_NAMES}
            thresholds = [thld for name in LIMIT_NAMES if (thld := limits[name].get("thld")) is not None]
            if any(upper <= lower for lower, upper in itertools.pairwise(thresholds)):
                limits = {name: {**parts, "thld": given.get(name, {}).get("thld")} for name, parts in limits.items()}
            values["limits"] = limits
        return FtlConf.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; from_dict() of it gives an equal conf."""
        values = dataclasses.asdict(dataclasses.replace(self, limits={}))
        values["limits"] = {
            name: {"limit": limit.limit, **({} if limit.thld is None else {"thld": limit.thld})}
            for name, limit in self.limits.items()
        }
        return values

    def with_limits(self, **limits: Limit) -> FtlConf:
        """A copy with some limits replaced. Raises ConfError for an unknown name."""
        _check_limit_names(limits)
        return dataclasses.replace(self, limits={**self.limits, **limits})

    def setting(self, name: str) -> Any:
        """A setting by the name under which it is given: nv_cache.max_request_cnt is a part of nv_cache."""
        whole, _, part = name.partition(".")
        value = getattr(self, whole)
        return getattr(value, part) if part else value

    @property
    def checkpoint_percent(self) -> int:
        """running_checkpoint, or 0 where nobody has decided."""
        return self.running_checkpoint or 0

    @property
    def write_buffer_blocks(self) -> int:
        return self.write_buffer_size // BLOCK_BYTES

    def check(self) -> None:
        """Checks every rule that needs no device. Raises ConfError, which names setting, value, rule and remedy."""
        _range(
            "invalid_thld", self.invalid_thld, 0, 99, "percent of a band that must be invalid before it is relocated"
        )
        _range("lba_rsvd", self.lba_rsvd, 1, 99, "percent of the blocks reserved for garbage collection; 20 is usual")
        _range(
            "write_buffer_size",
            self.write_buffer_size,
            WRITE_BUFFER_BYTES_MIN,
            WRITE_BUFFER_BYTES_MAX,
            f"bytes, multiple of {BLOCK_BYTES}",
        )
        if self.write_buffer_size % BLOCK_BYTES:
            nearest = (self.write_buffer_size + BLOCK_BYTES // 2) // BLOCK_BYTES * BLOCK_BYTES
            raise ConfError(
                f"conf write_buffer_size = {self.write_buffer_size}: must be a multiple of {BLOCK_BYTES} bytes; "
                f"{nearest} is the nearest"
            )
        _range("band_thld", self.band_thld, 1, 100, "percent of a band at which the next one is opened")
        _range("max_reloc_qdepth", self.max_reloc_qdepth, 1, RELOC_QDEPTH_MAX, "outstanding reads for each relocation")
        _range("max_active_relocs", self.max_active_relocs, 1, ACTIVE_RELOCS_MAX, "bands relocated at the same time")
        _range("max_io_channels", self.max_io_channels, 1, IO_CHANNELS_MAX, "host I/O queues")
        _range("cores", self.cores, 1, CORES_MAX, "reactors that serve hosts")
        _range("nv_cache.max_request_cnt", self.nv_cache.max_request_cnt, 1, NV_CACHE_REQUESTS_MAX, "requests")
        _range("nv_cache.max_request_size", self.nv_cache.max_request_size, 1, NV_CACHE_REQUEST_BLOCKS_MAX, "blocks")
        _range("scrub_days", self.scrub_days, 0, SCRUB_DAYS_MAX, "days in which everything is verified once; 0: never")
        _range("rated_resets", self.rated_resets, 0, RATED_RESETS_MAX, "resets that a zone stands; 0: unknown")
        _range("l2p_dram_limit", self.l2p_dram_limit, 0, L2P_DRAM_LIMIT_MAX, "MiB for the L2P; 0: all that it needs")
        _range(
            "running_checkpoint",
            self.checkpoint_percent,
            0,
            RUNNING_CHECKPOINT_MAX,
            "percent of the capacity that hosts write from one copy of the L2P to the next; 0: no copies",
        )
        check_reloc_policy(self.reloc_policy)
        self._check_limits()

    def _check_limits(self) -> None:
        _check_limit_names(self.limits)
        missing = [name for name in LIMIT_NAMES if name not in self.limits]
        if missing:
            raise ConfError(f"conf limits lack {', '.join(missing)}: give all of {', '.join(LIMIT_NAMES)}, or none")
        for name, limit in self.limits.items():
            _range(f"limit {name}", limit.limit, 0, 100, "percent of the writes that may be user writes")
            if limit.thld is not None and limit.thld < 0:
                raise ConfError(f"conf limit-threshold {name} = {limit.thld}: a number of free bands can't be negative")
        explicit = [(name, limit.thld) for name, limit in self.limits.items() if limit.thld is not None]
        explicit.sort(key=lambda item: LIMIT_NAMES.index(item[0]))
        _check_descending(explicit)

    def check_geometry(self, bands: BandNumbers) -> FtlConf:
        """Checks the rules that need the device's bands. Returns a conf whose thresholds are all set.

        Explicit thresholds stay, and must fit. Raises ConfError if the spare bands can't sustain garbage collection:
        then every write would stop sooner or later.
        """
        self.check()
        if write_buffer_blocks(self, bands) < WRITE_BUFFER_BLOCKS_MIN:
            raise ConfError(
                f"a band holds {bands.band_blocks} blocks, and the write buffer can be half a band at most, but needs "
                f"{WRITE_BUFFER_BLOCKS_MIN} blocks at least: use larger zones, or more parallel units (num_punits) "
                f"than {bands.punits}"
            )
        self._check_spare_bands(bands)
        room = bands.spare_bands - bands.open_bands
        defaults = default_thresholds_of(bands)
        explicit = {name: limit.thld for name, limit in self.limits.items() if limit.thld is not None}
        for name, thld in explicit.items():
            # Superblocks also store defaults, and with the fewest spare bands possible the greatest of them equals
            # room.
            if thld >= room and thld != defaults[name]:
                raise ConfError(
                    f"conf limit-threshold {name} = {thld}: with {bands.band_count} bands and lba_rsvd = "
                    f"{self.lba_rsvd} a full device has at most {room} free bands, so its writes would be throttled "
                    f"for ever; use a threshold below {room}, or raise lba_rsvd"
                )
        thresholds = _merge_thresholds(explicit, defaults)
        _check_descending([(name, thresholds[name]) for name in LIMIT_NAMES])
        return dataclasses.replace(
            self, limits={name: Limit(self.limits[name].limit, thresholds[name]) for name in LIMIT_NAMES}
        )

    def without_thresholds(self, defaults: Mapping[str, Any]) -> FtlConf:
        """If all thresholds are these: a copy in which none is set. Someone who gave exactly these can't be told from
        someone who gave none."""
        if any(limit.thld is None or limit.thld != defaults.get(name) for name, limit in self.limits.items()):
            return self
        return dataclasses.replace(self, limits={name: Limit(limit.limit) for name, limit in self.limits.items()})

    def _check_spare_bands(self, bands: BandNumbers) -> None:
        if can_collect_garbage(bands):
            return
        needed = spare_bands_needed(bands.open_bands)
        gain = garbage_per_band(bands)
        least = least_gain_blocks(bands.punits)
        if bands.spare_bands < needed:
            what = f"{bands.spare_bands} spare bands, but garbage collection needs {needed}"
        else:
            what = f"so little spare space that relocating a band would gain {gain} blocks, but {least} are needed"
        rsvd = _lba_rsvd_for(bands, self.lba_rsvd)
        remedies = []
        if rsvd is not None:
            remedies.append(f"raise lba_rsvd (overprovisioning) to {rsvd}")
        if bands.punits > 1:
            remedies.append(f"use fewer parallel units than {bands.punits} (more and smaller bands)")
        remedies.append("use a device with more zones")
        raise ConfError(
            f"conf lba_rsvd = {self.lba_rsvd}: leaves {bands.band_count} bands with {what}; {', or '.join(remedies)}"
        )


_RELOC_POLICY_HELP: Final = (
    f"{', '.join(RELOC_POLICIES)}, an installed one, or MODULE:CLASS; parameters follow as :KEY=VALUE"
)


def check_reloc_policy(text: str) -> None:
    """Checks only the form: whether there is such a policy only the daemon can know. Raises ConfError."""
    if len(text) > RELOC_POLICY_MAX or not RELOC_POLICY_FORM.fullmatch(text):
        raise ConfError(
            f"conf reloc_policy = {text[:RELOC_POLICY_MAX]!r}: is not the name of a policy: use {_RELOC_POLICY_HELP}"
        )


def write_buffer_blocks(conf: FtlConf, bands: BandNumbers) -> int:
    """Blocks of the write buffer that an FTL gets. At most half a band: when space is short, its content has to fit
    into the user's share of the reserve."""
    return min(conf.write_buffer_blocks, bands.band_blocks // 2)


def spare_bands_needed(open_bands: int) -> int:
    """Bands in addition to those that hold every logical block once: the open ones, the reserve, and one to be
    gained."""
    return open_bands + RESERVED_BANDS + 1


def least_gain_blocks(punits: int, reloc_classes: int = 1) -> int:
    """What relocating a band must free at least, so that the headers of its last batches do not use it up. Each class
    that it is copied to has such batches."""
    return 2 * punits * reloc_classes + 2


def garbage_per_band(bands: BandNumbers) -> int:
    """Invalid blocks that the best victim has at least, when user data fills the device and has taken all bands it
    may."""
    closed = bands.band_count - bands.open_bands - RESERVED_BANDS
    if closed <= 0:
        return 0
    return max(0, closed * bands.band_blocks - bands.block_count) // closed


def can_collect_garbage(bands: BandNumbers) -> bool:
    """Whether bands are enough to continue for ever, whatever the user writes."""
    enough = bands.spare_bands >= spare_bands_needed(bands.open_bands)
    return enough and garbage_per_band(bands) >= least_gain_blocks(bands.punits)


def classes_allowed(bands: BandNumbers, most: int, start_bands: int) -> int:
    """Classes of bands that can be written side by side, at most ``most``: garbage collection must be able to continue
    for ever, and more bands than start_bands must be free sometimes on a full device."""
    for classes in range(most, bands.open_bands, -1):
        candidate = _Numbers(
            bands.band_count, bands.punits, classes, bands.band_blocks, bands.block_count, bands.spare_bands
        )
        if (
            bands.spare_bands >= spare_bands_needed(classes)
            and bands.spare_bands - classes > start_bands
            and garbage_per_band(candidate) >= least_gain_blocks(bands.punits, classes - 1)
        ):
            return classes
    return bands.open_bands


def default_thresholds(room: int, band_blocks: int) -> dict[str, int]:
    """As few bands as possible, if at most ``room`` can be free on a full device: 3/2/1/0, and more of very small
    bands. 4/3/2/1 if space is short."""
    small = START_BLOCKS // band_blocks
    if is_small(room):
        return _descending(min(START_BANDS + 1 + small, room // START_FRACTION), room)
    start = max(START_BANDS, min(START_BANDS + small, room // START_FRACTION))
    return {LIMIT_CRIT: 0, LIMIT_HIGH: 1, LIMIT_LOW: start - 1, LIMIT_START: start}


def is_small(room: int) -> bool:
    """Whether at most so few bands can be free on a full device that more of them are kept free."""
    return room <= FEW_BANDS


def default_thresholds_of(bands: BandNumbers) -> dict[str, int]:
    return default_thresholds(bands.spare_bands - bands.open_bands, bands.band_blocks)


def former_default_thresholds(room: int) -> dict[str, int]:
    """What default_thresholds() gave in earlier versions. Superblocks store it: the seed's 5/10/20/40, scaled down."""
    return _descending(min(_FORMER_THRESHOLDS[LIMIT_START], room // START_FRACTION), room)


def _descending(start: int, room: int) -> dict[str, int]:
    """Thresholds in the seed's proportions, from the one of start."""
    # Each must be above the previous one; crit is 1 rather than 0 if that fits below room.
    floor = 1 if room > len(LIMIT_NAMES) else 0
    thresholds: dict[str, int] = {}
    for name in LIMIT_NAMES:
        floor = max(floor, max(0, start) * _FORMER_THRESHOLDS[name] // _FORMER_THRESHOLDS[LIMIT_START])
        thresholds[name] = floor
        floor += 1
    return thresholds


def _merge_thresholds(explicit: Mapping[str, int], defaults: Mapping[str, int]) -> dict[str, int]:
    """Default thresholds make way for explicit ones, as far as whole numbers allow."""
    merged = {name: explicit.get(name, defaults[name]) for name in LIMIT_NAMES}
    for lower, upper in itertools.pairwise(LIMIT_NAMES):
        if merged[upper] <= merged[lower] and upper not in explicit:
            merged[upper] = merged[lower] + 1
    for lower, upper in reversed(list(itertools.pairwise(LIMIT_NAMES))):
        if merged[lower] >= merged[upper] and lower not in explicit:
            merged[lower] = max(0, merged[upper] - 1)
    return merged


def _check_descending(thresholds: list[tuple[str, int]]) -> None:
    for (lower, low_thld), (upper, up_thld) in itertools.pairwise(thresholds):
        if low_thld >= up_thld:
            raise ConfError(
                f"conf limit-threshold {upper} = {up_thld} is not above limit-threshold {lower} = {low_thld}: "
                "thresholds must "
                f"descend, start > low > high > crit"
            )


def _lba_rsvd_for(bands: BandNumbers, current: int) -> int | None:
    """The smallest lba_rsvd that is enough, or None."""
    for rsvd in range(current + 1, 100):
        block_count = bands.band_count * bands.band_blocks * (100 - rsvd) // 100
        spare = bands.band_count - -(-block_count // bands.band_blocks)
        candidate = _Numbers(bands.band_count, bands.punits, bands.open_bands, bands.band_blocks, block_count, spare)
        if block_count > 0 and can_collect_garbage(candidate):
            return rsvd
    return None


@dataclass(frozen=True)
class _Numbers:
    band_count: int
    punits: int
    open_bands: int
    band_blocks: int
    block_count: int
    spare_bands: int


def _check_limit_names(limits: Mapping[str, object]) -> None:
    unknown = sorted(set(limits) - set(LIMIT_NAMES))
    if unknown:
        raise ConfError(f"conf has no limit {', '.join(map(repr, unknown))}: limits are {', '.join(LIMIT_NAMES)}")


def _limits_from_dict(value: Any) -> dict[str, Limit]:
    if not isinstance(value, Mapping):
        raise ConfError(f"conf limits = {value!r}: must be an object {{name: {{limit, thld}}}}")
    _check_limit_names(value)
    limits = _default_limits()
    for name, parts in value.items():
        if isinstance(parts, Limit):
            limits[name] = parts
            continue
        if not isinstance(parts, Mapping) or set(parts) - {"limit", "thld"}:
            raise ConfError(
                f"conf limit {name} = {parts!r}: must be an object with limit (percent) and thld (free bands)"
            )
        thld = parts.get("thld")
        limits[name] = Limit(
            limit=_integer(f"limit {name}", parts.get("limit", DEFAULT_SHARES[name])),
            thld=None if thld is None else _integer(f"limit-threshold {name}", thld),
        )
    return limits


def _nv_cache_from_dict(value: Any) -> NvCacheConf:
    if isinstance(value, NvCacheConf):
        return value
    known = {f.name for f in dataclasses.fields(NvCacheConf)}
    if not isinstance(value, Mapping) or set(value) - known:
        raise ConfError(f"conf nv_cache = {value!r}: must be an object with {' and '.join(sorted(known))}")
    return NvCacheConf(**{name: _integer(f"nv_cache.{name}", part) for name, part in value.items()})


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfError(f"conf {name} = {value!r}: must be a whole number")
    return value


def _range(name: str, value: int, least: int, most: int, meaning: str) -> None:
    if not least <= value <= most:
        raise ConfError(f"conf {name} = {value}: must be {least}..{most} ({meaning})")
