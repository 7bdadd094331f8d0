"""The C++ shim: I/O queues, emulated media, FTL data path.

Threads: objects that belong to a Reactor run on its thread. Every method here may be called from Python's thread; it
hops to the reactor (``Reactor.call``) and waits, without the GIL. None of them is for the per-I/O path except IoPort.

One file, however long, as the extension is one module: test_stub.py compares the two.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

def crc32c(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """CRC32C (Castagnoli) of data; seed is the CRC of preceding data."""

def crc32c_rows(rows: NDArray[np.uint8], row_bytes: int, crcs: NDArray[np.uint32]) -> None:
    """CRC32C of the first row_bytes of each row, in one call; crcs has the CRCs of the data that precedes each, and
    gets the results. ValueError if the shapes do not fit."""

def build_info() -> dict[str, str]:
    """compiler, flags, sanitizers, crc ("avx512", "sse4.2" or "table"), tls (OpenSSL's version; empty: without)."""

BLOCK_BYTES: Final[int]
"""Of a logical block: of an FTL, its base and its nv cache (docs/media-layout.md)."""

class EventKind(IntEnum):
    """Behind each kind: the fields that its events have."""

    IO_DONE = 1
    """ticket, status, result (of an I/O that failed: 1 where the device said "do not retry"). Of an IoPort, or a
    ReadList."""
    TARGET_QPAIR_CLOSED = 2
    """reason, detail."""
    HOST_QPAIR_LOST = 3
    TARGET_QPAIR_COMMAND = 4
    NBD_CLOSED = 5
    """reason, detail."""
    SHARED_QPAIR_CLOSED = 6
    """fault, detail (the value of an invalid doorbell). Of a SharedTargetQpair, or a SharedAdminQueue."""
    ADMIN_COMMAND = 7
    """A SharedAdminQueue may have commands: take() until it returns None."""
    SHARED_MEMORY_WANTED = 8
    """Of a SharedHostQpair: take_wanted()."""
    BAND_NEXT_NEEDED = 10
    """stream, filling_band. An FtlCore's, as all that follow but LOAD_DONE and OVERFLOW."""
    BAND_CLOSED = 11
    """band: every zone of it has its summary."""
    MOVE_DONE = 12
    """band, moved_blocks, lost_blocks (that could not be read, or did not match their CRC)."""
    BAND_RESET_DONE = 13
    """band, status, failed_punit."""
    ZONE_FAULT = 14
    """band, punit, status."""
    BLOCK_LOST = 15
    """lba, address, status."""
    DRAINED = 16
    """ticket, status (of the flush)."""
    CORE_FAILED = 17
    """status: the core fails every I/O from now on. by_flush."""
    LOAD_DONE = 18
    """done_blocks, errors. Of a LoadGenerator."""
    CACHE_FAILED = 20
    """status: of the nv cache. Writes wait until forget_cache()."""
    FLUSH_FAILED = 21
    """status, failures."""
    ZONE_FINISHED = 24
    """band, punit: the base finished the zone before it was full; the zone has not failed."""
    BAND_UNREADABLE = 30
    """band, address, status: a host, or the scrub, could not read what is in force there."""
    SCRUB_DONE = 31
    """band: its scrub has ended, in whatever way."""
    MEMBER_FAILED = 40
    """member, status: a Mirror sends nothing more to that member."""
    OVERFLOW = 255
    """first_newer_source: events of sources below that id were dropped."""

class Event:
    """What the shim tells: shim/reactor/event.hpp. A field that its kind does not have is an AttributeError."""

    kind: Final[EventKind]
    source: Final[int]
    """The id of what sent it."""
    ticket: Final[int]
    """As submit() or drain() returned it."""
    status: Final[int]
    """SCT << 8 | SC; 0 is success."""
    result: Final[int]
    reason: Final[QpairClose]
    fault: Final[SharedFault]
    detail: Final[int]
    """An errno, the FES of a TermReq, or the value of a doorbell."""
    stream: Final[int]
    """The class: STREAM_USER or STREAM_RELOC, unless FtlCore.set_placement() says otherwise."""
    filling_band: Final[int | None]
    """The band that is filling up; None: the stream has none."""
    band: Final[int]
    moved_blocks: Final[int]
    lost_blocks: Final[int]
    failed_punit: Final[int | None]
    """Where status is not 0: the zone that failed; None: the flush failed, and nothing was reset."""
    punit: Final[int]
    lba: Final[int]
    address: Final[int]
    by_flush: Final[bool]
    """A flush failed that may have lost what the base held."""
    done_blocks: Final[int]
    errors: Final[int]
    failures: Final[int]
    """In a row, while the write buffer wanted a flush."""
    member: Final[int]
    """Its place among those that the Mirror was made of."""
    first_newer_source: Final[int]

class ErrorClass(IntEnum):
    """What an error of a device means for who sent the I/O."""

    NONE = 0
    GONE = 1
    """The device itself: nothing more is sent to it."""
    BUSY = 2
    """The same command may succeed later."""
    DOUBT = 3
    """Of a flush: what the volatile cache held may be lost."""
    COMMAND = 4
    """Refused for good; of what stands on media nothing is known."""
    BLOCK = 5
    """Media under these blocks."""
    ZONE = 6
    """A zone that does not take this any more, or never did."""
    MISTAKE = 7
    """No sender who keeps the rules gets this."""

class Op(IntEnum):
    READ = 0
    WRITE = 1
    APPEND = 2
    FLUSH = 3
    WRITE_ZEROES = 4
    DEALLOCATE = 5
    ZONE_SEND = 6
    ZONE_REPORT = 7
    COMPARE_WRITE = 8
    WRITE_UNCORRECTABLE = 9

class ZoneAction(IntEnum):
    """ZSA of Zone Management Send. Zoned Namespace Command Set 1.1, section 3.4.3."""

    CLOSE = 1
    FINISH = 2
    OPEN = 3
    RESET = 4
    OFFLINE = 5
    SET_DESCRIPTOR_EXTENSION = 16

def error_class(status: int, do_not_retry: bool = False, op: Op = Op.READ) -> ErrorClass:
    """What an error of a device means for who sent the I/O. ErrorClass.DOUBT is only for Op.FLUSH, of which an error is
    another matter than of all others. The table is in shim/reactor/error_class.hpp; docs/durability.md says what
    follows from each."""

def base_gone(status: int) -> bool:
    """Whether the status is one of a device that does not answer, has no power, or stays busy, and not of a bad block.
    A restore ends then, to be repeated."""

def perhaps_media(status: int) -> bool:
    """Of ErrorClass.BUSY: it may be one block's or zone's where it lasts. An SPDK target answers so to any error of a
    bdev."""

def limits_zones(status: int) -> bool:
    """Too many zones are open, or active."""

BUSY_DELAY_MIN_NS: Final[int]
BUSY_DELAY_MAX_NS: Final[int]
BUSY_DELAY_GROWTH: Final[int]
BUSY_PATIENCE_NS: Final[int]
BUSY_READ_PATIENCE_NS: Final[int]
BUSY_PATIENCE_LEFT_NS: Final[int]
ZONES_PATIENCE_NS: Final[int]

class Reactor:
    def __init__(self, name: str, spin_us: int = 20) -> None: ...
    def start(self, cpu: int = -1) -> None:
        """cpu: the thread runs on that one alone; -1: where the kernel puts it. RuntimeError if that can't be."""

    def stop(self) -> None:
        """Joins the thread; idempotent. Pollers stay registered; step() works again afterwards."""

    def step(self, now_ns: int | None = None) -> int:
        """Polls everything once from this thread (RuntimeError while started); now_ns sets the simulated clock."""

    @property
    def running(self) -> bool: ...
    @property
    def busy_ns(self) -> int:
        """Time that its thread has spent in rounds of polls that found work. Nothing for step()."""

    @property
    def idle_ns(self) -> int:
        """Time that its thread has spent in other rounds, or asleep; up to 1 s late while it sleeps."""

    @property
    def rounds(self) -> int:
        """How often every poller has been polled. After a wake() it rises, unless a poller hangs. Does not wait."""

    def wake(self) -> None:
        """Has every poller polled soon. Does not wait."""

    @property
    def event_fd(self) -> int:
        """Readable when events() has something. Owned by the reactor."""

    def events(self) -> list[Event]: ...

class BlockDevice:
    """Base of everything that serves block I/O. Shared ownership: stays alive while anything uses it."""

    @property
    def block_count(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def metadata_bytes(self) -> int: ...
    @property
    def max_io_blocks(self) -> int: ...
    @property
    def max_append_blocks(self) -> int: ...
    @property
    def volatile_cache(self) -> bool: ...
    @property
    def deallocated_reads_zeroes(self) -> bool: ...
    @property
    def compare_write_blocks(self) -> int:
        """The largest COMPARE_WRITE; 0: none. Its buffer has the data to compare with, then the data to write."""

    @property
    def write_uncorrectable(self) -> bool: ...
    @property
    def thin(self) -> bool:
        """allocated_blocks() counts."""

    def allocated_blocks(self) -> int:
        """The blocks that hosts have written and not deallocated since. block_count if the device does not count."""

    @property
    def zoned(self) -> bool: ...
    @property
    def zone_size(self) -> int: ...
    @property
    def zone_capacity(self) -> int: ...
    @property
    def max_open_zones(self) -> int: ...
    @property
    def max_active_zones(self) -> int: ...

class Completion:
    """What an IO_DONE event tells, where that was dropped."""

    ticket: Final[int]
    status: Final[int]
    result: Final[int]
    def as_dict(self) -> dict[str, Any]: ...

class IoPort:
    """Python's own way to a BlockDevice: bounded, asynchronous, completions as IO_DONE events.

    Data buffers are the caller's (writable for reads, C-contiguous) and are kept alive until the event.
    """

    def __init__(self, reactor: Reactor, device: BlockDevice, depth: int = 128) -> None: ...
    @property
    def id(self) -> int:
        """Event.source of its completions."""

    def submit(
        self,
        op: Op,
        lba: int = 0,
        block_count: int = 0,
        buffer: bytearray | memoryview | NDArray[np.uint8] | bytes | None = None,
        *,
        zone_action: int = 0,
        zone_filter: int = 0,
        zone_all: bool = False,
        fua: bool = False,
    ) -> int:
        """Returns a ticket; BlockingIOError if depth I/Os are outstanding; ValueError if the buffer is too small."""

    def take_untold(self) -> list[Completion]:
        """Of what is done and whose event was dropped: to be asked for at OVERFLOW."""

    def close(self) -> None:
        """Waits for outstanding I/O. Idempotent."""

class ReadList:
    """Reads of one length from very many addresses, depth at a time: one IO_DONE event when all have come back."""

    def __init__(self, reactor: Reactor, device: BlockDevice, depth: int = 128) -> None: ...
    @property
    def id(self) -> int:
        """Event.source; Event.status is that of the first read that failed, behind which none is sent any more."""

    def start(self, addresses: Sequence[int], block_count: int, rows: NDArray[np.uint8] | bytearray) -> None:
        """rows: block_count blocks for each address, kept alive until release() or the next start(). BlockingIOError:
        the previous list is not done. ValueError: no address, or rows are too small."""

    def take_untold(self) -> int | None:
        """The status of a list that is done and whose event was dropped: to be asked for at OVERFLOW."""

    def release(self) -> None:
        """Releases the rows of a list that is done; does nothing before that."""

    def close(self) -> None:
        """Waits for outstanding I/O. Idempotent."""

# --- emulated media ---------------------------------------------------------------------------------------------

class MediaZone(NamedTuple):
    """A zone as its medium knows it; addresses are LBAs."""

    start: int
    state: Literal["empty", "implicitly_open", "explicitly_open", "closed", "read_only", "full", "offline"]
    write_pointer: int

class GeneratedZones:
    """The bands of an FTL of any size that was filled and then overwritten at random, made from a seed at each read
    (shim/generated/generated_zones.hpp). They take no memory."""

    def __init__(
        self,
        uuid: bytes,
        *,
        zone_size: int,
        zone_capacity: int,
        band_count: int,
        punits: int,
        block_count: int,
        full_bands: int,
        batches_begun: int = 0,
        batch_blocks: int = 128,
        seed: int = 1,
    ) -> None:
        """Band b, punit p is zone 2 + b * punits + p. block_count: LBAs of the FTL. full_bands are written to their
        end, and one more band was being written: batches_begun full batches in each of its zones. ValueError for what
        can't be: all of these have to hold block_count to 2 * block_count blocks of data."""

    def newest(self, lbas: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Seqs and addresses of the newest block of each LBA. ValueError for one that the FTL does not have."""

    def band_seqs(self) -> NDArray[np.uint64]:
        """Of every band; 0: it was never written."""

    def data(self, lba: int, seq: int) -> bytes:
        """The block with that seq."""

    @property
    def slots(self) -> int:
        """Blocks of data, stale ones included: seqs are 1 to this."""

    @property
    def cpu_ns(self) -> int:
        """CPU time that all reads of the content have taken so far."""

    @property
    def blocks_made(self) -> int:
        """By all reads so far; headers and summaries count, too."""

class EmulatedMedia(BlockDevice):
    """Conventional, null or zoned media in memory or in a sparse file, with fault injection and power cut.

    path None: anonymous memory. With a path, the data (and, for zoned media, zone states, in `path + ".zones"`)
    persist, also when the process is killed; one drive per file (OSError). Freed with its last user. ValueError for an
    impossible geometry or a file of another one. Zoned: reads after a write pointer return zeroes, reads may cross
    zones, no descriptor extensions.
    """

    @staticmethod
    def conventional(
        reactor: Reactor,
        block_count: int,
        *,
        block_bytes: int = 4096,
        metadata_bytes: int = 0,
        path: str | None = None,
        volatile_cache: bool = False,
        max_io_blocks: int = 256,
        hidden_blocks: int = 0,
    ) -> EmulatedMedia:
        """block_bytes is the data part, e.g. 512 or 4096; metadata_bytes are interleaved after it. hidden_blocks:
        further blocks that grow() adds; in memory only."""

    @staticmethod
    def null(
        reactor: Reactor, block_count: int, *, block_bytes: int = 4096, metadata_bytes: int = 0
    ) -> EmulatedMedia: ...
    @staticmethod
    def zns(
        reactor: Reactor,
        zone_count: int,
        zone_size: int,
        zone_capacity: int,
        *,
        block_bytes: int = 4096,
        max_open_zones: int = 0,
        max_active_zones: int = 0,
        max_append_blocks: int = 32,
        max_io_blocks: int = 256,
        path: str | None = None,
        volatile_cache: bool = True,
        hidden_zones: int = 0,
    ) -> EmulatedMedia: ...
    def resize(self, block_count: int) -> None:
        """Null media only: another size. ValueError for other media, 0, and more than 64 TiB."""

    def set_zone_state(self, zone: int, state: Literal["read_only", "offline", "full"]) -> None:
        """What a drive does by itself. "full": it finishes the zone, and its
        attributes say so; ValueError where that is not active."""

    def recommend(self, zone: int, *, finish: bool = False, reset: bool = False) -> None:
        """The attributes recommend this for the zone, until it is done."""

    def zone_states(self) -> list[MediaZone]: ...
    def inject_fault(
        self,
        *,
        op: Op | None = None,
        lba: int = 0,
        block_count: int = 0,
        status: int = 0,
        latency_us: int = 0,
        skip: int = 0,
        times: int = 0,
        do_not_retry: bool = False,
        takes_effect: bool = False,
        drops_cache: bool = False,
        flip: bool = False,
    ) -> int:
        """For I/Os of op (None: any) that touch [lba, lba+block_count) (0: anywhere): after `skip` matches, fail with
        status (0: no failure) and/or add latency, `times` times (0: for ever). Returns the id of the fault. An append
        or zone action touches its whole zone; a flush and a zone action on all zones touch everything. A failed I/O has
        no effect, unless takes_effect is set. do_not_retry: the answer has DNR set (for some statuses it always has).
        drops_cache: any part of the volatile cache is lost, as with power, without notice. flip: the first bit of a
        read is wrong; stored data is not."""

    def clear_faults(self, fault_id: int | None = None) -> None: ...
    def rot(self, lba: int, bit: int) -> None:
        """Flips one stored bit of a block, without notice. ValueError if there is no such bit."""

    def hold(self, content: GeneratedZones) -> None:
        """The zones that ``content`` makes hold it until they are reset, as if it had been written and flushed. Zoned
        media in memory, blocks of 4096 bytes. ValueError for other media, the second call, and if one of these zones is
        not empty."""

    def power_cut(self, seed: int) -> None:
        """Outstanding I/O completes with power_loss, and may be done partly. Writes since the last completed flush are
        lost completely or partly: in each zone always a suffix (a zone reset and an FUA write are durable at once, a
        finish is not); on conventional media any subset of blocks, each old or new as a whole, chosen by seed. Needs
        volatile_cache=True; otherwise only outstanding I/O is torn. The media is off (every I/O: power_loss) until
        power_on()."""

    def power_on(self) -> None:
        """Zones that were open come back closed, those without data empty."""

    def grow(self) -> None:
        """Adds the hidden part: empty zones, blocks of zeroes. Nobody who knows the old size may use it meanwhile."""

    def set_schedule(self, seed: int | None) -> None:
        """Completes outstanding I/O in a seeded random order (None: in order of submission)."""

    @property
    def flushes_at_once(self) -> int:
        """The most that were outstanding, at any time so far, at the same time."""

    @property
    def operations(self) -> int:
        """I/Os completed so far; the crash machine counts on it."""

    def cut_power_at(self, operation: int, seed: int) -> None:
        """Makes power_cut(seed) happen when `operations` reaches this."""

class MeterCount:
    """Of the operations of one kind that succeeded; latencies in ns."""

    operations: Final[int]
    bytes: Final[int]
    latency_ns: Final[int]
    """Of all operations together."""
    latency_ns_max: Final[int]
    latency_ns_min: Final[int]
    """2**64 - 1: there was no operation."""
    def as_dict(self) -> dict[str, Any]: ...

class MeterStats:
    """What SPDK's bdev layer counts. Appends are writes; flushes, write zeroes and commands for zones are counted only
    where they fail."""

    read: Final[MeterCount]
    write: Final[MeterCount]
    unmap: Final[MeterCount]
    failed: Final[int]
    """With SPDK's general error, 00/06."""
    aborted: Final[int]
    nvme_error: Final[int]
    """With any other status."""
    def as_dict(self) -> dict[str, Any]: ...

class Meter(BlockDevice):
    """The same device, with its I/O counted."""

    def __init__(self, reactor: Reactor, base: BlockDevice) -> None: ...
    def stats(self, reset: Literal["none", "maxmin", "error", "all"] = "none") -> MeterStats:
        """What was counted so far. reset: what begins anew then; "maxmin": the extremes of latency."""

    def resize(self, block_count: int) -> None:
        """The device beneath has grown."""

class Split(BlockDevice):
    """Blocks [offset, offset + block_count) of a device, without its zones. ValueError if it does not have them."""

    def __init__(self, reactor: Reactor, base: BlockDevice, *, offset: int, block_count: int) -> None: ...

class Delay(BlockDevice):
    """Reads and writes take longer; one in a hundred has the p99 latency. Zones of the base are not passed on."""

    def __init__(
        self,
        reactor: Reactor,
        base: BlockDevice,
        *,
        avg_read_us: int,
        p99_read_us: int,
        avg_write_us: int,
        p99_write_us: int,
    ) -> None: ...
    def set_latency(self, kind: Literal["avg_read", "p99_read", "avg_write", "p99_write"], latency_us: int) -> None:
        """For I/O that completes at the base from now on; it still completes after older I/O of its kind."""

class ErrorInjector(BlockDevice):
    """Fails, holds or corrupts I/O on demand. Zones of the base are not passed on; its errors become 00/06."""

    def __init__(self, reactor: Reactor, base: BlockDevice) -> None: ...
    def inject(
        self,
        op: Op | None,
        kind: Literal["failure", "nvme_failure", "nomem", "pending", "corrupt"],
        times: int,
        *,
        queue_depth: int = 0,
        status: int = 0,
        corrupt_offset: int = 0,
        corrupt_value: int = 0,
    ) -> None:
        """The next `times` I/Os of that op (READ, WRITE, DEALLOCATE, FLUSH; None: each of them) that come while at
        least queue_depth I/Os are at the base. Replaces what was injected for that op."""

    def clear(self) -> None: ...
    def resume_pending(self) -> None:
        """I/O that is held is tried again, and none is held any more."""

    def abort_pending(self) -> None:
        """I/O that is held fails as aborted, and so does what would be held later. For the end of the device."""

class Striped(BlockDevice):
    """raid0 (strip_blocks > 0) or concat (0). lengths: the blocks used of each member. An Io that fails on any member
    fails with 00/06. ValueError if the members do not fit together."""

    def __init__(
        self, reactor: Reactor, members: Sequence[BlockDevice], lengths: Sequence[int], strip_blocks: int
    ) -> None: ...
    def resize(self, length: int) -> None:
        """Of raid0: the blocks used of each member."""

class Mirror(BlockDevice):
    """raid1. A member that fails a write is not used any more (MEMBER_FAILED); nor is one that can't be read, if
    nothing could be written back to it from another one. ValueError if the members do not fit together."""

    def __init__(self, reactor: Reactor, members: Sequence[BlockDevice], block_count: int) -> None: ...
    @property
    def id(self) -> int: ...
    def resize(self, block_count: int) -> None: ...
    def remove(self, member: int) -> None:
        """Nothing more is sent to that member. Idempotent."""

    def gone(self) -> list[int]:
        """The members that have failed or were removed."""

    def release(self) -> bool:
        """Lets go of those. False: some have I/O yet, so call it again."""

class ZonedOverlay(BlockDevice):
    """Emulates zones on a conventional device, like SPDK's zone_block bdev: zone size = zone_capacity rounded up to a
    power of two, zone i is at base LBA i * zone_size, blocks after the last whole zone are unused. Write pointers are
    in memory only."""

    def __init__(
        self,
        reactor: Reactor,
        base: BlockDevice,
        *,
        zone_capacity: int,
        max_open_zones: int = 0,
        initial_state: Literal["empty", "full"] = "empty",
        zone_commands: bool = True,
    ) -> None:
        """initial_state: "empty" (new device) or "full" (after a restart, when write pointers are unknown).
        zone_commands False: zone actions, reports and appends are invalid opcodes, like those of SPDK's zone_block over
        NVMe-oF."""

    @property
    def base(self) -> BlockDevice:
        """The conventional device, with the same addresses. Write pointers do not notice what is written there."""

# --- gate -------------------------------------------------------------------------------------------------------

class Gate(BlockDevice):
    """A device in front of one that may be lost (an FtlCore that failed, a HostQpair that lost its connection) and
    replaced by another with the same content: its users notice a pause. I/O that a lost device fails is held, and so is
    all later I/O, until set_device() or fail()."""

    def __init__(self, reactor: Reactor, device: BlockDevice, accounts: bool = False) -> None:
        """accounts: it counts the I/O that passes it, for account(). ValueError for another gate."""

    def hold(self) -> None:
        """Holds I/O from now on, and releases the lost device when no data of writes is in its memory. A failing gate
        keeps failing."""

    def set_device(self, device: BlockDevice) -> None:
        """Sends held I/O, in order, and all later I/O to this device. It may have more blocks, and then the gate has
        them as well. ValueError, with nothing changed, if it has fewer, or if its other sizes, limits or volatile cache
        differ from those of the previous device."""

    def fail(self, status: int) -> None:
        """Held I/O, and all later I/O, fails with status until set_device()."""

    def sweep(self) -> bool:
        """Releases earlier devices that nothing uses any more. True: none is left."""

    def emptied(self) -> bool:
        """Whether no I/O is outstanding at an earlier device. Data of held writes may still be in its memory."""

    @property
    def state(self) -> Literal["open", "holding", "failing"]: ...
    @property
    def held(self) -> int:
        """I/Os that are held."""

    def account(self) -> GateAccount:
        """Of the I/O that the gate was sent and has completed, also of other devices before; one that was cancelled is
        not in it. RuntimeError without accounts=True."""

class KindAccount:
    """One kind of I/O since the gate was made. Latencies in nanoseconds, from submission to completion, exact to one
    round of the reactor's polls; percentiles are at most 3 % too high."""

    count: Final[int]
    sum: Final[int]
    p50: Final[int]
    p90: Final[int]
    p99: Final[int]
    p999: Final[int]
    max: Final[int]
    within: Final[list[int]]
    """Index i: I/O that took no more than 2**i microseconds, but more than 2**(i-1); the last (LATENCY_BOUNDS): more
    than all of these."""
    errors: Final[list[int]]
    """By ErrorClass."""
    def as_dict(self) -> dict[str, object]: ...

class GateAccount:
    state: Final[Literal["open", "holding", "failing"]]
    held: Final[int]
    read: Final[KindAccount]
    write: Final[KindAccount]
    flush: Final[KindAccount]
    trim: Final[KindAccount]
    """Also Write Zeroes."""
    def as_dict(self) -> dict[str, object]: ...

# --- crossing ---------------------------------------------------------------------------------------------------

class CrossingStats:
    ios: Final[int]
    leased_blocks: Final[int]
    """Blocks of writes whose data was received straight into the device's memory."""
    leases: Final[int]
    """Blocks of that memory that the front's reactor has now."""
    def as_dict(self) -> dict[str, int]: ...

class Crossing(BlockDevice):
    """A device on the reactor `core` as a device on the reactor `front`: I/O goes over, and its completions come
    back. What may be lost stands behind a gate, and the gate on the core's reactor."""

    def __init__(self, front: Reactor, core: Reactor, device: BlockDevice, leases: int = 0) -> None:
        """leases: the most blocks of the device's memory that the front gets ahead, for writes to receive their data
        into; 0 to 256. ValueError for another crossing, and if both reactors are the same."""

    def stats(self) -> CrossingStats: ...

# --- load -------------------------------------------------------------------------------------------------------

class Latencies:
    """In nanoseconds; percentiles: the upper bound of the histogram's bucket."""

    min: Final[int]
    mean: Final[int]
    p50: Final[int]
    p90: Final[int]
    p99: Final[int]
    p999: Final[int]
    p9999: Final[int]
    max: Final[int]
    def as_dict(self) -> dict[str, int]: ...

class Mismatches:
    """Blocks that were read and were not what they had to be, by what they were. garbage: torn, foreign or damaged."""

    older: Final[int]
    newer: Final[int]
    wrong_lba: Final[int]
    zeroes: Final[int]
    garbage: Final[int]
    def as_dict(self) -> dict[str, int]: ...

class MismatchExample:
    kind: Final[Literal["older", "newer", "wrong_lba", "zeroes", "garbage"]]
    lba: Final[int]
    expected_version: Final[int]
    found_lba: Final[int]
    found_version: Final[int]
    def as_dict(self) -> dict[str, Any]: ...

class LoadProgress:
    """Of the run that goes on, or went last. done_blocks = read_blocks + written_blocks + trimmed_blocks."""

    running: Final[bool]
    done_blocks: Final[int]
    done_ios: Final[int]
    read_blocks: Final[int]
    written_blocks: Final[int]
    trimmed_blocks: Final[int]
    verify_errors: Final[int]
    """Blocks."""
    io_errors: Final[int]
    """I/Os."""
    elapsed_ns: Final[int]
    last_error_status: Final[int]
    last_error_lba: Final[int]
    latency_ns: Final[Latencies]
    mismatch: Final[Mismatches]
    mismatches: Final[list[MismatchExample]]
    """The first 16."""
    def as_dict(self) -> dict[str, Any]: ...

class LoadGenerator:
    """Closed-loop load on a BlockDevice with content that can be verified: every 4 KiB block contains (seed, lba,
    version).

    Keeps the version last written of every LBA (0: never, or trimmed: reads zeroes); a read verifies whole blocks
    against it. Two outstanding I/Os of one generator never overlap.

    verify: "whole" accepts any block that a generator with this seed wrote at that place, and "none" anything. Neither
    keeps versions.
    """

    def __init__(
        self,
        reactor: Reactor,
        device: BlockDevice,
        *,
        first_lba: int = 0,
        lba_count: int,
        seed: int,
        max_queue_depth: int = 256,
        max_io_blocks: int = 256,
        verify: Literal["exact", "whole", "none"] = "exact",
    ) -> None: ...
    @property
    def id(self) -> int: ...
    def start(
        self,
        kind: Literal["write", "read", "trim", "mixed"],
        *,
        pattern: Literal["random", "sequential"] = "random",
        io_blocks: int = 1,
        total_blocks: int = 0,
        queue_depth: int = 32,
        time_limit_s: float = 0.0,
        write_percent: int = 100,
        sync: bool = False,
    ) -> None:
        """Reads are verified; mixed: write_percent writes, the rest reads; sequential: wraps. sync: a flush follows
        each write, and the latency is that of both. Ends after total_blocks or time_limit_s, with LOAD_DONE."""

    def stop(self) -> None: ...
    def progress(self) -> LoadProgress: ...
    def versions(self) -> NDArray[np.uint32]:
        """A copy; empty unless verify is "exact". 2**32 - 1: unknown since a failed write; any whole version of that
        LBA passes."""

    def close(self) -> None:
        """Stops, waits for outstanding I/O. Idempotent."""

# --- NVMe/TCP I/O queues ----------------------------------------------------------------------------------------

class QpairClose(IntEnum):
    """Why a queue has ended. Behind those that have one: what Event.detail is."""

    NONE = 0
    PEER_CLOSED = 1
    SOCKET_ERROR = 2
    """An errno."""
    PROTOCOL_ERROR = 3
    """The FES that the peer was sent."""
    PEER_TERMINATED = 4
    """The FES that the peer sent."""
    DISCONNECTED = 5
    """By a Disconnect command."""
    CLOSED = 6
    """By our own close()."""
    TIMED_OUT = 7
    """A command had no answer in time."""

class TlsStep(IntEnum):
    DONE = 0
    WANTS_READ = 1
    WANTS_WRITE = 2
    FAILED = 3

class TlsSession:
    """TLS 1.3 with a pre-shared key on a non-blocking stream socket (whose fd it has dup'ed). For one thread; a qpair
    that gets the session is the only user from then on. RuntimeError: the shim was built without OpenSSL."""

    @staticmethod
    def as_host(fd: int, *, identity: str, key: bytes, sha384: bool) -> TlsSession:
        """ValueError if the key does not fit its hash."""

    @staticmethod
    def as_target(fd: int, find_psk: Callable[[bytes], tuple[bytes, bool] | None]) -> TlsSession:
        """find_psk: gets an identity that the host offers, and returns key and sha384; only handshake() calls it, and
        passes on its exceptions."""

    def handshake(self) -> TlsStep:
        """WANTS_READ, WANTS_WRITE: call it again when the socket is ready."""

    def read_into(self, buffer: bytearray | memoryview) -> int | None:
        """The number of bytes; 0: the peer has ended; None: none available now. OSError."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """The number of bytes that it took. It may still hold some of them: call write() again, without data if
        necessary. OSError."""

    def end_output(self) -> None:
        """Tells the peer that no more data follows. Best effort."""

    def close(self) -> None:
        """Releases the socket, unless a qpair has the session. Idempotent."""

    @property
    def error(self) -> str:
        """Why the handshake has failed."""

    @property
    def established(self) -> bool: ...
    @property
    def identity(self) -> bytes:
        """The identity of the key. At a target: empty until the host has offered a known one."""

    @property
    def cipher(self) -> str:
        """Such as TLS_AES_128_GCM_SHA256; empty until established."""

    @property
    def kernel_sends(self) -> bool:
        """The kernel encrypts what is sent (kTLS)."""

    @property
    def kernel_receives(self) -> bool: ...
    @property
    def has_input(self) -> bool:
        """read_into() may return data although the socket is not readable."""

    @property
    def holds_output(self) -> bool: ...
    @property
    def bytes_received(self) -> int:
        """Bytes from the socket, including all records and their framing."""

class HostQpair(BlockDevice):
    """The host side of one NVMe/TCP I/O queue, after Connect: a remote namespace as a BlockDevice."""

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        *,
        queue_depth: int,
        nsid: int,
        header_digest: bool,
        data_digest: bool,
        max_h2c_data: int,
        in_capsule_bytes: int,
        block_count: int,
        block_bytes: int = 4096,
        metadata_bytes: int = 0,
        max_io_bytes: int,
        max_append_bytes: int = 0,
        volatile_cache: bool,
        zoned: bool = False,
        zone_size: int = 0,
        zone_capacity: int = 0,
        max_open_zones: int = 0,
        max_active_zones: int = 0,
        io_timeout_ms: int = 0,
        tls: TlsSession | None = None,
    ) -> None:
        """Takes the fd (dup'ed; the caller closes its own), and the TLS session on it.

        queue_depth: maximum of outstanding commands (<= SQSIZE). io_timeout_ms: a command without a completion for
        longer ends the connection; 0: no limit.
        """

    @property
    def id(self) -> int: ...
    @property
    def connected(self) -> bool: ...
    def close(self) -> None:
        """Closes the socket; outstanding I/O fails with path_error. Idempotent."""

class SharedRange:
    """Memory of this process that another one may map, from a file."""

    @property
    def fd(self) -> int:
        """The range's own; do not close it."""
    @property
    def offset(self) -> int:
        """In the file."""
    @property
    def bytes(self) -> int: ...
    @property
    def receives(self) -> bool:
        """The other process may also write into it."""
    @property
    def gone(self) -> bool:
        """Its owner has given it up."""

class SharedPages:
    """Memory that servers of this process's host queues may map."""

    def __init__(self, bytes: int, receives: bool) -> None:
        """receives: they may write into it as well. OSError."""
    @property
    def array(self) -> NDArray[np.uint8]:
        """It, in units of 2 MiB."""

class MappedRanges:
    """The ranges of this process's memory that one server has mapped. The queues of a connection share it."""

    def __init__(self) -> None: ...
    def add(self, range: SharedRange, iova: int) -> None:
        """ValueError: full."""
    @property
    def full(self) -> bool: ...

class SharedQueueMemory:
    """A sealed memfd with the submission and completion queue of a host, its PRP lists, and a buffer for each
    command."""

    def __init__(self, queue_depth: int, max_io_bytes: int) -> None:
        """max_io_bytes: at most 1 MiB. ValueError, OSError."""
    @property
    def fd(self) -> int:
        """The object's own; do not close it."""
    @property
    def bytes(self) -> int:
        """A multiple of 2 MiB."""
    @property
    def entries(self) -> int:
        """Of each queue: queue_depth + 1."""
    @property
    def sq_offset(self) -> int: ...
    @property
    def cq_offset(self) -> int: ...
    def buffer_offset(self, arg: int, /) -> int:
        """Of the data of that slot. IndexError."""

class Doorbells:
    """The doorbells of a controller, mapped from the file of its BAR0."""

    def __init__(self, fd: int, offset: int, bytes: int) -> None:
        """ValueError if the file is smaller, OSError. The caller closes fd."""
    @property
    def bytes(self) -> int: ...
    @property
    def broken(self) -> bool:
        """The server has shrunk the file."""
    def ring(self, at: int, value: int) -> None:
        """at: in bytes from the first doorbell. IndexError: there is no such doorbell."""

class SharedHostQpairStats:
    """direct_bytes: moved by the server from or to the memory of I/Os. bounced_bytes: copied here."""

    commands: Final[int]
    direct_bytes: Final[int]
    bounced_bytes: Final[int]
    def as_dict(self) -> dict[str, int]: ...

class SharedHostQpair(BlockDevice):
    """The host side of one I/O queue in shared memory: a remote namespace as a BlockDevice."""

    def __init__(
        self,
        reactor: Reactor,
        memory: SharedQueueMemory,
        ranges: MappedRanges,
        doorbells: Doorbells,
        *,
        nsid: int,
        memory_iova: int,
        sq_doorbell: int,
        cq_doorbell: int,
        used_entries: int = 0,
        block_count: int,
        block_bytes: int = 4096,
        metadata_bytes: int = 0,
        max_append_bytes: int = 0,
        volatile_cache: bool,
        zoned: bool = False,
        zone_size: int = 0,
        zone_capacity: int = 0,
        max_open_zones: int = 0,
        max_active_zones: int = 0,
        io_timeout_ms: int = 0,
    ) -> None:
        """The server has mapped `memory` at memory_iova, and created the queues in it. The doorbells are offsets in
        bytes. used_entries: commands that were executed in the queues before. The rest is as for HostQpair.
        ValueError."""

    @property
    def id(self) -> int: ...
    @property
    def connected(self) -> bool: ...
    def take_wanted(self) -> SharedRange | None:
        """Memory that had to be copied because the server has not mapped it yet."""
    @property
    def stats(self) -> SharedHostQpairStats: ...
    def close(self) -> None:
        """Outstanding I/O fails with path_error. Idempotent."""

class FlushAlarm:
    """One for each host whose next Flush must fail with Write Fault (and DNR), once, on whichever of its queues."""

    def __init__(self) -> None: ...
    @property
    def armed(self) -> bool:
        """The Flush has not failed yet."""

class TargetQpairStats:
    commands: Final[int]
    read_blocks: Final[int]
    write_blocks: Final[int]
    errors: Final[int]
    bytes_in: Final[int]
    bytes_out: Final[int]
    def as_dict(self) -> dict[str, int]: ...

class QueuedCommand:
    """A reservation command that a host has sent on an I/O queue, for Python to execute."""

    token: Final[int]
    nsid: Final[int]
    opcode: Final[int]
    cdw10: Final[int]
    cdw11: Final[int]
    length: Final[int]
    """Bytes that the host has sent, or wants."""
    @property
    def data(self) -> bytes:
        """16 bytes: what the host has sent, zeroes behind it."""

class TargetQpair:
    """The target side of one NVMe/TCP I/O queue, after Connect."""

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        *,
        queue_size: int,
        header_digest: bool,
        data_digest: bool,
        namespaces: dict[int, BlockDevice],
        max_io_bytes: int = 131072,
        in_capsule_bytes: int = 8192,
        max_h2c_data: int = 131072,
        sqhd: int = 1,
        flow_control: bool = True,
        success_flag: bool = True,
        flush_alarm: FlushAlarm | None = None,
        tls: TlsSession | None = None,
        reservations: bool = False,
        bars: dict[int, tuple[int, int]] = {},
    ) -> None:
        """queue_size: entries of the SQ (SQSIZE + 1). sqhd: the next head to report (Connect took one). reservations:
        the caller subscribes to events, and answers what take_command() returns. bars: by NSID, see set_bars()."""

    @property
    def id(self) -> int: ...
    @property
    def connected(self) -> bool: ...
    @property
    def drained(self) -> bool:
        """Not connected, and every command has come back from its device: close() does not wait."""

    def set_namespace(self, nsid: int, device: BlockDevice | None, bars: tuple[int, int] = (0, 0)) -> None:
        """Adds or removes a namespace; I/O already submitted to it still completes."""

    def give_back_removed(self) -> bool:
        """Lets go of the devices of removed namespaces. False: I/O that was submitted to one has not completed."""

    def set_bars(self, nsid: int, bars: tuple[int, int]) -> None:
        """The statuses with which commands that only read, and all others, fail from now on; 0: they do not. What the
        device has already still completes. Reservation commands do not fail with Reservation Conflict."""

    def abort_io(self, nsid: int) -> None:
        """Takes back I/O of the namespace that the device has not begun. `aborting` counts what is not back yet."""

    @property
    def aborting(self) -> int: ...
    def take_command(self) -> QueuedCommand | None:
        """The next one in the order of the queue. After None, the next command sends TARGET_QPAIR_COMMAND again."""

    def complete_command(self, token: int, status: int, data: bytes = b"") -> bool:
        """data: for the host, zeroes behind it. False: the connection has ended meanwhile."""

    def stats(self) -> TargetQpairStats: ...
    def close(self) -> None:
        """Closes the socket, waits until every command has come back from its device. Idempotent."""

# --- vfio-user --------------------------------------------------------------------------------------------------

DMA_REGIONS_MAX: Final[int]
"""Of one client."""
ADMIN_DATA_BYTES_MAX: Final[int]
"""Of one admin command."""

class SharedFault(IntEnum):
    """Why a queue in a client's memory has ended by itself."""

    NONE = 0
    BROKEN_MEMORY = 1
    """The client has shrunk a file that it shares."""
    INVALID_DOORBELL = 2

class DmaMap:
    """The memory of one client that a server may use, by the addresses (IOVA) that commands name. Its queues share it.

    Addresses, sizes and offsets are bytes, multiples of 4096. Every method raises ValueError for what a client must
    not do. They wait for the reactors of the queues: call them in a thread."""

    def __init__(self) -> None: ...
    def map(self, iova: int, size: int, fd: int, offset: int, writable: bool) -> None:
        """Maps a part of a file in memory (memfd, tmpfs, hugetlbfs). The caller keeps fd and may close it. ValueError
        also for a region that overlaps another one, for too many, and for a file that is too short; OSError."""

    def unmap(self, iova: int, size: int) -> None:
        """A region as it was mapped. No later command finds it; a queue in it remains. Waits for commands in flight
        whose data lie there, at most 1 s: then the memory stays mapped for them until they are back."""

    def clear(self) -> None:
        """Unmaps all regions, and waits for nothing."""

    @property
    def region_count(self) -> int: ...
    @property
    def lingering_count(self) -> int:
        """Regions that were unmapped, and that commands in flight use yet."""

    @property
    def broken(self) -> bool:
        """A file was shrunk, and there is other memory in its place."""

class SharedQpairConfig:
    def __init__(
        self,
        *,
        qid: int,
        sq_iova: int,
        cq_iova: int,
        sq_entries: int,
        cq_entries: int,
        max_io_bytes: int = 131072,
        flush_alarm: FlushAlarm | None = None,
    ) -> None:
        """Addresses are multiples of 4096. qid: 1 to 511. Entries: 2 to 4096."""

class SharedTargetQpair:
    """The target side of one I/O queue over vfio-user. Emits SHARED_QPAIR_CLOSED when it ends by itself."""

    def __init__(
        self,
        reactor: Reactor,
        memory: DmaMap,
        bar0_fd: int,
        record_fd: int,
        config: SharedQpairConfig,
        namespaces: dict[int, BlockDevice],
        bars: dict[int, tuple[int, int]] = {},
    ) -> None:
        """bar0_fd: a memfd of 8192 bytes; the client should not be able to shrink it (F_SEAL_SHRINK). record_fd: a
        memfd of record_bytes(); all zeroes: a new queue, whose doorbells are set to 0. Otherwise the queue goes on from
        it. The caller keeps both and may close them. ValueError: also for a queue that is not mapped, and for the
        record of another queue; OSError."""

    @staticmethod
    def record_bytes(sq_entries: int) -> int: ...
    @property
    def id(self) -> int: ...
    @property
    def connected(self) -> bool:
        """It has not ended."""

    @property
    def drained(self) -> bool:
        """It has ended, and every command has come back from its device: close() does not wait."""

    def set_namespace(self, nsid: int, device: BlockDevice | None, bars: tuple[int, int] = (0, 0)) -> None:
        """See TargetQpair."""

    def give_back_removed(self) -> bool:
        """See TargetQpair."""

    def set_bars(self, nsid: int, bars: tuple[int, int]) -> None:
        """See TargetQpair."""

    def abort_io(self, nsid: int) -> None:
        """See TargetQpair."""

    @property
    def aborting(self) -> int: ...
    def stats(self) -> TargetQpairStats:
        """Bytes are those of data."""

    def close(self) -> None:
        """Waits until every command is back from its device. What is in flight stays in the record. Idempotent."""

class AdminCommand:
    token: Final[int]
    @property
    def sqe(self) -> bytes:
        """64 bytes."""

class SharedAdminQueue:
    """The admin queue over vfio-user, whose commands Python executes."""

    def __init__(
        self,
        reactor: Reactor,
        memory: DmaMap,
        bar0_fd: int,
        record_fd: int,
        sq_iova: int,
        cq_iova: int,
        sq_entries: int,
        cq_entries: int,
    ) -> None:
        """As SharedTargetQpair. Commands that were taken from the same record and not completed are given again."""

    @staticmethod
    def record_bytes(sq_entries: int) -> int: ...
    @property
    def id(self) -> int: ...
    def take(self) -> AdminCommand | None:
        """The next one in the order of the queue. After None, the next command sends ADMIN_COMMAND again."""

    def read_data(self, token: int, length: int) -> bytes | None:
        """The beginning of the memory that the command names. None: it does not name that much, or the queue has ended.
        ValueError: there is no such command, or more than ADMIN_DATA_BYTES_MAX."""

    def complete(self, token: int, status: int, result: int, data: bytes = b"") -> bool:
        """data: to the beginning of the memory that the command names. False: it does not name that much; the command
        is not completed and wants another answer. True also if the queue has ended. ValueError as read_data()."""

    def close(self) -> None:
        """Idempotent."""

# --- NBD --------------------------------------------------------------------------------------------------------

NBD_REQUEST_BYTES_MAX: Final[int]
"""The largest read or write."""
NBD_REQUESTS: Final[int]
"""Requests of one connection in flight; a client that sends more waits."""

class NbdClose(IntEnum):
    """Why an NBD connection has ended."""

    NONE = 0
    PEER_CLOSED = 1
    SOCKET_ERROR = 2
    """detail: errno."""
    PROTOCOL_ERROR = 3
    DISCONNECTED = 4
    """By NBD_CMD_DISC."""
    CLOSED = 5
    """By close()."""

class NbdConnectionStats:
    requests: Final[int]
    read_blocks: Final[int]
    write_blocks: Final[int]
    errors: Final[int]
    bytes_in: Final[int]
    bytes_out: Final[int]
    def as_dict(self) -> dict[str, int]: ...

class NbdConnection:
    """The server side of one NBD connection, after the handshake. Emits NBD_CLOSED when it ends by itself."""

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        device: BlockDevice,
        *,
        block_count: int,
        read_only: bool = False,
        structured_replies: bool = False,
        trim: bool = True,
        write_zeroes: bool = True,
        fast_zero: bool = True,
    ) -> None:
        """Takes a duplicate of fd. block_count: as the client was told; the device may be larger. The others: what was
        negotiated or advertised. Raises ValueError for a device that NBD can't serve, OSError."""

    @property
    def id(self) -> int: ...
    @property
    def connected(self) -> bool: ...
    @property
    def drained(self) -> bool:
        """Not connected, and every request has come back from the device: close() does not wait."""

    def stats(self) -> NbdConnectionStats: ...
    def disconnect(self) -> None:
        """Closes the socket, and does not wait. Idempotent."""

    def close(self) -> None:
        """Like disconnect(), and waits until every request has come back from the device. Idempotent."""

# --- FTL data path ----------------------------------------------------------------------------------------------

LATENCY_BOUNDS: Final[int]
STREAM_USER: Final[int]
STREAM_RELOC: Final[int]
ADDRESS_INVALID: Final[int]
EAGER_REQUESTS: Final[int]
"""Cache writes in flight up to which one is sent however full it is; beyond them only full ones are sent."""

class BandState(IntEnum):
    """By the number that changed_bands() and load_bands() have."""

    FREE = 0
    QUEUED = 1
    OPEN = 2
    CLOSING = 3
    CLOSED = 4
    MOVING = 5
    RESETTING = 6
    FAULTED = 7

class BandInfo:
    """A band with its zones."""

    state: Final[BandState]
    seq: Final[int]
    valid: Final[int]
    """Blocks of data, and headers that may hold a record in force; 0 means: can be reset."""
    references: Final[int]
    """LBAs whose trim or lost record stands in this band."""
    written: Final[int]
    stream: Final[int]
    readers: Final[int]
    unreadable: Final[bool]
    """A host, or the scrub, could not read something in it: it is told as FAULTED and BAND_UNREADABLE was sent, once
    until it is reset."""
    write_pointers: Final[list[int]]
    """Relative to each zone's start, by punit."""
    faulted_punits: Final[list[int]]
    def as_dict(self) -> dict[str, Any]: ...

def band_row_layout() -> list[tuple[str, str]]:
    """Of a row of changed_bands(), for numpy.dtype(): name and format of each field. faulted_punits is a mask; state: a
    BandState; stream: the class that it was opened for; opened_seq: the core's next_seq then; data_seq: of the data
    blocks written to it, on average; written counts what was given up, too; unreadable: once such a band is closed, its
    state is FAULTED; settling: records that are in the band, but the L2P does not name their place there yet."""

class BandColumns:
    """Takes rows of changed_bands() and band_rows() into arrays of all bands. It keeps and writes the arrays."""

    def __init__(
        self,
        *,
        valid: NDArray[np.int64],
        seq: NDArray[np.int64],
        opened_seq: NDArray[np.int64],
        data_seq: NDArray[np.int64],
        capacity: NDArray[np.int64],
        written: NDArray[np.int64],
        stream: NDArray[np.uint8],
        unwritten: NDArray[np.bool_],
        state: NDArray[np.uint8],
        closed: NDArray[np.bool_],
        faulted: NDArray[np.bool_],
        counts: NDArray[np.int64],
        rooms: NDArray[np.int64],
        queued: NDArray[np.int64],
        writing: NDArray[np.int64],
        lasting_state: int,
    ) -> None:
        """Of shape (bands,); counts: of bands, by state. By class (CLASSES_MAX): rooms, the blocks that can still
        be written to its bands; queued, its queued bands; writing, its queued and open ones. capacity is only read.
        closed: in state CLOSED or FAULTED. A band in lasting_state stays in it. ValueError if the lengths do not
        fit."""

    def take(self, rows: NDArray[np.uint8]) -> list[tuple[int, int, int]]:
        """(band, state, mask of failed punits) of each band in rows that file() must be called for: it has failed
        punits, or is free, closed without valid blocks, or was free or closed, and is in another state; of closed and
        free ones also if the seq is another one; of closed ones if they are empty now, or not any more. Other bands in
        another state are filed. ValueError, and nothing is written, if these are no whole rows of bands, states and
        classes that there are."""

    def file(self, band: int, state: int) -> int:
        """The band is in this state from now on. Returns the state before. ValueError: there is no such one."""

    def in_state(self, state: int) -> list[int]:
        """The bands in this state, in no certain order. ValueError: it is neither QUEUED, OPEN, CLOSING, MOVING,
        RESETTING nor FAULTED."""

    def moving_valid(self) -> int:
        """Valid blocks of the bands in state MOVING."""

    def resetting_capacity(self) -> int:
        """The capacity of the bands in state RESETTING."""

    def movable(self, most_valid: NDArray[np.int64], room: int, allowed: NDArray[np.bool_]) -> int:
        """Sets allowed, of shape (bands,), for closed bands with at least one valid block, at most room, and at most
        most_valid of the band. Returns how many these are."""

def best_band(merit: NDArray[np.float64] | NDArray[np.int64], allowed: NDArray[np.bool_]) -> tuple[int, float]:
    """The allowed band with the greatest merit, of equal ones the first, and that merit; but the first allowed one
    whose merit is not a number. ValueError if none is allowed, or the lengths differ."""

class CoreStats:
    """Counters since the core was made, and what it holds now."""

    user_reads: Final[int]
    user_writes: Final[int]
    user_read_blocks: Final[int]
    user_written_blocks: Final[int]
    user_trimmed_blocks: Final[int]
    media_written_blocks: Final[int]
    media_header_blocks: Final[int]
    media_summary_blocks: Final[int]
    media_user_blocks: Final[int]
    media_reloc_blocks: Final[int]
    media_trim_blocks: Final[int]
    reloc_moved_blocks: Final[int]
    reloc_read_blocks: Final[int]
    reloc_reads: Final[int]
    reloc_batches: Final[int]
    lost_blocks: Final[int]
    flushes: Final[int]
    base_flushes: Final[int]
    zone_resets: Final[int]
    crc_errors: Final[int]
    user_crc_errors: Final[int]
    """Of crc_errors, those in what hosts read."""
    reads_repeated: Final[int]
    """Blocks, by hosts' reads."""
    reads_rescued: Final[int]
    """Blocks that only the write buffer, or the nv cache's ring, still had."""
    unreadable_blocks: Final[int]
    """Blocks for whose sake a host's read was answered with an error."""
    read_errors: Final[int]
    write_errors: Final[int]
    zones_finished: Final[int]
    """By the base, before they were full."""
    write_buffer_used: Final[int]
    """Blocks that are not on media."""
    write_buffer_landed: Final[int]
    """Blocks on media, but held until the base has flushed."""
    write_buffer_reserved: Final[int]
    """Room for the data of writes that are being received, and for those of other reactors."""
    write_buffer_blocks: Final[int]
    busy_answers: Final[int]
    """Of the base, to what was then sent again."""
    scrub_reads: Final[int]
    scrub_read_blocks: Final[int]
    """Data, as it was written."""
    scrub_bad_blocks: Final[int]
    scrub_bad_metadata: Final[int]
    scrub_slow_reads: Final[int]
    throttled_ns: Final[int]
    l2p_page_reads: Final[int]
    l2p_page_writes: Final[int]
    l2p_page_waits: Final[int]
    next_seq: Final[int]
    mapped_blocks: Final[int]
    """Blocks that hosts have written, also as uncorrectable, and not deallocated since."""
    batches: Final[int]
    short_batches: Final[int]
    def as_dict(self) -> dict[str, int]: ...

class NvCacheState(IntEnum):
    ACTIVE = 0
    FAILED = 1
    OFF = 2
    """forget_cache() was called."""

class NvCacheStats:
    state: Final[NvCacheState]
    vss: Final[bool]
    """It has metadata beside its blocks."""
    generation: Final[int]
    lap: Final[int]
    position: Final[int]
    """Of what comes next; counted on over laps."""
    ring_blocks: Final[int]
    used_blocks: Final[int]
    write_ios: Final[int]
    written_blocks: Final[int]
    metadata_blocks: Final[int]
    header_writes: Final[int]
    flushes: Final[int]
    write_errors: Final[int]
    busy_answers: Final[int]
    ring_waits: Final[int]
    def as_dict(self) -> dict[str, Any]: ...

class ScrubEnd(IntEnum):
    READ = 0
    """Everything in force was read."""
    LEFT = 1
    """The band is not there any more, or the scrub was stopped."""
    BUSY = 2
    """The base was, for a minute."""
    BAD = 3
    """Something could not be read, or was not as written, twice, and the band is told as unreadable."""

class ScrubStatus:
    """Whether a scrub is under way; and of the one that ended last, how."""

    under_way: Final[bool]
    ended: Final[int]
    """How many did."""
    band: Final[int | None]
    """None: none was begun."""
    end: Final[ScrubEnd]
    slow: Final[bool]
    """Some read took over a second, twice, and one elsewhere did not."""
    status: Final[int]
    """Of what was bad, or slow; so is address."""
    address: Final[int]
    def as_dict(self) -> dict[str, Any]: ...

class CoreConfig:
    """What an FtlCore is made with. All lengths in blocks."""

    def __init__(
        self,
        *,
        uuid: bytes,
        block_count: int,
        bands: Sequence[Sequence[int]] | NDArray[np.uint64],
        zone_size: int,
        zone_capacity: int,
        batch_blocks: int = 128,
        use_append: bool = False,
        shared_stream: bool = False,
        classes_max: int = 2,
        write_buffer_blocks: int = 1536,
        write_buffer_path: str | None = None,
        reloc_buffer_blocks: int = 512,
        max_reloc_qdepth: int = 32,
        max_active_relocs: int = 3,
        band_threshold: int = 90,
        next_seq: int = 1,
        finish_zones: bool = False,
        verify_reads: bool = True,
        no_data: bool = False,
        media_uuid: bytes | None = None,
        trim_chunk: int = 128,
        trim_step: int = 32768,
        page_folder: str | None = None,
        page_memory: int = 0,
        page_bytes: int = 4096,
        page_threads: bool = True,
        flush_zone_starts: bool = False,
    ) -> None:
        """bands[b] = start LBAs of the band's zones, one per punit (ADDRESS_INVALID where a zone is missing).
        zone_capacity: the smallest of all zones used. batch_blocks counts the header. All lengths in blocks.
        classes_max: classes of bands that can be written side by side, 2..8; so many bands, and one more that is being
        closed, are open at a time.
        finish_zones: zones get a Finish behind their summary; needed where some zone has a greater capacity, which
        would leave it active. A write_buffer_path is made anew. verify_reads: what is read is compared with its CRC,
        which takes 2 bytes of memory for each block. no_data: the base keeps nothing of what is written to it; what
        stood where is remembered, at 4 or 8 bytes a block of the base, and nothing is verified, reads neither.
        media_uuid: of the records on the base, where that is another than uuid. trim_chunk: LBAs that a trim hides
        together, a power of two, 128 at most. trim_step: L2P entries that trims visit at once without other I/O; 0:
        only those that something needs. page_folder: of the file for pages of the L2P and the CRCs if they take more
        than page_memory bytes. page_bytes: a power of two. page_threads: False if nothing may depend on threads.
        flush_zone_starts: the first batch of a zone is durable before anything else is written to it.
        ValueError: an id is not 16 bytes."""

    block_count: Final[int]
    punits: Final[int]
    zone_size: Final[int]
    zone_capacity: Final[int]
    batch_blocks: Final[int]
    use_append: Final[bool]
    shared_stream: Final[bool]
    classes_max: Final[int]
    finish_zones: Final[bool]
    flush_zone_starts: Final[bool]
    write_buffer_blocks: Final[int]
    write_buffer_path: Final[str | None]
    reloc_buffer_blocks: Final[int]
    max_reloc_qdepth: Final[int]
    max_active_relocs: Final[int]
    band_threshold: Final[int]
    next_seq: Final[int]
    verify_reads: Final[bool]
    no_data: Final[bool]
    trim_chunk: Final[int]
    trim_step: Final[int]

class NvCacheConfig:
    """generation, lap: of the newest header, which stands on the device with that id; position: where the ring of a
    cache without metadata goes on; request_blocks: data blocks of one cache write."""

    def __init__(
        self,
        *,
        id: bytes,
        generation: int,
        lap: int,
        position: int = 0,
        request_blocks: int = 16,
        request_count: int = 2048,
    ) -> None:
        """ValueError: id is not 16 bytes."""

    generation: Final[int]
    lap: Final[int]
    position: Final[int]
    request_blocks: Final[int]
    request_count: Final[int]

class SimStop(IntEnum):
    """Why SimCore.run() has returned."""

    DONE = 0
    """All requests are done."""
    DECISION = 1
    """Python has to decide: take_events() says what about."""
    TIMER = 2
    """As many blocks as were asked for reached media."""
    BLOCKED = 3
    """Hosts wait, and relocation has nothing that it can do."""

class SimStats:
    """Blocks since the construction of a SimCore."""

    user_written_blocks: Final[int]
    user_trimmed_blocks: Final[int]
    media_written_blocks: Final[int]
    """Those of hosts, and those that relocation copied. There are no headers."""
    reloc_moved_blocks: Final[int]
    zone_resets: Final[int]
    """Of whole bands."""
    write_buffer_used: Final[int]
    """Always 0, like busy_answers."""
    busy_answers: Final[int]
    mapped_blocks: Final[int]
    scanned_blocks: Final[int]
    """Blocks of the bands that were moved."""
    next_seq: Final[int]
    stall_blocks_max: Final[int]
    """The most blocks that were relocated between two blocks of hosts, since forget_stalls()."""
    stalls: Final[list[int]]
    """[i]: how often these were less than 2^i, and at least half of that, since forget_stalls()."""

    def as_dict(self) -> dict[str, Any]: ...

class SimCore:
    """What FtlCore is for the band manager, on media without data: docs/policies.md, "The simulator". It has no
    thread; run() is the only clock. Orders are those of FtlCore."""

    def __init__(
        self,
        *,
        block_count: int,
        band_count: int,
        band_blocks: int,
        max_active_relocs: int = 3,
        band_threshold: int = 90,
        shared_stream: bool = False,
        reaction_blocks: int = 0,
    ) -> None:
        """reaction_blocks: that reach media between an event and the return of run(), unless something waits for an
        answer. ValueError for impossible numbers, MemoryError."""

    def run(
        self,
        lbas: NDArray[np.uint64],
        blocks: NDArray[np.uint32] | None = None,
        ops: NDArray[np.uint8] | None = None,
        *,
        media_blocks: int | None = None,
    ) -> tuple[int, SimStop]:
        """Requests of hosts, until Python has to decide, or so many blocks reached media. Returns how many are done;
        give the rest to the next call, which continues in the middle of the first one if need be. ops: 0 write, 1
        trim, 2 read. Without blocks and ops: writes of one block. ValueError for a request beyond the last LBA."""

    def take_events(self) -> list[tuple[EventKind, int]]:
        """Since the last call: BAND_NEXT_NEEDED with the stream, MOVE_DONE and BAND_RESET_DONE with the band."""

    def open_band(self, stream: int, band: int, band_seq: int) -> None: ...
    def take_queued(self, stream: int) -> int | None: ...
    def close_zone(self, band: int, punit: int) -> bool:
        """Closes the whole band, because bands have no zones here. False: there was nothing to close."""

    def start_move(self, band: int) -> None: ...
    def reset_bands(self, bands: Sequence[int]) -> list[int]:
        """They are free at once."""

    def set_pace(self, user_percent: int, reloc_per_thousand: int | None = None) -> None: ...
    def set_placement(
        self,
        *,
        classes: int,
        user_classes: int,
        user: tuple[Sequence[int], Sequence[int]],
        unwritten: int,
        relocated: Sequence[tuple[Sequence[int], Sequence[int]]],
        regions: NDArray[np.uint8] | None = None,
        region_blocks: int = 1,
    ) -> None:
        """Tables are pairs of classes and limits. Ages of relocated blocks need 4 bytes for each block of the media,
        from the first placement on that uses them."""

    def asking(self) -> list[int]:
        """The streams that have asked for a band, and have no answer yet."""

    def changed_bands(self, most: int) -> NDArray[np.uint8]: ...
    def band_rows(self, first: int, count: int) -> NDArray[np.uint8]: ...
    @property
    def band_changes(self) -> int: ...
    def stats(self) -> SimStats: ...
    def forget_stalls(self) -> None:
        """A phase begins, and what hosts waited for before does not count any more."""

    def data_seqs(self) -> NDArray[np.uint64]:
        """For each band: the mean seq of the hosts' writes that its blocks come from."""

    def opened_seqs(self) -> NDArray[np.uint64]:
        """For each band: next_seq when it was opened."""

    @property
    def next_seq(self) -> int: ...
    @property
    def media_written_blocks(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """What its arrays of blocks take."""

class Summary:
    """The summary of a zone, checked."""

    @staticmethod
    def of(blocks: NDArray[np.uint8], uuid: bytes, band: int, punit: int) -> Summary | None:
        """blocks: all of them, (n, 4096). None if any is missing, damaged, or of another zone."""

    def rows(self, numbers: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """These rows, as bytes of layout.ENTRY. Row i is for offset i of the zone. IndexError behind the last one."""

    @property
    def row_count(self) -> int: ...
    @property
    def band_seq(self) -> int: ...
    @property
    def highest_seq(self) -> int: ...
    @property
    def record_headers(self) -> list[int]:
        """Offsets of the headers of trim records and lost records."""

class L2pCounts:
    """What a RestoredL2p has in force."""

    @property
    def blocks(self) -> NDArray[np.uint64]:
        """By zone: LBAs with data there."""

    @property
    def records(self) -> NDArray[np.uint64]:
        """By zone: LBAs with a record there."""

    @property
    def known(self) -> int:
        """LBAs that are not ADDRESS_INVALID."""

    @property
    def content(self) -> int:
        """Of these, LBAs that are not trimmed."""

def checkpoint_pages(
    core: FtlCore, first_lba: int, count: int, *, media_end: int, uuid: bytes, generation: int, wide: bool
) -> NDArray[np.uint8]:
    """A part of the core's L2P as pages of a checkpoint, (n, 4096): entries, then CRCs, if the core keeps them. An
    entry that is not an address below media_end is left out, and so are pages without any. wide: entries of 8 bytes.
    ValueError if no page begins with the first LBA."""

def seal_pages(blocks: NDArray[np.uint8], address: int, index: int) -> None:
    """In place: for blocks that are written to this address, as numbers index and so on of their checkpoint."""

def take_pages(
    l2p: RestoredL2p,
    blocks: NDArray[np.uint8],
    *,
    uuid: bytes,
    generation: int,
    wide: bool,
    address: int,
    index: int,
    zone_size: int,
    zones: NDArray[np.bool_],
    has_crcs: NDArray[np.bool_],
) -> bool:
    """Takes pages that were read there. zones: by number, those that entries may point to; other entries are left out.
    has_crcs: by number of the page of CRCs; what is there is noted. False: one of them is no such page."""

class RestoredL2p:
    """The L2P while a load restores it: for each LBA the newest version found so far, and its seq. See docs/restore.md,
    "The newest version". Entries are ADDRESS_INVALID, an address, or TRIM_FLAG | or LOST_FLAG | the address of a
    header. Rows are those of layout.ENTRY, as bytes of shape (n, 24). For one thread at a time."""

    def __init__(
        self,
        block_count: int,
        base_block_count: int,
        *,
        zone_size: int = 0,
        zone_capacity: int = 0,
        with_crcs: bool = False,
        with_seqs: bool = True,
        many_seqs: bool = True,
        page_folder: str | None = None,
        page_memory: int = 0,
        page_bytes: int = 4096,
        page_threads: bool = True,
    ) -> None:
        """The base, with zones unless zone_size is 0, determines how many bytes an entry takes (l2p_entry_bytes()).
        many_seqs: most LBAs will have a seq; otherwise their memory is taken in small pages. page_folder and so
        on: as for CoreConfig. MemoryError, PageFileError."""

    def assume(self, seq: int) -> None:
        """From now on an entry without a seq counts as a version with this one."""

    def add(
        self, rows: NDArray[np.uint8], addresses: NDArray[np.uint64], *, all_doubtful: bool
    ) -> tuple[NDArray[np.uint32], int, float]:
        """Takes what a zone says about its blocks. Returns the numbers of the rows that it left out, because they have
        to be verified: those of held LBAs, with all_doubtful all that are not older than what is known. Also returns
        how many rows have an LBA of the device, and the sum of the seqs of these."""

    def add_summary(self, summary: Summary, start: int, *, all_doubtful: bool) -> tuple[NDArray[np.uint32], int, float]:
        """The same for a zone with a summary; the zone begins at that block."""

    def merge(self, rows: NDArray[np.uint8], addresses: NDArray[np.uint64]) -> None:
        """Takes rows that were verified."""

    def hold(self, firsts: NDArray[np.uint64], counts: NDArray[np.uint64]) -> None:
        """LBAs for which a held write may be newer than media, or as new. IndexError beyond the last LBA."""

    def apply_records(
        self,
        firsts: NDArray[np.uint64],
        counts: NDArray[np.uint64],
        seqs: NDArray[np.uint64],
        entries: NDArray[np.uint64],
    ) -> None:
        """Each record counts for the LBAs of its range that have nothing newer. IndexError beyond the last LBA."""

    def supersede(
        self, firsts: NDArray[np.uint64], counts: NDArray[np.uint64], seqs: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Drops the entries of LBAs that have only something older. Returns how many these are in each range."""

    def copies(self) -> NDArray[np.uint8]:
        """Blocks that had the seq of what was known already, as bytes of layout.COPY."""

    def entries_of(self, lbas: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """IndexError beyond the last LBA."""

    def seqs_of(self, lbas: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """0: nothing is known, or the seqs were dropped. IndexError beyond the last LBA."""

    def put(
        self,
        lbas: NDArray[np.uint64],
        entries: NDArray[np.uint64],
        *,
        seqs: NDArray[np.uint64] | None = None,
        crcs: NDArray[np.uint16] | None = None,
    ) -> None:
        """IndexError beyond the last LBA."""

    def put_range(self, first: int, entries: NDArray[np.uint32] | NDArray[np.uint64], count: int) -> None:
        """entries: rows one behind the other, the last of them perhaps shorter, ``count`` in all. Those of 4 bytes have
        the tag in their top two bits. IndexError beyond the last LBA."""

    def put_crcs(self, first: int, crcs: NDArray[np.uint16], count: int) -> None:
        """The same for cut CRCs, if the table keeps them."""

    def l2p(self, first: int, count: int) -> NDArray[np.uint64]: ...
    def crcs(self, first: int, count: int) -> NDArray[np.uint16]: ...
    def count(self, zone_size: int, zone_count: int, *, trim_chunk: int = 128) -> L2pCounts:
        """Of the table as it is. trim_chunk: as in CoreConfig. IndexError if an entry is not an address in one of these
        zones, MemoryError."""

    def grown(
        self, block_count: int, base_block_count: int, *, zone_size: int = 0, zone_capacity: int = 0
    ) -> RestoredL2p:
        """The same entries on a larger device, without seqs."""

    def drop_seqs(self) -> None:
        """Gives their memory back."""

    @property
    def block_count(self) -> int: ...
    @property
    def has_crcs(self) -> bool: ...

def l2p_entry_bytes(base_block_count: int, zone_size: int, zone_capacity: int) -> int:
    """What an entry of the L2P takes in memory: 4 up to 2^32 - 2^24 - 2^14 blocks in zones, else 8."""

def limit_narrow_l2p(blocks: int = 1073733632) -> None:
    """For tests: an L2P that is made from now on has entries with 30 bits of address only up to so many blocks. With 0
    it has the form for large bases (shim/ftl/l2p.hpp)."""

class PageFileError(OSError):
    """The file for pages of the L2P cannot be made, or has lost its content; or threads for it cannot be made. filename
    is its directory."""

def fail_l2p_pages(fails: bool) -> None:
    """For tests: all I/O of L2P pages fails from now on, or works again."""

def uncovered_parts(
    firsts: NDArray[np.uint64], counts: NDArray[np.uint64], end: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """The parts of ranges of LBAs that no range before them covers: the number of the range, and first and count of
    each part. Ranges are cut at end."""

class FtlCore(BlockDevice):
    """The FTL's data path: a BlockDevice with random 4 KiB writes over a zoned one. See docs/architecture.md, "Orders
    and events"."""

    def __init__(self, reactor: Reactor, base: BlockDevice, config: CoreConfig) -> None:
        """ValueError for impossible settings, OSError for the write buffer's file."""

    @property
    def id(self) -> int: ...

    # orders
    def open_band(self, stream: int, band: int, band_seq: int) -> None:
        """Queues an empty, reset band as the next of a stream (a class of bands). At most one may be queued:
        BlockingIOError."""

    def take_queued(self, stream: int) -> int | None:
        """Frees the band that is queued as the stream's next; None: none was queued. The stream does not ask for
        another one."""

    def set_placement(
        self,
        *,
        classes: int,
        user_classes: int,
        user: tuple[Sequence[int], Sequence[int]],
        unwritten: int,
        relocated: Sequence[tuple[Sequence[int], Sequence[int]]],
        regions: NDArray[np.uint8] | None = None,
        region_blocks: int = 1,
    ) -> None:
        """Which class of bands each block goes to from now on: the fields of ftl/policy/interface.py's Placement.

        user, relocated: classes, and limits of ages. The last table of relocated also counts for bands of classes
        beyond it. If the number of classes changes, relocation classes continue in the bands that they have; bands of
        relocation classes that no longer exist are filled first; those of user classes that no longer exist are
        closed, and queued ones of both are free again. Classes that need a band ask for it anew.
        ValueError if it makes no sense, names more classes than CoreConfig.classes_max, or the streams share a band;
        then nothing has changed."""

    def asking(self) -> list[int]:
        """The classes that have asked for a band (BAND_NEXT_NEEDED), and have no answer yet."""

    def start_move(self, band: int) -> None:
        """Copies what is valid in a closed (or faulted) band to STREAM_RELOC; ends with MOVE_DONE. BlockingIOError
        when max_active_relocs bands are being moved."""

    def start_scrub(self, band: int, stays: bool = False) -> None:
        """Reads and verifies what is in force in a band that is closed or being written, where it stands; ends with
        SCRUB_DONE. The band may be moved or reset meanwhile, which ends it, and so does what is bad. stays: no band
        is moved any more, so that all of it is read; of faulted ones, too. BlockingIOError while another one is read.
        ValueError for a band in another state, and with no_data."""

    def set_scrub_rate(self, blocks_per_s: int) -> None:
        """Reads at most so many blocks in a second from now on. 0: as fast as the base serves 4 reads at a time, or one
        while hosts' writes wait or are limited."""

    def stop_scrub(self) -> None:
        """The band that is read is left. SCRUB_DONE when nothing is in flight. Idempotent."""

    def scrub_status(self) -> ScrubStatus: ...
    def reset_band(self, band: int) -> None:
        """Resets a band without valid blocks, after everything accepted before now is durable; BAND_RESET_DONE
        (status not 0: the zone failed_punit, which is faulted until replace_zone; or, where that is None, the flush
        before it, and the band is as it was). Free bands may be reset too.
        ValueError where anything in the band is in force."""

    def reset_bands(self, bands: Sequence[int]) -> list[int]:
        """As reset_band() for each; returns the bands that are in use or have valid data, which are left as they
        are."""

    def replace_zone(self, band: int, punit: int, zone_start: int | None) -> None:
        """While the band is free: puts another zone in place of a faulted one (None: the band works without it)."""

    def fault_zone(self, band: int, punit: int, status: int) -> bool:
        """The base says that this zone can't be written any more: ZONE_FAULT with that status, and a closed band is
        a faulted one. False, and nothing happens, where that is known, or the band is being written or reset and will
        find it out."""

    def close_zone(self, band: int, punit: int) -> bool:
        """The base recommends to finish this zone: finishes it after what is in flight, and the band continues in its
        other zones. False if it is not being written."""

    def set_pace(self, user_percent: int, reloc_per_thousand: int | None = None) -> None:
        """Balances host writes and moves, from now on.

        user_percent: the user's part of the blocks written. 100: no limit. 0: none. Throttles what the write buffer
        accepts; its content always drains (docs/architecture.md, "Write path"). reloc_per_thousand: moves copy this
        many blocks for each 1000 that hosts write; at least one read in each millisecond, and without a pause while
        hosts do nothing. None: no limit. It must be at least what user_percent needs, or each waits for the other."""

    def fail_writes(self, status: int) -> None:
        """From now on every write, trim and write-zeroes fails with status; reads, and flushes of what is on media,
        continue. The content of the write buffer stays readable but can't be flushed: a flush that covers it fails. For
        a device without space."""

    def refuse_writes(self) -> None:
        """From now on every write, trim and write-zeroes fails with Namespace Not Ready, including those that wait for
        room. What was accepted goes to media. For a halt: nothing is accepted after its drain()."""

    def drain(self) -> int:
        """Everything accepted so far to media and flushed; then DRAINED with this ticket and the flush's status."""

    def flush_base(self) -> int:
        """A flush of what the base has by now; then DRAINED with this ticket and the flush's status. Whatever else
        writes to the base of a core flushes it so: one flush at a time, and the core knows of each that fails."""

    def fail(self, status: int) -> None:
        """Fails every outstanding and future I/O. For a base that went away."""

    def begin_close(self) -> bool:
        """As close(), but does not wait for I/O that is outstanding at the base. True: none is outstanding.
        Idempotent."""

    def close(self) -> None:
        """Stops at once (no drain), fails outstanding I/O, releases the base. Idempotent. RuntimeError: the base did
        not complete outstanding I/O for 10 s."""

    # state
    def load_band(self, band: int, state: BandState, band_seq: int, write_pointers: Sequence[int]) -> None:
        """Restore: FREE, CLOSED or FAULTED; write pointers relative to each zone's start."""

    def load_bands(
        self, first: int, states: NDArray[np.uint8], band_seqs: NDArray[np.uint64], write_pointers: NDArray[np.uint64]
    ) -> None:
        """load_band() of many, from band ``first`` on. states: as in changed_bands(); write_pointers: (bands,
        punits)."""

    def load_history(
        self, first: int, classes: NDArray[np.uint8], opened_seqs: NDArray[np.uint64], data_seqs: NDArray[np.uint64]
    ) -> None:
        """The class of loaded bands, from band ``first`` on, and how old their data is; only placement and policies
        need it. Seqs beyond next_seq count as next_seq."""

    def load_l2p(self, first_lba: int, addresses: NDArray[np.uint64], crcs: NDArray[np.uint16] | None = None) -> None:
        """Restore: L2P entries (ADDRESS_INVALID, an address, TRIM_FLAG | or LOST_FLAG | header address); counts them as
        valid. crcs: of the block that each LBA has on media, cut (crc ^ crc >> 16, the low 16 bits); if reads are
        verified, ValueError for an address without a CRC."""

    def take_l2p(self, table: RestoredL2p, counts: L2pCounts) -> None:
        """Instead of load_l2p(): the core has the memory of the table afterwards, and the table is as good as new. It
        takes as long as there are bands, however many LBAs. ValueError, with nothing changed: the table is of another
        device, or has changed since it was counted; an entry is not in a band; it lacks CRCs; the core has an L2P
        already."""

    def recover_block(
        self, lba: int, seq: int, crc: int, data: bytes | bytearray | memoryview | NDArray[np.uint8]
    ) -> bool:
        """Restore, after load_l2p() and before serving: a block accepted in an earlier life that is newer than
        everything on media. It keeps its seq, and is held in the write buffer (and its file) as if it had been written
        now. In ascending seq, together with records. False: no slot is free now. ValueError: seq is not below next_seq,
        lba is beyond the last, data is not one block that matches its crc."""

    def recover_record(self, lba: int, block_count: int, seq: int, flags: int) -> bool:
        """The same for a trim (flags 1) or lost (2) record. LBAs in its range that load_l2p() gave an entry have
        something newer, and keep it. False: no record is free now."""

    # nv cache
    def use_cache(self, device: BlockDevice, config: NvCacheConfig) -> None:
        """Before the first write: from now on writes complete when they are in the nv cache on this conventional
        device (and flushed there), trims when they are durable on the base. ValueError for a device or settings that
        can't be. A device that fails: CACHE_FAILED, then writes are held back until forget_cache()."""

    def forget_cache(self) -> None:
        """Continues without the nv cache for good: the superblock says that it must not be read. Idempotent."""

    def cache_stats(self) -> NvCacheStats | None:
        """None without one."""

    @property
    def pages_lost(self) -> bool:
        """Whether pages of the L2P could not be read or written: the core has failed, or will."""

    def l2p(self, first_lba: int, count: int) -> NDArray[np.uint64]: ...
    def crcs(self, first_lba: int, count: int) -> NDArray[np.uint16]:
        """The CRC that the newest block of each LBA must match when it is read; undefined for an LBA without one.
        ValueError if reads are not verified."""

    def valid_counts(self) -> NDArray[np.uint32]:
        """Valid blocks of each band."""

    def bands(self) -> list[BandInfo]: ...
    def changed_bands(self, most: int) -> NDArray[np.uint8]:
        """The account of at most so many bands that have changed since they were last told of, those first that changed
        first; at first all have. Rows of band_row_layout(), as bytes. Whatever became of the events: a band
        that changed is told of."""

    def band_rows(self, first: int, count: int) -> NDArray[np.uint8]:
        """The same rows of these bands, changed or not; changes are reported anyway."""

    def zone_pointers(self, first: int, count: int) -> NDArray[np.uint32]:
        """Of each zone of these bands, by band and punit: the blocks that are known to be on media."""

    def part_seqs(self) -> int:
        """Returns next_seq. What is accepted later has this seq or a greater one. What was accepted before has a
        smaller one, and the L2P tells of it: a Write Uncorrectable in progress goes on with another record."""

    def stats(self) -> CoreStats: ...
    @property
    def troubles(self) -> int:
        """How many writes to the base have failed, how often it was busy, and how many blocks made a host's read fail.
        Does not wait for the reactor."""

    @property
    def band_changes(self) -> int:
        """Unchanged: since then no band has joined those of changed_bands(). Does not wait for the reactor."""

    @property
    def failure(self) -> int:
        """The status with which every I/O fails; 0: it has not failed."""

    @property
    def next_seq(self) -> int: ...

SLOT_FLAG: Final[int]
"""L2P entry: | slot of the write buffer. Only from l2p()."""
TRIM_FLAG: Final[int]
"""L2P entry: | address of the header block that holds the trim record."""
LOST_FLAG: Final[int]
"""L2P entry: the LBA reads as an error, | address of the header block that holds the lost record. ADDRESS_INVALID is
checked first, because it has these bits too."""
