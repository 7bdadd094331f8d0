// SPDX-License-Identifier: BSD-3-Clause
#include "sim/sim_core.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace ftl {
namespace {

constexpr uint64_t kAddressesMax = std::numeric_limits<uint32_t>::max() - uint64_t{1};
constexpr const char *kBeyond = "run: a request is beyond the last LBA";

void require(bool holds, const char *rule) {
    if (!holds) {
        throw std::invalid_argument(rule);
    }
}

const SimConfig &checked(const SimConfig &config) {
    require(config.band_blocks >= 2 && config.band_count >= 2, "a SimCore needs two bands of two blocks at least");
    require(uint64_t{config.band_blocks} * config.band_count <= kAddressesMax,
            "the bands of a SimCore must hold less than 2^32 blocks");
    require(config.block_count >= 1 && config.block_count <= uint64_t{config.band_blocks} * config.band_count,
            "block_count must be within 1 and what the bands hold");
    require(config.max_active_relocs >= 1, "max_active_relocs must be at least 1");
    require(config.band_threshold >= 1 && config.band_threshold <= 100, "band_threshold must be within 1..100");
    return config;
}

template <typename Row>
void tell_ages(Row &row, uint64_t opened_seq, uint64_t data_seq) noexcept {
    if constexpr (requires { row.opened_seq; }) {
        row.opened_seq = opened_seq;
        row.data_seq = data_seq;
    }
}

}  // namespace

SimCore::SimCore(const SimConfig &config)
    : config_(checked(config)),
      reciprocal_(~uint64_t{0} / config.band_blocks + 1),
      ask_from_(static_cast<uint32_t>((uint64_t{config.band_blocks} * config.band_threshold + 99) / 100)),
      l2p_memory_(PageMemory::or_bad_alloc(config.block_count * sizeof(uint32_t), Pages::sparse_huge)),
      p2l_memory_(PageMemory::or_bad_alloc(
          (uint64_t{config.band_count} * config.band_blocks + kAhead) * sizeof(uint32_t), Pages::sparse_huge)),
      l2p_(reinterpret_cast<uint32_t *>(l2p_memory_.data())),
      p2l_(reinterpret_cast<uint32_t *>(p2l_memory_.data())),
      seq_shift_(static_cast<uint32_t>(
          std::max<int>(0, static_cast<int>(std::bit_width(config.block_count)) - static_cast<int>(kSeqBits)))),
      bands_(config.band_count),
      valid_(config.band_count),
      data_seqs_(config.band_count),
      opened_seqs_(config.band_count),
      changed_(config.band_count) {
    std::memset(l2p_, 0xff, config.block_count * sizeof(uint32_t));
    moves_.reserve(config.max_active_relocs);
    for (AgeClasses &each : placement_.relocated) {
        each.classes.fill(1);
    }
    for (uint32_t band = 0; band < config.band_count; ++band) {
        list(band);
    }
}

uint64_t SimCore::memory_bytes() const noexcept {
    const uint64_t addresses = uint64_t{config_.band_count} * config_.band_blocks;
    return (config_.block_count + addresses * (seqs_ == nullptr ? 1 : 2)) * sizeof(uint32_t);
}

void SimCore::list(uint32_t number) noexcept {
    SimBand &band = bands_[number];
    if (!band.listed) {
        band.listed = true;
        size_t place = changed_first_ + changed_count_++;
        place -= place >= changed_.size() ? changed_.size() : 0;
        changed_[place] = number;
        ++changes_;
    }
}

size_t SimCore::take_changed(std::span<BandRow> rows) noexcept {
    const size_t count = std::min(rows.size(), changed_count_);
    for (size_t i = 0; i < count; ++i) {
        const uint32_t number = changed_[changed_first_];
        changed_first_ = changed_first_ + 1 == changed_.size() ? 0 : changed_first_ + 1;
        bands_[number].listed = false;
        rows[i] = row(number);
    }
    changed_count_ -= count;
    return count;
}

BandRow SimCore::row(uint32_t number) const noexcept {
    const SimBand &band = bands_[number];
    BandRow row{};
    row.seq = band.seq;
    row.band = number;
    row.valid = valid_[number];
    row.written = band.state == BandState::open ? streams_[band.number].written : band.written;
    row.state = static_cast<uint8_t>(band.state);
    row.stream = band.number;
    row.unwritten = row.written == 0;
    tell_ages(row, opened_seqs_[number], data_seqs_[number]);
    return row;
}

SimStats SimCore::stats() const {
    SimStats stats;
    stats.user_written_blocks = next_seq_ - 1;
    stats.user_trimmed_blocks = trimmed_;
    stats.media_written_blocks = media_;
    stats.reloc_moved_blocks = moved_;
    stats.zone_resets = resets_;
    stats.mapped_blocks = mapped_;
    stats.scanned_blocks = scanned_;
    stats.next_seq = next_seq_;
    stats.stall_blocks_max = stall_max_;
    stats.stalls.assign(stalls_.begin(), stalls_.end());
    return stats;
}

std::vector<SimEvent> SimCore::take_events() {
    return std::exchange(events_, {});
}

// --- orders

bool SimCore::open_band(uint32_t number, uint32_t band_number, uint64_t band_seq) {
    require(number < (config_.shared_stream ? 1U : placement_.class_count), "open_band: there is no such stream");
    require(band_number < bands_.size() && bands_[band_number].state == BandState::free,
            "open_band: the band is not free");
    Stream &stream = streams_[number];
    if (stream.queued != kNoBand) {
        return false;
    }
    stream.queued = band_number;
    stream.asked = false;
    SimBand &band = bands_[band_number];
    band.state = BandState::queued;
    band.number = static_cast<uint8_t>(number);
    band.seq = band_seq;
    band.written = 0;
    list(band_number);
    return true;
}

uint32_t SimCore::take_queued(uint32_t number) {
    require(number < kClassesMax, "take_queued: there is no such stream");
    const uint32_t band = std::exchange(streams_[number].queued, kNoBand);
    if (band != kNoBand) {
        streams_[number].asked = true;
        bands_[band].state = BandState::free;
        list(band);
    }
    return band;
}

bool SimCore::close_band(uint32_t number) {
    require(number < bands_.size(), "close_zone: beyond the last band");
    const SimBand &band = bands_[number];
    if (band.state != BandState::open || streams_[band.number].written == 0) {
        return false;
    }
    close(streams_[band.number]);
    list(number);
    return true;
}

bool SimCore::start_move(uint32_t band) {
    require(band < bands_.size() && bands_[band].state == BandState::closed, "start_move: the band is not closed");
    if (moves_.size() >= config_.max_active_relocs) {
        return false;
    }
    bands_[band].state = BandState::moving;
    list(band);
    moves_.push_back(Move{band, 0, 0});
    return true;
}

std::vector<uint32_t> SimCore::reset_bands(const std::vector<uint32_t> &bands) {
    std::vector<uint32_t> refused;
    for (const uint32_t number : bands) {
        require(number < bands_.size(), "reset_bands: beyond the last band");
        SimBand &band = bands_[number];
        if ((band.state != BandState::closed && band.state != BandState::free) || valid_[number] != 0) {
            refused.push_back(number);
            continue;
        }
        band.state = BandState::free;
        band.written = 0;
        ++resets_;
        list(number);
        events_.push_back(SimEvent{EventKind::band_reset_done, number});
    }
    return refused;
}

void SimCore::set_placement(const Placement &placement) {
    placement.check();
    const bool ages = std::any_of(placement.relocated.begin(), placement.relocated.end(),
                                  [](const AgeClasses &each) { return each.limit_count > 0; });
    if (ages && seqs_ == nullptr) {
        const uint64_t addresses = uint64_t{config_.band_count} * config_.band_blocks;
        seq_memory_ = PageMemory::or_bad_alloc(addresses * sizeof(uint32_t), Pages::sparse_huge);
        seqs_ = reinterpret_cast<uint32_t *>(seq_memory_.data());
        for (uint32_t band = 0; band < bands_.size(); ++band) {
            std::fill_n(seqs_ + uint64_t{band} * config_.band_blocks, config_.band_blocks,
                        static_cast<uint32_t>(data_seqs_[band] >> seq_shift_));
        }
    }
    if (placement.class_count != placement_.class_count || placement.user_count != placement_.user_count) {
        renumber(placement);
    }
    placement_ = placement;
}

// Bands that are being written stay with their side. Those of classes that no longer exist are closed.
void SimCore::renumber(const Placement &next) noexcept {
    if (config_.shared_stream) {
        return;
    }
    const std::array<Stream, kClassesMax> before = std::exchange(streams_, {});
    for (uint32_t number = 0; number < placement_.class_count; ++number) {
        const Stream &stream = before[number];
        if (stream.queued != kNoBand) {
            bands_[stream.queued].state = BandState::free;
            list(stream.queued);
        }
        if (stream.band == kNoBand) {
            continue;
        }
        SimBand &band = bands_[stream.band];
        list(stream.band);
        const bool of_user = number < placement_.user_count;
        const uint32_t now = of_user ? number : number - placement_.user_count + next.user_count;
        if (now < (of_user ? next.user_count : next.class_count)) {
            streams_[now] = stream;
            streams_[now].queued = kNoBand;
            streams_[now].asked = false;
            band.number = static_cast<uint8_t>(now);
        } else {
            band.state = BandState::closed;
            band.written = stream.written;
            data_seqs_[stream.band] = stream.written == 0 ? next_seq_ : stream.seq_sum / stream.written;
        }
    }
}

std::vector<uint32_t> SimCore::asking() const {
    std::vector<uint32_t> numbers;
    for (uint32_t number = 0; number < kClassesMax; ++number) {
        if (streams_[number].asked && streams_[number].queued == kNoBand) {
            numbers.push_back(number);
        }
    }
    return numbers;
}

// --- bands that are written

void SimCore::ask(uint32_t number) noexcept {
    Stream &stream = streams_[number];
    if (!stream.asked && stream.queued == kNoBand) {
        stream.asked = true;
        decide();
        events_.push_back(SimEvent{EventKind::band_next_needed, number});
    }
}

bool SimCore::activate(uint32_t number) noexcept {
    Stream &stream = streams_[number];
    if (stream.queued == kNoBand) {
        ask(number);
        return false;
    }
    stream.band = std::exchange(stream.queued, kNoBand);
    stream.asked = false;
    stream.written = 0;
    stream.seq_sum = 0;
    bands_[stream.band].state = BandState::open;
    data_seqs_[stream.band] = opened_seqs_[stream.band] = next_seq_;
    list(stream.band);
    return true;
}

// A class without a band makes way for another one of the same side. Null: none has a band.
SimCore::Stream *SimCore::stream_for(uint32_t wanted, uint32_t first, uint32_t end) noexcept {
    if (streams_[wanted].band != kNoBand || activate(wanted)) {
        return &streams_[wanted];
    }
    for (uint32_t number = first; number < end; ++number) {
        if (number != wanted && (streams_[number].band != kNoBand || streams_[number].queued != kNoBand) &&
            (streams_[number].band != kNoBand || activate(number))) {
            return &streams_[number];
        }
    }
    return nullptr;
}

// Blocks that can be written to its band until filled() has more to do than to count them. At least 1.
uint32_t SimCore::until_due(const Stream &stream) const noexcept {
    const uint32_t most = std::min(kMeanEvery - stream.written % kMeanEvery, config_.band_blocks - stream.written);
    const bool asks = !stream.asked && stream.queued == kNoBand;
    return asks ? std::min(most, std::max(ask_from_, stream.written + 1) - stream.written) : most;
}

void SimCore::put(Stream &stream, uint64_t lba, uint64_t seq) noexcept {
    const uint32_t address = stream.band * config_.band_blocks + stream.written;
    l2p_[lba] = address;
    p2l_[address] = static_cast<uint32_t>(lba);
    if (seqs_ != nullptr) {
        seqs_[address] = static_cast<uint32_t>(seq >> seq_shift_);
    }
    filled(stream, 1, seq);
}

// So many blocks were written to its band, until_due() at most. seq_sum: of their seqs.
void SimCore::filled(Stream &stream, uint32_t count, uint64_t seq_sum) noexcept {
    const uint32_t band = stream.band;
    valid_[band] += count;
    media_ += count;
    stream.written += count;
    stream.seq_sum += seq_sum;
    list(band);
    if (stream.written % kMeanEvery == 0) {
        data_seqs_[band] = stream.seq_sum / stream.written;
    }
    const auto number = static_cast<uint32_t>(&stream - streams_.data());
    if (stream.written == config_.band_blocks) {
        close(stream);
        activate(number);
    } else if (stream.written >= ask_from_) {
        ask(number);
    }
}

void SimCore::close(Stream &stream) noexcept {
    SimBand &band = bands_[stream.band];
    band.state = BandState::closed;
    band.written = stream.written;
    data_seqs_[stream.band] = stream.seq_sum / stream.written;
    stream.band = kNoBand;
}

// --- hosts' requests

uint32_t SimCore::user_class(uint64_t lba, uint32_t before) const noexcept {
    if (placement_.user_count == 1 || config_.shared_stream) {
        return 0;
    }
    uint32_t number = placement_.of_region(lba);
    if (number == kNoClass) {
        number = before == kNowhere ? placement_.unwritten
                                    : placement_.user.of(next_seq_ - std::min(next_seq_, data_seqs_[band_of(before)]));
    }
    return std::min<uint32_t>(number, placement_.user_count - 1U);
}

bool SimCore::write_block(uint64_t lba) noexcept {
    const uint32_t before = l2p_[lba];
    Stream *stream = stream_for(user_class(lba, before), 0, config_.shared_stream ? 1 : placement_.user_count);
    if (stream == nullptr) {
        decide_now();
        return false;
    }
    if (before == kNowhere) {
        ++mapped_;
    } else {
        forget(before);
    }
    put(*stream, lba, next_seq_++);
    throttle_.accepted();
    note_stall(1);
    return true;
}

// As write_block(), until something else is due: at most until media_ is `end`. For one class of hosts' writes. Returns
// how many blocks were written: 0 if there is no band, or the first is beyond the last LBA.
size_t SimCore::write_blocks(std::span<const uint64_t> lbas, uint64_t end) noexcept {
    Stream *const stream = stream_for(0, 0, 1);
    if (stream == nullptr) {
        decide_now();
        return 0;
    }
    const uint64_t left = std::min(decide_at_, end) - std::min(decide_at_, media_);
    const uint64_t most = std::min({uint64_t{lbas.size()}, std::max<uint64_t>(left, 1), until_turn()});
    const uint32_t band = stream->band;
    const uint32_t first = band * config_.band_blocks + stream->written;
    const auto room = static_cast<uint32_t>(std::min<uint64_t>(most, until_due(*stream)));
    uint32_t count = 0;
    for (; count < room && lbas[count] < config_.block_count; ++count) {
        if (count + kAhead < lbas.size() && lbas[count + kAhead] < config_.block_count) {
            __builtin_prefetch(l2p_ + lbas[count + kAhead], 1);
        }
        const uint64_t lba = lbas[count];
        const uint32_t before = std::exchange(l2p_[lba], first + count);
        p2l_[first + count] = static_cast<uint32_t>(lba);
        if (seqs_ != nullptr) {
            seqs_[first + count] = static_cast<uint32_t>((next_seq_ + count) >> seq_shift_);
        }
        if (before == kNowhere) {
            ++mapped_;
        } else {
            forget(before);
        }
        list(band);
    }
    if (count > 0) {
        const uint64_t seq_sum = next_seq_ * count + uint64_t{count} * (count - 1) / 2;
        next_seq_ += count;
        filled(*stream, count, seq_sum);
        throttle_.accepted(count);
        note_stall(count);
    }
    return count;
}

// Blocks that the host may write until relocation has its turn, or the host has used its share. It has one.
uint64_t SimCore::until_turn() const noexcept {
    if (moves_.empty()) {
        return kNoLimit;
    }
    const uint64_t share = throttle_.limits() ? (static_cast<uint64_t>(throttle_.credit) + 99) / 100 : kNoLimit;
    if (!throttle_.paces()) {
        return throttle_.limits() ? share : 1;
    }
    const int64_t early = kMoveDue - Throttle::kPaceAhead - throttle_.pace_credit;
    if (early <= 0) {
        return 1;
    }
    return throttle_.pace == 0 ? share : std::min(share, (static_cast<uint64_t>(early) - 1) / throttle_.pace + 1);
}

// Of so many writes in a row.
void SimCore::note_stall(uint64_t writes) noexcept {
    const uint64_t moved = moved_ - moved_at_write_;
    ++stalls_[static_cast<size_t>(std::bit_width(moved)) % stalls_.size()];
    stalls_[0] += writes - 1;
    stall_max_ = std::max(stall_max_, moved);
    moved_at_write_ = moved_;
}

void SimCore::forget_stalls() noexcept {
    stall_max_ = 0;
    stalls_.fill(0);
    moved_at_write_ = moved_;
}

void SimCore::trim_block(uint64_t lba) noexcept {
    ++trimmed_;
    const uint32_t before = l2p_[lba];
    if (before != kNowhere) {
        forget(before);
        --mapped_;
        l2p_[lba] = kNowhere;
    }
}

SimStop SimCore::run(std::span<const uint8_t> ops, std::span<const uint64_t> lbas, std::span<const uint32_t> blocks,
                     uint64_t media_blocks, size_t &done) {
    require(ops.empty() || ops.size() == lbas.size(), "run: ops and lbas must be of one length");
    require(blocks.empty() || blocks.size() == lbas.size(), "run: blocks and lbas must be of one length");
    const uint64_t end = media_blocks > kNoLimit - media_ ? kNoLimit : media_ + media_blocks;
    if (ops.empty() && blocks.empty() && (placement_.user_count == 1 || config_.shared_stream)) {
        return run_blocks(lbas, end, done);
    }
    for (done = 0; done < lbas.size(); ++done, partial_ = 0) {
        const Op op = ops.empty() ? Op::write : static_cast<Op>(ops[done]);
        const uint64_t first = lbas[done];
        const uint32_t count = blocks.empty() ? 1 : blocks[done];
        require(first < config_.block_count && count <= config_.block_count - first, kBeyond);
        if (done + kAhead < lbas.size()) {
            __builtin_prefetch(l2p_ + lbas[done + kAhead], 1);
        }
        if (op != Op::write) {
            for (uint32_t i = 0; op == Op::trim && i < count; ++i) {
                trim_block(first + i);
            }
            continue;
        }
        while (partial_ < count) {
            if (media_ >= decide_at_ || media_ >= end) {
                return stop_of();
            }
            if (throttle_.allows(moves_.empty()) && write_block(first + partial_)) {
                ++partial_;
                move_beside();
                continue;
            }
            if (!wait()) {
                return SimStop::blocked;
            }
        }
    }
    return media_ >= decide_at_ ? stop_of() : SimStop::done;
}

// run() for writes of one block each, in one class.
SimStop SimCore::run_blocks(std::span<const uint64_t> lbas, uint64_t end, size_t &done) {
    done = 0;
    while (done < lbas.size()) {
        require(lbas[done] < config_.block_count, kBeyond);
        if (media_ >= decide_at_ || media_ >= end) {
            return stop_of();
        }
        const size_t wrote = throttle_.allows(moves_.empty()) ? write_blocks(lbas.subspan(done), end) : 0;
        if (wrote > 0) {
            done += wrote;
            move_beside();
        } else if (!wait()) {
            return SimStop::blocked;
        }
    }
    return media_ >= decide_at_ ? stop_of() : SimStop::done;
}

// The host waits for its band, or for its share. False: in vain.
bool SimCore::wait() noexcept {
    if (move(kMoveRun) == 0) {
        decide_now();
        return media_ >= decide_at_;
    }
    return true;
}

SimStop SimCore::stop_of() noexcept {
    const bool due = media_ >= decide_at_;
    decide_at_ = due ? kNoLimit : decide_at_;
    return due ? SimStop::decision : SimStop::timer;
}

// --- relocation

// After a host's block: what the pace demands. Without a pace, relocation gets as much of the base as the host; with a
// share, the host waits for its credit.
void SimCore::move_beside() noexcept {
    if (moves_.empty()) {
        return;
    }
    if (!throttle_.paces()) {
        if (!throttle_.limits()) {
            move(1);
        }
        return;
    }
    const int64_t due = throttle_.pace_credit + Throttle::kPaceAhead;
    if (due >= kMoveDue) {
        move(static_cast<uint32_t>((due + 999) / 1000));
    }
}

// Copies the next blocks of the band that are in force, at most so many, and until something is due in the stream.
// Returns how many.
uint32_t SimCore::copy(Move &move, Stream &stream, uint32_t most) noexcept {
    const uint32_t source = move.band * config_.band_blocks;
    const uint32_t target = stream.band * config_.band_blocks + stream.written;
    const uint32_t written = bands_[move.band].written;
    const uint32_t room = std::min({most, until_due(stream), valid_[move.band]});
    uint32_t *const l2p = l2p_;
    const uint32_t *const lbas = p2l_ + source;
    uint32_t *const to = p2l_ + target;
    uint32_t count = 0;
    uint32_t next = move.next;
    uint64_t seq_sum = 0;
    // Whether a block is in force can't be foretold, so there is no branch for it: its place is written again if not.
    for (; next < written && count < room; ++next) {
        __builtin_prefetch(l2p + lbas[next + kAhead], 1);
        const uint32_t lba = lbas[next];
        const bool in_force = l2p[lba] == source + next;
        to[count] = lba;
        l2p[lba] = in_force ? target + count : l2p[lba];
        if (seqs_ != nullptr) {
            seqs_[target + count] = seqs_[source + next];
            seq_sum += in_force ? seq_of(source + next) : 0;
        }
        count += in_force ? 1 : 0;
    }
    valid_[move.band] -= count;
    move.moved += count;
    move.next = next;
    if (count > 0) {
        filled(stream, count, seqs_ == nullptr ? data_seqs_[move.band] * count : seq_sum);
    }
    return count;
}

// Returns how many blocks were moved, or 1 if a move has ended.
uint32_t SimCore::move(uint32_t most) noexcept {
    uint32_t count = 0;
    bool ended = false;
    const uint32_t user_count = config_.shared_stream ? 0 : placement_.user_count;
    const uint32_t end = config_.shared_stream ? 1 : placement_.class_count;
    while (count < most && !moves_.empty() && !ended) {
        Move &move = moves_.front();
        SimBand &band = bands_[move.band];
        const uint32_t base = move.band * config_.band_blocks;
        const AgeClasses &ages = placement_.relocated[std::min<uint32_t>(band.number, kClassesMax - 1)];
        const bool one_class = ages.limit_count == 0 || config_.shared_stream || end - user_count == 1;
        bool waits = false;
        while (count < most && move.next < band.written && valid_[move.band] > 0) {
            const uint32_t address = base + move.next;
            if (!one_class && l2p_[p2l_[address]] != address) {
                ++move.next;
                continue;
            }
            uint32_t number = 0;
            if (!config_.shared_stream) {
                const uint64_t age = one_class ? 0 : next_seq_ - std::min(next_seq_, seq_of(address));
                number = std::clamp<uint32_t>(ages.of(age), user_count, end - 1);
            }
            Stream *stream = stream_for(number, user_count, end);
            if (stream == nullptr) {
                decide_now();
                waits = true;
                break;
            }
            count += copy(move, *stream, one_class ? most - count : 1);
        }
        list(move.band);
        if (waits) {
            break;
        }
        if (move.next == band.written || valid_[move.band] == 0) {
            band.state = BandState::closed;
            scanned_ += band.written;
            events_.push_back(SimEvent{EventKind::move_done, move.band});
            moves_.erase(moves_.begin());
            ended = true;
            decide();
        }
    }
    moved_ += count;
    throttle_.relocates(count);
    return count == 0 && ended ? 1 : count;
}

}  // namespace ftl
