// SPDX-License-Identifier: BSD-3-Clause
// Decides which band and zone is written next, and with what. batch_writer.cpp does the writing.
#include "ftl/band_writer.hpp"

#include <algorithm>
#include <utility>

#include "base/mutation.hpp"

namespace ftl {
namespace {

constexpr uint32_t kSummaryScratchBlocks = 32;
constexpr uint64_t kStuckNs = 20'000'000;    // after that time, the reloc band takes user data that a reset waits for
constexpr uint64_t kHomelessNs = 5'000'000;  // after that time, other bands take the data of a class that has no band

}  // namespace

BandWriter::BandWriter(CoreState &state, Copied copied, void *context)
    : state_(state),
      copied_(copied),
      context_(context),
      // One for each class, and one being closed.
      open_(1 + size_t{state.config.shared_stream ? uint8_t{1} : state.config.classes_max}) {
    leftovers_.reserve(open_.size());
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
            // Not touched before its zone is written.
            zone.map = std::make_unique_for_overwrite<layout::BlockEntry[]>(state.data_area);
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
    Stream &stream = streams_[stream_number];
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
    const auto consider = [&](uint64_t since, uint64_t age) {
        if (since != 0 && state_.now < since + age) {
            deadline = std::min(deadline, since + age);
        }
    };
    consider(stuck_since_, kStuckNs);
    for (uint32_t number = 0; number < state_.placement.user_count; ++number) {
        consider(state_.buffer.waiting_since[number], kBatchAgeNs);
    }
    for (uint32_t number = 0; number < state_.placement.class_count; ++number) {
        consider(streams_[number].homeless_since, kHomelessNs);
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
    if (zone.state == ZoneState::batch || zone.state == ZoneState::starting) {
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
    const Placement &placement = state_.placement;
    for (uint32_t number = 0; number < placement.user_count; ++number) {
        uint64_t &since = buffer.waiting_since[number];
        if (buffer.fifos[number].empty() && (number != 0 || state_.records.user_queue.empty())) {
            since = 0;
        } else if (since == 0) {
            since = std::max<uint64_t>(now, 1);
        }
    }
    uint32_t work = finishes_waiting_ > 0 ? run_finishes() : 0;
    work += leftovers_.empty() ? 0 : run_leftovers();
    for (uint32_t number = placement.user_count; number < placement.class_count; ++number) {
        work += run_stream(number);
    }
    for (uint32_t number = 0; number < placement.user_count; ++number) {
        work += run_stream(number);
    }
    return work + close_bands();
}

// --- placement

uint32_t BandWriter::asking() const noexcept {
    uint32_t classes = 0;
    for (uint32_t number = 0; number < state_.placement.class_count; ++number) {
        classes |= uint32_t{streams_[number].asked} << number;
    }
    return classes;
}

void BandWriter::place(Placement &placement) noexcept {
    Placement &now = state_.placement;
    std::swap(now, placement);
    const Placement &before = placement;
    if (now.class_count == before.class_count && now.user_count == before.user_count) {
        return;
    }
    const auto renumbered = [&](uint8_t each) {
        const int last = before.side(each) == Side::user ? now.user_count - 1 : now.class_count - 1;
        const int shift = before.side(each) == Side::user ? 0 : now.user_count - before.user_count;
        return static_cast<uint8_t>(std::min(each + shift, last));
    };
    const std::array<Stream, kClassesMax> old = std::exchange(streams_, {});
    for (uint8_t each = 0; each < before.class_count; ++each) {
        const uint8_t number = renumbered(each);
        const bool survives = number == 0 ? each == 0 : renumbered(static_cast<uint8_t>(each - 1)) != number;
        const Stream &from = old[each];
        if (from.queued != kNoBand) {
            Band &band = state_.bands.change(from.queued);
            band.stream = number;
            if (survives) {
                streams_[number].queued = from.queued;
                streams_[number].queued_seq = from.queued_seq;
            } else {
                band.state = BandState::free;
            }
        }
        if (from.current == nullptr) {
            continue;
        }
        if (survives) {
            streams_[number].current = from.current;
        } else if (before.side(each) == Side::user) {
            close_early(*from.current);
        } else {
            leftovers_.push_back(from.current);
        }
    }
    for (OpenBand &open : open_) {
        if (open.band != kNoBand) {
            open.stream = renumbered(static_cast<uint8_t>(open.stream));
            state_.bands.change(open.band).stream = static_cast<uint8_t>(open.stream);
        }
    }
    state_.buffer.keep_classes(now.user_count);
    state_.reloc.renumber(renumbered);
}

// The rest of the band is not written. Batches in flight end first.
void BandWriter::close_early(OpenBand &open) noexcept {
    state_.bands.change(open.band).state = BandState::closing;
    for (ZoneWriter &zone : open.zones) {
        if (zone.state == ZoneState::batch || zone.state == ZoneState::starting) {
            zone.close_short = true;
        } else if (zone.state == ZoneState::idle) {
            give_up(zone);
            if (zone.next_offset == 0) {
                zone.state = ZoneState::done;
            } else {
                finish(zone);
            }
        }
    }
}

// --- bands

bool BandWriter::has_room(const OpenBand &open) const noexcept {
    return std::any_of(open.zones.begin(), open.zones.end(), [this](const ZoneWriter &zone) {
        const ZoneState now = zone.state;
        return (now == ZoneState::idle || now == ZoneState::batch || now == ZoneState::starting) &&
               zone.next_offset < state_.data_area;
    });
}

uint32_t BandWriter::take_queued(uint32_t stream_number) noexcept {
    Stream &stream = streams_[stream_number];
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
    if (!state_.placement.is_one(state_.placement.side(number))) {
        note_homeless(stream, number);
    }
    ask_for_band(number);
    return stream.current;
}

void BandWriter::activate(Stream &stream, uint32_t number) noexcept {
    // Leftovers are filled first, so that relocation does not take all places while user data has none.
    const bool must_wait = !leftovers_.empty() && state_.placement.side(number) == Side::reloc;
    if (must_wait || in_use_ >= std::min(open_.size(), state_.placement.class_count + 1 + leftovers_.size())) {
        return;
    }
    const auto room =
        std::find_if(open_.begin(), open_.end(), [](const OpenBand &open) { return open.band == kNoBand; });
    ++in_use_;
    room->band = stream.queued;
    room->stream = number;
    room->turn = 0;
    Band &band = state_.bands.change(stream.queued);
    band.state = BandState::open;
    band.written = 0;
    band.given_up = 0;
    band.record_headers = 0;
    band.opened_seq = state_.next_seq;
    band.data_seqs = 0;
    band.data_count = 0;
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

// Blocks of that class wait.
bool BandWriter::has_blocks(uint32_t number) const noexcept {
    const bool user = state_.placement.side(number) == Side::user;
    return !(user ? state_.buffer.fifos : state_.reloc.fifos)[number].empty();
}

bool BandWriter::has_data(uint32_t number) const noexcept {
    const Placement &placement = state_.placement;
    const Records &records = state_.records;
    if (placement.shared) {
        return !state_.buffer.fifos[0].empty() || !records.user_queue.empty() || !state_.reloc.fifos[0].empty() ||
               !records.reloc_queue.empty() || state_.active_moves > 0;
    }
    if (has_blocks(number)) {
        return true;
    }
    // The rest goes to any band of its side.
    const Side side = placement.side(number);
    if (number != placement.first(side) || (!placement.is_one(side) && has_open_band(side))) {
        return false;
    }
    if (side == Side::user) {
        return !records.user_queue.empty();
    }
    return !records.reloc_queue.empty() || (placement.is_one(side) && state_.active_moves > 0) || user_is_stuck();
}

bool BandWriter::has_open_band(Side side) const noexcept {
    const auto first = streams_.begin() + state_.placement.first(side);
    const auto end = streams_.begin() + state_.placement.end(side);
    return (side == Side::reloc && !leftovers_.empty()) ||
           std::any_of(first, end, [](const Stream &stream) { return stream.current != nullptr; });
}

// Python may withhold the next band of a class because space is short. Then the blocks of the class go to other bands
// of its side, until it has a band again.
void BandWriter::note_homeless(Stream &stream, uint32_t number) noexcept {
    if (stream.current != nullptr) {
        stream.homeless_since = 0;
    } else if (stream.homeless_since == 0 && has_blocks(number)) {
        stream.homeless_since = std::max<uint64_t>(state_.now, 1);
    }
}

bool BandWriter::is_homeless(uint32_t number) const noexcept {
    const uint64_t since = streams_[number].homeless_since;
    return since != 0 && state_.now >= since + kHomelessNs && !MUTATED(class_waits_for_ever);
}

bool BandWriter::user_has_no_band() const noexcept {
    const Placement &placement = state_.placement;
    bool data = placement.shared ? has_data(kStreamUser) : !state_.records.user_queue.empty();
    for (uint32_t number = 0; number < placement.user_count; ++number) {
        if (streams_[number].current != nullptr || streams_[number].queued != kNoBand) {
            return false;
        }
        data |= has_blocks(number);
    }
    return data;
}

// A reset may wait for user data that has no band, and the user's classes may get no band before that reset is done.
bool BandWriter::user_is_stuck() const noexcept {
    const Placement &placement = state_.placement;
    if (placement.shared || has_open_band(Side::user)) {
        return false;
    }
    const WriteBuffer &buffer = state_.buffer;
    const Records &records = state_.records;
    const uint64_t forced = state_.demand.forced_epoch;
    return std::any_of(buffer.fifos.begin(), buffer.fifos.begin() + placement.user_count,
                       [&](const SlotList &fifo) { return !fifo.empty() && buffer.epoch[fifo.head] <= forced; }) ||
           (!records.user_queue.empty() && records.meta[records.user_queue.head].epoch <= forced);
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
        --in_use_;
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
        if (open == nullptr || !fill(*open, number, batches) || has_room(*open)) {
            break;
        }
    }
    if (batches > 0) {
        ask_for_band(number);
    }
    return batches;
}

uint32_t BandWriter::run_leftovers() noexcept {
    uint32_t batches = 0;
    for (size_t i = 0; i < leftovers_.size();) {
        OpenBand &open = *leftovers_[i];
        if (has_room(open)) {
            fill(open, kAnyClass, batches);
            ++i;
        } else {
            state_.bands.change(open.band).state = BandState::closing;
            leftovers_.erase(leftovers_.begin() + static_cast<ptrdiff_t>(i));
        }
    }
    return batches;
}

bool BandWriter::fill(OpenBand &open, uint32_t number, uint32_t &batches) noexcept {
    const Side side = state_.placement.side(open.stream);
    for (uint32_t i = 0; i < state_.punits; ++i) {
        ZoneWriter &zone = open.zones[open.turn];
        open.turn = open.turn + 1 == state_.punits ? 0 : open.turn + 1;
        if (zone.state != ZoneState::idle) {
            continue;
        }
        const Choice choice = choose(side, number, state_.data_area - zone.next_offset);
        if (choice.source == Source::none) {
            return false;
        }
        start_batch(open, zone, choice);
        ++batches;
    }
    return true;
}

BandWriter::Choice BandWriter::choose(Side side, uint32_t number, uint32_t room) noexcept {
    const bool shared = state_.placement.shared;
    if (room == 1) {
        // Only a header fits. It takes records, if there are any.
        for (const bool of_user : {true, false}) {
            const bool ours = shared || of_user == (side == Side::user);
            if (ours && !state_.records.queue(of_user).empty() && !records_busy_[of_user ? 0 : 1]) {
                return {of_user ? Source::user_records : Source::reloc_records};
            }
        }
        return {Source::pad};
    }
    if (shared) {
        const bool reloc_first = state_.throttle.limits() || reloc_turn_;
        reloc_turn_ = !reloc_turn_;
        const Choice first = reloc_first ? choose_reloc(number) : choose_user(number);
        if (first.source != Source::none) {
            return first;
        }
        return reloc_first ? choose_user(number) : choose_reloc(number);
    }
    if (side == Side::user) {
        return choose_user(number);
    }
    const Choice choice = choose_reloc(number);
    if (choice.source != Source::none || !user_is_stuck()) {
        stuck_since_ = choice.source == Source::none ? 0 : stuck_since_;
        return choice;
    }
    if (stuck_since_ == 0) {
        stuck_since_ = std::max<uint64_t>(state_.now, 1);
    }
    return state_.now >= stuck_since_ + kStuckNs ? choose_user(kAnyClass) : Choice{};
}

BandWriter::Choice BandWriter::choose_user(uint32_t number) noexcept {
    if (!records_busy_[0] && records_due(true)) {
        return {Source::user_records};
    }
    const uint8_t from_class =
        class_due(Side::user, number, state_.buffer.waiting_since, [this](uint32_t each) { return user_due(each); });
    return from_class == kNoClass ? Choice{} : Choice{Source::user, from_class};
}

BandWriter::Choice BandWriter::choose_reloc(uint32_t number) noexcept {
    if (!records_busy_[1] && records_due(false)) {
        return {Source::reloc_records};
    }
    const uint8_t from_class =
        class_due(Side::reloc, number, state_.reloc.waiting_since, [this](uint32_t each) { return reloc_due(each); });
    return from_class == kNoClass ? Choice{} : Choice{Source::reloc, from_class};
}

// The class whose blocks go next to a band of class `number`: its own one, or one that has no band. Of several the one
// whose last batch was sent first, so that none waits for ever.
template <typename Due>
uint8_t BandWriter::class_due(Side side, uint32_t number, const std::array<uint64_t, kClassesMax> &waiting_since,
                              Due &&due) const noexcept {
    const Placement &placement = state_.placement;
    const uint8_t first = placement.first(side);
    if (placement.is_one(side)) [[likely]] {
        return due(first) ? first : kNoClass;
    }
    uint8_t best = kNoClass;
    for (uint8_t each = first; each < placement.end(side); ++each) {
        if ((each == number || number == kAnyClass || is_homeless(each)) && due(each) &&
            (best == kNoClass || waiting_since[each] < waiting_since[best])) {
            best = each;
        }
    }
    return best;
}

bool BandWriter::user_due(uint32_t number) const noexcept {
    const WriteBuffer &buffer = state_.buffer;
    const SlotList &fifo = buffer.fifos[number];
    const uint32_t waiting = fifo.count;
    if (waiting == 0) {
        return false;
    }
    return waiting >= std::min(state_.max_data, buffer.slot_count / 2) || buffer.requeued[number] > 0 ||
           buffer.epoch[fifo.head] <= state_.demand.wanted_epoch ||
           (state_.demand.waits_for_room() && user_batches_ == 0 && has_most(buffer.fifos, number)) ||
           state_.now >= buffer.waiting_since[number] + kBatchAgeNs;
}

bool BandWriter::reloc_due(uint32_t number) const noexcept {
    const RelocBuffer &buffer = state_.reloc;
    const uint32_t waiting = buffer.fifos[number].count;
    if (waiting == 0 || waiting >= state_.max_data) {
        return waiting > 0;
    }
    // If the moves rest, or wait for pages, more comes soon. Nobody waits for what is here: it is still in the band
    // that is moved. Short batches take room, and with several classes there could be many.
    const bool one = state_.placement.is_one(Side::reloc);
    const bool more = state_.moves_rest || state_.moves_page;
    const bool last = state_.reloc_reads == 0 && !more && (one || state_.moves_reading == 0);
    // Nor for the next move: the band of this one is free only when these blocks are elsewhere.
    const bool awaited = !one && !more && (state_.moves_read >> buffer.meta[buffer.fifos[number].head].mover & 1) != 0;
    return last || awaited || (buffer.free.count() == 0 && has_most(buffer.fifos, number));
}

bool BandWriter::has_most(const std::array<SlotList, kClassesMax> &fifos, uint32_t number) noexcept {
    return std::none_of(fifos.begin(), fifos.end(),
                        [&](const SlotList &fifo) { return fifo.count > fifos[number].count; });
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
    return of_user ? state_.demand.user_waits || state_.now >= state_.buffer.waiting_since[0] + kBatchAgeNs
                   : state_.reloc_reads == 0 && !state_.moves_page;
}

}  // namespace ftl
