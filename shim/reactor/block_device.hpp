// SPDX-License-Identifier: BSD-3-Clause
// The one interface between everything that issues block I/O and everything that serves it.
//
// Served by: HostQpair (NVMe/TCP to a remote namespace), EmulatedMedia, FtlCore. Issued by: TargetQpair (NVMe/TCP from
// a remote host), FtlCore (to its base and cache), IoPort (Python).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace ftl {

inline constexpr uint32_t kBlockSize = 4096;

enum class Op : uint8_t {
    read,
    write,
    append,  // lba = ZSLBA; result = LBA the first block landed on
    flush,
    write_zeroes,
    deallocate,           // one range; a DSM command with n ranges becomes n Ios
    zone_send,            // zone_action = ZSA
    zone_report,          // zone_action = ZRA; writes the NVMe zone report into iov
    compare_write,        // iov: the data to compare with, then the data to write; nothing comes between the two
    write_uncorrectable,  // the blocks read as errors until they are written or deallocated
};

// NVMe status: SCT << 8 | SC. Zero is success; the DNR bit is separate (Io::do_not_retry). reactor/error_class.hpp says
// what each status means.
using Status = uint16_t;

namespace status {
inline constexpr Status ok = 0x000;
inline constexpr Status invalid_opcode = 0x001;
inline constexpr Status invalid_field = 0x002;
inline constexpr Status data_transfer_error = 0x004;
inline constexpr Status power_loss = 0x005;
inline constexpr Status internal_error = 0x006;
inline constexpr Status aborted = 0x007;
inline constexpr Status aborted_sq_deleted = 0x008;
inline constexpr Status failed_fused = 0x009;   // the other command of the pair failed
inline constexpr Status missing_fused = 0x00A;  // there is no other command
inline constexpr Status invalid_namespace = 0x00B;
inline constexpr Status sgl_segment = 0x00D;
inline constexpr Status sgl_count = 0x00E;  // too many descriptors, or too scattered memory
inline constexpr Status sgl_data_length = 0x00F;
inline constexpr Status sgl_type = 0x011;
inline constexpr Status prp_offset = 0x013;
inline constexpr Status atomic_write_unit = 0x014;  // longer than a compare_write may be
inline constexpr Status aborted_preempted = 0x01B;
inline constexpr Status write_protected = 0x020;
inline constexpr Status interrupted = 0x021;
inline constexpr Status transient_transport_error = 0x022;  // a data digest did not match
inline constexpr Status media_not_ready = 0x024;
inline constexpr Status lba_out_of_range = 0x080;
inline constexpr Status capacity_exceeded = 0x081;
inline constexpr Status namespace_not_ready = 0x082;
inline constexpr Status reservation_conflict = 0x083;
inline constexpr Status command_size_limit = 0x183;
inline constexpr Status overlapping_range = 0x187;
inline constexpr Status zone_boundary = 0x1B8;
inline constexpr Status zone_full = 0x1B9;
inline constexpr Status zone_read_only = 0x1BA;
inline constexpr Status zone_offline = 0x1BB;
inline constexpr Status zone_invalid_write = 0x1BC;
inline constexpr Status too_many_active = 0x1BD;
inline constexpr Status too_many_open = 0x1BE;
inline constexpr Status invalid_zone_transition = 0x1BF;
inline constexpr Status write_fault = 0x280;
inline constexpr Status unrecovered_read = 0x281;
inline constexpr Status guard_check = 0x282;
inline constexpr Status compare_failure = 0x285;
inline constexpr Status path_internal = 0x300;
inline constexpr Status ana_persistent_loss = 0x301;
inline constexpr Status ana_inaccessible = 0x302;
inline constexpr Status ana_transition = 0x303;
inline constexpr Status controller_path_error = 0x360;
inline constexpr Status path_error = 0x370;  // SCT 3: the connection to the device is gone
inline constexpr Status host_aborted = 0x371;
}  // namespace status

// One I/O. The issuer owns it, and lends it to the device from submit() until complete() runs. No constructor work, no
// allocation: issuers keep Ios in pools sized at start.
struct Io {
    Op op = Op::read;
    uint8_t zone_action = 0;  // ZSA or ZRA
    uint8_t zone_filter = 0;  // zone_report: ZRASF
    bool zone_all = false;    // zone_send: select-all. zone_report: partial bit
    bool fua = false;
    bool do_not_retry = false;  // for an error: the device's DNR
    bool compared = false;      // compare_write: the comparison has succeeded. The issuer sets it to false
    Status status = status::ok;
    uint64_t lba = 0;          // blocks
    uint32_t block_count = 0;  // blocks; 0 for flush, zone_send, zone_report
    uint32_t iov_count = 0;
    iovec *iov = nullptr;  // block_count * block_bytes of data (zone_report: any multiple of 4 bytes)
    uint64_t result = 0;   // append: ALBA

    void (*complete)(Io &) noexcept = nullptr;
    void *owner = nullptr;    // the issuer's
    uint64_t owner_data = 0;  // the issuer's
    // Set by the issuer: writes and trims with the same value (a queue of a host) are executed in order. Null: in order
    // with all others that have no value.
    const void *ordered_by = nullptr;
    Io *next = nullptr;            // the device's while lent, the issuer's otherwise
    uint64_t device_data[4] = {};  // the device's while lent; reserve() may use it before submit()

    // Set by a Gate, from reserve() or submit() until complete() runs (shim/reactor/gate.hpp).
    void (*gated_complete)(Io &) noexcept = nullptr;
    void *gated_owner = nullptr;
    void *gated_memory = nullptr;  // the device behind the gate whose memory iov points into
    bool gated_sent = false;       // a device behind the gate has it
    bool gated_cancelled = false;  // the issuer is gone: nobody may begin it any more
    uint64_t gated_at_ns = 0;      // when it reached a gate that keeps an account

    // Set by a Crossing (shim/reactor/crossing.hpp), from reserve() or submit() until complete() runs.
    void (*crossed_complete)(Io &) noexcept = nullptr;
    void *crossed_owner = nullptr;
    void *crossed_leases = nullptr;  // what iov points into
    Io *crossed_cancel = nullptr;    // the next one in the mailbox of cancels
    uint64_t crossed_ticket = 0;     // of its cancel; 0: not cancelled
    bool crossed_done = false;       // the other reactor has sent it back
    // A write into reserved memory: adopt() has got the CRC32C of each block with it, as the crc of the part.
    bool crcs_known = false;
    uint32_t crc = 0;

    [[nodiscard]] std::span<iovec> memory() const noexcept { return {iov, iov_count}; }
};

struct BlockDeviceInfo {
    uint64_t block_count = 0;
    uint32_t block_bytes = kBlockSize;  // data + interleaved metadata
    uint32_t metadata_bytes = 0;        // of block_bytes, at the end of each block
    uint32_t max_io_blocks = 32;        // largest read/write
    uint32_t max_append_blocks = 0;     // 0: no append
    bool volatile_cache = false;        // VWC
    bool deallocated_reads_zeroes = true;
    uint32_t compare_write_blocks = 0;  // largest compare_write; 0: none
    bool write_uncorrectable = false;
    bool thin = false;  // allocated_blocks() counts
    bool zoned = false;
    uint64_t zone_size = 0;         // blocks
    uint64_t zone_capacity = 0;     // blocks, of zone 0; the zone report has the capacity of each zone
    uint32_t max_open_zones = 0;    // 0: no limit
    uint32_t max_active_zones = 0;  // 0: no limit
};

// Every method runs on the one thread that drives the owning reactor.
class BlockDevice {
public:
    BlockDevice() = default;
    BlockDevice(const BlockDevice &) = delete;
    BlockDevice &operator=(const BlockDevice &) = delete;
    virtual ~BlockDevice() = default;

    [[nodiscard]] virtual const BlockDeviceInfo &info() const noexcept = 0;

    // Takes the Io. Never calls complete() from inside submit(): completions come from poll(). Never refuses: a device
    // without room queues the Io.
    virtual void submit(Io &io) noexcept = 0;

    // Makes progress and runs completions. Returns the amount of work (0 = idle).
    virtual uint32_t poll(uint64_t now_ns) noexcept = 0;

    // Only further poll() calls can finish the remaining work, so the reactor must not sleep for long.
    [[nodiscard]] virtual bool busy() const noexcept { return false; }

    // Zero-copy writes: for op == write with lba and block_count set, points io.iov/io.iov_count at the device's own
    // memory, so that the issuer receives the data straight into it, and then submits. iov_room is the number of
    // entries that io.iov has room for. False: no room now, or not supported; the issuer uses its own buffer.
    virtual bool reserve(Io &io, uint32_t iov_room) noexcept {
        (void)io;
        (void)iov_room;
        return false;
    }
    // Returns what reserve() took, if the write will never be submitted.
    virtual void abandon(Io &io) noexcept { (void)io; }

    // A read or write of that LBA is probably next: brings what it needs into the processor's caches. `lba` may be any
    // number.
    virtual void expect(uint64_t lba) const noexcept { (void)lba; }

    // What reserve() takes memory from now; null: from nothing, because there is no room, or because the device can't
    // adopt(). Who holds memory in reserve that came from something else should abandon() it.
    [[nodiscard]] virtual const void *reserves() const noexcept { return nullptr; }
    // Turns what reserve() has given to each of `parts`, one block each and all from the same memory, into what it
    // would have given to `io`, whose iov points there already, in the order of its blocks. `io` is submitted next.
    virtual void adopt(Io &io, std::span<Io *const> parts) noexcept {
        (void)io;
        (void)parts;
    }

    // The issuer of a submitted Io no longer needs its result. A device that only holds the Io completes it in one of
    // the next polls; others continue.
    virtual void cancel(Io &io) noexcept { (void)io; }

    // The number of blocks that hosts have written and not deallocated since. Control path: any thread but the
    // reactor's.
    [[nodiscard]] virtual uint64_t allocated_blocks() { return info().block_count; }

    // The device is gone for good: another device may repeat all I/O that it fails from now on. A lost device does not
    // touch the memory of Ios (reserved memory, and data received into it) while it exists.
    [[nodiscard]] virtual bool lost() const noexcept { return false; }
};

}  // namespace ftl
