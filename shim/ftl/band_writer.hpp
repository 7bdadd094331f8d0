// SPDX-License-Identifier: BSD-3-Clause
// Writes everything to media: batches, summaries, the current and next bands of the streams, the share of user writes.
//
// A stream is one class of bands (ftl/placement.hpp). A class is a preference: data whose class gets no band goes to
// bands of other classes of its side.
//
// One batch is outstanding per zone. It is sent as base writes of at most max_io blocks, one after the other (with
// use_append: as one append). L2P entries change when the whole batch is on media. If a write fails, the zone is given
// up, and the blocks of its batch are queued again, in front, with the same seq. The same happens if the drive has
// finished the zone by itself, but then the zone stays usable, and the band closes short.
//
// With flush_zone_starts, a flush follows the first batch of a zone, before anything else is written to it. Where that
// is on media, the first header is, too: it says which blocks are of an earlier life of the zone (docs/restore.md).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/core_state.hpp"

namespace ftl {

class BandWriter {
public:
    // copied(context, mover): a block of that mover is on media, or turned out to be stale.
    using Copied = void (*)(void *context, uint16_t mover) noexcept;

    BandWriter(CoreState &state, Copied copied, void *context);
    BandWriter(const BandWriter &) = delete;
    BandWriter &operator=(const BandWriter &) = delete;

    // Takes the new tables, and leaves the former ones. See FtlCore::set_placement().
    void place(Placement &placement) noexcept;
    [[nodiscard]] uint32_t asking() const noexcept;
    // False: a band is already queued.
    bool queue_band(uint32_t stream, uint32_t band, uint64_t seq) noexcept;
    // The queued band is free again. kNoBand: none was queued.
    uint32_t take_queued(uint32_t stream) noexcept;
    // Finishes a zone of an open band after the batch in flight. False: the zone is not being written.
    bool close_zone(uint32_t band, uint32_t punit) noexcept;
    // Sends all batches that are due. Returns their number.
    uint32_t run() noexcept;
    // There is user data, but no user band, and none is queued.
    [[nodiscard]] bool user_has_no_band() const noexcept;
    [[nodiscard]] bool user_batches_in_flight() const noexcept { return user_batches_ > 0; }
    // When data that waits for a full batch must be written, even if nothing else happens; ~0: no data waits.
    [[nodiscard]] uint64_t deadline_ns() const noexcept;

private:
    enum class Source : uint8_t { none, user, reloc, user_records, reloc_records, pad };
    // What a batch is made of: blocks of one class, or records.
    struct Choice {
        Source source = Source::none;
        uint8_t from_class = 0;
    };
    enum class ZoneState : uint8_t { idle, batch, starting, summary, finishing, done };

    struct OpenBand;
    struct ZoneWriter {
        OpenBand *band = nullptr;
        ZoneState state = ZoneState::done;
        Source source = Source::none;
        uint32_t punit = 0;
        uint32_t next_offset = 0;   // offset of the next batch; ahead of Zone::write_pointer while one is in flight
        uint32_t first_offset = 0;  // offset of the batch in flight
        uint32_t block_count = 0;
        uint32_t done_blocks = 0;
        uint32_t chunk_blocks = 0;
        uint32_t summary_index = 0;
        bool close_short = false;  // after the batch or the flush in flight
        uint32_t finish_attempts = 0;
        uint64_t finish_at = 0;                     // time of the next attempt; 0: it is in flight
        Status finish_refused = status::ok;         // the status of a busy base, which is probed with another I/O now
        std::unique_ptr<layout::BlockEntry[]> map;  // the entry of each offset, for the summary
        uint8_t *scratch = nullptr;   // the header, or blocks of the summary; a server may change it: see Sharing
        std::vector<uint32_t> items;  // slots or records of the batch
        uint32_t item_count = 0;
        std::vector<iovec> iov;
        BaseIo io;
    };
    struct OpenBand {
        BandWriter *writer = nullptr;
        uint32_t band = kNoBand;  // kNoBand: free
        uint32_t stream = 0;
        uint32_t turn = 0;  // zone to try first
        std::vector<ZoneWriter> zones;
    };
    struct Stream {
        OpenBand *current = nullptr;
        uint32_t queued = kNoBand;
        uint64_t queued_seq = 0;
        bool asked = false;  // band_next_needed was sent, and has no answer yet
        // When blocks of it were first found waiting without a band. It stays until the class has a band again, even if
        // other bands have taken all its blocks. 0: it has a band, or none of its blocks has waited since it lost the
        // last one, or it is the only class of its side.
        uint64_t homeless_since = 0;
    };

    OpenBand *current_band(uint32_t stream) noexcept;
    void activate(Stream &stream, uint32_t number) noexcept;
    [[nodiscard]] bool has_room(const OpenBand &open) const noexcept;
    [[nodiscard]] bool has_data(uint32_t stream) const noexcept;
    [[nodiscard]] bool has_blocks(uint32_t stream) const noexcept;
    [[nodiscard]] bool has_open_band(Side side) const noexcept;
    [[nodiscard]] bool is_homeless(uint32_t stream) const noexcept;
    void note_homeless(Stream &stream, uint32_t number) noexcept;
    void close_early(OpenBand &open) noexcept;
    [[nodiscard]] bool user_is_stuck() const noexcept;
    void ask(uint32_t number, uint64_t filling_band) noexcept;
    void ask_for_band(uint32_t number) noexcept;
    uint32_t run_stream(uint32_t number) noexcept;
    uint32_t run_leftovers() noexcept;
    // False: there is nothing to write.
    bool fill(OpenBand &open, uint32_t number, uint32_t &batches) noexcept;
    // number: of the band's class. kAnyClass: the band takes data of all classes of its side.
    Choice choose(Side side, uint32_t number, uint32_t room) noexcept;
    Choice choose_user(uint32_t number) noexcept;
    Choice choose_reloc(uint32_t number) noexcept;
    template <typename Due>
    [[nodiscard]] uint8_t class_due(Side side, uint32_t number, const std::array<uint64_t, kClassesMax> &waiting_since,
                                    Due &&due) const noexcept;
    [[nodiscard]] bool user_due(uint32_t number) const noexcept;
    [[nodiscard]] bool reloc_due(uint32_t number) const noexcept;
    [[nodiscard]] static bool has_most(const std::array<SlotList, kClassesMax> &fifos, uint32_t number) noexcept;
    [[nodiscard]] bool records_due(bool of_user) const noexcept;

    void start_batch(OpenBand &open, ZoneWriter &zone, Choice choice) noexcept;
    void take_user(ZoneWriter &zone, layout::BatchHeader &header, uint8_t from_class, uint32_t count) noexcept;
    void take_reloc(ZoneWriter &zone, layout::BatchHeader &header, uint8_t from_class, uint32_t count) noexcept;
    void take_records(ZoneWriter &zone, layout::BatchHeader &header, bool of_user) noexcept;
    void issue_chunk(ZoneWriter &zone) noexcept;
    void point_iov(ZoneWriter &zone) noexcept;
    void make_summary(ZoneWriter &zone) noexcept;
    [[nodiscard]] bool begins_life(const ZoneWriter &zone) const noexcept;
    void flush_start(ZoneWriter &zone) noexcept;
    void after_batch(ZoneWriter &zone) noexcept;
    void landed(ZoneWriter &zone) noexcept;
    void give_up(ZoneWriter &zone) noexcept;
    void finish(ZoneWriter &zone) noexcept;
    void finish_once_more(ZoneWriter &zone) noexcept;
    void finished(ZoneWriter &zone, Status status) noexcept;
    void finish_failed(ZoneWriter &zone, Status status) noexcept;
    uint32_t run_finishes() noexcept;
    void fault(ZoneWriter &zone, Status status) noexcept;
    void requeue(ZoneWriter &zone) noexcept;
    uint32_t close_bands() noexcept;
    static void on_complete(Io &io) noexcept;
    void came_back(ZoneWriter &zone) noexcept;

    CoreState &state_;
    Copied copied_;
    void *context_;
    static constexpr uint32_t kAnyClass = ~0U;

    std::vector<OpenBand> open_;
    std::array<Stream, kClassesMax> streams_;
    // Bands of relocation classes that no longer exist. Relocation counts on the room in them, so they are filled
    // before others are opened.
    std::vector<OpenBand *> leftovers_;
    uint32_t in_use_ = 0;                 // of open_
    std::array<bool, 2> records_busy_{};  // by side: one batch of records at a time keeps them in order
    PageMemory scratch_;
    uint32_t scratch_blocks_ = 1;  // per zone
    uint32_t user_batches_ = 0;    // in flight
    bool reloc_turn_ = true;       // shared stream without a limit: streams take turns
    uint64_t stuck_since_ = 0;
    uint32_t finishes_waiting_ = 0;  // zones whose finish failed, and is repeated later
};

}  // namespace ftl
