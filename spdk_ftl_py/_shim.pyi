"""The C++ shim: I/O queues, emulated media, FTL data path.

Threads: objects that belong to a Reactor run on its thread. Every method here may be called from Python's thread; it
runs on the reactor (``Reactor.call``), and waits for that without the GIL. Only IoPort is for frequent I/O.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

def crc32c(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """CRC32C (Castagnoli) of data; seed is the CRC of preceding data."""

def crc32c_rows(rows: NDArray[np.uint8], row_bytes: int, crcs: NDArray[np.uint32]) -> None:
    """CRC32C of the first row_bytes of each row, in one call; crcs has the CRCs of the data that precedes each, and
    gets the results. ValueError if the shapes do not fit."""

def build_info() -> dict[str, str]:
    """compiler, flags, sanitizers, crc ("sse4.2" or "table"), tls (OpenSSL's version; empty: built without)."""

class Event:
    """One line from the shim; see shim/reactor/reactor.hpp EventKind for what a, b, c mean."""

    @property
    def kind(self) -> int: ...
    @property
    def source(self) -> int: ...
    @property
    def a(self) -> int: ...
    @property
    def b(self) -> int: ...
    @property
    def c(self) -> int: ...

EV_IO_DONE: Final[int]
EV_TARGET_QPAIR_CLOSED: Final[int]
QPAIR_TIMED_OUT: Final[int]
EV_HOST_QPAIR_LOST: Final[int]
EV_BAND_NEXT_NEEDED: Final[int]
EV_BAND_CLOSED: Final[int]
EV_MOVE_DONE: Final[int]
EV_BAND_RESET_DONE: Final[int]
EV_ZONE_FAULT: Final[int]
EV_BLOCK_LOST: Final[int]
EV_DRAINED: Final[int]
EV_CORE_FAILED: Final[int]
EV_FLUSH_FAILED: Final[int]
EV_ZONE_FINISHED: Final[int]
EV_BAND_UNREADABLE: Final[int]
EV_SCRUB_DONE: Final[int]
EV_CACHE_FAILED: Final[int]
EV_OVERFLOW: Final[int]

ERROR_NONE: Final[int]
ERROR_GONE: Final[int]
ERROR_BUSY: Final[int]
ERROR_COMMAND: Final[int]
ERROR_BLOCK: Final[int]
ERROR_ZONE: Final[int]
ERROR_MISTAKE: Final[int]
ERROR_DOUBT: Final[int]

def error_class(status: int, do_not_retry: bool = False, op: int = 0) -> int:
    """One of ERROR_*: what an error of a device means for the issuer of the I/O. op: one of OP_*; ERROR_DOUBT is only
    for OP_FLUSH. The table is in shim/reactor/error_class.hpp; docs/durability.md describes what follows from each
    class."""

def perhaps_media(status: int) -> bool:
    """For ERROR_BUSY: if the error persists, it may concern one block or zone. An SPDK target returns it for any error
    of a bdev."""

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
    def start(self) -> None: ...
    def stop(self) -> None:
        """Joins the thread; idempotent. Pollers stay registered; step() works again afterwards."""

    def step(self, now_ns: int | None = None) -> int:
        """Polls everything once from this thread (RuntimeError while started); now_ns sets the simulated clock."""

    @property
    def running(self) -> bool: ...
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
    def zoned(self) -> bool: ...
    @property
    def zone_size(self) -> int: ...
    @property
    def zone_capacity(self) -> int: ...
    @property
    def max_open_zones(self) -> int: ...
    @property
    def max_active_zones(self) -> int: ...

OP_READ: Final[int]
OP_WRITE: Final[int]
OP_APPEND: Final[int]
OP_FLUSH: Final[int]
OP_WRITE_ZEROES: Final[int]
OP_DEALLOCATE: Final[int]
OP_ZONE_SEND: Final[int]
OP_ZONE_REPORT: Final[int]

class IoPort:
    """Python's access to a BlockDevice: bounded, asynchronous, completions as EV_IO_DONE events.

    Data buffers belong to the caller (writable for reads, C-contiguous), and are kept alive until the event.
    """

    def __init__(self, reactor: Reactor, device: BlockDevice, depth: int = 128) -> None: ...
    @property
    def id(self) -> int:
        """Event.source of its completions."""

    def submit(
        self,
        op: int,
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

    def take_untold(self) -> list[tuple[int, int, int]]:
        """(ticket, status, result) of completed I/Os whose event was dropped: call it at EV_OVERFLOW."""

    def close(self) -> None:
        """Waits for outstanding I/O. Idempotent."""

class ReadList:
    """Reads of one length from very many addresses, depth at a time: one EV_IO_DONE event when all have completed."""

    def __init__(self, reactor: Reactor, device: BlockDevice, depth: int = 128) -> None: ...
    @property
    def id(self) -> int:
        """Event.source; Event.b is the status of the first read that failed, after which no more are sent."""

    def start(self, addresses: Sequence[int], block_count: int, rows: NDArray[np.uint8] | bytearray) -> None:
        """rows: block_count blocks for each address, kept alive until release() or the next start(). BlockingIOError:
        the previous list is not done. ValueError: no address, or rows are too small."""

    def take_untold(self) -> int | None:
        """The status of a list that is done and whose event was dropped: call it at EV_OVERFLOW."""

    def release(self) -> None:
        """Releases the rows of a list that is done; does nothing before that."""

    def close(self) -> None:
        """Waits for outstanding I/O. Idempotent."""

# --- emulated media ---------------------------------------------------------------------------------------------

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
    def set_zone_state(self, zone: int, state: str) -> None:
        """A change that a drive makes by itself. state: "read_only", "offline", or "full": the drive finishes the zone,
        and sets the attribute; ValueError if the zone is not active."""

    def recommend(self, zone: int, *, finish: bool = False, reset: bool = False) -> None:
        """The attributes recommend this for the zone, until it is done."""

    def zone_states(self) -> list[tuple[int, str, int]]:
        """(start LBA, state name, write pointer LBA) of every zone."""

    def inject_fault(
        self,
        *,
        op: int | None = None,
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
    def operations(self) -> int:
        """I/Os completed so far; the crash machine counts on it."""

    def cut_power_at(self, operation: int, seed: int) -> None:
        """Makes power_cut(seed) happen when `operations` reaches this."""

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
        initial_state: str = "empty",
        zone_commands: bool = True,
    ) -> None:
        """initial_state: "empty" (new device) or "full" (after a restart, when write pointers are unknown).
        zone_commands False: zone actions, reports and appends are invalid opcodes, like those of SPDK's zone_block over
        NVMe-oF."""

# --- gate -------------------------------------------------------------------------------------------------------

class Gate(BlockDevice):
    """A device in front of one that may be lost (an FtlCore that failed, a HostQpair that lost its connection) and
    replaced by another with the same content: its users notice a pause. I/O that a lost device fails is held, and so is
    all later I/O, until set_device() or fail()."""

    def __init__(self, reactor: Reactor, device: BlockDevice) -> None:
        """ValueError for another gate."""

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
    def state(self) -> str:
        """ "open" | "holding" | "failing"."""

    @property
    def held(self) -> int:
        """I/Os that are held."""

# --- load -------------------------------------------------------------------------------------------------------

EV_LOAD_DONE: Final[int]

class LoadGenerator:
    """Closed-loop load on a BlockDevice with content that can be verified: every 4 KiB block contains (seed, lba,
    version).

    Keeps the version last written of every LBA (0: never, or trimmed: reads zeroes); a read verifies whole blocks
    against it. Two outstanding I/Os of one generator never overlap.
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
    ) -> None: ...
    @property
    def id(self) -> int: ...
    def start(
        self,
        kind: str,
        *,
        pattern: str = "random",
        io_blocks: int = 1,
        total_blocks: int = 0,
        queue_depth: int = 32,
        time_limit_s: float = 0.0,
        write_percent: int = 100,
    ) -> None:
        """kind: "write" | "read" (verifies) | "trim" | "mixed" (write_percent writes, rest verified reads). pattern:
        "random" | "sequential" (wraps). Ends after total_blocks or time_limit_s; EV_LOAD_DONE(a = blocks, b =
        errors)."""

    def stop(self) -> None: ...
    def progress(self) -> dict[str, object]:
        """The current run, or the last one: running, done_blocks (= read_blocks + written_blocks + trimmed_blocks),
        done_ios, verify_errors (blocks), io_errors (I/Os), elapsed_ns, last_error_status, last_error_lba, latency_ns:
        {"min","mean","p50","p90","p99","p999","max"}; mismatch: {"older","newer","wrong_lba","zeroes", "garbage"}
        counts of blocks ("garbage": torn, foreign or damaged); mismatches: the first 16 as {"kind","lba",
        "expected_version","found_lba","found_version"}."""

    def versions(self) -> NDArray[np.uint32]:
        """A copy. 2**32 - 1: unknown since a failed write; any whole version of that LBA passes."""

    def close(self) -> None:
        """Stops, waits for outstanding I/O. Idempotent."""

# --- NVMe/TCP I/O queues ----------------------------------------------------------------------------------------

# Event.a of EV_TARGET_QPAIR_CLOSED and EV_HOST_QPAIR_LOST; Event.b is an errno or a FES.
QPAIR_PEER_CLOSED: Final[int]
QPAIR_SOCKET_ERROR: Final[int]
QPAIR_PROTOCOL_ERROR: Final[int]
QPAIR_PEER_TERMINATED: Final[int]
QPAIR_DISCONNECTED: Final[int]
QPAIR_CLOSED: Final[int]

TLS_DONE: Final[int]
TLS_WANTS_READ: Final[int]
TLS_WANTS_WRITE: Final[int]
TLS_FAILED: Final[int]

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

    def handshake(self) -> int:
        """TLS_DONE, TLS_WANTS_READ, TLS_WANTS_WRITE (call it again when the socket is ready), TLS_FAILED."""

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

class FlushAlarm:
    """One for each host whose next Flush must fail with Write Fault (and DNR), once, on whichever of its queues."""

    def __init__(self) -> None: ...
    @property
    def armed(self) -> bool:
        """The Flush has not failed yet."""

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
    ) -> None:
        """queue_size: entries of the SQ (SQSIZE + 1). sqhd: the next head to report (Connect took one)."""

    @property
    def id(self) -> int: ...
    @property
    def connected(self) -> bool: ...
    @property
    def drained(self) -> bool:
        """Not connected, and every command has come back from its device: close() does not wait."""

    def set_namespace(self, nsid: int, device: BlockDevice | None) -> None:
        """Adds or removes a namespace; I/O already submitted to it still completes."""

    def stats(self) -> dict[str, int]:
        """commands, read_blocks, write_blocks, errors, bytes_in, bytes_out."""

    def close(self) -> None:
        """Closes the socket, waits until every command has come back from its device. Idempotent."""

# --- FTL data path ----------------------------------------------------------------------------------------------

STREAM_USER: Final[int]
STREAM_RELOC: Final[int]
ADDRESS_INVALID: Final[int]

class FtlCore(BlockDevice):
    """The FTL's data path: a BlockDevice with random 4 KiB writes over a zoned one. See docs/architecture.md, "Orders
    and events"."""

    def __init__(
        self,
        reactor: Reactor,
        base: BlockDevice,
        *,
        uuid: bytes,
        block_count: int,
        bands: Sequence[Sequence[int]] | NDArray[np.uint64],
        zone_size: int,
        zone_capacity: int,
        batch_blocks: int = 128,
        use_append: bool = False,
        shared_stream: bool = False,
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
    ) -> None:
        """bands[b] = start LBAs of the band's zones, one per punit (ADDRESS_INVALID if a zone is missing).
        zone_capacity: the smallest of all zones in use. batch_blocks includes the header. All lengths are in blocks.
        finish_zones: finish a zone after its summary; needed if some zone has a greater capacity, which would keep it
        active. A write_buffer_path is created anew. verify_reads: verify the CRC of blocks that are read, which takes 2
        bytes of memory for each block. no_data: the base keeps nothing; the core remembers the content, with 4 or 8
        bytes for each block of the base, and verifies nothing, including reads. media_uuid: of the records on the base,
        if it differs from uuid. ValueError for impossible settings, OSError for the file."""

    @property
    def id(self) -> int: ...

    # orders
    def open_band(self, stream: int, band: int, band_seq: int) -> None:
        """Queues an empty, reset band as the stream's next. At most one may be queued: BlockingIOError."""

    def take_queued(self, stream: int) -> int | None:
        """Frees the band that is queued as the stream's next; None: none was queued. The stream does not ask for
        another one."""

    def start_move(self, band: int) -> None:
        """Copies the valid data of a closed (or faulted) band to STREAM_RELOC; ends with EV_MOVE_DONE. BlockingIOError
        if max_active_relocs bands are being moved."""

    def start_scrub(self, band: int, stays: bool = False) -> None:
        """Reads and verifies, in place, the valid data of a band that is closed or being written; ends with
        EV_SCRUB_DONE. The band may be moved or reset meanwhile, which ends the scrub, and so does damage. stays: bands
        are no longer moved, so the whole band is read, even a faulted one. BlockingIOError while another band is read.
        ValueError for a band in another state, and with no_data."""

    def set_scrub_rate(self, blocks_per_s: int) -> None:
        """Reads at most so many blocks in a second from now on. 0: as fast as the base serves 4 reads at a time, or one
        while hosts' writes wait or are limited."""

    def stop_scrub(self) -> None:
        """Stops the scrub of the band. EV_SCRUB_DONE when nothing is in flight. Idempotent."""

    def scrub_status(self) -> dict[str, Any]:
        """under_way; and for the last scrub that ended: ended (number of scrubs that ended), band (None: none was
        started), end ("read": all valid data was read; "left": the band no longer exists, or the scrub was stopped;
        "busy": the base was busy for a minute; "bad": something was unreadable or damaged, twice, and the band is
        reported as unreadable), status and address of that, slow (some read took over a second, twice, and one
        elsewhere did not)."""

    def reset_band(self, band: int) -> None:
        """Resets a band without valid blocks, after everything accepted before now is durable; EV_BAND_RESET_DONE (b !=
        0: zone c failed, and is faulted until replace_zone; or, c = 2^64 - 1, the flush before it failed, and the band
        is unchanged). Free bands may be reset too. ValueError if the band has valid data."""

    def reset_bands(self, bands: Sequence[int]) -> list[int]:
        """As reset_band() for each; returns the bands that are in use or have valid data, which are left as they
        are."""

    def replace_zone(self, band: int, punit: int, zone_start: int | None) -> None:
        """While the band is free: puts another zone in place of a faulted one (None: the band works without it)."""

    def fault_zone(self, band: int, punit: int, status: int) -> bool:
        """The base reports that this zone is no longer writable: EV_ZONE_FAULT with that status, and a closed band
        becomes faulted. False, without effect, if this is known, or the band is being written or reset and a write will
        show it."""

    def close_zone(self, band: int, punit: int) -> bool:
        """The base recommends to finish this zone: finishes it after what is in flight, and the band continues in its
        other zones. False if it is not being written."""

    def set_user_share(self, percent: int) -> None:
        """Limits user blocks to this percentage of the blocks written to media. 100: no limit. 0: none. Throttles what
        the write buffer accepts; its content always drains (docs/architecture.md, "Write path")."""

    def fail_writes(self, status: int) -> None:
        """From now on every write, trim and write-zeroes fails with status; reads, and flushes of what is on media,
        continue. The content of the write buffer stays readable but can't be flushed: a flush that covers it fails. For
        a device without space."""

    def refuse_writes(self) -> None:
        """From now on every write, trim and write-zeroes fails with Namespace Not Ready, including those that wait for
        room. What was accepted goes to media. For a halt: nothing is accepted after its drain()."""

    def drain(self) -> int:
        """Writes everything accepted so far to media, and flushes it; then EV_DRAINED with this ticket and the status
        of the flush."""

    def fail(self, status: int) -> None:
        """Fails every outstanding and future I/O. For a base that went away."""

    def begin_close(self) -> bool:
        """As close(), but does not wait for I/O that is outstanding at the base. True: none is outstanding.
        Idempotent."""

    def close(self) -> None:
        """Stops at once (no drain), fails outstanding I/O, releases the base. Idempotent. RuntimeError: the base did
        not complete outstanding I/O for 10 s."""

    # state
    def load_band(self, band: int, state: str, band_seq: int, write_pointers: Sequence[int]) -> None:
        """Restore: state "free" | "closed" | "faulted"; write pointers relative to each zone's start."""

    def load_bands(
        self, first: int, states: NDArray[np.uint8], band_seqs: NDArray[np.uint64], write_pointers: NDArray[np.uint64]
    ) -> None:
        """load_band() of many, from band ``first`` on. states: as in changed_bands(); write_pointers: (bands,
        punits)."""

    def load_l2p(self, first_lba: int, addresses: NDArray[np.uint64], crcs: NDArray[np.uint16] | None = None) -> None:
        """Restore: L2P entries (ADDRESS_INVALID, an address, TRIM_FLAG | or LOST_FLAG | header address); counts them as
        valid. crcs: of the block that each LBA has on media, cut (crc ^ crc >> 16, the low 16 bits); if reads are
        verified, ValueError for an address without a CRC."""

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
    def use_cache(
        self,
        device: BlockDevice,
        *,
        id: bytes,
        generation: int,
        lap: int,
        position: int = 0,
        request_blocks: int = 16,
        request_count: int = 2048,
    ) -> None:
        """Before the first write: from now on writes complete when they are in the nv cache on this conventional device
        (and flushed there), trims when they are durable on the base. generation, lap: of the newest header, which is
        there with that id; position: where the ring of a cache without metadata continues. ValueError for an impossible
        device or settings. If the device fails: EV_CACHE_FAILED, then completions of writes are held back until
        forget_cache()."""

    def forget_cache(self) -> None:
        """Continues without the nv cache for good: the superblock says that it must not be read. Idempotent."""

    def cache_stats(self) -> dict[str, int] | None:
        """None without one. state (0 active, 1 failed, 2 forgotten), vss, generation, lap, position, ring_blocks,
        used_blocks, write_ios, written_blocks, metadata_blocks, header_writes, flushes, write_errors, busy_answers,
        ring_waits."""

    def l2p(self, first_lba: int, count: int) -> NDArray[np.uint64]: ...
    def crcs(self, first_lba: int, count: int) -> NDArray[np.uint16]:
        """The CRC that the newest block of each LBA must match when it is read; undefined for an LBA without one.
        ValueError if reads are not verified."""

    def valid_counts(self) -> NDArray[np.uint32]:
        """Valid blocks of each band."""

    def bands(self) -> list[dict[str, object]]:
        """Per band: state ("free" "queued" "open" "closing" "closed" "moving" "resetting" "faulted"), seq, valid,
        written, stream, readers, write_pointers (relative, one per punit), faulted_punits, references (LBAs whose trim
        or lost record is in this band), unreadable (a host, or the scrub, could not read something in it: it is
        reported as "faulted", and EV_BAND_UNREADABLE was sent, once until its reset). valid counts blocks of data, and
        headers that may hold a valid record; 0 means that the band can be reset."""

    def changed_bands(self, most: int) -> NDArray[np.uint8]:
        """The account of at most so many bands that have changed since they were last reported, in the order of their
        change; at first all have changed. Rows of ftl/media/band.py's BAND_ROW, as bytes. Bands are reported whatever
        became of their events."""

    def band_rows(self, first: int, count: int) -> NDArray[np.uint8]:
        """The same rows of these bands, changed or not; changes are reported anyway."""

    def stats(self) -> dict[str, int]:
        """user_reads, user_writes, user_read_blocks, user_written_blocks, user_trimmed_blocks,
        media_written_blocks, media_header_blocks, media_summary_blocks, media_user_blocks, media_reloc_blocks,
        media_trim_blocks, reloc_moved_blocks, reloc_read_blocks, reloc_reads, reloc_batches, lost_blocks, flushes,
        base_flushes, zone_resets, crc_errors, user_crc_errors (of them, in reads of hosts), reads_repeated (blocks, by
        hosts' reads), reads_rescued (blocks that only the write buffer still had), unreadable_blocks (answered with an
        error), read_errors, write_errors, write_buffer_used (not on media),
        write_buffer_landed (on media, but held until the base has flushed), write_buffer_blocks, throttled_ns,
        busy_answers (of the base, to what was then sent again), scrub_reads, scrub_read_blocks (data, as it was
        written), scrub_bad_blocks, scrub_bad_metadata, scrub_slow_reads,
        next_seq, batches, short_batches."""

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
