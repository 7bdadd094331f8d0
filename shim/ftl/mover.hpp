// SPDX-License-Identifier: BSD-3-Clause
// Moves bands for garbage collection: copies the valid data of a closed band to the reloc stream.
//
// For each zone of the band, a mover reads the summary if every block of it is valid. Otherwise it reads the headers,
// one by one (where batches are short, several with one read), up to a block that is not a valid header, which is
// mostly where a zone was finished early. It stops when nothing in the band is valid any more. Data blocks
// that an LBA points to are read in runs, verified, and queued with their seq. Records are collected, up to 16 Ki of
// them; then those that are valid are written again together (RecordGroup), in the part of their range that is valid. A
// block that can't be read, or does not match its CRC, is read again later, alone. Then the mover asks the write buffer
// and the nv cache, which may still have it. If they do not, the block becomes a lost record, so that no older version
// comes back. If valid data is left then, everything is read once more, with a search for headers after damaged ones.
// Finally, a sweep over the L2P declares data lost that no metadata described (trims are simply recorded again).
//
// A trim that is not applied yet (Trims) is applied to the chunk of each block that a mover finds in force, before the
// block is read.
//
// A mover waits for a busy base, and decides nothing meanwhile. A block that a busy base does not read counts as
// unreadable only if the base reads another block. A base that reads nothing has failed.
// If the base keeps nothing (no_data), the P2L in memory says which LBA each block has. Nothing is verified, and trims
// need no record.
// record.
//
// One more mover reads for the scrub: it verifies the valid data of a band in place, and moves nothing. It reports what
// is bad twice, or slow twice; the band is then moved like any other. Counting (Scrubbed) shows valid data that no
// metadata describe: all valid data of the band must have been seen.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/core_state.hpp"
#include "ftl/record_group.hpp"

namespace ftl {

enum class ScrubEnd : uint8_t {
    read,  // all valid data was read
    left,  // the band is or was being moved or reset; or the scrub was stopped
    busy,  // the base was busy for too long
    bad,   // something was bad, and the band is reported as unreadable
};

struct ScrubResult {
    uint64_t number = 0;  // of all bands that ended
    uint32_t band = kNoBand;
    ScrubEnd end = ScrubEnd::read;
    bool slow = false;  // something in it is slow to read
    Status status = status::ok;
    uint64_t address = 0;  // of the bad block, or else of the slow one
};

class Movers {
public:
    explicit Movers(CoreState &state);
    Movers(const Movers &) = delete;
    Movers &operator=(const Movers &) = delete;

    // False: max_active_relocs bands are being moved.
    bool start(uint32_t band) noexcept;
    uint32_t run() noexcept;
    // Only further run() calls can make progress.
    [[nodiscard]] bool busy() const noexcept { return scanning_; }
    void copied(uint16_t mover) noexcept {
        --movers_[mover].copies;
        ++movers_[mover].moved;
    }
    // A record of a mover has landed, and settled if it is not a copy.
    void record_done(const Records::Meta &record) noexcept;

    // Scrubs a band. False: a scrub is in progress. The band may be written, moved or reset meanwhile. stays: the band
    // is not moved, so damage does not end the scrub, and the band may be faulted.
    bool start_scrub(uint32_t band, bool stays) noexcept;
    [[nodiscard]] static bool can_be_scrubbed(BandState state, bool stays) noexcept {
        return state == BandState::open || state == BandState::closing || state == BandState::closed ||
               (stays && state == BandState::faulted);
    }
    // Blocks a second; 0: as fast as the base serves a few reads at a time.
    void set_scrub_rate(uint32_t blocks_per_s) noexcept;
    void stop_scrub() noexcept;
    [[nodiscard]] bool scrubbing() const noexcept { return movers_.back().phase != Phase::free; }
    // The result of the last scrub that ended.
    [[nodiscard]] const ScrubResult &scrub_result() const noexcept { return scrub_result_; }
    // When a mover continues although nothing else happens; ~0: never.
    [[nodiscard]] uint64_t deadline_ns() const noexcept;

private:
    static constexpr uint32_t kWindowBlocks = 8;              // of summary read at a time
    static constexpr uint32_t kRunBlocks = 32;                // data blocks read at a time
    static constexpr uint32_t kPagesAhead = 64;               // entries whose L2P pages are read ahead
    static constexpr uint32_t kGapBlocks = 64;                // blocks read at a time in search of the next header
    static constexpr uint32_t kAheadAfter = 32;               // headers of a zone before a walk reads ahead
    static constexpr uint64_t kStepNs = 1'000'000;            // a paced move makes a step at least this often
    static constexpr uint64_t kReadAgainNs = 10'000'000;      // before a block that failed is read again
    static constexpr uint64_t kMetadataAgainNs = 50'000'000;  // before all metadata of a band are read again
    static constexpr uint32_t kScrubReads = 4;                // of data in flight at a time
    static constexpr uint64_t kSlowNs = 1'000'000'000;        // a read of the scrub that takes longer is slow
    static constexpr uint64_t kQuickNs = kSlowNs / 4;         // and one that takes less is not, if all others are

    enum class Phase : uint8_t { free, settling, next_zone, reading, window, records, drain, pause, sweep, last_drain };
    // What is done with a group of records: find those in force, write them again, wait until they are on media, let
    // the L2P refer to the copies, forget them.
    enum class RecordStep : uint8_t { find, copy, land, move, clear };
    // The purpose of the metadata I/O in flight.
    enum class Want : uint8_t { summary, walk_header, record_header };

    struct Mover {
        Movers *movers = nullptr;
        uint16_t index = 0;
        Phase phase = Phase::free;
        Want want = Want::summary;
        uint32_t band = 0;
        uint32_t punit = 0;    // zone being scanned
        bool walking = false;  // header by header, because there is no valid summary
        bool read_done = false;
        bool again = false;  // for the second time, with a search after damaged headers
        bool scrubs = false;
        bool closed = false;         // the scrub's band was closed when the scrub began
        bool second = false;         // the scrub's second look
        bool stays = false;          // nothing moves the scrub's band
        Status busy = status::ok;    // the answer of the base when it read nothing, and the scrub gave up
        Status damage = status::ok;  // of metadata, in this look
        uint64_t damage_at = 0;
        uint64_t band_seq = 0;
        uint64_t again_at_ns = 0;
        uint32_t summary_next = 0;  // next block of the summary to read
        uint32_t walk_offset = 0;   // next header to read, or offset to look up in memory
        uint32_t singly_until = 0;  // offsets below are read one by one, because a longer read failed
        bool gap = false;           // the previous offset had no header
        uint32_t headers = 0;       // found in this zone
        uint32_t ahead_offset = 0;  // of the blocks in the buffer that were read ahead
        uint32_t ahead_count = 0;
        uint32_t seen_offset = 0;  // offsets below were scanned before the summary turned out damaged
        // The window: entries of consecutive offsets from first_offset on.
        uint32_t first_offset = 0;
        uint32_t entry = 0;
        uint32_t entry_count = 0;
        bool paging = false;  // waits for a page, since so many had come or gone
        uint64_t paging_since = 0;
        uint32_t wanted = 0;  // pages for the entries before it were asked for
        // Records that may be valid. The scrub has none.
        std::optional<RecordGroup> group;
        RecordStep record_step = RecordStep::find;
        uint32_t record = 0;
        bool zones_done = false;
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
        uint64_t busy_answers = 0;  // answers of the base until it was sent
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
    void use_header(Mover &mover, const layout::BatchHeader &header) noexcept;
    void use_walked(Mover &mover, bool read, const uint8_t *blocks, uint32_t count) noexcept;
    [[nodiscard]] bool is_ours(const Mover &mover, const layout::BatchHeader &header, uint32_t offset) const noexcept;
    [[nodiscard]] bool is_ours(const Mover &mover, const layout::SummaryBlock &block, uint32_t index) const noexcept;
    [[nodiscard]] bool was_ours(const Mover &mover, const layout::SummaryBlock &block) const noexcept;
    [[nodiscard]] bool was_ours(const Mover &mover, const layout::BatchHeader &header) const noexcept;
    void damaged(Mover &mover, Status status) noexcept;
    bool scan_window(Mover &mover) noexcept;
    void take_records(Mover &mover, const layout::BatchHeader &header, uint64_t address) noexcept;
    bool write_records(Mover &mover) noexcept;
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
    [[nodiscard]] bool has_page(Mover &mover, uint32_t entry) const noexcept;
    [[nodiscard]] bool may_uncover(uint32_t &uncovered) noexcept;
    [[nodiscard]] bool may_go_on() noexcept;

    uint32_t run_scrub() noexcept;
    [[nodiscard]] bool scrub_over(const Mover &mover) const noexcept;
    [[nodiscard]] Answer scrub_came_back(const Mover &mover, BaseIo &io, Probe &probe, bool verdict) noexcept;
    bool scrub_window(Mover &mover) noexcept;
    void end_of_look(Mover &mover) noexcept;
    void finish_scrub(Mover &mover, ScrubEnd end) noexcept;
    void send(ScrubRead &read, uint64_t address, uint32_t block_count, uint64_t delay_ns) noexcept;
    void came_back(ScrubRead &read) noexcept;
    [[nodiscard]] bool check_timing(ScrubRead &read) noexcept;
    [[nodiscard]] bool verified(const ScrubRead &read, uint32_t block) const noexcept;
    [[nodiscard]] bool wanted(const ScrubRead &read, uint32_t block) const noexcept;
    void found_bad(Mover &mover, uint64_t address, Status status, uint64_t &counter) noexcept;
    void charge(uint32_t block_count) noexcept;
    static void on_scrub_read(Io &io) noexcept;

    CoreState &state_;
    std::vector<Mover> movers_;
    std::vector<uint16_t> in_turn_;  // the movers at work, the oldest first: what ends soon frees space soon
    std::vector<Read> reads_;
    std::vector<Read *> free_reads_;
    PageMemory memory_;
    bool scanning_ = false;
    uint64_t step_at_ns_ = 0;  // when a paced move makes its next step whatever the user writes
    Patience patience_{kBusyPatienceNs};
    std::vector<ScrubRead> scrub_reads_;
    Patience scrub_patience_{kBusyPatienceNs};
    ScrubResult scrub_found_;  // so far
    ScrubResult scrub_result_;
    bool scrub_stopped_ = false;
    uint64_t scrub_ns_per_block_ = 0;
    uint64_t scrub_next_ns_ = 0;  // nothing is read before this time
};

}  // namespace ftl
