// SPDX-License-Identifier: BSD-3-Clause
// FtlCore: a BlockDevice with random 4 KiB writes over a zoned one. See docs/architecture.md.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"
#include "base/page_memory.hpp"
#include "ftl/band_writer.hpp"
#include "ftl/core_state.hpp"
#include "ftl/mover.hpp"
#include "ftl/nv_cache.hpp"
#include "ftl/reader.hpp"
#include "ftl/restored_l2p.hpp"
#include "ftl/waiting_lines.hpp"
#include "reactor/block_device.hpp"
#include "reactor/io_list.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

// State of a band, as Python reads it (spdk_ftl_py/ftl/media/band.py).
struct BandRow {
    uint64_t seq;
    uint64_t faulted_punits;  // one bit each
    uint64_t opened_seq;      // the core's next_seq when the band was opened
    uint64_t data_seq;        // of the data blocks that were written to it, on average
    uint32_t band;
    uint32_t valid;    // see valid_count()
    uint32_t written;  // includes blocks that were given up
    uint8_t state;
    uint8_t stream;
    uint8_t unreadable;  // when the band is closed, its state becomes faulted
    uint8_t unwritten;   // not counting blocks that were given up
    uint64_t settling;   // records that are in the band, but not in the L2P yet
};
static_assert(sizeof(BandRow) == 56);

class FtlCore final : public BlockDevice, public Poller, public std::enable_shared_from_this<FtlCore> {
public:
    FtlCore(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, CoreConfig config);

    // BlockDevice and Poller
    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override;
    [[nodiscard]] uint64_t deadline_ns() const noexcept override;
    bool reserve(Io &io, uint32_t iov_room) noexcept override;
    void abandon(Io &io) noexcept override;
    void expect(uint64_t lba) const noexcept override {
        if (lba < info_.block_count) {
            state_.l2p.prefetch(lba);
            state_.crcs.prefetch(lba);
        }
    }
    [[nodiscard]] const void *reserves() const noexcept override {
        return state_.failed != status::ok || writes_wait_ ? nullptr : this;
    }
    void adopt(Io &io, std::span<Io *const> parts) noexcept override;
    void cancel(Io &io) noexcept override;
    [[nodiscard]] uint64_t allocated_blocks() override;
    [[nodiscard]] bool lost() const noexcept override {
        return state_.failed != status::ok && !MUTATED(lost_core_answers);
    }

    // Orders: on the reactor's thread, through Reactor::call. They throw std::invalid_argument for impossible
    // arguments.
    //
    // Joins the reactor. A closed core leaves the reactor by itself, and joins it again for I/O that is still
    // submitted.
    void attach();
    [[nodiscard]] uint32_t id() const noexcept { return state_.id; }
    bool open_band(uint32_t stream, uint32_t band, uint64_t band_seq);  // false: a band is already queued
    // Frees a queued band to which nothing was written yet; the stream does not ask for another one. kNoBand: none was
    // queued.
    uint32_t take_queued(uint32_t stream);
    // Which class of bands each block goes to from now on. Afterwards `placement` holds the former tables, so that they
    // are freed elsewhere. If the number of classes changes, bands that are being written stay with their side: those
    // of a user class that no longer exists are closed, and those of a relocation class are filled first. Each class
    // asks for its next band anew.
    void set_placement(Placement &placement);
    // The classes that have asked for a band, and have no answer yet; one bit each.
    [[nodiscard]] uint32_t asking() const noexcept { return writer_.asking(); }
    // Returns the next seq. What is accepted later has this seq or a greater one. What was accepted before has a
    // smaller one, and the L2P tells of it: a mark in progress goes on with another record.
    uint64_t part_seqs() noexcept;
    bool start_move(uint32_t band);  // false: the maximum is being moved
    // Reads and verifies the valid data of a band that is closed or being written. False: another band is being read.
    // stays: bands are no longer moved, so the whole band is read despite damage, even a faulted one.
    bool start_scrub(uint32_t band, bool stays);
    void set_scrub_rate(uint32_t blocks_per_s) noexcept { movers_.set_scrub_rate(blocks_per_s); }
    void stop_scrub() noexcept { movers_.stop_scrub(); }
    [[nodiscard]] const Movers &movers() const noexcept { return movers_; }
    void reset_band(uint32_t band);
    // Returns the bands that are in use, or hold valid data; these are left as they are.
    std::vector<uint32_t> reset_bands(const std::vector<uint32_t> &bands);
    void replace_zone(uint32_t band, uint32_t punit, uint64_t zone_start);  // kNoZone: the band works without it
    // The base reports that the zone is no longer writable. False: this is known, or a write will show it.
    bool fault_zone(uint32_t band, uint32_t punit, Status status);
    // The base recommends to finish the zone. False: it is not being written.
    bool close_zone(uint32_t band, uint32_t punit);
    void set_pace(uint32_t user_percent, uint32_t reloc_per_thousand) noexcept;
    void fail_writes(Status status) noexcept;
    void refuse_writes() noexcept;
    uint64_t drain();
    // Flushes the data that is already on the base. It does not wait for accepted data.
    uint64_t flush_base();
    void fail(Status status) noexcept;
    // Accepts no more I/O.
    void close() noexcept;
    // The core is closed, the base has completed all I/O, and the core has released it.
    [[nodiscard]] bool detached() const noexcept { return closed_ && poller_id_ == 0; }

    // State
    void load_band(uint32_t band, BandState state, uint64_t band_seq, std::span<const uint64_t> write_pointers);
    // The class that wrote a loaded band, and how old its data is: only placement and policies need it.
    void load_history(uint32_t band, uint8_t band_class, uint64_t opened_seq, uint64_t data_seq);
    // crcs: cut, of the blocks on media; null if reads are not verified.
    void load_l2p(uint64_t first_lba, const uint64_t *entries, const uint16_t *crcs, size_t count);
    // All of a restored L2P at once, without a visit to its entries, instead of load_l2p(): the core has the table's
    // memory afterwards, and the table has none. counts: of this table, with the core's zones and chunks.
    void take_l2p(RestoredL2p &table, RestoredL2p::Counts &counts);
    // Blocks accepted in an earlier life that are newer than everything on media, in ascending seq. False: no room now.
    bool recover_block(uint64_t lba, uint64_t seq, uint32_t crc, const uint8_t *block);
    bool recover_record(uint64_t lba, uint32_t block_count, uint64_t seq, uint32_t flags);
    // Sets the nv cache, before the first write: accepted blocks go there first.
    void use_cache(std::shared_ptr<BlockDevice> device, const NvCacheConfig &config);
    // The superblock says that the cache must not be read: completes the writes that are held back, and continues
    // without the cache.
    void forget_cache() noexcept;
    [[nodiscard]] const NvCache *cache() const noexcept { return cache_.get(); }
    [[nodiscard]] uint64_t l2p(uint64_t lba) const noexcept { return state_.entry_of(lba); }
    // Throws PageFileError if entries or CRCs are lost.
    void check_pages() const { check_pages_of(state_.l2p.paged(), state_.crcs.paged(), state_.config.paging.folder); }
    [[nodiscard]] CoreState &state() noexcept { return state_; }
    // Valid data blocks, plus headers whose records may be valid.
    [[nodiscard]] uint32_t valid_count(uint32_t band) const noexcept;
    [[nodiscard]] BandRow row(uint32_t band) const noexcept;
    // Takes the bands that have changed since the last call, in the order of their changes. Returns their number.
    size_t take_changed(std::span<BandRow> rows) noexcept;

private:
    static constexpr uint32_t kDrainsMax = 16;
    static constexpr uint32_t kMaxIoBlocks = 256;
    static constexpr uint32_t kCompareWriteBlocks = 1;  // what one slot holds: such a write is never torn
    static constexpr uint64_t kFlushRetryNs = 100'000'000;
    static constexpr uint32_t kLandedPart = 4;         // a quarter of the slots may wait for a base flush
    static constexpr uint32_t kLandedPartWanted = 16;  // the same, while writes wait for slots
    static constexpr uint32_t kUnreservedPart = 4;     // a quarter of the slots can't be reserved
    static constexpr uint32_t kTrimShared = 4096;      // L2P entries that trims visit at once while there is other I/O
    static constexpr uint64_t kTrimRestNs = 10;        // pause per such entry, about four times its visit
    static constexpr uint64_t kNextMoveNs = 20'000'000;  // a move that has ended may be followed by another one so late
    static constexpr uint32_t kTrimCost = 64;            // cost of each trim, however short
    static constexpr uint32_t kMarkTurn = 65536;         // L2P entries of one mark; then other lines have their turn

    struct Drain {
        FtlCore *core = nullptr;
        uint64_t ticket = 0;  // 0: free
        Io io;
    };

    // A compare_write on its way: core_compare.cpp.
    struct Compare {
        FtlCore *core = nullptr;
        Io *parent = nullptr;  // null: free
        bool reading = false;
        bool cancelled = false;  // it ends when the read comes back
        uint32_t number = 0;     // its watch
        Io read;
        iovec iov{};
    };

    void finish(Io &io, Status status) noexcept {
        io.status = status;
        done_.push(io);
    }
    void write(Io &io) noexcept;
    [[nodiscard]] bool share_allows() noexcept;
    void flush(Io &io, bool forced) noexcept;
    void accept_block(uint64_t lba, uint32_t slot, uint32_t crc) noexcept;
    void hold(uint32_t slot, uint64_t lba, uint64_t seq, uint32_t crc) noexcept;
    void check_recovered(uint64_t lba, uint64_t block_count, uint64_t seq, const char *order) const;
    void accept_reserved(Io &io) noexcept;
    [[nodiscard]] static uint32_t take_block(IovCursor &cursor, uint8_t *to) noexcept;
    bool accept_own(Io &io) noexcept;
    void accepted(Io &io) noexcept;
    uint32_t run_cache() noexcept;
    void end_held_back(Status status) noexcept;
    void end_waiting(Status status) noexcept;
    void spend(uint32_t &budget, uint64_t cost) noexcept;
    bool trim(WaitingLine &line, uint32_t &budget) noexcept;
    bool mark_step(WaitingLine &line, uint32_t &budget) noexcept;
    void cut_mark(WaitingLine &line) noexcept;
    uint32_t run_waiting() noexcept;
    [[nodiscard]] bool has_pages(WaitingLine &line, const Io &io) noexcept;
    uint32_t run_line(WaitingLine &line, uint32_t &budget) noexcept;
    // Something of the trims or marks can be done at once.
    [[nodiscard]] bool trims_go_on() const noexcept {
        return marking_ ||
               (state_.trims.any() && (state_.config.trim_step > 0 || trims_wanted()) && state_.failed == status::ok);
    }
    // Something waits until trims are applied.
    [[nodiscard]] bool trims_wanted() const noexcept { return state_.moves_settle || !state_.trims.room(); }
    // A caller that steps the reactor may leave its clock unchanged.
    [[nodiscard]] bool trims_rest() const noexcept { return state_.now < trim_again_ && !state_.clock_stands; }
    void make_compares();
    void compare_write(Io &io) noexcept;
    void begin_compare(Compare &compare) noexcept;
    bool judge_compare(Compare &compare) noexcept;
    [[nodiscard]] bool is_same(const Compare &compare) const noexcept;
    void end_compare(Compare &compare, Status status) noexcept;
    uint32_t run_compares() noexcept;
    void fail_compares() noexcept;
    void cancel_compare(Io &io) noexcept;
    static void on_compare_read(Io &io) noexcept;
    uint32_t run_flushes() noexcept;
    [[nodiscard]] bool buffer_wants_flush() const noexcept;
    void end_retention(Status status) noexcept;
    uint32_t run_resets() noexcept;
    void next_reset(uint32_t band) noexcept;
    void zone_was_reset(uint32_t band, Status status) noexcept;
    uint32_t run_pages() noexcept;
    uint32_t complete_done() noexcept;
    void end_everything() noexcept;
    Drain &free_drain();
    void detach_when_done() noexcept;
    void give_back(Io &io) noexcept;
    const Band &checked_band(uint32_t band, const char *order) const;
    bool begin_reset(uint32_t band) noexcept;
    static void on_copied(void *context, uint16_t mover) noexcept;
    static void on_base_flush(Io &io) noexcept;
    static void on_drained(Io &io) noexcept;
    static void on_reset_flush(Io &io) noexcept;
    static void on_zone_reset(Io &io) noexcept;
    static void on_reset_probe(Io &io) noexcept;

    CoreState state_;
    BlockDeviceInfo info_;
    Movers movers_;
    BandWriter writer_;
    Reader reader_;

    std::unique_ptr<NvCache> cache_;

    IoList done_;      // to complete in the next poll
    IoList tickets_;   // flushes and FUA writes: device_data[0] = epoch
    IoList to_flush_;  // their epoch is on media; they wait for a base flush
    IoList flushing_;  // flushes that the base flush in flight completes
    BaseIo flush_io_;
    bool flush_in_flight_ = false;
    uint64_t flush_again_at_ = 0;  // earliest time of the next flush that only the write buffer needs
    uint64_t flushes_failed_ = 0;  // in a row
    WaitingLines waiting_;
    bool writes_wait_ = false;     // some writes find no room; later ones must not overtake them
    bool marking_ = false;         // a trim or mark can continue at once
    WaitingLine *open_ = nullptr;  // the line whose mark has a record that is not queued yet
    uint64_t trim_again_ = 0;      // earliest time to continue
    uint64_t trims_spent_ = 0;     // L2P entries visited in this poll, and what costs as much
    std::array<Compare, kWatches> compares_;
    PageMemory compare_blocks_{size_t{kWatches} * kBlockSize};
    IoList compares_waiting_;      // all compares are in use
    bool compares_crave_ = false;  // a compare has succeeded, and its write finds no room
    std::array<Drain, kDrainsMax> drains_;
    uint64_t next_ticket_ = 1;
    std::vector<uint32_t> resets_;  // bands whose flush is done; they wait for readers, then their zones are reset
    bool reads_first_ = false;      // in this poll
    bool throttled_ = false;        // by the share of user writes, since last_poll_
    uint64_t last_poll_ = 0;
    uint32_t poller_id_ = 0;  // 0: not polled
    bool refusing_ = false;   // writes and trims, because a halt has begun
    bool closed_ = false;
};

}  // namespace ftl
