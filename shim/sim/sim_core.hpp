// SPDX-License-Identifier: BSD-3-Clause
// SimCore: what FtlCore is for the band manager, without data, I/O and time. `spdk-ftl simulate` runs on it.
//
// It keeps for each logical block its address, and for each address its LBA; nothing else, unless placement asks for
// the ages of relocated blocks. Host writes are the only clock: relocation advances beside them, as the Throttle of
// FtlCore allows. A batch of requests runs until Python has something to decide.
//
// There is no write buffer: FtlCore writes every block that it accepts to media, and one that was overwritten in the
// buffer is invalid there, as it is here. Resets are done at once. Trims need no record.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/core.hpp"
#include "ftl/core_state.hpp"
#include "ftl/placement.hpp"

namespace ftl {

struct SimConfig {
    uint64_t block_count = 0;  // logical blocks
    uint32_t band_count = 0;
    uint32_t band_blocks = 0;
    uint32_t max_active_relocs = 3;
    uint32_t band_threshold = 90;
    bool shared_stream = false;
    uint32_t reaction_blocks =
        0;  // that reach media between an event and Python's answer, unless something waits for it
};

struct SimStats {
    uint64_t user_written_blocks = 0;
    uint64_t user_trimmed_blocks = 0;
    uint64_t media_written_blocks = 0;
    uint64_t reloc_moved_blocks = 0;
    uint64_t zone_resets = 0;  // of whole bands
    uint64_t write_buffer_used = 0;
    uint64_t busy_answers = 0;
    uint64_t mapped_blocks = 0;
    uint64_t scanned_blocks = 0;  // of bands that were moved
    uint64_t next_seq = 0;
    uint64_t stall_blocks_max = 0;  // relocated between two blocks of a host, since forget_stalls()
    std::vector<uint64_t> stalls;   // [i]: how often at least 2^(i-1) and less than 2^i blocks were, since then
};

enum class SimStop : uint8_t {
    done,      // all requests
    decision,  // Python has to decide
    timer,     // as many blocks as were asked for reached media
    blocked,   // the host waits, and relocation does not advance either
};

struct SimEvent {
    EventKind kind;
    uint32_t number;  // class or band
};

class SimCore {
public:
    static constexpr uint64_t kNoLimit = ~uint64_t{0};
    enum class Op : uint8_t { write, trim, read };

    // Throws std::invalid_argument for an impossible config, std::bad_alloc.
    explicit SimCore(const SimConfig &config);

    // Requests from the last one that is not done. Returns how many are done; the next call continues with the rest of
    // the first that is not. ops, blocks: empty: writes of one block each.
    SimStop run(std::span<const uint8_t> ops, std::span<const uint64_t> lbas, std::span<const uint32_t> blocks,
                uint64_t media_blocks, size_t &done);
    // Since the last call.
    std::vector<SimEvent> take_events();

    // As FtlCore's
    bool open_band(uint32_t number, uint32_t band, uint64_t band_seq);
    uint32_t take_queued(uint32_t number);
    // No more blocks are written to the band. False: it is not being written, or nothing was written to it yet. A band
    // has no zones here.
    bool close_band(uint32_t number);
    bool start_move(uint32_t band);
    std::vector<uint32_t> reset_bands(const std::vector<uint32_t> &bands);
    void set_pace(uint32_t user_percent, uint32_t reloc_per_thousand) noexcept {
        throttle_.set(user_percent, reloc_per_thousand);
    }
    void set_placement(const Placement &placement);
    // The classes that have asked for a band, and have no answer yet.
    [[nodiscard]] std::vector<uint32_t> asking() const;
    [[nodiscard]] BandRow row(uint32_t band) const noexcept;
    size_t take_changed(std::span<BandRow> rows) noexcept;
    [[nodiscard]] uint64_t changes() const noexcept { return changes_; }
    [[nodiscard]] SimStats stats() const;
    // Those before do not count any more: they belong to a phase that is over.
    void forget_stalls() noexcept;
    [[nodiscard]] uint64_t next_seq() const noexcept { return next_seq_; }
    [[nodiscard]] uint64_t media_written_blocks() const noexcept { return media_; }
    [[nodiscard]] size_t band_count() const noexcept { return bands_.size(); }
    // Mean seq of the host writes that a band's blocks come from; for all bands.
    [[nodiscard]] const std::vector<uint64_t> &data_seqs() const noexcept { return data_seqs_; }
    [[nodiscard]] const std::vector<uint64_t> &opened_seqs() const noexcept { return opened_seqs_; }
    // What the arrays take.
    [[nodiscard]] uint64_t memory_bytes() const noexcept;

private:
    static constexpr uint32_t kNowhere = ~0U;                          // of the L2P
    static constexpr uint32_t kAhead = 16;                             // entries that are prefetched
    static constexpr uint32_t kMoveRun = 32;                           // blocks that a move copies in one go
    static constexpr int64_t kMoveDue = int64_t{1000} * kMoveRun / 2;  // of pace credit, beside a host
    static constexpr uint32_t kMeanEvery = 64;  // blocks after which the mean of an open band is taken again
    static constexpr uint32_t kSeqBits = 20;    // a seq is kept to 2^-20 of the device at least

    struct SimBand {
        BandState state = BandState::free;
        uint8_t number = 0;  // class
        bool listed = false;
        uint32_t written = 0;
        uint64_t seq = 0;
    };
    struct Stream {
        uint32_t band = kNoBand;
        uint32_t written = 0;
        uint32_t queued = kNoBand;
        bool asked = false;
        uint64_t seq_sum = 0;
    };
    struct Move {
        uint32_t band = kNoBand;
        uint32_t next = 0;
        uint64_t moved = 0;
    };

    [[nodiscard]] uint32_t band_of(uint32_t address) const noexcept {
        return static_cast<uint32_t>((static_cast<unsigned __int128>(reciprocal_) * address) >> 64);
    }
    // About that of the block at this address. seqs_ must not be null.
    [[nodiscard]] uint64_t seq_of(uint32_t address) const noexcept { return uint64_t{seqs_[address]} << seq_shift_; }
    [[nodiscard]] SimStop stop_of() noexcept;
    void list(uint32_t band) noexcept;
    void forget(uint32_t address) noexcept {
        const uint32_t band = band_of(address);
        --valid_[band];
        list(band);
    }
    void ask(uint32_t number) noexcept;
    void decide() noexcept { decide_at_ = std::min(decide_at_, media_ + config_.reaction_blocks); }
    // Something waits for Python's decision.
    void decide_now() noexcept { decide_at_ = decide_at_ == kNoLimit ? kNoLimit : std::min(decide_at_, media_); }
    [[nodiscard]] Stream *stream_for(uint32_t wanted, uint32_t first, uint32_t end) noexcept;
    bool activate(uint32_t number) noexcept;  // false: none is queued
    [[nodiscard]] uint32_t until_due(const Stream &stream) const noexcept;
    void put(Stream &stream, uint64_t lba, uint64_t seq) noexcept;
    void filled(Stream &stream, uint32_t count, uint64_t seq_sum) noexcept;
    void close(Stream &stream) noexcept;
    [[nodiscard]] uint32_t user_class(uint64_t lba, uint32_t before) const noexcept;
    SimStop run_blocks(std::span<const uint64_t> lbas, uint64_t end, size_t &done);
    [[nodiscard]] uint64_t until_turn() const noexcept;
    [[nodiscard]] size_t write_blocks(std::span<const uint64_t> lbas, uint64_t end) noexcept;
    [[nodiscard]] bool write_block(uint64_t lba) noexcept;
    void trim_block(uint64_t lba) noexcept;
    [[nodiscard]] bool wait() noexcept;
    void move_beside() noexcept;
    uint32_t move(uint32_t most) noexcept;
    [[nodiscard]] uint32_t copy(Move &move, Stream &stream, uint32_t most) noexcept;
    void note_stall(uint64_t writes) noexcept;
    void renumber(const Placement &next) noexcept;

    SimConfig config_;
    uint64_t reciprocal_;
    uint32_t ask_from_;  // blocks in a band from which on its class asks for the next one
    PageMemory l2p_memory_;
    PageMemory p2l_memory_;
    PageMemory seq_memory_;
    uint32_t *l2p_ = nullptr;
    uint32_t *p2l_ = nullptr;
    uint32_t *seqs_ = nullptr;  // by address, in units of 2^seq_shift_; null: not kept
    uint32_t seq_shift_ = 0;
    std::vector<SimBand> bands_;
    std::vector<uint32_t> valid_;
    std::vector<uint64_t> data_seqs_;
    std::vector<uint64_t> opened_seqs_;
    std::vector<uint32_t> changed_;  // a ring: each band is in it once at most
    size_t changed_first_ = 0;
    size_t changed_count_ = 0;
    uint64_t changes_ = 0;
    std::array<Stream, kClassesMax> streams_;
    std::vector<Move> moves_;  // the oldest first
    Placement placement_;
    Throttle throttle_;
    std::vector<SimEvent> events_;
    uint64_t decide_at_ = kNoLimit;  // of media_: Python has to decide then
    uint32_t partial_ = 0;           // blocks of the first request that are done
    uint64_t next_seq_ = 1;
    uint64_t media_ = 0;
    uint64_t mapped_ = 0;
    uint64_t trimmed_ = 0;
    uint64_t moved_ = 0;
    uint64_t scanned_ = 0;
    uint64_t resets_ = 0;
    uint64_t moved_at_write_ = 0;
    uint64_t stall_max_ = 0;
    std::array<uint64_t, 64> stalls_{};
};

}  // namespace ftl
