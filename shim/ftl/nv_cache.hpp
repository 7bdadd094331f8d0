// SPDX-License-Identifier: BSD-3-Clause
// The nv cache: a ring on a conventional device, which holds every accepted block before its write completes.
//
// A slot goes to the cache first. When it is there, it goes to the write buffer's FIFO for the base, in order of seq.
// The slot stays held until its block is durable on the base. So a place in the ring may be overwritten when no slot
// with its seq, or an older one, is held. docs/media-layout.md describes the layout of the cache, docs/durability.md
// why it suffices.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/core_state.hpp"
#include "ftl/layout.hpp"
#include "reactor/block_device.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

namespace layout {

inline constexpr uint64_t kCacheMagic = magic_of("FTLNVCAC");
inline constexpr uint64_t kCacheBatchMagic = magic_of("FTLNVBAT");
inline constexpr uint32_t kCacheVersion = kVersion;
inline constexpr uint64_t kCacheHeaderBlocks = 2;
inline constexpr uint32_t kCacheMetadataMin = 8;
inline constexpr uint32_t kCacheWideMetadata = 16;  // from this size on, it has room for the high bits of the LBA
inline constexpr uint32_t kCacheLbaBits = 30;
inline constexpr uint32_t kCacheModeVss = 1;
inline constexpr uint32_t kCacheModeNonVss = 2;
inline constexpr uint32_t kCacheEntriesPerBlock = 168;

using CacheId = std::array<uint8_t, 16>;

constexpr uint32_t cache_phase(uint64_t lap) {
    return 1 + static_cast<uint32_t>(lap % 3);
}

#pragma pack(push, 1)

struct CacheHeader {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    Uuid uuid;
    CacheId id;
    uint64_t generation;
    uint64_t block_count;
    uint64_t lap;
    uint64_t current_address;
    uint32_t mode;
    uint32_t phase;
    uint32_t flags;
    uint32_t metadata_bytes;
    uint8_t zero[kBlockSize - 96];
};
static_assert(sizeof(CacheHeader) == kBlockSize && offsetof(CacheHeader, generation) == 48);

struct CacheMetadata {
    uint32_t crc;
    uint32_t phase_lba;
    uint64_t lba_high;  // only if there is room for it
};
static_assert(sizeof(CacheMetadata) == 16);

// The CRC of a VSS block covers the data and then this.
struct CacheSalt {
    uint64_t lba;
    uint64_t seq;
    CacheId id;
};
static_assert(sizeof(CacheSalt) == 32);

struct CacheBatchHeader {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    CacheId id;
    uint64_t position;
    uint32_t count;
    uint32_t phase;
    BlockEntry blocks[kCacheEntriesPerBlock];
    uint8_t zero[16];
};
static_assert(sizeof(CacheBatchHeader) == kBlockSize && offsetof(CacheBatchHeader, blocks) == 48);

#pragma pack(pop)

}  // namespace layout

// Up to this many cache writes in flight, a write is sent however full it is. Beyond that, only full ones are sent.
inline constexpr uint32_t kEagerRequests = 8;

struct NvCacheConfig {
    layout::CacheId id{};
    uint64_t generation = 0;       // of the newest header
    uint64_t lap = 0;              // in that header
    uint64_t position = 0;         // non-VSS: where the next batch goes
    uint32_t request_blocks = 16;  // data blocks of one cache write
    uint32_t request_count = 2048;
};

struct NvCacheStats {
    uint64_t write_ios = 0;
    uint64_t written_blocks = 0;  // of data
    uint64_t metadata_blocks = 0;
    uint64_t header_writes = 0;
    uint64_t flushes = 0;
    uint64_t write_errors = 0;
    uint64_t busy_answers = 0;  // answers to I/O that was then sent again
    uint64_t ring_waits = 0;    // times that the ring was full of blocks that were not durable yet
};

class NvCache {
public:
    // failed: the device answered with an error, or was busy for too long. Nothing is written to it any more, blocks go
    // straight to the FIFO, and completions of writes are held back until the superblock says that the cache must not
    // be read.
    enum class State : uint8_t { active, failed, off };

    // Throws std::invalid_argument for an impossible device or settings.
    NvCache(CoreState &state, std::shared_ptr<BlockDevice> device, const NvCacheConfig &config);
    NvCache(const NvCache &) = delete;
    NvCache &operator=(const NvCache &) = delete;

    [[nodiscard]] State state() const noexcept { return cache_state_; }
    // Takes an accepted slot, in order of seq. False: the cache takes no more slots.
    bool push(uint32_t slot) noexcept;
    // Completes the write when everything accepted so far is in the cache.
    void hold_back(Io &io) noexcept;
    // Sends requests that are due, and retires those that are done. Ios that may complete go to `done`.
    uint32_t run(IoList &done) noexcept;
    // Held-back writes have a higher seq; ~0: no write is held back.
    [[nodiscard]] uint64_t answered_seq() const noexcept { return held_back_.empty() ? ~uint64_t{0} : answered_seq_; }
    // Only further run() calls can make progress.
    [[nodiscard]] bool busy() const noexcept { return cache_state_ == State::active && !queue_.empty() && !stalled_; }
    // Writes wait for places whose blocks are not durable on the base yet.
    [[nodiscard]] bool ring_full() const noexcept { return ring_full_; }
    // The device may continue without the cache: completes the writes that are held back.
    void switch_off(IoList &done) noexcept;
    // The core has failed: nothing is sent any more. Held-back writes go to `ended`.
    void end(IoList &ended) noexcept;

    // Reads a block of the LBA with that cut CRC, if the ring has one that was written in this life of the core. The
    // io's first iov_count entries take the block, and there must be one more. Its completion calls read_back(). False:
    // there is none, or the cache has failed; nothing was sent.
    bool read(uint64_t lba, uint16_t cut_crc, BaseIo &io) noexcept;
    // False: the device was busy, and gets the same I/O again.
    [[nodiscard]] bool read_back(BaseIo &io, uint64_t patience_ns) noexcept { return came_back(io, patience_ns); }

    // Releases the device; only if nothing is outstanding.
    void release() noexcept { device_.reset(); }
    [[nodiscard]] uint32_t outstanding() const noexcept { return outstanding_; }
    // When an I/O to a busy device is sent again; ~0: never.
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return busy_ios_.due_ns(); }
    [[nodiscard]] const NvCacheStats &stats() const noexcept { return stats_; }
    [[nodiscard]] uint64_t generation() const noexcept { return generation_; }
    [[nodiscard]] uint64_t lap() const noexcept { return lap_; }
    [[nodiscard]] bool vss() const noexcept { return vss_; }
    [[nodiscard]] uint64_t ring_blocks() const noexcept { return ring_blocks_; }
    // Counted over all laps.
    [[nodiscard]] uint64_t position() const noexcept { return vss_ ? state_.next_seq : position_; }
    // Places from the oldest one that is not durable on the base to the newest.
    [[nodiscard]] uint64_t used_blocks() const noexcept;

private:
    static constexpr uint32_t kMarks = 64;
    static constexpr uint64_t kMarksPerLap = 32;

    struct Request {
        NvCache *cache = nullptr;
        bool done = false;
        uint32_t count = 0;
        uint64_t last_seq = 0;
        uint8_t *scratch = nullptr;  // metadata, or the header of the batch
        std::vector<uint32_t> slots;
        std::vector<iovec> iov;
        BaseIo io;
    };
    // Content of a place of the ring; only if reads are verified.
    struct Written {
        uint32_t lba;  // + 1, cut to 32 bits; 0: nothing, or unknown
        uint16_t crc;
        uint16_t zero;
    };
    static_assert(sizeof(Written) == 8);
    // Places below `position` hold only seqs below `seq`.
    struct Mark {
        uint64_t position;
        uint64_t seq;
    };

    [[nodiscard]] uint64_t place_of(uint64_t position) const noexcept {
        return layout::kCacheHeaderBlocks + position % ring_blocks_;
    }
    [[nodiscard]] uint64_t oldest_held() const noexcept;
    bool may_write(uint64_t end) noexcept;
    uint32_t issue() noexcept;
    uint32_t retire() noexcept;
    [[nodiscard]] uint64_t next_position() const noexcept;
    void send_vss(Request &request, uint64_t first_seq, uint64_t room) noexcept;
    void send_batch(Request &request, uint64_t position, uint64_t room) noexcept;
    void mark(uint64_t position, uint64_t seq) noexcept;
    void note(uint64_t position, const SlotRecord &record) noexcept;
    [[nodiscard]] static constexpr uint32_t noted(uint64_t lba) noexcept { return static_cast<uint32_t>(lba) + 1; }
    void submit(Request &request, uint64_t position, uint32_t block_count, uint32_t iov_count) noexcept;
    void write_header(uint64_t lap) noexcept;
    void flush_if_due() noexcept;
    void fail(Status status) noexcept;
    void send(BaseIo &io) noexcept;
    void send_now(BaseIo &io) noexcept;
    [[nodiscard]] bool came_back(BaseIo &io, uint64_t patience_ns = kBusyPatienceNs) noexcept;
    void drop_busy() noexcept;
    void to_base(uint32_t slot) noexcept { state_.buffer.queue(slot); }
    static void on_written(Io &io) noexcept;
    static void on_flushed(Io &io) noexcept;
    static void on_header(Io &io) noexcept;

    CoreState &state_;
    std::shared_ptr<BlockDevice> device_;
    layout::CacheId id_;
    uint32_t metadata_bytes_;
    bool vss_;
    bool volatile_;
    uint64_t ring_blocks_;
    uint32_t request_blocks_ = 0;

    State cache_state_ = State::active;
    PageMemory scratch_;
    PageMemory written_;             // Written by place; null if reads are not verified
    std::vector<Request> requests_;  // used in turn
    uint64_t issued_ = 0;
    uint64_t retired_ = 0;
    SlotList queue_;  // accepted, not sent yet
    IoList held_back_;
    uint64_t written_seq_ = 0;  // blocks up to this seq are in the cache
    uint64_t flushed_seq_ = 0;  // and are durable there
    uint64_t flushing_seq_ = 0;
    uint64_t answered_seq_ = 0;  // writes up to this seq have completed
    bool flush_in_flight_ = false;
    bool header_in_flight_ = false;
    bool stalled_ = false;
    bool ring_full_ = false;
    uint32_t outstanding_ = 0;

    uint64_t generation_;
    uint64_t lap_;
    uint64_t next_lap_ = 0;
    uint64_t position_;   // non-VSS
    uint64_t limit_ = 0;  // positions below it may be written
    std::array<Mark, kMarks> marks_{};
    uint32_t first_mark_ = 0;
    uint32_t mark_count_ = 0;
    uint64_t last_mark_ = 0;

    uint8_t *header_block_ = nullptr;
    uint8_t *unread_metadata_ = nullptr;  // of blocks that are read back; ignored
    iovec header_iov_{};
    BaseIo header_io_;
    BaseIo flush_io_;
    BusyIos busy_ios_;
    FlushTurn flush_turn_;
    NvCacheStats stats_;
};

}  // namespace ftl
