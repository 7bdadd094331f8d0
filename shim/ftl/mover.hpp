// SPDX-License-Identifier: BSD-3-Clause
// GC's hands: copies what is in force in a closed band to the reloc stream.
//
// For each zone of the band: its summary if every block of it verifies, else its headers, one by one, up to what does
// not verify as one: mostly where a zone was finished early. Data blocks some LBA points to are read in runs, verified
// and queued with their seq; records in force are queued again. A block that can't be read or does not match its CRC is
// read again, alone and later; then the write buffer and the nv cache are asked, which may still have it; then it
// becomes a lost record, so that no older version comes back. If something is still in force then, all of it is read
// once more, with a search for headers behind what does not verify. At last, if something is still in force that no
// metadata told of, a sweep over the L2P declares it lost (trims are simply recorded anew).
//
// A base that is busy is waited for. While it is, nothing is decided; and what it does not read counts as unreadable
// only where it reads something else. A base that reads nothing has failed.
//
// Of a base that keeps nothing (no_data), memory tells what stood where; nothing is verified, and trims need no record.
//
// One more reads for the scrub: what is in force in a band is verified where it stands, and nothing is moved. What is
// bad twice, or slow twice, is told; the band is moved then like any other, by one that asks everybody who may have it
// still. Of data in force that no metadata tell of, counting tells (Scrubbed): all the band has must have been seen.
#pragma once

#include <cstdint>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/core_state.hpp"

namespace ftl {

enum class ScrubEnd : uint8_t {
    read,  // everything in force was read
    left,  // the band is being moved or reset, or was; or the scrub was stopped
    busy,  // the base was, for too long
    bad,   // something was, and the band is told as unreadable
};

struct ScrubResult {
    uint64_t number = 0;  // of all that ended
    uint32_t band = kNoBand;
    ScrubEnd end = ScrubEnd::read;
    bool slow = false;  // something in it is slow to read
    Status status = status::ok;
    uint64_t address = 0;  // of what was bad, or else slow
};

class Movers {
public:
    explicit Movers(CoreState &state);
    Movers(const Movers &) = delete;
    Movers &operator=(const Movers &) = delete;

    // False: max_active_relocs bands are being moved.
    bool start(uint32_t band) noexcept;
    uint32_t run() noexcept;
    // There is something that only further run() calls can do.
    [[nodiscard]] bool busy() const noexcept { return scanning_; }
    void copied(uint16_t mover) noexcept {
        --movers_[mover].copies;
        ++movers_[mover].moved;
    }
    void record_done(uint16_t mover) noexcept { --movers_[mover].records; }

    // The scrub of a band. False: one is under way. The band may be written, moved or reset meanwhile.
    // stays: it is not moved for what is bad, so that does not end it; and it may be faulted.
    bool start_scrub(uint32_t band, bool stays) noexcept;
    [[nodiscard]] static bool can_be_scrubbed(BandState state, bool stays) noexcept {
        return state == BandState::open || state == BandState::closing || state == BandState::closed ||
               (stays && state == BandState::faulted);
    }
    // Blocks a second; 0: as many as the base gives to few reads at a time.
    void set_scrub_rate(uint32_t blocks_per_s) noexcept;
    void stop_scrub() noexcept;
    [[nodiscard]] bool scrubbing() const noexcept { return movers_.back().phase != Phase::free; }
    // Of the last one that ended.
    [[nodiscard]] const ScrubResult &scrub_result() const noexcept { return scrub_result_; }
    // When a mover goes on although nothing else happens; ~0: never.
    [[nodiscard]] uint64_t deadline_ns() const noexcept;

private:
    static constexpr uint32_t kWindowBlocks = 8;              // of summary read at a time
    static constexpr uint32_t kRunBlocks = 32;                // data blocks read at a time
    static constexpr uint32_t kGapBlocks = 64;                // read at a time in search of the next header
    static constexpr uint64_t kReadAgainNs = 10'000'000;      // before a block that failed is read again
    static constexpr uint64_t kMetadataAgainNs = 50'000'000;  // before all metadata of a band are
    static constexpr uint32_t kScrubReads = 4;                // of data in flight at a time
    static constexpr uint64_t kSlowNs = 1'000'000'000;        // a read of the scrub that takes so long is slow
    static constexpr uint64_t kQuickNs = kSlowNs / 4;         // and one that takes less is not, if all others are

    enum class Phase : uint8_t { free, settling, next_zone, reading, window, records, drain, pause, sweep, last_drain };
    // What the metadata I/O in flight is for.
    enum class Want : uint8_t { summary, walk_header, record_header };

    struct Mover {
        Movers *movers = nullptr;
        uint16_t index = 0;
        Phase phase = Phase::free;
        Want want = Want::summary;
        uint32_t band = 0;
        uint32_t punit = 0;    // zone being scanned
        bool walking = false;  // header by header, for want of a summary
        bool read_done = false;
        bool again = false;  // for the second time: what stands behind a damaged header is looked for
        bool scrubs = false;
        bool closed = false;         // the scrub's band was when it began
        bool second = false;         // the scrub's second look
        bool stays = false;          // nothing moves the scrub's band
        Status busy = status::ok;    // what the base said when it read nothing, and the scrub's patience was at its end
        Status damage = status::ok;  // of metadata, in this look
        uint64_t damage_at = 0;
        uint64_t band_seq = 0;
        uint64_t again_at_ns = 0;
        uint32_t summary_next = 0;  // next block of the summary to read
        uint32_t walk_offset = 0;   // next header to read, or offset to look up in memory
        uint32_t singly_until = 0;  // offsets below are read one by one, since together they could not be
        bool gap = false;           // no header stood at the offset before
        uint32_t seen_offset = 0;   // offsets below were scanned before the summary turned out damaged
        // The window: entries of consecutive offsets from first_offset on.
        uint32_t first_offset = 0;
        uint32_t entry = 0;
        uint32_t entry_count = 0;
        // Records of one header that may be in force.
        std::vector<layout::RecordEntry> in_force;
        uint32_t record = 0;
        uint64_t record_cursor = 0;
        uint64_t header_address = 0;  // theirs
        uint64_t sweep_lba = 0;
        uint32_t reads = 0;
        uint32_t copies = 0;
        uint32_t records = 0;
        uint64_t moved = 0;
        uint64_t lost = 0;
        SlotList lost_slots;  // wait for a record
        uint8_t *buffer = nullptr;
        std::vector<layout::BlockEntry> entries;
        iovec iov{};
        Probe probe;
        BaseIo io;
    };
    struct Read {
        Mover *mover = nullptr;
        uint32_t slots[kRunBlocks] = {};
        uint32_t count = 0;
        uint32_t single = 0;  // after a failed run: the block being read alone
        bool singly = false;
        bool cached = false;  // from the nv cache
        iovec iov[kRunBlocks] = {};
        Probe probe;
        BaseIo io;
    };

    // Of the scrub.
    enum class Timing : uint8_t { first, second, elsewhere };
    struct ScrubRead {
        Mover *mover = nullptr;
        bool taken = false;
        bool singly = false;
        Timing timing = Timing::first;
        uint32_t count = 0;
        uint32_t single = 0;
        uint64_t address = 0;
        uint64_t sent_ns = 0;
        uint64_t busy_answers = 0;  // of the base until it was sent
        uint64_t lbas[kRunBlocks] = {};
        uint32_t crcs[kRunBlocks] = {};
        uint8_t *memory = nullptr;
        iovec iov{};
        Probe probe;
        BaseIo io;
    };

    uint32_t run(Mover &mover) noexcept;
    void next_zone(Mover &mover) noexcept;
    void read_metadata(Mover &mover, Want want, uint64_t address, uint32_t block_count) noexcept;
    void next_metadata(Mover &mover) noexcept;
    [[nodiscard]] bool take_from_memory(Mover &mover) noexcept;
    void metadata_came(Mover &mover) noexcept;
    void use_summary(Mover &mover) noexcept;
    void use_header(Mover &mover) noexcept;
    void use_walked(Mover &mover, bool read) noexcept;
    [[nodiscard]] bool is_ours(const Mover &mover, const layout::BatchHeader &header, uint32_t offset) const noexcept;
    [[nodiscard]] bool is_ours(const Mover &mover, const layout::SummaryBlock &block, uint32_t index) const noexcept;
    [[nodiscard]] bool was_ours(const Mover &mover, const layout::SummaryBlock &block) const noexcept;
    [[nodiscard]] bool was_ours(const Mover &mover, const layout::BatchHeader &header) const noexcept;
    void damaged(Mover &mover, Status status) noexcept;
    bool scan_window(Mover &mover) noexcept;
    void take_records(Mover &mover, const layout::BatchHeader &header, uint64_t address) noexcept;
    bool scan_records(Mover &mover) noexcept;
    bool declare_lost(Mover &mover) noexcept;
    bool sweep(Mover &mover) noexcept;
    void finish(Mover &mover) noexcept;
    void issue(Read &read, uint64_t delay_ns) noexcept;
    [[nodiscard]] bool settled(BaseIo &io, Probe &probe, bool verdict) noexcept;
    void came_back(Read &read) noexcept;
    void check_block(Mover &mover, uint32_t slot, Status status) noexcept;
    [[nodiscard]] bool wanted(uint32_t slot) const noexcept;
    [[nodiscard]] bool verified(const Read &read) const noexcept;
    [[nodiscard]] bool verified(uint32_t slot) const noexcept;
    bool rescue(uint32_t slot) noexcept;
    bool ask_cache(Read &read) noexcept;
    void make_fresh(Mover &mover, uint64_t flag, uint64_t lba, uint32_t block_count) noexcept;
    static void on_metadata(Io &io) noexcept;
    static void on_read(Io &io) noexcept;
    [[nodiscard]] bool in_force(const Mover &mover, uint32_t entry) const noexcept;

    uint32_t run_scrub() noexcept;
    [[nodiscard]] bool scrub_over(const Mover &mover) const noexcept;
    [[nodiscard]] Answer scrub_came_back(const Mover &mover, BaseIo &io, Probe &probe, bool verdict) noexcept;
    bool scrub_window(Mover &mover) noexcept;
    void end_of_look(Mover &mover) noexcept;
    void finish_scrub(Mover &mover, ScrubEnd end) noexcept;
    void send(ScrubRead &read, uint64_t address, uint32_t block_count, uint64_t delay_ns) noexcept;
    void came_back(ScrubRead &read) noexcept;
    [[nodiscard]] bool take_its_time(ScrubRead &read) noexcept;
    [[nodiscard]] bool verified(const ScrubRead &read, uint32_t block) const noexcept;
    [[nodiscard]] bool wanted(const ScrubRead &read, uint32_t block) const noexcept;
    void found_bad(Mover &mover, uint64_t address, Status status, uint64_t &counter) noexcept;
    void charge(uint32_t block_count) noexcept;
    static void on_scrub_read(Io &io) noexcept;

    CoreState &state_;
    std::vector<Mover> movers_;
    std::vector<Read> reads_;
    std::vector<Read *> free_reads_;
    PageMemory memory_;
    bool scanning_ = false;
    Patience patience_{kBusyPatienceNs};
    std::vector<ScrubRead> scrub_reads_;
    Patience scrub_patience_{kBusyPatienceNs};
    ScrubResult scrub_found_;  // so far
    ScrubResult scrub_result_;
    bool scrub_stopped_ = false;
    uint64_t scrub_ns_per_block_ = 0;
    uint64_t scrub_next_ns_ = 0;  // nothing is read before
};

}  // namespace ftl
