// SPDX-License-Identifier: BSD-3-Clause
// Decides which band and zone is written next, and with what. batch_writer.cpp does the writing.
#include "ftl/band_writer.hpp"

#include <algorithm>
#include <utility>

namespace ftl {
namespace {

constexpr uint32_t kSummaryScratchBlocks = 32;
constexpr uint32_t kOpenBandsSplit = 3;  // one for the user stream, one for reloc, one being closed
constexpr uint32_t kOpenBandsShared = 2;
constexpr uint64_t kStuckNs = 20'000'000;  // after that time, the reloc band takes user data that a reset waits for

}  // namespace

BandWriter::BandWriter(CoreState &state, Copied copied, void *context)
    : state_(state),
      copied_(copied),
      context_(context),
      open_(state.config.shared_stream ? kOpenBandsShared : kOpenBandsSplit) {
    scratch_blocks_ = std::min({state.summary_area, state.max_io, kSummaryScratchBlocks});
    scratch_ = PageMemory::shared_or_bad_alloc(size_t{scratch_blocks_} * kBlockSize * state.punits * open_.size(),
                                               Sharing::sends);
    uint8_t *scratch = scratch_.data();
    for (OpenBand &open : open_) {
        open.writer = this;
        open.zones = std::vector<ZoneWriter>(state.punits);
        for (uint32_t punit = 0; punit < state.punits; ++punit) {
            ZoneWriter &zone = open.zones[punit];
            zone.band = &open;
            zone.punit = punit;
            zone.map.resize(state.data_area);
            zone.items.resize(std::max(layout::kBatchDataBlocksMax, layout::kEntriesPerBlock));
            zone.iov.resize(layout::kBatchDataBlocksMax + 1);
            zone.scratch = scratch;
            scratch += size_t{scratch_blocks_} * kBlockSize;
            zone.io.owner = &zone;
            zone.io.complete = on_complete;
        }
    }
}

bool BandWriter::queue_band(uint32_t stream_number, uint32_t band, uint64_t seq) noexcept {
    Stream &stream = streams_[stream_of(stream_number)];
    if (stream.queued != kNoBand) {
        return false;
    }
    stream.queued = band;
    stream.queued_seq = seq;
    stream.asked = false;
    Band &next = state_.bands.change(band);
    next.state = BandState::queued;
    next.stream = static_cast<uint8_t>(stream_number);
    next.seq = seq;
    return true;
}

// Considers only times in the future. Data that is due but cannot be written waits for a completion or an order, not
// for a time.
uint64_t BandWriter::deadline_ns() const noexcept {
    uint64_t deadline = ~uint64_t{0};
    for (const auto &[since, age] : {std::pair{state_.buffer.waiting_since, kBatchAgeNs}, {stuck_since_, kStuckNs}}) {
        if (since != 0 && state_.now < since + age) {
            deadline = std::min(deadline, since + age);
        }
    }
    if (finishes_waiting_ > 0) {
        for (const OpenBand &open : open_) {
            for (const ZoneWriter &zone : open.zones) {
                deadline = zone.finish_at != 0 ? std::min(deadline, zone.finish_at) : deadline;
            }
        }
    }
    return deadline;
}

bool BandWriter::close_zone(uint32_t band, uint32_t punit) noexcept {
    const auto open =
        std::find_if(open_.begin(), open_.end(), [band](const OpenBand &each) { return each.band == band; });
    if (open == open_.end()) {
        return false;
    }
    ZoneWriter &zone = open->zones[punit];
    if (zone.state == ZoneState::batch) {
        zone.close_short = true;
        return true;
    }
    if (zone.state != ZoneState::idle || zone.next_offset == 0) {
        return false;
    }
    give_up(zone);
    finish(zone);
    return true;
}

uint32_t BandWriter::run() noexcept {
    const uint64_t now = state_.now;
    WriteBuffer &buffer = state_.buffer;
    if (buffer.fifo.empty() && state_.records.user_queue.empty()) {
        buffer.waiting_since = 0;
    } else if (buffer.waiting_since == 0) {
        buffer.waiting_since = std::max<uint64_t>(now, 1);
    }
    uint32_t work = finishes_waiting_ > 0 ? run_finishes() : 0;
    if (!state_.config.shared_stream) {
        work += run_stream(kStreamReloc);
    }
    work += run_stream(kStreamUser);
    return work + close_bands();
}

// --- bands

bool BandWriter::has_room(const OpenBand &open) const noexcept {
    return std::any_of(open.zones.begin(), open.zones.end(), [this](const ZoneWriter &zone) {
        return (zone.state == ZoneState::idle || zone.state == ZoneState::batch) && zone.next_offset < state_.data_area;
    });
}

uint32_t BandWriter::take_queued(uint32_t stream_number) noexcept {
    Stream &stream = streams_[stream_of(stream_number)];
    const uint32_t band = std::exchange(stream.queued, kNoBand);
    if (band != kNoBand) {
        stream.asked = true;  // whoever takes the band must queue another one
        state_.bands.change(band).state = BandState::free;
    }
    return band;
}

BandWriter::OpenBand *BandWriter::current_band(uint32_t number) noexcept {
    Stream &stream = streams_[number];
    if (stream.current != nullptr && !has_room(*stream.current)) {
        state_.bands.change(stream.current->band).state = BandState::closing;
        stream.current = nullptr;
    }
    if (stream.current == nullptr && stream.queued != kNoBand) {
        activate(stream, number);
    }
    ask_for_band(number);
    return stream.current;
}

void BandWriter::activate(Stream &stream, uint32_t number) noexcept {
    const auto room =
        std::find_if(open_.begin(), open_.end(), [](const OpenBand &open) { return open.band == kNoBand; });
    if (room == open_.end()) {
        return;
    }
    room->band = stream.queued;
    room->stream = number;
    room->turn = 0;
    Band &band = state_.bands.change(stream.queued);
    band.state = BandState::open;
    band.written = 0;
    band.given_up = 0;
    band.record_headers = 0;
    for (ZoneWriter &zone : room->zones) {
        const Zone &place = state_.zone(stream.queued, zone.punit);
        zone.state = place.start == kNoZone || place.faulted ? ZoneState::done : ZoneState::idle;
        zone.next_offset = 0;
        zone.close_short = false;
        // A zone may have failed while the band was queued.
        band.given_up += place.start != kNoZone && place.faulted ? state_.data_area : 0;
    }
    stream.current = &*room;
    stream.queued = kNoBand;
    stream.asked = false;
}

bool BandWriter::has_data(uint32_t number) const noexcept {
    const bool user = !state_.buffer.fifo.empty() || !state_.records.user_queue.empty();
    const bool reloc = !state_.reloc.fifo.empty() || !state_.records.reloc_queue.empty() || state_.active_moves > 0;
    if (state_.config.shared_stream) {
        return user || reloc;
    }
    return number == kStreamUser ? user : reloc || user_is_stuck();
}

bool BandWriter::user_has_no_band() const noexcept {
    const Stream &user = streams_[kStreamUser];
    return user.current == nullptr && user.queued == kNoBand && has_data(kStreamUser);
}

// A reset may wait for user data that has no band, and the user stream may get no band before that reset is done.
bool BandWriter::user_is_stuck() const noexcept {
    if (streams_[kStreamUser].current != nullptr || state_.config.shared_stream) {
        return false;
    }
    const WriteBuffer &buffer = state_.buffer;
    const Records &records = state_.records;
    return (!buffer.fifo.empty() && buffer.epoch[buffer.fifo.head] <= state_.demand.forced_epoch) ||
           (!records.user_queue.empty() && records.meta[records.user_queue.head].epoch <= state_.demand.forced_epoch);
}

void BandWriter::ask(uint32_t number, uint64_t filling_band) noexcept {
    streams_[number].asked = true;
    state_.emit(EventKind::band_next_needed, number, filling_band);
    // Python may need this processor to answer before the band is full.
    state_.reactor->let_others_run();
}

void BandWriter::ask_for_band(uint32_t number) noexcept {
    Stream &stream = streams_[number];
    if (stream.asked || stream.queued != kNoBand) {
        return;
    }
    if (stream.current == nullptr) {
        if (has_data(number)) {
            ask(number, ~uint64_t{0});
        }
        return;
    }
    const uint64_t room = uint64_t{state_.data_area} * state_.punits;
    uint64_t written = 0;
    for (const ZoneWriter &zone : stream.current->zones) {
        // A missing or faulted zone has no room either.
        const bool over = zone.state == ZoneState::finishing || zone.state == ZoneState::done;
        written += over ? state_.data_area : zone.next_offset;
    }
    if (written * 100 >= room * state_.config.band_threshold) {
        ask(number, stream.current->band);
    }
}

uint32_t BandWriter::close_bands() noexcept {
    uint32_t closed = 0;
    for (OpenBand &open : open_) {
        if (open.band == kNoBand || state_.bands[open.band].state != BandState::closing ||
            std::any_of(open.zones.begin(), open.zones.end(),
                        [](const ZoneWriter &zone) { return zone.state != ZoneState::done; })) {
            continue;
        }
        state_.bands.change(open.band).state = state_.closed_state(open.band);
        state_.emit(EventKind::band_closed, open.band);
        open.band = kNoBand;
        ++closed;
    }
    return closed;
}

// --- what goes next

uint32_t BandWriter::run_stream(uint32_t number) noexcept {
    uint32_t batches = 0;
    // At most twice: for the rest of one band, then for its successor.
    for (int round = 0; round < 2; ++round) {
        OpenBand *open = current_band(number);
        if (open == nullptr) {
            break;
        }
        bool more = true;
        for (uint32_t i = 0; i < state_.punits && more; ++i) {
            ZoneWriter &zone = open->zones[open->turn];
            open->turn = open->turn + 1 == state_.punits ? 0 : open->turn + 1;
            if (zone.state != ZoneState::idle) {
                continue;
            }
            const Source source = choose(number, state_.data_area - zone.next_offset);
            more = source != Source::none;
            if (more) {
                start_batch(*open, zone, source);
                ++batches;
            }
        }
        if (!more || has_room(*open)) {
            break;
        }
    }
    if (batches > 0) {
        ask_for_band(number);
    }
    return batches;
}

BandWriter::Source BandWriter::choose(uint32_t number, uint32_t room) noexcept {
    if (room == 1) {
        // Only a header fits. It takes records, if there are any.
        for (const bool of_user : {true, false}) {
            const bool ours = state_.config.shared_stream || of_user == (number == kStreamUser);
            const Stream &stream = streams_[of_user ? kStreamUser : kStreamReloc];
            if (ours && !state_.records.queue(of_user).empty() && !stream.records_busy) {
                return of_user ? Source::user_records : Source::reloc_records;
            }
        }
        return Source::pad;
    }
    if (state_.config.shared_stream) {
        const bool reloc_first = state_.throttle.limits() || reloc_turn_;
        reloc_turn_ = !reloc_turn_;
        const Source first = reloc_first ? choose_reloc() : choose_user();
        if (first != Source::none) {
            return first;
        }
        return reloc_first ? choose_user() : choose_reloc();
    }
    if (number == kStreamUser) {
        return choose_user();
    }
    const Source source = choose_reloc();
    if (source != Source::none || !user_is_stuck()) {
        stuck_since_ = source == Source::none ? 0 : stuck_since_;
        return source;
    }
    if (stuck_since_ == 0) {
        stuck_since_ = std::max<uint64_t>(state_.now, 1);
    }
    return state_.now >= stuck_since_ + kStuckNs ? choose_user() : Source::none;
}

BandWriter::Source BandWriter::choose_user() noexcept {
    if (!streams_[kStreamUser].records_busy && records_due(true)) {
        return Source::user_records;
    }
    return user_due() ? Source::user : Source::none;
}

BandWriter::Source BandWriter::choose_reloc() noexcept {
    if (!streams_[kStreamReloc].records_busy && records_due(false)) {
        return Source::reloc_records;
    }
    return reloc_due() ? Source::reloc : Source::none;
}

bool BandWriter::user_due() const noexcept {
    const WriteBuffer &buffer = state_.buffer;
    const uint32_t waiting = buffer.fifo.count;
    if (waiting == 0) {
        return false;
    }
    return waiting >= std::min(state_.max_data, buffer.slot_count / 2) || buffer.requeued > 0 ||
           buffer.epoch[buffer.fifo.head] <= state_.demand.wanted_epoch ||
           (state_.demand.waits_for_room() && user_batches_ == 0) || state_.now >= buffer.waiting_since + kBatchAgeNs;
}

bool BandWriter::reloc_due() const noexcept {
    const uint32_t waiting = state_.reloc.fifo.count;
    // If the moves rest, more comes soon. Nobody waits for what is here: it is still in the band that is moved.
    const bool last = state_.reloc_reads == 0 && !state_.moves_rest;
    return waiting > 0 && (waiting >= state_.max_data || last || state_.reloc.free.count() == 0);
}

bool BandWriter::records_due(bool of_user) const noexcept {
    const Records &records = state_.records;
    const SlotList &queue = of_user ? records.user_queue : records.reloc_queue;
    if (queue.empty()) {
        return false;
    }
    // GC's queue mixes copies, which nobody waits for, with records that a flush or a reset may wait for.
    if (queue.count >= layout::kEntriesPerBlock || !state_.epochs.done(state_.demand.wanted_epoch)) {
        return true;
    }
    return of_user ? state_.demand.user_waits || state_.now >= state_.buffer.waiting_since + kBatchAgeNs
                   : state_.reloc_reads == 0;
}

}  // namespace ftl
