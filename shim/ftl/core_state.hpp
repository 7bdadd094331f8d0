// SPDX-License-Identifier: BSD-3-Clause
// State that the parts of FtlCore share: geometry, L2P with its valid counts, buffers, epochs, counters, the base.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutation.hpp"
#include "ftl/bands.hpp"
#include "ftl/base_io.hpp"
#include "ftl/block_crcs.hpp"
#include "ftl/epochs.hpp"
#include "ftl/l2p.hpp"
#include "ftl/layout.hpp"
#include "ftl/placement.hpp"
#include "ftl/records.hpp"
#include "ftl/trims.hpp"
#include "ftl/write_buffer.hpp"
#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

inline constexpr uint32_t kStreamUser = 0;   // class 0
inline constexpr uint32_t kStreamReloc = 1;  // the class of relocated blocks, unless a placement says otherwise
inline constexpr uint64_t kNoZone = ~uint64_t{0};
inline constexpr uint32_t kPunitsMax = 64;          // one bit of a BandRow each
inline constexpr uint32_t kScanStep = 32768;        // L2P entries visited per poll by what walks ranges of it
inline constexpr uint64_t kPageEvents = 256;        // pages that come or go while something waits for others
inline constexpr uint32_t kWatches = 16;            // LBAs that are watched at once
inline constexpr uint64_t kBesideNs = 1'000'000;    // other I/O counts as present for this time
inline constexpr uint64_t kBatchAgeNs = 5'000'000;  // data waits no longer for a full batch

struct CoreConfig {
    layout::Uuid uuid{};
    layout::Uuid media_uuid{};  // in records on the base; differs if the FTL is a copy
    uint64_t block_count = 0;
    std::vector<uint64_t> zone_starts;  // by band and parallel unit; kNoZone for a missing zone
    uint32_t punits = 0;
    uint64_t zone_size = 0;
    uint64_t zone_capacity = 0;
    uint32_t batch_blocks = 128;
    bool use_append = false;
    bool shared_stream = false;
    uint8_t classes_max = 2;  // classes of bands that are written side by side
    bool finish_zones = false;
    bool flush_zone_starts = false;  // for emulated zones, where a loss of power may take the first block alone
    uint32_t write_buffer_blocks = 1536;
    std::optional<std::string> write_buffer_path;
    uint32_t reloc_buffer_blocks = 512;
    uint32_t max_reloc_qdepth = 32;
    uint32_t max_active_relocs = 3;
    uint32_t band_threshold = 90;
    uint64_t next_seq = 1;
    // Of trims that are applied later: LBAs of a chunk, and L2P entries in a poll without other I/O (0: only those that
    // somebody needs). Tests have fewer.
    uint32_t trim_chunk = Trims::kChunkBlocks;
    uint32_t trim_step = kScanStep;
    bool verify_reads = true;
    bool no_data = false;  // the base keeps nothing: only memory knows the content of blocks
    Paging paging;         // of the L2P and the CRCs
};

struct Zone {
    uint64_t start = kNoZone;
    uint32_t write_pointer = 0;  // relative; blocks that are known to be on media
    bool faulted = false;        // never written again until replaced
    uint8_t full_at_once = 0;    // how many times in a row the zone was full before anything was written to it
};

struct CoreStats {
    uint64_t user_reads = 0;
    uint64_t user_writes = 0;
    uint64_t user_read_blocks = 0;
    uint64_t user_written_blocks = 0;
    uint64_t user_trimmed_blocks = 0;
    uint64_t media_written_blocks = 0;
    uint64_t media_header_blocks = 0;
    uint64_t media_summary_blocks = 0;
    uint64_t media_user_blocks = 0;
    uint64_t media_reloc_blocks = 0;
    uint64_t media_trim_blocks = 0;
    uint64_t reloc_moved_blocks = 0;
    uint64_t reloc_read_blocks = 0;
    uint64_t reloc_reads = 0;
    uint64_t reloc_batches = 0;
    uint64_t lost_blocks = 0;
    uint64_t flushes = 0;
    uint64_t base_flushes = 0;
    uint64_t zone_resets = 0;
    uint64_t crc_errors = 0;
    uint64_t user_crc_errors = 0;    // of these, errors in blocks that hosts read
    uint64_t reads_repeated = 0;     // blocks that the core read again for a host
    uint64_t reads_rescued = 0;      // blocks that media could not return, but the write buffer or nv cache still had
    uint64_t unreadable_blocks = 0;  // blocks that made a host's read fail
    uint64_t read_errors = 0;
    uint64_t write_errors = 0;
    uint64_t busy_answers = 0;  // "busy" answers of the base, after which the I/O was repeated
    uint64_t scrub_reads = 0;
    uint64_t scrub_read_blocks = 0;   // data blocks that were read and are valid
    uint64_t scrub_bad_blocks = 0;    // data blocks that were unreadable or damaged, twice
    uint64_t scrub_bad_metadata = 0;  // summaries and headers that were unreadable or damaged, twice
    uint64_t scrub_slow_reads = 0;    // reads that took too long, twice, while the base was fast elsewhere
    uint64_t zones_finished = 0;      // by the drive, before they were full
    uint64_t throttled_ns = 0;
    uint64_t l2p_page_reads = 0;  // of a paged L2P, and of its CRCs
    uint64_t l2p_page_writes = 0;
    uint64_t l2p_page_waits = 0;  // of both, those that the reactor waited for
    uint64_t batches = 0;
    uint64_t short_batches = 0;
};

class NvCache;

// An LBA whose content somebody is reading, and needs to know whether it has changed since.
struct Watch {
    uint64_t lba = kNoLba;
    bool changed = false;

    static constexpr uint64_t kNoLba = ~uint64_t{0};
};

// The meaning of a completed base I/O for its sender.
enum class Answer : uint8_t {
    final,
    awaited,  // the base was busy: the same I/O is sent again, and nothing has changed
    dropped,  // the core has failed: ignore it
};

// How long reads of one kind wait for a busy base.
struct Patience {
    explicit constexpr Patience(uint64_t ns) noexcept : whole_ns(ns), now_ns(ns) {}
    uint64_t whole_ns;
    uint64_t now_ns;  // shorter after one read has waited in vain, until a busy answer is followed by a success
};

// If a busy base does not read a block, it must read another block before that counts as a fault of the block.
struct Probe {
    uint32_t number = 0;   // 0: the I/O reads its own block
    bool again = false;    // second attempt to read the block, after another block was read
    bool refused = false;  // final, although no other block was read: says nothing about this block
    uint64_t lba = 0;
    uint32_t block_count = 0;
};

// The progress of the scrub in its band.
struct Scrubbed {
    uint32_t band = kNoBand;
    uint32_t punit = 0;   // zones before this one are done
    uint32_t offset = 0;  // blocks of this zone below the offset are done
    uint64_t seen = 0;    // blocks that metadata described, and that are still valid
};

// Demand for early writes: blocks that somebody waits for do not wait for a full batch.
struct Demand {
    uint64_t wanted_epoch = 0;  // short batches are due up to it. Writer: FtlCore::flush()
    uint64_t forced_epoch = 0;  // for a reset or drain, so the user's share does not matter. Writer: FtlCore::flush()
    bool user_waits = false;    // writes or trims found no room. Writer: FtlCore::run_waiting(), anew in each poll
    bool cache_waits = false;   // the nv cache's ring is full of blocks that are not durable on the base. Writer:
                                // FtlCore::run_cache(), anew in each poll

    [[nodiscard]] bool waits_for_room() const noexcept { return user_waits || cache_waits; }
};

// Balances host writes and relocation: what one of them may do depends on what the other does. See
// docs/architecture.md, "Write path" and "GC".
struct Throttle {
    static constexpr uint32_t kUnpaced = ~0U;
    // What a side does not use soon must not become a burst later.
    static constexpr int64_t kShareCreditMax = int64_t{100} * 4 * layout::kBatchDataBlocksMax;
    static constexpr int64_t kPaceCreditMax = int64_t{1000} * 4 * layout::kBatchDataBlocksMax;
    static constexpr int64_t kPaceAhead = int64_t{1000} * 2 * layout::kBatchDataBlocksMax;

    uint32_t share = 100;      // the user's percentage of all blocks written. Writer: set()
    int64_t credit = 0;        // percent-blocks the user may have accepted while there is a limit. Writers: accepted(),
                               // relocates(), set()
    uint32_t pace = kUnpaced;  // blocks that are relocated for each 1000 of the user. Writer: set()
    int64_t pace_credit = 0;   // thousandths of blocks that relocation is behind. Writers: accepted(), relocates()

    [[nodiscard]] bool limits() const noexcept { return share < 100; }
    [[nodiscard]] bool paces() const noexcept { return pace != kUnpaced; }
    // rests: nothing has been moved for a while.
    [[nodiscard]] bool allows(bool rests) const noexcept { return share == 100 || credit > 0 || (share > 0 && rests); }
    // Relocation may be a little ahead, so that the next blocks are on their way when the user has written his.
    [[nodiscard]] bool allows_move() const noexcept { return !paces() || pace_credit > -kPaceAhead; }
    // Called by FtlCore::set_pace().
    void set(uint32_t percent, uint32_t per_thousand) noexcept {
        share = std::min(percent, 100U);
        pace = per_thousand;
        if (!limits() || share == 0) {
            credit = std::min<int64_t>(credit, 0);
        }
    }
    // User blocks were accepted. Called by FtlCore::accept_block().
    void accepted(uint32_t count = 1) noexcept {
        if (limits()) {
            // While nothing is moved the user writes without credit. That must not become a debt.
            credit = std::max(credit - int64_t{100} * count, -kShareCreditMax);
        }
        if (paces()) {
            pace_credit = std::min(pace_credit + int64_t{pace} * count, kPaceCreditMax);
        }
    }
    // That many blocks are about to be read for relocation. Called by Movers::scan_window().
    void relocates(uint32_t count) noexcept {
        if (share > 0 && share < 100) {
            credit = std::min(credit + int64_t{100} * count * share / (100 - share), kShareCreditMax);
        }
        pace_credit = std::max(pace_credit - int64_t{1000} * count, -kPaceAhead);
    }
};

class CoreState {
public:
    // Throws std::invalid_argument for an impossible config.
    CoreState(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, CoreConfig config);

    // --- geometry
    [[nodiscard]] uint64_t zone_number(uint64_t address) const noexcept {
        return zone_shift >= 0 ? address >> zone_shift : address / config.zone_size;
    }
    [[nodiscard]] uint32_t band_of(uint64_t address) const noexcept { return zone_band[zone_number(address)]; }
    [[nodiscard]] const Zone &zone(uint32_t band, uint32_t punit) const noexcept {
        return zones[size_t{band} * punits + punit];
    }
    // The zone is part of its band's state, so the band counts as changed.
    [[nodiscard]] Zone &change_zone(uint32_t band, uint32_t punit) noexcept {
        bands.change(band);
        return zones[size_t{band} * punits + punit];
    }
    [[nodiscard]] uint32_t data_blocks() const noexcept { return data_area; }
    // False, with nothing changed, if the base has no such zone.
    bool set_zone(uint32_t band, uint32_t punit, uint64_t start) noexcept;

    // For a band that is neither written nor moved.
    [[nodiscard]] BandState closed_state(uint32_t band) const noexcept;

    // Call it for every block or record that gets a new seq.
    void overtake_trim(uint64_t lba, uint32_t block_count) noexcept {
        if (lba < trim_to && lba + block_count > trim_from) {
            trim_overtaken = true;
        }
    }

    // --- placement: which class of bands a block goes to
    [[nodiscard]] uint8_t class_of_write(uint64_t lba) const noexcept;  // before its L2P entry changes
    [[nodiscard]] uint8_t class_of_copy(uint32_t from_band, uint64_t seq) const noexcept {
        const uint8_t first = placement.first(Side::reloc);
        return placement.is_one(Side::reloc) ? first : look_up_copy(from_band, seq);
    }
    [[nodiscard]] uint8_t look_up_copy(uint32_t from_band, uint64_t seq) const noexcept;
    [[nodiscard]] uint64_t age_of(uint64_t seq) const noexcept { return seq < next_seq ? next_seq - seq : 0; }

    // --- L2P, keeping the bands' counts. What Trims hides is to be uncovered before its content changes.
    void replace(uint64_t lba, uint64_t entry) noexcept {
        const uint64_t before = l2p.get(lba);
        forget(before);
        if (const bool holds = holds_content(entry); holds != holds_content(before)) [[unlikely]] {
            mapped += holds ? uint64_t{1} : ~uint64_t{0};
            trims.count(lba, holds);
        }
        if (watch_count != 0) [[unlikely]] {
            note_change(lba);
        }
        if (L2p::tag(entry) == L2p::Tag::media) {
            ++bands.change(band_of(entry)).valid;
        }
        l2p.set(lba, entry);
    }
    // Whether nothing about these LBAs of a host's command waits for pages. Pages that are missing are on their way
    // then, and wake the reactor.
    [[nodiscard]] bool want(uint64_t lba, uint64_t count) const noexcept {
        const bool entries = l2p.want(lba, count, PagedMemory::For::hosts);
        return crcs.want(lba, count, PagedMemory::For::hosts) && entries;
    }
    // Whether something that has waited since then waits no longer: its pages leave memory again before all have come.
    // Then the reactor waits for them. since: page_events when it began to wait.
    [[nodiscard]] bool waited_long(uint64_t since) const noexcept { return page_events - since > kPageEvents; }
    // Pages that have come, or gone.
    uint32_t run_pages() noexcept;
    // As PagedMemory::goes_on().
    [[nodiscard]] bool pages_go_on() const noexcept {
        return (l2p.paged() != nullptr && l2p.paged()->goes_on()) ||
               (crcs.paged() != nullptr && crcs.paged()->goes_on());
    }
    // Entries or CRCs are wrong. Nothing may be read from or written to the base for their sake any more.
    [[nodiscard]] bool pages_broken() const noexcept {
        return (l2p.paged() != nullptr && l2p.paged()->broken()) || (crcs.paged() != nullptr && crcs.paged()->broken());
    }
    // The pages that come later wake this reactor.
    void wake_by_pages() noexcept;
    // A host or the scrub could not read valid data there, whether or not another copy exists. Reported once for each
    // band until its reset.
    void unreadable(uint32_t band, uint64_t address, Status status) noexcept;
    // A block made a host's read fail.
    void count_unreadable() noexcept {
        ++stats.unreadable_blocks;
        troubles.fetch_add(1, std::memory_order_relaxed);
    }
    // Remembers the LBA that was written to an address, if media do not keep it.
    void remember(uint64_t address, uint64_t lba) noexcept {
        if (p2l) {
            p2l->set(address, lba);
        }
    }
    // Written, or written as uncorrectable, and not deallocated since.
    static constexpr bool holds_content(uint64_t entry) noexcept {
        return entry != L2p::kInvalid && L2p::tag(entry) != L2p::Tag::trim;
    }
    void watch(uint32_t number, uint64_t lba) noexcept {
        watch_count += watches[number].lba == Watch::kNoLba ? 1 : 0;
        watches[number] = Watch{lba, false};
    }
    void unwatch(uint32_t number) noexcept {
        watch_count -= watches[number].lba == Watch::kNoLba ? 0 : 1;
        watches[number] = Watch{};
    }
    // A block that is only moved counts as changed, too.
    void note_change(uint64_t lba) noexcept {
        for (Watch &each : watches) {
            each.changed |= each.lba == lba;
        }
    }
    // The entry of an LBA as if all trims were applied, and all records on media settled.
    [[nodiscard]] uint64_t entry_of(uint64_t lba) const noexcept;
    // Like replace(), for an entry that was read before.
    void forget(uint64_t entry) noexcept;
    void forget_scrubbed(uint64_t address) noexcept;

    // --- base I/O
    void submit_base(BaseIo &io) noexcept {
        if (io.op == Op::flush && !MUTATED(flushes_overlap) && !flush_turn.take(io)) [[unlikely]] {
            return;
        }
        send_base(io);
    }
    void send_base(BaseIo &io) noexcept {
        if (pages_broken()) [[unlikely]] {
            fail(status::internal_error);
            busy_ios.send_later(io, reactor->now_ns(), 0);  // drop_busy() returns it
            return;
        }
        ++base_outstanding;
        io.status = status::ok;
        io.do_not_retry = false;
        base->submit(io);
    }
    // Every completed base I/O must be passed to this function first.
    Answer came_back(BaseIo &io, uint64_t patience_ns) noexcept;
    Answer judge(BaseIo &io, uint64_t patience_ns) noexcept;  // part of came_back()
    // The same for a read. verdict: the answer decides about its block. If the base reports busy, it only decides after
    // the base has read one of the first blocks of its first zones, where superblocks are, and after that still has not
    // read this one. A base that reads neither has failed; fails = false: this is only reported (Probe::refused).
    // Probes are read into the memory for the block.
    Answer read_came_back(BaseIo &io, Probe &probe, Patience &patience, bool verdict, bool fails = true) noexcept;
    // Restores the I/O that a probe replaced.
    static void restore(BaseIo &io, Probe &probe) noexcept {
        io.lba = probe.lba;
        io.block_count = probe.block_count;
        probe.number = 0;
    }
    void submit_base_later(BaseIo &io, uint64_t delay_ns) noexcept {
        busy_ios.send_later(io, reactor->now_ns(), delay_ns);
    }
    // The core has failed: returns the I/O that waits to be sent again to its sender.
    void drop_busy() noexcept;
    // by_flush: data in the base's volatile cache may be lost.
    void fail(Status status, bool by_flush = false) noexcept;

    // Whether hosts read or write: trims and moves make way for that.
    [[nodiscard]] bool beside_io() noexcept {
        const uint64_t io = stats.user_reads + stats.user_writes;
        if (io != io_before) {
            io_before = io;
            beside_until = now + kBesideNs;
        }
        return now < beside_until;
    }

    // Data on media is held until the base has flushed it.
    [[nodiscard]] bool retains() const noexcept {
        return base->info().volatile_cache && !MUTATED(slot_freed_before_flush);
    }

    void emit(EventKind kind, uint64_t a, uint64_t b = 0, uint64_t c = 0) noexcept { reactor->emit(kind, id, a, b, c); }

    std::shared_ptr<Reactor> reactor;
    std::shared_ptr<BlockDevice> base;
    CoreConfig config;
    uint32_t id = 0;

    uint32_t punits = 0;
    uint32_t summary_area = 0;  // T
    uint32_t data_area = 0;     // D
    uint32_t max_io = 0;        // blocks of a base write
    uint32_t max_data = 0;      // data blocks of a batch
    int zone_shift = -1;
    std::vector<Zone> zones;
    std::vector<uint32_t> zone_band;
    Bands bands;

    L2p l2p;
    Trims trims;
    BlockCrcs crcs;
    NvCache *cache = nullptr;  // of FtlCore; null: there is none
    std::unique_ptr<L2p> p2l;  // with no_data: the LBA that was last written to each address of the base
    Epochs epochs;
    BufferMapping mapping;
    WriteBuffer buffer;
    RelocBuffer reloc;
    Records records;
    CoreStats stats;
    std::atomic<uint64_t> troubles{0};  // failed writes, busy answers, unreadable blocks; any thread may read it

    Placement placement;  // Writer: BandWriter::place()
    uint64_t next_seq = 1;
    uint64_t mapped = 0;  // LBAs that hold content. Writers: replace(), Trims
    std::array<Watch, kWatches> watches;
    uint32_t watch_count = 0;
    // The rest of a partly marked trim that has a record and a seq: first LBA, end.
    uint64_t trim_from = 0;
    uint64_t trim_to = 0;
    bool trim_overtaken = false;  // something in that rest is newer than the record
    uint64_t now = 0;
    Demand demand;
    Throttle throttle;
    BusyIos busy_ios;
    FlushTurn flush_turn;
    uint64_t written_ns = 0;  // when the base last accepted a write
    uint64_t read_ns = 0;     // when the base last completed a read
    uint32_t base_outstanding = 0;
    uint32_t reloc_reads = 0;    // in flight. Writer: Movers
    uint32_t active_moves = 0;   // Writer: Movers
    uint32_t moves_reading = 0;  // moves that may still find blocks to copy. Writer: Movers, anew in each poll
    uint64_t moves_read = 0;     // a bit for each mover that only waits for its copies. Writer: Movers, as above
    bool moves_settle = false;   // a move waits for records that are not settled. Writer: Movers, anew in each poll
    uint64_t page_events = 0;    // pages that have come or gone. Writer: run_pages()
    bool moves_page = false;     // a move waits for pages of the L2P. Writer: Movers, anew in each poll
    bool moves_rest = false;     // relocation waits for the user's next writes. Writer: Movers, anew in each poll
    uint64_t moved_ns = 0;       // when bands were last being moved. Writer: Movers
    uint64_t io_before = 0;      // reads and writes of hosts. Writer: beside_io()
    uint64_t beside_until = 0;   // until this time, host I/O counts as present. Writer: beside_io()
    bool clock_stands = false;   // the clock has not moved since the previous poll. Writer: FtlCore::poll()
    Scrubbed scrubbed;
    Status failed = status::ok;         // Writer: fail()
    Status writes_failed = status::ok;  // no space: answers to writes and trims from now on. Writer:
                                        // FtlCore::fail_writes()
};

}  // namespace ftl
